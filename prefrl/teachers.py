"""Synthetic teachers: an oracle that knows the true reward, any function of clips or texts."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prefrl.config import OracleConfig
from prefrl.errors import UserError, raised_by
from prefrl.feedback import FeedbackStore
from prefrl.types import Answer, Query, QueryId, Segment, transcript

Preference = Callable[[Segment, Segment], Any] | Callable[[str, str, str], Any]
"""Returns P(the first is better) as a number, True or False, or None for "can't tell".

Of two clips, `f(left, right)`; or of a prompt and two texts that go on from it, `f(prompt, a, b)`.
"""


class Oracle:
    """Answers from the hidden true reward, with the faults of B-Pref's teachers.

    B-Pref (Lee et al. 2021, arXiv 2111.03026), section 3: Oracle (the defaults), Stoc
    (`rationality` = 1), Mistake (`mistake` = 0.1), Skip (`skip` = 0.1), Equal (`equal` = 0.1) and
    Myopic (`myopia` = 0.9). Thresholds are applied once, to the average return of a clip in the
    query's round, which stands for the policy of that time.
    The chances are drawn from a hash of (seed, query): they do not depend on what came before.
    """

    name = "oracle"

    def __init__(self, config: OracleConfig, seed: int):
        _check_oracle(config)
        self.config, self.seed = config, seed

    def answer(self, feedback: FeedbackStore) -> None:
        """Answer every pending query, in order."""
        for query in feedback.pending():
            rewards = [feedback.true_rewards(segment.id) for segment in query.segments]
            average = 0.0
            if self.config.skip or self.config.equal or math.isfinite(self.config.rationality):
                average = feedback.average_clip_return(query.id.round)
            feedback.answer(self.judge(query.id, rewards, average))

    def judge(self, query: QueryId, rewards: list[np.ndarray], average: float) -> Answer:
        """Answer one query.

        Args:
            query: its id, from which the chances follow.
            rewards: the true rewards `[step]` of each segment.
            average: mean absolute return of the clips that the round asked about: the unit of
                the thresholds and of 1 / rationality, so that they mean the same in every task.
        """
        returns = np.array([self._myopic_return(reward) for reward in rewards])
        if len(returns) > 2:
            return self._rank(query, returns)
        now = time.time()
        if self.config.skip and returns.max() < self.config.skip * average:
            return Answer(query, "skip", {}, self.name, now, now)
        left = self._prefer(query, returns[0] - returns[1], average)
        if left is None:
            return Answer(query, "tie", {}, self.name, now, now)
        return Answer(query, "preference", {"left": left}, self.name, now, now)

    def _prefer(self, query: QueryId, difference: float, average: float) -> float | None:
        choice, turn = self._chances(query)
        if difference == 0 or abs(difference) < self.config.equal * average:
            return None
        if math.isinf(self.config.rationality):
            left = float(difference > 0)
        else:
            logit = self.config.rationality * difference / max(average, 1e-8)
            left = float(choice < 1 / (1 + math.exp(-min(max(logit, -700), 700))))
        return 1 - left if turn < self.config.mistake else left

    def _rank(self, query: QueryId, returns: np.ndarray) -> Answer:
        """Rank more than two by return, equals together."""
        values = sorted(set(returns), reverse=True)
        order = [[int(i) for i in np.flatnonzero(returns == value)] for value in values]
        now = time.time()
        return Answer(query, "ranking", {"order": order}, self.name, now, now)

    def _myopic_return(self, rewards: np.ndarray) -> float:
        weights = self.config.myopia ** np.arange(len(rewards) - 1, -1, -1)
        return float((weights * rewards).sum())

    def _chances(self, query: QueryId) -> tuple[float, float]:
        """Return two numbers in [0, 1) that follow from the seed and the query alone."""
        key = f"oracle {self.seed} {query.round} {query.index}".encode()
        digest = hashlib.blake2b(key, digest_size=16).digest()
        first, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        return first / 2**64, second / 2**64


class FunctionTeacher:
    """Answers with a function of two segments, or of a prompt and two texts; see `Preference`."""

    def __init__(self, prefer: Preference, name: str = ""):
        self.prefer: Any = prefer
        self.reads = _takes_three(prefer)
        self.name = name or getattr(prefer, "__name__", type(prefer).__name__)

    def answer(self, feedback: FeedbackStore) -> None:
        """Answer every pending query, in order.

        Raises:
            UserError: the function returned something that is not a preference.
        """
        for query in feedback.pending():
            shown = time.time()
            left, right = query.segments[0], query.segments[1]
            try:
                said = self._read(left, right) if self.reads else self.prefer(left, right)
            except UserError:
                raise
            except Exception as error:  # whatever somebody's function raises
                raise UserError(
                    f"{raised_by(f'teacher {self.name}', error)}; expected a function of two clips "
                    "or, for text, of a prompt and two texts. Correct it; a run is kept, and "
                    "`prefrl resume` goes on with it"
                ) from error
            feedback.answer(self._answer(query, said, shown))

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

    def _answer(self, query: Query, said: Any, shown: float) -> Answer:
        if said is None:
            return Answer(query.id, "skip", {}, self.name, shown, time.time())
        try:
            left = math.nan if isinstance(said, (str, bytes)) else float(said)
        except (TypeError, ValueError):
            left = math.nan
        if not 0 <= left <= 1:
            raise UserError(
                f"teacher {self.name} returned {said!r} for query {tuple(query.id)}; expected the "
                "probability that the first clip is better, a number from 0 to 1 (True and False "
                'count as 1 and 0), or None for "can\'t tell"'
            )
        kind = "tie" if left == 0.5 else "preference"
        value = {} if left == 0.5 else {"left": left}
        return Answer(query.id, kind, value, self.name, shown, time.time())


def load_teacher(name: str) -> FunctionTeacher:
    """Return the teacher that "module:object" names, a function of two segments.

    Raises:
        UserError: there is no such module or object, or it cannot be called.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or module_name.startswith("."):
        near = difflib.get_close_matches(name, ["oracle", "human"], cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "expected oracle, human or MODULE:OBJECT"
        raise UserError(f"there is no teacher {name!r}; {hint}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        teacher = importlib.import_module(module_name)
        for part in attribute.split("."):
            teacher = getattr(teacher, part)
    except ModuleNotFoundError as error:
        raise UserError(f"cannot import {error.name!r} for the teacher {name!r}") from None
    except AttributeError as error:
        raise UserError(f"cannot find the teacher {name!r}: {error}") from None
    finally:
        sys.path.pop(0)
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


def _check_oracle(config: OracleConfig) -> None:
    for name in ("mistake", "skip", "equal"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"--oracle.{name} is {getattr(config, name)}; expected 0 to 1")
    if not config.rationality > 0:
        raise UserError(f"--oracle.rationality is {config.rationality}; expected more than 0")
    if not 0 < config.myopia <= 1:
        raise UserError(f"--oracle.myopia is {config.myopia}; expected more than 0, at most 1")
