"""The steps that an agent learns from again and again, paid by whatever reward there is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from prefrl.contracts import Reward
from prefrl.control.environments.recorder import Recorded
from prefrl.types import Trajectory

COLUMNS = "observations", "actions", "env_rewards", "elapsed", "rewards"


class ReplayBuffer:
    """The newest steps of every environment; each array is `[time, env, …]`, a ring in time.

    Observations are raw and actions those that were made, so that any reward can be computed of
    them at any time. It is once for all steps when it has changed, which is at a fit, and not
    whenever a step is drawn: the same numbers for less work.
    """

    def __init__(self, size: int, count: int, seen: tuple[int, ...], actions: Box):
        """Make room.

        Args:
            size: steps of all environments together.
            count: environments.
            seen: shape of an observation; pictures are kept in uint8, numbers in float32.
            actions: the space of the environments.
        """
        self.times, self.count = max(size // count, 1), count
        shape = (self.times, count)
        kind = np.uint8 if len(seen) > 1 else np.float32
        self.observations = np.zeros((*shape, *seen), kind)
        self.next_observations = np.zeros((*shape, *seen), kind)
        self.actions = np.zeros((*shape, *actions.shape), actions.dtype)
        self.env_rewards = np.zeros(shape, np.float32)
        self.elapsed = np.zeros(shape, np.int32)
        self.rewards = np.zeros(shape, np.float32)
        self.added = 0
        """Times that were ever added."""

    def __len__(self) -> int:
        """Return how many steps are kept."""
        return min(self.added, self.times) * self.count

    def add(self, step: Recorded, next_observations: np.ndarray) -> None:
        """Keep one step of every environment, not paid yet.

        Args:
            step: what was seen, and done.
            next_observations: what came of it, `[env, …]`: of an episode that ended, its own
                last observation.
        """
        time = self.added % self.times
        self.observations[time], self.next_observations[time] = step.observations, next_observations
        self.actions[time], self.env_rewards[time] = step.actions, step.env_rewards
        self.elapsed[time], self.rewards[time] = step.elapsed, 0.0
        self.added += 1

    def kept(self, since: int = 0) -> np.ndarray:
        """Return the rows of the times from `since` on that are still there, oldest first."""
        return np.arange(max(since, self.added - self.times), self.added) % self.times

    def pay(self, reward: Reward, since: int = 0) -> np.ndarray:
        """Write what a reward says of the steps from time `since` on; return it, `[step]`."""
        rows = self.kept(since)
        pieces = [(env, steps) for env in range(self.count) for steps in self._pieces(rows, env)]
        paid = reward.rewards([self._trajectory(env, steps) for env, steps in pieces])
        for (env, steps), rewards in zip(pieces, paid, strict=True):
            self.rewards[steps, env] = rewards
        return self.rewards[rows].ravel()

    def draw(self, steps: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return steps by their numbers, 0 to `len(self)`.

        Returns:
            Raw observations, actions as made, next observations, rewards: `[step, …]` each.
        """
        row, env = np.divmod(steps, self.count)
        return (
            self.observations[row, env], self.actions[row, env],
            self.next_observations[row, env], self.rewards[row, env],
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, each observation once, oldest first."""
        rows = self.kept()
        state: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS}
        state["last_observations"] = self.next_observations[rows][self._lasts(rows)]
        return state | {"added": self.added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep what `state_dict` returned."""
        self.added = state["added"]
        rows = self.kept()
        for name in COLUMNS:
            getattr(self, name)[rows] = state[name]
        after = np.roll(state["observations"], -1, axis=0)
        after[self._lasts(rows)] = state["last_observations"]
        self.next_observations[rows] = after

    def _lasts(self, rows: np.ndarray) -> np.ndarray:
        """Return which steps `[time, env]` are not followed by another of their episode."""
        lasts = np.ones((len(rows), self.count), bool)
        lasts[:-1] = self.elapsed[rows[1:]] == 0
        return lasts

    def _pieces(self, rows: np.ndarray, env: int) -> list[np.ndarray]:
        """Return the rows of one environment, cut where its episodes begin."""
        begins = np.flatnonzero(self.elapsed[rows, env] == 0).tolist()
        cuts = sorted({0, *begins, len(rows)})
        return [rows[begin:stop] for begin, stop in pairwise(cuts)]

    def _trajectory(self, env: int, rows: np.ndarray) -> Trajectory:
        return Trajectory(
            self.observations[rows, env],
            self.actions[rows, env],
            self.env_rewards[rows, env],
            start=int(self.elapsed[rows[0], env]),
        )
