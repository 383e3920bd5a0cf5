"""Any function of clips or texts as a teacher."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prefrl.config.learning import TEACHERS
from prefrl.environments.modules import load_object
from prefrl.errors import UserError, raised_by
from prefrl.types import Answer, Query, Segment, Truth, transcript, until_end

Preference = Callable[[Segment, Segment], Any] | Callable[[str, str, str], Any]
"""Returns P(the first is better) as a number, True or False, or None for "can't tell".

Of two clips, `f(left, right)`, each as people see it: up to where its episode ended. Or of a prompt
and two texts that go on from it, `f(prompt, a, b)`.
"""


GIVEN = "<python>"  # what no module is called: a teacher that can only be given again


class FunctionTeacher:
    """Answers with a function of two segments, or of a prompt and two texts; see `Preference`."""

    sees_true_rewards = False

    def __init__(self, prefer: Preference, name: str = ""):
        self.prefer: Any = prefer
        self.reads = _takes_three(prefer)
        self.name = name or getattr(prefer, "__name__", type(prefer).__name__)

    def answer(self, queries: Sequence[Query], truth: Truth | None = None) -> Iterator[Answer]:
        """Answer queries, in order; the truth is not looked at.

        Raises:
            UserError: the function returned something that is not a preference.
        """
        for query in queries:
            shown = time.time()
            left, right = map(until_end, query.segments[:2])
            try:
                returned = self._read(left, right) if self.reads else self.prefer(left, right)
            except UserError:
                raise
            except Exception as error:  # whatever somebody's function raises
                raise UserError(
                    f"{raised_by(f'teacher {self.name}', error)}; expected a function of two clips "
                    "or, for text, of a prompt and two texts; correct it, and go on "
                    "with the run, if it teaches one: `prefrl resume RUN`, or from Python "
                    "resume(path, teacher=…)"
                ) from error
            yield self._answer(query, returned, shown)

    def _read(self, left: Segment, right: Segment) -> Any:
        prompt = left.observations[0]
        if not isinstance(prompt, str):
            raise UserError(
                f"teacher {self.name} takes three arguments, a prompt and two texts, but these "
                "clips are no texts; expected a function of two clips"
            )
        texts = (
            transcript(clip.observations.tolist(), clip.actions.tolist()) for clip in (left, right)
        )
        return self.prefer(str(prompt), *texts)

    def _answer(self, query: Query, returned: Any, shown: float) -> Answer:
        if returned is None:
            return Answer(query.id, "skip", {}, self.name, shown, time.time())
        try:
            left = math.nan if isinstance(returned, (str, bytes)) else float(returned)
        except (TypeError, ValueError):
            left = math.nan
        if not 0 <= left <= 1:
            raise UserError(
                f"teacher {self.name} returned {returned!r} for query {tuple(query.id)}; expected "
                "the probability that the first clip is better, a number from 0 to 1 (True and "
                'False count as 1 and 0), or None for "can\'t tell"'
            )
        kind = "tie" if left == 0.5 else "preference"
        value = {} if left == 0.5 else {"left": left}
        return Answer(query.id, kind, value, self.name, shown, time.time())


def record_name(prefer: Preference) -> str:
    """Return the name by which a run remembers a function that was given in Python.

    It is "module:object" if the function is found again by that, else "<python>:object": of a
    notebook's functions, lambdas, partials and methods.
    """
    bare, module = _bare_name(prefer), getattr(prefer, "__module__", None)
    attribute: Any = sys.modules.get(module or "")
    for part in bare.split("."):
        attribute = getattr(attribute, part, None)
    again = module != "__main__" and attribute is prefer
    return f"{module if again else GIVEN}:{bare}"


def _bare_name(prefer: Any) -> str:
    if isinstance(prefer, functools.partial):
        return f"partial({_bare_name(prefer.func)})"
    return getattr(prefer, "__qualname__", type(prefer).__qualname__)


def load_teacher(name: str) -> FunctionTeacher:
    """Return the teacher that "module:object" names, a function of two segments.

    Raises:
        UserError: there is no such module or object, it cannot be called, or it was given in Python
            and has no name by which it is found again.
    """
    if name.startswith(f"{GIVEN}:"):
        raise UserError(
            f"the teacher {name!r} was given in Python and has no name by which it is found again; "
            "give it once more, as with prefrl.resume(path, teacher=…), or put it into a module"
        )
    if ":" not in name or name.startswith((":", ".")):
        near = difflib.get_close_matches(name, [*TEACHERS, "human"], cutoff=0.5)
        known = f"expected {', '.join(TEACHERS)}, human, MODULE:OBJECT or the FOLDER of a reward"
        hint = f"did you mean {near[0]}?" if near else known
        raise UserError(f"there is no teacher {name!r}; {hint}")
    teacher = load_object(name, "teacher")
    if not callable(teacher):
        raise UserError(f"the teacher {name!r} is {teacher!r}; expected a function of two clips")
    return FunctionTeacher(teacher, name)


def _takes_three(function: Preference) -> bool:
    """Return whether a function must be given three arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) == 3
