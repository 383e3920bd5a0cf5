"""Supervised fine-tuning: a language model learns to reply as in demonstrations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prefrl.errors import UserError
from prefrl.text.models import LanguageModel, context_length
from prefrl.text.networks import right_padded
from prefrl.text.template import Template

Demonstration = Sequence[tuple[str, str]]
"""Turns: what was said, and the reply to it."""

WARM_UP = 0.1  # the share of the steps in which the learning rate rises


def tune(
    language_model: LanguageModel, demonstrations: Sequence[Demonstration], *, epochs: int,
    learning_rate: float, batch_size: int, seed: int, chat: bool = False,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[float]:  # fmt: skip
    """Train a model, in place, to give the demonstrated replies; yield the loss of each minibatch.

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

    Raises:
        UserError: there are none, or one is longer than the model's context.
        FloatingPointError: the loss is not a finite number.
    """
    if not demonstrations:
        raise UserError("there are no demonstrations to learn from")
    model = language_model.model
    template = Template(language_model.tokenizer, chat)
    sequences = [_sequence(template, turns) for turns in demonstrations]
    _check(sequences, context_length(language_model))
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.0)
    steps = epochs * math.ceil(len(sequences) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(sequences), generator=generator).split(batch_size):
            with autocast():
                loss = _loss(model, [sequences[row] for row in rows.tolist()])
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    "the loss of fine-tuning is not a finite number; lower its learning rate."
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            yield float(loss.detach())


def _sequence(template: Template, turns: Demonstration) -> tuple[list[int], list[bool]]:
    """Return ids, and which of them are to be learned."""
    ids: list[int] = []
    learned: list[bool] = []
    for said, reply in turns:
        given = template.next(said, True) if ids else template.first(said)
        answer = template.reply_ids(reply)
        ids += [*given, *answer]
        learned += [False] * len(given) + [True] * len(answer)
    return ids, learned


def _check(sequences: Sequence[tuple[list[int], list[bool]]], context: int) -> None:
    longest = max(len(ids) for ids, _ in sequences)
    if longest > context:
        raise UserError(
            f"a demonstration has {longest} tokens, but the model looks back on {context}; shorten "
            "it or take another model"
        )


def _loss(model, sequences: Sequence[tuple[list[int], list[bool]]]) -> Tensor:
    tokens = right_padded([ids for ids, _ in sequences], model.device)
    learned = torch.zeros(tokens.ids.shape, dtype=torch.bool)
    for row, (_, which) in enumerate(sequences):
        learned[row, : len(which)] = torch.tensor(which)
    learned = learned[:, 1:].to(model.device)
    logits = model(input_ids=tokens.ids, attention_mask=tokens.mask, use_cache=False).logits
    return cross_entropy(logits[:, :-1][learned].float(), tokens.ids[:, 1:][learned])


def _rate(step: int, steps: int) -> float:
    rising = max(1, round(WARM_UP * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))
