"""The loop, and how answers become a reward; no robots, no texts."""
