"""Makes one environment of numbers, checks it, and says what can be told of it."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
from gymnasium.envs.registration import EnvSpec

from prefrl.control.environments.fixed_horizon import FixedHorizon
from prefrl.control.environments.interface import positive
from prefrl.control.environments.seen import flattened
from prefrl.control.environments.spaces import check_spaces
from prefrl.environments import contract, ids
from prefrl.errors import UserError


def build(spec: EnvSpec, render_mode: str | None = None) -> gymnasium.Env:
    """Build one environment without a time limit.

    Raises:
        UserError: a package is missing, its own code fails, or its spaces are not supported.
    """
    # An environment of one's own need not know of render_mode unless it is to draw itself.
    options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    environment = flattened(ids.make(spec, max_episode_steps=-1, **options))
    try:
        check_spaces(environment)
    except UserError:
        contract.close(environment)
        raise
    return environment


def fixed(spec: EnvSpec, horizon: int | None = None) -> FixedHorizon:
    """Build one environment whose episodes have as many steps as given, or as its id says.

    Raises:
        UserError: neither says how many; or see `build`.
    """
    environment = build(spec)
    limit = horizon or spec.max_episode_steps
    if not limit:
        contract.close(environment)
        raise UserError(
            f"{spec.id} sets no time limit, and preference learning needs episodes of fixed "
            "length; give one in steps with --horizon, for example --horizon 500"
        )
    return FixedHorizon(environment, limit)


def build_drawing(spec: EnvSpec) -> gymnasium.Env:
    """Build one environment that draws itself.

    Raises:
        UserError: it cannot be made so; often its constructor takes no `render_mode`.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame must not look for a screen
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        return build(spec, "rgb_array")
    except UserError as error:
        if "unexpected keyword argument 'render_mode'" not in str(error):
            raise
        raise UserError(
            f"{spec.id} says that it draws itself (its render_modes have rgb_array), but its "
            "constructor takes no render_mode; let it take and keep one: "
            "__init__(self, render_mode=None)"
        ) from error


def metadata_of(environment: gymnasium.Env) -> dict[str, Any]:
    """Return an environment's metadata, {} if it has none."""
    metadata = getattr(environment, "metadata", None)
    return dict(metadata) if isinstance(metadata, Mapping) else {}


def can_draw(environment: gymnasium.Env) -> bool:
    """Return whether an environment says that it knows the render mode "rgb_array"."""
    modes = metadata_of(environment).get("render_modes")
    return isinstance(modes, list | tuple | set | frozenset) and "rgb_array" in modes


def mujoco_model(environment: gymnasium.Env) -> mujoco.MjModel | None:
    """Return the MuJoCo model of an environment that keeps MuJoCo's own model and data, else None.

    Others may call a policy network `model`, and `data` what they like.
    """
    inner: Any = environment.unwrapped
    model, data = getattr(inner, "model", None), getattr(inner, "data", None)
    is_mujoco = isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData)
    return model if is_mujoco else None


def step_seconds(environment: gymnasium.Env) -> float | None:
    """Return the seconds of a step that an environment has as its `dt`, None if it has none."""
    return positive(getattr(environment.unwrapped, "dt", None))
