"""OneLeggedCheetah: HalfCheetah runs forward on one leg."""

from __future__ import annotations

import os

import mujoco
import numpy as np

from .batched import Task
from .half_cheetah import RESET_NOISE, cheetah_model

LEG = os.environ.get("OL_LEG", "b")
V = os.environ.get("OL_V", "a")
OTHER_LEG = "f" if LEG == "b" else "b"
HIND_LEG = (LEG + "foot", LEG + "shin")
OTHER_PARTS = (LEG + "thigh", "torso", "head", OTHER_LEG + "thigh", OTHER_LEG + "shin", OTHER_LEG + "foot")
SPEED_LIMIT = float(os.environ.get("OL_LIM", "5"))


class OneLeggedCheetah(Task):
    """draft."""

    question = "Which cheetah runs forward (to the right) better on one leg, the hind one?"
    clip_seconds = 1.5
    frame_skip = 5

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's cheetah with a contact sensor on each part."""
        return cheetah_model(HIND_LEG + OTHER_PARTS)

    def initial_state(self, generator):
        """Draw noise around the standing pose."""
        qpos = self.model.qpos0 + generator.uniform(-RESET_NOISE, RESET_NOISE, self.model.nq)
        return qpos, RESET_NOISE * generator.standard_normal(self.model.nv)

    def clear(self, rows):
        """Forget."""
        if not self.memory:
            self.memory = {n: np.zeros(self.count) for n in ("leg", "other", "steps", "distance", "leg_steps", "other_steps", "turned")}
        for a in self.memory.values():
            a[rows] = 0

    def observe(self):
        """Observe."""
        angle = self.qpos[:, 2:3]
        m = self.memory
        return np.concatenate(
            [self.qpos[:, 1:2], np.sin(angle), np.cos(angle), self.qpos[:, 3:], self.qvel,
             m["leg"][:, None], m["other"][:, None]], axis=1)

    def evaluate(self, action, before):
        """Evaluate."""
        m = self.memory
        touch = self.touches()
        leg, other = touch[:, :2].any(axis=1), touch[:, 2:].any(axis=1)
        speed = (self.qpos[:, 0] - before[:, 0]) / self.dt
        m["leg"], m["other"] = leg.astype(float), other.astype(float)
        m["steps"] += 1
        m["distance"] += speed
        m["leg_steps"] += leg & ~other
        m["other_steps"] += other
        n = m["steps"]
        v = np.clip(speed, -1, SPEED_LIMIT)
        if V == "a":
            reward = np.where(other, -1.0, v)
        elif V == "b":  # slow with other contact still pays a little for speed
            reward = np.where(other, 0.25 * v - 1.5, v)
        elif V == "c":  # bonus for clean, harsher
            reward = np.where(other, -2.0, v + 1)
        elif V == "d":
            reward = np.where(other, 0.2 * v - 2.0, v + 1)
        info = {
            "forward_speed": m["distance"] / n,
            "one_leg_share": m["leg_steps"] / n,
            "other_share": m["other_steps"] / n,
            "flight_share": (n - m["leg_steps"] - m["other_steps"]) / n,
            "turns": self.qpos[:, 2] / (2 * np.pi),
        }
        return reward, info
