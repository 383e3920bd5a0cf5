"""When a round begins and how many queries it asks: by budget, by people."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from prefrl.config.learning import LoopConfig
from prefrl.contracts import Distance, ShowClips, Store, Teacher
from prefrl.types import Counts, Picture, Query, Segment

WAIT_SECONDS = 1.0

# While people answer: the first fit needs so many answers, so many pairs more than the next round
# needs are kept at hand (or as many queries as show as many clips), and those of policies so many
# rounds old are withdrawn.
FIRST_ANSWERS = 15
SPARE_QUERIES = 15
EXPIRE_ROUNDS = 3

# The rate at which labels are asked, where nothing says it: few must come early.
FEW_LABELS = 300
FEW_DECAY_STEPS, MANY_DECAY_STEPS = 1e5, 2e6


class ByBudget:
    """A teacher in this process answers all that a round asked before the next begins."""

    distance: Distance | None = None

    def __init__(
        self, config: LoopConfig, teacher: Teacher | Mapping[str, Teacher],
        skips_count: bool = False,
    ):  # fmt: skip
        """Keep who answers.

        Args:
            config: of the loop.
            teacher: in this process; or one for each aspect.
            skips_count: whether a skipped query spends a label instead of being replaced.
        """
        self.config, self.teacher, self.skips_count = config, teacher, skips_count

    def wait(self, store: Store, index: int) -> Iterator[Counts]:
        """Let the teacher answer; yield as long as something is still pending."""
        while True:
            _let_answer(store, self.teacher)
            counts = store.counts()
            if not counts.pending:
                return
            yield counts
            time.sleep(WAIT_SECONDS)

    def queries_due(self, store: Store, index: int) -> int:
        """Return what the schedule asks for; a skipped query is replaced, if it does not count."""
        counts = store.counts()
        if self.skips_count:
            counts = counts._replace(answered=counts.asked - counts.pending)
        return _still_to_ask(counts, labels_due(self.config, index), self.config, index)

    def explores_again(self, index: int) -> bool:
        """Return False: this teacher would skip again."""
        return False

    def pictures(self, segments: Sequence[Segment]) -> Mapping[str, Picture]:
        """Return none: nobody looks."""
        return {}


def _let_answer(store: Store, teachers: Teacher | Mapping[str, Teacher]) -> None:
    """Let whoever answers in this process answer what is pending, one aspect after another."""
    if isinstance(teachers, Mapping) and not teachers:  # people answer everything
        return
    by_aspect: dict[str, list[Query]] = {}
    for query in store.pending():
        by_aspect.setdefault(query.aspect, []).append(query)
    if not isinstance(teachers, Mapping) and not by_aspect:
        by_aspect = {"": []}  # a teacher is told that there is nothing, too
    for aspect, queries in by_aspect.items():
        teacher = teachers.get(aspect) if isinstance(teachers, Mapping) else teachers
        if teacher is None:  # people do
            continue
        truth = store.truth(queries, aspect) if teacher.sees_true_rewards else None
        for answer in teacher.answer(queries, truth):
            store.answer(answer)


class ByPeople:
    """People answer in another process; a round begins once they have bought its steps."""

    def __init__(
        self, config: LoopConfig, pictures: ShowClips, distance: Distance | None,
        teachers: Mapping[str, Teacher] = MappingProxyType({}),
    ):  # fmt: skip
        """Keep who answers.

        Args:
            config: of the loop.
            pictures: draws clips that people cannot see otherwise.
            distance: how different two clips look.
            teachers: who answers in this process, by aspect; people answer about the others.
        """
        self.config, self.pictures, self.distance = config, pictures, distance
        self.teachers = teachers

    def wait(self, store: Store, index: int) -> Iterator[Counts]:
        """Yield until enough is answered, or nothing is pending because all of it was skipped."""
        seen: Counts | None = None
        while True:
            _let_answer(store, self.teachers)
            counts = store.counts()
            # A look at an unchanged store costs nothing that grows with it.
            if not counts.pending or (counts != seen and self._is_enough(store, counts, index)):
                return
            seen = counts
            yield counts
            time.sleep(WAIT_SECONDS)

    def _is_enough(self, store: Store, counts: Counts, index: int) -> bool:
        """Return whether people have answered as much of what is needed as is theirs to answer."""
        needed: float = answers_needed(self.config, index)
        if not self.teachers:
            return counts.answered >= needed
        names = {teacher.name for teacher in self.teachers.values()}
        others = {a.query for a in store.answers() if a.teacher in names and a.kind != "skip"}
        own = counts.answered - sum(query.round >= 0 for query in others)
        return own >= needed * (1 - len(self.teachers) / len(self.config.aspects))

    def queries_due(self, store: Store, index: int) -> int:
        """Return enough that some are spare, so nobody runs out while the policy trains."""
        store.expire(index - EXPIRE_ROUNDS)  # before counting what is left to answer
        counts = store.counts()
        due = max(answers_needed(self.config, index + 1), counts.answered) + _spare(self.config)
        return _still_to_ask(counts, due, self.config, index)

    def explores_again(self, index: int) -> bool:
        """Return whether a fit comes later: people who skipped all are shown other clips."""
        return index < self.config.rounds


def _spare(config: LoopConfig) -> int:
    return max(5, round(2 * SPARE_QUERIES / config.query.size))


def answers_needed(config: LoopConfig, index: int) -> int:
    """Return how many labels people must have given before round `index` trains on them.

    Each answer buys `steps / labels` steps. The trainer may be one round ahead, but the last fit
    sees all answers.
    """
    if index >= config.rounds:
        return config.labels
    bought = round(config.labels * (index - 1) / config.rounds)
    return min(max(bought, FIRST_ANSWERS), config.labels) if index else 0


def labels_due(config: LoopConfig, index: int) -> int:
    """Return how many labels should have been asked for by the end of round `index`.

    A first share is about the untrained policy; the rest follow Christiano's hyperbolic rate in
    steps (arXiv 1706.03741, appendix A.1), all in time for the last fit.
    """
    last = config.rounds - 1
    if index >= last:
        return config.labels
    decay, per_round = config.query.decay_steps, config.steps / config.rounds
    decay = decay or (FEW_DECAY_STEPS if config.labels <= FEW_LABELS else MANY_DECAY_STEPS)
    done = math.log1p(index * per_round / decay) / math.log1p(last * per_round / decay)
    first = config.query.first_share
    due = round(config.labels * (first + (1 - first) * done))
    return max(due, min(1, config.labels))  # the first fit needs one


def _still_to_ask(counts: Counts, due: int, config: LoopConfig, index: int) -> int:
    if index >= config.rounds:
        return 0  # no fit comes after the last round
    return max(0, min(due, config.labels) - counts.answered - counts.pending)
