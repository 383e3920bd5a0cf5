"""Fits a reward model to comparisons.

How any reward model is fitted: bags that never change, validation out of bag, a penalty that
adapts, an early stop. Nothing here knows what a segment holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefrl.config.learning import FitConfig
from prefrl.contracts import RewardModel
from prefrl.learning.preference import choice_loss, correct, decisive, preference_loss
from prefrl.types import Comparison, QueryId, Segment, alike

L2_LIMITS = (1e-4, 3e-2)
L2_STEP = 1.5
SCORES = ("train_loss", "train_accuracy", "out_of_bag_loss", "out_of_bag_accuracy")


def predict_returns(reward_model: RewardModel, segments: Sequence[Segment]) -> Tensor:
    """Predict the returns `[member, segment]` of whole segments, without gradient."""
    with torch.no_grad():
        return reward_model.returns(
            reward_model.encode(segments), torch.arange(len(segments)), None
        )


def bag_weights(seed: int, queries: Sequence[QueryId], members: int) -> Tensor:
    """Return how often each member's bag holds each comparison, Poisson(1), `[member, comparison]`.

    The count is a hash of (seed, query, member), so membership is for life: a warm start never
    trains on what is out of bag later, and resuming needs to save nothing. All comparisons of one
    query share their fate. e⁻¹ of them are out of bag, which is Christiano's validation share.
    """
    weights = torch.empty(members, len(queries))
    for column, query in enumerate(queries):
        for member in range(members):
            key = f"bag {seed} {query[0]} {query[1]} {member}".encode()
            uniform = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
            weights[member, column] = _poisson_quantile(uniform)
    return weights


def _poisson_quantile(uniform: float) -> int:
    count, probability = 0, float(np.exp(-1))
    total = probability
    while uniform > total and count < 20:
        count += 1
        probability /= count
        total += probability
    return count


class FitState:
    """What a fit hands to the next fit: the optimiser, the penalty and the order of minibatches."""

    def __init__(self, reward_model: RewardModel, config: FitConfig, seed: int):
        self.seed, self.l2, self.fits = seed, config.l2, 0
        self.optimizer = torch.optim.Adam(
            reward_model.parameters(), config.learning_rate, fused=True
        )
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        return {
            "l2": self.l2,
            "fits": self.fits,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.l2, self.fits = state["l2"], state["fits"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])


def fit(
    reward_model: RewardModel,
    comparisons: Sequence[Comparison],
    config: FitConfig,
    state: FitState,
) -> dict[str, float]:
    """Make the passes of one round's fit, then adapt the penalty; report how well it fits.

    Returns:
        Of the last pass what `fit_passes` yields but `out_of_bag_count`, then `l2` and `epochs`;
        nothing if there are no comparisons.
    """
    if not comparisons:
        return {}
    limit = config.epochs if state.fits else config.first_epochs
    scores, epoch = {}, 0
    for epoch, scores in enumerate(fit_passes(reward_model, comparisons, config, state), start=1):
        if epoch == limit or scores.get("train_accuracy", 0) >= config.stop_accuracy:
            break
    state.fits += 1
    used = {"l2": state.l2, "epochs": epoch}
    state.l2 = _adapt_l2(state.l2, scores, config)
    scores.pop("out_of_bag_count")
    return scores | used


def fit_passes(
    reward_model: RewardModel,
    comparisons: Sequence[Comparison],
    config: FitConfig,
    state: FitState,
) -> Iterator[dict[str, float]]:
    """Fit each member to its bag of comparisons, from its present weights; never end by itself.

    Each value that is pulled is a pass over all comparisons; whoever pulls decides when to stop.

    Yields:
        `train_loss`, `train_accuracy`, `out_of_bag_loss`, `out_of_bag_accuracy` (means over members
        of means over comparisons; accuracies are over decisive answers, except those about segments
        that show the same, which have no right side; a mean over nothing is left out), and
        `out_of_bag_count`, how many comparisons each member has out of its bag at least.
    """
    data = _Data(reward_model, comparisons, state.seed)
    while True:
        yield _epoch(reward_model, data, config, state)


def comparison_returns(
    reward_model: RewardModel, comparisons: Sequence[Comparison]
) -> tuple[Tensor, Tensor]:
    """Predict the left and the right returns `[member, comparison]`, without gradient."""
    segments, left, right = _segment_rows(comparisons)
    returns = predict_returns(reward_model, segments)
    return returns[:, left], returns[:, right]


def _segment_rows(comparisons: Sequence[Comparison]) -> tuple[list[Segment], Tensor, Tensor]:
    """Return each segment once, and the rows of the left and the right ones among them."""
    segments = {s.id: s for c in comparisons for s in (c.left, c.right)}
    row_of = {name: row for row, name in enumerate(segments)}
    left = torch.tensor([row_of[c.left.id] for c in comparisons])
    right = torch.tensor([row_of[c.right.id] for c in comparisons])
    return list(segments.values()), left, right


class _Data:
    """Comparisons as tensors, each segment encoded once."""

    def __init__(self, reward_model: RewardModel, comparisons: Sequence[Comparison], seed: int):
        segments, self.left, self.right = _segment_rows(comparisons)
        self.encoded = reward_model.encode(segments)
        reward_model.normalise_inputs(self.encoded)
        self.preference = torch.tensor([c.preference for c in comparisons])
        apart = torch.tensor([not alike(c.left, c.right) for c in comparisons])
        self.judged = decisive(self.preference) & apart
        """Which comparisons have a right side."""
        self.margin = torch.tensor([c.margin for c in comparisons])
        self.weight = torch.tensor([c.weight for c in comparisons])
        self.bags = bag_weights(seed, [c.query for c in comparisons], reward_model.members)
        rows: dict[QueryId, list[int]] = {}
        for row, comparison in enumerate(comparisons):
            rows.setdefault(comparison.query, []).append(row)
        self.choice = _choices(comparisons)
        self.queries = list(map(torch.tensor, rows.values()))
        """The comparisons of each query: they stay together, so a segment is seen once a pass."""

    def minibatches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield rows of comparisons in random order, about `size` at a time."""
        count = max(1, round(size * len(self.queries) / len(self.left)))
        for chosen in torch.randperm(len(self.queries), generator=generator).split(count):
            yield torch.cat([self.queries[query] for query in chosen.tolist()])


def _choices(comparisons: Sequence[Comparison]) -> Tensor:
    """Return which choice each comparison is part of, `[comparison]`; -1 where it is of none.

    A choice is a segment before all that a query puts behind it.
    """
    numbers: dict[tuple[QueryId, str], int] = {}
    choice = []
    for comparison in comparisons:
        if comparison.preference not in (0, 1):
            choice.append(-1)
            continue
        best = comparison.left if comparison.preference else comparison.right
        choice.append(numbers.setdefault((comparison.query, best.id), len(numbers)))
    return torch.tensor(choice)


def _epoch(
    reward_model: RewardModel, data: _Data, config: FitConfig, state: FitState
) -> dict[str, float]:
    """Make one pass; the losses come from the pass itself, so they cost nothing extra."""
    totals = torch.zeros(8, reward_model.members)
    for rows in data.minibatches(config.batch_size, state.generator):
        # A ranking compares each of its segments with all others: evaluate each once.
        segments, row_of = torch.cat([data.left[rows], data.right[rows]]).unique(
            return_inverse=True
        )
        returns = reward_model.returns(data.encoded, segments, state.generator)
        left, right = returns[:, row_of].chunk(2, dim=1)
        preference = data.preference[rows]
        losses = preference_loss(
            left, right, preference, margin=data.margin[rows],
            uniform_error=config.uniform_error, label_smoothing=config.label_smoothing,
        )  # fmt: skip
        if config.rankings == "plackett-luce":
            losses = _as_choices(losses, left, right, data, rows, config)
        bags = data.bags[:, rows] * data.weight[rows]
        # Each member's loss is a mean over its own bag, and they are summed: the learning rate of
        # a member must not depend on how many others there are.
        loss = ((losses * bags).sum(1) / bags.sum(1).clamp(min=1e-8)).sum()
        if state.l2:
            weights = reward_model.parameters()
            loss = loss + state.l2 * sum(parameter.square().sum() for parameter in weights)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        hits = correct(left.detach(), right.detach(), preference)
        totals += _tally(losses.detach(), hits, data.judged[rows], bags)
    return _score(totals)


def _as_choices(
    losses: Tensor, left: Tensor, right: Tensor, data: _Data, rows: Tensor, config: FitConfig
) -> Tensor:
    """Return the losses `[member, comparison]` where orders are choices of the best of the rest.

    A choice counts as one comparison; its loss is shared out over the comparisons that it is of.
    """
    chosen = data.choice[rows]
    of_choices = chosen >= 0
    if not of_choices.any():
        return losses
    _, choice, sizes = chosen[of_choices].unique(return_inverse=True, return_counts=True)
    signs = torch.sign(data.preference[rows] - 0.5)
    leads = ((left - right) * signs)[:, of_choices]
    loss = choice_loss(
        leads, choice, margin=data.margin[rows][of_choices], uniform_error=config.uniform_error
    )
    shares = 1 / (sizes[choice] * data.weight[rows][of_choices])
    losses = losses.clone()
    losses[:, of_choices] = loss[:, choice] * shares
    return losses


def _tally(losses: Tensor, hits: Tensor, judged: Tensor, bags: Tensor) -> Tensor:
    """Return sums `[8, member]`, in bag and out: losses, weights, hits, what has a right side."""
    counts = judged.float()
    hits = hits.float() * counts
    out = (bags == 0).float()
    columns = []
    for weight in (bags, out):
        columns += [losses * weight, weight, hits * weight, counts * weight]
    return torch.stack([column.sum(1) for column in columns])


def _score(totals: Tensor) -> dict[str, float]:
    scores = {"out_of_bag_count": float(totals[5].min())}
    for row, name in enumerate(SCORES):
        total, weight = totals[2 * row], totals[2 * row + 1]
        known = weight > 0  # a member may have nothing out of its bag yet
        if known.any():
            scores[name] = float((total[known] / weight[known]).mean())
    return scores


def _adapt_l2(l2: float, scores: dict[str, float], config: FitConfig) -> float:
    """Raise the penalty when out-of-bag loss runs away from training loss, else lower it."""
    judged = "train_loss" in scores and "out_of_bag_loss" in scores
    if l2 == 0 or not judged or scores["out_of_bag_count"] < config.enough_out_of_bag:
        return l2
    ratio = scores["out_of_bag_loss"] / max(scores["train_loss"], 1e-8)
    if ratio > config.l2_high:
        l2 *= L2_STEP
    elif ratio < config.l2_low:
        l2 /= L2_STEP
    return min(max(l2, L2_LIMITS[0]), L2_LIMITS[1])
