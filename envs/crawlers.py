"""Ant and Swimmer of fixed horizon: go forward, free to turn aside."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np

from . import guides
from .batched import Task, gymnasium_asset

RESET_NOISE = 0.1
SWIMMER_CONTROL_COST = 1e-4
ANT_CONTROL_COST = 0.5
ANT_CONTACT_COST = 5e-4
CONTACT_FORCE_LIMIT = 1.0
HEALTHY_HEIGHTS_M = (0.2, 1.0)
TORSO = 1  # the first body but the world


class Swimmer(Task):
    """A planar chain of three links swims forward (towards +x) in a thick fluid.

    Observation `[8]`: joint positions but x and y, joint velocities, as in Gymnasium's Swimmer-v5.
    Action `[2]`: torques in [-1, 1]. Reward: forward speed in m/s; what differs from Swimmer-v5 is
    that there is no control cost, which no viewer sees. `info` carries Swimmer-v5's own terms. An
    episode is always 1,000 steps (40 s).

    Version History:
        v0: Swimmer-v5 without the control cost.
    """

    question = "Which swimmer gets forward (to the right) faster?"
    guide = guides.SWIMMER
    clip_seconds = 3.0
    frame_skip = 4

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's swimmer."""
        return gymnasium_asset("swimmer.xml").compile()

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise around the stretched pose, in the order Swimmer-v5 does."""
        qpos = self.model.qpos0 + generator.uniform(-RESET_NOISE, RESET_NOISE, self.model.nq)
        return qpos, generator.uniform(-RESET_NOISE, RESET_NOISE, self.model.nv)

    def observe(self) -> np.ndarray:
        """Return positions but x and y, then velocities, `[count, 8]`."""
        return np.concatenate([self.qpos[:, 2:], self.qvel], axis=1)

    def reset_info(self) -> dict[str, np.ndarray]:
        """Return where it is, as Swimmer-v5 does."""
        return report_position(self.qpos)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the forward speed, and Swimmer-v5's reward terms."""
        velocity = (self.qpos[:, :2] - before[:, :2]) / self.dt
        return velocity[:, 0], report_position(self.qpos) | {
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": velocity[:, 0],
            "reward_ctrl": -(SWIMMER_CONTROL_COST * np.square(action).sum(axis=1)),
        }


class Ant(Task):
    """A robot of four legs walks forward (towards +x) and does not fall on its back.

    Observation `[105]`: joint positions but x and y; joint velocities; the contact force and torque
    on each of 13 bodies, clipped to ±1 (24 of them, of links inside the torso, are always 0); as in
    Gymnasium's Ant-v5. Action `[8]`: torques in [-1, 1].
    Reward: forward speed of the torso in m/s, plus 1 while it is healthy (torso between 0.2 and
    1 m). What differs from Ant-v5: there is no cost of control and contact, which no viewer sees,
    and being unhealthy costs the healthy reward instead of ending the episode. `info` carries
    Ant-v5's own terms. An episode is always 1,000 steps (50 s).

    Version History:
        v0: Ant-v5 of fixed horizon without the costs of control and contact.
    """

    question = "Which ant walks forward (to the right) better?"
    guide = guides.ANT
    clip_seconds = 1.5
    frame_skip = 5
    persistent = True  # contact forces are computed from all that a step leaves behind

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's ant."""
        return gymnasium_asset("ant.xml").compile()

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise around the standing pose, in the order Ant-v5 does."""
        qpos = self.model.qpos0 + generator.uniform(-RESET_NOISE, RESET_NOISE, self.model.nq)
        return qpos, RESET_NOISE * generator.standard_normal(self.model.nv)

    def clear(self, rows: np.ndarray) -> None:
        """Note where the torso is; as in Ant-v5, a reset feels no contact."""
        if not self.memory:
            self.position, self.contacts = self.batch.bind("xpos"), self.batch.bind("ncon")
            self.data = mujoco.MjData(self.model)
            self.memory = {
                "torso": np.zeros((self.count, 2)),  # x and y, m
                "force": np.zeros((self.count, self.model.nbody, 6)),  # torque first, N m and N
            }
        self.memory["torso"][rows] = self.position[rows, TORSO, :2]
        self.memory["force"][rows] = 0.0

    def observe(self) -> np.ndarray:
        """Return positions but x and y, velocities, contact forces, `[count, 105]`."""
        force = self.memory["force"][:, TORSO:].reshape(self.count, -1)
        return np.concatenate([self.qpos[:, 2:], self.qvel, force], axis=1)

    def reset_info(self) -> dict[str, np.ndarray]:
        """Return where it is, as Ant-v5 does."""
        return report_position(self.qpos)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return forward speed plus survival, and Ant-v5's reward terms.

        The torso's position is MuJoCo's derived one, which lags behind the state, as in Ant-v5.
        """
        torso = self.position[:, TORSO, :2].copy()
        velocity = (torso - self.memory["torso"]) / self.dt
        self.memory["torso"][:] = torso
        self._feel_contacts()
        low, high = HEALTHY_HEIGHTS_M
        survive = ((low <= self.qpos[:, 2]) & (self.qpos[:, 2] <= high)).astype(np.float64)
        force = np.square(self.memory["force"]).sum(axis=(1, 2))
        return velocity[:, 0] + survive, report_position(self.qpos) | {
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": velocity[:, 0],
            "reward_ctrl": -(ANT_CONTROL_COST * np.square(action).sum(axis=1)),
            "reward_contact": -(ANT_CONTACT_COST * force),
            "reward_survive": survive,
        }

    def _feel_contacts(self) -> None:
        """Remember the clipped contact forces, which MuJoCo computes one simulation at a time."""
        force = self.memory["force"]
        force[:] = 0.0
        for row in np.flatnonzero(self.contacts).tolist():
            self.batch.get_data(row, self.data)
            mujoco.mj_rnePostConstraint(self.model, self.data)
            np.clip(self.data.cfrc_ext, -CONTACT_FORCE_LIMIT, CONTACT_FORCE_LIMIT, out=force[row])


def report_position(qpos: np.ndarray) -> dict[str, np.ndarray]:
    """Return x, y and the distance from the origin, `[count]` each, m."""
    return {
        "x_position": qpos[:, 0].copy(),
        "y_position": qpos[:, 1].copy(),
        "distance_from_origin": np.linalg.norm(qpos[:, :2], axis=1),
    }
