"""Where a language model computes, how precisely, and what to say if the memory is too little."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from prefrl.config.text import TextConfig
from prefrl.errors import UserError

LARGE = 10_000_000  # parameters from which a second thread pays

Autocast = Callable[[], AbstractContextManager]
"""Returns the context in which passes are made."""


def parameter_count(model: nn.Module) -> int:
    """Return how many parameters a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def describe_model(name: str, model: nn.Module, text: TextConfig) -> str:
    """Say how large a model is, where it is, and how precise."""
    device = next(model.parameters()).device
    how = precision(text, device)
    return f"{name}: {parameter_count(model) / 1e6:.1f} million parameters on {device}, {how}"


def use_threads(model: nn.Module, threads: int) -> None:
    """Let torch use threads for a large model; a small one loses to a second one if others work."""
    torch.set_num_threads(threads if parameter_count(model) > LARGE else 1)


def find_device(name: str, option: str = "text.device") -> str:
    """Return the device that an option names: cuda or cpu for "auto".

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--{option} is {name}, which cannot be used here ({reason}); leave it at auto"
        ) from None
    return name


def check_same_device(begun: str, here: str) -> None:
    """Raise `UserError` unless a run that was begun on one type of device goes on on it.

    Each draws random numbers of its own, so the run would not go on as it was.
    """
    if begun != here:
        hint = " (CUDA_VISIBLE_DEVICES= hides a GPU)" if begun == "cpu" else ""
        raise UserError(
            f"this run was begun on {begun} and cannot go on on {here}, which draws other random "
            f"numbers; resume it on {begun}{hint}, or begin a new run on its answers with "
            "`prefrl train --from`"
        )


def in_fixed_order(device: str) -> None:
    """Let a GPU add up in a fixed order from now on, in this whole process.

    What has no such order there raises then: of what is used here that is `cumsum` of real numbers
    alone, which drawing a token does without.
    """
    if device == "cpu":  # it always does
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def precision(text: TextConfig, device: torch.device) -> str:
    """Return the dtype of passes; "auto" is bfloat16 on a GPU, float32 elsewhere."""
    if text.dtype == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return text.dtype


def autocast_for(text: TextConfig, device: torch.device) -> Autocast:
    """Return the context in which passes are made; weights stay float32."""
    if precision(text, device) == "float32":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=torch.bfloat16)


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
