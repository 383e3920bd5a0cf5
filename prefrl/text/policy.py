"""A language-model policy by itself: it replies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import torch

from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.learning import parallel
from prefrl.text.models.chance import Chance
from prefrl.text.models.device import autocast_for, find_device, use_threads
from prefrl.text.models.load import LanguageModel, context_length, load_language_model
from prefrl.text.models.logits import Least
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
        # A token is a byte or more; those that stand for none are few, and not counted on.
        self.longest_stop = 8 + 2 * max((len(stop.encode()) for stop in config.stop), default=0)
        self.chance = Chance(seed)
        self.weights: Callable[[], AbstractContextManager] = nullcontext
        """The context in which this process holds all of them."""
        self.instruction = ""
        """What stands before what is said first, for this policy alone."""

    @property
    def least(self) -> Least | None:
        """How early a reply may end, None if it may at once."""
        least = self.config.min_new_tokens
        return Least(self.template.end_id, least) if least else None

    def predict(self, text: str, deterministic: bool = False) -> str:
        """Return a reply to a first observation; the likeliest tokens, or a sample."""
        [reply] = self.reply([self.first(text)], deterministic)
        return self.text(reply.ids)

    def first(self, observation: str, system: str | None = None) -> list[int]:
        """Return the ids that it replies to, of a first observation; see `Template.first`."""
        return self.template.first(self.instruction + observation, system)

    def text(self, ids: Sequence[int]) -> str:
        """Return what the ids of a reply say, up to a text that ends it (`--text.stop`)."""
        said = self.template.decode(ids)
        ends = [said.index(stop) for stop in self.config.stop if stop in said]
        return said[: min(ends, default=len(said))]

    def settled(self, said: str) -> str:
        """Return what of a reply stays, whatever follows: a text may be about to end it."""
        for length in range(max(map(len, self.config.stop), default=0) - 1, 0, -1):
            if any(stop.startswith(said[-length:]) for stop in self.config.stop):
                return said[:-length]
        return said

    def _stops(self, ids: list[int]) -> bool:
        """Return whether a reply has come to a text that ends it, with its newest token."""
        newest = str(self.template.tokenizer.decode(ids[-self.longest_stop :]))
        return any(stop in newest for stop in self.config.stop)

    def stream(self, ids: Sequence[int], deterministic: bool = False) -> Iterator[int]:
        """Continue one sequence of ids and yield each token as it comes.

        Raises:
            UserError: it is longer than the model's context.
        """
        self._check_length(len(ids))
        most = min(self.config.max_new_tokens, self.context - len(ids))
        chances = None if deterministic else self.chance.take(1, most)[0].to(self.model.device)
        tokens = stream(
            self.model, ids, most, self.template.end_id, chances, self.config.temperature,
            self.config.min_new_tokens,
        )  # fmt: skip
        sampled: list[int] = []
        with self.autocast():
            for token in tokens:
                yield token
                sampled.append(token)
                late = len(sampled) >= self.config.min_new_tokens
                if self.config.stop and late and self._stops(sampled):
                    return

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
        asked = parallel.from_first(lambda: (sequences, deterministic))
        return self._reply(*asked)

    def help(self) -> None:
        """Reply beside the first of several processes, until it has no more to ask."""
        while asked := parallel.heard():
            with suppress(Exception):  # the first one raises it, too
                self._reply(*asked)

    def _reply(self, sequences: Sequence[Sequence[int]], deterministic: bool) -> list[Reply]:
        config = self.config
        room = [min(config.max_new_tokens, self.context - len(ids)) for ids in sequences]
        chances = None if deterministic else self.chance.take(len(sequences), max(room))
        rows = parallel.own(len(sequences))

        def own() -> list[Reply]:
            with self.autocast():
                return sample(
                    self.model, [sequences[row] for row in rows], [room[row] for row in rows],
                    self.template.end_id, None if chances is None else chances[[*rows]],
                    config.temperature, self._stops if config.stop else None,
                    config.min_new_tokens,
                )  # fmt: skip

        with self.weights():
            return parallel.shares(own if rows else list, len(sequences))


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
