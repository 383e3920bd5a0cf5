"""A language model replies: `prefrl generate`, and comparisons of models that are of no run."""

import builtins
import io
import json
import re
import sys

import pytest
from complaints import complaint
from test_given_reward import CHAT
from test_text_fit import write
from toy_environments import tiny
from toy_texts import save_small_model, tiny_text

from prefrl import load_policy
from prefrl.cli import main
from prefrl.commands import console
from prefrl.config.text import TextConfig
from prefrl.reports.compare import compare_runs, report
from prefrl.reports.sides import policy_of, setting_of, side
from prefrl.runs.train import train
from prefrl.storage.folder import RunFolder
from prefrl.text.generating import Talk, read_prompts
from prefrl.text.models.load import load_language_model, save_language_model
from prefrl.text.policy import named_policy

SHORT = ["--max-new-tokens", "6"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    small = load_language_model(str(save_small_model(folder / "small")))
    small.tokenizer.chat_template = CHAT
    save_language_model(small, folder / "chat")
    return folder / "chat"


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    experiment = tiny_text(model, reward="true", steps=16, rounds=1)
    return train(experiment, tmp_path_factory.mktemp("run") / "run")


def printed(words, capsys):
    capsys.readouterr()
    main([str(word) for word in words])
    return capsys.readouterr().out


# Streams


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_stream_is_what_is_sampled(model, temperature):
    config = TextConfig(max_new_tokens=20, temperature=temperature or 1.0)
    policies = [named_policy(str(model), config, seed=5) for _ in range(2)]
    ids = policies[0].template.first("rain: ")
    streamed = [*policies[0].stream(ids, deterministic=temperature == 0)]
    [reply] = policies[1].reply([ids], deterministic=temperature == 0)
    assert streamed == reply.ids and len(streamed) > 5


def test_pieces_are_whole_characters_and_make_the_reply(model, monkeypatch):
    policy = named_policy(str(model), TextConfig(max_new_tokens=20))
    spelled = [*"a", *"é👩"]
    ids = [byte for text in spelled for byte in text.encode()]
    monkeypatch.setattr(policy, "stream", lambda *_: iter([*ids, policy.template.end_id]))
    talk = Talk(policy)
    assert [piece for piece in talk.reply("hello") if piece] == spelled
    assert talk.ids == [*b"hello", *ids, policy.template.end_id] and talk.finished


def test_pieces_end_before_a_text_that_stops_the_reply(model):
    def reply(**changes):
        config = TextConfig(max_new_tokens=200, **changes)
        return "".join(Talk(named_policy(str(model), config, seed=3)).reply("hi"))

    whole = reply()
    stop = whole[30:33]
    assert reply(stop=("never said", stop)) == whole[: whole.index(stop)]


def test_a_talk_only_appends(chat_model):
    policy = named_policy(str(chat_model), TextConfig(max_new_tokens=4))
    assert policy.config.chat, "a model with a chat template is spoken to through it"
    talk = Talk(policy)
    first = "".join(talk.reply("one"))
    ids = talk.ids
    "".join(talk.reply("two"))
    assert talk.ids[: len(ids)] == ids
    assert (
        bytes(i for i in talk.ids if i < 256)
        .decode(errors="replace")
        .startswith(f"[user]one\n[assistant]{first}"[:20])
    )


# The command


def test_one_prompt_is_replied_to_as_the_policy_does(run, capsys):
    out = printed(["generate", run.path, "rain: ", "--greedy"], capsys)
    policy = load_policy(run.path)
    assert out == f"{console.printable(policy.predict('rain: ', deterministic=True))}\n"
    longer = printed(["generate", run.path, "rain: ", "--seed", "1", *SHORT], capsys)
    assert longer == printed(["generate", run.path, "rain: ", "--seed", "1", *SHORT], capsys)


def test_a_prompt_may_be_piped_in(model, monkeypatch, capsys):
    expected = printed(["generate", model, "two\nlines", *SHORT], capsys)
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines"))
    assert printed(["generate", model, *SHORT], capsys) == expected
    assert "nothing was piped in; name a prompt" in complaint(["generate", model], capsys)


def test_a_file_of_prompts_becomes_demonstrations(model, tmp_path, capsys):
    plain = tmp_path / "prompts.txt"
    plain.write_text("rain: \n\nmusic: \n")
    words = ["generate", model, "--file", plain, *SHORT, "--batch-size", "1"]
    lines = [json.loads(line) for line in printed(words, capsys).splitlines()]
    assert [(line["row"], line["prompt"]) for line in lines] == [(1, "rain: "), (3, "music: ")]
    assert set(lines[0]) == {"row", "prompt", "completion", "finished"}
    out = printed([*words, "-o", tmp_path / "replies.jsonl"], capsys)
    assert out.endswith("replies.jsonl: 2 replies\n")
    saved = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert saved == lines
    printed(["sft", "--model", "tiny", "--file", tmp_path / "replies.jsonl", "--epochs", "1",
             "-o", tmp_path / "tuned"], capsys)  # fmt: skip


def test_a_conversation_is_replied_to_after_its_last_word(chat_model, tmp_path, capsys):
    talk = [
        {"role": "system", "content": "s"}, {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
    ]  # fmt: skip
    file = write(tmp_path / "rows.jsonl", {"prompt": talk}, {"prompt": "plain"})
    words = ["generate", chat_model, "--file", file, "--greedy", *SHORT]
    first, second = (json.loads(line) for line in printed(words, capsys).splitlines())
    assert first["prompt"] == talk and second["prompt"] == "plain"
    policy = named_policy(str(chat_model), TextConfig(max_new_tokens=6))
    template = policy.template
    ids = [*template.first("a", "s"), *template.reply_ids("b"), *template.next("c", True)]
    [reply] = policy.reply([ids], deterministic=True)
    assert first["completion"] == template.decode(reply.ids)
    prompts, _ = read_prompts(file, chat=True)
    assert [prompt.row for prompt in prompts] == [1, 2]


def test_a_chat_on_the_terminal(model, monkeypatch, capsys):
    said = iter(["one", "", "w" * 300, "two"])

    def asked(sign):
        assert sign == "> "
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(builtins, "input", asked)
    out = printed(["generate", model, *SHORT], capsys)
    assert out.startswith("an empty line begins anew, Ctrl-D ends\n")
    assert "anew\n" in out and "a prompt has 300 tokens" in out
    assert not [*said], "it went on after the prompt that was too long"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nonsense hello", "'nonsense' is no folder on this machine; give one of tiny"),
        ("tiny hello --file prompts.txt", "both a prompt and --file are given; leave one out"),
        ("tiny --file prompts.txt", "prompts.txt: No such file"),
        (
            "tiny hello --temperature 0",
            "--temperature is 0.0; expected None or a finite number above 0",
        ),
        ("tiny hello --chat", "no chat template"),
        ("tiny hello --chat --plain", "say opposite things; leave one out"),
    ],
)
def test_mistakes_are_sentences(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sentence in complaint(["generate", *words.split()], capsys)


def test_a_robot_and_a_reward_model_write_nothing(tmp_path, capsys):
    robot = train(tiny(reward="true", steps=128, rounds=1), tmp_path / "robot")
    assert "does not speak text; `prefrl video" in complaint(
        ["generate", robot.path, "hello"], capsys
    )
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward/fitted.json").write_text("{}")
    assert "holds a reward model, which says no next token" in complaint(
        ["generate", tmp_path / "reward", "hello"], capsys
    )
    assert "is a language model, but" in complaint(["compare", robot.path, "tiny"], capsys)


# Comparisons


def test_a_run_meets_the_model_that_it_began_as_and_any_other(run, model, tmp_path):
    sides = [side(str(run.path)), side(str(run.path / "reference"))]
    assert isinstance(sides[0], RunFolder) and isinstance(sides[1], str)
    made = compare_runs(sides, tmp_path / "made", 8)
    found = report(made)
    assert found["A"] == f"A, {run.path}, round 1" and found["B"] == f"B, {sides[1]}"
    assert found["answered"] == 8 and made.experiment().env == "texts/Letters-v0"
    assert report(compare_runs([str(model), run], tmp_path / "other", 2))["answered"] == 2


def test_two_models_meet_in_an_environment_that_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "tiny", model, "--pairs", "4"]
    assert "with --env ID" in complaint(words, capsys)
    out = printed([*words, "--env", "texts/Letters-v0"], capsys)
    assert out.splitlines()[:3] == [
        "A, tiny", f"B, {model}", "texts/Letters-v0: Which reply is plainer?"
    ]  # fmt: skip
    [made] = (tmp_path / "comparisons").iterdir()
    assert re.fullmatch(r"tiny-small-\d{8}-\d{6}", made.name)


def test_without_a_run_each_model_is_spoken_to_as_it_expects(model, chat_model):
    setting = setting_of([str(model), str(chat_model)], "texts/Letters-v0")
    plain, chat = (policy_of(str(name), setting) for name in (model, chat_model))
    assert (plain.config.chat, chat.config.chat) == (False, True)


def test_sides_that_are_nothing(run, tmp_path, capsys):
    for words, sentence in (
        (["compare", run.path, "runs/typo"], "runs/typo is no folder here; expected a run, or a"),
        (["compare", run.path, tmp_path], "is not a run folder (it holds no config.json)"),
        (["compare", "tiny", "tiny", "--env", "Pendulum-v1"], "does not speak text, as language"),
        (["compare", run.path, "tiny", "--env", "Pendulum-v1"], "leave out --env Pendulum-v1"),
    ):
        assert sentence in complaint(words, capsys)
