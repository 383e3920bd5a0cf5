"""Clips: redraw what an agent did, as pictures, videos and film strips."""
