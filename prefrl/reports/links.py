"""Who has a link to a run's page, and how they answer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from prefrl.storage import history
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.links import Link
from prefrl.types import Answer

ALL = 2**31 - 1


def in_words(links: Sequence[Link], store: FeedbackStore) -> list[str]:
    """Return a line for each who has a link, and for each who has answered without one."""
    newest = {link.person: link for link in links}
    others = [person for person in history.people(store) if person not in newest]
    lines = [f"{link.person} ({_role(link)}): {_answers(store, link.person)}"
             for link in newest.values()]  # fmt: skip
    lines += [f"{person} (no link): {_answers(store, person)}" for person in others]
    return lines or ["nobody has a link, and nobody has answered; --link NAME makes a link"]


def _role(link: Link) -> str:
    role = "admin" if link.admin else "labeller"
    return role if link.state == "open" else f"{role}, {link.state}"


def _answers(store: FeedbackStore, person: str) -> str:
    """Say how somebody answers: shares of what the page offers show who presses one key alone."""
    given = [entry.answer for entry in history.history(store, ALL, person=person)]
    if not given:
        return "no answers"
    seconds = statistics.median(max(0.0, each.answered_at - each.shown_at) for each in given)
    words = [f"{len(given)} answer{'s' if len(given) > 1 else ''}, {seconds:.1f} s each"]
    words += [f"{_share(given, kind)} {name}" for kind, name in
              (("tie", "about equal"), ("skip", "can't tell"))]  # fmt: skip
    sides = [each.value["left"] for each in given if "left" in each.value]
    if sides:
        words.append(f"{100 * sum(side > 0.5 for side in sides) / len(sides):.0f} % left")
    same, of = history.agreement(store, person)
    if of:
        words.append(f"the same again on {same} of {of} pairs shown twice")
    return ", ".join(words)


def _share(given: Sequence[Answer], kind: str) -> str:
    return f"{100 * sum(each.kind == kind for each in given) / len(given):.0f} %"
