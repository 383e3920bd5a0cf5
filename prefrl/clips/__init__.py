"""Draws what an agent did: pictures, videos and film strips."""
