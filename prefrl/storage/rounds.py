"""Rounds in the store: what each asked, written with its clips, all or nothing.

Each function works through the store's database.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from prefrl.answers import check_answer
from prefrl.errors import UserError, check_plain
from prefrl.storage.answering import unknown, write_answer
from prefrl.storage.database import Database
from prefrl.storage.segments import SegmentCache, write_mean_return, write_segments
from prefrl.types import Answer, Ledger, Picture, Query, QueryId, Recorded, of_aspect

NO_PICTURES: Mapping[str, Picture] = MappingProxyType({})


def ask_round(
    database: Database, segments: SegmentCache, round_index: int, queries: Sequence[Query],
    true_rewards: Mapping[str, np.ndarray], answers_through: int, pictures: Mapping[str, Picture],
    mean_return: float | None,
) -> None:  # fmt: skip
    """Write a round, unless it is there; see `FeedbackStore.ask`.

    Clips are many, and nobody looks for them before there are queries about them: they are written
    first, while people's answers need not wait.
    """
    clips = partial(_write_clips, database, queries, true_rewards, pictures)
    with database.transaction(clips):
        known = read_ledger(database, round_index)
        if known:
            before = read_queries(database, segments, "WHERE round = ?", round_index)
            same = [*map(_key, before)] == [*map(_key, queries)]
            if not same or known.answers_through != answers_through:
                raise UserError(
                    f"{database.called} already holds other queries for round {round_index}: the "
                    "run does not repeat itself here (another machine, library version or "
                    "environment?); start a new run"
                )
            return
        _write_queries(database, round_index, queries, answers_through)
        if mean_return is not None:
            write_mean_return(database, round_index, mean_return)


def record_round(
    database: Database, queries: Sequence[Query], answers: Sequence[Answer], mark: str
) -> Recorded:
    """Write a round that is answered already; see `FeedbackStore.record`."""
    with database.transaction() as run:
        answers = unknown(database, answers)
        known = run("SELECT 1 FROM segment WHERE replace(id, ?, '') <> id LIMIT 1", mark)
        if known or not answers:
            raise UserError(f"{database.called} holds these answers already")
        answered = sorted({answer.query.index for answer in answers})
        [(lowest,)] = run("SELECT coalesce(min(round), 0) FROM round WHERE round <= 0")
        asked = {
            old: dataclasses.replace(queries[old], id=QueryId(lowest - 1, new))
            for new, old in enumerate(answered)
        }
        [(last,)] = run("SELECT coalesce(max(id), 0) FROM answer")
        shown = list(asked.values())
        _write_clips(database, shown, {}, NO_PICTURES)
        _write_queries(database, lowest - 1, shown, last)
        for answer in answers:
            query = asked[answer.query.index]
            check_answer(query, answer)
            write_answer(database, dataclasses.replace(answer, query=query.id))
        # A repeat closes no query, and its first answer may not have come along.
        run("UPDATE query SET open = FALSE WHERE round = ?", lowest - 1)
    return Recorded(lowest - 1, len(asked), len(answers))


def write_known_round(
    database: Database, queries: Sequence[Query], known: Sequence[Sequence[str]]
) -> None:
    """Write queries whose answers are known as a round of their own; nobody has answered them.

    Args:
        database: of the store; within a transaction.
        queries: the store numbers them anew.
        known: of each, what the table of gold questions keeps beside which query it is.
    """
    [(lowest,)] = database.run("SELECT coalesce(min(round), 0) FROM round WHERE round <= 0")
    [(last,)] = database.run("SELECT coalesce(max(id), 0) FROM answer")
    numbered = [
        dataclasses.replace(query, id=QueryId(lowest - 1, index))
        for index, query in enumerate(queries)
    ]
    _write_clips(database, numbered, {}, NO_PICTURES)
    _write_queries(database, lowest - 1, numbered, last)
    database.run("UPDATE query SET withdrawn = 'gold', open = FALSE WHERE round = ?", lowest - 1)
    rows = [(*query.id, *row) for query, row in zip(numbered, known, strict=True)]
    database.many("INSERT INTO gold VALUES (?, ?, ?, ?, ?, ?)", rows)


def expire(database: Database, before_round: int) -> None:
    """Withdraw what earlier rounds asked, but for what somebody is looking at."""
    with database.transaction() as run:
        run(
            "UPDATE query SET withdrawn = 'expired', open = FALSE WHERE open AND round < ? "
            "AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.round = query.round "
            'AND l."index" = query."index" AND l.until > ?)',
            before_round, database.now(),
        )  # fmt: skip


def withdraw(database: Database, query: QueryId, why: str) -> None:
    """Ask a query nobody any more; answers that it has stay."""
    with database.transaction() as run:
        run(
            'UPDATE query SET withdrawn = ?, open = FALSE WHERE round = ? AND "index" = ?',
            why, *query,
        )  # fmt: skip


def read_ledger(database: Database, round_index: int) -> Ledger | None:
    """Return what is on record of a round, None if it was never asked."""
    rows = database.run(
        "SELECT answers_through, (SELECT count(*) FROM query q WHERE q.round = r.round) "
        "FROM round r WHERE r.round = ?",
        round_index,
    )
    return Ledger(*rows[0]) if rows else None


def read_queries(
    database: Database, segments: SegmentCache, where: str, *values: Any
) -> list[Query]:
    """Return queries, in order; their clips are read together.

    Args:
        database: of the store.
        segments: the clips that were read.
        where: which, as SQL has it: "WHERE open", "".
        values: of `where`.
    """
    rows = database.run(
        f'SELECT round, "index", kind, question, segments, aspect FROM query {where} '
        'ORDER BY round, "index"',
        *values,
    )
    shown = [json.loads(row[4]) for row in rows]
    clips = segments.many(name for names in shown for name in names)
    return [
        Query(QueryId(r[0], r[1]), tuple(clips[name] for name in names), r[2], r[3], r[5])
        for r, names in zip(rows, shown, strict=True)
    ]


def _key(query: Query) -> tuple[Any, ...]:
    clips = [segment.id for segment in query.segments]
    return (query.id, query.kind, query.question, query.aspect, clips)


def _write_clips(
    database: Database, queries: Sequence[Query], true_rewards: Mapping[str, np.ndarray],
    pictures: Mapping[str, Picture],
) -> None:  # fmt: skip
    aspects = sorted({name.partition("\n")[0] for name in true_rewards if "\n" in name})
    rewards = {}
    for query in queries:
        check_plain("the question", query.question)
        check_plain("the aspect", query.aspect)
        for segment in query.segments:
            names = {aspect: of_aspect(segment.id, aspect) for aspect in ("", *aspects)}
            known = {a: true_rewards[n] for a, n in names.items() if n in true_rewards}
            rewards[segment.id] = known
    shown = [segment for query in queries for segment in query.segments]
    write_segments(database, shown, rewards, pictures)


def _write_queries(
    database: Database, number: int, queries: Sequence[Query], answers_through: int
) -> None:
    database.run("INSERT INTO round VALUES (?, ?)", number, answers_through)
    database.many(
        'INSERT INTO query (round, "index", kind, question, segments, aspect) '
        "VALUES (?, ?, ?, ?, ?, ?)",
        [
            (*q.id, q.kind, q.question, json.dumps([s.id for s in q.segments]), q.aspect)
            for q in queries
        ],
    )
