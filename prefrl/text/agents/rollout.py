"""From sampled episodes to the batch of an update: log-probabilities, rewards, advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefrl.config.text import TextConfig, TextPPOConfig
from prefrl.text.agents.token_ppo import (
    Batch,
    advantages_gae,
    advantages_rloo,
    kl_estimate,
    whiten,
)
from prefrl.text.episode import Episode
from prefrl.text.models.networks import Networks, Tokens, right_padded, sampled_positions


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
    values: Tensor
    """[episode, action], what the critic expects before each token."""

    def entropy(self) -> float:
        """Return the policy's mean entropy, in nats per token."""
        return float(self.entropies[self.sampled].mean())


@dataclass(frozen=True)
class RolloutBatch:
    """Sampled episodes, ready for an update."""

    batch: Batch
    kl: Tensor
    """[episode], estimated nats."""
    entropy: float
    """Nats per token."""


def score_rollout(
    networks: Networks, episodes: Sequence[Episode], scores: Sequence[np.ndarray],
    config: TextConfig, kl_coef: float,
) -> RolloutBatch:  # fmt: skip
    """Compute what an update needs of sampled episodes.

    Args:
        networks: before the update.
        episodes: as many of each task as the config says, one after the other.
        scores: predicted rewards, `[turn]` of each episode.
        config: the settings.
        kl_coef: reward that a nat of divergence from the reference costs.
    """
    ppo, logprobs = config.ppo, compute_logprobs(networks, episodes, config)
    sampled, values = logprobs.sampled, logprobs.values
    divergence = kl_estimate(logprobs.policy, logprobs.reference, ppo.kl_estimator)
    kl = torch.where(sampled, divergence, 0.0)
    rewards = token_rewards(episodes, scores, kl, ppo, kl_coef)
    if ppo.whiten_rewards:
        rewards = whiten(rewards, sampled, shift=False)
    if ppo.advantage == "rloo":
        advantages = advantages_rloo(rewards, sampled, ppo.completions_per_task)
        returns = values
    else:
        advantages, returns = advantages_gae(rewards, values, sampled, ppo.gamma, ppo.gae_lambda)
        advantages = whiten(advantages, sampled)
    batch = Batch(
        logprobs.tokens, logprobs.positions, sampled, logprobs.policy, values, advantages, returns
    )
    return RolloutBatch(batch, kl.sum(1), logprobs.entropy())


@torch.no_grad()
def compute_logprobs(
    networks: Networks, episodes: Sequence[Episode], config: TextConfig
) -> Logprobs:
    """Run the networks over whole episodes, in passes as large as those of an update."""
    device, temperature = networks.model.device, config.temperature
    tokens = right_padded([episode.ids for episode in episodes], device)
    positions, sampled = sampled_positions([episode.sampled for episode in episodes], device)
    policy, reference, entropies, values = [], [], [], []
    for rows in torch.arange(len(episodes)).split(config.ppo.batch_size):
        part, part_positions = Tokens(tokens.ids[rows], tokens.mask[rows]), positions[rows]
        below = networks.below(part)
        hidden = networks.policy(part, below)
        logprobs, entropy = networks.log_probabilities(hidden, part, part_positions, temperature)
        policy.append(logprobs)
        entropies.append(entropy)
        reference.append(
            networks.reference_log_probabilities(part, below, part_positions, temperature)
        )
        values.append(networks.values(part, below, hidden, part_positions))
    return Logprobs(
        tokens, positions, sampled, torch.cat(policy), torch.cat(reference), torch.cat(entropies),
        torch.cat(values),
    )  # fmt: skip


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
