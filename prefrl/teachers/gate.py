"""Whether a judge may teach: what it is worth on pairs whose better side is known.

A judge that leans to what it reads first, or guesses, teaches its own faults: SmolLM2-135M, asked
for a letter, named the second reply in a hundred of a hundred questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefrl.learning.statistics import in_words, share

CONSISTENT = 0.6  # the least share of pairs of which both orders must say the same
FEW = 10  # pairs of which nothing is concluded yet


class Verdict(NamedTuple):
    """What a judge said of one pair."""

    orders: tuple[float, ...]
    """P(left is better), asked with the left reply first, then with the right one first, if both
    orders were asked; NaN where nothing could be read."""
    principle: str = ""
    rationale: tuple[str, ...] = ()
    """The reasons, as they were written down in each order."""

    @property
    def left(self) -> float:
        """P(left is better), the mean of the orders; NaN where one could not be read."""
        return sum(self.orders) / len(self.orders)

    @property
    def is_read(self) -> bool:
        """Whether every answer could be read."""
        return not math.isnan(self.left)

    @property
    def agrees(self) -> bool | None:
        """Whether both orders name the same side; None of a single one, or if one is not read."""
        if len(self.orders) < 2 or not self.is_read:
            return None
        first, second = (_side(chance) for chance in self.orders)
        return first == second


def _side(chance: float) -> int:
    return (chance > 0.5) - (chance < 0.5)


@dataclass(frozen=True)
class Standing:
    """How a judge stands: shares with Wilson's intervals, None where nothing says so."""

    pairs: int
    unread: int
    """Pairs of which an answer could not be read."""
    consistency: dict[str, Any] | None = None
    """Share of pairs of which both orders name the same side."""
    accuracy: dict[str, Any] | None = None
    """Share of pairs of which it names the known side; an even verdict is half right."""

    @property
    def refusal(self) -> str | None:
        """Say why the judge may not teach, None if it may, for all that is known."""
        if self.pairs < FEW:
            return None
        if 2 * self.unread >= self.pairs:
            return f"its answers cannot be read for {self.unread} of {self.pairs} pairs"
        if self.consistency is not None and self.consistency["mean"] < CONSISTENT:
            return (
                "it names the same reply in both orders in "
                f"{in_words(self.consistency)} of {self.pairs} pairs, expected {CONSISTENT} or more"
            )
        if self.accuracy is not None and self.accuracy["interval"][0] <= 0.5:
            return (
                f"it is right in {in_words(self.accuracy)} of {self.pairs} known pairs, which may "
                "be chance"
            )
        return None


def standing(verdicts: Sequence[Verdict], lefts: Sequence[float] = ()) -> Standing:
    """Return how a judge stands by its verdicts.

    Args:
        verdicts: of some pairs.
        lefts: P(left is better) of each as it is known, where it is; decisive ones.
    """
    read = [verdict for verdict in verdicts if verdict.is_read]
    agreeing = [verdict.agrees for verdict in read if verdict.agrees is not None]
    right = [
        0.5 + 0.5 * _side(verdict.left) * _side(left)
        for verdict, left in zip(verdicts, lefts, strict=bool(lefts))
        if verdict.is_read
    ]
    return Standing(
        len(verdicts),
        len(verdicts) - len(read),
        share(sum(agreeing), len(agreeing)) if agreeing else None,
        share(sum(right), len(right)) if right else None,
    )
