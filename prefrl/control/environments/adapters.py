"""Runs Gymnasium's environments, or ours, behind one interface.

The interface is `Environments` in `interface.py`. `BatchedEnvironments` is for vector
environments that reset in the same step and can save their state (prefrl's own), and
`SeparateEnvironments` (`separate.py`) is for any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from prefrl.control.environments.interface import Environments, Step, describe
from prefrl.control.environments.separate import SeparateEnvironments
from prefrl.environments.ids import making, resolve
from prefrl.environments.info import numbers
from prefrl.errors import UserError, raised_by
from prefrl.types import STOOD_UP, Picture, Segment


class BatchedEnvironments:
    """A vector environment that resets in the same step and saves its state (`get_state`)."""

    def __init__(
        self, environments: gymnasium.vector.VectorEnv, name: str, seed: int,
        clip_seconds: float | None = None,
    ):  # fmt: skip
        self.environments: Any = environments
        self.name, self.seed, self.count = name, seed, environments.num_envs
        self.description = describe(
            name, environments.single_observation_space, environments.single_action_space,
            environments.metadata, self.environments.horizon, None, clip_seconds,
        )  # fmt: skip

    def reset(self) -> np.ndarray:
        """Start an episode everywhere; runs of different seeds share none."""
        seeds = np.random.SeedSequence(self.seed).generate_state(self.count) >> 1
        return self.environments.reset(seed=seeds.tolist())[0]

    def step(self, actions: np.ndarray) -> Step:
        """Advance every environment by one step."""
        try:
            observations, rewards, _, truncated, info = self.environments.step(actions)
        except FloatingPointError as error:
            raise UserError(f"{self.name}: {error}") from error
        except Exception as error:  # whatever somebody's environment raises
            raise UserError(f"{self.name}: {raised_by('step', error)}") from error
        _check_finite(self.name, observations, rewards)
        paid = self._paid(info)
        if not truncated.any():
            return Step(observations, rewards, truncated, aspect_rewards=paid)
        rows, final = np.flatnonzero(truncated), info["final_info"]
        reports = {int(row): numbers(_row_of(final, int(row))) for row in rows}
        last = {int(row): info["final_obs"][row] for row in rows}
        return Step(observations, rewards, truncated, last, reports, paid)

    def _paid(self, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return what is truly paid for each aspect, `[env]`, of the steps that were just made."""
        paid = info.get("aspects", {})
        if not all(isinstance(paid.get(aspect), np.ndarray) for aspect in self.description.aspects):
            return {}
        return {aspect: np.array(paid[aspect], float) for aspect in self.description.aspects}

    def extras(self) -> dict[str, np.ndarray]:
        """Return the joint positions, and who has just been stood up where a task does that.

        A task that is observed in pictures has neither.
        """
        extras: dict[str, np.ndarray] = {}
        if isinstance(qpos := getattr(self.environments, "qpos", None), np.ndarray):
            extras["qpos"] = qpos.astype(np.float32)
        stood_up = getattr(self.environments, "stood_up", None)
        if isinstance(stood_up, np.ndarray) and stood_up.dtype == bool:
            extras[STOOD_UP] = stood_up
        return extras

    def pictures(self, segments: Sequence[Segment]) -> dict[str, Picture]:
        """Return nothing: joint positions, or what is observed, are enough."""
        return {}

    def clear_history(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Close the simulations."""
        self.environments.close()

    def model(self) -> Any:
        """Return the task's MuJoCo model."""
        return self.environments.model

    @property
    def can_branch(self) -> bool:
        """Whether one simulation can be put into the state of another one."""
        return hasattr(self.environments, "branch")

    def branch(self, rows: np.ndarray) -> np.ndarray:
        """Let each environment go on from the state of another one; return the observations."""
        return self.environments.branch(rows)

    def get_state(self) -> dict[str, Any]:
        """Return the simulations' state."""
        return self.environments.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.environments.set_state(state)


def make_environments(
    env: str | EnvSpec, count: int, seed: int, horizon: int | None = None, threads: int = 2,
    clip_seconds: float | None = None, truncate_after_end: bool = False,
) -> Environments:  # fmt: skip
    """Build `count` environments of a Gymnasium id.

    Args:
        env: what `ids.resolve` returned, or an id.
        count: how many run side by side.
        seed: every episode's own seed follows from it.
        horizon: steps of an episode; the id's own limit by default.
        threads: threads that simulate (prefrl's own tasks).
        clip_seconds: length of a clip; the environment's own proposal by default.
        truncate_after_end: end an episode a clip's length after its early end, instead of waiting
            until the horizon; for training, where waiting teaches nothing more.

    Raises:
        UserError: the id is unknown or its spaces are not supported.
    """
    spec = resolve(env)
    batched = make_batched(spec, count, seed, horizon, threads, clip_seconds)
    if batched is not None:
        return batched
    return SeparateEnvironments(spec, count, seed, horizon, clip_seconds, truncate_after_end)


def make_batched(
    spec: EnvSpec, count: int, seed: int, horizon: int | None = None, threads: int = 2,
    clip_seconds: float | None = None,
) -> BatchedEnvironments | None:  # fmt: skip
    """Build environments as `make_environments` does; None where the id has none to batch."""
    if spec.vector_entry_point is None:
        return None
    options: dict[str, Any] = {} if horizon is None else {"max_episode_steps": horizon}
    if spec.id.startswith("prefrl/"):
        options["threads"] = threads
    with warnings.catch_warnings(), making(spec):
        warnings.simplefilter("ignore")  # about overriding max_episode_steps
        built = gymnasium.make_vec(spec, count, "vector_entry_point", **options)
    same_step = built.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP
    if same_step and hasattr(built, "get_state"):
        return BatchedEnvironments(built, spec.id, seed, clip_seconds)
    built.close()
    return None


def _row_of(info: dict[str, Any], row: int) -> dict[str, Any]:
    """Return the info of one row of a vector environment, whose masks say what is there."""
    masks = {name: info.get(f"_{name}") for name in info}
    return {
        name: _row_of(info[name], row) if isinstance(info[name], dict) else info[name][row]
        for name, mask in masks.items()
        if mask is not None and mask[row]
    }


def _check_finite(name: str, observations: np.ndarray, rewards: np.ndarray) -> None:
    if np.isfinite(observations).all() and np.isfinite(rewards).all():
        return
    rows = observations.reshape(len(observations), -1)
    bad = ~np.isfinite(rows).all(axis=1) | ~np.isfinite(rewards)
    row = int(np.flatnonzero(bad)[0])
    raise UserError(
        f"{name}: step gave a value that is not finite in environment {row}: observation "
        f"{observations[row].tolist()}, reward {rewards[row]}; expected finite numbers"
    )
