"""The agent that learns the best of its own replies: rejection sampling, and ReST.

Of K replies to a task those that the reward likes are kept, and the policy is fine-tuned on them
(Llama 2, arXiv 2307.09288, section 3.2.3). With rising thresholds it is ReST (arXiv 2308.08998):
one Grow, and an Improve for each threshold, with a lower step size each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from prefrl.config.text import SelectConfig, TextConfig
from prefrl.learning.keeping import above, best_of_task, random_of_task, ranks, top_share
from prefrl.pace import Pace
from prefrl.text.agents.rollout import compute_logprobs
from prefrl.text.agents.sampling import SamplingAgent
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode
from prefrl.text.models.batches import by_length
from prefrl.text.models.load import LanguageModel
from prefrl.text.models.networks import Networks
from prefrl.text.models.optimizer import adam
from prefrl.text.models.tokens import right_padded, sampled_positions

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


class SelectAgent(SamplingAgent):
    """Plays a language model, and fine-tunes it on the best that it replied."""

    def __init__(
        self, environments: Sequence[gymnasium.Env], language_model: LanguageModel,
        config: TextConfig, seed: int, autocast: Callable[[], AbstractContextManager],
        beside: SamplingAgent | None = None,
    ):  # fmt: skip
        """Build networks and optimiser; see `SamplingAgent`."""
        super().__init__(environments, language_model, config, seed, autocast, beside=beside)
        self.select = config.select
        self.optimizer = adam(
            self.networks.trained_of_policy(), self.select.learning_rate, eight_bits=False
        )
        self.shuffling = torch.Generator().manual_seed(seed)
        self.pool: list[Kept] = []
        self._episodes: list[Episode] = []
        self._scores: list[float] = []

    def _play(self) -> list[Episode]:
        """Play the next tasks, at the temperature of what is kept from."""
        usual = self.policy.config
        hotter = usual.temperature * self.select.temperature
        self.policy.config = replace(usual, temperature=hotter)
        try:
            return super()._play()
        finally:
            self.policy.config = usual

    def _learn(self, episodes: Sequence[Episode], scores: Sequence[np.ndarray]) -> dict[str, float]:
        """Set the episodes aside until the round has all of its own."""
        self._episodes += episodes
        self._scores += [float(score.sum()) for score in scores]
        return super()._learn(episodes, scores)

    def _end_round(self, metrics: dict[str, float]) -> dict[str, float]:
        """Keep the best, and learn from it; return what was kept, and how far that has led."""
        random = np.random.default_rng([self.seed, self.round])
        choice = keep(self._episodes, self._scores, self.select, random)
        tasks = len(self._episodes) // self.select.completions_per_task
        self._episodes, self._scores = [], []
        self.pool = [*(self.pool if self.select.pool else []), *choice.kept]
        told = {
            "kept": float(len(choice.kept)),
            "kept_repeats": float(choice.repeats),
            "tasks_left_out": float(tasks - choice.tasks),
            "pool": float(len(self.pool)),
        }
        losses = [
            loss
            for improve, threshold in enumerate(_thresholds(self.select))
            for loss in self._tune(
                [kept for kept in self.pool if kept.rank >= threshold],
                self.select.learning_rate * self.select.decay**improve,
            )
        ]
        told |= {"select_loss": float(np.mean(losses))} if losses else {}
        return told | {"tuned_kl": self._divergence()}

    def _tune(self, kept: Sequence[Kept], learning_rate: float) -> list[float]:
        """Fine-tune on what was kept; return the loss of each minibatch, in nats a token.

        It ends early where the divergence that is aimed at is reached.
        """
        select, losses = self.select, list[float]()
        batches = [
            rows.tolist()
            for _ in range(select.n_epochs)
            for rows in torch.randperm(len(kept), generator=self.shuffling).split(select.batch_size)
            if len(rows)
        ]
        pace, target = Pace("fine-tuning", len(batches)), select.kl_target
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
        generator, before = self.policy.generator, self.policy.generator.get_state()
        seeds = [task_seed(self.seed, self.tasks + n) for n in range(self.select.episodes)]
        logprobs = compute_logprobs(
            self.networks, play(self.environments, self.policy, seeds), self.config
        )
        generator.set_state(before)
        return float(torch.where(logprobs.sampled, logprobs.kl, 0.0).sum(1).mean())

    def _weights(self) -> list[torch.Tensor]:
        return [weights.detach().clone() for weights in self.networks.trained_of_policy()]

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
        self.optimizer.load_state_dict(state["optimizer"])
        self.shuffling.set_state(state["shuffling"])
        pool = state["pool"]
        ends = np.cumsum(pool["lengths"])[:-1]
        ids, sampled = (np.split(pool[name], ends) for name in ("ids", "sampled"))
        self.pool = [
            Kept(one.tolist(), which.tolist(), float(rank))
            for one, which, rank in zip(ids, sampled, pool["ranks"], strict=False)
        ]


def keep(
    episodes: Sequence[Episode], scores: Sequence[float], select: SelectConfig,
    random: np.random.Generator,
) -> Choice:  # fmt: skip
    """Return what is kept of the episodes of a round.

    A reply that did not end scores less: the limit of tokens must not make it a winner, whose end
    would not be learned. Of replies to a task that are the same text one is kept at most.

    Args:
        episodes: as many of each task as the settings say, one after the other.
        scores: predicted returns.
        select: the settings.
        random: for what is kept at random.
    """
    shape = -1, select.completions_per_task
    ended = np.array([episode.finished[-1] for episode in episodes]).reshape(shape)
    penalty = np.where(ended, 0.0, select.missing_end_penalty)
    scored = np.reshape(scores, shape) - penalty
    ways: dict[str, Callable[[], np.ndarray]] = {
        "best": lambda: best_of_task(scored),
        "top": lambda: top_share(scored, select.share),
        "above": lambda: above(scored, min(select.thresholds)),
        "random": lambda: random_of_task(scored, random),
    }
    chosen, rank = ways[select.keep](), ranks(scored).ravel()
    seen: set[tuple[int, str, tuple[int, ...]]] = set()
    kept: list[Kept] = []
    for row in np.flatnonzero(chosen).tolist():
        episode = episodes[row]
        shown = (row // shape[1], episode.system, tuple(episode.ids))
        if shown not in seen:
            seen.add(shown)
            kept.append(Kept(episode.ids, episode.sampled, float(rank[row])))
    return Choice(kept, int(chosen.any(1).sum()), int(chosen.sum()) - len(kept))


def _thresholds(select: SelectConfig) -> tuple[float, ...]:
    """Return the least rank of what is learned from, for each fine-tuning of a round."""
    return select.thresholds if select.keep == "above" else (0.0,)


def add_gradient(networks: Networks, kept: Sequence[Kept], config: TextConfig) -> float:
    """Add the gradient of the mean loss of a minibatch, and return that.

    It is the cross-entropy of the replies' tokens, their ends included, in nats a token, as the
    policy samples them: at its temperature.

    Raises:
        FloatingPointError: it is not a finite number.
    """
    count, total = sum(sum(one.sampled) for one in kept), 0.0
    for rows in by_length([len(one.ids) for one in kept], config.micro_batch_size):
        some = [kept[row] for row in rows]
        tokens = right_padded([one.ids for one in some], networks.model.device)
        positions, sampled = sampled_positions([one.sampled for one in some], tokens.ids.device)
        hidden = networks.policy(tokens, networks.below(tokens))
        logprobs, _ = networks.log_probabilities(hidden, tokens, positions, config.temperature)
        loss = -torch.where(sampled, logprobs, 0.0).sum() / count
        if not torch.isfinite(loss):
            raise FloatingPointError(
                "the loss of fine-tuning is not a finite number; lower --text.select.learning-rate"
            )
        loss.backward()
        total += float(loss.detach())
    return total
