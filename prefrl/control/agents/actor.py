"""A policy by whose probabilities something is learned, and what it takes observations to be like.

The environments clip actions, so what a policy really does is a clipped normal distribution: a
density between the bounds, and at each bound all the chance that lies beyond. Clips hold actions as
they were clipped; the density of the unclipped one would be wrong for exactly these (Fujita and
Maeda 2018, arXiv 1802.07564, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.running_mean_std import RunningMeanStd
from torch import Tensor, nn

from prefrl.config.control import ActorConfig
from prefrl.control.encoder import AT_ONCE
from prefrl.control.environments.interface import Description
from prefrl.control.policy import normalise, untrained_actor

CHUNK = 8192  # steps that are read at a time, without gradient


def clipped_log_prob(mean: Tensor, std: Tensor, actions: Tensor) -> Tensor:
    """Return log-probabilities `[step, action]` of normally distributed actions clipped to ±1.

    Args:
        mean: of the actions before they are clipped, `[step, action]`.
        std: their deviations, which broadcast to that.
        actions: as clipped.
    """
    z = (actions - mean) / std
    between = -z.square() / 2 - std.log() - math.log(2 * math.pi) / 2
    below = torch.special.log_ndtr((-1 - mean) / std)
    above = torch.special.log_ndtr((mean - 1) / std)
    return torch.where(actions <= -1, below, torch.where(actions >= 1, above, between))


class Actor:
    """SB3's policy, its actions' log-probabilities, and frozen statistics of what it observes."""

    def __init__(self, description: Description, config: ActorConfig, seed: int):
        self.description, self.config, self.seed = description, config, seed
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = untrained_actor(description, config)
        self.first = {name: w.detach().clone() for name, w in self.network.state_dict().items()}
        """Untrained weights."""
        self.picture = description.picture
        shape = () if self.picture else description.observation_space.shape
        self.normaliser = RunningMeanStd(shape=shape)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what decides on actions; the critic of SB3's policy is left out."""
        named = self.network.named_parameters()
        return (each for name, each in named if "value" not in name and "vf_" not in name)

    def normalise(self, observations: np.ndarray) -> Tensor:
        """Return observations as the policy sees them; see `policy.normalise`."""
        mean, variance = self.normaliser.mean, self.normaliser.var
        return torch.as_tensor(normalise(observations, mean, variance, self.picture))

    def observe_like(self, observations: np.ndarray) -> None:
        """Take what numbers are like from observations `[step, feature]`, for good."""
        if self.picture:
            return
        mean, deviation = observations.mean(0, np.float64), observations.std(0, np.float64)
        self.normaliser.mean, self.normaliser.var = mean, np.square(np.maximum(deviation, 1e-2))

    def sample(self, seen: Tensor) -> Tensor:
        """Draw an action for each normalised observation, not clipped yet."""
        return self.network.get_distribution(seen).sample()

    def entropy(self, seen: Tensor) -> Tensor:
        """Return the entropies `[step]` of the actions, before they are clipped, in nats."""
        entropy = self.network.get_distribution(seen).entropy()
        assert entropy is not None, "SB3 has none for squashed actions alone"
        return entropy

    def log_prob(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities `[step]` of actions as made, in the policy's units."""
        distribution = self.network.get_distribution(seen)
        if not isinstance(self.description.action_space, Box):
            return distribution.log_prob(actions)
        normal: Any = distribution.distribution
        return clipped_log_prob(normal.mean, normal.stddev, actions).sum(-1)

    @torch.no_grad()
    def log_probs(self, observations: np.ndarray, actions: Tensor) -> Tensor:
        """Return log-probabilities `[step]`, without gradient, of any number of steps."""
        chunk = AT_ONCE if self.picture else CHUNK
        seen = self.normalise(observations).split(chunk)
        pairs = zip(seen, actions.split(chunk), strict=True)
        return torch.cat([self.log_prob(*pair) for pair in pairs])

    def begin_anew(self) -> None:
        """Forget all that was learned."""
        self.network.load_state_dict(self.first)

    def clone(self, observations: np.ndarray, actions: Tensor) -> None:
        """Imitate steps: behaviour cloning, by likelihood, with a step size that falls to zero.

        Args:
            observations: raw, `[step, feature]`.
            actions: as made, in the policy's units, `[step, …]`.
        """
        config, seen = self.config, self.normalise(observations)
        parameters = [*self.parameters()]
        optimizer = torch.optim.Adam(parameters, config.clone_learning_rate, fused=True)
        generator = torch.Generator().manual_seed(self.seed)
        batches = [
            rows
            for _ in range(config.clone_epochs)
            for rows in torch.randperm(len(seen), generator=generator).split(
                config.clone_batch_size
            )
        ]
        for number, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = config.clone_learning_rate * (1 - number / len(batches))
            optimizer.zero_grad()
            (-self.log_prob(seen[rows], actions[rows]).mean()).backward()
            nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
        optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return weights and statistics, as `Policy` takes them."""
        weights = {name: w.detach().clone() for name, w in self.network.state_dict().items()}
        normaliser = self.normaliser
        return {
            "policy": weights,
            "normaliser": [normaliser.mean, normaliser.var, float(normaliser.count)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.network.load_state_dict(state["policy"])
        self.normaliser.mean, self.normaliser.var, self.normaliser.count = state["normaliser"]
