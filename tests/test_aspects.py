"""Several aspects: each is asked about by itself, kept, carried along and learned by itself."""

import dataclasses
import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from fakes import FixedReward, make_query, make_trajectory
from stores import WITHOUT_GOLD

from prefrl.answers import to_comparisons
from prefrl.config.learning import FitConfig, LoopConfig, QueryConfig
from prefrl.errors import UserError
from prefrl.learning.selection import cut, select
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.import_export import (
    copy_answers,
    export_answers,
    import_answers,
    import_file,
)
from prefrl.storage.labelling import Assignments, Ticket
from prefrl.types import Answer, QueryId, of_aspect

ASPECTS = {"fast": "Which is faster?", "level": "Which is more level?"}


def asked(store, aspects=("fast", "level")):
    """Ask about each aspect, with true rewards that tell the aspects apart."""
    queries, rewards = [], {}
    for index, aspect in enumerate(aspects):
        query = dataclasses.replace(make_query(0, index), aspect=aspect)
        queries.append(query)
        for segment in query.segments:
            rewards[segment.id] = np.zeros(3)
            for number, other in enumerate(aspects, 1):
                rewards[of_aspect(segment.id, other)] = np.full(3, float(number))
    store.ask(0, queries, rewards, 0)
    return queries


@pytest.fixture
def store(tmp_path):
    with closing(FeedbackStore(tmp_path / "feedback.sqlite")) as store:
        yield store


def aspects_of(store):
    return [comparison.aspect for comparison in store.comparisons()]


# Asked, kept and carried along


def test_an_answer_is_about_the_aspect_that_was_asked_about(store):
    asked(store)
    store.answer(
        Answer(QueryId(0, 0), "preference", {"left": 1.0}, "anna"),
        Answer(QueryId(0, 1), "tie", {}, "anna"),
    )
    assert aspects_of(store) == ["fast", "level"]
    assert [query.aspect for query in store._queries("")] == ["fast", "level"]
    swapped = store.comparisons()[0].swapped()
    assert (swapped.aspect, swapped.preference) == ("fast", 0.0)


def test_a_better_text_is_about_the_same_aspect():
    query = make_query()
    texts = [
        dataclasses.replace(s, actions=np.array(["a reply"] * 3, object)) for s in query.segments
    ]
    query = dataclasses.replace(query, segments=tuple(texts), aspect="safe")
    answer = Answer(query.id, "rewrite", {"segment": 0, "text": "better"}, "anna")
    assert [c.aspect for c in to_comparisons(query, answer).comparisons] == ["safe"]


def test_the_truth_is_that_of_one_aspect(store):
    queries = asked(store)
    for number, aspect in enumerate(("", "fast", "level")):
        truth = store.truth(queries, aspect)
        assert all(rewards.tolist() == [number] * 3 for rewards in truth.rewards.values())
        assert len(truth.rewards) == len(truth.asked[0]) == 4
    with pytest.raises(UserError, match=r"for loud are not known.*info\[\"aspects\"\]\['loud'\]"):
        store.truth(queries, "loud")


def test_a_store_of_one_aspect_is_brought_up_to_date(tmp_path):
    path = tmp_path / "feedback.sqlite"
    with closing(FeedbackStore(path)) as store:
        asked(store, ("",))
        store.answer(Answer(QueryId(0, 0), "tie", {}, "anna"))
    with closing(sqlite3.connect(path)) as old:
        for statement in WITHOUT_GOLD:
            old.execute(statement)
        old.execute("ALTER TABLE query DROP COLUMN aspect")
        old.execute("DROP TABLE aspect_reward")
        old.execute("PRAGMA user_version = 5")
    for _ in range(2):
        with closing(FeedbackStore(path)) as store:
            assert aspects_of(store) == [""]
            assert store.true_rewards("clip 0-0-0").tolist() == [1, 1, 1]


def test_export_and_import_carry_the_aspect(store, tmp_path):
    asked(store, ("fast", ""))
    for index in (0, 1):
        store.answer(Answer(QueryId(0, index), "preference", {"left": 1.0}, "anna"))
    lines = [json.dumps(line) for line in export_answers(store, "Env-v0")]
    assert [json.loads(line).get("aspect") for line in lines] == ["fast", None]
    with closing(FeedbackStore(tmp_path / "other.sqlite")) as other:
        import_answers(other, lines, "file")
        assert aspects_of(other) == ["fast", ""]
    with closing(FeedbackStore(tmp_path / "third.sqlite")) as third:
        copy_answers(store, third, "run")
        assert aspects_of(third) == ["fast", ""]
    better = json.dumps(json.loads(lines[1]) | {"aspect": "better"})
    with closing(FeedbackStore(tmp_path / "fourth.sqlite")) as fourth:
        import_answers(fourth, [better], "file")
        assert aspects_of(fourth) == [""], "the one aspect may be called by its name"


def test_what_is_imported_is_about_an_aspect_of_the_run(tmp_path):
    """Rows that say nothing of aspects would never be learned from where there are several."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with closing(FeedbackStore(tmp_path / "feedback.sqlite")) as store:
        with pytest.raises(UserError, match="about none in particular, but the run asks"):
            import_file(store, path, aspects=("fast", "level"))
        assert store.counts().asked == 0 and not store.comparisons()
        with pytest.raises(UserError, match="about odd, but the run asks one question alone"):
            import_file(store, path, aspects=(), aspect="odd")
        import_file(store, path, aspects=("fast", "level"), aspect="level")
        assert [comparison.aspect for comparison in store.comparisons()] == ["level"]
    with closing(FeedbackStore(":memory:")) as store:
        import_file(store, path, aspect="any")  # as --from reads it, which looks for itself
        assert [comparison.aspect for comparison in store.comparisons()] == ["any"]


def test_a_pair_that_is_shown_again_asks_about_the_same_aspect(store):
    asked(store)
    again = Assignments(store).query(Ticket(QueryId(0, 1), repeat=True))
    assert again.aspect == "level" and again.segments[0].id == "clip 0-1-1"


# Chosen in turn


def loop_config(**changes):
    config = LoopConfig(
        0, 4, 100, 9, 3, "?", QueryConfig(acquisition="disagreement"), FitConfig(), ASPECTS
    )
    return dataclasses.replace(config, **changes)


class OfAspects:
    """Two rewards, each of whose members disagree about other clips."""

    def __init__(self):
        self.parts = {"fast": FixedReward((1.0, -1.0)), "level": FixedReward((1.0, 1.0))}


def trajectories():
    runs = [make_trajectory(9, episode=episode, first=episode) for episode in range(9)]
    return [
        dataclasses.replace(t, aspect_rewards={"fast": t.env_rewards + 1, "level": -t.env_rewards})
        for t in runs
    ]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_aspects_are_asked_about_in_turn(index):
    queries, rewards = select(trajectories(), OfAspects(), loop_config(), index, 5)
    first, second = [*ASPECTS][:: -1 if index % 2 else 1]
    assert [query.aspect for query in queries] == [first, second, first, second, first]
    assert all(query.question == ASPECTS[query.aspect] for query in queries)
    for query in queries:
        for segment in query.segments:
            own = rewards[segment.id]
            assert rewards[of_aspect(segment.id, "fast")].tolist() == (own + 1).tolist()
            assert rewards[of_aspect(segment.id, "level")].tolist() == (-own).tolist()
    assert len(rewards) == 3 * len({s.id for query in queries for s in query.segments})


def test_no_group_is_asked_about_twice():
    queries, _ = select(trajectories(), OfAspects(), loop_config(), 1, 8)
    groups = [frozenset(segment.id for segment in query.segments) for query in queries]
    assert len(set(groups)) == len(groups) == 8


def test_each_aspect_chooses_by_its_own_reward():
    """Where members agree, they leave the candidates in their order; the others do not."""
    apart = [
        {q.aspect: q for q in select(trajectories(), parts, loop_config(), 2, 2)[0]}
        for parts in (OfAspects(), FixedReward((1.0, 1.0)))
    ]
    names = [{a: [s.id for s in q.segments] for a, q in queries.items()} for queries in apart]
    assert names[0]["level"] == names[1]["level"] and names[0]["fast"] != names[1]["fast"]


def test_what_is_cut_keeps_what_each_aspect_pays():
    [segment], rewards = cut(trajectories()[:1], 4, 1, np.random.default_rng(0))
    own = rewards[segment.id]
    assert rewards[of_aspect(segment.id, "level")].tolist() == (-own).tolist()
