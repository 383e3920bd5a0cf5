"""Which observations prefrl learns from, and what to do about others."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from prefrl.clips.observed import layout

SMALLEST_SIDE = 8
"""Pixels of a picture's shorter side: three convolutions find nothing in fewer."""
OURS = "register the result under an id of yours"
FLATTEN = "wrap it in gymnasium.wrappers.FlattenObservation(env)"
TAKES = "; prefrl takes a row of numbers, a flat Box, or a picture, a Box of uint8 from 0 to 255; "


def flattened(environment: gymnasium.Env) -> gymnasium.Env:
    """Return an environment that gives rows of numbers where it gave several things together.

    Dictionaries, tuples and choices become rows as `gymnasium.spaces.flatten` makes them, a choice
    one-hot. Boxes stay as they are, and so does what holds pictures.
    """
    space = getattr(environment, "observation_space", None)
    kinds = (Dict, Tuple, Discrete, MultiDiscrete, MultiBinary)
    if not isinstance(space, kinds) or not space.is_np_flattenable or picture_in(space):
        return environment
    return gymnasium.wrappers.FlattenObservation(environment)


def why_not_seen(space: gymnasium.Space) -> str:
    """Return why prefrl cannot learn from observations of a space, and what to do; "" if it can.

    It goes on where a sentence has named the space.
    """
    if isinstance(space, Box) and len(space.shape) == 1:
        return ""
    if isinstance(space, Box) and 2 <= len(space.shape) <= 4:
        if space.dtype == np.uint8:
            return _why_no_picture(space)
        if _looks_like_picture(space):
            return _of_other_numbers(space)
    if found := picture_in(space):
        path, _ = found
        return (
            f", a picture beside other things{TAKES}choose the picture, with gymnasium.wrappers."
            f"TransformObservation(env, lambda seen: seen{path}, env.observation_space{path}), or "
            f"make one row of numbers of all, with gymnasium.wrappers.FlattenObservation(env), "
            f"and {OURS}"
        )
    if space.is_np_flattenable:
        return f"{TAKES}{FLATTEN}, and {OURS}"
    return f"{TAKES}write a gymnasium.ObservationWrapper that gives a row of numbers, and {OURS}"


def picture_in(space: gymnasium.Space) -> tuple[str, Box] | None:
    """Return where in a dictionary or a tuple there is a picture, as code, and its space."""
    if isinstance(space, Dict | Tuple):
        inner = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        for name, part in inner:
            if isinstance(part, Box) and part.dtype == np.uint8 and _looks_like_picture(part):
                return f"[{name!r}]", part
            if found := picture_in(part):
                return f"[{name!r}]{found[0]}", found[1]
    return None


def _looks_like_picture(space: Box) -> bool:
    if not 2 <= len(space.shape) <= 4:
        return False
    shape = layout(space.shape)
    return min(shape.height, shape.width) >= SMALLEST_SIDE


def _why_no_picture(space: Box) -> str:
    """Return why the encoder does not serve pictures of uint8, and what to do; "" if it does."""
    shape = layout(space.shape)
    side = min(shape.height, shape.width)
    if side < SMALLEST_SIDE:
        return (
            f", pictures of {shape.height} x {shape.width} pixels; three convolutions read those "
            f"of {SMALLEST_SIDE} x {SMALLEST_SIDE} or more; to learn from rows of numbers instead, "
            f"{FLATTEN}, and {OURS}"
        )
    if shape.channels > side:
        return (
            f", pictures of {shape.channels} planes (frames and colours), more than the {side} "
            "pixels of a side; stack fewer frames, gymnasium.wrappers.FrameStackObservation(env, "
            f"4) for instance, and {OURS}"
        )
    if (space.low != 0).any() or (space.high != 255).any():
        low, high = int(space.low.min()), int(space.high.max())
        scaled = f"((picture - {low}.0) * {255 / max(high - low, 1):g})"
        return f", pictures whose numbers end at {high}, not 255; {_transformed(space, scaled)}"
    return ""


def _of_other_numbers(space: Box) -> str:
    """Say what to do about pictures of other numbers than uint8."""
    low, high = float(space.low.min()), float(space.high.max())
    known = np.isfinite([low, high]).all() and high > low
    shift = f"(picture - {low:g})" if low else "picture"
    scaled = f"({shift} * {255 / (high - low):g})" if known else "numpy.clip(picture, 0, 255)"
    return f"{TAKES}if they are pictures, {_transformed(space, scaled, FLATTEN)}"


def _transformed(space: Box, picture: str, otherwise: str = "") -> str:
    """Return the advice to make other pictures of some, as code that runs."""
    wrapped = (
        f"wrap it in gymnasium.wrappers.TransformObservation(env, lambda picture: {picture}"
        f".astype(numpy.uint8), gymnasium.spaces.Box(0, 255, {space.shape}, numpy.uint8))"
    )
    return f"{wrapped}{otherwise and f'; if not, {otherwise}'}, and {OURS}"
