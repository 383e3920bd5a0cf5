"""Teachers in this process: the oracle, a function, pairs of policies."""
