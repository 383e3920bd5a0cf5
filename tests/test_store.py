"""What any store must do: tests take one from a fixture and see nothing behind the contract."""

import numpy as np
import pytest
from fakes import make_query, make_segment, picture_of

from prefrl.contracts import Store
from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, Query, QueryId, Segment, text_array


@pytest.fixture
def open_store(where):
    """Return what opens the same store, once more each time."""
    opened = []

    def open_again() -> Store:
        opened.append(FeedbackStore(where))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store):
    return open_store()


def ask(store, round_index=0, count=2, through=0):
    queries = [make_query(round_index, index) for index in range(count)]
    clips = [clip for query in queries for clip in query.segments]
    rewards = {clip.id: np.full(len(clip), row, float) for row, clip in enumerate(clips)}
    pictures = {clip.id: picture_of(clip.id) for clip in clips[:1]}
    store.ask(round_index, queries, rewards, through, pictures)
    return queries


def prefer(query, left=1.0, teacher="anna", **fields):
    return Answer(query.id, "preference", {"left": left}, teacher, **fields)


def test_the_ledger_says_what_each_round_asked_and_saw(store, open_store):
    queries = ask(store)
    first = store.answer(prefer(queries[0]))
    ask(store, 1, 1, through=first)
    for reader in (store, open_store()):
        assert [reader.ledger(index) for index in range(3)] == [(0, 2), (first, 1), None]
        assert reader.last_answer() == first and reader.counts()[:4] == (3, 1, 1, 2)
        assert reader.counts_at(1, 0)[:4] == (2, 0, 0, 2)
        assert [query.id for query in reader.pending()] == [(0, 1), (1, 0)]


def test_a_round_that_is_asked_again_changes_nothing_and_another_is_refused(store):
    queries = ask(store)
    ask(store)
    with pytest.raises(UserError, match="already holds other queries for round 0"):
        store.ask(0, queries[:1], {}, 0)
    assert store.counts()[:4] == (2, 0, 0, 2)


def test_clips_come_back_with_what_is_known_of_them(store):
    [query, _] = ask(store)
    found = store.query(query.id)
    for one, other in zip(found.segments, query.segments, strict=True):
        assert one.id == other.id and np.array_equal(one.observations, other.observations)
    names = [segment.id for segment in query.segments]
    assert store.segments() == sorted(store.segments()) and set(names) < set(store.segments())
    assert store.picture(names[0]) == picture_of(names[0]) and store.picture(names[1]) is None
    assert store.true_rewards(names[1]).tolist() == [1.0, 1.0, 1.0]
    truth = store.truth([query])
    assert set(names) < set(truth.asked[0]) == set(truth.rewards)
    assert truth.rewards[names[1]].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(UserError, match="holds no query"):
        store.query(QueryId(7, 7))


def test_of_each_teacher_the_last_answer_stands_and_the_past_stays_known(store):
    queries = ask(store)
    first = store.answer(prefer(queries[0]))
    store.answer(prefer(queries[0], 0.0), prefer(queries[0], 0.5, "ben"))
    assert [a.value["left"] for a in store.answers()] == [0.0, 0.5]
    assert [a.value["left"] for a in store.answers(first)] == [1.0]
    assert [c.preference for c in store.comparisons()] == [0.0, 0.5]
    assert [c.preference for c in store.comparisons(first)] == [1.0]
    assert store.answered_queries(first) == {queries[0].id} and not store.answered_queries(0)
    store.answer(Answer(queries[0].id, "retraction", {}, "anna"))
    assert [a.teacher for a in store.answers()] == ["ben"]


def test_a_repeat_is_kept_and_teaches_nothing(store):
    queries = ask(store)
    store.answer(prefer(queries[0]), prefer(queries[0], 0.0, repeat=True))
    assert len(store.answers()) == len(store.comparisons()) == store.counts().answered == 1
    assert [answer.repeat for answer in store.answers(repeats=True)] == [False, True]


def test_what_is_sent_twice_counts_once(store):
    queries = ask(store)
    number = store.answer(prefer(queries[0], uuid="one"))
    assert store.answer(prefer(queries[0], 0.0, uuid="one")) == number == store.last_answer()
    assert all(answer.uuid for answer in store.answers())


def test_what_was_answered_elsewhere_is_a_round_below_and_comes_once(store):
    clips = (make_segment("x 1"), make_segment("x 2"))
    query = Query(QueryId(4, 4), clips)
    said = Answer(QueryId(-1, 0), "preference", {"left": 1.0}, "ben", uuid="theirs")
    assert store.record([query], [said], "x ") == (-1, 1, 1)
    assert store.counts()[:4] == (0, 0, 0, 0) and not store.pending()
    assert [comparison.query for comparison in store.comparisons()] == [(-1, 0)]
    with pytest.raises(UserError, match="holds these answers already"):
        store.record([query], [said], "y ")


def test_what_is_withdrawn_or_old_waits_no_more(store):
    queries = ask(store)
    ask(store, 1, 1)
    store.withdraw(queries[0].id, "damaged")
    assert [query.id for query in store.pending()] == [(0, 1), (1, 0)]
    store.expire(1)
    assert [query.id for query in store.pending()] == [(1, 0)]


def test_one_bad_answer_spoils_the_lot(store):
    queries = ask(store)
    with pytest.raises(UserError, match="expected a number from 0 to 1"):
        store.answer(prefer(queries[0]), prefer(queries[1], left=7))
    assert store.last_answer() == 0 and store.counts().pending == 2


def test_texts_are_found_by_their_prompt_and_demonstrations_are_kept_once(store):
    clips = [Segment(name, text_array(["Hi"]), text_array([name])) for name in ("a", "b")]
    store.ask(0, [Query(QueryId(0, 0), tuple(clips))], {}, 0)
    assert store.segments_after("Hi") == ["a", "b"] and not store.segments_after("H")
    for _ in range(2):
        store.demonstrate("Hi", "Hello!", "anna", "one")
    store.demonstrate("Well?", None, "anna", "two")
    assert store.demonstrations() == [("Hi", "Hello!"), ("Well?", None)]


def test_a_trainer_claims_the_run_and_lets_go_of_it(store, open_store):
    store.claim()
    store.claim()
    store.check_claim()
    store.release()
    other = open_store()
    other.claim()
    other.check_claim()
