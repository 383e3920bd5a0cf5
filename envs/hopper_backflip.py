"""HopperBackflip: a one-legged robot turns backward in the air and lands on its foot."""

from __future__ import annotations

import mujoco
import numpy as np

from .batched import Task
from .hopper import hopper_model, initial_hopper

GEOMS = ("foot_geom", "leg_geom", "thigh_geom", "torso_geom")  # the foot first
VELOCITY_LIMIT = 10.0
CLEAN_SECONDS = 0.1  # only the foot may touch for this long around a clean flight
FLIP_RAD = np.deg2rad(270)
SPIN_LIMIT = 12.0


class HopperBackflip(Task):
    """A planar one-legged robot does backflips: off its foot, backward through the air, onto it.

    Version History:
        v0: first version.
    """

    question = "Which robot is nearer to doing a backflip in the air and landing it on its foot?"
    clip_seconds = 1.5
    frame_skip = 4

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's hopper with a contact sensor on each part."""
        return hopper_model(GEOMS)

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a standing pose."""
        return initial_hopper(self.model, generator)

    def clear(self, rows: np.ndarray) -> None:
        """Start as if the robot had been standing on its foot."""
        if not self.memory:
            self.clean_steps = round(CLEAN_SECONDS / self.dt)
            self.memory = {
                name: np.zeros(self.count)
                for name in ("since_other", "takeoff_angle", "clean_takeoff", "airborne", "foot",
                             "landed", "clean_flips", "flights", "turned", "last_turned")
            }
        for array in self.memory.values():
            array[rows] = 0
        self.memory["since_other"][rows] = self.clean_steps
        self.memory["foot"][rows] = 1
        self.memory["takeoff_angle"][rows] = self.qpos[rows, 2]

    def observe(self) -> np.ndarray:
        """Return height, orientation, joints, velocities and what touches, `[count, 15]`."""
        m = self.memory
        angle = self.qpos[:, 2:3]
        return np.concatenate(
            [
                self.qpos[:, 1:2], np.sin(angle), np.cos(angle), self.qpos[:, 3:],
                np.clip(self.qvel, -VELOCITY_LIMIT * 1.5, VELOCITY_LIMIT * 1.5),
                m["foot"][:, None], (m["since_other"] / self.clean_steps)[:, None],
                m["turned"][:, None] / np.pi, m["clean_takeoff"][:, None],
            ],
            axis=1,
        )

    def evaluate(self, action, before):
        """Return the hidden reward and the flips counted so far."""
        m = self.memory
        touch = self.touches()
        foot, other = touch[:, 0], touch[:, 1:].any(axis=1)
        flying = ~foot & ~other
        angle_before, angle = before[:, 2], self.qpos[:, 2]
        was_flying = m["airborne"] > 0
        # take-off: the last contact was at the end of the previous step
        takeoff = flying & ~was_flying
        m["takeoff_angle"][takeoff] = angle_before[takeoff]
        m["clean_takeoff"][takeoff] = ((m["foot"] > 0) & (m["since_other"] >= self.clean_steps))[takeoff]
        turned = m["takeoff_angle"] - angle  # backward is positive
        m["turned"] = np.where(flying | was_flying, turned, 0.0)
        m["since_other"] = np.where(other, 0, np.minimum(m["since_other"] + 1, self.clean_steps))
        landing = was_flying & ~flying
        good = landing & foot & ~other & (m["clean_takeoff"] > 0) & (turned >= FLIP_RAD)
        counting = m["landed"] > 0
        m["landed"] = np.where(other, 0, np.where(counting, m["landed"] + 1, 0))
        done = m["landed"] > self.clean_steps
        m["clean_flips"] += done
        m["landed"][done] = 0
        m["landed"][good] = 1
        m["last_turned"] = np.where(landing, turned, m["last_turned"])
        m["airborne"] = flying.astype(float)
        m["foot"] = foot.astype(float)
        m["clean_takeoff"] = np.where(flying, m["clean_takeoff"], 0.0)
        reward = self.reward(flying, landing, foot, other, turned, good)
        return reward, {"clean_flips": m["clean_flips"].copy(), "turns": -angle / (2 * np.pi)}

    def reward(self, flying, landing, foot, other, turned, good):
        """Return the hidden reward."""
        import os
        v = os.environ.get("BF", "a")
        m = self.memory
        spin = np.clip(-self.qvel[:, 2], -SPIN_LIMIT, SPIN_LIMIT) / 8
        height = 0.3 + np.clip(self.qpos[:, 1] - 0.6, 0, 1)
        clean = m["clean_takeoff"] > 0
        if v == "a":  # baseline of the notes
            return np.where(flying, spin * height, 0) - 0.3 * other
        if v == "b":  # credit by cleanness of take-off
            return np.where(flying, spin * height * np.where(clean, 1, 0.25), 0) - 0.3 * other
        if v == "c":  # the same, and landing on the foot pays by what was turned
            frac = np.clip(turned / FLIP_RAD, 0, 1.2)
            land = np.where(landing & foot & ~other & clean, 8 * frac**2, 0)
            return np.where(flying, spin * height * np.where(clean, 1, 0.25), 0) - 0.3 * other + land
        if v == "d":  # onset penalty
            return np.where(flying, spin * height * np.where(clean, 1, 0.25), 0) - 0.3 * other - 4 * (other & (m["prev_other"] == 0))
        raise ValueError(v)
