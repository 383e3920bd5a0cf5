"""Whether the numbers of a robot's run go together: every round must hold a rollout, and a clip.

What is refused is told a number that works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefrl.config.control import RewardConfig
from prefrl.config.experiment import Experiment
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.control.environments.interface import Description


def rollout_steps(experiment: Experiment) -> int:
    """Return the steps of one rollout, those of all environments together."""
    return experiment.control.agent.n_steps * experiment.control.environment_count


def smallest_round(experiment: Experiment, clip_steps: int) -> int:
    """Return the least steps of a round, in which a clip is sure to lie."""
    return _rollouts_needed(experiment, clip_steps) * rollout_steps(experiment)


def _rollouts_needed(experiment: Experiment, clip_steps: int) -> int:
    if not experiment.learns_reward:
        return 1
    # r rollouts hold a stretch of (r * n_steps + 1) // 2, where 2 are the pieces
    pieces = _pieces(experiment)
    return -((pieces - 1 - pieces * clip_steps) // experiment.control.agent.n_steps)


def _pieces(experiment: Experiment) -> int:
    """Return into how many pieces shorter than a clip a stretch may be cut, if at its worst.

    Two by the end of an episode; with branches the short last one of an episode lies between.
    """
    return 3 if experiment.query.same_start else 2


def check_learner(experiment: Experiment) -> None:
    """Raise `UserError` unless there is what the learner learns from, and nothing else is given."""
    control = experiment.control
    if control.restart and control.learner in ("direct", "select"):
        raise UserError(
            f"--restart is {control.restart:g}, but --learner {control.learner} clones clips anew "
            "in each round; leave it out"
        )
    if control.learner != "direct":
        return
    if not experiment.learns_reward:
        raise UserError(
            f"--reward is {experiment.reward!r}, but --learner direct learns from answers and "
            "takes no reward; leave one of them out"
        )
    if control.reward_model != RewardConfig():
        raise UserError(
            "--reward-model is for a reward model, but --learner direct has none: the policy "
            "itself is fitted; leave it out, --direct.hidden is the policy's"
        )
    if experiment.query.acquisition == "disagreement":
        raise UserError(
            "--query.acquisition disagreement asks about what several networks disagree on, but "
            "--learner direct fits one, the policy; use --query.acquisition entropy"
        )


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
    count, n_steps = experiment.control.environment_count, experiment.control.agent.n_steps
    rollouts = experiment.steps // experiment.round_count // rollout_steps(experiment)
    needed = _rollouts_needed(experiment, clip_steps)
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
            f"{-(-rollouts * n_steps // _pieces(experiment))} within one episode; "
            + _longer_rounds(experiment, needed)
        )


def _longer_rounds(experiment: Experiment, rollouts: int) -> str:
    """Return which numbers of rounds, or of steps, leave each round so many rollouts."""
    steps = rollouts * rollout_steps(experiment)
    if most := experiment.steps // steps:
        return f"use --rounds {most}" + (" or fewer" if most > 1 else "")
    advice = f"use --rounds 1 --steps {steps} or more"
    fewer = experiment.steps // (rollouts * experiment.control.agent.n_steps)
    if not fewer:
        return advice
    return f"{advice}, or --rounds 1 --num-envs {fewer}" + (" or fewer" if fewer > 1 else "")
