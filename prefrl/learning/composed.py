"""Several reward models, one for each aspect, and the rule that makes one reward of them.

Each is fitted to the answers about its own aspect and calibrated by itself: where sizes decide, the
aspect that varies most would win (weighted sums that are scaled after adding are others' bug).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from prefrl.config.learning import FitConfig, RuleConfig
from prefrl.contracts import LearnsByItself, RewardModel
from prefrl.learning.bags import bag_weights
from prefrl.learning.preference import decisive
from prefrl.learning.reward import FitState, comparison_returns, fit_by_itself, predict_returns
from prefrl.learning.reward import fit as fit_one
from prefrl.learning.true_reward import TrueReward
from prefrl.learning.validation import calibrate_probabilities
from prefrl.types import Comparison, Segment, Trajectory, subsample

UNITS = 512  # of which the sizes of scores are measured: whole episodes, or steps
SAMPLED = 512  # episodes of a round of which means are taken
TEMPERATURES = 1 / 3, 3.0  # beyond, it says that all or no answers were foreseen, not how surely
SMALL = 1e-8


class ComposedReward:
    """One reward of several; a `RewardModel` whose members are those of all its parts.

    A part is scaled on what the first policy did, for good, so that weights and bounds mean the
    same in all rounds: there its rewards (of whole episodes: its returns) have mean 0 and deviation
    1. A part that no answer has taught yet counts nothing. The sum is then calibrated as a reward
    that stands alone is.

    Rules, with z the calibrated reward of a part and w its weight:
        weights: Σ w z;
        constraint: Σ w z of the others + λ z of the guard, where λ rises while the guard's mean is
            below its bound and falls, at least to 0, while it is above (dual ascent, as in
            Safe-RLHF, arXiv 2310.12773);
        threshold: Llama 2's (arXiv 2307.09288, section 3.2.3). Let R = σ(score), the score in
            logits; R is the guard's where that is below the threshold, else that of the others, and
            logit(R) is calibrated ("whitened"). Comparisons leave the offset of a score open, so
            the guard's is 0 at the reference's safest replies, by `RuleConfig.anchor`: R is then
            the chance to be judged better than one of these.
    """

    def __init__(self, parts: Mapping[str, RewardModel], rule: RuleConfig, whole_episodes: bool):
        """Build it.

        Args:
            parts: the unfitted reward model of each aspect.
            rule: how they become one.
            whole_episodes: an episode is paid as a whole, not each step.
        """
        self.parts, self.rule, self.whole_episodes = dict(parts), rule, whole_episodes
        self.members = sum(part.members for part in self.parts.values())
        self.guard = rule.guard or [*parts][-1]
        others = [a for a in parts if rule.kind == "weights" or a != self.guard]
        given = rule.weights or (1 / len(others),) * len(others)
        self.weights = dict(zip(others, given, strict=True))
        self.taught: list[str] = []
        """The aspects whose parts have been fitted to an answer."""
        self.sizes = {aspect: (1.0, 0.0) for aspect in parts}
        """Logits of one unit of a part's calibrated reward, and the score at which they are 0."""
        self.temperatures = dict.fromkeys(parts, 1.0)
        """What scores are to be divided by to be taken at their word."""
        self.multiplier = rule.multiplier
        self.measured: dict[str, float] = {}
        """Of the newest policy, for the metrics of the next round."""
        self.first: list[Trajectory] = []
        """What the first policy did, where episodes are not paid as a whole."""
        self.scale = TrueReward(whole_episodes)

    def members_of(self, aspect: str) -> slice:
        """Return which members are those of an aspect."""
        names = [*self.parts]
        before = sum(self.parts[name].members for name in names[: names.index(aspect)])
        return slice(before, before + self.parts[aspect].members)

    def encode(self, segments: Sequence[Segment]) -> dict[str, Any]:
        """Encode segments for each part."""
        return {aspect: part.encode(segments) for aspect, part in self.parts.items()}

    def normalise_inputs(self, encoded: dict[str, Any]) -> None:
        """Do nothing: each part does it in its own fit."""

    def returns(
        self, encoded: dict[str, Any], rows: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Predict the returns `[member, row]`, the members of one part after those of another."""
        parts = self.parts.items()
        return torch.cat([part.returns(encoded[name], rows, generator) for name, part in parts])

    def parameters(self) -> Iterator[Parameter]:
        """Return what is fitted, of all parts."""
        return chain.from_iterable(part.parameters() for part in self.parts.values())

    def distance(self, left: Segment, right: Segment) -> float:
        """Return how different two segments look to the first part."""
        first: Any = next(iter(self.parts.values()))
        return first.distance(left, right)

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return the one reward that comes of all parts, `[step]` for each trajectory."""
        return self.scale.rewards(self._paid(trajectories))

    def of_aspects(self, trajectories: Sequence[Trajectory]) -> dict[str, list[np.ndarray]]:
        """Return the calibrated rewards `[step]` of each aspect that was taught."""
        return {aspect: self.parts[aspect].rewards(trajectories) for aspect in self.taught}

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return what to calibrate on, and look at what the newest policy does.

        The multiplier is moved here: once a round, by what the policy came to under it.
        """
        if not self.whole_episodes and not self.first:
            self.first = subsample(trajectories)
        if self.taught:
            self._measure(trajectories)
        return next(iter(self.parts.values())).sample(trajectories, before)

    def _measure(self, trajectories: Sequence[Trajectory]) -> None:
        if self.whole_episodes:
            some = list(trajectories[:: max(1, len(trajectories) // SAMPLED)])
        else:
            some = subsample(trajectories)
        units = {aspect: self._units(paid) for aspect, paid in self.of_aspects(some).items()}
        self.measured = {f"{aspect}.level": float(z.mean()) for aspect, z in units.items()}
        if self.guard not in units:
            return
        if self.rule.kind == "constraint":
            short = self.rule.bound - self.measured[f"{self.guard}.level"]
            self.multiplier = max(0.0, self.multiplier + self.rule.multiplier_rate * short)
        elif self.rule.kind == "threshold":
            below = self._logits(self.guard, units[self.guard]) < self._least()
            self.measured["below_threshold"] = float(below.mean())

    def metrics(self) -> dict[str, float]:
        """Return what is to be told of the rule, and of the policy before this round."""
        told = {"multiplier": self.multiplier} if self.rule.kind == "constraint" else {}
        return self.measured | told

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Scale the parts on what the first policy did, then the whole on these trajectories."""
        first = self.first or trajectories
        for aspect in self.taught:
            self.parts[aspect].calibrate(first)
        if self.rule.kind == "threshold":
            self._measure_sizes(first)
        self.scale.calibrate(self._paid(trajectories))

    def _measure_sizes(self, first: Sequence[Trajectory]) -> None:
        """Find what the calibrated rewards of parts are in logits, and where the guard's are 0."""
        units = first if self.whole_episodes else _single_steps(first)
        units = units[:: max(1, len(units) // UNITS)]
        for aspect in self.taught:
            part = self.parts[aspect]
            z = np.array([paid.sum() for paid in part.rewards(units)])
            logits = predict_returns(part, units).mean(0).double().numpy()  # pyright: ignore[reportArgumentType]
            size = float(logits.std()) / max(float(z.std()), SMALL) / self.temperatures[aspect]
            zero = float(np.quantile(z, self.rule.anchor)) if aspect == self.guard else 0.0
            self.sizes[aspect] = size, zero

    def _paid(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Return the trajectories as if the environment paid what the rule makes of the parts."""
        paid = self._ruled({a: rewards for a, rewards in self.of_aspects(trajectories).items()})
        return [
            dataclasses.replace(trajectory, env_rewards=steps, aspect_rewards={})
            for trajectory, steps in zip(trajectories, paid, strict=True)
        ]

    def _ruled(self, rewards: Mapping[str, Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Apply the rule to the rewards of all parts that were taught."""
        weights = {aspect: self.weights[aspect] for aspect in rewards if aspect in self.weights}
        guarded = self.rule.kind != "weights" and self.guard in rewards
        if self.rule.kind == "threshold" and guarded:
            return self._threshold(rewards, weights)
        if guarded:
            weights[self.guard] = self.multiplier
        return _weighted(rewards, weights)

    def _threshold(
        self, rewards: Mapping[str, Sequence[np.ndarray]], weights: dict[str, float]
    ) -> list[np.ndarray]:
        of_guard = rewards[self.guard]
        sizes = {aspect: weight * self.sizes[aspect][0] for aspect, weight in weights.items()}
        others = _weighted(rewards, sizes) if sizes else [np.zeros(len(s)) for s in of_guard]
        size, zero = self.sizes[self.guard]
        ruled = []
        for guard, other in zip(of_guard, others, strict=True):
            score = self._logits(self.guard, guard.sum() if self.whole_episodes else guard)
            logits = size * np.asarray(guard, np.float64)
            logits[slice(-1, None) if self.whole_episodes else slice(None)] -= size * zero
            ruled.append(np.where(score < self._least(), logits, other))
        return ruled

    def _least(self) -> float:
        """Return the threshold as a score."""
        return math.log(self.rule.threshold / (1 - self.rule.threshold))

    def _logits(self, aspect: str, calibrated: Any) -> Any:
        """Return calibrated rewards as scores in logits."""
        size, zero = self.sizes[aspect]
        return size * (calibrated - zero)

    def _units(self, paid: Sequence[np.ndarray]) -> np.ndarray:
        """Return what is paid at once: for whole episodes, or for steps."""
        if self.whole_episodes:
            return np.array([steps.sum() for steps in paid], np.float64)
        return np.concatenate(paid).astype(np.float64)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rewards depend on."""
        return {
            "parts": {aspect: part.state_dict() for aspect, part in self.parts.items()},
            "taught": list(self.taught),
            "sizes": {aspect: list(size) for aspect, size in self.sizes.items()},
            "temperatures": dict(self.temperatures),
            "multiplier": self.multiplier,
            "measured": dict(self.measured),
            "first": [[t.observations, t.actions] for t in self.first],
            "scale": self.scale.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            ValueError: it is of other aspects.
        """
        if state_dict["parts"].keys() != self.parts.keys():
            raise ValueError(f"it holds rewards for {', '.join(state_dict['parts'])}")
        for aspect, part in self.parts.items():
            part.load_state_dict(state_dict["parts"][aspect])
        self.taught = list(state_dict["taught"])
        self.sizes = {name: (size[0], size[1]) for name, size in state_dict["sizes"].items()}
        self.temperatures = dict(state_dict["temperatures"])
        self.multiplier = state_dict["multiplier"]
        self.measured = dict(state_dict["measured"])
        self.first = [Trajectory(o, a, np.zeros(len(o))) for o, a in state_dict["first"]]
        self.scale.load_state_dict(state_dict["scale"])


class FitOfAspects:
    """What the fits of several parts hand to their next fits."""

    def __init__(self, parts: Mapping[str, RewardModel], config: FitConfig, seed: int):
        self.states = {aspect: FitState(part, config, seed) for aspect, part in parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        return {aspect: state.state_dict() for aspect, state in self.states.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        for aspect, own in self.states.items():
            own.load_state_dict(state[aspect])


def begin_fit(reward_model: RewardModel, config: FitConfig, seed: int) -> FitState | FitOfAspects:
    """Return what the first fit of a reward model, or of all its parts, begins with."""
    if isinstance(reward_model, ComposedReward):
        return FitOfAspects(reward_model.parts, config, seed)
    return FitState(reward_model, config, seed)


def fit(
    reward_model: RewardModel, comparisons: Sequence[Comparison], config: FitConfig,
    state: FitState | FitOfAspects,
) -> dict[str, float]:  # fmt: skip
    """Make a round's fit of a reward model, or of each part to the answers about its aspect.

    Returns:
        What `reward.fit` measures. Of several parts it is the mean, and beside it under ASPECT.NAME
        that of each; then what there is to tell of the rule.
    """
    if isinstance(state, FitState) or not isinstance(reward_model, ComposedReward):
        assert isinstance(state, FitState)
        if isinstance(reward_model, LearnsByItself):
            return fit_by_itself(reward_model, comparisons, config, state.seed)
        return fit_one(reward_model, comparisons, config, state)
    by_aspect: dict[str, dict[str, float]] = {}
    for aspect, part in reward_model.parts.items():
        own = [comparison for comparison in comparisons if comparison.aspect == aspect]
        by_aspect[aspect] = fit_one(part, own, config, state.states[aspect])
        if own and aspect not in reward_model.taught:
            reward_model.taught.append(aspect)
        if own and reward_model.rule.kind == "threshold":
            seed = state.states[aspect].seed
            reward_model.temperatures[aspect] = _temperature(part, own, config, seed)
    names = dict.fromkeys(name for measured in by_aspect.values() for name in measured)
    means = {n: float(np.mean([m[n] for m in by_aspect.values() if n in m])) for n in names}
    each = {f"{a}.{n}": value for a, m in by_aspect.items() for n, value in m.items()}
    return means | each | reward_model.metrics()


def _temperature(
    part: RewardModel, comparisons: Sequence[Comparison], config: FitConfig, seed: int
) -> float:
    """Return what scores are to be divided by to be probabilities, by answers out of bag."""
    left, right = comparison_returns(part, comparisons)
    bags = bag_weights(seed, [c.query for c in comparisons], part.members, config.held_out)
    outside = (bags == 0).float()
    judged = (outside.sum(0) > 0) & decisive(torch.tensor([c.preference for c in comparisons]))
    if int(judged.sum()) < config.enough_out_of_bag:
        return 1.0
    logits = ((left - right) * outside).sum(0) / outside.sum(0).clamp(min=1)
    preference = torch.tensor([c.preference for c in comparisons])
    weight = torch.tensor([c.weight for c in comparisons])
    found = calibrate_probabilities(logits[judged], preference[judged], weight[judged])
    return min(max(found.temperature, TEMPERATURES[0]), TEMPERATURES[1])


def _weighted(
    rewards: Mapping[str, Sequence[np.ndarray]], weights: Mapping[str, float]
) -> list[np.ndarray]:
    columns = zip(*(rewards[aspect] for aspect in rewards), strict=True)
    factors = [weights.get(aspect, 0.0) for aspect in rewards]
    return [
        np.sum([f * np.asarray(s, np.float64) for f, s in zip(factors, steps, strict=True)], axis=0)
        for steps in columns
    ]


def _single_steps(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return steps, evenly spaced, as trajectories of one step each."""
    total = sum(map(len, trajectories))
    stride = max(1, total // UNITS)
    steps = [(t, row) for t in trajectories for row in range(len(t))][::stride]
    return [
        Trajectory(t.observations[r : r + 1], t.actions[r : r + 1], np.zeros(1)) for t, r in steps
    ]
