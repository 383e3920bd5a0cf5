"""What an experiment is made of, whatever kind its environment is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefrl.loop import Agent
from prefrl.reward import RewardModel
from prefrl.run import RunFolder


@dataclass(frozen=True)
class Parts:
    """An agent in its environments and a reward model; `control` and `text` build them."""

    agent: Agent
    reward_model: RewardModel
    clip_steps: int | None
    """Steps of a clip; None shows whole episodes."""
    question: str
    """The environment's own."""
    environment: dict[str, Any]
    """`dt`, seconds of a step, and the spaces, as `prefrl.spaces` has them."""
    save: Callable[[RunFolder], None]
    """Keeps what is needed beside configuration and checkpoints, before the first round."""
    notes: Callable[[bool], list[str]]
    """What to say before a run begins, given whether people are asked."""
