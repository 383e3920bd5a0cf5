"""What a critic needs when its reward is fitted anew: the old scale means nothing then."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def new_scale(new: np.ndarray, old: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of the least-squares line new ≈ slope · old + offset.

    The slope is never negative: a critic turned upside down would be worse than none.

    Args:
        new: what a reward says now of some data, `[n]`.
        old: what it said before it was fitted.
    """
    slope = max(float(np.cov(new, old)[0, 1] / (old.var(ddof=1) + 1e-8)), 0.0)
    return slope, float(new.mean() - slope * old.mean())


@torch.no_grad()
def rescale(weight: Tensor, bias: Tensor, slope: float, offset: float) -> None:
    """Let a critic whose last layer has these say slope · V + offset where it said V."""
    weight.mul_(slope)
    bias.copy_(bias * slope + offset)
