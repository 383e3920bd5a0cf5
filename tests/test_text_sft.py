"""Fine-tuning on demonstrations: the loss, where they come from, and `prefrl sft`."""

import json
import math
import re
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from complaints import complaint
from prefrl.envs.random_walks import LETTERS

from prefrl.cli import main
from prefrl.commands import console
from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.text.models.load import load_language_model, tiny_language_model
from prefrl.text.models.tokens import right_padded
from prefrl.text.policy import TextPolicy
from prefrl.text.stages import sft
from prefrl.text.stages.tuning import prepare_tuning
from prefrl.types import Answer, Conversation, Query, QueryId, Segment

WALKS = "prefrl/RandomWalks-v0"
DEMONSTRATIONS = [
    Conversation((("a", "bcd"),)),
    Conversation((("longer than that ", "x"), ("and ", "another reply"))),
    Conversation((("é", "ü"),)),
]


@pytest.fixture(scope="module")
def walker(tmp_path_factory):
    """Return the folder of a tiny model that was fine-tuned from the command line."""
    folder = tmp_path_factory.mktemp("sft") / "walker"
    options = ["--demonstrations", "800", "--epochs", "4", "--learning-rate", "2e-3"]
    main(["sft", "--model", "tiny", "--env", WALKS, "-o", str(folder), *options])
    return folder


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


# The loss


def losses_by_hand(language_model, turns):
    """Return the cross-entropy of each token of each reply, one forward pass a token, no padding.

    Bytes are tokens here, and a reply ends with the end of sequence.
    """
    end, ids, losses = language_model.tokenizer.eos_token_id, [], []
    for observation, reply in turns:
        ids += observation.encode()
        for token in [*reply.encode(), end]:
            with torch.no_grad():
                logits = language_model.model(torch.tensor([ids])).logits[0, -1]
            losses.append(-float(torch.log_softmax(logits, 0)[token]))
            ids.append(token)
    return losses


def test_the_loss_is_of_the_tokens_of_replies_alone():
    model = tiny_language_model(3)
    losses = [loss for talk in DEMONSTRATIONS for loss in losses_by_hand(model, talk.turns)]
    expected = sum(losses) / len(losses)
    for batch_size in (1, 2, 3):
        measured = sft.mean_loss(model, DEMONSTRATIONS, batch_size)
        assert measured == pytest.approx(expected, abs=1e-4)
    options = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 3, "seed": 0}
    (step,) = sft.tune(model, DEMONSTRATIONS, **options)
    assert step.loss == pytest.approx(expected, abs=1e-4)
    assert step.tokens == sum(
        len((observation + reply).encode()) + 1
        for talk in DEMONSTRATIONS
        for observation, reply in talk.turns
    )


def test_what_was_said_is_no_target():
    model = tiny_language_model(0)
    for talk, (ids, learned) in zip(DEMONSTRATIONS, sft.encode(model, DEMONSTRATIONS), strict=True):
        taught = bytes(token for token, is_reply in zip(ids, learned, strict=True)
                       if is_reply and token < 256)  # fmt: skip
        assert taught.decode() == "".join(reply for _, reply in talk.turns)


def test_steps_are_counted_and_follow_from_the_seed():
    def steps(seed):
        model, options = tiny_language_model(0), {"epochs": 2, "learning_rate": 1e-3}
        return list(sft.tune(model, DEMONSTRATIONS, batch_size=2, seed=seed, **options))

    one = steps(0)
    assert [(s.number, s.steps, s.epoch, s.ends_epoch) for s in one] == [
        (1, 4, 1, False), (2, 4, 1, True), (3, 4, 2, False), (4, 4, 2, True),
    ]  # fmt: skip
    assert steps(0) == one != steps(5)


def test_micro_batches_and_checkpointing_make_the_same_step(monkeypatch):
    def descent(parameters, rate, weight_decay):  # Adam would blow rounding up where nothing pulls
        return torch.optim.SGD(parameters, rate)

    monkeypatch.setattr(torch.optim, "AdamW", descent)
    weights, losses = [], []
    options = {"epochs": 2, "learning_rate": 1e-1, "batch_size": 4, "seed": 0}
    ways = [{}, *({"micro_batch_size": most} for most in (1, 2))]
    for way in [*ways, {"gradient_checkpointing": True}]:
        model = tiny_language_model(0)
        losses.append([step.loss for step in sft.tune(model, DEMONSTRATIONS, **options, **way)])
        weights.append(torch.cat([p.detach().flatten() for p in model.model.parameters()]))
    for other, loss in zip(weights[1:], losses[1:], strict=True):
        torch.testing.assert_close(other, weights[0], rtol=0, atol=1e-6)
        assert loss == pytest.approx(losses[0], abs=1e-6)


def test_a_tenth_is_held_out_and_the_seed_says_which():
    many = [Conversation(((str(i), "x"),)) for i in range(25)]
    training, aside = sft.hold_out(many, 0)
    assert (len(training), len(aside)) == (23, 2)
    assert {*training, *aside} == {*many}
    assert sft.hold_out(many, 0)[1] == aside != sft.hold_out(many, 1)[1]
    assert sft.hold_out(many[:9], 0) == (many[:9], [])
    assert math.isnan(prepare_tuning("tiny", many[:9]).held_out_loss())


# RandomWalks


def test_fine_tuning_lowers_the_held_out_loss_and_teaches_walks(walker):
    model = load_language_model(str(walker))
    unseen = sft.from_environment(WALKS, 100, seed=99)
    before, after = (sft.mean_loss(m, unseen, 50) for m in (tiny_language_model(0), model))
    assert before > 5 and after < 0.6
    environment = gymnasium.make(WALKS).unwrapped
    policy = TextPolicy(model, TextConfig(max_new_tokens=12), seed=1)
    starts = [LETTERS[node] for node in environment.starts] * 5
    replies = policy.reply([policy.template.first(letter) for letter in starts])
    walks = [
        letter + policy.template.decode(reply.ids)
        for letter, reply in zip(starts, replies, strict=True)
    ]

    def exists(walk):
        nodes = [LETTERS.find(letter) for letter in walk]
        return all(environment.edges[a, b] for a, b in pairwise(nodes))

    valid = sum(len(walk) > 1 and exists(walk) for walk in walks) / len(walks)
    assert valid > 0.8, walks[:10]


def test_the_command_says_what_it_does(tmp_path, capsys):
    rows = [{"prompt": f"{i}+1=", "response": str(i + 1)} for i in range(40)]
    file = write(tmp_path / "sums.jsonl", *rows)
    folder = tmp_path / "deep" / "sums"
    main(["sft", "--model", "tiny", "--file", str(file), "-o", str(folder), "--epochs", "2"])
    took, *lines = capsys.readouterr().out.splitlines()
    assert took.startswith("took sums.jsonl for JSON lines: demonstrations {")
    assert lines[0].startswith("tiny: 0.5 million parameters on c")
    assert lines[1] == "36 demonstrations, 4 held out"
    assert [line.split(",")[0] for line in lines[2:4]] == ["step 2/4", "step 4/4"]
    assert "tokens/s" in lines[2]
    before, after = (float(word) for word in lines[4].split() if word.replace(".", "").isdigit())
    assert after < before
    assert lines[5].endswith(f"`prefrl train --env ID --text.model {folder}`")
    assert [path.name for path in folder.parent.iterdir()] == ["sums"], "nothing partial stays"


def test_it_goes_on_from_its_own_output(walker, tmp_path, capsys):
    words = ["sft", "--model", str(walker), "--env", WALKS, "--demonstrations", "100"]
    main([*words, "--epochs", "1", "--learning-rate", "1e-5", "-o", str(tmp_path / "again")])
    report = next(line for line in capsys.readouterr().out.splitlines() if "held-out loss" in line)
    before, after = (float(word) for word in report.split() if word.replace(".", "").isdigit())
    assert before < 0.75 and abs(after - before) < 0.05


# Where demonstrations come from


def test_files_in_each_form(tmp_path):
    rows = [
        {"prompt": "p", "response": "r"},
        {"turns": [["one", "two"], ["three", "four"]]},
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
    ]
    file = write(tmp_path / "all.jsonl", *rows)
    file.write_text("\n" + file.read_text())
    talks, notes = sft.from_file(file)
    assert talks == [
        Conversation((("p", "r"),)),
        Conversation((("one", "two"), ("three", "four"))),
        Conversation((("q", "good"),)),
    ]
    assert [talk.where for talk in talks] == [f"all.jsonl, line {n}" for n in (2, 3, 4)]
    assert notes == [
        'took all.jsonl for JSON lines: demonstrations {"prompt", "response"} (1) and '
        'demonstrations {"turns"} (1) and pairs {"prompt", "chosen", "rejected"} (1)'
    ]


def test_what_people_wrote_in_a_run(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.sqlite")
    with pytest.raises(UserError, match=r"nobody has written a reply .*prefrl label RUN"):
        sft.from_run(store)
    clips = tuple(
        Segment(f"clip {i}", *map(np.array, (["hello", "and"], ["hi", said])))
        for i, said in enumerate(("no", "never"))
    )
    query = Query(QueryId(0, 0), clips)
    store.ask(0, [query], {}, 0)
    store.answer(Answer(query.id, "preference", {"left": 1.0}, "ann"))
    store.answer(Answer(query.id, "rewrite", {"segment": 1, "text": "gladly"}, "bob"))
    store.demonstrate("a prompt", "a reply", "ann", "1")
    store.demonstrate("only a prompt", None, "ann", "2")
    assert sft.from_run(store) == [
        Conversation((("a prompt", "a reply"),)),
        Conversation((("hello", "hi"), ("and", "gladly"))),
    ]


class Mute(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Text(5)


class Mumbling(Mute):
    def demonstrations(self, count, seed):
        return [("prompt", "reply")] * count


gymnasium.register("toy/Mute-v0", Mute)
gymnasium.register("toy/Mumbling-v0", Mumbling)


def test_environments_without_demonstrations():
    with pytest.raises(UserError, match=r"demonstrations\(count, seed\) .* --file"):
        sft.from_environment("toy/Mute-v0", 3, 0)
    with pytest.raises(UserError, match=r"\('prompt', 'reply'\) are no turns; expected \[\[said"):
        sft.from_environment("toy/Mumbling-v0", 3, 0)
    with pytest.raises(UserError, match="did you mean prefrl/RandomWalks-v0"):
        sft.from_environment("prefrl/RandomWalk-v0", 3, 0)


def test_demonstrations_longer_than_the_context_are_left_out_and_counted(tmp_path, capsys):
    rows = [{"prompt": f"{n}", "response": "r" * (1100 if n == 3 else 20)} for n in range(10)]
    file = write(tmp_path / "some.jsonl", *rows)
    words = ["sft", "--model", "tiny", "--file", str(file), "--epochs", "1"]
    main([*words, "-o", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "demonstrations left out, as they have more than the 1024 tokens that the model looks back "
        "on: 1 of 10"
    )
    assert lines[3] == "9 demonstrations, 0 held out"


def test_longer_demonstrations_are_left_out_cut_or_refused(tmp_path, capsys):
    rows = [{"prompt": f"{n}", "response": "r" * (40 if n == 3 else 5)} for n in range(10)]
    file = write(tmp_path / "some.jsonl", *rows)
    words = ["sft", "--model", "tiny", "--file", str(file), "--epochs", "1", "--max-length", "20"]
    main([*words, "--too-long", "cut", "-o", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[2] == (
        "demonstrations cut to their ends, as they have more than the 20 tokens of --max-length: "
        "1 of 10"
    )
    (talk,), model = (sft.from_file(file)[0][3:4], tiny_language_model(0))
    [(ids, learned)] = sft.encode(model, [talk], newest=20)
    assert (bytes(ids[:-1]).decode(), learned) == ("r" * 19, [True] * 20)
    shown = complaint([*words, "--too-long", "refuse", "-o", tmp_path / "no"], capsys)
    assert "some.jsonl, line 4: it has 42 tokens, more than the 20 of --max-length; sho" in shown


# Bad input


GOOD = '{"prompt": "p", "response": "r"}\n'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "bad.jsonl is empty; expected in each row"),
        ("\n \n", "is empty"),
        (GOOD + '{"prompt": ', "bad.jsonl, line 2: it is not JSON"),
        (GOOD + "[1]", r"line 2: it is \[1\]; expected an object"),
        (
            GOOD + "\n" + '{"prompt": "p"}',
            "line 3: it is one of prompts .*, which shows no reply to imitate; exp",
        ),
        ('{"prompt": "p", "response": 3}', "line 1: 'response' is 3; expected a text"),
        ('{"response": "r"}', "line 1: there is no 'prompt'; expected a text"),
        ('{"prompt": "p", "response": ""}', "line 1: .* has an empty reply"),
        ('{"turns": []}', r"line 1: \[\] are no turns"),
        ('{"turns": [["a", "b"], ["c"]]}', r"are no turns; expected \[\[said, reply\]"),
        ('{"turns": "ab"}', "'turns' is 'ab'; expected a list"),
        (b"\xff\xfe", "it is not text in UTF-8"),
        (
            json.dumps({"prompt": "p", "response": "r" * 1100}),
            "every demonstration has more than the 1024 tokens",
        ),
    ],
)
def test_bad_files(content, sentence, tmp_path, capsys):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ["sft", "--model", "tiny", "--file", file, "-o", tmp_path / "out"]
    shown = complaint(words, capsys)
    assert re.search(sentence, shown), shown
    assert "imported" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"], "nothing is written"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--env", WALKS, "--file", "f"], "expected one of --env, --file and --from-run"),
        ([], "expected one of --env, --file and --from-run"),
        (["--file", "missing"], "cannot read .*missing: No such file"),
        (["--from-run", "/"], "is not a run folder"),
        (["--env", WALKS, "--epochs", "0"], "--epochs is 0; expected a whole number above 0"),
        (["--env", WALKS, "--batch-size", "-1"], "--batch-size is -1"),
        (["--env", WALKS, "--learning-rate", "nan"], "--learning-rate is nan"),
        (["--env", WALKS, "--demonstrations", "0"], "--demonstrations is 0"),
        (["--env", WALKS, "--device", "tpu9"], "--device is tpu9, which cannot be used here"),
        (["--env", WALKS, "--chat"], "has no chat template"),
        (["--env", WALKS, "--model", "nowhere"], "'nowhere' is no folder on this machine"),
        (["--env", WALKS, "-o", "EXISTS"], "exists exists already; give another name"),
        (["--env", WALKS, "-o", "FILE/out"], "cannot make .*file/out.partial: Not a directory"),
        (["--env", WALKS, "-o", "HALF"], "half.partial exists already, and nothing of prefrl's"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_mistakes(words, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exists").mkdir()
    (tmp_path / "half.partial").mkdir()
    (tmp_path / "half.partial/somebody's").touch()
    (tmp_path / "file").write_text("")
    names = {"EXISTS": "exists", "FILE/out": "file/out", "HALF": "half"}
    words = [names.get(word, word) for word in words]
    shown = complaint(["sft", "--model", "tiny", "-o", "out", *words], capsys)
    assert re.search(sentence, shown), shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exists", "file", "half.partial"]


def test_a_loss_that_is_no_number_leaves_nothing(tmp_path, capsys, monkeypatch):
    nan = torch.tensor(math.nan, requires_grad=True)
    monkeypatch.setattr(sft, "_loss", lambda *arguments: nan)
    words = ["sft", "--model", "tiny", "--env", WALKS, "--demonstrations", "9"]
    sentence = complaint([*words, "-o", tmp_path / "out"], capsys)
    assert "not a finite number; lower its learning rate, now 0.001; nothing is written" in sentence
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_after_the_last_step_are_not_written():
    """The loss is looked at before a step, so that of the last one shows in what is held out."""
    tuning = prepare_tuning("tiny", 10 * DEMONSTRATIONS)
    for _ in tuning.steps():
        pass
    with torch.no_grad():
        next(tuning.loaded.language_model.model.parameters()).fill_(math.nan)
    with pytest.raises(UserError, match=r"no finite numbers; lower its learning rate, now 0.001"):
        tuning.held_out_loss()


def test_fine_tuning_rounds_no_logits():
    model = tiny_language_model(0)
    with torch.no_grad():
        model.model.get_output_embeddings().weight.mul_(20)
    rounded = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    tokens = right_padded([[97, 98, 99, 100, 256]], "cpu")
    with torch.no_grad(), rounded():
        hidden = model.model.base_model(tokens.ids, attention_mask=tokens.mask).last_hidden_state
    with torch.no_grad():
        scores = torch.log_softmax(model.model.lm_head(hidden[0, :4].float()), 1)
    expected = -float(scores.gather(1, tokens.ids[0, 1:, None]).mean())
    found = sft.mean_loss(model, DEMONSTRATIONS[:1], 1, autocast=rounded)
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_gpu_that_is_too_small_is_told_what_to_lower(monkeypatch):
    def fail(*arguments, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    tuning = prepare_tuning("tiny", DEMONSTRATIONS)
    monkeypatch.setattr(sft, "tune", fail)
    with pytest.raises(UserError, match="lower --batch-size"):
        list(tuning.steps())


def test_a_missing_package_is_named():
    message = r"this needs nonsense: pip install 'prefrl\[text\]'"
    with pytest.raises(UserError, match=message), console.installed("text"):
        raise ModuleNotFoundError(name="nonsense")


def test_on_a_terminal_a_line_lives(monkeypatch):
    said = []
    status = SimpleNamespace(update=lambda line: said.append(("live", line)))

    class Console:
        is_terminal = True

        def __init__(self, **options):
            pass

        def status(self, line):
            return nullcontext(status)

        def print(self, line):
            said.append(("stays", line))

    monkeypatch.setattr("rich.console.Console", Console)
    with console.live_line() as show:
        show("step 1", False)
        show("step 2", True)
    assert said == [("live", "step 1"), ("stays", "step 2")]
