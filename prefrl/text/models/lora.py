"""Low-rank adapters: what is trained is a small matrix beside each of a model's (LoRA).

Hu et al. 2021 (arXiv 2106.09685), through PEFT. The model's own weights stay as they are, so all
that begin as it (policy, reference, critic, members of a reward model) hold them once between them.
"""

from __future__ import annotations

import copy
import importlib
import logging
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from prefrl.errors import UserError

ALPHA = 2  # what an adapter adds is multiplied by it
Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """Return a copy that shares frozen parameters and buffers, and has its own of the rest."""
    frozen = [p for p in module.parameters() if not p.requires_grad]
    memo = {id(tensor): tensor for tensor in [*frozen, *module.buffers()]}
    return copy.deepcopy(module, memo)


def add_adapters(model: PreTrainedModel, rank: int, freeze_layers: int, seed: int) -> None:
    """Freeze a model and put an adapter beside each matrix of its layers, in place.

    At first an adapter adds nothing.

    Args:
        model: a causal language model.
        rank: of the adapters.
        freeze_layers: lower layers that get none.
        seed: of their weights.

    Raises:
        UserError: PEFT is not installed.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT loads it where it is
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError:
        raise UserError(
            "adapters of low rank are PEFT's, which is not installed: pip install 'prefrl[lora]', "
            "or leave out --text.lora and --lora"
        ) from None
    model.requires_grad_(False)
    names = _matrices(model, freeze_layers)
    rows_first = any(type(model.get_submodule(name)) is not nn.Linear for name in names)
    config = peft.LoraConfig(
        r=rank, lora_alpha=ALPHA * rank, target_modules=names, fan_in_fan_out=rows_first
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(config, model)


def _matrices(model: PreTrainedModel, freeze_layers: int) -> list[str]:
    """Return the names of the matrices in the layers of a model that are not frozen."""
    base = model.base_model
    stacks = [(n, part) for n, part in base.named_children() if isinstance(part, nn.ModuleList)]
    prefix = next(name for name, module in model.named_modules() if module is base)
    return [
        ".".join(filter(None, (prefix, stack, str(number), name)))
        for stack, layers in stacks
        for number, layer in enumerate(layers)
        if number >= freeze_layers
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]


@torch.no_grad()
def merge(module: nn.Module) -> None:
    """Add what adapters have learned to the matrices that they are beside, in place.

    The matrices are the module's own from then on: nobody shares them.
    """
    for name, part in list(module.named_modules()):
        if not hasattr(part, "lora_A"):
            continue
        layer: Any = part
        matrix = layer.get_base_layer()
        matrix.weight = nn.Parameter(matrix.weight.clone())
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, matrix)
