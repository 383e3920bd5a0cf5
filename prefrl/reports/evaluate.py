"""Puts what a run's policy achieves in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from prefrl.learning.statistics import aligned
from prefrl.learning.statistics import in_words as interval
from prefrl.reports.sides import began_as
from prefrl.storage.folder import RunFolder
from prefrl.types import Achieved, Evaluation


def report_bias(
    folder: RunFolder, words: Path | None = None, scorer: str | None = None
) -> dict[str, Any]:
    """Report bias and toxicity of a language model beside its reference; see `text.bias`.

    Where the run fine-tuned the reference itself, the model before that is a third.
    """
    models, notes = began_as(folder, "--wording")

    from prefrl.text.bias import measure_bias

    report = measure_bias(
        models["policy"], models["reference"], folder.experiment().seed, words, scorer,
        models.get("base"),
    )  # fmt: skip
    return report | ({"notes": notes} if notes else {})


def _which(reward: str) -> str:
    return f"{reward} reward" if reward in ("learned", "true") else f"reward of {reward}"


def in_words(report: dict[str, Any]) -> list[str]:
    """Return what `evaluate_run` reports, and `wording` if it is there, for a terminal."""
    labels = report["labels"]
    minutes = f", {labels['minutes']:.0f} minutes" if "minutes" in labels else ""
    fields = {field.name for field in dataclasses.fields(Evaluation)}
    evaluation = {name: value for name, value in report.items() if name in fields}
    reference = evaluation.pop("reference")
    policy = Achieved(**evaluation.pop("policy"))
    whole = Evaluation(
        policy=policy, reference=Achieved(**reference) if reference else None, **evaluation
    )
    lines = [
        f"{report['env']}, {_which(report['reward'])}, {report['steps']} steps",
        f"labels: {labels['answered']} answered of {labels['asked']} asked, "
        f"{labels['clips']} clips watched{minutes}",
        *evaluation_in_words(whole),
    ]
    if "wording" in report:
        from prefrl.text import bias

        lines += ["", *bias.in_words(report["wording"])]
    return lines


def evaluation_in_words(evaluation: Evaluation) -> list[str]:
    """Return an evaluation in lines for a terminal: one policy, or two side by side."""
    if evaluation.reference is None:
        achieved = evaluation.policy
        mean, std = achieved.true_return["mean"], achieved.true_return["std"]
        return [
            f"true return: {mean:.1f} ± {std:.1f} over {evaluation.episodes} episodes",
            *(f"{name}: {value:.3f}" for name, value in achieved.info.items()),
            *(f"note: {note}" for note in evaluation.notes),
        ]
    lines = [
        f"{evaluation.episodes} tasks, replies sampled; means with 95 % intervals over tasks",
        *aligned(_rows(evaluation, evaluation.reference)),
        f"who wins is said by {evaluation.teacher}; a tie is half a win (there are "
        f"{evaluation.ties}), {evaluation.skips} skipped",
        *(f"note: {note}" for note in evaluation.notes),
    ]
    for shown in evaluation.completions:
        lines += ["", f"prompt: {shown['prompt']}"]
        for side in ("reference", "policy"):
            lines += [f"{side} ({shown[side]['true_return']:.3f}):"]
            lines += [f"    {line}" for line in shown[side]["text"].split("\n")]
    return lines


def _rows(evaluation: Evaluation, reference: Achieved) -> list[tuple[str, ...]]:
    sides = (reference, evaluation.policy)
    returns = [side.true_return for side in sides]
    return [
        ("", "reference", "policy"),
        ("true return", *(interval(value, ".3f") for value in returns)),
        ("  deviation", *(f"{value['std']:.3f}" for value in returns)),
        ("  gained", "", interval(evaluation.gain, ".3f")),
        *(
            [("  over what is asked to be worst", "", interval(evaluation.asked_gap, ".3f"))]
            if evaluation.asked_gap
            else []
        ),
        ("tokens of a reply", *(interval(side.tokens, ".1f") for side in sides)),
        ("entropy of a token", *(f"{side.entropy:.3f} nats" for side in sides)),
        ("replies that end", *(f"{side.finished:.0%}" for side in sides)),
        *(
            (name, *(f"{side.info[name]:.3f}" for side in sides))
            for name in reference.info
            if name in evaluation.policy.info
        ),
        ("KL from the reference", "", interval(evaluation.kl, ".2f", " nats")),
        ("wins", "", interval(evaluation.win_rate, ".0%")),
        ("  were replies equally long", "", interval(evaluation.length_controlled, ".0%")),
    ]
