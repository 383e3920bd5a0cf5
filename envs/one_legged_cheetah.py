"""OneLeggedCheetah: HalfCheetah runs on its front leg.

The task is of Christiano et al. 2017, section 3.2.
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np

from . import guides
from .batched import Task
from .half_cheetah import cheetah_model, initial_cheetah

FOOT = "ffoot"
OTHER_PARTS = ("fshin", "fthigh", "head", "torso", "bthigh", "bshin", "bfoot")
TOP_SPEED = 5.0  # m/s; faster pays no more
BACKWARD_LIMIT = -1.0  # m/s; faster backward costs no more
CLEAN_SECONDS = 0.5  # for this long a touch of another part still costs
FALLEN = -2.0  # reward of a step in which another part touches; running fast pays up to TOP_SPEED


class OneLeggedCheetah(Task):
    """A planar cheetah, two legs of three joints each, runs forward (towards +x) on its front foot.

    The front leg, because it reaches under the centre of mass: pitched nose down by about 50°, with
    the hind leg in the air, the cheetah can hop fast and far. Each episode starts on both feet and
    is always 500 steps (25 s) long.

    Observation `[21]`: height of the torso (m); sine and cosine of its pitch (nose down is
    positive); six joint angles (rad; hind thigh, shin, foot, then front); nine velocities (m/s and
    rad/s: forward, up, pitch, the joints in the same order); whether the front foot touched the
    floor during the last step; whether any other part did; and how clean the cheetah is: time since
    another part touched, as a share of 0.5 s, at most 1 (it starts at 1).

    Action `[6]`: torques in [-1, 1].

    Reward: clean · (speed − FALLEN) + FALLEN, that is forward speed (m/s, from −1 to 5) while
    nothing but the front foot has touched for half a second, −2 while something else touches, and a
    straight line between the two as the cheetah gets clean again. So a gallop, whose every stride
    puts the hind foot down, pays little, and lying, rolling and sliding pay −2 a step.

    `info`, over the episode so far: `forward_speed`, mean speed in m/s; `one_leg_share`, share of
    steps in which the front foot touched and nothing else did; `flight_share`, in which nothing
    touched; `other_share`, in which any other part touched. The three shares sum to 1. A part
    touches in a step if it does in any of its five substeps.

    Version History:
        v0: first version.
    """

    question = "Which cheetah runs forward (to the right) better on its front leg alone?"
    guide = guides.ONE_LEGGED_CHEETAH
    clip_seconds = 1.5
    frame_skip = 5
    remembers = ("foot", "other", "clean_steps", "steps", "metres", "foot_steps", "other_steps")

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's cheetah with a contact sensor on each part, the front foot first."""
        return cheetah_model((FOOT, *OTHER_PARTS))

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a standing pose."""
        return initial_cheetah(self.model, generator)

    def clear(self, rows: np.ndarray) -> None:
        """Start clean."""
        self.memory["clean_steps"][rows] = self.enough_clean_steps

    @property
    def enough_clean_steps(self) -> int:
        """Steps without a touch of another part after which the cheetah is clean."""
        return round(CLEAN_SECONDS / self.dt)

    def clean(self) -> np.ndarray:
        """Return time since another part touched, as a share of `CLEAN_SECONDS`, `[count]`."""
        return self.memory["clean_steps"] / self.enough_clean_steps

    def observe(self) -> np.ndarray:
        """Return pose but x, velocities and what touches, `[count, 21]`."""
        pitch = self.qpos[:, 2]
        touch = [self.memory["foot"], self.memory["other"], self.clean()]
        pose = [self.qpos[:, 1], np.sin(pitch), np.cos(pitch)]
        return np.column_stack([*pose, self.qpos[:, 3:], self.qvel, *touch])

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the reward, and speed and shares of the episode so far."""
        memory, touches = self.memory, self.touches()
        foot, other = touches[:, 0], touches[:, 1:].any(axis=1)
        metres = self.qpos[:, 0] - before[:, 0]
        memory["foot"][:], memory["other"][:] = foot, other
        memory["clean_steps"] += 1
        memory["clean_steps"][other] = 0
        np.minimum(memory["clean_steps"], self.enough_clean_steps, out=memory["clean_steps"])
        memory["steps"] += 1
        memory["metres"] += metres
        memory["foot_steps"] += foot & ~other
        memory["other_steps"] += other
        speed = np.clip(metres / self.dt, BACKWARD_LIMIT, TOP_SPEED)
        return self.clean() * (speed - FALLEN) + FALLEN, self.report()

    def report(self) -> dict[str, np.ndarray]:
        """Return speed and shares of the episode so far, `[count]` each."""
        memory = self.memory
        steps = memory["steps"]
        return {
            "forward_speed": memory["metres"] / (steps * self.dt),
            "one_leg_share": memory["foot_steps"] / steps,
            "flight_share": (steps - memory["foot_steps"] - memory["other_steps"]) / steps,
            "other_share": memory["other_steps"] / steps,
        }
