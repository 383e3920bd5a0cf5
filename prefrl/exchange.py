"""Feedback as JSON lines: out of a run, and into one, from another run or from anywhere else.

A line is an answer as `export_answers` writes it, a pair of texts {"prompt", "chosen", "rejected"},
or a demonstration, {"prompt", "response"} or {"segment": {…}}. Files come in whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefrl.errors import UserError
from prefrl.feedback import FeedbackStore
from prefrl.types import Answer, Query, QueryId, Segment, check_answer

TEXT = "text"
KINDS = {str: "a text", list: "a list", dict: "an object", int: "a whole number", float: "a number"}
DEMONSTRATION = "demonstration, line "


class Imported(NamedTuple):
    """What was imported."""

    round: int
    """-1, -2, …"""
    queries: int
    answers: int


def export_answers(store: FeedbackStore) -> Iterator[dict[str, Any]]:
    """Yield every answer that stands with its query, as plain JSON values."""
    for answer in store.answers():
        query = store.query(answer.query)
        yield {
            "round": query.id.round,
            "index": query.id.index,
            "query_kind": query.kind,
            "question": query.question,
            "segments": [_segment_as_json(segment) for segment in query.segments],
            "kind": answer.kind,
            "value": answer.value,
            "teacher": answer.teacher,
            "shown_at": answer.shown_at,
            "answered_at": answer.answered_at,
        }


def import_file(store: FeedbackStore, path: Path, demonstrations: bool = False) -> Imported:
    """Import a file of answers and pairs, or of demonstrations.

    Raises:
        UserError: it cannot be read, or does not fit; then nothing is imported.
    """
    read = import_demonstrations if demonstrations else import_answers
    try:
        with path.open(encoding="utf-8") as lines:
            return read(store, lines, path.stem)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not text in UTF-8 ({error})") from None


def import_answers(store: FeedbackStore, lines: Iterable[str], name: str) -> Imported:
    """Import answers as an answered round of their own, below the run's rounds.

    Args:
        store: where to.
        lines: what `export_answers` gave, as JSON, or pairs of texts.
        name: of the import: in the clips' ids, and the teacher where a line names none.

    Raises:
        UserError: a line does not fit, or this was imported before; then nothing is imported.
    """
    reader = _Reader(store, name)
    for number, row in _rows(lines, name):
        with _at(name, number):
            if "segments" in row:
                reader.read_answer(row, number)
            elif "chosen" in row or "rejected" in row:
                reader.read_pair(row, number)
            else:
                raise ValueError(
                    f"there are {sorted(row)}; expected an answer as `prefrl export` prints it, or "
                    '{"prompt", "chosen", "rejected"}'
                )
    return _record(store, name, reader.queries, reader.answers)


def import_demonstrations(store: FeedbackStore, lines: Iterable[str], name: str) -> Imported:
    """Import demonstrations: each is better than some clip of the same task in the store.

    Which clip that is follows from the demonstration's line alone.

    Args:
        store: where to.
        lines: {"prompt", "response"}, or {"segment": {…}} as in an export, as JSON.
        name: of the import: in the clips' ids, and the teacher who prefers the demonstrations.

    Raises:
        UserError: a line does not fit, there is no clip of its task, or this was imported before;
            then nothing is imported.
    """
    reader, queries, answers, kept = _Reader(store, name), [], [], set()
    for number, row in _rows(lines, name):
        with _at(name, number):
            shown = f"{DEMONSTRATION}{number}"
            if "segment" in row:
                segment = reader.segment(_field(row, "segment", dict), shown, renamed=shown)
            else:
                segment = reader.text(row, "response", shown)
            other = _other_clip(store, segment)
            kept.add(other.id)
            query = Query(QueryId(-1, len(queries)), (segment, other))
            queries.append(query)
            answers.append(Answer(query.id, "preference", {"left": 1.0}, name))
    return _record(store, name, queries, answers, kept)


def copy_answers(source: FeedbackStore, store: FeedbackStore, name: str) -> Imported:
    """Import the answers that stand in another store."""
    places: dict[QueryId, int] = {}
    answers = []
    for answer in source.answers():
        place = places.setdefault(answer.query, len(places))
        answers.append(replace(answer, query=QueryId(-1, place)))
    return _record(store, name, [source.query(query) for query in places], answers)


class _Reader:
    """Turns rows into clips, queries and answers, and remembers those of earlier rows."""

    def __init__(self, store: FeedbackStore, name: str):
        known = store.segments()
        self.name = name
        self.like = store.segment(known[0]) if known else None
        """What every clip must look like."""
        self.clips: dict[str, Segment] = {}
        self.places: dict[Any, int] = {}
        self.queries: list[Query] = []
        self.answers: list[Answer] = []

    def read_answer(self, row: dict[str, Any], number: int) -> None:
        """Take a row of an export; rows about one query of its run are about one query here."""
        segments = [
            self.segment(segment, f"line {number}, clip {place}")
            for place, segment in enumerate(_field(row, "segments", list))
        ]
        asked = QueryId(_field(row, "round", int, -1), _field(row, "index", int, number))
        question, kind = _field(row, "question", str, ""), _field(row, "query_kind", str, "")
        query = Query(asked, tuple(segments), kind or "preference", question)
        answer = Answer(
            asked,
            _field(row, "kind", str),  # pyright: ignore[reportArgumentType]
            _field(row, "value", dict),
            _field(row, "teacher", str, self.name),
            _field(row, "shown_at", float, 0.0),
            _field(row, "answered_at", float, 0.0),
        )
        if answer.kind == "retraction":
            raise ValueError("it takes an answer back; expected answers that stand")
        check_answer(query, answer)
        self._add((asked, question, tuple(segment.id for segment in segments)), query, answer)

    def read_pair(self, row: dict[str, Any], number: int) -> None:
        """Take a pair of texts."""
        pair = [self.text(row, key, f"line {number}, {key}") for key in ("chosen", "rejected")]
        query = Query(QueryId(-1, number), tuple(pair))
        self._add(number, query, Answer(query.id, "preference", {"left": 1.0}, self.name))

    def _add(self, key: Any, query: Query, answer: Answer) -> None:
        place = self.places.setdefault(key, len(self.queries))
        if place == len(self.queries):
            self.queries.append(query)
        self.answers.append(replace(answer, query=QueryId(-1, place)))

    def text(self, row: dict[str, Any], key: str, name: str) -> Segment:
        """Return what was said to the prompt as a clip of one step."""
        prompt, said = _field(row, "prompt", str), _field(row, key, str)
        return self._known(Segment(name, np.array([prompt]), np.array([said]), task=prompt))

    def segment(self, row: Any, default: str, renamed: str = "") -> Segment:
        """Return a clip of an export."""
        if not isinstance(row, dict):
            raise ValueError(f"a clip is {_short(row)}; expected an object")
        dtypes, extras = _field(row, "dtypes", dict, {}), _field(row, "extras", dict, {})
        inner = _field(dtypes, "extras", dict, {})
        return self._known(
            Segment(
                renamed or _field(row, "id", str, default),
                _array(row, "observations", dtypes),
                _array(row, "actions", dtypes),
                {name: _array(extras, name, inner) for name in extras},
                _field(row, "task", str, ""),
                _field(row, "source", str, ""),
            )
        )

    def _known(self, segment: Segment) -> Segment:
        """Check a clip by those before it, and return the one of its id."""
        lengths = {name: len(array) for name, array in _arrays(segment).items()}
        if len(set(lengths.values())) > 1 or not len(segment):
            raise ValueError(
                f"the clip {segment.id!r} has {lengths} steps; expected as many of all"
            )
        self.like = segment if self.like is None else self.like
        for name in ("observations", "actions"):
            given, expected = _kind(getattr(segment, name)), _kind(getattr(self.like, name))
            if given != expected:
                raise ValueError(
                    f"{name} of the clip {segment.id!r} are {given}; expected {expected}, as in "
                    f"the clip {self.like.id!r}"
                )
        known = self.clips.setdefault(segment.id, segment)
        if _bytes(known) != _bytes(segment):
            raise ValueError(f"the clip {segment.id!r} differs from an earlier one of that id")
        return known


def _record(
    store: FeedbackStore, name: str, queries: Sequence[Query], answers: Sequence[Answer],
    kept: Collection[str] = (),
) -> Imported:  # fmt: skip
    """Write an answered round; the ids of all clips but `kept` tell where they are from.

    They hold a hash of what is imported, by which the store knows it again.
    """
    if not answers:
        raise UserError(f"{name} holds nothing to import")
    digest = hashlib.blake2b(digest_size=6)
    for answer in answers:
        said = [answer.query, answer.kind, answer.value, answer.teacher]
        digest.update(json.dumps(said, sort_keys=True).encode())
        for segment in queries[answer.query.index].segments:
            digest.update(b"" if segment.id in kept else _bytes(segment))
    mark = f" {digest.hexdigest()}: "

    def renamed(segment: Segment) -> Segment:
        new = segment.id not in kept
        return replace(segment, id=f"{name}{mark}{segment.id}") if new else segment

    asked = [replace(query, segments=tuple(map(renamed, query.segments))) for query in queries]
    try:
        return Imported(store.record(asked, answers, mark), len(asked), len(answers))
    except UserError as error:
        raise UserError(f"{name}: {error}; nothing is imported") from None


def _other_clip(store: FeedbackStore, segment: Segment) -> Segment:
    """Return a clip of the same task that is no demonstration, chosen by a hash."""
    names = [name for name in store.segments(segment.task) if DEMONSTRATION not in name]
    if not names:
        task = f"of the task {_short(segment.task)} " if segment.task else ""
        raise ValueError(f"the run holds no clip {task}to compare a demonstration with")
    digest = hashlib.blake2b(_bytes(segment), digest_size=8).digest()
    return store.segment(names[int.from_bytes(digest, "big") % len(names)])


def _rows(lines: Iterable[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines that are not empty, from 1."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        with _at(name, number):
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
            except (ValueError, RecursionError) as error:
                raise ValueError(f"it is not JSON ({error}): {_short(line.strip())}") from None
            if not isinstance(row, dict):
                raise ValueError(f"it is {_short(row)}; expected an object")
        yield number, row


@contextmanager
def _at(name: str, number: int) -> Iterator[None]:
    """Say in which line it was."""
    try:
        yield
    except (ValueError, UserError) as error:
        raise UserError(f"{name}, line {number}: {error}; nothing is imported") from None


def _field(row: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """Return what a row says under a name, or the default, if there is one."""
    value = row.get(name, default)
    if kind is float and isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return float(value)
    if not isinstance(value, kind) or kind is float:
        given = f"{name!r} is {_short(value)}" if name in row else f"there is no {name!r}"
        raise ValueError(f"{given}; expected {KINDS[kind]}")
    return value


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:60]}…"


def _arrays(segment: Segment) -> dict[str, np.ndarray]:
    arrays = {"observations": segment.observations, "actions": segment.actions}
    return arrays | {f"extras/{name}": array for name, array in sorted(segment.extras.items())}


def _bytes(segment: Segment) -> bytes:
    """Return all that makes a clip, but for its id."""
    arrays = [(name, str(a.dtype), a.shape) for name, a in _arrays(segment).items()]
    head = repr([segment.task, segment.source, arrays]).encode()
    return head + b"".join(a.tobytes() for a in _arrays(segment).values())


def _kind(array: np.ndarray) -> str:
    """Describe what a step of an array is."""
    values = "texts" if array.dtype.kind == "U" else "numbers"
    return f"{values} of shape {list(array.shape[1:])} a step"


def _segment_as_json(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.id,
        "task": segment.task,
        "source": segment.source,
        "observations": _array_as_json(segment.observations),
        "actions": _array_as_json(segment.actions),
        "extras": {name: _array_as_json(extra) for name, extra in segment.extras.items()},
        "dtypes": {
            "observations": _dtype(segment.observations),
            "actions": _dtype(segment.actions),
            "extras": {name: _dtype(extra) for name, extra in segment.extras.items()},
        },
    }


def _dtype(array: np.ndarray) -> str:
    return TEXT if array.dtype.kind == "U" else array.dtype.str


def _array_as_json(array: np.ndarray) -> Any:
    """Return nested lists; JSON knows neither NaN nor infinity, so they become null."""
    if array.dtype.kind not in "biufU":
        raise UserError(f"an array of type {array.dtype} cannot be written as JSON")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        finite, array = np.isfinite(array), array.astype(object)
        array[~finite] = None
    return array.tolist()


def _array(row: dict[str, Any], name: str, dtypes: dict[str, Any]) -> np.ndarray:
    """Return the array of nested lists; of the type given, else of what they hold."""
    nested, dtype = _field(row, name, list), dtypes.get(name)
    array = np.array(nested, dtype=object)
    found = set(map(type, array.flat))
    if found == {str} and dtype in (None, TEXT):
        return array.astype(str)
    if not found or not found <= {bool, int, float, type(None)}:
        raise ValueError(
            f"{name!r} is {_short(nested)}; expected lists of numbers or of texts, all alike and "
            "equally long"
        )
    if dtype is None:
        dtype = "<f8" if found & {float, type(None)} else "|b1" if found == {bool} else "<i8"
    try:
        wanted = np.dtype(dtype)
        exact = found <= {"b": {bool}, "i": {int}, "u": {int}}.get(wanted.kind, found)
        if wanted.kind not in "biuf" or not exact:
            raise ValueError
        array[array == None] = np.nan  # noqa: E711
        with np.errstate(over="raise"):
            return array.astype(wanted)
    except (TypeError, ValueError, ArithmeticError):
        raise ValueError(
            f"{name!r} is {_short(nested)}; expected numbers of type {dtype!r}"
        ) from None
