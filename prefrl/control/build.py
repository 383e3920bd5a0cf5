"""From an experiment to the components of a robot's run."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

from prefrl.clips.scene import save_model
from prefrl.config.experiment import Experiment, check_side
from prefrl.contracts import Components, Network
from prefrl.control.agents.ppo import PPOAgent
from prefrl.control.environments.adapters import make_batched, make_environments
from prefrl.control.environments.interface import Description, Environments
from prefrl.control.environments.probe import try_out
from prefrl.control.policy import Policy
from prefrl.control.reward import RewardEnsemble
from prefrl.environments.ids import resolve
from prefrl.errors import UserError
from prefrl.learning.true_reward import TrueReward
from prefrl.storage.folder import RunFolder
from prefrl.types import EnvironmentCard, SpaceSpec


def check(experiment: Experiment) -> None:
    """Raise `UserError` unless the numbers make sense together."""
    check_side(experiment, speaks=False)
    smallest = smallest_round(experiment)
    if experiment.steps < experiment.rounds * smallest:
        most = experiment.steps // smallest
        raise UserError(
            f"{experiment.steps} steps in {experiment.rounds} rounds leave a round less than one "
            f"rollout of {experiment.num_envs} environments x {experiment.ppo.n_steps} steps; "
            + (f"lower --rounds to at most {most}" if most else "raise --steps or lower --num-envs")
        )


def smallest_round(experiment: Experiment) -> int:
    """Return the steps of one rollout."""
    return experiment.ppo.n_steps * experiment.num_envs


def build(
    experiment: Experiment, network: Network | None = None, folder: RunFolder | None = None
) -> Components:
    """Check the numbers; build environments, agent and reward.

    Args:
        experiment: what to run.
        network: somebody's own reward network.
        folder: the run that is taken up.

    Raises:
        UserError: numbers or environment do not go together, or it has changed since.
    """
    check(experiment)
    # Small networks gain nothing from a second thread and lose much of the speed to it on a busy
    # machine; the second core takes the critic and half the physics.
    torch.set_num_threads(1)
    environments, notes = _tried_environments(experiment)
    description = environments.description
    with ExitStack() as undone:
        undone.callback(environments.close)
        _check_environment(experiment, description, folder)
        undone.pop_all()
    total = experiment.steps + experiment.query.explore_steps

    def save(folder: RunFolder) -> None:
        if "qpos" in environments.extras():
            save_model(environments.model(), folder.model)

    ensemble = None
    if experiment.reward == "learned":
        ensemble = build_reward(experiment, description, network)
    return Components(
        agent=PPOAgent(environments, experiment.ppo, experiment.seed, total),
        reward=ensemble or TrueReward(),
        reward_model=ensemble,
        card=_card(description),
        clip_steps=description.clip_steps,
        pictures=environments.pictures,
        distance=ensemble.distance if ensemble else None,
        save=save,
        notes=tuple(notes),
        close=environments.close,
    )


def _check_environment(
    experiment: Experiment, description: Description, folder: RunFolder | None
) -> None:
    """Raise `UserError` unless an environment is that of the run, and numbers go with it."""
    if folder:
        folder.check_environment(_card(description))
    if experiment.ppo.sde_sample_freq and isinstance(description.action_space, Discrete):
        raise UserError(
            f"{experiment.env} has discrete actions, which --ppo.sde-sample-freq cannot explore; "
            "leave it at 0"
        )
    _check_clips(experiment, description)


def _tried_environments(experiment: Experiment) -> tuple[Environments, list[str]]:
    """Build the environments of training; those that are not batched are tried out before.

    Some can exist only once, so what is tried is closed before the first one of training is made.
    """
    batched = make_batched(
        experiment.env, experiment.num_envs, experiment.seed, experiment.horizon,
        experiment.threads, experiment.query.clip_seconds,
    )  # fmt: skip
    if batched is not None:
        return batched, []
    people = (experiment.teacher, experiment.reward) == ("human", "learned") and experiment.labels
    notes = try_out(resolve(experiment.env), experiment.horizon, pictures=people > 0)
    return build_environments(experiment, experiment.num_envs), notes


def build_environments(experiment: Experiment, count: int) -> Environments:
    """Build the environments of training."""
    return make_environments(
        experiment.env, count, experiment.seed, experiment.horizon, experiment.threads,
        experiment.query.clip_seconds, brief=True,
    )  # fmt: skip


def describe_environment(experiment: Experiment) -> Description:
    """Return what an experiment's environment says of itself."""
    with closing(build_environments(experiment, 1)) as environments:
        return environments.description


def fresh_environments(experiment: Experiment, count: int, seed: int) -> Environments:
    """Build environments for evaluation, seeded apart from those of training."""
    return make_environments(
        experiment.env, count, 1_000_003 + seed, experiment.horizon, experiment.threads
    )


def build_reward(
    experiment: Experiment, description: Description, network: Network | None = None
) -> RewardEnsemble:
    """Build the ensemble."""
    size = int(np.prod(description.observation_space.shape))
    return RewardEnsemble(
        size, description.action_space, experiment.network, experiment.seed, network
    )


def load_policy(experiment: Experiment, agent_state: dict[str, Any], folder: RunFolder) -> Policy:
    """Return the policy of an agent's state dict."""
    return Policy(_description(experiment, folder), experiment.ppo, agent_state)


def load_reward(
    experiment: Experiment, network: Network | None, folder: RunFolder
) -> RewardEnsemble:
    """Return the untrained reward model of an experiment, to be given a state."""
    return build_reward(experiment, _description(experiment, folder), network)


def _description(experiment: Experiment, folder: RunFolder) -> Description:
    """Return what there is to know of a run's environment, unless it has changed."""
    description = describe_environment(experiment)
    folder.check_environment(_card(description))
    return description


def _card(description: Description) -> EnvironmentCard:
    space = description.action_space
    actions = SpaceSpec(n=int(space.n)) if isinstance(space, Discrete) else SpaceSpec(space.shape)
    return EnvironmentCard(
        domain="prefrl.control:DOMAIN",
        dt=description.dt,
        question=description.question,
        observations=SpaceSpec(description.observation_space.shape),
        actions=actions,
    )


def _check_clips(experiment: Experiment, description: Description) -> None:
    """Raise `UserError` unless a clip fits into an episode, and every round is sure to hold one.

    A round is cut where episodes end, at worst once and in the middle: every episode, even one that
    ends at once, lasts at least as long as a clip.
    """
    clip_steps, horizon, dt = description.clip_steps, description.horizon, description.dt
    if not 0 < clip_steps <= horizon:
        seconds = experiment.query.clip_seconds or clip_steps * dt
        raise UserError(
            f"a clip of {seconds:.3g} s lasts {clip_steps} steps of {dt:g} s, but an episode of "
            f"{experiment.env} has {horizon}; choose --query.clip-seconds between {dt:g} and "
            f"{horizon * dt:g}"
        )
    if experiment.reward == "true":
        return
    n_steps = experiment.ppo.n_steps
    rollouts = experiment.steps // experiment.rounds // smallest_round(experiment)
    stretch = min((rollouts * n_steps + 1) // 2, horizon)
    if clip_steps > stretch:
        raise UserError(
            f"a clip lasts {clip_steps} steps, but a round of {rollouts * n_steps} steps in each "
            f"of {experiment.num_envs} environments is only sure to hold a stretch of {stretch} "
            "within one episode; lower --rounds or --num-envs, or raise --steps"
        )
