"""The desk: nobody gets what another holds, nothing said is lost, and everything can be undone."""

import time
from collections import Counter

import pytest
from fakes import make_query
from hypothesis import given
from hypothesis import strategies as st
from strategies import few

from prefrl.errors import UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, QueryId
from prefrl.viewer import desk as desk_module
from prefrl.viewer.desk import (
    AGAIN_AFTER,
    LEASE_SECONDS,
    LONGEST_LEASE_SECONDS,
    SILENT_SECONDS,
    Desk,
    Ticket,
)


@pytest.fixture
def desk(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.sqlite")
    yield Desk(store)
    store.close()


def ask(desk, count, round_index=0, segments=2):
    queries = [make_query(round_index, index, segments) for index in range(count)]
    desk.feedback.ask(round_index, queries, {}, 0)
    return queries


def say(desk, ticket, kind="preference", person="anna", uuid=None, at=None, **value):
    if kind == "preference" and not value:
        value = {"left": 1.0}
    at = time.time() if at is None else at
    answer = Answer(ticket.query, kind, value, person, at - 1, at)
    return desk.answer(ticket, answer, uuid or f"{person} {ticket} {time.perf_counter_ns()}")


def label(desk, count, person="anna", **value):
    """Answer `count` queries, those shown again included; return the tickets."""
    done = []
    for _ in range(count):
        [ticket], _ = desk.next(person, "tab", 1)
        say(desk, ticket, person=person, **value)
        done.append(ticket)
    return done


def fresh(tickets):
    return [ticket.query for ticket in tickets if not ticket.again]


# --- leases -----------------------------------------------------------------------------------


def test_the_newest_policys_clips_come_first(desk):
    ask(desk, 3, round_index=0)
    ask(desk, 3, round_index=1)
    tickets, _ = desk.next("anna", "tab", 4)
    assert [ticket.query.round for ticket in tickets] == [1, 1, 1, 0]


def test_nobody_gets_what_another_holds(desk):
    ask(desk, 6)
    anna, _ = desk.next("anna", "one", 3)
    same_person, _ = desk.next("anna", "two", 2)
    ben, _ = desk.next("ben", "three", 3)
    assert len(anna) == 3 and len(same_person) == 2 and len(ben) == 1
    assert len({*anna, *same_person, *ben}) == 6


def test_a_lease_that_has_run_out_is_given_to_somebody_else(desk, monkeypatch):
    ask(desk, 1)
    [ticket], _ = desk.next("anna", "one", 1)
    now = time.time()
    monkeypatch.setattr(desk_module.time, "time", lambda: now + LEASE_SECONDS - 1)
    assert desk.next("ben", "two", 1) == ([], [])
    assert desk.next("anna", "one", 0, [ticket]) == ([], []), "a heartbeat renews it"
    monkeypatch.setattr(desk_module.time, "time", lambda: now + LEASE_SECONDS + 1)
    assert desk.next("ben", "two", 1) == ([], [])
    monkeypatch.setattr(desk_module.time, "time", lambda: now + 2 * LEASE_SECONDS)
    assert desk.next("ben", "two", 1) == ([ticket], [])
    assert desk.next("anna", "one", 0, [ticket]) == ([], [ticket]), "she is told that it is lost"
    assert say(desk, ticket, person="anna"), "her late answer is kept"
    assert say(desk, ticket, person="ben")
    assert {a.teacher for a in desk.feedback.answers()} == {"anna", "ben"}


def test_a_killed_browsers_pairs_come_back_to_their_person_soon(desk, monkeypatch):
    ask(desk, 1)
    [ticket], _ = desk.next("anna", "killed", 1)
    now = time.time()
    monkeypatch.setattr(desk_module.time, "time", lambda: now + SILENT_SECONDS - 1)
    assert desk.next("anna", "new", 1)[0] == [], "that page may still be there"
    monkeypatch.setattr(desk_module.time, "time", lambda: now + SILENT_SECONDS + 1)
    assert desk.next("ben", "other", 1)[0] == [], "others wait for the lease to end"
    assert desk.next("anna", "new", 1)[0] == [ticket]


def test_a_page_that_is_open_but_idle_lets_go_in_the_end(desk, monkeypatch):
    ask(desk, 1)
    [ticket], _ = desk.next("anna", "one", 1)
    now = time.time()
    for passed in range(0, 660, 30):
        monkeypatch.setattr(desk_module.time, "time", lambda at=now + passed: at)
        free = desk.next("ben", "two", 1)[0]
        assert free == ([ticket] if passed >= LONGEST_LEASE_SECONDS else [])
        if free:
            break
        desk.next("anna", "one", 0, [ticket])
    assert free


def test_released_and_answered_queries(desk):
    ask(desk, 2)
    held, _ = desk.next("anna", "one", 2)
    desk.release("anna", "two")
    assert desk.next("ben", "three", 2) == ([], [])
    desk.release("anna", "one")
    tickets, _ = desk.next("ben", "three", 2)
    assert tickets == held
    say(desk, tickets[0], person="ben")
    assert desk.next("anna", "one", 2, held)[1] == held, "one is answered, one is Ben's"


def test_what_is_on_somebodys_screen_does_not_expire(desk):
    ask(desk, 3)
    [held], _ = desk.next("anna", "one", 1)
    ask(desk, 1, round_index=1)
    desk.feedback.expire(1)
    assert [q.id for q in desk.feedback.pending()] == [held.query, (1, 0)]
    tickets, _ = desk.next("ben", "two", 5)
    assert fresh(tickets) == [(1, 0)], "expired ones are shown to nobody"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.booleans()), max_size=40))
@few
def test_no_query_is_held_twice_or_answered_twice(tmp_path_factory, visits):
    store = FeedbackStore(tmp_path_factory.mktemp("desk") / "feedback.sqlite")
    desk, holds = Desk(store), {name: [] for name in "abc"}
    ask(desk, 30)
    for name, count, answers in visits:
        tickets, lost = desk.next(name, name, count, holds[name])
        assert not lost
        holds[name] += tickets
        if answers and holds[name]:
            say(desk, holds[name].pop(0), person=name)
    owners = Counter(query for tickets in holds.values() for query in fresh(tickets))
    answered = Counter(answer.query for answer in store.answers())
    assert all(count == 1 for count in (owners + answered).values())
    store.close()


def test_only_who_holds_a_pair_can_say_that_it_is_damaged(desk):
    ask(desk, 3)
    [ticket], _ = desk.next("anna", "one", 1)
    for held, person, tab in [
        (ticket, "anna", "two"), (ticket, "ben", "one"), (Ticket(QueryId(0, 0)), "anna", "one"),
        (Ticket(ticket.query, again=True), "anna", "one"), (Ticket(QueryId(7, 7)), "anna", "one"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match="is not in front of"):
            desk.spoil(held, person, tab)
    assert desk.damaged() == 0 and desk.feedback.counts().pending == 3
    for _ in range(2):  # sent twice
        desk.spoil(ticket, "anna", "one")
    assert desk.damaged() == 1 and desk.feedback.counts().pending == 2
    assert desk.next("anna", "one", 0, [ticket])[1] == [ticket]


def test_a_pair_shown_again_can_be_damaged(desk):
    ask(desk, 30)
    again = None
    while not again:
        label(desk, 1)
        [ticket], _ = desk.next("anna", "tab", 1)
        again = ticket if ticket.again else None
    answered = desk.feedback.counts().answered
    desk.spoil(again, "anna", "tab")
    assert desk.damaged() == 1 and desk.feedback.counts().answered == answered


# --- answers ----------------------------------------------------------------------------------


def test_what_is_sent_twice_counts_once(desk):
    ask(desk, 2)
    [ticket, other], _ = desk.next("anna", "one", 2)
    number = say(desk, ticket, uuid="same", left=1.0)
    assert say(desk, ticket, uuid="same", left=1.0) == number
    assert say(desk, ticket, uuid="same", left=0.0) == number
    assert say(desk, other, uuid="same") == number
    [answer] = desk.feedback.answers()
    assert answer.value == {"left": 1.0} and len(desk.feedback.pending()) == 1


def test_a_changed_answer_supersedes_and_both_are_kept(desk):
    ask(desk, 1)
    [ticket], _ = desk.next("anna", "one", 1)
    first = say(desk, ticket, left=1.0)
    second = say(desk, ticket, "tie")
    assert second > first
    assert [a.kind for a in desk.feedback.answers()] == ["tie"]
    assert [a.kind for a in desk.feedback.answers(through=first)] == ["preference"]


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "-", "1-2-3", "1-2-again-again", "--1-2",
                                  "1--2", "١-٢", "1e3-0", "0-0 ", "9999999999-0",
                                  "../1-2"])  # fmt: skip
def test_what_is_no_ticket_is_refused(text):
    with pytest.raises(UserError, match="not a ticket"):
        Ticket.parse(text)


@given(st.integers(-(10**8), 10**8), st.integers(0, 10**8), st.booleans())
def test_tickets_read_as_they_are_written(round_index, index, again):
    ticket = Ticket(QueryId(round_index, index), again)
    assert Ticket.parse(str(ticket)) == ticket


def test_an_answer_to_a_query_that_is_not_there(desk):
    with pytest.raises(UserError, match="holds no query"):
        say(desk, Ticket(QueryId(4, 2)))


# --- undo and history -------------------------------------------------------------------------


def test_undo_goes_back_one_by_one_and_hands_the_very_pairs_out_again(desk):
    ask(desk, 25)
    tickets, _ = desk.next("anna", "tab", 25)
    for place, ticket in enumerate(tickets):
        say(desk, ticket, at=1e9 + place)
    for step, ticket in enumerate(reversed(tickets)):
        found, was = desk.undo("anna", "tab", f"undo {step}")
        assert found == ticket and was.value == {"left": 1.0}
        assert desk.next("ben", "two", 1) == ([], []), "it is in front of Anna"
    assert desk.undo("anna", "tab", "once more") is None
    assert desk.feedback.counts().pending == 25
    assert desk.feedback.last_answer() == 2 * len(tickets), "nothing is ever deleted"


def test_the_same_undo_twice_takes_back_one(desk):
    ask(desk, 3)
    label(desk, 3)
    assert desk.undo("anna", "tab", "same") == desk.undo("anna", "tab", "same")
    assert len(desk.feedback.answers()) == 2


def test_an_undo_takes_back_the_answer_that_is_meant_and_no_other(desk):
    ask(desk, 3)
    tickets, _ = desk.next("anna", "tab", 3)
    for ticket in tickets:
        say(desk, ticket, uuid=f"answer {ticket}")
    first, *others = tickets
    meant = (first, f"answer {first}")
    for uuid in ("undo", "undo", "another undo"):  # as a page sends it that heard no reply
        found, was = desk.undo("anna", "tab", uuid, meant)
        assert found == first and was.value == {"left": 1.0}
    assert {answer.query for answer in desk.feedback.answers()} == {t.query for t in others}
    assert desk.feedback.last_answer() == 4, "one retraction"


def test_an_answer_that_was_changed_or_never_came_is_not_taken_back(desk):
    ask(desk, 2)
    [ticket, other], _ = desk.next("anna", "tab", 2)
    say(desk, ticket, uuid="old")
    say(desk, other, uuid="other")
    changed = say(desk, ticket, "tie", uuid="new")
    assert desk.undo("anna", "tab", "undo", (ticket, "old")) is None
    assert desk.undo("anna", "tab", "undo 2", (ticket, "never sent")) is None
    assert desk.undo("ben", "tab", "undo 3", (ticket, "new")) is None, "it is not his"
    assert desk.feedback.last_answer() == changed
    assert desk.undo("anna", "tab", "undo 4", (ticket, "new"))[0] == ticket
    say(desk, ticket, uuid="newest")
    assert desk.undo("anna", "tab", "undo 5", (ticket, "new")) is None, "answered anew since"
    assert len(desk.feedback.answers()) == 2


def test_undo_is_ones_own(desk):
    ask(desk, 2)
    label(desk, 1, "anna")
    label(desk, 1, "ben")
    taken, _ = desk.undo("anna", "tab", "undo")
    assert [a.teacher for a in desk.feedback.answers()] == ["ben"]
    assert say(desk, taken, "tie") and desk.feedback.counts().answered == 2


def test_history_is_newest_first_and_can_be_filtered(desk):
    ask(desk, 6)
    for kind, person in [("tie", "anna"), ("skip", "ben"), ("preference", "anna"), ("tie", "ben")]:
        [ticket], _ = desk.next(person, person, 1)
        say(desk, ticket, kind, person)
    seen = desk.history(10)
    assert [(s.answer.kind, s.answer.teacher) for s in seen] == [
        ("tie", "ben"), ("preference", "anna"), ("skip", "ben"), ("tie", "anna"),
    ]  # fmt: skip
    assert [s.answer.kind for s in desk.history(10, person="anna")] == ["preference", "tie"]
    assert [s.answer.teacher for s in desk.history(10, kind="tie")] == ["ben", "anna"]
    assert desk.history(2, before=seen[1].number) == desk.history(10)[2:]
    assert desk.people() == {"anna": 2, "ben": 1}


def test_imported_answers_are_in_the_history_but_neither_counted_nor_undone(desk):
    ask(desk, 1)
    label(desk, 1)
    for name in ("anna", "others"):
        queries = [make_query(5, index) for index in range(2)]
        answers = [Answer(query.id, "tie", {}, name) for query in queries]
        desk.feedback.record(queries, answers, f"imported from {name}")
    rounds = [said.answer.query.round for said in desk.history(10)]
    assert rounds == [-2, -2, -1, -1, 0]
    assert desk.people() == {"anna": 1, "others": 0}
    assert desk.undo("anna", "tab", "undo")[0].query == (0, 0)
    assert desk.undo("anna", "tab", "undo 2") is None


# --- pairs shown again ------------------------------------------------------------------------


def test_a_twentieth_of_the_pairs_is_shown_again_swapped(desk):
    ask(desk, 100)
    tickets = label(desk, 100)
    again = [ticket for ticket in tickets if ticket.again]
    assert 4 <= len(again) <= 6 and len(set(again)) == len(again)
    for ticket in again:
        first = desk.feedback.query(ticket.query)
        assert desk.query(ticket).segments == first.segments[::-1]
        place = tickets.index(ticket)
        assert place - tickets.index(Ticket(ticket.query)) >= AGAIN_AFTER
    assert len(desk.feedback.answers()) == 100 - len(again), "they teach nothing"


@pytest.mark.parametrize("side, same", [("as before", True), ("always left", False)])
def test_agreement_with_oneself(desk, side, same):
    ask(desk, 60)
    for _ in range(60):
        [ticket], _ = desk.next("anna", "tab", 1)
        say(desk, ticket, left=0.0 if ticket.again and side == "as before" else 1.0)
    agreed, count = desk.agreement("anna")
    assert count >= 2 and agreed == (count if same else 0)
    assert desk.agreement("ben") == (0, 0)


def test_undo_of_a_pair_shown_again(desk):
    ask(desk, 30)
    tickets = []
    while not tickets or not tickets[-1].again:
        tickets += label(desk, 1)
    assert desk.agreement("anna")[1] == 1
    for _ in range(2):  # sent twice, it is undone once
        found, was = desk.undo("anna", "tab", "undo")
        assert found == tickets[-1] and was.value == {"left": 1.0}, "as it was on the screen"
    assert desk.agreement("anna")[1] == 0
    assert desk.undo("anna", "tab", "undo 2")[0] == tickets[-2]


def test_undo_of_a_pair_shown_again_that_is_meant(desk):
    ask(desk, 30)
    tickets = []
    while not tickets or not tickets[-1].again:
        tickets += label(desk, 1)
    label(desk, 2)
    count = desk.feedback.last_answer()
    for uuid in ("undo", "another undo"):
        found, was = desk.undo("anna", "tab", uuid, (tickets[-1], "its uuid"))
        assert found == tickets[-1] and was.value == {"left": 1.0}
    assert desk.agreement("anna")[1] == 0 and desk.feedback.last_answer() == count
    never = Ticket(tickets[1].query, again=True)
    assert desk.undo("anna", "tab", "undo 3", (never, "its uuid")) is None


def test_the_rate_is_of_the_last_minutes(desk):
    ask(desk, 20)
    now = time.time()
    for index in range(20):
        say(desk, Ticket(QueryId(0, index)), at=now - 60 + 3 * (index + 1))
    assert desk.per_minute("anna") == pytest.approx(20, rel=0.1)
    assert desk.per_minute("ben") == 0
