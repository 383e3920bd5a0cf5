"""A language model on this machine that a judge or a reviser asks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prefrl.config.text import TextConfig
from prefrl.errors import note
from prefrl.text.models.batches import by_length
from prefrl.text.models.layers import hidden_states
from prefrl.text.models.logits import check_logits, logits
from prefrl.text.models.sampling import sample
from prefrl.text.models.tokens import right_padded
from prefrl.text.models.trees import Tree, grow, packed, reads_trees, single
from prefrl.text.policy import TextPolicy, named_policy


class LocalSpeaker:
    """Asks a causal language model, through its chat template where it has one.

    Without one, what is to be answered and the answer are lines; see `contracts.Speaker`.
    """

    at_once = 16

    def __init__(self, policy: TextPolicy, name: str = ""):
        """Take a model as it stands.

        Raises:
            UserError: its logits are not those of its output embedding alone.
        """
        self.policy, self.name = policy, name
        self.model, self.template = policy.model, policy.template
        check_logits(self.model)
        with torch.no_grad():
            self._shares_prompts = reads_trees(self.model.base_model)
        self._told: set[str] = set()

    @torch.no_grad()
    def choose(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]], whole: bool = False
    ) -> np.ndarray:
        """Return how probable each option is, `[prompt, option]`; NaN for a prompt too long.

        By the logits of the options' tokens after the prompt, if each is one token and they differ;
        else by the mean log-probability of their tokens, which is then said.
        """
        if not whole:
            tokens = [self._single_tokens(some) for some in options]
            if None not in tokens:
                return self._by_token(prompts, [ids for ids in tokens if ids is not None])
            self._tell(
                f"the options {', '.join(options[0])} are not a token each to {self.name}; they "
                "are compared by their likelihood per token"
            )
        return self._by_likelihood(prompts, options, "" if whole else self._end_of_line)

    @torch.no_grad()
    def write(self, prompts: Sequence[str], tokens: int) -> list[str]:
        """Return the likeliest reply to each prompt, as far as the model's context reaches."""
        written = []
        for begin in range(0, len(prompts), self.at_once):
            some = [
                self.template.first(prompt + self._end_of_line)
                for prompt in prompts[begin : begin + self.at_once]
            ]
            room = self.policy.context - tokens
            if any(len(ids) > room for ids in some):
                self._tell_too_long()
            kept = [ids[-max(room, 1) :] for ids in some]
            with self.policy.autocast():
                replies = sample(self.model, kept, tokens, self.template.end_id, None)
            written += [self.policy.text(reply.ids).strip() for reply in replies]
        return written

    @property
    def _end_of_line(self) -> str:
        return "" if self.template.chat else "\n"

    def _single_tokens(self, options: Sequence[str]) -> tuple[list[int], list[int]] | None:
        """Return what all options begin with, and the one token of each; None if there is none."""
        ids = [self.template.reply_ids(option)[:-1] for option in options]
        shared = [*ids[0][:-1]]
        ends = [each[-1:] for each in ids]
        alike = all(each[:-1] == shared for each in ids)
        if not alike or not all(ends) or len({end[0] for end in ends}) < len(ends):
            return None
        return shared, [end[0] for end in ends]

    def _by_token(
        self, prompts: Sequence[str], options: Sequence[tuple[list[int], list[int]]]
    ) -> np.ndarray:
        sequences = [
            [*self.template.first(prompt + self._end_of_line), *shared]
            for prompt, (shared, _) in zip(prompts, options, strict=True)
        ]
        chances = np.full((len(prompts), len(options[0][1])), math.nan)
        fitting = self._fitting(sequences)
        for rows in by_length([len(sequences[row]) for row in fitting], self.at_once):
            some = [fitting[row] for row in rows]
            tokens = right_padded([sequences[row] for row in some], self.model.device)
            last = tokens.mask.sum(1) - 1
            with self.policy.autocast():
                hidden = hidden_states(self.model.base_model, tokens, None)
            scores = self._logits(hidden[torch.arange(len(some)), last])
            chosen = torch.tensor([options[row][1] for row in some], device=scores.device)
            chances[some] = torch.softmax(scores.gather(1, chosen).double(), 1).cpu().numpy()
        return chances

    def _by_likelihood(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]], between: str
    ) -> np.ndarray:
        means = np.stack(self.likelihoods([prompt + between for prompt in prompts], options))
        with np.errstate(invalid="ignore"):
            weights = np.exp(means - means.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    @torch.no_grad()
    def likelihoods(
        self, prompts: Sequence[str], replies: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        """Return the mean log-probability of a token of replies, in nats: `[reply]` of each prompt.

        Their ends do not count. NaN where prompt and reply are longer than the model looks back on.

        Args:
            prompts: what is said to the model.
            replies: to each prompt.
        """
        sequences, begins, families = [], [], []
        for number, (prompt, some) in enumerate(zip(prompts, replies, strict=True)):
            ids = self.template.first(prompt)
            for reply in map(self.template.reply_ids, some):
                sequences.append([*ids, *(reply[:-1] or reply)])  # of an empty one its end
                begins.append(len(ids))
                families.append(number)
        fitting = self._fitting(sequences)
        means = np.full(len(sequences), math.nan)
        if fitting:
            kept = [sequences[row] for row in fitting]
            width = self.model.config.get_text_config().hidden_size
            trees = (
                grow(kept, [families[row] for row in fitting], width)
                if self._shares_prompts
                else single(kept)
            )
            for rows in by_length([tree.length for tree in trees], self.at_once // 2):
                some = [trees[row] for row in rows]
                self._read(some, [begins[row] for row in fitting], means, fitting)
        return np.split(means, np.cumsum([len(some) for some in replies])[:-1])

    def _read(
        self, trees: Sequence[Tree], begins: Sequence[int], means: np.ndarray, rows: Sequence[int]
    ) -> None:
        """Fill in the mean log-probability of the replies of some trees."""
        tokens = packed(trees, self.model.device)
        with self.policy.autocast():
            hidden = hidden_states(self.model.base_model, tokens, None)
        for states, tree in zip(hidden, trees, strict=True):
            for member, row in enumerate(tree.rows):
                ids, begin = tree.sequences[member], begins[row]
                before = [tree.index(member, at - 1) for at in range(begin, len(ids))]
                every = torch.log_softmax(self._logits(states[before]), -1)
                said = torch.tensor(ids[begin:], device=every.device)
                means[rows[row]] = float(every.gather(1, said[:, None]).mean())

    def _logits(self, hidden: Tensor) -> Tensor:
        return logits(self.model.get_output_embeddings(), hidden)

    def _fitting(self, sequences: Sequence[Sequence[int]]) -> list[int]:
        """Return the rows of those that the model can look back on."""
        fitting = [row for row, ids in enumerate(sequences) if len(ids) <= self.policy.context]
        if len(fitting) < len(sequences):
            self._tell_too_long()
        return fitting

    def _tell_too_long(self) -> None:
        self._tell(
            f"some of what is to be judged is longer than {self.name} looks back on "
            f"({self.policy.context} tokens)"
        )

    def _tell(self, sentence: str) -> None:
        """Say something, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            note(sentence)


def local_speaker(model: str, device: str = "auto") -> LocalSpeaker:
    """Return a language model by its name or folder, to be asked.

    Raises:
        UserError: there is no such model.
    """
    return LocalSpeaker(named_policy(model, TextConfig(device=device)), model)
