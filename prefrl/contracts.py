"""The roles that have two real actors each, and what an experiment is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prefrl.types import Picture, Segment, Trajectory

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Parameter

    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.folder import RunFolder


class RewardModel(Protocol):
    """An ensemble that predicts the reward of steps, and so the return of segments."""

    members: int

    def encode(self, segments: Sequence[Segment]) -> Any:
        """Turn segments into tensors, once for many calls of `returns`."""
        ...

    def normalise_inputs(self, encoded: Any) -> None:
        """Take the scale of the inputs from what a fit is about to learn from, if it matters."""
        ...

    def returns(self, encoded: Any, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Predict the returns `[member, row]` of some encoded segments, with gradient.

        Args:
            encoded: what `encode` gave.
            rows: indices of the segments, int64.
            generator: given, the model may look at a random part of each segment.
        """
        ...

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Predict calibrated rewards, `[step]` for each trajectory: the members' mean."""
        ...

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return what to calibrate on, of a round's trajectories and what was kept before it."""
        ...

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Give each member mean 0 and deviation 1 on this data, until the next fit.

        Comparisons leave the offset of a reward open and its scale to the noise of the answers.
        """
        ...

    def distance(self, left: Segment, right: Segment) -> float:
        """Return how different two segments look; people are not asked about what looks alike."""
        ...

    def parameters(self) -> Iterable[Parameter]:
        """Return what is fitted."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that the predictions depend on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Continue from what `state_dict` returned."""
        ...


class Agent(Protocol):
    """A policy and its optimiser."""

    def explore(self, steps: int) -> list[Trajectory]:
        """Run the untrained policy for about `steps` steps; what `train` does not count."""
        ...

    def train(
        self, reward_model: RewardModel, steps: int
    ) -> tuple[list[Trajectory], dict[str, float]]:
        """Train for about `steps` steps on predicted rewards; return what was done and metrics."""
        ...

    def pictures(self, segments: Sequence[Segment]) -> dict[str, Picture]:
        """Return what people need to see segments of this round; {} where their extras do."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything: policy, optimisers, normalisers, generators, environments."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        ...


class Teacher(Protocol):
    """Whoever answers queries."""

    def answer(self, feedback: FeedbackStore) -> None:
        """Answer what is pending, or return at once."""
        ...


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
    """`dt`, seconds of a step, and the spaces, as `prefrl.storage.spaces` has them."""
    save: Callable[[RunFolder], None]
    """Keeps what is needed beside configuration and checkpoints, before the first round."""
    notes: Callable[[bool], list[str]]
    """What to say before a run begins, given whether people are asked."""
