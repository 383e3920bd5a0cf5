"""PPO on tokens: from sampled tokens to an update.

Pure functions of tensors but for `update`. A row is an episode and a column the n-th token that the
policy sampled in it, whatever stands between its turns; `sampled` masks what is not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from prefrl.config.text import TextPPOConfig
from prefrl.learning import parallel
from prefrl.pace import Pace
from prefrl.text.models.networks import Networks
from prefrl.text.models.sharding import own_groups
from prefrl.text.models.tokens import Tokens


class Batch(NamedTuple):
    """Episodes, and what the networks gave of them before the update."""

    tokens: Tokens
    positions: Tensor
    """[episode, action], position of each sampled token, 1 where there is none."""
    sampled: Tensor
    """[episode, action], bool."""
    log_probabilities: Tensor
    """[episode, action], of the policy, in nats."""
    values: Tensor
    """[episode, action], expected before each token."""
    advantages: Tensor
    returns: Tensor
    """[episode, action], what the critic should have given."""
    below: Tensor | None = None
    """[episode, token, width], what the frozen layers give; None where each pass runs them."""


def kl_estimate(log_probabilities: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Estimate KL(policy ‖ reference) at each sampled token.

    Schulman, "Approximating KL divergence" (2020): k1 = log π − log ρ is unbiased and may be
    negative at a token; k3 = ρ/π − 1 − log(ρ/π) is unbiased, too, and never negative.
    """
    difference = log_probabilities - reference
    if estimator == "k1":
        return difference
    return torch.expm1(-difference) + difference


def advantages_gae(
    rewards: Tensor, values: Tensor, sampled: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and returns (arXiv 1506.02438), `[episode, action]` each.

    An episode's tokens follow each other, over the borders of its turns, too; after the last one
    nothing is expected.
    """
    advantages = torch.zeros_like(rewards)
    following, ahead = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for column in range(rewards.shape[1] - 1, -1, -1):
        here = sampled[:, column]
        error = rewards[:, column] + gamma * ahead - values[:, column]
        step = error + gamma * gae_lambda * following
        advantages[:, column] = torch.where(here, step, 0.0)
        following = torch.where(here, step, following)
        ahead = torch.where(here, values[:, column], ahead)
    return advantages, advantages + torch.where(sampled, values, 0.0)


def advantages_rloo(rewards: Tensor, sampled: Tensor, group: int) -> Tensor:
    """Return leave-one-out advantages (arXiv 2402.14740), the same for all tokens of an episode.

    The baseline of an episode is the mean return of the others of its group.

    Args:
        rewards: `[episode, action]`.
        sampled: `[episode, action]`, bool.
        group: episodes of one task, which follow each other; at least 2.
    """
    returns = torch.where(sampled, rewards, 0.0).sum(1).view(-1, group)
    others = (returns.sum(1, keepdim=True) - returns) / (group - 1)
    return (returns - others).view(-1, 1) * sampled


def whiten(values: Tensor, mask: Tensor, shift: bool = True) -> Tensor:
    """Give what is masked in deviation 1, and mean 0 unless told not to shift it."""
    inside = values[mask]
    mean, deviation = inside.mean(), inside.std(unbiased=False)
    whitened = (values - mean) / (deviation + 1e-8)
    return torch.where(mask, whitened if shift else whitened + mean, 0.0)


def policy_loss(
    new: Tensor, old: Tensor, advantages: Tensor, sampled: Tensor, clip_range: float
) -> Tensor:
    """Return PPO's clipped loss (arXiv 1707.06347, equation 7), a mean over tokens."""
    ratio = torch.exp(new - old)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -_mean(torch.minimum(ratio * advantages, clipped * advantages), sampled)


def sequence_loss(
    new: Tensor, old: Tensor, advantages: Tensor, sampled: Tensor, clip_range: float
) -> Tensor:
    """Return the clipped loss of whole episodes as single actions, a mean over episodes.

    The ratio is that of all an episode's tokens together; its advantage is the same for each.
    """
    together = torch.where(sampled, new - old, 0.0).sum(1, keepdim=True)
    every = torch.ones_like(together, dtype=torch.bool)
    return policy_loss(together, torch.zeros_like(together), advantages[:, :1], every, clip_range)


def value_loss(
    new: Tensor, old: Tensor, returns: Tensor, sampled: Tensor, clip_range: float
) -> Tensor:
    """Return the mean squared error; a value may not leave `clip_range` around the old one."""
    clipped = old + (new - old).clamp(-clip_range, clip_range)
    worse = torch.maximum((new - returns).square(), (clipped - returns).square())
    return _mean(worse, sampled)


def update(
    networks: Networks, batch: Batch, config: TextPPOConfig, optimizer: torch.optim.Optimizer,
    generator: torch.Generator, temperature: float, critic_alone: bool = False,
    micro_batch_size: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Make the epochs of one update; return means over its minibatches.

    Args:
        networks: are trained.
        batch: what was sampled.
        config: PPO's settings.
        optimizer: of `networks.trained()`.
        generator: shuffles the episodes.
        temperature: of the sampling.
        critic_alone: leave the policy as it is: its reward has just changed.
        micro_batch_size: episodes of a minibatch that are read at a time; 0 for all.

    Raises:
        FloatingPointError: the loss is not finite; nothing was changed by it.
    """
    totals: dict[str, list[float]] = {}
    lengths = batch.tokens.mask.sum(1).tolist()
    minibatches = config.n_epochs * math.ceil(len(lengths) / config.batch_size)
    pace = Pace("the critic alone" if critic_alone else "PPO", minibatches)
    for rows in _minibatches(len(batch.positions), config, generator):
        optimizer.zero_grad()
        report: dict[str, float] = {}
        chosen = rows.tolist()
        tokens = int(batch.sampled[rows].sum())
        for group in own_groups([lengths[row] for row in chosen], micro_batch_size):
            part = _rows(batch, rows[torch.tensor(group.rows)])
            # Each loss is a mean over the tokens of the minibatch, or over its episodes.
            share = group.weight * int(part.sampled.sum()) / tokens
            rloo = config.advantage == "rloo"
            acted = group.weight * len(group.rows) / len(chosen) if rloo else share
            loss, measured = networks(partial(
                _losses, networks, part, config, temperature, critic_alone, share, acted
            ))  # fmt: skip
            if not parallel.all_of(torch.isfinite(loss)):
                raise FloatingPointError(
                    "the loss of PPO is not a finite number; lower --text.ppo.learning-rate"
                )
            loss.backward()
            for name, value in measured.items():
                report[name] = report.get(name, 0.0) + value
        torch.nn.utils.clip_grad_norm_(networks.trained().values(), config.max_grad_norm)
        optimizer.step()
        for name, value in report.items():
            totals.setdefault(name, []).append(value)
        pace.step(tokens=sum(lengths[row] for row in chosen))
    means = {name: sum(values) / len(values) for name, values in totals.items()}
    return parallel.added_numbers(means)


def _losses(
    networks: Networks, part: Batch, config: TextPPOConfig, temperature: float,
    critic_alone: bool, share: float, acted: float,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """Return what some episodes of a minibatch add to its loss, and to what is told of it.

    Args:
        networks: with gradient.
        part: the episodes.
        config: PPO's settings.
        temperature: of the sampling.
        critic_alone: leave the policy's loss out.
        share: of the minibatch's tokens that are in `part`.
        acted: of the minibatch's actions, which may be whole episodes.
    """
    below = networks.below(part.tokens) if part.below is None else part.below
    with torch.set_grad_enabled(not critic_alone):
        hidden = networks.policy(part.tokens, below)
    loss, report = torch.zeros((), device=hidden.device), {}
    if config.advantage == "gae":
        values = networks.values(part.tokens, below, hidden, part.positions)
        critic = share * value_loss(
            values, part.values, part.returns, part.sampled, config.clip_range_vf
        )
        loss = 0.5 * config.vf_coef * critic  # of half the error, as PPO's coefficient is meant
        report = {"value_loss": float(critic.detach())}
    if critic_alone:
        return loss, report
    new, entropies = networks.log_probabilities(hidden, part.tokens, part.positions, temperature)
    loss_of = sequence_loss if config.advantage == "rloo" else policy_loss
    actor = acted * loss_of(
        new, part.log_probabilities, part.advantages, part.sampled, config.clip_range
    )
    loss = loss + actor - share * config.ent_coef * _mean(entropies, part.sampled)
    told = _report(new.detach(), part, config.clip_range)
    report["policy_loss"] = float(actor.detach())
    return loss, report | {name: share * value for name, value in told.items()}


def _report(new: Tensor, part: Batch, clip_range: float) -> dict[str, float]:
    difference = new - part.log_probabilities
    outside = ((difference.exp() - 1).abs() > clip_range).float()
    return {
        "approx_kl": float(_mean(torch.expm1(difference) - difference, part.sampled)),
        "clip_fraction": float(_mean(outside, part.sampled)),
    }


def _minibatches(count: int, config: TextPPOConfig, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(config.n_epochs):
        yield from torch.randperm(count, generator=generator).split(config.batch_size)


def _rows(batch: Batch, rows: Tensor) -> Batch:
    """Return some episodes of a batch, without columns that none of them needs."""
    rows = rows.to(batch.positions.device)
    width = int(batch.tokens.mask[rows].sum(1).max())
    actions = int(batch.sampled[rows].sum(1).max())
    tokens = Tokens(batch.tokens.ids[rows, :width], batch.tokens.mask[rows, :width])
    columns = [
        column[rows, :actions]
        for column in (batch.positions, batch.sampled, batch.log_probabilities, batch.values,
                       batch.advantages, batch.returns)
    ]  # fmt: skip
    below = None if batch.below is None else batch.below[rows, :width]
    return Batch(tokens, *columns, below=below)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() / mask.sum()
