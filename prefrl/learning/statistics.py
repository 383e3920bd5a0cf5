"""How sure a mean or a win rate is: 95 % intervals.

They hold in 95 of 100 repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prefrl.intervals import share

RESAMPLES = 2000
RIDGE = 1e-2  # keeps coefficients finite where one side won everything
NEWTON_STEPS, LONGEST_STEP = 100, 2.0


def estimate(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Return the `mean` of some values and its `interval`, a bootstrap over them.

    Args:
        values: `[task]`, independent of each other; at least one.
    """
    numbers = np.asarray(values, float)
    means = numbers[_draws(len(numbers))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(numbers.mean()), "interval": [float(low), float(high)]}


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the last axis less a quarter of its values at each end, rounded down.

    That is rliable's IQM (Agarwal et al. 2021, arXiv 2108.13264): it heeds an outlier less than the
    mean does, and wastes fewer runs than the median.
    """
    count = values.shape[-1]
    cut = count // 4
    return np.sort(values, axis=-1)[..., cut : count - cut].mean(-1)


def aggregates(runs: Sequence[float] | np.ndarray, draws: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the `mean` and the `iqm` of runs, each as `mean` and `interval`.

    Args:
        runs: `[run]`.
        draws: `[draw, run]`, what a bootstrap makes of them.
    """
    found = {}
    for name, statistic in (("mean", lambda a: a.mean(-1)), ("iqm", interquartile_mean)):
        low, high = np.nanpercentile(statistic(draws), [2.5, 97.5])
        value = float(statistic(np.asarray(runs, float)))
        found[name] = {"mean": value, "interval": [float(low), float(high)]}
    return found


def over_runs(runs: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Return `mean` and `iqm` of the values of runs, with bootstrap intervals over them."""
    values = np.asarray(runs, float)
    return aggregates(values, values[_draws(len(values))])


class Scored(NamedTuple):
    """The returns of runs in one task, and what they are measured by."""

    runs: Sequence[float]
    true: Sequence[float]
    """Of runs on the true reward."""
    zero: Sequence[float]
    """Of random actions, in the episodes of each of those."""


def ratios(tasks: Sequence[Scored]) -> dict[str, dict[str, Any]] | None:
    """Return `mean` and `iqm` of (run - zero) / (true - zero) over runs in all tasks.

    `true` and `zero` are means over runs. The intervals are those of a bootstrap that is stratified
    as rliable's is: it draws runs within each task, and of runs on the true reward, too, as
    they are few as well. None where a true reward taught nothing, so that there is no ratio.
    """
    if any(np.mean(task.true) <= np.mean(task.zero) for task in tasks):
        return None
    generator = np.random.default_rng(0)
    plain, drawn = [], []
    for task in tasks:
        runs, true, zero = (np.asarray(values, float) for values in task)
        plain.append((runs - zero.mean()) / (true.mean() - zero.mean()))
        of_runs = runs[generator.integers(len(runs), size=(RESAMPLES, len(runs)))]
        of_true = generator.integers(len(true), size=(RESAMPLES, len(true)))
        zeros = zero[of_true].mean(1, keepdims=True)
        ways = true[of_true].mean(1, keepdims=True) - zeros
        drawn.append((of_runs - zeros) / np.where(ways > 0, ways, np.nan))
    return aggregates(np.concatenate(plain), np.concatenate(drawn, axis=1))


def win_rate(wins: Sequence[float]) -> dict[str, Any]:
    """Return the `mean` of wins from 0 to 1 (a tie is one half) and its `interval`.

    A bootstrap, since Wilson's interval knows no ties; but Wilson's where all wins are equal.
    """
    if min(wins) == max(wins):  # resampling them would show no doubt
        return share(sum(wins), len(wins))
    return estimate(wins)


def length_controlled(wins: Sequence[float], differences: Sequence[float]) -> dict[str, Any]:
    """Return the win rate that would be expected if both sides' replies were equally long.

    It is a logistic regression of the win on an intercept and tanh(difference / its deviation), as
    in AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475, equation 1, for one task set); the
    win rate is the intercept's probability.

    Args:
        wins: `[task]`, 0 to 1.
        differences: `[task]`, by how much the reply is longer than the one it was compared with.

    Returns:
        `mean`, its bootstrap `interval` over tasks, and `length`: logits won by a reply that is
        much longer.
    """
    won, difference = np.asarray(wins, float), np.asarray(differences, float)
    deviation = difference.std()
    longer = np.tanh(difference / deviation) if deviation > 0 else np.zeros_like(difference)
    design = np.stack([np.ones_like(longer), longer], axis=1)
    once = _logistic(design, won, np.ones((1, len(won))))[0]
    rates = _probability(_logistic(design, won, _counts(len(won)))[:, 0])
    low, high = np.percentile(rates, [2.5, 97.5])
    if won.min() == won.max():
        low, high = share(won.sum(), len(won))["interval"]
    mean = float(_probability(once[0]))
    return {
        "mean": mean, "interval": [min(float(low), mean), max(float(high), mean)],
        "length": float(once[1]),
    }  # fmt: skip


def _logistic(design: np.ndarray, wins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the coefficients `[draw, feature]` of ridge logistic regressions, by Newton's method.

    Args:
        design: `[task, feature]`.
        wins: `[task]`.
        weights: `[draw, task]`, how often each draw holds a task.
    """
    features = design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    coefficients = np.zeros((len(weights), features))
    for _ in range(NEWTON_STEPS):
        expected = _probability(coefficients @ design.T)
        slopes = (weights * (wins - expected)) @ design - RIDGE * coefficients
        curvature = weights * expected * (1 - expected)
        hessians = (curvature @ products).reshape(-1, features, features)
        hessians += RIDGE * np.eye(features)
        steps = np.linalg.solve(hessians, slopes[..., None])[..., 0]
        coefficients += np.clip(steps, -LONGEST_STEP, LONGEST_STEP)
        if np.abs(steps).max() < 1e-9:
            break
    return coefficients


def _probability(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))


def _draws(count: int) -> np.ndarray:
    """Return which of `count` tasks are drawn, `[draw, task]`; always the same."""
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def _counts(count: int) -> np.ndarray:
    counts = np.zeros((RESAMPLES, count))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], _draws(count)), 1)
    return counts


def in_words(estimated: dict[str, Any] | None, style: str = ".2f", unit: str = "") -> str:
    """Return a mean and its interval, "0.31 (0.2 to 0.4)"; a percent sign is a style, too."""
    if estimated is None:
        return "nothing to go by"
    mean, low, high = (
        format(value, style) for value in (estimated["mean"], *estimated["interval"])
    )
    return f"{mean}{unit} ({low} to {high})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
