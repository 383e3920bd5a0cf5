"""Answers as JSON lines, out of a run and into one.

What a row may be is said in `rows` and `texts`. Files come in whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prefrl.errors import StoreError, UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.files import in_utf8
from prefrl.storage.jsonl import contents, read_rows, said_where, segment_as_json, short
from prefrl.storage.rows import UNKNOWN, AnswerReader
from prefrl.storage.spaces import spaces_of
from prefrl.storage.texts import reader as texts
from prefrl.types import Answer, Query, QueryId, Segment, SpaceSpec, is_text

DEMONSTRATION = "demonstration, line "


class Imported(NamedTuple):
    """What was imported."""

    round: int
    """-1, -2, …"""
    queries: int
    answers: int
    left_out: int = 0
    """Pairs of texts that are the same, which say nothing."""
    known: int = 0
    """Answers that were here already."""
    environments: tuple[str, ...] = ()
    """Of which the file says that its clips are; none where it does not say it."""
    notes: tuple[str, ...] = ()
    """What the file was taken for, and what else is to be said of it."""


def export_answers(store: FeedbackStore, env: str) -> Iterator[dict[str, Any]]:
    """Yield every answer that stands with its query, as plain JSON values.

    Answers to pairs that were shown again are among them, marked as `repeat`, and those to queries
    whose answer was known, marked as `gold`.

    Args:
        store: where they are.
        env: id of the environment that the clips are of.
    """
    for answer in store.answers(repeats=True):
        query = store.query(answer.query)
        yield {
            "env": env,
            "round": query.id.round,
            "index": query.id.index,
            "query_kind": query.kind,
            "question": query.question,
            **({"aspect": query.aspect} if query.aspect else {}),
            "segments": [segment_as_json(segment) for segment in query.segments],
            "kind": answer.kind,
            "value": answer.value,
            "teacher": answer.teacher,
            "shown_at": answer.shown_at,
            "answered_at": answer.answered_at,
            "repeat": answer.repeat,
            **({"gold": True} if answer.gold else {}),
            "uuid": answer.uuid,
        }


def import_file(
    store: FeedbackStore, path: Path, demonstrations: bool = False,
    spaces: Mapping[str, SpaceSpec] = UNKNOWN, chat: bool | None = None,
    aspects: Collection[str] | None = None, aspect: str = "",
) -> Imported:  # fmt: skip
    """Import a file of answers and pairs, or of demonstrations.

    Args:
        store: where to.
        path: the file; what it may be, `texts.reader.read_file` says.
        demonstrations: it holds demonstrations.
        spaces: what its clips must be of; see `import_answers`.
        chat: whether the run speaks through a chat template, where that is known.
        aspects: those that the run asks about, none if there is one question alone; None if any
            will do.
        aspect: what the rows are about that do not say it themselves.

    Raises:
        UserError: it cannot be read, or does not fit; then nothing is imported.
    """
    with or_nothing():
        read = texts.read_file(path, chat)
    take = _take_demonstrations if demonstrations else _take_answers
    return take(store, read, in_utf8(path.stem), spaces, lambda q: about(q, aspects, aspect))


def import_answers(
    store: FeedbackStore, lines: Iterable[str], name: str, spaces: Mapping[str, SpaceSpec] = UNKNOWN
) -> Imported:
    """Import answers as an answered round of their own, below the run's rounds.

    Args:
        store: where to.
        lines: what `texts.reader.read_rows` takes, as JSON.
        name: of the import: in the clips' ids, and the teacher where a line names none.
        spaces: what the run's environment observes and how it acts, as `RunFolder.spaces` says it;
            where that is unknown, clips must be like those in the store, or all alike.

    Raises:
        UserError: a line does not fit, or this was imported before; then nothing is imported.
    """
    return _take_answers(store, _read_lines(lines, name), name, spaces, list)


def import_demonstrations(
    store: FeedbackStore, lines: Iterable[str], name: str, spaces: Mapping[str, SpaceSpec] = UNKNOWN
) -> Imported:
    """Import demonstrations: each is better than some clip of the same task in the store.

    Which clip that is follows from the demonstration alone.

    Args:
        store: where to.
        lines: {"segment": {…}} as in an export, or what `texts.reader.read_rows` takes, as JSON.
        name: of the import: in the clips' ids, and the teacher who prefers the demonstrations.
        spaces: what the clips must be of; see `import_answers`.

    Raises:
        UserError: a line does not fit, there is no clip of its task, or this was imported before;
            then nothing is imported.
    """
    return _take_demonstrations(store, _read_lines(lines, name), name, spaces, list)


def _read_lines(lines: Iterable[str], name: str) -> texts.Texts:
    with or_nothing():
        return texts.read_rows(read_rows(lines, name), name, "JSON lines", chat=None)


def about(queries: Sequence[Query], aspects: Collection[str] | None, aspect: str) -> list[Query]:
    """Return queries with the aspect that each is about.

    Raises:
        UserError: one is about none of the run's.
    """
    about = [replace(query, aspect=query.aspect or aspect) for query in queries]
    asked = aspects or ("",)
    others = dict.fromkeys(query.aspect for query in about if query.aspect not in asked)
    if aspects is None or not others:
        return about
    theirs = ", ".join(other or "none in particular" for other in others)
    if not aspects:
        raise UserError(
            f"there are answers about {theirs}, but the run asks one question alone; import them "
            "into a run with such aspects"
        )
    raise UserError(
        f"there are answers about {theirs}, but the run asks about {', '.join(aspects)}; say with "
        "--aspect what those without an aspect are about"
    )


def _take_answers(
    store: FeedbackStore, read: texts.Texts, name: str, spaces: Mapping[str, SpaceSpec],
    with_aspects: Callable[[Sequence[Query]], list[Query]],
) -> Imported:  # fmt: skip
    reader = AnswerReader(name, spaces or spaces_in(store))
    with or_nothing():
        examples, notes = texts.compared(read)
        for example in examples:
            reader.read(example)
        queries = with_aspects(reader.queries)
    if reader.left_out and not reader.answers:
        raise UserError(
            f"{name} holds nothing to import: the two texts of each of its {reader.left_out} pairs "
            "are the same"
        )
    done = _record(store, name, queries, reader.answers)
    return done._replace(
        left_out=reader.left_out, environments=tuple(sorted(reader.environments)),
        notes=(read.took, *read.notes, *notes),
    )  # fmt: skip


def _take_demonstrations(
    store: FeedbackStore, read: texts.Texts, name: str, spaces: Mapping[str, SpaceSpec],
    with_aspects: Callable[[Sequence[Query]], list[Query]],
) -> Imported:  # fmt: skip
    reader, kept = AnswerReader(name, spaces or spaces_in(store)), set()
    with or_nothing():
        shown, notes = texts.demonstrations(read, clips=True)
        for index, example in enumerate(shown):
            with said_where(example.where):
                segment = reader.demonstration(example, f"{DEMONSTRATION}{example.number}")
                other = _other_clip(store, segment)
            kept.add(other.id)
            query = Query(QueryId(-1, index), (replace(segment, task=other.task), other))
            reader.add(index, query, Answer(query.id, "preference", {"left": 1.0}, name))
        queries = with_aspects(reader.queries)
    done = _record(store, name, queries, reader.answers, kept)
    return done._replace(notes=(read.took, *read.notes, *notes))


@contextmanager
def or_nothing(what: str = "nothing is imported") -> Iterator[None]:
    """Say of a mistake that nothing has come of it."""
    try:
        yield
    except StoreError:
        raise
    except UserError as error:
        raise UserError(f"{error}; {what}") from None


def spaces_in(store: FeedbackStore) -> Mapping[str, SpaceSpec]:
    """Return what clips must be of, by one that a store holds."""
    known = store.segments()
    return spaces_of(store.segment(known[0])) if known else UNKNOWN


def copy_answers(source: FeedbackStore, store: FeedbackStore, name: str) -> Imported:
    """Import the answers that stand in another store."""
    rows: dict[QueryId, int] = {}
    answers = []
    for answer in source.answers(repeats=True):
        row = rows.setdefault(answer.query, len(rows))
        answers.append(replace(answer, query=QueryId(-1, row)))
    return _record(store, name, [source.query(query) for query in rows], answers)


def about_another(environments: Iterable[str], env: str) -> list[str]:
    """Return a note if answers are about clips of another environment, as any text fits any run.

    Args:
        environments: ids of those that the clips are of.
        env: id of the run's own; the package that registers it does not matter.
    """
    others = [name for name in environments if name.split(":")[-1] != env.split(":")[-1]]
    if not others:
        return []
    return [
        f"there are answers about {', '.join(others)}, and the run trains in {env}; what was "
        "better there may not be here"
    ]


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
        content = [answer.query, answer.kind, answer.value, answer.teacher]
        digest.update(json.dumps(content, sort_keys=True).encode())
        for segment in queries[answer.query.index].segments:
            digest.update(b"" if segment.id in kept else contents(segment))
    mark = f" {digest.hexdigest()}: "

    def renamed(segment: Segment) -> Segment:
        new = segment.id not in kept
        return replace(segment, id=f"{name}{mark}{segment.id}") if new else segment

    asked = [replace(query, segments=tuple(map(renamed, query.segments))) for query in queries]
    try:
        recorded = store.record(asked, answers, mark)
    except StoreError:
        raise
    except UserError as error:
        raise UserError(f"{name}: {error}; nothing is imported") from None
    return Imported(*recorded, known=len(answers) - recorded.answers)


def clips_like(store: FeedbackStore, segment: Segment) -> list[str]:
    """Return the ids of clips of a segment's task: of text, those that begin with its prompt."""
    segments = store.segments(segment.task)
    if segments or not is_text(segment.observations):
        return segments
    return store.segments_after(str(segment.observations[0]))


def _other_clip(store: FeedbackStore, segment: Segment) -> Segment:
    """Return a clip of the same task that is no demonstration, chosen by a hash."""
    names = [name for name in clips_like(store, segment) if DEMONSTRATION not in name]
    if not names:
        task = f"of the task {short(segment.task)} " if segment.task else ""
        raise ValueError(f"the run holds no clip {task}to compare a demonstration with")
    digest = hashlib.blake2b(contents(segment), digest_size=8).digest()
    return store.segment(names[int.from_bytes(digest, "big") % len(names)])
