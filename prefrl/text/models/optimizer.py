"""Adam, whose two moments of each weight may have 8 bits."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from prefrl.errors import UserError

EPSILON = 1e-5  # as PPO implementations have it (Huang et al. 2022)


def adam(
    parameters: Iterable[nn.Parameter], learning_rate: float, eight_bits: bool
) -> torch.optim.Optimizer:
    """Return Adam, with moments in blocks of 8 bits if asked for (arXiv 2110.02861).

    Those of small parameters, below 4,096 numbers, have 32 bits in either case.

    Raises:
        UserError: 8 bits are asked for, and bitsandbytes is not installed or does not work here.
    """
    if not eight_bits:
        return torch.optim.Adam(parameters, learning_rate, eps=EPSILON)
    # It says in a warning which of its other parts do not work here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        optim: Any = importlib.import_module("bitsandbytes.optim")
    except Exception as error:  # it loads a library, which fails in ways of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"moments of 8 bits are those of bitsandbytes, which cannot be loaded ({reason}): "
            "pip install bitsandbytes, or leave out --text.ppo.adam-8bit"
        ) from None
    return optim.Adam8bit(parameters, learning_rate, eps=EPSILON)
