"""Benchmarks that users expect, from data that an installed package ships."""
