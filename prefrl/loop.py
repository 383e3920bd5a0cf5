"""The loop: answers → fit → calibrate → train → cut → choose → ask → yield, round after round.

The same function drives a robot and a language model. All it knows of the agent, the reward model
and the teacher are the protocols; logging, checkpoints and pictures are the caller's `for` body.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from prefrl.config import LoopConfig
from prefrl.errors import UserError
from prefrl.feedback import Counts, FeedbackStore
from prefrl.reward import FitState, RewardModel, fit
from prefrl.selection import ACQUISITIONS, choose, cut, propose
from prefrl.types import Query, QueryId, Trajectory

CALIBRATION_STEPS = 8192
WAIT_SECONDS = 1.0


class Agent(Protocol):
    """A policy and its optimiser."""

    def explore(self, steps: int) -> list[Trajectory]:
        """Run the untrained policy for about `steps` steps."""
        ...

    def train(
        self, reward_model: RewardModel, steps: int
    ) -> tuple[list[Trajectory], dict[str, float]]:
        """Train for about `steps` steps on predicted rewards; return what was done and metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything: policy, optimisers, normalisers, generators, environments."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        ...


class Teacher(Protocol):
    """Whoever answers queries."""

    def answer(self, feedback: FeedbackStore) -> None:
        """Answer what is pending, or return at once."""
        ...


@dataclass(frozen=True)
class Round:
    """What the caller of the loop is told."""

    index: int
    state: Literal["done", "waiting"]
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
        sample = [[t.observations, t.actions, t.env_rewards] for t in self.sample]
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
    teacher: Teacher,
    feedback: FeedbackStore,
    config: LoopConfig,
    state: LoopState,
) -> Iterator[Round]:
    """Run the rounds that `state` has still before it; yield each once everything is in place.

    At every yield with state "done", the store and the state dicts of the agent, the reward model
    and `state` hold all that the next round needs.
    """
    for index in range(state.round, config.rounds + 1):
        clock, metrics = _Clock(), {}
        known = feedback.ledger(index)  # a round that is redone keeps to it
        through = known.answers_through if known else feedback.last_answer()
        if index == 0:
            trajectories = agent.explore(config.query.explore_steps)
        else:
            comparisons = _comparisons(feedback, through, config)
            metrics |= fit(reward_model, comparisons, config.fit, state.fit)
            reward_model.calibrate(state.sample)
            clock.lap("fit")
            due = config.steps * index // config.rounds - state.steps
            trajectories, trained = agent.train(reward_model, due)
            state.steps += sum(map(len, trajectories))
            metrics = trained | metrics
        clock.lap("train")
        if not known:
            count = _queries_due(feedback, config, index)
            queries, true_rewards = select(trajectories, reward_model, config, index, count)
            feedback.ask(index, queries, true_rewards, through)
        clock.lap("choose")
        yield from _wait(teacher, feedback, index)
        clock.lap("answers")
        state.round = index + 1
        state.sample = _subsample(trajectories, CALIBRATION_STEPS)
        head = _head(state, feedback, through)
        metrics = head | metrics | head  # what an environment reports must not hide these
        yield Round(index, "done", feedback.counts(), metrics, clock.seconds)


def select(
    trajectories: Sequence[Trajectory],
    reward_model: RewardModel,
    config: LoopConfig,
    index: int,
    count: int,
) -> tuple[list[Query], dict[str, np.ndarray]]:
    """Cut, propose and choose `count` queries; return them and their clips' true rewards by id.

    The first round is uniform: nothing is fitted yet, so its members' disagreement means nothing.

    Raises:
        UserError: the trajectories cannot serve so many.
    """
    if count == 0:
        return [], {}
    acquisition = ACQUISITIONS["uniform" if index == 0 else config.query.acquisition]
    pool = 1 if acquisition is ACQUISITIONS["uniform"] else config.query.pool
    generator = np.random.default_rng([config.seed, index])
    segments, rewards = cut(trajectories, config.clip_steps, 2 * pool * count, generator)
    candidates = propose(segments, pool * count, generator)
    if len(candidates) < count:
        raise UserError(
            f"{count} queries were due in round {index}, but its {sum(map(len, trajectories))} "
            f"steps give only {len(candidates)} pairs of clips; ask for fewer --labels, or make "
            "rounds longer (fewer --rounds, more --query.explore-steps)"
        )
    pairs = choose(candidates, count, acquisition, reward_model)
    queries = [
        Query(QueryId(index, place), pair, "preference", config.question)
        for place, pair in enumerate(pairs)
    ]
    shown = {segment.id for pair in pairs for segment in pair}
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
    counts = feedback.counts(before_round=index, through=through)
    return {
        "round": index, "steps": state.steps, "asked": counts.asked,
        "answered": counts.answered, "decisive": counts.decisive,
    }  # fmt: skip


def _queries_due(feedback: FeedbackStore, config: LoopConfig, index: int) -> int:
    """Return how many queries to ask now; skipped ones are asked for again, as other pairs."""
    if index >= config.rounds:
        return 0  # no fit comes after the last round
    counts = feedback.counts()
    return max(0, labels_due(config, index) - counts.answered - counts.pending)


def _comparisons(feedback: FeedbackStore, through: int, config: LoopConfig):
    comparisons = feedback.comparisons(through, config.fit.margin_scale)
    if config.labels and not comparisons:
        raise UserError(
            f"no answer so far says anything about a clip ({feedback.counts().asked} queries were "
            "asked, all skipped), so there is no reward to train on; answer some of them"
        )
    return comparisons


def _wait(teacher: Teacher, feedback: FeedbackStore, index: int) -> Iterator[Round]:
    """Let the teacher answer; while anything is pending, yield about once a second."""
    teacher.answer(feedback)
    while (counts := feedback.counts()).pending:
        yield Round(index, "waiting", counts)
        time.sleep(WAIT_SECONDS)
        teacher.answer(feedback)


def _subsample(trajectories: Sequence[Trajectory], steps: int) -> list[Trajectory]:
    """Keep about `steps` steps, evenly spaced, without what redraws them."""
    stride = max(1, sum(map(len, trajectories)) // steps)
    return [
        Trajectory(t.observations[::stride], t.actions[::stride], t.env_rewards[::stride])
        for t in trajectories
    ]


class _Clock:
    """Measures the parts of a round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now
