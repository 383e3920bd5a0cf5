"""A learned reward as a teacher: it prefers what it pays more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from prefrl.types import Answer, Query, Truth, until_end


class RewardTeacher:
    """Answers by the return that a reward model predicts; equal returns are a tie."""

    sees_true_rewards = False

    def __init__(self, reward: Any, name: str):
        """Build it.

        Args:
            reward: `rewards` of trajectories or segments, `[step]` each.
            name: of the teacher.
        """
        self.reward, self.name = reward, name

    def answer(self, queries: Sequence[Query], truth: Truth | None = None) -> Iterator[Answer]:
        """Answer queries about two clips, in order; the truth is not looked at."""
        for query in queries:
            shown = time.time()
            clips = [*map(until_end, query.segments[:2])]
            left, right = (float(steps.sum()) for steps in self.reward.rewards(clips))
            value = {} if left == right else {"left": float(left > right)}
            kind = "preference" if value else "tie"
            yield Answer(query.id, kind, value, self.name, shown, time.time())
