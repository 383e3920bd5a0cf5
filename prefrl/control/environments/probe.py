"""Tries an environment out before a run begins, and closes it again."""

from __future__ import annotations

import time
from contextlib import closing

import numpy as np
from gymnasium.envs.registration import EnvSpec

from prefrl.clips.pictures import sheet, shrink
from prefrl.control.environments.fixed_horizon import FixedHorizon
from prefrl.control.environments.make import build_drawing, can_draw, fixed, mujoco_model
from prefrl.control.environments.redraw import NO_PICTURES, picture_of, replay
from prefrl.environments import contract
from prefrl.errors import UserError

SEED = 0
LEAST_STEPS = 20
SECONDS = 0.5  # for an episode; a slow simulator is not kept from training


def try_out(spec: EnvSpec, horizon: int | None = None, pictures: bool = False) -> list[str]:
    """Play an episode twice, with another in between; return what is worth a note.

    Args:
        spec: as `ids.resolve` returned it.
        horizon: steps of an episode; the id's own limit by default.
        pictures: try, too, whether it can be drawn for people.

    Raises:
        UserError: the environment breaks Gymnasium's contract, or prefrl cannot learn in it.
    """
    with closing(fixed(spec, horizon)) as environment:
        notes, draws = try_episodes(environment), can_draw(environment)
        pictures = pictures and mujoco_model(environment) is None
    if pictures and (trouble := why_no_pictures(spec, draws)):
        notes.append(f"the page plots what is observed, without pictures: {trouble}")
    return notes


def try_episodes(environment: FixedHorizon) -> list[str]:
    """Play an episode twice, with the same seed and actions, and another one in between."""
    space = environment.action_space
    space.seed(SEED)
    begun, seen, actions = time.monotonic(), [environment.reset(seed=SEED)[0]], []
    while len(actions) < environment.horizon:
        if len(actions) >= LEAST_STEPS and time.monotonic() - begun > SECONDS:
            break
        actions.append(np.asarray(space.sample()))
        seen.append(environment.step(actions[-1].copy())[0])
    for _ in replay(environment, SEED + 1, actions[:LEAST_STEPS]):
        pass
    for step, (one, other) in enumerate(zip(seen, replay(environment, SEED, actions), strict=True)):
        if not np.array_equal(one, other):
            return [
                f"{contract.name_of(environment.env)} {contract.NOT_DETERMINISTIC}: a resumed run "
                "goes on, but not exactly as it would have (after the same seed and actions "
                f"something else is observed in step {step}; let all chance come from "
                "self.np_random after super().reset(seed=seed))"
            ]
    return []


def why_no_pictures(spec: EnvSpec, draws: bool) -> str:
    """Return why an environment that says whether it draws itself does not, "" if it does."""
    if not draws:
        return f"{spec.id} {NO_PICTURES}"
    try:
        with closing(build_drawing(spec)) as environment:
            environment.reset(seed=SEED)
            sheet([shrink(picture_of(environment))], 1)
    except UserError as error:
        return str(error)
    return ""
