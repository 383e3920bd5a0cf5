"""Hopper and Walker2d of fixed horizon: go forward without falling."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np

from . import guides
from .batched import Task, add_contact_sensors, gymnasium_asset

CONTROL_COST = 1e-3
RESET_NOISE = 5e-3
VELOCITY_LIMIT = 10.0
HEALTHY_HEIGHT_M = 0.7
HEALTHY_ANGLE_RAD = 0.2
HEALTHY_STATE = 100.0
HEALTHY_WALKER_HEIGHTS_M = (0.8, 2.0)
HEALTHY_WALKER_ANGLE_RAD = 1.0
UNHEALTHY = -1.0  # reward of a step; see `Hopper`
DOWN_SECONDS = 0.5  # a robot that has been unhealthy for so long starts again


def hopper_model(sensed: tuple[str, ...] = (), quick: bool = False) -> mujoco.MjModel:
    """Return Gymnasium's model, with contact sensors between the floor and the named geoms.

    Quick, it is integrated by MuJoCo's `implicitfast`, which evaluates the forces once a substep
    instead of four times, as Gymnasium's Runge-Kutta does.
    """
    spec = gymnasium_asset("hopper.xml")
    if quick:
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    add_contact_sensors(spec, "floor", sensed)
    return spec.compile()


def initial_hopper(
    model: mujoco.MjModel, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw noise around the standing pose, in the order Hopper-v5 and Walker2d-v5 do."""
    qpos = model.qpos0 + generator.uniform(-RESET_NOISE, RESET_NOISE, model.nq)
    return qpos, generator.uniform(-RESET_NOISE, RESET_NOISE, model.nv)


class Hopper(Task):
    """A planar one-legged robot hops forward (towards +x) and stays upright.

    Observation `[11]`: joint positions but x, joint velocities clipped to ±10, as in Gymnasium's
    Hopper-v5. Action `[3]`: torques in [-1, 1]. Reward: forward speed in m/s and 1 while the robot
    is healthy (torso above 0.7 m and within 0.2 rad of upright), −1 while it is not. It is
    Hopper-v5 less the control cost, which no viewer sees, and less the end of an episode, which
    would tell the policy what the reward should: a robot that has been unhealthy for half a second
    starts again within its episode. Where a fall was paid its speed, robots dived, again and again;
    where it was paid nothing, they still fell. `info` carries Hopper-v5's own terms. An episode is
    always 1,000 steps (8 s).

    Version History:
        v0: Hopper-v5 of fixed horizon without the control cost.
    """

    question = "Which robot hops forward (to the right) better without falling?"
    guide = guides.HOPPER
    clip_seconds = 1.5
    frame_skip = 4
    remembers = ("down_steps", "started_again")

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's hopper."""
        return hopper_model()

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a standing pose."""
        return initial_hopper(self.model, generator)

    def observe(self) -> np.ndarray:
        """Return positions but x, then clipped velocities, `[count, feature]`."""
        velocity = np.clip(self.qvel, -VELOCITY_LIMIT, VELOCITY_LIMIT)
        return np.concatenate([self.qpos[:, 1:], velocity], axis=1)

    def reset_info(self) -> dict[str, np.ndarray]:
        """Return x and the height above the start, as Gymnasium does."""
        return self._position()

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return forward speed and 1 of who is healthy, and Gymnasium's reward terms."""
        velocity = (self.qpos[:, 0] - before[:, 0]) / self.dt
        healthy = self.healthy()
        survive = healthy.astype(np.float64)
        report = self._position() | {
            "x_velocity": velocity,
            "reward_forward": velocity,
            "reward_ctrl": -(CONTROL_COST * np.square(action).sum(axis=1)),
            "reward_survive": survive,
        }
        self.start_again(~healthy, DOWN_SECONDS)
        return np.where(healthy, velocity + 1, UNHEALTHY), report

    def healthy(self) -> np.ndarray:
        """Return whether each robot is upright, bool `[count]`."""
        state = np.concatenate([self.qpos[:, 2:], self.qvel], axis=1)
        return (
            (np.abs(state) < HEALTHY_STATE).all(axis=1)
            & (self.qpos[:, 1] > HEALTHY_HEIGHT_M)
            & (np.abs(self.qpos[:, 2]) < HEALTHY_ANGLE_RAD)
        )

    def _position(self) -> dict[str, np.ndarray]:
        return {
            "x_position": self.qpos[:, 0].copy(),
            "z_distance_from_origin": self.qpos[:, 1] - self.model.qpos0[1],
        }


class Walker2d(Hopper):
    """A planar robot of two legs walks forward (towards +x) and stays upright.

    Observation `[17]`: joint positions but x, joint velocities clipped to ±10, as in Gymnasium's
    Walker2d-v5. Action `[6]`: torques in [-1, 1]. Reward: forward speed in m/s and 1 while the
    robot is healthy (torso between 0.8 and 2 m and within 1 rad of upright), −1 while it is not.
    What differs from Walker2d-v5 is what differs in `Hopper`: no control cost, and a robot that has
    been unhealthy for half a second starts again. `info` carries Walker2d-v5's own terms. An
    episode is always 1,000 steps (8 s).

    Version History:
        v0: Walker2d-v5 of fixed horizon without the control cost.
    """

    question = "Which robot walks forward (to the right) better without falling?"
    guide = guides.WALKER2D

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's walker."""
        return gymnasium_asset("walker2d_v5.xml").compile()

    def healthy(self) -> np.ndarray:
        """Return whether each robot is upright, bool `[count]`."""
        low, high = HEALTHY_WALKER_HEIGHTS_M
        height, angle = self.qpos[:, 1], self.qpos[:, 2]
        return (low < height) & (height < high) & (np.abs(angle) < HEALTHY_WALKER_ANGLE_RAD)
