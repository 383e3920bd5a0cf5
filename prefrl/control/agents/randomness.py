"""Torch's global generator, lent to an agent: SB3 draws actions and weights from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class HasRandomState(Protocol):
    """An agent that keeps a state of torch's generator as its own."""

    random_state: Tensor


@contextmanager
def own_randomness(agent: HasRandomState) -> Iterator[None]:
    """Let torch's global generator be the agent's for a while, and what it was before after it."""
    outside = torch.get_rng_state()
    torch.set_rng_state(agent.random_state)
    try:
        yield
    finally:
        agent.random_state = torch.get_rng_state()
        torch.set_rng_state(outside)
