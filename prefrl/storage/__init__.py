"""What survives a kill: the run folder and the feedback store."""
