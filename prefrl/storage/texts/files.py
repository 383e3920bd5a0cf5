"""The rows of a file: JSON lines, a JSON array, CSV, parquet, or a folder of `datasets`."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from prefrl.errors import UserError
from prefrl.storage.files import reading
from prefrl.storage.jsonl import Row, read_rows, short

TABLES = {".csv": "CSV", ".tsv": "CSV with tabs"}
COLUMNAR = {".parquet": "parquet", ".arrow": "Arrow"}
# Files that a hub's repository of a data set holds: train-00000-of-00001.parquet, test.jsonl.gz
_PART = re.compile(
    r"(train|test|validation|valid|dev|eval)\b.*\.(parquet|arrow|csv|tsv|jsonl|json)(\.gz)?"
)
TRAIN = "train"
# Columns of a CSV that hold a number or JSON, while all others hold text.
NUMBERS = "margin", "score", "reward", "overall_score", "labels", "better_response_id"
LISTS = (
    "messages", "conversations", "conversation", "turns", "completions", "scores", "rewards",
    "ratings", "history", "annotations", "data", "fields", "responses",
)  # fmt: skip


class File(NamedTuple):
    """A file that is about to be read."""

    rows: Iterator[Row]
    container: str
    """What kind of file it is, in words."""


def is_data(path: Path) -> bool:
    """Return whether a path is a file, or a folder that `open_rows` reads."""
    marks = "dataset_info.json", "dataset_dict.json"
    return not path.is_dir() or any((path / m).exists() for m in marks) or bool(_parts(path))


def open_rows(path: Path) -> File:
    """Return the rows of a file or folder, which are read as they are asked for.

    Raises:
        UserError: it cannot be read, also while its rows are, or it needs an extra.
    """
    if path.is_dir():
        return _folder(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in TABLES:
        return File(_of_table(path, suffix), TABLES[suffix])
    if suffix in COLUMNAR:
        return File(_of_columns(path), COLUMNAR[suffix])
    with reading(path) as lines:
        array = next((line for line in lines if line.strip()), "").lstrip().startswith("[")
    return File(_of_json(path), "a JSON array" if array else "JSON lines")


def _of_json(path: Path) -> Iterator[Row]:
    with reading(path) as lines:
        yield from read_rows(lines, path.name)


def _of_table(path: Path, suffix: str) -> Iterator[Row]:
    """Yield the rows of a CSV file, without its empty cells.

    Cells are separated by commas, or by semicolons if the heading has no comma.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with reading(path) as lines:
        first = next((line for line in lines if line.strip()), "")
        lines.seek(0)
        between = "\t" if suffix == ".tsv" else "," if "," in first or ";" not in first else ";"
        table = csv.reader(lines, delimiter=between, strict=True)
        try:
            heading = [name.strip() for name in next((cells for cells in table if cells), [])]
            for number, cells in enumerate((cells for cells in table if cells), start=1):
                where = f"{path.name}, line {table.line_num}"
                if len(cells) != len(heading):
                    raise UserError(
                        f"{where}: it has {len(cells)} cells and the heading {len(heading)}; "
                        "expected as many, and double quotes around a text that holds "
                        f"{between!r} or a line break"
                    )
                named = zip(heading, cells, strict=True)
                yield Row({name: _cell(name, cell) for name, cell in named if cell}, number, where)
        except csv.Error as error:
            raise UserError(
                f"{path.name}, line {table.line_num}: it is not CSV ({error}); expected double "
                "quotes around texts, and two of them for one within a text"
            ) from None


def _cell(name: str, cell: str) -> Any:
    """Return what a cell of a column holds: text, a number, or JSON as in a row of JSON lines."""
    if name in NUMBERS or name in LISTS or cell.lstrip().startswith(("[{", "{")):
        try:
            value = json.loads(cell)
        except ValueError:
            return cell
        if name in NUMBERS or name in LISTS or (value and _is_message(value)):
            return value
    return cell


def _is_message(value: Any) -> bool:
    first = value[0] if isinstance(value, list) else value
    return isinstance(first, dict) and ("role" in first or "from" in first)


def _of_columns(path: Path) -> Iterator[Row]:
    """Yield the rows of a parquet or Arrow file, without what is missing in them."""
    numbers = count(1)
    with _columnar(path):
        for batch in _batches(path):
            for row in batch.to_pylist():
                fields = {name: value for name, value in row.items() if not _missing(value)}
                number = next(numbers)
                yield Row(fields, number, f"{path.name}, row {number}")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _batches(path: Path) -> Iterator[Any]:
    arrow = _pyarrow(path)
    if path.suffix.lower() == ".parquet":
        with arrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches()
        return
    with arrow.memory_map(str(path)) as source:
        try:
            stream = arrow.ipc.open_stream(source)
        except arrow.ArrowInvalid:
            file = arrow.ipc.open_file(source)
            yield from (file.get_batch(index) for index in range(file.num_record_batches))
        else:
            yield from stream


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f'{path} is read with pyarrow, which is not installed; pip install "prefrl[data]", or '
            "give JSON lines or CSV"
        ) from None
    return pyarrow


@contextmanager
def _columnar(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:  # pyarrow's own errors are such
        why = str(error).splitlines()[0]
        raise UserError(
            f"cannot read {path}: it is no whole {COLUMNAR[path.suffix.lower()]} file "
            f"({short(why)}); write it again"
        ) from None


def _folder(path: Path) -> File:
    """Return the rows of what `datasets` saved, or of the parts that a hub's repository holds."""
    splits = path / "dataset_dict.json"
    if splits.exists():
        named = _json_of(splits).get("splits") or []
        return _folder(path / _split(path, named, "a folder of one of them"))
    state = path / "state.json"
    if state.exists():
        names = [file.get("filename", "") for file in _json_of(state).get("_data_files") or []]
        return File(_of_files([path / name for name in names]), "a folder of `datasets`")
    parts = _parts(path)
    if not parts:
        raise UserError(
            f"{path} is a folder without data; expected what `save_to_disk` of datasets wrote, or "
            "files like train-00000-of-00001.parquet"
        )
    split = _split(path, list(parts), "a file")
    files = len(parts[split])
    words = f"{files} file{'s' if files > 1 else ''} of a folder's split {split!r}"
    return File(_of_files(parts[split]), words)


def _split(path: Path, names: list[str], instead: str) -> str:
    """Return which split of a data set to read: that for training, or the only one."""
    if TRAIN in names:
        return TRAIN
    if len(names) == 1:
        return names[0]
    raise UserError(f"{path} holds the splits {names} and none called {TRAIN!r}; give {instead}")


def _parts(path: Path) -> dict[str, list[Path]]:
    """Return the files of a folder, or of `data` in it, by split; empty if it holds none."""
    parts: dict[str, list[Path]] = {}
    for folder in (path, path / "data"):
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            if found := _PART.fullmatch(file.name.lower()):
                parts.setdefault(found[1], []).append(file)
    return parts


def _of_files(paths: list[Path]) -> Iterator[Row]:
    """Yield the rows of several files, numbered through."""
    numbers = count(1)
    for path in paths:
        for row in open_rows(path).rows:
            yield row._replace(number=next(numbers))


def _json_of(path: Path) -> dict[str, Any]:
    with reading(path) as lines:
        try:
            value = json.loads(lines.read())
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise UserError(f"cannot read {path}: it is damaged; save the data set again")
    return value
