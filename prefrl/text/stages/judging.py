"""How good a reward model is that was fitted to answers: accuracies, losses, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prefrl.config.learning import FitConfig
from prefrl.learning.preference import correct, decisive, preference_loss
from prefrl.learning.reward import comparison_returns
from prefrl.learning.statistics import aligned, in_words, share
from prefrl.learning.validation import Calibration, calibrate_probabilities
from prefrl.text.reward import TextReward
from prefrl.types import Comparison

SIDES = {"train": "train", "out_of_bag": "out-of-bag", "held_out": "held-out"}
"""What an accuracy may be of, and what it is called."""
MANY = 100  # comparisons, ten a bin


@dataclass(frozen=True)
class Judgement:
    """How good the pass is that was kept."""

    passes: int
    """That were made."""
    kept_pass: int
    """From 1 on."""
    chosen_by: str | None
    """The loss that was lowest in it; None if it is merely the last."""
    scores: dict[str, float]
    """Of the pass; see `passes`."""
    accuracies: dict[str, dict[str, Any]]
    """Of each side of `SIDES`, with Wilson's `interval`."""
    calibration: Calibration | None
    """On what is held out, where anything decisive is."""


def scores_of(
    reward_model: TextReward, comparisons: Sequence[Comparison], config: FitConfig
) -> dict[str, float]:
    """Return the scores of comparisons that were held out, of the members' mean.

    Returns:
        `held_out_loss`, as it is minimised but for margins and smoothing, `held_out_bradley_terry`,
        which is without errors of the teacher as well, and where any answer is decisive
        `held_out_accuracy`, and by how many comparisons, `held_out_decisive`; those of a ranking
        of K count K − 1 together.
    """
    if not comparisons:
        return {}
    leads, preference, weight = _leads(reward_model, comparisons)
    zero = torch.zeros(())
    losses = preference_loss(leads, zero, preference, uniform_error=config.uniform_error)
    standard = preference_loss(leads, zero, preference)
    total, sure = weight.sum(), weight * decisive(preference)
    scores = {
        "held_out_loss": float((losses * weight).sum() / total),
        "held_out_bradley_terry": float((standard * weight).sum() / total),
    }
    if not sure.any():
        return scores
    right_ones = (correct(leads, zero, preference) * sure).sum()
    accuracy = float(right_ones / sure.sum())
    return scores | {"held_out_accuracy": accuracy, "held_out_decisive": float(sure.sum())}


def judge(
    reward_model: TextReward, comparisons: Sequence[Comparison], scores: dict[str, float],
    passes: int, chosen_by: str | None,
) -> Judgement:  # fmt: skip
    """Judge the pass that was kept.

    Args:
        reward_model: with the weights of that pass.
        comparisons: which were held out.
        scores: of that pass.
        passes: how many were made.
        chosen_by: which loss chose it.
    """
    calibration = None
    if scores.get("held_out_decisive"):
        calibration = calibrate_probabilities(*_leads(reward_model, comparisons))
    return Judgement(
        passes, int(scores["epochs"]), chosen_by, scores, accuracies(scores), calibration
    )


def accuracies(scores: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Return the accuracies among the scores of a pass, by their sides, with intervals."""
    found = {}
    for side in SIDES:
        accuracy, count = (scores.get(f"{side}_{name}") for name in ("accuracy", "decisive"))
        if accuracy is not None and count:
            found[side] = share(accuracy * count, count)
    return found


@torch.no_grad()
def _leads(
    reward_model: TextReward, comparisons: Sequence[Comparison]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return by how much left leads, what was answered, and what it counts, `[comparison]` each."""
    left, right = (returns.mean(0) for returns in comparison_returns(reward_model, comparisons))
    preference = torch.tensor([c.preference for c in comparisons])
    return left - right, preference, torch.tensor([c.weight for c in comparisons])


def pass_in_words(scores: dict[str, float], most: int) -> str:
    """Return a pass in a line: accuracies with intervals, losses as minimised and as usual."""
    intervals, parts = accuracies(scores), []
    for side, called in SIDES.items():
        if f"{side}_loss" in scores:
            parts.append(
                f"{called} accuracy {in_words(intervals.get(side), '.3f')}, "
                f"loss {scores[f'{side}_loss']:.3f}, "
                f"Bradley-Terry {scores[f'{side}_bradley_terry']:.3f}"
            )
    return f"pass {scores['epochs']:.0f}/{most}: " + "; ".join(parts)


def judgement_in_words(judgement: Judgement | None) -> list[str]:
    """Return in lines which pass was kept, and how far its probabilities are to be trusted."""
    if judgement is None:
        return []
    kept, made = judgement.kept_pass, judgement.passes
    if judgement.chosen_by is None:
        lines = [f"kept pass {kept} of {made}, the last: nothing was to choose a better one"]
    else:
        loss = judgement.scores[judgement.chosen_by]
        side = SIDES[judgement.chosen_by.removesuffix("_loss")]
        lines = [f"kept pass {kept} of {made}, which has the lowest {side} loss, {loss:.3f}"]
    found = judgement.calibration
    if found is None:
        return lines
    few = f"; of fewer than {MANY} comparisons that says little"
    total = sum(b.weight for b in found.bins)
    rows = [("sure", "right", "comparisons")]
    rows += [(f"{b.confidence:.2f}", f"{b.right:.2f}", f"{b.weight:.0f}") for b in found.bins]
    return [
        *lines,
        f"calibration on what is held out: expected error {found.error:.3f}; with returns divided "
        f"by a temperature of {found.temperature:.2f} it is {found.mended_error:.3f}"
        + few
        * (total < MANY),
        *aligned(rows),
    ]
