"""Which of two policies is better: pairs of clips before any teacher.

The pairs are queries like those of a run, so people answer them on the page that they know. Who
made a clip is in its `source`, which nobody is shown; sides are random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefrl.config.learning import TEACHERS
from prefrl.contracts import Teacher
from prefrl.learning.selection import check_lengths, stretch
from prefrl.teachers.function import load_teacher
from prefrl.teachers.oracle import Oracle
from prefrl.types import Answer, Query, QueryId, Segment, Trajectory, Truth, steps_to_end

SIDES = ("A", "B")

Pair = tuple[Segment, Segment]
"""A clip of A and one of B."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Clips of two policies, side by side."""

    pairs: list[Pair]
    rewards: dict[str, np.ndarray]
    """The true ones, `[step]` of each clip, by id; for the oracle alone."""


class Verdict(NamedTuple):
    """The answers to one pair."""

    pair: int
    """Which one."""
    first: float | None
    """P(A is better), the mean over all who answered; None if nobody could tell."""
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
    """Cut one clip of each episode; the n-th clips of A and B begin alike and show the same steps.

    At least one of the two moves for half of them, where an episode ended early.

    Args:
        first: whole episodes of A; their `source` begins with its letter.
        second: of B.
        clip_steps: steps of a clip; None takes whole episodes.
        seed: draws which steps.
    """
    pairs, rewards = [], {}
    for index, both in enumerate(zip(first, second, strict=True)):
        start = 0
        if clip_steps is not None:
            check_lengths(both, clip_steps)
            moving = max(map(steps_to_end, both)) - (clip_steps + 1) // 2 + 1
            starts = np.clip(moving, 1, len(both[0]) - clip_steps + 1)
            start = int(np.random.default_rng([seed, index]).choice(starts, 1, replace=False)[0])
        clips = []
        for episode in both:
            clip, reward = stretch(episode, start, clip_steps or len(episode))
            clips.append(clip)
            rewards[clip.id] = reward
        pairs.append((clips[0], clips[1]))
    return Pairs(pairs, rewards)


def queries_of(pairs: Pairs, question: str, seed: int) -> list[Query]:
    """Return the pairs as queries, each with a random one on the left."""
    swapped = np.random.default_rng(seed).random(len(pairs.pairs)) < 0.5
    return [
        Query(QueryId(0, index), pair[::-1] if swap else pair, "preference", question)
        for index, (pair, swap) in enumerate(zip(pairs.pairs, swapped, strict=True))
    ]


def truth_of(pairs: Pairs) -> Truth:
    """Return what the oracle judges by."""
    return Truth(pairs.rewards, {0: [*pairs.rewards]})


def judge_named(name: str, seed: int) -> Teacher:
    """Return a teacher in this process: one of `TEACHERS` (the true return), or MODULE:OBJECT."""
    return Oracle(TEACHERS[name], seed) if name in TEACHERS else load_teacher(name)


def judged(pairs: Pairs, teacher: Teacher, question: str, seed: int) -> list[float | None]:
    """Ask a teacher about pairs that need not be kept; return P(A is better) of each.

    A tie is one half; None means that the teacher could not tell.
    """
    queries = queries_of(pairs, question, seed)
    truth = truth_of(pairs) if teacher.sees_true_rewards else None
    answers = list(teacher.answer(queries, truth))
    return [verdict.first for verdict in verdicts(queries, answers)]


def verdicts(queries: Sequence[Query], answers: Sequence[Answer]) -> list[Verdict]:
    """Return the verdict on every pair that somebody answered, in order."""
    by_query: dict[QueryId, list[float | None]] = {}
    for answer in answers:
        by_query.setdefault(answer.query, []).append(_left(answer))
    judged_pairs = []
    for query in queries:
        if query.id not in by_query:
            continue
        preferences = [left for left in by_query[query.id] if left is not None]
        left = float(np.mean(preferences)) if preferences else None
        is_left = query.segments[0].source.startswith(SIDES[0])
        first = left if is_left or left is None else 1 - left
        judged_pairs.append(Verdict(query.id.index, first, left))
    return judged_pairs


def _left(answer: Answer) -> float | None:
    """Return P(left is better); None for a skip or a rewrite, which compare nothing."""
    if answer.kind == "tie":
        return 0.5
    return float(answer.value["left"]) if answer.kind == "preference" else None
