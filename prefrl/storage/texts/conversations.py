"""Conversations as others write them: messages, ShareGPT's, the transcripts of HH-RLHF."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from prefrl.storage.jsonl import short
from prefrl.types import Conversation, Turn

ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
# Of HH-RLHF (arXiv 2204.05862): each of its texts is a conversation with these before the turns.
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURNS = re.compile(rf"({HUMAN}|{ASSISTANT})")


class Spoken(NamedTuple):
    """Messages: a system message, if any, and what user and assistant said in turns."""

    system: str
    texts: list[str]
    """The user's first; the last may be either's."""


def is_messages(value: Any) -> bool:
    """Return whether a value is meant as messages: a list of objects, or one of them."""
    return isinstance(value, dict | list)


def speak(messages: Any) -> Spoken:
    """Return what messages {"role", "content"}, or ShareGPT's {"from", "value"}, say.

    Raises:
        ValueError: user and assistant do not speak in turns, or somebody else speaks.
    """
    system, texts = "", []
    messages = [messages] if isinstance(messages, dict) else messages
    for number, message in enumerate(messages, start=1):
        role, content = _message(message)
        if role == "system" and number == 1:
            system = content
            continue
        expected = ("user", "assistant")[len(texts) % 2]
        if role != expected:
            raise ValueError(
                f"message {number} is of the role {role!r}; expected {expected!r}, since user and "
                "assistant speak in turns"
            )
        texts.append(content)
    return Spoken(system, texts)


def _message(message: Any) -> tuple[str, str]:
    """Return role and text of one message; the words of ShareGPT are translated."""
    if isinstance(message, dict):
        role, content = message.get("role"), message.get("content")
        if role is None:
            role, content = message.get("from"), message.get("value")
        if isinstance(content, list) and content:
            content = _parts(content)
        if isinstance(role, str) and isinstance(content, str):
            return ROLES.get(role.lower(), role), content
    raise ValueError(
        f'the message {short(message)} is not {{"role", "content"}}; expected two texts'
    )


def _parts(parts: list[Any]) -> str | None:
    """Return the text of a message in parts, None if one of them is no text."""
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    whole = [text for text in texts if isinstance(text, str)]
    return "".join(whole) if len(whole) == len(parts) else None


def before_reply(talk: Conversation) -> Any:
    """Return what came before the last reply: a text, or messages where there was more."""
    if len(talk.turns) == 1 and not talk.system:
        return talk.turns[0][0]
    messages = [{"role": "system", "content": talk.system}] if talk.system else []
    for said, reply in talk.turns:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]
    return messages[:-1]


def conversation(spoken: Spoken, shown: Any) -> Conversation:
    """Return messages that end with a reply as a conversation; `shown` is what an error quotes.

    Raises:
        ValueError: they do not end with a reply.
    """
    system, texts = spoken
    if len(texts) % 2 or not texts:
        raise ValueError(
            f"the conversation {short(shown)} does not end with the assistant's reply; expected one"
        )
    return Conversation(tuple(zip(texts[::2], texts[1::2], strict=True)), system)


def open_transcript(text: str, chat: bool | None) -> tuple[tuple[Turn, ...], str] | None:
    r"""Return the turns of a transcript that ends with "Assistant:", and what was said last.

    Args:
        text: "\n\nHuman: …\n\nAssistant:", the prompt of a pair.
        chat: leave the names out, as a chat template writes its own; else they stay where they
            are, at the ends of what was said, and all texts together are the transcript.

    Returns:
        None if it is no such text.
    """
    if not text.endswith(ASSISTANT):
        return None
    taken = _turns(text, chat)
    if taken is None:
        return None
    (*before, (said, _)) = taken
    return tuple(before), said


def transcript(text: str, chat: bool | None) -> Conversation | None:
    r"""Return a transcript that ends with a reply as turns; None if it is none.

    Args:
        text: "\n\nHuman: …\n\nAssistant: …".
        chat: see `open_transcript`.
    """
    taken = _turns(text, chat)
    return None if taken is None else Conversation(tuple(taken))


def _turns(text: str, chat: bool | None) -> list[Turn] | None:
    """Return turns (said, reply); the last reply may be empty."""
    if text.startswith(HUMAN.lstrip()):
        text = HUMAN.removesuffix(HUMAN.lstrip()) + text
    before, *pieces = _TURNS.split(text)
    names, texts = pieces[::2], pieces[1::2]
    if before.strip() or len(names) % 2 or names != [HUMAN, ASSISTANT] * (len(names) // 2):
        return None
    if not names:
        return None
    pairs = zip(texts[::2], texts[1::2], strict=True)
    if chat:
        return [(said.strip(), reply.strip()) for said, reply in pairs]
    return [(f"{HUMAN}{said}{ASSISTANT}", reply) for said, reply in pairs]


def shared(conversations: Sequence[Conversation], between: str = "\n") -> str:
    """Return what conversations have in common, up to the last thing said: their task.

    Raises:
        ValueError: they do not begin with the same message.
    """
    if len({(c.system, c.turns[0][0]) for c in conversations}) > 1:
        raise ValueError("the conversations begin otherwise; expected the same first message")
    first, *others = [[text for turn in c.turns for text in turn] for c in conversations]
    alike = min((_alike(first, other) for other in others), default=len(first))
    alike -= alike % 2 == 0  # a task ends with what is to be replied to
    system = [conversations[0].system] if conversations[0].system else []
    return between.join([*system, *first[:alike]])


def _alike(left: Sequence[str], right: Sequence[str]) -> int:
    """Return with how many of the same things both begin."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))


def common_beginning(left: str, right: str) -> str:
    """Return what both begin with, up to the assistant's turn or to a whole word.

    Raises:
        ValueError: they have no word in common.
    """
    common = left[: _alike(left, right)]
    turn = common.rfind(ASSISTANT)
    if turn >= 0:
        return common[: turn + len(ASSISTANT)]
    end = len(common)
    if any(len(text) > end and not text[end].isspace() for text in (left, right)):
        end = max((index for index, char in enumerate(common) if char.isspace()), default=0)
    if not common[:end].strip():
        raise ValueError(
            "there is no 'prompt', and 'chosen' and 'rejected' do not begin alike; expected a "
            "text, what both reply to"
        )
    return common[:end]
