"""Clips in which nothing moves: nobody could say which of two such is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prefrl.errors import note
from prefrl.types import Segment, is_text, until_end

Group = tuple[Segment, ...]

STILL = 1e-3  # metres or radians; less is no movement


def moves(segment: Segment) -> bool:
    """Return whether something moves in a clip; a text counts as if it did."""
    if is_text(segment.observations):
        return True
    shown = until_end(segment)
    poses = shown.extras.get("qpos")
    values, least = (shown.observations, 0.0) if poses is None else (poses, STILL)
    return bool(len(values)) and float(np.ptp(values.astype(np.float64), axis=0).max()) > least


def without_still(
    groups: Sequence[Group], count: int, index: int, more: Callable[[], Sequence[Group]]
) -> list[Group]:
    """Leave out groups in which no clip moves, and say so; fill up with others.

    Where nothing at all moves, all of them stay.

    Args:
        groups: candidates for queries.
        count: how many are wanted.
        index: the round.
        more: makes further candidates, of which some may be known already.
    """
    moving = {segment.id: moves(segment) for group in groups for segment in group}

    def shows(group: Group) -> bool:
        return any(moving.setdefault(s.id, moves(s)) for s in group)

    kept = [group for group in groups if shows(group)]
    if len(kept) == len(groups):
        return [*groups]
    known = {frozenset(segment.id for segment in group) for group in kept}
    for group in more():
        names = frozenset(segment.id for segment in group)
        if len(kept) < count and names not in known and shows(group):
            kept.append(group)
            known.add(names)
    if not kept:
        return [*groups]
    note(
        f"round {index}: {sum(not shows(group) for group in groups)} of {len(groups)} groups of "
        "clips are not asked about, since nothing moves in any of their clips"
    )
    return kept
