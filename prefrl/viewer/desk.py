"""The desk at which people answer: who gets which query, what they said, what they take back.

Everything is in the feedback store, so that pages, viewers and trainers may come and go.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, AnswerKind, Query, QueryId, check_answer

LEASE_SECONDS = 90.0
SILENT_SECONDS = 40.0  # a page says every 30 s that it is there
LONGEST_LEASE_SECONDS = 600.0  # then a page that is open, but idle, lets go of what it holds
AGAIN_SHARE = 0.05  # of a person's pairs are shown once more, sides swapped
AGAIN_AFTER = 10  # answers that lie between the two, at least
RATE_SECONDS = 180.0  # labels per minute are of so long a time


TICKET = re.compile("(-?[0-9]{1,9})-([0-9]{1,9})(-again)?")  # imported rounds are below 0


class Ticket(NamedTuple):
    """What a page holds while it shows a query."""

    query: QueryId
    again: bool = False
    """Whether the person has answered it before; then the sides are swapped."""

    def __str__(self) -> str:
        return f"{self.query.round}-{self.query.index}" + ("-again" if self.again else "")

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Read what `str` wrote.

        Raises:
            UserError: it is no ticket.
        """
        found = TICKET.fullmatch(text)
        if not found:
            raise UserError(f"{text[:40]!r} is not a ticket; expected one that the viewer gave out")
        return cls(QueryId(int(found[1]), int(found[2])), bool(found[3]))


@dataclass(frozen=True)
class Said:
    """A standing answer as the history shows it."""

    number: int
    ticket: Ticket
    answer: Answer


class Desk:
    """Hands queries to people and takes their answers."""

    def __init__(self, feedback: FeedbackStore):
        self.feedback = feedback

    def next(
        self, person: str, tab: str, count: int, held: Sequence[Ticket] = ()
    ) -> tuple[list[Ticket], list[Ticket]]:
        """Lease `count` more queries to a page and renew those it holds.

        Nobody gets what another page holds, but for what a page of their own that has fallen silent
        holds still: a browser that was killed. The newest policy's come first.

        Returns:
            The new tickets, and those of `held` that are no longer to be answered.
        """
        until = time.time() + LEASE_SECONDS
        with self.feedback.transaction() as execute:
            lost = [ticket for ticket in held if not self._renew(ticket, person, tab, until)]
            again = self._again(person) if count else None
            rows = execute(
                'SELECT round, "index" FROM query q WHERE open AND NOT EXISTS (SELECT 1 FROM lease '
                'l WHERE l.round = q.round AND l."index" = q."index" AND l.until > ? + '
                "CASE WHEN l.teacher = ? AND l.tab <> ? THEN ? ELSE 0 END) "
                'ORDER BY round DESC, "index" DESC LIMIT ?',
                (time.time(), person, tab, LEASE_SECONDS - SILENT_SECONDS, count - bool(again)),
            ).fetchall()
            tickets = [Ticket(QueryId(*row)) for row in rows]
            for ticket in tickets:
                self._lease(ticket.query, person, tab, until)
        return ([again] if again else []) + tickets, lost

    def _renew(self, ticket: Ticket, person: str, tab: str, until: float) -> bool:
        """Prolong a lease; return whether the query is still this page's to answer."""
        if ticket.again:
            return True
        renewed = self.feedback.connection.execute(
            "UPDATE lease SET until = min(?, since + ?) "
            'WHERE round = ? AND "index" = ? AND teacher = ? AND tab = ?',
            (until, LONGEST_LEASE_SECONDS, *ticket.query, person, tab),
        ).rowcount
        (count,) = self.feedback.connection.execute(
            'SELECT count(*) FROM query WHERE open AND round = ? AND "index" = ?', ticket.query
        ).fetchone()
        return bool(renewed and count)

    def _lease(self, query: QueryId, person: str, tab: str, until: float) -> None:
        self.feedback.connection.execute(
            "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?)",
            (*query, person, tab, time.time(), until),
        )

    def _again(self, person: str) -> Ticket | None:
        """Choose a pair to show once more, if it is time for one."""
        execute = self.feedback.connection.execute
        (said,) = execute("SELECT count(*) FROM standing WHERE teacher = ?", (person,)).fetchone()
        (shown,) = execute("SELECT count(*) FROM again WHERE teacher = ?", (person,)).fetchone()
        if shown >= said * AGAIN_SHARE or said <= AGAIN_AFTER:
            return None
        row = execute(
            'SELECT s.round, s."index" FROM standing s JOIN query q ON q.round = s.round AND '
            "q.\"index\" = s.\"index\" WHERE s.teacher = ? AND s.kind IN ('preference', 'tie') "
            "AND json_array_length(q.segments) = 2 AND q.round >= 0 AND NOT EXISTS (SELECT 1 FROM "
            'again a WHERE a.round = s.round AND a."index" = s."index" AND a.teacher = s.teacher) '
            "ORDER BY s.id DESC LIMIT 1 OFFSET ?",
            (person, AGAIN_AFTER),
        ).fetchone()
        if row is None:
            return None
        execute('INSERT INTO again (round, "index", teacher) VALUES (?, ?, ?)', (*row, person))
        return Ticket(QueryId(*row), again=True)

    def release(self, person: str, tab: str) -> None:
        """Give back all that a page holds."""
        with self.feedback.transaction() as execute:
            execute("DELETE FROM lease WHERE teacher = ? AND tab = ?", (person, tab))

    def query(self, ticket: Ticket) -> Query:
        """Return a ticket's query, as its page shows it."""
        query = self.feedback.query(ticket.query)
        segments = query.segments[::-1] if ticket.again else query.segments
        return Query(query.id, segments, query.kind, query.question)

    def answer(self, ticket: Ticket, answer: Answer, uuid: str) -> int:
        """Store an answer and return its number, 0 for that to a pair shown again.

        The same uuid changes nothing the second time, whatever comes with it. A late answer, to a
        query that somebody else has answered by now, stands beside theirs.

        Raises:
            UserError: the answer does not fit the query.
        """
        if not ticket.again:
            return self.feedback.answer(answer, uuid=uuid)
        check_answer(self.feedback.query(ticket.query), answer)
        value = dict(answer.value)
        if answer.kind == "preference":
            value["left"] = 1 - value["left"]
        with self.feedback.transaction() as execute:
            execute(
                "UPDATE again SET kind = ?, value = ?, answered_at = ?, undone = NULL "
                'WHERE round = ? AND "index" = ? AND teacher = ?',
                (answer.kind, json.dumps(value), answer.answered_at, *ticket.query, answer.teacher),
            )
        return 0

    def spoil(self, ticket: Ticket, person: str, tab: str) -> None:
        """Ask a query nobody any more: the page that holds it cannot show a clip of it.

        Raises:
            UserError: the page does not hold it.
        """
        of = 'WHERE round = ? AND "index" = ? AND teacher = ?'
        if ticket.again:
            held = self._rows(f"SELECT 1 FROM again {of}", *ticket.query, person)
        else:
            held = self._rows(f"SELECT 1 FROM lease {of} AND tab = ?", *ticket.query, person, tab)
        if not held:
            raise UserError(f"the pair {ticket} is not in front of {person!r}; nothing was changed")
        self.feedback.withdraw(ticket.query, "damaged")

    def undo(
        self, person: str, tab: str, uuid: str, meant: tuple[Ticket, str] | None = None
    ) -> tuple[Ticket, Answer] | None:
        """Take back an answer that stands, and hand its query out again.

        The same uuid takes back no second answer, and the same answer is taken back once.

        Args:
            person: whose answer.
            tab: their page.
            uuid: the sender's own name for this undo.
            meant: which answer: its ticket and its uuid; the person's newest by default.

        Returns:
            What was taken back, None if there is no such answer or it has been changed since.
        """
        done = self._rows(
            "SELECT round, \"index\" FROM answer WHERE uuid = ? AND kind = 'retraction'", uuid
        )
        if done:
            return self._before_retraction(uuid, QueryId(*done[0]), person)
        if meant:
            return self._undo_meant(person, tab, uuid, *meant)
        newest = self._rows(
            f"SELECT {COLUMNS} FROM standing WHERE round >= 0 AND teacher = ? "
            "ORDER BY id DESC LIMIT 1",
            person,
        )  # of the run's own queries: nobody has just given an answer that was imported
        since = _said(newest[0]).answer.answered_at if newest else 0.0
        again = self._rows(
            f"SELECT {AGAIN_COLUMNS} FROM again WHERE teacher = ? AND kind IS NOT NULL AND "
            "(undone = ? OR undone IS NULL AND answered_at > ?) "
            "ORDER BY undone IS NULL, answered_at DESC LIMIT 1",
            person, uuid, since,
        )  # fmt: skip
        if again:
            return self._retract_again(_said(again[0]).answer, uuid)
        return self._retract(_said(newest[0]), tab, uuid) if newest else None

    def _undo_meant(
        self, person: str, tab: str, uuid: str, ticket: Ticket, answer: str
    ) -> tuple[Ticket, Answer] | None:
        if ticket.again:  # its answer is the only one
            rows = self._rows(
                f'SELECT {AGAIN_COLUMNS} FROM again WHERE round = ? AND "index" = ? '
                "AND teacher = ? AND kind IS NOT NULL",
                *ticket.query, person,
            )  # fmt: skip
            return self._retract_again(_said(rows[0]).answer, uuid) if rows else None
        rows = self._rows(
            f"SELECT {COLUMNS} FROM answer WHERE uuid = ? AND teacher = ? AND kind <> 'retraction'",
            answer, person,
        )  # fmt: skip
        if not rows:
            return None
        said = _said(rows[0])
        later = self._rows(
            'SELECT kind FROM answer WHERE round = ? AND "index" = ? AND teacher = ? AND id > ?',
            *said.ticket.query, person, said.number,
        )  # fmt: skip
        if not later:
            return self._retract(said, tab, uuid)
        return (said.ticket, said.answer) if later == [("retraction",)] else None

    def _retract(self, said: Said, tab: str, uuid: str) -> tuple[Ticket, Answer]:
        """Take back an answer that stands."""
        now, query, person = time.time(), said.ticket.query, said.answer.teacher
        self.feedback.answer(Answer(query, "retraction", {}, person, now, now), uuid=uuid)
        with self.feedback.transaction():
            self._lease(query, person, tab, now + LEASE_SECONDS)
        return said.ticket, said.answer

    def _retract_again(self, answer: Answer, uuid: str) -> tuple[Ticket, Answer]:
        """Take back the answer to a pair shown again."""
        with self.feedback.transaction() as execute:
            execute(
                'UPDATE again SET undone = ? WHERE round = ? AND "index" = ? AND teacher = ?',
                (uuid, *answer.query, answer.teacher),
            )
        if answer.kind == "preference":  # as it was on the screen
            answer.value["left"] = 1 - answer.value["left"]
        return Ticket(answer.query, again=True), answer

    def _before_retraction(
        self, uuid: str, query: QueryId, person: str
    ) -> tuple[Ticket, Answer] | None:
        rows = self._rows(
            f"SELECT {COLUMNS} FROM answer WHERE round = ? AND \"index\" = ? AND teacher = ? "
            "AND id < (SELECT id FROM answer WHERE uuid = ?) ORDER BY id DESC LIMIT 1",
            *query, person, uuid,
        )  # fmt: skip
        return (Ticket(query), _said(rows[0]).answer) if rows else None

    def history(
        self, limit: int, before: int | None = None, person: str = "", kind: str = ""
    ) -> list[Said]:
        """Return answers that stand, imported ones too, newest first.

        Args:
            limit: at most so many.
            before: only those with a smaller number.
            person: of this teacher alone.
            kind: of this kind alone.
        """
        rows = self._rows(
            f"SELECT {COLUMNS} FROM standing WHERE id < ? AND ? IN ('', teacher) "
            "AND ? IN ('', kind) ORDER BY id DESC LIMIT ?",
            2**62 if before is None else before, person, kind, limit,
        )  # fmt: skip
        return [_said(row) for row in rows]

    def agreement(self, person: str) -> tuple[int, int]:
        """Return on how many of the pairs shown again a person answered the same, and of how many.

        A pair for which either answer is "can't tell" is not counted.
        """
        rows = self._rows(
            "SELECT s.kind, json_extract(s.value, '$.left'), a.kind, "
            "json_extract(a.value, '$.left') FROM again a JOIN standing s ON s.round = a.round "
            'AND s."index" = a."index" AND s.teacher = a.teacher '
            "WHERE a.teacher = ? AND a.undone IS NULL AND a.kind IN ('preference', 'tie') "
            "AND s.kind IN ('preference', 'tie')",
            person,
        )
        return sum(row[:2] == row[2:] for row in rows), len(rows)

    def people(self) -> dict[str, int]:
        """Return how many labels each teacher has given that stand.

        Imported ones do not count: who has given no others has 0.
        """
        return dict(
            self._rows(
                "SELECT teacher, sum(round >= 0) AS labels FROM standing WHERE kind <> 'skip' "
                "GROUP BY teacher ORDER BY labels DESC, teacher"
            )
        )

    def per_minute(self, person: str) -> float:
        """Return how many labels a minute a person has given of late."""
        since = time.time() - RATE_SECONDS
        [(count, first)] = self._rows(
            "SELECT count(*), min(shown_at) FROM standing WHERE teacher = ? AND kind <> 'skip' "
            "AND id > (SELECT max(id) - 2000 FROM answer) AND answered_at > ?",
            person, since,
        )  # fmt: skip
        if not count:
            return 0.0
        return 60 * count / max(time.time() - max(first, since), 1.0)

    def damaged(self) -> int:
        """Return how many queries were withdrawn because a clip could not be shown."""
        [(count,)] = self._rows(
            "SELECT count(*) FROM query WHERE round >= 0 AND withdrawn = 'damaged'"
        )
        return count

    def earliest(self, limit: int) -> list[Ticket]:
        """Return the run's first queries."""
        rows = self._rows(
            "SELECT round, \"index\" FROM query WHERE round >= 0 AND withdrawn IS NOT 'damaged' "
            'ORDER BY round, "index" LIMIT ?',
            limit,
        )
        return [Ticket(QueryId(*row)) for row in rows]

    def newest(self) -> Ticket | None:
        """Return a query about the newest policy."""
        rows = self._rows(
            "SELECT round, \"index\" FROM query WHERE round >= 0 AND withdrawn IS NOT 'damaged' "
            'ORDER BY round DESC, "index" LIMIT 1'
        )
        return Ticket(QueryId(*rows[0])) if rows else None

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self.feedback.errors():
            return self.feedback.connection.execute(sql, values).fetchall()


COLUMNS = 'id, round, "index", kind, value, teacher, shown_at, answered_at'
AGAIN_COLUMNS = '0, round, "index", kind, value, teacher, 0.0, answered_at'


def _said(row: Any) -> Said:
    query, kind = QueryId(row[1], row[2]), row[3]
    said: AnswerKind = kind
    return Said(row[0], Ticket(query), Answer(query, said, json.loads(row[4]), *row[5:8]))
