"""Whether the policy improves, by the answers that compare it with what it was a round ago."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from prefrl.learning.statistics import win_rate
from prefrl.types import Comparison, Segment

OF_ROUND = re.compile(r"round (\d+)")


def newer_wins(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Return how often the newer of two policies was preferred, in the newest answers about two.

    `newer_wins` is the mean over queries, a tie being a half, `newer_wins_low` and
    `newer_wins_high` its 95 % interval; what is about an aspect has its name before them. Nothing
    where no query showed clips of two rounds.

    Args:
        comparisons: what a round learns from; those of answers from elsewhere do not count.
    """
    wins: dict[str, dict[int, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for comparison in comparisons:
        left, right = _round(comparison.left), _round(comparison.right)
        if comparison.query.round >= 0 and left is not None and right is not None:
            won = comparison.preference if left > right else 1 - comparison.preference
            if left != right:
                asked = comparison.query
                wins[comparison.aspect][asked.round][asked.index].append(won)
    found: dict[str, float] = {}
    for aspect, rounds in wins.items():
        by_query = rounds[max(rounds)].values()
        rate = win_rate([sum(won) / len(won) for won in by_query])
        name, (low, high) = f"{aspect}.newer_wins" if aspect else "newer_wins", rate["interval"]
        found |= {name: rate["mean"], f"{name}_low": low, f"{name}_high": high}
    return found


def _round(segment: Segment) -> int | None:
    """Return the round whose policy did what a segment shows, None if it was none of this run."""
    found = OF_ROUND.fullmatch(segment.source)
    return int(found.group(1)) if found else None
