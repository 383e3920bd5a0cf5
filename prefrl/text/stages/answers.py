"""Answers that a reward model for text is fitted to, from a run or from a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from prefrl.answers import MARGIN_OF_STRENGTH
from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.import_export import import_answers
from prefrl.storage.jsonl import field, in_line, short
from prefrl.text.stages.sft import text_file
from prefrl.types import Comparison, SpaceSpec

TEXT = {"observations": SpaceSpec(text=True), "actions": SpaceSpec(text=True)}


def read_answers(source: Path | str, margin_scale: float = 0.0) -> list[Comparison]:
    """Return what the answers of a run, or of a file, teach; see `start`.

    Raises:
        UserError: there are none, or a line is not as expected.
    """
    path, run = Path(source), run_of_text(source)
    # A store in memory reads a file as `prefrl import` does, and gives all that answers can.
    with closing(FeedbackStore(run.feedback if run else ":memory:")) as store:
        if run is None:
            with text_file(path) as lines:
                import_answers(store, _as_exported(lines, path.name), path.name, TEXT)
        comparisons = store.comparisons(margin_scale=margin_scale)
    if not comparisons:
        raise UserError(f"{source} holds no answer that says anything about a completion")
    return comparisons


def hold_out(
    comparisons: Sequence[Comparison], share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Split comparisons into those to learn from and those held out.

    Whole prompts are held out, since completions of one prompt tell of each other; where there are
    too few, whole queries. The seed decides which.
    """
    keys: list[Any] = [comparison.left.task for comparison in comparisons]
    if round(share * len(set(keys))) == 0:
        keys = [comparison.query for comparison in comparisons]
    groups = sorted(set(keys))
    order = np.random.default_rng(seed).permutation(len(groups))
    aside = {groups[place] for place in order[: round(share * len(groups))]}
    split: tuple[list[Comparison], list[Comparison]] = ([], [])
    for key, comparison in zip(keys, comparisons, strict=True):
        split[key in aside].append(comparison)
    return split


def run_of_text(source: Path | str) -> RunFolder | None:
    """Return the run that a folder is, None if it is a file."""
    if not Path(source).is_dir():
        return None
    run = RunFolder.open(source)
    if not run.card().is_text:
        raise UserError(
            f"{source} is a run of {run.experiment().env}, which does not speak text; its reward "
            "model was fitted as it went: prefrl.runs.load.load_reward(path)"
        )
    return run


def _as_exported(lines: Iterable[str], name: str) -> Iterator[str]:
    """Turn rankings and pairs with a margin into answers as `prefrl export` writes them.

    Other lines stay as they are: the import knows them, or says what is wrong with them.
    """
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and not {"completions", "margin"}.isdisjoint(row):
            with in_line(name, number):
                line = json.dumps(_answer(row, number))
        yield line


def _answer(row: dict[str, Any], number: int) -> dict[str, Any]:
    if "completions" in row:
        texts = field(row, "completions", list)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"'completions' is {short(texts)}; expected texts, best first")
        kind, value = "ranking", {"order": [[place] for place in range(len(texts))]}
    else:
        texts = [field(row, "chosen", str), field(row, "rejected", str)]
        kind, value = _preference(row["margin"])
    prompt = field(row, "prompt", str)
    clips = [
        {"id": f"line {number}, completion {place}", "observations": [prompt], "actions": [text],
         "task": prompt}
        for place, text in enumerate(texts, start=1)
    ]  # fmt: skip
    return {"segments": clips, "query_kind": kind, "kind": kind, "value": value, "index": number}


def _preference(margin: Any) -> tuple[str, dict[str, Any]]:
    """Return kind and value of an answer that prefers the first of two by a margin."""
    if margin is None or (isinstance(margin, str) and margin in MARGIN_OF_STRENGTH):
        return "preference", {"left": 1.0, "strength": margin}
    if isinstance(margin, bool | str | list | dict) or not 0 <= margin <= 1:
        raise ValueError(
            f"'margin' is {short(margin)}; expected one of {', '.join(MARGIN_OF_STRENGTH)}, or a "
            "number from 0 to 1"
        )
    if margin == 0:
        return "preference", {"left": 1.0}
    # Of all answers, ratings have a margin that is any number.
    return "ratings", {"ratings": [margin, 0], "low": 0, "high": 1}
