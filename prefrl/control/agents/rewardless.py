"""The environments as Stable-Baselines3 sees them: normalised, and without their reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv

from prefrl.control.environments.interface import Environments
from prefrl.control.environments.recorder import Recorded, Recorder
from prefrl.control.environments.spaces import from_policy, policy_space
from prefrl.control.policy import normalise, shown_space


class RewardlessVecEnv(VecEnv):
    """Shows SB3 normalised observations and a reward of 0, and records what really happened."""

    def __init__(self, environments: Environments):
        self.environments = environments
        description = environments.description
        space, self.picture = description.observation_space, description.picture
        self.normaliser = RunningMeanStd(shape=() if self.picture else space.shape)
        self.render_mode = None
        actions = policy_space(description.action_space)
        super().__init__(environments.count, shown_space(description), actions)
        self.observations = np.zeros((environments.count, *space.shape))
        self.last_observations: dict[int, np.ndarray] = {}
        """By environment, the raw last observation of the episode that ended with this step."""
        self.recorder = Recorder(environments.count, environments.description.together)

    def normalise(self, observations: np.ndarray) -> np.ndarray:
        """Return observations as the policy sees them; see `policy.normalise`."""
        return normalise(observations, self.normaliser.mean, self.normaliser.var, self.picture)

    def take_note(self, steps: Sequence[Recorded]) -> None:
        """Let what was seen in some steps say what numbers are like; pictures are always alike."""
        if self.picture is None:
            self.normaliser.update(np.concatenate([step.observations for step in steps]))

    def reset(self) -> np.ndarray:
        """Start an episode everywhere."""
        self.observations = self.environments.reset()
        return self.normalise(self.observations)

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance every environment and record the step.

        Args:
            actions: of the policy, `[env, …]`.

        Returns:
            Normalised observations `[env, …]`, the first of new episodes where one ended, and
            which did, `[env]`; `last_observations` has how they ended.
        """
        extras = self.environments.extras()
        made = from_policy(self.environments.description.action_space, actions)
        step = self.environments.step(made)
        self.recorder.add(self.observations, made, extras, step)
        self.observations, self.last_observations = step.observations, step.last_observations
        return self.normalise(step.observations), step.ended

    def step_async(self, actions: np.ndarray) -> None:
        """Refuse: prefrl's agents collect what they learn from by `advance`."""
        raise NotImplementedError

    def step_wait(self) -> Any:
        """Refuse, as `step_async` does."""
        raise NotImplementedError

    def clear_history(self) -> None:
        """Let go of the steps so far; the episodes under way go on."""
        self.recorder.clear()
        self.environments.clear_history()

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Do nothing: the environments seed every episode themselves."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return None for each environment: SB3 asks for `render_mode` alone."""
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: nothing in prefrl or SB3 sets attributes of environments."""
        raise NotImplementedError

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **kw: Any):
        """Refuse: nothing in prefrl or SB3 calls methods of environments."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each environment: the true return is measured by the recorder."""
        return [False] * self.num_envs
