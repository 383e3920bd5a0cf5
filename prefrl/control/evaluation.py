"""What a trained policy achieves in a world of numbers, and episodes of it to cut clips from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from prefrl.config.experiment import Experiment
from prefrl.control.build import build_environments, fresh_environments
from prefrl.control.environments.recorder import Recorder
from prefrl.control.policy import Policy
from prefrl.control.policy import evaluate as evaluate_policy
from prefrl.storage.folder import RunFolder
from prefrl.types import Picture, Segment, Trajectory


def evaluate(
    folder: RunFolder, policy: Policy, episodes: int, sample: bool, **_: Any
) -> dict[str, Any]:
    """Play fresh episodes; return what `prefrl.control.policy.evaluate` does.

    Args:
        folder: the run.
        policy: its policy.
        episodes: how many, each from its own start.
        sample: sample actions as training does, instead of taking the most probable.
        _: what is asked of language models alone.
    """
    torch.set_num_threads(1)  # small networks lose to a second thread on a busy machine
    experiment = folder.experiment()
    environments = fresh_environments(experiment, episodes, experiment.seed)
    return evaluate_policy(environments, policy, deterministic=not sample)


def in_words(report: dict[str, Any]) -> list[str]:
    """Return what `evaluate` found in lines for a terminal."""
    true_return = report["true_return"]
    lines = [
        f"true return: {true_return['mean']:.1f} ± {true_return['std']:.1f} over "
        f"{report['episodes']} episodes"
    ]
    return lines + [f"{name}: {value:.3f}" for name, value in report["info"].items()]


def record(
    experiment: Experiment, policy: Policy, episodes: int, source: str, sampling: int
) -> tuple[list[Trajectory], Callable[[Sequence[Segment]], dict[str, Picture]]]:
    """Play fresh episodes with the most probable actions, and keep every step.

    Args:
        experiment: which environment; its starts follow from its seed.
        policy: acts.
        episodes: how many.
        source: of the trajectories.
        sampling: seed of what is sampled, which is nothing here.

    Returns:
        A whole episode each, and what gives the pictures of clips cut from them.
    """
    torch.set_num_threads(1)
    environments = fresh_environments(experiment, episodes, experiment.seed)
    recorder, observations = Recorder(episodes), environments.reset()
    for _ in range(environments.description.horizon):
        extras, actions = environments.extras(), policy.predict(observations)
        step = environments.step(actions)
        recorder.add(observations, actions, extras, step)
        observations = step.observations
    found = [trajectory for _, _, trajectory in recorder.trajectories(source)]
    return found, environments.pictures


def clip_steps(experiment: Experiment) -> int:
    """Return the steps of a clip."""
    return build_environments(experiment, 1).description.clip_steps
