"""Runs Gymnasium environments of any kind, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from prefrl.clips.pictures import sheet
from prefrl.control.environments.fixed_horizon import FixedHorizon
from prefrl.control.environments.interface import Step, describe
from prefrl.control.environments.looks import Looks
from prefrl.control.environments.make import (
    build,
    build_drawing,
    can_draw,
    fixed,
    metadata_of,
    step_seconds,
)
from prefrl.control.environments.redraw import (
    NO_PICTURES,
    by_episode,
    film,
    picture_of,
    replay,
    steps_per_picture,
)
from prefrl.environments import contract
from prefrl.environments.aspects import paid_by_aspect
from prefrl.environments.info import numbers
from prefrl.errors import UserError, note
from prefrl.types import ENDED, Picture, Segment

UNLIKE = "did not do the same when it was played again from its seed and actions"


class SeparateEnvironments:
    """Gymnasium environments stepped one after another, each episode reset with its own seed.

    The state of an unknown environment cannot be saved, so it is resumed by replay: the episode's
    seed and the actions since. That is exact where the environment is deterministic, which
    `probe.try_out` tries once; where it shows later that it is not, there is a note. Pictures come
    of a replay, too: an environment without a MuJoCo model draws itself, but only the moment that
    it is in. Where there is one environment, there is never a second one beside it.
    """

    def __init__(
        self, spec: EnvSpec, count: int, seed: int, horizon: int | None = None,
        clip_seconds: float | None = None, truncate_after_end: bool = False,
    ):  # fmt: skip
        self.spec, self.name, self.seed, self.count = spec, spec.id, seed, count
        first = fixed(spec, horizon)
        self.environments = [first]
        metadata = metadata_of(first)
        self.looks = Looks(first, count)
        self.has_poses = self.looks.model is not None
        self.draws = can_draw(first)
        self.is_redrawn = first.shows_end and self.draws and not self.has_poses
        """Whether a copy draws clips: pictures that are observed are shown themselves."""
        self.description = describe(
            spec.id, first.observation_space, first.action_space, metadata, first.horizon,
            step_seconds(first), clip_seconds, first.shows_end,
        )  # fmt: skip
        self.wait = self.description.clip_steps if truncate_after_end else None
        first.wait = self.wait
        for _ in range(1, count):
            self.environments.append(self._another())
        self.picture_size: tuple[int, ...] = ()
        self.episodes = [0] * count
        self.actions: list[list[np.ndarray]] = [[] for _ in range(count)]
        self.shown = np.zeros((count, *first.observation_space.shape))  # type: ignore[misc]
        """What was observed last, `[env, …]`."""
        self.ended: dict[tuple[int, int], np.ndarray] = {}
        """The actions of episodes that ended since `clear_history`, by environment and episode."""

    def reset(self) -> np.ndarray:
        """Start an episode everywhere."""
        self.shown = np.stack([self._reset(row) for row in range(self.count)])
        return self.shown

    def step(self, actions: np.ndarray) -> Step:
        """Advance every environment by one step."""
        results = [
            environment.step(action.copy())  # which some environments write to
            for environment, action in zip(self.environments, actions, strict=True)
        ]
        rewards = np.array([result[1] for result in results], np.float64)
        ended = np.array([result[3] for result in results])
        observations = [result[0] for result in results]
        last, reports = {}, {}
        for row, action in enumerate(actions):
            self.actions[row].append(np.array(action))
            if ended[row]:
                last[row], reports[row] = observations[row], numbers(results[row][4])
                if self.is_redrawn:
                    self.ended[row, self.episodes[row]] = np.array(self.actions[row])
                self.episodes[row] += 1
                observations[row] = self._reset(row)
        self.shown = np.stack(observations)
        return Step(self.shown, rewards, ended, last, reports, self._paid(results))

    def _paid(self, results: Sequence[tuple[Any, ...]]) -> dict[str, np.ndarray]:
        """Return what is truly paid for each aspect, `[env]`; nothing where not all say it."""
        aspects = self.description.aspects
        rows = [paid_by_aspect(result[4], aspects) for result in results] if aspects else []
        if not all(rows):
            return {}
        return {aspect: np.array([row[aspect] for row in rows]) for aspect in aspects}

    def extras(self) -> dict[str, np.ndarray]:
        """Return whether episodes are over, and what redraws a MuJoCo model where there is one.

        Else `replay_key`, if it can draw itself: environment, episode, and actions made in it so
        far.
        """
        over = np.array([environment.over for environment in self.environments])
        extras = {ENDED: over} | self.looks.extras(self.environments)
        if self.is_redrawn:
            made = [len(actions) for actions in self.actions]
            key = [np.arange(self.count), self.episodes, made]
            extras["replay_key"] = np.stack(key, 1, dtype=np.int32)
        return extras

    def pictures(self, segments: Sequence[Segment]) -> dict[str, Picture]:
        """Let a copy of the environment play the segments' episodes again and draw itself.

        What the copy does not observe as it was recorded has no picture.
        """
        if not self.is_redrawn or not segments:
            return {}
        episodes, every = by_episode(segments), steps_per_picture(self.description.dt)
        sheets: dict[str, Picture] = {}
        try:
            with self._set_aside(), closing(self._drawing()) as environment:
                for (row, episode), clips in episodes.items():
                    running = episode == self.episodes[row]
                    actions = self.actions[row] if running else self.ended[row, episode]
                    observations = replay(environment, self._seed(row, episode), actions)
                    for name, images in film(environment, observations, clips, every).items():
                        sheets[name] = sheet(images, every)
        except UserError as error:
            note(f"the page plots what is observed, without pictures: {error}")
            return sheets
        if len(sheets) < len(segments):
            note(f"{self.name} {UNLIKE}, so some clips have no pictures")
        return sheets

    def clear_history(self) -> None:
        """Let go of the actions of episodes that have ended."""
        self.ended = {}

    def model(self) -> Any:
        """Return the first environment's MuJoCo model, as it was built."""
        return self.looks.model

    def show(self) -> None:
        """Build the environments again as ones that draw themselves; call before `reset`.

        Raises:
            UserError: they cannot draw pictures, or what they draw with is not installed.
        """
        self.close()
        self.environments = [self._drawing() for _ in range(self.count)]

    def frame(self) -> np.ndarray:
        """Return a picture of the first environment, uint8 `[height, width, 3]`."""
        picture = picture_of(self.environments[0], self.picture_size)
        self.picture_size = picture.shape
        return picture

    def close(self) -> None:
        """Close every environment."""
        for environment in self.environments:
            contract.close(environment)

    def get_state(self) -> dict[str, Any]:
        """Return what replays the present episodes, and what is observed at their end."""
        return {
            "episodes": list(self.episodes),
            "actions": [np.array(actions) for actions in self.actions],
            "shown": self.shown,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Replay the episodes that were under way."""
        self.episodes, self.ended, self.shown = list(state["episodes"]), {}, state["shown"]
        self.actions = [[np.array(action) for action in actions] for actions in state["actions"]]
        self._replay()

    def _replay(self) -> None:
        """Bring new environments to where the old ones were."""
        alike = True
        for row, environment in enumerate(self.environments):
            seed = self._seed(row, self.episodes[row])
            played = replay(environment, seed, self.actions[row])
            last = next(played)
            self.looks.begin(row, environment)
            last = ([last, *played])[-1]
            alike &= np.array_equal(last, self.shown[row])
        if not alike:
            note(f"{self.name} {UNLIKE}: the run goes on, but not exactly as it would have")

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Close the environment while a copy is at work, if it is the only one."""
        if self.count > 1:
            yield
            return
        self.close()
        try:
            yield
        finally:
            self.environments = [
                FixedHorizon(build(self.spec), self.description.horizon, self.wait)
            ]
            self._replay()

    def _another(self) -> FixedHorizon:
        """Build one more environment beside those there are."""
        try:
            environment = build(self.spec)
        except UserError as error:
            self.close()
            raise UserError(
                f"{error}, when there was one already; if it can exist only once, train with "
                "--num-envs 1 and evaluate with --episodes 1"
            ) from error
        return FixedHorizon(environment, self.description.horizon, self.wait)

    def _drawing(self) -> FixedHorizon:
        """Build an environment that draws itself."""
        if not self.draws:
            raise UserError(f"{self.name} {NO_PICTURES}")
        return FixedHorizon(build_drawing(self.spec), self.description.horizon, self.wait)

    def _reset(self, row: int) -> np.ndarray:
        self.actions[row] = []
        observation = self.environments[row].reset(seed=self._seed(row, self.episodes[row]))[0]
        self.looks.begin(row, self.environments[row])
        return observation

    def _seed(self, row: int, episode: int) -> int:
        entropy = np.random.SeedSequence([self.seed, row, episode])
        return int(entropy.generate_state(1)[0] >> 1)
