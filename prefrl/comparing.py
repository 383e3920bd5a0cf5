"""Which of two policies is better: pairs of clips, one of each, put before any teacher.

The pairs are queries in a feedback store, so people answer them on the page that they know. Who
made a clip is in its `source`, which nobody is shown; sides are random.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefrl.config import OracleConfig
from prefrl.errors import UserError
from prefrl.feedback import NO_PICTURES, FeedbackStore
from prefrl.intervals import in_words, share
from prefrl.loop import Teacher
from prefrl.run import RunFolder
from prefrl.selection import cut
from prefrl.teachers import Oracle, load_teacher
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


def begin(
    path: Path, run: RunFolder, pairs: Pairs, question: str, seed: int,
    pictures: Mapping[str, Picture], versions: dict[str, Any],
) -> RunFolder:  # fmt: skip
    """Make a folder that `prefrl label` opens, with the pairs as its queries.

    Args:
        path: the folder to make.
        run: A, which says how clips are shown.
        pairs: what to ask about.
        question: what to ask.
        seed: of the sides.
        pictures: what some clips looked like, by id.
        versions: on record.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    folder = RunFolder.begin(path, versions)
    folder.save_environment(run.environment() | {"question": question})
    if run.model.exists():
        shutil.copyfile(run.model, folder.model)
    with closing(FeedbackStore(folder.feedback)) as store:
        ask(store, pairs, question, seed, pictures)
    folder.save_status({"state": MARK})
    experiment = dataclasses.replace(
        run.experiment(), teacher=MARK, labels=len(pairs.pairs), question=question
    )
    folder.save_experiment(experiment)  # last: a kill before it leaves no run
    return folder


def check_free(path: Path) -> None:
    """Raise `UserError` if there is something of that name."""
    if path.exists():
        raise UserError(
            f"{path} exists already; give the comparison another name with --into, or see what was "
            f"answered in it with `prefrl compare --report {path}`"
        )


def report(folder: RunFolder) -> dict[str, Any]:
    """Return what was said so far of a comparison's pairs, as JSON values.

    Returns:
        `A`, `B`: their sources; `teachers`: how often each answered; `pairs`, and of them
        `answered`, `wins` and `losses` of A, `ties`, `skips`; `win_rate` of A where one was
        preferred (a probability counts as one), None if there is none; `left`, how often the one on
        the left was.

    Raises:
        UserError: the folder holds no comparison.
    """
    experiment = folder.experiment()
    if experiment.teacher != MARK:
        raise UserError(
            f"{folder.path} is a run, not a comparison of two; make one with "
            f"`prefrl compare {folder.path} OTHER`"
        )
    with closing(FeedbackStore(folder.feedback)) as store:
        found = verdicts(store)
        names = sorted(segment.source for segment in store.query(QueryId(0, 0)).segments)
        teachers = Counter(answer.teacher for answer in store.answers() if answer.query.round == 0)
    told = [verdict.first for verdict in found if verdict.first is not None]
    decided = [first for first in told if first != 0.5]
    lefts = [v.left for v in found if v.left is not None and v.left != 0.5]
    return {
        "env": experiment.env,
        "question": experiment.question,
        **dict(zip(SIDES, names, strict=True)),
        "teachers": dict(teachers),
        "pairs": experiment.labels,
        "answered": len(found),
        "wins": sum(first > 0.5 for first in decided),
        "losses": sum(first < 0.5 for first in decided),
        "ties": len(told) - len(decided),
        "skips": len(found) - len(told),
        "win_rate": share(sum(decided), len(decided)) if decided else None,
        "left": share(sum(lefts), len(lefts)) if lefts else None,
    }


def report_in_words(told: dict[str, Any]) -> list[str]:
    """Return a report in lines for a terminal."""
    by = ", ".join(f"{name} ({count})" for name, count in told["teachers"].items()) or "nobody yet"
    decided = told["wins"] + told["losses"]
    lines = [
        *(told[side] for side in SIDES),
        f"{told['env']}: {told['question']}",
        f"answered: {told['answered']} of {told['pairs']} pairs, by {by}",
    ]
    if decided:
        lines += [
            f"A is better in {told['wins']} of {decided}: {in_words(told['win_rate'], '.0%')}",
            f"about equal: {told['ties']}, can't tell: {told['skips']}",
            f"the one on the left was preferred in {in_words(told['left'], '.0%')}",
        ]
    elif told["answered"]:
        lines.append(f"nothing was preferred; equal: {told['ties']}, can't tell: {told['skips']}")
    return lines
