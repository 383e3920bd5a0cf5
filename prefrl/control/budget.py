"""Whether the numbers of a robot's run go together: every round must hold a rollout, and a clip.

What is refused is told a number that works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefrl.config.experiment import Experiment
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.control.environments.interface import Description


def smallest_round(experiment: Experiment) -> int:
    """Return the steps of one rollout."""
    return experiment.control.ppo.n_steps * experiment.control.num_envs


def check_budget(experiment: Experiment, description: Description) -> None:
    """Raise `UserError` unless a clip fits into an episode, and every round is sure to hold one.

    A round is whole rollouts. It is cut where episodes end, at worst once and in the middle: every
    episode, even one that ends at once, lasts at least as long as a clip.
    """
    clip_steps, horizon, dt = description.clip_steps, description.horizon, description.dt
    if not 0 < clip_steps <= horizon:
        seconds = experiment.control.clip_seconds or clip_steps * dt
        raise UserError(
            f"a clip of {seconds:.3g} s lasts {clip_steps} steps of {dt:g} s, but an episode of "
            f"{experiment.env} has {horizon}; choose --clip-seconds from {dt:.12g} to "
            f"{horizon * dt:.12g}"
        )
    count, n_steps = experiment.control.num_envs, experiment.control.ppo.n_steps
    rollouts = experiment.steps // experiment.round_count // smallest_round(experiment)
    needed = 1
    if experiment.reward == "learned":  # r rollouts hold a stretch of (r * n_steps + 1) // 2
        needed = -((1 - 2 * clip_steps) // n_steps)
    if rollouts < 1:
        raise UserError(
            f"{experiment.steps} steps in {experiment.round_count} rounds leave a round less than "
            f"one rollout of {count} environments x {n_steps} steps; "
            + _longer_rounds(experiment, needed)
        )
    if rollouts < needed:
        raise UserError(
            f"a clip lasts {clip_steps} steps, but a round of {rollouts * n_steps} steps in each "
            f"of {count} environments is only sure to hold a stretch of "
            f"{(rollouts * n_steps + 1) // 2} within one episode; "
            + _longer_rounds(experiment, needed)
        )


def _longer_rounds(experiment: Experiment, rollouts: int) -> str:
    """Return which numbers of rounds, or of steps, leave each round so many rollouts."""
    steps = rollouts * smallest_round(experiment)
    if most := experiment.steps // steps:
        return f"use --rounds {most}" + (" or fewer" if most > 1 else "")
    return f"use --rounds 1 --steps {steps} or more, or fewer environments (--num-envs)"
