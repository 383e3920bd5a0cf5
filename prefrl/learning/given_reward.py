"""A reward that was learned elsewhere, which a fresh agent is trained on as it is."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from prefrl.learning.true_reward import TrueReward
from prefrl.types import Trajectory

CALIBRATION_EPISODES = 256


class Pays(Protocol):
    """What pays for trajectories as it does for good: a reward model, or a judge's grades."""

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return rewards, `[step]` for each trajectory."""
        ...


class GivenReward:
    """What a reward model predicts, or a judge grades, calibrated as the true reward is.

    So the same agent sees numbers of the same size as in the run of the true reward.
    """

    def __init__(self, model: Pays, whole_episodes: bool):
        """Build it.

        Args:
            model: predicts; it is never changed.
            whole_episodes: see `TrueReward`.
        """
        self.model, self.scale = model, TrueReward(whole_episodes)
        self.calibrated_on: list[Trajectory] = []

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return the predicted rewards, `[step]` for each trajectory, calibrated."""
        return self.scale.rewards(self._predicted(trajectories))

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return what to calibrate on; of whole episodes some of the first policy, for good."""
        if not self.scale.whole_episodes:
            return self.scale.sample(trajectories, before)
        return before or list(trajectories[:: max(1, len(trajectories) // CALIBRATION_EPISODES)])

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Give the predicted rewards (or returns) mean 0 and deviation 1 on this data.

        Nothing is done where it is what was calibrated on before: neither has changed.
        """
        before = self.calibrated_on
        if len(before) == len(trajectories) and all(map(operator.is_, before, trajectories)):
            return
        self.scale.calibrate(self._predicted(trajectories))
        self.calibrated_on = list(trajectories)

    def _predicted(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Return the trajectories as if the environment paid what the model predicts."""
        predicted = self.model.rewards(trajectories)
        return [
            dataclasses.replace(trajectory, env_rewards=rewards.astype(np.float64))
            for trajectory, rewards in zip(trajectories, predicted, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the calibration; the model is kept beside the checkpoints."""
        return self.scale.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a saved calibration."""
        self.scale.load_state_dict(state)
