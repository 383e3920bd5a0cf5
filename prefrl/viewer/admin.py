"""What the page of a run's admins may ask for: who answers how, what waits, what is known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from prefrl.intervals import share
from prefrl.storage import gold, history, overview
from prefrl.storage.answers_csv import answer_rows, as_csv
from prefrl.storage.history import HistoryEntry
from prefrl.storage.labelling import Ticket, as_given
from prefrl.storage.links import Links
from prefrl.storage.tallies import Tallies, Tally
from prefrl.viewer import fields
from prefrl.viewer.fields import Refused
from prefrl.viewer.view import View

MOST_GOLD = 50  # gold questions that are listed


class AdminView:
    """One run, as its admins see it."""

    def __init__(self, view: View):
        self.view, self.store = view, view.feedback
        self.links = Links(view.folder, view.feedback)
        self.tallies = Tallies(view.feedback)
        self.scored: tuple[Any, dict[str, list[float]]] = (None, {})

    def overview(self, request: Request) -> dict[str, Any]:
        """Say what is waiting, and how everybody answers; it is asked for every few seconds."""
        count, rows = overview.waiting(self.store)
        known = gold.questions(self.store)
        waiting = [
            {"ticket": str(Ticket(row.query)), "priority": row.priority, "person": row.person,
             "since": row.since}
            for row in rows
        ]  # fmt: skip
        return {
            "open": count,
            "waiting": waiting,
            "people": self._people(len(known)),
            "gold": {
                "questions": len(known),
                "share": self.view.experiment.query.gold_share,
                "newest": [_known(each) for each in known[-MOST_GOLD:][::-1]],
            },
            "broken": [*map(_said, overview.broken(self.store))],
            "comments": [*map(_said, overview.comments(self.store))],
        }

    def pause(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Pause the link of a labeller, or of all, or let it go on."""
        paused = body.get("paused")
        if not isinstance(paused, bool):
            raise Refused(400, f"paused is {paused!r:.80}; expected true or false")
        state = "paused" if paused else "open"
        if "labeller" in body:
            self.links.change(fields.word(body, "labeller", 40), state)
        else:
            self.links.change_all(state)
        return {}

    def front(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Let a query be asked next."""
        history.move_to_front(self.store, Ticket.parse(fields.word(body, "ticket")).query)
        return {}

    def gold(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Make a gold question of an answered query, or end one."""
        if "answer" in body:
            gold.mark_answer(self.store, int(fields.number(body, "answer", 1, 2**53)))
        else:
            gold.unmark(self.store, Ticket.parse(fields.word(body, "ticket")).query)
        return {}

    def as_lines(self, request: Request) -> Response:
        """Send all answers as JSON lines, without clips."""
        rows = answer_rows(self.store, self.view.experiment.env)
        return _file((json.dumps(row) for row in rows), "application/x-ndjson")

    def as_table(self, request: Request) -> Response:
        """Send all answers as CSV, without clips."""
        rows = answer_rows(self.store, self.view.experiment.env)
        return _file(as_csv(rows), "text/csv; charset=utf-8")

    def _people(self, questions: int) -> list[dict[str, Any]]:
        tallies, scores = self.tallies.update(), self._scores(questions)
        links = {link.person: link for link in self.links.all()}
        names = [*links, *(name for name in tallies if name not in links)]
        return [
            {
                "person": name,
                "link": asdict(links[name]) | {"digest": ""} if name in links else None,
                "per_minute": history.labels_per_minute(self.store, name),
                "gold": _share(scores.get(name, [])),
            }
            | _counted(tallies.get(name, Tally()))
            for name in names
        ]

    def _scores(self, questions: int) -> dict[str, list[float]]:
        """Return what is right of gold questions, worked out anew when there is something new."""
        now = (self.store.last_answer(), questions)
        if self.scored[0] != now:
            self.scored = (now, gold.scores(self.store))
        return self.scored[1]


def _counted(tally: Tally) -> dict[str, Any]:
    return {
        "answers": tally.answers,
        "seconds": tally.median,
        "ties": tally.ties,
        "skips": tally.skips,
        "broken": tally.broken,
        "left": share(tally.left, tally.sides) | {"of": tally.sides} if tally.sides else None,
    }


def _share(scores: list[float]) -> dict[str, Any] | None:
    return share(sum(scores), len(scores)) | {"of": len(scores)} if scores else None


def _known(known: gold.Known) -> dict[str, Any]:
    ticket, answer = Ticket(known.query), known.answer
    return {"ticket": str(ticket), "person": answer.teacher, "kind": answer.kind,
            "value": answer.value}  # fmt: skip


def _said(entry: HistoryEntry) -> dict[str, Any]:
    ticket, answer = as_given(entry.answer)
    return {"answer": entry.number, "ticket": str(ticket), "person": answer.teacher,
            "kind": answer.kind, "value": answer.value, "answered_at": answer.answered_at,
            "seconds": max(0.0, answer.answered_at - answer.shown_at)}  # fmt: skip


def _file(lines: Iterable[str], kind: str) -> Response:
    return Response("".join(f"{line}\n" for line in lines), media_type=kind)
