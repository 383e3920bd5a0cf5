"""AntPirouette: Ant turns on the spot."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math

import mujoco
import numpy as np

from . import guides
from .batched import Task, gymnasium_asset
from .crawlers import RESET_NOISE

SPIN_LIMITS = (-1.0, 4.0)  # rad/s; beyond, turning pays or costs no more
AWAY_COST, AWAY_LIMIT_M = 0.5, 2.0  # for each metre from where it began
BACK_SECONDS = 1.0  # an ant that has been on its back for so long starts again


class AntPirouette(Task):
    """A robot of four legs turns on the spot, anticlockwise as seen from above, its back level.

    Observation `[29]`: height of the torso (m), its orientation (a quaternion), eight joint angles
    (rad); velocities of the torso (m/s, rad/s) and of the joints (rad/s); x and y from where it
    began, clipped to ±2 m. Action `[8]`: torques in [-1, 1].

    Reward, per step: how fast the torso turns about the vertical in rad/s, from −1 to 4, times how
    level it is (the cosine, 0 if it lies on its back), less 0.5 for each metre from where it began,
    up to 2 m. An ant that has been on its back for a second starts again.

    `info`: `turns`, net turns in this episode. An episode is always 400 steps (20 s).

    Version History:
        v0: first version.
    """

    question = "Which ant turns faster and better on the spot (to the left, its back level)?"
    guide = guides.ANT_PIROUETTE
    clip_seconds = 2.0
    frame_skip = 5
    remembers = ("down_steps", "started_again")
    counts = ("turns",)

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's ant."""
        return gymnasium_asset("ant.xml").compile()

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise around the standing pose, at x = y = 0."""
        qpos = self.model.qpos0 + generator.uniform(-RESET_NOISE, RESET_NOISE, self.model.nq)
        qpos[:2] = 0.0
        return qpos, RESET_NOISE * generator.standard_normal(self.model.nv)

    def observe(self) -> np.ndarray:
        """Return pose, velocities and the way from the start, `[count, 29]`."""
        away = np.clip(self.qpos[:, :2], -AWAY_LIMIT_M, AWAY_LIMIT_M)
        return np.concatenate([self.qpos[:, 2:], self.qvel, away], axis=1)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the reward, and the turns so far."""
        vertical = vertical_in_body(self.qpos[:, 3:7])
        spin = (vertical * self.qvel[:, 3:6]).sum(axis=1)  # MuJoCo's is in the body's own axes
        level = vertical[:, 2]
        away = np.minimum(np.linalg.norm(self.qpos[:, :2], axis=1), AWAY_LIMIT_M)
        reward = np.maximum(level, 0.0) * np.clip(spin, *SPIN_LIMITS) - AWAY_COST * away
        self.memory["turns"] += spin * self.dt / (2 * math.pi)
        report = {"turns": self.memory["turns"].copy()}
        self.start_again(level < 0, BACK_SECONDS)
        return reward, report


def vertical_in_body(quaternion: np.ndarray) -> np.ndarray:
    """Return the world's z axis in the axes of bodies so oriented (w, x, y, z), `[count, 3]`."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    return np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1)
