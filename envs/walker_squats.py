"""WalkerSquats: Walker2d does squats: down and up, on both feet."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np

from .batched import Task
from .hopper import VELOCITY_LIMIT, initial_hopper, walker_model

FEET = ("foot_geom", "foot_left_geom")
OTHER_PARTS = ("leg_geom", "leg_left_geom", "thigh_geom", "thigh_left_geom", "torso_geom")
LOW_M, HIGH_M = 0.95, 1.15  # the torso's heights between which a squat goes; it stands at 1.25
UPRIGHT_RAD = 0.5
PACE = 1.0  # m/s; faster pays no more
SLOPPY = -1.0  # reward of a step without both feet on the floor, leaning far, or fallen: to go down
# and fall must not pay, since one that has fallen starts again on its feet
FALLEN_RAD = 1.0
DOWN_SECONDS = 0.5  # a robot that has been down for so long starts again


class WalkerSquats(Task):
    """A planar robot of two legs does squats: down and up, on both feet, its back upright.

    Observation `[22]`: height of the torso (m); sine and cosine of its angle; six joint angles
    (rad; hip, knee, ankle, then those of the other leg); nine velocities (x, z, torso, the joints)
    clipped to ±10; whether each foot touched the floor during the last step; whether another part
    did; whether the robot has been low since it last stood high. Action `[6]`: torques in [-1, 1].

    Reward, per step: the torso's speed in m/s, at most 1, down until it is below 0.95 m and then
    up until it is above 1.15 m. A step in which a foot does not touch, another part does, or the
    back leans by more than 0.5 rad pays −1 instead. Down means that another part than the feet
    touches or the torso leans by more than 1 rad; a robot that has been down for half a second
    starts again.

    `info`: `squats`, how often in this episode it has come up from below 0.95 m to above 1.15 m and
    was upright there with both feet on the floor. An episode is always 500 steps (4 s).

    Version History:
        v0: first version.
    """

    question = "Which robot does more and better squats: down and up, on both feet, back upright?"
    clip_seconds = 1.5
    frame_skip = 4
    remembers = ("right", "left", "other", "low", "down_steps", "started_again")
    counts = ("squats",)

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's walker with a contact sensor on each part, the feet first."""
        return walker_model(FEET + OTHER_PARTS, quick=True)

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a standing pose."""
        return initial_hopper(self.model, generator)

    def observe(self) -> np.ndarray:
        """Return pose but x, velocities, what touches and the half of the squat, `[count, 22]`."""
        angle, velocity = self.qpos[:, 2], np.clip(self.qvel, -VELOCITY_LIMIT, VELOCITY_LIMIT)
        pose = [self.qpos[:, 1], np.sin(angle), np.cos(angle), self.qpos[:, 3:]]
        known = [self.memory[name] for name in ("right", "left", "other", "low")]
        return np.column_stack([*pose, velocity, *known])

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the reward, and the squats so far."""
        memory, touches = self.memory, self.touches()
        height, lean = self.qpos[:, 1], np.abs(self.qpos[:, 2])
        other = touches[:, 2:].any(axis=1)
        neat = touches[:, 0] & touches[:, 1] & ~other & (lean < UPRIGHT_RAD)
        rising = np.where(memory["low"] > 0, 1.0, -1.0) * (height - before[:, 1]) / self.dt
        reward = np.where(neat, np.clip(rising, -PACE, PACE), SLOPPY)
        memory["squats"] += neat & (memory["low"] > 0) & (height > HIGH_M)
        memory["low"][:] = (memory["low"] > 0) & (height <= HIGH_M) | (height < LOW_M)
        memory["right"][:], memory["left"][:], memory["other"][:] = *touches[:, :2].T, other
        report = {"squats": memory["squats"].copy()}
        self.start_again(other | (lean > FALLEN_RAD), DOWN_SECONDS)
        return reward, report
