"""What Gymnasium asks of an environment, checked at each call.

Environments of numbers and of text share it; what an observation must be is the caller's to check.
It serves a trial of an environment as well as the steps of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from numbers import Real
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from prefrl.errors import UserError, raised_by

NOT_DETERMINISTIC = "is not deterministic"  # says a note on what does not follow its seed
SHOWN = 60  # characters of a value that a sentence shows whole


class Outcome(NamedTuple):
    """What a step gave."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def name_of(environment: gymnasium.Env) -> str:
    """Return the id of an environment, or the name of its class."""
    return environment.spec.id if environment.spec else type(environment.unwrapped).__name__


def broken(environment: gymnasium.Env, problem: str) -> UserError:
    """Return the error that says what is wrong with an environment."""
    return UserError(f"{name_of(environment)}: {problem}")


def space_of(environment: gymnasium.Env, which: str, example: str) -> gymnasium.Space:
    """Return the "observation" or "action" space.

    Raises:
        UserError: there is none; the message proposes the example.
    """
    space = getattr(environment, f"{which}_space", None)
    if not isinstance(space, gymnasium.Space):
        raise broken(environment, f"it has no {which}_space; set it to {example}")
    return space


def call(
    environment: gymnasium.Env, what: str, method: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """Return what a method returns; what it raises becomes a sentence."""
    try:
        return method(*args, **options)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's environment raises
        raise broken(environment, raised_by(what, error)) from error


def reset(
    environment: gymnasium.Env, seed: int | None = None, options: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Start an episode; return the observation and the info.

    Raises:
        UserError: the environment raises something, or gives no such pair.
    """
    arguments: dict[str, Any] = {} if seed is None else {"seed": seed}
    if options is not None:
        arguments["options"] = options
    what = words_of_reset(seed, options)
    try:
        result = environment.reset(**arguments)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's environment raises
        hint = "correct the environment"
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            hint = "expected the signature reset(self, *, seed=None, options=None)"
        raise broken(environment, f"{raised_by(what, error)}; {hint}") from error
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise broken(
            environment, f"{what} gave {short(result)}; expected (observation, info), info a dict"
        )
    return result


def step(environment: gymnasium.Env, action: Any, when: str = "") -> Outcome:
    """Make a step.

    Args:
        environment: where an episode is under way.
        action: what is done.
        when: what a sentence adds to name the step, such as "in turn 3".

    Raises:
        UserError: the environment raises something, or gives other than the five that it should.
    """
    try:
        result = environment.step(action)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's environment raises
        what = raised_by(words_of_step(action, when), error)
        raise broken(environment, f"{what}; correct the environment") from error
    problem = _problem_with(result)
    if problem:
        raise broken(environment, f"{words_of_step(action, when)} gave {problem}")
    observation, reward, terminated, truncated, info = result
    return Outcome(observation, float(reward), bool(terminated), bool(truncated), info)


def check_text(environment: gymnasium.Env, text: Any, source: str) -> None:
    """Raise `UserError` unless something is a text; `source` says which call gave it as what."""
    if not isinstance(text, str):
        raise broken(
            environment, f"{source} {short(text)}, of type {type(text).__name__}; expected str"
        )


def close(environment: gymnasium.Env) -> None:
    """Close an environment that is not needed any more, whatever it says to that."""
    with suppress(Exception):
        environment.close()


def words_of_reset(seed: int | None = None, options: dict[str, Any] | None = None) -> str:
    """Return the call as a sentence names it."""
    words = [] if seed is None else [f"seed={seed}"]
    words += [] if options is None else [f"options={options!r}"]
    return f"reset({', '.join(words)})"


def words_of_step(action: Any, when: str = "") -> str:
    """Return the call as a sentence names it."""
    if isinstance(action, np.ndarray):
        action = [float(f"{value:.4g}") for value in action.ravel().tolist()]
    return f"step({short(action)}){when and f' {when}'}"


def short(value: Any) -> str:
    """Return a value for a sentence, its middle left out where it is long."""
    text = " ".join(repr(value).split()) if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 10]}… ({len(text)} characters)"


def _problem_with(result: Any) -> str:
    """Return what is wrong with what a step gave, "" if nothing is."""
    if not isinstance(result, tuple) or len(result) != 5:
        old = isinstance(result, tuple) and len(result) == 4
        return (
            f"{'four values, ' if old else ''}{short(result)}; expected the five (observation, "
            "reward, terminated, truncated, info)"
        )
    _, reward, terminated, truncated, info = result
    if not isinstance(reward, Real) or isinstance(reward, bool) or not math.isfinite(reward):
        return f"the reward {short(reward)}; expected a finite float"
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            return f"{name} = {short(flag)}; expected a bool"
    return "" if isinstance(info, dict) else f"the info {short(info)}; expected a dict"
