"""One reward model for each aspect, and the rule that makes one reward of them."""

import dataclasses
import math
from contextlib import closing

import numpy as np
import pytest
import toy_texts
from fakes import FixedReward
from toy_environments import tiny

from prefrl.config.experiment import Experiment, check_aspects, check_experiment
from prefrl.config.learning import FitConfig, RuleConfig
from prefrl.config.text import DirectConfig, TextConfig
from prefrl.contracts import EvaluationRequest
from prefrl.environments.aspects import aspects_of, chosen_aspects, paid_by_aspect
from prefrl.errors import UserError
from prefrl.learning.composed import ComposedReward, begin_fit, fit
from prefrl.learning.reward import predict_returns
from prefrl.reports.inspect import in_words, inspect_run
from prefrl.runs.evaluate import evaluate_run
from prefrl.runs.load import load_reward
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Comparison, QueryId, Segment, Trajectory


class Column(FixedReward):
    """Pays one column of what is observed, in logits; calibrated as a real part is."""

    def __init__(self, column, members=1):
        super().__init__((1.0,) * members)
        self.column, self.mean, self.std = column, 0.0, 1.0

    def encode(self, segments):
        sums = [s.observations[:, self.column].sum() for s in segments]
        return super().encode(
            [Segment("", np.array([[total]]), np.zeros((1, 1))) for total in sums]
        )

    def _paid(self, trajectories):
        return [t.observations[:, self.column].astype(float) for t in trajectories]

    def rewards(self, trajectories):
        return [(paid - self.mean) / self.std for paid in self._paid(trajectories)]

    def sample(self, trajectories, before):
        return list(trajectories)

    def calibrate(self, trajectories):
        every = np.concatenate(self._paid(trajectories))
        self.mean, self.std = every.mean(), every.std()

    def state_dict(self):
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state):
        self.mean, self.std = state["mean"], state["std"]


def trajectory(rows):
    rows = np.array(rows, float)
    return Trajectory(rows, np.zeros((len(rows), 1)), np.zeros(len(rows)))


def replies(count=400, seed=0):
    """Return episodes of one turn; what the second column pays varies a hundred times as much."""
    drawn = np.random.default_rng(seed).normal(size=(count, 2)) * [1.0, 100.0]
    return [trajectory([row]) for row in drawn]


def composed(whole_episodes=True, taught=("helpful", "safe"), **rule):
    parts = {"helpful": Column(0), "safe": Column(1)}
    reward = ComposedReward(parts, RuleConfig(**rule), whole_episodes)
    reward.taught = [*taught]
    return reward


def z(trajectories, column):
    """Return a column with mean 0 and deviation 1 over what was sampled first."""
    values = np.array([t.observations[0, column] for t in trajectories])
    first = np.array([t.observations[0, column] for t in replies()])
    return (values - first.mean()) / first.std()


def totals(reward, trajectories):
    return np.array([steps.sum() for steps in reward.rewards(trajectories)])


# The rules


def test_each_part_is_scaled_by_itself_before_weights_count():
    """Sums that are scaled after adding leave it to the sizes of parts which of them counts."""
    reward, first = composed(weights=(0.75, 0.25)), replies()
    reward.calibrate(first)
    expected = 0.75 * z(first, 0) + 0.25 * z(first, 1)
    expected = (expected - expected.mean()) / expected.std()
    assert np.allclose(totals(reward, first), expected, atol=1e-5)


def test_weights_are_alike_by_default_and_may_leave_an_aspect_out():
    first = replies()
    alike, alone = composed(), composed(weights=(0.0, 1.0))
    for reward in (alike, alone):
        reward.calibrate(first)
    assert np.corrcoef(totals(alike, first), z(first, 0) + z(first, 1))[0, 1] > 0.9999
    assert np.allclose(totals(alone, first), z(first, 1), atol=1e-5)


def test_the_threshold_is_llama_2s():
    """R is the guard's σ(score) where that is below .15, else the other's; then logit, whitened."""
    reward, first = composed(kind="threshold", anchor=0.5), replies()
    reward.calibrate(first)
    safe = np.array([t.observations[0, 1] for t in first])
    safe = safe - np.median(safe)
    helpful = np.array([t.observations[0, 0] for t in first])
    helpful = helpful - helpful.mean()
    probability = 1 / (1 + np.exp(-np.clip(safe, -700, 700)))
    logits = np.where(probability < 0.15, safe, helpful)
    expected = (logits - logits.mean()) / logits.std()
    assert 0.3 < (probability < 0.15).mean() < 0.7
    assert np.allclose(totals(reward, first), expected, atol=1e-4)


def test_the_threshold_looks_at_single_steps_where_each_is_paid():
    rows = np.random.default_rng(0).normal(size=(300, 2)) * [1.0, 3.0]
    reward, first = composed(False, kind="threshold", anchor=0.5), [trajectory(rows)]
    reward.sample(first, [])
    reward.calibrate(first)
    safe, helpful = rows[:, 1] - np.median(rows[:, 1]), rows[:, 0] - rows[:, 0].mean()
    logits = np.where(safe < math.log(0.15 / 0.85), safe, helpful)
    [paid] = reward.rewards(first)
    assert np.allclose(paid, (logits - logits.mean()) / logits.std(), atol=0.01)


def test_the_multiplier_rises_while_the_guard_is_below_its_bound():
    reward, first = composed(kind="constraint", bound=0.5, multiplier_rate=2.0), replies()
    reward.calibrate(first)
    reward.sample(first, [])  # its mean is 0 there
    assert reward.multiplier == pytest.approx(1 + 2 * 0.5)
    assert reward.metrics()["safe.level"] == pytest.approx(0, abs=1e-9)
    expected = z(first, 0) + reward.multiplier * z(first, 1)
    reward.calibrate(first)
    assert np.corrcoef(totals(reward, first), expected)[0, 1] > 0.9999
    safer = np.array([[0.0, 1000.0]])
    good = [dataclasses.replace(t, observations=t.observations + safer) for t in first]
    for _ in range(9):
        reward.sample(good, first)
    assert reward.multiplier == 0, "it never rewards being worse"


def test_what_nobody_has_answered_about_counts_nothing():
    for rule in ({}, {"kind": "constraint"}, {"kind": "threshold"}):
        reward, first = composed(taught=("helpful",), **rule), replies()
        reward.sample(first, [])
        reward.calibrate(first)
        assert np.allclose(totals(reward, first), z(first, 0), atol=1e-5)


def test_each_part_learns_from_the_answers_about_its_own_aspect():
    reward = composed(taught=())
    seen = []
    for aspect, part in reward.parts.items():
        part.normalise_inputs = lambda encoded, aspect=aspect: seen.append((aspect, len(encoded)))
    clips = [Segment(f"{n}", np.full((2, 2), float(n)), np.zeros((2, 1))) for n in range(12)]
    comparisons = [
        Comparison(clips[2 * n], clips[2 * n + 1], 0.0, query=QueryId(0, n), aspect=aspect)
        for n, aspect in enumerate(["helpful"] * 4 + ["loud"] * 2)
    ]
    config = FitConfig(first_epochs=1)
    metrics = fit(reward, comparisons, config, begin_fit(reward, config, 0))
    assert seen == [("helpful", 8)] and reward.taught == ["helpful"]
    assert metrics["helpful.train_accuracy"] == metrics["train_accuracy"] == 1.0
    assert not any(name.startswith("safe.") for name in metrics)


def test_a_composed_reward_is_the_ensemble_of_all_members():
    parts = {"helpful": Column(0, members=2), "safe": Column(1, members=3)}
    reward, first = ComposedReward(parts, RuleConfig(), True), replies(4)
    clips = [Segment(f"{n}", t.observations, t.actions) for n, t in enumerate(first)]
    returns = predict_returns(reward, clips)
    assert returns.shape == (5, 4) == (reward.members, 4)
    assert (reward.members_of("helpful"), reward.members_of("safe")) == (slice(0, 2), slice(2, 5))
    assert returns[4].tolist() == pytest.approx([t.observations[0, 1] for t in first], rel=1e-5)


def test_its_state_is_all_that_its_rewards_depend_on():
    reward, first = composed(kind="threshold"), replies()
    reward.sample(first, [])
    reward.calibrate(first)
    other = composed(kind="threshold", taught=())
    other.load_state_dict(reward.state_dict())
    assert np.array_equal(totals(reward, first), totals(other, first))
    assert other.metrics() == reward.metrics()
    with pytest.raises(ValueError, match="rewards for helpful, safe"):
        ComposedReward({"a": Column(0), "b": Column(1)}, RuleConfig(), True).load_state_dict(
            reward.state_dict()
        )


# Which aspects there are, who answers, which rule


def test_aspects_are_the_environments_or_ones_own():
    known = {"fast": "Which is faster?", "level": "Which is more level?"}
    assert chosen_aspects((), known, "Env-v0") == known
    assert chosen_aspects(("better",), known, "Env-v0") == {}
    assert list(chosen_aspects(("level", "fast"), known, "Env-v0")) == ["level", "fast"]
    own = chosen_aspects(("fast", "quiet:Which is quieter?"), known, "Env-v0")
    assert own == {"fast": "Which is faster?", "quiet": "Which is quieter?"}


def test_what_a_step_pays_is_told_for_all_aspects_or_for_none():
    assert paid_by_aspect({"aspects": {"a": 1, "b": np.float32(2)}}, ["a", "b"]) == {"a": 1, "b": 2}
    for info in ({}, {"aspects": 3}, {"aspects": {"a": 1}}, {"aspects": {"a": 1, "b": np.nan}}):
        assert paid_by_aspect(info, ["a", "b"]) == {}


TWO = {"fast": "Which is faster?", "level": "Which is more level?"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"teacher": "fast=human"}, "names nobody who answers about level; add level=oracle"),
        ({"teacher": "fast=human,loud=oracle"}, "names 'loud', but what is asked about is fast, l"),
        ({"question": "Which?"}, "--question is one question, but what is asked about is fast"),
        ({"rule": RuleConfig(weights=(1.0,))}, "--rule.weights are 1; expected one for each of fa"),
        ({"rule": RuleConfig(weights=(0.0, 0.0))}, "not all 0"),
        ({"rule": RuleConfig(guard="fast")}, "--rule.kind weights guards none"),
        ({"rule": RuleConfig("threshold", guard="loud")}, "'loud'; expected one of fast, level"),
    ],
)
def test_what_does_not_go_with_the_aspects_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        check_aspects(Experiment(env="Env-v0", **changes), TWO)


def test_a_rule_or_a_teacher_of_aspects_needs_several():
    with pytest.raises(UserError, match=r"one reward of several, .* is better alone"):
        check_aspects(Experiment(rule=RuleConfig("threshold")), {})
    with pytest.raises(UserError, match="one question alone"):
        check_aspects(Experiment(teacher="fast=human"), {})


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ("fast=human,fast=oracle", "expected a teacher for each aspect, once"),
        ("fast=,level=oracle", "expected a teacher for each aspect, once"),
        ("fast=stoc,level=oracle", "names stoc for an aspect; expected oracle there"),
    ],
)
def test_a_teacher_for_each_aspect_is_named_once(teacher, sentence):
    with pytest.raises(UserError, match=sentence):
        check_experiment(Experiment(env="Env-v0", teacher=teacher))


@pytest.mark.parametrize("words", [("loud",), ("fast", "fast"), (":Which?",), ("a b:Which?",)])
def test_an_aspect_that_is_none_is_refused(words):
    with pytest.raises(UserError, match="--aspects"):
        chosen_aspects(words, TWO, "Env-v0")


@pytest.mark.parametrize("aspects", [["fast"], {"fast": ""}, {"better": "Which?"}, {"a\n": "?"}])
def test_an_environments_aspects_are_names_and_questions(aspects):
    with pytest.raises(UserError, match="expected a question for each name"):
        aspects_of({"aspects": aspects}, "Env-v0")


# Whole runs


def two_of(kind, tmp_path, **changes):
    if kind == "robot":
        return tiny(env="toy_environments:toy/Two-v0", **changes)
    model = toy_texts.save_small_model(tmp_path / "model")
    experiment = toy_texts.tiny_text(model, rounds=3, steps=48)
    return dataclasses.replace(experiment, env="toy_texts:texts/Two-v0", **changes)


def metrics_of(folder):
    return (folder.path / "metrics.jsonl").read_bytes()


RULES = {
    "robot": RuleConfig("constraint", bound=0.5),
    "text": RuleConfig("threshold", anchor=0.5),
}


@pytest.mark.parametrize("kind", ["robot", "text"])
def test_a_run_of_two_aspects_is_resumed_and_replayed_to_the_byte(kind, tmp_path):
    experiment = two_of(kind, tmp_path, rule=RULES[kind])
    with closing(start(experiment, tmp_path / "whole")) as session:
        names = [*session.config.aspects]
        for _ in rounds(session):
            pass
    whole = RunFolder.open(tmp_path / "whole")
    for until in (
        (0, 2) if kind == "robot" else (1,)
    ):  # what is done of the round that is under way then is lost
        path = tmp_path / f"stopped-{until}"
        with closing(start(experiment, path)) as session:
            for done in rounds(session):
                if done.state == "training" and done.index == until + 1:
                    break
        with closing(resume(path)) as session:
            for _ in rounds(session):
                pass
        assert metrics_of(RunFolder.open(path)) == metrics_of(whole)
    for _ in replay(whole.path, tmp_path / "again"):
        pass
    assert metrics_of(RunFolder.open(tmp_path / "again")) == metrics_of(whole)
    last = whole.metrics()[-1]
    assert all(f"{name}.true_return" in last and f"{name}.level" in last for name in names)
    with closing(FeedbackStore(whole.feedback, read_only=True)) as store:
        asked = [comparison.aspect for comparison in store.comparisons()]
    assert abs(asked.count(names[0]) - asked.count(names[1])) <= 1 and len(set(asked)) == 2
    assert {*load_reward(whole.path).taught} == {*names}
    report = inspect_run(whole)
    assert [*report["aspects"]] == names
    assert sum(entry["answers"] for entry in report["aspects"].values()) == len(asked)
    assert any(line.startswith(f"  {names[1]}: its reward") for line in in_words(report))
    achieved = evaluate_run(whole, EvaluationRequest(4))["policy"]["info"]
    assert f"{names[0]}.true_return" in achieved


def test_one_of_the_aspects_may_be_asked_about_alone(tmp_path):
    with closing(start(two_of("robot", tmp_path, aspects=("rest",)), tmp_path / "run")) as session:
        for _ in rounds(session):
            pass
        comparisons = session.feedback.comparisons()
    assert {c.aspect for c in comparisons} == {"rest"}
    for comparison in comparisons:  # the oracle prefers what pushes less, either way
        left, right = (np.abs(c.actions).sum() for c in (comparison.left, comparison.right))
        assert comparison.preference == (left < right)
    assert "rest.level" not in RunFolder.open(tmp_path / "run").metrics()[-1]


def test_answers_about_other_aspects_alone_are_refused(tmp_path):
    with closing(start(two_of("robot", tmp_path), tmp_path / "two")) as session:
        for _ in rounds(session):
            pass
    plain = two_of("robot", tmp_path, aspects=("better",))
    with pytest.raises(UserError, match=r"answers about push, rest alone, .* here is better"):
        start(plain, tmp_path / "plain", answers_from=tmp_path / "two")
    one = two_of("robot", tmp_path, aspects=("push",), labels=0)
    with closing(start(one, tmp_path / "one", answers_from=tmp_path / "two")) as session:
        for _ in rounds(session):
            pass
    assert RunFolder.open(tmp_path / "one").metrics()[-1]["train_loss"] > 0


def test_people_answer_about_one_aspect_and_the_oracle_about_the_other(tmp_path):
    """A round waits for what is theirs, however much the oracle has answered."""
    experiment = two_of("robot", tmp_path, teacher="push=human,rest=oracle")
    with closing(start(experiment, tmp_path / "run")) as session:
        for done in rounds(session):
            if done.state == "waiting":
                break
        assert session.asks_people
        pending = session.feedback.pending()
        assert {query.aspect for query in pending} == {"push"}
        answers = session.feedback.answers()
        assert {session.feedback.query(a.query).aspect for a in answers} == {"rest"}
        assert {a.teacher for a in answers} == {"oracle"} and done.index == 1


def test_an_oracle_needs_an_environment_that_tells_what_it_pays(tmp_path):
    experiment = tiny(env="toy_environments:toy/Pay-v0", aspects=("calm:Which is calmer?",))
    with (
        pytest.raises(UserError, match=r"for calm are not known .*info\[\"aspects\"\]\['calm'\]"),
        closing(start(experiment, tmp_path / "run")) as session,
    ):
        for _ in rounds(session):
            pass


def test_a_policy_that_is_its_own_reward_has_one_aspect(tmp_path):
    experiment = two_of("text", tmp_path)
    model = experiment.text.model
    direct = DirectConfig(episodes=8, completions_per_task=4)
    text = TextConfig(model, max_new_tokens=6, learner="direct", direct=direct)
    query = dataclasses.replace(experiment.query, acquisition="entropy")
    with pytest.raises(UserError, match=r"--learner direct .* about plain, short; use --learner"):
        start(dataclasses.replace(experiment, domain=text, query=query), tmp_path / "run")
