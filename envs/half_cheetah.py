"""HalfCheetah of fixed horizon: run forward."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from . import guides
from .batched import Task, add_contact_sensors, gymnasium_asset

CONTROL_COST = 0.1
RESET_NOISE = 0.1
TOTAL_MASS_KG = 14.0


def cheetah_model(sensed: tuple[str, ...] = ()) -> mujoco.MjModel:
    """Return Gymnasium's model, with contact sensors between the floor and the named geoms.

    Every field equals that of `half_cheetah.xml`; only its deprecated `settotalmass` is done by
    hand, since MuJoCo warns about it and would write a log file.
    """
    spec = gymnasium_asset("half_cheetah.xml")
    spec.compiler.settotalmass = -1
    add_contact_sensors(spec, "floor", sensed)
    model = spec.compile()
    mujoco.mj_setTotalmass(model, TOTAL_MASS_KG)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def initial_cheetah(
    model: mujoco.MjModel, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw noise around the standing pose, in the order HalfCheetah-v5 does."""
    qpos = model.qpos0 + generator.uniform(-RESET_NOISE, RESET_NOISE, model.nq)
    return qpos, RESET_NOISE * generator.standard_normal(model.nv)


class HalfCheetah(Task):
    """A planar cheetah, two legs of three joints each, runs forward (towards +x).

    Observation `[17]`: joint positions but x, joint velocities, as in Gymnasium's HalfCheetah-v5.
    Action `[6]`: torques in [-1, 1]. Reward: forward speed in m/s and nothing else, since that is
    what a viewer sees. `info` carries HalfCheetah-v5's own terms, `reward_forward` and
    `reward_ctrl`, whose sum is its reward. An episode is always 1,000 steps (50 s).

    Version History:
        v0: HalfCheetah-v5 without the control cost.
    """

    question = "Which cheetah runs forward (to the right) faster?"
    guide = guides.HALF_CHEETAH
    clip_seconds = 1.5
    frame_skip = 5

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's cheetah."""
        return cheetah_model()

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a standing pose."""
        return initial_cheetah(self.model, generator)

    def observe(self) -> np.ndarray:
        """Return positions but x, then velocities, `[count, 17]`."""
        return np.concatenate([self.qpos[:, 1:], self.qvel], axis=1)

    def reset_info(self) -> dict[str, np.ndarray]:
        """Return x, as HalfCheetah-v5 does."""
        return {"x_position": self.qpos[:, 0].copy()}

    def evaluate(self, action: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the forward speed and HalfCheetah-v5's reward terms."""
        velocity = (self.qpos[:, 0] - before[:, 0]) / self.dt
        return velocity, {
            "x_position": self.qpos[:, 0].copy(),
            "x_velocity": velocity,
            "reward_forward": velocity,
            "reward_ctrl": -(CONTROL_COST * np.square(action).sum(axis=1)),
        }
