"""What an answer teaches, and what becomes of an answer that makes no sense."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from fakes import make_query, make_segment
from hypothesis import given
from hypothesis import strategies as st
from strategies import answer_values, kinds, many, near_answers, orders, probabilities

from prefrl.answers import check_answer, to_comparisons
from prefrl.errors import UserError
from prefrl.types import Answer, Comparison, Query, QueryId, Segment, Trajectory


def talk(name, words=("hello", "go away")):
    """Return a segment of text."""
    return Segment(
        name,
        np.array([f"turn {turn}" for turn in range(len(words))]),
        np.array(words),
        {"token_ids": np.zeros((len(words), 2))},
        "greeting",
        "policy 3",
    )


TALKS = Query(QueryId(4, 2), (talk("a"), talk("b", ("hi", "bye"))))


def lesson(kind, value, query=None, margin_scale=1.0):
    query = query or make_query()
    return to_comparisons(query, Answer(query.id, kind, value, "tester"), margin_scale)


@many
@given(probabilities, st.floats(0, 3), st.floats(0.1, 1))
def test_swapping_twice_changes_nothing(preference, margin, weight):
    comparison = Comparison(
        make_segment("a"), make_segment("b"), preference, margin, weight, QueryId(3, 4)
    )
    once, twice = comparison.swapped(), comparison.swapped().swapped()
    assert (once.left.id, once.right.id) == ("b", "a")
    assert once.preference == 1 - preference
    for swapped in (once, twice):
        assert (swapped.margin, swapped.weight, swapped.query) == (margin, weight, QueryId(3, 4))
    assert (twice.left.id, twice.right.id) == ("a", "b")
    assert twice.preference == pytest.approx(preference, abs=1e-15)


@many
@given(st.data(), st.integers(2, 9))
def test_a_ranking_gives_every_pair_once_and_weighs_as_a_sorting_would(data, count):
    order = data.draw(orders(count))
    query = make_query(5, 6, count)
    comparisons = lesson("ranking", {"order": order}, query).comparisons
    rank_of = {index: rank for rank, group in enumerate(order) for index in group}
    names = [segment.id for segment in query.segments]
    pairs = {frozenset((c.left.id, c.right.id)) for c in comparisons}
    assert len(comparisons) == count * (count - 1) // 2
    assert pairs == set(map(frozenset, combinations(names, 2)))
    assert sum(c.weight for c in comparisons) == pytest.approx(count - 1)
    for c in comparisons:
        left, right = rank_of[names.index(c.left.id)], rank_of[names.index(c.right.id)]
        assert c.preference == (1.0 if left < right else 0.0 if left > right else 0.5)
        assert c.margin == 0
        assert c.query == (5, 6)


@many
@given(st.lists(st.integers(1, 5), min_size=2, max_size=9), st.floats(0.5, 4))
def test_ratings_prefer_the_higher_by_a_margin_that_grows_with_the_difference(ratings, scale):
    query = make_query(count=len(ratings))
    value = {"ratings": ratings, "low": 1, "high": 5}
    comparisons = lesson("ratings", value, query, scale).comparisons
    assert sum(c.weight for c in comparisons) == pytest.approx(len(ratings) - 1)
    for c, (i, j) in zip(comparisons, combinations(range(len(ratings)), 2), strict=True):
        assert (c.left, c.right) == (query.segments[i], query.segments[j])
        assert c.preference == 0.5 + 0.5 * np.sign(ratings[i] - ratings[j])
        assert c.margin == pytest.approx(scale * abs(ratings[i] - ratings[j]) / 4)


def test_a_scale_may_start_anywhere():
    [low] = lesson("ratings", {"ratings": [0.1, 0.4], "low": 0, "high": 1}).comparisons
    [high] = lesson("ratings", {"ratings": [-90, -60], "low": -100, "high": 0}).comparisons
    assert low.margin == pytest.approx(high.margin) and low.preference == high.preference == 0


@pytest.mark.parametrize(
    ("word", "margin"),
    [("negligibly", 0), ("slightly", 1 / 3), ("better", 2 / 3), ("significantly", 1), (None, 0)],
)
def test_strength_becomes_a_margin(word, margin):
    [comparison] = lesson("preference", {"left": 0.2, "strength": word}, margin_scale=3).comparisons
    assert (comparison.preference, comparison.weight) == (0.2, 1)
    assert comparison.margin == pytest.approx(3 * margin)


def test_no_margin_unless_it_is_asked_for():
    query = make_query()
    answer = Answer(query.id, "preference", {"left": 1, "strength": "significantly"})
    assert to_comparisons(query, answer).comparisons[0].margin == 0


@pytest.mark.parametrize("count", [2, 4])
def test_a_skip_teaches_nothing_and_a_tie_one_half(count):
    query = make_query(count=count)
    assert lesson("skip", {}, query) == ([], [], [])
    ties = lesson("tie", {}, query)
    assert len(ties.comparisons) == count * (count - 1) // 2
    assert {(c.preference, c.margin) for c in ties.comparisons} == {(0.5, 0.0)}
    assert (ties.segments, ties.demonstrations) == ([], [])


def test_a_rewrite_beats_the_original_and_demonstrates():
    comparisons, segments, demonstrations = lesson(
        "rewrite", {"segment": 1, "text": "see you tomorrow"}, TALKS
    )
    [comparison], [new], original = comparisons, segments, TALKS.segments[1]
    assert demonstrations == [new]
    assert (comparison.left, comparison.right) == (new, original)
    assert (comparison.preference, comparison.weight, comparison.query) == (1, 1, (4, 2))
    assert new.actions.tolist() == ["hi", "see you tomorrow"]  # longer than the array was wide
    assert original.actions.tolist() == ["hi", "bye"]
    assert new.observations.tolist() == original.observations.tolist()
    assert (new.task, new.source) == ("greeting", "tester")
    assert new.extras == {}  # the tokens are the old text's


def test_a_rewrite_within_an_order_teaches_the_order_too():
    value = {"segment": 0, "text": "hello"}
    alone, both = (lesson("rewrite", value | more, TALKS) for more in ({}, {"order": [[1], [0]]}))
    assert len(both.segments) == 1 and both.demonstrations == both.segments
    [rewritten, ordered] = both.comparisons
    [expected] = lesson("ranking", {"order": [[1], [0]]}, TALKS).comparisons
    assert rewritten.right == alone.comparisons[0].right
    assert (ordered.left, ordered.right) == (expected.left, expected.right)
    assert (ordered.preference, ordered.weight) == (expected.preference, expected.weight)


def test_two_rewrites_of_one_turn_are_two_segments():
    answers = [
        Answer(TALKS.id, "rewrite", {"segment": 0, "text": f"from {name}"}, name)
        for name in ("anna", "ben")
    ]
    first, second = (to_comparisons(TALKS, answer).segments[0].id for answer in answers)
    assert first != second


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("preference", {}, "expected a number from 0 to 1"),
        ("preference", {"left": 1.01}, "1.01"),
        ("preference", {"left": -0.1}, "-0.1"),
        ("preference", {"left": float("nan")}, "nan"),
        ("preference", {"left": "left"}, "'left'"),
        ("preference", {"left": True}, "True"),
        ("preference", {"left": 10**400}, "expected a number from 0 to 1"),
        ("preference", {"left": 1, "strength": "much"}, "'much'"),
        ("ranking", {}, "each of 0 to 1 once"),
        ("ranking", {"order": [[0]]}, "each of 0 to 1 once"),
        ("ranking", {"order": [[0], [0, 1]]}, "each of 0 to 1 once"),
        ("ranking", {"order": [0, 1]}, "[0, 1]"),
        ("ratings", {"ratings": [1, 2]}, "expected low < high"),
        ("ratings", {"ratings": [1, 2], "low": 5, "high": 1}, "from 5 to 1"),
        ("ratings", {"ratings": [1, 2], "low": -1e308, "high": 1e308}, "expected low < high"),
        ("ratings", {"ratings": [1, 2], "low": 0, "high": 10**400}, "expected low < high"),
        ("ratings", {"ratings": [1], "low": 0, "high": 5}, "expected 2 numbers"),
        ("ratings", {"ratings": [1, 6], "low": 0, "high": 5}, "numbers from 0 to 5"),
        ("ratings", {"ratings": [1, None], "low": 0, "high": 5}, "numbers from 0 to 5"),
        ("rewrite", {"segment": 2, "text": "no"}, "without the segment"),
        ("rewrite", {"segment": 1.0, "text": "no"}, "without the segment"),
        ("rewrite", {"segment": 0}, "without a text"),
        ("rewrite", {"segment": 0, "text": "no", "order": [[0]]}, "each of 0 to 1 once"),
        ("applause", {}, "expected one of preference, tie, ranking, ratings, rewrite, skip"),
        ("preference", None, "expected an object"),
        ("tie", [1, 2], "expected an object"),
    ],
)
def test_a_malformed_answer_gets_a_sentence(kind, value, words):
    with pytest.raises(UserError) as caught:
        check_answer(TALKS, Answer(TALKS.id, kind, value, "tester"))
    sentence = str(caught.value)
    assert words in sentence and "'tester'" in sentence and "(4, 2)" in sentence


def test_a_preference_is_between_two():
    with pytest.raises(UserError, match="the query has 3 segments"):
        lesson("preference", {"left": 1}, make_query(count=3))


def test_what_is_not_text_cannot_be_rewritten():
    with pytest.raises(UserError, match="not text"):
        lesson("rewrite", {"segment": 0, "text": "jump higher"}, make_query())


@many
@given(st.tuples(kinds, answer_values) | near_answers())
def test_an_answer_is_refused_in_a_sentence_or_can_be_learned_from(kind_and_value):
    kind, value = kind_and_value
    try:
        comparisons = lesson(kind, value, TALKS).comparisons
    except UserError:
        return
    for comparison in comparisons:
        assert 0 <= comparison.preference <= 1
        assert 0 <= comparison.margin <= 1
        assert comparison.weight > 0


def test_a_query_holds_two_to_nine_segments_of_one_task():
    for count in (1, 10):
        with pytest.raises(ValueError, match=f"not {count}"):
            make_query(count=count)
    strangers = make_segment("a", task="weather"), make_segment("b", task="music")
    with pytest.raises(ValueError, match="same task"):
        Query(QueryId(0, 0), strangers)


def test_a_segment_has_no_room_for_a_reward():
    assert {field.name for field in dataclasses.fields(Segment)} == {
        "id", "observations", "actions", "extras", "task", "source",
    }  # fmt: skip


def test_the_arrays_of_a_trajectory_are_equally_long():
    steps = np.zeros(3)
    Trajectory(steps, steps, steps, {"qpos": steps})
    for wrong in ([steps[:2], steps, steps], [steps, steps[:2], steps], [steps, steps, steps[:2]]):
        with pytest.raises(ValueError, match="differ in length"):
            Trajectory(*wrong)
    with pytest.raises(ValueError, match="differ in length"):
        Trajectory(steps, steps, steps, {"qpos": steps[:2]})
