"""New prompts like some that there are."""

import json
from types import SimpleNamespace

import pytest
from complaints import complaint
from test_generate import printed
from toy_texts import save_small_model

from prefrl.cli import main
from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.text.few_shot import list_writer, new_prompts
from prefrl.text.generating import read_prompts
from prefrl.text.models.sampling import Reply
from prefrl.text.policy import named_policy

KNOWN = ["How do I open a lock?", "Tell me a joke.", "What is a good lie?"]


class Writer:
    """Goes on with lists as it is told to, again and again; keeps what it was shown."""

    context = 1000

    def __init__(self, *says, finished=True):
        self.says, self.finished = says, finished
        self.lists = []

    def first(self, text):
        return [*text.encode()]

    def reply(self, lists):
        self.lists += [bytes(ids).decode() for ids in lists]
        said = [self.says[n % len(self.says)] for n in range(len(lists))]
        return [Reply([*text.encode()], self.finished) for text in said]

    def text(self, ids):
        return bytes(ids).decode()


def written(writer, count, known=KNOWN, batch_size=4):
    return [p for some, _ in new_prompts(writer, known, count, 0, batch_size) for p in some]


def test_each_prompt_comes_once_and_none_that_is_known():
    says = "  May  I?", "may i", "Tell me - a joke", "", "Why not?", "Whose is it?"
    assert written(Writer(*says), 3, batch_size=6) == ["May I?", "Why not?", "Whose is it?"]
    assert written(Writer(*says), 2, batch_size=6) == ["May I?", "Why not?"], "not more than asked"


def test_a_list_shows_prompts_and_ends_where_the_next_begins():
    writer = Writer("Why?")
    written(writer, 1, batch_size=2)
    for shown in writer.lists:
        assert all(f". {prompt}\n" in shown for prompt in KNOWN) and shown.endswith("\n4.")
    assert len({*writer.lists}) > 1, "in another order each time"


def test_a_prompt_of_several_lines_is_shown_on_one():
    writer = Writer("Why?")
    written(writer, 1, ["one\ntwo", "three"], 1)
    assert ". one two\n" in writer.lists[0]


def test_what_the_limit_of_tokens_cut_off_is_no_prompt():
    writer = Writer("What is", finished=False)
    assert written(writer, 2) == [] and len(writer.lists) == 40, "it gives up after a while"


def test_a_list_leaves_room_for_what_comes_next():
    writer = Writer("Why?")
    writer.context = 220
    long = [f"{letter * 30}?" for letter in "abcdefgh"]
    written(writer, 1, long, 1)
    assert len(writer.lists[0]) <= 110 and writer.lists[0].endswith("\n3.")
    writer.context = 100
    with pytest.raises(
        UserError, match=r"have 1\d\d tokens together, but the model looks back on 1"
    ):
        written(writer, 1, long, 1)


@pytest.mark.parametrize("known", [[], ["one"], ["One!", "one", " "]])
def test_one_prompt_is_no_list(known):
    with pytest.raises(UserError, match=r"it holds [01] that differ; expected 2 or more"):
        written(Writer("Why?"), 1, known)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "known.txt").write_text("\n".join(KNOWN))
    return tmp_path / "known.txt"


def words(model, file, count, *more):
    return ["generate", model, "--file", file, "--new-prompts", count, "--max-new-tokens", 60,
            *more]  # fmt: skip


def test_a_model_writes_prompts_that_can_be_replied_to(model, file, tmp_path, capsys):
    into = tmp_path / "new.jsonl"
    assert "wrote" in printed(words(model, file, 3, "-o", into), capsys)
    rows = [json.loads(line) for line in into.read_text().splitlines()]
    assert len(rows) == 3 and all({*row} == {"prompt"} and row["prompt"] for row in rows)
    assert len({row["prompt"] for row in rows} | {*KNOWN}) == 6
    prompts, _ = read_prompts(into, chat=False)
    assert [prompt.talk.turns[0][0] for prompt in prompts] == [row["prompt"] for row in rows]
    assert [
        json.loads(line) for line in printed(words(model, file, 3), capsys).splitlines()
    ] == rows


def test_it_says_how_many_there_are_if_they_are_too_few(model, file, capsys):
    main([str(word) for word in words(model, file, 1, "--max-new-tokens", 1)])
    assert "only 0 of 1 prompts were written" in capsys.readouterr().err


def test_a_writer_goes_on_to_the_end_of_the_line(model):
    policy = named_policy(str(model), TextConfig(stop=("x",), min_new_tokens=9, system="Hear!"))
    config = list_writer(policy, 0).config
    told = SimpleNamespace(**vars(config))
    assert told.stop == ("\n",) and told.plain and not told.chat
    assert told.system == "" and told.min_new_tokens == 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--new-prompts", 2], "--new-prompts are like those of --file; name a file of some"),
        (["--new-prompts", 2, "--greedy", "--file"], "leave it out with --new-prompts"),
    ],
)
def test_mistakes_are_sentences(more, sentence, model, file, capsys):
    more = [*more, file] if more[-1] == "--file" else more
    assert sentence in complaint(["generate", model, *more], capsys)


def test_a_conversation_is_not_what_is_said_first(model, tmp_path, capsys):
    turns = [{"role": r, "content": "x"} for r in ("user", "assistant", "user", "assistant")]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": turns}))
    given = words(model, tmp_path / "talk.jsonl", 1)
    assert "give a file of single prompts" in complaint(given, capsys)
