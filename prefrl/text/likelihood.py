"""How likely a policy makes completions: the log-probabilities of their replies, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from prefrl.config.text import TextConfig
from prefrl.learning import parallel
from prefrl.text.episode import turns_of
from prefrl.text.models.networks import Networks
from prefrl.text.models.sharding import own_groups
from prefrl.text.models.template import Template
from prefrl.text.models.tokens import sampled_positions
from prefrl.text.models.trees import Below, Tree, packed
from prefrl.text.reward import written_turns
from prefrl.types import Segment, Trajectory

CHUNK = 64  # completions that are read at a time, without gradient

Turns = Sequence[tuple[list[int], list[int]]]
"""The ids before each reply, and of each reply."""


@dataclass
class Completions:
    """Completions as token ids."""

    sequences: list[list[int]] = field(default_factory=list)
    sampled: list[list[bool]] = field(default_factory=list)
    """Of each sequence, which ids are of replies."""
    tokens: list[list[int]] = field(default_factory=list)
    """Of each sequence, how many tokens each reply has."""
    below: Below = field(default_factory=Below, compare=False)
    """What the frozen layers gave, while a fit reads them again and again."""

    def add(self, turns: Turns, context: int) -> None:
        """Append a completion, of a longer one than the context the newest tokens."""
        ids: list[int] = []
        sampled: list[bool] = []
        for before, reply in turns:
            ids += [*before, *reply]
            sampled += [False] * len(before) + [True] * len(reply)
        sampled = sampled[-context:]
        sampled[0] = False  # nothing comes before it
        self.sequences.append(ids[-context:])
        self.sampled.append(sampled)
        self.tokens.append(_counts([len(reply) for _, reply in turns], sum(sampled)))


def turns_in_ids(segment: Segment | Trajectory, template: Template) -> Turns:
    """Return the ids of a segment that were sampled, or of what somebody wrote."""
    return turns_of(segment, template.mark) or written_turns(segment, template)


def log_probabilities_of_turns(
    networks: Networks, completions: Completions, rows: Sequence[int], config: TextConfig,
    reference: bool = False,
) -> list[Tensor]:  # fmt: skip
    """Return the log-probability of each reply of some completions, `[turn]` each, in nats.

    Args:
        networks: the policy, and its reference.
        completions: what is read.
        rows: of which completions.
        config: the settings.
        reference: read them with the reference instead.
    """
    most = config.micro_batch_size if torch.is_grad_enabled() else CHUNK
    groups = own_groups([len(completions.sequences[row]) for row in rows], most)
    found: dict[int, Tensor] = {}
    idle = torch.zeros((), device=networks.model.device)
    for group, weight in groups:
        some = [rows[index] for index in group]
        read_them = partial(_read, networks, completions, some, config.temperature, reference)
        passes: Any = partial(networks, read_them)
        if config.micro_batch_size and torch.is_grad_enabled():
            read: Any = checkpoint(passes, use_reentrant=False)
        else:
            read = passes()
        if not weight:  # all processes make as many passes back, too
            idle = idle + 0.0 * read.sum()
            continue
        for index, logprobs, row in zip(group, read, some, strict=True):
            counts = completions.tokens[row]
            turns = logprobs[: sum(counts)].split(counts)
            found[index] = torch.stack([turn.sum() for turn in turns])
    if parallel.count() == 1:
        return [found[index] for index in range(len(rows))]
    return [turns + idle for turns in parallel.exchanged(found, len(rows))]


def _read(
    networks: Networks, completions: Completions, rows: list[int], temperature: float,
    reference: bool,
) -> Tensor:  # fmt: skip
    """Return log-probabilities of tokens of replies, `[completion, token]`."""
    device = networks.model.device
    trees = [Tree([row], 0, [completions.sequences[row]]) for row in rows]
    tokens, below = packed(trees, device), None
    positions, _ = sampled_positions([completions.sampled[row] for row in rows], device)
    if parallel.count() > 1:  # all of them run the same layers at the same time
        below = networks.below(tokens)
    elif networks.lower is not None:
        with torch.no_grad(), networks.autocast():
            below = completions.below.read(networks.lower, trees, tokens)
    hidden = (networks.reference_hidden if reference else networks.policy)(tokens, below)
    return networks.log_probabilities(hidden, tokens, positions, temperature, reference)[0]


def _counts(tokens: list[int], left: int) -> list[int]:
    """Return how many tokens of each reply are left, where the oldest were cut off."""
    counts = []
    for count in reversed(tokens):
        counts.append(min(count, left))
        left -= counts[-1]
    return counts[::-1]
