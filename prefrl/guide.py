"""What whoever answers needs to know beyond the question, as an environment's metadata tell it.

metadata = {"guide": {"sentences": ["Forward is to the right.", "A fall is worst of all."]}}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefrl.errors import UserError, check_plain

Measure = str | Callable[[np.ndarray, np.ndarray | None, float], float]
"""What is measured of a clip: a number of `info` at its last step, by its name, or a function of
its observations `[step, …]`, its `qpos` `[step, nq]` if it has any, and the seconds of a step."""

ENDS = ("worst", "best")
EXAMPLE = '{"sentences": ["Forward is to the right."]}'


@dataclass(frozen=True)
class GuidePicture:
    """A small picture of a robot in poses of its own."""

    caption: str
    poses: tuple[tuple[float, ...], ...]
    """Joint positions (`qpos`) that it goes through, evenly in time; a single one stands still."""
    marked: tuple[str, ...] = ()
    """Names of the parts (geoms) that are coloured."""
    seconds: float = 1.5
    """From the first pose to the last one."""


@dataclass(frozen=True)
class Example:
    """A task of text to practise on, with replies of which the order is beyond doubt."""

    prompt: str
    replies: tuple[str, ...]
    """The best first; two at least."""
    why: str
    """In one sentence."""
    aspect: str = ""
    """What it is about, where several things are asked about."""


@dataclass(frozen=True)
class Right:
    """The right answer to a question for practice."""

    order: tuple[tuple[int, ...], ...]
    """Places, the best first; the clips of a place are worth the same."""
    why: str
    """In one sentence."""


@dataclass(frozen=True)
class Guide:
    """All of it. Nothing here is about a clip of a run."""

    sentences: tuple[str, ...] = ()
    """What a good clip is like, and a bad one; three to five plain sentences."""
    pictures: tuple[GuidePicture, ...] = ()
    ends: tuple[str, str] = ENDS
    """What the lowest and the highest grade of a rating are called."""
    examples: tuple[Example, ...] = ()
    practice: tuple[Right, ...] = ()
    """Of the questions in the run's store of practice, in their order."""
    reasons: Mapping[str, Measure] = field(default_factory=dict, hash=False, compare=False)
    """What to measure of clips for practice, by the words that tell two measurements, {better} and
    {worse}; more is better, or less where the words begin with "-". It is not written down."""


def guide_of(metadata: Any, name: str) -> Guide:
    """Return what an environment's metadata say under "guide"; an empty guide if nothing.

    Args:
        metadata: of the environment.
        name: its id.

    Raises:
        UserError: they say it otherwise than `Guide` does.
    """
    told = metadata.get("guide") or {} if isinstance(metadata, Mapping) else {}
    try:
        return guide_from_json({k: v for k, v in told.items() if k != "practice"})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{name}: metadata["guide"] cannot be read ({error}); expected a mapping of sentences, '
            f"pictures, ends, examples or reasons, as in {EXAMPLE}"
        ) from None


def guide_to_json(guide: Guide) -> dict[str, Any]:
    """Return a guide as JSON values, what is empty left out."""
    fields = dataclasses.asdict(dataclasses.replace(guide, reasons={}))
    return {name: value for name, value in fields.items() if value and value != ENDS}


def guide_from_json(fields: Mapping[str, Any]) -> Guide:
    """Read what `guide_to_json` wrote.

    Raises:
        TypeError, ValueError, KeyError: a field is unknown, missing or of another kind.
    """
    known = dict(fields)
    for name, kind in (("pictures", GuidePicture), ("examples", Example), ("practice", Right)):
        known[name] = tuple(_made(kind, each) for each in known.get(name, ()))
    known["sentences"] = _texts(known.get("sentences", ()))
    low, high = _texts(known.get("ends", ENDS))
    reasons = dict(known.get("reasons", {}))
    for words, measure in reasons.items():
        if not (isinstance(words, str) and (isinstance(measure, str) or callable(measure))):
            raise TypeError("each reason is words, and a name of info or a function")
        words.format(better=0.0, worse=0.0)
    return Guide(**known | {"ends": (low, high), "reasons": reasons})


def _made(kind: type, fields: Mapping[str, Any]) -> Any:
    """Make a part of a guide, of lists or tuples."""
    known = dict(fields)
    if kind is GuidePicture:
        known["poses"] = tuple(tuple(float(x) for x in pose) for pose in known["poses"])
        known["marked"] = _texts(known.get("marked", ()))
        if not known["poses"]:
            raise ValueError("a picture has no pose")
    if kind is Example:
        known["replies"] = _texts(known["replies"])
        if len(known["replies"]) < 2:
            raise ValueError("an example has fewer than two replies")
    if kind is Right:
        known["order"] = tuple(tuple(int(clip) for clip in place) for place in known["order"])
    _texts([known.get(name, "") for name in ("caption", "prompt", "why", "aspect")])
    return kind(**known)


def _texts(texts: Sequence[Any]) -> tuple[str, ...]:
    """Return texts without a control character but line breaks."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{texts!r} is no list of texts")
    for text in texts:
        try:
            check_plain("a text", text)
        except UserError as error:
            raise ValueError(str(error)) from None
    return tuple(texts)
