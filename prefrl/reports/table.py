"""Puts what the runs of a sweep came to into a table: in words and as CSV.

A row is of the runs that differ in their seed alone. Ratios are to the runs on the true reward in
the same environment, with the same steps.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefrl.config.sweep import SEED, Cell, Sweep, axes_in_words, value_in_words
from prefrl.errors import UserError
from prefrl.learning.statistics import Scored, aligned, over_runs, ratios
from prefrl.learning.statistics import in_words as interval
from prefrl.runs.cell import is_finished, request_of
from prefrl.runs.versions import differences
from prefrl.storage.sweeps import SweepFolder

RETURN = "true return"
NONE = "–"
NAMED = 3  # unfinished runs that are named
COUNTS = ("runs", "answers", "clips", "steps", "seconds")

Estimates = dict[str, dict[str, Any]]
"""`mean` and `iqm`, each as `mean` and `interval`."""


@dataclass(frozen=True)
class Row:
    """What the runs of one cell, all seeds, came to; or those of a method, in all tasks."""

    axes: dict[str, Any]
    tasks: int
    runs: int
    answers: float
    """That taught; like all that follows a mean over runs."""
    clips: float
    """That were watched for these answers."""
    steps: float
    seconds: float
    value: Estimates | None
    """None of several tasks, whose returns have nothing in common."""
    ratio: Estimates | None
    """None where there is no true reward to compare with, and of that itself."""


@dataclass(frozen=True)
class Table:
    """What a sweep came to."""

    number: str
    """What `value` is of: the true return, or a number that the environment reports."""
    rows: list[Row]
    tasks: tuple[str, ...]
    """The axes that say in which environment."""
    notes: list[str]


@dataclass(frozen=True)
class _Run:
    """One run that has finished."""

    cell: Cell
    answers: int
    clips: int
    steps: int
    seconds: float
    value: float
    zero: float | None

    @property
    def task(self) -> str:
        """What runs must have in common for a ratio."""
        experiment = self.cell.experiment
        horizon = getattr(experiment.domain, "horizon", None)
        return json.dumps([experiment.env, experiment.env_kwargs, experiment.steps, horizon])


def tabulate(folder: SweepFolder, number: str = "") -> Table:
    """Return what the finished runs of a sweep came to.

    Args:
        folder: of the sweep.
        number: what the environment reports at an episode's end, instead of the true return.

    Raises:
        UserError: no run has finished, or they do not report this number.
    """
    sweep = folder.sweep()
    request = request_of(sweep)
    done = [cell for cell in sweep.cells if is_finished(folder.run(cell), request)]
    if not done:
        raise UserError(
            f"no run of {folder.path} has finished yet; go on with `prefrl sweep {folder.path}`"
        )
    runs = [_run(cell, folder.run(cell).evaluation(), number) for cell in done]
    groups: dict[str, list[_Run]] = {}
    for run in sorted(runs, key=lambda run: _order(sweep, run.cell)):
        groups.setdefault(json.dumps(_without_seed(run.cell.axes)), []).append(run)
    rows = [_row(group, _reference(group, groups.values())) for group in groups.values()]
    rows += _overall(sweep, [*groups.values()])
    return Table(number or RETURN, rows, sweep.tasks, _notes(folder, sweep, done))


def _order(sweep: Sweep, cell: Cell) -> tuple[int, int]:
    """Return where a row stands: task by task, then as the file has it."""
    task, alike = task_of(sweep.tasks, cell.axes), _without_seed(cell.axes)
    tasks = [task_of(sweep.tasks, other.axes) for other in sweep.cells]
    return tasks.index(task), [_without_seed(c.axes) for c in sweep.cells].index(alike)


def task_of(tasks: Sequence[str], axes: dict[str, Any]) -> dict[str, Any]:
    """Return the axes that say in which environment."""
    return {axis: value for axis, value in axes.items() if axis in tasks}


def _without_seed(axes: dict[str, Any]) -> dict[str, Any]:
    return {axis: value for axis, value in axes.items() if axis != SEED}


def _run(cell: Cell, evaluation: dict[str, Any], number: str) -> _Run:
    report = evaluation["report"]
    labels = report["labels"]
    nothing_learned = evaluation["baseline"] or report["reference"]
    return _Run(
        cell, labels["answered"], labels["clips"], report["steps"], evaluation["seconds"],
        _value(report["policy"], number), nothing_learned and _value(nothing_learned, number),
    )  # fmt: skip


def _value(achieved: dict[str, Any], number: str) -> float:
    if not number:
        return achieved["true_return"]["mean"]
    if number not in achieved["info"]:
        known = ", ".join(achieved["info"]) or "none"
        raise UserError(f"--number is {number!r}; what the environment reports is: {known}")
    return achieved["info"][number]


def _row(group: Sequence[_Run], reference: Sequence[_Run] | None) -> Row:
    value = over_runs([run.value for run in group])
    ratio = ratios([_scored(group, reference)]) if reference else None
    return Row(_without_seed(group[0].cell.axes), 1, *_counts(group), value, ratio)


def _counts(group: Sequence[_Run]) -> tuple[int, float, float, float, float]:
    means = [np.mean([getattr(run, name) for run in group]) for name in COUNTS[1:]]
    answers, clips, steps, seconds = map(float, means)
    return len(group), answers, clips, steps, seconds


def _scored(group: Sequence[_Run], reference: Sequence[_Run]) -> Scored:
    zeros = [run.zero for run in reference if run.zero is not None]
    return Scored([run.value for run in group], [run.value for run in reference], zeros)


def _reference(group: Sequence[_Run], groups: Any) -> Sequence[_Run] | None:
    """Return the runs on the true reward that a group is compared with, None if there are none.

    Of several those that have most in common with it.
    """
    if group[0].cell.experiment.reward == "true":
        return None
    axes = group[0].cell.axes
    known = [
        other
        for other in groups
        if other[0].cell.experiment.reward == "true"
        and other[0].task == group[0].task
        and all(run.zero is not None for run in other)
    ]
    return max(known, key=lambda other: _in_common(axes, other[0].cell.axes), default=None)


def _in_common(axes: dict[str, Any], other: dict[str, Any]) -> int:
    return sum(axis in other and other[axis] == value for axis, value in axes.items())


def _overall(sweep: Sweep, groups: list[list[_Run]]) -> list[Row]:
    """Return a row for each method that has a ratio in more than one task, and in all of its."""
    methods: dict[str, list[list[_Run]]] = {}
    for group in groups:
        if group[0].cell.experiment.reward != "true":
            key = json.dumps(method_of(sweep.tasks, group[0].cell.axes))
            methods.setdefault(key, []).append(group)
    rows = []
    for key, found in methods.items():
        references = [_reference(group, groups) for group in found]
        if len(found) < 2 or None in references:
            continue
        scored = [_scored(g, r) for g, r in zip(found, references, strict=True) if r is not None]
        together = [run for group in found for run in group]
        rows.append(Row(json.loads(key), len(found), *_counts(together), None, ratios(scored)))
    return rows


def method_of(tasks: Sequence[str], axes: dict[str, Any]) -> dict[str, Any]:
    """Return the axes that say neither in which environment nor with which seed."""
    return {a: value for a, value in _without_seed(axes).items() if a not in tasks}


def _notes(folder: SweepFolder, sweep: Sweep, done: list[Cell]) -> list[str]:
    notes = []
    left = [cell for cell in sweep.cells if cell not in done]
    if left:
        names = "; ".join(axes_in_words(cell.axes) for cell in left[:NAMED])
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        notes.append(
            f"runs that have not finished: {len(left)} of {len(sweep.cells)} ({names}{more})"
        )
    outcomes = [(cell, folder.run(cell).outcome().get("error")) for cell in left]
    if failed := [f"{axes_in_words(cell.axes)}: {error}" for cell, error in outcomes if error]:
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        notes.append(f"runs that failed: {len(failed)} ({'; '.join(failed[:NAMED])}{more})")
    made_by = [folder.run(cell).versions() for cell in done]
    for other in made_by[1:]:
        if other != made_by[0]:
            parts = "; ".join(differences(made_by[0], other))
            notes.append(f"the runs were not all made by the same versions: {parts}")
            break
    return notes


def in_words(table: Table) -> list[str]:
    """Return a table in lines for a terminal."""
    axes = varying(table)
    has_ratio = any(row.ratio for row in table.rows)
    head = [*axes, *COUNTS, table.number, "IQM", *(["ratio", "IQM ratio"] if has_ratio else [])]
    lines = [head]
    for row in table.rows:
        cells = [value_in_words(row.axes.get(axis, NONE)) for axis in axes]
        if row.tasks > 1:
            cells = [
                f"all {row.tasks}" if axis in table.tasks else c
                for axis, c in zip(axes, cells, strict=True)
            ]
        cells += [f"{getattr(row, name):,.0f}" for name in COUNTS]
        for estimates, style in ((row.value, ".4g"), (row.ratio, ".2f"))[: 1 + has_ratio]:
            cells += [_in_words(estimates, name, row.runs, style) for name in ("mean", "iqm")]
        lines.append(cells)
    told = "means and interquartile means (IQM) over runs, with 95 % bootstrap intervals"
    if has_ratio:
        told += "; ratio: (it - random actions) / (true reward - random actions)"
    return [*aligned(lines), told, *(f"note: {note}" for note in table.notes)]


def _in_words(estimates: Estimates | None, name: str, runs: int, style: str) -> str:
    if estimates is None:
        return NONE
    found = estimates[name]
    return interval(found, style) if runs > 1 else format(found["mean"], style)


def varying(table: Table) -> list[str]:
    """Return the axes on which rows differ."""
    known = {axis: None for row in table.rows for axis in row.axes}
    return [
        axis for axis in known
        if len({json.dumps(row.axes.get(axis)) for row in table.rows if row.tasks == 1}) > 1
    ]  # fmt: skip


def as_csv(table: Table) -> str:
    """Return a table as CSV: a column for each axis, count, estimate and end of an interval."""
    axes = list({axis: None for row in table.rows for axis in row.axes})
    ends = ("", "_low", "_high")
    value = table.number.replace(" ", "_")
    estimated = [f"{what}_{name}" for what in (value, "ratio") for name in ("mean", "iqm")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*axes, "tasks", *COUNTS, *(name + end for name in estimated for end in ends)])
    for row in table.rows:
        cells = [value_in_words(row.axes.get(axis, "")) for axis in axes]
        cells += [getattr(row, name) for name in ("tasks", *COUNTS)]
        for estimates in (row.value, row.ratio):
            for name in ("mean", "iqm"):
                found = estimates and estimates[name]
                cells += [found["mean"], *found["interval"]] if found else [""] * len(ends)
        writer.writerow(cells)
    return file.getvalue()
