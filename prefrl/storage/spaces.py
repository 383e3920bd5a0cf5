"""What an environment observes and how it acts, and whether a clip is of that kind.

A space is {"shape": [3]}, numbers; {"n": 4}, one of 0 to 3; or {"text": true}, a text a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prefrl.errors import UserError
from prefrl.types import Segment

Space = Mapping[str, Any]


def spaces_of(segment: Segment) -> dict[str, Space]:
    """Return the spaces that a clip shows; discrete actions look like any number."""
    return {
        "observations": _space_of(segment.observations),
        "actions": _space_of(segment.actions),
    }


def check_segment(segment: Segment, spaces: Mapping[str, Space]) -> None:
    """Raise `UserError` unless a clip's observations and actions are of these spaces.

    Args:
        segment: the clip.
        spaces: of "observations" and "actions"; of one that is not known only that its numbers are
            finite is checked.
    """
    for name, steps in (("observations", segment.observations), ("actions", segment.actions)):
        problem = _problem_with(name, steps, spaces.get(name))
        if problem:
            raise UserError(f"the clip {segment.id!r} has {problem}")


def _problem_with(name: str, steps: np.ndarray, space: Space | None) -> str | None:
    found = _space_of(steps)
    space = found if space is None else space
    if found != ({"shape": []} if "n" in space else space):
        return f"{name} {_in_words(found)}, but the environment's are {_in_words(space)}"
    if "text" in found:
        return None
    infinite = np.argwhere(~np.isfinite(steps))
    if len(infinite):
        return f"{name} that are not finite in step {infinite[0][0]}; expected finite numbers"
    if "n" in space and not np.isin(steps, np.arange(space["n"])).all():
        return f"other {name} than the {space['n']} here; expected {_in_words(space)}"
    return None


def _space_of(steps: np.ndarray) -> Space:
    """Return the space of an array `[step, …]`."""
    shape = list(steps.shape[1:])
    if steps.dtype.kind != "U":
        return {"shape": shape}
    return {"text": True, "shape": shape} if shape else {"text": True}


def _in_words(space: Space) -> str:
    if "n" in space:
        return f"whole numbers from 0 to {space['n'] - 1}"
    words = ["text"] if "text" in space else []
    return " ".join([*words, f"of shape {space['shape']}"] if "shape" in space else words)
