"""Sequences that begin alike, read as one: what they share is computed once.

A tree is a prompt and the replies to it, one after the other. A reply sees the prompt and itself,
never the other replies, and its tokens have the positions that they would have without those.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefrl.text.models.layers import hidden_states
from prefrl.text.models.tokens import Tokens, right_padded

KEPT = 2**30
"""Bytes of what frozen layers gave that are kept at most; of more, each pass runs them."""
PADDED = -1  # the branch of what is no token
TRIED = [1, 2, 3, 4, 5, 6], [1, 2, 3, 6, 5]  # two sequences that begin alike
# Of the deviation of hidden states; SmolLM2, in single precision, differs by 4e-4 of it.
CLOSE = 2e-3


@dataclass(frozen=True)
class Tree:
    """Some sequences, and how many tokens all of them begin with."""

    rows: list[int]
    """Which sequences of the batch."""
    shared: int
    """Tokens that are read once, fewer than any of them has; 0 for a single sequence."""
    sequences: list[list[int]]
    """Their ids, in the order of the rows."""

    @property
    def length(self) -> int:
        """How many tokens are read."""
        return self.shared + sum(len(ids) - self.shared for ids in self.sequences)

    def ids(self) -> list[int]:
        """Return the ids that are read."""
        own = [token for ids in self.sequences for token in ids[self.shared :]]
        return self.sequences[0][: self.shared] + own

    def begins(self) -> list[int]:
        """Return where the own part of each sequence begins among the ids that are read."""
        begins, at = [], self.shared
        for ids in self.sequences:
            begins.append(at)
            at += len(ids) - self.shared
        return begins

    def index(self, member: int, position: int) -> int:
        """Return where a position of one of its sequences is among the ids that are read."""
        own = position - self.shared
        return position if own < 0 else self.begins()[member] + own


def grow(
    sequences: Sequence[list[int]], prompts: Sequence[Hashable], width: int, most: int = 0
) -> list[Tree]:
    """Return trees of sequences with the same prompt, where that is less to compute.

    Args:
        sequences: ids.
        prompts: of each; what has the same may be in one tree.
        width: of the hidden states: the work for a token grows with 6 widths and all it looks at.
        most: sequences in a tree; 0 for as many as pay.
    """
    families: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        families.setdefault(prompt, []).append(row)
    trees = []
    for rows in families.values():
        tree = _tree(rows[:1], sequences)
        for row in rows[1:]:
            joined = _tree([*tree.rows, row], sequences)
            alone = _work(tree.length, width) + _work(len(sequences[row]), width)
            if (most and len(tree.rows) == most) or _work(joined.length, width) >= alone:
                trees.append(tree)
                joined = _tree([row], sequences)
            tree = joined
        trees.append(tree)
    return trees


def single(sequences: Sequence[list[int]]) -> list[Tree]:
    """Return each sequence as a tree of its own."""
    return [_tree([row], sequences) for row in range(len(sequences))]


def _tree(rows: list[int], sequences: Sequence[list[int]]) -> Tree:
    chosen = [sequences[row] for row in rows]
    if len(rows) == 1:
        return Tree(rows, 0, chosen)
    first, last = min(chosen), max(chosen)  # as in a dictionary: all begin as these two do
    differs = (n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    shortest = min(map(len, chosen))
    return Tree(rows, min(next(differs, shortest), shortest - 1), chosen)


def _work(tokens: int, width: int) -> int:
    return tokens * (6 * width + tokens)


def packed(trees: Sequence[Tree], device: torch.device | str) -> Tokens:
    """Return trees as a batch."""
    tokens = right_padded([tree.ids() for tree in trees], device)
    if all(len(tree.rows) == 1 for tree in trees):
        return tokens
    branches = torch.full(tokens.ids.shape, PADDED)
    positions = torch.zeros(tokens.ids.shape, dtype=torch.long)
    for row, tree in enumerate(trees):
        branches[row, : tree.shared] = 0
        positions[row, : tree.shared] = torch.arange(tree.shared)
        for branch, (begin, ids) in enumerate(
            zip(tree.begins(), tree.sequences, strict=True), start=1
        ):
            here = slice(begin, begin + len(ids) - tree.shared)
            branches[row, here] = branch
            positions[row, here] = torch.arange(tree.shared, len(ids))
    looking, seen = branches[:, :, None], branches[:, None, :]
    visible = ((seen == 0) | (seen == looking)).tril()
    attention = torch.zeros(visible.shape).masked_fill_(~visible, torch.finfo(torch.float32).min)
    return Tokens(tokens.ids, tokens.mask, positions.to(device), attention[:, None].to(device))


class Below:
    """What frozen lower layers gave for sequences that are read again and again."""

    def __init__(self, most: int = KEPT):
        """Keep about so many bytes at most; what finds no room is computed each time."""
        self.most, self.bytes = most, 0
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        """By row: `[token, width]` of what it shared when it was read, and of its own."""

    def read(self, lower: Any, trees: Sequence[Tree], tokens: Tokens) -> Tensor:
        """Return what the lower layers give `[tree, token, width]`, computed where not known.

        Args:
            lower: the layers, which never change.
            trees: whose rows mean the same sequences at each call.
            tokens: the trees, packed.
        """
        known = [all(row in self.kept for row in tree.rows) for tree in trees]
        new = [number for number, here in enumerate(known) if not here]
        if len(new) == len(trees):
            below = hidden_states(lower, tokens, None)
            self._keep(trees, below)
            return below
        parts: dict[int, Tensor] = {}
        if new:
            some = [trees[number] for number in new]
            computed = hidden_states(lower, packed(some, tokens.ids.device), None)
            self._keep(some, computed)
            parts = {n: each[: trees[n].length] for n, each in zip(new, computed, strict=True)}
        parts |= {n: self._joined(tree) for n, tree in enumerate(trees) if known[n]}
        below = parts[0].new_zeros(*tokens.ids.shape, parts[0].shape[-1])
        for number, part in parts.items():
            below[number, : len(part)] = part
        return below

    def _keep(self, trees: Sequence[Tree], below: Tensor) -> None:
        size = below.numel() * below.element_size()
        if self.bytes + size > self.most:
            return
        self.bytes += size
        for part, tree in zip(below, trees, strict=True):
            for row, begin, ids in zip(tree.rows, tree.begins(), tree.sequences, strict=True):
                own = part[begin : begin + len(ids) - tree.shared]
                self.kept[row] = part[: tree.shared], own

    def _joined(self, tree: Tree) -> Tensor:
        """Return what is kept of a tree `[token, width]`, whatever its rows shared then."""
        rows = [torch.cat(self.kept[row]) for row in tree.rows]
        return torch.cat([rows[0][: tree.shared], *(row[tree.shared :] for row in rows)])


@torch.no_grad()
def reads_trees(decoder: Any) -> bool:
    """Return whether a decoder gives the same for a tree as for its sequences."""
    config = decoder.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "sliding_window", None) or kinds != {"full_attention"}:
        return False  # it would look further back in a tree
    device = next(decoder.parameters()).device
    tree = _tree([0, 1], TRIED)
    try:
        together = hidden_states(decoder, packed([tree], device), None)[0]
    except (TypeError, ValueError, RuntimeError):  # it takes no mask or positions of this form
        return False
    for member, ids in enumerate(TRIED):
        alone = hidden_states(decoder, right_padded([ids], device), None)[0]
        columns = [tree.index(member, position) for position in range(len(ids))]
        if not torch.isfinite(alone).all():
            return False  # as whoever reads the model will say
        if not torch.allclose(together[columns], alone, rtol=0, atol=CLOSE * float(alone.std())):
            return False
    return True
