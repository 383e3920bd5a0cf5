"""What survives a kill: the run folder, the feedback store, and what goes in and out of them."""
