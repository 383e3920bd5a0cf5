"""CheetahPressUps: HalfCheetah does press-ups: down and up, on both feet, its back level."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np

from . import guides
from .batched import Task
from .half_cheetah import cheetah_model, initial_cheetah

FEET = ("ffoot", "bfoot")
OTHER_PARTS = ("fshin", "fthigh", "head", "torso", "bthigh", "bshin")
# The torso's heights between which a press-up goes. Feet alone on the floor, the cheetah can hold
# itself between −0.33 and −0.02; left alone it stands at −0.13.
LOW_M, HIGH_M = -0.22, -0.09
LEVEL_RAD = 0.35
PACE = 1.0  # m/s; faster pays no more
SLOPPY = -0.5  # reward of a step without both feet on the floor, with another part, or not level
SPEED_LIMIT = 2.0  # m/s along the floor; faster costs no more
SPEED_COST = 0.2  # for each m/s: press-ups are done on the spot
ON_ITS_BACK = -0.5  # cosine of the pitch
BACK_SECONDS = 1.0  # a cheetah that has been on its back for so long starts again


class CheetahPressUps(Task):
    """A planar cheetah, two legs of three joints each, does press-ups: down and up on both feet.

    Observation `[22]`: height of the torso (m); sine and cosine of its pitch (nose down is
    positive); six joint angles (rad; hind thigh, shin, foot, then front); nine velocities (m/s and
    rad/s: forward, up, pitch, the joints in the same order); whether the front foot, the hind foot
    and any other part touched the floor during the last step; whether the cheetah has been low
    since it was last high. Action `[6]`: torques in [-1, 1].

    Reward, per step: the torso's speed in m/s, at most 1, down until it is below −0.22 m and then
    up until it is above −0.09 m (0 is the model's own height; it stands at −0.13). A step in which
    a foot does not touch, another part does, or the back is tilted by more than 0.35 rad pays −0.5
    instead. Each m/s along the floor costs 0.2. A cheetah that has lain on its back for a second
    starts again.

    `info`: `press_ups`, how often in this episode it has come up from below −0.22 m to above −0.09
    m and was level there with both feet and nothing else on the floor. An episode is always 500
    steps (25 s).

    Version History:
        v0: first version.
    """

    question = "Which cheetah does more and better press-ups: down and up on the spot, back level?"
    guide = guides.CHEETAH_PRESS_UPS
    clip_seconds = 1.5
    frame_skip = 5
    remembers = ("front", "hind", "other", "low", "down_steps", "started_again")
    counts = ("press_ups",)

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's cheetah with a contact sensor on each part, the feet first."""
        return cheetah_model(FEET + OTHER_PARTS)

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a standing pose."""
        return initial_cheetah(self.model, generator)

    def observe(self) -> np.ndarray:
        """Return pose but x, velocities, what touches, the half of the press-up, `[count, 22]`."""
        pitch = self.qpos[:, 2]
        pose = [self.qpos[:, 1], np.sin(pitch), np.cos(pitch), self.qpos[:, 3:]]
        known = [self.memory[name] for name in ("front", "hind", "other", "low")]
        return np.column_stack([*pose, self.qvel, *known])

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the reward, and the press-ups so far."""
        memory, touches = self.memory, self.touches()
        height, pitch = self.qpos[:, 1], self.qpos[:, 2]
        other = touches[:, 2:].any(axis=1)
        neat = touches[:, :2].all(axis=1) & ~other & (np.abs(np.sin(pitch)) < np.sin(LEVEL_RAD))
        neat &= np.cos(pitch) > 0
        way = np.where(memory["low"] > 0, 1.0, -1.0)
        speed = np.minimum(np.abs(self.qpos[:, 0] - before[:, 0]) / self.dt, SPEED_LIMIT)
        pace = np.clip(way * (height - before[:, 1]) / self.dt, -PACE, PACE)
        reward = np.where(neat, pace, SLOPPY) - SPEED_COST * speed
        memory["press_ups"] += neat & (memory["low"] > 0) & (height > HIGH_M)
        memory["low"][:] = (memory["low"] > 0) & (height <= HIGH_M) | (height < LOW_M)
        memory["front"][:], memory["hind"][:], memory["other"][:] = *touches[:, :2].T, other
        report = {"press_ups": memory["press_ups"].copy()}
        self.start_again(np.cos(pitch) < ON_ITS_BACK, BACK_SECONDS)
        return reward, report
