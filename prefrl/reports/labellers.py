"""How far those who answered agree, with each other, with themselves and with the reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefrl.learning.agreement import agreement, said_of_pairs
from prefrl.learning.labellers import (
    assumed_reliability,
    count_votes,
    intervals,
    reliability,
)
from prefrl.learning.statistics import aligned, in_words, share
from prefrl.types import Comparison


def compare_labellers(
    comparisons: Sequence[Comparison], leads: Sequence[float], uniform_error: float,
    repeats: Mapping[str, tuple[int, int]],
) -> dict[str, Any] | None:  # fmt: skip
    """Return how far labellers agree, as JSON values; None where one alone answered.

    Args:
        comparisons: what all answers say.
        leads: `[comparison]`, by how many logits the left side leads, as those members of the
            reward predict that never learned from the query; 0 where all did.
        uniform_error: of the run's fits, which says how reliable whoever is new is taken to be.
        repeats: of each labeller, how many pairs that were shown to them again they answered in the
            same way, and how many there were.

    Returns:
        `alpha`: Krippendorff's, as `mean` and `interval`, None without one; `queries`: that several
        have answered, of which it is; `trust`: how far the reward is believed; and `each`: of each
        labeller `queries`, `reliability` (`mean` and `interval`) and `repeats`, the share that was
        answered as before (`mean` and `interval`, None without any).
    """
    votes = count_votes(comparisons)
    if len(votes.labellers) < 2:
        return None
    of_items = np.zeros(len(votes.left))
    of_items[votes.item] = leads
    assumed = assumed_reliability(uniform_error)
    found = reliability(votes, of_items, assumed)
    ends = intervals(votes, of_items, assumed)
    units = said_of_pairs(comparisons)
    queries = Counter(name for name, _ in {(c.teacher, c.query) for c in comparisons})
    each = {}
    for name, value, interval in zip(votes.labellers, found.labellers, ends, strict=True):
        same, of = repeats.get(name, (0, 0))
        each[name] = {
            "queries": queries[name],
            "reliability": {"mean": float(value), "interval": [float(end) for end in interval]},
            "repeats": share(same, of) if of else None,
        }
    return {"alpha": agreement(units), "queries": len(units), "trust": found.trust, "each": each}


def labellers_in_words(report: dict[str, Any]) -> list[str]:
    """Return what `compare_labellers` found as a short table, in lines for a terminal."""
    queries, found = report["queries"], report["alpha"]
    head = f"agreement on {queries} queries that several answered"
    alpha = "nobody answered what another one did"
    if queries:
        alpha = f"{head}: " + (f"Krippendorff's alpha {in_words(found)}" if found else "all alike")
    rows = [("labeller", "queries", "reliability", "the same when asked again")]
    for name, entry in report["each"].items():
        again = in_words(entry["repeats"], ".0%") if entry["repeats"] else "never asked again"
        rows.append((name, str(entry["queries"]), in_words(entry["reliability"]), again))
    return [alpha, *(f"  {line}" for line in aligned(rows))]
