"""Texts from elsewhere: the forms in which others write pairs, rankings and demonstrations."""

import json

import pytest

from prefrl.errors import UserError
from prefrl.storage.files import reading
from prefrl.storage.jsonl import read_rows
from prefrl.storage.rows import AnswerReader
from prefrl.storage.texts import (
    check_spoken,
    is_conversation,
    read_demonstration,
    read_pair,
    read_ranking,
)
from prefrl.text.stages import sft
from prefrl.text.stages.answers import read_answers

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def rows_of(path):
    with reading(path) as lines:
        return [(row.where, row.fields) for row in read_rows(lines, path.name)]


# --- files ------------------------------------------------------------------------------------

LINES = [PAIR, PAIR | {"prompt": "Grüße, 世界"}]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(map(json.dumps, LINES)),
        "\ufeff" + "\n".join(map(json.dumps, LINES)),
        "\r\n".join(json.dumps(row, ensure_ascii=False) for row in LINES) + "\r\n",
    ],
    ids=["plain", "with a byte order mark", "with the line ends of Windows"],
)
def test_lines_are_read_whatever_they_begin_and_end_with(content, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(content.encode())
    assert rows_of(tmp_path / "a.jsonl") == [
        ("a.jsonl, line 1", LINES[0]),
        ("a.jsonl, line 2", LINES[1]),
    ]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("begin", ["", "\ufeff", "\n\n"])
def test_one_array_is_read_row_by_row(indent, begin, tmp_path):
    (tmp_path / "a.json").write_text(begin + json.dumps(LINES, indent=indent), encoding="utf-8")
    assert rows_of(tmp_path / "a.json") == [
        ("a.json, row 1", LINES[0]),
        ("a.json, row 2", LINES[1]),
    ]


def test_what_is_no_array_to_its_end_is_a_sentence(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(LINES, indent=2)[:-9])
    with pytest.raises(UserError, match=r"^a\.json: it is not JSON \("):
        rows_of(tmp_path / "a.json")


def test_another_encoding_is_a_sentence(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR), encoding="utf-16")
    with pytest.raises(UserError, match=r"cannot read .*a\.jsonl: it is not text in UTF-8 .*save"):
        rows_of(tmp_path / "a.jsonl")


# --- pairs without a prompt -------------------------------------------------------------------

EGG = "\n\nHuman: How do I boil an egg?\n\nAssistant:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        (f"{EGG} Put it in water.", f"{EGG} No idea.", EGG),
        (f"{EGG} Put it in.", f"{EGG} Pour it.", EGG),  # the replies begin alike
        (f"{EGG} Yes.", f"{EGG} Yes. And now?", EGG),
        (f"{EGG} Yes.", EGG, EGG),
        (
            f"{EGG} In water.\n\nHuman: How long?\n\nAssistant: Eight minutes.",
            f"{EGG} In water.\n\nHuman: How long?\n\nAssistant: One.",
            f"{EGG} In water.\n\nHuman: How long?\n\nAssistant:",
        ),
        ("Tea is good.", "Tea is great.", "Tea is"),  # not "Tea is g"
        ("A drink", "A drink made of leaves", "A drink"),
    ],
)
def test_the_common_beginning_is_the_prompt(chosen, rejected, prompt):
    task, better, worse = read_pair({"chosen": chosen, "rejected": rejected})
    assert task == prompt
    assert better == [(prompt, chosen[len(prompt) :])]
    assert worse == [(prompt, rejected[len(prompt) :])]
    assert read_demonstration({"chosen": chosen, "rejected": rejected}) == better


@pytest.mark.parametrize("pair", [("Yes", "No"), ("Yes, I do", "Yesterday"), ("", "")])
def test_a_pair_that_has_no_word_in_common_needs_a_prompt(pair):
    with pytest.raises(ValueError, match="no 'prompt', and 'chosen' and 'rejected' do not begin"):
        read_pair(dict(zip(("chosen", "rejected"), pair, strict=True)))


# --- conversations ----------------------------------------------------------------------------

TEA = [user("What is tea?"), assistant("A drink."), user("Sure?")]
TURNS = [("What is tea?", "A drink."), ("Sure?", "Yes.")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": TEA, "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]},
        {"chosen": [*TEA, assistant("Yes.")], "rejected": [*TEA, assistant("No.")]},
        {"prompt": TEA, "chosen": "Yes.", "rejected": "No."},
        {"prompt": "Sure?", "chosen": [*TEA, assistant("Yes.")],
         "rejected": [*TEA, assistant("No.")]},
    ],
)  # fmt: skip
def test_pairs_of_conversations(row):
    task, better, worse = read_pair(row)
    assert better == TURNS and worse == [TURNS[0], ("Sure?", "No.")]
    assert is_conversation(row)
    if row.get("prompt") != "Sure?":
        assert task == "What is tea?\nA drink.\nSure?"


def test_a_text_that_is_answered_by_a_message():
    row = {"prompt": "What is tea?", "chosen": [assistant("A drink.")], "rejected": "Tea."}
    assert read_pair(row) == (
        "What is tea?", [("What is tea?", "A drink.")], [("What is tea?", "Tea.")]
    )  # fmt: skip


def test_rankings_and_demonstrations_of_messages():
    ranked = {"prompt": TEA, "completions": [[assistant("Yes.")], "No."]}
    assert read_ranking(ranked)[1] == [TURNS, [TURNS[0], ("Sure?", "No.")]]
    assert read_demonstration({"messages": [*TEA, assistant("Yes.")]}) == TURNS
    assert read_demonstration({"prompt": TEA, "completion": [assistant("Yes.")]}) == TURNS
    assert read_demonstration({"prompt": "p", "completion": "c"}) == [("p", "c")]
    assert read_demonstration({"text": "a"}) is None


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "does not end with the assistant's reply"),
        ([user("a")], "does not end with the assistant's reply"),
        ([{"role": "system", "content": "Be kind."}, user("a"), assistant("b")],
         r"system message \('Be kind.'\), .*; put it before the user's first message"),
        ([user("a"), user("b")], "message 2 is of the role 'user'; expected 'assistant'"),
        ([assistant("a")], "message 1 is of the role 'assistant'; expected 'user'"),
        ([user("a"), {"role": "tool", "content": "b"}], "message 2 is of the role 'tool'"),
        ([user([{"type": "text", "text": "a"}]), assistant("b")], 'is not {"role", "content"}'),
        (["a", "b"], "the message 'a' is not"),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_read(messages, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_demonstration({"messages": messages})
    with pytest.raises(ValueError, match=r"begin otherwise; expected the same first message"):
        read_pair(
            {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("b")]}
        )  # fmt: skip


def test_messages_want_a_chat_template(tmp_path):
    row = {"messages": [user("a"), assistant("b")]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"chat\.jsonl, line 1: it holds messages .*; add --chat"):
        sft.from_file(tmp_path / "chat.jsonl")
    assert sft.from_file(tmp_path / "chat.jsonl", chat=True) == [[("a", "b")]]
    pair = {"prompt": [user("a")], "chosen": "b", "rejected": "c"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1: it holds messages"):
        read_answers(tmp_path / "pairs.jsonl")
    [found] = read_answers(tmp_path / "pairs.jsonl", chat=True).comparisons
    assert (found.left.observations.tolist(), found.left.actions.tolist()) == (["a"], ["b"])
    check_spoken(PAIR, chat=False)


# --- rows that say nothing --------------------------------------------------------------------


def test_pairs_of_the_same_text_are_left_out_and_counted(tmp_path):
    rows = [PAIR, PAIR | {"rejected": "good"}, {"prompt": "q", "completions": ["a", "b", "a"]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answers = read_answers(tmp_path / "a.jsonl")
    assert answers.alike == 2, "the pair, and two of the ranking's three"
    said = [(c.left.actions[0], c.right.actions[0]) for c in answers.comparisons]
    assert said == [("good", "bad"), ("a", "b"), ("b", "a")]
    reader = AnswerReader("a")
    for row in read_rows(map(json.dumps, rows), "a"):
        reader.read(row)
    assert (len(reader.answers), reader.left_out) == (2, 1)
