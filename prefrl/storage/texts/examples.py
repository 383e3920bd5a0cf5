"""What a row of a file of texts says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prefrl.types import Conversation

Kind = Literal[
    "preference", "ranking", "ratings", "tie", "score", "label", "demonstration", "prompt",
    "exported", "clip",
]  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One judgement, demonstration or prompt, whatever its row looked like."""

    form: str
    """What the row is, in words, of many: "pairs {…}"."""
    kind: Kind
    """Of an answer, as in `types.Answer`; or a score or label of one reply of several rows, which
    are put together by their task; a demonstration, a prompt; an answer of `prefrl export`, or a
    clip that demonstrates something."""
    conversations: tuple[Conversation, ...] = ()
    """What is judged or demonstrated. Of a prompt the turns before it, and itself with no reply."""
    task: str = ""
    """What the conversations have in common."""
    value: dict[str, Any] = field(default_factory=dict)
    """Of an answer, as in `types.Answer`; {"score"} or {"label"}; else the row."""
    names: tuple[str, ...] = ()
    """Of the conversations in their row: "chosen", "completion 1"."""
    teacher: str = ""
    """Who judged, where the row says it."""
    number: int = 0
    """Of the row."""
    where: str = ""
    """Of the row, in words."""

    @property
    def compares(self) -> bool:
        """Whether it says which of several replies is better."""
        return self.kind not in ("demonstration", "prompt", "clip")
