"""Evaluates a run's policy in fresh episodes."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from typing import Any

from prefrl.config.learning import REVISER, is_model, is_reward
from prefrl.contracts import EvaluationRequest
from prefrl.errors import UserError
from prefrl.runs.domains import domain_of
from prefrl.runs.judges import judge
from prefrl.runs.load import load_policy
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder


def evaluate_run(folder: RunFolder, request: EvaluationRequest) -> dict[str, Any]:
    """Play fresh episodes with a run's policy and report everything a comparison needs.

    Returns:
        JSON values: what was trained (`env`, `steps`, `seed`, `reward`, `labels`; of people, with
        the minutes that their answers took) and the fields of `Evaluation`.

    Raises:
        UserError: something does not fit the run; the message says what.
    """
    if request.episodes <= 0:
        raise UserError(f"--episodes is {request.episodes}; expected a whole number above 0")
    if request.show < 0:
        raise UserError(f"--show is {request.show}; expected a number of tasks, or 0")
    experiment = folder.experiment()
    with closing(FeedbackStore(folder.feedback, read_only=True)) as store:
        counts = store.counts()
    minutes = {"minutes": round(counts.seconds / 60, 1)} if experiment.asks_people else {}
    if request.teacher is not None and is_reward(request.teacher) and folder.card().is_text:
        judged_by = judge(request.teacher, experiment.seed, is_text=True)
        request = dataclasses.replace(request, judge=judged_by)
    elif request.teacher is None and experiment.teacher.startswith(REVISER):
        request = dataclasses.replace(request, teacher="oracle")  # a reviser compares nothing
    elif is_model(request.teacher or experiment.teacher) and folder.card().is_text:
        name = request.teacher or experiment.teacher
        own = experiment.judge if name == experiment.teacher else None
        judged_by = judge(name, experiment.seed, True, own)
        request = dataclasses.replace(request, judge=judged_by)
    policy = load_policy(folder.path)
    evaluation = domain_of(folder).evaluate(folder, experiment, policy, request)
    return {
        "env": experiment.env,
        "steps": folder.metrics()[-1]["steps"] if folder.metrics() else 0,
        "seed": experiment.seed,
        "reward": experiment.reward,
        "labels": {
            "asked": counts.asked, "answered": counts.answered, "decisive": counts.decisive,
            "clips": counts.clips,
        } | minutes,
    } | dataclasses.asdict(evaluation)  # fmt: skip
