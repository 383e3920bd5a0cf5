"""The reward model: language models that score a completion.

Each member begins as the policy did and gets a scalar head (Ziegler et al. 2019, Stiennon et al.
2020). Scores are read where a reply ends, by position: neither padding nor the id that pads
matters.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from prefrl.config.text import TextRewardConfig
from prefrl.learning import parallel
from prefrl.text.episode import turns_of
from prefrl.text.models.batches import FEW, by_length
from prefrl.text.models.device import enough_memory
from prefrl.text.models.layers import hidden_states, recompute_layers, split
from prefrl.text.models.load import LanguageModel, context_length
from prefrl.text.models.lora import add_adapters, copied
from prefrl.text.models.networks import Scalar
from prefrl.text.models.sharding import own_groups, shard
from prefrl.text.models.template import Template
from prefrl.text.models.trees import Below, Tree, grow, packed, reads_trees, single
from prefrl.types import SYSTEM, Conversation, Segment, Trajectory, system_of, text_array

CHUNK = 64  # completions that are scored at a time
CALIBRATION_EPISODES = 256
LEAST_AGREEMENT = 0.1  # what members contradict each other in is not blown up beyond


@dataclass
class Encoded:
    """Segments as token ids."""

    sequences: list[list[int]]
    ends: list[list[int]]
    """Of each sequence, its length after each reply."""
    prompts: list[tuple[int, ...]]
    """Of each sequence, the ids before its first reply."""
    below: Below = field(default_factory=Below, compare=False)
    """What the frozen layers gave, while a fit reads them again and again."""


class ScoresTexts:
    """What a reward model of texts offers beside the contract: scores of texts, whoever wrote them.

    Whoever inherits it has `encode` and `returns` of a `RewardModel`.
    """

    template: Template
    encode: Callable[[Sequence[Segment | Trajectory]], Any]
    returns: Callable[..., Tensor]

    def score(self, prompt: str, reply: str, system: str = "") -> float:
        """Return the score of a reply to a prompt.

        Two scores differ by the log odds that the one reply is preferred to the other
        (Bradley-Terry); by itself a score means nothing.

        Args:
            prompt: what was said.
            reply: what is judged.
            system: what the model was told before.
        """
        return self.scores([Conversation(((prompt, reply),), system)])[0]

    @torch.no_grad()
    def scores(self, talks: Sequence[Conversation]) -> list[float]:
        """Return the scores of conversations, all of whose replies are judged: see `score`.

        Of several members it is the mean.
        """
        if not talks:
            return []
        encoded = self.encode([_as_trajectory(talk) for talk in talks])
        return self.returns(encoded, torch.arange(len(talks))).mean(0).tolist()

    def distance(self, left: Segment, right: Segment) -> float:
        """Return how different two segments read: the share of their words not in common."""
        one, other = (" ".join(map(str, s.actions)).split() for s in (left, right))
        return 1 - difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


class TextReward(nn.Module, ScoresTexts):
    """Predicts the score of completions; a `RewardModel`.

    The return of a segment is the score at the end of its last reply; with `per_turn` the sum of
    those at the end of each.

    Of a completion longer than the context of the language model the newest tokens are read, as
    many as it can look at; a reply that is left out with the others scores 0.
    """

    def __init__(
        self, language_model: LanguageModel, config: TextRewardConfig, seed: int, chat: bool,
        autocast: Callable[[], AbstractContextManager], options: str = "text.reward-model.",
        micro_batch_size: int = 0, gradient_checkpointing: bool = False,
        newest: PreTrainedModel | None = None,
    ):  # fmt: skip
        """Build the ensemble.

        Args:
            language_model: what each member begins as; it is copied.
            config: size of the ensemble and what of it is fitted.
            seed: of the heads.
            chat: speak through the chat template, as the policy does.
            autocast: the context in which passes are made.
            options: what its options begin with on the command line.
            micro_batch_size: completions that are read at a time in a fit; 0 for all of a
                minibatch. Each is read once more for its gradient.
            gradient_checkpointing: compute layers again in the backward pass.
            newest: the policy's model, where each fit begins at that.
        """
        super().__init__()
        self._newest = (newest,)  # no part of this module
        self.micro_batch_size = micro_batch_size
        self.config, self.members, self.autocast = config, config.members, autocast
        self.template = Template(language_model.tokenizer, chat)
        self.context = context_length(language_model)
        begun = language_model.model
        if config.lora and not any(p.requires_grad for p in begun.parameters()):
            model = copied(begun)  # nobody will ever train what they share
        else:
            model = copy.deepcopy(begun).requires_grad_(True)
        if config.lora:
            add_adapters(model, config.lora, config.freeze_layers, seed)
        self.device = model.device
        lower, upper = split(model, config.freeze_layers, f"{options}freeze-layers")
        self.lower = lower.requires_grad_(False) if lower is not None else None
        self.decoders = nn.ModuleList(copied(upper) for _ in range(config.members))
        if gradient_checkpointing:
            for decoder in self.decoders:
                recompute_layers(decoder)
        self.width = width = model.config.get_text_config().hidden_size
        self.shares_prompts = reads_trees(model.base_model)
        generator = torch.Generator().manual_seed(seed)
        self.heads = nn.ModuleList(Scalar(width, generator) for _ in range(config.members))
        self.heads.to(self.device)
        self.mean, self.std = np.zeros((config.members, 1)), np.ones((config.members, 1))
        self.is_split = False

    def shard(self) -> None:
        """Let each of several processes hold its part of the weights, in place."""
        self.is_split = parallel.count() > 1
        shard(self)

    def forward(self, passes: Callable[[], Any]) -> Any:
        """Run passes of this network, and return what they give; see `Networks`."""
        return passes()

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return what is fitted."""
        return (p for p in super().parameters(recurse) if p.requires_grad)

    def encode(self, segments: Sequence[Segment | Trajectory]) -> Encoded:
        """Return the ids that were sampled, by the same tokenizer and template.

        What a person wrote, or another model sampled, is turned into ids here.
        """
        sequences, ends, prompts = [], [], []
        for segment in segments:
            ids: list[int] = []
            stops = []
            turns = turns_of(segment, self.template.mark) or written_turns(segment, self.template)
            for before, reply in turns:
                ids += [*before, *reply]
                stops.append(len(ids))
            sequences.append(ids)
            ends.append(stops)
            prompts.append(tuple(turns[0][0]))
        return Encoded(sequences, ends, prompts)

    def normalise_inputs(self, encoded: Encoded) -> None:
        """Let the coming fit begin at the newest policy, if each is to; its heads begin anew.

        There is no scale to take: a language model knows its inputs.
        """
        [newest] = self._newest
        if newest is not None:
            _, upper = split(newest, self.config.freeze_layers)
            for decoder in self.decoders:
                decoder.load_state_dict(upper.state_dict())

    def returns(
        self, encoded: Encoded, rows: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Predict the uncalibrated returns `[member, row]`; a completion is encoded once."""
        unique, row_of_unique = torch.unique(rows, return_inverse=True)
        totals = [scores.sum(1) for scores in self._scores(encoded, unique.tolist())]
        return torch.stack(totals, dim=1).cpu()[:, row_of_unique]

    def _scores(self, encoded: Encoded, rows: list[int]) -> list[Tensor]:
        """Return the reward of each reply of some completions, `[member, turn]` each."""
        count = len(rows) if torch.is_grad_enabled() else CHUNK
        turns: list[Tensor] = []
        for begin in range(0, len(rows), count):
            turns += self._read(encoded, rows[begin : begin + count])
        if self.config.per_turn:
            return turns
        return [nn.functional.pad(scores[:, -1:], (scores.shape[1] - 1, 0)) for scores in turns]

    @enough_memory("fit.batch-size", "text.reward-model.members", "text.max-new-tokens")
    def _read(self, encoded: Encoded, rows: list[int]) -> list[Tensor]:
        """Return what each head reads at the end of each reply, `[member, turn]` of each row."""
        if self.is_split:
            return self._read_together(encoded, rows)
        trees, most = self._trees(encoded, rows), self.micro_batch_size
        largest = max(len(tree.rows) for tree in trees)
        groups = by_length([tree.length for tree in trees], most and max(1, most // largest))
        found: dict[int, Tensor] = {}
        for group in groups:
            some = [trees[index] for index in group]
            if most and torch.is_grad_enabled():
                read: Any = checkpoint(self._read_trees, encoded, some, use_reentrant=False)
            else:
                read = self._read_trees(encoded, some)
            order = [row for tree in some for row in tree.rows]
            turns = read.split([len(encoded.ends[row]) for row in order], dim=1)
            found |= zip(order, turns, strict=True)
        return [found[row] for row in rows]

    def _read_together(self, encoded: Encoded, rows: list[int]) -> list[Tensor]:
        """Read a share of the completions, and hear from the other processes of the rest."""
        trees = single([encoded.sequences[row][-self.context :] for row in rows])
        trees = [replace(tree, rows=[row]) for tree, row in zip(trees, rows, strict=True)]
        learns, found = torch.is_grad_enabled(), dict[int, Tensor]()
        idle = torch.zeros(())
        most = self.micro_batch_size
        for indices, weight in own_groups([tree.length for tree in trees], most):
            some = [trees[index] for index in indices]
            passes: Any = partial(self, partial(self._read_trees, encoded, some))
            read = checkpoint(passes, use_reentrant=False) if most and learns else passes()
            turns = read.split([len(encoded.ends[rows[index]]) for index in indices], dim=1)
            if weight:
                found |= zip(indices, turns, strict=True)
            else:  # all processes make as many passes back, too
                idle = idle + 0.0 * read.sum()
        return [scores + idle for scores in parallel.exchanged(found, len(rows))]

    def _trees(self, encoded: Encoded, rows: list[int]) -> list[Tree]:
        """Return some completions as trees, which hold the newest tokens of each."""
        newest = [encoded.sequences[row][-self.context :] for row in rows]
        few = not self.micro_batch_size and max(map(len, newest)) * len(rows) <= FEW
        if few or not self.shares_prompts:
            trees = single(newest)
        else:
            # Of what is cut off, the beginning is another.
            prompts = [
                encoded.prompts[row] if len(encoded.sequences[row]) <= self.context else row
                for row in rows
            ]
            trees = grow(newest, prompts, self.width, self.micro_batch_size)
        return [replace(tree, rows=[rows[n] for n in tree.rows]) for tree in trees]

    def _read_trees(self, encoded: Encoded, trees: list[Tree]) -> Tensor:
        """Return what each head reads at the ends of replies, `[member, reply]`.

        A reply that is cut off scores 0.
        """
        tokens, rows, columns = packed(trees, self.device), [], []
        for number, tree in enumerate(trees):
            for member, row in enumerate(tree.rows):
                cut_off = len(encoded.sequences[row]) - len(tree.sequences[member])
                for stop in encoded.ends[row]:
                    rows.append(number)
                    last = stop - 1 - cut_off
                    columns.append(tree.index(member, last) if last >= 0 else -1)
        positions = torch.tensor(columns, device=self.device)
        below = None
        if self.lower is not None:
            with torch.no_grad(), self.autocast():
                if self.is_split:  # all processes run the same layers at the same time
                    below = hidden_states(self.lower, tokens, None)
                else:
                    below = encoded.below.read(self.lower, trees, tokens)
        scores = []
        for decoder, head in zip(self.decoders, self.heads, strict=True):
            with self.autocast():
                hidden = hidden_states(decoder, tokens, below)
            read = head(hidden[rows, positions.clamp(min=0)])
            scores.append(torch.where(positions < 0, 0.0, read))
        return torch.stack(scores)

    def without_offset(self) -> None:
        """Let scores have no offset of their own: comparisons of whole completions leave it open.

        Rewards of turns are added up, so theirs says what one more turn is worth, and stays.
        """
        if not self.config.per_turn:
            with torch.no_grad():
                for head in self.heads:
                    cast(Scalar, head).bias.zero_()

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Predict calibrated rewards, `[turn]` for each trajectory, float32.

        What centres the returns comes off the last turn: off each, it would reward many turns or
        few.
        """
        rewards = []
        for scores in self._raw(trajectories):
            scaled = scores / self.std
            scaled[:, -1:] -= self.mean / self.std
            rewards.append(scaled.mean(0).astype(np.float32))
        return rewards

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return some whole episodes of the first policy, which is the reference, for good.

        Of a policy that has learned, completions differ little: calibrated on those, noise would
        grow to the size of a reward, and the penalty on divergence would fade beside it.
        """
        if before:
            return before
        stride = max(1, len(trajectories) // CALIBRATION_EPISODES)
        return list(trajectories[::stride])

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Give the returns mean 0 and deviation 1 on these episodes.

        So a KL coefficient keeps its meaning whatever the scale of a fit (Ziegler et al. 2019,
        section 2.2). Members count alike in their mean, which is what a policy is paid; the
        less they agree, the less it varies, so one more scale brings it to 1.

        Raises:
            FloatingPointError: the fit has led to no finite number.
        """
        returns = np.stack([scores.sum(1) for scores in self._raw(trajectories)], axis=1)
        if not np.isfinite(returns).all():
            raise FloatingPointError(
                "the fitted reward is not a finite number; lower --fit.learning-rate"
            )
        self.mean = returns.mean(1, keepdims=True)
        self.std = np.maximum(returns.std(1, keepdims=True), 1e-4)
        together = ((returns - self.mean) / self.std).mean(0).std()
        self.std *= max(together, LEAST_AGREEMENT)

    @torch.no_grad()
    def _raw(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return uncalibrated rewards `[member, turn]` of each trajectory."""
        scores = self._scores(self.encode(trajectories), [*range(len(trajectories))])
        return [score.cpu().double().numpy() for score in scores]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return all that the predictions depend on but what is frozen."""
        fitted = {n: p.detach().clone() for n, p in self.named_parameters() if p.requires_grad}
        return {"fitted": fitted, "mean": self.mean, "std": self.std}

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Continue from what `state_dict` returned."""
        fitted = {n: p for n, p in self.named_parameters() if p.requires_grad}
        if fitted.keys() != state_dict["fitted"].keys():
            raise ValueError("it holds other parameters than the reward model has")
        with torch.no_grad():
            for name, parameter in fitted.items():
                parameter.copy_(parallel.split_like(state_dict["fitted"][name], parameter))
        self.mean, self.std = state_dict["mean"], state_dict["std"]


def _as_trajectory(talk: Conversation) -> Trajectory:
    said, replies = zip(*talk.turns, strict=True)
    told = text_array([talk.system, *[""] * (len(said) - 1)])
    extras = {SYSTEM: told} if talk.system else {}
    return Trajectory(text_array(said), text_array(replies), np.zeros(len(said)), extras)


def written_turns(
    segment: Segment | Trajectory, template: Template
) -> list[tuple[list[int], list[int]]]:
    """Return the ids before each reply and of each reply of texts that nobody sampled as ids."""
    turns: list[tuple[list[int], list[int]]] = []
    for observation, reply in zip(segment.observations, segment.actions, strict=True):
        text = str(observation)
        before = template.next(text, True) if turns else template.first(text, system_of(segment))
        turns.append((before, template.reply_ids(str(reply))))
    return turns
