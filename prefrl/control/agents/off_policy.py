"""SB3's SAC, whose experience comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium import Space
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv

from prefrl.config.control import SACConfig
from prefrl.control.encoder import encoder_options

Batch = Callable[[int], ReplayBufferSamples]
"""Draws a minibatch of so many steps."""


def make_sac(environments: VecEnv, config: SACConfig, batch: Batch) -> SAC:
    """Build the learner; its weights, and what it draws, come from torch's global generator."""
    sac = SAC(
        "MlpPolicy",
        environments,
        learning_rate=config.learning_rate,
        buffer_size=1,  # unused: see below
        batch_size=config.batch_size,
        tau=config.tau,
        gamma=config.gamma,
        ent_coef=f"auto_{config.ent_coef}" if config.auto_ent_coef else config.ent_coef,
        seed=None,  # SB3 would reseed the generators of numpy and Python, which are the caller's
        device="cpu",
        policy_kwargs=sac_policy_options(config, environments.observation_space),
    )
    sac.set_logger(Logger(None, []))  # SB3's own would make a folder in /tmp
    draw = SimpleNamespace(sample=lambda count, env: batch(count))
    sac.replay_buffer = draw  # type: ignore[assignment]  # all that SAC's `train` asks of it
    return sac


def sac_policy_options(config: SACConfig, seen: Space) -> dict[str, Any]:
    """Return how SB3 is to build policy and critics for what they see."""
    options = {"net_arch": list(config.hidden), "optimizer_kwargs": {"fused": True}}
    return options | encoder_options(seen)


def update(sac: SAC, updates: int) -> dict[str, float]:
    """Make some gradient updates; return what they say of themselves, their mean."""
    sac.train(updates, sac.batch_size)
    told = sac.logger.name_to_value
    return {
        "q_loss": float(told["train/critic_loss"]),
        "policy_loss": float(told["train/actor_loss"]),
        "temperature": float(told["train/ent_coef"]),
    }


def optimizers(sac: SAC) -> dict[str, Any]:
    """Return the optimisers of policy, critics and, where it follows, the temperature."""
    kept = {"policy": sac.actor.optimizer, "critics": sac.critic.optimizer}
    return kept | ({"temperature": sac.ent_coef_optimizer} if sac.ent_coef_optimizer else {})


def reset_critics(sac: SAC) -> None:
    """Give the critics new weights; nothing is left of what they and their optimiser knew."""
    fresh = sac.policy.make_critic().state_dict()
    sac.critic.load_state_dict(fresh)
    sac.critic_target.load_state_dict(fresh)
    sac.critic.optimizer.state.clear()


def mean_of(updates: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Return the means over all updates of what bouts of so many updates told."""
    names = updates[0][1] if updates else {}
    counts = [count for count, _ in updates]
    return {
        name: float(np.average([told[name] for _, told in updates], weights=counts))
        for name in names
    }
