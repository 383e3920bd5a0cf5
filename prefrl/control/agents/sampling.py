"""An agent that acts and is not trained on rewards: what a policy that is fitted elsewhere does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from prefrl.contracts import Reward
from prefrl.control.agents.actor import Actor
from prefrl.control.agents.randomness import own_randomness
from prefrl.control.agents.rewardless import RewardlessVecEnv
from prefrl.control.environments.interface import Environments
from prefrl.environments.info import means
from prefrl.types import Trajectory


class SamplingAgent:
    """Acts in many environments; prefrl's `Agent` where something else trains the policy."""

    def __init__(self, environments: Environments, actor: Actor, seed: int):
        """Begin an episode everywhere.

        Args:
            environments: that it acts in; closed by whoever made them.
            actor: the policy.
            seed: of the actions.
        """
        self.actor, self.config = actor, actor.config
        self.environments = RewardlessVecEnv(environments)
        self.environments.normaliser = actor.normaliser
        self.random_state = torch.Generator().manual_seed(seed).get_state()
        self.environments.reset()
        self.round = 0

    def explore(self, steps: int) -> list[Trajectory]:
        """Run the untrained policy for about `steps` steps."""
        return self._play(steps)

    def train(self, reward: Reward, steps: int) -> tuple[list[Trajectory], dict[str, float]]:
        """Play about `steps` steps; return them, and what is to be told of them."""
        recorder = self.environments.recorder
        recorder.finished = []
        trajectories = self._play(steps)
        metrics = means(recorder.finished) | {"episodes": len(recorder.finished)}
        return trajectories, metrics | self._measure(reward, trajectories)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next round depends on, as arrays, tensors and plain values."""
        env = self.environments
        return self.actor.state_dict() | {
            "round": self.round,
            "random_state": self.random_state,
            "observations": env.observations,
            "recorder": env.recorder.state_dict(),
            "environments": env.environments.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        env = self.environments
        self.actor.load_state_dict(state)
        self.round, self.random_state = state["round"], state["random_state"]
        env.observations = state["observations"]
        env.recorder.load_state_dict(state["recorder"])
        env.environments.set_state(state["environments"])

    @torch.no_grad()
    def _measure(self, reward: Reward, trajectories: list[Trajectory]) -> dict[str, float]:
        """Return what is to be told of a round."""
        steps = self.environments.recorder.steps[-self.config.n_steps :]
        seen = self.actor.normalise(np.concatenate([step.observations for step in steps]))
        return {"entropy": float(self.actor.entropy(seen).mean())}

    @torch.no_grad()
    def _play(self, steps: int) -> list[Trajectory]:
        """Make about `steps` steps, whole rollouts, and return them."""
        env, config = self.environments, self.config
        env.clear_history()
        rollouts = max(1, round(steps / (config.n_steps * env.num_envs)))
        with own_randomness(self):
            for step in range(rollouts * config.n_steps):
                if config.sde_sample_freq and step % config.sde_sample_freq == 0:
                    self.actor.network.reset_noise(env.num_envs)
                seen = self.actor.normalise(env.observations)
                actions = self.actor.sample(seen).numpy()
                env.advance(actions.clip(-1, 1) if isinstance(env.action_space, Box) else actions)
        source = f"round {self.round}"
        self.round += 1
        return [trajectory for _, _, trajectory in env.recorder.trajectories(source)]
