"""A trained policy by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.sac.policies import SACPolicy

from prefrl.clips.observed import Layout, planes
from prefrl.config.control import ActorConfig, PPOConfig, SACConfig
from prefrl.control.agents.networks import policy_options
from prefrl.control.agents.off_policy import sac_policy_options
from prefrl.control.environments.interface import Description, Environments
from prefrl.control.environments.spaces import from_policy, policy_space, with_ended
from prefrl.environments.info import means
from prefrl.types import Achieved

OBSERVATION_CLIP = 10.0


def normalise(
    observations: np.ndarray, mean: np.ndarray, variance: np.ndarray, picture: Layout | None = None
) -> np.ndarray:
    """Return observations as a policy sees them, float32 `[…, feature]`.

    Those that are pictures stay uint8, with their planes first: `[…, channel, row, column]`.
    """
    if picture is not None:
        return planes(observations, picture)
    scaled = (observations - mean) / np.sqrt(variance + 1e-8)
    return np.clip(scaled, -OBSERVATION_CLIP, OBSERVATION_CLIP).astype(np.float32)


class Policy:
    """Chooses actions for raw observations."""

    def __init__(
        self, description: Description, config: PPOConfig | SACConfig | ActorConfig,
        state: dict[str, Any],
    ):  # fmt: skip
        """Build the policy from the state dict of an agent with the same settings."""
        self.action_space, self.shows_end = description.action_space, description.shows_end
        self.mean, self.variance, _ = state["normaliser"]
        self.picture = description.picture
        self.network = _network(description, config)
        self.network.load_state_dict(state["policy"])
        self.network.set_training_mode(False)
        self.samples = 0
        self.sde_sample_freq = 0 if isinstance(config, SACConfig) else config.sde_sample_freq

    def predict(self, observations: np.ndarray, deterministic: bool = True) -> np.ndarray:
        """Return the actions for observations `[…, feature]`; the mode, or a sample.

        The observations are as recorded, or as the environment gives them: see `with_ended`.
        """
        seen = self._seen(observations)
        if self.sde_sample_freq and not deterministic:
            if self.samples % self.sde_sample_freq == 0:
                assert isinstance(self.network, ActorCriticPolicy)
                shape = self.network.observation_space.shape
                assert shape is not None
                self.network.reset_noise(len(seen.reshape(-1, *shape)))
            self.samples += 1
        actions, _ = self.network.predict(seen, deterministic=deterministic)
        return from_policy(self.action_space, actions)

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Return what the critic of PPO expects from observations `[step, feature]` on, `[step]`.

        It is in the unit of the rewards that it was trained on.
        """
        assert isinstance(self.network, ActorCriticPolicy), "SAC's critics judge actions"
        seen = torch.as_tensor(self._seen(observations))
        with torch.no_grad():
            return self.network.predict_values(seen).squeeze(-1).double().numpy()

    def _seen(self, observations: np.ndarray) -> np.ndarray:
        if self.picture is None:
            observations = with_ended(observations, len(self.mean), self.shows_end)
        return normalise(observations, self.mean, self.variance, self.picture)


def _network(
    description: Description, config: PPOConfig | SACConfig | ActorConfig
) -> ActorCriticPolicy | SACPolicy:
    """Build the untrained networks of an agent as it does."""
    if not isinstance(config, SACConfig):
        return untrained_actor(description, config)
    actions = policy_space(description.action_space)
    assert isinstance(actions, Box)
    rate = config.learning_rate
    shown = shown_space(description)
    return SACPolicy(shown, actions, lambda _: rate, **sac_policy_options(config, shown))


def untrained_actor(description: Description, config: PPOConfig | ActorConfig) -> ActorCriticPolicy:
    """Build SB3's policy and critic; the weights come from torch's global generator."""
    shown = shown_space(description)
    return ActorCriticPolicy(
        shown,
        policy_space(description.action_space),
        lambda _: 0.0,  # of an optimiser that nobody uses
        use_sde=config.sde_sample_freq > 0,
        **policy_options(config, shown),
    )


def shown_space(description: Description) -> Box:
    """Return the space of observations as a policy sees them; see `normalise`."""
    if picture := description.picture:
        return Box(0, 255, (picture.channels, picture.height, picture.width), np.uint8)
    shape = description.observation_space.shape
    return Box(-OBSERVATION_CLIP, OBSERVATION_CLIP, shape, np.float32)


class RandomPolicy:
    """Chooses actions uniformly: the zero of every ratio."""

    def __init__(self, description: Description, seed: int):
        self.action_space = description.action_space
        self.action_space.seed(seed)

    def predict(self, observations: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Return one uniform action for each observation."""
        return np.stack([self.action_space.sample() for _ in observations])


@dataclass(frozen=True)
class Episodes:
    """What a policy did in one episode of each environment."""

    true_returns: np.ndarray
    """[episode]"""
    info: dict[str, float]
    """The means of the numbers that all episodes report at their end."""
    extras: dict[str, np.ndarray]
    """[step, episode, …] each: what redraws the episodes."""


def play(
    environments: Environments, policy: Policy | RandomPolicy, deterministic: bool = True
) -> Episodes:
    """Play one episode in every environment, from its first reset to the horizon.

    The environments are such as `fresh_environments` makes: none may be reset before the others.
    """
    observations = environments.reset()
    returns, extras, reports = np.zeros(environments.count), [], {}
    by_aspect = {
        aspect: np.zeros(environments.count) for aspect in environments.description.aspects
    }
    for _ in range(environments.description.horizon):
        extras.append(environments.extras())
        step = environments.step(policy.predict(observations, deterministic))
        returns += step.env_rewards
        for aspect, paid in step.aspect_rewards.items():
            by_aspect[aspect] += paid
        observations, reports = step.observations, step.reports
    for aspect, sums in by_aspect.items():
        for row, report in reports.items():
            report[f"{aspect}.true_return"] = float(sums[row])
    kept = {name: np.stack([extra[name] for extra in extras]) for name in extras[0]}
    return Episodes(returns, means([*reports.values()]), kept)


def evaluate(
    environments: Environments, policy: Policy | RandomPolicy, deterministic: bool = True
) -> Achieved:
    """Return the true return (mean and std) and the mean of each number that is reported."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        episodes = play(environments, policy, deterministic)
    returns = episodes.true_returns
    return Achieved(
        true_return={"mean": float(returns.mean()), "std": float(returns.std())},
        info=episodes.info,
    )
