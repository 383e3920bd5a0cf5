"""A language-model policy by itself: it replies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.text.models.device import autocast_for, find_device, use_threads
from prefrl.text.models.load import LanguageModel, context_length, load_language_model
from prefrl.text.models.sampling import Reply, sample, stream
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

    def stream(self, ids: Sequence[int], deterministic: bool = False) -> Iterator[int]:
        """Continue one sequence of ids and yield each token as it comes.

        Raises:
            UserError: it is longer than the model's context.
        """
        self._check_length(len(ids))
        most = min(self.config.max_new_tokens, self.context - len(ids))
        temperature = 0.0 if deterministic else self.config.temperature
        tokens = stream(self.model, ids, most, self.template.end_id, self.generator, temperature)
        with self.autocast():
            yield from tokens

    def _check_length(self, longest: int) -> None:
        if longest >= self.context:
            raise UserError(
                f"a prompt has {longest} tokens, but the model looks back on {self.context}; "
                "shorten it"
            )

    def reply(self, sequences: Sequence[Sequence[int]], deterministic: bool = False) -> list[Reply]:
        """Continue sequences of ids.

        Raises:
            UserError: one is longer than the model's context.
        """
        self._check_length(max(map(len, sequences)))
        config = self.config
        room = [min(config.max_new_tokens, self.context - len(ids)) for ids in sequences]
        with self.autocast():
            return sample(
                self.model, sequences, room,
                self.template.end_id, self.generator,
                0.0 if deterministic else config.temperature,
            )  # fmt: skip


def named_policy(
    model: str, config: TextConfig, chat: bool | None = None, seed: int = 0
) -> TextPolicy:
    """Return a language model that no run has trained, as a policy.

    Args:
        model: see `load_language_model`.
        config: how it is sampled, and where.
        chat: speak through the chat template; by default where it has one.
        seed: of the sampling, and of the weights of "tiny".

    Raises:
        UserError: there is no such model.
    """
    language_model = load_language_model(model, seed, find_device(config.device, "device"))
    use_threads(language_model.model, torch.get_num_threads())
    if chat is None:
        chat = getattr(language_model.tokenizer, "chat_template", None) is not None
    config = dataclasses.replace(config, model=model, chat=chat)
    autocast = autocast_for(config, language_model.model.device)
    return TextPolicy(language_model, config, autocast, seed)
