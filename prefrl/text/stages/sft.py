"""Supervised fine-tuning on demonstrations.

Demonstrations come from an environment, from a file, or from what people wrote in a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import gymnasium
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor
from torch.nn.functional import cross_entropy

from prefrl.answers import to_comparisons
from prefrl.config.fields import Called, Count, checked
from prefrl.environments.ids import installed, make, resolve
from prefrl.errors import UserError, raised_by
from prefrl.learning import parallel
from prefrl.pace import Pace
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.jsonl import short
from prefrl.storage.texts import reader as texts
from prefrl.storage.texts.forms import check_turns
from prefrl.text.models.device import Autocast
from prefrl.text.models.layers import hidden_states, recompute_layers
from prefrl.text.models.load import LanguageModel, context_length
from prefrl.text.models.logits import check_logits, logits
from prefrl.text.models.sharding import own_groups
from prefrl.text.models.template import Template
from prefrl.text.models.tokens import right_padded
from prefrl.text.stages.lengths import TooLong, limit
from prefrl.types import Conversation, system_of

WARM_UP = 0.1  # the share of the steps in which the learning rate rises
Passes = Callable[[Callable[[], Any]], Any]


def at_once(run: Callable[[], Any]) -> Any:
    """Run a pass of a model that this process alone holds."""
    return run()


class Step(NamedTuple):
    """One minibatch of fine-tuning."""

    number: int
    """From 1."""
    steps: int
    """How many there will be."""
    epoch: int
    """From 1."""
    ends_epoch: bool
    loss: float
    """Nats a token of the replies, before the step."""
    tokens: int
    """Of the minibatch, what was said included."""


class Encoded(NamedTuple):
    """A demonstration as tokens."""

    ids: list[int]
    learned: list[bool]
    """Which of them are a reply's, its end included."""


class TuneState:
    """Where a fine-tuning is: all that the steps to come depend on but the demonstrations."""

    def __init__(self, state: dict[str, Any] | None = None):
        """Begin anew, or where `state_dict` was."""
        self.step = state["step"] if state else 0
        self._state, self._parts = state, ()

    def attach(self, *parts: Any) -> None:
        """Take model, optimiser and schedule, and let them continue."""
        self._parts = parts
        if self._state:
            model, optimizer, schedule = parts
            weights, moments, rates = self._state["parts"]
            parallel.load_whole(model, weights)
            optimizer.load_state_dict(parallel.split_state(optimizer, moments))
            schedule.load_state_dict(rates)
            self._state = None

    def state_dict(self) -> dict[str, Any]:
        """Return everything, once fine-tuning has begun; all processes ask for it."""
        parts = [parallel.whole_state(part.state_dict()) for part in self._parts]
        return {"step": self.step, "parts": parts}


def tune(
    language_model: LanguageModel, demonstrations: Sequence[Conversation], *, epochs: int,
    learning_rate: float, batch_size: int, seed: int, chat: bool = False,
    autocast: Autocast = nullcontext, newest: int | None = None,
    micro_batch_size: int = 0, gradient_checkpointing: bool = False,
    state: TuneState | None = None, passes: Passes = at_once,
) -> Iterator[Step]:  # fmt: skip
    """Train a model, in place, to give the demonstrated replies; yield each minibatch.

    The loss is the mean cross-entropy of the replies' tokens, their ends included, in nats; what
    was said to the model is not learned. Adam; the learning rate rises over a tenth of the steps,
    then falls to zero linearly.

    Args:
        language_model: what to train.
        demonstrations: turns of text.
        epochs: passes over them.
        learning_rate: the highest.
        batch_size: demonstrations in a minibatch.
        seed: of their order.
        chat: speak through the chat template.
        autocast: the context in which passes are made.
        newest: of a longer demonstration so many tokens are read, those at its end.
        micro_batch_size: demonstrations that are read at a time; 0 for all of a minibatch.
        gradient_checkpointing: compute layers again in the backward pass.
        state: where to go on; it is changed.
        passes: what runs the passes of a model that several processes hold between them.

    Raises:
        UserError: there are none, one is longer than the model's context, or the model scales or
            caps its logits.
        FloatingPointError: the loss is not a finite number.
    """
    model = language_model.model
    passes(partial(check_logits, model))
    if gradient_checkpointing:
        recompute_layers(model.base_model)
    encoded = encode(language_model, demonstrations, chat, newest)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.0)
    batches = math.ceil(len(encoded) / batch_size)
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    generator = torch.Generator().manual_seed(seed)
    state = state or TuneState()
    state.attach(model, optimizer, schedule)
    pace = Pace("fine-tuning", steps, state.step)
    for epoch in range(epochs):
        order = torch.randperm(len(encoded), generator=generator)
        for batch, rows in enumerate(order.split(batch_size), start=1):
            number = epoch * batches + batch
            if number <= state.step:
                continue
            chosen = [encoded[row] for row in rows.tolist()]
            optimizer.zero_grad()
            loss = _backward(model, chosen, autocast, micro_batch_size, passes)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            tokens = sum(len(demonstration.ids) for demonstration in chosen)
            state.step = number
            pace.step(1, tokens, f"loss {loss:.3f}")
            yield Step(number, steps, epoch + 1, batch == batches, loss, tokens)


def _backward(
    model: Any, demonstrations: Sequence[Encoded], autocast: Autocast, micro_batch_size: int,
    passes: Passes,
) -> float:  # fmt: skip
    """Add the gradient of the mean loss of a minibatch, and return that."""
    counts, total = [sum(learned) for _, learned in demonstrations], 0.0
    for rows, weight in own_groups([len(ids) for ids, _ in demonstrations], micro_batch_size):
        share = weight * sum(counts[row] for row in rows) / sum(counts)
        some = [demonstrations[row] for row in rows]
        loss = share * passes(partial(_loss, model, some, autocast))
        if not parallel.all_of(torch.isfinite(loss)):
            raise FloatingPointError(
                "the loss of fine-tuning is not a finite number; lower its learning rate"
            )
        loss.backward()
        total += float(loss.detach())
    return parallel.added_numbers({"loss": total})["loss"]


@torch.no_grad()
def mean_loss(
    language_model: LanguageModel, demonstrations: Sequence[Conversation], batch_size: int,
    chat: bool = False, autocast: Autocast = nullcontext, newest: int | None = None,
    passes: Passes = at_once,
) -> float:  # fmt: skip
    """Return the mean cross-entropy of the replies' tokens, in nats; NaN if there are none.

    The arguments are those of `tune`.
    """
    if not demonstrations:
        return math.nan
    passes(partial(check_logits, language_model.model))
    encoded, total, count = encode(language_model, demonstrations, chat, newest), 0.0, 0
    for begin in range(0, len(encoded), batch_size):
        some = encoded[begin : begin + batch_size]
        total += float(passes(partial(_loss, language_model.model, some, autocast, "sum")))
        count += sum(sum(demonstration.learned) for demonstration in some)
    return total / count


def encode(
    language_model: LanguageModel, demonstrations: Sequence[Conversation], chat: bool = False,
    newest: int | None = None,
) -> list[Encoded]:  # fmt: skip
    """Turn demonstrations into tokens; of a longer one the newest, if a number of them is given.

    Raises:
        UserError: there are none, or one is longer than the model's context.
    """
    if not demonstrations:
        raise UserError("there are no demonstrations to learn from")
    template, context = Template(language_model.tokenizer, chat), context_length(language_model)
    encoded = [_encoded(template, talk) for talk in demonstrations]
    if newest is not None:
        encoded = [Encoded(ids[-newest:], learned[-newest:]) for ids, learned in encoded]
    for number, (ids, _) in enumerate(encoded, start=1):
        if len(ids) > context:
            raise UserError(
                f"demonstration {number} has {len(ids)} tokens, but the model looks back on "
                f"{context}; shorten it or take another model"
            )
    return encoded


def short_enough(
    language_model: LanguageModel, demonstrations: Sequence[Conversation], chat: bool = False,
    max_length: int | None = None, too_long: TooLong = "skip",
) -> tuple[list[Conversation], list[str]]:  # fmt: skip
    """Return the demonstrations to learn from, and what to say of those that are too long.

    Args:
        language_model: what looks back on so many tokens.
        demonstrations: turns of text.
        chat: speak through the chat template.
        max_length: most tokens of one, if it shall be fewer.
        too_long: what becomes of longer ones; who lets them be cut gives `newest` to `tune`.

    Raises:
        UserError: there are none, all are too long, or one is and shall be refused.
    """
    if not demonstrations:
        raise UserError("there are no demonstrations to learn from")
    most = limit(context_length(language_model), max_length, too_long)
    template = Template(language_model.tokenizer, chat)
    lengths = [len(_encoded(template, talk).ids) for talk in demonstrations]
    names = [talk.where or f"demonstration {n}" for n, talk in enumerate(demonstrations, start=1)]
    keeps = most.keeps(lengths, names, "demonstration")
    kept = [talk for talk, fits in zip(demonstrations, keeps, strict=True) if fits]
    return kept, most.note(lengths, "demonstrations")


def _encoded(template: Template, talk: Conversation) -> Encoded:
    ids: list[int] = []
    learned: list[bool] = []
    for observation, reply in talk.turns:
        before = (
            template.next(observation, True) if ids else template.first(observation, talk.system)
        )
        answer = template.reply_ids(reply)
        ids += [*before, *answer]
        learned += [False] * len(before) + [True] * len(answer)
    return Encoded(ids, learned)


def _loss(
    model: Any, demonstrations: Sequence[Encoded], autocast: Autocast, reduction: str = "mean"
) -> Tensor:
    tokens = right_padded([ids for ids, _ in demonstrations], model.device)
    learned = torch.zeros(tokens.ids.shape, dtype=torch.bool)
    for row, (_, which) in enumerate(demonstrations):
        learned[row, : len(which)] = torch.tensor(which)
    learned = learned[:, 1:].to(model.device)
    with autocast():
        hidden = hidden_states(model.base_model, tokens, None)[:, :-1][learned]
        scores = logits(model.get_output_embeddings(), hidden)
        return cross_entropy(scores, tokens.ids[:, 1:][learned], reduction=reduction)


def _rate(step: int, steps: int) -> float:
    rising = max(1, round(WARM_UP * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def hold_out(
    demonstrations: Sequence[Conversation], seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Split demonstrations into nine tenths to learn from and a tenth (rounded down) held out."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(demonstrations), generator=generator).tolist()
    aside = set(order[: len(order) // 10])
    split: tuple[list[Conversation], list[Conversation]] = ([], [])
    for index, demonstration in enumerate(demonstrations):
        split[index in aside].append(demonstration)
    return split


@checked
def from_environment(
    env: str | EnvSpec, count: Annotated[Count, Called("demonstrations")], seed: int
) -> list[Conversation]:
    """Return demonstrations that an environment gives: `demonstrations(count, seed)`.

    Raises:
        UserError: there is no such environment, or it gives none.
    """
    spec = resolve(env)
    environment, name = make(spec), spec.id
    with installed(name):
        demonstrate: Any = getattr(environment.unwrapped, "demonstrations", None)
        if demonstrate is None:
            raise UserError(
                f"{name} has no demonstrations; give it a method demonstrations(count, seed) that "
                "returns lists of turns (said, reply), or fine-tune on a file: `prefrl sft --file`"
            )
        try:
            demonstrations = list(demonstrate(count, seed))
        except (UserError, ImportError, gymnasium.error.DependencyNotInstalled):
            raise
        except Exception as error:  # whatever somebody's environment raises
            raise UserError(
                f"{raised_by(f'demonstrations of {name}', error)}; correct the environment"
            ) from error
    try:
        return [_checked(turns) for turns in demonstrations]
    except ValueError as error:
        raise UserError(f"{name}: of its demonstrations, {error}") from None


def from_file(path: Path, chat: bool = False) -> tuple[list[Conversation], list[str]]:
    """Read demonstrations from a file; see `storage.texts.reader`.

    Args:
        path: the file.
        chat: messages will be spoken through the chat template; without it there may be none.

    Returns:
        The demonstrations, and what the file was taken for and what else is to be said of it.

    Raises:
        UserError: the file cannot be read, is empty, or has a row that is no demonstration.
    """
    file = texts.read_file(path, chat)
    shown, notes = texts.demonstrations(file)
    talks = [example.conversations[0] for example in shown]
    return talks, [file.took, *file.notes, *notes]


def from_run(store: FeedbackStore) -> list[Conversation]:
    """Return what people wrote in a run: replies to prompts, and better versions of clips.

    Of a clip that was rewritten the earlier turns are learned, too; they are the policy's own.

    Raises:
        UserError: nobody wrote anything.
    """
    demonstrations = [
        Conversation(((prompt, reply),)) for prompt, reply in store.demonstrations() if reply
    ]
    for answer in store.answers():
        for segment in to_comparisons(store.query(answer.query), answer).demonstrations:
            turns = zip(segment.observations.tolist(), segment.actions.tolist(), strict=True)
            told = tuple((str(observation), str(reply)) for observation, reply in turns)
            demonstrations.append(Conversation(told, system_of(segment)))
    if not demonstrations:
        raise UserError(
            f"nobody has written a reply or a better version of one yet ({store.called}); "
            "`prefrl label RUN` opens the page for it"
        )
    return demonstrations


def _checked(turns: Any) -> Conversation:
    """Return turns as a demonstration, or raise `ValueError`."""
    pairs = check_turns(turns)
    if any(not reply for _, reply in pairs):
        raise ValueError(f"{short(turns)} has an empty reply; expected what is to be learned")
    return Conversation(pairs)
