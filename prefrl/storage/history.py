"""What people have answered so far, and how fast.

Nothing here reads a clip.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from prefrl.errors import UserError
from prefrl.storage.answering import COLUMNS, answer_of
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, QueryId

RATE_SECONDS = 180.0  # labels per minute are of so long a time
# A query that can be shown.
SHOWN = "round >= 0 AND coalesce(withdrawn, '') <> 'damaged'"


class HistoryEntry(NamedTuple):
    """An answer that stands, and its number."""

    number: int
    answer: Answer


def history(
    store: FeedbackStore, limit: int, before: int | None = None, person: str = "", kind: str = ""
) -> list[HistoryEntry]:
    """Return answers that stand, imported ones too, newest first.

    Args:
        store: where they are.
        limit: at most so many.
        before: only those with a smaller number.
        person: of this teacher alone.
        kind: of this kind alone.
    """
    wanted = {"teacher": person, "kind": kind}
    where = "".join(f" AND {name} = ?" for name, value in wanted.items() if value)
    rows = store.database.run(
        f"SELECT {COLUMNS}, id FROM standing WHERE NOT repeat AND id < ?{where} "
        "ORDER BY id DESC LIMIT ?",
        2**62 if before is None else before, *filter(None, wanted.values()), limit,
    )  # fmt: skip
    return [HistoryEntry(row[-1], answer_of(row[:-1])) for row in rows]


def agreement(store: FeedbackStore, person: str) -> tuple[int, int]:
    """Return on how many of the pairs shown twice a person answered the same, and of how many.

    A pair for which either answer is "can't tell" is not counted.
    """
    rows = store.database.run(
        "SELECT a.kind, a.value, b.kind, b.value FROM standing b JOIN standing a ON "
        'a.round = b.round AND a."index" = b."index" AND a.teacher = b.teacher '
        "AND NOT a.repeat AND NOT a.gold "
        "AND a.kind IN ('preference', 'tie') "
        "WHERE b.repeat AND b.kind IN ('preference', 'tie') AND b.teacher = ?",
        person,
    )
    same = [
        (first, json.loads(was).get("left")) == (again, json.loads(now).get("left"))
        for first, was, again, now in rows
    ]
    return sum(same), len(same)


def people(store: FeedbackStore) -> dict[str, int]:
    """Return how many labels each teacher has given that stand, those to known queries too.

    Imported ones do not count: who has given no others has 0.
    """
    return dict(
        store.database.run(
            "SELECT teacher, sum(CASE WHEN round >= 0 OR gold THEN 1 ELSE 0 END) AS labels "
            "FROM standing WHERE kind NOT IN ('skip', 'broken') AND NOT repeat "
            "GROUP BY teacher ORDER BY labels DESC, teacher"
        )
    )


def labels_per_minute(store: FeedbackStore, person: str) -> float:
    """Return how many labels a minute a person has given of late."""
    since = time.time() - RATE_SECONDS
    [(count, first)] = store.database.run(
        "SELECT count(*), min(shown_at) FROM standing WHERE teacher = ? "
        "AND kind NOT IN ('skip', 'broken') AND NOT repeat "
        "AND id > (SELECT max(id) - 2000 FROM answer) AND answered_at > ?",
        person, since,
    )  # fmt: skip
    if not count:
        return 0.0
    return 60 * count / max(time.time() - max(first, since), 1.0)


def move_to_front(store: FeedbackStore, query: QueryId) -> None:
    """Let a query that is open be asked before all others.

    Raises:
        UserError: it is not open.
    """
    with store.database.transaction() as run:
        moved = run(
            "UPDATE query SET priority = (SELECT max(priority) + 1 FROM query WHERE open) "
            'WHERE open AND round = ? AND "index" = ? RETURNING 1',
            *query,
        )
        if not moved:
            raise UserError(
                f"the query {query.round}-{query.index} waits for no answer; choose one that does"
            )


def was_shown(store: FeedbackStore, query: QueryId, person: str) -> bool:
    """Return whether a query is in front of somebody, or was answered by them."""
    of = 'round = ? AND "index" = ? AND teacher = ?'
    [(shown,)] = store.database.run(
        f"SELECT EXISTS (SELECT 1 FROM lease WHERE {of}) "
        f"OR EXISTS (SELECT 1 FROM gold_asked WHERE {of}) "
        f"OR EXISTS (SELECT 1 FROM answer WHERE {of})",
        *query, person, *query, person, *query, person,
    )  # fmt: skip
    return bool(shown)


def damaged(store: FeedbackStore) -> int:
    """Return how many queries were withdrawn because a clip could not be shown."""
    [(count,)] = store.database.run(
        "SELECT count(*) FROM query WHERE round >= 0 AND withdrawn = 'damaged'"
    )
    return count


def earliest(store: FeedbackStore, limit: int) -> list[QueryId]:
    """Return the run's first queries that can be shown."""
    return _first(store, SHOWN, limit)


def newest(store: FeedbackStore) -> QueryId | None:
    """Return a query about the newest policy."""
    rows = store.database.run(f"SELECT round FROM query WHERE {SHOWN} ORDER BY round DESC LIMIT 1")
    queries = _first(store, f"round = {rows[0][0]:d} AND {SHOWN}", 1) if rows else []
    return queries[0] if queries else None


def _first(store: FeedbackStore, which: str, limit: int) -> list[QueryId]:
    rows = store.database.run(
        f'SELECT round, "index" FROM query WHERE {which} ORDER BY round, "index" LIMIT ?', limit
    )
    return [QueryId(*row) for row in rows]
