"""Which aspects of an environment are asked about, and what it truly pays for each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from prefrl.errors import UserError
from prefrl.types import BETTER

NAME = re.compile(r"[A-Za-z][\w-]*")


def aspects_of(metadata: Any, name: str) -> dict[str, str]:
    """Return what each aspect asks, by its name, as an environment's metadata say it.

    Args:
        metadata: of the environment.
        name: its id.

    Raises:
        UserError: they say it otherwise than {"fast": "Which is faster?"}.
    """
    aspects = metadata.get("aspects") or {} if isinstance(metadata, Mapping) else {}
    good = isinstance(aspects, Mapping) and all(
        isinstance(question, str) and question and isinstance(aspect, str) and _is_name(aspect)
        for aspect, question in aspects.items()
    )
    if not good:
        raise UserError(
            f'{name}: metadata["aspects"] is {aspects!r}; expected a question for each name of '
            'letters, as in {"fast": "Which is faster?"}'
        )
    return dict(aspects)


def chosen_aspects(words: Sequence[str], known: Mapping[str, str], env: str) -> dict[str, str]:
    """Return what is asked about, and the question of each aspect; {} for one plain question.

    Args:
        words: what `--aspects` says: NAME, or NAME:QUESTION; all that are known by default.
        known: the environment's own.
        env: its id.

    Raises:
        UserError: a name is unknown, or twice there.
    """
    if not words:
        return dict(known)
    if tuple(words) == (BETTER,):
        return {}
    chosen: dict[str, str] = {}
    for word in words:
        name, _, question = (part.strip() for part in word.partition(":"))
        question = question or known.get(name, "")
        if not _is_name(name) or not question:
            there = f"{env} has {', '.join(known)}" if known else f"{env} names none itself"
            raise UserError(
                f"--aspects is given {word!r}, but {there}; expected one of them, or a name and "
                f"what it asks, as in '{name if _is_name(name) else 'fast'}:Which is faster?'"
            )
        if name in chosen:
            raise UserError(f"--aspects names {name} twice; name each aspect once")
        chosen[name] = question
    return chosen


def paid_by_aspect(info: Mapping[str, Any], aspects: Iterable[str]) -> dict[str, float]:
    """Return what a step truly pays for each of an environment's aspects.

    Where its info says nothing of all of them, it is nothing, and no oracle can answer.
    """
    paid = info.get("aspects")
    if not isinstance(paid, Mapping) or not all(_is_number(paid.get(a)) for a in aspects):
        return {}
    return {aspect: float(paid[aspect]) for aspect in aspects}


def _is_name(aspect: str) -> bool:
    return NAME.fullmatch(aspect) is not None and aspect != BETTER


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
