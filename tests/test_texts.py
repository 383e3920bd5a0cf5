"""Files of texts as people have them: every form is read, and said; broken ones are a sentence."""

import csv
import gzip
import json
import re
import sys
from contextlib import closing

import pytest
from complaints import complaint

from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.files import reading
from prefrl.storage.import_export import export_answers, import_answers
from prefrl.storage.jsonl import read_rows
from prefrl.storage.rows import AnswerReader
from prefrl.storage.texts import reader
from prefrl.storage.texts.files import is_data, open_rows
from prefrl.storage.texts.forms import read_form
from prefrl.text.stages import sft
from prefrl.text.stages.answers import read_answers
from prefrl.types import Conversation, conversation_clip, system_of
from prefrl.viewer.clips import Clips

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def talk(*turns, system=""):
    return Conversation(turns, system)


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def rows_of(path):
    return [(row.where, row.fields) for row in open_rows(path).rows]


def read(rows, folder, chat=None):
    return reader.read_file(write(folder / "a.jsonl", rows), chat)


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
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert rows_of(tmp_path / name) == [
            (f"{name}, line 1", LINES[0]),
            (f"{name}, line 2", LINES[1]),
        ]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("begin", ["", "\ufeff", "\n\n"])
def test_one_array_is_read_row_by_row(indent, begin, tmp_path):
    (tmp_path / "a.json").write_text(begin + json.dumps(LINES, indent=indent), encoding="utf-8")
    assert open_rows(tmp_path / "a.json").container == "a JSON array"
    assert rows_of(tmp_path / "a.json") == [
        ("a.json, row 1", LINES[0]),
        ("a.json, row 2", LINES[1]),
    ]


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_a_csv_is_read_as_spreadsheets_write_it(between, tmp_path):
    path = tmp_path / ("a.tsv" if between == "\t" else "a.csv")
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # and CRLF
        table = csv.writer(file, delimiter=between)
        table.writerow(["prompt", "chosen", "rejected", "margin", "note"])
        table.writerow(["Hello, you;\tthere", 'say "hi",\nthen go', "[1, 2]", 2.5, ""])
        table.writerow([json.dumps([user("a")]), json.dumps([assistant("b")]), "c", "", "x"])
    assert rows_of(path) == [
        (
            f"{path.name}, line 3",
            {"prompt": "Hello, you;\tthere", "chosen": 'say "hi",\nthen go', "rejected": "[1, 2]",
             "margin": 2.5},
        ),
        (
            f"{path.name}, line 4",
            {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": "c", "note": "x"},
        ),
    ]  # fmt: skip


def test_parquet_and_arrow_are_read(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="of the extra `data`")
    import pyarrow.parquet

    messages = {"prompt": [user("a")], "chosen": "b", "rejected": "c", "margin": 1.5}
    rows = [messages, messages | {"margin": None, "chosen": None}]
    table = arrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with arrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        assert rows_of(tmp_path / name) == [
            (f"{name}, row 1", messages),
            (f"{name}, row 2", {"prompt": [user("a")], "rejected": "c"}),
        ]
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"cannot read .*a\.parquet: it is no whole parquet file"):
        rows_of(tmp_path / "a.parquet")


def test_folders_of_datasets_are_read(tmp_path, capsys):
    datasets = pytest.importorskip("datasets", reason="of the extra `test`")
    one = datasets.Dataset.from_list([PAIR, PAIR | {"chosen": "fine"}])
    one.select([1, 0]).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "both")
    datasets.DatasetDict({"a": one, "b": one}).save_to_disk(tmp_path / "odd")
    for name, chosen in (
        ("one", ["fine", "good"]),
        ("both", ["good", "fine"]),
        ("both/test", ["fine"]),
    ):
        assert is_data(tmp_path / name)
        texts = reader.read_file(tmp_path / name)
        assert [e.conversations[0].turns[0][1] for e in texts.examples] == chosen
        assert texts.took.startswith(f"took {name[-4:]} for a folder of `datasets`: pairs {{")
    with pytest.raises(UserError, match=r"splits \['a', 'b'\] and none called 'train'; give a fol"):
        reader.read_file(tmp_path / "odd")
    for split, count in (("test", 1), ("train", 2)):
        one.select(range(count)).to_parquet(tmp_path / f"hub/data/{split}-00000-of-00001.parquet")
    assert reader.read_file(tmp_path / "hub").took == (
        "took hub for 1 file of a folder's split 'train': "
        'pairs {"prompt", "chosen", "rejected"} (2)'
    )
    assert not is_data(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ["fit", tmp_path / "a.parquet", "--model", "tiny", "-o", tmp_path / "out"]
    assert 'not installed; pip install "prefrl[data]", or give JSON lines' in complaint(
        words, capsys
    )


# --- forms ------------------------------------------------------------------------------------

EGG = "\n\nHuman: How do I boil an egg?\n\nAssistant:"
LONG = "\n\nHuman: How long?\n\nAssistant:"
TEA = [user("What is tea?"), assistant("A drink."), user("Sure?")]
BE_KIND = {"role": "system", "content": "Be kind."}
YES, NO = [assistant("Yes.")], [assistant("No.")]
GOOD, BAD = talk(("p", "good")), talk(("p", "bad"))
SURE = talk(("What is tea?", "A drink."), ("Sure?", "Yes."))
NOT = talk(("What is tea?", "A drink."), ("Sure?", "No."))

PAIRS = [  # row, what it is called, better, worse, task
    (PAIR, 'pairs {"prompt", "chosen", "rejected"}', GOOD, BAD, "p"),
    (PAIR | {"system": "Be kind."}, 'pairs {"prompt", "chosen", "rejected"}',
     talk(("p", "good"), system="Be kind."), talk(("p", "bad"), system="Be kind."), "Be kind.\np"),
    ({"question": "p", "chosen": "good", "rejected": "bad"},
     'pairs {"question", "chosen", "rejected"}', GOOD, BAD, "p"),
    ({"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"},
     'pairs {"instruction", "chosen", "rejected"}',
     talk(("Add.\n1 2", "3")), talk(("Add.\n1 2", "4")), "Add.\n1 2"),
    ({"chosen": f"{EGG} In water.", "rejected": f"{EGG} In oil."},
     'pairs {"chosen", "rejected"} whose common beginning is the prompt',
     talk((EGG, " In water.")), talk((EGG, " In oil.")), EGG),
    ({"chosen": f"{EGG} Yes.{LONG} Eight.", "rejected": f"{EGG} Yes.{LONG} One."},
     'pairs {"chosen", "rejected"} whose common beginning is the prompt',
     talk((EGG, " Yes."), (LONG, " Eight.")), talk((EGG, " Yes."), (LONG, " One.")),
     f"{EGG} Yes.{LONG}"),
    ({"prompt": f"{EGG} Yes.{LONG}", "chosen": " Eight.", "rejected": " One."},
     'pairs {"prompt", "chosen", "rejected"}',
     talk((EGG, " Yes."), (LONG, " Eight.")), talk((EGG, " Yes."), (LONG, " One.")),
     f"{EGG} Yes.{LONG}"),
    ({"prompt": TEA, "chosen": YES, "rejected": NO},
     'pairs {"prompt", "chosen", "rejected"} of messages', SURE, NOT,
     "What is tea?\nA drink.\nSure?"),
    ({"chosen": [BE_KIND, *TEA, *YES], "rejected": [BE_KIND, *TEA, *NO]},
     'pairs {"chosen", "rejected"} of messages', talk(*SURE.turns, system="Be kind."),
     talk(*NOT.turns, system="Be kind."), "Be kind.\nWhat is tea?\nA drink.\nSure?"),
    ({"prompt": "Sure?", "chosen": [*TEA, *YES], "rejected": [*TEA, *NO]},  # UltraFeedback
     'pairs {"prompt", "chosen", "rejected"} of messages', SURE, NOT, "Sure?"),
    ({"prompt": TEA, "chosen": [*TEA, *YES], "rejected": NO},
     'pairs {"prompt", "chosen", "rejected"} of messages', SURE, NOT,
     "What is tea?\nA drink.\nSure?"),
    ({"conversations": [{"from": "human", "value": "p"}],
      "chosen": {"from": "gpt", "value": "good"},
      "rejected": {"from": "gpt", "value": "bad"}},
     'pairs {"conversations", "chosen", "rejected"} of messages', GOOD, BAD, "p"),
    ({"input": {"messages": [user("p")]}, "preferred_output": [assistant("good")],
      "non_preferred_output": [assistant("bad")]},
     'pairs {"prompt", "chosen", "rejected"} of messages', GOOD, BAD, "p"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "form", "better", "worse", "task"), PAIRS)
def test_pairs_in_every_form(row, form, better, worse, task, tmp_path):
    texts = read([row], tmp_path)
    assert texts.took == f"took a.jsonl for JSON lines: {form} (1)" and not texts.notes
    [example], notes = reader.compared(texts)
    assert (example.conversations, example.value) == ((better, worse), {"left": 1.0})
    assert (example.task, example.where, notes) == (task, "a.jsonl, line 1", [])
    [shown], _ = reader.demonstrations(texts)
    assert shown.conversations == (better,)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        (f"{EGG} Put it in.", f"{EGG} Pour it.", EGG),  # the replies begin alike
        (f"{EGG} Yes.", f"{EGG} Yes. And now?", EGG),
        (f"{EGG} Yes.", EGG, EGG),
        (f"{EGG} Yes.", f"{EGG} Yes.{LONG} One.", EGG),  # one goes on from the other
        (f"{EGG} Yes.", f"{EGG} Yes.\n\nHuman: And now?", EGG),  # not a reply at the end
        ("Tea is good.", "Tea is great.", "Tea is"),  # not "Tea is g"
        ("A drink", "A drink made of leaves", "A drink"),
        ("The sky is blue", "The sky is blue and vast", "The sky is blue"),
    ],
)
def test_the_common_beginning_is_the_prompt(chosen, rejected, prompt):
    example = read_form({"chosen": chosen, "rejected": rejected}, False)
    assert example.task == prompt
    written = ["".join(text for turn in c.turns for text in turn) for c in example.conversations]
    assert written == [chosen, rejected], "no letter is lost"
    assert [c.turns[0][0] for c in example.conversations] == [prompt, prompt]


def test_a_transcript_becomes_messages_where_a_template_writes_the_names():
    row = {"chosen": f"{EGG} Yes.{LONG} Eight.", "rejected": f"{EGG} Yes.{LONG} One."}
    example = read_form(row, True)
    assert example.conversations[0] == talk(
        ("How do I boil an egg?", "Yes."), ("How long?", "Eight.")
    )
    assert example.task == "How do I boil an egg?\nYes.\nHow long?"
    asked = read_form({"prompt": EGG, "completion": " In water."}, True)
    assert asked.conversations == (talk(("How do I boil an egg?", "In water.")),)


@pytest.mark.parametrize(
    "pair",
    [("Yes", "No"), ("Yes, I do", "Yesterday"), ("", ""), ("Paris ", "London"), ("a b ", "x")],
)
def test_a_pair_that_has_no_word_in_common_needs_a_prompt(pair):
    with pytest.raises(ValueError, match="no 'prompt', and 'chosen' and 'rejected' do not begin"):
        read_form(dict(zip(("chosen", "rejected"), pair, strict=True)), False)


ARENA = {"conversation_a": [user("p"), assistant("good")],
         "conversation_b": [user("p"), assistant("bad")]}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "form", "kind", "value"),
    [
        ({"prompt": "p", "completions": ["good", "bad"]},
         'rankings {"prompt", "completions"}, best first', "ranking", {"order": [[0], [1]]}),
        ({"prompt": [user("p")], "completions": [[assistant("good")], "bad"]},
         'rankings {"prompt", "completions"}, best first of messages', "ranking",
         {"order": [[0], [1]]}),
        ({"prompt": "p", "completions": ["good", "bad"], "scores": [9, 2]},
         'scored completions {"prompt", "completions", "scores"}', "ratings",
         {"ratings": [9.0, 2.0], "low": 2.0, "high": 9.0}),
        ({"prompt": "p", "completions": [{"text": "good", "score": 1},
                                         {"text": "bad", "score": 0}]},
         'scored completions {"prompt", "completions", "scores"}', "ratings",
         {"ratings": [1.0, 0.0], "low": 0.0, "high": 1.0}),
        ({"prompt": "p", "completions": ["good", "bad"], "scores": [3, 3]},
         'scored completions {"prompt", "completions", "scores"}', "tie", {}),
        ({"prompt": "p", "response_0": "good", "response_1": "bad", "better_response_id": 0},
         'pairs {"prompt", "response_0", "response_1", "better_response_id"}', "preference",
         {"left": 1.0}),
        (ARENA | {"winner": "model_b"}, 'pairs {"conversation_a", "conversation_b", "winner"}',
         "preference", {"left": 0.0}),
        (ARENA | {"winner": "tie (bothbad)"},
         'pairs {"conversation_a", "conversation_b", "winner"}',
         "tie", {}),
        ({"history": "p", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1},
         'pairs {"human_ref_A", "human_ref_B", "labels"}', "preference", {"left": 1.0}),
    ],
)  # fmt: skip
def test_other_comparisons_in_every_form(row, form, kind, value, tmp_path):
    texts = read([row], tmp_path)
    assert texts.took == f"took a.jsonl for JSON lines: {form} (1)"
    [example], _ = reader.compared(texts)
    assert (example.kind, example.value) == (kind, value)
    assert [c.turns for c in example.conversations] == [(("p", "good"),), (("p", "bad"),)]
    assert example.task == "p"


def test_labels_and_scores_meet_others_of_their_prompt(tmp_path):
    rows = [
        {"prompt": "p", "completion": text, "label": good}
        for text, good in (("bad", False), ("good", True), ("fine", "true"), ("worse", 0))
    ]
    rows += [{"prompt": [user("q")], "completion": YES, "label": True}]
    rows += [{"prompt": "r", "response": text, "score": s} for text, s in (("a", 1), ("b", 5))]
    rows += [{"prompt": "s", "response": "c", "score": 3}]  # fmt: skip
    texts = read(rows, tmp_path)
    assert texts.took == (
        'took a.jsonl for JSON lines: labelled completions {"prompt", "completion", "label"} (4) '
        'and labelled completions {"prompt", "completion", "label"} of messages (1) and '
        'scored completions {"prompt", "response", "score"} (3)'
    )
    (labels, scores), notes = reader.compared(texts)
    assert (labels.kind, labels.value) == ("ranking", {"order": [[1, 2], [0, 3]]})
    assert [c.turns[0][1] for c in labels.conversations] == ["bad", "good", "fine", "worse"]
    assert scores.value == {"ratings": [1.0, 5.0], "low": 1.0, "high": 5.0}
    why = "left out, as no other reply to the same prompt has another one: 1"
    assert notes == [f"labels {why}", f"scores {why}"]
    shown, notes = reader.demonstrations(texts)
    assert [e.conversations[0].turns[0][1] for e in shown] == ["good", "fine", "Yes.", "b", "c"]
    assert notes == [
        "rows left out, as their label is false: 2",
        "rows left out, as a reply to the same prompt has a higher score: 1",
    ]


def test_rankings_longer_than_nine_are_pairs(tmp_path):
    long = {"prompt": "p", "completions": [f"reply {n}" for n in range(12)]}
    scored = long | {"scores": [n // 2 for n in range(12)], "prompt": "q"}
    examples, _ = reader.compared(
        read([long, scored, long | {"completions": ["a", "b"]}], tmp_path)
    )
    assert [e.kind for e in examples[:11]] == ["preference"] * 11
    said = [tuple(int(c.turns[0][1].split()[1]) for c in e.conversations) for e in examples[:22]]
    assert said[:11] == [(n // 2, n) for n in range(1, 12)], "each meets one better, K - 1 in all"
    tied = [(pair, e.value) for pair, e in zip(said[11:], examples[11:22], strict=True)]
    assert tied[0] == ((10, 11), {}), "equal scores are a tie"
    assert tied[1] == ((11, 8), {"left": 1.0, "margin": pytest.approx(1 / 5)})
    assert [e.kind for e in examples[22:]] == ["ranking"]
    teacher = AnswerReader("a")
    for example in examples:
        teacher.read(example)
    assert len(teacher.answers) == 23 and len(teacher.clips) == 26


def test_margins_above_one_are_shares_of_the_largest(tmp_path):
    rows = [PAIR | {"margin": margin} for margin in (8, 2.0, 0.4, "slightly", None)]
    texts = read(rows, tmp_path)
    assert texts.notes == [
        "margins go up to 8 and are divided by it; a margin scale of 8 makes logits of them again"
    ]
    margins = [c.margin for c in read_answers(tmp_path / "a.jsonl", 8.0).comparisons]
    assert margins == pytest.approx([8, 2, 0.4, 8 / 3, 0])


DEMONSTRATIONS = [
    ({"prompt": "p", "completion": "good"}, 'demonstrations {"prompt", "completion"}', GOOD),
    ({"prompt": "p", "response": "good"}, 'demonstrations {"prompt", "response"}', GOOD),
    ({"prompt": [user("p")], "completion": [assistant("good")]},
     'demonstrations {"prompt", "completion"} of messages', GOOD),
    ({"turns": [["What is tea?", "A drink."], ["Sure?", "Yes."]]},
     'demonstrations {"turns"}', SURE),
    ({"messages": [*TEA, *YES]}, 'conversations {"messages"}', SURE),
    ({"messages": [BE_KIND, *TEA, *YES]}, 'conversations {"messages"}',
     talk(*SURE.turns, system="Be kind.")),
    ({"messages": [user([{"type": "text", "text": "p"}]), assistant("good")]},
     'conversations {"messages"}', GOOD),
    ({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "good"}],
      "system": "Be kind."},
     'conversations {"conversations"}', talk(("p", "good"), system="Be kind.")),
    ({"instruction": "Add.", "input": "1 2", "output": "3"},
     'demonstrations {"instruction", "output"}', talk(("Add.\n1 2", "3"))),
    ({"instruction": "Add.", "input": "", "output": "3", "system": "Be kind."},
     'demonstrations {"instruction", "output"}', talk(("Add.", "3"), system="Be kind.")),
    ({"instruction": "Sure?", "output": "Yes.", "history": [["What is tea?", "A drink."]]},
     'demonstrations {"instruction", "output"} of messages', SURE),
    ({"text": "The sky is blue."}, 'texts {"text"}', talk(("", "The sky is blue."))),
    ({"text": f"{EGG} In water."}, 'texts {"text"}', talk((EGG, " In water."))),
]  # fmt: skip


@pytest.mark.parametrize(("row", "form", "conversation"), DEMONSTRATIONS)
def test_demonstrations_in_every_form(row, form, conversation, tmp_path):
    talks, notes = sft.from_file(write(tmp_path / "a.jsonl", [row]), chat=None)
    assert talks == [conversation] and talks[0].where == "a.jsonl, line 1"
    assert notes == [f"took a.jsonl for JSON lines: {form} (1)"]
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: .*compares nothing; .*`prefrl sft` l"):
        reader.compared(read([row], tmp_path))


def test_prompts_alone(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": [user("b")]}, {"question": "a"}, PAIR]
    texts = read(rows, tmp_path)
    assert texts.took.startswith('took a.jsonl for JSON lines: prompts {"prompt"} (3) and pairs')
    assert reader.prompts(texts) == ["a", "b", "p"]
    with pytest.raises(UserError, match="line 1: it has 2 turns; expected one prompt"):
        reader.prompts(read([{"prompt": TEA}], tmp_path))


# --- tools ------------------------------------------------------------------------------------


def task(data, *results, **more):
    return {"id": 1, "data": data, "annotations": [
        {"id": n, "completed_by": n, "result": [result], "was_cancelled": False} | more
        for n, result in enumerate(results, start=7)
    ]}  # fmt: skip


def pairwise(selected, to_name="a,b"):
    return {"type": "pairwise", "from_name": "pw", "to_name": to_name,
            "value": {"selected": selected}}  # fmt: skip


def test_tasks_of_label_studio(tmp_path):
    data = {"prompt": "p", "answer1": "good", "answer2": "bad"}
    items = [{"id": "x", "title": "X", "body": "good"}, {"id": "y", "title": "Y", "body": "bad"}]
    ranked = {"type": "ranker", "value": {"ranker": {"rank": ["y", "x"], "_": []}}}
    written = {"type": "textarea", "value": {"text": ["better"]}}
    rows = [
        task(data, pairwise("left"), pairwise("right", ["answer1", "answer2"])),
        task(data | {"prompt": "q"}, pairwise("left"), was_cancelled=True),
        task({"prompt": "r", "items": items}, ranked),
        {"id": 4, "data": data, "annotations": []},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    texts = reader.read_file(tmp_path / "a.json")
    assert texts.took == "took a.json for a JSON array: tasks of Label Studio (3)"
    assert texts.notes == ["rows left out, as nobody has answered them: 2"]
    examples, _ = reader.compared(texts)
    assert [(e.kind, e.value, e.teacher) for e in examples] == [
        ("preference", {"left": 1.0}, "7"),
        ("preference", {"left": 0.0}, "8"),
        ("ranking", {"order": [[0], [1]]}, "7"),
    ]
    assert examples[0].conversations == (GOOD, BAD)
    assert examples[2].conversations == (talk(("r", "bad")), talk(("r", "good")))
    teacher = AnswerReader("a")
    for example in examples:
        teacher.read(example)
    assert len(teacher.queries) == 2, "two people answered one query"
    [shown], _ = reader.demonstrations(read([task(data, written)], tmp_path))
    assert shown.conversations == (talk(("p", "better")),)
    small = data | {"id": 1, "annotator": 3, "annotation_id": 9, "pw": {"selected": "right"}}
    [example], _ = reader.compared(read([small], tmp_path))
    assert (example.value, example.teacher) == ({"left": 0.0}, "3")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (task({"prompt": "p", "a": "x"}, pairwise("left")), r"has the texts \['a'\]; expected two"),
        (task({"a": "x", "b": "y"}, pairwise("left")), r"has \['a', 'b'\]; expected a 'prompt'"),
        (task(PAIR, pairwise("middle")), "selected is 'middle'; expected left, right or one of"),
        (task({"prompt": "p"}, {"type": "choices", "value": {"choices": ["a"]}}),
         "is of type 'choices'; expected one of Pairwise, Ranker"),
        (task({"prompt": "p", "items": []}, {"value": {"ranker": ["a"]}}), "expected ids of the i"),
        ({"fields": {"prompt": "p"}, "responses": {"q": [{"value": ["a", "b"]}]}},
         r"ranks \['a', 'b'\]; expected names of its fields"),
    ],
)  # fmt: skip
def test_what_tools_export_must_be_understood(row, sentence, tmp_path):
    with pytest.raises(UserError, match=rf"a\.jsonl, line 1: .*{sentence}"):
        read([row], tmp_path)


def test_records_of_argilla(tmp_path):
    fields = {"prompt": "p", "one": "bad", "two": "good"}
    by = {"user_id": "ann", "status": "submitted"}
    ranks = [{"value": "two", "rank": 1}, {"value": "one", "rank": 2}]
    rows = [
        {"id": "1", "fields": fields, "suggestions": {},
         "responses": {"best": [by | {"value": ["two", "one"]}], "why": [by | {"value": "good!"}]}},
        {"id": "2", "fields": fields, "responses": {"best": [by | {"value": ranks}]}},
        {"id": "3", "fields": fields, "responses": {"which": [by | {"value": "two"}]}},
        {"id": "4", "fields": fields,
         "responses": {"best": [by | {"status": "draft", "value": []}]}},
        {"prompt": "p", "one": "bad", "two": "good", "which.responses": ["tie", None],
         "which.responses.users": ["ben", "cem"], "which.responses.status": ["submitted", "draft"]},
    ]  # fmt: skip
    texts = read(rows, tmp_path)
    assert texts.took == "took a.jsonl for JSON lines: records of Argilla (4)"
    assert texts.notes == ["rows left out, as nobody has answered them: 1"]
    examples, _ = reader.compared(texts)
    assert [(e.kind, e.value, e.teacher) for e in examples] == [
        ("ranking", {"order": [[0], [1]]}, "ann"),
        ("ranking", {"order": [[0], [1]]}, "ann"),
        ("preference", {"left": 0.0}, "ann"),
        ("tie", {}, "ben"),
    ]
    assert [e.conversations[0].turns[0][1] for e in examples] == ["good", "good", "bad", "bad"]
    written = {"fields": {"prompt": "p", "response": "bad"},
               "responses": {"correction": [by | {"value": "good"}]}}  # fmt: skip
    [shown], _ = reader.demonstrations(read([written], tmp_path))
    assert shown.conversations == (GOOD,)
    rated = [{"fields": {"prompt": "p", "response": text}, "responses": {"q": [by | {"value": n}]}}
             for text, n in (("bad", 1), ("good", 4))]  # fmt: skip
    [example], _ = reader.compared(read(rated, tmp_path))
    assert example.value == {"ratings": [1.0, 4.0], "low": 1.0, "high": 4.0}


# --- what does not fit ------------------------------------------------------------------------

BROKEN = {  # name, content: the sentence
    ("array.json", json.dumps(LINES, indent=2)[:-9]): r"array\.json: it is not JSON \(",
    ("a.jsonl", json.dumps(PAIR).encode("utf-16")): r"not text in UTF-8 .*; save it as UTF-8",
    ("a.jsonl", json.dumps(PAIR) + '\n{"prompt": "p", "cho'):
        r"a\.jsonl, line 2: it is not JSON \(",
    ("a.csv", "prompt,chosen,rejected\np,good,bad\nHello, you,good,bad\n"):
        r"a\.csv, line 3: it has 4 cells and the heading 3; expected as many, and double quotes",
    ("a.csv", 'prompt,chosen,rejected\np,"good" one,bad\n'):
        r"a\.csv, line 2: it is not CSV \(.*; expected double quotes around texts",
    ("a.csv", "prompt,chosen,worse\np,good,bad\n"):
        r"a\.csv, line 2: there is no 'rejected'; expected a text",
    ("a.jsonl.gz", gzip.compress(json.dumps(PAIR).encode())[:-9]):
        r"a\.jsonl\.gz: it is no whole gzip file .*; compress it again",
    ("a.jsonl", json.dumps({"prompt": "p", "completions": ["a", "b"], "labels": [True, False]})):
        r"a\.jsonl, line 1: its 'completions' are the steps of one solution .*; expected whole",
    ("a.jsonl", json.dumps({"prompt": "p", "completions": ["a", "b"], "scores": [1]})):
        r"line 1: the scores \[1\] are not one for each of 2 completions; expected as many",
    ("a.jsonl", json.dumps({"prompt": "p", "completion": "a", "label": "maybe"})):
        r"line 1: 'label' is 'maybe'; expected true or false",
    ("a.jsonl", json.dumps({"prompt": "p", "completion": "a"})):
        r"a\.jsonl, line 1: it is one of demonstrations .*, which compares nothing; expected an",
    ("a.jsonl", json.dumps({"prompt": "p", "completion": "a", "label": True})):
        r"a\.jsonl holds no answer that says anything",
    ("a.jsonl", json.dumps({"prompt": [user("p")], "chosen": [assistant("c")], "rejected": []})):
        r"line 1: 'rejected' is empty; expected a reply",
    ("a.jsonl", json.dumps({"prompt": TEA, "chosen": [user("x"), *YES], "rejected": NO})):
        r"line 1: 'chosen' begins with other messages than 'prompt'; expected what goes on from it",
    ("a.jsonl", json.dumps(ARENA | {"winner": "both?"} | {"winner": "nobody"})):
        r"line 1: 'winner' is 'nobody'; expected 'model_a', 'model_b' or 'tie'",
    ("a.jsonl", json.dumps({"texts": ["a"]})): r"a\.jsonl, line 1: there are \['texts'\]; expected",
}  # fmt: skip


@pytest.mark.parametrize(("file", "sentence"), BROKEN.items(), ids=[*BROKEN.values()])
def test_broken_files_are_a_sentence_that_says_where(file, sentence, tmp_path, capsys):
    name, content = file
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if '"role"' in str(content):  # which the command takes with a model that has a chat template
        with pytest.raises(UserError, match=sentence):
            read_answers(tmp_path / name, chat=True)
    else:
        words = ["fit", tmp_path / name, "--model", "tiny", "-o", tmp_path / "out"]
        assert re.search(sentence, complaint(words, capsys))  # and exit code 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_the_commands_refuse_a_broken_file_with_exit_code_2(name, tmp_path, capsys):
    (tmp_path / name).write_text('prompt,chosen\n"p' if name == "a.csv" else '{"prompt": "p"')
    for words in (["fit"], ["sft", "--file"]):
        shown = complaint(
            [*words, tmp_path / name, "--model", "tiny", "-o", tmp_path / "o"], capsys
        )
        assert f"{name}, line" in shown and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "does not end with the assistant's reply"),
        ([user("a")], "does not end with the assistant's reply"),
        ([user("a"), BE_KIND], "message 2 is of the role 'system'; expected 'assistant'"),
        ([user("a"), user("b")], "message 2 is of the role 'user'; expected 'assistant'"),
        ([assistant("a")], "message 1 is of the role 'assistant'; expected 'user'"),
        ([{"from": "gpt", "value": "a"}], "message 1 is of the role 'assistant'; expected 'user'"),
        ([user("a"), {"role": "tool", "content": "b"}], "message 2 is of the role 'tool'"),
        ([user("a"), {"role": "assistant", "content": None}], 'is not {"role", "content"}'),
        ([user([{"type": "image"}]), assistant("b")], 'is not {"role", "content"}'),
        (["a", "b"], "the message 'a' is not"),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_read(messages, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_form({"messages": messages}, True)
    with pytest.raises(ValueError, match=r"begin otherwise; expected the same first message"):
        read_form(
            {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("b")]}, True
        )


def test_messages_want_a_chat_template(tmp_path):
    chat = write(tmp_path / "chat.jsonl", [{"messages": [user("a"), assistant("b")]}])
    with pytest.raises(UserError, match=r"chat\.jsonl, line 1: it holds messages .*; name a model"):
        sft.from_file(chat)
    assert sft.from_file(chat, chat=True)[0] == [talk(("a", "b"))]
    pairs = write(
        tmp_path / "pairs.jsonl", [{"prompt": [user("a")], "chosen": "b", "rejected": "c"}]
    )
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1: it holds messages"):
        read_answers(pairs)
    [found] = read_answers(pairs, chat=True).comparisons
    assert (found.left.observations.tolist(), found.left.actions.tolist()) == (["a"], ["b"])
    text = write(tmp_path / "text.jsonl", [{"text": "The sky is blue."}])
    with pytest.raises(UserError, match="its 'text' says not who speaks"):
        sft.from_file(text, chat=True)


# --- rows that say nothing --------------------------------------------------------------------


def test_pairs_of_the_same_text_are_left_out_and_counted(tmp_path):
    rows = [PAIR, PAIR | {"rejected": "good"}, {"prompt": "q", "completions": ["a", "b", "a"]}]
    answers = read_answers(write(tmp_path / "a.jsonl", rows))
    assert answers.alike == 2, "the pair, and two of the ranking's three"
    said = [(c.left.actions[0], c.right.actions[0]) for c in answers.comparisons]
    assert said == [("good", "bad"), ("a", "b"), ("b", "a")]


def test_a_system_message_stays_with_its_clip():
    clip = conversation_clip(talk(("a", "b"), ("c", "d"), system="Be kind."), "x", "task")
    assert system_of(clip) == "Be kind." and len(clip) == 2
    assert system_of(conversation_clip(GOOD, "x", "task")) == ""
    page = Clips(None, 0.1, lambda _: None).describe(clip, "")
    said = [(message["role"], message["text"]) for message in page["messages"]]
    assert said == [
        ("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c"),
        ("assistant", "d"),
    ]  # fmt: skip
    with closing(FeedbackStore(":memory:")) as store:
        row = {"system": "Be kind.", "messages": [*TEA, *YES], "chosen": "c", "rejected": "d"}
        import_answers(store, [json.dumps(PAIR | row)], "pairs")
        [kept] = store.comparisons()
        assert system_of(kept.left) == "Be kind."
        [again] = [json.loads(json.dumps(row)) for row in export_answers(store, "Env-v0")]
        assert again["segments"][0]["extras"] == {"system": ["Be kind."]}


def test_json_rows_are_read_from_lines_too(tmp_path):
    with reading(write(tmp_path / "a.jsonl", LINES)) as lines:
        assert [row.fields for row in read_rows(lines, "a.jsonl")] == LINES
