"""From an experiment to the components of a robot's run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

from prefrl.clips.scene import save_model
from prefrl.config.control import SACConfig
from prefrl.config.experiment import Experiment, check_aspects, check_one_aspect
from prefrl.contracts import Agent, Components, Network
from prefrl.control.agents.actor import Actor
from prefrl.control.agents.direct import DirectAgent
from prefrl.control.agents.ppo import PPOAgent
from prefrl.control.agents.sac import SACAgent
from prefrl.control.agents.select import SelectAgent
from prefrl.control.budget import check_budget, check_learner
from prefrl.control.environments.adapters import make_batched, make_environments
from prefrl.control.environments.branching import branched
from prefrl.control.environments.interface import Description, Environments
from prefrl.control.environments.probe import try_out
from prefrl.control.implicit import ImplicitReward
from prefrl.control.policy import Policy
from prefrl.control.practice import Practice, record_practice
from prefrl.control.reward import RewardEnsemble
from prefrl.environments.aspects import chosen_aspects
from prefrl.environments.ids import resolve
from prefrl.errors import UserError
from prefrl.learning.composed import ComposedReward
from prefrl.learning.true_reward import TrueReward
from prefrl.storage.checkpoint import from_bytes
from prefrl.storage.folder import RunFolder
from prefrl.types import EnvironmentCard, SpaceSpec


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
    # Small networks gain nothing from a second thread and lose much of the speed to it on a busy
    # machine; the second core takes the critic and half the physics.
    torch.set_num_threads(1)
    _check_network(experiment, network)
    environments, notes, practice = _tried_environments(experiment, is_new=folder is None)
    description = environments.description
    with ExitStack() as undone:
        undone.callback(environments.close)
        _check_environment(experiment, description, folder)
        undone.pop_all()

    def save(folder: RunFolder) -> None:
        if "qpos" in environments.extras():
            save_model(environments.model(), folder.model)
        if practice:
            practice.save(folder, description.guide)
        elif not folder.guide().practice:
            folder.save_guide(description.guide)

    aspects = folder.card().aspects if folder else _chosen_aspects(experiment, description)
    agent, model = _learner(experiment, environments, network, aspects)
    return Components(
        agent=agent,
        reward=model or TrueReward(),
        reward_model=model,
        card=dataclasses.replace(_card(description), aspects=aspects),
        clip_steps=description.clip_steps,
        pictures=environments.pictures,
        distance=model.distance if model else None,
        save=save,
        notes=(*notes, *_notes(experiment)),
        close=environments.close,
    )


def _learner(
    experiment: Experiment, environments: Environments, network: Network | None,
    aspects: Mapping[str, str],
) -> tuple[Agent, RewardEnsemble | ImplicitReward | ComposedReward | None]:  # fmt: skip
    """Build the pair that the learner names; no reward model where none is learned."""
    control, description = experiment.control, environments.description
    if control.reward_is_policy:
        check_one_aspect(aspects)
        actor = Actor(description, control.direct, experiment.seed)
        agent = DirectAgent(environments, actor, experiment.seed)
        return agent, ImplicitReward(actor, control.direct)
    model = None
    if experiment.learns_reward:
        model = _reward_of(experiment, description, network, aspects)
    if control.learner == "select":
        actor = Actor(description, control.select, experiment.seed)
        return SelectAgent(environments, actor, control.select, experiment.seed), model
    after = restart_after(experiment)
    if control.learner == "sac":
        return SACAgent(environments, control.sac, experiment.seed, after), model
    total = experiment.steps + experiment.query.explore_steps
    return PPOAgent(environments, control.ppo, experiment.seed, total, after), model


def restart_after(experiment: Experiment) -> int | None:
    """Return after how many steps, exploration too, the policy begins anew; None if it does not."""
    share = experiment.control.restart if experiment.learns_reward else 0
    return experiment.query.explore_steps + round(share * experiment.steps) if share else None


def _notes(experiment: Experiment) -> list[str]:
    """Return what nobody should wonder at: clips that look worse again, answers passed over."""
    if experiment.control.learner == "direct":
        return [
            "the policy is one network: it learns from all answers but a share of "
            f"{experiment.fit.held_out:g} of the queries, which judge it (--fit.held-out)"
        ]
    after = restart_after(experiment)
    if after is None:
        return []
    step = after - experiment.query.explore_steps
    return [
        f"from step {step:,} on an untrained policy begins anew, on the reward that the answers "
        f"have taught until then (--restart {experiment.control.restart:g})"
    ]


def _check_environment(
    experiment: Experiment, description: Description, folder: RunFolder | None
) -> None:
    """Raise `UserError` unless an environment is that of the run, and numbers go with it."""
    if folder:
        folder.check_environment(_card(description))
    control, discrete = experiment.control, isinstance(description.action_space, Discrete)
    if control.learner == "sac" and discrete:
        raise UserError(
            f"{experiment.env} has discrete actions, which --learner sac cannot choose between; "
            "use --learner ppo"
        )
    if not isinstance(control.agent, SACConfig) and control.agent.sde_sample_freq and discrete:
        raise UserError(
            f"{experiment.env} has discrete actions, which --{control.learner}.sde-sample-freq "
            "cannot explore; leave it at 0"
        )
    check_learner(experiment)
    check_budget(experiment, description)


def _check_network(experiment: Experiment, network: Network | None) -> None:
    """Raise `UserError` if a reward network is given where there is no reward model."""
    if network is not None and experiment.control.reward_is_policy:
        raise UserError(
            "a reward network of your own is given, but --learner direct has no reward model: the "
            "policy itself is fitted; leave it out, or use --learner ppo"
        )


def _tried_environments(
    experiment: Experiment, is_new: bool
) -> tuple[Environments, list[str], Practice | None]:
    """Build the environments of training; those that are not batched are tried out before.

    Some can exist only once, so what is tried is closed before the first one of training is made,
    and so is what people practise on.
    """
    control = experiment.control
    spec = resolve(experiment.env, experiment.env_kwargs)
    batched = make_batched(
        spec, control.environment_count, experiment.seed, control.horizon, experiment.threads,
        control.clip_seconds,
    )  # fmt: skip
    people = bool(experiment.asks_people and experiment.learns_reward and experiment.labels)
    practised = people and is_new
    if experiment.query.same_start and experiment.learns_reward:
        together = branched(batched, spec.id, experiment.query.size)
        return together, [], _practice(experiment, together.description) if practised else None
    if batched is not None:
        return batched, [], _practice(experiment, batched.description) if practised else None
    notes = try_out(spec, control.horizon, pictures=people)
    practice = _practice(experiment, describe_environment(experiment)) if practised else None
    return build_environments(experiment, control.environment_count), notes, practice


def _practice(experiment: Experiment, description: Description) -> Practice:
    """Return what people practise on, about all that is asked."""
    spec = resolve(experiment.env, experiment.env_kwargs)
    aspects = _chosen_aspects(experiment, description)
    return record_practice(experiment, spec, description, aspects)


def build_environments(experiment: Experiment, count: int) -> Environments:
    """Build the environments of training."""
    control = experiment.control
    return make_environments(
        resolve(experiment.env, experiment.env_kwargs), count, experiment.seed,
        control.horizon, experiment.threads, control.clip_seconds, truncate_after_end=True,
    )  # fmt: skip


def describe_environment(experiment: Experiment) -> Description:
    """Return what an experiment's environment says of itself."""
    with closing(build_environments(experiment, 1)) as environments:
        return environments.description


def fresh_environments(experiment: Experiment, count: int, seed: int) -> Environments:
    """Build environments for evaluation, seeded apart from those of training."""
    return make_environments(
        resolve(experiment.env, experiment.env_kwargs), count, 1_000_003 + seed,
        experiment.control.horizon, experiment.threads,
    )  # fmt: skip


def build_reward(
    experiment: Experiment, description: Description, network: Network | None = None
) -> RewardEnsemble:
    """Build the ensemble."""
    size = int(np.prod(description.observation_space.shape))
    return RewardEnsemble(
        size, description.action_space, experiment.control.reward_model, experiment.seed, network,
        description.shows_end, description.picture,
    )  # fmt: skip


def _reward_of(
    experiment: Experiment, description: Description, network: Network | None,
    aspects: Mapping[str, str],
) -> RewardEnsemble | ComposedReward:  # fmt: skip
    """Build the reward model, or of several aspects one for each."""
    if len(aspects) < 2:
        return build_reward(experiment, description, network)
    parts = {aspect: build_reward(experiment, description, network) for aspect in aspects}
    return ComposedReward(parts, experiment.rule, whole_episodes=False)


def _chosen_aspects(experiment: Experiment, description: Description) -> dict[str, str]:
    aspects = chosen_aspects(experiment.aspects, description.aspects, experiment.env)
    check_aspects(experiment, aspects)
    return aspects


def load_policy(experiment: Experiment, agent_state: dict[str, Any], folder: RunFolder) -> Policy:
    """Return the policy of an agent's state dict."""
    return Policy(_description(experiment, folder), experiment.control.agent, agent_state)


def load_reward(
    experiment: Experiment, network: Network | None, folder: RunFolder
) -> RewardEnsemble | ImplicitReward | ComposedReward:
    """Return the untrained reward model of an experiment, to be given a state.

    One that is the policy has the weights of the newest checkpoint.
    """
    description, control = _description(experiment, folder), experiment.control
    _check_network(experiment, network)
    if not control.reward_is_policy:
        return _reward_of(experiment, description, network, folder.card().aspects)
    actor, data = Actor(description, control.direct, experiment.seed), folder.checkpoint()
    if data:
        actor.load_state_dict(from_bytes(data)["agent"])
    return ImplicitReward(actor, control.direct)


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
