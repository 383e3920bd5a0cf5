"""What a language model is asked about a query: a principle, what was said, the replies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from prefrl.errors import UserError
from prefrl.types import Query, QueryId, Segment, is_text, system_of, transcript

SPEAKERS = "Human: ", "Assistant: "  # where a conversation has several turns


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
    for segment in query.segments:
        if not (is_text(segment.observations) and is_text(segment.actions)):
            raise UserError(
                "a language model judges texts, but these clips are numbers; use another teacher: "
                "oracle, human or MODULE:OBJECT"
            )
    alike = _turns_alike(query.segments)
    first = query.segments[0]
    said, done = first.observations.tolist(), first.actions.tolist()
    lines = [str(said[0])]
    if alike:
        human, assistant = SPEAKERS
        lines = [
            line
            for turn in range(alike)
            for line in (f"{human}{said[turn]}", f"{assistant}{done[turn]}")
        ] + [f"{human}{said[alike]}"]
    system = system_of(first)
    context = "\n\n".join([system, *lines] if system else lines)
    replies = [
        transcript(clip.observations.tolist()[alike:], clip.actions.tolist()[alike:])
        for clip in query.segments
    ]
    return Shown(context, replies)


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


def principle(principles: Sequence[str], seed: int, query: QueryId, turn: int = 0) -> str:
    """Return the one of some principles that follows from seed, query and turn alone."""
    key = f"principle {seed} {query.round} {query.index} {turn}"
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return principles[int.from_bytes(digest, "big") % len(principles)]
