"""Plays episodes again from seed and actions, and films them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import gymnasium
import numpy as np
from PIL.Image import Image

from prefrl.clips.pictures import shrink
from prefrl.environments import contract
from prefrl.errors import UserError, raised_by
from prefrl.types import Segment

PICTURES_PER_SECOND = 30
NO_PICTURES = (
    "draws no pictures; give it the render mode rgb_array (in its metadata's render_modes), and a "
    "render() that returns an array [height, width, 3] of uint8"
)
EXPECTED = (
    'expected a picture, uint8 [height, width, 3], as render_mode="rgb_array" promises; correct '
    "the environment's render()"
)


def steps_per_picture(dt: float) -> int:
    """Return how many steps of `dt` seconds each picture stands for."""
    return max(1, round(1 / (PICTURES_PER_SECOND * dt)))


def by_episode(segments: Sequence[Segment]) -> dict[tuple[int, int], list[tuple[int, Segment]]]:
    """Return by environment and episode the clips that lie in it, each with its first step."""
    episodes: dict[tuple[int, int], list[tuple[int, Segment]]] = {}
    for segment in segments:
        row, episode, first = segment.extras["replay_key"][0].tolist()
        episodes.setdefault((row, episode), []).append((first, segment))
    return episodes


def replay(
    environment: gymnasium.Env, seed: int, actions: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """Play an episode again; yield what is observed before each action and at the end."""
    yield environment.reset(seed=seed)[0]
    for action in actions:
        yield environment.step(action.item() if action.ndim == 0 else action.copy())[0]


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

    Raises:
        UserError: the environment fails, or draws no pictures of one size.
    """
    films: dict[str, list[Image]] = {segment.id: [] for _, segment in clips}
    size: tuple[int, ...] = ()
    end = max(first + len(segment) for first, segment in clips)
    for step, observation in enumerate(islice(observations, end)):
        image = None
        for first, segment in clips:
            index = step - first
            if index in (0, len(segment) - 1):
                recorded = segment.observations[index]
                if not np.array_equal(observation.astype(recorded.dtype), recorded):
                    films.pop(segment.id, None)
            if segment.id in films and 0 <= index < len(segment) and index % every == 0:
                if image is None:
                    picture = picture_of(environment, size)
                    image, size = shrink(picture), picture.shape
                films[segment.id].append(image)
    return films


def picture_of(environment: gymnasium.Env, size: tuple[int, ...] = ()) -> np.ndarray:
    """Return what an environment draws of its moment, uint8 `[height, width, 3]`.

    Args:
        environment: made with the render mode "rgb_array".
        size: the shape of the pictures before, which all must have.

    Raises:
        UserError: it draws something else, or nothing.
    """
    try:
        frame = environment.render()
    except gymnasium.error.DependencyNotInstalled as error:
        name = contract.name_of(environment)
        raise UserError(f"{name} needs a package to draw itself: {error}") from None
    except Exception as error:  # whatever a renderer raises
        raise contract.broken(environment, f"{raised_by('render()', error)}; {EXPECTED}") from error
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = (
            f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else repr(frame)
        )
        raise contract.broken(environment, f"render() gave {kind}; {EXPECTED}")
    if frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise contract.broken(environment, f"render() gave uint8 {list(frame.shape)}; {EXPECTED}")
    if size and frame.shape != size:
        raise contract.broken(
            environment,
            f"render() gave uint8 {list(frame.shape)}, after {list(size)} before; expected "
            "pictures of one size",
        )
    return frame
