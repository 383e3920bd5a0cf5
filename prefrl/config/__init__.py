"""What a run depends on, as frozen dataclasses; torch-free."""
