"""The loop, and how answers become a reward; nothing here knows robots from text."""
