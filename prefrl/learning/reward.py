"""Fits a reward model to comparisons.

How any reward model is fitted: bags that never change, validation out of bag, a penalty that
adapts, an early stop, the best pass kept. Nothing here knows what a segment holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefrl.config.learning import FitConfig
from prefrl.contracts import RewardModel
from prefrl.learning import parallel
from prefrl.learning.bags import bag_weights
from prefrl.learning.labellers import Votes, assumed_reliability, count_votes, reliability
from prefrl.learning.preference import (
    choice_loss,
    correct,
    decisive,
    preference_loss,
    robust_loss,
    square_loss,
)
from prefrl.learning.validation import BestPass
from prefrl.pace import Pace
from prefrl.types import Comparison, QueryId, Segment, alike

COLUMNS = 7  # of what a pass counts
L2_LIMITS = (1e-4, 3e-2)
L2_STEP = 1.5
METRICS = (
    "train_loss", "train_accuracy", "out_of_bag_loss", "out_of_bag_accuracy", "preferred_return",
    "other_return",
)  # fmt: skip


def predict_returns(reward_model: RewardModel, segments: Sequence[Segment]) -> Tensor:
    """Predict the returns `[member, segment]` of whole segments, without gradient."""
    with torch.no_grad():
        return reward_model.returns(
            reward_model.encode(segments), torch.arange(len(segments)), None
        )


class FitState:
    """What a fit hands to the next fit: the optimiser, the penalty and the order of minibatches."""

    def __init__(self, reward_model: RewardModel, config: FitConfig, seed: int):
        self.seed, self.l2, self.fits = seed, config.l2, 0
        self.steps = 0
        """Of Adam, since it began."""
        self.new_optimizer(reward_model, config)
        anew = config.restart != "never"
        self.first = [p.detach().clone() for p in reward_model.parameters()] if anew else []
        """What each fit begins with, where it begins anew; it follows from the seed."""
        self.generator = torch.Generator().manual_seed(seed)

    def new_optimizer(self, reward_model: RewardModel, config: FitConfig) -> None:
        """Begin Adam anew."""
        self.steps = 0
        self.optimizer = torch.optim.Adam(
            reward_model.parameters(), config.learning_rate, fused=True
        )

    @torch.no_grad()
    def begin_anew(self, reward_model: RewardModel, config: FitConfig) -> None:
        """Go back to the first weights, and forget how the optimiser has moved."""
        for parameter, first in zip(reward_model.parameters(), self.first, strict=True):
            parameter.copy_(first)
        self.new_optimizer(reward_model, config)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        return {
            "l2": self.l2,
            "fits": self.fits,
            "steps": self.steps,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.l2, self.fits = state["l2"], state["fits"]
        self.steps = state.get("steps", 0)  # nothing depended on it once
        self.optimizer.load_state_dict(parallel.split_state(self.optimizer, state["optimizer"]))
        self.generator.set_state(state["generator"])


def fit(
    reward_model: RewardModel,
    comparisons: Sequence[Comparison],
    config: FitConfig,
    state: FitState,
) -> dict[str, float]:
    """Make the passes of one round's fit, then adapt the penalty; report how well it fits.

    Returns:
        Of the pass that is kept the `METRICS` of what `fit_passes` yields, then `l2`, `epochs` and,
        where one was chosen, `best_epoch`, where labellers have reliabilities, `least_reliable`;
        nothing if there are no comparisons.
    """
    if not comparisons:
        return {}
    anew = config.restart != "never"
    limit = config.epochs if state.fits and not anew else config.first_epochs
    best, passed = BestPass(config.patience), []
    if anew:
        state.begin_anew(reward_model, config)
    elif config.anneal:
        state.new_optimizer(reward_model, config)
    for scores in fit_passes(reward_model, comparisons, config, state, most=limit):
        passed.append(scores)
        enough = scores["out_of_bag_count"] >= config.enough_out_of_bag
        judged = scores.get("out_of_bag_loss") if enough else None
        if (
            best.is_over(len(passed), judged, reward_model)
            or len(passed) == limit
            or scores.get("train_accuracy", 0) >= config.stop_accuracy
        ):
            break
    chosen = best.restore(reward_model)
    scores = passed[(chosen or len(passed)) - 1]
    state.fits += 1
    used: dict[str, float] = {"l2": state.l2, "epochs": len(passed)}
    used |= {"best_epoch": chosen} if chosen else {}
    used |= {name: scores[name] for name in ("least_reliable",) if name in scores}
    state.l2 = _adapt_l2(state.l2, scores, config)
    return {name: scores[name] for name in METRICS if name in scores} | used


def fit_by_itself(
    reward_model: Any, comparisons: Sequence[Comparison], config: FitConfig, seed: int
) -> dict[str, float]:
    """Let a model learn from what is not held out; measure it as a fit is, with its last weights.

    Args:
        reward_model: a `RewardModel` that `LearnsByItself`.
        comparisons: all answers so far.
        config: of which `held_out` counts, and what the loss is that is told.
        seed: of what is held out.

    Returns:
        The `METRICS` of what was learned, nothing if there are no comparisons; and what it tells.
    """
    if not comparisons:
        return {}
    data = _Data(reward_model, comparisons, config, seed)
    told = reward_model.learn([c for c, bag in zip(comparisons, data.bags[0], strict=True) if bag])
    rows = torch.arange(len(comparisons))
    with torch.no_grad():
        left, right = _returns(reward_model, data, rows, None)
        losses = _losses(left, right, data, rows, config)
        scores = _score(_tally(losses, left, right, data, rows), data)
    return {name: scores[name] for name in METRICS if name in scores} | told


def fit_passes(
    reward_model: RewardModel,
    comparisons: Sequence[Comparison],
    config: FitConfig,
    state: FitState,
    pace: Pace | None = None,
    goes_on: bool = False,
    most: int = 1,
) -> Iterator[dict[str, float]]:
    """Fit each member to its bag of comparisons, from its present weights; never end by itself.

    Each value that is pulled is a pass over all comparisons; whoever pulls decides when to stop.

    Args:
        reward_model: what is fitted.
        comparisons: what it is fitted to.
        config: the knobs.
        state: of the fit; it is changed.
        pace: is told of each comparison.
        goes_on: passes were made before, in another process: let the model read the first one's
            minibatches, so that what it keeps of its inputs is the same to the bit.
        most: passes that will be made, over which the step size may fall.

    Yields:
        `train_loss`, `train_accuracy`, `out_of_bag_loss`, `out_of_bag_accuracy` (means over members
        of means over comparisons; accuracies are over decisive answers, except those about segments
        that show the same, which have no right side; a mean over nothing is left out). Beside a
        loss its `_bradley_terry`, the cross-entropy without margins, smoothing and errors of the
        teacher; beside an accuracy its `_decisive`, by how many comparisons each member is judged
        in the mean; `preferred_return` and `other_return`, the mean predicted returns in the bags
        of the better and the worse segments of decisive answers; and `out_of_bag_count`, how many
        each has out of its bag at least. With reliabilities of labellers also `least_reliable`, the
        lowest one that the pass went by.

        They are of the pass itself, in which the weights move, so they cost nothing extra. With
        patience a pass is to be chosen by what is out of bag: then that is of its last weights.
    """
    data = _Data(reward_model, comparisons, config, state.seed)
    first = torch.Generator().manual_seed(state.seed)
    for rows in data.minibatches(config.batch_size, first) if goes_on else ():
        _returns(reward_model, data, rows, None)
    votes = count_votes(comparisons) if config.labellers == "reliability" else None
    while True:
        found = _weigh_labellers(reward_model, data, votes, config) if votes else {}
        scores = _epoch(reward_model, data, config, state, pace, most) | found
        yield scores | _judge(reward_model, data, config) if config.patience else scores


@torch.no_grad()
def _weigh_labellers(
    reward_model: RewardModel, data: _Data, votes: Votes, config: FitConfig
) -> dict[str, float]:
    """Find how reliable each labeller is, with the weights as they are, and weigh by it.

    Members speak of what is out of their bags alone: what they were fitted to they repeat.
    """
    outside = data.bags == 0
    leads = np.zeros(len(votes.left))
    queries = [rows for rows in data.queries if outside[:, rows[0]].any()]
    if queries:
        rows = torch.cat(queries)
        left, right = _returns(reward_model, data, rows, None)
        members = outside[:, rows]
        lead = ((left - right) * members).sum(0) / members.sum(0)
        leads[votes.item[rows.numpy()]] = lead.double().cpu().numpy()
    found = reliability(votes, leads, assumed_reliability(config.uniform_error)).labellers
    data.reliability = torch.tensor(found[votes.labeller], dtype=torch.float32)
    return {"least_reliable": float(found.min())}


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

    def __init__(
        self, reward_model: RewardModel, comparisons: Sequence[Comparison], config: FitConfig,
        seed: int,
    ):  # fmt: skip
        segments, self.left, self.right = _segment_rows(comparisons)
        self.encoded = reward_model.encode(segments)
        reward_model.normalise_inputs(self.encoded)
        self.preference = torch.tensor([c.preference for c in comparisons])
        apart = torch.tensor([not alike(c.left, c.right) for c in comparisons])
        self.judged = decisive(self.preference) & apart
        """Which comparisons have a right side."""
        self.margin = torch.tensor([c.margin for c in comparisons])
        self.weight = torch.tensor([c.weight for c in comparisons])
        self.reliability: Tensor | None = None
        """Of whoever answered, `[comparison]`, where labellers differ."""
        names = [c.query for c in comparisons]
        self.bags = bag_weights(seed, names, reward_model.members, config.held_out)
        rows: dict[QueryId, list[int]] = {}
        for row, comparison in enumerate(comparisons):
            rows.setdefault(comparison.query, []).append(row)
        self.choice = _choices(comparisons)
        self.queries = list(map(torch.tensor, rows.values()))
        """The comparisons of each query: they stay together, so a segment is seen once a pass."""

    def minibatches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield rows of comparisons in random order, about `size` at a time."""
        count = self._queries_at_a_time(size)
        for chosen in torch.randperm(len(self.queries), generator=generator).split(count):
            yield torch.cat([self.queries[query] for query in chosen.tolist()])

    def minibatch_count(self, size: int) -> int:
        """Return how many of them a pass has."""
        return -(-len(self.queries) // self._queries_at_a_time(size))

    def _queries_at_a_time(self, size: int) -> int:
        return max(1, round(size * len(self.queries) / len(self.left)))


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
    reward_model: RewardModel, data: _Data, config: FitConfig, state: FitState,
    pace: Pace | None = None, most: int = 1,
) -> dict[str, float]:  # fmt: skip
    """Make one pass; the losses come from the pass itself, so they cost nothing extra."""
    totals = torch.zeros(2, COLUMNS, reward_model.members)
    for rows in data.minibatches(config.batch_size, state.generator):
        if config.anneal:
            share = state.steps / (most * data.minibatch_count(config.batch_size))
            for group in state.optimizer.param_groups:
                group["lr"] = config.learning_rate * max(1 - share, 0.0)
        left, right = _returns(reward_model, data, rows, state.generator)
        losses = _losses(left, right, data, rows, config)
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
        state.steps += 1
        totals += _tally(losses.detach(), left.detach(), right.detach(), data, rows)
        if pace:
            pace.step(len(rows))
    return _score(totals, data)


@torch.no_grad()
def _judge(reward_model: RewardModel, data: _Data, config: FitConfig) -> dict[str, float]:
    """Return the scores of what is out of bag, with the weights as they are."""
    outside = (data.bags == 0).any(0)
    queries = [rows for rows in data.queries if outside[rows].any()]
    if not queries:
        return {}
    rows = torch.cat(queries)
    left, right = _returns(reward_model, data, rows, None)
    losses = _losses(left, right, data, rows, config)
    scores = _score(_tally(losses, left, right, data, rows), data)
    return {name: score for name, score in scores.items() if name.startswith("out_of_bag")}


def _returns(
    reward_model: RewardModel, data: _Data, rows: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Predict the left and the right returns `[member, comparison]` of some rows.

    A ranking compares each of its segments with all others: each is evaluated once.
    """
    segments, row_of = torch.cat([data.left[rows], data.right[rows]]).unique(return_inverse=True)
    left, right = reward_model.returns(data.encoded, segments, generator)[:, row_of].chunk(2, dim=1)
    return left, right


def _losses(left: Tensor, right: Tensor, data: _Data, rows: Tensor, config: FitConfig) -> Tensor:
    """Return what is minimised, `[member, comparison]`."""
    margin, preference, bias = data.margin[rows], data.preference[rows], config.bias
    if config.loss == "square":
        losses = square_loss(left, right, preference, margin=margin, bias=bias)
    elif config.loss == "robust":
        losses = robust_loss(
            left, right, preference, margin=margin, bias=bias, error=config.uniform_error / 2
        )
    else:
        reliable = None if data.reliability is None else data.reliability[rows]
        losses = preference_loss(
            left, right, preference, margin=margin, uniform_error=config.uniform_error,
            label_smoothing=config.label_smoothing, bias=bias, reliability=reliable,
        )  # fmt: skip
    if config.rankings == "plackett-luce":
        losses = _as_choices(losses, left, right, data, rows, config)
    if config.nll:
        # A return is β log π/ρ, and ρ is given: what raises the one raises the likelihood.
        losses = losses - config.nll * (preference * left + (1 - preference) * right)
    return losses


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


def _tally(losses: Tensor, left: Tensor, right: Tensor, data: _Data, rows: Tensor) -> Tensor:
    """Return sums `[2, 7, member]`, in bag and out.

    They are of losses, weights, hits, what has a right side, the standard losses, and of what has a
    right side the returns of the better and the worse segment.
    """
    preference, bags = data.preference[rows], data.bags[:, rows] * data.weight[rows]
    standard = preference_loss(left, right, preference)
    counts = data.judged[rows].float()
    hits = correct(left, right, preference).float() * counts
    left_better = preference > 0.5
    better = torch.where(left_better, left, right) * counts
    worse = torch.where(left_better, right, left) * counts
    out = (bags == 0).float()
    return torch.stack([
        torch.stack([
            column.sum(1)
            for column in (losses * weight, weight, hits * weight, counts * weight,
                           standard * weight, better * weight, worse * weight)
        ])
        for weight in (bags, out)
    ])  # fmt: skip


def _score(totals: Tensor, data: _Data) -> dict[str, float]:
    """Return the scores of a pass; see `fit_passes`."""
    scores = {"out_of_bag_count": float(totals[1, 1].min())}
    sides = ("train", totals[0], data.bags > 0), ("out_of_bag", totals[1], data.bags == 0)
    for side, (losses, weight, hits, counts, standard, better, worse), members in sides:
        means = ("loss", losses, weight), ("accuracy", hits, counts)
        for name, total, of in (*means, ("bradley_terry", standard, weight)):
            known = of > 0  # a member may have nothing out of its bag yet
            if known.any():
                scores[f"{side}_{name}"] = float((total[known] / of[known]).mean())
        if counts.any() and side == "train":
            known = counts > 0
            for name, total in (("preferred", better), ("other", worse)):
                scores[f"{name}_return"] = float((total[known] / counts[known]).mean())
        if counts.any():
            decisive_ones = (members * (data.weight * data.judged)).sum(1)
            scores[f"{side}_decisive"] = float(decisive_ones.mean())
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
