"""Whole texts that are the same as another of their task: no answer could say which is better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prefrl.types import Trajectory, is_text


def share_alike(trajectories: Sequence[Trajectory]) -> float | None:
    """Return of all pairs of texts of the same task the share that are the same text.

    None where nothing is text, or no task has two.
    """
    texts = [t for t in trajectories if is_text(t.actions)]
    by_task = Counter(t.task for t in texts)
    by_text = Counter(_shown(t) for t in texts)
    pairs, alike = (sum(n * (n - 1) // 2 for n in c.values()) for c in (by_task, by_text))
    return alike / pairs if pairs else None


def without_repeats(
    trajectories: Sequence[Trajectory], size: int
) -> tuple[list[Trajectory], list[list[Trajectory]]]:
    """Leave out texts that another one of their task repeats.

    Args:
        trajectories: whole ones; what is not text is kept.
        size: how many a query shows.

    Returns:
        The rest, and apart from it, task by task, those of which repeats left fewer than `size`,
        but two at least: all that can still be asked about them.
    """
    first: dict[tuple[object, ...], Trajectory] = {}
    for number, trajectory in enumerate(trajectories):
        key = _shown(trajectory) if is_text(trajectory.actions) else (number,)
        first.setdefault(key, trajectory)
    if len(first) == len(trajectories):
        return [*trajectories], []
    before = Counter(t.task for t in trajectories)
    by_task: dict[str, list[Trajectory]] = {}
    for trajectory in first.values():
        by_task.setdefault(trajectory.task, []).append(trajectory)
    few = {
        name: those
        for name, those in by_task.items()
        if len(those) < size and len(those) < before[name]
    }
    kept = [trajectory for trajectory in first.values() if trajectory.task not in few]
    return kept, [those for those in few.values() if len(those) > 1]


def _shown(trajectory: Trajectory) -> tuple[object, ...]:
    return trajectory.task, tuple(trajectory.observations), tuple(trajectory.actions)
