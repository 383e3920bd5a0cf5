"""Gymnasium environments, many side by side, as the agent sees them.

Two ways to run them behind one interface: `BatchedEnvironments` for vector environments that reset
in the same step and can save their state (prefrl's own), `SeparateEnvironments` for any other.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from PIL.Image import Image

from prefrl.control.fixed_horizon import FixedHorizon
from prefrl.errors import UserError
from prefrl.pictures import sheet, shrink
from prefrl.types import Picture, Segment

PICTURES_PER_SECOND = 30


@dataclass(frozen=True)
class Step:
    """What every environment answered to one action."""

    observations: np.ndarray
    """[env, feature]; those of a new episode where one ended."""
    env_rewards: np.ndarray
    """[env]"""
    ended: np.ndarray
    """[env], bool."""
    last_observations: dict[int, np.ndarray] = field(default_factory=dict)
    """By environment, the last observation of the episode that ended."""
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    """By environment, the numbers reported at the end of the episode."""


@dataclass(frozen=True)
class Description:
    """What an environment says of itself."""

    observation_space: Box
    action_space: Box | Discrete
    horizon: int
    """Most steps of an episode; all of them have as many unless training cuts them (`brief`)."""
    dt: float
    """Seconds of a step."""
    question: str
    clip_steps: int


class Environments(Protocol):
    """Environments that show no end, only a time limit, and are reset as soon as it is reached."""

    count: int
    description: Description

    def reset(self) -> np.ndarray:
        """Start an episode everywhere and return the observations `[env, feature]`."""
        ...

    def step(self, actions: np.ndarray) -> Step:
        """Advance every environment by one step."""
        ...

    def extras(self) -> dict[str, np.ndarray]:
        """Return what redraws the present moment, `[env, …]` each."""
        ...

    def pictures(self, segments: Sequence[Segment]) -> dict[str, Picture]:
        """Return what segments looked like, by id, where their extras alone cannot redraw them.

        Only steps made since `forget` was last called can be shown.
        """
        ...

    def forget(self) -> None:
        """Let go of what `pictures` needs of the steps so far."""
        ...

    def model(self) -> Any:
        """Return the MuJoCo model that `extras()["qpos"]` belongs to."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        ...


class BatchedEnvironments:
    """A vector environment that resets in the same step and saves its state (`get_state`)."""

    def __init__(
        self, environments: gymnasium.vector.VectorEnv, name: str, seed: int,
        clip_seconds: float | None = None,
    ):  # fmt: skip
        self.environments: Any = environments
        self.name, self.seed, self.count = name, seed, environments.num_envs
        self.description = _describe(
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
        reports = {int(row): _numbers(final, int(row)) for row in rows}
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
    `is_deterministic` tries once. Pictures come of a replay, too: an environment without a MuJoCo
    model draws itself, but only the moment that it is in.
    """

    def __init__(
        self, name: str, count: int, seed: int, horizon: int | None = None,
        clip_seconds: float | None = None, brief: bool = False,
    ):  # fmt: skip
        first = _make(name)
        self.name, self.seed, self.count = name, seed, count
        limit = horizon or gymnasium.spec(name).max_episode_steps
        if not limit:
            raise UserError(
                f"{name} sets no time limit, and preference learning needs episodes of fixed "
                "length; give one in steps with --horizon, for example --horizon 500"
            )
        inner = first.unwrapped
        self.environments = [FixedHorizon(first, limit)]
        self.description = _describe(
            name, self.environments[0].observation_space, first.action_space,
            inner.metadata, limit, getattr(inner, "dt", None) or getattr(inner, "tau", None),
            clip_seconds,
        )  # fmt: skip
        wait = self.description.clip_steps if brief else None
        self.environments[0].wait = wait
        self.environments += [FixedHorizon(_make(name), limit, wait) for _ in range(count - 1)]
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
                last[row], reports[row] = observations[row], _numbers(results[row][4], None)
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
        episodes: dict[tuple[int, int], list[tuple[int, Segment]]] = {}
        for segment in segments:
            row, episode, first = segment.extras["moment"][0].tolist()
            episodes.setdefault((row, episode), []).append((first, segment))
        every = max(1, round(1 / (PICTURES_PER_SECOND * self.description.dt)))
        found: dict[str, Picture] = {}
        # Whatever a renderer raises: people have the numbers plotted instead.
        with suppress(Exception), closing(self._drawing()) as environment:
            for (row, episode), clips in episodes.items():
                running = episode == self.episodes[row]
                actions = self.actions[row] if running else self.ended[row, episode]
                observations = _replay(environment, self._seed(row, episode), actions)
                for name, images in _film(environment, observations, clips, every).items():
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
        return FixedHorizon(_make(self.name, "rgb_array"), limit, wait)

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
            for _ in _replay(environment, seed, self.actions[row]):
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
    spec = gymnasium.spec(name)
    if spec.vector_entry_point is not None:
        options: dict[str, Any] = {} if horizon is None else {"max_episode_steps": horizon}
        with warnings.catch_warnings(), _installed(name):
            warnings.simplefilter("ignore")  # about overriding max_episode_steps
            built = gymnasium.make_vec(
                name, count, "vector_entry_point", **options, **_threads(spec, threads)
            )
        same_step = built.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP
        if same_step and hasattr(built, "get_state"):
            return BatchedEnvironments(built, name, seed, clip_seconds)
        built.close()
    return SeparateEnvironments(name, count, seed, horizon, clip_seconds, brief)


def resolve(name: str) -> str:
    """Import what the id needs and return it as Gymnasium knows it.

    Raises:
        UserError: the id or its package is unknown; the message lists near names.
    """
    package, _, bare = name.rpartition(":")
    if bare.startswith("prefrl/"):
        package = "prefrl.envs"
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does, and `load_teacher`
    try:
        if package:
            importlib.import_module(package)
        return gymnasium.spec(bare).id
    except ModuleNotFoundError as error:
        raise UserError(f"cannot import {error.name!r}, which environment {name!r} names") from None
    except gymnasium.error.Error:
        known = [*gymnasium.registry]
        near = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`prefrl list` shows those at hand."
        raise UserError(
            f"there is no environment {name!r}; {hint} An environment of your own is named "
            "with the package that registers it: your_package:Your-v0"
        ) from None
    finally:
        sys.path.pop(0)


def is_deterministic(environments: Environments, steps: int = 20) -> bool:
    """Try whether the same seed and actions give the same observations twice."""
    if isinstance(environments, BatchedEnvironments):
        return True
    assert isinstance(environments, SeparateEnvironments)
    one = SeparateEnvironments(environments.name, 1, 0, environments.description.horizon)
    one.description.action_space.seed(0)
    actions = [one.description.action_space.sample() for _ in range(steps)]
    runs = []
    for _ in range(2):
        one.episodes = [0]
        runs.append([one.reset(), *(one.step(np.array([a])).observations for a in actions)])
    return all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def picture_trouble(environments: Environments) -> str:
    """Try whether people can be shown pictures; say what is in the way, "" if nothing is."""
    if "qpos" in environments.extras():
        return ""
    assert isinstance(environments, SeparateEnvironments)
    one = SeparateEnvironments(environments.name, 1, 0, environments.description.horizon)
    try:
        one.show()
        one.reset()
        sheet([shrink(one.frame())], 1)
    except Exception as error:  # whatever a renderer raises
        return str(error)
    return ""


def _replay(
    environment: gymnasium.Env, seed: int, actions: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """Play an episode again; yield what is observed before each action and at the end."""
    yield environment.reset(seed=seed)[0]
    for action in actions:
        yield environment.step(action.item() if action.ndim == 0 else action)[0]


def _film(
    environment: gymnasium.Env, observations: Iterator[np.ndarray],
    clips: Sequence[tuple[int, Segment]], every: int,
) -> dict[str, list[Image]]:  # fmt: skip
    """Draw an episode's clips while it is played again.

    Args:
        environment: draws what it has observed last.
        observations: of the episode, from its first on.
        clips: the step at which each begins, and what was recorded.
        every: steps from one picture to the next.

    Returns:
        The pictures of each clip by its id, without those of clips that did not repeat themselves.
    """
    films: dict[str, list[Image]] = {segment.id: [] for _, segment in clips}
    end = max(first + len(segment) for first, segment in clips)
    for step, observation in enumerate(islice(observations, end)):
        image = None
        for first, segment in clips:
            place = step - first
            if place in (0, len(segment) - 1):
                recorded = segment.observations[place]
                if not np.array_equal(observation.astype(recorded.dtype), recorded):
                    films.pop(segment.id, None)
            if segment.id in films and 0 <= place < len(segment) and place % every == 0:
                image = image or shrink(environment.render())  # type: ignore[arg-type]
                films[segment.id].append(image)
    return films


def _threads(spec: EnvSpec, threads: int) -> dict[str, Any]:
    return {"threads": threads} if spec.id.startswith("prefrl/") else {}


@contextmanager
def _installed(name: str) -> Iterator[None]:
    """Turn what is said of a missing package into a sentence."""
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(f"{name} needs a package that is not installed: {error}") from None


def _make(name: str, render_mode: str | None = None) -> gymnasium.Env:
    # An environment of one's own need not know of render_mode unless it is to draw itself.
    options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    with _installed(name):
        environment = gymnasium.make(name, max_episode_steps=-1, **options)
    space, actions = environment.observation_space, environment.action_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise UserError(
            f"{name} observes {space}; prefrl supports flat Box observations (one dimension of "
            "numbers) so far, neither pixels nor dictionaries. Wrap it, for example with "
            "gymnasium.wrappers.FlattenObservation, and register the result under an id of yours"
        )
    if not (isinstance(actions, Box) and len(actions.shape) == 1) and not (
        isinstance(actions, Discrete) and actions.start == 0
    ):
        raise UserError(f"{name} acts in {actions}; prefrl supports flat Box and Discrete so far")
    return environment


def _describe(
    name: str, space: Any, actions: Any, metadata: dict, horizon: int, dt: float | None,
    clip_seconds: float | None,
) -> Description:  # fmt: skip
    seconds = float(dt or 1 / (metadata.get("render_fps") or 30))
    clip = clip_seconds or metadata.get("clip_seconds", min(1.5, horizon * seconds / 2))
    question = metadata.get("question", f"Which clip is better at {name}?")
    return Description(space, actions, horizon, seconds, question, round(clip / seconds))


def _numbers(info: dict[str, Any], row: int | None) -> dict[str, float]:
    """Return the plain numbers of an info dictionary, of one row where it holds arrays."""
    numbers = {}
    for key, value in info.items():
        if row is not None and (key.startswith("_") or not info.get(f"_{key}", [False])[row]):
            continue
        value = value if row is None else value[row]
        try:
            if np.ndim(value) == 0:
                numbers[key] = float(value)
        except (TypeError, ValueError):  # a word, a ragged list
            continue
    return numbers


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
