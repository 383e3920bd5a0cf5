"""New prompts like some that there are: a language model goes on with a list of them.

So red-team prompts were made for Constitutional AI out of those that people had written (Bai et al.
2022, arXiv 2212.08073, section 3.1; Perez et al. 2022, arXiv 2202.03286, section 3.2).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from prefrl.errors import UserError
from prefrl.text.models.load import LanguageModel
from prefrl.text.policy import TextPolicy

SHOWN = 8  # prompts in a list that is gone on with
FEWEST = 2
TRIES = 20  # lists that are gone on with, for each prompt that is wanted
BEGINNING = "A list of different messages:\n\n"


def list_writer(policy: TextPolicy, seed: int) -> TextPolicy:
    """Return a policy with its model, which goes on with a text to the end of the line."""
    config = dataclasses.replace(
        policy.config, chat=False, plain=True, system="", stop=("\n",), min_new_tokens=0
    )
    model = LanguageModel(policy.model, policy.template.tokenizer)
    return TextPolicy(model, config, policy.autocast, seed)


def new_prompts(
    writer: TextPolicy, known: Sequence[str], count: int, seed: int, batch_size: int
) -> Iterator[tuple[list[str], int]]:
    """Write prompts like those that are known; each comes once, and none that is known.

    Args:
        writer: see `list_writer`.
        known: prompts; each list shows up to eight of them, drawn at random.
        count: how many prompts are wanted; they may be fewer, if the model repeats itself.
        seed: of what is drawn.
        batch_size: lists that are gone on with at a time.

    Yields:
        Some new prompts, and how many tokens were sampled for them.

    Raises:
        UserError: fewer than two different prompts are known, or no two fit the model's context.
    """
    lines = {_key(prompt): " ".join(prompt.split()) for prompt in known}
    lines.pop("", None)
    if len(lines) < FEWEST:
        raise UserError(
            f"new prompts are written like those of the file, but it holds {len(lines)} that "
            f"differ; expected {FEWEST} or more"
        )
    shown, random, found = [*lines.values()], np.random.default_rng(seed), {*lines}
    for _ in range(0, TRIES * count, batch_size):
        lists = [_ids(writer, shown, random) for _ in range(batch_size)]
        fresh, tokens = list[str](), 0
        for reply in writer.reply(lists):
            text, tokens = " ".join(writer.text(reply.ids).split()), tokens + len(reply.ids)
            # One that the limit of tokens cut off is no prompt.
            if reply.finished and _key(text) not in {*found, ""}:
                found.add(_key(text))
                fresh.append(text)
        missing = count - (len(found) - len(lines) - len(fresh))
        yield fresh[:missing], tokens
        if len(fresh) >= missing:
            return


def _ids(writer: TextPolicy, prompts: Sequence[str], random: np.random.Generator) -> list[int]:
    """Return a list of some prompts that ends where the next one begins: as many as there is room.

    Half of the context is for them at most.
    """
    order, ids = random.permutation(len(prompts))[:SHOWN], list[int]()
    for many in range(len(order), FEWEST - 1, -1):
        told = [f"{n}. {prompts[row]}\n" for n, row in enumerate(order[:many], start=1)]
        ids = writer.first(f"{BEGINNING}{''.join(told)}{many + 1}.")
        if len(ids) <= writer.context // 2:
            return ids
    raise UserError(
        f"two prompts of the file have {len(ids)} tokens together, but the model looks back on "
        f"{writer.context}, half of it for them; give shorter ones"
    )


def _key(prompt: str) -> str:
    """Return what is alike of prompts that differ in capitals, white space or punctuation alone."""
    return " ".join(re.findall(r"\w+", prompt.casefold()))
