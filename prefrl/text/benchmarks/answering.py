"""How likely a language model is to give each answer to a question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefrl.pace import Pace
from prefrl.text.policy import TextPolicy
from prefrl.text.speaker import LocalSpeaker


def log_probabilities(
    policy: TextPolicy, questions: Sequence[str], answers: Sequence[Sequence[str]], name: str
) -> list[np.ndarray]:
    """Return the mean log-probability of a token of each answer, `[answer]` of each question.

    A question is the user's message where the model is spoken to through a chat template; else
    "Question: …" and "Answer:" stand around it. The end of an answer is not counted. NaN where both
    are longer than the model looks back on.

    Args:
        policy: the model.
        questions: what is asked.
        answers: to each.
        name: of the model, to be told.
    """
    if not policy.template.chat:
        questions = [f"Question: {question}\nAnswer:" for question in questions]
        answers = [[f" {answer}" for answer in some] for some in answers]
    speaker = LocalSpeaker(policy, name)
    pace, means = Pace(f"asking {name}", len(questions)), []
    for begin in range(0, len(questions), speaker.at_once):
        some = slice(begin, begin + speaker.at_once)
        means += speaker.likelihoods(questions[some], answers[some])
        pace.step(len(questions[some]))
    return means
