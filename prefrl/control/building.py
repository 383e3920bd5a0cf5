"""From a Gymnasium id to an environment that prefrl can run, or to a sentence why it cannot."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.spaces import Box, Discrete

from prefrl.errors import UserError


def resolve(name: str) -> str:
    """Import what the id needs and return it as Gymnasium knows it.

    Raises:
        UserError: the id or its package is unknown; the message lists near names.
    """
    package, _, bare = name.rpartition(":")
    if bare.startswith("prefrl/"):
        package = "prefrl.envs"
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does, and `load_teacher`
    try:
        if package:
            importlib.import_module(package)
        return gymnasium.spec(bare).id
    except ModuleNotFoundError as error:
        raise UserError(f"cannot import {error.name!r}, which environment {name!r} names") from None
    except gymnasium.error.Error:
        known = [*gymnasium.registry]
        near = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`prefrl list` shows those at hand."
        raise UserError(
            f"there is no environment {name!r}; {hint} An environment of your own is named "
            "with the package that registers it: your_package:Your-v0"
        ) from None
    finally:
        sys.path.pop(0)


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


@contextmanager
def installed(name: str) -> Iterator[None]:
    """Turn what is said of a missing package into a sentence."""
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(f"{name} needs a package that is not installed: {error}") from None
