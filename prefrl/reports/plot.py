"""Draws learning curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefrl.config.experiment import Experiment
from prefrl.errors import UserError
from prefrl.storage.folder import RunFolder


def plot_runs(folders: Sequence[RunFolder], output: Path) -> Path:
    """Draw the learning curves of runs: true return against steps.

    Runs that differ only in their seed become one line, their mean, in a band from the lowest to
    the highest.
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
    axes.set(xlabel="environment steps", ylabel="true return of an episode, while training")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {output}: {error}") from None
    finally:
        pyplot.close(figure)
    return output


def _name(experiment: Experiment) -> str:
    if experiment.reward == "true":
        return f"{experiment.env}, true reward"
    return f"{experiment.env}, {experiment.labels} labels"
