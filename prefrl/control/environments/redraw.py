"""Plays episodes again from seed and actions, and films them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import gymnasium
import numpy as np
from PIL.Image import Image

from prefrl.clips.pictures import shrink
from prefrl.types import Segment

PICTURES_PER_SECOND = 30


def steps_per_picture(dt: float) -> int:
    """Return how many steps of `dt` seconds each picture stands for."""
    return max(1, round(1 / (PICTURES_PER_SECOND * dt)))


def by_episode(segments: Sequence[Segment]) -> dict[tuple[int, int], list[tuple[int, Segment]]]:
    """Return by environment and episode the clips that lie in it, each with its first step."""
    episodes: dict[tuple[int, int], list[tuple[int, Segment]]] = {}
    for segment in segments:
        row, episode, first = segment.extras["moment"][0].tolist()
        episodes.setdefault((row, episode), []).append((first, segment))
    return episodes


def replay(
    environment: gymnasium.Env, seed: int, actions: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """Play an episode again; yield what is observed before each action and at the end."""
    yield environment.reset(seed=seed)[0]
    for action in actions:
        yield environment.step(action.item() if action.ndim == 0 else action)[0]


def film(
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
