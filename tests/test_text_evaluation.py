"""What a language model achieves beside its reference: numbers by hand, wording, mistakes."""

import dataclasses
import json
import math
import re
import shutil
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from complaints import complaint
from hypothesis import given
from hypothesis import strategies as st
from strategies import few
from toy_environments import tiny
from toy_texts import Letters, save_small_model, tiny_text

from prefrl.cli import main
from prefrl.contracts import EvaluationRequest
from prefrl.errors import UserError
from prefrl.learning.statistics import estimate, in_words, length_controlled, share, win_rate
from prefrl.reports.evaluate import report_bias
from prefrl.runs.evaluate import evaluate_run
from prefrl.runs.load import load_policy
from prefrl.runs.train import train
from prefrl.storage.folder import RunFolder
from prefrl.text import bias, evaluation
from prefrl.text.build import load_reference
from prefrl.text.environments import play
from prefrl.text.episode import Episode
from prefrl.text.models.chance import Chance
from prefrl.text.models.load import load_language_model, save_language_model
from prefrl.text.models.template import Template


class HeldOut(Letters):
    """Says in its first words which tasks these are."""

    def reset(self, *, seed=None, options=None):
        said, info = super().reset(seed=seed)
        return f"{(options or {}).get('split', 'train')} {said}", info


gymnasium.register("toy/HeldOut-v0", HeldOut, disable_env_checker=True)


def undecided(left, right):
    return None


def prefer_longer(left, right):
    lengths = [sum(map(len, segment.actions.tolist())) for segment in (left, right)]
    return 0.5 + 0.5 * float(np.sign(lengths[0] - lengths[1]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    experiment = tiny_text(save_small_model(folder / "model"), env="toy/HeldOut-v0")
    return train(experiment, folder / "run")


@pytest.fixture(scope="module")
def policy(run):
    return load_policy(run.path)


# Intervals


def test_wilson_by_hand():
    result = share(8, 10)
    assert result["mean"] == 0.8
    assert result["interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert share(10, 10)["interval"] == pytest.approx([0.7225, 1.0], abs=1e-4)
    assert share(0, 10)["interval"] == pytest.approx([0.0, 0.2775], abs=1e-4)


@few
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_a_mean_lies_in_its_interval(values):
    result = estimate(values)
    low, high = result["interval"]
    assert result["mean"] == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_an_interval_is_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = estimate(values)["interval"]
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)


def test_a_win_rate_of_equal_wins_keeps_its_doubt():
    assert win_rate([1.0] * 10) == share(10, 10)
    assert win_rate([1.0, 0.0, 0.5, 0.5]) == estimate([1.0, 0.0, 0.5, 0.5])


@pytest.mark.parametrize(("strength", "length"), [(0.8, 1.5), (-0.4, 2.0), (0.0, -1.0)])
def test_length_controlled_recovers_what_made_the_wins(strength, length):
    generator = np.random.default_rng(1)
    longer = generator.normal(10, 10, 2500)  # A's replies are longer, too
    chances = 1 / (1 + np.exp(-(strength + length * np.tanh(longer / longer.std()))))
    wins = (generator.random(2500) < chances).astype(float)
    result = length_controlled(wins, longer)
    truth = 1 / (1 + math.exp(-strength))
    assert result["mean"] == pytest.approx(truth, abs=0.05)
    assert result["length"] == pytest.approx(length, abs=0.3)
    assert result["interval"][0] < truth < result["interval"][1]
    assert abs(wins.mean() - truth) > 0.05  # which the raw rate misses


def test_length_controlled_of_equal_lengths_is_the_raw_rate():
    result = length_controlled([1.0, 1.0, 0.0, 0.5], [3.0, 3.0, 3.0, 3.0])
    assert result["mean"] == pytest.approx(0.625, abs=2e-3)
    assert result["length"] == 0


def test_length_controlled_stays_finite_where_one_side_won_everything():
    result = length_controlled([1.0] * 20, [float(n % 3) for n in range(20)])
    assert 0.95 < result["mean"] < 1
    assert result["interval"] == pytest.approx([share(20, 20)["interval"][0], 1.0])
    separable = length_controlled([1.0] * 10 + [0.0] * 10, [5.0] * 10 + [-5.0] * 10)
    assert separable["mean"] == pytest.approx(0.5, abs=1e-3)  # length explains all of it


def test_in_words_of_nothing():
    assert in_words(None) == "nothing to go by"
    assert in_words({"mean": 0.5, "interval": [0.25, 0.75]}, ".0%") == "50% (25% to 75%)"


# Log-probabilities


def test_measure_by_hand(policy):
    episode = Episode(0)
    episode.append_observation("ab", [97, 98])
    episode.append_reply("cd", [99, 100], False)
    episode.append_observation("e", [101])
    episode.append_reply("f", [102], True)
    longer = Episode(1)
    longer.append_observation("a" * 9, [97] * 9)
    longer.append_reply("z", [122], True)
    said, entropies, _ = evaluation.measure(policy, [episode, longer])
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([episode.ids])).logits[0].double()
    every = torch.log_softmax(logits / policy.config.temperature, -1)
    expected = [every[1, 99], every[2, 100], every[4, 102]]
    np.testing.assert_allclose(said[0], expected, atol=1e-5)
    np.testing.assert_allclose(
        entropies[0], [-(row.exp() * row).sum() for row in every[[1, 2, 4]]], atol=1e-5
    )
    assert said[1].shape == entropies[1].shape == (1,)


def test_a_policy_that_is_its_reference_has_no_divergence_and_wins_half(run, policy):
    same = evaluation.reference_policy(run, policy)
    report = evaluation.evaluate(run, run.experiment(), same, EvaluationRequest(60))
    assert report.kl == {"mean": 0.0, "interval": [0.0, 0.0]}
    for wins in (report.win_rate, report.length_controlled):
        low, high = wins["interval"]
        assert low <= 0.5 <= high and 0.3 < wins["mean"] < 0.7
    assert report.gain["interval"][0] <= 0 <= report.gain["interval"][1]
    assert report.ties < 60, "both said the same"


def test_divergence_of_a_trained_policy_is_positive(run, policy):
    """The mean over its own samples estimates something that is never negative."""
    report = evaluate_run(run, EvaluationRequest(60))
    assert report["kl"]["interval"][1] > 0 and report["kl"]["mean"] > 0


# The report


def test_evaluate_reports_what_was_played(run, policy, capsys):
    report = evaluate_run(run, EvaluationRequest(10))
    assert report["held_out"] and report["notes"] == []
    assert report["labels"] == {
        "asked": 16,
        "answered": 16,
        "decisive": report["labels"]["decisive"],
        "clips": 32,
    }
    # The same tasks by hand, sampled with the same generators.
    environments = evaluation.fresh_environments(run.experiment(), 10)
    seeds = [evaluation.task_seed(evaluation.FRESH, task) for task in range(10)]
    returns = {}
    for sampling, (name, model) in enumerate(
        [("policy", policy), ("reference", evaluation.reference_policy(run, policy))]
    ):
        model.chance = Chance(evaluation.task_seed(2 * evaluation.FRESH, sampling))
        episodes = play(environments, model, seeds, split="test")
        assert all(episode.observations[0].startswith("test ") for episode in episodes)
        returns[name] = np.array([sum(episode.env_rewards) for episode in episodes])
        side = report[name]
        assert side["true_return"]["mean"] == pytest.approx(returns[name].mean())
        assert side["true_return"]["std"] == pytest.approx(returns[name].std())
        lengths = [sum(episode.sampled) for episode in episodes]
        assert side["tokens"]["mean"] == pytest.approx(np.mean(lengths))
        assert side["finished"] == np.mean([episode.finished[-1] for episode in episodes])
        assert side["info"]["length"] == np.mean([e.report["length"] for e in episodes])
    difference = returns["policy"] - returns["reference"]
    assert report["gain"]["mean"] == pytest.approx(difference.mean())
    assert report["win_rate"]["mean"] == pytest.approx((0.5 + 0.5 * np.sign(difference)).mean())
    assert report["ties"] == (difference == 0).sum()


def test_evaluation_repeats_itself_and_changes_nothing(run):
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.suffix in (".pt", ".jsonl")}
    assert evaluate_run(run, EvaluationRequest(4, show=1)) == evaluate_run(
        run, EvaluationRequest(4, show=1)
    )
    assert before == {p: p.read_bytes() for p in before}


def test_training_meets_other_tasks(run):
    experiment = run.experiment()
    trained = {evaluation.task_seed(experiment.seed, task) for task in range(10_000)}
    fresh = {evaluation.task_seed(evaluation.FRESH + experiment.seed, n) for n in range(1000)}
    assert len(trained & fresh) < 2  # by chance alone


@pytest.mark.parametrize(("teacher", "sign"), [("prefer_longer", 1), ("undecided", 0)])
def test_any_function_may_be_the_judge(run, teacher, sign):
    report = evaluate_run(run, EvaluationRequest(8, teacher=f"{__name__}:{teacher}", show=8))
    if not sign:
        assert report["win_rate"] is None and report["length_controlled"] is None
        assert (report["ties"], report["skips"]) == (0, 8)
        return
    lengths = [[len(c[s]["text"]) for s in ("policy", "reference")] for c in report["completions"]]
    expected = np.mean([0.5 + 0.5 * np.sign(ours - theirs) for ours, theirs in lengths])
    assert report["win_rate"]["mean"] == pytest.approx(expected)


def test_a_judge_that_is_not_at_hand_is_said_to_be_missing(run):
    experiment = dataclasses.replace(run.experiment(), teacher="gone_elsewhere:judge")
    name, judge, notes = evaluation._judge(EvaluationRequest(1), experiment)
    assert name == "oracle" and judge.sees_true_rewards
    assert len(notes) == 1 and "the oracle says who wins: " in notes[0]
    assert "gone_elsewhere" in notes[0]
    taught = dataclasses.replace(experiment, teacher=f"{__name__}:prefer_longer")
    assert evaluation._judge(EvaluationRequest(1), taught)[::2] == (taught.teacher, [])


def test_a_reference_that_always_says_the_same_is_warned_about(run, tmp_path):
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    model = load_language_model(str(copy.reference))
    with torch.no_grad():
        model.model.get_output_embeddings().weight.mul_(1000)
    save_language_model(model, copy.reference)
    report = evaluate_run(copy, EvaluationRequest(4))
    assert report["reference"]["entropy"] < 0.05
    assert any("nearly deterministic" in note for note in report["notes"])


def test_tasks_that_are_not_held_out_are_named_so():
    assert evaluation.holds_out(HeldOut(), 0)
    assert not evaluation.holds_out(Letters(), 0)


def test_talks_are_told_turn_by_turn():
    episode = Episode(0)
    for index, reply in enumerate(("one", "two")):
        episode.append_observation(f"heard {index}", [1])
        episode.append_reply(reply, [2], True)
        episode.env_rewards.append(1.0)
    assert evaluation._told(episode) == {"text": "one\n> heard 1\ntwo", "true_return": 2.0}


def test_evaluate_on_the_command_line(run, capsys):
    main(["evaluate", str(run.path), "--episodes", "3", "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out)["policy"].keys() >= {"true_return", "tokens", "entropy", "finished"}
    main(["evaluate", str(run.path), "--episodes", "3", "--show", "1", "--wording"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("toy/HeldOut-v0, learned reward, 64 steps")
    assert sum(line.startswith("prompt: test ") for line in lines) == 1
    for words in ("true return  ", "KL from the reference  ", "wins  ", "He / She  "):
        assert any(line.startswith(words) for line in lines), words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--teacher human", "prefrl compare RUN_A RUN_B --teacher human"),
        ("--teacher orcale", "no teacher 'orcale'; did you mean oracle"),
        ("--show -1", "--show is -1"),
        ("--episodes 0", "--episodes is 0"),
        ("--episodes 1 --words /no/such/file", "cannot read /no/such/file"),
        ("--episodes 1 --scorer nonsense", "cannot find the scorer 'nonsense'"),
        ("--episodes 1 --scorer math:pi", "is 3.14.*; expected a function"),
    ],
)
def test_mistakes(words, sentence, run, capsys):
    assert re.search(sentence, complaint(["evaluate", run.path, *words.split()], capsys))


def test_what_is_for_language_models_alone_is_refused_of_robots(tmp_path):
    robot = train(tiny(steps=64, rounds=1, reward="true"), tmp_path / "run")
    for options in ({"show": 1}, {"teacher": f"{__name__}:prefer_longer"}):
        with pytest.raises(UserError, match=r"is for language models, but .* does not speak text"):
            evaluate_run(robot, EvaluationRequest(2, **options))
    with pytest.raises(UserError, match="--wording is for language models"):
        report_bias(robot)


def test_a_video_of_texts_is_refused(run, capsys):
    assert "--show 3` shows what it replies" in complaint(["video", run.path], capsys)


# Wording


def test_sentiment_and_toxicity_by_hand():
    assert bias.sentiment("A GOOD, kind man; a wonderful liar.") == 0.5
    assert bias.sentiment("a goodly table") == 0
    assert bias.sentiment("awful") == -1
    assert bias.is_toxic("You idiot!") and not bias.is_toxic("A skillful idiomatic reply")
    assert bias.is_toxic("soup", {"soup"})
    assert not bias.GOOD & bias.BAD


class Biased:
    """Speaks well of the first group of a pair and badly of the other, but of the last pair."""

    config = None

    def __init__(self, tokenizer):
        self.template = Template(tokenizer, chat=False)
        self.text = self.template.decode

    def reply(self, sequences):
        return [SimpleNamespace(ids=self.template.reply_ids(self.say(ids))) for ids in sequences]

    def first(self, observation):
        return self.template.first(observation)

    def say(self, ids):
        prompt = self.template.tokenizer.decode(ids)
        [(pair, side)] = [
            (pair, pair.index(group))
            for pair in bias.GROUPS
            for group in pair
            if prompt.startswith(f"{group} ")
        ]
        if pair == bias.GROUPS[-1]:
            return " a kind teacher"
        return (" a good teacher", " a stupid liar")[side]


def test_the_gap_of_a_biased_model(run):
    tokenizer = load_reference(run.experiment(), run).tokenizer
    report = bias.measure_bias(Biased(tokenizer), Biased(tokenizer), seed=0)
    gaps = report["policy"]["gaps"]
    assert len(gaps) == len(bias.GROUPS) and report["continuations"] == 40
    assert gaps["The man / The woman"] == {"mean": 2.0, "interval": [2.0, 2.0]}
    assert gaps["Greg / Jamal"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    pairs = len(bias.GROUPS)
    assert report["policy"]["toxic"]["mean"] == pytest.approx((pairs - 1) / 2 / pairs)
    assert report["policy"] == report["reference"]
    lines = bias.in_words(report)
    assert any("The man / The woman" in line and "+2.00" in line for line in lines)


def test_what_a_run_fine_tuned_is_the_third_column(tmp_path):
    demonstrating = tiny_text(
        "tiny", env="prefrl/RandomWalks-v0", steps=16, rounds=1, reward="true",
        text={"demonstrations": 4, "sft_epochs": 1},
    )  # fmt: skip
    folder = train(demonstrating, tmp_path / "run")
    policy = load_policy(folder.path)
    base = evaluation.base_policy(folder, policy)
    began = load_language_model("tiny", demonstrating.seed).model.state_dict()
    assert all(torch.equal(began[name], w) for name, w in base.model.state_dict().items())
    report = report_bias(folder)
    assert report["base"].keys() == report["reference"].keys()
    assert bias.in_words(report)[1].split() == ["base", "reference", "policy"]
    gone = dataclasses.replace(
        demonstrating, domain=dataclasses.replace(policy.config, model="gone")
    )
    folder.save_experiment(gone)
    report = report_bias(folder)
    assert "base" not in report and "'gone'" in bias.in_words(report)[-1]


def test_a_run_that_fine_tuned_nothing_has_no_base(run, policy):
    assert evaluation.base_policy(run, policy) is None


def test_words_and_scorer_of_ones_own(run, tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("# mine\nTeacher\n\nsoup # hot\n")
    (tmp_path / "scoring.py").write_text("def length(text):\n    return len(text)\n")
    monkeypatch.chdir(tmp_path)
    assert bias.read_words(tmp_path / "words.txt") == {"teacher", "soup"}
    report = report_bias(run, tmp_path / "words.txt", "scoring:length")
    assert report["policy"]["sentiment"]["mean"] > 0
    assert report == report_bias(run, tmp_path / "words.txt", "scoring:length")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"# nothing\n", "holds no words"), (b"two words\n", "not one word"), (b"\xff", "UTF-8")],
)
def test_files_that_hold_no_words(content, sentence, tmp_path):
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        bias.read_words(tmp_path / "words.txt")


@pytest.mark.parametrize("said", ["good", None, math.nan])
def test_a_scorer_that_returns_no_number(said):
    with pytest.raises(UserError, match="expected a finite number"):
        bias.scored(lambda text: said, "text")
