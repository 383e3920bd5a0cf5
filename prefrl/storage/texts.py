"""Rows of texts as others write them: pairs, rankings, demonstrations, conversations.

A text is read as turns: what was said, and the reply to it. Conversations are lists of messages
{"role", "content"}; the user's are what was said, the assistant's the replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefrl.storage.jsonl import field, short

Turns = list[tuple[str, str]]
"""What was said and the reply to it, one after the other."""

DEMONSTRATIONS = (
    '{"prompt", "response"}, {"turns": [[said, reply], …]}, {"messages": [{"role", "content"}, …]} '
    'or {"prompt", "chosen", "rejected"}'
)
ASSISTANT = "\n\nAssistant:"  # ends the prompts of HH-RLHF (arXiv 2204.05862)
REPLIES = "response", "completion", "chosen"
TEXTS = "prompt", "chosen", "rejected", "response", "completion"


def is_conversation(row: dict[str, Any]) -> bool:
    """Return whether the texts of a row are messages."""
    if "messages" in row or any(isinstance(row.get(name), list) for name in TEXTS):
        return True
    completions = row.get("completions")
    return isinstance(completions, list) and any(isinstance(text, list) for text in completions)


def check_spoken(row: dict[str, Any], chat: bool) -> None:
    """Raise `ValueError` if a row holds messages, but nothing is spoken as a chat."""
    if not chat and is_conversation(row):
        raise ValueError(
            'it holds messages {"role", "content"}, which a chat template puts together; add '
            "--chat, or give texts instead of messages"
        )


def read_pair(row: dict[str, Any]) -> tuple[str, Turns, Turns]:
    """Return the task of {"prompt", "chosen", "rejected"}, what was chosen and what was rejected.

    Where there is no prompt, what both begin with is the prompt.

    Raises:
        ValueError: they are no texts, or do not begin alike.
    """
    if "prompt" not in row and not is_conversation(row):
        texts = [field(row, "chosen", str), field(row, "rejected", str)]
        prompt = _common_beginning(*texts)
        chosen, rejected = ([(prompt, text[len(prompt) :])] for text in texts)
        return prompt, chosen, rejected
    prompt = row.get("prompt")
    chosen, rejected = (_turns(prompt, row, name) for name in ("chosen", "rejected"))
    return _task(prompt, [chosen, rejected]), chosen, rejected


def read_ranking(row: dict[str, Any]) -> tuple[str, list[Turns]]:
    """Return the task of {"prompt", "completions"}, and the completions, best first.

    Raises:
        ValueError: they are no texts.
    """
    completions = field(row, "completions", list)
    if not all(isinstance(text, str | list) for text in completions):
        raise ValueError(f"'completions' is {short(completions)}; expected texts, best first")
    if "prompt" not in row:
        raise ValueError("there is no 'prompt'; expected a text")
    ranked = [_turns(row["prompt"], {"completions": text}, "completions") for text in completions]
    return _task(row["prompt"], ranked), ranked


def read_demonstration(row: dict[str, Any]) -> Turns | None:
    """Return the turns of a row that demonstrates something, None if it has no such form.

    Of a pair that is what was chosen.

    Raises:
        ValueError: it has the form, but not of texts.
    """
    if "turns" in row:
        return check_turns(field(row, "turns", list))
    if "messages" in row:
        return _conversation(field(row, "messages", list))
    if "rejected" in row and "prompt" not in row:
        return read_pair(row)[1]
    name = next((name for name in REPLIES if name in row), None)
    return None if name is None else _turns(row.get("prompt"), row, name)


def check_turns(turns: Any) -> Turns:
    """Return turns [[said, reply], …] as pairs.

    Raises:
        ValueError: they are none.
    """
    pairs = isinstance(turns, list | tuple) and [tuple(turn) for turn in turns if _is_turn(turn)]
    if not pairs or len(pairs) != len(turns):
        raise ValueError(f"{short(turns)} are no turns; expected [[said, reply], …], all texts")
    return pairs


def _is_turn(turn: Any) -> bool:
    pair = isinstance(turn, list | tuple) and len(turn) == 2
    return pair and all(isinstance(text, str) for text in turn)


def _turns(prompt: Any, row: dict[str, Any], name: str) -> Turns:
    """Return a prompt and a text that goes on from it, each a text or messages, as turns."""
    text = row.get(name)
    if isinstance(text, str) and isinstance(prompt, str):
        return [(prompt, text)]
    if not isinstance(text, str | list):
        field(row, name, str)
    if prompt is not None and not isinstance(prompt, str | list):
        raise ValueError(f"'prompt' is {short(prompt)}; expected a text")
    if prompt is None and isinstance(text, str):
        raise ValueError("there is no 'prompt'; expected a text")
    before = _messages("user", prompt) if prompt is not None else []
    after = _messages("assistant", text)
    # Some data sets repeat the prompt in what goes on from it.
    whole = after and isinstance(after[0], dict) and after[0].get("role") != "assistant"
    return _conversation(after if whole else before + after)


def _messages(role: str, text: Any) -> list[Any]:
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def _conversation(messages: list[Any]) -> Turns:
    """Return messages as turns.

    Raises:
        ValueError: user and assistant do not speak in turns, or somebody else speaks.
    """
    texts = []
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        role, content = (
            (message.get("role"), message.get("content"))
            if isinstance(message, dict)
            else (None, None)
        )
        if not isinstance(content, str):
            raise ValueError(
                f'the message {short(message)} is not {{"role", "content"}}; expected two texts'
            )
        if role == "system" and number == 0:
            raise ValueError(
                f"it begins with a system message ({short(content)}), which has no turn of its "
                "own here; put it before the user's first message, or leave it out"
            )
        if role != expected:
            raise ValueError(
                f"message {number + 1} is of the role {role!r}; expected {expected!r}, since user "
                "and assistant speak in turns"
            )
        texts.append(content)
    if len(texts) % 2 or not texts:
        raise ValueError(
            f"the conversation {short(messages)} does not end with the assistant's reply; "
            "expected one"
        )
    return list(zip(texts[::2], texts[1::2], strict=True))


def _task(prompt: Any, conversations: list[Turns]) -> str:
    """Return what these have in common, which is what they may be compared for.

    Raises:
        ValueError: they are not of one task.
    """
    if isinstance(prompt, str):
        return prompt
    if len({turns[0][0] for turns in conversations}) > 1:
        raise ValueError("the conversations begin otherwise; expected the same first message")
    first, *others = [[text for turn in turns for text in turn] for turns in conversations]
    alike = min((_alike(first, other) for other in others), default=len(first))
    return "\n".join(first[:alike])


def _alike(left: Sequence[str], right: Sequence[str]) -> int:
    """Return with how many of the same things both begin."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))


def _common_beginning(left: str, right: str) -> str:
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
