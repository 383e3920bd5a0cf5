"""What a state is worth while there is no reward: how far it is from others (PEBBLE, section 4.1).

Particle estimates of entropy reward a state by its distance to its k-th nearest neighbour: Lee et
al. 2021, arXiv 2106.05091, equation 4. The paper takes the logarithm and the code published with it
does not; nor does this, as states that repeat (an episode that waits after its end) would be worth
minus infinity. Distances are measured between observations as the policy sees them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from torch import Tensor

REFERENCES = 2048
"""States that each one is compared to: all that were seen, or so many of them by chance."""


COARSE = 16
"""Pixels of a side, of those that pictures are compared by."""


def coarse(states: Tensor) -> Tensor:
    """Return states as rows of numbers; of pictures, every few pixels, from 0 to 1.

    Args:
        states: `[state, feature]`, or pictures `[state, channel, row, column]`.
    """
    if states.ndim == 2:
        return states
    apart = max(1, min(states.shape[2:]) // COARSE)
    return states[:, :, ::apart, ::apart].flatten(1).float() / 255


def distances(states: Tensor, others: Tensor, same: Tensor, neighbours: int) -> Tensor:
    """Return the distance of each state to its k-th nearest neighbour, `[state]`.

    Args:
        states: `[state, feature]`
        others: `[other, feature]`
        same: whether the other is the state itself, `[state, other]`; that is no neighbour.
        neighbours: k; fewer where there are fewer.
    """
    apart = torch.cdist(states, others, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart.masked_fill(same, torch.inf)
    within = min(neighbours, max(len(others) - 1, 1))
    found = apart.kthvalue(within, dim=1).values
    return torch.where(found.isinf(), 0.0, found)


class Novelty:
    """Rewards states by these distances, in deviations of all that it has measured so far."""

    def __init__(self, neighbours: int):
        self.neighbours = neighbours
        self.measured = RunningMeanStd(shape=())

    def rewards(self, states: Tensor, others: Tensor, same: Tensor) -> Tensor:
        """Return the reward of each state; see `distances`."""
        found = distances(states, others, same, self.neighbours)
        self.measured.update(found.numpy())
        return found / float(np.sqrt(self.measured.var + 1e-8))

    def state_dict(self) -> dict[str, Any]:
        """Return what the unit is made of."""
        measured = self.measured
        return {"mean": measured.mean, "var": measured.var, "count": float(measured.count)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a unit."""
        for name, value in state.items():
            setattr(self.measured, name, value)
