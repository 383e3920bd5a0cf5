"""Plays fresh episodes of a policy: to measure it, or to cut clips."""

from __future__ import annotations

from contextlib import closing

import torch

from prefrl.config.experiment import Experiment
from prefrl.contracts import EvaluationRequest, Recording
from prefrl.control.build import fresh_environments
from prefrl.control.environments.recorder import Recorder
from prefrl.control.policy import Policy, RandomPolicy
from prefrl.control.policy import evaluate as evaluate_policy
from prefrl.errors import UserError
from prefrl.types import Achieved, Evaluation


def evaluate(experiment: Experiment, policy: Policy, request: EvaluationRequest) -> Evaluation:
    """Play fresh episodes, each from its own start.

    Raises:
        UserError: replies of a language model are asked about.
    """
    if request.show or request.teacher is not None:
        option = "--show" if request.show else "--teacher"
        raise UserError(
            f"{option} is for language models, but {experiment.env} does not speak text; leave "
            f"{option} out"
        )
    torch.set_num_threads(1)  # small networks lose to a second thread on a busy machine
    fresh = fresh_environments(experiment, request.episodes, experiment.seed)
    with closing(fresh) as environments:
        achieved = evaluate_policy(environments, policy, deterministic=not request.sample)
    return Evaluation(request.episodes, achieved)


def baseline(experiment: Experiment, episodes: int) -> Achieved:
    """Play episodes from the same starts with uniform random actions: the zero of every ratio."""
    torch.set_num_threads(1)
    with closing(fresh_environments(experiment, episodes, experiment.seed)) as environments:
        return evaluate_policy(
            environments, RandomPolicy(environments.description, experiment.seed)
        )


def record(experiment: Experiment, policy: Policy, episodes: int, source: str) -> Recording:
    """Play fresh episodes with the most probable actions, and keep every step.

    Args:
        experiment: which environment; its starts follow from its seed.
        policy: acts.
        episodes: how many.
        source: of the trajectories.
    """
    torch.set_num_threads(1)
    environments = fresh_environments(experiment, episodes, experiment.seed)
    recorder, observations = Recorder(episodes), environments.reset()
    for _ in range(environments.description.horizon):
        extras, actions = environments.extras(), policy.predict(observations)
        step = environments.step(actions)
        recorder.add(observations, actions, extras, step)
        observations = step.observations
    episodes_played = [trajectory for _, _, trajectory in recorder.trajectories(source)]
    return Recording(episodes_played, environments.pictures, environments.close)
