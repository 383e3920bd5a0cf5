"""Pictures that are observed: how their axes lie, and what is to be seen of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LARGEST_COLOURS = 4  # of a last axis that holds colours: grey, red green blue, and how opaque


class Layout(NamedTuple):
    """How the axes of a picture lie: frames one after another, rows, columns, colours.

    Gymnasium's `FrameStackObservation` puts frames first; colours come last.
    """

    frames: int
    height: int
    width: int
    colours: int
    axes: int
    """How many of these four there are: of two, rows and columns alone."""

    @property
    def channels(self) -> int:
        """How many planes of one number a pixel there are."""
        return self.frames * self.colours


def layout(shape: tuple[int, ...]) -> Layout:
    """Return how the two to four axes of a picture lie.

    Of three axes the last one holds colours unless the first one is shorter: then it holds frames.
    """
    frames = shape[:1] if len(shape) == 4 or (len(shape) == 3 and shape[0] < shape[2]) else ()
    height, width, *colours = shape[len(frames) :]
    return Layout(*(frames or (1,)), height, width, *(colours or (1,)), axes=len(shape))


def planes(pictures: np.ndarray, shape: Layout) -> np.ndarray:
    """Return pictures as an encoder takes them, uint8 `[…, channel, row, column]`."""
    whole = _axes(pictures, shape)
    moved = np.moveaxis(whole, -1, -3)
    return np.array(moved.reshape(*whole.shape[:-4], shape.channels, *shape[1:3]))


def newest_frames(pictures: np.ndarray) -> np.ndarray:
    """Return the last frame of pictures `[step, …]`, uint8 `[step, row, column, 3]`.

    Colours that no eye has (two, or more than four) are frames, too, of which the last one counts.
    """
    shape = layout(pictures.shape[1:])
    frames = _axes(pictures, shape)[:, -1]
    in_colour = shape.colours in (3, LARGEST_COLOURS)
    return frames[..., :3] if in_colour else np.repeat(frames[..., -1:], 3, axis=-1)


def are_pictures(observations: np.ndarray) -> bool:
    """Return whether the observations `[step, …]` of a clip are pictures: those alone are uint8."""
    return observations.dtype == np.uint8 and observations.ndim >= 3


def _axes(pictures: np.ndarray, shape: Layout) -> np.ndarray:
    """Return pictures with all four axes."""
    before = pictures.shape[: pictures.ndim - shape.axes]
    return np.asarray(pictures, np.uint8).reshape(*before, *shape[:4])
