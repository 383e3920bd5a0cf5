"""Which of two policies is better: pairs of clips, one of each, put before any teacher.

The pairs are queries in a feedback store, so people answer them on the page that they know. Who
made a clip is in its `source`, which nobody is shown; sides are random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefrl.config.experiment import OracleConfig
from prefrl.contracts import Teacher
from prefrl.learning.selection import cut
from prefrl.storage.feedback import NO_PICTURES, FeedbackStore
from prefrl.teachers.function import load_teacher
from prefrl.teachers.oracle import Oracle
from prefrl.types import Answer, Picture, Query, QueryId, Segment, Trajectory

SIDES = ("A", "B")
MARK = "comparison"  # such a folder's teacher and state, so that nobody takes it for a run
MEMORY = Path(":memory:")

Pair = tuple[Segment, Segment]
"""A clip of A and one of B."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Clips of two policies, side by side."""

    pairs: list[Pair]
    rewards: dict[str, np.ndarray]
    """The true ones, `[step]` of each clip, by id; for the oracle alone."""


class Verdict(NamedTuple):
    """What was said of one pair."""

    place: int
    """Which pair."""
    first: float | None
    """P(A is better), the mean over whoever answered; None if nobody could tell."""
    left: float | None
    """P(the one on the left is better)."""


def source(side: int, run: Path | str, rounds: int) -> str:
    """Name the maker of clips: "A, runs/one, round 9".

    Args:
        side: 0 or 1.
        run: the run.
        rounds: how many it had finished.
    """
    return f"{SIDES[side]}, {run}, round {rounds - 1}"


def pair_up(
    first: Sequence[Trajectory], second: Sequence[Trajectory], clip_steps: int | None, seed: int
) -> Pairs:
    """Cut one clip of every episode; the n-th of both begin alike and show the same steps.

    Args:
        first: whole episodes of A; their `source` begins with its letter.
        second: of B.
        clip_steps: steps of a clip; None takes whole episodes.
        seed: of the moments.
    """
    pairs, rewards = [], {}
    for place, both in enumerate(zip(first, second, strict=True)):
        clips = []
        for episode in both:
            [clip], reward = cut([episode], clip_steps, 1, np.random.default_rng([seed, place]))
            clips.append(clip)
            rewards |= reward
        pairs.append((clips[0], clips[1]))
    return Pairs(pairs, rewards)


def ask(
    store: FeedbackStore, pairs: Pairs, question: str, seed: int,
    pictures: Mapping[str, Picture] = NO_PICTURES,
) -> None:  # fmt: skip
    """Write the pairs as queries, each with a random one on the left."""
    swapped = np.random.default_rng(seed).random(len(pairs.pairs)) < 0.5
    queries = [
        Query(QueryId(0, place), pair[::-1] if swap else pair, "preference", question)
        for place, (pair, swap) in enumerate(zip(pairs.pairs, swapped, strict=True))
    ]
    store.ask(0, queries, pairs.rewards, 0, pictures)


def judge_named(name: str, seed: int) -> Teacher:
    """Return whoever answers in this process: "oracle" (the true return), or MODULE:OBJECT."""
    return Oracle(OracleConfig(), seed) if name == "oracle" else load_teacher(name)


def judged(pairs: Pairs, teacher: Teacher, question: str, seed: int) -> list[float | None]:
    """Ask a teacher about pairs that need not be kept; return P(A is better) of each.

    A tie is one half, and None what the teacher could not tell.
    """
    with closing(FeedbackStore(MEMORY)) as store:
        ask(store, pairs, question, seed)
        teacher.answer(store)
        return [verdict.first for verdict in verdicts(store)]


def verdicts(store: FeedbackStore) -> list[Verdict]:
    """Return what was said of every pair that somebody answered, in order."""
    said: dict[QueryId, list[float | None]] = {}
    for answer in store.answers():
        if answer.query.round == 0:  # imported ones are below
            said.setdefault(answer.query, []).append(_left(answer))
    found = []
    for query, each in sorted(said.items()):
        told = [left for left in each if left is not None]
        left = float(np.mean(told)) if told else None
        is_left = store.query(query).segments[0].source.startswith(SIDES[0])
        first = left if is_left or left is None else 1 - left
        found.append(Verdict(query.index, first, left))
    return found


def _left(answer: Answer) -> float | None:
    """Return P(left is better), None of a skip and of a rewrite, which compares neither."""
    if answer.kind == "tie":
        return 0.5
    return float(answer.value["left"]) if answer.kind == "preference" else None
