"""Keeps each step of a round, and returns trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from prefrl.control.environments.interface import Step
from prefrl.types import Trajectory


@dataclass(frozen=True)
class Recorded:
    """One step of every environment, and where in its episodes it is."""

    observations: np.ndarray
    """[env, feature] or pictures, uint8, before the step."""
    actions: np.ndarray
    """[env, …]"""
    env_rewards: np.ndarray
    """[env]"""
    extras: dict[str, np.ndarray]
    """[env, …] each."""
    episodes: np.ndarray
    """[env], number of each environment's episode."""
    elapsed: np.ndarray
    """[env], steps made in it before."""
    aspect_rewards: dict[str, np.ndarray]
    """[env] each."""


class Recorder:
    """Keeps what the environments really did, until it is taken as trajectories."""

    def __init__(self, count: int, together: int = 1):
        """Begin with nothing.

        Args:
            count: environments.
            together: how many of them, side by side, begin each episode in the same state.
        """
        self.count, self.together = count, together
        self.elapsed = np.zeros(count, np.int64)
        self.episodes = np.zeros(count, np.int64)
        self.returns = np.zeros(count)
        self.aspect_returns: dict[str, np.ndarray] = {}
        self.finished: list[dict[str, float]] = []
        self.steps: list[Recorded] = []

    def clear(self) -> None:
        """Forget the steps, not the episodes under way."""
        self.steps = []

    def add(
        self, observations: np.ndarray, actions: np.ndarray, extras: dict[str, np.ndarray],
        step: Step,
    ) -> None:  # fmt: skip
        """Record one step of every environment."""
        self.steps.append(
            Recorded(
                _kept(observations), np.array(actions), step.env_rewards, extras,
                self.episodes.copy(), self.elapsed.copy(), step.aspect_rewards,
            )
        )  # fmt: skip
        self.elapsed += 1
        self.returns += step.env_rewards
        for aspect, paid in step.aspect_rewards.items():
            self.aspect_returns.setdefault(aspect, np.zeros(self.count))
            self.aspect_returns[aspect] += paid
        for row in np.flatnonzero(step.ended).tolist():
            if row in step.reports:  # else its state alone is another one's from here on
                report = step.reports[row] | {"true_return": float(self.returns[row])}
                for aspect, sums in self.aspect_returns.items():
                    report[f"{aspect}.true_return"], sums[row] = float(sums[row]), 0.0
                self.finished.append(report)
                self.returns[row] = 0.0
            self.elapsed[row] = 0
            self.episodes[row] += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of the episodes under way."""
        state = {"elapsed": self.elapsed, "episodes": self.episodes, "returns": self.returns}
        return state | ({"aspect_returns": self.aspect_returns} if self.aspect_returns else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the episodes that were under way."""
        self.elapsed, self.episodes = state["elapsed"].copy(), state["episodes"].copy()
        self.returns = state["returns"].copy()
        self.aspect_returns = {a: s.copy() for a, s in state.get("aspect_returns", {}).items()}
        self.finished = []
        self.clear()

    def trajectories(self, source: str, since: int = 0) -> list[tuple[int, int, Trajectory]]:
        """Return what was recorded from step `since` on, cut where episodes end.

        Returns:
            Environment, step at which the trajectory begins (counted from `since`), trajectory.
        """
        steps = self.steps[since:]
        observations = np.stack([step.observations for step in steps], 1)  # [env, step, …]
        actions = np.stack([step.actions for step in steps], 1)
        rewards = np.stack([step.env_rewards for step in steps], 1)
        extras = {
            name: np.stack([step.extras[name] for step in steps], 1) for name in steps[0].extras
        }
        paid = {
            aspect: np.stack([step.aspect_rewards[aspect] for step in steps], 1)
            for aspect in steps[0].aspect_rewards
        }
        pieces = []
        for row in range(self.count):
            episodes = np.array([step.episodes[row] for step in steps])
            begins = np.flatnonzero(np.diff(episodes, prepend=-1)).tolist()
            for begin, stop in pairwise([*begins, len(steps)]):
                trajectory = Trajectory(
                    observations[row, begin:stop],
                    actions[row, begin:stop],
                    rewards[row, begin:stop],
                    {name: extra[row, begin:stop] for name, extra in extras.items()},
                    task=self._start_of(source, row, int(episodes[begin])),
                    source=source,
                    episode=int(episodes[begin]) * self.count + row,
                    start=int(steps[begin].elapsed[row]),
                    aspect_rewards={aspect: each[row, begin:stop] for aspect, each in paid.items()},
                )
                pieces.append((row, begin, trajectory))
        return pieces

    def _start_of(self, source: str, row: int, episode: int) -> str:
        """Return what names the state in which an episode began, if others began in it, too."""
        return f"{source}, start {episode}-{row // self.together}" if self.together > 1 else ""


def _kept(observations: np.ndarray) -> np.ndarray:
    """Return a copy of observations `[env, …]`: of numbers in float32, of pictures in uint8."""
    return observations.astype(np.uint8 if observations.ndim > 2 else np.float32)
