"""Answers from a run or a file, for fitting a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.answers import to_comparisons
from prefrl.errors import UserError
from prefrl.learning.bags import hashed_order
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.rows import AnswerReader
from prefrl.storage.texts import reader as texts
from prefrl.storage.texts.files import is_data
from prefrl.types import Comparison, SpaceSpec, alike

TEXT = {"observations": SpaceSpec(text=True), "actions": SpaceSpec(text=True)}


@dataclass(frozen=True)
class Answers:
    """What the answers of a run or a file teach."""

    comparisons: list[Comparison]
    alike: int
    """Comparisons that were left out: the two texts are the same, so they say nothing."""
    notes: tuple[str, ...] = ()
    """What a file was taken for, and what else is to be said of it."""


def read_answers(source: Path | str, margin_scale: float = 0.0, chat: bool = False) -> Answers:
    """Return what the answers of a run, or of a file, teach; see `start`.

    Raises:
        UserError: there are none, or a row is not as expected.
    """
    run, notes = run_of_text(source), ()
    if run is not None:
        with closing(FeedbackStore(run.feedback, read_only=True)) as store:
            taught, same = store.comparisons(margin_scale=margin_scale), 0
    else:
        taught, same, notes = _read_file(Path(source), margin_scale, chat)
    comparisons = [c for c in taught if not alike(c.left, c.right)]
    same += len(taught) - len(comparisons)
    if comparisons:
        return Answers(comparisons, same, notes)
    why = f": in each of its {same} comparisons both texts are the same" if same else ""
    raise UserError(f"{source} holds no answer that says anything about a completion{why}")


def _read_file(
    path: Path, margin_scale: float, chat: bool
) -> tuple[list[Comparison], int, tuple[str, ...]]:
    """Return what a file teaches, how many of its pairs say nothing, and what to note."""
    reader, file = AnswerReader(path.name, TEXT), texts.read_file(path, chat)
    examples, notes = texts.compared(file)
    for example in examples:
        reader.read(example)
    comparisons = []
    for answer in reader.answers:
        query = reader.queries[answer.query.index]
        comparisons += to_comparisons(query, answer, margin_scale).comparisons
    return comparisons, reader.left_out, (file.took, *file.notes, *notes)


def hold_out(
    comparisons: Sequence[Comparison], share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Split comparisons into those to learn from and those held out.

    Whole prompts are held out, since completions of one prompt tell of each other; where there are
    too few, whole queries. Which ones is a hash of the seed and of each, so the order of a file
    decides nothing.
    """
    keys: list[Any] = [comparison.left.task for comparison in comparisons]
    if round(share * len(set(keys))) == 0:
        keys = [comparison.query for comparison in comparisons]
    groups = sorted(set(keys))
    order = hashed_order(seed, list(map(str, groups)))
    aside = {groups[index] for index in order[: round(share * len(groups))]}
    split: tuple[list[Comparison], list[Comparison]] = ([], [])
    for key, comparison in zip(keys, comparisons, strict=True):
        split[key in aside].append(comparison)
    return split


def run_of_text(source: Path | str) -> RunFolder | None:
    """Return the run that a folder is, None if it is a file, or a folder of data."""
    if is_data(Path(source)):
        return None
    run = RunFolder.open(source)
    if not run.card().is_text:
        raise UserError(
            f"{source} is a run of {run.experiment().env}, which does not speak text; its reward "
            "model was fitted as it went: prefrl.runs.load.load_reward(path)"
        )
    return run
