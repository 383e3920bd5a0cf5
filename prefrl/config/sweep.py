"""Many runs that belong together: the cells of a grid, and how each is evaluated."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from prefrl.config.as_json import to_json
from prefrl.config.experiment import Experiment
from prefrl.config.fields import Count

SEED = "seed"
"""The axis over which a table takes means."""
NAME_LENGTH = 100  # characters of a folder's name that say what is in it
HASH_LENGTH = 8


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


def experiment_key(experiment: Experiment) -> str:
    """Return a hash of everything that an experiment depends on."""
    written = json.dumps(to_json(experiment), sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:HASH_LENGTH]


def cell_name(axes: dict[str, Any], experiment: Experiment) -> str:
    """Return a name for a folder: "labels=50,seed=0-8f3ac2d1"."""
    plain = re.sub(r"[^\w.,+=-]+", "-", axes_in_words(axes).replace(", ", ","))[:NAME_LENGTH]
    return f"{plain}-{experiment_key(experiment)}"


def axes_in_words(axes: dict[str, Any]) -> str:
    """Return where a cell is as people read it: "labels=50, seed=0"."""
    return ", ".join(f"{axis}={value_in_words(value)}" for axis, value in axes.items())


def value_in_words(value: Any) -> str:
    """Return a value on an axis as people read it."""
    if isinstance(value, list):
        return "x".join(map(str, value))
    if isinstance(value, dict):
        return "+".join(f"{name}={one}" for name, one in value.items())
    return str(value)
