"""The synthetic teacher, which knows the true reward."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from prefrl.answers import MARGIN_OF_STRENGTH
from prefrl.config.fields import check_fields
from prefrl.config.learning import OracleConfig
from prefrl.types import RATING_SCALE, Answer, AnswerKind, Query, QueryId, Truth

STRENGTHS = [*MARGIN_OF_STRENGTH]

Order = list[list[int]]
"""Indices of clips, best first, equals together."""


@dataclass(frozen=True)
class Critic:
    """What states are worth to a policy that was trained on the true reward."""

    values: Callable[[np.ndarray], np.ndarray]
    """Of observations `[step, feature]` the discounted true return from there on, `[step]`."""
    gamma: float
    """Discount of a step."""

    def advantages(self, rewards: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Return by how much each step went better than the policy would have done, `[step − 1]`.

        That is r + γ V(s′) − V(s); it is not known of the last one, after which a clip shows no
        state. Their sum is the negative regret of a clip: as γ comes to 1, Σ r + V(s_H) − V(s_0)
        (Hejna et al. 2023, arXiv 2310.13639, section 3 and appendix).
        """
        values = self.values(observations)
        return rewards[:-1] + self.gamma * values[1:] - values[:-1]


class Scale(NamedTuple):
    """How large the true returns of the clips that a round asked about are."""

    average: float
    """Mean absolute return: the unit of thresholds and of 1 / rationality, so that they mean the
    same in every task."""
    mean: float = 0.0
    """Of the returns as the teacher sees them, like the next."""
    spread: float = 0.0
    """Standard deviation."""
    policy: float = 0.0
    """Mean return of a clip of all that the round's policy did, asked about or not: what B-Pref
    takes shares of."""


class Oracle:
    """Answers from the hidden true reward, with the faults of B-Pref's teachers.

    B-Pref (Lee et al. 2021, arXiv 2111.03026), section 3; `TEACHERS` has its six. A threshold is a
    share of the average return of a clip in the query's round, which stands for the policy of that
    time. With `bpref` it is measured as in the code of B-Pref; see `prefrl/README.md`.

    Whatever is asked, the oracle puts the clips in order, with all its faults, and says of the
    order what the question wants to know: which of two is better, which of several is the best, the
    whole order, or grades. For two clips this is B-Pref's teacher.
    The chances are drawn from a hash of (seed, query): they do not depend on what came before.
    """

    name = "oracle"
    sees_true_rewards = True

    def __init__(self, config: OracleConfig, seed: int, critic: Critic | None = None):
        """Keep what it answers by.

        Args:
            config: its faults.
            seed: of its chances.
            critic: of `--oracle.regret`: then clips are compared by their regret; thresholds and
                the unit of rationality stay those of true returns.
        """
        check_fields(config, "oracle.")
        self.config, self.seed, self.critic = config, seed, critic

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
                asked = [truth.rewards[name] for name in truth.asked[number]]
                scales[number] = self.scale(asked, truth.mean_return.get(number))
            rewards = [truth.rewards[segment.id] for segment in query.segments]
            if self.critic:
                seen = [segment.observations for segment in query.segments]
                rewards = [*map(self.critic.advantages, rewards, seen)]
            yield self.judge(query.id, rewards, scales[number], query.kind)

    def scale(self, rewards: Sequence[np.ndarray], policy: float | None = None) -> Scale:
        """Return how large the returns of a round's clips are.

        Args:
            rewards: the true ones, `[step]` of each clip that it asked about.
            policy: mean return of a clip of all that its policy did; by default that of these.
        """
        if not rewards:
            return Scale(0.0)
        sums, returns = _sums(rewards), [self._return(reward) for reward in rewards]
        average, mean = float(np.mean(np.abs(sums))), float(np.mean(sums))
        seen = float(np.mean(returns)), float(np.std(returns))
        return Scale(average, *seen, mean if policy is None else policy)

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
        order = self._order(query, returns, _sums(rewards) if self.config.bpref else returns, scale)
        said, value = _in_words(order, kind, returns, scale)
        if self.config.strength and said == "preference":
            value["strength"] = _strength(returns, scale)
        now = time.time()
        return Answer(query, said, value, self.name, now, now)

    def _order(
        self, query: QueryId, returns: list[float], measured: list[float], scale: Scale
    ) -> Order:
        """Return the clips in order, as this teacher sees them; none for "can't tell".

        The best of the rest is chosen again and again (Plackett-Luce), and those of the rest that
        differ from it by nothing, or by less than the threshold, stand with it. Then each two
        neighbours, from best to worst, change places by chance: that many comparisons are wrong.

        Args:
            query: its id.
            returns: as the teacher sees them: the better ones come first.
            measured: what is compared with the thresholds.
            scale: of the round.
        """
        if self._skips(max(measured), scale):
            return []
        order, rest = [], [*range(len(returns))]
        while rest:
            best = self._best(query, len(order), rest, returns, scale)
            near = [i for i in rest if self._alike(measured[i], measured[best], scale)]
            group = sorted({best, *near})
            order.append(group)
            rest = [i for i in rest if i not in group]
        for place in range(len(order) - 1):
            if self._chances(query, place)[1] < self.config.mistake:
                order[place], order[place + 1] = order[place + 1], order[place]
        return order

    def _skips(self, highest: float, scale: Scale) -> bool:
        if self.config.bpref:
            return 0 < self.config.skip * scale.policy >= highest
        return bool(self.config.skip) and highest < self.config.skip * scale.average

    def _alike(self, one: float, other: float, scale: Scale) -> bool:
        if self.config.bpref:
            return abs(one - other) < self.config.equal * scale.policy
        return one == other or abs(one - other) < self.config.equal * scale.average

    def _best(
        self, query: QueryId, place: int, rest: list[int], returns: list[float], scale: Scale
    ) -> int:
        """Choose one with chances in proportion to exp(rationality · return / average).

        The rewards of B-Pref have no unit but their own.
        """
        best = max(rest, key=lambda i: returns[i])
        if math.isinf(self.config.rationality):
            return best
        unit = 1.0 if self.config.bpref else max(scale.average, 1e-8)
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


def _sums(rewards: Sequence[np.ndarray]) -> list[float]:
    return [float(reward.sum()) for reward in rewards]


def _strength(returns: list[float], scale: Scale) -> str:
    """Say how much better one of two is: a word for each half of a standard deviation."""
    steps = 2 * abs(returns[0] - returns[1]) / max(scale.spread, 1e-8)
    return STRENGTHS[int(min(steps, 3))]


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
