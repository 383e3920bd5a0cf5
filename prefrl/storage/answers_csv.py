"""Answers as CSV, without clips: for spreadsheets, and back into a run that holds the clips."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prefrl.answers import KINDS
from prefrl.errors import StoreError, UserError
from prefrl.storage.answering import unknown
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.files import reading
from prefrl.storage.jsonl import read_json, said_where, short
from prefrl.types import Answer, QueryId

NEEDED = ("round", "index", "kind", "value", "teacher")
OPTIONAL = ("env", "aspect", "clips", "shown_at", "answered_at", "repeat", "gold", "uuid")
COLUMNS = (
    *("env", "round", "index", "aspect", "clips", "kind", "value", "teacher"),
    *("shown_at", "answered_at", "repeat", "gold", "uuid"),
)
TRUTHS = {"True": True, "true": True, "TRUE": True, "1": True, "False": False, "false": False,
          "FALSE": False, "0": False, "": False}  # fmt: skip


class Read(NamedTuple):
    """What was read of a file."""

    answers: int
    queries: int
    known: int
    """Answers that were here already."""


def answer_rows(store: FeedbackStore, env: str) -> Iterator[dict[str, Any]]:
    """Yield every answer that stands, those to repeats and gold questions marked; no clip is read.

    Args:
        store: where they are.
        env: id of the environment that the clips are of.
    """
    asked = {
        QueryId(*row[:2]): row[2:]
        for row in store.database.run('SELECT round, "index", aspect, segments FROM query')
    }
    for answer in store.answers(repeats=True):
        aspect, clips = asked[answer.query]
        yield {
            "env": env,
            "round": answer.query.round,
            "index": answer.query.index,
            "aspect": aspect,
            "clips": json.loads(clips),
            "kind": answer.kind,
            "value": answer.value,
            "teacher": answer.teacher,
            "shown_at": answer.shown_at,
            "answered_at": answer.answered_at,
            "repeat": answer.repeat,
            "gold": answer.gold,
            "uuid": answer.uuid,
        }


def as_csv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a CSV of what `answer_rows` gives; lists and values are JSON."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="")
    for cells in [COLUMNS], (map(_cell, map(row.get, COLUMNS)) for row in rows):
        for each in cells:
            writer.writerow(each)
            yield file.getvalue()
            file.seek(0)
            file.truncate()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def heading(path: Path) -> list[str]:
    """Return the columns of a CSV file, separated by commas or semicolons."""
    with reading(path) as lines:
        first = next((line for line in lines if line.strip()), "")
        return [name.strip() for name in next(csv.reader([first], delimiter=_between(first)), [])]


def is_answers(path: Path) -> bool:
    """Return whether a file is CSV whose columns are those of `as_csv`, as far as needed."""
    return path.suffix.lower() == ".csv" and {*NEEDED} <= {*heading(path)}


def import_csv(store: FeedbackStore, path: Path) -> Read:
    """Add the answers of a CSV to the queries of a run that they name, all or nothing.

    Args:
        store: of the run; it holds the queries.
        path: the file.

    Raises:
        UserError: its columns are others, a row does not fit, or the run has no such query.
    """
    names = heading(path)
    if not {*NEEDED} <= {*names} <= {*NEEDED, *OPTIONAL}:
        raise UserError(
            f"{path.name} has the columns {_listed(names)}; expected {_listed(NEEDED)}, and of "
            f"{_listed(OPTIONAL)} those that there are, as `prefrl export RUN --csv` writes them; "
            "nothing is imported"
        )
    try:
        answers = [*_answers(store, path, names)]
    except StoreError:
        raise
    except UserError as error:
        raise UserError(f"{error}; nothing is imported") from None
    fresh = unknown(store.database, answers)
    if not fresh:
        raise UserError(f"{path.name} holds no answer that the run has not; nothing is imported")
    store.answer(*fresh)
    queries = len({answer.query for answer in fresh})
    return Read(len(fresh), queries, len(answers) - len(fresh))


def _answers(store: FeedbackStore, path: Path, names: list[str]) -> Iterator[Answer]:
    asked = {
        QueryId(*row[:2]): json.loads(row[2])
        for row in store.database.run('SELECT round, "index", segments FROM query')
    }
    with reading(path) as lines:
        first = next((line for line in lines if line.strip()), "")
        table = csv.reader(lines, delimiter=_between(first), strict=True)
        try:
            for cells in (cells for cells in table if cells):
                with said_where(f"{path.name}, line {table.line_num + 1}"):
                    yield _answer(cells, names, asked)
        except csv.Error as error:
            raise UserError(
                f"{path.name}, line {table.line_num + 1}: it is not CSV ({error}); expected double "
                "quotes around texts, and two of them for one within a text"
            ) from None


def _answer(cells: list[str], names: list[str], asked: dict[QueryId, list[str]]) -> Answer:
    if len(cells) != len(names):
        raise ValueError(
            f"it has {len(cells)} cells and the heading {len(names)}; expected as many"
        )
    row = dict(zip(names, cells, strict=True))
    query = QueryId(_number(row, "round", int), _number(row, "index", int))
    if query not in asked:
        raise ValueError(
            f"the run has asked no query of round {query.round} and index {query.index}; expected "
            "answers to its own, since this file holds no clips"
        )
    if row.get("clips") and read_json(row["clips"]) != asked[query]:
        raise ValueError(
            f"its clips are {short(row['clips'])}, but the run's query {query.round}-{query.index} "
            f"shows {short(asked[query])}; expected answers of this run"
        )
    kind = row["kind"]
    if kind not in KINDS or kind == "retraction":
        known = ", ".join(name for name in KINDS if name != "retraction")
        raise ValueError(f"its kind is {short(kind)}; expected one of {known}")
    try:
        value = read_json(row["value"] or "{}")
    except ValueError as error:
        raise ValueError(f"its value is not JSON ({error}): {short(row['value'])}") from None
    times = (_number(row, name, float) for name in ("shown_at", "answered_at"))
    truths = {name: _truth(row, name) for name in ("repeat", "gold")}
    return Answer(query, kind, value, row["teacher"], *times, uuid=row.get("uuid", ""), **truths)  # pyright: ignore[reportArgumentType]


def _number(row: dict[str, str], name: str, kind: type) -> Any:
    try:
        return kind(row.get(name) or ("" if name in NEEDED else 0))
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"its {name} is {short(row.get(name))}; expected {wanted}") from None


def _truth(row: dict[str, str], name: str) -> bool:
    if (value := row.get(name, "")) in TRUTHS:
        return TRUTHS[value]
    raise ValueError(f"its {name} is {short(value)}; expected True or False")


def _between(first: str) -> str:
    return "," if "," in first or ";" not in first else ";"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name[:40] for name in names) or "none"
