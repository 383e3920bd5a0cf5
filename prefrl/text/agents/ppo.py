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
from prefrl.environments.info import means
from prefrl.learning.critic import new_scale, rescale
from prefrl.text.agents.rollout import RolloutBatch, compute_logprobs, score_rollout
from prefrl.text.agents.token_ppo import update
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode
from prefrl.text.models.device import check_same_device, enough_memory
from prefrl.text.models.load import LanguageModel
from prefrl.text.models.networks import Networks
from prefrl.text.models.optimizer import adam
from prefrl.text.policy import TextPolicy
from prefrl.types import Trajectory

MEMORY = "text.ppo.batch-size", "text.ppo.episodes", "text.max-new-tokens"  # take the most
TASKS_TRIED = 8
KL_ERROR_CLIP = 0.2  # of an adaptive coefficient's relative error (Ziegler et al. 2019)


class TextAgent:
    """A language-model policy and its optimiser; prefrl's `Agent` for text."""

    def __init__(
        self, environments: Sequence[gymnasium.Env], language_model: LanguageModel,
        config: TextConfig, seed: int, autocast: Callable[[], AbstractContextManager],
        total_steps: int = 0,
    ):  # fmt: skip
        """Build the networks around a model, which is the reference from now on.

        Args:
            environments: copies of one environment, played side by side.
            language_model: the policy; trained in place.
            config: the settings.
            seed: of the tasks, the sampling and the order of minibatches.
            autocast: the context in which passes are made.
            total_steps: turns of the whole training, over which a learning rate may fall.
        """
        self.environments, self.config, self.seed = environments, config, seed
        self.model = language_model.model
        self.policy = TextPolicy(language_model, config, autocast, seed)
        ppo = config.ppo
        own = ppo.critic == "own" and ppo.advantage == "gae"
        self.networks = Networks(
            self.model, ppo.freeze_layers, own, seed, autocast, config.gradient_checkpointing,
            config.lora,
        )  # fmt: skip
        self.networks.least = self.policy.least
        trained = list(self.networks.trained().values())
        self.optimizer = adam(trained, ppo.learning_rate, ppo.adam_8bit)
        self.shuffling = torch.Generator().manual_seed(seed)
        self.kl_coef = ppo.kl_coef
        self.total_steps = total_steps
        self.round = self.tasks = self.played = self.steps = 0
        self.left_out = self.out_of_context = 0
        self.sample: list[Trajectory] = []
        self.sample_scores = np.zeros(0)

    @enough_memory(*MEMORY)
    def explore(self, steps: int) -> list[Trajectory]:
        """Run the policy as it is for about `steps` turns."""
        trajectories: list[Trajectory] = []
        while sum(map(len, trajectories)) < steps:
            trajectories += self._trajectories(self._play())
        self.round += 1
        return trajectories

    @enough_memory(*MEMORY)
    def train(self, reward: Reward, steps: int) -> tuple[list[Trajectory], dict[str, float]]:
        """Train for about `steps` turns on the rewards that the model predicts.

        It is one update at least, even where episodes of many turns have used the steps up before.
        """
        refitted = self._rescale_critic(reward)
        trajectories: list[Trajectory] = []
        updates: list[dict[str, float]] = []
        while not trajectories or sum(map(len, trajectories)) < steps:
            episodes = self._play()
            self.sample = self._trajectories(episodes)
            trajectories += self.sample
            updates.append(self._update(episodes, reward.rewards(self.sample), refitted))
            refitted = False
        self.round += 1
        names = dict.fromkeys(name for measured in updates for name in measured)
        metrics = {n: float(np.mean([m[n] for m in updates if n in m])) for n in names}
        metrics["kl_coef"] = self.kl_coef
        if self.left_out:
            metrics["prompts_too_long"] = float(self.left_out)
        if self.out_of_context:
            metrics["out_of_context"] = float(self.out_of_context)
        self.left_out = self.out_of_context = 0
        return trajectories, metrics

    def entropy(self) -> float:
        """Return how much the policy varies its replies to the first tasks, nats per token.

        Nothing depends on having asked.
        """
        environments = self.environments[:TASKS_TRIED]
        generator, before = self.policy.generator, self.policy.generator.get_state()
        seeds = [task_seed(self.seed, task) for task in range(len(environments))]
        episodes = play(environments, self.policy, seeds)
        generator.set_state(before)
        return compute_logprobs(self.networks, episodes, self.config).entropy()

    def _play(self) -> list[Episode]:
        """Play the next tasks, each so often that its completions can be compared."""
        ppo = self.config.ppo
        count = max(1, ppo.episodes // ppo.completions_per_task)
        tasks = range(self.tasks, self.tasks + count)
        self.tasks += count
        seeds = [task_seed(self.seed, task) for task in tasks]
        repeated = [seed for seed in seeds for _ in range(ppo.completions_per_task)]
        episodes = play(self.environments, self.policy, repeated)
        self.left_out += sum(e.left_out for e in episodes[:: ppo.completions_per_task])
        self.out_of_context += sum(e.out_of_context for e in episodes)
        return episodes

    def _trajectories(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        first, source = self.played, f"round {self.round}"
        self.played += len(episodes)
        return [episode.trajectory(source, first + n) for n, episode in enumerate(episodes)]

    def _update(
        self, episodes: Sequence[Episode], scores: Sequence[np.ndarray], refitted: bool
    ) -> dict[str, float]:
        """Make one update; return what was measured, then what the environment reports besides."""
        self.sample_scores = np.array([score.sum() for score in scores])
        rollout = self._score_rollout(episodes, scores)
        if refitted and self._warm_up_critic(rollout):
            rollout = self._score_rollout(episodes, scores)
        self._anneal()
        self.steps += sum(map(len, self.sample))
        metrics = update(
            self.networks, rollout.batch, self.config.ppo, self.optimizer, self.shuffling,
            self.config.temperature, micro_batch_size=self.config.micro_batch_size,
        )  # fmt: skip
        kl = float(rollout.kl.mean())
        metrics |= _report(episodes, self.sample_scores, kl, rollout.entropy)
        reported = means([episode.report for episode in episodes])
        self._adapt(kl, len(episodes))
        return metrics | {name: mean for name, mean in reported.items() if name not in metrics}

    def _score_rollout(
        self, episodes: Sequence[Episode], scores: Sequence[np.ndarray]
    ) -> RolloutBatch:
        return score_rollout(self.networks, episodes, scores, self.config, self.kl_coef)

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

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next round depends on but the reference, which never changes.

        Weights that are still those of the reference are left out: a folder holds these once.
        """
        begun, trained = self.networks.begun(), self.networks.trained()
        moved = {
            name: weights.detach().clone()
            for name, weights in trained.items()
            if name not in begun or not torch.equal(weights, begun[name])
        }
        return {
            "device": self.model.device.type,
            "trained": [*trained],
            "networks": moved,
            "optimizer": self.optimizer.state_dict(),
            "sampling": self.policy.generator.get_state(),
            "shuffling": self.shuffling.get_state(),
            "kl_coef": self.kl_coef,
            "round": self.round,
            "tasks": self.tasks,
            "played": self.played,
            "steps": self.steps,
            "left_out": self.left_out,
            "out_of_context": self.out_of_context,
            "sample": [[t.observations, t.actions, t.env_rewards, t.extras] for t in self.sample],
            "sample_scores": self.sample_scores,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        here = self.model.device.type
        check_same_device(state.get("device", here), here)
        trained, weights = self.networks.trained(), self.networks.begun() | state["networks"]
        names = state.get("trained", [*state["networks"]])  # all of them were saved once
        if not trained.keys() == weights.keys() == set(names):
            raise ValueError("it holds other parameters than the model has")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.policy.generator.set_state(state["sampling"])
        self.shuffling.set_state(state["shuffling"])
        self.kl_coef, self.round = state["kl_coef"], state["round"]
        self.tasks, self.played, self.steps = state["tasks"], state["played"], state["steps"]
        self.left_out = state["left_out"]
        self.out_of_context = state.get("out_of_context", 0)  # it was not counted once
        self.sample = [Trajectory(*arrays) for arrays in state["sample"]]
        self.sample_scores = state["sample_scores"]


def _report(
    episodes: Sequence[Episode], scores: np.ndarray, kl: float, entropy: float
) -> dict[str, float]:
    """Return the metrics of sampled episodes."""
    return {
        "true_return": float(np.mean([sum(episode.env_rewards) for episode in episodes])),
        "predicted_return": float(scores.mean()),
        "kl": kl,
        "entropy": entropy,
        "tokens": float(np.mean([sum(episode.sampled) for episode in episodes])),
        "turns": float(np.mean([len(episode) for episode in episodes])),
        "finished": float(np.mean([episode.finished[-1] for episode in episodes])),
    }
