"""A language-model policy by itself: it replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.text.models.load import LanguageModel, context_length
from prefrl.text.models.sampling import Reply, sample
from prefrl.text.models.template import Template


class TextPolicy:
    """Samples replies to text, or to token ids."""

    def __init__(
        self, language_model: LanguageModel, config: TextConfig,
        autocast: Callable[[], AbstractContextManager] = nullcontext, seed: int = 0,
    ):  # fmt: skip
        """Take a model as it stands.

        Args:
            language_model: what replies; whoever trains it trains this policy.
            config: how it is spoken to and sampled.
            autocast: the context in which passes are made.
            seed: of the sampling.

        Raises:
            UserError: there is a system message, and the chat template has no room for one.
        """
        self.model, self.config, self.autocast = language_model.model, config, autocast
        self.template = Template(language_model.tokenizer, config.chat, config.system)
        self.context = context_length(language_model)
        self.generator = torch.Generator(self.model.device).manual_seed(seed)

    def predict(self, text: str, deterministic: bool = False) -> str:
        """Return a reply to a first observation; the likeliest tokens, or a sample."""
        [reply] = self.reply([self.template.first(text)], deterministic)
        return self.template.decode(reply.ids)

    def reply(self, sequences: Sequence[Sequence[int]], deterministic: bool = False) -> list[Reply]:
        """Continue sequences of ids.

        Raises:
            UserError: one is longer than the model's context.
        """
        longest = max(map(len, sequences))
        if longest >= self.context:
            raise UserError(
                f"a prompt has {longest} tokens, but the model looks back on {self.context}; "
                "shorten it"
            )
        config = self.config
        room = [min(config.max_new_tokens, self.context - len(ids)) for ids in sequences]
        with self.autocast():
            return sample(
                self.model, sequences, room,
                self.template.end_id, self.generator,
                0.0 if deterministic else config.temperature,
            )  # fmt: skip
