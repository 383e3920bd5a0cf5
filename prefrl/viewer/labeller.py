"""What a labeller's link may ask for: the question, clips to answer, and their own answers.

True rewards, predictions, what others answer and how the run is doing are for admins alone.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from prefrl.storage import history
from prefrl.viewer.fields import Refused
from prefrl.viewer.guard import visitor_of
from prefrl.viewer.view import View

OF_THE_RUN = (
    *("id", "role", "person", "named", "question", "instructions"),
    *("forms", "kind", "clips", "longest_text", "guide", "welcomed"),
)
NOTHING_YET = "There is nothing to answer just now; new pairs come by themselves."
NOTHING_MORE = "That was the last pair. Thank you!"


class LabellerView:
    """One run, as a labeller's page sees it."""

    def __init__(self, view: View):
        self.view = view

    def run(self, request: Request) -> dict[str, Any]:
        """Say what is asked."""
        known = self.view.run(request)
        return {name: known[name] for name in OF_THE_RUN}

    def clip(self, request: Request) -> Response:
        """Send a clip of a query of theirs."""
        self._check_shown(request)
        return self.view.clip(request)

    def query(self, request: Request) -> dict[str, Any]:
        """Describe a query of theirs."""
        self._check_shown(request)
        return self.view.query(request)

    def next(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Hand out queries."""
        given = self.view.next(request, body)
        return given | {"words": self._why_no_more() if given["words"] else ""}

    def status(self, request: Request) -> dict[str, Any]:
        """Say what they have answered, and whether that was all."""
        person = visitor_of(request).person
        state = "finished" if self.view.progress.is_over() else "open"
        words = NOTHING_MORE if state == "finished" else f"Answers are stored as {person}'s."
        return self.view.own(person) | {"trainer": {"state": state, "words": words}}

    def history(self, request: Request) -> dict[str, Any]:
        """List their own answers, newest first."""
        return self.view.history(request, visitor_of(request).person)

    def _why_no_more(self) -> str:
        return NOTHING_MORE if self.view.progress.is_over() else NOTHING_YET

    def _check_shown(self, request: Request) -> None:
        """Refuse a query that was never in front of them, and is not one for practice."""
        query = self.view.read_ticket(request).query
        store, person = self.view.feedback, visitor_of(request).person
        practised = history.earliest(store, 3)
        if query not in practised and not history.was_shown(store, query, person):
            raise Refused(404, "this pair is not in front of you; answer those that come next")
