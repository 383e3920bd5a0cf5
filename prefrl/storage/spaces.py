"""What an environment observes and how it acts; whether a clip fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prefrl.errors import UserError
from prefrl.types import EnvironmentCard, Segment, SpaceSpec, is_text


def card_to_json(card: EnvironmentCard) -> dict[str, Any]:
    """Return a card as JSON values; spaces that are not known are left out.

    A space is {"shape": [3]}, numbers; {"n": 4}, one of 0 to 3; or {"text": true}, a text a step.
    """
    fields = {f.name: getattr(card, f.name) for f in dataclasses.fields(card)}
    for name in ("observations", "actions"):
        space = fields.pop(name)
        if space is not None:
            fields[name] = _space_to_json(space)
    aspects = fields.pop("aspects")
    return fields | ({"aspects": dict(aspects)} if aspects else {})


def card_from_json(fields: dict[str, Any]) -> EnvironmentCard:
    """Read what `card_to_json` wrote.

    Raises:
        TypeError: a field is missing or unknown.
    """
    known: dict[str, Any] = dict(fields)
    for name in ("observations", "actions"):
        if name in known:
            space = dict(known[name])
            known[name] = SpaceSpec(tuple(space.pop("shape", ())), **space)
    return EnvironmentCard(**known)


def _space_to_json(space: SpaceSpec) -> dict[str, Any]:
    if space.n is not None:
        return {"n": space.n}
    shape = {"shape": list(space.shape)}
    return ({"text": True} | (shape if space.shape else {})) if space.text else shape


def spaces_of(segment: Segment) -> dict[str, SpaceSpec]:
    """Return the spaces that a clip shows; discrete actions look like any number."""
    return {
        "observations": _space_of(segment.observations),
        "actions": _space_of(segment.actions),
    }


def check_segment(segment: Segment, spaces: Mapping[str, SpaceSpec]) -> None:
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


def check_unchanged(made: EnvironmentCard, now: EnvironmentCard, env: str, run: Path) -> None:
    """Raise `UserError` unless an environment has the spaces that a run was made with.

    Args:
        made: what the run says of it.
        now: as it is.
        env: its id.
        run: the run's folder.
    """
    for name, space in made.spaces.items():
        if (present := now.spaces.get(name)) not in (None, space):
            raise UserError(
                f"{env} has changed since {run} was made: its {name} are {_in_words(present)}, and "
                f"were {_in_words(space)}; change it back, or start a new run"
            )


def _problem_with(name: str, steps: np.ndarray, space: SpaceSpec | None) -> str | None:
    shown = _space_of(steps)
    space = shown if space is None else space
    if shown != (SpaceSpec() if space.n is not None else space):
        return f"{name} {_in_words(shown)}, but the environment's are {_in_words(space)}"
    if shown.text:
        return None
    infinite = np.argwhere(~np.isfinite(steps))
    if len(infinite):
        return f"{name} that are not finite in step {infinite[0][0]}; expected finite numbers"
    if space.n is not None and not np.isin(steps, np.arange(space.n)).all():
        return f"other {name} than the {space.n} here; expected {_in_words(space)}"
    return None


def _space_of(steps: np.ndarray) -> SpaceSpec:
    """Return the space of an array `[step, …]`."""
    return SpaceSpec(steps.shape[1:], text=is_text(steps))


def _in_words(space: SpaceSpec) -> str:
    if space.n is not None:
        return f"whole numbers from 0 to {space.n - 1}"
    if space.text and not space.shape:
        return "text"
    return f"{'text ' if space.text else ''}of shape {list(space.shape)}"
