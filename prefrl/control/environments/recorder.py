"""Keeps each step of a round, and returns trajectories."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from prefrl.types import Trajectory


class Recorder:
    """Keeps what the environments really did, until it is taken as trajectories."""

    def __init__(self, count: int):
        self.count = count
        self.elapsed = np.zeros(count, np.int64)
        self.episodes = np.zeros(count, np.int64)
        self.returns = np.zeros(count)
        self.finished: list[dict[str, float]] = []
        self.clear()

    def clear(self) -> None:
        """Forget the steps, not the episodes under way."""
        self.steps: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]] = []
        self.ended: list[np.ndarray] = []
        self.first_elapsed, self.first_episodes = self.elapsed.copy(), self.episodes.copy()

    def add(self, observations, actions, extras, step) -> None:
        """Record one step of every environment."""
        self.steps.append(
            (observations.astype(np.float32), np.array(actions), extras, step.env_rewards)
        )
        self.ended.append(step.ended)
        self.elapsed += 1
        self.returns += step.env_rewards
        for row, report in step.reports.items():
            self.finished.append(report | {"true_return": float(self.returns[row])})
            self.elapsed[row], self.returns[row] = 0, 0.0
            self.episodes[row] += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of the episodes under way."""
        return {"elapsed": self.elapsed, "episodes": self.episodes, "returns": self.returns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the episodes that were under way."""
        self.elapsed, self.episodes = state["elapsed"].copy(), state["episodes"].copy()
        self.returns = state["returns"].copy()
        self.finished = []
        self.clear()

    def trajectories(self, source: str, since: int = 0) -> list[tuple[int, int, Trajectory]]:
        """Return what was recorded from step `since` on, cut where episodes end.

        Returns:
            Environment, step at which the trajectory begins (counted from `since`), trajectory.
        """
        steps, ended = self.steps[since:], np.stack(self.ended)
        observations, actions, extras, rewards = (
            np.stack([step[0] for step in steps], 1),
            np.stack([step[1] for step in steps], 1),
            {name: np.stack([step[2][name] for step in steps], 1) for name in steps[0][2]},
            np.stack([step[3] for step in steps], 1),
        )
        pieces = []
        for row in range(self.count):
            ends = np.flatnonzero(ended[:, row]) + 1
            bounds = np.unique(np.concatenate([[since], ends[ends > since], [len(ended)]]))
            for begin, stop in pairwise(bounds.tolist()):
                before = ends[ends <= begin]
                start = begin - before[-1] if len(before) else begin + self.first_elapsed[row]
                number = int(self.first_episodes[row]) + len(before)
                span = slice(begin - since, stop - since)
                trajectory = Trajectory(
                    observations[row, span],
                    actions[row, span],
                    rewards[row, span],
                    {name: array[row, span] for name, array in extras.items()},
                    source=source,
                    episode=number * self.count + row,
                    start=int(start),
                )
                pieces.append((row, int(begin - since), trajectory))
        return pieces
