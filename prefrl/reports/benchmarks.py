"""What benchmarks say of a run's policy beside its reference and base, or of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prefrl.config.text import TextConfig
from prefrl.learning.statistics import aligned, estimate, share
from prefrl.learning.statistics import in_words as interval
from prefrl.reports.sides import began_as, side
from prefrl.storage.folder import RunFolder

if TYPE_CHECKING:
    from prefrl.text.policy import TextPolicy

MEANS = {
    "bbq": (
        "the likeliest of three answers, per token; right: chance is a third. bias: from -1 to 1, "
        "0 is fair, above it stereotypes win",
    ),
    "truthfulqa": (
        "how likely true answers are, not whether likelier than false ones, of which the package "
        "ships none; compare the models",
    ),
    "toxicity": (
        "continuations of texts that often lead to toxic ones; toxic is a score of .5 or more",
    ),
}


@dataclass(frozen=True)
class BenchmarkRequest:
    """What is to be measured."""

    names: tuple[str, ...]
    """Of the benchmarks."""
    rows: int
    """Of each, at most."""
    continuations: int
    """Of each prompt of toxicity."""
    scorer: str | None = None
    """MODULE:OBJECT, gives the toxicity of a text instead of a list of words."""
    base: str = ""
    """A language model to measure beside them."""


def measure(name: str, request: BenchmarkRequest) -> dict[str, Any]:
    """Measure a run's policy, its reference and base, or a language model, by benchmarks.

    Args:
        name: a run, or a language model as `named_policy` takes it.
        request: what is to be measured.

    Returns:
        JSON values by benchmark: `rows`; of each model its measures, means with intervals over
        rows; under "gained" those of the last model less those of the one before.

    Raises:
        UserError: a package is not installed, or there is no such model.
    """
    from prefrl.text.benchmarks import bbq, toxicity, truthfulqa
    from prefrl.text.bias import load_scorer

    modules: dict[str, Any] = {"bbq": bbq, "truthfulqa": truthfulqa, "toxicity": toxicity}
    loaded = {each: modules[each].load(request.rows) for each in dict.fromkeys(request.names)}
    options = {}
    if "toxicity" in loaded:
        score = load_scorer(request.scorer) if request.scorer else toxicity.by_words()
        options["toxicity"] = {"continuations": request.continuations, "score": score}
    models, notes = _models(name, request.base)
    report: dict[str, Any] = {"notes": notes} if notes else {}
    for each, rows in loaded.items():
        measured = {
            which: modules[each].measure(policy, rows, which, **options.get(each, {}))
            for which, policy in models.items()
        }
        report[each] = {"rows": len(rows)} | _summed_up(measured)
    return report


def _models(name: str, base: str) -> tuple[dict[str, TextPolicy], list[str]]:
    """Return the models by what they are to each other, the newest last, and notes."""
    from prefrl.text.policy import named_policy

    which = side(name)
    if isinstance(which, RunFolder):
        return began_as(which, "--benchmark", base)
    model = named_policy(which, TextConfig())
    if not base:
        return {"model": model}, []
    return {"base": named_policy(base, TextConfig()), "model": model}, []


def _summed_up(measured: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Return means with intervals of each model's measures `[row]`, and of what the last gained."""
    *before, last = measured
    report: dict[str, Any] = {
        which: {what: _mean(values) for what, values in measures.items()}
        for which, measures in measured.items()
    }
    if before:
        newest, older = measured[last], measured[before[-1]]
        report["gained"] = {what: _mean(newest[what] - older[what], True) for what in newest}
    return report


def _mean(values: np.ndarray, differ: bool = False) -> dict[str, Any] | None:
    """Return the mean of what is no NaN, with its interval; None of nothing.

    Args:
        values: `[row]`.
        differ: they are differences, so what is all 0 or 1 is no share.
    """
    there = values[~np.isnan(values)]
    if not len(there):
        return None
    if not differ and ((there == 0) | (there == 1)).all():
        return share(float(there.sum()), len(there))  # a bootstrap of equal ones shows no doubt
    return estimate(there)


def in_words(report: Mapping[str, Any]) -> list[str]:
    """Return what `measure` reports, for a terminal."""
    lines: list[str] = []
    for name, found in report.items():
        if name == "notes":
            continue
        sides = {which: found[which] for which in found if which != "rows"}
        rows = [("", *sides)]
        rows += [
            (what, *(interval(measures[what], ".3f") for measures in sides.values()))
            for what in next(iter(sides.values()))
        ]
        lines += [f"{name}, {found['rows']} rows; 95 % intervals over them"]
        lines += [*aligned(rows), *MEANS[name], ""]
    return [*lines[:-1], *report.get("notes", [])]
