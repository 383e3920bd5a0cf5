"""Lets a policy reply where nothing is trained: to prompts of a file, or in a talk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.errors import UserError
from prefrl.storage.files import reading
from prefrl.storage.texts import reader
from prefrl.storage.texts.conversations import before_reply
from prefrl.text.policy import TextPolicy
from prefrl.types import Conversation

UNFINISHED = "\ufffd"  # what the first bytes of a character are decoded as


class Talk:
    """A conversation under way; what was said and replied is only ever appended to."""

    def __init__(self, policy: TextPolicy, deterministic: bool = False):
        """Begin with nothing said."""
        self.policy, self.deterministic = policy, deterministic
        self.ids: list[int] = []
        self.finished = True
        """Whether the last reply came to its end."""

    def reply(self, said: str) -> Iterator[str]:
        """Yield the reply, piece by piece, as it is sampled.

        Raises:
            UserError: what was said by now is longer than the model's context.
        """
        template = self.policy.template
        before = template.next(said, self.finished) if self.ids else self.policy.first(said)
        ids, told = [*self.ids, *before], ""
        sampled: list[int] = []
        for token in self.policy.stream(ids, self.deterministic):
            sampled.append(token)
            text = self.policy.settled(self.policy.text(sampled))
            if text.startswith(told) and not text.endswith(UNFINISHED):
                yield text[len(told) :]
                told = text
        self.ids = [*ids, *sampled]
        self.finished = sampled[-1:] == [template.end_id]
        yield self.policy.text(sampled)[len(told) :]


@dataclass(frozen=True)
class Prompt:
    """What is to be replied to."""

    row: int
    """Of the file, from 1."""
    talk: Conversation
    """Its last reply is left out."""


def read_prompts(path: Path, chat: bool) -> tuple[list[Prompt], list[str]]:
    """Return the prompts of a file, a line each of .txt, else of rows, and what to say of it.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    if path.suffix.lower() == ".txt":
        with reading(path) as lines:
            said = [line.rstrip("\n") for line in lines]
        talks = [Conversation(((line, ""),)) for line in said]
        prompts = [Prompt(row, talk) for row, talk in enumerate(talks, start=1) if said[row - 1]]
        notes = [f"took {path.name} for prompts, one a line ({len(prompts)})"]
    else:
        texts = reader.read_file(path, chat)
        for example in texts.examples:
            if not example.conversations:
                raise UserError(f"{example.where}: it is one of {example.form}, without a prompt")
        prompts = [Prompt(e.number, e.conversations[0]) for e in texts.examples]
        notes = [texts.took, *texts.notes]
    if not prompts:
        raise UserError(f"{path} holds no prompt; expected one a line of .txt, or rows with some")
    return prompts, notes


def replies_to(
    policy: TextPolicy, prompts: Sequence[Prompt], batch_size: int, deterministic: bool = False
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Reply to prompts, some at a time.

    Yields:
        For each of some prompts `row`, `prompt`, `completion` and whether it `finished` before the
        limit of tokens; and how many tokens were sampled for them.

    Raises:
        UserError: a prompt is longer than the model's context.
    """
    sequences = [_ids(policy, prompt) for prompt in prompts]
    for begin in range(0, len(prompts), batch_size):
        some = prompts[begin : begin + batch_size]
        replies = policy.reply(sequences[begin : begin + batch_size], deterministic)
        yield [
            {
                "row": prompt.row, "prompt": before_reply(prompt.talk),
                "completion": policy.text(reply.ids), "finished": reply.finished,
            }
            for prompt, reply in zip(some, replies, strict=True)
        ], sum(len(reply.ids) for reply in replies)  # fmt: skip


def _ids(policy: TextPolicy, prompt: Prompt) -> list[int]:
    template, ids = policy.template, []
    for number, (said, reply) in enumerate(prompt.talk.turns, start=1):
        told = prompt.talk.system or None
        ids += template.next(said, True) if ids else policy.first(said, told)
        if number < len(prompt.talk.turns):
            ids += template.reply_ids(reply)
    if len(ids) >= policy.context:
        raise UserError(
            f"the prompt of row {prompt.row} has {len(ids)} tokens, but the model looks back on "
            f"{policy.context}; shorten it"
        )
    return ids
