"""What the stages share: load a model, hold out a tenth, train."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from prefrl.config.fields import Count, CountOrZero, Positive, Seed, checked
from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.learning import parallel
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.text.models.device import (
    LARGE,
    Autocast,
    autocast_for,
    describe_model,
    enough_memory,
    find_device,
    parameter_count,
    use_threads,
)
from prefrl.text.models.load import LanguageModel, context_length, load_language_model
from prefrl.text.models.sharding import Whole, shard
from prefrl.text.stages import sft
from prefrl.text.stages.lengths import TooLong
from prefrl.types import Conversation

Dtype = Literal["auto", "float32", "bfloat16"]

SMALL_RATE, LARGE_RATE = 1e-3, 3e-5  # of random weights, and of what knows a language


@dataclass(frozen=True)
class LoadedModel:
    """A language model on its device."""

    language_model: LanguageModel
    autocast: Autocast
    """The context in which passes are made."""
    large: bool
    note: str
    """What it is, in words."""


def load_model(
    name: str, seed: int = 0, device: str = "auto", dtype: Dtype = "auto"
) -> LoadedModel:
    """Load a language model for one of the stages.

    Args:
        name: see `load_language_model`.
        seed: of the weights of "tiny".
        device: cpu, cuda, or auto for the one there is.
        dtype: of passes; weights are float32.

    Raises:
        UserError: there is no such model or device.
    """
    text = TextConfig(device=device, dtype=dtype)
    language_model = load_language_model(name, seed, find_device(device, "device"))
    model = language_model.model
    use_threads(model, torch.get_num_threads())
    return LoadedModel(
        language_model,
        autocast_for(text, model.device),
        parameter_count(model) > LARGE,
        describe_model(name, model, text),
    )


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning that is about to begin."""

    model: str
    """What it begins with."""
    loaded: LoadedModel
    training: list[Conversation]
    held_out: list[Conversation]
    chat: bool
    seed: int
    epochs: int
    learning_rate: float
    batch_size: int
    notes: list[str]
    """What to say before it begins."""
    newest: int | None = None
    """Tokens that are read of a longer demonstration, those at its end."""
    micro_batch_size: int = 0
    gradient_checkpointing: bool = False
    passes: sft.Passes = sft.at_once

    def begin(self, kept: bytes | None = None) -> tuple[float, sft.TuneState]:
        """Return the held-out loss before fine-tuning, and where that is.

        Args:
            kept: what `state` returned, if it goes on; the first process says so for all.
        """
        if data := parallel.from_first(lambda: kept):
            before = from_bytes(data)
            return before["before"], sft.TuneState(before["tuning"])
        return self.held_out_loss(), sft.TuneState()

    @staticmethod
    def state(before: float, state: sft.TuneState) -> bytes:
        """Return all that the steps to come depend on; all processes ask for it."""
        return to_bytes({"before": before, "tuning": state.state_dict()})

    def tuned(self) -> LanguageModel:
        """Return the whole model; all processes ask for it."""
        if parallel.count() == 1:
            return self.loaded.language_model
        weights = parallel.whole_state(self.loaded.language_model.model.state_dict())
        found = load_model(self.model, self.seed, "cpu").language_model
        found.model.load_state_dict(weights)
        return found

    def steps(self, state: sft.TuneState | None = None) -> Iterator[sft.Step]:
        """Train the model, in place; yield each minibatch.

        Args:
            state: where to go on; it is changed.

        Raises:
            UserError: the loss is not a finite number, or memory is short.
        """
        with self._explained():
            yield from sft.tune(
                self.loaded.language_model, self.training, epochs=self.epochs,
                learning_rate=self.learning_rate, batch_size=self.batch_size, seed=self.seed,
                chat=self.chat, autocast=self.loaded.autocast, newest=self.newest,
                micro_batch_size=self.micro_batch_size,
                gradient_checkpointing=self.gradient_checkpointing, state=state,
                passes=self.passes,
            )  # fmt: skip

    def digest(self) -> str:
        """Return a hash of the demonstrations."""
        told = [(talk.turns, talk.system) for talk in (*self.training, *self.held_out)]
        digest = hashlib.blake2b(repr(told).encode(errors="surrogatepass"), digest_size=16)
        return digest.hexdigest()

    def held_out_loss(self) -> float:
        """Return the mean loss of what is held out, in nats a token; NaN if nothing is.

        Raises:
            UserError: the model gives no finite numbers, or memory is short.
        """
        with self._explained():
            return sft.mean_loss(
                self.loaded.language_model, self.held_out, self.batch_size, self.chat,
                self.loaded.autocast, self.newest, self.passes,
            )  # fmt: skip

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with enough_memory("batch-size", resumable=False):
                yield
        except FloatingPointError as error:
            raise UserError(f"{error}, now {self.learning_rate}; nothing is written") from None


@checked
def prepare_tuning(
    model: str, demonstrations: Sequence[Conversation], *, chat: bool = False,
    epochs: Count = 3, learning_rate: Positive | None = None, batch_size: Count = 32,
    seed: Seed = 0, max_length: Count | None = None, too_long: TooLong = "skip",
    device: str = "auto", dtype: Dtype = "auto", micro_batch_size: CountOrZero = 0,
    gradient_checkpointing: bool = False,
) -> Tuning:  # fmt: skip
    """Load a model and set a tenth of the demonstrations aside.

    Args:
        model: see `load_model`.
        demonstrations: from `prefrl.text.stages.sft`.
        chat: speak through the chat template.
        epochs: passes over the demonstrations.
        learning_rate: the highest; by default what suits a model of this size.
        batch_size: demonstrations in a minibatch.
        seed: of the order, of what is held out, and of a tiny model.
        max_length: most tokens of a demonstration; by default those that the model looks back on.
        too_long: whether longer ones are left out, cut to their ends, or refused.
        device: see `load_model`.
        dtype: see `load_model`.
        micro_batch_size: demonstrations that are read at a time; 0 for all of a minibatch.
        gradient_checkpointing: compute layers again in the backward pass.

    Raises:
        UserError: a number or the model is wrong, or every demonstration is too long for it.
    """
    loaded = load_model(model, seed, device, dtype)
    language_model = loaded.language_model.model
    whole = Whole(language_model)
    shard(whole)
    demonstrations, notes = sft.short_enough(
        loaded.language_model, demonstrations, chat, max_length, too_long
    )
    newest = max_length or context_length(loaded.language_model) if too_long == "cut" else None
    training, held_out = sft.hold_out(demonstrations, seed)
    rate = learning_rate or (LARGE_RATE if loaded.large else SMALL_RATE)
    notes = [loaded.note, *notes]
    return Tuning(
        model, loaded, training, held_out, chat, seed, epochs, rate, batch_size, notes, newest,
        micro_batch_size, gradient_checkpointing, whole,
    )  # fmt: skip


def follow_tuning(demonstrations: Sequence[Conversation], settings: dict[str, Any]) -> None:
    """Fine-tune beside the first process, which says when a state is kept.

    Args:
        demonstrations: what `prepare_tuning` is given.
        settings: likewise, by name.
    """
    tuning = prepare_tuning(demonstrations=demonstrations, **settings)
    before, state = tuning.begin()
    for _ in tuning.steps(state):
        if parallel.heard():
            tuning.state(before, state)
    tuning.held_out_loss()
    tuning.tuned()
