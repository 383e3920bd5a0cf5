"""Samples many sequences at once, with a key-value cache."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from prefrl.text.models.logits import logits

WORTH_DROPPING = 0.5  # the share of finished rows at which a batch is made smaller
LOOKED_AT = 8  # tokens after which a GPU is asked who goes on: it runs ahead until then


class Reply(NamedTuple):
    """What was sampled for one sequence."""

    ids: list[int]
    """With the end of sequence, if that was sampled."""
    finished: bool
    """Whether the end of sequence was sampled, or a text that ends replies."""


def left_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask `[sequence, longest]`; what is masked holds 0."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, longest - len(sequence) :] = torch.tensor(sequence)
        mask[row, longest - len(sequence) :] = 1
    return ids.to(device), mask.to(device)


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    most: int | Sequence[int],
    end: int,
    chances: Tensor | None,
    temperature: float = 1.0,
    stops: Callable[[list[int]], bool] | None = None,
    least: int = 0,
) -> list[Reply]:
    """Continue each sequence until the end of sequence is sampled, by `most` tokens at most.

    The whole distribution is sampled from: a truncated one (top-k, top-p) is not what
    log-probabilities are computed of, and the KL divergence from the reference turns negative.

    Args:
        model: a causal language model of transformers.
        sequences: token ids to go on from, none of them empty.
        most: tokens of a reply, of each or of all.
        end: id of the end of sequence.
        chances: what each token of a reply is drawn with, `[sequence, token]`, from 0 to less than
            1; None takes the most probable tokens.
        temperature: logits are divided by it.
        stops: says of the ids of a reply so far whether it ends with them.
        least: tokens of a reply before it may end.

    Raises:
        FloatingPointError: what the model gives are no finite numbers.
    """
    device = model.device
    decoder: Any = model.base_model
    head: Any = model.get_output_embeddings()
    ids, mask = left_padded(sequences, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, cache_name = DynamicCache(config=model.config), _cache_argument(decoder)
    rows = torch.arange(len(sequences), device=device)  # the sequences in the batch
    going = torch.ones(len(sequences), dtype=torch.bool, device=device)
    chances = None if chances is None else chances.to(device)
    limits = [most] * len(sequences) if isinstance(most, int) else list(most)
    limit, longest = torch.tensor(limits, device=device), max(limits)
    replies = torch.full((len(sequences), longest), -1, dtype=torch.long, device=device)
    stopped: dict[int, int] = {}  # tokens of the replies that `stops` ended
    every, finite = _looked_at(device), torch.ones((), dtype=torch.bool, device=device)
    adds = device.type != "cpu" and _adds_masks(model)
    for step in range(longest):
        hidden = decoder(
            input_ids=ids, attention_mask=_added(mask) if adds and step else mask,
            position_ids=positions, use_cache=True, **{cache_name: cache},
        ).last_hidden_state[:, -1]  # fmt: skip
        scores = logits(head, hidden)
        finite &= torch.isfinite(scores).all()
        if step < least:
            scores[:, end] = -torch.inf
        drawn = None if chances is None else chances[rows, step]
        chosen = _draw(scores, drawn, temperature)
        replies[rows, step] = chosen  # what follows an end is thrown away below
        if stops is not None and step + 1 >= least:
            going &= ~_stopped(replies[rows, : step + 1], rows, going, stops, stopped)
        going &= (chosen != end) & (step + 1 < limit[rows])
        left = len(rows)
        if (step + 1) % every == 0 or step + 1 == longest:
            left, is_finite = torch.stack([going.sum(), finite]).tolist()
            if not is_finite:
                raise FloatingPointError(
                    "the language model gives no finite numbers any more; lower its learning rate "
                    "(--text.ppo.learning-rate)"
                )
            if left == 0:
                break
        # Only rows under way move on, so none leaves the positions that the model knows.
        ids, positions = chosen[:, None], positions[:, -1:] + going[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        if left <= WORTH_DROPPING * len(rows):
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, ids, positions, mask = rows[kept], ids[kept], positions[kept], mask[kept]
            going = going[kept]
    return [
        Reply(row[: stopped[number]], True) if number in stopped else _reply(row[:count], end)
        for number, (row, count) in enumerate(zip(replies.tolist(), limits, strict=True))
    ]


def _looked_at(device: torch.device) -> int:
    """Return after how many tokens a device is asked which replies go on.

    A CPU is asked at each, which costs nothing. A GPU has to be waited for, so that it computes up
    to seven tokens that nobody reads.
    """
    return 1 if device.type == "cpu" else LOOKED_AT


def _adds_masks(model: PreTrainedModel) -> bool:
    """Return whether each layer adds one mask, as it is given, to what it attends to."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    is_whole = kinds == {"full_attention"} and not getattr(config, "sliding_window", None)
    return is_whole and config._attn_implementation in ("sdpa", "eager")


def _added(mask: Tensor) -> Tensor:
    """Return the mask of one more token as numbers to add, `[sequence, 1, 1, token]`.

    Of a mask of zeros and ones transformers asks at every token whether it masks anything, and a
    GPU has to be waited for. Not for prompts: a row that is masked as a whole gives NaN in some
    kernels, if what is added rounds to -∞.
    """
    added = torch.zeros(mask.shape, device=mask.device)
    return added.masked_fill(mask == 0, torch.finfo(torch.float32).min)[:, None, None]


def _stopped(
    replies: Tensor, rows: Tensor, going: Tensor, stops: Callable[[list[int]], bool],
    stopped: dict[int, int],
) -> Tensor:  # fmt: skip
    """Return which of the replies under way end with their newest token, and note their lengths."""
    ends = []
    given = zip(replies.tolist(), rows.tolist(), going.tolist(), strict=True)
    for ids, row, is_going in given:
        ends.append(is_going and stops(ids))
        if ends[-1]:
            stopped[row] = len(ids)
    return torch.tensor(ends, dtype=torch.bool, device=going.device)


@torch.no_grad()
def stream(
    model: PreTrainedModel, sequence: Sequence[int], most: int, end: int,
    chances: Tensor | None, temperature: float = 1.0, least: int = 0,
) -> Iterator[int]:  # fmt: skip
    """Continue one sequence as `sample` does, and yield each token as it comes; the end is one.

    Its chances are `[token]`.
    """
    decoder: Any = model.base_model
    cache, cache_name = DynamicCache(config=model.config), _cache_argument(decoder)
    ids, mask = left_padded([sequence], model.device)
    for step in range(most):
        positions = torch.arange(mask.shape[1], device=model.device)[None, -ids.shape[1] :]
        hidden = decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True,
            **{cache_name: cache},
        ).last_hidden_state[:, -1]  # fmt: skip
        scores = logits(model.get_output_embeddings(), hidden)
        if step < least:
            scores[:, end] = -torch.inf
        drawn = None if chances is None else chances[step : step + 1]
        chosen = _draw(scores, drawn, temperature)
        yield (token := int(chosen))
        if token == end:
            return
        ids, mask = chosen[:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


def _cache_argument(decoder: Any) -> str:
    """Return what a decoder calls its cache: transformers 5.24 renamed `past_key_values`."""
    known = inspect.signature(decoder.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def _draw(scores: Tensor, drawn: Tensor | None, temperature: float) -> Tensor:
    if drawn is None:
        return scores.argmax(1)
    # One number a row; `multinomial` would draw one for every token that the model knows.
    chances = torch.softmax(scores / temperature, dim=1)
    if scores.device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return _draw_in_order(chances, drawn)
    reached = chances.cumsum(1, dtype=torch.float64)
    tokens = torch.searchsorted(reached, drawn[:, None] * reached[:, -1:], right=True)[:, 0]
    return tokens.clamp(max=scores.shape[1] - 1)


def _draw_in_order(chances: Tensor, drawn: Tensor) -> Tensor:
    """Draw likewise without `cumsum`, which adds up in no fixed order on a GPU.

    Products with a triangle of ones do: first over blocks of tokens, then within the one that is
    drawn.

    Args:
        chances: `[sequence, token]`, which sum to about 1.
        drawn: `[sequence]`, from 0 to less than 1.
    """
    rows, count = chances.shape
    width = math.isqrt(count - 1) + 1
    chances = torch.nn.functional.pad(chances.double(), (0, width * width - count))
    blocks = chances.view(rows, width, width)
    triangle = torch.ones(width, width, dtype=torch.float64, device=chances.device).triu()
    sums = blocks.sum(2)
    reached = sums @ triangle
    wanted = drawn[:, None] * reached[:, -1:]
    block = torch.searchsorted(reached, wanted, right=True).clamp(max=width - 1)
    below = (reached - sums).gather(1, block)
    within = blocks.gather(1, block[:, :, None].expand(rows, 1, width))[:, 0] @ triangle
    token = torch.searchsorted(within, wanted - below, right=True).clamp(max=width - 1)
    return (block * width + token)[:, 0].clamp(max=count - 1)


def _reply(row: list[int], end: int) -> Reply:
    finished = end in row
    if finished:
        return Reply(row[: row.index(end) + 1], True)
    return Reply([token for token in row if token >= 0], False)
