"""HopperBackflip: a one-legged robot does backflips.

It turns backward in the air and lands on its foot.
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from typing import ClassVar

import mujoco
import numpy as np

from . import guides
from .batched import Task
from .hopper import hopper_model, initial_hopper

GEOMS = ("foot_geom", "leg_geom", "thigh_geom", "torso_geom")  # the foot first

# A clean flip.
FLIP_RAD = math.radians(270)  # turn of the torso between take-off and landing
CLEAN_SECONDS = 0.1  # only the foot may touch for this long before and after the flight

# The whole body's angle is the mean of torso, thigh and leg. The torso's own would pay for folding
# the hip, which turns it by 150° without any flip.
THIGH_JOINT_SHARE, LEG_JOINT_SHARE = 2 / 3, 1 / 3

# The hidden reward, per control step.
SPIN_LIMIT = 12.0  # rad/s; faster earns no more
SPIN_UNIT = 8.0  # rad/s of backward spin that earn the full pay
FIRST_PAY = 0.4  # pay of the spin at take-off; it grows by 1 per half turn
TURN_PAID_RAD = 2 * math.pi  # from here on the pay grows no more
TURN_END_RAD = 2.5 * math.pi  # from here on turning earns nothing
LOW_HEIGHT_M, HEIGHT_RANGE_M, LOW_PAY = 0.6, 1.0, 0.5  # the pay is 0.5 at 0.6 m, 1.5 at 1.6 m
DIRTY_SHARE = 0.1  # of the pay, in a flight that did not leave the foot cleanly
DOWN_COST = 0.05  # lying, or leaving the floor again without having stood
UNWIND_COST = 1.0  # forward spin on the floor, in the unit of the pay: turning back is no progress
LANDING_SECONDS = 0.3  # for how long a landing is judged
LANDING_PAY = 6.0  # upright, until another part touches, after a full turn
LANDING_FROM_RAD = math.pi  # a landing counts for more from here to a full turn
LYING_HEIGHT_M, STANDING_HEIGHT_M = 0.2, 1.0  # the torso's, for uprightness

DOWN_SECONDS = 0.5  # a robot that has been down for so long is stood up

COUNTED = ("clean_flips", "turns")  # through a whole episode, being stood up or not

# The observation.
VELOCITY_LIMIT = 20.0
TURN_LIMITS = (-1.0, 4.0)  # half turns


class FlightTracker:
    """Follows the take-offs and landings of `count` robots and counts their clean flips.

    Everything it remembers is in `memory`, one array `[count]` per name.
    """

    def __init__(self, count: int, clean_steps: int, landing_steps: int):
        self.clean_steps, self.landing_steps = clean_steps, landing_steps
        self.memory = {
            "foot": np.zeros(count),  # whether the foot touched in the last step
            "other": np.zeros(count),  # whether another part did
            "clear_steps": np.zeros(count),  # steps without other contact, at most clean_steps
            "clean_takeoff": np.zeros(count),  # whether the flight under way left the foot cleanly
            "hasty": np.zeros(count),  # whether it did so too soon after being stood up to count
            "stood_steps": np.zeros(count),  # since it was last stood up, at most clean_steps
            "torso_start": np.zeros(count),  # angles at the last take-off, rad
            "body_start": np.zeros(count),
            "torso_turn": np.zeros(count),  # backward turn in the flight under way, rad
            "body_turn": np.zeros(count),
            "landed_turn": np.zeros(count),  # the body's turn in the last clean flight, rad
            "landing_left": np.zeros(count),  # steps for which its landing is judged
            "crashed": np.zeros(count),  # whether another part has touched since that landing
            "flip_steps": np.zeros(count),  # steps since the landing of a flip not yet counted
            "down_steps": np.zeros(count),  # for how long it has been down
            "clean_flips": np.zeros(count),
            "turns": np.zeros(count),  # net, of the torso, backward, until it was last stood up
        }

    @property
    def flying(self) -> np.ndarray:
        """Whether nothing touched the floor in the last step, bool `[count]`."""
        return (self.memory["foot"] == 0) & (self.memory["other"] == 0)

    @property
    def down(self) -> np.ndarray:
        """Whether it has fallen and not stood on its foot since, bool `[count]`."""
        m = self.memory
        standing = (m["foot"] > 0) & (m["clear_steps"] >= self.clean_steps)
        return ~standing & ~(self.flying & (m["clean_takeoff"] > 0))

    def clear(self, rows: np.ndarray) -> None:
        """Start as if the robot had been standing on its foot; what was counted stays."""
        for name in self.memory.keys() - COUNTED:
            self.memory[name][rows] = 0.0
        self.memory["foot"][rows] = 1.0
        self.memory["clear_steps"][rows] = self.clean_steps
        self.memory["stood_steps"][rows] = self.clean_steps

    def step(
        self,
        touch: tuple[np.ndarray, np.ndarray],
        torso: tuple[np.ndarray, np.ndarray],
        body: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Follow one control step.

        Args:
            touch: whether the foot, and any other part, touched during the step, bool `[count]`.
            torso: the torso's angle before and after the step, rad, forward positive.
            body: the whole body's, likewise.
        """
        foot, other = touch
        flying, was_flying = ~foot & ~other, self.flying
        self._land(was_flying & ~flying, foot, other)
        self._take_off(flying & ~was_flying, torso[0], body[0])
        m = self.memory
        m["torso_turn"] = np.where(flying, m["torso_start"] - torso[1], 0.0)
        m["body_turn"] = np.where(flying, m["body_start"] - body[1], 0.0)
        m["clean_takeoff"] *= flying
        m["clear_steps"] = np.where(other, 0.0, np.minimum(m["clear_steps"] + 1, self.clean_steps))
        m["stood_steps"] = np.minimum(m["stood_steps"] + 1, self.clean_steps)
        m["foot"], m["other"] = foot.astype(np.float64), other.astype(np.float64)
        m["down_steps"] = np.where(self.down, m["down_steps"] + 1, 0.0)

    def _take_off(self, takeoff: np.ndarray, torso: np.ndarray, body: np.ndarray) -> None:
        """Begin a flight where `takeoff`; the memory is still that of the last contact."""
        m = self.memory
        m["torso_start"][takeoff], m["body_start"][takeoff] = torso[takeoff], body[takeoff]
        clean = (m["foot"] > 0) & (m["clear_steps"] >= self.clean_steps)
        m["clean_takeoff"][takeoff] = clean[takeoff]
        m["hasty"][takeoff] = m["stood_steps"][takeoff] < self.clean_steps

    def _land(self, landing: np.ndarray, foot: np.ndarray, other: np.ndarray) -> None:
        """End the flight where `landing`; the memory is still that of its last step."""
        m = self.memory
        waiting = (m["flip_steps"] > 0) & ~other
        m["flip_steps"] = np.where(waiting, m["flip_steps"] + 1, 0.0)
        counted = m["flip_steps"] > self.clean_steps
        m["clean_flips"] += counted
        m["flip_steps"][counted] = 0.0
        clean = landing & (m["clean_takeoff"] > 0)
        flip = clean & foot & ~other & (m["hasty"] == 0) & (m["torso_turn"] >= FLIP_RAD)
        m["flip_steps"][flip] = 1.0
        judged = clean & (m["body_turn"] > LANDING_FROM_RAD)
        m["landing_left"] = np.maximum(m["landing_left"] - 1, 0.0)
        m["landing_left"][judged] = self.landing_steps
        m["landed_turn"][judged] = m["body_turn"][judged]
        m["crashed"][judged] = 0.0
        m["crashed"][other] = 1.0

    def landing_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how much the landing being judged counts, `[count]`: 1 after a full turn.

        First as one on which only the foot has touched so far, then as a crash; one of them is 0.
        """
        turn = self.memory["landed_turn"] - LANDING_FROM_RAD
        weight = np.clip(turn / (2 * math.pi - LANDING_FROM_RAD), 0.0, 1.0)
        weight = np.where(self.memory["landing_left"] > 0, weight, 0.0)
        crashed = self.memory["crashed"]
        return weight * (1 - crashed), weight * crashed


class HopperBackflip(Task):
    """A planar one-legged robot does backflips: off its foot, backward through the air, onto it.

    A robot that has been down for half a second is stood up on its foot where it is, so an episode
    holds several attempts instead of one and a long time on the floor. Down means that another part
    than the foot has touched and the robot has not since been on its foot with nothing else
    touching for 0.1 s. No flip is counted from a take-off within 0.1 s of being stood up.

    Observation `[21]`, as it is after the step: 0 height of the torso (m); 1, 2 sine and cosine of
    its angle (0 upright, forward positive); 3-5 angles of hip, knee and ankle (rad); 6-11
    velocities of x, z (m/s), torso, hip, knee and ankle (rad/s), clipped to ±20; 12 whether the
    foot touched the floor during the step; 13 whether any other part did; 14 time since another
    part did, as a share of 0.1 s, at most 1; 15 how far the whole body has turned backward in the
    flight under way, in half turns clipped to [-1, 4], 0 on the floor; 16 whether that flight left
    the foot cleanly; 17 how much the landing being judged counts (0 none, 1 after a full turn)
    while only the foot has touched; 18 the same once another part has; 19 the share of its time
    that is left; 20 how long the robot has been down, as a share of 0.5 s. Action `[3]`: torques of
    hip, knee and ankle in [-1, 1].

    Reward, per step, a function of that observation (as it is before the robot is stood up). In a
    flight it pays the backward spin of the whole body (mean of torso, thigh and leg), the more the
    further the body has turned since take-off and the higher it is, so that rocking to and fro
    earns almost nothing and one full turn a lot; a flight that did not leave the foot cleanly earns
    a tenth. Turning forward again on the floor costs, or a jump onto the back and a roll forward
    would pay for ever. For 0.3 s after a clean flight of more than half a turn, being upright pays
    until another part touches, the more the nearer to upright and the more the flight turned beyond
    a half. Being down always costs a little.

    A clean flip is a flight (nothing touches the floor) from the foot to the foot in which the
    torso turns backward by at least 270° between the last step with contact before it and its own
    last step, with no part but the foot touching from 0.1 s before take-off to 0.1 s after
    landing; it counts once that time is over. Contacts are those of all substeps; they lag one
    substep (2 ms) behind the state. An episode starts as if the robot had long stood on its foot.

    `info`: `clean_flips`, the clean flips of the episode so far; `turns`, net backward turns of the
    torso so far, on the floor or not, being stood up excepted. An episode is always 500 steps
    (4 s).

    Version History:
        v1: physics three times as fast (integrated by implicitfast, not by Runge-Kutta).
        v0: first version.
    """

    question = "Which robot is nearer to doing a backflip in the air and landing it on its foot?"
    guide = guides.HOPPER_BACKFLIP
    clip_seconds = 1.5
    frame_skip = 4
    quick: ClassVar[bool] = True

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's hopper with a contact sensor on each part."""
        return hopper_model(GEOMS, self.quick)

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a standing pose."""
        return initial_hopper(self.model, generator)

    def clear(self, rows: np.ndarray) -> None:
        """Start as if the robot had been standing on its foot."""
        if not self.memory:
            clean_steps = math.ceil(CLEAN_SECONDS / self.dt - 1e-9)
            landing_steps = round(LANDING_SECONDS / self.dt)
            self.tracker = FlightTracker(self.count, clean_steps, landing_steps)
            self.memory = self.tracker.memory
        self.tracker.clear(rows)
        for name in COUNTED:
            self.memory[name][rows] = 0.0

    def observe(self) -> np.ndarray:
        """Return pose, velocities and what the tracker knows, `[count, 21]`."""
        m, tracker, angle = self.memory, self.tracker, self.qpos[:, 2]
        pose = [self.qpos[:, 1], np.sin(angle), np.cos(angle), *self.qpos[:, 3:].T]
        flight = [
            m["foot"],
            m["other"],
            m["clear_steps"] / tracker.clean_steps,
            np.clip(m["body_turn"] / math.pi, *TURN_LIMITS),
            m["clean_takeoff"],
            *tracker.landing_weights(),
            m["landing_left"] / tracker.landing_steps,
            m["down_steps"] * self.dt / DOWN_SECONDS,
        ]
        return np.stack([*pose, *self._velocity().T, *flight], axis=1)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the hidden reward, and the flips counted so far."""
        touch = self.touches()
        self.tracker.step(
            (touch[:, 0], np.any(touch[:, 1:], axis=1)),
            (before[:, 2], self.qpos[:, 2]),
            (body_mean(before[:, 2:]), body_mean(self.qpos[:, 2:])),
        )
        reward = self._flight_pay() + self._landing_pay() - DOWN_COST * self.tracker.down
        turns = self.memory["turns"] - self.qpos[:, 2] / (2 * math.pi)
        report = {"clean_flips": self.memory["clean_flips"].copy(), "turns": turns}
        self._stand_up(np.flatnonzero(self.memory["down_steps"] >= DOWN_SECONDS / self.dt))
        return reward, report

    def _stand_up(self, rows: np.ndarray) -> None:
        """Put these robots on their foot, where they are, at rest."""
        if not len(rows):
            return
        x, turned = self.qpos[rows, 0], -self.qpos[rows, 2] / (2 * math.pi)
        self.place(rows)
        self.qpos[rows, 0] += x
        self.batch.forward(rows)
        self.tracker.clear(rows)
        self.memory["stood_steps"][rows] = 0.0
        self.memory["turns"][rows] += turned

    def stood_up(self) -> np.ndarray:
        """Return which robots were stood up after the last step, bool `[count]`."""
        return self.memory["stood_steps"] == 0

    def _velocity(self) -> np.ndarray:
        return np.clip(self.qvel, -VELOCITY_LIMIT, VELOCITY_LIMIT)

    def _flight_pay(self) -> np.ndarray:
        """Pay backward spin in the air, more the further it has turned; charge unwinding."""
        turn = self.memory["body_turn"]
        spin = np.clip(-body_mean(self._velocity()[:, 2:]), -SPIN_LIMIT, SPIN_LIMIT) / SPIN_UNIT
        progress = FIRST_PAY + np.clip(turn, 0.0, TURN_PAID_RAD) / math.pi
        progress = np.where(turn > TURN_END_RAD, 0.0, progress)
        height = LOW_PAY + np.clip((self.qpos[:, 1] - LOW_HEIGHT_M) / HEIGHT_RANGE_M, 0.0, 1.0)
        share = np.where(self.memory["clean_takeoff"] > 0, 1.0, DIRTY_SHARE)
        unwinding = UNWIND_COST * np.minimum(spin, 0.0)
        return np.where(self.tracker.flying, share * spin * progress * height, unwinding)

    def _landing_pay(self) -> np.ndarray:
        """Pay uprightness after a landing, by degrees, until another part touches."""
        height = (self.qpos[:, 1] - LYING_HEIGHT_M) / (STANDING_HEIGHT_M - LYING_HEIGHT_M)
        upright = (1 + np.cos(self.qpos[:, 2])) / 2 * np.clip(height, 0.0, 1.0)
        return LANDING_PAY * upright * self.tracker.landing_weights()[0]


def body_mean(angles: np.ndarray) -> np.ndarray:
    """Return the mean angle (or rate) of torso, thigh and leg, `[count]`.

    Args:
        angles: those of torso, hip, knee, ..., `[count, 3 or more]`; the joints turn the other way.
    """
    return angles[:, 0] - THIGH_JOINT_SHARE * angles[:, 1] - LEG_JOINT_SHARE * angles[:, 2]


class HopperBackflipV0(HopperBackflip):
    """`HopperBackflip` as it was at first: what runs of that time continue in.

    Observation `[21]`, Action `[3]`, reward and `info` are those of v1.

    Version History:
        v0: first version.
    """

    quick = False
