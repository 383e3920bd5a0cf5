"""Robots: agents, rewards and environments of numbers."""

from prefrl.control.domain import DOMAIN

__all__ = ["DOMAIN"]
