"""The agent: SB3's PPO, driven rollout by rollout on predicted rewards.

The environments never show SB3 their reward: it sees 0, and the predicted reward is written into
its buffer after each rollout, in one batch, from raw observations and the actions that were really
made. So the true reward cannot reach the policy, and a run resumes to the bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger

from prefrl.config.control import PPOConfig
from prefrl.contracts import Reward
from prefrl.control.agents.randomness import own_randomness
from prefrl.control.agents.restart import is_due
from prefrl.control.agents.rewardless import RewardlessVecEnv
from prefrl.control.agents.side_by_side import make_ppo
from prefrl.control.environments.interface import Environments
from prefrl.environments.info import means
from prefrl.learning.critic import new_scale, rescale
from prefrl.types import Trajectory

UPDATED = "approx_kl", "clip_fraction", "value_loss"
"""What is told of all updates of a round; the rest is how things are after the last one."""


class PPOAgent:
    """A policy and its optimiser in many environments; prefrl's `Agent` for control."""

    def __init__(
        self, environments: Environments, config: PPOConfig, seed: int, total_steps: int,
        restart_after: int | None = None,
    ):  # fmt: skip
        """Build an untrained policy.

        Args:
            environments: that it acts in; closed by whoever made them.
            config: the settings.
            seed: of the weights, the actions and the order of minibatches.
            total_steps: of the whole run, exploration too; over them a learning rate may fall.
            restart_after: steps, counted alike, after which an untrained policy begins anew.
        """
        self.config, self.total_steps, self.seed = config, total_steps, seed
        self.restart_after, self.began = restart_after, 0
        self.reward_scale = math.sqrt(1 - config.gamma**2)
        self.environments = RewardlessVecEnv(environments)
        self.random_state = torch.Generator().manual_seed(seed).get_state()
        with own_randomness(self):
            self.ppo = make_ppo(self.environments, config, seed)
            self.ppo.set_logger(Logger(None, []))  # SB3's own would make a folder in /tmp
            self.ppo._last_obs = self.environments.reset()
        self.ppo._last_episode_starts = np.ones(environments.count, bool)
        self.sample: list[Trajectory] = []
        self.sample_rewards = np.zeros(0)
        self.round = 0

    def explore(self, steps: int) -> list[Trajectory]:
        """Run the untrained policy for about `steps` steps."""
        self.environments.clear_history()
        for _ in range(self._rollouts(steps)):
            self._collect()
        source = f"round {self.round}"
        self.round += 1
        return [t for _, _, t in self.environments.recorder.trajectories(source)]

    def train(self, reward: Reward, steps: int) -> tuple[list[Trajectory], dict[str, float]]:
        """Train for about `steps` steps on the rewards that the model predicts."""
        if is_due(self.restart_after, self.began, self.ppo.num_timesteps, steps):
            self._restart()
        recorder = self.environments.recorder
        self.environments.clear_history()
        recorder.finished = []
        changed = self._rescale_critic(reward)
        source, paid, updates = f"round {self.round}", [], []
        for rollout in range(self._rollouts(steps)):
            self._collect()
            paid.append(self._pay(reward, source))
            if rollout == 0 and changed:
                self.ppo.train_critic(self.config.value_warmup_epochs)
                self._revalue()
            self.ppo._current_progress_remaining = self._share_left()
            self.ppo.train()
            updates.append(self.ppo.metrics)
        self.round += 1
        metrics = means(recorder.finished) | {"episodes": len(recorder.finished)} | updates[-1]
        metrics |= means([{name: update[name] for name in UPDATED} for update in updates])
        metrics["predicted_reward"] = float(np.mean(paid))
        if self.restart_after is not None:
            metrics["policy_steps"] = self.ppo.num_timesteps - self.began
        return [t for _, _, t in recorder.trajectories(source)], metrics

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next round depends on, as arrays, tensors and plain values."""
        ppo, env = self.ppo, self.environments
        return {
            "round": self.round,
            "began": self.began,
            "policy": ppo.policy.state_dict(),
            "policy_optimizer": ppo.policy_optimizer.state_dict(),
            "critic_optimizer": ppo.critic_optimizer.state_dict(),
            "policy_generator": ppo.policy_generator.get_state(),
            "critic_generator": ppo.critic_generator.get_state(),
            "random_state": self.random_state,
            "num_timesteps": ppo.num_timesteps,
            "last_obs": ppo._last_obs,
            "last_episode_starts": ppo._last_episode_starts,
            "sample": [[t.observations, t.actions, t.env_rewards] for t in self.sample],
            "sample_rewards": self.sample_rewards,
            "normaliser": [env.normaliser.mean, env.normaliser.var, float(env.normaliser.count)],
            "observations": env.observations,
            "recorder": env.recorder.state_dict(),
            "environments": env.environments.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        ppo, env = self.ppo, self.environments
        self.round = state["round"]
        self.began = state.get("began", 0)  # older checkpoints know of no other beginning
        ppo.policy.load_state_dict(state["policy"])
        ppo.policy_optimizer.load_state_dict(state["policy_optimizer"])
        ppo.critic_optimizer.load_state_dict(state["critic_optimizer"])
        ppo.policy_generator.set_state(state["policy_generator"])
        ppo.critic_generator.set_state(state["critic_generator"])
        self.random_state = state["random_state"]
        ppo.num_timesteps = state["num_timesteps"]
        # As it was: normalised with the statistics of its time.
        ppo._last_obs, ppo._last_episode_starts = state["last_obs"], state["last_episode_starts"]
        self.sample = [Trajectory(*arrays) for arrays in state["sample"]]
        self.sample_rewards = state["sample_rewards"]
        env.normaliser.mean, env.normaliser.var, env.normaliser.count = state["normaliser"]
        env.observations = state["observations"]
        env.recorder.load_state_dict(state["recorder"])
        env.environments.set_state(state["environments"])

    def _restart(self) -> None:
        """Begin anew with an untrained policy and critic; what observations are like stays known.

        What the first policy did has taught the reward, which keeps it; a policy that has settled
        on something seldom leaves it (Nikishin et al. 2022, arXiv 2205.07802, reset networks too).
        """
        self.began = self.ppo.num_timesteps
        with own_randomness(self):
            self.ppo._setup_model()
            self.ppo.set_up(self.seed + self.began)
        self.sample, self.sample_rewards = [], np.zeros(0)

    def _share_left(self) -> float:
        """Return the share of this policy's steps that are still to come."""
        return max(1 - (self.ppo.num_timesteps - self.began) / (self.total_steps - self.began), 0.0)

    def _rollouts(self, steps: int) -> int:
        return max(1, round(steps / (self.config.n_steps * self.environments.num_envs)))

    def _collect(self) -> None:
        ppo = self.ppo
        with own_randomness(self):
            ppo.collect(self.environments)
        self.environments.take_note(self.environments.recorder.steps[-ppo.n_steps :])

    def _pay(self, reward: Reward, source: str) -> float:
        """Write predicted rewards into the rollout buffer and recompute its advantages."""
        recorder, buffer = self.environments.recorder, self.ppo.rollout_buffer
        pieces = recorder.trajectories(source, since=len(recorder.steps) - self.ppo.n_steps)
        self.sample = [trajectory for _, _, trajectory in pieces]
        rewards = reward.rewards(self.sample)
        for (row, start, trajectory), steps in zip(pieces, rewards, strict=True):
            buffer.rewards[start : start + len(trajectory), row] += self.reward_scale * steps
        self.sample_rewards = np.concatenate(rewards)
        self._compute_advantages()
        return float(self.sample_rewards.mean())

    def _compute_advantages(self) -> None:
        with torch.no_grad():
            last = self.ppo.policy.predict_values(torch.as_tensor(self.ppo._last_obs))
        starts = self.ppo._last_episode_starts
        assert starts is not None
        self.ppo.rollout_buffer.compute_returns_and_advantage(last, starts)

    def _revalue(self) -> None:
        """Let the buffer hold what the critic says now, and the advantages that follow.

        What SB3 added to the rewards at time limits stays as the critic said it before.
        """
        buffer = self.ppo.rollout_buffer
        with torch.no_grad():
            values = self.ppo.values(torch.as_tensor(buffer.observations).flatten(0, 1))
        buffer.values[:] = values.reshape(buffer.values.shape).numpy()
        self._compute_advantages()

    def _rescale_critic(self, reward: Reward) -> bool:
        """Move the critic to the scale of a reward that was refitted; return whether it was.

        With new reward ≈ a · old + b on the last rollout, V becomes a V + b / (1 − γ).
        """
        if not self.sample:
            return True
        new = np.concatenate(reward.rewards(self.sample))
        old = self.sample_rewards
        if np.array_equal(new, old):
            return False
        slope, offset = new_scale(new, old)
        endless = offset * self.reward_scale / (1 - self.config.gamma)
        head = self.ppo.policy.value_net
        rescale(head.weight, head.bias, slope, endless)
        return True
