"""From sampled episodes to the batch of an update: log-probabilities, rewards, advantages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefrl.config.text import TextConfig, TextPPOConfig
from prefrl.learning import parallel
from prefrl.text.agents.token_ppo import (
    Batch,
    advantages_gae,
    advantages_rloo,
    kl_estimate,
    whiten,
)
from prefrl.text.episode import Episode
from prefrl.text.models.networks import Networks
from prefrl.text.models.sharding import own_groups
from prefrl.text.models.tokens import Tokens, aligned, right_padded, sampled_positions
from prefrl.text.models.trees import KEPT


class Logprobs(NamedTuple):
    """What the networks give to the tokens of episodes before an update."""

    tokens: Tokens
    positions: Tensor
    """[episode, action]position of each sampled token in its episode, 1 where there is none."""
    sampled: Tensor
    """[episode, action], bool."""
    policy: Tensor
    """[episode, action], log-probabilities in nats."""
    reference: Tensor
    """[episode, action], those of the frozen reference."""
    entropies: Tensor
    """[episode, action], of the policy, in nats."""
    kl: Tensor
    """[episode, action], KL(policy ‖ reference) over the whole vocabulary, in nats."""
    values: Tensor
    """[episode, action], what the critic expects before each token."""
    below: Tensor | None
    """[episode, token, width], what the frozen layers give, where it is small enough to keep."""

    def entropy(self) -> float:
        """Return the policy's mean entropy, in nats per token."""
        return float(self.entropies[self.sampled].mean())


@dataclass(frozen=True)
class RolloutBatch:
    """Sampled episodes, ready for an update."""

    batch: Batch
    kl: Tensor
    """[episode], exact at each token, in nats."""
    entropy: float
    """Nats per token."""


def score_rollout(
    logprobs: Logprobs, episodes: Sequence[Episode], scores: Sequence[np.ndarray],
    config: TextConfig, kl_coef: float,
) -> RolloutBatch:  # fmt: skip
    """Return what an update needs of sampled episodes.

    Args:
        logprobs: of the networks before the update.
        episodes: as many of each task as the config says, one after the other.
        scores: predicted rewards, `[turn]` of each episode.
        config: the settings.
        kl_coef: reward that a nat of divergence from the reference costs.
    """
    ppo, sampled, values = config.ppo, logprobs.sampled, logprobs.values
    # The exact divergence at a token is the same whichever token was sampled there, so as a reward
    # it would not teach which one to sample: the penalty stays that of the sampled token.
    estimate = kl_estimate(logprobs.policy, logprobs.reference, ppo.kl_estimator)
    penalty = torch.where(sampled, estimate, 0.0)
    rewards = token_rewards(episodes, scores, penalty, ppo, kl_coef)
    if ppo.whiten_rewards:
        rewards = whiten(rewards, sampled, shift=False)
    if ppo.advantage == "rloo":
        advantages = advantages_rloo(rewards, sampled, ppo.completions_per_task)
        returns = values
    else:
        advantages, returns = advantages_gae(rewards, values, sampled, ppo.gamma, ppo.gae_lambda)
        advantages = whiten(advantages, sampled)
    batch = Batch(
        logprobs.tokens, logprobs.positions, sampled, logprobs.policy, values, advantages,
        returns, logprobs.below,
    )  # fmt: skip
    kl = torch.where(sampled, logprobs.kl, 0.0).sum(1)
    return RolloutBatch(batch, kl, logprobs.entropy())


@torch.no_grad()
def compute_logprobs(
    networks: Networks, episodes: Sequence[Episode], config: TextConfig
) -> Logprobs:
    """Run the networks over whole episodes, in passes no larger than those of an update.

    What the policy was asked, the reference does not read.
    """
    device, temperature = networks.model.device, config.temperature
    tokens = right_padded([episode.read for episode in episodes], device)
    sampled_ids = [episode.sampled_of_read for episode in episodes]
    positions, sampled = sampled_positions(sampled_ids, device)
    columns = [torch.zeros(positions.shape, device=device) for _ in range(5)]
    kept: Tensor | None = None
    for rows, width, actions, counts in _passes(tokens, sampled, config):
        part = Tokens(tokens.ids[rows, :width], tokens.mask[rows, :width])
        given = part, positions[rows, :actions], [episodes[row] for row in rows.tolist()]
        computed, below = networks(partial(_computed, networks, *given, temperature))
        if below is not None and tokens.ids.numel() * below[0, 0].nbytes <= KEPT:
            kept = below.new_zeros(*tokens.ids.shape, below.shape[-1]) if kept is None else kept
        if not counts:
            continue
        if kept is not None and below is not None:
            kept[rows, :width] = below
        for column, part_of_column in zip(columns, computed, strict=True):
            column[rows, :actions] = part_of_column
    columns = [parallel.added(column) for column in columns]
    kept = None if kept is None else parallel.added(kept)
    return Logprobs(tokens, positions, sampled, *columns, below=kept)


def _unasked(networks: Networks, episodes: Sequence[Episode], positions: Tensor) -> Tensor:
    """Return what the reference, which is asked nothing, makes of replies, at their `positions`."""
    tokens = right_padded([episode.ids for episode in episodes], positions.device)
    own, _ = sampled_positions([episode.sampled for episode in episodes], positions.device)
    hidden = networks.reference_hidden(tokens, networks.below(tokens))
    return aligned(hidden, own, positions)


def _computed(
    networks: Networks, tokens: Tokens, positions: Tensor, episodes: Sequence[Episode],
    temperature: float,
) -> tuple[tuple[Tensor, ...], Tensor | None]:  # fmt: skip
    """Return log-probabilities, the reference's, entropies, divergences and values of a pass.

    Then what the frozen layers give.
    """
    below = networks.below(tokens)
    hidden = networks.policy(tokens, below)
    if any(episode.asked for episode in episodes):
        other = _unasked(networks, episodes, positions)
    else:
        other = networks.reference_hidden(tokens, below)
    given = tokens, positions, temperature
    logprobs, entropies = networks.log_probabilities(hidden, *given)
    reference = networks.log_probabilities(other, *given, reference=True)[0]
    kl = networks.divergences(hidden, other, positions, temperature)
    values = networks.values(tokens, below, hidden, positions)
    return (logprobs, reference, entropies, kl, values), below


@torch.no_grad()
def compute_values(networks: Networks, logprobs: Logprobs, config: TextConfig) -> Tensor:
    """Return what the critic expects now `[episode, action]`, where nothing else has learned."""
    tokens, values = logprobs.tokens, torch.zeros_like(logprobs.values)
    for rows, width, actions, counts in _passes(tokens, logprobs.sampled, config):
        part = Tokens(tokens.ids[rows, :width], tokens.mask[rows, :width])
        kept = None if logprobs.below is None else logprobs.below[rows, :width]
        positions = logprobs.positions[rows, :actions]
        computed = networks(partial(_values, networks, part, kept, positions))
        if counts:
            values[rows, :actions] = computed
    return parallel.added(values)


def _values(networks: Networks, tokens: Tokens, kept: Tensor | None, positions: Tensor) -> Tensor:
    below = networks.below(tokens) if kept is None else kept
    return networks.values(tokens, below, None, positions)


def _passes(
    tokens: Tokens, sampled: Tensor, config: TextConfig
) -> Iterator[tuple[Tensor, int, int, bool]]:
    """Yield the rows of each pass, how many tokens and sampled tokens they have, whether it counts.

    Of several processes each makes as many passes; one that is made for the others' sake alone does
    not count.
    """
    lengths, counts = tokens.mask.sum(1), sampled.sum(1)
    for some in torch.arange(len(lengths)).split(config.agent.batch_size):
        groups = own_groups(lengths[some].tolist(), config.micro_batch_size)
        if len(groups) == 1 and len(groups[0].rows) == len(some):
            yield some, tokens.ids.shape[1], sampled.shape[1], True
            continue
        for group in groups:
            rows = some[torch.tensor(group.rows)]
            most = int(lengths[rows].max()), int(counts[rows].max())
            yield rows, *most, bool(group.weight)


def token_rewards(
    episodes: Sequence[Episode], scores: Sequence[np.ndarray], kl: Tensor, config: TextPPOConfig,
    kl_coef: float,
) -> Tensor:  # fmt: skip
    """Return the reward of each sampled token `[episode, action]`.

    A turn's score comes exactly with the last token of its reply.
    """
    rewards = -kl_coef * kl
    for row, (episode, score) in enumerate(zip(episodes, scores, strict=True)):
        lengths = np.subtract(episode.ends, episode.starts)
        for column, turn_score in zip(np.cumsum(lengths) - 1, score, strict=True):
            rewards[row, column] += float(turn_score)
        if not episode.finished[-1]:
            rewards[row, int(lengths.sum()) - 1] -= config.missing_end_penalty
    return rewards
