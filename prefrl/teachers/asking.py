"""What a language model is asked about a query: a principle, what was said, the replies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from prefrl.errors import UserError
from prefrl.types import Query, Segment, Trajectory, is_text, system_of, transcript

SPEAKERS = "Human: ", "Assistant: "  # where a conversation has several turns
OF_ASPECT = re.compile(r"\s*(?:\[([^\]]+)\])?\s*(.*)", re.DOTALL)  # "[safe] Which is less harmful?"


class Shown(NamedTuple):
    """The clips of a query as texts."""

    context: str
    """What all of them begin with."""
    replies: list[str]
    """How each goes on."""


def shown(query: Query) -> Shown:
    """Return what all clips of a query begin with, and how each goes on.

    Raises:
        UserError: these are no texts.
    """
    alike = _turns_alike(query.segments)
    both = [as_texts(clip, alike) for clip in query.segments]
    return Shown(both[0][0], [reply for _, reply in both])


def as_texts(clip: Segment | Trajectory, turn: int) -> tuple[str, str]:
    """Return what was said before a reply of a clip, and the clip from that reply on.

    Raises:
        UserError: it is no text.
    """
    if not (is_text(clip.observations) and is_text(clip.actions)):
        raise UserError(
            "a language model judges texts, but these clips are numbers; use another teacher: "
            "oracle, human or MODULE:OBJECT"
        )
    said, done = clip.observations.tolist(), clip.actions.tolist()
    lines = [str(said[0])]
    if turn:
        human, assistant = SPEAKERS
        before = zip(said[:turn], done[:turn], strict=True)
        lines = [line for one, reply in before for line in (human + one, assistant + reply)]
        lines.append(human + said[turn])
    system = system_of(clip)
    return "\n\n".join([system, *lines] if system else lines), transcript(said[turn:], done[turn:])


def _turns_alike(segments: Sequence[Segment]) -> int:
    """Return how many turns all begin with, after which the same is said to all of them."""
    alike = 0
    for turn in range(1, min(map(len, segments))):
        before = {str(clip.actions[turn - 1]) for clip in segments}
        now = {str(clip.observations[turn]) for clip in segments}
        if len(before) > 1 or len(now) > 1:
            break
        alike = turn
    return alike


def principle(
    principles: Sequence[str], default: str, seed: int, query: Query, turn: int = 0
) -> str:
    """Return the one of some principles that follows from seed, query and turn alone.

    Args:
        principles: those that begin with "[ASPECT]" are for queries about that aspect alone.
        default: what is asked where none of them is for the query.
        seed: of the choice.
        query: what is asked about.
        turn: which of several critiques of it.
    """
    key = f"principle {seed} {query.id.round} {query.id.index} {turn}"
    return drawn(principles, default, key, query.aspect)


def drawn(principles: Sequence[str], default: str, key: str, aspect: str = "") -> str:
    """Return the one of some principles for an aspect that a hash of a key draws."""
    found = (OF_ASPECT.fullmatch(text) for text in principles)
    known = [match[2] for match in found if match and match[1] in (None, aspect)]
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return known[int.from_bytes(digest, "big") % len(known)] if known else default
