"""A judge's grades as the reward itself, with no comparison and no reward model between (d-RLAIF).

Lee et al. 2023 (arXiv 2309.00267, section 2.3): the expected grade of a reply, from 1 to 9.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prefrl.errors import Unreachable, UserError, note
from prefrl.pace import Pace
from prefrl.teachers.asking import as_texts, drawn
from prefrl.teachers.gate import FEW
from prefrl.teachers.judge import DEFAULT, DIGITS, Judge
from prefrl.types import Trajectory

Graded = tuple[str, str, str]  # what was said, the reply, and the principle
LOWEST = 1.0  # the grade of what could not be graded
WAIT_SECONDS = 5.0


class GradingReward:
    """Pays the grade of a conversation with its last turn; nothing is asked twice."""

    def __init__(self, judge: Judge, seed: int, question: str = ""):
        """Build it; nobody is asked yet.

        Args:
            judge: who grades.
            seed: of the choice of principles.
            question: by what it grades, where the judge has no principles.
        """
        self.judge, self.seed = judge, seed
        self.question = question or DEFAULT
        self.known: dict[Graded, float] = {}
        """The grades so far; nan where none could be read."""
        self.keep: Callable[[Mapping[Graded, float]], None] = lambda grades: None
        """Keeps new grades."""
        self._told = ""

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return the grades, `[turn]` for each trajectory: all of it with the last turn.

        Raises:
            UserError: what is to be graded are no texts, or most of what the judge says cannot be
                read.
        """
        asked = [self._asked(trajectory) for trajectory in trajectories]
        self._ask([one for one in dict.fromkeys(asked) if one not in self.known])
        rewards = [np.zeros(len(trajectory)) for trajectory in trajectories]
        for one, paid in zip(asked, rewards, strict=True):
            grade = self.known[one]
            paid[-1] = LOWEST if math.isnan(grade) else grade
        return rewards

    def _asked(self, trajectory: Trajectory) -> Graded:
        """Return what is asked of a conversation: from its first reply on, by one principle.

        All replies to a task are graded by the same one, since they are compared with each other.
        """
        context, reply = as_texts(trajectory, 0)
        digest = hashlib.blake2b(context.encode(), digest_size=8).hexdigest()
        key, principles = f"grade {self.seed} {digest}", self.judge.config.principles
        return context, reply, drawn(principles, self.question, key)

    def _ask(self, new: Sequence[Graded]) -> None:
        """Ask for grades, some at a time; each is kept as it comes."""
        pace, each = Pace("grading", len(new)), self.judge.speaker.at_once
        for begin in range(0, len(new), each):
            some = new[begin : begin + each]
            grades = [round(grade, DIGITS) for grade in self._heard(some)]
            heard = dict(zip(some, grades, strict=True))
            self.keep(heard)
            self.known |= heard
            self._check()
            pace.step(len(some))

    def _heard(self, some: Sequence[Graded]) -> list[float]:
        """Return the grades of some texts; wait while the judge does not answer."""
        while True:
            try:
                return self.judge.grades(*zip(*some, strict=True)).tolist()
            except Unreachable as error:
                if str(error) != self._told:
                    note(f"{error}; the run waits for it, nothing is lost")
                self._told = str(error)
                time.sleep(WAIT_SECONDS)

    def _check(self) -> None:
        """Raise `UserError` if most of what the judge said is no grade."""
        unread = sum(map(math.isnan, self.known.values()))
        if not self.judge.config.force and len(self.known) >= FEW and 2 * unread > len(self.known):
            raise UserError(
                f"the judge {self.judge.name} cannot grade: of {len(self.known)} grades {unread} "
                "could not be read; give another model, or insist with --judge.force"
            )
