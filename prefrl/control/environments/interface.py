"""What the agent sees of its environments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Box, Discrete

from prefrl.clips.observed import Layout, layout
from prefrl.environments.aspects import aspects_of
from prefrl.guide import Guide, guide_of
from prefrl.types import Picture, Segment


@dataclass(frozen=True)
class Step:
    """What every environment answered to one action."""

    observations: np.ndarray
    """[env, feature], or pictures; those of a new episode where one ended."""
    env_rewards: np.ndarray
    """[env]"""
    ended: np.ndarray
    """[env], bool."""
    last_observations: dict[int, np.ndarray] = field(default_factory=dict)
    """By environment, the last observation of the episode that ended."""
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    """By environment, the numbers reported at the end of the episode."""
    aspect_rewards: dict[str, np.ndarray] = field(default_factory=dict)
    """[env] each: what is truly paid for each aspect."""


@dataclass(frozen=True)
class Description:
    """What an environment says of itself."""

    observation_space: Box
    action_space: Box | Discrete
    horizon: int
    """Steps of an episode; training may end one sooner (`truncate_after_end`)."""
    dt: float
    """Seconds of a step."""
    question: str
    clip_steps: int
    shows_end: bool = False
    """Whether the last number of an observation is ours: it says that the episode has ended."""
    together: int = 1
    """How many environments side by side begin each clip in the same state."""
    aspects: Mapping[str, str] = field(default_factory=dict)
    """What may be asked about, and the question of each; {} where there is one question alone."""
    guide: Guide = field(default_factory=Guide)
    """What whoever answers needs to know beyond the question."""

    @property
    def picture(self) -> Layout | None:
        """How the axes of an observation lie, where it is a picture; None of rows of numbers."""
        shape = self.observation_space.shape
        return layout(shape) if len(shape) > 1 else None


class Environments(Protocol):
    """Environments that show no end, only a time limit, and are reset as soon as it is reached."""

    count: int
    description: Description

    def reset(self) -> np.ndarray:
        """Start an episode everywhere and return the observations `[env, …]`."""
        ...

    def step(self, actions: np.ndarray) -> Step:
        """Advance every environment by one step."""
        ...

    def extras(self) -> dict[str, np.ndarray]:
        """Return what redraws the present moment and what is to be known of it, `[env, …]` each.

        That an episode is over is `ENDED`; that a body has just been stood up is `STOOD_UP`.
        """
        ...

    def pictures(self, segments: Sequence[Segment]) -> dict[str, Picture]:
        """Return what segments looked like, by id, where their extras alone cannot redraw them.

        Only steps made since `clear_history` was last called can be shown.
        """
        ...

    def clear_history(self) -> None:
        """Let go of what `pictures` needs of the steps so far."""
        ...

    def close(self) -> None:
        """Let go of the environments themselves; none can be stepped any more."""
        ...

    def model(self) -> Any:
        """Return the MuJoCo model that `extras()["qpos"]` belongs to."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        ...


def describe(
    name: str, space: Any, actions: Any, metadata: dict, horizon: int, dt: float | None,
    clip_seconds: float | None, shows_end: bool = False,
) -> Description:  # fmt: skip
    """Describe an environment, with defaults for what its metadata leaves out.

    Args:
        name: the id.
        space: of observations.
        actions: of actions.
        metadata: the environment's own; `render_fps`, `clip_seconds`, `question`, `aspects` and
            `guide` are read.
        horizon: most steps of an episode.
        dt: seconds of a step, where they are known otherwise.
        clip_seconds: length of a clip, where it is given.
        shows_end: see `Description`.
    """
    seconds = dt or 1 / (positive(metadata.get("render_fps")) or 30)
    proposed = positive(metadata.get("clip_seconds")) or min(1.5, horizon * seconds / 2)
    clip = clip_seconds or max(proposed, seconds)
    question = metadata.get("question")
    if not isinstance(question, str) or not question:
        question = f"Which clip is better at {name}?"
    return Description(
        space, actions, horizon, seconds, question, round(clip / seconds), shows_end,
        aspects=aspects_of(metadata, name), guide=guide_of(metadata, name),
    )  # fmt: skip


def positive(value: Any) -> float | None:
    """Return a value if it is a single finite number above 0, else None.

    Attributes and metadata of somebody's environment may mean anything: `dt` a matrix, `render_fps`
    a word.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    number = float(value)
    return number if 0 < number < math.inf else None
