"""From an experiment to a run: start, resume, replay, load."""
