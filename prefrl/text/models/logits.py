"""What a language model says of the next token: logits, log-probabilities, divergences."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefrl.errors import UserError
from prefrl.text.models.layers import hidden_states
from prefrl.text.models.tokens import Tokens, right_padded


class Least(NamedTuple):
    """How early a reply may end, which is part of the distribution that its tokens are drawn of."""

    end: int
    """Id of the end of sequence."""
    tokens: int
    """Of a reply, none of which is the end."""


def too_early(positions: Tensor, least: int) -> Tensor:
    """Return which sampled tokens are among the first of their reply, `[sequence, action]`.

    Args:
        positions: of the tokens, `[sequence, action]`; those of a reply follow each other.
        least: how many are the first.
    """
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    column = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    first = torch.where(begins, column, 0).cummax(1).values
    return column - first < least


def logits(head: Any, hidden: Tensor) -> Tensor:
    """Apply an output head in its own precision, whatever pass is under way, as float32.

    Rounded to bfloat16, logits are off by hundredths of a nat: as much as policies differ.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.to(head.weight.dtype)).float()


def token_log_probabilities(
    head: Any, hidden: Tensor, tokens: Tokens, positions: Tensor, temperature: float,
    least: Least | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return log-probabilities and entropies, as `Networks.log_probabilities` does, by any head."""
    every = _distributions(head, hidden, positions, temperature, least)
    chosen = every.gather(-1, tokens.ids.gather(1, positions)[..., None]).squeeze(-1)
    return chosen, -(every.exp() * _finite(every, least)).sum(-1)


def divergences(
    own: tuple[Any, Tensor], other: tuple[Any, Tensor], positions: Tensor, temperature: float,
    least: Least | None = None,
) -> Tensor:  # fmt: skip
    """Return the exact KL divergence of one model from another before each token.

    Args:
        own: head and last hidden states `[sequence, token, width]` of the one.
        other: those of the other, from which the first diverges.
        positions: of tokens, `[sequence, action]`, indices from 1.
        temperature: of the sampling.
        least: how early replies may end.

    Returns:
        `[sequence, action]`, in nats; never below 0.
    """
    divergence = torch.empty(positions.shape, device=positions.device)
    for row in range(len(positions)):  # a vocabulary is large: one sequence at a time
        here = slice(row, row + 1)
        left = _distributions(own[0], own[1][here], positions[here], temperature, least)
        right = _distributions(other[0], other[1][here], positions[here], temperature, least)
        difference = _finite(left, least) - _finite(right, least)
        divergence[row] = (left.exp() * difference).sum(-1)[0]
    return divergence.clamp(min=0.0)


def _distributions(
    head: Any, hidden: Tensor, positions: Tensor, temperature: float, least: Least | None
) -> Tensor:
    """Return log-probabilities `[sequence, action, id]` before the tokens at `positions`."""
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    scores = logits(head, hidden[rows, positions - 1]) / temperature
    if least is not None:
        barred = torch.zeros_like(scores, dtype=torch.bool)
        barred[..., least.end] = too_early(positions, least.tokens)
        scores = scores.masked_fill(barred, -torch.inf)
    return torch.log_softmax(scores, dim=-1)


def _finite(logprobs: Tensor, least: Least | None) -> Tensor:
    """Return log-probabilities to be weighted by how probable they are: 0 for what cannot be."""
    return logprobs if least is None else logprobs.masked_fill(logprobs == -torch.inf, 0.0)


def check_logits(model: Any, lower: Any = None, upper: Any = None) -> None:
    """Compare the logits that are computed here with those of a model itself.

    Args:
        model: a causal language model.
        lower: the lower part of its decoder, if that is split.
        upper: the upper part; all of it by default.

    Raises:
        UserError: it makes them otherwise.
        FloatingPointError: its own are no finite numbers.
    """
    tokens = right_padded([range(8)], model.device)
    with torch.no_grad():
        expected = model(tokens.ids, use_cache=False).logits
        below = None if lower is None else hidden_states(lower, tokens, None)
        hidden = hidden_states(upper or model.base_model, tokens, below)
        computed = logits(model.get_output_embeddings(), hidden)
    if not torch.isfinite(expected).all():
        raise FloatingPointError(
            "the language model gives no finite numbers; lower its learning rate"
        )
    if not torch.allclose(computed, expected.float(), rtol=0, atol=1e-3 * float(expected.std())):
        raise UserError(
            f"{type(model).__name__} does more to its logits than to multiply by its output "
            "embedding (it scales or caps them), which prefrl does not; give a model that is built "
            "like Llama, Qwen or GPT-2"
        )
