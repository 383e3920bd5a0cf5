"""The layers of a language model: run, split in two, computed again in the backward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from prefrl.errors import UserError
from prefrl.text.models.tokens import Tokens


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


def _shallow(module: Any) -> Any:
    """Return a copy of a module that holds the same parts."""
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    return clone


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
