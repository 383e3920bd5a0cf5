"""The environment's own reward: what a learned one is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefrl.types import Trajectory, subsample


class TrueReward:
    """The environment's own reward instead of a learned one: the reference of every ratio.

    It is calibrated like a learned reward, so the same agent sees numbers of the same size.
    """

    def __init__(self, whole_episodes: bool = False):
        """Build it.

        Args:
            whole_episodes: calibrate the returns of episodes, which may differ in length, instead
                of the rewards of steps.
        """
        self.whole_episodes = whole_episodes
        self.mean, self.std = 0.0, 1.0

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return the environment's rewards, calibrated."""
        if not self.whole_episodes:
            return [
                ((t.env_rewards - self.mean) / self.std).astype(np.float32) for t in trajectories
            ]
        rewards = [(t.env_rewards / self.std).astype(np.float32) for t in trajectories]
        for steps in rewards:  # off each step, it would reward many of them or few
            steps[-1] -= self.mean / self.std
        return rewards

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return what to calibrate on; for whole episodes, always those of the first policy."""
        if self.whole_episodes:
            return before or list(trajectories)
        return subsample(trajectories)

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Give the rewards (or the returns) mean 0 and deviation 1 on this data."""
        episodes = [t.env_rewards for t in trajectories]
        if self.whole_episodes:
            rewards = np.array([steps.sum() for steps in episodes])
        else:
            rewards = np.concatenate(episodes)
        self.mean, self.std = float(rewards.mean()), max(float(rewards.std()), 1e-4)

    def state_dict(self) -> dict[str, Any]:
        """Return the calibration."""
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a saved calibration."""
        self.mean, self.std = state["mean"], state["std"]
