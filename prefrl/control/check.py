"""Tells whether an environment of numbers is one that prefrl can learn in; see `runs.check`."""

from __future__ import annotations

import re
import warnings
from contextlib import closing

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from prefrl.control.environments.adapters import make_batched
from prefrl.control.environments.fixed_horizon import FixedHorizon
from prefrl.control.environments.probe import try_episodes, try_out
from prefrl.control.environments.seen import flattened
from prefrl.control.environments.spaces import check_spaces
from prefrl.environments import contract, ids

LONGEST_EPISODE = 1000
# What Gymnasium's check says of things that are as good here as others.
NO_MATTER = re.compile(
    "unwrapped version|Box (observation|action) space m|we recommend using a sym"
)
COLOUR = re.compile("\x1b\\[[0-9;]*m")


def check_environment(
    environment: gymnasium.Env | EnvSpec | str, limit: int | None = None
) -> list[str]:
    """Try an environment out and return notes: what may be meant so, but often is not.

    Args:
        environment: an environment, what `ids.resolve` returned, or an id.
        limit: steps of an episode; the id's own limit by default.

    Raises:
        UserError: it breaks Gymnasium's contract, or prefrl cannot learn in its spaces.
    """
    if isinstance(environment, gymnasium.Env):
        environment = flattened(environment)
        check_spaces(environment)
        steps = limit or (environment.spec and environment.spec.max_episode_steps)
        notes = try_episodes(FixedHorizon(environment, steps or LONGEST_EPISODE))
        return notes + _gymnasiums_notes(environment)
    spec = ids.resolve(environment)
    batched = make_batched(spec, 1, 0, limit)
    if batched is not None:  # its clips are redrawn from poses
        batched.close()
    notes = try_out(spec, limit, pictures=batched is None)
    with closing(ids.make(spec)) as built:
        return notes + _gymnasiums_notes(built)


def _gymnasiums_notes(environment: gymnasium.Env) -> list[str]:
    """Return what Gymnasium's own check says, without what does not matter here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        failure = ""
        try:
            check_env(environment, skip_render_check=True, skip_close_check=True)
        except Exception as error:  # mostly AssertionError, but whatever it meets
            failure = str(error)
    messages = [str(warning.message) for warning in caught] + [failure]
    lines = [" ".join(COLOUR.sub("", line).removeprefix("WARN: ").split()) for line in messages]
    name = contract.name_of(environment)
    kept = dict.fromkeys(line.removeprefix("WARN: ") for line in lines if line)
    return [
        f"{name}: Gymnasium's own check says: {line}" for line in kept if not NO_MATTER.search(line)
    ]
