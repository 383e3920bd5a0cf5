"""How sure a share is: Wilson's 95 % interval."""

from __future__ import annotations

import math
from typing import Any

CRITICAL = 1.959964  # 97.5 % of a normal distribution lie below it


def share(successes: float, count: float) -> dict[str, Any]:
    """Return successes / count as `mean`, and Wilson's score `interval`.

    Unlike a bootstrap, the interval has a width even if all or none succeeded.
    """
    mean, square = successes / count, CRITICAL**2
    centre = (mean + square / (2 * count)) / (1 + square / count)
    half = CRITICAL * math.sqrt(mean * (1 - mean) / count + square / (4 * count**2))
    half /= 1 + square / count
    return {"mean": mean, "interval": [max(0.0, centre - half), min(1.0, centre + half)]}
