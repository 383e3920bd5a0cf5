"""The feedback store: nothing that was acknowledged is lost, and every trouble has a sentence."""

import dataclasses
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from fakes import make_query, make_segment
from hypothesis import given
from hypothesis import strategies as st
from keep_runs import KEPT
from stores import only_sqlite
from strategies import arrays, few, many, names, orders, same_array

from prefrl.answers import to_comparisons
from prefrl.errors import UserError
from prefrl.storage import feedback, segments, sqlite
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.schema import SCHEMA_VERSION as VERSION
from prefrl.types import Answer, Picture, Query, QueryId, Segment


@pytest.fixture
def path(tmp_path):
    return tmp_path / "feedback.sqlite"


@pytest.fixture
def store(where):
    store = FeedbackStore(where)
    yield store
    store.close()


def open_again(path, **options):
    return closing(FeedbackStore(path, **options))


def rewards_of(*queries):
    return {s.id: np.arange(len(s), dtype=float) for query in queries for s in query.segments}


def ask(store, count=3, round_index=0, through=0, segments=2):
    queries = [make_query(round_index, index, segments) for index in range(count)]
    store.ask(round_index, queries, rewards_of(*queries), through)
    return queries


def prefer(query, left=1.0, teacher="anna", uuid=""):
    value = {"left": left}
    return Answer(QueryId(*query), "preference", value, teacher, 12.5, 13.25, uuid=uuid)


def say(query, kind, teacher="anna"):
    return Answer(QueryId(*query), kind, {}, teacher)


# --- round trips ------------------------------------------------------------------------------


@many
@given(st.data(), arrays, arrays, st.dictionaries(st.text(max_size=8), arrays, max_size=3))
def test_segments_come_back_to_the_bit(new_store, data, observations, actions, extras):
    texts = names
    segment = Segment(data.draw(texts), observations, actions, extras, "task", data.draw(texts))
    query = Query(
        QueryId(3, 7), (segment, make_segment("other", task="task")), "preference", data.draw(texts)
    )
    with closing(new_store()) as store:
        if store.shares and any("\0" in name for name in extras):
            with pytest.raises(UserError, match="cannot keep a text that holds a NUL"):
                store.ask(3, [query], {}, 0)
            return
        store.ask(3, [query], {}, 0)
        found = store.query(QueryId(3, 7))
    back = found.segments[0]
    assert (found.id, found.kind, found.question) == (query.id, query.kind, query.question)
    assert (back.id, back.task, back.source) == (segment.id, segment.task, segment.source)
    assert same_array(back.observations, observations) and same_array(back.actions, actions)
    assert back.extras.keys() == extras.keys()
    assert all(same_array(back.extras[name], extra) for name, extra in extras.items())


@few
@given(st.data(), st.integers(2, 9))
def test_answers_come_back_as_they_were_given(new_store, data, count):
    order = data.draw(orders(count))
    answers = [
        Answer(QueryId(0, 0), "ranking", {"order": order}, "anna", 1.5, 1e9 + 0.123456),
        Answer(QueryId(0, 0), "ratings", {"ratings": [*range(count)], "low": 0, "high": 9}, "ben"),
        Answer(QueryId(0, 0), "tie", {}, "çelik\n"),
    ]
    query = make_query(count=count)
    with closing(new_store()) as store:
        store.ask(0, [query], {}, 0)
        store.answer(*answers)
        assert store.answers() == answers
        expected = [c for a in answers for c in to_comparisons(query, a, 2.0).comparisons]
        found = store.comparisons(margin_scale=2.0)
    assert [(c.left.id, c.right.id, c.preference, c.margin, c.weight, c.query) for c in found] == [
        (c.left.id, c.right.id, c.preference, c.margin, c.weight, c.query) for c in expected
    ]


def test_pictures_come_back_as_they_were_and_come_with_their_round_alone(store, where, tmp_path):
    pair, other = make_query(0, 0), make_query(0, 1)
    name, *others = [s.id for query in (pair, other) for s in query.segments]
    picture = Picture(240, 160, 8, 2, bytes(range(256)))
    rewards = rewards_of(pair, other)
    store.ask(0, [pair, other], rewards, 0, {name: picture})
    with open_again(where) as again:
        assert again.picture(name) == picture
        assert [*map(again.picture, others)] == [None] * 3
        changed = dataclasses.replace(picture, data=b"")
        again.ask(0, [pair, other], rewards, 0, {name: changed})  # as after a kill
        assert again.picture(name) == picture
        again.copy(tmp_path / "copy")
    with open_again(tmp_path / "copy") as copy:
        assert copy.picture(name) == picture
    ask(store, round_index=1)
    with pytest.raises(UserError, match="already holds other queries"):
        store.ask(1, [make_query(1, 9)], {}, 0, {make_query(1, 9).segments[0].id: picture})
    assert store.picture(make_query(1, 9).segments[0].id) is None


def test_everything_is_there_for_the_next_process(store, where):
    first = ask(store, 2)
    store.answer(prefer((0, 1)))
    ask(store, 1, round_index=1, through=1)
    with open_again(where) as again:
        assert [query.id for query in again.pending()] == [(0, 0), (1, 0)]
        assert again.answers() == [prefer((0, 1))]
        assert again.query(QueryId(0, 1)).segments[1].id == first[1].segments[1].id
        assert again.true_rewards(first[0].segments[0].id).tolist() == [0, 1, 2]
        assert again.ledger(1) == (1, 1) and again.last_answer() == 1


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "bc", None], dtype=object),
        np.array([b"raw"]),
        np.zeros(2, dtype=[("x", "f8")]),
    ],
)
def test_an_array_that_cannot_be_kept_is_refused_before_anything_is_written(store, array):
    segment = Segment("odd", array, np.zeros(len(array)))
    query = Query(QueryId(0, 0), (make_segment("plain"), segment))
    with pytest.raises(UserError, match=r"observations .*'odd'.*expected numbers or text"):
        store.ask(0, [query], {}, 0)
    assert store.ledger(0) is None and store.counts()[:4] == (0, 0, 0, 0)


@pytest.mark.parametrize("part", ["id", "task", "source", "question"])
def test_a_name_with_a_control_character_is_refused_before_anything_is_written(store, part):
    names = {"id": "a", "task": "", "source": "policy", "question": "Which?"}
    names[part] = "a\x00b"
    clips = (
        Segment(
            names["id"], np.zeros((3, 2)), np.zeros((3, 1)), {}, names["task"], names["source"]
        ),
        make_segment("other", task=names["task"]),
    )
    before = rows(store)
    with pytest.raises(UserError, match="which holds the control character"):
        store.ask(0, [Query(QueryId(0, 0), clips, question=names["question"])], {}, 0)
    assert rows(store) == before


# --- asking -----------------------------------------------------------------------------------


def rows(store):
    tables = ["round", "segment", '"array"', "query", "answer", "true_reward"]
    count = "SELECT count(*) FROM {}"
    return [store.database.run(count.format(t))[0][0] for t in tables]


def test_a_round_is_asked_whole_or_not_at_all(store):
    ask(store, 2)
    before = rows(store)
    queries = [make_query(1, 0), make_query(1, 1), make_query(1, 0)]  # one id twice
    with pytest.raises(UserError):
        store.ask(1, queries, rewards_of(*queries), 0)
    assert rows(store) == before and store.ledger(1) is None
    ask(store, 3, round_index=1)
    assert store.ledger(1) == (0, 3)


def test_asking_a_round_again_changes_nothing(store, where):
    ask(store, 3)
    store.answer(prefer((0, 0)))
    before = rows(store)
    ask(store, 3)
    assert rows(store) == before
    with open_again(where) as again:
        ask(again, 3)
        assert rows(again) == before


def test_a_round_without_queries_has_an_entry_in_the_ledger(store):
    store.ask(4, [], {}, 17)
    assert store.ledger(4) == (17, 0) and store.ledger(3) is None
    store.ask(4, [], {}, 17)
    with pytest.raises(UserError, match="round 4"):
        ask(store, 1, round_index=4, through=17)


@pytest.mark.parametrize("change", ["through", "count", "question", "kind", "segment", "order"])
def test_asking_something_else_in_a_round_is_refused(store, change):
    queries = ask(store, 2)
    through = 0
    if change == "through":
        through = 1
    elif change == "count":
        queries = queries[:1]
    elif change == "question":
        queries[1] = make_query(0, 1, question="Which is worse?")
    elif change == "kind":
        queries[1] = Query(queries[1].id, queries[1].segments, "ranking", queries[1].question)
    elif change == "segment":
        queries[1] = make_query(0, 1, 3)
    elif change == "order":
        queries[1] = Query(queries[1].id, queries[1].segments[::-1], question=queries[1].question)
    before = rows(store)
    with pytest.raises(UserError, match=r"other queries for round 0.*start a new run"):
        store.ask(0, queries, rewards_of(*queries), through)
    assert rows(store) == before


def test_a_segment_shown_twice_is_kept_once(store):
    shared = make_segment("shared")
    pairs = [(shared, make_segment("a")), (make_segment("b"), shared)]
    queries = [Query(QueryId(0, i), pair) for i, pair in enumerate(pairs)]
    store.ask(0, queries, rewards_of(*queries), 0)
    assert rows(store)[1] == 3
    assert [[s.id for s in q.segments] for q in store.pending()] == [
        ["shared", "a"],
        ["b", "shared"],
    ]


def test_true_rewards_are_kept_apart(store):
    [query] = ask(store, 1)
    assert store.true_rewards(query.segments[1].id).tolist() == [0, 1, 2]
    assert not hasattr(store.query(query.id).segments[0], "env_rewards")
    with pytest.raises(UserError, match="'nobody'"):
        store.true_rewards("nobody")


def test_there_is_no_such_query(store):
    ask(store, 1)
    with pytest.raises(UserError, match=r"holds no query \(0, 1\)"):
        store.query(QueryId(0, 1))
    with pytest.raises(UserError, match=r"holds no query \(9, 0\)"):
        store.answer(prefer((9, 0)))


# --- answers, and what they count for ---------------------------------------------------------


def test_one_bad_answer_spoils_the_lot_but_nothing_else(store):
    ask(store)
    with pytest.raises(UserError, match="expected a number from 0 to 1"):
        store.answer(prefer((0, 0)), prefer((0, 1), left=7))
    assert store.answers() == [] and store.last_answer() == 0
    store.answer(prefer((0, 0)), prefer((0, 1)))
    assert len(store.answers()) == 2


def test_counts(store):
    ask(store, 4)
    ask(store, 1, round_index=1)
    assert store.counts()[:4] == (5, 0, 0, 5)
    store.answer(prefer((0, 0)), say((0, 1), "tie"), say((0, 2), "skip"))
    assert store.counts()[:4] == (5, 2, 1, 2)  # asked, answered, decisive, pending
    assert [query.id for query in store.pending()] == [(0, 3), (1, 0)]
    assert store.counts_at(1, 3)[:4] == (4, 2, 1, 1)
    assert store.counts_at(2, 1)[:4] == (5, 1, 1, 4)
    assert store.counts_at(0, 3)[:4] == (0, 0, 0, 0)
    store.answer(say((0, 2), "tie", "ben"))  # what anna could not tell
    assert store.counts()[:4] == (5, 3, 1, 2)
    store.answer(prefer((0, 0), 0.0, "ben"))  # a second opinion is no second label
    assert store.counts()[:4] == (5, 3, 1, 2)


def test_clips_are_those_of_the_labels_and_a_pause_is_no_work(store):
    ask(store, 2, segments=2)
    ask(store, 2, round_index=1, segments=5)
    order = {"order": [[0, 1, 2, 3], [4]]}

    def timed(query, kind, value, seconds, teacher="anna"):
        return Answer(QueryId(*query), kind, value, teacher, 1000.0, 1000.0 + seconds)

    store.answer(timed((1, 0), "ranking", order, 30), timed((0, 0), "tie", {}, 4000))
    assert store.counts()[4:] == (7, 150.0)
    store.answer(
        timed((1, 1), "skip", {}, 10), timed((0, 0), "tie", {}, 5), timed((0, 1), "tie", {}, -3)
    )
    assert store.counts()[4:] == store.counts_at(9, 99)[4:] == (9, 165.0)
    assert store.counts_at(1, 99)[4:] == (4, 125.0) and store.counts_at(9, 2)[4:] == (7, 150.0)
    store.answer(
        timed((1, 1), "ranking", order, 20, "ben"), timed((1, 0), "ranking", order, 1, "ben")
    )
    assert store.counts()[4:] == (14, 186.0), "a second opinion takes time and shows nothing new"
    store.answer(timed((1, 1), "retraction", {}, 0, "ben"))
    assert store.counts()[4:] == (9, 186.0)
    store.record([make_query(5)], [timed((5, 0), "tie", {}, 50, "others")], "import")
    assert store.counts()[4:] == (9, 186.0), "what was imported was paid for elsewhere"


def test_a_store_of_the_format_before_is_brought_up_to_date(path):
    shutil.copy(KEPT / "robot" / "feedback.sqlite", path)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (4,)
    before = path.read_bytes()
    with open_again(path, read_only=True) as store:
        assert store.counts() == store.counts_at(99, 999) == (16, 16, 16, 0, 32, 0.0)
        assert len(store.comparisons()) == 16
    assert path.read_bytes() == before, "whoever only reads leaves it as it was"
    for _ in range(2):
        with open_again(path) as store:
            assert store.counts() == store.counts_at(99, 999) == (16, 16, 16, 0, 32, 0.0)
            assert store.truth([store.query(QueryId(0, 0))]).mean_return == {}
    with open_again(path) as store:
        ask(store, 1, round_index=9)
        store.answer(prefer((9, 0)))
        assert store.counts() == store.counts_at(99, 999) == (17, 17, 17, 0, 34, 0.75)


def test_a_later_answer_of_the_same_teacher_supersedes(store):
    ask(store, 2)
    store.answer(prefer((0, 0), 1.0), prefer((0, 1), 1.0), prefer((0, 0), 0.0, "ben"))
    store.answer(prefer((0, 0), 0.25))
    assert store.answers() == [
        prefer((0, 1), 1.0), prefer((0, 0), 0.0, "ben"), prefer((0, 0), 0.25),
    ]  # fmt: skip
    assert [c.preference for c in store.comparisons()] == [1.0, 0.0, 0.25]
    assert store.counts()[:4] == (2, 2, 2, 0)
    assert rows(store)[4] == 4, "the old answer is kept"


def test_what_was_superseded_counts_no_more(store):
    ask(store, 1)
    store.answer(prefer((0, 0)))
    store.answer(say((0, 0), "tie"))
    assert store.counts()[:4] == (1, 1, 0, 0)
    store.answer(say((0, 0), "skip"))
    assert store.comparisons() == []
    assert store.counts()[:4] == (1, 0, 0, 0)
    assert store.counts_at(1, 2)[:4] == (1, 1, 0, 0) and store.counts_at(1, 1)[:4] == (1, 1, 1, 0)


def test_a_fit_sees_only_what_was_answered_in_time(store):
    ask(store, 3)
    store.answer(prefer((0, 0), 1.0))
    store.answer(prefer((0, 1), 1.0))
    store.answer(prefer((0, 0), 0.0))  # supersedes, later
    assert [answer.query for answer in store.answers(through=2)] == [(0, 0), (0, 1)]
    assert [c.preference for c in store.comparisons(through=2)] == [1.0, 1.0]
    assert [c.preference for c in store.comparisons(through=3)] == [1.0, 0.0]
    assert store.comparisons(through=0) == []
    assert store.last_answer() == 3


def stands_on_paper(said):
    paper = {}
    for number, (index, kind, teacher) in enumerate(said):
        paper[index, teacher] = (number, kind)
    return {who: entry for who, entry in paper.items() if entry[1] != "retraction"}


@many
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["preference", "tie", "skip", "retraction"]),
            st.sampled_from("ab"),
        ),
        max_size=16,
    ),
    st.integers(0, 16),
)
def test_counts_and_answers_agree_with_a_ledger_on_paper(new_store, said, through):
    with closing(new_store()) as store:
        ask(store, 4)
        for index, kind, teacher in said:
            store.answer(
                prefer((0, index), 1.0, teacher)
                if kind == "preference"
                else say((0, index), kind, teacher)
            )
        counts, standing = store.counts_at(1, through), store.answers(through)
        pending = {query.id.index for query in store.pending()}
        [view] = store.database.run("SELECT count(*) FROM standing")
        everything = store.answers()
    paper = stands_on_paper(said[:through])
    kinds = [{k for (i, _), (_, k) in paper.items() if i == index} for index in range(4)]
    assert counts.asked == 4
    assert counts.pending == sum(not kind for kind in kinds)
    assert counts.answered == sum(bool(kind - {"skip"}) for kind in kinds)
    assert counts.decisive == sum("preference" in kind for kind in kinds)
    in_order = sorted((number, index, kind) for (index, _), (number, kind) in paper.items())
    assert [(a.query.index, a.kind) for a in standing] == [entry[1:] for entry in in_order]
    assert pending == set(range(4)) - {index for index, _ in stands_on_paper(said)}
    assert view == (len(everything),)


OF_PAIRS = {
    "left": ("preference", {"left": 1.0}), "equal": ("preference", {"left": 0.5}),
    "tie": ("tie", {}), "skip": ("skip", {}), "retraction": ("retraction", {}),
    "alike": ("ratings", {"ratings": [3, 3], "low": 1, "high": 7}),
    "rated": ("ratings", {"ratings": [3, 4], "low": 1, "high": 7}),
    "together": ("ranking", {"order": [[0, 1]]}), "ranked": ("ranking", {"order": [[1], [0]]}),
}  # fmt: skip
SAYS_NOTHING = {"skip", "retraction"}
PREFERS = {"left", "rated", "ranked"}
which = st.tuples(st.integers(0, 2), st.integers(0, 2))
events = st.one_of(
    st.tuples(st.just("answer"), which, st.sampled_from([*OF_PAIRS]), st.sampled_from("abc")),
    st.tuples(st.just("withdraw"), which),
    st.tuples(st.just("look"), which),
    st.tuples(st.just("expire"), st.integers(0, 3)),
    st.tuples(st.just("import"), st.lists(st.sampled_from(["left", "tie", "skip"]), min_size=1)),
)


@many
@given(st.lists(events, max_size=30), st.integers(0, 4), st.integers(0, 30))
def test_the_tally_is_always_what_counting_from_scratch_gives(
    new_store, happened, before_round, through
):
    said, gone, looked_at = [], set(), set()
    everything = [(lap, index) for lap in range(3) for index in range(3)]

    def counted(before, through):
        asked = [query for query in everything if query[0] < before]
        stands = stands_on_paper(said[:through])
        of = {
            query: {what for (q, _), (_, what) in stands.items() if q == query} for query in asked
        }
        return (
            len(asked),
            sum(bool(words - SAYS_NOTHING) for words in of.values()),
            sum(bool(words & PREFERS) for words in of.values()),
            sum(not words and query not in gone for query, words in of.items()),
            2 * sum(bool(words - SAYS_NOTHING) for words in of.values()),
            0.0,
        )

    with closing(new_store()) as store:
        for lap in range(3):
            ask(store, round_index=lap)
        for number, (event, *what) in enumerate(happened):
            if event == "answer":
                query, words, teacher = what
                kind, value = OF_PAIRS[words]
                store.answer(Answer(QueryId(*query), kind, value, teacher))
                said.append((query, words, teacher))
            elif event == "withdraw":
                store.withdraw(QueryId(*what[0]), "damaged")
                gone.add(what[0])
            elif event == "look" and what[0] not in looked_at:
                lease(store, what[0], 60)
                looked_at.add(what[0])
            elif event == "expire":
                store.expire(*what)
                answered = {query for query, _ in stands_on_paper(said)}
                gone |= {q for q in everything if q[0] < what[0]} - answered - looked_at
            elif event == "import":
                queries = [make_query(5, 100 * number + index) for index in range(len(what[0]))]
                answers = [
                    Answer(query.id._replace(index=index), *OF_PAIRS[words], "others")
                    for index, (query, words) in enumerate(zip(queries, what[0], strict=True))
                ]
                store.record(queries, answers, f"import {number}")
                said += [((-1, number), words, "others") for words in what[0]]
            assert store.counts() == counted(9, None)
        assert store.counts_at(before_round, through) == counted(before_round, through)


def steps_of_sqlite(store, call):
    """Return how many instructions SQLite's machine ran, in hundreds."""
    ticks = []
    store.database.connection.set_progress_handler(lambda: ticks.append(1) and None, 100)
    call()
    store.database.connection.set_progress_handler(None, 0)
    return len(ticks)


def test_counting_is_quick_however_many_answers_there_are():
    with closing(FeedbackStore(":memory:")) as store:
        found = []
        for lap in range(20):
            ask(store, 100, round_index=lap)
            store.answer(*(prefer((lap, index)) for index in range(100)))
            if lap in (1, 19):  # 200 and 2,000 answers
                at = lambda: store.counts_at(20, 2**62)  # noqa: E731
                found.append((steps_of_sqlite(store, store.counts), steps_of_sqlite(store, at)))
    (now, then), (now_of_many, then_of_many) = found
    assert now == now_of_many == 0
    assert then_of_many < 15 * then, "it grows with the answers, not with their square"


# --- taking back, withdrawing, copying --------------------------------------------------------


def retract(query, teacher="anna", uuid=""):
    return dataclasses.replace(say(query, "retraction", teacher), uuid=uuid)


def test_an_answer_that_is_taken_back_is_asked_again(store):
    ask(store, 2)
    store.answer(prefer((0, 0)), prefer((0, 1)))
    store.answer(retract((0, 0)))
    assert [query.id for query in store.pending()] == [(0, 0)]
    assert store.counts()[:4] == (2, 1, 1, 1) and store.answers() == [prefer((0, 1))]
    assert [c.query for c in store.comparisons()] == [(0, 1)]
    assert store.database.run("SELECT count(*) FROM standing") == [(1,)]
    # A fit that saw it sees it again when its round is redone.
    assert [c.query for c in store.comparisons(through=2)] == [(0, 0), (0, 1)]
    assert store.counts_at(1, 2)[:4] == (2, 2, 2, 0)
    store.answer(prefer((0, 0), 0.0))
    assert store.pending() == [] and store.counts()[:4] == (2, 2, 2, 0)
    assert [c.preference for c in store.comparisons()] == [1.0, 0.0]


def test_what_was_superseded_before_does_not_come_back(store):
    ask(store, 1)
    store.answer(prefer((0, 0)), say((0, 0), "tie"), retract((0, 0)))
    assert store.answers() == [] and store.counts()[:4] == (1, 0, 0, 1)


def test_each_teacher_takes_back_their_own_answer_alone(store):
    ask(store, 1)
    store.answer(prefer((0, 0), 1.0, "anna"), prefer((0, 0), 0.0, "ben"))
    store.answer(retract((0, 0), "anna"))
    assert store.answers() == [prefer((0, 0), 0.0, "ben")]
    assert store.pending() == [] and store.counts()[:4] == (1, 1, 1, 0)
    store.answer(retract((0, 0), "ben"))
    assert len(store.pending()) == 1 and store.counts()[:4] == (1, 0, 0, 1)


def test_taking_back_nothing_changes_nothing(store):
    ask(store, 1)
    store.answer(retract((0, 0)))
    assert store.answers() == [] and len(store.pending()) == 1
    assert store.counts()[:4] == (1, 0, 0, 1)


def test_what_is_sent_twice_counts_once(store, where):
    ask(store, 2)
    first = store.answer(prefer((0, 0), uuid="a"))
    with open_again(where) as again:
        assert again.answer(prefer((0, 0), uuid="a")) == first
        # Nor does the same name with something else, or after it was taken back.
        assert again.answer(prefer((0, 1), 0.0, uuid="a")) == first
        undone = again.answer(retract((0, 0), uuid="b"))
        assert again.answer(retract((0, 0), uuid="b")) == undone > first
        assert again.answer(prefer((0, 0), uuid="a")) == first
        assert again.answers() == [] and again.last_answer() == undone
    other = store.answer(prefer((0, 1), uuid="c"))
    assert other > undone and rows(store)[4] == 3
    assert store.answer(prefer((0, 1)), prefer((0, 0))) == other + 2, "without a name all count"


def test_what_is_withdrawn_waits_no_more_but_keeps_its_answers(store):
    ask(store, 3)
    store.answer(prefer((0, 0)))
    store.withdraw(QueryId(0, 0), "damaged")
    store.withdraw(QueryId(0, 1), "damaged")
    assert [query.id for query in store.pending()] == [(0, 2)]
    assert store.counts()[:4] == (3, 1, 1, 1)
    store.answer(retract((0, 0)))
    assert [query.id for query in store.pending()] == [(0, 2)], "nobody can be shown it"
    store.answer(prefer((0, 1)))  # from a page that was open
    assert store.counts()[:4] == (3, 1, 1, 1)
    assert len(store.comparisons()) == 1


def lease(store, query, seconds):
    store.database.run(
        "INSERT INTO lease VALUES (?, ?, 'anna', 'tab', 0, ?)", *query, time.time() + seconds
    )


def test_what_is_old_expires_unless_it_is_answered_or_somebody_looks_at_it(store):
    ask(store, 4)
    ask(store, 2, round_index=1)
    store.answer(say((0, 0), "skip"))
    lease(store, (0, 1), 60)
    lease(store, (0, 2), -1)
    store.expire(1)
    assert [query.id for query in store.pending()] == [(0, 1), (1, 0), (1, 1)]
    reasons = store.database.run('SELECT withdrawn FROM query WHERE round = 0 ORDER BY "index"')
    assert reasons == [(None,), (None,), ("expired",), ("expired",)]
    assert store.counts()[:4] == (6, 0, 0, 3)
    store.answer(retract((0, 0)))
    assert store.counts().pending == 4, "what was answered in time can be answered anew"
    store.answer(prefer((0, 3)))  # late
    assert store.counts()[:4] == (6, 1, 1, 4)
    before = rows(store)
    ask(store, 4)  # a redone round knows its queries, expired or not
    assert rows(store) == before


@only_sqlite
def test_a_copy_is_the_whole_store_at_one_moment(store, path, tmp_path):
    queries = ask(store, 3)
    store.answer(prefer((0, 0)), say((0, 1), "tie", "ben"))
    store.withdraw(QueryId(0, 2), "damaged")
    other = tmp_path / "copy.sqlite"
    store.copy(other)
    store.answer(prefer((0, 0), 0.0))
    with open_again(other) as copy:
        assert copy.answers() == [prefer((0, 0)), say((0, 1), "tie", "ben")]
        assert copy.counts()[:4] == (3, 2, 1, 0) and copy.ledger(0) == store.ledger(0)
        assert same_array(
            copy.query(QueryId(0, 2)).segments[1].observations, queries[2].segments[1].observations
        )
        assert copy.true_rewards(queries[0].segments[0].id).tolist() == [0, 1, 2]
        copy.answer(retract((0, 1), "ben"))
    assert len(store.answers()) == 2
    with pytest.raises(UserError, match="unable to open"):
        store.copy(tmp_path / "nowhere" / "copy.sqlite")


# --- what is answered already -----------------------------------------------------------------


def recorded(store, mark, count=2, **options):
    pairs = [
        tuple(make_segment(f"old {mark} {i} {k}", **options) for k in "lr") for i in range(count)
    ]
    queries = [Query(QueryId(5, 9), pair, question="Which?") for pair in pairs]
    answers = [prefer((7, index), index / 10) for index in range(count)]
    return store.record(queries, answers, mark).round


def test_what_is_answered_already_is_a_round_below_the_runs(store):
    ask(store, 2)
    store.answer(prefer((0, 0)))
    before = store.counts()
    assert [recorded(store, "first"), recorded(store, "second", 3)] == [-1, -2]
    assert store.counts() == before and [q.id for q in store.pending()] == [(0, 1)]
    assert [(c.query, c.preference) for c in store.comparisons()] == [
        ((0, 0), 1.0), ((-1, 0), 0.0), ((-1, 1), 0.1),
        ((-2, 0), 0.0), ((-2, 1), 0.1), ((-2, 2), 0.2),
    ]  # fmt: skip
    assert store.ledger(-1) == (1, 2) and store.ledger(-2) == (3, 3)
    assert store.comparisons(through=1)[-1].query == (0, 0), "a redone round does not see them"
    assert ask(store, 1, round_index=1, through=6) and store.ledger(1) == (6, 1)


def test_what_is_answered_already_comes_once_and_whole(store):
    assert recorded(store, "first") == -1
    before = rows(store)
    with pytest.raises(UserError, match="holds these answers already"):
        recorded(store, "first")
    pair = (make_segment("a"), Segment("b", np.array([b"raw"]), np.zeros(1)))
    with pytest.raises(UserError, match="expected numbers or text"):
        store.record([Query(QueryId(0, 0), pair)], [prefer((0, 0))], "second")
    assert rows(store) == before
    assert recorded(store, "second") == -2


def test_segments_by_task(store):
    recorded(store, "b", 1, task="walk")
    ask(store, 1)
    assert store.segments() == ["clip 0-0-0", "clip 0-0-1", "old b 0 l", "old b 0 r"]
    assert store.segments("walk") == ["old b 0 l", "old b 0 r"] and store.segments("fly") == []
    assert store.segment("old b 0 l").task == "walk"


# --- kills, and others at the same file -------------------------------------------------------

ANSWERS_UNTIL_KILLED = """
import sys, time
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer
store = FeedbackStore(sys.argv[1])
for query in store.pending():
    store.answer(Answer(query.id, "preference", {"left": 1.0}, "child"))
    print(query.id.index, flush=True)
time.sleep(60)
"""
ASKS_UNTIL_KILLED = """
import sys
import numpy as np
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Query, QueryId, Segment
store = FeedbackStore(sys.argv[1])
for lap in range(1, 100_000):
    queries = []
    for index in range(6):
        pair = [Segment(f"{lap} {index} {k}", np.full(5000, lap), np.zeros(5000)) for k in "lr"]
        queries.append(Query(QueryId(lap, index), tuple(pair)))
    store.ask(lap, queries, {s.id: np.zeros(3) for q in queries for s in q.segments}, 0)
    print(lap, flush=True)
"""


def child(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def read_then_kill(process, lines):
    """Read some lines, kill the process, and return every number it had acknowledged."""
    seen = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    seen += process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return [int(line) for line in seen if line.endswith("\n")]


def test_kill_nine_loses_no_acknowledged_answer(path):
    with open_again(path) as store:
        ask(store, 3000)
    acknowledged = set()
    for kills, lines in enumerate((1, 40, 9, 150), start=1):
        acknowledged |= set(read_then_kill(child(ANSWERS_UNTIL_KILLED, path), lines))
        with open_again(path) as store:
            answered = [answer.query.index for answer in store.answers()]
        kept = set(answered)
        assert acknowledged <= kept, "an acknowledged answer is gone"
        assert len(kept) <= len(acknowledged) + kills, "each kill may fall before one line"
        assert len(answered) == len(kept)
    assert len(kept) >= 200


def test_kill_nine_leaves_rounds_whole(path):
    for lines in (3, 11):
        path.unlink(missing_ok=True)
        laps = read_then_kill(child(ASKS_UNTIL_KILLED, path), lines)
        with open_again(path) as store:
            known = 0
            while store.ledger(known + 1):
                known += 1
                assert store.ledger(known) == (0, 6)
            assert laps[-1] <= known <= laps[-1] + 1
            queries = store.pending()
            assert len(queries) == 6 * known and rows(store)[5] == 12 * known
            for query in queries:
                for segment in query.segments:
                    assert (segment.observations == query.id.round).all()
                    assert len(segment.observations) == len(segment.actions) == 5000


TWO_AT_ONCE = """
import sys, time
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, QueryId
print("ready", flush=True)
sys.stdin.readline()
store = FeedbackStore(sys.argv[1])
for index in range(60):
    store.answer(Answer(QueryId(0, index), "tie", {}, sys.argv[2]))
"""


def test_two_processes_answer_at_once(path):
    with open_again(path) as store:
        ask(store, 60)
    names = ["anna", "ben"]
    command = [sys.executable, "-c", TWO_AT_ONCE, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, name], **pipes) for name in names]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with open_again(path) as store:
        answers = store.answers()
        assert {(a.query.index, a.teacher) for a in answers} == {
            (index, name) for index in range(60) for name in names
        }
        assert len(answers) == 120 and store.counts()[:4] == (60, 60, 0, 0)


def test_opening_waits_for_whoever_holds_the_file(path):
    # SQLite itself does not wait when it switches a new file to write-ahead logging.
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("CREATE TABLE anything (x)")
        other.execute("BEGIN IMMEDIATE")
        other.execute("SELECT * FROM anything").fetchall()
        release = threading.Timer(0.3, other.rollback)
        release.start()
        with open_again(path) as store:
            ask(store, 1)
        release.join()


@only_sqlite
def test_another_writer_is_waited_for_but_not_for_ever(store, path, monkeypatch):
    ask(store)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        open_again(path) as impatient,
    ):
        other.execute("BEGIN IMMEDIATE")
        assert len(impatient.pending()) == 3, "reading never waits"
        with pytest.raises(UserError, match=r"feedback\.sqlite: database is locked\. .*safe"):
            impatient.answer(prefer((0, 0)))
        other.execute("ROLLBACK")
        impatient.answer(prefer((0, 0)))
    assert store.answers() == [prefer((0, 0))]


@only_sqlite
def test_nobody_writes_between_what_a_transaction_reads_and_what_it_writes(
    store, path, monkeypatch
):
    ask(store, 1)
    with closing(sqlite3.connect(path, timeout=0.05, isolation_level=None)) as other:

        def meanwhile(*arguments):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("INSERT INTO round VALUES (99, 0)")

        monkeypatch.setattr(feedback, "check_answer", meanwhile)
        store.answer(prefer((0, 0)))
        other.execute("INSERT INTO round VALUES (99, 0)")
    assert store.answers() == [prefer((0, 0))]


# --- trouble ----------------------------------------------------------------------------------


@only_sqlite
def test_a_full_disk_is_a_sentence_and_loses_nothing(store, path):
    ask(store, 2)
    store.answer(prefer((0, 0)))
    [(pages,)] = store.database.connection.execute("PRAGMA page_count").fetchall()
    store.database.connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    before = rows(store)
    big = Segment("big", np.zeros(100_000), np.zeros(100_000))
    query = Query(QueryId(1, 0), (make_segment("small"), big))
    with pytest.raises(UserError, match=r"disk is full\. Every answer.*safe; free disk space"):
        store.ask(1, [query], {}, 1)
    assert rows(store) == before and store.ledger(1) is None
    with open_again(path) as again:
        assert again.answers() == [prefer((0, 0))] and rows(again) == before
    store.database.connection.execute("PRAGMA max_page_count = 1000000")
    store.ask(1, [query], {}, 1)
    assert same_array(store.query(QueryId(1, 0)).segments[1].observations, np.zeros(100_000))


@only_sqlite
def test_a_read_only_file_is_a_sentence(store):
    ask(store, 1)
    store.database.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(UserError, match="attempt to write a readonly database"):
        store.answer(prefer((0, 0)))
    store.database.connection.execute("PRAGMA query_only = OFF")
    assert store.answers() == []


@only_sqlite
def test_durability_is_asked_of_sqlite(store):
    pragma = lambda name: store.database.connection.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
    assert pragma("journal_mode") == "wal"
    assert pragma("synchronous") == 2  # FULL: a commit is on the disk when it returns
    assert pragma("foreign_keys") == 1


def filled(path):
    with open_again(path) as store:
        ask(store, 50)
        store.answer(*(prefer((0, index)) for index in range(50)))


def test_a_file_that_is_no_store_is_refused(path, tmp_path):
    path.write_bytes(b"This is a letter, not a database. " * 200)
    with pytest.raises(UserError, match=r"feedback\.sqlite is damaged or not a feedback store"):
        FeedbackStore(path)
    assert path.read_bytes().startswith(b"This is a letter")
    with pytest.raises(UserError, match="unable to open"):
        FeedbackStore(tmp_path / "nowhere" / "feedback.sqlite")
    with pytest.raises(UserError, match="unable to open"):
        FeedbackStore(tmp_path)


@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_a_damaged_store_is_a_sentence(path, damage):
    filled(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "cut short":
            file.truncate(size // 2)
        else:
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
    sentence = r"is damaged or not a feedback store.*restore it"
    with pytest.raises(UserError, match=sentence), open_again(path) as store:
        store.comparisons()
        store.counts()


@pytest.mark.parametrize("version", [1, VERSION + 1, 77])
def test_another_versions_store_is_refused_and_left_alone(path, version):
    filled(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"another version.*format is {version}.*reads {VERSION}"):
        FeedbackStore(path)
    assert path.read_bytes() == before


def test_a_store_that_cannot_be_opened_is_let_go_of(path, monkeypatch):
    path.write_bytes(b"This is a letter, not a database. " * 200)
    opened, connect = [], sqlite3.connect

    def noted(*arguments, **options):
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    with pytest.raises(UserError):
        FeedbackStore(path)
    [connection] = opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_mistake_of_ours_inside_a_transaction_undoes_it(store, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(segments, "_encode", stop)
    with pytest.raises(KeyboardInterrupt):
        ask(store, 2)
    monkeypatch.undo()
    assert store.ledger(0) is None
    started = time.perf_counter()
    ask(store, 2)  # and the file is not left locked
    assert time.perf_counter() - started < 5
