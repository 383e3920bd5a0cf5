"""What a run has achieved."""
