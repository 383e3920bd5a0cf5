"""Sequences of tokens as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


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


def aligned(hidden: Tensor, positions: Tensor, to: Tensor) -> Tensor:
    """Return hidden states before some tokens, where another reading of the same tokens has them.

    Args:
        hidden: of the one reading, `[sequence, token, width]`.
        positions: of the tokens in it, `[sequence, action]`, indices from 1.
        to: those in the other, `[sequence, action]` or more; there is nothing elsewhere.
    """
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    moved = hidden.new_zeros(len(hidden), int(to.max()), hidden.shape[-1])
    moved[rows, to[:, : positions.shape[1]] - 1] = hidden[rows, positions - 1]
    return moved


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
