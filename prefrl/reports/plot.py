"""Draws learning curves, and the tables of sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefrl.config.experiment import Experiment
from prefrl.config.sweep import axes_in_words, value_in_words
from prefrl.errors import UserError
from prefrl.reports.table import Table, method_of, task_of, varying
from prefrl.storage.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_runs(folders: Sequence[RunFolder], output: Path) -> Path:
    """Draw the learning curves of runs: true return against steps.

    Runs that differ only in their seed become one line, their mean, in a band from the lowest to
    the highest. A dotted line stands where their policy began anew.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[Experiment, list[list[dict[str, Any]]]] = {}
    for folder in folders:
        lines = [line for line in folder.metrics() if "true_return" in line]
        if not lines:
            raise UserError(f"{folder.path} has no finished episode to plot yet")
        alike = dataclasses.replace(folder.experiment(), seed=0)
        groups.setdefault(alike, []).append(lines)
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for experiment, runs in groups.items():
        steps = np.array([line["steps"] for line in runs[0]])
        shortest = min(map(len, runs))
        values = np.array([[line["true_return"] for line in run[:shortest]] for run in runs])
        name = _name(experiment)
        label = f"{name} ({len(runs)} seeds)" if len(runs) > 1 else name
        (line,) = axes.plot(steps[:shortest], values.mean(0), label=label)
        if len(runs) > 1:
            axes.fill_between(
                steps[:shortest], values.min(0), values.max(0), color=line.get_color(), alpha=0.2
            )
        for step in restarts(runs[0]):
            axes.axvline(step, color=line.get_color(), linewidth=1, linestyle=":")
    axes.set(xlabel="environment steps", ylabel="true return of an episode, while training")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, output)
    return output


def restarts(lines: Sequence[dict[str, Any]]) -> list[int]:
    """Return after how many steps an untrained policy began anew, given a run's metrics."""
    made = [line.get("policy_steps", line["steps"]) for line in lines]
    return [lines[i - 1]["steps"] for i in range(1, len(lines)) if made[i] < made[i - 1]]


def _name(experiment: Experiment) -> str:
    if experiment.reward == "true":
        return f"{experiment.env}, true reward"
    if experiment.is_graded:
        return f"{experiment.env}, grades of {experiment.reward}"
    if experiment.given_reward is not None:
        return f"{experiment.env}, reward of {Path(experiment.given_reward).name}"
    return f"{experiment.env}, {experiment.labels} labels"


def plot_table(table: Table, output: Path) -> None:
    """Draw the interquartile means and their intervals, a panel for each task.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    has_ratio = any(row.ratio for row in table.rows)
    what = "ratio to the true reward" if has_ratio else table.number
    panels: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for row in table.rows:
        estimates = row.ratio if has_ratio else row.value
        task = task_of(table.tasks, row.axes)
        title = ", ".join(map(value_in_words, task.values()))
        title = f"{row.tasks} tasks together" if row.tasks > 1 else title
        if estimates:
            method = method_of(table.tasks, row.axes)
            label = axes_in_words({a: method[a] for a in varying(table) if a in method})
            panels.setdefault(title, []).append((label or table.number, estimates["iqm"]))
    labels = list(dict.fromkeys(label for points in panels.values() for label, _ in points))
    figure, all_axes = pyplot.subplots(
        1, len(panels), sharey=True, squeeze=False, layout="constrained",
        figsize=(3 + 3 * len(panels), 1.5 + 0.4 * len(labels)),
    )  # fmt: skip
    for axes, (title, points) in zip(all_axes[0], panels.items(), strict=True):
        for label, found in points:
            low, high = found["interval"]
            height, mean = labels.index(label), found["mean"]
            axes.plot([low, high], [height, height], "C0", linewidth=6, alpha=0.3)
            axes.plot([mean], [height], "C0|", markersize=14, markeredgewidth=2)
        if has_ratio:
            axes.axvline(1, color="grey", linewidth=1, linestyle="--")
        axes.set(title=title, xlabel=f"interquartile mean of the {what}")
        axes.grid(axis="x", alpha=0.3)
    all_axes[0][0].set_yticks(range(len(labels)), labels)
    all_axes[0][0].set_ylim(len(labels) - 0.5, -0.5)
    _save(figure, output)


def _save(figure: Figure, output: Path) -> None:
    from matplotlib import pyplot

    try:
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {output}: {error}") from None
    finally:
        pyplot.close(figure)
