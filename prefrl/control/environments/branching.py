"""Clips that begin in the same state: one moment of a simulation goes on several times.

Of clips from different states an answer says mostly which state was good, which no action can
choose. Of two futures of one moment it says what was done well: same-start pairs are to robots what
two replies to one prompt are to language models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefrl.control.environments.adapters import BatchedEnvironments
from prefrl.control.environments.interface import Step
from prefrl.errors import UserError
from prefrl.types import Picture, Segment


class BranchedEnvironments:
    """Simulations in groups that begin each clip in the state of the group's first one.

    Every so many steps all of them are shown an end, as by a time limit, and the others of a group
    go on from where its first one is; that one is never led elsewhere. So whoever learns from what
    happens estimates what is still to come, as at any limit, and no step is spent on branches
    alone. They ask for environments in lockstep: all episodes end together.
    """

    def __init__(self, environments: BatchedEnvironments, together: int):
        """Take over environments, so many of which begin each clip alike; see `branched`."""
        self.environments, self.count = environments, environments.count
        self.description = dataclasses.replace(environments.description, together=together)
        self.firsts = np.arange(self.count) // together * together
        self.elapsed = 0

    def reset(self) -> np.ndarray:
        """Start an episode everywhere, alike within each group."""
        self.environments.reset()
        self.elapsed = 0
        return self.environments.branch(self.firsts)

    def step(self, actions: np.ndarray) -> Step:
        """Advance every environment by one step; after a clip's length begin alike again."""
        step = self.environments.step(actions)
        self.elapsed += 1
        if self.elapsed < self.description.clip_steps and not step.ended.any():
            return step
        self.elapsed = 0
        last = dict(enumerate(step.observations)) | step.last_observations
        return dataclasses.replace(
            step,
            observations=self.environments.branch(self.firsts),
            ended=np.ones(self.count, bool),
            last_observations=last,
        )

    def extras(self) -> dict[str, np.ndarray]:
        """Return what the environments do."""
        return self.environments.extras()

    def pictures(self, segments: Sequence[Segment]) -> dict[str, Picture]:
        """Return what the environments do."""
        return self.environments.pictures(segments)

    def clear_history(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Close the simulations."""
        self.environments.close()

    def model(self) -> Any:
        """Return the task's MuJoCo model."""
        return self.environments.model()

    def get_state(self) -> dict[str, Any]:
        """Return the simulations' state, and how far into a clip they are."""
        return {"environments": self.environments.get_state(), "elapsed": self.elapsed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.environments.set_state(state["environments"])
        self.elapsed = state["elapsed"]


def branched(
    environments: BatchedEnvironments | None, name: str, together: int
) -> BranchedEnvironments:
    """Return environments in groups that begin each clip in the same state.

    Args:
        environments: to be taken over; None where they are not batched.
        name: of the environment.
        together: environments of a group: clips of a query.

    Raises:
        UserError: they cannot be put into each other's states, or are too few.
    """
    if environments is None or not environments.can_branch:
        why = (
            f"--query.same-start asks about clips that begin in the same state, but {name} cannot "
            "be put into the state of another simulation; leave it out, or take one of prefrl's "
            "own robots (`prefrl list`), prefrl/HalfCheetah-v0 for instance"
        )
    elif environments.count < together:
        why = (
            f"--query.same-start lets {together} clips begin alike, in as many environments side "
            f"by side, but --num-envs is {environments.count}; use {together} or more"
        )
    else:
        return BranchedEnvironments(environments, together)
    if environments is not None:
        environments.close()
    raise UserError(why)
