"""Policy, frozen reference and critic, over layers they may share.

With `freeze_layers` = k the embedding and the lowest k layers are frozen, so they are the same in
all three for ever: one copy in memory, one pass for all (trlX's "hydra"). The upper layers of the
policy and the critic are trained, those of the reference are not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from prefrl.errors import UserError
from prefrl.text.models.lora import add_adapters, copied


class Tokens(NamedTuple):
    """Sequences of one batch, padded on the right."""

    ids: Tensor
    """[sequence, token], 0 where padded."""
    mask: Tensor
    """[sequence, token], 1 where there is a token."""
    positions: Tensor | None = None
    """[sequence, token], where it is not the number of tokens before."""
    attention: Tensor | None = None
    """[sequence, 1, token, token], added to the attention of each to each, where not each sees all
    before it."""


def right_padded(sequences: Sequence[Sequence[int]], device: torch.device | str) -> Tokens:
    """Return sequences of ids as a batch."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return Tokens(ids.to(device), mask.to(device))


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


def sampled_positions(
    sampled: Sequence[Sequence[bool]], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return the position of each sampled token and which there are, `[sequence, action]` each.

    Args:
        sampled: of each sequence, which of its ids were sampled.
        device: of what is returned.
    """
    columns = [np.flatnonzero(mask) for mask in sampled]
    longest = max(map(len, columns))
    positions = torch.ones(len(columns), longest, dtype=torch.long)
    there = torch.zeros(len(columns), longest, dtype=torch.bool)
    for row, sampled_columns in enumerate(columns):
        positions[row, : len(sampled_columns)] = torch.as_tensor(sampled_columns)
        there[row, : len(sampled_columns)] = True
    return positions.to(device), there.to(device)


class Scalar(nn.Module):
    """A head that reads one number off each hidden state."""

    def __init__(self, width: int, generator: torch.Generator, deviation: float | None = None):
        """Draw the weights; by default with deviation 1 / √(width + 1) (Stiennon et al. 2020)."""
        super().__init__()
        deviation = 1 / math.sqrt(width + 1) if deviation is None else deviation
        self.weight = nn.Parameter(torch.randn(width, generator=generator) * deviation)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `[…]` of hidden states `[…, width]`, in float32."""
        return hidden.float() @ self.weight + self.bias


def split(
    model: PreTrainedModel, layers: int, option: str = "text.ppo.freeze-layers"
) -> tuple[nn.Module | None, nn.Module]:
    """Split the decoder of a causal language model into its lower layers and the rest.

    The parts hold the model's own parameters. The upper part takes `input_ids` if there is no lower
    one, else what the lower gives as `inputs_embeds`; both return hidden states.

    Args:
        model: a causal language model.
        layers: of the lower part, beside the embedding; 0 for no lower part.
        option: of the command line, which said so.

    Raises:
        UserError: it has not so many, or is not built like a Llama.
    """
    decoder: Any = model.base_model
    if layers == 0:
        return None, decoder
    if not all(hasattr(decoder, name) for name in ("embed_tokens", "layers", "norm")):
        raise UserError(
            f"{type(model).__name__} is not built of embed_tokens, layers and norm, so its lower "
            f"layers cannot be shared; leave out --{option}"
        )
    if not 0 < layers < len(decoder.layers):
        raise UserError(
            f"--{option} is {layers}; the model has {len(decoder.layers)} layers, of which at "
            "least one must be trained"
        )
    lower, upper = _shallow(decoder), _shallow(decoder)
    lower.layers, lower.norm = nn.ModuleList(decoder.layers[:layers]), nn.Identity()
    upper.layers, upper.embed_tokens = nn.ModuleList(decoder.layers[layers:]), None
    if getattr(decoder.config, "layer_types", None):  # the n-th says how the n-th layer looks back
        upper.config = copy.copy(decoder.config)
        upper.config.layer_types = decoder.config.layer_types[layers:]
    return lower, upper


def joined(lower: nn.Module | None, upper: nn.Module) -> nn.Module:
    """Return the decoder whose parts `split` gave."""
    if lower is None:
        return upper
    whole, rest = _shallow(lower), _shallow(upper)
    whole.layers, whole.norm = nn.ModuleList([*whole.layers, *rest.layers]), rest.norm
    return whole


class TooLittleMemory(UserError):
    """A GPU has not the memory for what was to be done."""

    def __init__(self, reason: str, advice: str):
        super().__init__(f"the GPU has too little memory ({reason}); {advice}")
        self.reason = reason


@contextmanager
def enough_memory(*options: str, resumable: bool = True) -> Iterator[None]:
    """Say which options to lower if a GPU has not the memory for what is done inside.

    Where one is inside another, the outer one says it: it knows what is being done.

    Args:
        options: of the command line, without dashes.
        resumable: whether there is a run by now, which can be resumed.
    """
    try:
        yield
    except (torch.OutOfMemoryError, TooLittleMemory) as error:
        inner = isinstance(error, TooLittleMemory)
        reason = error.reason if inner else str(error).partition(". GPU")[0].rstrip(".")
        *others, last = (f"--{option}" for option in options)
        advice = f"lower {', '.join(others)} or {last}" if others else f"lower {last}"
        if resumable:
            advice += (
                " in a new run, or free some of it and resume this one, which is kept up to its "
                "last round"
            )
        raise TooLittleMemory(reason, advice) from None


def _shallow(module: Any) -> Any:
    """Return a copy of a module that holds the same parts."""
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    return clone


class Networks(nn.Module):
    """What PPO on a language model needs: log-probabilities, those of the reference, values."""

    def __init__(
        self, model: PreTrainedModel, freeze_layers: int, own_critic: bool, seed: int,
        autocast: Callable[[], AbstractContextManager], gradient_checkpointing: bool = False,
        lora: int = 0,
    ):  # fmt: skip
        """Build reference and critic from the policy as it stands.

        Args:
            model: the policy, a causal language model; it is trained in place.
            freeze_layers: lower layers that stay as they are and are shared.
            own_critic: give the critic upper layers of its own, else a head on the policy's.
            seed: of the critic's head.
            autocast: the context in which passes are made.
            gradient_checkpointing: compute layers again in the backward pass.
            lora: rank of adapters, which alone are trained; policy, reference and critic then share
                the weights of the model.
        """
        super().__init__()
        if lora:
            model.requires_grad_(False)
        self.model, self.autocast = model, autocast
        self.least: Least | None = None
        """How early replies may end, where they may not at once."""
        lower, self.upper = split(model, freeze_layers)
        self.lower = lower.requires_grad_(False) if lower is not None else None
        self.head: Any = model.get_output_embeddings()
        self.reference = copied(self.upper).requires_grad_(False)
        if lora:
            add_adapters(model, lora, freeze_layers, seed)
        # Tied to a frozen embedding the head is frozen, too, and one will do.
        tied = all(not parameter.requires_grad for parameter in self.head.parameters())
        self.reference_head = self.head if tied else copy.deepcopy(self.head).requires_grad_(False)
        self.critic = copied(self.upper) if own_critic else None
        width = model.config.get_text_config().hidden_size
        self.value = Scalar(width, torch.Generator().manual_seed(seed), deviation=0.0)
        self.value.to(model.device)
        if gradient_checkpointing:
            for decoder in filter(None, (self.upper, self.critic)):
                recompute_layers(decoder)
        check_logits(model, self.lower, self.upper)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name; parameters that two parts share come once."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def begun(self) -> dict[str, Tensor]:
        """Return what trained weights were at first, by name, where the reference has that."""
        reference = dict(self.reference.named_parameters())
        parts = [(self.upper, reference), (self.critic, reference)]
        parts += [(self.head, dict(self.reference_head.named_parameters()))]
        first = {
            id(weights): there[name]
            for part, there in parts
            for name, weights in (part.named_parameters() if part is not None else ())
            if name in there
        }
        return {n: first[id(p)] for n, p in self.trained().items() if id(p) in first}

    def below(self, tokens: Tokens) -> Tensor | None:
        """Run the shared lower layers, if there are any: `[sequence, token, width]`."""
        if self.lower is None:
            return None
        with torch.no_grad(), self.autocast():
            return hidden_states(self.lower, tokens, None)

    def policy(self, tokens: Tokens, below: Tensor | None) -> Tensor:
        """Return the policy's last hidden states `[sequence, token, width]`."""
        with self.autocast():
            return hidden_states(self.upper, tokens, below)

    def log_probabilities(
        self, hidden: Tensor, tokens: Tokens, positions: Tensor, temperature: float,
        reference: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return log-probabilities of tokens, and the entropies of what they were drawn from.

        Args:
            hidden: last hidden states `[sequence, token, width]`.
            tokens: the batch.
            positions: which tokens, `[sequence, action]`, indices from 1.
            temperature: of the sampling.
            reference: use the reference's head.

        Returns:
            Two of `[sequence, action]`, in nats.
        """
        head = self.reference_head if reference else self.head
        return token_log_probabilities(head, hidden, tokens, positions, temperature, self.least)

    @torch.no_grad()
    def reference_hidden(self, tokens: Tokens, below: Tensor | None) -> Tensor:
        """Return the frozen reference's last hidden states `[sequence, token, width]`."""
        with self.autocast():
            return hidden_states(self.reference, tokens, below)

    @torch.no_grad()
    def divergences(
        self, hidden: Tensor, reference: Tensor, positions: Tensor, temperature: float
    ) -> Tensor:
        """Return KL(policy ‖ reference) before each token `[sequence, action]`, in nats.

        It is exact: Σ_v π(v) (log π(v) − log ρ(v)) over the whole vocabulary.

        Args:
            hidden: the policy's last hidden states `[sequence, token, width]`.
            reference: those of the reference.
            positions: as for `log_probabilities`.
            temperature: of the sampling.
        """
        own, other = (self.head, hidden), (self.reference_head, reference)
        return divergences(own, other, positions, temperature, self.least)

    def values(
        self, tokens: Tokens, below: Tensor | None, hidden: Tensor, positions: Tensor
    ) -> Tensor:
        """Return what the critic expects before each token at `positions`, `[sequence, action]`.

        Args:
            tokens: the batch.
            below: what the lower layers gave.
            hidden: the policy's last hidden states, which a critic without layers reads.
            positions: as for `log_probabilities`.
        """
        if self.critic is not None:
            with self.autocast():
                hidden = hidden_states(self.critic, tokens, below)
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        return self.value(hidden[rows, positions - 1])


def hidden_states(decoder: Any, tokens: Tokens, below: Tensor | None) -> Tensor:
    """Run (part of) a decoder: `[sequence, token, width]`."""
    positions, attention = tokens.positions, tokens.attention
    if positions is None or attention is None:
        positions, attention = (tokens.mask.cumsum(1) - 1).clamp(min=0), tokens.mask
    inputs = {"input_ids": tokens.ids} if below is None else {"inputs_embeds": below}
    with _recomputed(decoder):
        return decoder(
            **inputs, attention_mask=attention, position_ids=positions, use_cache=False
        ).last_hidden_state


def recompute_layers(decoder: Any) -> None:
    """Let passes with gradient keep what goes into each layer alone (arXiv 1604.06174).

    The backward pass computes the layers again: a third more time, the same gradient.
    """
    decoder.recomputes_layers = True


@contextmanager
def _recomputed(decoder: Any) -> Iterator[None]:
    """Meanwhile let the layers of a decoder be computed again, if it was told to."""
    layers: list[Any] = []
    if torch.is_grad_enabled() and getattr(decoder, "recomputes_layers", False):
        layers = [layer for part in decoder.children() if isinstance(part, nn.ModuleList)
                  for layer in part]  # fmt: skip
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


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
