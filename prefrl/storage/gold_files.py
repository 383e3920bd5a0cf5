"""Gold questions out of files: answers of an oracle, or of somebody who is trusted.

A file comes in whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.files import in_utf8
from prefrl.storage.gold import (
    check_compares,
    digest_of,
    in_words,
    is_known,
    row_of,
    said,
    write_mark,
)
from prefrl.storage.import_export import about, or_nothing, spaces_in
from prefrl.storage.rounds import write_known_round
from prefrl.storage.rows import UNKNOWN, AnswerReader
from prefrl.storage.texts import reader as texts
from prefrl.types import Answer, Query, QueryId, SpaceSpec


class Asks(NamedTuple):
    """What a run asks."""

    questions: Mapping[str, str]
    """By aspect; "" is the name of the one of a run without aspects."""
    kind: str
    clips: int
    """Of a query."""


class Marked(NamedTuple):
    """What came of a file of known answers."""

    marked: int
    """Queries that are gold from now on."""
    known: int
    """Queries that were, with the same answer."""
    notes: tuple[str, ...]


def import_gold(
    store: FeedbackStore, path: Path, asks: Asks, spaces: Mapping[str, SpaceSpec] = UNKNOWN,
    chat: bool | None = None, aspect: str = "",
) -> Marked:  # fmt: skip
    """Make gold questions of the answers in a file: of an oracle, or of somebody who is trusted.

    Queries that the run has asked become gold as they are; others come in as a round of their own
    below the run's. Of pairs of texts, where the better one always comes first, the sides are
    drawn.

    Args:
        store: where to.
        path: a file as `prefrl import` takes it.
        asks: what the run asks, so that gold questions look like all others.
        spaces: what clips must be of; see `import_export.import_answers`.
        chat: whether the run speaks through a chat template, where that is known.
        aspect: what rows are about that do not say it.

    Raises:
        UserError: it cannot be read, does not fit, or knows two answers to one query; then nothing
            becomes gold.
    """
    reader = AnswerReader(in_utf8(path.stem), spaces or spaces_in(store))
    with or_nothing("nothing becomes gold"):
        read = texts.read_file(path, chat)
        examples, notes = texts.compared(read)
        for example in examples:
            reader.read(example)
        queries = about(reader.queries, [name for name in asks.questions if name], aspect)
        _check_alike(path.name, queries, asks)
        exported = all(example.kind == "exported" for example in examples)
        known = _one_for_each(path.name, queries, reader.answers)
        if not exported:
            queries, known = _sides_drawn(queries, known)
        with store.database.transaction():
            done = _take(store, path, queries, known, asks)
    return Marked(*done, (read.took, *read.notes, *notes))


def _take(
    store: FeedbackStore, path: Path, queries: Sequence[Query], known: Mapping[int, Answer],
    asks: Asks,
) -> tuple[int, int]:  # fmt: skip
    marked, there, new = 0, 0, []
    for index, answer in known.items():
        query = _of_run(store, queries[index]) or queries[index]
        if is_known(store, query, answer):
            there += 1
        elif query.id.round >= 0:
            write_mark(store, query, answer)
            marked += 1
        else:
            question = asks.questions.get(query.aspect, query.question)
            new.append((replace(query, question=question), answer))
    name = in_utf8(path.stem)
    if new:
        shown = [_renamed(name, query) for query, _ in new]
        rows = [row_of(query, answer) for query, answer in new]
        write_known_round(store.database, shown, rows)
    if not known:
        raise UserError(f"{name} holds no answer that compares clips")
    return marked + len(new), there


def _renamed(name: str, query: Query) -> Query:
    """Give a query's clips ids that tell where they are from, by a hash of all that they show."""
    digest = digest_of(query)[:12]
    segments = [replace(clip, id=f"{name} {digest}: {clip.id}") for clip in query.segments]
    return replace(query, segments=tuple(segments))


def _of_run(store: FeedbackStore, query: Query) -> Query | None:
    """Return the run's own query of the same clips and aspect, if it has one."""
    rows = store.database.run(
        'SELECT round, "index" FROM query WHERE round >= 0 AND CAST(segments AS TEXT) = ? '
        "AND aspect = ?",
        json.dumps([segment.id for segment in query.segments]), query.aspect,
    )  # fmt: skip
    own = [store.query(QueryId(*row)) for row in rows]
    return next((each for each in own if digest_of(each) == digest_of(query)), None)


def _check_alike(name: str, queries: Sequence[Query], asks: Asks) -> None:
    """Raise `UserError` if a query would be known for a gold question by its looks."""
    for query in queries:
        if (query.kind, len(query.segments)) != (asks.kind, asks.clips):
            raise UserError(
                f"{name} holds a {query.kind} of {len(query.segments)} clips, but the run asks for "
                f"a {asks.kind} of {asks.clips}; expected queries like those, since a gold "
                "question must look like any other"
            )


def _one_for_each(
    name: str, queries: Sequence[Query], answers: Sequence[Answer]
) -> dict[int, Answer]:
    """Return the known answer of each query, by its index."""
    known: dict[int, Answer] = {}
    for answer in answers:
        if answer.repeat or answer.gold or answer.kind in ("skip", "broken"):
            continue
        check_compares(answer)
        index = answer.query.index
        if said(known.setdefault(index, answer)) != said(answer):
            raise UserError(
                f"{name} knows two answers to one query, {in_words(known[index])} and "
                f"{in_words(answer)}; leave one of the two out"
            )
    return known


def _sides_drawn(
    queries: Sequence[Query], known: Mapping[int, Answer]
) -> tuple[list[Query], dict[int, Answer]]:
    drawn, turned = list(queries), dict(known)
    for index, answer in known.items():
        if answer.kind != "preference" or int(digest_of(queries[index]), 16) % 2:
            continue
        drawn[index] = replace(queries[index], segments=queries[index].segments[::-1])
        turned[index] = replace(answer, value=answer.value | {"left": 1 - answer.value["left"]})
    return drawn, turned
