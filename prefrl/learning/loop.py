"""The loop: answers → fit → calibrate → train → cut → choose → ask → yield, round after round.

The same function drives a robot and a language model. All it knows of the agent, the reward model
and the teacher are the protocols; logging, checkpoints and pictures are the caller's `for` body.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from prefrl.config.experiment import LoopConfig
from prefrl.contracts import Agent, RewardModel, Teacher
from prefrl.errors import UserError
from prefrl.learning.reward import FitState, fit
from prefrl.learning.selection import ACQUISITIONS, Distance, choose, cut, drop_alike, propose
from prefrl.storage.feedback import Counts, FeedbackStore
from prefrl.types import Comparison, Query, QueryId, Trajectory

WAIT_SECONDS = 1.0

# While people answer: the first fit needs so many answers, so many queries more than the next round
# needs are kept at hand, and those of policies so many rounds old are withdrawn.
FIRST_ANSWERS = 15
SPARE_QUERIES = 15
EXPIRE_ROUNDS = 3


@dataclass(frozen=True)
class Round:
    """What the caller of the loop is told."""

    index: int
    state: Literal["waiting", "exploring", "fitting", "training", "done"]
    """What happens next, or "done": the round is complete."""
    counts: Counts
    """All queries and answers so far."""
    metrics: dict[str, float] = field(default_factory=dict)
    """A function of config, seed and ledger alone."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds spent in each part of the round."""


class LoopState:
    """All that one round hands to the next, but for the store, the agent and the reward model."""

    def __init__(self, reward_model: RewardModel, config: LoopConfig):
        self.round = 0
        self.steps = 0
        """Steps trained, exploration not counted."""
        self.fit = FitState(reward_model, config.fit, config.seed)
        self.sample: list[Trajectory] = []

    def state_dict(self) -> dict[str, Any]:
        """Return everything as arrays and plain values."""
        sample = [[t.observations, t.actions, t.env_rewards, t.extras] for t in self.sample]
        return {
            "round": self.round,
            "steps": self.steps,
            "fit": self.fit.state_dict(),
            "sample": sample,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.round, self.steps = state["round"], state["steps"]
        self.fit.load_state_dict(state["fit"])
        self.sample = [Trajectory(*arrays) for arrays in state["sample"]]


def preference_loop(
    agent: Agent,
    reward_model: RewardModel,
    teacher: Teacher | None,
    feedback: FeedbackStore,
    config: LoopConfig,
    state: LoopState,
) -> Iterator[Round]:
    """Run the rounds that `state` has still before it; yield each once everything is in place.

    At every yield with state "done", the store and the state dicts of the agent, the reward model
    and `state` hold all that the next round needs.

    Args:
        agent: explores, then trains.
        reward_model: what the answers are fitted with.
        teacher: answers what a round asks before the next begins; None if people do, in their own
            time: then a round begins as soon as they have answered enough for its steps.
        feedback: the store; a round that it knows already is repeated as it was.
        config: the knobs.
        state: where to begin; it is changed.
    """
    for index in range(state.round, config.rounds + 1):
        clock, metrics = _Clock(), {}
        known = feedback.ledger(index)  # a round that is redone keeps to it
        if not known:
            yield from _wait(teacher, feedback, config, index)
        clock.lap("answers")
        through = known.answers_through if known else feedback.last_answer()
        comparisons = _comparisons(
            feedback, reward_model, through, config, index, people=teacher is None
        )
        if comparisons is None:
            yield Round(index, "exploring", feedback.counts())
            trajectories = agent.explore(config.query.explore_steps)
        else:
            yield Round(index, "fitting", feedback.counts())
            metrics |= fit(reward_model, comparisons, config.fit, state.fit)
            reward_model.calibrate(state.sample)
            clock.lap("fit")
            yield Round(index, "training", feedback.counts(), metrics)
            due = config.steps * index // config.rounds - state.steps
            trajectories, trained = agent.train(reward_model, due)
            state.steps += sum(map(len, trajectories))
            metrics = trained | metrics
        clock.lap("train")
        if not known:
            if not teacher:
                feedback.expire(index - EXPIRE_ROUNDS)  # before counting what is left to answer
            count = _queries_due(feedback, config, index, people=teacher is None)
            distance = None if teacher else reward_model.distance
            queries, true_rewards = select(
                trajectories, reward_model, config, index, count, distance
            )
            shown = {segment.id: segment for query in queries for segment in query.segments}
            pictures = {} if teacher else agent.pictures(list(shown.values()))
            feedback.ask(index, queries, true_rewards, through, pictures)
        clock.lap("choose")
        state.round = index + 1
        state.sample = reward_model.sample(trajectories, state.sample)
        head = _head(state, feedback, through)
        metrics = head | metrics | head  # what an environment reports must not hide these
        yield Round(index, "done", feedback.counts(), metrics, clock.seconds)


def select(
    trajectories: Sequence[Trajectory],
    reward_model: RewardModel,
    config: LoopConfig,
    index: int,
    count: int,
    distance: Distance | None = None,
) -> tuple[list[Query], dict[str, np.ndarray]]:
    """Cut, propose and choose `count` queries; return them and their clips' true rewards by id.

    The first round is uniform: nothing is fitted yet, so its members' disagreement means nothing.
    With a `distance`, the half of the groups that look most alike is left out before.

    Raises:
        UserError: the trajectories cannot serve so many.
    """
    if count == 0:
        return [], {}
    acquisition = ACQUISITIONS["uniform" if index == 0 else config.query.acquisition]
    plain = acquisition is ACQUISITIONS["uniform"] and distance is None
    pool = 1 if plain else config.query.pool
    generator = np.random.default_rng([config.seed, index])
    size = config.query.clips
    segments, rewards = cut(trajectories, config.clip_steps, size * pool * count, generator)
    candidates = propose(segments, pool * count, generator, size)
    if len(candidates) < count:
        groups = "pairs of clips" if size == 2 else f"groups of {size} clips"
        raise UserError(
            f"{count} queries were due in round {index}, but its {sum(map(len, trajectories))} "
            f"steps give only {len(candidates)} {groups}; ask for fewer --labels, or make rounds "
            "longer (fewer --rounds, more --query.explore-steps)"
        )
    if distance is not None:
        candidates = drop_alike(candidates, max(count, len(candidates) // 2), distance)
    chosen = choose(candidates, count, acquisition, reward_model)
    queries = [
        Query(QueryId(index, place), group, config.query.kind, config.question)
        for place, group in enumerate(chosen)
    ]
    shown = {segment.id for group in chosen for segment in group}
    return queries, {name: rewards[name] for name in rewards if name in shown}


def labels_due(config: LoopConfig, index: int) -> int:
    """Return how many labels should have been asked for by the end of round `index`.

    A first share about the untrained policy, the rest at Christiano's hyperbolic rate in steps
    (arXiv 1706.03741, appendix A.1), all in time for the last fit.
    """
    last = config.rounds - 1
    if index >= last:
        return config.labels
    decay, per_round = config.query.decay_steps, config.steps / config.rounds
    done = math.log1p(index * per_round / decay) / math.log1p(last * per_round / decay)
    first = config.query.first_share
    due = round(config.labels * (first + (1 - first) * done))
    return max(due, min(1, config.labels))  # the first fit needs one


def _head(state: LoopState, feedback: FeedbackStore, through: int) -> dict[str, float]:
    """Return the first numbers of a round's line: where it stands and what its fit saw."""
    index = state.round - 1
    counts = feedback.counts_at(index, through)
    return {
        "round": index, "steps": state.steps, "asked": counts.asked,
        "answered": counts.answered, "decisive": counts.decisive,
    }  # fmt: skip


def answers_needed(config: LoopConfig, index: int) -> int:
    """Return how many labels people must have given before round `index` trains on them.

    Steps are bought by answers, `steps / labels` each; the trainer may be one round ahead, but the
    last fit is given them all.
    """
    if index >= config.rounds:
        return config.labels
    bought = round(config.labels * (index - 1) / config.rounds)
    return min(max(bought, FIRST_ANSWERS), config.labels) if index else 0


def _queries_due(feedback: FeedbackStore, config: LoopConfig, index: int, people: bool) -> int:
    """Return how many queries to ask now; skipped ones are asked for again, as other pairs.

    People are never to run out of queries while the policy trains, so they get some to spare.
    """
    if index >= config.rounds:
        return 0  # no fit comes after the last round
    counts = feedback.counts()
    due = labels_due(config, index)
    if people:
        due = max(answers_needed(config, index + 1), counts.answered) + SPARE_QUERIES
    return max(0, min(due, config.labels) - counts.answered - counts.pending)


def _comparisons(
    feedback: FeedbackStore, reward_model: RewardModel, through: int, config: LoopConfig,
    index: int, people: bool,
) -> list[Comparison] | None:  # fmt: skip
    """Return what a round learns from, None if it explores: there is no reward to train on yet.

    People who skipped all that they were asked are asked about other clips of the untrained policy.
    The true reward learns from nothing.

    Raises:
        UserError: there is none, and there will be none.
    """
    if index == 0:
        return None
    if not list(reward_model.parameters()):
        return []
    comparisons = feedback.comparisons(through, config.fit.margin_scale)
    if comparisons:
        return comparisons
    if not config.labels:
        raise UserError(
            "no labels are asked for (--labels 0), and no answer from elsewhere says anything "
            "about a clip, so there is no reward to train on; add answers with `prefrl import`, or "
            "start a run with --labels or --from"
        )
    if people and index < config.rounds:
        return None
    raise UserError(
        f"no answer so far says anything about a clip ({feedback.counts().asked} queries were "
        "asked, all skipped), so there is no reward to train on; answer some of them"
    )


def _wait(
    teacher: Teacher | None, feedback: FeedbackStore, config: LoopConfig, index: int
) -> Iterator[Round]:
    """Yield about once a second until there are answers enough for round `index`."""
    while True:
        if teacher:
            teacher.answer(feedback)
        counts = feedback.counts()
        enough = not teacher and counts.answered >= answers_needed(config, index)
        if enough or not counts.pending:  # whoever skips everything is asked about other clips
            return
        yield Round(index, "waiting", counts)
        time.sleep(WAIT_SECONDS)


class _Clock:
    """Measures the parts of a round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now
