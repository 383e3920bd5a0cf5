"""The agent for steps that cost: SB3's SAC on a buffer that the newest reward pays (PEBBLE).

Before there is a reward it explores for its own sake: states are worth their distance from others.
With the first reward it keeps what it can do but not what it thought of it: all that was done is
paid anew and the critics begin again (Lee et al. 2021, arXiv 2106.05091, algorithm 2). From then on
they move to the scale of each refitted reward, as PPO's critic does. The environments never show
their own reward, and a run resumes to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from prefrl.config.control import SACConfig
from prefrl.contracts import Reward
from prefrl.control.agents.novelty import REFERENCES, Novelty, coarse
from prefrl.control.agents.off_policy import (
    make_sac,
    mean_of,
    optimizers,
    reset_critics,
    update,
)
from prefrl.control.agents.randomness import own_randomness
from prefrl.control.agents.replay import ReplayBuffer
from prefrl.control.agents.restart import is_due
from prefrl.control.agents.rewardless import RewardlessVecEnv
from prefrl.control.environments.interface import Environments
from prefrl.control.environments.spaces import to_policy
from prefrl.environments.info import means
from prefrl.learning.critic import new_scale, rescale
from prefrl.types import Trajectory

RESET_UPDATES = 100
"""Updates of the new critics before they are relied on, as in the code of PEBBLE."""
MEASURED_STEPS = 64
"""Of each environment, the newest, of which the policy's entropy is told."""


class SACAgent:
    """A policy, its critics and all they have seen; prefrl's `Agent` for control."""

    def __init__(
        self, environments: Environments, config: SACConfig, seed: int,
        restart_after: int | None = None,
    ):  # fmt: skip
        """Build an untrained policy.

        Args:
            environments: that it acts in; closed by whoever made them.
            config: the settings.
            seed: of the weights and of all that is drawn.
            restart_after: steps, those of exploration too, after which an untrained policy begins
                anew on all that was done.
        """
        self.config = config
        self.restart_after, self.began = restart_after, 0
        self.environments = RewardlessVecEnv(environments)
        description = environments.description
        actions = description.action_space
        assert isinstance(actions, Box)
        self.action_space = actions
        shape = description.observation_space.shape
        self.buffer = ReplayBuffer(config.buffer_size, environments.count, shape, actions)
        self.novelty = Novelty(config.neighbours)
        self.exploring = True
        """Whether there has been no reward yet."""
        self.random_state = torch.Generator().manual_seed(seed).get_state()
        with own_randomness(self):
            self.sac = make_sac(self.environments, config, self._batch)
            self.environments.reset()
        self.steps = self.updates = self.round = 0

    def explore(self, steps: int) -> list[Trajectory]:
        """Look for states unlike others for about `steps` steps, and learn to find more."""
        self.environments.clear_history()
        for _ in range(self._rollouts(steps)):
            self._collect()
            self._update()
        source = f"round {self.round}"
        self.round += 1
        return [t for _, _, t in self.environments.recorder.trajectories(source)]

    def train(self, reward: Reward, steps: int) -> tuple[list[Trajectory], dict[str, float]]:
        """Train for about `steps` steps on the rewards that the model predicts."""
        recorder, source = self.environments.recorder, f"round {self.round}"
        self.environments.clear_history()
        recorder.finished = []
        paid, updates = [], self._take_up(reward)
        if is_due(self.restart_after, self.began, self.steps, steps):
            updates = self._restart()
        for _ in range(self._rollouts(steps)):
            self._collect()
            paid.append(self.buffer.pay(reward, self.buffer.added - self.config.n_steps))
            updates += self._update()
        self.round += 1
        metrics = means(recorder.finished) | {"episodes": len(recorder.finished)}
        metrics |= mean_of(updates) | {"entropy": self._entropy(), "updates": self.sac._n_updates}
        metrics["predicted_reward"] = float(np.mean(paid))
        if self.restart_after is not None:
            metrics["policy_steps"] = self.steps - self.began
        return [t for _, _, t in recorder.trajectories(source)], metrics

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next round depends on, as arrays, tensors and plain values."""
        env, sac = self.environments, self.sac
        return {
            "round": self.round,
            "began": self.began,
            "steps": self.steps,
            "updates": self.updates,
            "all_updates": sac._n_updates,
            "exploring": self.exploring,
            "policy": sac.policy.state_dict(),
            "temperature": None if sac.log_ent_coef is None else sac.log_ent_coef.detach(),
            "optimizers": {name: one.state_dict() for name, one in optimizers(sac).items()},
            "random_state": self.random_state,
            "buffer": self.buffer.state_dict(),
            "novelty": self.novelty.state_dict(),
            "normaliser": [env.normaliser.mean, env.normaliser.var, float(env.normaliser.count)],
            "observations": env.observations,
            "recorder": env.recorder.state_dict(),
            "environments": env.environments.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        env, sac = self.environments, self.sac
        self.round, self.steps, self.updates = state["round"], state["steps"], state["updates"]
        self.began = state["began"]
        self.exploring, sac._n_updates = state["exploring"], state["all_updates"]
        sac.policy.load_state_dict(state["policy"])
        if sac.log_ent_coef is not None:
            sac.log_ent_coef.data.copy_(state["temperature"])
        for name, one in optimizers(sac).items():
            one.load_state_dict(state["optimizers"][name])
        self.random_state = state["random_state"]
        self.buffer.load_state_dict(state["buffer"])
        self.novelty.load_state_dict(state["novelty"])
        env.normaliser.mean, env.normaliser.var, env.normaliser.count = state["normaliser"]
        env.observations = state["observations"]
        env.recorder.load_state_dict(state["recorder"])
        env.environments.set_state(state["environments"])

    def _rollouts(self, steps: int) -> int:
        return max(1, round(steps / (self.config.n_steps * self.environments.num_envs)))

    def _collect(self) -> None:
        """Make `n_steps` steps in every environment."""
        env = self.environments
        for _ in range(self.config.n_steps):
            env.advance(self._actions())
            after = env.observations.copy()
            for row, last in env.last_observations.items():
                after[row] = last
            self.buffer.add(env.recorder.steps[-1], after)
            self.steps += env.num_envs
        env.take_note(env.recorder.steps[-self.config.n_steps :])

    def _actions(self) -> np.ndarray:
        """Return actions of the policy, sampled; of chance while nothing is learned."""
        env, actor = self.environments, self.sac.actor
        with own_randomness(self), torch.no_grad():
            if self.steps < self.config.seed_steps:
                size = env.num_envs, *self.action_space.shape
                return (2 * torch.rand(size) - 1).numpy()
            return actor(torch.as_tensor(env.normalise(env.observations))).numpy()

    def _update(self) -> list[tuple[int, dict[str, float]]]:
        """Make the updates that are due for the steps so far; return how many, and their means."""
        learned_from = self.steps - self.config.seed_steps
        due = int(learned_from * self.config.updates_per_step) - self.updates
        if due <= 0:
            return []
        self.updates += due
        with own_randomness(self):
            return [(due, update(self.sac, due))]

    def _batch(self, count: int) -> ReplayBufferSamples:
        """Draw a minibatch as SB3's SAC takes it; nothing ever ends but by a time limit."""
        steps = torch.randint(len(self.buffer), (count,)).numpy()
        observations, actions, after, rewards = self.buffer.draw(steps)
        seen, then = (
            torch.as_tensor(self.environments.normalise(o)) for o in (observations, after)
        )
        paid = torch.as_tensor(rewards)
        if self.exploring:
            paid = self._novel(seen, steps)
        made = torch.as_tensor(to_policy(self.action_space, actions))
        return ReplayBufferSamples(seen, made, then, torch.zeros(count, 1), paid[:, None])

    def _novel(self, seen: Tensor, steps: np.ndarray) -> Tensor:
        """Return how new states are, which were seen at these steps of the buffer."""
        known = len(self.buffer)
        others = torch.arange(known) if known <= REFERENCES else torch.randperm(known)[:REFERENCES]
        observations = self.buffer.draw(others.numpy())[0]
        states = torch.as_tensor(self.environments.normalise(observations))
        same = torch.as_tensor(steps)[:, None] == others
        return self.novelty.rewards(coarse(seen), coarse(states), same)

    def _take_up(self, reward: Reward) -> list[tuple[int, dict[str, float]]]:
        """Pay all steps by a reward that may have changed, and bring the critics along."""
        if not len(self.buffer):
            self.exploring = False
            return []
        old = self.buffer.rewards[self.buffer.kept()].ravel()
        new = self.buffer.pay(reward)
        if self.exploring:
            self.exploring = False
            with own_randomness(self):
                reset_critics(self.sac)
                return [(RESET_UPDATES, update(self.sac, RESET_UPDATES))]
        if not np.array_equal(new, old):
            self._rescale_critics(*new_scale(new, old))
        return []

    def _restart(self) -> list[tuple[int, dict[str, float]]]:
        """Begin anew with an untrained policy, critics and temperature, on all that was done."""
        self.began, updates = self.steps, self.sac._n_updates
        with own_randomness(self):
            self.sac = make_sac(self.environments, self.config, self._batch)
            self.sac._n_updates = updates
            return [(RESET_UPDATES, update(self.sac, RESET_UPDATES))]

    def _rescale_critics(self, slope: float, offset: float) -> None:
        """Let critics of an old reward speak of a new one ≈ slope · old + offset."""
        endless = offset / (1 - self.config.gamma)
        for critics in (self.sac.critic, self.sac.critic_target):
            for network in critics.q_networks:
                *_, weight, bias = network.parameters()  # of the last layer
                rescale(weight, bias, slope, endless)

    def _entropy(self) -> float:
        """Return the policy's entropy at the newest observations, in nats an action."""
        steps = self.environments.recorder.steps[-MEASURED_STEPS:]
        seen = self.environments.normalise(np.concatenate([step.observations for step in steps]))
        with own_randomness(self), torch.no_grad():
            _, logprobs = self.sac.actor.action_log_prob(torch.as_tensor(seen))
        return -float(logprobs.mean())
