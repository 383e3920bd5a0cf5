"""What redraws a moment of a MuJoCo environment: its pose, and what it changed of its model."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium
import mujoco
import numpy as np

from prefrl.clips.looks import FIELDS, differences
from prefrl.control.environments.make import mujoco_model
from prefrl.types import MODEL, text_array

UNCHANGING = "gymnasium.envs.mujoco."
"""Environments from here leave their model as it is."""


class Looks:
    """What environments that keep MuJoCo's own model and data look like.

    Attributes:
        model: what clips are drawn with, as the first environment was built; None where it has no
            MuJoCo model.
    """

    def __init__(self, environment: gymnasium.Env, count: int):
        """Take the model of an environment that nobody has reset yet; there will be `count`."""
        live = mujoco_model(environment)
        self.model: Any = None if live is None else copy.copy(live)
        self.changes = live is not None and not _is_unchanging(environment)
        self.differences = [""] * count
        if self.changes:
            _look_from(self.model, environment)

    def begin(self, row: int, environment: gymnasium.Env) -> None:
        """Keep what an environment that has just been reset has changed of its model.

        What it changes later is not seen: a comparison at every step would slow it down.
        """
        if self.changes:
            with _about_to_draw(environment):
                self.differences[row] = differences(mujoco_model(environment), self.model)

    def extras(self, environments: Sequence[gymnasium.Env]) -> dict[str, np.ndarray]:
        """Return what redraws the present moment, `[env, …]` each."""
        if self.model is None:
            return {}
        inner: list[Any] = [environment.unwrapped for environment in environments]
        extras = {"qpos": np.stack([each.data.qpos for each in inner]).astype(np.float32)}
        if self.model.nmocap:
            poses = [np.hstack([each.data.mocap_pos, each.data.mocap_quat]) for each in inner]
            extras["mocap"] = np.stack(poses).astype(np.float32)
        if self.changes:
            extras[MODEL] = text_array(self.differences)
        return extras


def _is_unchanging(environment: gymnasium.Env) -> bool:
    """Return whether an environment is known to leave its model as it is."""
    return type(environment.unwrapped).__module__.startswith(UNCHANGING)


def _look_from(model: Any, environment: gymnasium.Env) -> None:
    """Let a model's free camera stand where the environment's own renderer has it."""
    renderer = getattr(environment.unwrapped, "mujoco_renderer", None)
    wanted = getattr(renderer, "default_cam_config", None)
    wanted = wanted if isinstance(wanted, dict) else {}
    for name, place, attribute in (
        ("azimuth", model.vis.global_, "azimuth"), ("elevation", model.vis.global_, "elevation"),
        ("distance", model.stat, "extent"), ("lookat", model.stat, "center"),
    ):  # fmt: skip
        value = np.asarray(wanted.get(name, np.nan), np.float64)
        if value.shape == np.shape(getattr(place, attribute)) and np.isfinite(value).all():
            setattr(place, attribute, value if value.shape else float(value))


@contextmanager
def _about_to_draw(environment: gymnasium.Env) -> Iterator[None]:
    """Bring an environment to how it is when it draws itself, and back again to the bit.

    Gymnasium-Robotics moves the sites that show a goal in `_render_callback`, just before it
    draws, so a simulation that is not drawn never has them in their places.
    """
    inner: Any = environment.unwrapped
    prepare = getattr(inner, "_render_callback", None)
    if not callable(prepare):
        yield
        return
    model, data = inner.model, inner.data
    kept = {field: getattr(model, field).copy() for field in FIELDS}
    before = mujoco.MjData(model)
    mujoco.mj_copyData(before, model, data)
    try:
        with suppress(Exception):  # of somebody's own code; what it was to show is not seen then
            prepare()
        yield
    finally:
        for field, value in kept.items():
            getattr(model, field)[:] = value
        mujoco.mj_copyData(data, model, before)
