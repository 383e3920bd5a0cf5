"""Many runs that belong together: the cells of a grid, and how each is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefrl.config.experiment import Experiment
from prefrl.config.fields import Count

SEED = "seed"
"""The axis over which a table takes means."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """Of its folder: the axes in words, and what tells it from every other experiment."""
    axes: dict[str, Any]
    """Its value, of JSON, on each axis of the grid that it is on."""
    experiment: Experiment


@dataclass(frozen=True)
class Sweep:
    """A grid of runs."""

    cells: tuple[Cell, ...]
    tasks: tuple[str, ...] = ()
    """The axes that say in which environment."""
    episodes: Count = 20
    """Of the evaluation of each run."""
    sample: bool = False
    """Evaluate with sampled actions, as training does, instead of the most probable."""
