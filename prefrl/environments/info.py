"""The numbers that environments report at the end of an episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np


def numbers(info: Mapping[Any, Any]) -> dict[str, float]:
    """Return what counts as a number: a single finite one (or a flag), under a name that is text.

    Words, arrays, numbers too large for a float and those under other keys are left out, so that
    metrics are always JSON.
    """
    values = {}
    for name, value in info.items():
        number = _number(value)
        if isinstance(name, str) and number is not None:
            values[name] = number
    return values


def means(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean, over episodes, of each number that all of them report."""
    names = [n for n in reports[0] if all(n in report for report in reports)] if reports else []
    with np.errstate(over="ignore"):  # a mean that overflows is left out
        averages = {name: float(np.mean([report[name] for report in reports])) for name in names}
    return {name: mean for name, mean in averages.items() if math.isfinite(mean)}


def _number(value: Any) -> float | None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, Real | np.bool_):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
