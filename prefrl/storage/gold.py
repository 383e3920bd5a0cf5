"""Gold questions: queries whose answer is known, which measure the people who answer them.

They are shown as any other query is, once to each person. What is answered to them is marked
(`Answer.gold`), teaches nothing and is no label.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import Any, NamedTuple

from prefrl.answers import KINDS, share_right
from prefrl.errors import UserError
from prefrl.storage.answering import COLUMNS, answer_of
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.jsonl import contents
from prefrl.types import Answer, Query, QueryId

OF_QUERY = 'round = ? AND "index" = ?'
# A gold question that may be asked: it can be shown, and nobody says that it is broken.
SOUND = (
    'EXISTS (SELECT 1 FROM query q WHERE q.round = g.round AND q."index" = g."index" AND '
    "q.withdrawn = 'gold') AND NOT EXISTS (SELECT 1 FROM standing b WHERE b.round = g.round AND "
    'b."index" = g."index" AND b.kind = \'broken\')'
)
ANSWERED = (
    'SELECT 1 FROM standing s WHERE s.round = g.round AND s."index" = g."index" AND s.teacher = ?'
)


class Known(NamedTuple):
    """A gold question."""

    query: QueryId
    answer: Answer
    """The one that is right; its teacher knows it."""


def mark_answer(store: FeedbackStore, number: int) -> QueryId:
    """Make a gold question of the query of an answer that stands, with that answer as the known.

    Nobody is asked the query any more but as a gold question; what it has taught stays.

    Args:
        store: of the run.
        number: the answer's.

    Raises:
        UserError: there is no such answer, it compares nothing, or another one is known already.
    """
    rows = store.database.run(f"SELECT {COLUMNS} FROM standing WHERE id = ?", number)
    if not rows:
        raise UserError("that answer does not stand any more; choose one that the history shows")
    answer = answer_of(rows[0])
    mark(store, store.query(answer.query), answer)
    return answer.query


def mark(store: FeedbackStore, query: Query, known: Answer) -> bool:
    """Make a gold question of a query of the run; return whether it was none before.

    Raises:
        UserError: the answer compares nothing, or another one is known already.
    """
    check_compares(known)
    with store.database.transaction():
        if is_known(store, query, known):
            return False
        write_mark(store, query, known)
    return True


def write_mark(store: FeedbackStore, query: Query, known: Answer) -> None:
    """Make a gold question of a query of the run that is none, within a transaction."""
    run = store.database.run
    run("INSERT INTO gold VALUES (?, ?, ?, ?, ?, ?)", *query.id, *row_of(query, known))
    run(f"UPDATE query SET withdrawn = 'gold', open = FALSE WHERE {OF_QUERY}", *query.id)


def unmark(store: FeedbackStore, query: QueryId) -> None:
    """Let a query be no gold question any more; answers to it stay what they are.

    Raises:
        UserError: it is none.
    """
    with store.database.transaction() as run:
        if not run(f"SELECT 1 FROM gold WHERE {OF_QUERY}", *query):
            raise UserError(
                f"the query {query.round}-{query.index} is no gold question; expected one of "
                f"{_some(store)}"
            )
        run(f"DELETE FROM gold WHERE {OF_QUERY}", *query)
        run(
            'DELETE FROM gold_asked WHERE round = ? AND "index" = ? AND NOT EXISTS (SELECT 1 '
            'FROM standing s WHERE s.round = gold_asked.round AND s."index" = gold_asked."index" '
            "AND s.teacher = gold_asked.teacher)",
            *query,
        )
        why = "expired" if query.round < 0 else None  # it was asked for this alone
        run(
            "UPDATE query SET withdrawn = ?, open = (round >= 0 AND NOT EXISTS (SELECT 1 FROM "
            'standing s WHERE s.round = query.round AND s."index" = query."index" AND '
            f"(s.kind = 'broken' OR NOT (s.repeat OR s.gold)))) WHERE {OF_QUERY}",
            why, *query,
        )  # fmt: skip


def questions(store: FeedbackStore) -> list[Known]:
    """Return the gold questions, in order."""
    rows = store.database.run(
        'SELECT round, "index", kind, value, teacher FROM gold ORDER BY round, "index"'
    )
    return [
        Known(QueryId(*row[:2]), Answer(QueryId(*row[:2]), row[2], json.loads(row[3]), row[4]))
        for row in rows
    ]


def scores(store: FeedbackStore) -> dict[str, list[float]]:
    """Return how far each teacher's answers to gold questions are right, from 0 to 1 each.

    Answers that compare nothing are left out, and those to questions that are set aside.
    """
    rows = store.database.run(
        f"SELECT {_of('a')}, g.kind, g.value, json_array_length(q.segments) FROM standing a "
        'JOIN gold g ON g.round = a.round AND g."index" = a."index" '
        'JOIN query q ON q.round = a.round AND q."index" = a."index" '
        f"WHERE a.gold AND {SOUND} ORDER BY a.id"
    )
    found: dict[str, list[float]] = defaultdict(list)
    for *row, kind, value, segments in rows:
        given = answer_of(row)
        known = Answer(given.query, kind, json.loads(value))
        right = share_right(known, given, segments)
        if right is not None:
            found[given.teacher].append(right)
    return dict(found)


def choose(store: FeedbackStore, person: str, count: int, drawn: float) -> list[QueryId]:
    """Return gold questions that a person has not seen, and remember that they are shown them.

    Args:
        store: of the run; within a transaction.
        person: who is asked.
        count: at most so many.
        drawn: from 0 to 1, which of them.
    """
    rows = store.database.run(
        f'SELECT g.round, g."index" FROM gold g WHERE {SOUND} AND g.teacher <> ? AND NOT EXISTS '
        f"({ANSWERED}) AND NOT EXISTS (SELECT 1 FROM gold_asked s WHERE s.round = g.round AND "
        's."index" = g."index" AND s.teacher = ?) ORDER BY g.round, g."index"',
        person, person, person,
    )  # fmt: skip
    first = int(drawn * len(rows)) if rows else 0
    chosen = [QueryId(*row) for row in (rows[first:] + rows[:first])[:count]]
    rows = [(*query, person) for query in chosen]
    store.database.many("INSERT INTO gold_asked VALUES (?, ?, ?)", rows)
    return chosen


def unanswered(store: FeedbackStore, person: str) -> list[QueryId]:
    """Return the gold questions that a person was shown and has not answered."""
    rows = store.database.run(
        f'SELECT g.round, g."index" FROM gold_asked g WHERE g.teacher = ? AND {SOUND} '
        f'AND NOT EXISTS ({ANSWERED}) ORDER BY g.round, g."index"',
        person, person,
    )  # fmt: skip
    return [QueryId(*row) for row in rows]


def was_asked(store: FeedbackStore, query: QueryId, person: str) -> bool:
    """Return whether somebody was shown a query as a gold question."""
    asked = f"SELECT 1 FROM gold_asked WHERE {OF_QUERY} AND teacher = ?"
    return bool(store.database.run(asked, *query, person))


def is_known(store: FeedbackStore, query: Query, known: Answer) -> bool:
    """Return whether a query is gold with this answer; refuse it if it is with another one."""
    rows = store.database.run(
        'SELECT round, "index", kind, value, teacher FROM gold WHERE clips = ?', digest_of(query)
    )
    for *where, kind, value, teacher in rows:
        there = Answer(QueryId(*where), kind, json.loads(value), teacher)
        if said(there) != said(known):
            ticket = f"{there.query.round}-{there.query.index}"
            raise UserError(
                f"the query {ticket} is gold already with another answer, {in_words(there)}, and "
                f"now {in_words(known)}; if the new one is right, first end the old one with "
                f"`prefrl label RUN --ungold {ticket}`"
            )
    return bool(rows)


def check_compares(answer: Answer) -> None:
    """Raise `UserError` unless an answer says which clips are better."""
    if not hasattr(KINDS[answer.kind], "pair"):
        raise UserError(
            f"an answer of kind {answer.kind!r} compares no clips; expected a preference, a tie, a "
            "ranking or ratings for a gold question"
        )


def said(answer: Answer) -> tuple[Any, ...]:
    """Return what an answer says, without how surely or in which words."""
    return answer.kind, {name: answer.value.get(name) for name in ("left", "order", "ratings")}


def in_words(answer: Answer) -> str:
    """Return an answer and who gave it, for a sentence."""
    said = {name: value for name, value in answer.value.items() if name != "comment"}
    return f"{answer.kind} {json.dumps(said)} of {answer.teacher}"


def row_of(query: Query, known: Answer) -> tuple[str, str, str, str]:
    """Return what the table keeps of a gold question, beside which query it is."""
    value = {name: each for name, each in known.value.items() if name != "comment"}
    return digest_of(query), known.kind, json.dumps(value), known.teacher


def digest_of(query: Query) -> str:
    """Return by what a query is known, wherever it comes from: a hash of all that it shows."""
    digest = hashlib.blake2b(query.aspect.encode(), digest_size=16)
    for segment in query.segments:
        digest.update(contents(segment))
    return digest.hexdigest()


def _of(table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in COLUMNS.split(", "))


def _some(store: FeedbackStore) -> str:
    tickets = [f"{known.query.round}-{known.query.index}" for known in questions(store)]
    return ", ".join(tickets[:9]) or "none: `prefrl label RUN --gold FILE` makes some"
