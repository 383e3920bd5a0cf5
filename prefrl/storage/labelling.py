"""Who is shown which query, what they answer, what they take back.

Everything is in the feedback store, so that pages, viewers and trainers may come and go.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from prefrl.answers import Value, check_answer, to_comparisons
from prefrl.errors import UserError
from prefrl.storage import gold
from prefrl.storage.answering import COLUMNS, answer_of, write_answer
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.others import for_others
from prefrl.types import Answer, Query, QueryId

LEASE_SECONDS = 90.0
SILENT_SECONDS = 40.0  # a page says every 30 s that it is there
LONGEST_LEASE_SECONDS = 600.0  # then a page that is open, but idle, lets go of what it holds
REPEATED_SHARE = 0.05  # of a person's pairs are shown once more, sides swapped
REPEATED_AFTER = 10  # answers that lie between the two, at least
REPEATED_OF = 100  # of a person's newest answers to pairs, so that many cost no more than few

# Imported rounds are below 0.
TICKET = re.compile("(-?[0-9]{1,9})-([0-9]{1,9})(-repeat|-revision)?")
# Queries about which a model has asked for people's opinion, and nobody has given one yet.
ASKED_AGAIN = (
    "SELECT s.round, s.\"index\", s.kind = 'rewrite' FROM standing s WHERE s.round >= 0 AND "
    "json_extract(s.value, '$.asks') IS NOT NULL AND NOT EXISTS (SELECT 1 FROM standing o WHERE "
    'o.round = s.round AND o."index" = s."index" AND '
    "json_extract(o.value, '$.overrules') IS NOT NULL)"
)


class Ticket(NamedTuple):
    """What a page holds while it shows a query."""

    query: QueryId
    repeat: bool = False
    """Whether the person has answered it before; then the sides are swapped."""
    revision: bool = False
    """Whether what a model has made of one of its texts is shown, right of that text."""

    def __str__(self) -> str:
        which = "-repeat" if self.repeat else "-revision" if self.revision else ""
        return f"{self.query.round}-{self.query.index}{which}"

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Read what `str` wrote.

        Raises:
            UserError: it is no ticket.
        """
        match = TICKET.fullmatch(text)
        if not match:
            raise UserError(f"{text[:40]!r} is not a ticket; expected one that the viewer gave out")
        query = QueryId(int(match[1]), int(match[2]))
        return cls(query, match[3] == "-repeat", match[3] == "-revision")


class Assignments:
    """Hands queries to people and takes their answers."""

    def __init__(
        self, store: FeedbackStore, people: int = 1, gold_share: float = 0.0,
        chance: Callable[[], float] = random.random,
    ):  # fmt: skip
        """Take a store.

        Args:
            store: of the run.
            people: how many are to answer each query. It is answered with the first of them: no run
                waits for others, who may not come.
            gold_share: of what people are asked, as long as there are gold questions for them.
            chance: draws from 0 to 1 which of the queries these are.
        """
        self.store, self.people, self.gold_share, self.chance = store, people, gold_share, chance

    def next(
        self, person: str, tab: str, count: int, held: Sequence[Ticket] = ()
    ) -> tuple[list[Ticket], list[Ticket]]:
        """Lease `count` more queries to a page and renew those it holds.

        Nobody gets what another page holds, but for what a page of their own that has fallen silent
        holds still: a browser that was killed. What others have answered, and not enough of them,
        comes first, then what nobody has; the newest policy's before older ones, what has priority
        before all. Gold questions take the place of some, at random.

        Returns:
            The new tickets, and those of `held` that are no longer to be answered.
        """
        with self.store.database.transaction() as run:
            now = self.store.database.now()
            lost = [ticket for ticket in held if not self._renew(ticket, person, tab, now)]
            repeat = self._repeat(person) if count else None
            known = self._known_again(person, held, count - bool(repeat))
            others = self._of_others(person, now, count - bool(repeat) - len(known))
            free = count - bool(repeat) - len(known) - len(others)
            rows = run(
                'SELECT round, "index" FROM query q WHERE open AND NOT EXISTS (SELECT 1 FROM lease '
                'l WHERE l.round = q.round AND l."index" = q."index" AND l.until > ? + '
                "CASE WHEN l.teacher = ? AND l.tab <> ? THEN ? ELSE 0 END) "
                'ORDER BY priority DESC, round DESC, "index" DESC LIMIT ?',
                now, person, tab, LEASE_SECONDS - SILENT_SECONDS, free,
            )  # fmt: skip
            tickets = others + [Ticket(QueryId(*row)) for row in rows]
            if left := count - bool(repeat) - len(known) - len(tickets):
                tickets += self._asked_again(person, tab, now, left)
            new = self._known(person, len(tickets))
            tickets = tickets[: len(tickets) - len(new)]
            for ticket in tickets:
                self._lease(ticket.query, person, tab, now)
            for ticket in new:
                tickets.insert(int(self.chance() * (len(tickets) + 1)), ticket)
        return ([repeat] if repeat else []) + known + tickets, lost

    def release(self, person: str, tab: str) -> None:
        """Give back all that a page holds."""
        with self.store.database.transaction() as run:
            run("DELETE FROM lease WHERE teacher = ? AND tab = ?", person, tab)

    def query(self, ticket: Ticket) -> Query:
        """Return a ticket's query, as its page shows it.

        Raises:
            UserError: there is none, or no revision of it.
        """
        query = self.store.query(ticket.query)
        if ticket.revision:
            revised = self.revision(ticket)
            [new] = to_comparisons(query, revised).segments
            segments = (query.segments[revised.value["segment"]], new)
            return replace(query, segments=segments, kind="preference")
        segments = query.segments[::-1] if ticket.repeat else query.segments
        return replace(query, segments=segments)

    def answer(self, ticket: Ticket, answer: Answer) -> int:
        """Store an answer, as it was given on the page, and return its number.

        The same uuid changes nothing the second time, whatever comes with it. A late answer, to a
        query that somebody else has answered by now, stands beside theirs.

        Raises:
            UserError: the answer does not fit the query.
        """
        if ticket.repeat:
            check_answer(self.store.query(ticket.query), answer)
            answer = replace(_swapped(answer), repeat=True)
        elif ticket.revision:
            check_answer(self.query(ticket), answer)
            answer = _of_revision(answer, self.revision(ticket))
        elif gold.was_asked(self.store, ticket.query, answer.teacher):
            answer = replace(answer, gold=True)
        elif asking := self._model_answer(
            ticket.query, "json_extract(value, '$.asks') IS NOT NULL"
        ):
            answer = replace(answer, value={**answer.value, "overrules": asking.uuid})
        return self.store.answer(answer)

    def revision(self, ticket: Ticket) -> Answer:
        """Return the answer with which a model has revised a text of a query.

        Raises:
            UserError: there is none.
        """
        found = self._model_answer(ticket.query, "kind = 'rewrite'")
        if found is None:
            raise UserError(f"no model has revised a text of the query {tuple(ticket.query)}")
        return found

    def _model_answer(self, query: QueryId, which: str) -> Answer | None:
        """Return the newest answer to a query that a model gave and that is `which`."""
        rows = self.store.database.run(
            f'SELECT {COLUMNS} FROM standing WHERE round = ? AND "index" = ? AND '
            f"json_extract(value, '$.model') IS NOT NULL AND {which} ORDER BY id DESC LIMIT 1",
            *query,
        )
        return answer_of(rows[0]) if rows else None

    def undo(
        self, person: str, tab: str, uuid: str, meant: str | None = None
    ) -> tuple[Ticket, Answer] | None:
        """Take back an answer that stands, and hand its query out again.

        The same uuid takes back no second answer, and the same answer is taken back once.

        Args:
            person: whose answer.
            tab: their page.
            uuid: the sender's own name for this undo.
            meant: the uuid of the answer; the person's newest by default.

        Returns:
            What was taken back, as it was given on the page; None if there is no such answer or it
            has been changed since.
        """
        with self.store.database.transaction():
            undone = self._undone(uuid) or (
                self._meant(person, meant) if meant else self._newest(person)
            )
            if undone is None:
                return None
            answer, stands = undone
            ticket, given = as_given(answer)
            if stands:
                self._retract(answer, uuid)
                if not (ticket.repeat or answer.gold):  # those are nobody else's to answer
                    self._lease(ticket.query, person, tab, self.store.database.now())
        return ticket, given

    def withdraw_damaged(self, ticket: Ticket, person: str, tab: str) -> None:
        """Ask a query nobody any more: the page that holds it cannot show a clip of it.

        Raises:
            UserError: the page does not hold it.
        """
        of = 'WHERE round = ? AND "index" = ? AND teacher = ?'
        if gold.was_asked(self.store, ticket.query, person):
            held = True
        elif ticket.repeat:
            held = self.store.database.run(f"SELECT 1 FROM repeat {of}", *ticket.query, person)
        else:
            held = self.store.database.run(
                f"SELECT 1 FROM lease {of} AND tab = ?", *ticket.query, person, tab
            )
        if not held:
            raise UserError(f"the pair {ticket} is not in front of {person!r}; nothing was changed")
        self.store.withdraw(ticket.query, "damaged")

    def _renew(self, ticket: Ticket, person: str, tab: str, now: float) -> bool:
        """Prolong a lease; return whether the query is still this page's to answer."""
        if ticket.repeat:
            return True
        others, who = "", []
        if self.people > 1:
            others = (
                f"OR EXISTS ({for_others(self.people)} AND q.round = lease.round "
                'AND q."index" = lease."index")'
            )
            who = [person]
        renewed = bool(
            self.store.database.run(
                "UPDATE lease SET until = CASE WHEN since + ? < ? THEN since + ? ELSE ? END "
                'WHERE round = ? AND "index" = ? AND teacher = ? AND tab = ? AND (EXISTS ('
                "SELECT 1 FROM query q WHERE q.open AND q.round = lease.round "
                f'AND q."index" = lease."index") OR EXISTS ({ASKED_AGAIN} '
                f'AND s.round = lease.round AND s."index" = lease."index") {others}) RETURNING 1',
                LONGEST_LEASE_SECONDS, now + LEASE_SECONDS, LONGEST_LEASE_SECONDS,
                now + LEASE_SECONDS, *ticket.query, person, tab, *who,
            )
        )  # fmt: skip
        return renewed or ticket.query in gold.unanswered(self.store, person)

    def _known(self, person: str, among: int) -> list[Ticket]:
        """Return gold questions that take the place of some of `among` queries."""
        drawn = sum(self.chance() < self.gold_share for _ in range(among)) if self.gold_share else 0
        chosen = gold.choose(self.store, person, drawn, self.chance()) if drawn else []
        return [Ticket(query) for query in chosen]

    def _known_again(self, person: str, held: Sequence[Ticket], count: int) -> list[Ticket]:
        """Return gold questions that were shown to a person whose page has them no more."""
        if count < 1:
            return []
        left = [Ticket(query) for query in gold.unanswered(self.store, person)]
        return [ticket for ticket in left if ticket not in held][:count]

    def _lease(self, query: QueryId, person: str, tab: str, now: float) -> None:
        run = self.store.database.run
        run('DELETE FROM lease WHERE round = ? AND "index" = ?', *query)
        run(
            "INSERT INTO lease VALUES (?, ?, ?, ?, ?, ?)",
            *query, person, tab, now, now + LEASE_SECONDS,
        )  # fmt: skip

    def _of_others(self, person: str, now: float, count: int) -> list[Ticket]:
        """Return what others have answered, but not enough of them, the newest policy's first.

        What somebody has answered they hold no more, though it was leased to them.
        """
        if self.people < 2 or count < 1:
            return []
        rows = self.store.database.run(
            f"{for_others(self.people)} AND NOT EXISTS (SELECT 1 FROM lease l WHERE "
            'l.round = q.round AND l."index" = q."index" AND l.until > ? AND l.teacher <> ? AND '
            "NOT EXISTS (SELECT 1 FROM standing s WHERE s.round = l.round AND "
            's."index" = l."index" AND s.teacher = l.teacher AND NOT s.repeat)) '
            'ORDER BY q.round DESC, q."index" DESC LIMIT ?',
            person, now, person, count,
        )  # fmt: skip
        return [Ticket(QueryId(*row)) for row in rows]

    def _asked_again(self, person: str, tab: str, now: float, count: int) -> list[Ticket]:
        """Return what a model asks people's opinion of, the newest policy's first."""
        rows = self.store.database.run(
            f"{ASKED_AGAIN} AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.round = s.round AND "
            'l."index" = s."index" AND l.until > ? + CASE WHEN l.teacher = ? AND l.tab <> ? THEN ? '
            'ELSE 0 END) ORDER BY s.round DESC, s."index" DESC LIMIT ?',
            now, person, tab, LEASE_SECONDS - SILENT_SECONDS, count,
        )  # fmt: skip
        return [Ticket(QueryId(*row[:2]), revision=bool(row[2])) for row in rows]

    def _repeat(self, person: str) -> Ticket | None:
        """Choose a pair to show once more, if it is time for one."""
        [(answered, shown)] = self.store.database.run(
            "SELECT (SELECT count(*) FROM standing WHERE teacher = ? AND NOT (repeat OR gold)), "
            "(SELECT count(*) FROM repeat WHERE teacher = ?)",
            person, person,
        )  # fmt: skip
        if shown >= answered * REPEATED_SHARE or answered <= REPEATED_AFTER:
            return None
        rows = self.store.database.run(
            'SELECT s.round, s."index" FROM (SELECT * FROM standing WHERE teacher = ? AND '
            "NOT (repeat OR gold) AND round >= 0 AND kind IN ('preference', 'tie') "
            "ORDER BY id DESC LIMIT ?) "
            's JOIN query q ON q.round = s.round AND q."index" = s."index" '
            "WHERE json_array_length(q.segments) = 2 AND NOT EXISTS (SELECT 1 FROM repeat r WHERE "
            'r.round = s.round AND r."index" = s."index" AND r.teacher = s.teacher) '
            "AND NOT EXISTS (SELECT 1 FROM standing b WHERE b.round = s.round AND "
            "b.\"index\" = s.\"index\" AND b.kind = 'broken') "
            "ORDER BY s.id DESC LIMIT 1 OFFSET ?",
            person, REPEATED_OF, REPEATED_AFTER,
        )  # fmt: skip
        if not rows:
            return None
        query = QueryId(*rows[0])
        self.store.database.run("INSERT INTO repeat VALUES (?, ?, ?)", *query, person)
        return Ticket(query, repeat=True)

    def _undone(self, uuid: str) -> tuple[Answer, bool] | None:
        """Return the answer that an earlier undo of this uuid took back."""
        rows = self.store.database.run(
            f"SELECT {COLUMNS} FROM answer WHERE superseded = "
            "(SELECT id FROM answer WHERE uuid = ? AND kind = 'retraction')",
            uuid,
        )
        return (answer_of(rows[0]), False) if rows else None

    def _meant(self, person: str, uuid: str) -> tuple[Answer, bool] | None:
        """Return the answer of a uuid and whether it stands; None if it was changed since."""
        rows = self.store.database.run(
            f"SELECT {COLUMNS}, superseded IS NULL, EXISTS (SELECT 1 FROM answer b WHERE "
            "b.id = a.superseded AND b.kind = 'retraction' AND b.superseded IS NULL) "
            "FROM answer a WHERE uuid = ? AND teacher = ? AND kind <> 'retraction'",
            uuid, person,
        )  # fmt: skip
        if not rows:
            return None
        *row, stands, taken_back = rows[0]
        return (answer_of(row), bool(stands)) if stands or taken_back else None

    def _newest(self, person: str) -> tuple[Answer, bool] | None:
        """Return a person's newest answer that stands; nobody has just given an imported one."""
        rows = self.store.database.run(
            f"SELECT {COLUMNS} FROM standing WHERE (round >= 0 OR gold) "
            "AND teacher = ? ORDER BY id DESC LIMIT 1",
            person,
        )
        return (answer_of(rows[0]), True) if rows else None

    def _retract(self, answer: Answer, uuid: str) -> None:
        now = self.store.database.now()
        retraction = Answer(
            answer.query, "retraction", {}, answer.teacher, now, now, answer.repeat, uuid,
            answer.gold,
        )  # fmt: skip
        write_answer(self.store.database, retraction)


def as_given(answer: Answer) -> tuple[Ticket, Answer]:
    """Return what an answer was given to on the page, or would be, and as what."""
    value = {name: each for name, each in answer.value.items() if name != "overrules"}
    if answer.repeat:
        return Ticket(answer.query, repeat=True), _swapped(answer)
    if answer.kind == "rewrite" and "model" in value:  # which people may overrule
        return Ticket(answer.query, revision=True), answer
    if "segment" in value and answer.kind == "skip":
        return Ticket(answer.query, revision=True), replace(answer, value=_besides(value))
    if "preferred" in value:
        tie = value["preferred"] == 0.5
        said: Value = {"left": 1 - value["preferred"], **_besides(value)}
        value = _besides(value) if tie else said
        given = replace(answer, kind="tie" if tie else "preference", value=value)
        return Ticket(answer.query, revision=True), given
    return Ticket(answer.query), replace(answer, value=value)


def _of_revision(answer: Answer, revised: Answer) -> Answer:
    """Return what is stored of an answer to a text, left, and what a model has made of it, right.

    A text of the person's own is better than the one that the model revised.
    """
    overrules = {"overrules": revised.uuid}
    about = {name: revised.value[name] for name in ("segment", "text")}
    if answer.kind == "rewrite":
        value = about | {"text": answer.value["text"]} | _besides(answer.value)
    elif answer.kind in ("preference", "tie"):
        preferred = {"preferred": 1 - answer.value.get("left", 0.5)}
        value = about | preferred | _besides(answer.value)
        answer = replace(answer, kind="rewrite")
    else:
        value = about | _besides(answer.value)
    return replace(answer, value=value | overrules)


def _besides(value: Value) -> dict[str, Any]:
    return {name: value[name] for name in ("strength", "comment") if name in value}


def _swapped(answer: Answer) -> Answer:
    """Return what an answer to a pair says of the pair with its sides swapped."""
    if answer.kind == "broken" and "segment" in answer.value:
        return replace(answer, value=answer.value | {"segment": 1 - answer.value["segment"]})
    if answer.kind != "preference":
        return answer
    return replace(answer, value=answer.value | {"left": 1 - answer.value["left"]})
