"""The synthetic teacher, which knows the true reward."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from prefrl.config.fields import check_fields
from prefrl.config.learning import OracleConfig
from prefrl.types import Answer, Query, QueryId, Truth


class Oracle:
    """Answers from the hidden true reward, with the faults of B-Pref's teachers.

    B-Pref (Lee et al. 2021, arXiv 2111.03026), section 3: Oracle (the defaults), Stoc
    (`rationality` = 1), Mistake (`mistake` = 0.1), Skip (`skip` = 0.1), Equal (`equal` = 0.1) and
    Myopic (`myopia` = 0.9). A threshold is a share of the average return of a clip in the query's
    round, which stands for the policy of that time.
    The chances are drawn from a hash of (seed, query): they do not depend on what came before.
    """

    name = "oracle"
    sees_true_rewards = True

    def __init__(self, config: OracleConfig, seed: int):
        check_fields(config, "oracle.")
        self.config, self.seed = config, seed

    def answer(self, queries: Sequence[Query], truth: Truth | None) -> Iterator[Answer]:
        """Answer queries, in order.

        Raises:
            ValueError: there is no truth to judge by.
        """
        if truth is None:
            raise ValueError("the oracle answers from true rewards; give it the truth")
        for query in queries:
            rewards = [truth.rewards[segment.id] for segment in query.segments]
            yield self.judge(query.id, rewards, truth.average_return[query.id.round])

    def judge(self, query: QueryId, rewards: list[np.ndarray], average: float) -> Answer:
        """Answer one query.

        Args:
            query: its id, from which the chances follow.
            rewards: the true rewards `[step]` of each segment.
            average: mean absolute return of the clips that the round asked about: the unit of
                the thresholds and of 1 / rationality, so that they mean the same in every task.
        """
        returns = np.array([self._myopic_return(reward) for reward in rewards])
        if len(returns) > 2:
            return self._rank(query, returns)
        now = time.time()
        if self.config.skip and returns.max() < self.config.skip * average:
            return Answer(query, "skip", {}, self.name, now, now)
        left = self._prefer(query, returns[0] - returns[1], average)
        if left is None:
            return Answer(query, "tie", {}, self.name, now, now)
        return Answer(query, "preference", {"left": left}, self.name, now, now)

    def _prefer(self, query: QueryId, difference: float, average: float) -> float | None:
        choice, turn = self._chances(query)
        if difference == 0 or abs(difference) < self.config.equal * average:
            return None
        if math.isinf(self.config.rationality):
            left = float(difference > 0)
        else:
            logit = self.config.rationality * difference / max(average, 1e-8)
            left = float(choice < 1 / (1 + math.exp(-min(max(logit, -700), 700))))
        return 1 - left if turn < self.config.mistake else left

    def _rank(self, query: QueryId, returns: np.ndarray) -> Answer:
        """Rank more than two by return, equals together."""
        values = sorted(set(returns), reverse=True)
        order = [[int(i) for i in np.flatnonzero(returns == value)] for value in values]
        now = time.time()
        return Answer(query, "ranking", {"order": order}, self.name, now, now)

    def _myopic_return(self, rewards: np.ndarray) -> float:
        weights = self.config.myopia ** np.arange(len(rewards) - 1, -1, -1)
        return float((weights * rewards).sum())

    def _chances(self, query: QueryId) -> tuple[float, float]:
        """Return two numbers in [0, 1) that follow from the seed and the query alone."""
        key = f"oracle {self.seed} {query.round} {query.index}".encode()
        digest = hashlib.blake2b(key, digest_size=16).digest()
        first, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        return first / 2**64, second / 2**64
