"""The reader of files of texts: `fit`, `sft`, `import` and whoever else reads one call it.

texts = read_file(Path("pairs.jsonl"))
texts.took                  # "took pairs.jsonl for JSON lines: 200 pairs {…}"
demonstrations(texts)       # what is worth imitating
compared(texts)             # judgements, in the words of `types.Answer`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefrl.answers import KINDS
from prefrl.errors import UserError
from prefrl.storage.jsonl import Row, said_where, short
from prefrl.storage.texts.examples import Example
from prefrl.storage.texts.files import open_rows
from prefrl.storage.texts.forms import COMPARED, DEMONSTRATED, read_form
from prefrl.storage.texts.tools import read_tool

MOST_AT_ONCE = 9  # replies of a query


@dataclass(frozen=True)
class Texts:
    """What a file holds."""

    name: str
    """Of the file."""
    examples: list[Example]
    took: str
    """What the file was taken for, in a sentence."""
    notes: list[str]
    """What else is to be known of it."""


def read_file(path: Path, chat: bool | None = False) -> Texts:
    """Read a file, or a folder of `datasets`.

    Args:
        path: the file.
        chat: messages are welcome, and transcripts of HH-RLHF become messages; else texts follow
            each other as they are, and messages are refused; None where that is not known.

    Raises:
        UserError: it cannot be read, is empty, or a row is of no form; the sentence says which.
    """
    file = open_rows(path)
    texts = read_rows(file.rows, path.name, file.container, chat)
    if not texts.examples and not texts.notes:
        raise UserError(f"{path} is empty; expected in each row {COMPARED}; or {DEMONSTRATED}")
    return texts


def read_rows(rows: Iterable[Row], name: str, container: str, chat: bool | None = False) -> Texts:
    """Read the rows of a file; see `read_file`.

    Args:
        rows: of the file.
        name: of the file.
        container: what kind of file it is, in words.
        chat: see `read_file`.
    """
    examples: list[Example] = []
    unanswered = 0
    for row in rows:
        with said_where(row.where):
            found = read_tool(row.fields, chat)
            found = [read_form(row.fields, chat)] if found is None else found
        unanswered += not found
        examples += [_at(example, row) for example in found]
    notes = [f"rows left out, as nobody has answered them: {unanswered}"] if unanswered else []
    examples, more = _in_shares(examples)
    return Texts(name, examples, _took(name, container, examples), notes + more)


def _at(example: Example, row: Row) -> Example:
    talks = tuple(replace(talk, where=row.where) for talk in example.conversations)
    return replace(example, number=row.number, where=row.where, conversations=talks)


def _took(name: str, container: str, examples: Sequence[Example]) -> str:
    counts: dict[str, int] = {}
    for example in examples:
        counts[example.form] = counts.get(example.form, 0) + 1
    forms = [f"{form} ({count})" for form, count in counts.items()]
    return f"took {name} for {container}: " + (" and ".join(forms) or "nothing")


def _in_shares(examples: list[Example]) -> tuple[list[Example], list[str]]:
    """Bring margins above 1 to shares of the largest, and note it."""
    margins = [example.value.get("margin", 0) for example in examples if example.kind != "exported"]
    most = max(margins, default=0)
    if most <= 1:
        return examples, []
    for index, example in enumerate(examples):
        if example.kind == "preference" and "margin" in example.value:
            value = example.value | {"margin": example.value["margin"] / most}
            examples[index] = replace(example, value=value)
    return examples, [
        f"margins go up to {most:g} and are divided by it; a margin scale of {most:g} makes logits "
        "of them again"
    ]


def compared(texts: Texts) -> tuple[list[Example], list[str]]:
    """Return the judgements of a file, each an answer of at most nine replies, and what to note.

    Scores become ratings on the scale of the file. Labels and scores that stand in rows of their
    own are put together by what they reply to: good before bad. Of K replies, more than nine, come
    K − 1 pairs, as much as a ranking of them weighs.

    Raises:
        UserError: a row compares nothing.
    """
    for example in texts.examples:
        if not example.compares:
            raise UserError(
                f"{example.where}: it is one of {example.form}, which compares nothing; expected "
                f"{COMPARED}"
                + ("; `prefrl sft` learns from it" if example.kind != "prompt" else "")
            )
    joined, alone = _joined(texts.examples)
    examples = [few for example in _on_one_scale(joined) for few in _at_most_nine(example)]
    notes = [
        f"{word} left out, as no other reply to the same prompt has another one: {count}"
        for word, count in alone.items()
        if count
    ]
    return examples, notes


def _joined(examples: Sequence[Example]) -> tuple[list[Example], dict[str, int]]:
    """Put labels, and scores of single replies, together by task; count those that stay alone."""
    joined: list[Example] = []
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        if example.kind in ("label", "score"):
            groups.setdefault((example.kind, example.task), []).append(example)
        else:
            joined.append(example)
    alone = {"labels": 0, "scores": 0}
    for (kind, _), group in groups.items():
        said = [example.value[kind] for example in group]
        if len(set(said)) < 2:
            alone[f"{kind}s"] += len(group)
            continue
        talks = tuple(talk for example in group for talk in example.conversations)
        names = tuple(f"{example.names[0]} of row {example.number}" for example in group)
        value = {"ratings": said}
        if kind == "label":
            value = {
                "order": [[i for i, good in enumerate(said) if good is s] for s in (True, False)]
            }
        whole = replace(group[0], kind="ranking" if kind == "label" else "ratings")
        joined.append(replace(whole, conversations=talks, names=names, value=value))
    return joined, alone


def _on_one_scale(examples: Sequence[Example]) -> list[Example]:
    """Give all ratings the scale of their file, lowest to highest; a tie where all are equal."""
    ratings = [r for e in examples if e.kind == "ratings" for r in e.value["ratings"]]
    scale = {"low": min(ratings), "high": max(ratings)} if ratings else {}
    return [
        example if example.kind != "ratings"
        else replace(example, kind="tie", value={}) if len(set(example.value["ratings"])) == 1
        else replace(example, value=example.value | scale)
        for example in examples
    ]  # fmt: skip


def _at_most_nine(example: Example) -> list[Example]:
    """Return an example as it is, or as pairs if it holds more replies than a query may.

    In order from the best, each reply but the first meets the one half as far down.
    """
    if len(example.conversations) <= MOST_AT_ONCE or example.kind == "exported":
        return [example]
    return [_pair(example, better, worse) for better, worse in _halves(_best_first(example))]


def _halves(order: Sequence[int]) -> list[tuple[int, int]]:
    return [(order[row // 2], order[row]) for row in range(1, len(order))]


def _pair(example: Example, better: int, worse: int) -> Example:
    kind, value = "tie", {}
    if example.kind != "tie":
        left, margin = KINDS[example.kind].pair(example.value, better, worse)
        if left != 0.5:
            kind, value = "preference", {"left": left} | ({"margin": margin} if margin else {})
    talks = tuple(example.conversations[index] for index in (better, worse))
    names = tuple(example.names[index] for index in (better, worse))
    return replace(example, kind=kind, value=value, conversations=talks, names=names)


def _best_first(example: Example) -> list[int]:
    """Return the indices of an example's replies from the best to the worst, equals as they are."""
    count, value = len(example.conversations), example.value
    if example.kind == "ranking":
        return [index for group in value["order"] for index in group]
    if example.kind == "ratings":
        return sorted(range(count), key=lambda index: -value["ratings"][index])
    if example.kind == "preference":
        return [0, 1] if value["left"] > 0.5 else [1, 0]
    return [*range(count)]


def demonstrations(texts: Texts, clips: bool = False) -> tuple[list[Example], list[str]]:
    """Return what is worth imitating in a file, one conversation each, and what to note.

    Of pairs, rankings and scores that is the best reply; of labelled replies all good ones.

    Args:
        texts: the file.
        clips: rows {"segment"} are welcome, too.

    Raises:
        UserError: a row demonstrates nothing.
    """
    kept: list[Example] = []
    bad = equal = 0
    best: dict[str, Example] = {}
    for example in texts.examples:
        if example.kind in ("prompt", "exported") or (example.kind == "clip" and not clips):
            raise UserError(
                f"{example.where}: it is one of {example.form}, which shows no reply to imitate; "
                f"expected {DEMONSTRATED}"
            )
        if example.kind == "label" and not example.value["label"]:
            bad += 1
        elif example.kind == "tie":
            equal += 1
        elif example.kind == "score":
            known = best.setdefault(example.task, example)
            if known.value["score"] < example.value["score"]:
                best[example.task] = example
        else:
            kept.append(_best_of(example))
    scored = sum(example.kind == "score" for example in texts.examples)
    kept += best.values()
    why = {
        "as their label is false": bad,
        "as none of their replies is better": equal,
        "as a reply to the same prompt has a higher score": scored - len(best),
    }
    notes = [f"rows left out, {reason}: {count}" for reason, count in why.items() if count]
    if not kept:
        raise UserError(f"{texts.name} shows no reply to imitate: {'; '.join(notes)}")
    return kept, notes


def _best_of(example: Example) -> Example:
    """Return an example with its best reply alone, which must hold something to be learned."""
    if example.kind == "clip":
        return example
    talk = example.conversations[_best_first(example)[0]]
    if any(not reply for _, reply in talk.turns):
        shown = short([list(turn) for turn in talk.turns])
        raise UserError(f"{talk.where}: {shown} has an empty reply; expected what is to be learned")
    return replace(example, conversations=(talk,))


def prompts(texts: Texts) -> list[str]:
    """Return what is asked in each row of a file, each prompt once, in their order.

    Raises:
        UserError: a prompt is a conversation of several turns.
    """
    asked: dict[str, None] = {}
    for example in texts.examples:
        turns = example.conversations[0].turns if example.conversations else ()
        if len(turns) != 1:
            raise UserError(
                f"{example.where}: it has {len(turns)} turns; expected one prompt, as an "
                "environment of prompts asks one thing"
            )
        asked[turns[0][0]] = None
    return [*asked]
