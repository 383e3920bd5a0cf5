"""How good a judge is, before it may teach: against known answers, and against itself."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefrl.learning.statistics import aligned, share
from prefrl.learning.statistics import in_words as interval
from prefrl.learning.validation import calibrate_probabilities
from prefrl.runs.judges import known_pairs, verdicts
from prefrl.teachers.asking import shown
from prefrl.teachers.gate import Verdict, standing
from prefrl.teachers.judge import Judge
from prefrl.types import Query

SURE = 1e-4  # from 0 and 1: chances are rounded to so much


def measure(judge: Judge, source: Path, most: int, seed: int) -> dict[str, Any]:
    """Ask a judge about pairs of which others said which is better, and report.

    Args:
        judge: who is asked; nothing that it says is kept.
        source: a run or a file with answers of others.
        most: pairs at most.
        seed: of the choice of pairs.

    Returns:
        JSON values; shares as `mean` and `interval`, None where nothing says so.

    Raises:
        UserError: there is no such pair, or the judge does not answer.
    """
    queries, lefts = known_pairs(source, most, seed)
    began = time.monotonic()
    said = [*verdicts(judge, queries)]
    seconds = (time.monotonic() - began) / len(queries)
    now = standing(said, lefts)
    single = standing([Verdict(verdict.orders[:1]) for verdict in said], lefts)
    return {
        "judge": judge.name,
        "ask": judge.config.ask,
        "orders": judge.config.orders if judge.config.ask == "pair" else None,
        "pairs": now.pairs,
        "unread": now.unread,
        "accuracy": now.accuracy,
        "accuracy_first_order": single.accuracy if len(said[0].orders) > 1 else None,
        "consistency": now.consistency,
        "first": _first(said) if judge.config.ask == "pair" else None,
        "length": _length(queries, said, lefts),
        "calibration": _calibration(said, lefts, judge.config.temperature),
        "seconds": seconds,
        "refusal": now.refusal,
    }


def _first(said: Sequence[Verdict]) -> dict[str, Any] | None:
    """Return how often the reply was chosen that stood first, an even chance being half."""
    chosen = [
        0.5 + 0.5 * np.sign((chance - 0.5) * (-1 if order else 1))
        for verdict in said
        for order, chance in enumerate(verdict.orders)
        if not math.isnan(chance)
    ]
    return share(float(sum(chosen)), len(chosen)) if chosen else None


def _length(
    queries: Sequence[Query], said: Sequence[Verdict], lefts: Sequence[float]
) -> dict[str, Any] | None:
    """Return how often the longer reply is chosen, and how often it is the better one."""
    chosen, better = [], []
    for query, verdict, left in zip(queries, said, lefts, strict=True):
        lengths = [len(reply) for reply in shown(query).replies]
        if lengths[0] == lengths[1] or not verdict.is_read:
            continue
        longer = 1 if lengths[0] > lengths[1] else -1
        chosen.append(0.5 + 0.5 * longer * float(np.sign(verdict.left - 0.5)))
        better.append(0.5 + 0.5 * longer * float(np.sign(left - 0.5)))
    if not chosen:
        return None
    return {
        "longer_chosen": share(sum(chosen), len(chosen)),
        "longer_better": share(sum(better), len(better)),
    }


def _calibration(
    said: Sequence[Verdict], lefts: Sequence[float], temperature: float
) -> dict[str, Any] | None:
    """Return how far the judge's chances may be taken at their word, in ten bins."""
    kept = [(v.left, left) for v, left in zip(said, lefts, strict=True) if v.is_read]
    if not kept:
        return None
    chances, known = torch.tensor(kept, dtype=torch.float64).T
    found = calibrate_probabilities(torch.logit(chances, eps=SURE), known, torch.ones_like(chances))
    return {
        "bins": [vars(each) for each in found.bins],
        "error": found.error,
        "temperature": found.temperature * temperature,
        "mended_error": found.mended_error,
    }


def in_words(report: dict[str, Any]) -> list[str]:
    """Return what `measure` reports, for a terminal."""
    orders = {"both": ", in both orders", "first": ", in one order", None: ""}[report["orders"]]
    lines = [
        f"{report['judge']}, asked for {_asked(report['ask'])}{orders}, of {report['pairs']} pairs "
        "whose better side is known; 95 % intervals",
        f"right: {interval(report['accuracy'])}",
    ]
    if report["accuracy_first_order"]:
        lines.append(f"right in one order alone: {interval(report['accuracy_first_order'])}")
    if report["consistency"]:
        lines.append(f"same reply in both orders: {interval(report['consistency'])}")
    if report["first"]:
        lines.append(f"chose the reply that stood first: {interval(report['first'])}")
    if length := report["length"]:
        lines.append(
            f"chose the longer reply: {interval(length['longer_chosen'])}; it is the better one in "
            f"{interval(length['longer_better'])}"
        )
    lines += [
        f"could not be read: {report['unread']} of {report['pairs']}",
        f"seconds a pair: {report['seconds']:.2f}",
    ]
    if found := report["calibration"]:
        rows = [("sure", "right", "pairs")]
        rows += [
            (f"{b['confidence']:.2f}", f"{b['right']:.2f}", f"{b['weight']:.0f}")
            for b in found["bins"]
        ]
        lines += [
            f"calibration: expected error {found['error']:.3f}; with --judge.temperature "
            f"{found['temperature']:.2f} it is {found['mended_error']:.3f}",
            *aligned(rows),
        ]
    why = report["refusal"]
    verdict = "it may teach" if why is None else f"it may not teach, unless forced: {why}"
    return [*lines, verdict]


def _asked(how: str) -> str:
    return {
        "pair": "a letter", "score": "grades", "likelihood": "its likelihood per token",
    }[how]  # fmt: skip
