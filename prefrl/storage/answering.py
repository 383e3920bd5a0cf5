"""Answers in the store: rows that are only ever added, and counts of them.

Each function works through the store's database.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from prefrl.answers import is_decisive, not_overruled
from prefrl.errors import UserError, check_plain
from prefrl.storage.database import Database
from prefrl.types import Answer, Counts, QueryId

COLUMNS = 'round, "index", kind, value, teacher, shown_at, answered_at, repeat, gold, uuid'
# Whether the answer `a` stood when the newest one had the id `:through`.
STOOD = (
    "a.kind <> 'retraction' AND a.id <= :through "
    "AND (a.superseded IS NULL OR a.superseded > :through)"
)
# The seconds that an answer took; whoever took longer has made a pause.
SECONDS = (
    "CASE WHEN answered_at - shown_at > 120 THEN 120.0 WHEN answered_at > shown_at "
    "THEN answered_at - shown_at ELSE 0.0 END"
)


def answer_of(row: Sequence[Any]) -> Answer:
    """Return the answer of which a row holds `COLUMNS`."""
    round_index, index, kind, value, teacher, shown_at, answered_at, repeat, gold, uuid = row
    query, value = QueryId(round_index, index), json.loads(value)
    said = query, kind, value, teacher, shown_at, answered_at
    return Answer(*said, bool(repeat), uuid or "", bool(gold))


def write_answer(database: Database, answer: Answer) -> str:
    """Write one answer, within a transaction, and return its uuid; see `FeedbackStore.answer`."""
    check_plain("the name of a teacher", answer.teacher)
    check_plain("the uuid of an answer", answer.uuid)
    try:
        value = json.dumps(answer.value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the answer of teacher {answer.teacher!r} holds {answer.value!r}, which cannot be "
            f"kept ({error}); expected JSON of finite numbers"
        ) from None
    uuid = answer.uuid or uuid4().hex
    database.run(
        'INSERT INTO answer (round, "index", kind, value, decisive, teacher, shown_at, '
        "answered_at, repeat, gold, uuid) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        *answer.query, answer.kind, value, is_decisive(answer), answer.teacher,
        answer.shown_at, answer.answered_at, answer.repeat, answer.gold, uuid,
    )  # fmt: skip
    return uuid


def read_answers(database: Database, through: int | None, repeats: bool) -> list[Answer]:
    """Return the answers that stand; see `FeedbackStore.answers`."""
    rows = database.run(
        f"SELECT {COLUMNS} FROM answer a WHERE {STOOD} AND (:repeats OR NOT (repeat OR gold)) "
        "ORDER BY id",
        through=2**62 if through is None else through, repeats=repeats,
    )  # fmt: skip
    return not_overruled([*map(answer_of, rows)])


def set_aside(database: Database, through: int | None) -> set[QueryId]:
    """Return the queries that somebody says cannot be judged, as it stood at an answer."""
    rows = database.run(
        f"SELECT DISTINCT round, \"index\" FROM answer a WHERE {STOOD} AND kind = 'broken'",
        through=2**62 if through is None else through,
    )
    return {QueryId(*row) for row in rows}


def unknown(database: Database, answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers whose uuid is neither here, whatever became of it, nor seen before."""
    known = {row[0] for row in database.run("SELECT uuid FROM answer")}
    fresh = []
    for answer in answers:
        if not answer.uuid or answer.uuid not in known:
            fresh.append(answer)
        known.add(answer.uuid)
    return fresh


def answered_queries(database: Database, through: int) -> set[QueryId]:
    """Return the queries to which an answer with id up to `through` once taught something."""
    rows = database.run(
        'SELECT DISTINCT round, "index" FROM answer WHERE id <= ? AND NOT (repeat OR gold) '
        "AND kind NOT IN ('skip', 'broken', 'retraction')",
        through,
    )
    return {QueryId(*row) for row in rows}


def demonstrate(
    database: Database, prompt: str, response: str | None, teacher: str, uuid: str
) -> None:
    """Keep a demonstration; see `FeedbackStore.demonstrate`."""
    with database.transaction() as run:
        run(
            "INSERT INTO demonstration (teacher, prompt, response, at, uuid) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            teacher, prompt, response, database.now(), uuid,
        )  # fmt: skip


def count_at(database: Database, before_round: int, through: int) -> Counts:
    """Count queries and answers as they stood; see `FeedbackStore.counts_at`."""
    [row] = database.run(
        "SELECT count(*), coalesce(sum(labelled * whole), 0), coalesce(sum(decided * whole), 0), "
        "coalesce(sum(CASE WHEN answered = 0 AND withdrawn IS NULL THEN 1 ELSE 0 END), 0), "
        "coalesce(sum(labelled * whole * clips), 0), "
        f"(SELECT coalesce(sum({SECONDS}), 0.0) FROM answer WHERE round >= 0 "
        "  AND round < :before AND id <= :through) FROM ("
        "  SELECT count(a.id) AS answered, q.withdrawn AS withdrawn, "
        "    max(CASE WHEN a.kind <> 'skip' THEN 1 ELSE 0 END) AS labelled, "
        "    min(CASE WHEN a.kind = 'broken' THEN 0 ELSE 1 END) AS whole, "
        "    max(json_array_length(q.segments)) AS clips, "
        "    max(CASE WHEN a.decisive THEN 1 ELSE 0 END) AS decided "
        '  FROM query q LEFT JOIN answer a ON a.round = q.round AND a."index" = q."index" '
        f"  AND {STOOD} AND (a.kind = 'broken' OR NOT (a.repeat OR a.gold)) "
        "  WHERE q.round >= 0 AND q.round < :before "
        '  GROUP BY q.round, q."index", q.withdrawn) counted',
        before=before_round, through=through,
    )  # fmt: skip
    return Counts(*row)
