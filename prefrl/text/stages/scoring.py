"""Scores the replies in a file with a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from prefrl.answers import KINDS
from prefrl.errors import UserError
from prefrl.learning.statistics import in_words, share
from prefrl.pace import Pace
from prefrl.storage.texts import reader
from prefrl.storage.texts.conversations import before_reply
from prefrl.storage.texts.examples import Example
from prefrl.storage.texts.forms import COMPARED, DEMONSTRATED
from prefrl.text.reward import CHUNK, ScoresTexts
from prefrl.types import Conversation


@dataclass(frozen=True)
class Scores:
    """What a reward model says of a file."""

    lines: list[dict[str, Any]]
    """One a reply, in their order: `row`, `name` where it has one, `prompt`, `completion`, `score`.
    It is a file of scored completions, which `prefrl fit` reads."""
    agreement: dict[str, Any] | None
    """The share of comparisons whose better reply has the higher score, with an `interval`; those
    of a ranking of K count K − 1. None where nothing is compared."""
    notes: list[str]
    """What the file was taken for, and what else is to be said of it."""


def score_file(model: ScoresTexts, path: Path) -> Scores:
    """Score each reply in a file.

    Raises:
        UserError: the file cannot be read, or a row has no reply.
    """
    texts = reader.read_file(path, model.template.chat)
    for example in texts.examples:
        if example.kind in ("prompt", "exported", "clip"):
            raise UserError(
                f"{example.where}: it is one of {example.form}, in which there is no reply to "
                f"score; expected {COMPARED}; or {DEMONSTRATED}"
            )
    talks = [talk for example in texts.examples for talk in example.conversations]
    scores = iter(_scores(model, talks))
    scored = [(e, [next(scores) for _ in e.conversations]) for e in texts.examples]
    lines = [line for example, found in scored for line in _lines(example, found)]
    return Scores(lines, _agreement(scored), [texts.took, *texts.notes])


def _scores(model: ScoresTexts, talks: Sequence[Conversation]) -> list[float]:
    """Return the scores of conversations, and tell how far they are."""
    pace, scores = Pace("scoring", len(talks)), []
    for begin in range(0, len(talks), CHUNK):
        some = talks[begin : begin + CHUNK]
        scores += model.scores(some)
        pace.step(len(some))
    return scores


def _lines(example: Example, scores: Sequence[float]) -> list[dict[str, Any]]:
    names = example.names or [""] * len(scores)
    return [
        {"row": example.number} | ({"name": name} if name else {})
        | {"prompt": before_reply(talk), "completion": talk.turns[-1][1], "score": score}
        for talk, name, score in zip(example.conversations, names, scores, strict=True)
    ]  # fmt: skip


def _agreement(scored: Sequence[tuple[Example, list[float]]]) -> dict[str, Any] | None:
    right = total = 0.0
    for example, scores in scored:
        if example.kind not in KINDS:
            continue
        weight, value = 2 / len(scores), {"low": 0, "high": 1} | example.value
        for i, j in combinations(range(len(scores)), 2):
            left = KINDS[example.kind].pair(value, i, j)[0]
            if left != 0.5:
                total += weight
                right += weight * ((scores[i] > scores[j]) == (left > 0.5))
    return share(right, total) if total else None


def agreement_in_words(scores: Scores) -> list[str]:
    """Return in a line how often the better reply has the higher score."""
    if scores.agreement is None:
        return []
    return [f"the better reply has the higher score in {in_words(scores.agreement, '.1%')}"]
