"""Synthetic teachers: what they answer, and how often they are wrong."""

import hashlib
import json
import math
from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from fakes import answer_all, make_query, make_segment, make_trajectory
from hypothesis import given
from hypothesis import strategies as st
from strategies import many, seeds
from toy_environments import tiny

from prefrl.answers import check_answer, to_comparisons
from prefrl.commands.training import parse_train
from prefrl.config.experiment import Experiment, with_named_teacher
from prefrl.config.learning import TEACHERS, OracleConfig, QueryConfig
from prefrl.errors import UserError
from prefrl.learning.selection import mean_return
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers.function import FunctionTeacher, load_teacher
from prefrl.teachers.oracle import Oracle, Scale
from prefrl.types import Query, QueryId, Segment

TEN = Scale(10.0)
QUERIES = [QueryId(index // 100, index % 100) for index in range(10_000)]
GOOD, BAD = np.array([1.0, 2.0]), np.array([1.0, 1.0])


def judge(left, right, average=1.0, query=QUERIES[0], seed=0, **config):
    rewards = [np.atleast_1d(np.asarray(side, float)) for side in (left, right)]
    answer = Oracle(OracleConfig(**config), seed).judge(query, rewards, Scale(average))
    return answer.value["left"] if answer.kind == "preference" else answer.kind


def rate(left, right, **options):
    """Return how often the left one is preferred, over many queries."""
    oracle = Oracle(OracleConfig(**options.pop("config")), options.pop("seed", 0))
    rewards = [np.array([left]), np.array([right])]
    scale = Scale(options.get("average", 1.0))
    answers = [oracle.judge(query, rewards, scale) for query in QUERIES]
    assert {answer.kind for answer in answers} == {"preference"}
    return np.mean([answer.value["left"] for answer in answers])


def close_to(chance):
    """Four standard deviations of a share of 10,000."""
    return pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / len(QUERIES)) + 1e-12)


# --- the oracle: B-Pref's six ----------------------------------------------------------------


@many
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.data(), seeds)
def test_the_exact_oracle_compares_sums(left, data, seed):
    right = data.draw(st.lists(st.floats(-5, 5), min_size=len(left), max_size=len(left)))
    difference = np.sum(left) - np.sum(right)
    if abs(difference) < 1e-9:
        return
    assert judge(left, right, seed=seed) == float(difference > 0)
    assert judge(right, left, seed=seed) == float(difference < 0)


@pytest.mark.parametrize("config", [{}, {"rationality": 1.0}, {"mistake": 1.0}, {"equal": 0.1}])
def test_equal_clips_are_a_tie_for_every_teacher(config):
    assert judge(GOOD, GOOD[::-1], **config) == "tie"


def test_stochastic_answers_follow_bradley_terry_in_units_of_the_average():
    for difference in (0.5, -2.0):
        for average in (1.0, 10.0):
            config = {"rationality": 3.0}
            share = rate(difference * average, 0.0, average=average, config=config)
            assert share == close_to(1 / (1 + math.exp(-3 * difference)))


@pytest.mark.parametrize("difference", [1e300, -1e300, 1e-300])
def test_stochastic_answers_bear_any_difference(difference):
    left = judge(difference, 0.0, average=1e-9, rationality=1.0)
    assert left in (0.0, 1.0)
    if abs(difference) > 1:
        assert left == float(difference > 0)
    assert judge(difference, 0.0, average=0.0, rationality=1.0) in (0.0, 1.0)


@pytest.mark.parametrize("mistake", [0.0, 0.1, 0.5, 1.0])
def test_mistakes_turn_round_their_share_of_decisive_answers(mistake):
    assert rate(2.0, 1.0, config={"mistake": mistake}) == close_to(1 - mistake)
    assert rate(1.0, 2.0, config={"mistake": mistake}) == close_to(mistake)


def test_mistakes_are_independent_of_the_stochastic_choice():
    p = 1 / (1 + math.exp(-1))
    share = rate(1.0, 0.0, config={"rationality": 1.0, "mistake": 0.1})
    assert share == close_to(0.9 * p + 0.1 * (1 - p))


def test_a_mistake_makes_no_tie_decisive():
    assert judge(1.04, 1.0, equal=0.1, mistake=1.0) == "tie"
    assert judge(0.01, 0.01, skip=0.1, mistake=1.0) == "skip"


@pytest.mark.parametrize("average", [1.0, 50.0])
def test_thresholds_are_applied_once_to_the_average_return(average):
    a = average
    for difference, answer in ((0.099, "tie"), (0.011, "tie"), (0.101, 1.0), (-0.101, 0.0)):
        assert judge((2 + difference) * a, 2 * a, average, equal=0.1) == answer
    for best, answer in ((0.099, "skip"), (0.011, "skip"), (0.101, 1.0), (-3.0, "skip")):
        assert judge(best * a, (best - 0.05) * a, average, skip=0.1) == answer
        swapped = {1.0: 0.0}.get(answer, answer)
        assert judge((best - 0.05) * a, best * a, average, skip=0.1) == swapped


def test_without_thresholds_the_average_means_nothing():
    assert judge(-5.0, -6.0, average=1e9) == 1.0


def test_myopia_weighs_the_last_steps_most():
    early = [1.0, 0, 0, 0, 0]  # four steps before the end: weighs 0.9⁴
    for late, left in ((0.9**4 - 0.001, 1.0), (0.9**4 + 0.001, 0.0)):
        assert judge(early, [0, 0, 0, 0, late], myopia=0.9) == left
        assert judge([0, *early[:-1]], [0, 0, 0, 0, late / 0.9], myopia=0.9) == left
    assert judge(early, [0, 0, 0, 0, 0.99]) == 1.0
    # The last step counts in full, so a threshold means the same to a myopic teacher.
    assert judge(0.101, 0.0, equal=0.1, myopia=0.5) == 1.0


def test_the_same_question_gets_the_same_answer_whatever_came_before():
    config = OracleConfig(rationality=1.0, mistake=0.2)
    rewards = [np.array([1.0]), np.array([0.5])]

    def answers(order, seed=0):
        oracle = Oracle(config, seed)
        said = {query: oracle.judge(query, rewards, Scale(1.0)).value for query in order}
        return [said[query]["left"] for query in QUERIES[:200]]

    forward = answers(QUERIES[:200])
    assert answers(QUERIES[:200][::-1]) == forward
    assert answers(QUERIES[100:] + QUERIES[:100]) == forward
    assert answers(QUERIES[:200], seed=1) != forward


def test_seeds_and_queries_are_not_related():
    config = {"mistake": 0.5}
    answers = [[judge(GOOD, BAD, query=q, seed=s, **config) for q in QUERIES[:300]] for s in (0, 1)]
    assert abs(np.corrcoef(answers)[0, 1]) < 4 / math.sqrt(300)
    pairs = np.corrcoef(answers[0][:-1], answers[0][1:])[0, 1]
    assert abs(pairs) < 4 / math.sqrt(300)


# --- the oracle: every kind of question ------------------------------------------------------


def say(returns, kind="ranking", query=QUERIES[0], scale=TEN, **config):
    """Return the kind and the value of the answer to clips of these returns."""
    rewards = [np.atleast_1d(np.asarray(value, float)) for value in returns]
    answer = Oracle(OracleConfig(**config), 0).judge(query, rewards, scale, kind)
    check_answer(replace(make_query(count=len(returns)), kind=kind), answer)
    return answer.kind, answer.value


def order(returns, **options):
    kind, value = say(returns, **options)
    assert kind == "ranking"
    return value["order"]


def shares(returns, **options):
    """Return how often each order comes, over many queries; every one without equals."""
    said = Counter()
    for query in QUERIES:
        groups = order(returns, query=query, **options)
        assert all(len(group) == 1 for group in groups)
        said[tuple(index for [index] in groups)] += 1
    return {which: count / len(QUERIES) for which, count in said.items()}


def test_several_are_ranked():
    assert order([1, 3, 1, 2]) == [[1], [3], [0, 2]]
    assert order([2, 2, 2]) == [[0, 1, 2]]


def test_stochastic_rankings_follow_plackett_luce():
    returns, average, beta = (12.0, 4.0, 9.0), 10.0, 2.0
    weights = np.exp(beta * np.array(returns) / average)
    found = shares(returns, rationality=beta, scale=Scale(average))
    for which in permutations(range(3)):
        rest = [weights[list(which[place:])].sum() for place in range(3)]
        chance = np.prod([weights[i] / total for i, total in zip(which, rest, strict=True)])
        assert found[which] == close_to(chance), which


def test_a_stochastic_ranking_of_two_is_the_pair():
    for query in QUERIES[:300]:
        [[first]] = order([5, 4, -1e9], query=query, rationality=3.0)[:1]
        left = judge(5, 4, average=10.0, query=query, rationality=3.0)
        assert left == float(first == 0)


def test_a_mistake_swaps_neighbours_from_best_to_worst():
    chance = 0.3
    found = shares([4, 3, 2, 1], mistake=chance)
    expected = Counter()
    for swaps in product([False, True], repeat=3):  # each of three comparisons may be wrong
        ranked = [0, 1, 2, 3]
        for place, swapped in enumerate(swaps):
            if swapped:
                ranked[place : place + 2] = ranked[place : place + 2][::-1]
        expected[tuple(ranked)] += np.prod([chance if wrong else 1 - chance for wrong in swaps])
    assert len(expected) == 8 and found.keys() == expected.keys()
    for which, share in found.items():
        assert share == close_to(expected[which]), which


def test_as_many_pairs_are_wrong_as_there_were_mistakes():
    wrong = []
    for query in QUERIES[:4000]:
        place = [index for [index] in order([6, 5, 4, 3, 2, 1], query=query, mistake=0.1)]
        wrong.append(sum(a > b for n, a in enumerate(place) for b in place[n + 1 :]))
    counts = np.bincount(wrong, minlength=6)[:3] / 4000  # of five comparisons, a tenth each
    for number, share in enumerate(counts):
        chance = math.comb(5, number) * 0.1**number * 0.9 ** (5 - number)
        assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 4000))


def test_clips_nearer_than_the_threshold_to_the_best_of_a_place_stand_together():
    assert order([5, 4.5, 3.9, 0.2, 1], equal=0.1) == [[0, 1], [2], [3, 4]]
    assert order([5, 4.5, 3.9, 0.2, 1], equal=0.11) == [[0, 1], [2], [3, 4]]
    assert order([5, 4.5, 3.9, 0.2, 1], equal=0.12) == [[0, 1, 2], [3, 4]]
    assert order([1, 1.9, 2.8], equal=0.1) == [[1, 2], [0]], "a chain is no tie"
    assert order([5, 4.5, 1], equal=0.1, mistake=1.0) == [[2], [0, 1]]


def test_a_ranking_is_skipped_where_every_clip_is_below_the_threshold():
    assert say([0.9, -3, 0.2], skip=0.1) == ("skip", {})
    assert order([1.1, -3, 0.2], skip=0.1) == [[0], [2], [1]]
    for kind in ("choice", "ratings"):
        assert say([0.9, -3, 0.2], kind, skip=0.1) == ("skip", {})


def test_a_ranking_is_myopic():
    returns = [[1.0, 0, 0], [0, 0.85, 0], [0, 0, 0.8]]
    assert order(returns) == [[0], [1], [2]]
    assert order(returns, myopia=0.9) == [[0], [2], [1]]  # .81 .765 .8


def test_a_choice_is_kept_as_the_page_keeps_it():
    assert say([1, 3, 0, 2], "choice") == ("ranking", {"order": [[1], [0, 2, 3]]})
    assert say([2, 2, 2], "choice") == ("tie", {})
    assert say([3, 3, 2, 1], "choice") == ("ranking", {"order": [[0, 1], [2, 3]]})
    assert say([3, 2], "choice") == ("preference", {"left": 1.0})


def test_a_choice_teaches_which_is_the_best_and_nothing_of_the_others():
    query = replace(make_query(count=4), kind="choice")
    answer = Oracle(OracleConfig(), 0).judge(
        query.id, [np.array([value]) for value in (1.0, 3.0, 0.0, 2.0)], Scale(1.0), "choice"
    )
    lesson = to_comparisons(query, answer)
    names = {segment.id: index for index, segment in enumerate(query.segments)}
    taught = [(names[c.left.id], names[c.right.id], c.preference) for c in lesson.comparisons]
    assert taught == [(0, 1, 0.0), (1, 2, 1.0), (1, 3, 1.0)]
    assert {c.weight for c in lesson.comparisons} == {0.5}
    assert len(to_comparisons(replace(query, kind="ranking"), answer).comparisons) == 6


def test_a_choice_follows_the_softmax_and_a_mistake_takes_the_second():
    returns, average, beta = (12.0, 4.0, 9.0), 10.0, 2.0
    weights = np.exp(beta * np.array(returns) / average)
    options = {"rationality": beta, "scale": Scale(average)}
    best = [order(returns, kind="choice", query=query, **options)[0] for query in QUERIES]
    for index in range(3):
        assert np.mean([b == [index] for b in best]) == close_to(weights[index] / weights.sum())
    best = [order(returns, kind="choice", query=query, mistake=0.1)[0] for query in QUERIES]
    assert np.mean([b == [0] for b in best]) == close_to(0.9)
    assert np.mean([b == [2] for b in best]) == close_to(0.1)


def grades(returns, **options):
    kind, value = say(returns, "ratings", scale=Scale(10.0, 5.0, 4.0), **options)
    assert (kind, value["low"], value["high"]) == ("ratings", 1, 7)
    return value["ratings"]


def test_grades_are_in_deviations_from_the_mean_of_the_round():
    assert grades([5, 13, -3, 9, 1]) == [4, 7, 1, 6, 2]  # 0 2 −2 1 −1 deviations; 5.5 is even 6
    assert grades([1e9, -1e9]) == [7, 1]
    assert grades([5, 6.2, 6.4]) == [4, 4, 5]  # a grade is two thirds of a deviation
    assert grades([5, 13, 9], mistake=1.0) == [6, 4, 7]  # the order 0 2 1 instead of 1 2 0
    assert grades([13, 12.5, 1], equal=0.1) == [7, 7, 2]


def test_the_scale_of_a_round_is_that_of_all_that_it_asked_about():
    rewards = [np.array([1.0, -3.0]), np.array([0.0, 4.0]), np.array([1.0, 1.0])]
    spread = pytest.approx(np.std([-2, 4, 2]))
    assert Oracle(OracleConfig(), 0).scale(rewards) == (8 / 3, 4 / 3, spread, 4 / 3)
    seen = pytest.approx(1.0), pytest.approx(np.std([-2.5, 4, 1.5]))
    assert Oracle(OracleConfig(myopia=0.5), 0).scale(rewards, 9.0) == (8 / 3, *seen, 9.0)


faulty = st.builds(
    OracleConfig,
    rationality=st.sampled_from([math.inf, 0.1, 5.0]), myopia=st.sampled_from([1.0, 0.5]),
    mistake=st.sampled_from([0.0, 0.3, 1.0]), skip=st.sampled_from([0.0, 0.5]),
    equal=st.sampled_from([0.0, 0.5]),
)  # fmt: skip


@many
@given(
    faulty,
    st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=9),
    st.sampled_from(["preference", "ranking", "choice", "ratings"]), seeds,
)  # fmt: skip
def test_every_question_gets_an_answer_of_its_kind(config, clips, kind, seed):
    oracle, rewards = Oracle(config, seed), [np.array(clip) for clip in clips]
    scale = oracle.scale(rewards)
    answer = oracle.judge(QueryId(3, 5), rewards, scale, kind)
    check_answer(replace(make_query(count=len(clips)), kind=kind), answer)
    again = Oracle(config, seed).judge(QueryId(3, 5), rewards, scale, kind)
    assert (answer.kind, answer.value) == (again.kind, again.value)
    own = {"ratings": "ratings"}.get(kind, "preference" if len(clips) == 2 else "ranking")
    assert answer.kind in (own, "skip", "tie")


@pytest.mark.parametrize("kind", ["ranking", "choice", "ratings"])
def test_what_is_asked_is_answered_in_the_store(store, kind):
    clips = tuple(make_segment(name) for name in "abc")
    rewards = {name: np.full(3, value) for name, value in zip("abc", (1, 3, 2), strict=True)}
    store.ask(0, [Query(QueryId(0, 0), clips, kind)], rewards, 0)
    answer_all(Oracle(OracleConfig(), 0), store)
    [answer] = store.answers()
    assert (answer.kind, answer.value) == {
        "ranking": ("ranking", {"order": [[1], [2], [0]]}),
        "choice": ("ranking", {"order": [[1], [0, 2]]}),
        "ratings": ("ratings", {"ratings": [2, 6, 4], "low": 1, "high": 7}),
    }[kind]


# --- the oracle: how much better ---------------------------------------------------------------


def test_a_preference_says_how_much_in_halves_of_a_deviation_of_the_round():
    scale = Scale(10.0, spread=4.0)
    for difference, word in (
        (0.1, "negligibly"), (1.9, "negligibly"), (2.1, "slightly"), (3.9, "slightly"),
        (4.1, "better"), (5.9, "better"), (6.1, "significantly"), (1e9, "significantly"),
    ):  # fmt: skip
        options = {"scale": scale, "strength": True}
        right = say([5 + difference, 5], **options)
        wrong = say([5 - difference, 5], mistake=1.0, **options)
        assert right == wrong == ("preference", {"left": 1.0, "strength": word})
    assert say([5, 5], scale=scale, strength=True) == ("tie", {})
    assert say([5, 4], scale=Scale(1.0), strength=True)[1]["strength"] == "significantly"
    assert say([3, 2, 1], strength=True) == say([3, 2, 1])


def test_strength_teaches_a_margin(store):
    ask(store, [(0, 9), (3, 0)])  # of which the standard deviation is 3.67
    answer_all(Oracle(OracleConfig(strength=True), 0), store)
    assert [answer.value["strength"] for answer in store.answers()] == ["significantly", "slightly"]
    margins = [comparison.margin for comparison in store.comparisons(margin_scale=3.0)]
    assert margins == pytest.approx([3.0, 1.0])


# --- the oracle: B-Pref's six, and its published form ------------------------------------------


def test_the_six_teachers_have_the_papers_names_and_numbers():
    exact = {"rationality": math.inf, "myopia": 1.0, "mistake": 0.0, "skip": 0.0, "equal": 0.0}
    faults = {
        "oracle": {}, "stoc": {"rationality": 1.0}, "mistake": {"mistake": 0.1},
        "skip": {"skip": 0.1}, "equal": {"equal": 0.1}, "myopic": {"myopia": 0.9},
    }  # fmt: skip
    assert {name: vars(config) for name, config in TEACHERS.items()} == {
        name: exact | fault | {"strength": False, "bpref": False, "regret": ""}
        for name, fault in faults.items()
    }


def test_a_named_teacher_sets_the_faults_that_were_not_given():
    given = OracleConfig(mistake=0.2, bpref=True)
    for name, oracle in {
        "skip": OracleConfig(skip=0.1, mistake=0.2, bpref=True),
        "mistake": given,
        "oracle": given,
    }.items():
        named = with_named_teacher(Experiment(teacher=name, oracle=given))
        assert (named.teacher, named.oracle) == ("oracle", oracle)
    for name in ("human", "my_module:prefer"):
        experiment = Experiment(teacher=name, oracle=given)
        assert with_named_teacher(experiment) == experiment


@pytest.mark.parametrize(
    ("words", "oracle"),
    [
        ("--teacher stoc", {"rationality": 1.0}),
        ("--teacher=myopic --oracle.bpref", {"myopia": 0.9, "bpref": True}),
        ("--oracle.mistake 0.3 --teacher skip", {"skip": 0.1, "mistake": 0.3}),
        ("--teacher mistake --oracle.mistake 0", {}),
        ("--teacher stoc --oracle.rationality inf", {}),
        ("--teacher oracle --oracle.strength", {"strength": True}),
    ],
)
def test_options_count_beside_a_named_teacher(words, oracle):
    experiment = parse_train(["half-cheetah", *words.split()]).experiment
    assert (experiment.teacher, experiment.oracle) == ("oracle", OracleConfig(**oracle))


def test_a_named_teacher_is_kept_as_its_numbers(tmp_path):
    experiment = tiny(teacher="equal", oracle=OracleConfig(mistake=0.25), steps=128, rounds=1)
    path = train(experiment, tmp_path / "run").path
    kept = json.loads((path / "config.json").read_text())
    assert kept["teacher"] == "oracle"
    assert (kept["oracle"]["equal"], kept["oracle"]["mistake"]) == (0.1, 0.25)


def published(first, second, query, config, mean):
    """Return the label of B-Pref's `get_label`, from its code: 0, 1, −1 (equal) or None (skipped).

    Its chances are this oracle's: the first decides the label, the second makes the mistake.
    """
    key = f"oracle 0 {query.round} {query.index}".encode()
    digest = hashlib.blake2b(key, digest_size=16).digest()
    label_chance, mistake_chance = (
        int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8)
    )
    skip_threshold, equal_threshold = config.skip * mean, config.equal * mean
    if skip_threshold > 0 and not max(first.sum(), second.sum()) > skip_threshold:
        return None
    equal = abs(first.sum() - second.sum()) < equal_threshold
    first, second = first.copy(), second.copy()
    for index in range(len(first) - 1):
        first[: index + 1] *= config.myopia
        second[: index + 1] *= config.myopia
    label = int(first.sum() < second.sum())
    if config.rationality < math.inf:
        logits = torch.tensor([first.sum(), second.sum()]) * config.rationality
        label = int(label_chance >= torch.softmax(logits, -1)[0])
    if mistake_chance <= config.mistake:
        label = 1 - label
    return -1 if equal else label


@pytest.mark.parametrize("mean", [-2.0, 0.0, 1.5, 4.0])
@pytest.mark.parametrize("rationality", [math.inf, 1.0])
@pytest.mark.parametrize("myopia", [1.0, 0.9])
def test_the_published_form_is_that_of_its_code(mean, rationality, myopia):
    generator = np.random.default_rng(0)
    config = OracleConfig(rationality, myopia, mistake=0.2, skip=0.3, equal=0.3, bpref=True)
    oracle, said = Oracle(config, 0), Counter()
    for query in QUERIES[:1500]:
        pair = generator.integers(-2, 3, (2, 4)).astype(float) / 2  # often of equal sums
        answer = oracle.judge(query, list(pair), Scale(77.0, policy=mean))
        label = published(*pair, query, config, mean)
        expected = {None: "skip", -1: "tie", 0: 1.0, 1: 0.0}[label]
        assert (answer.value["left"] if answer.value else answer.kind) == expected
        said[expected] += 1
    assert said[1.0] and said[0.0] and bool(said["skip"]) == bool(said["tie"]) == (mean > 0)


def test_in_the_published_form_the_first_of_two_equals_is_better():
    assert judge(GOOD, GOOD[::-1], bpref=True) == 1.0
    assert judge(GOOD, GOOD[::-1], bpref=True, mistake=1.0) == 0.0
    assert order([1, 3, 1, 2], bpref=True) == [[1], [3], [0], [2]]


def test_the_published_rationality_is_of_raw_rewards():
    for average in (1.0, 100.0):
        share = rate(3.0, 2.5, average=average, config={"rationality": 2.0, "bpref": True})
        assert share == close_to(1 / (1 + math.exp(-1.0)))


def test_the_mean_of_a_clip_is_that_of_the_episodes():
    episodes = [make_trajectory(50), make_trajectory(50, first=3.0)]  # 12,250 and 13,750
    assert mean_return(episodes, 10) == pytest.approx(13_000 * 10 / 50)
    pieces = [make_trajectory(50), make_trajectory(30)]  # 12,250 and 4,350
    assert mean_return(pieces, 10) == pytest.approx(16_600 * 10 / 80)
    assert mean_return(pieces, None) == pytest.approx(8_300)


@pytest.mark.parametrize("bpref", [False, True])
def test_skips_spend_the_budget_in_the_published_form_alone(tmp_path, bpref):
    experiment = tiny(teacher="skip", oracle=OracleConfig(skip=0.9, bpref=bpref), labels=40)
    path = train(experiment, tmp_path / "run").path
    with closing(FeedbackStore(path / "feedback.sqlite")) as store:
        asked, answered = store.counts()[:2]
        assert answered < 40 and (asked == 40 if bpref else asked > 40)
        queries = [store.query(answer.query) for answer in store.answers()]
        truth = store.truth(queries)
        assert truth.mean_return.keys() == set(range(4))
        again = [*Oracle(OracleConfig(skip=0.9, bpref=bpref), 0).answer(queries, truth)]
        assert [(a.kind, a.value) for a in again] == [(a.kind, a.value) for a in store.answers()]


@pytest.mark.parametrize("kind", ["preference", "ranking", "choice", "ratings"])
def test_a_run_with_every_fault_is_resumed_and_replayed_to_the_byte(tmp_path, kind):
    oracle = OracleConfig(2.0, 0.9, mistake=0.2, skip=0.5, equal=0.2, strength=True, bpref=True)
    query = QueryConfig(kind, clips=2 if kind == "preference" else 4, explore_steps=256)
    experiment = tiny(oracle=oracle, query=query)
    whole = train(experiment, tmp_path / "whole")
    with closing(start(experiment, tmp_path / "cut")) as session:
        for now in rounds(session):
            if now.state == "done" and now.index == 1:
                session.feedback.answer(*Oracle(oracle, 0).answer(*asked(session)))
                break  # some of what is asked is answered by now
    cut = RunFolder(tmp_path / "cut")
    with closing(resume(cut.path)) as session:
        assert [now.index for now in rounds(session) if now.state == "done"] == [2, 3, 4]
    lines = (whole.path / "metrics.jsonl").read_bytes()
    assert (cut.path / "metrics.jsonl").read_bytes() == lines
    assert sum(1 for _ in replay(cut.path, tmp_path / "copy"))
    assert (tmp_path / "copy" / "metrics.jsonl").read_bytes() == lines


def asked(session):
    """Return the first two queries that wait for an answer, and the truth."""
    queries = session.feedback.pending()[:2]
    return queries, session.feedback.truth(queries)


# --- the oracle: what it refuses, and how it is asked ------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"mistake": -0.1}, {"mistake": 1.1}, {"skip": 2}, {"equal": -1}, {"rationality": 0},
        {"rationality": float("nan")}, {"myopia": 0}, {"myopia": 1.5}, {"mistake": float("nan")},
    ],
)  # fmt: skip
def test_an_impossible_teacher_is_refused(config):
    [(name, value)] = config.items()
    with pytest.raises(UserError, match=rf"--oracle\.{name} is {value}; expected"):
        Oracle(OracleConfig(**config), 0)


def ask(store, returns, round_index=0):
    """Ask one query for each pair of returns; three rewards make up each."""
    queries, rewards = [], {}
    for index, pair in enumerate(returns):
        names = [f"{round_index} {index} {side}" for side in "lr"]
        queries.append(Query(QueryId(round_index, index), tuple(map(make_segment, names))))
        rewards |= {name: np.full(3, value / 3) for name, value in zip(names, pair, strict=True)}
    store.ask(round_index, queries, rewards, 0)


@pytest.fixture
def store():
    store = FeedbackStore(":memory:")
    yield store
    store.close()


def test_the_oracle_answers_what_is_pending_from_the_hidden_rewards(store):
    ask(store, [(3, 1), (1, 3), (2, 2)])
    answer_all(Oracle(OracleConfig(), 0), store)
    ask(store, [(-1, -2)], 1)
    answer_all(Oracle(OracleConfig(), 0), store)
    assert [(a.query, a.kind, a.value, a.teacher) for a in store.answers()] == [
        ((0, 0), "preference", {"left": 1.0}, "oracle"),
        ((0, 1), "preference", {"left": 0.0}, "oracle"),
        ((0, 2), "tie", {}, "oracle"),
        ((1, 0), "preference", {"left": 1.0}, "oracle"),
    ]
    assert not store.pending()


def test_the_average_is_of_the_clips_that_were_asked_about(store):
    ask(store, [(-30, 10), (0, 80)])
    truth = store.truth(store.pending())
    assert truth.asked == {0: ["0 0 l", "0 0 r", "0 1 l", "0 1 r"]}
    rewards = [truth.rewards[name] for name in truth.asked[0]]
    assert Oracle(OracleConfig(), 0).scale(rewards).average == pytest.approx(30)
    answer_all(Oracle(OracleConfig(equal=0.9), 0), store)  # 27 decide
    assert [answer.value for answer in store.answers()] == [{"left": 0.0}] * 2
    ask(store, [(1, 0), (5, 0)], 1)  # their average is 1.5
    answer_all(Oracle(OracleConfig(equal=0.9), 0), store)
    assert [answer.kind for answer in store.answers()[2:]] == ["tie", "preference"]


# --- a function -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "left"),
    [
        (None, "skip", None),
        (True, "preference", 1.0),
        (False, "preference", 0.0),
        (1, "preference", 1.0),
        (0.25, "preference", 0.25),
        (np.float32(0.75), "preference", 0.75),
        (np.float64(0.75), "preference", 0.75),
        (np.bool_(True), "preference", 1.0),
        (np.int64(0), "preference", 0.0),
        (torch.tensor(0.25), "preference", 0.25),
        (0.5, "tie", None),
        (np.float16(0.5), "tie", None),
    ],
)
def test_what_a_function_returns_becomes_an_answer(store, said, kind, left):
    ask(store, [(1, 2)])
    answer_all(FunctionTeacher(lambda left, right: said, "mine"), store)
    [answer] = store.answers()
    assert (answer.kind, answer.teacher) == (kind, "mine")
    assert answer.value == ({} if left is None else {"left": left})
    assert 0 < answer.shown_at <= answer.answered_at


@pytest.mark.parametrize(
    "said", [-0.01, 1.01, 2, float("nan"), float("inf"), "left", [0.5], {}, object(), 1j, b"1"]
)
def test_nonsense_is_refused_in_a_sentence(store, said):
    ask(store, [(1, 2), (2, 1)])
    teacher = FunctionTeacher(lambda left, right: said, "mine")
    with pytest.raises(UserError, match=r"teacher mine returned .* for query \(0, 0\); expected"):
        answer_all(teacher, store)
    assert len(store.pending()) == 2


def test_a_function_sees_a_clip_up_to_where_its_episode_ended():
    ended = {"ended": np.arange(10) >= 4, "qpos": np.arange(10.0)[:, None]}
    short = replace(make_segment("short", 10), extras=ended)
    query, seen = Query(QueryId(0, 0), (short, make_segment("whole", 10))), []
    list(FunctionTeacher(lambda *clips: bool(seen.append(clips))).answer([query]))
    [(left, right)] = seen
    assert (len(left), len(right)) == (5, 10), "the moment of the end is the last one"
    assert left.extras["qpos"][:, 0].tolist() == [0, 1, 2, 3, 4] and left.id == "short"
    assert left.extras["ended"].tolist() == [False] * 4 + [True]
    assert len(query.segments[0]) == 10, "what is learned from stays whole"


def test_a_function_sees_the_two_segments_in_order(store):
    ask(store, [(1, 2), (3, 4)])
    seen = []
    teacher = FunctionTeacher(lambda left, right: bool(seen.append((left.id, right.id))))
    answer_all(teacher, store)
    assert seen == [("0 0 l", "0 0 r"), ("0 1 l", "0 1 r")]
    assert teacher.name == "<lambda>"
    answer_all(teacher, store)
    assert len(seen) == 2, "an answered query is asked about again"


def texts(name, *turns, prompt="Say:"):
    heard = [prompt, *(f"heard {n}" for n in range(1, len(turns)))]
    return Segment(name, np.array(heard), np.array(turns), task="one")


@pytest.mark.parametrize("said", [0.25, True, None])
def test_a_function_of_three_reads_the_prompt_and_two_texts(store, said):
    left, right = texts("l", "yes"), texts("r", "no", "well", "no")
    store.ask(0, [Query(QueryId(0, 0), (left, right))], {"l": np.zeros(1), "r": np.zeros(3)}, 0)
    seen = []

    def judge(prompt, a, b, /, mood="mild"):
        seen.append((prompt, a, b, mood))
        return said

    answer_all(FunctionTeacher(judge), store)
    assert seen == [("Say:", "yes", "no\n> heard 1\nwell\n> heard 2\nno", "mild")]
    assert [type(word) for word in seen[0]] == [str] * 4
    [answer] = store.answers()
    assert (answer.kind == "skip") == (said is None)


def test_a_function_of_three_is_not_for_robots(store):
    ask(store, [(1, 2)])
    with pytest.raises(UserError, match=r"teacher judge takes three arguments.*clips are no texts"):
        answer_all(FunctionTeacher(lambda prompt, a, b: 1.0, "judge"), store)
    assert len(store.pending()) == 1


def test_optional_and_keyword_parameters_do_not_count(store):
    ask(store, [(1, 2)])

    class Judge:
        def __call__(self, left, right, sure=1.0, *, loud=False):
            return sure

    answer_all(FunctionTeacher(Judge()), store)
    assert [answer.value for answer in store.answers()] == [{"left": 1.0}]


# --- a function by name -----------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_teacher_module.py").write_text(
        "def prefer(left, right):\n    return 0.25\n\n\nclass Likes:\n    prefer = prefer\n\n\n"
        "number = 5\n"
    )
    (tmp_path / "my_broken_teacher.py").write_text("import a_module_nobody_has\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["my_teacher_module:prefer", "my_teacher_module:Likes.prefer"])
def test_a_teacher_is_found_where_you_are(here, store, name):
    ask(store, [(1, 2)])
    teacher = load_teacher(name)
    answer_all(teacher, store)
    assert [(a.value, a.teacher) for a in store.answers()] == [({"left": 0.25}, name)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("oracel", "did you mean oracle"),
        ("prefer", "MODULE:OBJECT"),
        ("", "MODULE:OBJECT"),
        ("no_such_module:prefer", "cannot import 'no_such_module'"),
        (
            "my_broken_teacher:prefer",
            "No module named 'a_module_nobody_has' (my_broken_teacher.py:1)",
        ),
        ("my_teacher_module:prefers", "prefers"),
        ("my_teacher_module:Likes.most", "most"),
        ("my_teacher_module:", "cannot find the teacher"),
        ("my_teacher_module:number", "expected a function of two clips"),
        (":prefer", "MODULE:OBJECT"),
        (".my_teacher_module:prefer", "MODULE:OBJECT"),
    ],
)
def test_a_teacher_that_is_not_there_is_refused_in_a_sentence(here, name, words):
    with pytest.raises(UserError) as caught:
        load_teacher(name)
    assert words in str(caught.value) and repr(name) in str(caught.value)
