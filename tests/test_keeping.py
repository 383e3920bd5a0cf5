"""Which replies are kept to be learned from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefrl.learning.keeping import above, best_of_task, random_of_task, ranks, top_share

SCORES = np.array([[1.0, 3, 3, 2], [5, 5, 5, 5], [0, 1, 2, 3], [-np.inf, 4, -np.inf, -np.inf]])

WAYS = {
    "best": best_of_task,
    "top": lambda scores: top_share(scores, 0.5),
    "above": lambda scores: above(scores, 0.5),
    "random": lambda scores: random_of_task(scores, np.random.default_rng(0)),
}
ways = pytest.mark.parametrize("keep", WAYS.values(), ids=WAYS.keys())


def rows(kept):
    return [np.flatnonzero(task).tolist() for task in kept]


def test_the_best_of_each_task_is_kept():
    assert rows(best_of_task(SCORES)) == [[1], [], [3], [1]]


def test_a_share_of_each_task_is_kept_rounded_up():
    assert rows(top_share(SCORES, 0.5)) == [[1, 2], [], [2, 3], [1]]
    assert rows(top_share(SCORES, 0.6))[2] == [1, 2, 3]
    assert rows(top_share(SCORES, 0.0))[2] == [3], "one at least"
    assert top_share(np.arange(30.0)[None], 0.1).sum() == 3, "0.1 * 30 is a little more than 3"


def test_ranks_are_the_share_of_others_that_score_less():
    assert ranks(SCORES[:1]).tolist() == [[0, 2 / 3, 2 / 3, 1 / 3]]
    assert rows(above(SCORES, 0.6)) == [[1, 2], [], [2, 3], [1]]
    assert rows(above(SCORES, 1.0)) == [[], [], [3], [1]]


def test_chance_keeps_any_of_a_task_alike():
    scores = np.tile([0.0, 1, 2, -np.inf], (3000, 1))
    kept = random_of_task(scores, np.random.default_rng(0))
    assert (kept.sum(1) == 1).all()
    assert kept.mean(0) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.03)


@ways
def test_of_replies_that_score_the_same_none_is_kept(keep):
    assert not keep(np.full((3, 4), 2.5)).any()
    assert not keep(np.full((3, 4), -np.inf)).any()
    assert not keep(np.zeros((3, 1))).any(), "K = 1"


@ways
def test_what_scores_minus_infinity_is_never_kept(keep):
    assert not keep(SCORES)[np.isinf(SCORES)].any()


@ways
@given(st.lists(st.integers(-3, 3), min_size=8, max_size=8), st.integers(-50, 50))
def test_an_easy_task_is_kept_no_more_of_than_a_hard_one(keep, scores, easier):
    """Scores are compared within a task: over all, `top_share` would pick the easy prompts."""
    scored = np.array(scores, float).reshape(2, 4)
    shifted = scored + np.array([[easier], [0]])
    assert (keep(scored) == keep(shifted)).all()


@given(st.lists(st.floats(-3, 3), min_size=12, max_size=12), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_keeps_a_part(scores, one, other):
    scored = np.array(scores).reshape(3, 4)
    assert (above(scored, max(one, other)) <= above(scored, min(one, other))).all()
