"""Queries that somebody has answered already, and other people are to answer, too."""

from __future__ import annotations

NEWEST_ROUNDS = 3  # of which queries are still about what the policy does


def for_others(people: int) -> str:
    """Return a statement: which queries fewer than `people` have answered, and not this person.

    A skip is an answer, too, and what is set aside is asked nobody. Its one value is who that
    person is; it can go on with AND, and names the table of queries `q`.
    """
    answers = (
        'standing s WHERE s.round = q.round AND s."index" = q."index" AND NOT (s.repeat OR s.gold)'
    )
    return (
        'SELECT q.round, q."index" FROM query q WHERE NOT q.open AND q.withdrawn IS NULL '
        "AND q.round >= 0 "
        f"AND q.round > (SELECT coalesce(max(round), 0) FROM round) - {NEWEST_ROUNDS:d} "
        f"AND (SELECT count(DISTINCT s.teacher) FROM {answers}) BETWEEN 1 AND {people - 1:d} "
        "AND NOT EXISTS (SELECT 1 FROM standing s WHERE s.round = q.round AND "
        's."index" = q."index" AND s.kind = \'broken\') '
        f"AND NOT EXISTS (SELECT 1 FROM {answers} AND s.teacher = ?)"
    )
