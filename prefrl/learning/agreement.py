"""How far several people say the same: Krippendorff's alpha.

Pure functions of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefrl.types import Comparison, QueryId

RESAMPLES = 1000
NO_DIFFERENCE = 1e-12  # all values are the same, but for how they were added up


def alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Return Krippendorff's alpha of numbers: 1 is full agreement, 0 what chance comes to.

    α = 1 − D_o / D_e, where D_o is the mean squared difference of two values of the same unit,
    and D_e that of any two (Krippendorff 2011, "Computing Krippendorff's alpha-reliability", with
    the difference for interval data).

    Args:
        units: `[unit][value]`, what was said of each; units of fewer than two are left out.

    Returns:
        None where no unit has two values, or all values are the same.
    """
    return _alpha(_sums(units))


def agreement(units: Mapping[QueryId, Sequence[Sequence[float]]]) -> dict[str, Any] | None:
    """Return alpha as `mean`, with a 95 % `interval`, a bootstrap over queries; None without one.

    Args:
        units: of each query, as `alpha` takes them.
    """
    sums = np.array([_sums(own) for own in units.values()]).reshape(len(units), 4)
    value = _alpha(sums.sum(0))
    if value is None:
        return None
    drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    found = [v for v in map(_alpha, sums[drawn].sum(1)) if v is not None]
    low, high = np.percentile(found, [2.5, 97.5])
    return {"mean": value, "interval": [float(low), float(high)]}


def said_of_pairs(comparisons: Sequence[Comparison]) -> dict[QueryId, list[list[float]]]:
    """Return P(left is better) as several labellers say it, of each two clips of each query."""
    said: dict[QueryId, dict[tuple[str, str], list[float]]] = {}
    for c in comparisons:
        pairs = said.setdefault(c.query, {})
        pairs.setdefault((c.left.id, c.right.id), []).append(c.preference)
    several = {
        query: [values for values in pairs.values() if len(values) > 1]
        for query, pairs in said.items()
    }
    return {query: units for query, units in several.items() if units}


def _sums(units: Sequence[Sequence[float]]) -> np.ndarray:
    """Return what alpha is made of, `[4]`, which adds up over units.

    It is how many values there are, their sum, the sum of their squares, and over units that of the
    squared differences of each two values, in both orders, by one less than there are values.
    """
    sums = np.zeros(4)
    for values in (np.asarray(values, float) for values in units if len(values) > 1):
        count, total, squares = len(values), values.sum(), (values**2).sum()
        apart = 2 * (count * squares - total**2) / (count - 1)
        sums += count, total, squares, apart
    return sums


def _alpha(sums: np.ndarray) -> float | None:
    count, total, squares, observed = sums
    if count < 2:
        return None
    expected = 2 * (count * squares - total**2) / (count - 1)
    return None if expected <= NO_DIFFERENCE * count else float(1 - observed / expected)
