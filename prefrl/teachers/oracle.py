"""The synthetic teacher, which knows the true reward."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from prefrl.config.fields import check_fields
from prefrl.config.learning import OracleConfig
from prefrl.types import RATING_SCALE, Answer, AnswerKind, Query, QueryId, Truth

Order = list[list[int]]
"""Indices of clips, best first, equals together."""


class Scale(NamedTuple):
    """How large the true returns of the clips that a round asked about are."""

    average: float
    """Mean absolute return: the unit of thresholds and of 1 / rationality, so that they mean the
    same in every task."""
    mean: float = 0.0
    """As the teacher sees returns, like the next."""
    spread: float = 0.0
    """Standard deviation."""


class Oracle:
    """Answers from the hidden true reward, with the faults of B-Pref's teachers.

    B-Pref (Lee et al. 2021, arXiv 2111.03026), section 3: Oracle (the defaults), Stoc
    (`rationality` = 1), Mistake (`mistake` = 0.1), Skip (`skip` = 0.1), Equal (`equal` = 0.1) and
    Myopic (`myopia` = 0.9). A threshold is a share of the average return of a clip in the query's
    round, which stands for the policy of that time.

    Whatever is asked, the oracle puts the clips in order, with all its faults, and says of the
    order what the question wants to know: which of two is better, which of several is the best, the
    whole order, or grades. For two clips this is B-Pref's teacher.
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
        scales: dict[int, Scale] = {}
        for query in queries:
            number = query.id.round
            if number not in scales:
                scales[number] = self.scale([truth.rewards[name] for name in truth.asked[number]])
            rewards = [truth.rewards[segment.id] for segment in query.segments]
            yield self.judge(query.id, rewards, scales[number], query.kind)

    def scale(self, rewards: Sequence[np.ndarray]) -> Scale:
        """Return how large the returns are of clips with these rewards, `[step]` each."""
        if not rewards:
            return Scale(0.0)
        returns = [self._return(reward) for reward in rewards]
        average = float(np.mean([abs(reward.sum()) for reward in rewards]))
        return Scale(average, float(np.mean(returns)), float(np.std(returns)))

    def judge(
        self, query: QueryId, rewards: Sequence[np.ndarray], scale: Scale, kind: str = "preference"
    ) -> Answer:
        """Answer one query.

        Args:
            query: its id, from which the chances follow.
            rewards: the true rewards `[step]` of each segment.
            scale: of the round that asked it.
            kind: what it asks for; more than two are put in order if not said otherwise.
        """
        returns = [self._return(reward) for reward in rewards]
        said, value = _in_words(self._order(query, returns, scale), kind, returns, scale)
        now = time.time()
        return Answer(query, said, value, self.name, now, now)

    def _order(self, query: QueryId, returns: list[float], scale: Scale) -> Order:
        """Return the clips in order, as this teacher sees them; none for "can't tell".

        The best of the rest is chosen again and again (Plackett-Luce), and those of the rest that
        differ from it by nothing, or by less than the threshold, stand with it. Then each two
        neighbours, from best to worst, change places by chance: that many comparisons are wrong.
        """
        if self.config.skip and max(returns) < self.config.skip * scale.average:
            return []
        order, rest = [], [*range(len(returns))]
        while rest:
            best = self._best(query, len(order), rest, returns, scale)
            apart = [abs(returns[i] - returns[best]) for i in rest]
            near = self.config.equal * scale.average
            group = [i for i, by in zip(rest, apart, strict=True) if by == 0 or by < near]
            order.append(group)
            rest = [i for i in rest if i not in group]
        for place in range(len(order) - 1):
            if self._chances(query, place)[1] < self.config.mistake:
                order[place], order[place + 1] = order[place + 1], order[place]
        return order

    def _best(
        self, query: QueryId, place: int, rest: list[int], returns: list[float], scale: Scale
    ) -> int:
        """Choose one with chances in proportion to exp(rationality · return / average)."""
        best = max(rest, key=lambda i: returns[i])
        if math.isinf(self.config.rationality):
            return best
        unit = max(scale.average, 1e-8)
        behind = [self.config.rationality * (returns[i] - returns[best]) / unit for i in rest]
        weights = np.cumsum([math.exp(max(logit, -700)) for logit in behind])
        chance = self._chances(query, place)[0] * weights[-1]
        return rest[min(int(np.searchsorted(weights, chance, side="right")), len(rest) - 1)]

    def _return(self, rewards: np.ndarray) -> float:
        """Return the sum of a clip's rewards, earlier ones discounted by `myopia`."""
        weights = self.config.myopia ** np.arange(len(rewards) - 1, -1, -1)
        return float((weights * rewards).sum())

    def _chances(self, query: QueryId, place: int) -> tuple[float, float]:
        """Return two numbers in [0, 1), which follow from seed, query and place alone."""
        key = f"oracle {self.seed} {query.round} {query.index}" + (f" {place}" if place else "")
        digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        first, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        return first / 2**64, second / 2**64


def _in_words(
    order: Order, kind: str, returns: list[float], scale: Scale
) -> tuple[AnswerKind, dict[str, Any]]:
    """Return what an order says of a question of this kind."""
    if not order:
        return "skip", {}
    if kind == "ratings":
        return "ratings", _grades(order, returns, scale)
    if len(order) == 1 and (len(returns) == 2 or kind == "choice"):
        return "tie", {}
    if len(returns) == 2:
        return "preference", {"left": float(order[0] == [0])}
    if kind == "choice":  # the rest in one place, as the page says it
        order = [order[0], sorted(i for group in order[1:] for i in group)]
    return "ranking", {"order": order}


def _grades(order: Order, returns: list[float], scale: Scale) -> dict[str, Any]:
    """Return a grade for each clip: the best return's for the first in order, and so on.

    The middle grade is the mean return of the round, and the outermost are two standard deviations
    away. Equals get the grade of their mean.
    """
    low, high = RATING_SCALE
    middle, steps = (low + high) / 2, (high - low) / 4
    grades, sorted_returns = [0] * len(returns), sorted(returns, reverse=True)
    for group in order:
        theirs, sorted_returns = sorted_returns[: len(group)], sorted_returns[len(group) :]
        off = (float(np.mean(theirs)) - scale.mean) / max(scale.spread, 1e-8)
        for index in group:
            grades[index] = round(min(max(middle + steps * off, low), high))
    return {"ratings": grades, "low": low, "high": high}
