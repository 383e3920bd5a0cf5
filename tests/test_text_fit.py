"""A reward model from answers without a loop: `prefrl fit`."""

import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from complaints import complaint

from prefrl.cli import main
from prefrl.config.experiment import Experiment
from prefrl.config.learning import FitConfig, QueryConfig
from prefrl.config.text import TextConfig, TextPPOConfig, TextRewardConfig
from prefrl.errors import UserError
from prefrl.learning.reward import fit, predict_returns
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.text.reward import TextReward
from prefrl.text.stages import fitting
from prefrl.text.stages.answers import hold_out, read_answers
from prefrl.text.stages.fitted import load_fitted, save
from prefrl.text.stages.fitting import passes, start
from prefrl.types import Comparison, EnvironmentCard, QueryId, Segment, SpaceSpec, Trajectory

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}
RANKING = {"prompt": "q", "completions": ["best", "good", "fair", "bad"]}


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def words_at_random(generator, length=8):
    return "".join(generator.choice(list("abcde"), size=length))


def pairs(count, seed=0):
    """Return pairs of which the chosen completion has more e's."""
    generator, rows = np.random.default_rng(seed), []
    while len(rows) < count:
        texts = [words_at_random(generator) for _ in range(2)]
        worse, better = sorted(texts, key=lambda text: text.count("e"))
        if worse.count("e") < better.count("e"):
            rows.append({"prompt": f"{len(rows)} ", "chosen": better, "rejected": worse})
    return rows


def episode(prompt, said):
    return Trajectory(np.array([prompt]), np.array([said]), np.zeros(1))


def returns(model, texts):
    return [float(steps.sum()) for steps in model.rewards([episode("0 ", t) for t in texts])]


def fitted(source, tmp_path, **options):
    """Fit, save and load; return the fitting, its lines and what was loaded."""
    now = start(source, "tiny", **options)
    lines = list(passes(now))
    save(now, tmp_path / "fitted", lines)
    return now, lines, load_fitted(tmp_path / "fitted")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a small finished run of a language environment."""
    path = tmp_path_factory.mktemp("runs") / "walks"
    text = TextConfig(
        max_new_tokens=12, demonstrations=64,
        ppo=TextPPOConfig(episodes=16, completions_per_task=4, batch_size=16, n_epochs=1),
    )  # fmt: skip
    experiment = Experiment(
        env="prefrl/RandomWalks-v0", labels=24, steps=32, rounds=2, domain=text,
        fit=FitConfig(learning_rate=1e-3, first_epochs=3, epochs=1, l2=0.0),
        query=QueryConfig(explore_steps=64, acquisition="uniform"),
    )  # fmt: skip
    return train(experiment, path).path


# Fitting


def test_an_easy_preference_is_learned_and_survives_saving(tmp_path):
    file = write(tmp_path / "pairs.jsonl", *pairs(250))
    now, lines, loaded = fitted(file, tmp_path, held_out=0.2)
    assert (len(now.training), len(now.held_out)) == (200, 50)
    kept = lines[judgement_of(now).kept_pass - 1]
    assert lines[-1]["train_accuracy"] > 0.9
    assert kept["held_out_accuracy"] > 0.75
    assert kept["train_decisive"] == 200, "one member learns from all"
    assert [line["epochs"] for line in lines] == list(range(1, len(lines) + 1))
    few, many = returns(loaded, ["abcdabcd", "eeeebcde"])
    assert few < -0.5 < 0.5 < many

    model = now.reward_model
    episodes = [episode(f"{i} ", "a" * i + "e") for i in range(20)]
    assert np.array_equal(model.rewards(episodes), loaded.rewards(episodes))
    clips = [comparison.left for comparison in now.held_out]
    assert torch.equal(predict_returns(model, clips), predict_returns(loaded, clips))
    saved = (tmp_path / "fitted/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in saved] == lines


def test_returns_are_calibrated_on_the_completions(tmp_path):
    rows = pairs(40)
    file = write(tmp_path / "pairs.jsonl", *rows)
    options = {"reward": TextRewardConfig(members=2, freeze_layers=1), "epochs": 2}
    *_, loaded = fitted(file, tmp_path, **options)
    assert loaded.members == 2 and loaded.lower is not None
    given = [episode(row["prompt"], row[key]) for row in rows for key in ("chosen", "rejected")]
    raw = np.stack([scores.sum(1) for scores in loaded._raw(given)], axis=1)
    each = (raw - loaded.mean) / loaded.std
    assert each.mean(1) == pytest.approx([0, 0], abs=1e-5)
    assert each.std(1) == pytest.approx(2 * [each.std(1).mean()], abs=1e-5)
    assert each.mean(0).std() == pytest.approx(1, abs=1e-5)


def test_turn_by_turn(tmp_path):
    rows = []
    for index, row in enumerate(pairs(40)):
        clips = [
            {"observations": ["one", "two"], "actions": [row[key][:4], row[key][4:]]}
            for key in ("chosen", "rejected")
        ]
        rows.append({"segments": clips, "kind": "preference", "value": {"left": 1.0},
                     "index": index})  # fmt: skip
    file = write(tmp_path / "talks.jsonl", *rows)
    *_, loaded = fitted(file, tmp_path, reward=TextRewardConfig(per_turn=True), epochs=2)
    talk = Trajectory(np.array(["one", "two"]), np.array(["abcd", "eeee"]), np.zeros(2))
    first, second = loaded.rewards([talk])[0]
    assert first != 0 and second != 0


def test_passes_are_one_fit(tmp_path):
    """Pulling one pass after another is what `fit` does, and each is reported."""
    file = write(tmp_path / "pairs.jsonl", *pairs(30))
    options = {"epochs": 3, "held_out": 0.0, "learning_rate": 1e-5}
    one, other = start(file, "tiny", **options), start(file, "tiny", **options)
    lines = list(passes(one))
    assert len(lines) == 3
    scores = fit(other.reward_model, other.training, other.config, other.state)
    assert {name: lines[-1][name] for name in scores} == scores
    other.reward_model.without_offset()
    for mine, whole in zip(
        one.reward_model.parameters(), other.reward_model.parameters(), strict=True
    ):
        assert torch.equal(mine, whole)


def judgement_of(now):
    assert now.judgement is not None
    return now.judgement


def returns_of(now):
    return predict_returns(now.reward_model, [c.left for c in now.held_out or now.training])


def with_mistakes(rows, share=0.15):
    """Turn every so many pairs round."""
    every = round(1 / share)
    turned = {"chosen": "rejected", "rejected": "chosen"}
    return [
        {turned.get(name, name): text for name, text in row.items()} if n % every == 0 else row
        for n, row in enumerate(rows)
    ]


def test_the_pass_with_the_lowest_held_out_loss_is_kept_and_saved(tmp_path):
    file = write(tmp_path / "pairs.jsonl", *with_mistakes(pairs(80)))
    now, lines, loaded = fitted(file, tmp_path, held_out=0.25, epochs=12, learning_rate=1e-3)
    losses = [line["held_out_loss"] for line in lines]
    kept = judgement_of(now).kept_pass
    assert losses[kept - 1] == min(losses) and len(lines) == kept + 2 < 12
    again = start(file, "tiny", held_out=0.25, epochs=kept, learning_rate=1e-3, patience=0)
    assert list(passes(again)) == lines[:kept]
    assert judgement_of(again).kept_pass == kept and judgement_of(again).chosen_by is None
    assert torch.equal(returns_of(again), returns_of(now))
    clips = [comparison.left for comparison in now.held_out]
    assert torch.equal(predict_returns(loaded, clips), returns_of(now))
    report = json.loads((tmp_path / "fitted/report.json").read_text())
    assert report["kept_pass"] == kept and report["chosen_by"] == "held_out_loss"
    assert report["scores"] == lines[kept - 1]
    judged = report["accuracies"]["held_out"]
    low, high = judged["interval"]
    assert 0 < low < judged["mean"] < high
    assert judged["mean"] == pytest.approx(lines[kept - 1]["held_out_accuracy"])
    assert sum(b["weight"] for b in report["calibration"]["bins"]) == 20


def test_of_several_members_what_is_out_of_bag_chooses_where_nothing_is_held_out(tmp_path):
    file = write(tmp_path / "pairs.jsonl", *with_mistakes(pairs(60)))
    two = TextRewardConfig(members=2)
    now = start(file, "tiny", two, held_out=0.0, epochs=9, learning_rate=1e-3)
    lines = list(passes(now))
    losses = [line["out_of_bag_loss"] for line in lines]
    kept = judgement_of(now).kept_pass
    assert losses[kept - 1] == min(losses) and len(lines) == kept + 2
    assert (
        judgement_of(now).chosen_by == "out_of_bag_loss" and judgement_of(now).calibration is None
    )


def test_a_file_of_its_own_is_held_out(tmp_path, capsys):
    rows = pairs(40)
    file, aside = write(tmp_path / "a.jsonl", *rows[:30]), write(tmp_path / "b.jsonl", *rows[28:])
    main(["fit", str(file), "--model", "tiny", "-o", str(tmp_path / "out"), "--epochs", "1",
          "--held-out", str(aside)])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("took a.jsonl for JSON lines: pairs")
    assert lines[2].startswith("held out, took b.jsonl for JSON lines: pairs")
    assert lines[3] == "prompts that are learned from, though they are held out: 2"
    assert lines[4].startswith("30 comparisons, 12 more are held out; calibrated on the 84 compl")
    now = start(file, "tiny", held_out=aside)
    assert [c.left.task for c in now.held_out] == [row["prompt"] for row in rows[28:]]
    write(aside, PAIR | {"rejected": "good"}, *rows[30:])
    assert start(file, "tiny", held_out=aside).notes[3].startswith("held out, comparisons left out")


def test_what_is_held_out_does_not_depend_on_the_order_of_a_file(tmp_path):
    def aside(rows):
        now = start(write(tmp_path / "pairs.jsonl", *rows), "tiny", held_out=0.2)
        return {c.left.task for c in now.held_out}

    rows = pairs(30)
    assert len(aside(rows)) == 6 and aside(rows) == aside(rows[::-1])


def test_a_seed_decides(tmp_path):
    file = write(tmp_path / "pairs.jsonl", *pairs(30))

    def lines(seed):
        return list(passes(start(file, "tiny", epochs=1, seed=seed)))

    assert lines(0) == lines(0) != lines(1)


# Margins


def test_margins_are_words_or_numbers(tmp_path):
    margins = ["negligibly", "slightly", "better", "significantly", 0, 0.25, 1, None]
    rows = [PAIR | {"prompt": f"{index} ", "margin": m} for index, m in enumerate(margins)]
    file = write(tmp_path / "margins.jsonl", *rows, PAIR)
    comparisons = read_answers(file, margin_scale=3.0).comparisons
    expected = [0, 1, 2, 3, 0, 0.75, 3, 0, 0]
    assert [c.margin for c in comparisons] == pytest.approx(expected)
    assert [c.preference for c in comparisons] == [1.0] * 9
    assert {c.weight for c in comparisons} == {1.0}
    assert all(c.left.actions == ["good"] and c.right.actions == ["bad"] for c in comparisons)
    assert not any(c.margin for c in read_answers(file).comparisons)


def test_margins_change_the_fit(tmp_path):
    rows = pairs(60)
    plain = write(tmp_path / "plain.jsonl", *rows)
    marked = write(tmp_path / "marked.jsonl", *[row | {"margin": "significantly"} for row in rows])

    def gap(file, **options):
        now = start(file, "tiny", held_out=0.0, epochs=2, **options)
        list(passes(now))
        better, worse = (
            predict_returns(now.reward_model, [getattr(c, side) for c in now.training])
            for side in ("left", "right")
        )
        return float((better - worse).mean())

    assert gap(marked, margin_scale=0.0) == gap(plain)
    assert gap(marked, margin_scale=6.0) > gap(plain) + 0.05


# Rankings


def test_a_ranking_is_one_query_whose_pairs_weigh_one_less_than_it_has_completions(tmp_path):
    file = write(
        tmp_path / "ranks.jsonl", RANKING, PAIR, RANKING | {"completions": list("987654321")}
    )
    found = {}
    for comparison in read_answers(file).comparisons:
        found.setdefault(comparison.query, []).append(comparison)
    assert [len(group) for group in found.values()] == [6, 1, 36]
    weights = [sum(c.weight for c in group) for group in found.values()]
    assert weights == pytest.approx([3, 1, 8])
    first = next(iter(found.values()))
    order = RANKING["completions"]
    for c in first:
        left, right = (order.index(str(clip.actions[0])) for clip in (c.left, c.right))
        assert c.preference == float(left < right)
    assert {c.left.task for c in first} == {"q"}


def test_a_completion_is_encoded_once_a_pass(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    rows = [
        {"prompt": f"{i} ", "completions": [words_at_random(generator) for _ in range(6)]}
        for i in range(10)
    ]
    now = start(write(tmp_path / "ranks.jsonl", *rows), "tiny", held_out=0.0, epochs=2)
    assert len(now.training) == 150
    seen, scores = [], TextReward._scores

    def counting(self, encoded, rows):
        seen.extend(tuple(encoded.sequences[row]) for row in rows)
        return scores(self, encoded, rows)

    monkeypatch.setattr(TextReward, "_scores", counting)
    lines = passes(now)
    for _ in range(2):
        seen.clear()
        next(lines)
        assert len(seen) == 60 and set(Counter(seen).values()) == {1}


def test_rankings_are_learned(tmp_path):
    generator, rows = np.random.default_rng(0), []
    for i in range(50):
        texts = sorted({"e" * n + words_at_random(generator, 8 - n) for n in (0, 2, 4, 6)},
                       key=lambda text: (-text.count("e"), text))  # fmt: skip
        rows.append({"prompt": f"{i} ", "completions": texts})
    now = start(write(tmp_path / "ranks.jsonl", *rows), "tiny", held_out=0.2, epochs=4)
    assert {c.left.task for c in now.training}.isdisjoint({c.left.task for c in now.held_out})
    lines = list(passes(now))
    kept = lines[judgement_of(now).kept_pass - 1]
    assert lines[-1]["train_accuracy"] > 0.9 and kept["held_out_accuracy"] > 0.75
    queries = {c.query for c in now.held_out}
    assert kept["held_out_decisive"] == pytest.approx(3 * len(queries)), "K − 1 of a ranking"


# What is held out


def comparison(task, query):
    left, right = (
        Segment(f"{query} {side}", np.array([task]), np.array([side]), task=task) for side in "ab"
    )
    return Comparison(left, right, 1.0, query=QueryId(0, query))


def test_whole_prompts_are_held_out():
    every = [comparison(f"prompt {i % 20}", i) for i in range(60)]
    training, aside = hold_out(every, 0.1, 0)
    assert (len(training), len(aside)) == (54, 6)
    assert {c.left.task for c in training}.isdisjoint({c.left.task for c in aside})
    assert hold_out(every, 0.1, 0)[1] == aside != hold_out(every, 0.1, 1)[1]
    assert hold_out(every, 0.0, 0) == (every, [])


def test_whole_queries_are_held_out_where_prompts_are_few():
    every = [comparison("prompt", i // 6) for i in range(60)]
    training, aside = hold_out(every, 0.2, 0)
    assert len(aside) == 12 and len({c.query for c in aside}) == 2
    assert {c.query for c in training}.isdisjoint({c.query for c in aside})


def test_nothing_held_out_is_not_reported(tmp_path):
    lines = list(passes(start(write(tmp_path / "f", *pairs(8)), "tiny", epochs=1)))
    assert "held_out_accuracy" in lines[0]
    lines = list(passes(start(tmp_path / "f", "tiny", epochs=1, held_out=0.0)))
    assert "held_out_accuracy" not in lines[0]


# Runs


def test_a_run_is_fitted_again(run, tmp_path):
    now = start(run, epochs=2)
    assert len(now.training) + len(now.held_out) == 24
    assert len(now.samples) == 256 and now.config.learning_rate == 1e-3
    assert {sample.source for sample in now.samples} == {"policy"}
    assert now.text.demonstrations == 64
    lines = list(passes(now))
    assert len(lines) <= 2
    paid = [float(steps.sum()) for steps in now.reward_model.rewards(now.samples)]
    assert np.mean(paid) == pytest.approx(0, abs=1e-4)
    assert np.std(paid) == pytest.approx(1, abs=1e-4)
    save(now, tmp_path / "fitted", lines)
    loaded = load_fitted(tmp_path / "fitted")
    mine, theirs = now.reward_model.rewards(now.samples), loaded.rewards(now.samples)
    assert all(map(np.array_equal, mine, theirs))


def test_a_run_is_fitted_from_another_model(run):
    now = start(run, "tiny", epochs=1)
    assert not any(clip.extras for c in now.training for clip in (c.left, c.right))
    assert not any(sample.extras for sample in now.samples)


def test_before_its_first_round_the_clips_calibrate(run, tmp_path):
    shutil.copytree(run, tmp_path / "young")
    for path in (tmp_path / "young/checkpoints").iterdir():
        path.unlink()
    now = start(tmp_path / "young", epochs=1)
    assert len(now.samples) == len(
        {clip.id for c in now.training + now.held_out for clip in (c.left, c.right)}
    )
    assert f"calibrated on the {len(now.samples)} completions" in now.notes[1]


def test_an_export_is_a_file_to_fit_to(run, tmp_path, capsys):
    main(["export", str(run)])
    file = tmp_path / "answers.jsonl"
    file.write_text(capsys.readouterr().out)
    from_file, from_run = (read_answers(source).comparisons for source in (file, run))
    assert [c.preference for c in from_file] == [c.preference for c in from_run]
    assert [c.left.actions.tolist() for c in from_file] == [
        c.left.actions.tolist() for c in from_run
    ]


# The command


def test_the_command(tmp_path, capsys):
    file = write(tmp_path / "pairs.jsonl", *pairs(60))
    folder = tmp_path / "reward"
    words = ["fit", str(file), "--model", "tiny", "-o", str(folder), "--members", "2"]
    main([*words, "--epochs", "2", "--held-out", "0.2", "--learning-rate", "1e-4"])
    took, *lines = capsys.readouterr().out.splitlines()
    assert took == ('took pairs.jsonl for JSON lines: pairs {"prompt", "chosen", "rejected"} (60)')
    assert lines[0].startswith("tiny: 0.5 million parameters")
    assert lines[1] == "48 comparisons, 12 more are held out; calibrated on the 120 completions"
    share = r"[01]\.\d{3}"
    losses = r"loss \d\.\d{3}, Bradley-Terry \d\.\d{3}"
    judged = rf"accuracy {share} \({share} to {share}\), {losses}"
    pattern = rf"pass \d/2: train {judged}; out-of-bag {judged}; held-out {judged}"
    assert all(re.fullmatch(pattern, line) for line in lines[2:4]), lines
    assert re.fullmatch(r"kept pass [12] of 2, which has the lowest held-out loss, .*", lines[4])
    assert re.fullmatch(
        rf"calibration on what is held out: expected error {share}; with returns divided by a "
        rf"temperature of [\d.]+ it is {share}; of fewer than 100 comparisons that says little",
        lines[5],
    )
    assert lines[6].split() == ["sure", "right", "comparisons"]
    assert sum(int(line.split()[2]) for line in lines[7:-4]) == 12
    assert re.match(r"done in \d+ s, members: 2$", lines[-4])
    assert load_fitted(folder).members == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl", "reward"]


def test_the_command_takes_a_run(run, tmp_path, capsys):
    main(["fit", str(run), "-o", str(tmp_path / "reward"), "--epochs", "1"])
    assert "calibrated on 256 replies of the policy" in capsys.readouterr().out
    assert load_fitted(tmp_path / "reward").members == 1


def test_what_is_not_learned_from_is_said(tmp_path, capsys):
    rows = pairs(12)
    rows += [PAIR | {"rejected": "good"}] * 5 + [PAIR | {"chosen": "r" * 1100}] * 2
    file = write(tmp_path / "pairs.jsonl", *rows)
    main(["fit", str(file), "--model", "tiny", "-o", str(tmp_path / "out"), "--epochs", "1"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[1] == "comparisons left out, as both texts are the same: 5"
    looks = "as they have more than the 1024 tokens that the model looks back on"
    assert lines[2] == f"comparisons left out, {looks}: 2 of 14"
    assert lines[3].startswith("11 comparisons, 1 more is held out; calibrated on the 24 compl")
    now = start(write(tmp_path / "good.jsonl", *pairs(12)), "tiny", epochs=1)
    assert len(now.notes) == 3


def test_longer_texts_are_left_out_cut_or_refused(tmp_path):
    same = PAIR | {"chosen": "x" + "r" * 40, "rejected": "y" + "r" * 40}
    file = write(tmp_path / "pairs.jsonl", *pairs(12), PAIR | {"chosen": "r" * 40}, same)
    options = {"max_length": 20, "held_out": 0.0}
    skip = start(file, "tiny", **options)
    assert (
        "comparisons left out, as they have more than the 20 tokens of --max-length: 2 of 14"
        in (skip.notes)
    )
    assert len(skip.training) == 12
    cut = start(file, "tiny", too_long="cut", **options)
    assert cut.notes[2:4] == [
        "comparisons cut to their ends, as they have more than the 20 tokens of --max-length: "
        "2 of 14",
        "comparisons left out, as both texts are the same once cut: 1",
    ]
    assert (len(cut.training), cut.reward_model.context) == (13, 20)
    with pytest.raises(
        UserError, match=r"pairs\.jsonl, line 13, chosen: it has 4\d tokens, more th"
    ):
        start(file, "tiny", too_long="refuse", **options)
    with pytest.raises(UserError, match="--max-length is 1100, but the model looks back on 1024"):
        start(file, "tiny", max_length=1100)


def test_a_system_message_is_read_with_its_pair(tmp_path):
    file = write(tmp_path / "pairs.jsonl", PAIR | {"system": "Be kind."}, PAIR)
    fitting = start(file, "tiny", held_out=0.0)
    told, plain = (
        bytes(fitting.reward_model.encode([c.left]).sequences[0][:-1]).decode()
        for c in fitting.training
    )
    assert told == f"Be kind.\n\n{plain}"


# Bad input


GOOD = json.dumps(PAIR) + "\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "bad.jsonl is empty"),
        (GOOD + '{"prompt": ', "bad.jsonl, line 2: it is not JSON"),
        (GOOD + "\n[1]", r"line 3: it is \[1\]; expected an object"),
        ('{"prompt": "p"}', "line 1: it is one of prompts .*, which compares nothing; exp"),
        ('{"prompt": "p", "chosen": "c"}', "line 1: there is no 'rejected'"),
        (json.dumps(PAIR | {"margin": "hugely"}), "'margin' is 'hugely'; expected one of neg"),
        (json.dumps(PAIR | {"margin": -0.1}), "'margin' is -0.1"),
        (json.dumps(PAIR | {"margin": True}), "'margin' is True"),
        (json.dumps(PAIR | {"margin": [1]}), r"'margin' is \[1\]"),
        ('{"margin": 1, "chosen": "c", "rejected": "r"}', "line 1: there is no 'prompt'"),
        ('{"completions": ["a", "b"]}', "line 1: there is no 'prompt'"),
        ('{"prompt": "p", "completions": ["a"]}', "line 1: 'completions' holds 1; expected two"),
        ('{"prompt": "p", "completions": ["a", 2]}', r"'completions' is \['a', 2\]; expected te"),
        ('{"prompt": "p", "completions": "ab"}', "'completions' is 'ab'; expected a list"),
        (b"\xff\xfe", "it is not text in UTF-8"),
        (json.dumps(PAIR | {"chosen": "r" * 1100}), "every comparison has more than the 1024 tok"),
        (json.dumps(PAIR | {"chosen": "bad"}), "holds no answer .*: in each of its 1 comparisons"),
        (json.dumps({"chosen": "a b", "rejected": "c d"}), "'rejected' do not begin alike"),
        ('[{"prompt": "p", "chosen": "c"}]', "bad.jsonl, row 1: there is no 'rejected'"),
        ('[{"prompt": "p"}, 3]', "row 2: it is 3; expected an object"),
        ('[{"prompt": "p"', r"bad.jsonl: it is not JSON"),
        (json.dumps({"prompt": "p", "chosen": [{"role": "assistant", "content": "c"}]}),
         "line 1: it holds messages .*; name a model"),
        ('{"segments": [{"observations": [1], "actions": [2]}], "kind": "tie", "value": {}}',
         "line 1: .*the environment's are text"),
    ],
)  # fmt: skip
def test_bad_files(content, sentence, tmp_path, capsys):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    shown = complaint(["fit", file, "--model", "tiny", "-o", tmp_path / "out"], capsys)
    assert re.search(sentence, shown), shown
    assert "import" not in shown or "prefrl export" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"], "nothing is written"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["missing"], "cannot read .*missing: No such file"),
        (["/"], "is not a run folder"),
        (["FILE", "--model", "nowhere"], "'nowhere' is no folder on this machine"),
        (["FILE", "--members", "0"], "--members is 0; expected a whole number above 0"),
        (["FILE", "--epochs", "-1"], "--epochs is -1"),
        (["FILE", "--batch-size", "0"], "--batch-size is 0"),
        (["FILE", "--learning-rate", "inf"], "--learning-rate is inf"),
        (["FILE", "--held-out", "1"], "--held-out is 1.0; expected a number from 0 to less than 1"),
        (
            ["FILE", "--margin-scale", "-1"],
            "--margin-scale is -1.0; expected None or a finite number, 0",
        ),
        (["FILE", "--freeze-layers", "2"], "--freeze-layers is 2; the model has 2 layers"),
        (["FILE", "--freeze-layers", "-1"], "--freeze-layers is -1"),
        (["FILE", "--device", "tpu9"], "--device is tpu9"),
        (["FILE", "--chat"], "has no chat template"),
        (["FILE", "-o", "EXISTS"], "exists exists already; give another name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_mistakes(words, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exists").mkdir()
    write(tmp_path / "file", *pairs(5))
    names = {"EXISTS": "exists", "FILE": "file"}
    words = [names.get(word, word) for word in words]
    shown = complaint(["fit", "--model", "tiny", "-o", "out", *words], capsys)
    assert re.search(sentence, shown), shown
    assert "--text" not in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exists", "file"]


def test_a_file_needs_a_model(tmp_path, capsys):
    file = write(tmp_path / "pairs.jsonl", PAIR)
    sentence = complaint(["fit", file, "-o", tmp_path / "out"], capsys)
    assert "a file names no language model to begin with; add --model tiny" in sentence


def test_a_run_of_a_robot_is_refused(tmp_path):
    folder = RunFolder.create(tmp_path / "robot", Experiment(env="prefrl/Hopper-v0"), {})
    folder.save_card(
        EnvironmentCard("prefrl.control:DOMAIN", 0.1, "?", SpaceSpec((11,)), SpaceSpec((3,)))
    )
    with pytest.raises(UserError, match=r"Hopper-v0, which does not speak text; .*load_reward"):
        start(folder.path)


def test_a_run_without_answers_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "quiet")
    (tmp_path / "quiet/feedback.sqlite").unlink()
    FeedbackStore(tmp_path / "quiet/feedback.sqlite").close()
    with pytest.raises(UserError, match="quiet holds no answer that says anything"):
        start(tmp_path / "quiet")
    (tmp_path / "quiet/feedback.sqlite").unlink()
    shutil.copy(run / "feedback.sqlite", tmp_path / "quiet")
    for path in (tmp_path / "quiet/checkpoints").iterdir():
        path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"newest checkpoint of .*quiet is damaged"):
        start(tmp_path / "quiet")


def test_a_loss_that_is_no_number_leaves_nothing(tmp_path, capsys, monkeypatch):
    scores = {"train_loss": math.nan, "train_accuracy": 0.0, "out_of_bag_count": 1.0}
    monkeypatch.setattr(fitting, "fit_passes", lambda *_, **__: iter([scores]))
    file = write(tmp_path / "pairs.jsonl", *pairs(5))
    sentence = complaint(["fit", file, "--model", "tiny", "-o", tmp_path / "out"], capsys)
    assert "not a finite number in pass 1; lower --learning-rate, now 0.0003" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_gpu_that_is_too_small_is_told_what_to_lower(tmp_path, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB. GPU 0 has")

    file = write(tmp_path / "pairs.jsonl", *pairs(5))
    for epochs in (1, 2):
        now = start(file, "tiny", epochs=epochs)
        going = passes(now)
        for _ in range(epochs - 1):
            next(going)
        with monkeypatch.context() as patched:
            patched.setattr("prefrl.text.reward.hidden_states", full)
            with pytest.raises(UserError, match=r"1 GiB\); lower --batch-size or --members$"):
                list(going)
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "load_model", full)  # not even the model has room
        with pytest.raises(UserError, match=r"1 GiB\); lower --batch-size or --members$"):
            start(file, "tiny")


def test_a_fit_that_cannot_be_calibrated_is_a_sentence(tmp_path, monkeypatch):
    def fails(*arguments):
        raise FloatingPointError("the fitted reward is not a finite number")

    now = start(write(tmp_path / "pairs.jsonl", *pairs(5)), "tiny", epochs=1)
    monkeypatch.setattr(TextReward, "calibrate", fails)
    with pytest.raises(UserError, match=r"not a finite number; lower --learning-rate, now 0\.0003"):
        list(passes(now))


def test_empty_completions_are_judged_by_their_end(tmp_path):
    rows = [{"prompt": f"{i}", "chosen": "a reply", "rejected": ""} for i in range(20)]
    now = start(write(tmp_path / "empty.jsonl", *rows), "tiny", epochs=3)
    *_, last = passes(now)
    assert last["held_out_accuracy"] == 1.0


def test_damaged_folders(tmp_path, capsys):
    with pytest.raises(UserError, match=r"holds no reward model .*prefrl fit"):
        load_fitted(tmp_path)
    now = start(
        write(tmp_path / "pairs.jsonl", *pairs(5)), "tiny", TextRewardConfig(members=2), epochs=1
    )
    folder = tmp_path / "fitted"
    save(now, folder, list(passes(now)))
    good = (folder / "fitted.json").read_text()
    (folder / "weights.pt").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"fitted is damaged .*fit it again"):
        load_fitted(folder)
    (folder / "weights.pt").unlink()
    with pytest.raises(UserError, match="is damaged"):
        load_fitted(folder)
    for content in ("", "[]", '{"format": 1}', good.replace('"members": 2', '"members": 1')):
        save(now, folder, [])
        (folder / "fitted.json").write_text(content)
        with pytest.raises(UserError, match="is damaged"):
            load_fitted(folder)
    for old, new in (('"format": 2', '"format": 99'), ('"members"', '"heads"'), (good, "{}")):
        (folder / "fitted.json").write_text(good.replace(old, new))
        with pytest.raises(UserError, match="another version of prefrl"):
            load_fitted(folder)
