"""Agents for robots."""
