"""Compares two runs, or language models, before a teacher, and reports who won."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from prefrl.errors import UserError
from prefrl.learning.statistics import in_words, share
from prefrl.reports.sides import Setting, Side, maker, name_of, policy_of, setting_of
from prefrl.runs.judges import judge as judge_called
from prefrl.runs.versions import versions
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder, named_by_time
from prefrl.teachers.pairs import (
    SIDES,
    Pairs,
    pair_up,
    queries_of,
    truth_of,
    verdicts,
)
from prefrl.types import Picture, QueryId


def begin(
    path: Path, setting: Setting, pairs: Pairs, question: str,
    pictures: Mapping[str, Picture], versions: dict[str, Any], or_numbered: bool = False,
) -> RunFolder:  # fmt: skip
    """Make a folder that `prefrl label` opens, with the pairs as its queries.

    Args:
        path: the folder to make.
        setting: where the two met.
        pairs: what to ask about.
        question: what to ask.
        pictures: what some clips looked like, by id.
        versions: on record.
        or_numbered: see `RunFolder.begin`.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    folder = RunFolder.begin(path, versions, or_numbered)
    folder.save_card(dataclasses.replace(setting.card, question=question))
    if setting.model is not None:
        shutil.copyfile(setting.model, folder.model)
    with closing(FeedbackStore(folder.feedback)) as store:
        queries = queries_of(pairs, question, setting.experiment.seed)
        store.ask(0, queries, pairs.rewards, 0, pictures)
    experiment = dataclasses.replace(
        setting.experiment, teacher="human", labels=len(pairs.pairs), question=question
    )
    folder.save_experiment(experiment, "comparison")  # last: a kill before it leaves none
    return folder


def check_free(path: Path) -> None:
    """Raise `UserError` if there is something of that name."""
    if path.exists():
        raise UserError(
            f"{path} exists already; give the comparison another name with --into, or see what was "
            f"answered in it with `prefrl compare --report {path}`"
        )


def report(folder: RunFolder) -> dict[str, Any]:
    """Return the answers so far to a comparison's pairs, as JSON values.

    Returns:
        `A`, `B`: their sources; `teachers`: how often each answered; `pairs`, and of them
        `answered`, `wins` and `losses` of A, `ties`, `skips`; `win_rate` of A where one was
        preferred (a probability counts as one), None if there is none; `left`, how often the one on
        the left was.

    Raises:
        UserError: the folder holds no comparison.
    """
    experiment = folder.experiment()
    if folder.kind() != "comparison":
        raise UserError(
            f"{folder.path} is a run, not a comparison of two; make one with "
            f"`prefrl compare {folder.path} OTHER`"
        )
    with closing(FeedbackStore(folder.feedback, read_only=True)) as store:
        answers = [answer for answer in store.answers() if answer.query.round == 0]  # not imported
        queries = [store.query(QueryId(0, index)) for index in range(store.counts().asked)]
    judged = verdicts(queries, answers)
    first = [verdict.first for verdict in judged if verdict.first is not None]
    left = [verdict.left for verdict in judged if verdict.left is not None]
    decided, decided_left = ([p for p in side if p != 0.5] for side in (first, left))
    names = sorted(segment.source for segment in queries[0].segments)
    teachers = Counter(answer.teacher for answer in answers)
    return {
        "env": experiment.env,
        "question": experiment.question,
        **dict(zip(SIDES, names, strict=True)),
        "teachers": dict(teachers),
        "pairs": experiment.labels,
        "answered": len(judged),
        "wins": sum(p > 0.5 for p in decided),
        "losses": sum(p < 0.5 for p in decided),
        "ties": len(first) - len(decided),
        "skips": len(judged) - len(first),
        "win_rate": share(sum(decided), len(decided)) if decided else None,
        "left": share(sum(decided_left), len(decided_left)) if decided_left else None,
    }


def report_in_words(result: dict[str, Any]) -> list[str]:
    """Return a report in lines for a terminal."""
    by = (
        ", ".join(f"{name} ({count})" for name, count in result["teachers"].items()) or "nobody yet"
    )
    decided = result["wins"] + result["losses"]
    lines = [
        *(result[side] for side in SIDES),
        f"{result['env']}: {result['question']}",
        f"answered: {result['answered']} of {result['pairs']} pairs, by {by}",
    ]
    if decided:
        lines += [
            f"A is better in {result['wins']} of {decided}: {in_words(result['win_rate'], '.0%')}",
            f"about equal: {result['ties']}, can't tell: {result['skips']}",
            f"the one on the left was preferred in {in_words(result['left'], '.0%')}",
        ]
    elif result["answered"]:
        lines.append(
            f"nothing was preferred; equal: {result['ties']}, can't tell: {result['skips']}"
        )
    return lines


def compare_runs(
    sides: Sequence[Side], path: Path | None, pairs: int = 50, teacher: str = "oracle",
    question: str = "", env: str = "",
) -> RunFolder:  # fmt: skip
    """Pair clips of two policies and have a teacher answer which are better.

    The clips of a pair begin alike: the same task, or the same start and the same moment. Robots
    take the most probable actions, language models are sampled.

    Args:
        sides: A and B: runs of the same environment, or language models.
        path: the folder to make; `report` reads it, `prefrl label` opens it. By default one in
            `comparisons`, with the names of both and the time.
        pairs: how many.
        teacher: see `runs.judges.judge`, or "human": then nobody has answered yet.
        question: what to ask; A's own question by default.
        env: where two language models meet that are of no run.

    Raises:
        UserError: something does not fit; the message says what. Only a teacher may fail later, and
            then the pairs are kept.
    """
    if pairs <= 0:
        raise UserError(f"--pairs is {pairs}; expected a whole number above 0")
    setting = setting_of(sides, env)
    experiment, domain = setting.experiment, setting.domain
    where = path.absolute() if path else named_by_time("comparisons", "-".join(map(name_of, sides)))
    if path:
        check_free(where)
    judge = None
    if teacher != "human":
        judge = judge_called(teacher, experiment.seed, setting.card.is_text)
    recordings = [
        domain.record(experiment, policy, pairs, maker(index, which), index)
        for index, (which, policy) in enumerate(
            [(which, policy_of(which, setting)) for which in sides]
        )
    ]
    one, other = (recording.trajectories for recording in recordings)
    paired = pair_up(one, other, domain.clip_steps(experiment), experiment.seed)
    shown = {}
    for index, recording in enumerate(recordings if judge is None else ()):
        shown |= recording.pictures([pair[index] for pair in paired.pairs])
    for recording in recordings:
        recording.close()
    asked = question or setting.card.question
    made = begin(where, setting, paired, asked, shown, versions(), or_numbered=path is None)
    if judge is not None:
        with closing(FeedbackStore(made.feedback)) as store:
            for answer in judge.answer(store.pending(), truth_of(paired)):
                store.answer(answer)
    return made
