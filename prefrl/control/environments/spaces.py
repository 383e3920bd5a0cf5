"""Says which spaces prefrl takes, what is a row of numbers, and how a policy acts."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from prefrl.control.environments.seen import OURS, why_not_seen
from prefrl.environments import contract
from prefrl.environments.ids import holds_text
from prefrl.errors import UserError

LARGEST = 1e15  # of a number observed or paid: float32 can square it and sum the squares
MOST_ACTIONS = 1024  # that a wrapper proposed here would number one by one


def check_spaces(environment: gymnasium.Env) -> tuple[Box, Box | Discrete]:
    """Return the observation and the action space.

    Raises:
        UserError: prefrl cannot learn in them; the message names a wrapper that mends it, where
            there is one.
    """
    name = contract.name_of(environment)
    space = contract.space_of(environment, "observation", "a Box, a row of numbers")
    if not isinstance(space, Box) and holds_text(environment, name):
        raise UserError(
            f"{name} speaks text, but the settings are those of a robot, ControlConfig(); expected "
            "TextConfig(), or none (domain=None)"
        )
    problem = why_not_seen(space)
    if problem:
        raise UserError(f"{name} observes {contract.short(space)}{problem}")
    assert isinstance(space, Box)
    if not space.shape[0]:
        raise UserError(
            f"{name} observes nothing, an empty {space}; expected at least one number (a constant "
            "will do)"
        )
    actions = contract.space_of(environment, "action", "a Box or a Discrete")
    problem = _problem_with(actions)
    if problem:
        raise UserError(f"{name} acts in {contract.short(actions)}{problem}")
    assert isinstance(actions, Box | Discrete)
    return space, actions


def with_ended(observations: np.ndarray, width: int, shows_end: bool) -> np.ndarray:
    """Return observations as they are recorded, `[…, width]`.

    Where the record shows ends, what says that the episode has ended comes last (`FixedHorizon`).
    The environment itself gives observations without it: for those it is 0.

    Raises:
        UserError: they have another width.
    """
    observations = np.asarray(observations)
    given = observations.shape[-1] if observations.ndim else 0
    if shows_end and given == width - 1:
        return np.concatenate([observations, np.zeros_like(observations[..., :1])], axis=-1)
    if given != width:
        own = f"{width - 1}, as the environment gives them, or " if shows_end else ""
        raise UserError(
            f"observations of {given} numbers are given; expected {own}{width}, as recorded"
        )
    return observations


def is_picture(space: Box) -> bool:
    """Return whether a space that `check_spaces` has passed holds pictures."""
    return len(space.shape) > 1


def as_observed(observation: object, space: Box) -> np.ndarray | None:
    """Return an observation as a row of numbers, or a picture; None if it is none of the space."""
    try:
        seen = np.asarray(observation)
    except ValueError:  # a ragged list
        return None
    if is_picture(space):
        return seen.copy() if (seen.shape, seen.dtype) == (space.shape, np.uint8) else None
    if seen.shape != space.shape or seen.dtype.kind not in "fiub":
        return None
    return seen if np.logical_and(seen >= -LARGEST, seen <= LARGEST).all() else None


def why_not_observed(observation: object, space: Box) -> str:
    """Say what is wrong with an observation that is none of the space."""
    try:
        seen = np.asarray(observation)
    except ValueError:
        seen = np.asarray(None)
    if is_picture(space) and seen.dtype.kind in "fiub":
        return (
            f"an observation of {seen.dtype}, shape {seen.shape}, but its observation_space holds "
            f"pictures of uint8, shape {space.shape}; make the two agree"
        )
    if seen.dtype.kind in "fiub" and seen.shape == space.shape:
        return _too_large(seen)
    description = f"an observation of {seen.size} numbers, shape {seen.shape}"
    if seen.dtype.kind not in "fiub":
        description = f"the observation {contract.short(observation)}"
    return (
        f"{description}, but its observation_space holds {math.prod(space.shape)}, shape "
        f"{space.shape}; make the two agree"
    )


def policy_space(space: Box | Discrete) -> Box | Discrete:
    """Return the space that a policy acts in: for a box, whatever its bounds, −1 to 1."""
    return Box(-1.0, 1.0, space.shape, np.float32) if isinstance(space, Box) else space


def from_policy(space: Box | Discrete, actions: np.ndarray) -> np.ndarray:
    """Return a policy's actions `[…, action]` as the environment takes them."""
    if isinstance(space, Discrete):
        return actions
    low, high = _bounds(space)
    if (low == -1).all() and (high == 1).all():
        return actions.astype(space.dtype, copy=False)
    scaled = low + (actions.astype(np.float64) + 1) / 2 * (high - low)
    return np.clip(scaled, low, high).astype(space.dtype)


def to_policy(space: Box | Discrete, actions: np.ndarray) -> np.ndarray:
    """Return an environment's actions `[…, action]` as its policy made them, float32 for a box."""
    if isinstance(space, Discrete):
        return actions
    low, high = _bounds(space)
    if (low == -1).all() and (high == 1).all():
        return actions.astype(np.float32, copy=False)
    width = np.where(high > low, high - low, 1.0)
    return ((actions.astype(np.float64) - low) / width * 2 - 1).astype(np.float32)


def _bounds(space: Box) -> tuple[np.ndarray, np.ndarray]:
    return space.low.astype(np.float64), space.high.astype(np.float64)


def _problem_with(space: gymnasium.Space) -> str:
    """Return why prefrl cannot act in a space, and what to do, after its name; "" if it can."""
    nothing = (
        ", which leaves nothing to choose and so nothing to learn; give it two actions or more"
    )
    if isinstance(space, Discrete):
        if space.n < 2:
            return nothing
        return "" if space.start == 0 else _wrapped(f"action + {space.start}", _discrete(space.n))
    if isinstance(space, MultiDiscrete | MultiBinary):
        counts = space.nvec if isinstance(space, MultiDiscrete) else np.full(space.shape, 2)
        starts = getattr(space, "start", np.zeros(counts.shape, int))
        total = math.prod(counts.ravel().tolist())
        if total < 2:
            return nothing
        if total <= MOST_ACTIONS and counts.ndim == 1 and not np.any(starts):
            numbering = f"numpy.array(numpy.unravel_index(action, {tuple(counts.tolist())}))"
            return _wrapped(numbering, _discrete(total))
        return _by_hand()
    if isinstance(space, Box):
        return nothing if (space.low == space.high).all() else _problem_with_box(space)
    if isinstance(space, Tuple | Dict) and _holds_boxes_alone(space):
        return _flattened()
    return _by_hand()


def _problem_with_box(space: Box) -> str:
    if len(space.shape) != 1:
        return _flattened()
    if space.dtype.kind != "f":
        whole = f"numpy.rint(action).astype(numpy.{space.dtype})"
        bounds = "env.action_space.low, env.action_space.high"
        return _wrapped(whole, f"gymnasium.spaces.Box({bounds}, dtype=numpy.float32)")
    if max(np.abs(space.low).max(), np.abs(space.high).max()) > LARGEST:
        low, high = _bounds(space)
        low = np.where(low < -LARGEST, np.where(high > LARGEST, -1.0, high - 1), low)
        high = np.where(high > LARGEST, np.where(low == -1, 1.0, low + 1), high)
        box = f"gymnasium.spaces.Box({_vector(low)}, {_vector(high)}, {space.shape})"
        advice = _wrapped("action", box, "with bounds of yours")
        return f", which has no bounds to explore between{advice}"
    return ""


def _wrapped(function: str, space: str, hint: str = "") -> str:
    """Return the advice to put a wrapper around the environment, as code that runs."""
    return (
        "; prefrl takes a flat Box with bounds or a Discrete; wrap it in "
        f"gymnasium.wrappers.TransformAction(env, lambda action: {function}, {space})"
        f"{hint and f', {hint}'}, and {OURS}"
    )


def _vector(values: np.ndarray) -> str:
    """Return numbers as code: a single one where all are the same."""
    same = len(set(values.tolist())) == 1
    return f"{values[0]:g}" if same else f"numpy.array({values.tolist()}, numpy.float32)"


def _discrete(count: int) -> str:
    return f"gymnasium.spaces.Discrete({count})"


def _flattened() -> str:
    return _wrapped(
        "gymnasium.spaces.unflatten(env.action_space, action)",
        "gymnasium.spaces.flatten_space(env.action_space)",
    )


def _by_hand() -> str:
    return (
        "; prefrl takes a flat Box with bounds or a Discrete; wrap it in "
        "gymnasium.wrappers.TransformAction(env, function, space), where the function makes such "
        f"an action of one of the space, a Box or a Discrete, and {OURS}"
    )


def _holds_boxes_alone(space: gymnasium.Space) -> bool:
    if isinstance(space, Tuple | Dict):
        inner = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return all(map(_holds_boxes_alone, inner))
    return isinstance(space, Box) and not _problem_with_box(space)


def _too_large(row: np.ndarray) -> str:
    """Say which number of an observation cannot be learned from."""
    index = int(np.flatnonzero(~np.logical_and(row >= -LARGEST, row <= LARGEST))[0])
    value = row[index]
    if not np.isfinite(value):
        return f"{value} as number {index} of the observation; expected finite numbers"
    return (
        f"{value:.3g} as number {index} of the observation, which float32 cannot compute with; "
        f"expected numbers from {-LARGEST:g} to {LARGEST:g}. For what is missing or out of sight "
        "give a number near the others, such as the end of the sensor's range, or wrap it in "
        "gymnasium.wrappers.TransformObservation(env, lambda row: numpy.clip(row, -100, 100), "
        "env.observation_space)"
    )
