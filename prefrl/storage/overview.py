"""What an admin sees of the labelling: the queue, what was set aside, what people remark."""

from __future__ import annotations

from typing import NamedTuple

from prefrl.storage.answering import COLUMNS, answer_of
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.history import HistoryEntry
from prefrl.types import QueryId

MOST = 30  # rows of each list
NEWEST = 5000  # answers that are looked through for comments


class Waiting(NamedTuple):
    """A query that waits for an answer."""

    query: QueryId
    priority: int
    person: str
    """Who has it on their page; "" where nobody does."""
    since: float
    """Seconds that they have had it."""


def waiting(store: FeedbackStore) -> tuple[int, list[Waiting]]:
    """Return how many queries are open or in front of somebody, and the first of them.

    Those on a page come first, longest first; then the others as they will be asked.
    """
    now = store.database.now()
    of = (
        'FROM query q LEFT JOIN lease l ON l.round = q.round AND l."index" = q."index" AND '
        "l.until > ? WHERE q.open"
    )
    [(count, held)] = store.database.run(f"SELECT count(*), count(l.since) {of}", now)
    rows = store.database.run(
        f'SELECT q.round, q."index", q.priority, l.teacher, l.since {of} ORDER BY '
        "CASE WHEN l.since IS NULL THEN 1 ELSE 0 END, l.since, q.priority DESC, q.round DESC, "
        'q."index" DESC LIMIT ?',
        now, held + MOST,
    )  # fmt: skip
    return count, [
        Waiting(QueryId(*row[:2]), row[2], row[3] or "", max(0.0, now - row[4]) if row[3] else 0.0)
        for row in rows
    ]


def broken(store: FeedbackStore) -> list[HistoryEntry]:
    """Return the newest answers that set a query aside."""
    rows = store.database.run(
        f"SELECT {COLUMNS}, id FROM standing WHERE kind = 'broken' ORDER BY id DESC LIMIT ?", MOST
    )
    return [HistoryEntry(row[-1], answer_of(row[:-1])) for row in rows]


def comments(store: FeedbackStore) -> list[HistoryEntry]:
    """Return the newest answers that come with a comment, of the newest answers."""
    rows = store.database.run(
        f"SELECT {COLUMNS}, id FROM standing WHERE id > ? AND kind <> 'broken' "
        "AND value LIKE '%\"comment\"%' ORDER BY id DESC LIMIT ?",
        store.last_answer() - NEWEST, MOST,
    )  # fmt: skip
    found = [HistoryEntry(row[-1], answer_of(row[:-1])) for row in rows]
    return [entry for entry in found if entry.answer.value.get("comment")]
