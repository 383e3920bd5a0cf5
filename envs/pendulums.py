"""InvertedPendulum and InvertedDoublePendulum of fixed horizon: balance poles on a cart.

Untrained, they fall within half a second and would lie for the rest of 40. So after half a second
on the floor they start again from where an episode starts, in the same episode.
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np

from . import guides
from .batched import Task, gymnasium_asset

SINGLE_NOISE, DOUBLE_NOISE = 0.01, 0.1
UPRIGHT_RAD = 0.2
UPRIGHT_PAY = 10.0
UPRIGHT_TIP_M, HIGHEST_TIP_M = 1.0, 2.0
FORCE_LIMIT = VELOCITY_LIMIT = 10.0
DOWN_SECONDS = 0.5  # poles that have been down for so long start again


class InvertedPendulum(Task):
    """A cart on a rail keeps a pole upright.

    Observation `[4]`: position of the cart, angle of the pole, their velocities, as in Gymnasium's
    InvertedPendulum-v5. Action `[1]`: force on the cart in [-3, 3]. Reward: 1 while the pole is
    within 0.2 rad of upright, as in InvertedPendulum-v5. What differs is that a fall ends nothing:
    half a second later the pole is put upright again. `info` carries InvertedPendulum-v5's own
    term. An episode is always 1,000 steps (40 s).

    Version History:
        v0: InvertedPendulum-v5 of fixed horizon.
    """

    question = "Which cart keeps its pole upright better?"
    guide = guides.INVERTED_PENDULUM
    clip_seconds = 1.5
    frame_skip = 2
    remembers = ("down_steps", "started_again")

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's cart and pole."""
        return gymnasium_asset("inverted_pendulum.xml").compile()

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise around the upright pose, in the order InvertedPendulum-v5 does."""
        qpos = self.model.qpos0 + generator.uniform(-SINGLE_NOISE, SINGLE_NOISE, self.model.nq)
        return qpos, generator.uniform(-SINGLE_NOISE, SINGLE_NOISE, self.model.nv)

    def observe(self) -> np.ndarray:
        """Return positions, then velocities, `[count, 4]`."""
        return np.concatenate([self.qpos, self.qvel], axis=1)

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return whether the pole is upright, which is InvertedPendulum-v5's reward term, too."""
        upright = np.abs(self.qpos[:, 1]) <= UPRIGHT_RAD
        self.start_again(~upright, DOWN_SECONDS)
        return upright.astype(np.float64), {"reward_survive": upright.astype(np.float64)}


class InvertedDoublePendulum(Task):
    """A cart on a rail keeps two poles upright, the second on top of the first.

    Observation `[9]`: position of the cart, sines and cosines of the two angles, velocities clipped
    to ±10, force of the rail's ends on the cart clipped to ±10, as in Gymnasium's
    InvertedDoublePendulum-v5. Action `[1]`: force on the cart in [-1, 1]. Reward: 10 while the tip
    is above 1 m, less what the tip is away from the middle and from 2 m, and less what the poles
    turn, as in InvertedDoublePendulum-v5. What differs is that a fall ends nothing: half a second
    later the poles are put upright again. `info` carries InvertedDoublePendulum-v5's own terms. An
    episode is always 1,000 steps (50 s).

    Version History:
        v0: InvertedDoublePendulum-v5 of fixed horizon.
    """

    question = "Which cart keeps its two poles upright better?"
    guide = guides.INVERTED_DOUBLE_PENDULUM
    clip_seconds = 1.5
    frame_skip = 5
    remembers = ("down_steps", "started_again", "force")  # the force in N

    def build_model(self) -> mujoco.MjModel:
        """Return Gymnasium's cart and poles."""
        return gymnasium_asset("inverted_double_pendulum.xml").compile()

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise around the upright pose, in the order InvertedDoublePendulum-v5 does."""
        qpos = self.model.qpos0 + generator.uniform(-DOUBLE_NOISE, DOUBLE_NOISE, self.model.nq)
        return qpos, generator.standard_normal(self.model.nv) * DOUBLE_NOISE

    def clear(self, rows: np.ndarray) -> None:
        """Note the force on the cart."""
        self.force, self.tip = self.batch.bind("qfrc_constraint"), self.batch.bind("site_xpos")
        self.memory["force"][rows] = self.force[rows, 0]

    def observe(self) -> np.ndarray:
        """Return pose, velocities and force, `[count, 9]`."""
        cart, angles = self.qpos[:, :1], self.qpos[:, 1:]
        velocity = np.clip(self.qvel, -VELOCITY_LIMIT, VELOCITY_LIMIT)
        force = np.clip(self.memory["force"], -FORCE_LIMIT, FORCE_LIMIT)
        return np.concatenate(
            [cart, np.sin(angles), np.cos(angles), velocity, force[:, None]], axis=1
        )

    def evaluate(
        self, action: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the reward, and InvertedDoublePendulum-v5's terms.

        The tip's position is MuJoCo's derived one, which lags behind the state, as there.
        """
        self.memory["force"][:] = self.force[:, 0]
        x, height = self.tip[:, 0, 0], self.tip[:, 0, 2]
        upright = height > UPRIGHT_TIP_M
        survive = UPRIGHT_PAY * upright
        away = 0.01 * x**2 + (height - HIGHEST_TIP_M) ** 2
        turning = 1e-3 * self.qvel[:, 1] ** 2 + 5e-3 * self.qvel[:, 2] ** 2
        self.start_again(~upright, DOWN_SECONDS)
        return survive - away - turning, {
            "reward_survive": survive,
            "distance_penalty": -away,
            "velocity_penalty": -turning,
        }
