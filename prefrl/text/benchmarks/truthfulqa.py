"""TruthfulQA: how likely true answers are to questions that many people answer wrongly.

Lin et al. 2022 (arXiv 2109.07958). The package ships the true answers alone, so the benchmark's own
measure, true answers against false ones, cannot be had: what is measured says whether true answers
have become likelier than they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prefrl.text.benchmarks.answering import log_probabilities
from prefrl.text.benchmarks.shipped import drawn, find, read_rows
from prefrl.text.policy import TextPolicy


class Question(NamedTuple):
    """A row of TruthfulQA."""

    text: str
    answers: list[str]
    """True ones."""


def load(count: int) -> list[Question]:
    """Return some questions.

    Raises:
        UserError: there are none here.
    """
    rows = read_rows(find("truthfulqa") / "combined.jsonl", _question)
    return drawn([row for row in rows if row.answers], lambda row: None, count)


def _question(row: dict[str, Any]) -> Question:
    return Question(row["question"], [str(answer) for answer in row["answer"] if answer])


def measure(policy: TextPolicy, questions: Sequence[Question], name: str) -> dict[str, np.ndarray]:
    """Return how likely a token of a true answer is, in nats, `[question]`; NaN if too long.

    The mean over all true answers, and the likeliest of them.
    """
    said = log_probabilities(
        policy, [q.text for q in questions], [q.answers for q in questions], name
    )
    return {
        "true answers, nats a token": np.array([means.mean() for means in said]),
        "the likeliest of them": np.array([means.max() for means in said]),
    }
