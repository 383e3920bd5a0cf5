"""The reward model: an ensemble of small networks, computed as one.

Weights of all members are stacked, so that a pass over every member and segment is a handful of
tensor operations.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from prefrl.clips.observed import Layout, planes
from prefrl.config.control import RewardConfig
from prefrl.control.encoder import Encoder, Pictures, joined
from prefrl.control.environments.spaces import to_policy, with_ended
from prefrl.errors import UserError
from prefrl.types import Segment, Trajectory, subsample

FEATURE_CLIP = 10.0
SMALLEST_STD = 1e-2
MOST_STEPS = 50  # of a clip that a prediction looks at, evenly spaced
SAMPLED_PICTURES = 2048  # that a reward is calibrated on, and a checkpoint holds
CHUNK = 512  # rows predicted at a time: larger ones fall out of the processor's cache


class Encoded(NamedTuple):
    """Segments of one length or several, as features."""

    features: Tensor | Pictures
    """[step of all segments, feature], or pictures beside what was done"""
    starts: Tensor
    """[segment], row of `features` where each begins."""
    lengths: Tensor
    """[segment], in steps."""


class StackedMLP(nn.Module):
    """One small network for each member, with stacked weights; a tanh bounds the output."""

    def __init__(self, inputs: int, hidden: Sequence[int], members: int, seed: int):
        super().__init__()
        sizes = [inputs, *hidden, 1]
        generator = torch.Generator().manual_seed(seed)
        self.members = members
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)  # as torch.nn.Linear starts
            weight = torch.empty(members, fan_in, fan_out)
            bias = torch.empty(members, 1, fan_out)
            self.weights.append(nn.Parameter(weight.uniform_(-bound, bound, generator=generator)))
            self.biases.append(nn.Parameter(bias.uniform_(-bound, bound, generator=generator)))

    def forward(self, features: Tensor) -> Tensor:
        """Return rewards `[member, step]` of features `[step, feature]`."""
        hidden = features.expand(self.members, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = torch.tanh(hidden) if layer == last else nn.functional.leaky_relu(hidden)
        return hidden.squeeze(-1)


def _encoders(picture: Layout | None, members: int, seed: int) -> list[Encoder]:
    """Return an encoder for each member, none where observations are rows of numbers."""
    if picture is None:
        return []
    space = Box(0, 255, (picture.channels, picture.height, picture.width), np.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return [Encoder(space) for _ in range(members)]


def _check_network(network: nn.Module, inputs: int) -> None:
    """Raise `UserError` unless somebody's network gives a reward for each row of features."""
    with torch.no_grad():
        rewards = copy.deepcopy(network)(torch.zeros(3, inputs))
    shape = tuple(getattr(rewards, "shape", ()))
    if shape not in ((3,), (3, 1)):
        raise UserError(
            f"the reward network returns the shape {shape} for 3 rows of {inputs} features; "
            "expected a number for each row, the shape (3,) or (3, 1)"
        )


class RewardEnsemble(nn.Module):
    """Predicts the reward of a step from its raw observation and action; a `RewardModel`.

    Inputs are normalised by the clips that it is fitted to, anew at every fit: what the first clips
    hardly show (a turn in the air) may be what matters later.
    """

    def __init__(
        self, observation_size: int, action_space: Box | Discrete, config: RewardConfig, seed: int,
        network: Callable[[int], nn.Module] | None = None, shows_end: bool = False,
        picture: Layout | None = None,
    ):  # fmt: skip
        """Build the ensemble.

        Args:
            observation_size: numbers in an observation.
            action_space: discrete actions become one-hot, others come with their squares.
            config: size and views of the ensemble.
            seed: of the weights.
            network: your own; called once a member with the number of features, it returns a module
                that maps features `[step, feature]` to rewards `[step]` or `[step, 1]`.
            shows_end: whether observations are recorded with what says that the episode has ended.
            picture: how the axes of observations lie, if they are pictures: then each member has an
                encoder, of whose features it learns instead.

        Raises:
            UserError: your own network returns something else.
        """
        super().__init__()
        self.config, self.members, self.action_space = config, config.members, action_space
        discrete = isinstance(action_space, Discrete)
        actions = int(action_space.n) if discrete else 2 * int(np.prod(action_space.shape))
        self.observation_size, self.shows_end = observation_size, shows_end
        self.picture, encoders = picture, _encoders(picture, config.members, seed)
        self.encoders = nn.ModuleList(encoders)
        numbers = actions if picture else observation_size + actions
        inputs = actions + encoders[0].features_dim if picture else numbers
        if network is None:
            self.network: nn.Module = StackedMLP(inputs, config.hidden, config.members, seed)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.network = nn.ModuleList(network(inputs) for _ in range(config.members))
                _check_network(self.network[0], inputs)
        self.feature_mean: Tensor
        self.feature_std: Tensor
        self.reward_mean: Tensor
        self.reward_std: Tensor
        self.register_buffer("feature_mean", torch.zeros(numbers))
        self.register_buffer("feature_std", torch.ones(numbers))
        self.register_buffer("reward_mean", torch.zeros(self.members, 1))
        self.register_buffer("reward_std", torch.ones(self.members, 1))

    def features(self, observations: np.ndarray, actions: np.ndarray) -> Tensor | Pictures:
        """Return the networks' raw inputs `[step, feature]`, or pictures beside those of actions.

        Discrete actions become one-hot. Others, scaled as the policy makes them, come with their
        squares: what an effort costs is even in the action, and a hidden layer does not learn that
        from 200 answers.
        """
        parts = [] if self.picture else [observations.reshape(len(observations), -1)]
        if isinstance(self.action_space, Discrete):
            parts += [np.eye(int(self.action_space.n), dtype=np.float32)[actions.astype(np.int64)]]
        else:
            flat = to_policy(self.action_space, actions).reshape(len(actions), -1)
            parts += [flat, np.square(flat)]
        numbers = torch.as_tensor(np.concatenate(parts, axis=1, dtype=np.float32))
        if self.picture is None:
            return numbers
        return Pictures(torch.as_tensor(planes(observations, self.picture)), numbers)

    def forward(self, features: Tensor | Pictures) -> Tensor:
        """Return uncalibrated rewards `[member, step]` of raw features `[step, feature]`."""
        numbers = features.numbers if isinstance(features, Pictures) else features
        scaled = (numbers - self.feature_mean) / self.feature_std
        scaled = scaled.clamp(-FEATURE_CLIP, FEATURE_CLIP)
        if isinstance(features, Pictures):
            seen = torch.stack([encoder(features.pictures) for encoder in self.encoders])
            scaled = torch.cat([seen, scaled.expand(self.members, -1, -1)], 2)
        if isinstance(self.network, nn.ModuleList):
            rows = scaled.expand(self.members, -1, -1)
            each = zip(self.network, rows, strict=True)
            return torch.stack([network(row).reshape(-1) for network, row in each])
        return self.network(scaled)

    def encode(self, segments: Sequence[Segment]) -> Encoded:
        """Concatenate the segments' features."""
        each = [self.features(s.observations, s.actions) for s in segments]
        features = joined(each) if self.picture else torch.cat(each)  # type: ignore[arg-type]
        lengths = torch.tensor([len(segment) for segment in segments])
        return Encoded(features, lengths.cumsum(0) - lengths, lengths)

    def normalise_inputs(self, encoded: Encoded) -> None:
        """Give each number mean 0 and deviation 1 over the steps of these segments."""
        features = encoded.features
        numbers = features.numbers if isinstance(features, Pictures) else features
        self.feature_mean.copy_(numbers.mean(0))
        self.feature_std.copy_(numbers.std(0).clamp(min=SMALLEST_STD))

    def distance(self, left: Segment, right: Segment) -> float:
        """Return how different two segments look, step by step, in deviations of a feature.

        Of pictures it is by how much a pixel differs.
        """
        length = min(len(left), len(right))
        one, other = (self.features(s.observations, s.actions)[:length] for s in (left, right))
        if isinstance(one, Pictures) and isinstance(other, Pictures):
            return float((one.pictures.float() - other.pictures.float()).abs().mean())
        assert isinstance(one, Tensor) and isinstance(other, Tensor)
        return float(((one - other) / self.feature_std).abs().mean())

    def returns(
        self, encoded: Encoded, rows: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Predict returns `[member, row]`: `scale` times the mean reward of a segment.

        With a generator, each segment is seen through one random crop, at `steps_per_clip` evenly
        spaced steps from a random offset: another view in every pass, and a fraction of the work.
        """
        starts, lengths = encoded.starts[rows], encoded.lengths[rows]
        longest = int(lengths.max())
        views = self.config.steps_per_clip if generator else MOST_STEPS
        count = min(views, longest)
        positions = (torch.arange(count) + 0.5).expand(len(rows), -1) / count
        if generator:
            crop = torch.empty(len(rows), 1).uniform_(self.config.crop, 1, generator=generator)
            offset = torch.rand(len(rows), 1, generator=generator) * (1 - crop)
            jitter = torch.rand(len(rows), 1, generator=generator) - 0.5
            positions = offset + crop * (positions + jitter / count)
        steps = (positions * lengths[:, None]).long().clamp(max=longest - 1)
        steps = torch.minimum(steps, lengths[:, None] - 1) + starts[:, None]
        rewards = self(encoded.features[steps.flatten()]).view(self.members, len(rows), count)
        return self.config.scale * rewards.mean(2)

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Predict calibrated rewards, `[step]` for each trajectory, float32."""
        raw = self._raw_rewards(trajectories)
        mean = ((raw - self.reward_mean) / self.reward_std).mean(0).numpy()
        return np.split(mean, np.cumsum([len(t) for t in trajectories])[:-1])

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return some of the steps, without what redraws them."""
        return subsample(trajectories, *([SAMPLED_PICTURES] if self.picture else []))

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Give each member mean 0 and deviation 1 on this data."""
        raw = self._raw_rewards(trajectories)
        self.reward_mean.copy_(raw.mean(1, keepdim=True))
        self.reward_std.copy_(raw.std(1, keepdim=True).clamp(min=1e-4))

    @torch.no_grad()
    def _raw_rewards(self, trajectories: Sequence[Trajectory]) -> Tensor:
        observations = np.concatenate([t.observations for t in trajectories])
        if self.picture is None:
            observations = with_ended(observations, self.observation_size, self.shows_end)
        actions = np.concatenate([t.actions for t in trajectories])
        chunks = self.features(observations, actions).split(CHUNK)
        return torch.cat([self(chunk) for chunk in chunks], dim=1)
