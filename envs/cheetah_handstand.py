"""CheetahHandstand: HalfCheetah stands on its front foot, head down."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np

from . import guides
from .batched import Task
from .half_cheetah import cheetah_model, initial_cheetah

GEOMS = ("ffoot", "fshin", "fthigh", "head", "torso", "bthigh", "bshin", "bfoot")
OTHER_SHARE = 0.25  # of the pay, unless the front foot and nothing else touches
SPEED_LIMIT = 2.0  # m/s; faster costs no more
SPEED_COST = 0.2  # for each m/s: a handstand stays where it is
HANDSTAND = 0.8  # sine of the pitch from which it counts as one
ON_ITS_BACK = -0.5  # cosine of the pitch
BACK_SECONDS = 1.0  # a cheetah that has been on its back for so long starts again


class CheetahHandstand(Task):
    """A planar cheetah, two legs of three joints each, stands on its front foot, tail up.

    Observation `[20]`: height of the torso (m); sine and cosine of its pitch (nose down is
    positive); six joint angles (rad; hind thigh, shin, foot, then front); nine velocities (m/s and
    rad/s: forward, up, pitch, the joints in the same order); whether the front foot touched the
    floor during the last step; whether any other part did. Action `[6]`: torques in [-1, 1].

    Reward, per step: the sine of the pitch, from 0 where the back is level to 1 where the torso
    stands on its nose; a quarter of it unless the front foot and nothing else touches; less 0.2 for
    each m/s along the floor. A cheetah that has lain on its back for a second starts again.

    `info`: `handstand_share`, the share of the episode's steps in which the pitch's sine was 0.8 or
    more and the front foot and nothing else touched. An episode is always 500 steps (25 s).

    Version History:
        v0: first version.
    """

    question = "Which cheetah is nearer to standing still on its front foot, tail up?"
    guide = guides.CHEETAH_HANDSTAND
    clip_seconds = 1.5
    frame_skip = 5
    remembers = ("foot", "other", "down_steps", "started_again")
    counts = ("steps", "handstand_steps")

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's cheetah with a contact sensor on each part, the front foot first."""
        return cheetah_model(GEOMS)

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a standing pose."""
        return initial_cheetah(self.model, generator)

    def observe(self) -> np.ndarray:
        """Return pose but x, velocities and what touches, `[count, 20]`."""
        pitch = self.qpos[:, 2]
        pose = [self.qpos[:, 1], np.sin(pitch), np.cos(pitch), self.qpos[:, 3:]]
        return np.column_stack([*pose, self.qvel, self.memory["foot"], self.memory["other"]])

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the reward, and the share of the episode so far spent in a handstand."""
        memory, touches, pitch = self.memory, self.touches(), self.qpos[:, 2]
        other = touches[:, 1:].any(axis=1)
        memory["foot"][:], memory["other"][:] = touches[:, 0], other
        standing = touches[:, 0] & ~other
        upright = np.sin(pitch)
        speed = np.minimum(np.abs(self.qpos[:, 0] - before[:, 0]) / self.dt, SPEED_LIMIT)
        reward = upright * np.where(standing, 1.0, OTHER_SHARE) - SPEED_COST * speed
        memory["steps"] += 1
        memory["handstand_steps"] += (upright >= HANDSTAND) & standing
        report = {"handstand_share": memory["handstand_steps"] / memory["steps"]}
        self.start_again(np.cos(pitch) < ON_ITS_BACK, BACK_SECONDS)
        return reward, report
