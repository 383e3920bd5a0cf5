"""What the page may ask for and send: one method for each address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from prefrl.clips.scene import load_model
from prefrl.errors import StoreError, UserError
from prefrl.storage import history
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.history import HistoryEntry
from prefrl.storage.import_export import import_demonstrations
from prefrl.storage.labelling import TICKET, Assignments, Ticket, as_given
from prefrl.types import RATING_SCALE, Answer, Query
from prefrl.viewer import fields
from prefrl.viewer.clips import Clips
from prefrl.viewer.fields import Refused
from prefrl.viewer.guard import run_id, visitor_of
from prefrl.viewer.guidance import Guidance
from prefrl.viewer.inspector import Inspector
from prefrl.viewer.progress import Progress
from prefrl.viewer.tickets import seal, secret_of, unseal

MOST_QUERIES = 9  # that one request may ask for
MOST_HISTORY = 200
CACHED_SEGMENTS = 64
LAYOUT = "layout=2"  # of what a clip's address gives: browsers keep it for a day
NOT_STANDING = (
    "That answer does not stand any more, so nothing was undone; the history shows what does."
)


class View:
    """One run, as its page sees it."""

    def __init__(self, folder: RunFolder, person: str = ""):
        experiment, card = folder.experiment(), folder.card()
        self.folder, self.experiment, self.person = folder, experiment, person
        self.feedback = FeedbackStore(folder.feedback, CACHED_SEGMENTS)
        self.key = folder.viewer()["key"]
        self.id = run_id(self.key)
        self.file = _file(folder)
        asked = experiment.query
        self.assignments = Assignments(self.feedback, asked.people, asked.gold_share)
        self.clips = Clips(_model(folder), card.dt, self.feedback.picture)
        self.guidance = Guidance(folder, card, self.clips.model, self.id)
        self.question, self.is_text = card.question, card.is_text
        self.has_aspects = len(card.aspects) > 1
        if card.aspects:  # each query asks its own
            self.question = " ".join(card.aspects.values())
        self.is_comparison = folder.kind() == "comparison"
        self.inspector = Inspector(folder.path)
        self.progress = Progress(folder, self.feedback)

    def check_folder(self) -> None:
        """Refuse while the run folder is gone: what is written to a deleted file is lost."""
        try:
            same = _file(self.folder) == self.file
        except OSError:
            same = False
        if not same:
            raise Refused(
                503,
                f"the run folder {self.folder.path} has disappeared or was replaced; nothing can "
                "be saved until it is back",
            )

    def run(self, request: Request) -> dict[str, Any]:
        """Say what the run is about, and who asks."""
        visitor = visitor_of(request)
        return self.about() | {
            "id": visitor.id,
            "role": "admin" if visitor.is_admin else "labeller",
            "person": visitor.person or self.person,
            "named": bool(visitor.person),
            "welcomed": self.guidance.has_welcomed(request),
        }

    def about(self) -> dict[str, Any]:
        """Say what the run is about."""
        return {
            "name": self.folder.path.resolve().name,
            "env": self.experiment.env,
            "question": self.question,
            "instructions": self.experiment.instructions,
            "budget": self.folder.experiment().labels,
            "forms": self._forms(),
            "kind": self.experiment.query.kind,
            "clips": self.experiment.query.size,
            "longest_text": fields.LONGEST_TEXT,
            "guide": self.guidance.about(),
        }

    def scene(self, request: Request) -> dict[str, Any]:
        """Describe the robot's parts."""
        return self.clips.scene()

    def mesh(self, request: Request) -> Response:
        """Send a mesh of the robot; its address names its bytes, so it may be kept for good."""
        digest = request.path_params["digest"]
        try:
            data = self.clips.mesh(digest)
        except KeyError:
            raise Refused(404, "the robot has no such mesh; load the page again") from None
        headers = {"Cache-Control": "private, max-age=31536000, immutable", "ETag": f'"{digest}"'}
        return Response(data, media_type="application/octet-stream", headers=headers)

    def clip(self, request: Request) -> Response:
        """Send a clip's poses or pictures."""
        ticket = self.read_ticket(request)
        segments = self.assignments.query(ticket).segments
        index = fields.whole(request.path_params["index"], 9)
        if index >= len(segments):
            raise Refused(404, f"this query has {len(segments)} clips; there is no clip {index}")
        try:
            data, kind = self.clips.data(segments[index])
        except StoreError:
            raise
        except UserError as error:
            self.feedback.withdraw(ticket.query, "damaged")
            raise Refused(410, str(error)) from None
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(data, media_type=kind, headers=headers)

    def query(self, request: Request) -> dict[str, Any]:
        """Describe one query, be it answered or not."""
        query = self._described(request, self.read_ticket(request))
        if query is None:
            raise Refused(410, "a clip of this query is damaged")
        return {"query": query}

    def next(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Hand out queries."""
        person, tab = fields.person(body), fields.word(body, "tab")
        count = fields.number(body, "count", 0, MOST_QUERIES)
        names = fields.words(body, "held", 4 * MOST_QUERIES)
        held, strange = self._held(request, names)
        tickets, lost = self.assignments.next(person, tab, int(count), held)
        described = [self._described(request, ticket) for ticket in tickets]
        queries = [query for query in described if query]
        words = ""
        if len(queries) < count:
            words = self.progress.why_no_queries()
        return {
            "queries": queries,
            "lost": [*(self._name(request, each) for each in lost), *strange],
            "words": words,
        }

    def answer(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Store an answer."""
        name, person = fields.word(body, "ticket"), fields.person(body)
        # What an older page has kept to send names its query as it is.
        ticket = Ticket.parse(name) if TICKET.fullmatch(name) else self._ticket(request, name)
        value = fields.with_comment(body.get("value", {}))
        if isinstance(value, dict) and "text" in value:
            fields.word(value, "text", fields.LONGEST_TEXT)
        answer = Answer(
            ticket.query, fields.kind(body), value, person,
            fields.number(body, "shown_at", 0, 1e12), fields.number(body, "answered_at", 0, 1e12),
            uuid=fields.word(body, "uuid"),
        )  # fmt: skip
        return {"answer": self.assignments.answer(ticket, answer)}

    def undo(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Take back the answer that is meant, by its uuid, or a person's newest one."""
        meant = fields.word(body, "answer") if "answer" in body else None
        person, tab, uuid = fields.person(body), fields.word(body, "tab"), fields.word(body, "uuid")
        taken = self.assignments.undo(person, tab, uuid, meant)
        if taken is None:
            words = NOT_STANDING if meant else "There is nothing left to undo."
            return {"query": None, "was": None, "words": words}
        ticket, answer = taken
        query = self._described(request, ticket)
        was = {"kind": answer.kind, "value": answer.value}
        words = "" if query else "Undone; a clip of that pair is damaged, so it is not shown again."
        return {"query": query, "was": was, "words": words}

    def damaged(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Skip a query of which the page cannot show a clip."""
        ticket = self._ticket(request, fields.word(body, "ticket"))
        self.assignments.withdraw_damaged(ticket, fields.person(body), fields.word(body, "tab"))
        return {}

    def demonstration(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Keep a demonstration; it is better than a clip of the same task, if there is one."""
        person, prompt = fields.person(body), fields.word(body, "prompt", fields.LONGEST_TEXT)
        response = body.get("response")
        if response is not None:
            response = fields.word(body, "response", fields.LONGEST_TEXT)
        self.feedback.demonstrate(prompt, response, person, fields.word(body, "uuid"))
        line = json.dumps({"prompt": prompt, "response": response})
        taught = False
        comparable = response is not None and not self.has_aspects  # better in which aspect?
        if comparable and (self.feedback.segments(prompt) or self.feedback.segments_after(prompt)):
            try:
                import_demonstrations(self.feedback, [line], person)
            except StoreError:
                raise  # the page sends it again
            except UserError:
                pass
            taught = True  # now, or when it was sent before
        return {"teaches": taught}

    def release(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Give back what a page held."""
        self.assignments.release(fields.person(body), fields.word(body, "tab"))
        return {}

    def status(self, request: Request) -> dict[str, Any]:
        """Say how far labelling and training are."""
        person = visitor_of(request).person or request.query_params.get("person", "")
        common, own = self.progress.common(), self.own(person)
        left, rate = max(0, common["budget"] - common["labels"]), own["per_minute"]
        return common | own | {"seconds_left": 60 * left / rate if rate else None}

    def own(self, person: str) -> dict[str, Any]:
        """Count what one person has answered."""
        people = self.progress.common()["people"]
        same, of = history.agreement(self.feedback, person)
        return {
            "mine": next((p["labels"] for p in people if p["person"] == person), 0),
            "per_minute": history.labels_per_minute(self.feedback, person),
            "repeats": {"same": same, "of": of},
        }

    def history(self, request: Request, of: str = "") -> dict[str, Any]:
        """List answers, newest first; their queries are asked for as they come into sight.

        Args:
            request: which ones.
            of: of this person alone, whoever is asked for.
        """
        asked = request.query_params
        limit = fields.whole(asked.get("limit", "50"), MOST_HISTORY)
        before = fields.whole(asked["before"], 2**62) if "before" in asked else None
        person, kind = of or asked.get("person", ""), asked.get("kind", "")
        entries = history.history(self.feedback, limit, before, person, kind)
        return {"answers": [self._entry(request, entry) for entry in entries]}

    def practice(self, request: Request) -> dict[str, Any]:
        """Give a few queries to practise on; nobody's answers to them are kept.

        Where there are none whose right answer may be told, they are the run's first.
        """
        if questions := self.guidance.practice():
            return {"queries": questions}
        earliest = history.earliest(self.feedback, 3)
        queries = [self._described(request, Ticket(query)) for query in earliest]
        return {"queries": [query for query in queries if query]}

    def policy(self, request: Request) -> dict[str, Any]:
        """Show the newest policy of which there is a clip moving, and say which one it is."""
        newest = history.newest(self.feedback)
        if self.is_comparison or newest is None:  # two policies, or none
            return {"clip": None, "round": None, "words": ""}
        query = self._described(request, Ticket(newest))
        words = self.progress.policy_in_words(newest.round)
        return {"clip": query["clips"][0] if query else None, "round": newest.round, "words": words}

    def inspect(self, request: Request) -> dict[str, Any]:
        """Give `prefrl inspect`'s report on the newest reward; working it out takes seconds."""
        return self.inspector.report(len(self.folder.metrics()), self.feedback.last_answer())

    def read_ticket(self, request: Request) -> Ticket:
        """Return the ticket that an address names."""
        return self._ticket(request, request.path_params["ticket"])

    def _ticket(self, request: Request, name: str) -> Ticket:
        secret = self._secret(request)
        return unseal(name, secret) if secret else Ticket.parse(name)

    def _held(self, request: Request, names: list[str]) -> tuple[list[Ticket], list[str]]:
        """Return the tickets that a page holds, and what names none: what an older page has kept.

        Of admins' pages that is a mistake.
        """
        tickets, strange = [], []
        for name in names:
            try:
                tickets.append(self._ticket(request, name))
            except UserError:
                if visitor_of(request).is_admin:
                    raise
                strange.append(name)
        return tickets, strange

    def _name(self, request: Request, ticket: Ticket) -> str:
        secret = self._secret(request)
        return seal(ticket, secret) if secret else str(ticket)

    def _secret(self, request: Request) -> bytes:
        """Return what seals the tickets of whoever asks; empty for admins."""
        visitor = visitor_of(request)
        return b"" if visitor.is_admin else secret_of(self.key, visitor.person)

    def _described(self, request: Request, ticket: Ticket) -> dict[str, Any] | None:
        """Return a query for the page; one with a damaged clip is withdrawn, and None."""
        query = self.assignments.query(ticket)
        try:
            return self._json(ticket, self._name(request, ticket), query)
        except StoreError:
            raise
        except UserError:
            self.feedback.withdraw(query.id, "damaged")
            return None

    def _json(self, ticket: Ticket, name: str, query: Query) -> dict[str, Any]:
        clips = [
            self.clips.describe(segment, f"api/clip/{name}/{index}?run={self.id}&{LAYOUT}")
            for index, segment in enumerate(query.segments)
        ]
        scale = {"scale": [*RATING_SCALE]} if query.kind == "ratings" else {}
        question = query.question or self.question
        more = {"revision": _revision(self.assignments.revision(ticket))} if ticket.revision else {}
        return {
            "ticket": name, "kind": query.kind, "question": question, "clips": clips,
        } | scale | more  # fmt: skip

    def _forms(self) -> list[str]:
        """Say what kinds of clips there are to see."""
        if self.is_text or self.clips.model is not None:  # before there are any to see, too
            return ["text" if self.is_text else "poses"]
        newest = history.newest(self.feedback)
        segments = self.feedback.query(newest).segments if newest else ()
        return sorted({self.clips.describe(segment, "")["form"] for segment in segments})

    def _entry(self, request: Request, entry: HistoryEntry) -> dict[str, Any]:
        ticket, answer = as_given(entry.answer)
        measures = answer.gold and visitor_of(request).is_admin  # nobody else is told which do
        return {
            "answer": entry.number,
            "ticket": self._name(request, ticket),
            "person": answer.teacher,
            "kind": answer.kind,
            "value": answer.value,
            "answered_at": answer.answered_at,
            "seconds": max(0.0, answer.answered_at - answer.shown_at),
        } | ({"gold": True} if measures else {})


def _revision(answer: Answer) -> dict[str, Any]:
    """Return why a model has revised a text, and which one it is."""
    names = ("principles", "critiques")
    return {"by": answer.teacher} | {name: answer.value.get(name, []) for name in names}


def _file(folder: RunFolder) -> int | None:
    """Return which file the store is by now; None if it is in a database."""
    where = folder.feedback
    return where.stat().st_ino if isinstance(where, Path) else None


def _model(folder: RunFolder) -> Any:
    """Return the MuJoCo model that the run's clips are drawn with, None if there is none."""
    if not folder.model.exists():
        return None
    try:
        return load_model(folder.model)
    except ValueError as error:
        raise UserError(
            f"{folder.model} is damaged or of another version of MuJoCo ({error}); "
            f"`prefrl resume {folder.path}` writes it anew"
        ) from None
