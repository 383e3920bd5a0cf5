"""Synthetic teachers: what they answer, and how often they are wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import answer_all, make_query, make_segment
from hypothesis import given
from hypothesis import strategies as st
from strategies import many, seeds

from prefrl.answers import check_answer
from prefrl.config.learning import OracleConfig
from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.teachers.function import FunctionTeacher, load_teacher
from prefrl.teachers.oracle import Oracle
from prefrl.types import Query, QueryId, Segment

QUERIES = [QueryId(index // 100, index % 100) for index in range(10_000)]
GOOD, BAD = np.array([1.0, 2.0]), np.array([1.0, 1.0])


def judge(left, right, average=1.0, query=QUERIES[0], seed=0, **config):
    rewards = [np.atleast_1d(np.asarray(side, float)) for side in (left, right)]
    answer = Oracle(OracleConfig(**config), seed).judge(query, rewards, average)
    return answer.value["left"] if answer.kind == "preference" else answer.kind


def rate(left, right, **options):
    """Return how often the left one is preferred, over many queries."""
    oracle = Oracle(OracleConfig(**options.pop("config")), options.pop("seed", 0))
    rewards = [np.array([left]), np.array([right])]
    answers = [oracle.judge(query, rewards, options.get("average", 1.0)) for query in QUERIES]
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
        said = {query: oracle.judge(query, rewards, 1.0).value for query in order}
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


def test_more_than_two_are_ranked():
    rewards = [np.array([value]) for value in (1.0, 3.0, 1.0, 2.0)]
    answer = Oracle(OracleConfig(), 0).judge(QUERIES[0], rewards, 1.0)
    assert (answer.kind, answer.value) == ("ranking", {"order": [[1], [3], [0, 2]]})
    check_answer(make_query(count=4), answer)


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
    assert store.truth(store.pending()).average_return[0] == pytest.approx(30)
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
