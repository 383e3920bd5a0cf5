"""The agent that clones the best of its own clips: rejection sampling for robots.

Each round's clips are scored by the newest reward, and a policy that begins anew imitates the best
of them. Within clips that begin in the same state (`--query.same-start`) the best of each start are
kept, as of the replies to a prompt; of others the best of all, which began well, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from prefrl.config.control import BestClipsConfig
from prefrl.contracts import Reward
from prefrl.control.agents.actor import Actor
from prefrl.control.agents.sampling import SamplingAgent
from prefrl.control.environments.interface import Environments
from prefrl.control.environments.spaces import to_policy
from prefrl.learning.keeping import top_share
from prefrl.types import Trajectory


class SelectAgent(SamplingAgent):
    """Acts in many environments, and then does as its best clips show."""

    def __init__(
        self, environments: Environments, actor: Actor, select: BestClipsConfig, seed: int
    ):
        """Begin an episode everywhere, with nothing to imitate; see `SamplingAgent`."""
        super().__init__(environments, actor, seed)
        self.select, self.seed = select, seed
        self.pool: list[Trajectory] = []
        """The clips that were cloned last."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next round depends on, the cloned clips too."""
        pool = [[clip.observations, clip.actions, clip.env_rewards] for clip in self.pool]
        return super().state_dict() | {"pool": pool}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        super().load_state_dict(state)
        self.pool = [Trajectory(*arrays) for arrays in state["pool"]]

    def _measure(self, reward: Reward, trajectories: list[Trajectory]) -> dict[str, float]:
        """Clone the best clips; return also how many they are, and what they are worth."""
        told = super()._measure(reward, trajectories)
        clips = windows(trajectories, self.environments.environments.description.clip_steps)
        count = max(1, round(self.select.share * len(clips)))
        told["predicted_reward"] = mean_reward(reward, trajectories)
        candidates = [*(self.pool if self.select.pool else []), *clips]
        best = self._best(candidates, reward, count)
        self.pool = [dataclasses.replace(candidates[row], task="") for row in best]
        with torch.enable_grad():
            self._clone(candidates)
        return told | {
            "kept": float(len(self.pool)),
            "kept_reward": mean_reward(reward, self.pool) if self.pool else 0.0,
        }

    def _best(self, clips: Sequence[Trajectory], reward: Reward, count: int) -> np.ndarray:
        """Return the rows of the clips to clone, in order; not more than `count`."""
        scores = np.array([steps.mean() for steps in reward.rewards(clips)], float)
        if self.select.keep == "random":
            scores = np.random.default_rng([self.seed, self.round]).random(len(clips))
        kept = np.zeros(len(clips), bool)
        for rows in _alike(clips):
            kept[rows] = top_share(scores[rows], min(1.0, count / len(clips)))
        rows = np.flatnonzero(kept)
        return np.sort(rows[np.argsort(-scores[rows], kind="stable")[:count]])

    def _clone(self, seen: Sequence[Trajectory]) -> None:
        """Begin anew as a clone of the pool; what observations are like is taken from all clips."""
        if not self.pool:
            return
        observations, actions = (
            np.concatenate([getattr(clip, name) for clip in self.pool])
            for name in ("observations", "actions")
        )
        self.actor.begin_anew()
        self.actor.observe_like(np.concatenate([clip.observations for clip in seen]))
        space = self.actor.description.action_space
        self.actor.clone(observations, torch.as_tensor(to_policy(space, actions)))


def windows(trajectories: Sequence[Trajectory], length: int) -> list[Trajectory]:
    """Cut trajectories into clips of so many steps, one after the other, leaving a rest."""
    return [
        Trajectory(
            t.observations[begin : begin + length], t.actions[begin : begin + length],
            t.env_rewards[begin : begin + length], task=t.task if begin + t.start == 0 else "",
        )
        for t in trajectories
        for begin in range(0, len(t) - length + 1, length)
    ]  # fmt: skip


def mean_reward(reward: Reward, trajectories: Sequence[Trajectory]) -> float:
    """Return the mean predicted reward of a step."""
    return float(np.concatenate(reward.rewards(trajectories)).mean())


def _alike(clips: Sequence[Trajectory]) -> list[np.ndarray]:
    """Return rows of clips that may be compared, `[group, clip]` each: of one start, and others."""
    by_task: dict[str, list[int]] = {}
    for row, clip in enumerate(clips):
        by_task.setdefault(clip.task, []).append(row)
    others = by_task.pop("", [])
    by_size: dict[int, list[list[int]]] = {}
    for rows in by_task.values():
        by_size.setdefault(len(rows), []).append(rows)
    groups = [np.array(rows) for rows in by_size.values()]
    return [*groups, *([np.array([others])] if others else [])]
