"""How observations become token ids, which are only appended.

Sampled ids stay as they are. To render and tokenize the whole conversation at each turn is the
usual way, and a silent bug: the same text often has other ids than those that were sampled, and
their probabilities are then wrong. So what a chat template puts around an observation is found
once, and each turn adds to what there is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase

from prefrl.errors import UserError

# Words that stand for messages, to be found again in what a chat template makes of them.
SENTINELS = ("1stmessage", "2ndmessage", "3rdmessage", "4thmessage", "5thmessage")
SYSTEM = "0thmessage"
# Some templates write today's date, but a run must not depend on its day.
FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro +%}"


class Scaffold(NamedTuple):
    """The texts that a chat template puts around messages.

    Attributes:
        opening: before the first observation.
        prompt: between an observation and the reply.
        lead: white space that every reply begins with.
        closing: between a reply and the next observation.
    """

    opening: str = ""
    prompt: str = ""
    lead: str = ""
    closing: str = ""


class Template:
    """The ids that stand between sampled replies.

    Plain, observations and replies follow each other with nothing between them, after the
    tokenizer's bos token if it writes one. A reply's eos stays in place before the next
    observation; a reply that the token limit cut off runs on into it.

    As a chat, observations are the user's messages and replies the assistant's.

    The text of a special token in an observation, or in a reply that somebody wrote, stays text:
    whoever writes "<|im_end|>" ends nobody's turn. Only the template's own become tokens.

    Attributes:
        system: what the model is told before each conversation that has no message of its own.
        end_id: the token that ends a reply, where sampling stops: the tokenizer's eos token, or
            another one if that is what the chat template ends replies with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: bool, system: str = "") -> None:
        """Find out what the chat template does, if there is to be a chat.

        Raises:
            UserError: there is no chat template, adding a message changes what came before, or it
                has no room for a system message that is given.
        """
        self.tokenizer = tokenizer
        self.system = system
        self.chat = chat
        self._scaffold = _scaffold(tokenizer) if chat else Scaffold()
        self._start = [] if chat else _bos(tokenizer)
        self._control = _control_texts(tokenizer)
        closing = self._control_ids(self._scaffold.closing)
        self.end_id = _end(tokenizer, closing)
        self._closing_ends = self.end_id in closing
        if system and chat:
            self._around_system  # noqa: B018 (found out now, not with the first task)

    @cached_property
    def mark(self) -> int:
        """A number that is the same for templates whose ids mean the same, else another."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        meaning = json.dumps([vocabulary, self._scaffold, self._start, self.end_id])
        digest = hashlib.blake2b(meaning.encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big")

    def first(self, observation: str, system: str | None = None) -> list[int]:
        """Return the ids before the first reply; at least one, as nothing cannot be continued.

        Args:
            observation: what is said first.
            system: what the model is told before, by default the template's own; plain, it stands
                above, with an empty line between.

        Raises:
            UserError: there is a system message, and the chat template has no room for one.
        """
        opening, prompt = (self._scaffold.opening,), self._scaffold.prompt
        system = self.system if system is None else system
        if system and self.chat:
            before, between = self._around_system
            opening = (before, system, between)
        elif system:
            opening, observation = ("",), f"{system}\n\n{observation}"
        return [*self._start, *self._encode(*opening, observation, prompt)] or [self.end_id]

    @cached_property
    def _around_system(self) -> tuple[str, str]:
        return _around_system(self.tokenizer, self._scaffold)

    def next(self, observation: str, finished: bool) -> list[int]:
        """Return the ids between a reply and the next one.

        Args:
            observation: what the environment said to the reply.
            finished: whether the reply's ids end with `end_id` already, not at the token limit.
        """
        ids = self._encode(self._scaffold.closing, observation, self._scaffold.prompt)
        if finished and self._closing_ends:
            return ids[ids.index(self.end_id) + 1 :]
        return ids

    def reply_ids(self, text: str) -> list[int]:
        """Return the ids of a reply that somebody wrote, with its end."""
        return [*self._encode(self._scaffold.lead, text, ""), self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a reply's ids, without the end that is their last.

        All other special tokens are shown: what is judged is what was sampled.
        """
        shown = [*ids]
        if shown and shown[-1] == self.end_id:
            shown.pop()
        text = str(self.tokenizer.decode(shown, clean_up_tokenization_spaces=False))
        return text.removeprefix(self._scaffold.lead)

    def _encode(self, *parts: str) -> list[int]:
        """Return the ids of somebody's texts with what the template puts around them.

        Args:
            *parts: the template's and somebody's texts in turns, the template's first and last.
        """
        if not self.chat:
            return self._text_ids("".join(parts))
        if any(self._control.search(text) for text in parts[1::2]):
            ids = (self._text_ids, self._control_ids)
            return [one for i, part in enumerate(parts) for one in ids[i % 2 == 0](part)]
        # In one go: tokens may reach over the borders, as in what the model was trained on.
        return self._control_ids("".join(parts))

    def _control_ids(self, text: str) -> list[int]:
        """Encode what the chat template wrote: what looks like a special token is one."""
        return self._ids(text, split_special_tokens=False)

    def _text_ids(self, text: str) -> list[int]:
        """Encode what somebody wrote: nothing in it is a special token."""
        return self._ids(text, split_special_tokens=True)

    def _ids(self, text: str, split_special_tokens: bool) -> list[int]:
        tokens: Any = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens
        )
        return tokens["input_ids"]


def _control_texts(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return what finds the texts of special tokens."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(map(re.escape, special)) or r"(?!)")


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and bos in tokenizer("")["input_ids"] else []  # type: ignore


def _end(tokenizer: PreTrainedTokenizerBase, closing: list[int]) -> int:
    """Return the token that ends a reply, given the ids that a chat template puts after one.

    Several models' templates end a turn with another token than the tokenizer calls eos.
    """
    eos: Any = tokenizer.eos_token_id
    control = {eos, *tokenizer.added_tokens_decoder}
    return next((token for token in closing if token in control), eos)


def _scaffold(tokenizer: PreTrainedTokenizerBase) -> Scaffold:
    """Read the scaffold off short conversations, and check that longer ones are made of it."""
    if tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template; give a model that was trained to chat, set "
            "tokenizer.chat_template, or do without chat"
        )
    question, answer, follow_up = SENTINELS[:3]
    once, answered = _render(tokenizer, 1), _render(tokenizer, 2)
    twice, thrice = _render(tokenizer, 3), _render(tokenizer, 5)
    _check_extends(twice, answered)
    _check_extends(twice, once)
    opening, found_question, prompt = once.partition(question)
    lead, found_answer, rest = twice.removeprefix(once).partition(answer)
    closing, found_follow_up, _ = rest.partition(follow_up)
    if not (found_question and found_answer and found_follow_up):
        raise UserError(
            "the chat template does not show every message as it is: of the three messages "
            f"{SENTINELS[:3]} it makes {twice!r}; give another template, or do without chat"
        )
    if lead.strip():
        raise UserError(
            f"the chat template writes {lead!r} before an earlier reply, but not before the one to "
            "come, so the model would see what it never wrote; give another template, or "
            "do without chat"
        )
    scaffold = Scaffold(opening, prompt, lead, closing)
    _check_extends(thrice, _appended(scaffold))
    _check_extends(_appended(scaffold), thrice)
    return scaffold


def _around_system(tokenizer: PreTrainedTokenizerBase, scaffold: Scaffold) -> tuple[str, str]:
    """Return the texts before a system message, and between it and the first observation.

    Raises:
        UserError: the template refuses one, leaves it out, or then writes other things later.
    """
    advice = "put it into the user's first message, or leave it out"
    try:
        once, twice = (_render(tokenizer, count, SYSTEM) for count in (1, 3))
    except UserError as error:
        raise UserError(f"there is a system message, but {error}; {advice}") from None
    before, found_system, rest = once.partition(SYSTEM)
    between, found_question, prompt = rest.partition(SENTINELS[0])
    later = _appended(scaffold._replace(opening=before + SYSTEM + between), 3)
    if not found_system or not found_question or prompt != scaffold.prompt or twice != later:
        raise UserError(
            f"there is a system message, of which the chat template makes {once!r}, so it has no "
            f"place of its own; {advice}"
        )
    return before, between


def _render(tokenizer: PreTrainedTokenizerBase, messages: int, system: str = "") -> str:
    """Render the first sentinels, with the beginning of a reply if it is the assistant's turn."""
    roles = ("user", "assistant", "user", "assistant", "user")
    chat = [{"role": "system", "content": system}] if system else []
    chat += [
        {"role": role, "content": text}
        for role, text in zip(roles[:messages], SENTINELS, strict=False)
    ]
    try:
        rendered = tokenizer.apply_chat_template(
            chat,
            chat_template=FIXED_DATE + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=messages % 2 == 1,
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise UserError(
            f"the chat template cannot render a user's and an assistant's messages ({error}); "
            "give another template, or do without chat"
        ) from error
    return str(rendered)


def _appended(scaffold: Scaffold, messages: int = 5) -> str:
    """Put the first of five messages together as `Template` does, turn by turn."""
    opening, prompt, lead, closing = scaffold
    first, *others = SENTINELS[:messages]
    text = opening + first + prompt
    for reply, observation in zip(others[::2], others[1::2], strict=True):
        text += lead + reply + closing + observation + prompt
    return text


def _check_extends(longer: str, shorter: str) -> None:
    """Refuse a template that renders more messages not by appending to fewer."""
    if longer.startswith(shorter):
        return
    same = next(i for i in range(len(shorter)) if longer[i : i + 1] != shorter[i])
    begin = max(0, same - 20)
    raise UserError(
        "the chat template changes earlier messages when one is added: where there was "
        f"{shorter[begin : same + 30]!r} it then writes {longer[begin : same + 30]!r}, so a reply "
        "would be trained after another text than it was sampled after; give a template that keeps "
        "earlier messages as they are, or do without chat"
    )
