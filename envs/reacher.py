"""Reacher of fixed horizon: bring the tip of an arm to a target."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np

from . import guides
from .batched import Task, gymnasium_asset

ARM_NOISE = 0.1
SPEED_NOISE = 5e-3
TARGET_RADIUS_M = 0.2


class Reacher(Task):
    """An arm of two joints brings its tip to a target, which stands elsewhere in each episode.

    Observation `[10]`: cosines and sines of the two joints, the target's x and y, the joints'
    velocities, x and y from the target to the tip, as in Gymnasium's Reacher-v5. Action `[2]`:
    torques in [-1, 1]. Reward: minus the distance between tip and target in m; what differs from
    Reacher-v5 is that there is no control cost, which no viewer sees. `info` carries Reacher-v5's
    own terms. An episode is always 50 steps (1 s).

    Version History:
        v0: Reacher-v5 without the control cost.
    """

    question = "Which arm brings its tip nearer to the target, and sooner?"
    guide = guides.REACHER
    clip_seconds = 0.4
    frame_skip = 2

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's reacher."""
        return gymnasium_asset("reacher.xml").compile()

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw the arm and then the target, in the order Reacher-v5 does."""
        qpos = generator.uniform(-ARM_NOISE, ARM_NOISE, self.model.nq) + self.model.qpos0
        qpos[2:] = draw_target(generator)
        qvel = generator.uniform(-SPEED_NOISE, SPEED_NOISE, self.model.nv)
        qvel[2:] = 0.0
        return qpos, qvel

    def clear(self, rows: np.ndarray) -> None:
        """Note how far the tip is from the target."""
        if not self.memory:
            self.position = self.batch.bind("xpos")
            self.tip, self.target = (self.model.body(n).id for n in ("fingertip", "target"))
            self.memory = {"offset": np.zeros((self.count, 3))}  # m
        self.memory["offset"][rows] = self._offset()[rows]

    def observe(self) -> np.ndarray:
        """Return the arm's pose, the target, velocities and offset, `[count, 10]`."""
        angle, offset = self.qpos[:, :2], self.memory["offset"]
        parts = [np.cos(angle), np.sin(angle), self.qpos[:, 2:], self.qvel[:, :2], offset[:, :2]]
        return np.concatenate(parts, axis=1)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return minus the distance, and Reacher-v5's reward terms.

        Positions are MuJoCo's derived ones, which lag behind the state, as in Reacher-v5.
        """
        self.memory["offset"][:] = self._offset()
        near = -np.linalg.norm(self.memory["offset"], axis=1)
        return near, {"reward_dist": near, "reward_ctrl": -np.square(action).sum(axis=1)}

    def _offset(self) -> np.ndarray:
        return self.position[:, self.tip] - self.position[:, self.target]


def draw_target(generator: np.random.Generator) -> np.ndarray:
    """Draw x and y within the arm's reach, `[2]`, m."""
    while True:
        target = generator.uniform(-TARGET_RADIUS_M, TARGET_RADIUS_M, 2)
        if np.linalg.norm(target) < TARGET_RADIUS_M:
            return target
