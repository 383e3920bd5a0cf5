"""What each person has answered, counted as answers come: the cost is that of the new ones."""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Any

from prefrl.storage.feedback import FeedbackStore

COLUMNS = "id, teacher, kind, value, shown_at, answered_at"
PREFIXED = ", ".join(f"b.{name}" for name in COLUMNS.split(", "))


@dataclass
class Tally:
    """One person's answers that stand, those to pairs shown again left out."""

    answers: int = 0
    ties: int = 0
    skips: int = 0
    broken: int = 0
    """Queries set aside."""
    left: int = 0
    """Preferences for the left one of two."""
    sides: int = 0
    """Preferences for one of two."""
    seconds: list[float] = field(default_factory=list)
    """That each answer took, in order of length."""

    @property
    def median(self) -> float | None:
        """Return the median of the seconds, None without any."""
        count = len(self.seconds)
        if not count:
            return None
        return (self.seconds[(count - 1) // 2] + self.seconds[count // 2]) / 2


class Tallies:
    """The tallies of all who have answered in a run; imported answers are left out."""

    def __init__(self, store: FeedbackStore):
        self.store = store
        self.through = 0
        """The newest answer that is counted."""
        self.people: dict[str, Tally] = {}

    def update(self) -> dict[str, Tally]:
        """Count what is new, and return the tallies by name."""
        newest = self.store.last_answer()
        if newest == self.through:
            return self.people
        run = self.store.database.run
        own = "NOT {0}.repeat AND ({0}.round >= 0 OR {0}.gold) AND {0}.kind <> 'retraction'"
        new = run(
            f"SELECT {PREFIXED} FROM answer b WHERE b.id > ? AND b.id <= ? AND {own.format('b')}",
            self.through, newest,
        )  # fmt: skip
        replaced = run(
            f'SELECT {PREFIXED} FROM answer a JOIN answer b ON b.round = a.round AND b."index" = '
            'a."index" AND b.superseded = a.id '
            f"WHERE a.id > ? AND a.id <= ? AND {own.format('b')}",
            self.through, newest,
        )  # fmt: skip
        for row in new:
            self._count(row, 1)
        for row in replaced:
            self._count(row, -1)
        self.through = newest
        self.people = {name: tally for name, tally in self.people.items() if tally.answers}
        return self.people

    def _count(self, row: Any, sign: int) -> None:
        _, teacher, kind, value, shown, answered = row
        tally = self.people.setdefault(teacher, Tally())
        tally.answers += sign
        tally.ties += sign * (kind == "tie")
        tally.skips += sign * (kind == "skip")
        tally.broken += sign * (kind == "broken")
        if kind == "preference" and (left := json.loads(value)["left"]) != 0.5:
            tally.sides += sign
            tally.left += sign * (left > 0.5)
        seconds = max(0.0, answered - shown)
        if sign > 0:
            insort(tally.seconds, seconds)
        else:
            tally.seconds.pop(bisect_left(tally.seconds, seconds))
