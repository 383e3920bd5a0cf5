"""Runs Gymnasium's environments, or ours, behind one interface.

The interface is `Environments` in `interface.py`. `BatchedEnvironments` is for vector
environments that reset in the same step and can save their state (prefrl's own), and
`SeparateEnvironments` is for any other.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from prefrl.clips.pictures import sheet
from prefrl.control.environments.fixed_horizon import FixedHorizon
from prefrl.control.environments.interface import Environments, Step, describe
from prefrl.control.environments.make import build
from prefrl.control.environments.redraw import by_episode, film, replay, steps_per_picture
from prefrl.environments.ids import installed, resolve
from prefrl.environments.info import numbers
from prefrl.errors import UserError
from prefrl.types import Picture, Segment


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
        observations, rewards, _, truncated, info = self.environments.step(actions)
        _check_finite(self.name, observations, rewards)
        if not truncated.any():
            return Step(observations, rewards, truncated)
        rows, final = np.flatnonzero(truncated), info["final_info"]
        reports = {int(row): numbers(_row_of(final, int(row))) for row in rows}
        last = {int(row): info["final_obs"][row] for row in rows}
        return Step(observations, rewards, truncated, last, reports)

    def extras(self) -> dict[str, np.ndarray]:
        """Return the joint positions."""
        return {"qpos": self.environments.qpos.astype(np.float32)}

    def pictures(self, segments: Sequence[Segment]) -> dict[str, Picture]:
        """Return nothing: joint positions are enough."""
        return {}

    def forget(self) -> None:
        """Nothing is kept."""

    def model(self) -> Any:
        """Return the task's MuJoCo model."""
        return self.environments.model

    def get_state(self) -> dict[str, Any]:
        """Return the simulations' state."""
        return self.environments.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.environments.set_state(state)


class SeparateEnvironments:
    """Gymnasium environments stepped one after another, each episode reset with its own seed.

    The state of an unknown environment cannot be saved, so it is resumed by replay: the episode's
    seed and the actions since. That is exact where the environment is deterministic, which
    `checks.is_deterministic` tries once. Pictures come of a replay, too: an environment without a
    MuJoCo model draws itself, but only the moment that it is in.
    """

    def __init__(
        self, name: str, count: int, seed: int, horizon: int | None = None,
        clip_seconds: float | None = None, brief: bool = False,
    ):  # fmt: skip
        first = build(name)
        self.name, self.seed, self.count = name, seed, count
        limit = horizon or gymnasium.spec(name).max_episode_steps
        if not limit:
            raise UserError(
                f"{name} sets no time limit, and preference learning needs episodes of fixed "
                "length; give one in steps with --horizon, for example --horizon 500"
            )
        inner = first.unwrapped
        self.environments = [FixedHorizon(first, limit)]
        self.description = describe(
            name, self.environments[0].observation_space, first.action_space,
            inner.metadata, limit, getattr(inner, "dt", None) or getattr(inner, "tau", None),
            clip_seconds,
        )  # fmt: skip
        wait = self.description.clip_steps if brief else None
        self.environments[0].wait = wait
        self.environments += [FixedHorizon(build(name), limit, wait) for _ in range(count - 1)]
        self.draws = "rgb_array" in first.metadata.get("render_modes", [])
        self.episodes = [0] * count
        self.actions: list[list[np.ndarray]] = [[] for _ in range(count)]
        self.ended: dict[tuple[int, int], np.ndarray] = {}
        """The actions of episodes that ended since `forget`, by environment and episode."""

    @property
    def has_poses(self) -> bool:
        """Whether these are MuJoCo environments."""
        data = (getattr(env.unwrapped, "data", None) for env in self.environments)
        return all(hasattr(entry, "qpos") for entry in data)

    def reset(self) -> np.ndarray:
        """Start an episode everywhere."""
        observations = np.stack([self._reset(row) for row in range(self.count)])
        _check_finite(self.name, observations, np.zeros(self.count))
        return observations

    def step(self, actions: np.ndarray) -> Step:
        """Advance every environment by one step."""
        results = [
            environment.step(action)
            for environment, action in zip(self.environments, actions, strict=True)
        ]
        rewards = np.array([result[1] for result in results], np.float64)
        ended = np.array([result[3] for result in results])
        observations = [result[0] for result in results]
        _check_finite(self.name, np.stack(observations), rewards)
        last, reports = {}, {}
        for row, action in enumerate(actions):
            self.actions[row].append(np.array(action))
            if ended[row]:
                last[row], reports[row] = observations[row], numbers(results[row][4])
                if self.draws and not self.has_poses:
                    self.ended[row, self.episodes[row]] = np.array(self.actions[row])
                self.episodes[row] += 1
                observations[row] = self._reset(row)
        shown = np.stack(observations)
        _check_finite(self.name, shown, rewards)  # a reset may be at fault, too
        return Step(shown, rewards, ended, last, reports)

    def extras(self) -> dict[str, np.ndarray]:
        """Return the joint positions where the environment is a MuJoCo one.

        Else `moment`, if it can draw itself: environment, episode, and actions made in it so far.
        """
        if self.has_poses:
            data = [env.unwrapped.data.qpos for env in self.environments]  # type: ignore[attr-defined]
            return {"qpos": np.stack(data).astype(np.float32)}
        if not self.draws:
            return {}
        made = [len(actions) for actions in self.actions]
        return {"moment": np.stack([np.arange(self.count), self.episodes, made], 1, dtype=np.int32)}

    def pictures(self, segments: Sequence[Segment]) -> dict[str, Picture]:
        """Let a copy of the environment play the segments' episodes again and draw itself.

        What the copy does not observe as it was recorded has no picture.
        """
        if self.has_poses or not self.draws or not segments:
            return {}
        episodes, every = by_episode(segments), steps_per_picture(self.description.dt)
        found: dict[str, Picture] = {}
        # Whatever a renderer raises: people have the numbers plotted instead.
        with suppress(Exception), closing(self._drawing()) as environment:
            for (row, episode), clips in episodes.items():
                running = episode == self.episodes[row]
                actions = self.actions[row] if running else self.ended[row, episode]
                observations = replay(environment, self._seed(row, episode), actions)
                for name, images in film(environment, observations, clips, every).items():
                    found[name] = sheet(images, every)
        return found

    def forget(self) -> None:
        """Let go of the actions of episodes that have ended."""
        self.ended = {}

    def model(self) -> Any:
        """Return the first environment's MuJoCo model."""
        return self.environments[0].unwrapped.model  # type: ignore[attr-defined]

    def show(self) -> None:
        """Build the environments again as ones that draw themselves; call before `reset`.

        Raises:
            UserError: they cannot draw pictures, or what they draw with is not installed.
        """
        self.environments = [self._drawing() for _ in range(self.count)]

    def _drawing(self) -> FixedHorizon:
        """Build an environment that draws itself."""
        if not self.draws:
            raise UserError(f"{self.name} draws no pictures (its render_modes lack rgb_array)")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame must not look for a screen
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        limit, wait = self.description.horizon, self.environments[0].wait
        return FixedHorizon(build(self.name, "rgb_array"), limit, wait)

    def frame(self) -> np.ndarray:
        """Return a picture of the first environment, uint8 `[height, width, 3]`."""
        try:
            return np.asarray(self.environments[0].render())
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(f"{self.name} needs a package to draw itself: {error}") from None

    def get_state(self) -> dict[str, Any]:
        """Return what replays the present episodes."""
        return {
            "episodes": list(self.episodes),
            "actions": [np.array(actions) for actions in self.actions],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Replay the episodes that were under way."""
        self.episodes, self.ended = list(state["episodes"]), {}
        self.actions = [[np.array(action) for action in actions] for actions in state["actions"]]
        for row, environment in enumerate(self.environments):
            seed = self._seed(row, self.episodes[row])
            for _ in replay(environment, seed, self.actions[row]):
                pass

    def _reset(self, row: int) -> np.ndarray:
        self.actions[row] = []
        return self.environments[row].reset(seed=self._seed(row, self.episodes[row]))[0]

    def _seed(self, row: int, episode: int) -> int:
        entropy = np.random.SeedSequence([self.seed, row, episode])
        return int(entropy.generate_state(1)[0] >> 1)


def make_environments(
    name: str, count: int, seed: int, horizon: int | None = None, threads: int = 2,
    clip_seconds: float | None = None, brief: bool = False,
) -> Environments:  # fmt: skip
    """Build `count` environments of a Gymnasium id.

    Args:
        name: the id; "package:Id-v0" imports the package first.
        count: how many run side by side.
        seed: every episode's own seed follows from it.
        horizon: steps of an episode; the id's own limit by default.
        threads: threads that simulate (prefrl's own tasks).
        clip_seconds: length of a clip; the environment's own proposal by default.
        brief: after an early end wait only as long as a clip lasts, not to the horizon; for
            training, where waiting teaches nothing more.

    Raises:
        UserError: the id is unknown or its spaces are not supported.
    """
    name = resolve(name)
    if gymnasium.spec(name).vector_entry_point is not None:
        options: dict[str, Any] = {} if horizon is None else {"max_episode_steps": horizon}
        if name.startswith("prefrl/"):
            options["threads"] = threads
        with warnings.catch_warnings(), installed(name):
            warnings.simplefilter("ignore")  # about overriding max_episode_steps
            built = gymnasium.make_vec(name, count, "vector_entry_point", **options)
        same_step = built.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP
        if same_step and hasattr(built, "get_state"):
            return BatchedEnvironments(built, name, seed, clip_seconds)
        built.close()
    return SeparateEnvironments(name, count, seed, horizon, clip_seconds, brief)


def _row_of(info: dict[str, Any], row: int) -> dict[str, Any]:
    """Return the info of one row of a vector environment, whose masks say what is there."""
    masks = {name: info.get(f"_{name}") for name in info}
    return {name: info[name][row] for name, mask in masks.items() if mask is not None and mask[row]}


def _check_finite(name: str, observations: np.ndarray, rewards: np.ndarray) -> None:
    if np.isfinite(observations).all() and np.isfinite(rewards).all():
        return
    bad = ~np.isfinite(observations).all(axis=1) | ~np.isfinite(rewards)
    row = int(np.flatnonzero(bad)[0])
    raise UserError(
        f"{name} returned a value that is not finite in environment {row}: observation "
        f"{observations[row].tolist()}, reward {rewards[row]}. Expected finite numbers; correct "
        "the environment, then `prefrl resume` continues from the last round"
    )
