"""From the ids and modules that a user names to the objects."""
