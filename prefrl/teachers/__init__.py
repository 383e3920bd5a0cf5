"""Whoever answers in this process: the oracle, a function, two policies before either."""
