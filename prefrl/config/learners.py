"""What is chosen for one learner is for it alone."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from prefrl.config.control import (
    ActorConfig,
    BestClipsConfig,
    ControlConfig,
    CPLConfig,
    PPOConfig,
    RewardConfig,
)
from prefrl.config.experiment import Experiment
from prefrl.config.learning import FitConfig, QueryConfig
from prefrl.config.text import (
    TEXT_FIT,
    DirectConfig,
    HindsightConfig,
    SelectConfig,
    TextConfig,
    TextPPOConfig,
    TextRewardConfig,
)
from prefrl.errors import UserError

PASSES = 4  # over the answers; of more, a language model learns them by heart
CPL_PASSES, CPL_PATIENCE = 30, 6
CPL_RATE, CPL_BIAS = 1e-3, 0.5


def with_learner(experiment: Experiment, learner: str) -> Experiment:
    """Return the experiment for a learner; what was chosen for PPO is for PPO alone."""
    domain = experiment.domain
    if learner == "sac" and isinstance(domain, ControlConfig):
        domain = replace(domain, learner="sac", ppo=PPOConfig())
        return replace(experiment, domain=domain)
    if isinstance(domain, TextConfig) and learner not in ("", domain.learner):
        return _with_text(experiment, domain, learner)
    if isinstance(domain, ControlConfig) and domain.learner != learner:
        if learner == "direct":
            return _with_cpl(experiment, domain)
        if learner == "select":
            select = BestClipsConfig(**_as_ppo(domain.ppo))
            domain = replace(domain, learner=learner, select=select, ppo=PPOConfig(), restart=0.0)
            return replace(experiment, domain=domain)
    return experiment


def _with_text(experiment: Experiment, domain: TextConfig, learner: str) -> Experiment:
    """Return the experiment of a language model for a learner, or several in turn."""
    try:
        chosen = replace(domain, learner=learner).chosen
    except UserError:  # whoever checks the experiment says so
        return experiment
    if chosen == ("direct",):
        return experiment if domain.reward_is_policy else _with_direct(experiment, domain)
    ppo = domain.ppo
    if "select" in chosen:
        select = SelectConfig(
            learning_rate=ppo.learning_rate, episodes=ppo.episodes, freeze_layers=ppo.freeze_layers
        )
        domain = replace(domain, select=select)
    if "hindsight" in chosen:
        hindsight = HindsightConfig(  # what it is asked is as new to it as what it began with
            learning_rate=domain.sft_learning_rate, episodes=ppo.episodes,
            freeze_layers=ppo.freeze_layers,
        )  # fmt: skip
        domain = replace(domain, hindsight=hindsight)
    domain = replace(domain, learner=learner, ppo=ppo if "ppo" in chosen else TextPPOConfig())
    if domain.reward_is_policy:  # nothing is fitted, and there is one network
        domain = replace(domain, reward_model=TextRewardConfig())
        fit = replace(TEXT_FIT, held_out=experiment.fit.held_out)
        return replace(experiment, domain=domain, fit=fit, query=_of_one(experiment.query))
    return replace(experiment, domain=domain)


def _with_direct(experiment: Experiment, domain: TextConfig) -> Experiment:
    """Return the experiment of a language model whose policy is fitted to the answers itself.

    How much is sampled, and which layers stay as they are, is alike for all learners. A fit of the
    policy has no stop that is meant for a reward, and is of one network, which cannot disagree.
    """
    ppo = domain.ppo
    direct = DirectConfig(
        episodes=ppo.episodes, completions_per_task=ppo.completions_per_task,
        batch_size=ppo.batch_size, freeze_layers=ppo.freeze_layers,
    )  # fmt: skip
    domain = replace(
        domain, learner="direct", direct=direct, ppo=TextPPOConfig(),
        reward_model=TextRewardConfig(),
    )  # fmt: skip
    fit = replace(
        experiment.fit,
        stop_accuracy=math.inf,
        patience=0,
        first_epochs=PASSES,
        epochs=PASSES,
        anneal=True,
    )
    return replace(experiment, domain=domain, fit=fit, query=_of_one(experiment.query))


def relearned(experiment: Experiment, learner: str) -> Experiment:
    """Return the experiment of a finished run for another learner, which asks nobody.

    What was chosen for PPO suits those that come after it; what other learners had is left out.
    """
    domain = experiment.domain
    if not isinstance(domain, ControlConfig | TextConfig):
        return replace(experiment, labels=0)
    if domain.learner not in (learner, "ppo"):
        usual = type(domain)()
        options = {name: getattr(usual, name) for name in domain.learners}
        fit = TEXT_FIT if isinstance(domain, TextConfig) else FitConfig()
        fit = fit if domain.reward_is_policy else experiment.fit
        domain = replace(domain, learner="ppo", **options)
        experiment = replace(experiment, domain=domain, fit=fit)
    experiment = with_learner(experiment, learner)
    domain = experiment.domain
    assert isinstance(domain, ControlConfig | TextConfig)
    if domain.learner != learner:  # whoever checks the experiment says so
        domain = replace(domain, learner=learner)  # pyright: ignore[reportArgumentType]
    return replace(experiment, labels=0, domain=domain)


def _with_cpl(experiment: Experiment, domain: ControlConfig) -> Experiment:
    """Return the experiment of a robot whose policy is fitted to the answers itself.

    Its network is as large as PPO's, and it explores alike. A penalty would pull its weights to
    zero, not to where it began; few answers are soon learned by heart, so a fit stops by what it
    has not learned from.
    """
    direct = CPLConfig(**_as_ppo(domain.ppo))
    domain = replace(
        domain, learner="direct", direct=direct, ppo=PPOConfig(), reward_model=RewardConfig(),
        restart=0.0,
    )  # fmt: skip
    fit = replace(
        experiment.fit, learning_rate=CPL_RATE, bias=CPL_BIAS, l2=0.0, patience=CPL_PATIENCE,
        first_epochs=CPL_PASSES, epochs=CPL_PASSES, anneal=True,
    )  # fmt: skip
    return replace(experiment, domain=domain, fit=fit, query=_of_one(experiment.query))


def _as_ppo(ppo: PPOConfig) -> dict[str, Any]:
    """Return what a policy that is trained by likelihood has from PPO: its network, its noise."""
    shared = {field.name for field in fields(ActorConfig)} & vars(ppo).keys()
    return {name: getattr(ppo, name) for name in shared}


def _of_one(query: QueryConfig) -> QueryConfig:
    """Return how one network chooses what is asked: it cannot disagree."""
    disagrees = query.acquisition == "disagreement"
    return replace(query, acquisition="entropy") if disagrees else query
