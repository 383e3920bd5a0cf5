"""A reward that was learned goes on: saved, scored, opened elsewhere, trained on, a judge."""

import contextlib
import io
import json
import re
import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_environments
from complaints import complaint
from test_text_fit import PAIR, pairs, write
from toy_environments import tiny
from toy_texts import TINY_TEXT_FLAGS, save_small_model, tiny_text
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prefrl import load_reward
from prefrl.answers import check_answer
from prefrl.cli import main
from prefrl.config.text import TextRewardConfig
from prefrl.errors import UserError
from prefrl.learning.given_reward import GivenReward
from prefrl.learning.true_reward import TrueReward
from prefrl.reports.compare import compare_runs, report
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers.reward import RewardTeacher
from prefrl.text.models.load import load_language_model, save_language_model
from prefrl.text.models.tokens import right_padded
from prefrl.text.stages.fitted import load_fitted
from prefrl.types import Query, QueryId, Segment, Trajectory

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|eos|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def fit_to(folder, file, *options, model="tiny"):
    words = ["fit", file, "--model", model, "-o", folder, "--epochs", "2", *options]
    main([str(word) for word in words])
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    return fit_to(folder / "reward", write(folder / "pairs.jsonl", *pairs(120)))


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robot")
    return train(tiny(), folder / "taught", teacher=toy_environments.prefer_larger).path


def opened(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)


def printed_by_its_card(folder):
    """Run the Python of the folder's own README."""
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code.replace("FOLDER", str(folder)), {})
    return float(out.getvalue())


# Saved


@pytest.mark.parametrize("options", [(), ("--freeze-layers", "1")])
def test_transformers_opens_it_and_gives_the_same_scores(options, tmp_path):
    file = write(tmp_path / "pairs.jsonl", *pairs(20))
    folder = fit_to(tmp_path / "reward", file, *options)
    ours, (model, _) = load_fitted(folder), opened(folder)
    assert not (folder / "weights.pt").exists(), "each weight is there once"
    end = ours.template.end_id
    texts = [("0 ", "eeee"), ("a longer prompt ", "abcdabcd"), ("x", "")]
    sequences = [[*(prompt + reply).encode(), end] for prompt, reply in texts]
    given = model(**padded(sequences, model)).logits[:, 0].tolist()
    expected = [ours.score(*text) for text in texts]
    assert given == pytest.approx(expected, abs=1e-5) and np.ptp(expected) > 0.01
    assert printed_by_its_card(folder) == pytest.approx(ours.score("a prompt", "a reply"), abs=1e-5)


def padded(sequences, model):
    ids, mask, *_ = right_padded(sequences, "cpu")
    return {"input_ids": ids.masked_fill(mask == 0, model.config.pad_token_id),
            "attention_mask": mask}  # fmt: skip


def test_a_chat_model_that_pads_with_its_end_is_read_at_its_end(tmp_path):
    small = load_language_model(str(save_small_model(tmp_path / "small")))
    small.tokenizer.chat_template = CHAT
    small.tokenizer.pad_token = small.tokenizer.eos_token
    save_language_model(small, tmp_path / "chat")
    file = write(tmp_path / "pairs.jsonl", *pairs(20))
    folder = fit_to(tmp_path / "reward", file, "--chat", model=tmp_path / "chat")
    ours, (_, tokenizer) = load_fitted(folder), opened(folder)
    assert ours.template.chat and tokenizer.pad_token_id != ours.template.end_id
    assert printed_by_its_card(folder) == pytest.approx(ours.score("a prompt", "a reply"), abs=1e-5)


def test_damaged_weights_are_a_sentence(fitted, tmp_path):
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        folder = shutil.copytree(fitted, tmp_path / name)
        (folder / name).write_bytes(b"nonsense")
        with pytest.raises(UserError, match=r"is damaged \(.*\); fit it again with `prefrl fit`"):
            load_reward(folder)


@pytest.mark.parametrize("reward", [TextRewardConfig(members=2), TextRewardConfig(per_turn=True)])
def test_what_transformers_has_no_class_for_is_saved_whole_nonetheless(reward, tmp_path, capsys):
    options = ["--members", "2"] if reward.members == 2 else ["--per-turn"]
    folder = fit_to(tmp_path / "reward", write(tmp_path / "a.jsonl", *pairs(10)), *options)
    assert (folder / "weights.pt").exists() and not (folder / "config.json").exists()
    assert "AutoModel" not in capsys.readouterr().out
    assert load_reward(folder).config == reward


def test_scores_differ_by_log_odds_and_a_system_message_counts(fitted):
    model = load_reward(fitted)
    good, bad = model.score("0 ", "eeeeeeee"), model.score("0 ", "abcdabcd")
    assert good > bad + 1
    raw = model.returns(model.encode([episode("0 ", "eeeeeeee")]), torch.arange(1), None)
    assert good == pytest.approx(float(raw.detach().mean()))
    assert model.score("0 ", "eeeeeeee", "be brief") != good
    assert model.scores([]) == []


def episode(prompt, reply, reward=0.0):
    return Trajectory(np.array([prompt], object), np.array([reply], object), np.array([reward]))


# The commands go on


def test_fit_ends_with_the_commands_that_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pairs.jsonl", *pairs(20))
    main(["fit", "--from", "pairs.jsonl", "--model", "tiny", "-o", "reward", "--epochs", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].endswith("transformers opens it with AutoModelForSequenceClassification")
    training, scoring, judging = (re.findall("`prefrl (.*)`", line)[0] for line in lines[-3:])
    main([*training.replace("ID", "texts/Letters-v0").split(), *TINY_TEXT_FLAGS.split(),
          "--text.model", str(save_small_model(tmp_path / "small")), "--run", "RUN_A"])  # fmt: skip
    main(scoring.replace("FILE", "pairs.jsonl").split())
    main([*judging.replace("RUN_B", "RUN_A").split(), "--pairs", "2"])
    assert "answered: 2 of 2 pairs, by reward (2)" in capsys.readouterr().out


def test_without_a_model_or_a_source_fit_names_what_works(tmp_path, capsys):
    file, folder = write(tmp_path / "pairs.jsonl", *pairs(5)), tmp_path / "out"
    assert "add --model tiny" in complaint(["fit", file, "-o", folder], capsys)
    usage = "`prefrl fit FILE --model tiny -o FOLDER`"
    assert usage in complaint(["fit", "-o", folder], capsys)
    assert usage in complaint(["fit", file, "--from", file, "-o", folder], capsys)
    assert not folder.exists()


def test_score_writes_a_line_a_reply_that_fit_reads_again(fitted, tmp_path, capsys):
    rows = [*pairs(10), PAIR | {"chosen": "eee", "rejected": "eee"}]
    rows.append({"prompt": "q ", "completions": ["eeeeee", "eee", "aaaaaa"]})
    rows.append({"prompt": "d ", "completion": "shown"})
    file = write(tmp_path / "pairs.jsonl", *rows)
    capsys.readouterr()
    main(["score", str(fitted), str(file)])
    out, told = capsys.readouterr()
    lines, model = [json.loads(line) for line in out.splitlines()], load_reward(fitted)
    assert [line["row"] for line in lines] == [*np.repeat(range(1, 12), 2), 12, 12, 12, 13]
    assert [line.get("name") for line in lines[:2]] == ["chosen", "rejected"]
    for line in lines:
        assert line["score"] == pytest.approx(
            model.score(line["prompt"], line["completion"]), abs=1e-4
        )
    assert told.startswith("took pairs.jsonl for JSON lines: pairs")
    better = [a["score"] > b["score"] for a, b in zip(lines[:22:2], lines[1:22:2], strict=True)]
    assert better[-1] is False, "equal replies are not told apart"
    ranked = [line["score"] for line in lines[22:25]]
    right = sum(better) + 2 / 3 * sum(
        ranked[i] > ranked[j] for i, j in ((0, 1), (0, 2), (1, 2))
    )  # fmt: skip
    assert f"has the higher score in {right / 13:.1%} (" in told
    main(["score", str(fitted), str(file), "-o", str(tmp_path / "scores.jsonl")])
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "scores.jsonl").read_text() == out
    fit_to(tmp_path / "again", tmp_path / "scores.jsonl")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "p"}, r"line 1: it is one of prompts .* no reply to score; expected"),
        ({"messages": [{"role": "user", "content": "a"}]}, "--chat|template"),
    ],
)
def test_rows_without_a_reply_are_not_scored(row, sentence, fitted, tmp_path, capsys):
    file = write(tmp_path / "rows.jsonl", row)
    assert re.search(sentence, complaint(["score", fitted, file], capsys))


def test_the_reward_of_a_robot_scores_no_texts(robot, tmp_path, capsys):
    file = write(tmp_path / "pairs.jsonl", *pairs(2))
    assert "has the reward of a robot" in complaint(["score", robot, file], capsys)


# Trained on


class Sum:
    """Predicts the sum of observations, or the length of a text."""

    def rewards(self, trajectories):
        return [np.array([len(str(a)) for a in t.actions], np.float32) for t in trajectories]


def test_it_is_calibrated_as_the_true_reward_is():
    texts = [episode("p", "e" * n, reward=float(n)) for n in (1, 2, 3, 6)]
    given, true = GivenReward(Sum(), whole_episodes=True), TrueReward(whole_episodes=True)
    for reward in (given, true):
        reward.calibrate(reward.sample(texts, []))
    paid = np.concatenate(given.rewards(texts))
    np.testing.assert_array_equal(paid, np.concatenate(true.rewards(texts)))
    assert paid.mean() == pytest.approx(0, abs=1e-6) and paid.std() == pytest.approx(1)
    assert given.state_dict() == true.state_dict()
    assert given.sample(texts[:1], texts) == texts, "the first policy's replies, for good"
    steps = GivenReward(Sum(), whole_episodes=False)
    assert len(steps.sample(texts, texts)) == len(TrueReward().sample(texts, texts))


def killed_between_rounds(experiment, path, source):
    """Train a round, lose the folder that the reward is from, and go on."""
    with closing(start(experiment, path)) as session:
        for done in rounds(session):
            if done.index == 1 and done.state == "done":
                break
    shutil.rmtree(source)
    with closing(resume(path)) as session:
        for _ in rounds(session):
            pass
    return RunFolder.open(path)


def test_a_language_model_is_trained_on_it_resumes_without_the_folder_and_replays(fitted, tmp_path):
    source = shutil.copytree(fitted, tmp_path / "reward")
    model = save_small_model(tmp_path / "small")
    experiment = tiny_text(model, reward=str(source), rounds=3)
    whole = train(experiment, tmp_path / "whole")
    assert (tmp_path / "whole/checkpoints/round-0003.pt").stat().st_size < 500_000
    resumed = killed_between_rounds(experiment, tmp_path / "resumed", source)
    assert resumed.metrics() == whole.metrics() and whole.metrics()[-1]["answered"] == 0
    mine, given = load_reward(whole.path), load_fitted(fitted)
    assert mine.score("a: ", "eee") == given.score("a: ", "eee")
    for _ in replay(whole.path, tmp_path / "again"):
        pass
    assert RunFolder.open(tmp_path / "again").metrics() == whole.metrics()


def test_a_robot_is_trained_on_the_reward_of_a_run(robot, tmp_path):
    source = shutil.copytree(robot, tmp_path / "taught")
    experiment = tiny(reward=str(source), seed=9)
    whole = train(experiment, tmp_path / "whole")
    resumed = killed_between_rounds(experiment, tmp_path / "resumed", source)
    assert resumed.metrics() == whole.metrics()
    size = load_reward(robot).observation_size
    steps = Trajectory(np.ones((3, size), np.float32), np.ones((3, 1), np.float32), np.zeros(3))
    mine, given = (load_reward(path).rewards([steps])[0] for path in (whole.path, robot))
    np.testing.assert_array_equal(mine, given)
    copied = {path.name for path in (whole.path / "reward").iterdir()}
    assert copied == {"checkpoints", "config.json", "environment.json", "versions.json"}
    third = train(tiny(reward=str(whole.path), steps=128, rounds=1), tmp_path / "third")
    np.testing.assert_array_equal(load_reward(third.path).rewards([steps])[0], given)


@pytest.mark.parametrize(
    ("reward", "more", "sentence"),
    [
        ("ture", "", "--reward is 'ture', which is no folder here; expected learned, true, or"),
        ("EMPTY", "", "holds no reward; expected a folder that `prefrl fit` made, or a run"),
        ("TRUE", "", "a run on the true reward, which has learned none; expected a run with"),
        ("TEXT", "", "holds a reward for texts, but toy/Pay-v0 is an environment of numbers"),
        ("ROBOT", "--env Pendulum-v1", "whose observations are others than those of Pendulum-v1"),
        ("ROBOT", "--from ROBOT", "a reward that is given needs no answers; leave out --from or"),
        ("learned", "--teacher TEXT", "holds a reward for texts, but toy/Pay-v0 is an environment"),
        (
            "learned",
            "--teacher EMPTY",
            "which holds no reward; expected a folder that",
        ),
        ("learned", "--teacher ROBOT --oracle.mistake .1", "are faults of an oracle, but the"),
        ("learned", "--teacher fitted", "there is no teacher 'fitted'; expected oracle, stoc,"),
    ],
)
def test_rewards_that_cannot_be_trained_on(reward, more, sentence, robot, fitted, tmp_path, capsys):
    (tmp_path / "EMPTY").mkdir()
    true = tmp_path / "TRUE"
    if reward == "TRUE":
        train(tiny(reward="true", steps=128, rounds=1), true)
    places = {"TRUE": true, "TEXT": fitted, "ROBOT": robot, "EMPTY": tmp_path / "EMPTY"}
    words = ["train", "--env", "toy/Pay-v0", "--reward", reward, *more.split(),
             *toy_environments.TINY_FLAGS.split(), "--run", tmp_path / "run"]  # fmt: skip
    assert sentence in complaint([places.get(word, word) for word in words], capsys)
    assert not (tmp_path / "run").exists()


# A judge


@pytest.mark.parametrize("kind", ["preference", "ranking", "choice", "ratings"])
def test_it_answers_whatever_is_asked_by_what_it_pays(kind):
    class Pays:
        def rewards(self, clips):
            return [clip.observations[:, 0] for clip in clips]

    paid = [1.0, 5.0] if kind == "preference" else [1.0, 5.0, 3.0, 3.0]
    clips = [
        Segment(f"clip {p} {n}", np.array([[p]]), np.zeros((1, 1))) for n, p in enumerate(paid)
    ]
    query = Query(QueryId(2, 3), tuple(clips), kind)
    (answer,) = RewardTeacher(Pays(), "it").answer([query])
    values = {
        "preference": {"left": 0.0},
        "ranking": {"order": [[1], [2, 3], [0]]},
        "choice": {"order": [[1], [0, 2, 3]]},
        "ratings": {"ratings": [2, 6, 4, 4], "low": 1, "high": 7},
    }
    assert (answer.query, answer.teacher, answer.value) == (query.id, "it", values[kind])
    check_answer(query, answer)


def test_it_teaches_a_robot(robot, tmp_path):
    """It orders six clips, by the copy that the run keeps; a killed run asks it again."""
    source = shutil.copytree(robot, tmp_path / "taught")
    experiment = tiny(
        teacher=str(source), seed=9, labels=8, query=replace(tiny().query, kind="ranking", clips=3)
    )
    whole = train(experiment, tmp_path / "whole")
    resumed = killed_between_rounds(experiment, tmp_path / "resumed", source)
    assert resumed.metrics() == whole.metrics() and whole.metrics()[-1]["answered"] == 8
    model = load_reward(robot)
    with closing(FeedbackStore(whole.feedback)) as store:
        for answer in store.answers():
            paid = [float(r.sum()) for r in model.rewards(store.query(answer.query).segments)]
            order = [index for group in answer.value["order"] for index in group]
            assert answer.teacher == str(source)
            assert [paid[n] for n in order] == sorted(paid, reverse=True)
    for _ in replay(whole.path, tmp_path / "again"):
        pass
    assert RunFolder.open(tmp_path / "again").metrics() == whole.metrics()


def test_it_teaches_one_aspect_while_others_teach_the_other(fitted, tmp_path, capsys):
    """The run keeps a copy, so that it goes on without the folder."""
    source = shutil.copytree(fitted, tmp_path / "reward")
    experiment = replace(
        tiny_text(save_small_model(tmp_path / "small")), env="toy_texts:texts/Two-v0",
        teacher=f"plain=oracle,short={source}", steps=32, rounds=2,
    )  # fmt: skip
    whole = train(experiment, tmp_path / "whole")
    resumed = killed_between_rounds(experiment, tmp_path / "resumed", source)
    assert resumed.metrics() == whole.metrics()
    judge = load_fitted(fitted)
    with closing(FeedbackStore(whole.feedback)) as store:
        kept = [(store.query(answer.query), answer) for answer in store.answers()]
    assert {(query.aspect, answer.teacher) for query, answer in kept} == {
        ("plain", "oracle"),
        ("short", str(source)),
    }
    for query, answer in kept:
        one, other = (float(paid.sum()) for paid in judge.rewards(query.segments))
        if query.aspect == "short" and one != other:
            assert answer.value["left"] == float(one > other)
    words = ["train", "--env", "toy_texts:texts/Two-v0", "--run", tmp_path / "none"]
    said = complaint([*words, "--teacher", f"plain={fitted},short={tmp_path}"], capsys)
    assert "names the folders" in said and "expected one" in said


def test_a_policy_learns_from_fresh_pairs_that_a_reward_model_prefers(fitted, tmp_path, capsys):
    """Online DPO: nobody is asked, and what it prefers is what it pays."""
    model = save_small_model(tmp_path / "small")
    options = (
        "--env texts/Letters-v0 --learner direct --labels 8 --steps 16 --rounds 2 "
        "--query.explore-steps 8 --text.max-new-tokens 6 --text.direct.episodes 8"
    )
    paths = {"--teacher": fitted, "--run": tmp_path / "run", "--text.model": model}
    words = [str(word) for pair in paths.items() for word in pair]
    main(["train", *options.split(), *words])
    run = RunFolder.open(tmp_path / "run")
    assert run.metrics()[-1]["answered"] == 8 and run.metrics()[-1]["train_accuracy"] >= 0.5
    judge = load_fitted(fitted)
    with closing(FeedbackStore(run.feedback)) as store:
        for answer in store.answers():
            clips = store.query(answer.query).segments
            one, other = (float(paid.sum()) for paid in judge.rewards(clips))
            assert answer.value["left"] == float(one > other)
    capsys.readouterr()
    main(["evaluate", str(run.path), "--episodes", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["teacher"] == "oracle"


def test_it_judges_texts(fitted, robot, tmp_path, capsys):
    model = save_small_model(tmp_path / "small")
    run = train(tiny_text(model, steps=16, rounds=1, reward="true"), tmp_path / "run")
    capsys.readouterr()
    main(["evaluate", str(run.path), "--episodes", "8", "--teacher", str(fitted), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["teacher"] == str(fitted) and found["skips"] == 0
    assert 0 <= found["win_rate"]["mean"] <= 1
    assert "is of texts, but what is to be judged is numbers" in complaint(
        ["compare", robot, robot, "--teacher", fitted], capsys
    )


def test_the_reward_of_a_run_judges_robots_as_it_pays_them(robot, tmp_path):
    fresh = train(tiny(seed=5, steps=128, rounds=1, reward="true"), tmp_path / "fresh")
    made = compare_runs([RunFolder.open(robot), fresh], tmp_path / "made", 10, str(robot))
    assert report(made)["teachers"] == {str(robot): 10}
    model = load_reward(robot)
    with closing(FeedbackStore(made.feedback)) as store:
        for answer in store.answers():
            left, right = (
                float(model.rewards([clip])[0].sum()) for clip in store.query(answer.query).segments
            )
            assert answer.value == ({} if left == right else {"left": float(left > right)})
