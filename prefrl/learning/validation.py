"""What a fit is worth by what it did not learn from: its best pass, its calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefrl.contracts import RewardModel
from prefrl.learning import parallel
from prefrl.learning.preference import decisive

BINS = 10
TEMPERATURES = 0.05, 100.0  # where all or most predictions are right or wrong, there is no best one
HALVINGS = 60


class BestPass:
    """Keeps the weights of the pass with the lowest loss on what was not learned from.

    They are kept on the CPU, where they take as much memory as what is fitted.
    """

    def __init__(self, patience: int):
        """Begin before the first pass; without patience nothing is kept."""
        self.patience, self.epoch, self.loss = patience, 0, math.inf
        self.weights: list[Tensor] = []

    def is_over(self, epoch: int, loss: float | None, reward_model: RewardModel) -> bool:
        """Look at a pass that was made, from 1 on; return whether patience is at an end."""
        if not self.patience or loss is None:
            return False
        if loss < self.loss:
            self.epoch, self.loss = epoch, loss
            self.weights = [w.detach().to("cpu", copy=True) for w in reward_model.parameters()]
        return epoch - self.epoch >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best pass so far, with its weights."""
        return {"epoch": self.epoch, "loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.epoch, self.loss, self.weights = state["epoch"], state["loss"], state["weights"]

    def restore(self, reward_model: RewardModel) -> int | None:
        """Give a reward model the best weights; return their pass, None if none was chosen."""
        if not self.epoch:
            return None
        with torch.no_grad():
            for parameter, best in zip(reward_model.parameters(), self.weights, strict=True):
                parameter.copy_(parallel.split_like(best, parameter))
        return self.epoch


@dataclass(frozen=True)
class Bin:
    """Predictions that are about equally sure."""

    confidence: float
    """Mean predicted chance, from .5 to 1, that the side which is predicted is the better one."""
    right: float
    """Share of them that are right."""
    weight: float
    """How many comparisons they are; those of a ranking of K count K − 1 together."""


@dataclass(frozen=True)
class Calibration:
    """How far predicted probabilities may be taken at their word."""

    bins: tuple[Bin, ...]
    """Of ten that are equally wide, from .5 to 1, those that hold anything."""
    error: float
    """Expected calibration error: mean distance of confidence and share of right ones."""
    temperature: float
    """What returns are to be divided by so that the standard loss is lowest."""
    mended_error: float
    """The error that is left then, on the same comparisons."""


def calibrate_probabilities(logits: Tensor, preference: Tensor, weight: Tensor) -> Calibration:
    """Return how well probabilities are calibrated on decisive answers (Guo et al. 2017).

    That is arXiv 1706.04599: bins and error are of section 2, equations 1 to 3, the temperature is
    of section 4.2. Which side is left means nothing, so confidence is that in the predicted side.

    Args:
        logits: `[comparison]`, left return less right return.
        preference: `[comparison]`, P(left is better) as answered; there must be a decisive one.
        weight: `[comparison]`, what each counts.
    """
    sure = decisive(preference)
    leads = (logits * torch.sign(preference - 0.5))[sure].double()
    weight = weight[sure].double()
    bins, error = _bins(leads, weight)
    temperature = _temperature(leads, weight)
    return Calibration(bins, error, temperature, _bins(leads / temperature, weight)[1])


def _bins(leads: Tensor, weight: Tensor) -> tuple[tuple[Bin, ...], float]:
    """Return the bins that hold something, and the expected calibration error.

    Args:
        leads: `[comparison]`, the return of the better side less that of the other.
        weight: `[comparison]`.
    """
    confidence, right = torch.sigmoid(leads.abs()), (leads > 0).double()
    number = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    bins = []
    for index in range(BINS):
        inside = weight * (number == index)
        total = float(inside.sum())
        if total > 0:
            sure, hits = (float((values * inside).sum()) / total for values in (confidence, right))
            bins.append(Bin(sure, hits, total))
    error = sum(b.weight * abs(b.confidence - b.right) for b in bins) / float(weight.sum())
    return tuple(bins), error


def _temperature(leads: Tensor, weight: Tensor) -> float:
    """Return the temperature of the lowest standard loss, which is convex in its inverse."""
    low, high = (math.log(1 / temperature) for temperature in reversed(TEMPERATURES))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = -(weight * leads * torch.sigmoid(-math.exp(middle) * leads)).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-(low + high) / 2)
