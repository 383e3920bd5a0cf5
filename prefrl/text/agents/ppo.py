"""The agent: samples a language model and trains it by PPO.

Rewards come from a reward model at the end of a reply; the KL divergence from the frozen reference
is taken off token by token (Ziegler et al. 2019, arXiv 1909.08593).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import gymnasium
import numpy as np
import torch

from prefrl.config.text import TextConfig
from prefrl.contracts import Reward
from prefrl.learning import parallel
from prefrl.learning.critic import new_scale, rescale
from prefrl.text.agents.rollout import (
    RolloutBatch,
    compute_logprobs,
    compute_values,
    score_rollout,
)
from prefrl.text.agents.sampling import SamplingAgent, report
from prefrl.text.agents.token_ppo import update
from prefrl.text.episode import Episode
from prefrl.text.models.load import LanguageModel
from prefrl.text.models.optimizer import adam

KL_ERROR_CLIP = 0.2  # of an adaptive coefficient's relative error (Ziegler et al. 2019)


class TextAgent(SamplingAgent):
    """A language-model policy and its optimiser; prefrl's `Agent` for text."""

    def __init__(
        self, environments: Sequence[gymnasium.Env], language_model: LanguageModel,
        config: TextConfig, seed: int, autocast: Callable[[], AbstractContextManager],
        total_steps: int = 0, beside: SamplingAgent | None = None,
    ):  # fmt: skip
        """Build networks and optimiser; see `SamplingAgent`.

        Args:
            environments: copies of one environment, played side by side.
            language_model: the policy; trained in place.
            config: the settings.
            seed: of the tasks, the sampling and the order of minibatches.
            autocast: the context in which passes are made.
            total_steps: turns of the whole training, over which a learning rate may fall.
            beside: an agent whose networks it trains, too.
        """
        ppo = config.ppo
        own = ppo.critic == "own" and ppo.advantage == "gae"
        super().__init__(environments, language_model, config, seed, autocast, own, beside)
        trained = list(self.networks.trained().values())
        self.optimizer = adam(trained, ppo.learning_rate, ppo.adam_8bit)
        self.shuffling = torch.Generator().manual_seed(seed)
        self.kl_coef = ppo.kl_coef
        self.total_steps = total_steps
        self.refitted = False

    def _begin_round(self, reward: Reward) -> None:
        self.refitted = self._rescale_critic(reward)

    def _learn(self, episodes: Sequence[Episode], scores: Sequence[np.ndarray]) -> dict[str, float]:
        """Make one update; return what was measured, then what the environment reports besides."""
        self.sample_scores = np.array([score.sum() for score in scores])
        logprobs = compute_logprobs(self.networks, episodes, self.config)
        given = episodes, scores, self.config, self.kl_coef
        rollout = score_rollout(logprobs, *given)
        if self.refitted and self._warm_up_critic(rollout):
            values = compute_values(self.networks, logprobs, self.config)
            rollout = score_rollout(logprobs._replace(values=values), *given)
        self.refitted = False
        self._anneal()
        self.steps += sum(map(len, self.sample))
        metrics = update(
            self.networks, rollout.batch, self.config.ppo, self.optimizer, self.shuffling,
            self.config.temperature, micro_batch_size=self.config.micro_batch_size,
        )  # fmt: skip
        kl = float(rollout.kl.mean())
        self._adapt(kl, len(episodes))
        return report(metrics, episodes, self.sample_scores, kl, rollout.entropy)

    def _end_round(self, metrics: dict[str, float]) -> dict[str, float]:
        return {"kl_coef": self.kl_coef}

    def _warm_up_critic(self, rollout: RolloutBatch) -> bool:
        """Let the critic alone learn a reward that was refitted; return whether it did."""
        ppo = self.config.ppo
        if ppo.advantage == "rloo" or not ppo.value_warmup_epochs:
            return False
        alone = dataclasses.replace(ppo, n_epochs=ppo.value_warmup_epochs, clip_range_vf=math.inf)
        update(
            self.networks, rollout.batch, alone, self.optimizer, self.shuffling,
            self.config.temperature, critic_alone=True,
            micro_batch_size=self.config.micro_batch_size,
        )  # fmt: skip
        return True

    def _rescale_critic(self, reward: Reward) -> bool:
        """Move the critic to the scale of a reward that was refitted; return whether it was.

        With new score ≈ a · old + b on the last episodes, V becomes a V + b.
        """
        if not self.sample:
            return True
        new = np.array([score.sum() for score in reward.rewards(self.sample)])
        old = self.sample_scores
        if np.array_equal(new, old):
            return False
        head = self.networks.value
        rescale(head.weight, head.bias, *new_scale(new, old))
        return True

    def _anneal(self) -> None:
        """Let the learning rate fall linearly to zero over the run, if it is to."""
        ppo = self.config.ppo
        if ppo.anneal and self.total_steps:
            left = max(0.0, 1 - self.steps / self.total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = ppo.learning_rate * left

    def _adapt(self, kl: float, episodes: int) -> None:
        """Move the coefficient towards the target divergence (Ziegler et al. 2019, section 2.2)."""
        ppo = self.config.ppo
        if ppo.kl_target is not None:
            error = min(max(kl / ppo.kl_target - 1, -KL_ERROR_CLIP), KL_ERROR_CLIP)
            self.kl_coef *= 1 + error * episodes / ppo.kl_horizon

    def own_state(self) -> dict[str, Any]:
        """Return optimiser, order of minibatches and coefficient."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "shuffling": self.shuffling.get_state(),
            "kl_coef": self.kl_coef,
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Continue from what `own_state` returned."""
        self.optimizer.load_state_dict(parallel.split_state(self.optimizer, state["optimizer"]))
        self.shuffling.set_state(state["shuffling"])
        self.kl_coef = state["kl_coef"]
