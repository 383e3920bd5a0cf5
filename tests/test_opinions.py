"""A person overrules a model: the revision of a reply, and what a judge's orders disagree about."""

import time
from contextlib import closing

import pytest
from opinions import CRITIQUE, KIND, PRINCIPLE, RUDE, judged, revised
from stores import pass_time
from test_judge import answers, pair

from prefrl.answers import check_answer, to_comparisons
from prefrl.config.experiment import Experiment, check_experiment
from prefrl.config.learning import JudgeConfig
from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.labelling import LEASE_SECONDS, Assignments, Ticket, as_given
from prefrl.types import Answer, QueryId


@pytest.fixture
def store(where):
    with closing(FeedbackStore(where)) as store:
        yield store


def say(assignments, ticket, kind="preference", uuid="", **value):
    now = time.time()
    assignments.answer(
        ticket, Answer(ticket.query, kind, value, "ann", now, now, uuid=uuid or kind)
    )


def taught(store):
    """Return what is learned: the better text, the worse one, and how sure that is."""
    return [
        (str(c.left.actions[-1])[:6], str(c.right.actions[-1])[:6], c.preference, c.margin)
        for c in store.comparisons(margin_scale=1.0)
    ]


def test_only_what_the_orders_disagree_about_is_asked_of_people(store):
    queries, assignments = judged(store), Assignments(store)
    assert store.counts().pending == 0 and store.counts().answered == 2
    tickets, _ = assignments.next("ann", "tab", 5)
    assert tickets == [Ticket(queries[1].id)]
    assert assignments.next("bob", "other", 5) == ([], []), "ann is looking at it"
    assert assignments.next("ann", "tab", 5, tickets) == ([], [])
    before = taught(store)
    say(assignments, tickets[0], left=0.0, uuid="a")
    assert taught(store) == [before[0], ("one", "two", 0.0, 0.0)]
    assert [answer.teacher for answer in store.answers()] == ["judge:rule", "ann"]
    assert assignments.next("ann", "tab", 5, tickets) == ([], tickets)
    ticket, given = assignments.undo("ann", "tab", "undo")
    assert ticket == tickets[0] and given.value == {"left": 0.0}
    assert taught(store) == before, "the judge's answer stands again"


def test_a_round_learns_what_stood_when_it_began(store):
    judged(store)
    through, before = store.last_answer(), taught(store)
    say(Assignments(store), Ticket(QueryId(0, 1)), "skip")
    assert len(taught(store)) == 1
    assert len(store.comparisons(through)) == len(before) == 2


def test_people_are_not_asked_unless_that_is_wanted():
    [answer] = answers(lambda prompt: {"A": 0.7, "B": 0.3}, [pair("one", "two")])
    assert "asks" not in answer.value
    [answer] = answers(lambda prompt: {"A": 0.7, "B": 0.3}, [pair("one", "two")], ask_people=True)
    assert answer.value["asks"]


def test_a_revision_is_shown_beside_what_it_was_made_of(store):
    revised(store)
    assignments = Assignments(store)
    [ticket], _ = assignments.next("ann", "tab", 5)
    assert str(ticket) == "0-0-revision" and Ticket.parse(str(ticket)) == ticket
    shown = assignments.query(ticket)
    assert [str(clip.actions[-1]) for clip in shown.segments] == [f"{RUDE} 0", KIND]
    assert shown.kind == "preference"
    revision = assignments.revision(ticket)
    assert revision.value["principles"] == [PRINCIPLE]
    assert revision.value["critiques"] == [CRITIQUE]


@pytest.mark.parametrize(
    ("kind", "value", "learned", "demonstrates"),
    [
        ("preference", {"left": 1.0}, (0.0, 0.0), False),
        ("preference", {"left": 1.0, "strength": "significantly"}, (0.0, 1.0), False),
        ("preference", {"left": 0.0}, (1.0, 0.0), True),
        ("tie", {}, (0.5, 0.0), False),
        ("skip", {}, None, False),
    ],
)
def test_a_person_overrules_a_revision(kind, value, learned, demonstrates, store):
    [query], assignments = revised(store), Assignments(store)
    assert taught(store) == [("Please", "Go awa", 1.0, 0.0)]
    [ticket], _ = assignments.next("ann", "tab", 1)
    say(assignments, ticket, kind, **value)
    assert taught(store) == ([] if learned is None else [("Please", "Go awa", *learned)])
    [answer] = store.answers()
    check_answer(query, answer)
    assert as_given(answer)[0] == ticket
    given = as_given(answer)[1]
    assert (given.kind, given.value) == (kind, value)
    assert bool(to_comparisons(query, answer).demonstrations) == demonstrates
    assert assignments.next("ann", "tab", 1, [ticket]) == ([], [ticket])
    undone, given = assignments.undo("ann", "tab", "undo")
    assert undone == ticket and given.kind == kind
    assert [answer.teacher for answer in store.answers()] == ["revise:kind"]


def test_a_text_of_ones_own_takes_the_place_of_a_revision(store):
    revised(store)
    assignments = Assignments(store)
    [ticket], _ = assignments.next("ann", "tab", 1)
    say(assignments, ticket, "rewrite", segment=1, text="Do stay.")
    assert taught(store) == [("Do sta", "Go awa", 1.0, 0.0)]


def test_a_revision_may_be_overruled_without_being_asked_about(store):
    [query], assignments = revised(store, ask_people=False), Assignments(store)
    assert assignments.next("ann", "tab", 1) == ([], [])
    [answer] = store.answers()
    ticket, given = as_given(answer)
    assert ticket == Ticket(query.id, revision=True) and given == answer
    say(assignments, ticket, left=1.0)
    assert taught(store) == [("Please", "Go awa", 0.0, 0.0)]


def test_what_a_page_holds_too_long_goes_to_somebody_else(store, monkeypatch):
    judged(store)
    assignments = Assignments(store)
    tickets, _ = assignments.next("ann", "tab", 1)
    pass_time(monkeypatch, store, LEASE_SECONDS + 1)
    assert assignments.next("bob", "other", 1)[0] == tickets
    assert assignments.next("ann", "tab", 0, tickets) == ([], tickets)


def test_what_no_model_revised_is_a_sentence(store):
    judged(store)
    with pytest.raises(UserError, match=r"no model has revised a text of the query \(0, 1\)"):
        Assignments(store).query(Ticket(QueryId(0, 1), revision=True))


@pytest.mark.parametrize(
    ("options", "how"),
    [({"orders": "first"}, "--judge.orders first"), ({"ask": "score"}, "--judge.ask score")],
)
def test_a_judge_that_asks_in_one_order_has_nothing_to_ask_people(options, how):
    judge = JudgeConfig(ask_people=True, **options)
    with pytest.raises(UserError, match=f"two orders disagree, but {how} asks in one"):
        check_experiment(Experiment(env="a/B-v0", teacher="judge:tiny", judge=judge))
    check_experiment(
        Experiment(env="a/B-v0", teacher="revise:tiny", judge=JudgeConfig(ask_people=True))
    )
