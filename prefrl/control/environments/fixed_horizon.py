"""Hides the end of an episode from the learner, and checks what it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from prefrl.control.environments.spaces import (
    LARGEST,
    as_observed,
    is_picture,
    why_not_observed,
)
from prefrl.environments import contract
from prefrl.errors import UserError


class FixedHorizon(gymnasium.Wrapper):
    """Makes an episode go on after its end.

    An ending would tell the learner what the reward should (alive is good, say), so after it the
    episode waits until the horizon, and the reward is 0. A last feature is added to the
    observation: 1 once the episode has really ended, else 0. While it waits, all others are 0 (the
    absorbing state of Kostrikov et al. 2019, arXiv 1809.02925): after every end comes
    the same, so what it is worth cannot be mistaken for what a pose is worth.

    To wait for long teaches nothing new: a pole that falls after 20 of 500 steps would fill the
    data with steps in which nothing happens. With `wait` the episode is cut so many steps after its
    end. That tells the learner no more than the time limit does, which is no end either: what is
    still to come is estimated by the value of the last observation.

    Pictures stay as they are, without that feature: while an episode waits, they are black.

    Whatever the environment gives is held to Gymnasium's contract first: a breach is a `UserError`.
    """

    def __init__(self, environment: gymnasium.Env, horizon: int, wait: int | None = None):
        super().__init__(environment)
        self.horizon, self.wait = horizon, wait
        space = environment.observation_space
        assert isinstance(space, Box)
        self.space, self.shows_end = space, not is_picture(space)
        zeros = np.zeros(space.shape, space.dtype)
        if self.shows_end:
            self.observation_space = Box(
                np.append(space.low, 0.0), np.append(space.high, 1.0), dtype=np.float64
            )
            self.after_end = np.append(np.clip(zeros, space.low, space.high), 1.0)
        else:
            self.observation_space, self.after_end = space, zeros
        self.left, self.over, self.last, self.info = horizon, False, np.zeros(0), {}

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        observation, self.info = contract.reset(self.env, seed)
        seen = self._checked(observation, contract.words_of_reset(seed))
        self.left, self.over = self.horizon, False
        self.last = self._shown(seen)
        return self.last, self.info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance, or wait; `truncated` is True at the last step and `terminated` never."""
        reward = 0.0
        self.left -= 1
        if not self.over:
            observation, reward, terminated, truncated, self.info = contract.step(self.env, action)
            seen = self._checked(observation, contract.words_of_step(action))
            if abs(reward) > LARGEST:
                problem = f"the reward {reward:.3g}; expected one from {-LARGEST:g} to {LARGEST:g}"
                raise self._broken(contract.words_of_step(action), problem)
            # A time limit of the environment's own that is the horizon is no end.
            self.over = terminated or (truncated and self.left > 0)
            self.last = self._shown(seen)
            if self.over and self.wait is not None:
                self.left = min(self.left, self.wait)
        else:
            self.last = self.after_end
            paid = self.info.get("aspects")
            if isinstance(paid, Mapping):  # like the reward
                self.info = self.info | {"aspects": dict.fromkeys(paid, 0.0)}
        return self.last, reward, False, self.left <= 0, self.info

    def _checked(self, observation: Any, call: str) -> np.ndarray:
        seen = as_observed(observation, self.space)
        if seen is None:
            raise self._broken(call, why_not_observed(observation, self.space))
        return seen

    def _shown(self, seen: np.ndarray) -> np.ndarray:
        return np.append(seen, float(self.over)) if self.shows_end else seen

    def _broken(self, call: str, problem: str) -> UserError:
        return contract.broken(self.env, f"{call} gave {problem}")
