"""A learned reward as a teacher: it prefers what it pays more."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from prefrl.config.learning import OracleConfig
from prefrl.teachers.oracle import Oracle
from prefrl.types import Answer, Query, Truth, until_end


class RewardTeacher:
    """Answers by the return that a reward model predicts, as the oracle does by the true one."""

    sees_true_rewards = False

    def __init__(self, reward: Any, name: str):
        """Build it.

        Args:
            reward: `rewards` of trajectories or segments, `[step]` each.
            name: of the teacher.
        """
        self.reward, self.name = reward, name
        self.oracle = Oracle(OracleConfig(), 0)

    def answer(self, queries: Sequence[Query], truth: Truth | None = None) -> Iterator[Answer]:
        """Answer queries, in order; the truth is not looked at.

        An answer depends on its query alone: grades are relative to the clips that it shows.
        """
        for query in queries:
            shown = time.time()
            rewards = self.reward.rewards([*map(until_end, query.segments)])
            scale = self.oracle.scale(rewards)
            answer = self.oracle.judge(query.id, rewards, scale, query.kind)
            yield dataclasses.replace(
                answer, teacher=self.name, shown_at=shown, answered_at=time.time()
            )
