"""An agent that is fine-tuned on replies of its own: what all share that choose some of these.

It plays a round, sets its replies aside, and learns those that a learner keeps of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from prefrl.config.text import HindsightConfig, SelectConfig, TextConfig
from prefrl.learning import parallel
from prefrl.pace import Pace
from prefrl.text.agents.rollout import compute_logprobs
from prefrl.text.agents.sampling import SamplingAgent
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode
from prefrl.text.models.load import LanguageModel
from prefrl.text.models.networks import Networks
from prefrl.text.models.optimizer import adam
from prefrl.text.models.sharding import own_groups
from prefrl.text.models.tokens import Tokens, right_padded, sampled_positions

BETWEEN = 8  # minibatches between two looks at the divergence, where one is aimed at
NEAR, HALVINGS = 0.05, 5  # share of that divergence which is near enough; steps to get there
MAX_GRAD_NORM = 1.0


class Kept(NamedTuple):
    """An episode to learn from: ids as they were sampled."""

    ids: list[int]
    sampled: list[bool]
    """Which of the ids are of replies."""
    rank: float
    """Share of the other replies to its task that scored less."""


@dataclass(frozen=True)
class Choice:
    """What was kept of a round."""

    kept: list[Kept]
    tasks: int
    """Of which something was kept."""
    repeats: int
    """Replies that would have been kept, but repeat another one of their task."""


class ImitatingAgent(SamplingAgent):
    """Plays a language model, and fine-tunes it on some of what it replied."""

    def __init__(
        self, environments: Sequence[gymnasium.Env], language_model: LanguageModel,
        config: TextConfig, seed: int, autocast: Callable[[], AbstractContextManager],
        settings: SelectConfig | HindsightConfig, beside: SamplingAgent | None = None,
    ):  # fmt: skip
        """Build networks and optimiser; see `SamplingAgent`.

        Args:
            environments: copies of one environment, played side by side.
            language_model: the policy; trained in place.
            config: the settings.
            seed: of the tasks, the sampling and the order of minibatches.
            autocast: the context in which passes are made.
            settings: those of the learner that this is.
            beside: an agent whose networks it trains, too.
        """
        super().__init__(environments, language_model, config, seed, autocast, beside=beside)
        self.settings = settings
        self.begin_anew()
        self.shuffling = torch.Generator().manual_seed(seed)
        self.pool: list[Kept] = []
        self._episodes: list[Episode] = []
        self._scores: list[float] = []

    def begin_anew(self) -> None:
        """Forget how the optimiser has moved."""
        weights, rate = self.networks.trained_of_policy(), self.settings.learning_rate
        self.optimizer = adam(weights, rate, eight_bits=False)

    def _replies(self, seeds: Sequence[int]) -> list[Episode]:
        """Play tasks, at the temperature of what is kept from."""
        usual = self.policy.config
        hotter = usual.temperature * self.settings.temperature
        self.policy.config = replace(usual, temperature=hotter)
        try:
            return super()._replies(seeds)
        finally:
            self.policy.config = usual

    def _learn(self, episodes: Sequence[Episode], scores: Sequence[np.ndarray]) -> dict[str, float]:
        """Set the episodes aside until the round has all of its own."""
        self._episodes += episodes
        self._scores += [float(score.sum()) for score in scores]
        return super()._learn(episodes, scores)

    def _imitate(
        self, choice: Choice, thresholds: Sequence[float] = (0.0,), decay: float = 1.0
    ) -> dict[str, float]:
        """Learn from what was kept of the round that ends; return what to tell of that.

        Args:
            choice: what was kept.
            thresholds: ranks of what is learned from, one after the other.
            decay: step size at a threshold over that at the one before.
        """
        settings, tasks = self.settings, len(self._episodes) // self.settings.completions_per_task
        self._episodes, self._scores = [], []
        self.pool = [*(self.pool if settings.pool else []), *choice.kept]
        told = {
            "kept": float(len(choice.kept)),
            "kept_repeats": float(choice.repeats),
            "tasks_left_out": float(tasks - choice.tasks),
            "pool": float(len(self.pool)),
        }
        losses = [
            loss
            for improve, threshold in enumerate(thresholds)
            for loss in self._tune(
                [kept for kept in self.pool if kept.rank >= threshold],
                settings.learning_rate * decay**improve,
            )
        ]
        return told | self._loss(losses)

    def _loss(self, losses: Sequence[float]) -> dict[str, float]:
        """Return what to tell of the losses of minibatches: their mean, if there were any."""
        name = f"{self.config.chosen[0]}_loss"
        return {name: float(np.mean(losses))} if losses else {}

    def _tune(self, kept: Sequence[Kept], learning_rate: float) -> list[float]:
        """Fine-tune on what was kept; return the loss of each minibatch, in nats a token.

        It ends early where the divergence that is aimed at is reached.
        """
        losses, size = list[float](), self.settings.batch_size
        batches = [
            rows.tolist()
            for _ in range(self.settings.n_epochs)
            for rows in torch.randperm(len(kept), generator=self.shuffling).split(size)
            if len(rows)
        ]
        pace, target = Pace("fine-tuning", len(batches)), self.settings.kl_target
        if target and batches and self._divergence() >= (1 - NEAR) * target:
            return []
        saved = self._weights() if target else []
        for number, rows in enumerate(batches, start=1):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate * (1 - (number - 1) / len(batches))
            losses.append(self._step([kept[row] for row in rows]))
            pace.step(1, sum(len(kept[row].ids) for row in rows), f"loss {losses[-1]:.3f}")
            if target and (number % BETWEEN == 0 or number == len(batches)):
                now = self._divergence()
                if now >= (1 - NEAR) * target:
                    self._go_back(saved, now, target)
                    break
                saved = self._weights()
        return losses

    def _step(self, kept: Sequence[Kept]) -> float:
        """Make one step on a minibatch; return its loss."""
        self.optimizer.zero_grad()
        loss = add_gradient(self.networks, kept, self.config)
        torch.nn.utils.clip_grad_norm_(self.networks.trained_of_policy(), MAX_GRAD_NORM)
        self.optimizer.step()
        return loss

    def _divergence(self) -> float:
        """Return how far the policy is from the reference, nats of a reply to the coming tasks.

        Nothing depends on having asked.
        """
        logprobs = compute_logprobs(self.networks, self._ahead(), self.config)
        return float(torch.where(logprobs.sampled, logprobs.kl, 0.0).sum(1).mean())

    def _ahead(self) -> list[Episode]:
        """Play the coming tasks, as if they had not been played; nothing depends on it."""
        chance, before = self.policy.chance, self.policy.chance.replies
        seeds = [task_seed(self.seed, self.tasks + n) for n in range(self.settings.episodes)]
        episodes = play(self.environments, self.policy, seeds)
        chance.replies = before
        return episodes

    @torch.no_grad()
    def _go_back(self, before: Sequence[torch.Tensor], kl: float, target: float) -> None:
        """Put the weights between earlier ones and these, where the divergence is that aimed at.

        Args:
            before: weights that are nearer to the reference than is aimed at.
            kl: divergence at the weights as they are, in nats.
            target: what is aimed at.
        """
        reached, low, high = self._weights(), 0.0, 1.0
        for _ in range(HALVINGS):
            if abs(kl - target) < NEAR * target:
                return
            share = (low + high) / 2
            parts = zip(self.networks.trained_of_policy(), before, reached, strict=True)
            for weights, earlier, later in parts:
                weights.copy_(torch.lerp(earlier, later, share))
            kl = self._divergence()
            low, high = (share, high) if kl < target else (low, share)

    def own_state(self) -> dict[str, Any]:
        """Return optimiser, order of minibatches, and all that was kept."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "shuffling": self.shuffling.get_state(),
            "pool": {
                "lengths": np.array([len(kept.ids) for kept in self.pool], np.int64),
                "ids": np.array([token for kept in self.pool for token in kept.ids], np.int32),
                "sampled": np.array([which for kept in self.pool for which in kept.sampled], bool),
                "ranks": np.array([kept.rank for kept in self.pool], float),
            },
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Continue from what `own_state` returned."""
        self.optimizer.load_state_dict(parallel.split_state(self.optimizer, state["optimizer"]))
        self.shuffling.set_state(state["shuffling"])
        pool = state["pool"]
        ends = np.cumsum(pool["lengths"])[:-1]
        ids, sampled = (np.split(pool[name], ends) for name in ("ids", "sampled"))
        self.pool = [
            Kept(one.tolist(), which.tolist(), float(rank))
            for one, which, rank in zip(ids, sampled, pool["ranks"], strict=False)
        ]


def scored_by_task(
    episodes: Sequence[Episode], scores: Sequence[float], settings: SelectConfig | HindsightConfig
) -> np.ndarray:
    """Return the scores `[task, reply]` by which replies are kept.

    A reply that did not end scores less: the limit of tokens must not make it a winner, whose end
    would not be learned.

    Args:
        episodes: as many of each task as the settings say, one after the other.
        scores: predicted returns.
        settings: of the learner.
    """
    shape = -1, settings.completions_per_task
    ended = np.array([episode.finished[-1] for episode in episodes]).reshape(shape)
    return np.reshape(scores, shape) - np.where(ended, 0.0, settings.missing_end_penalty)


def add_gradient(networks: Networks, kept: Sequence[Kept], config: TextConfig) -> float:
    """Add the gradient of the mean loss of a minibatch, and return that.

    It is the cross-entropy of the replies' tokens, their ends included, in nats a token, as the
    policy samples them: at its temperature.

    Raises:
        FloatingPointError: it is not a finite number.
    """
    count, total = sum(sum(one.sampled) for one in kept), 0.0
    for rows, weight in own_groups([len(one.ids) for one in kept], config.micro_batch_size):
        some = [kept[row] for row in rows]
        tokens = right_padded([one.ids for one in some], networks.model.device)
        positions, sampled = sampled_positions([one.sampled for one in some], tokens.ids.device)
        logprobs = networks(partial(_logprobs, networks, tokens, positions, config.temperature))
        loss = -weight * torch.where(sampled, logprobs, 0.0).sum() / count
        if not parallel.all_of(torch.isfinite(loss)):
            raise FloatingPointError(
                f"the loss of fine-tuning is not a finite number; lower --text.{config.chosen[0]}"
                ".learning-rate"
            )
        loss.backward()
        total += float(loss.detach())
    return parallel.added_numbers({"loss": total})["loss"]


def _logprobs(
    networks: Networks, tokens: Tokens, positions: torch.Tensor, temperature: float
) -> torch.Tensor:
    hidden = networks.policy(tokens, networks.below(tokens))
    return networks.log_probabilities(hidden, tokens, positions, temperature)[0]
