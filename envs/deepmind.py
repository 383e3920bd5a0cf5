"""DeepMind's walker, cheetah and quadruped: walk and run at a speed.

The tasks of dm_control's suite (Tassa et al. 2018, arXiv:1801.00690; Tunyasuvunakool et al. 2020),
written over arrays: the same models, observations in its order, rewards, starts and lengths.
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import mujoco
import numpy as np

from . import guides
from .batched import VELOCITY_STAGE, Task

MODELS = Path(__file__).parent / "dm_control"

STANDING_HEIGHT_M = 1.2
CHEETAH_MASS_KG = 14.0
SETTLING_STEPS = 200
LIFT_M = 0.01
TORSO = 1  # the first body but the world


def at_least(
    value: np.ndarray, least: float, margin: float, pay_at_margin: float, linear: bool = True
) -> np.ndarray:
    """Return 1 where `value` is at least `least`, and less the further below it is, in [0, 1].

    It is dm_control's `tolerance`: `pay_at_margin` at `margin` below, on the way to 0 along a
    straight line, or along a bell curve.
    """
    distance = np.maximum(least - value, 0.0) / margin
    if linear:
        return np.maximum(1.0 - distance * (1 - pay_at_margin), 0.0)
    return np.exp(-0.5 * np.square(distance * np.sqrt(-2 * np.log(pay_at_margin))))


class WalkerWalk(Task):
    """A planar robot of two legs walks forward (towards +x) at 1 m/s or more, upright.

    Observation `[24]`: of each body the cosine and sine of its angle (14), height of the torso (m),
    joint velocities (9). Action `[6]`: torques in [-1, 1]. Reward, from 0 to 1: standing (torso
    1.2 m high and upright) times one sixth and five sixths of the speed, in m/s, at most 1, as of
    dm_control's walker-walk. An episode begins in any pose and is always 1,000 steps (25 s).

    Version History:
        v0: walker-walk of dm_control 1.0.50.
    """

    question = "Which robot stands and walks forward (to the right) better?"
    guide = guides.WALKER_WALK
    clip_seconds = 1.5
    frame_skip = 10
    up_to_date = persistent = True
    speed: ClassVar[float] = 1.0  # m/s that earn the full pay

    def build_model(self) -> mujoco.MjModel:
        """Return dm_control's walker."""
        return mujoco.MjModel.from_xml_path(str(MODELS / "walker.xml"))

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw any angle of each joint, in the order dm_control does."""
        model, qpos = self.model, self.model.qpos0.copy()
        for joint in np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE):
            low, high = model.jnt_range[joint] if model.jnt_limited[joint] else (-np.pi, np.pi)
            qpos[joint] = generator.uniform(low, high)
        return qpos, np.zeros(model.nv)

    def clear(self, rows: np.ndarray) -> None:
        """Note how the bodies stand."""
        if not self.memory:
            self.frames, self.positions = self.batch.bind("xmat"), self.batch.bind("xpos")
            self.velocity = self.batch.bind("sensordata")  # of the whole body, m/s
            self.memory = {"pose": np.zeros((self.count, 2 * self.model.nbody - 1))}
        self.memory["pose"][rows] = self._pose()[rows]

    def observe(self) -> np.ndarray:
        """Return orientations, height and velocities, `[count, 24]`."""
        return np.concatenate([self.memory["pose"], self.qvel], axis=1)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return dm_control's reward."""
        self.memory["pose"][:] = self._pose()
        height, upright = self.positions[:, TORSO, 2], (1 + self.frames[:, TORSO, 8]) / 2
        high = at_least(height, STANDING_HEIGHT_M, STANDING_HEIGHT_M / 2, 0.1, linear=False)
        moving = at_least(self.velocity[:, 0], self.speed, self.speed / 2, 0.5)
        return (3 * high + upright) / 4 * (5 * moving + 1) / 6, {}

    def _pose(self) -> np.ndarray:
        cosine_and_sine = self.frames[:, TORSO:, [0, 2]].reshape(self.count, -1)
        return np.concatenate([cosine_and_sine, self.positions[:, TORSO, 2:]], axis=1)


class WalkerRun(WalkerWalk):
    """A planar robot of two legs runs forward (towards +x) at 8 m/s or more, upright.

    `WalkerWalk` with another speed: five sixths of the reward grow up to 8 m/s, as in dm_control's
    walker-run. Observation `[24]` and Action `[6]` are the same. An episode begins in any pose and
    is always 1,000 steps (25 s).

    Version History:
        v0: walker-run of dm_control 1.0.50.
    """

    question = "Which robot stands and runs forward (to the right) faster?"
    guide = guides.WALKER_RUN
    speed = 8.0


class CheetahRun(Task):
    """A planar cheetah, two legs of three joints each, runs forward (towards +x) at 10 m/s.

    Observation `[17]`: joint positions but x, joint velocities. Action `[6]`: torques in [-1, 1].
    Reward, from 0 to 1: a tenth of the forward speed in m/s, at most 1, as of dm_control's
    cheetah-run. An episode begins in any pose, after two seconds of coming to rest, and is always
    1,000 steps (10 s).

    Version History:
        v0: cheetah-run of dm_control 1.0.50.
    """

    question = "Which cheetah runs forward (to the right) faster?"
    guide = guides.CHEETAH_RUN
    clip_seconds = 1.0
    frame_skip = 1
    up_to_date = persistent = True
    speed: ClassVar[float] = 10.0  # m/s that earn the full pay

    def build_model(self) -> mujoco.MjModel:
        """Return dm_control's cheetah; its deprecated `settotalmass` is done by hand."""
        spec = mujoco.MjSpec.from_file(str(MODELS / "cheetah.xml"))
        spec.compiler.settotalmass = -1
        model = spec.compile()
        mujoco.mj_setTotalmass(model, CHEETAH_MASS_KG)
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw any angle of each limited joint, in the order dm_control does."""
        limited, qpos = self.model.jnt_limited == 1, self.model.qpos0.copy()
        low, high = self.model.jnt_range[limited].T
        qpos[limited] = generator.uniform(low, high)
        return qpos, np.zeros(self.model.nv)

    def clear(self, rows: np.ndarray) -> None:
        """Bind the speed; nothing is remembered."""
        self.velocity = self.batch.bind("sensordata")  # of the whole body, m/s

    def place(self, rows: np.ndarray) -> None:
        """Draw poses and let them come to rest."""
        super().place(rows)
        self.batch.step(rows, nstep=SETTLING_STEPS, stage=VELOCITY_STAGE)

    def observe(self) -> np.ndarray:
        """Return positions but x, then velocities, `[count, 17]`."""
        return np.concatenate([self.qpos[:, 1:], self.qvel], axis=1)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return dm_control's reward."""
        return at_least(self.velocity[:, 0], self.speed, self.speed, 0.0), {}


class QuadrupedWalk(Task):
    """A robot of four legs, three joints each, walks head first at 0.5 m/s or more, upright.

    Observation `[78]`: hinge positions (16), hinge velocities (16) and actuator states (12);
    velocity of the torso in its own frame (3, m/s); how upright it is (the cosine); accelerometer
    and gyroscope (3 each); force and torque at each of four toes (12 each), as their inverse
    hyperbolic sine. Action `[12]`: targets of the legs in [-1, 1]; -1 and 1 are the ends of what
    dm_control's actions may be (some are in [-0.8, 0.8] and [-1, 1.1] there). Reward, from 0 to 1:
    uprightness times a half and half of the forward speed's share of 0.5 m/s, at most 1, as of
    dm_control's quadruped-walk. An episode begins turned anyhow, just above the floor, and is
    always 1,000 steps (20 s).

    Version History:
        v0: quadruped-walk of dm_control 1.0.50.
    """

    question = "Which robot walks better, on its feet and eyes first?"
    guide = guides.QUADRUPED_WALK
    clip_seconds = 1.5
    frame_skip = 4
    up_to_date = persistent = True
    speed: ClassVar[float] = 0.5  # m/s that earn the full pay

    def build_model(self) -> mujoco.MjModel:
        """Return dm_control's quadruped on an empty floor."""
        return mujoco.MjModel.from_xml_path(str(MODELS / "quadruped.xml"))

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw how the torso is turned, in the order dm_control does; it is in the floor yet."""
        orientation = generator.standard_normal(4)
        qpos = self.model.qpos0.copy()
        qpos[:3], qpos[3:7] = 0.0, orientation / np.linalg.norm(orientation)
        return qpos, np.zeros(self.model.nv)

    def place(self, rows: np.ndarray) -> None:
        """Draw how they are turned, and lift them until nothing touches."""
        super().place(rows)
        touching = rows[self.contacts[rows] > 0]
        while len(touching):
            self.qpos[touching, 2] += LIFT_M
            self.batch.forward(touching)
            touching = touching[self.contacts[touching] > 0]

    def clear(self, rows: np.ndarray) -> None:
        """Note what is sensed."""
        if not self.memory:
            self.frames, self.contacts = self.batch.bind("xmat"), self.batch.bind("ncon")
            self.readings = self.batch.bind("sensordata")
            self.actuators = self.batch.bind("act")
            self.memory = {"sensed": np.zeros((self.count, 34))}
        self.memory["sensed"][rows] = self._sensed()[rows]

    def action_range(self) -> np.ndarray:
        """Return ±1, whatever the actuators' ranges are, `[12, 2]`."""
        return np.tile([-1.0, 1.0], (self.model.nu, 1))

    def advance(self, action: np.ndarray) -> None:
        """Scale the actions to the actuators' ranges."""
        low, high = self.model.actuator_ctrlrange.T
        super().advance(low + (np.asarray(action, np.float64) + 1) / 2 * (high - low))

    def observe(self) -> np.ndarray:
        """Return joints, actuators and what is sensed, `[count, 78]`."""
        joints = [self.qpos[:, 7:], self.qvel[:, 6:], self.actuators]
        return np.concatenate([*joints, self.memory["sensed"]], axis=1)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return dm_control's reward."""
        self.memory["sensed"][:] = self._sensed()
        upright = at_least(self.frames[:, TORSO, 8], 1.0, 2.0, 0.0)
        return upright * at_least(self.readings[:, 6], self.speed, self.speed, 0.5), {}

    def _sensed(self) -> np.ndarray:
        """Return velocity, uprightness, acceleration and what the toes feel, `[count, 34]`."""
        inertial, velocity, toes = np.split(self.readings[:, :33], [6, 9], axis=1)
        upright = self.frames[:, TORSO, 8:]
        return np.concatenate([velocity, upright, inertial, np.arcsinh(toes)], axis=1)


class QuadrupedRun(QuadrupedWalk):
    """A robot of four legs, three joints each, runs head first at 5 m/s or more, upright.

    `QuadrupedWalk` with another speed: half of the reward grows up to 5 m/s, as in dm_control's
    quadruped-run. Observation `[78]` and Action `[12]` are the same. An episode begins turned
    anyhow, just above the floor, and is always 1,000 steps (20 s).

    Version History:
        v0: quadruped-run of dm_control 1.0.50.
    """

    question = "Which robot runs faster, on its feet and eyes first?"
    guide = guides.QUADRUPED_RUN
    speed = 5.0
