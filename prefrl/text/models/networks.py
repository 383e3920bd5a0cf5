"""Policy, frozen reference and critic, over layers they may share.

With `freeze_layers` = k the embedding and the lowest k layers are frozen, so they are the same in
all three for ever: one copy in memory, one pass for all (trlX's "hydra"). The upper layers of the
policy and the critic are trained, those of the reference are not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefrl.learning import parallel
from prefrl.text.models.layers import hidden_states, recompute_layers, split
from prefrl.text.models.logits import (
    Least,
    check_logits,
    divergences,
    token_log_probabilities,
)
from prefrl.text.models.lora import add_adapters, copied
from prefrl.text.models.sharding import gathered, shard
from prefrl.text.models.tokens import Tokens

Result = TypeVar("Result")


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

    def shard(self) -> None:
        """Let each of several processes hold its part of the weights, in place."""
        shard(self)

    def forward(self, passes: Callable[[], Result]) -> Result:
        """Run passes of these networks, and return what they give.

        Of several processes that hold the weights between them all run theirs at the same time.
        """
        return passes()

    def whole_policy(self) -> AbstractContextManager[None]:
        """Hold all weights of the policy meanwhile, for many short passes."""
        return gathered(self.model, within=self)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name; parameters that two parts share come once."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def trained_of_policy(self) -> list[nn.Parameter]:
        """Return what is trained of the policy."""
        return [p for n, p in self.trained().items() if not n.startswith(("critic.", "value."))]

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

    def kept_as_begun(self) -> dict[str, Tensor]:
        """Return what is trained as it is now, the reference's own where that has it, by name."""
        begun = self.begun()
        return {
            name: weights if name in begun else weights.detach().clone()
            for name, weights in (self.trained() | begun).items()
        }

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Let what is trained be other weights, by name."""
        for name, parameter in self.trained().items():
            parameter.copy_(parallel.split_like(weights[name], parameter))

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
        chosen, entropies = token_log_probabilities(
            head, hidden, tokens, positions, temperature, self.least
        )
        return chosen.clone(), entropies  # `forward` may give no views of what is inside

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
        with gathered(self.head, self.reference_head):  # other processes may have fewer rows
            return divergences(own, other, positions, temperature, self.least)

    def values(
        self, tokens: Tokens, below: Tensor | None, hidden: Tensor | None, positions: Tensor
    ) -> Tensor:
        """Return what the critic expects before each token at `positions`, `[sequence, action]`.

        Args:
            tokens: the batch.
            below: what the lower layers gave.
            hidden: the policy's last hidden states, which a critic without layers reads; None runs
                the policy for them.
            positions: as for `log_probabilities`.
        """
        if self.critic is not None:
            with self.autocast():
                hidden = hidden_states(self.critic, tokens, below)
        elif hidden is None:
            hidden = self.policy(tokens, below)
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        return self.value(hidden[rows, positions - 1])
