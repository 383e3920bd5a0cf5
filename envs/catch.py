"""Catch: a paddle catches balls, and all that is observed is a picture of 16 x 16 pixels."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SIDE = 16  # pixels
BALL = 2  # pixels of its sides
PADDLE = 4  # pixels of its width, one high
WORTHLESS = 6  # pixels between the middles of ball and paddle at which a step is worth nothing
LANDED = SIDE - 1 - BALL  # row of the ball where it lies on the paddle, or beside it
BALL_GREY, PADDLE_GREY = 255, 160
METADATA: dict[str, Any] = {
    "autoreset_mode": AutoresetMode.SAME_STEP,
    "render_modes": [],
    "render_fps": 10,
    "question": "Which paddle keeps closer below the ball?",
    "clip_seconds": 1.4,  # one ball falls
    "guide": {
        "sentences": [
            "A ball falls, and the paddle at the bottom moves left, stays, or moves right.",
            "Good is a paddle that gets below the ball at once and stays there.",
            "It counts at each moment how far off it is, so sooner below the ball is better.",
            "Whose ball falls past it has mostly been far off.",
        ],
        "ends": ("far from the ball", "below it all the time"),
    },
}


class Field:
    """`count` fields over arrays: in each a ball falls, and the next one after it.

    `ball` is the column and row of its upper left pixel, `[count, 2]`, `paddle` the column of the
    paddle's left pixel and `caught` how many balls it has caught in this episode, `[count]` each.
    """

    def __init__(self, count: int):
        self.count = count
        self.ball = np.zeros((count, 2), np.int64)
        self.paddle, self.caught = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.generators = [np.random.default_rng() for _ in range(count)]

    def reset(self, rows: np.ndarray) -> None:
        """Start an episode in these rows, each drawn from its row's generator."""
        for row in rows:
            self.paddle[row] = self.generators[row].integers(SIDE - PADDLE + 1)
        self.caught[rows] = 0
        self._drop(rows)

    def step(self, action: np.ndarray) -> np.ndarray:
        """Move each paddle by a pixel: left (0), not (1) or right (2); return the rewards."""
        self.paddle[:] = np.clip(self.paddle + np.asarray(action) - 1, 0, SIDE - PADDLE)
        self._drop(np.flatnonzero(self.ball[:, 1] == LANDED), falling=True)
        landed = self.ball[:, 1] == LANDED
        off = np.abs(self.ball[:, 0] + BALL / 2 - self.paddle - PADDLE / 2)
        self.caught += landed & (off < (BALL + PADDLE) / 2)
        return 1 - off / WORTHLESS

    def observe(self) -> np.ndarray:
        """Return the pictures, uint8 `[count, row, column, 1]`."""
        pictures = np.zeros((self.count, SIDE, SIDE, 1), np.uint8)
        every = np.arange(self.count)
        for column in range(PADDLE):
            pictures[every, SIDE - 1, self.paddle + column] = PADDLE_GREY
        for row in range(BALL):
            for column in range(BALL):
                pictures[every, self.ball[:, 1] + row, self.ball[:, 0] + column] = BALL_GREY
        return pictures

    def _drop(self, rows: np.ndarray, falling: bool = False) -> None:
        """Let new balls begin in these rows; if balls fall, the others come down by a pixel."""
        if falling:
            self.ball[:, 1] += 1
        for row in rows:
            self.ball[row] = self.generators[row].integers(SIDE - BALL + 1), 0


class CatchVectorEnv(VectorEnv):
    """`num_envs` fields of fixed horizon, reset in the step that ends an episode.

    Row i equals `Catch` reset with `seed + i`. `get_state` and `set_state` let a run resume to the
    bit.
    """

    metadata = METADATA

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int = 84, render_mode: str | None = None,
        threads: int = 1,
    ):  # fmt: skip
        """Build the fields; they need no threads."""
        self.field = Field(num_envs)
        self.num_envs, self.render_mode, self.horizon = num_envs, render_mode, max_episode_steps
        self.single_observation_space, self.single_action_space = _spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.elapsed = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every row; row i is seeded with `seed + i` or `seed[i]`."""
        if isinstance(seed, int):
            seed = [seed + row for row in range(self.num_envs)]
        for row, row_seed in enumerate(seed or []):
            if row_seed is not None:
                self.field.generators[row] = seeding.np_random(row_seed)[0]
        self.field.reset(np.arange(self.num_envs))
        self.elapsed[:] = 0
        return self.field.observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Make one step; rows that reach the horizon are reset before this returns."""
        reward = self.field.step(actions)
        self.elapsed += 1
        observation, truncated = self.field.observe(), self.elapsed >= self.horizon
        caught = self.field.caught.astype(float)
        info: dict[str, Any] = {"caught": caught, "_caught": ~truncated}
        if truncated.any():
            rows = np.flatnonzero(truncated)
            final = np.full(self.num_envs, None, object)
            final[rows] = list(observation[rows])
            info |= {"final_obs": final, "_final_obs": truncated.copy()}
            ended = {"caught": caught, "_caught": truncated.copy()}
            info |= {"final_info": ended, "_final_info": truncated.copy()}
            self.field.reset(rows)
            self.elapsed[rows] = 0
            observation = self.field.observe()
        return observation, reward, np.zeros(self.num_envs, bool), truncated, info

    def get_state(self) -> dict[str, Any]:
        """Return all that the next step depends on: arrays and what generators hold."""
        field = self.field
        return {
            "ball": field.ball.copy(),
            "paddle": field.paddle.copy(),
            "caught": field.caught.copy(),
            "elapsed": self.elapsed.copy(),
            "generators": [generator.bit_generator.state for generator in field.generators],
        }

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        """Continue from what `get_state` returned and return the observations."""
        field = self.field
        for name in ("ball", "paddle", "caught"):
            getattr(field, name)[:] = state[name]
        self.elapsed[:] = state["elapsed"]
        for generator, saved in zip(field.generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        return field.observe()


class Catch(gymnasium.Env):
    """A paddle catches balls.

    Observation: a picture, uint8 `[16, 16, 1]`: the ball (2 x 2 pixels) in white, the paddle (4
    pixels wide) in grey, at the bottom. Action: left, stay or right by a pixel. A ball falls by a
    pixel a step, straight down from somewhere at the top, so each can be caught; after 14 steps
    comes the next one. Reward of a step: 1 less a sixth for each pixel between the middles of ball
    and paddle, sideways. `info` counts the balls that were "caught". An episode is 84 steps (8.4
    s), six balls.

    Version History:
        v0: the first.
    """

    metadata = METADATA

    def __init__(self, render_mode: str | None = None):
        """Build one field."""
        self.field, self.render_mode = Field(1), render_mode
        self.observation_space, self.action_space = _spaces()

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.field.generators[0] = self.np_random
        self.field.reset(np.arange(1))
        return self.field.observe()[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Make one step; the task itself never ends an episode."""
        reward = self.field.step(np.array([action]))
        info = {"caught": float(self.field.caught[0])}
        return self.field.observe()[0], float(reward[0]), False, False, info


def _spaces() -> tuple[Box, Discrete]:
    return Box(0, 255, (SIDE, SIDE, 1), np.uint8), Discrete(3)
