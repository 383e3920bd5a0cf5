"""Makes one environment of numbers, and checks it."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.spaces import Box, Discrete

from prefrl.environments.ids import installed
from prefrl.errors import UserError


def build(name: str, render_mode: str | None = None) -> gymnasium.Env:
    """Build one environment without a time limit.

    Raises:
        UserError: a package is missing, or its spaces are not supported.
    """
    # An environment of one's own need not know of render_mode unless it is to draw itself.
    options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    with installed(name):
        environment = gymnasium.make(name, max_episode_steps=-1, **options)
    space, actions = environment.observation_space, environment.action_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise UserError(
            f"{name} observes {space}; prefrl supports flat Box observations (one dimension of "
            "numbers) so far, neither pixels nor dictionaries. Wrap it, for example with "
            "gymnasium.wrappers.FlattenObservation, and register the result under an id of yours"
        )
    if not (isinstance(actions, Box) and len(actions.shape) == 1) and not (
        isinstance(actions, Discrete) and actions.start == 0
    ):
        raise UserError(f"{name} acts in {actions}; prefrl supports flat Box and Discrete so far")
    return environment
