"""What a run has to show: its evaluation, its video, its learning curve."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from prefrl.environments import ids
from prefrl.errors import UserError
from prefrl.runs.load import load_policy
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder


def evaluate_run(
    folder: RunFolder,
    episodes: int,
    sample: bool = False,
    teacher: str | None = None,
    show: int = 0,
) -> dict[str, Any]:
    """Play fresh episodes with a run's policy and report everything a comparison needs.

    Args:
        folder: the run.
        episodes: how many, each from its own start, or a task each.
        sample: sample actions as training does, instead of taking the most probable; replies of
            language models are always sampled.
        teacher: who says whether a language model's replies are better than its reference's; by
            default the function that the run was taught by, if it was, else the oracle.
        show: how many tasks to show both replies of.

    Raises:
        UserError: something does not go with the run; the message says what.
    """
    if episodes <= 0:
        raise UserError(f"--episodes is {episodes}; expected a whole number above 0")
    if show < 0:
        raise UserError(f"--show is {show}; expected a number of tasks, or 0")
    experiment = folder.experiment()
    if show or teacher is not None:
        _check_speaks(folder, "--show" if show else "--teacher")
    store = FeedbackStore(folder.feedback)
    counts = store.counts()
    store.close()
    policy = load_policy(folder.path)
    return {
        "env": experiment.env,
        "steps": folder.metrics()[-1]["steps"] if folder.metrics() else 0,
        "seed": experiment.seed,
        "reward": experiment.reward,
        "labels": {
            "asked": counts.asked, "answered": counts.answered, "decisive": counts.decisive,
        },
    } | _evaluation(experiment.env).evaluate(
        folder, policy, episodes, sample=sample, teacher=teacher, show=show
    )  # fmt: skip


def weigh_wording(
    folder: RunFolder, words: Path | None = None, scorer: str | None = None
) -> dict[str, Any]:
    """Report bias and toxicity of a language model beside its reference; see `text.wording`.

    Where the run fine-tuned the reference itself, the model before that is a third.
    """
    _check_speaks(folder, "--wording")
    policy = load_policy(folder.path)

    from prefrl.text.bias import wording
    from prefrl.text.evaluation import base_policy, reference_policy

    reference, base, notes = reference_policy(folder, policy), None, []
    try:
        base = base_policy(folder, policy)
    except UserError as error:  # the run is whole without it
        notes.append(f"note: without the model before it was fine-tuned. {error}")
    found = wording(policy, reference, folder.experiment().seed, words, scorer, base)
    return found | ({"notes": notes} if notes else {})


def in_words(report: dict[str, Any]) -> list[str]:
    """Return what `evaluate_run` found, and `wording` if it is there, for a terminal."""
    labels = report["labels"]
    lines = [
        f"{report['env']}, {report['reward']} reward, {report['steps']} steps",
        f"labels: {labels['answered']} answered of {labels['asked']} asked",
        *_evaluation(report["env"]).in_words(report),
    ]
    if "wording" in report:
        from prefrl.text import bias as wording

        lines += ["", *wording.in_words(report["wording"])]
    return lines


def _evaluation(env: str) -> Any:
    """Return the module that evaluates in an environment: of numbers, or of text."""
    side = "text" if ids.speaks(ids.resolve(env)) else "control"
    return importlib.import_module(f"prefrl.{side}.evaluation")


def _check_speaks(folder: RunFolder, option: str) -> None:
    env = folder.experiment().env
    if not ids.speaks(ids.resolve(env)):
        raise UserError(
            f"{option} is for language models, but {folder.path} is of {env}, which does not speak "
            f"text; leave {option} out"
        )
