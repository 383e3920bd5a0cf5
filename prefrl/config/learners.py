"""What is chosen for one learner is for it alone."""

from __future__ import annotations

import dataclasses
import math

from prefrl.config.control import ControlConfig, PPOConfig
from prefrl.config.experiment import Experiment
from prefrl.config.text import DirectConfig, TextConfig, TextPPOConfig, TextRewardConfig

PASSES = 4  # over the answers; of more, a language model learns them by heart


def with_learner(experiment: Experiment, learner: str) -> Experiment:
    """Return the experiment for a learner; what was chosen for PPO is for PPO alone."""
    domain = experiment.domain
    if learner == "sac" and isinstance(domain, ControlConfig):
        domain = dataclasses.replace(domain, learner="sac", ppo=PPOConfig())
        return dataclasses.replace(experiment, domain=domain)
    if isinstance(domain, TextConfig) and learner == "direct" and domain.learner != learner:
        return _with_direct(experiment, domain)
    return experiment


def _with_direct(experiment: Experiment, domain: TextConfig) -> Experiment:
    """Return the experiment of a language model whose policy is fitted to the answers itself.

    How much is sampled, and which layers stay as they are, is alike for all learners. A fit of the
    policy has no stop that is meant for a reward, and is of one network, which cannot disagree.
    """
    ppo, query = domain.ppo, experiment.query
    direct = DirectConfig(
        episodes=ppo.episodes, completions_per_task=ppo.completions_per_task,
        batch_size=ppo.batch_size, freeze_layers=ppo.freeze_layers,
    )  # fmt: skip
    domain = dataclasses.replace(
        domain, learner="direct", direct=direct, ppo=TextPPOConfig(),
        reward_model=TextRewardConfig(),
    )  # fmt: skip
    if query.acquisition == "disagreement":
        query = dataclasses.replace(query, acquisition="entropy")
    fit = dataclasses.replace(
        experiment.fit,
        stop_accuracy=math.inf,
        patience=0,
        first_epochs=PASSES,
        epochs=PASSES,
        anneal=True,
    )
    return dataclasses.replace(experiment, domain=domain, fit=fit, query=query)
