"""Feedback as JSON lines: out of a run, and into one, from another run or from anywhere else.

A line is an answer as `export_answers` writes it, a pair of texts {"prompt", "chosen", "rejected"},
or a demonstration, {"prompt", "response"} or {"segment": {…}}. Files come in whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from prefrl.answers import check_answer
from prefrl.errors import StoreError, UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.jsonl import (
    contents,
    field,
    in_line,
    read_lines,
    read_segment,
    segment_as_json,
    short,
)
from prefrl.storage.spaces import check_segment, spaces_of
from prefrl.types import Answer, Query, QueryId, Segment, SpaceSpec

UNKNOWN: Mapping[str, SpaceSpec] = MappingProxyType({})
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
            "segments": [segment_as_json(segment) for segment in query.segments],
            "kind": answer.kind,
            "value": answer.value,
            "teacher": answer.teacher,
            "shown_at": answer.shown_at,
            "answered_at": answer.answered_at,
        }


def import_file(
    store: FeedbackStore, path: Path, demonstrations: bool = False,
    spaces: Mapping[str, SpaceSpec] = UNKNOWN,
) -> Imported:  # fmt: skip
    """Import a file of answers and pairs, or of demonstrations.

    Args:
        store: where to.
        path: the file.
        demonstrations: it holds demonstrations.
        spaces: what its clips must be of; see `import_answers`.

    Raises:
        UserError: it cannot be read, or does not fit; then nothing is imported.
    """
    read = import_demonstrations if demonstrations else import_answers
    try:
        with path.open(encoding="utf-8") as lines:
            return read(store, lines, path.stem, spaces)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not text in UTF-8 ({error})") from None


def import_answers(
    store: FeedbackStore, lines: Iterable[str], name: str, spaces: Mapping[str, SpaceSpec] = UNKNOWN
) -> Imported:
    """Import answers as an answered round of their own, below the run's rounds.

    Args:
        store: where to.
        lines: what `export_answers` gave, as JSON, or pairs of texts.
        name: of the import: in the clips' ids, and the teacher where a line names none.
        spaces: what the run's environment observes and how it acts, as `RunFolder.spaces` says it;
            where that is unknown, clips must be like those in the store, or all alike.

    Raises:
        UserError: a line does not fit, or this was imported before; then nothing is imported.
    """
    reader = _Reader(store, name, spaces)
    for number, row in read_lines(lines, name):
        with in_line(name, number):
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


def import_demonstrations(
    store: FeedbackStore, lines: Iterable[str], name: str, spaces: Mapping[str, SpaceSpec] = UNKNOWN
) -> Imported:
    """Import demonstrations: each is better than some clip of the same task in the store.

    Which clip that is follows from the demonstration's line alone.

    Args:
        store: where to.
        lines: {"prompt", "response"}, or {"segment": {…}} as in an export, as JSON.
        name: of the import: in the clips' ids, and the teacher who prefers the demonstrations.
        spaces: what the clips must be of; see `import_answers`.

    Raises:
        UserError: a line does not fit, there is no clip of its task, or this was imported before;
            then nothing is imported.
    """
    reader, queries, answers, kept = _Reader(store, name, spaces), [], [], set()
    for number, row in read_lines(lines, name):
        with in_line(name, number):
            shown = f"{DEMONSTRATION}{number}"
            if "segment" in row:
                segment = reader.segment(field(row, "segment", dict), shown, renamed=shown)
            else:
                segment = reader.text(row, "response", shown)
            other = _other_clip(store, segment)
            kept.add(other.id)
            query = Query(QueryId(-1, len(queries)), (replace(segment, task=other.task), other))
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

    def __init__(self, store: FeedbackStore, name: str, spaces: Mapping[str, SpaceSpec]):
        self.name, self.spaces = name, spaces
        if not spaces and (known := store.segments()):
            self.spaces = spaces_of(store.segment(known[0]))
        self.clips: dict[str, Segment] = {}
        self.places: dict[Any, int] = {}
        self.queries: list[Query] = []
        self.answers: list[Answer] = []

    def read_answer(self, row: dict[str, Any], number: int) -> None:
        """Take a row of an export; rows about one query of its run are about one query here."""
        segments = [
            self.segment(segment, f"line {number}, clip {place}")
            for place, segment in enumerate(field(row, "segments", list))
        ]
        asked = QueryId(field(row, "round", int, -1), field(row, "index", int, number))
        question, kind = field(row, "question", str, ""), field(row, "query_kind", str, "")
        query = Query(asked, tuple(segments), kind or "preference", question)
        answer = Answer(
            asked,
            field(row, "kind", str),  # pyright: ignore[reportArgumentType]
            field(row, "value", dict),
            field(row, "teacher", str, self.name),
            field(row, "shown_at", float, 0.0),
            field(row, "answered_at", float, 0.0),
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
        prompt, said = field(row, "prompt", str), field(row, key, str)
        return self._known(Segment(name, np.array([prompt]), np.array([said]), task=prompt))

    def segment(self, row: Any, default: str, renamed: str = "") -> Segment:
        """Return a clip of an export."""
        return self._known(read_segment(row, default, renamed))

    def _known(self, segment: Segment) -> Segment:
        """Check a clip by the spaces and those before it, and return the one of its id."""
        check_segment(segment, self.spaces)
        self.spaces = self.spaces or spaces_of(segment)
        known = self.clips.setdefault(segment.id, segment)
        if contents(known) != contents(segment):
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
            digest.update(b"" if segment.id in kept else contents(segment))
    mark = f" {digest.hexdigest()}: "

    def renamed(segment: Segment) -> Segment:
        new = segment.id not in kept
        return replace(segment, id=f"{name}{mark}{segment.id}") if new else segment

    asked = [replace(query, segments=tuple(map(renamed, query.segments))) for query in queries]
    try:
        return Imported(store.record(asked, answers, mark), len(asked), len(answers))
    except StoreError:
        raise
    except UserError as error:
        raise UserError(f"{name}: {error}; nothing is imported") from None


def clips_like(store: FeedbackStore, segment: Segment) -> list[str]:
    """Return the ids of clips of a segment's task: of text, those that begin with its prompt."""
    found = store.segments(segment.task)
    if found or segment.observations.dtype.kind != "U":
        return found
    return store.segments_after(str(segment.observations[0]))


def _other_clip(store: FeedbackStore, segment: Segment) -> Segment:
    """Return a clip of the same task that is no demonstration, chosen by a hash."""
    names = [name for name in clips_like(store, segment) if DEMONSTRATION not in name]
    if not names:
        task = f"of the task {short(segment.task)} " if segment.task else ""
        raise ValueError(f"the run holds no clip {task}to compare a demonstration with")
    digest = hashlib.blake2b(contents(segment), digest_size=8).digest()
    return store.segment(names[int.from_bytes(digest, "big") % len(names)])
