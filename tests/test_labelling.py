"""Labelling: nobody gets what another holds, nothing said is lost, and everything can be undone."""

import dataclasses
import time
from collections import Counter

import pytest
from fakes import make_query
from hypothesis import given
from hypothesis import strategies as st
from stores import pass_time
from strategies import few

from prefrl.errors import UserError
from prefrl.storage import history
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.labelling import (
    LEASE_SECONDS,
    LONGEST_LEASE_SECONDS,
    REPEATED_AFTER,
    SILENT_SECONDS,
    Assignments,
    Ticket,
)
from prefrl.types import Answer, QueryId


@pytest.fixture
def assignments(where):
    store = FeedbackStore(where)
    yield Assignments(store)
    store.close()


def ask(assignments, count, round_index=0, segments=2):
    queries = [make_query(round_index, index, segments) for index in range(count)]
    assignments.store.ask(round_index, queries, {}, 0)
    return queries


def say(assignments, ticket, kind="preference", person="anna", uuid=None, at=None, **value):
    if kind == "preference" and not value:
        value = {"left": 1.0}
    at = time.time() if at is None else at
    answer = Answer(ticket.query, kind, value, person, at - 1, at)
    uuid = uuid or f"{person} {ticket} {time.perf_counter_ns()}"
    return assignments.answer(ticket, dataclasses.replace(answer, uuid=uuid))


def label(assignments, count, person="anna", **value):
    """Answer `count` queries, those shown again included; return the tickets."""
    done = []
    for _ in range(count):
        [ticket], _ = assignments.next(person, "tab", 1)
        say(assignments, ticket, person=person, **value)
        done.append(ticket)
    return done


def fresh(tickets):
    return [ticket.query for ticket in tickets if not ticket.repeat]


# --- leases -----------------------------------------------------------------------------------


def test_the_newest_policys_clips_come_first(assignments):
    ask(assignments, 3, round_index=0)
    ask(assignments, 3, round_index=1)
    tickets, _ = assignments.next("anna", "tab", 4)
    assert [ticket.query.round for ticket in tickets] == [1, 1, 1, 0]


def test_nobody_gets_what_another_holds(assignments):
    ask(assignments, 6)
    anna, _ = assignments.next("anna", "one", 3)
    same_person, _ = assignments.next("anna", "two", 2)
    ben, _ = assignments.next("ben", "three", 3)
    assert len(anna) == 3 and len(same_person) == 2 and len(ben) == 1
    assert len({*anna, *same_person, *ben}) == 6


def test_a_lease_that_has_run_out_is_given_to_somebody_else(assignments, monkeypatch):
    ask(assignments, 1)
    [ticket], _ = assignments.next("anna", "one", 1)
    pass_time(monkeypatch, assignments.store, LEASE_SECONDS - 1)
    assert assignments.next("ben", "two", 1) == ([], [])
    assert assignments.next("anna", "one", 0, [ticket]) == ([], []), "a heartbeat renews it"
    pass_time(monkeypatch, assignments.store, LEASE_SECONDS + 1)
    assert assignments.next("ben", "two", 1) == ([], [])
    pass_time(monkeypatch, assignments.store, 2 * LEASE_SECONDS)
    assert assignments.next("ben", "two", 1) == ([ticket], [])
    assert assignments.next("anna", "one", 0, [ticket]) == ([], [ticket]), (
        "she is told that it is lost"
    )
    assert say(assignments, ticket, person="anna"), "her late answer is kept"
    assert say(assignments, ticket, person="ben")
    assert {a.teacher for a in assignments.store.answers()} == {"anna", "ben"}


def test_a_killed_browsers_pairs_come_back_to_their_person_soon(assignments, monkeypatch):
    ask(assignments, 1)
    [ticket], _ = assignments.next("anna", "killed", 1)
    pass_time(monkeypatch, assignments.store, SILENT_SECONDS - 1)
    assert assignments.next("anna", "new", 1)[0] == [], "that page may still be there"
    pass_time(monkeypatch, assignments.store, SILENT_SECONDS + 1)
    assert assignments.next("ben", "other", 1)[0] == [], "others wait for the lease to end"
    assert assignments.next("anna", "new", 1)[0] == [ticket]


def test_a_page_that_is_open_but_idle_lets_go_in_the_end(assignments, monkeypatch):
    ask(assignments, 1)
    [ticket], _ = assignments.next("anna", "one", 1)
    for passed in range(0, 660, 30):
        pass_time(monkeypatch, assignments.store, passed)
        free = assignments.next("ben", "two", 1)[0]
        assert free == ([ticket] if passed >= LONGEST_LEASE_SECONDS else [])
        if free:
            break
        assignments.next("anna", "one", 0, [ticket])
    assert free


def test_released_and_answered_queries(assignments):
    ask(assignments, 2)
    held, _ = assignments.next("anna", "one", 2)
    assignments.release("anna", "two")
    assert assignments.next("ben", "three", 2) == ([], [])
    assignments.release("anna", "one")
    tickets, _ = assignments.next("ben", "three", 2)
    assert tickets == held
    say(assignments, tickets[0], person="ben")
    assert assignments.next("anna", "one", 2, held)[1] == held, "one is answered, one is Ben's"


def test_what_is_on_somebodys_screen_does_not_expire(assignments):
    ask(assignments, 3)
    [held], _ = assignments.next("anna", "one", 1)
    ask(assignments, 1, round_index=1)
    assignments.store.expire(1)
    assert [q.id for q in assignments.store.pending()] == [held.query, (1, 0)]
    tickets, _ = assignments.next("ben", "two", 5)
    assert fresh(tickets) == [(1, 0)], "expired ones are shown to nobody"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.booleans()), max_size=40))
@few
def test_no_query_is_held_twice_or_answered_twice(new_store, visits):
    store = new_store()
    assignments, holds = Assignments(store), {name: [] for name in "abc"}
    ask(assignments, 30)
    for name, count, answers in visits:
        tickets, lost = assignments.next(name, name, count, holds[name])
        assert not lost
        holds[name] += tickets
        if answers and holds[name]:
            say(assignments, holds[name].pop(0), person=name)
    owners = Counter(query for tickets in holds.values() for query in fresh(tickets))
    answered = Counter(answer.query for answer in store.answers())
    assert all(count == 1 for count in (owners + answered).values())
    store.close()


def test_only_who_holds_a_pair_can_say_that_it_is_damaged(assignments):
    ask(assignments, 3)
    [ticket], _ = assignments.next("anna", "one", 1)
    for held, person, tab in [
        (ticket, "anna", "two"), (ticket, "ben", "one"), (Ticket(QueryId(0, 0)), "anna", "one"),
        (Ticket(ticket.query, repeat=True), "anna", "one"), (Ticket(QueryId(7, 7)), "anna", "one"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match="is not in front of"):
            assignments.withdraw_damaged(held, person, tab)
    assert history.damaged(assignments.store) == 0 and assignments.store.counts().pending == 3
    for _ in range(2):  # sent twice
        assignments.withdraw_damaged(ticket, "anna", "one")
    assert history.damaged(assignments.store) == 1 and assignments.store.counts().pending == 2
    assert assignments.next("anna", "one", 0, [ticket])[1] == [ticket]


def test_a_pair_shown_again_can_be_damaged(assignments):
    ask(assignments, 30)
    again = None
    while not again:
        label(assignments, 1)
        [ticket], _ = assignments.next("anna", "tab", 1)
        again = ticket if ticket.repeat else None
    answered = assignments.store.counts().answered
    assignments.withdraw_damaged(again, "anna", "tab")
    assert (
        history.damaged(assignments.store) == 1 and assignments.store.counts().answered == answered
    )


# --- answers ----------------------------------------------------------------------------------


def test_what_is_sent_twice_counts_once(assignments):
    ask(assignments, 2)
    [ticket, other], _ = assignments.next("anna", "one", 2)
    number = say(assignments, ticket, uuid="same", left=1.0)
    assert say(assignments, ticket, uuid="same", left=1.0) == number
    assert say(assignments, ticket, uuid="same", left=0.0) == number
    assert say(assignments, other, uuid="same") == number
    [answer] = assignments.store.answers()
    assert answer.value == {"left": 1.0} and len(assignments.store.pending()) == 1


def test_a_changed_answer_supersedes_and_both_are_kept(assignments):
    ask(assignments, 1)
    [ticket], _ = assignments.next("anna", "one", 1)
    first = say(assignments, ticket, left=1.0)
    second = say(assignments, ticket, "tie")
    assert second > first
    assert [a.kind for a in assignments.store.answers()] == ["tie"]
    assert [a.kind for a in assignments.store.answers(through=first)] == ["preference"]


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "-", "1-2-3", "1-2-repeat-repeat", "--1-2",
                                  "1--2", "١-٢", "1e3-0", "0-0 ", "9999999999-0",
                                  "../1-2"])  # fmt: skip
def test_what_is_no_ticket_is_refused(text):
    with pytest.raises(UserError, match="not a ticket"):
        Ticket.parse(text)


@given(st.integers(-(10**8), 10**8), st.integers(0, 10**8), st.booleans())
def test_tickets_read_as_they_are_written(round_index, index, again):
    ticket = Ticket(QueryId(round_index, index), again)
    assert Ticket.parse(str(ticket)) == ticket


def test_an_answer_to_a_query_that_is_not_there(assignments):
    with pytest.raises(UserError, match="holds no query"):
        say(assignments, Ticket(QueryId(4, 2)))


# --- undo and history -------------------------------------------------------------------------


def test_undo_goes_back_one_by_one_and_hands_the_very_pairs_out_again(assignments):
    ask(assignments, 25)
    tickets, _ = assignments.next("anna", "tab", 25)
    for index, ticket in enumerate(tickets):
        say(assignments, ticket, at=1e9 + index)
    for step, ticket in enumerate(reversed(tickets)):
        found, was = assignments.undo("anna", "tab", f"undo {step}")
        assert found == ticket and was.value == {"left": 1.0}
        assert assignments.next("ben", "two", 1) == ([], []), "it is in front of Anna"
    assert assignments.undo("anna", "tab", "once more") is None
    assert assignments.store.counts().pending == 25
    assert assignments.store.last_answer() == 2 * len(tickets), "nothing is ever deleted"


def test_the_same_undo_twice_takes_back_one(assignments):
    ask(assignments, 3)
    label(assignments, 3)
    assert assignments.undo("anna", "tab", "same") == assignments.undo("anna", "tab", "same")
    assert len(assignments.store.answers()) == 2


def test_an_undo_takes_back_the_answer_that_is_meant_and_no_other(assignments):
    ask(assignments, 3)
    tickets, _ = assignments.next("anna", "tab", 3)
    for ticket in tickets:
        say(assignments, ticket, uuid=f"answer {ticket}")
    first, *others = tickets
    meant = f"answer {first}"
    for uuid in ("undo", "undo", "another undo"):  # as a page sends it that heard no reply
        found, was = assignments.undo("anna", "tab", uuid, meant)
        assert found == first and was.value == {"left": 1.0}
    assert {answer.query for answer in assignments.store.answers()} == {t.query for t in others}
    assert assignments.store.last_answer() == 4, "one retraction"


def test_an_answer_that_was_changed_or_never_came_is_not_taken_back(assignments):
    ask(assignments, 2)
    [ticket, other], _ = assignments.next("anna", "tab", 2)
    say(assignments, ticket, uuid="old")
    say(assignments, other, uuid="other")
    changed = say(assignments, ticket, "tie", uuid="new")
    assert assignments.undo("anna", "tab", "undo", "old") is None
    assert assignments.undo("anna", "tab", "undo 2", "never sent") is None
    assert assignments.undo("ben", "tab", "undo 3", "new") is None, "it is not his"
    assert assignments.store.last_answer() == changed
    assert assignments.undo("anna", "tab", "undo 4", "new")[0] == ticket
    say(assignments, ticket, uuid="newest")
    assert assignments.undo("anna", "tab", "undo 5", "new") is None, "answered anew since"
    assert len(assignments.store.answers()) == 2


def test_undo_is_ones_own(assignments):
    ask(assignments, 2)
    label(assignments, 1, "anna")
    label(assignments, 1, "ben")
    taken, _ = assignments.undo("anna", "tab", "undo")
    assert [a.teacher for a in assignments.store.answers()] == ["ben"]
    assert say(assignments, taken, "tie") and assignments.store.counts().answered == 2


def test_history_is_newest_first_and_can_be_filtered(assignments):
    ask(assignments, 6)
    for kind, person in [("tie", "anna"), ("skip", "ben"), ("preference", "anna"), ("tie", "ben")]:
        [ticket], _ = assignments.next(person, person, 1)
        say(assignments, ticket, kind, person)
    seen = history.history(assignments.store, 10)
    assert [(s.answer.kind, s.answer.teacher) for s in seen] == [
        ("tie", "ben"), ("preference", "anna"), ("skip", "ben"), ("tie", "anna"),
    ]  # fmt: skip
    assert [s.answer.kind for s in history.history(assignments.store, 10, person="anna")] == [
        "preference",
        "tie",
    ]
    assert [s.answer.teacher for s in history.history(assignments.store, 10, kind="tie")] == [
        "ben",
        "anna",
    ]
    assert (
        history.history(assignments.store, 2, before=seen[1].number)
        == history.history(assignments.store, 10)[2:]
    )
    assert history.people(assignments.store) == {"anna": 2, "ben": 1}


def test_imported_answers_are_in_the_history_but_neither_counted_nor_undone(assignments):
    ask(assignments, 1)
    label(assignments, 1)
    for name in ("anna", "others"):
        queries = [make_query(5, index) for index in range(2)]
        answers = [Answer(query.id, "tie", {}, name) for query in queries]
        assignments.store.record(queries, answers, f"imported from {name}")
    rounds = [said.answer.query.round for said in history.history(assignments.store, 10)]
    assert rounds == [-2, -2, -1, -1, 0]
    assert history.people(assignments.store) == {"anna": 1, "others": 0}
    assert assignments.undo("anna", "tab", "undo")[0].query == (0, 0)
    assert assignments.undo("anna", "tab", "undo 2") is None


# --- pairs shown again ------------------------------------------------------------------------


def test_what_pages_ask_for_again_and_again_reads_no_answer(tmp_path, monkeypatch):
    """A hundred thousand answers are looked up in an index that holds all that is counted."""
    assignments = Assignments(FeedbackStore(tmp_path / "feedback.sqlite"))
    database, plans = assignments.store.database, []
    run = database.run

    def explained(sql, *values, **named):
        plans.append(" ".join(str(row[-1]) for row in run(f"EXPLAIN QUERY PLAN {sql}", *values)))
        return run(sql, *values, **named)

    monkeypatch.setattr(
        type(database), "run", lambda _, *given, **named: explained(*given, **named)
    )
    history.people(assignments.store)
    history.damaged(assignments.store)
    assignments._repeat("anna")
    assert ["COVERING INDEX" in plan for plan in plans[:3]] == [True, True, True]
    assert "SCAN query" not in " ".join(plans)
    assignments.store.close()


def test_a_twentieth_of_the_pairs_is_shown_again_swapped(assignments):
    ask(assignments, 100)
    tickets = label(assignments, 100)
    again = [ticket for ticket in tickets if ticket.repeat]
    assert 4 <= len(again) <= 6 and len(set(again)) == len(again)
    for ticket in again:
        first = assignments.store.query(ticket.query)
        assert assignments.query(ticket).segments == first.segments[::-1]
        index = tickets.index(ticket)
        assert index - tickets.index(Ticket(ticket.query)) >= REPEATED_AFTER
    assert len(assignments.store.answers()) == 100 - len(again), "they teach nothing"


@pytest.mark.parametrize("side, same", [("as before", True), ("always left", False)])
def test_agreement_with_oneself(assignments, side, same):
    ask(assignments, 60)
    for _ in range(60):
        [ticket], _ = assignments.next("anna", "tab", 1)
        say(assignments, ticket, left=0.0 if ticket.repeat and side == "as before" else 1.0)
    agreed, count = history.agreement(assignments.store, "anna")
    assert count >= 2 and agreed == (count if same else 0)
    assert history.agreement(assignments.store, "ben") == (0, 0)


def test_undo_of_a_pair_shown_again(assignments):
    ask(assignments, 30)
    tickets = []
    while not tickets or not tickets[-1].repeat:
        tickets += label(assignments, 1)
    assert history.agreement(assignments.store, "anna")[1] == 1
    for _ in range(2):  # sent twice, it is undone once
        found, was = assignments.undo("anna", "tab", "undo")
        assert found == tickets[-1] and was.value == {"left": 1.0}, "as it was on the screen"
    assert history.agreement(assignments.store, "anna")[1] == 0
    assert assignments.undo("anna", "tab", "undo 2")[0] == tickets[-2]


def test_undo_of_a_pair_shown_again_that_is_meant(assignments):
    ask(assignments, 30)
    tickets = []
    while not tickets or not tickets[-1].repeat:
        tickets += label(assignments, 1)
    repeat, store = tickets[-1], assignments.store
    label(assignments, 2)
    say(assignments, repeat, "tie", uuid="changed")
    taught = store.answers()
    for uuid in ("undo", "undo", "another undo"):
        found, was = assignments.undo("anna", "tab", uuid, "changed")
        assert (found, was.kind) == (repeat, "tie")
    assert history.agreement(store, "anna")[1] == 0 and store.answers() == taught
    assert assignments.undo("anna", "tab", "undo 3", "never sent") is None
    say(assignments, repeat, left=1.0)
    assert history.agreement(store, "anna") == (0, 1), "it can be answered anew"


def test_an_answer_to_a_pair_shown_again_counts_as_no_label(assignments):
    ask(assignments, 30)
    tickets = label(assignments, 11)
    counts, said = assignments.store.counts(), history.history(assignments.store, 99)
    [repeat], _ = assignments.next("anna", "tab", 1)
    assert repeat.repeat and repeat.query in {ticket.query for ticket in tickets}
    for _ in range(2):
        number = say(assignments, repeat, left=0.0, uuid="once")
    assert number == 12, "sent twice, it is there once"
    store = assignments.store
    taken = counts._replace(seconds=counts.seconds + 1)  # a repeat takes a person's time, too
    assert store.counts() == store.counts_at(9, 99) == taken
    assert history.history(store, 99) == said and history.people(store) == {"anna": 11}
    assert len(store.answers()) == len(store.comparisons()) == 11
    [answer] = [a for a in store.answers(repeats=True) if a.repeat]
    assert (answer.query, answer.value) == (repeat.query, {"left": 1.0}), "as if not swapped"
    with pytest.raises(UserError, match="expected a number from 0 to 1"):
        say(assignments, repeat, left=7)


def test_the_rate_is_of_the_last_minutes(assignments):
    ask(assignments, 20)
    now = time.time()
    for index in range(20):
        say(assignments, Ticket(QueryId(0, index)), at=now - 60 + 3 * (index + 1))
    assert history.labels_per_minute(assignments.store, "anna") == pytest.approx(20, rel=0.1)
    assert history.labels_per_minute(assignments.store, "ben") == 0


# --- several people each ------------------------------------------------------------------------


@pytest.fixture
def shared(assignments):
    """Assignments of a run in which two people are to answer each query."""
    return Assignments(assignments.store, people=2)


def test_two_people_answer_each_query_and_a_third_and_the_same_one_do_not(shared):
    ask(shared, 3)
    anna = {ticket.query for ticket in label(shared, 3, "anna")}
    assert shared.next("anna", "tab", 5)[0] == [], "nobody answers twice"
    assert len(anna) == 3 and {t.query for t in label(shared, 3, "ben")} == anna
    assert shared.next("cleo", "tab", 5)[0] == []


def test_a_query_is_one_label_whoever_else_answers_it_and_every_answer_teaches(shared):
    ask(shared, 2)
    label(shared, 2, "anna")
    before = shared.store.counts()
    assert (before.answered, before.pending, before.clips) == (2, 0, 4), "no run waits for others"
    label(shared, 2, "ben", left=0.0)
    after = shared.store.counts()
    assert after._replace(seconds=0) == before._replace(seconds=0)
    assert after.seconds > before.seconds, "people's minutes are all of theirs"
    taught = Counter(c.teacher for c in shared.store.comparisons())
    assert taught == {"anna": 2, "ben": 2}


def test_what_others_have_answered_comes_before_what_nobody_has(shared):
    ask(shared, 4)
    [answered] = label(shared, 1, "anna")
    tickets, _ = shared.next("ben", "tab", 3)
    assert tickets[0] == answered and len({*tickets}) == 3
    assert shared.next("cleo", "tab", 9)[0] == [Ticket(QueryId(0, 0))], "ben holds the others"


def test_a_lease_of_what_others_have_answered_is_renewed_and_runs_out(shared, monkeypatch):
    ask(shared, 1)
    label(shared, 1, "anna")
    [ticket], _ = shared.next("ben", "tab", 1)
    assert shared.next("ben", "tab", 0, [ticket])[1] == []
    assert shared.next("cleo", "tab", 1)[0] == []
    pass_time(monkeypatch, shared.store, LEASE_SECONDS + 1)
    assert shared.next("cleo", "tab", 1)[0] == [ticket]
    say(shared, ticket, person="cleo")
    assert shared.next("ben", "tab", 0, [ticket])[1] == [ticket], "two have answered it"


def test_a_skip_is_one_of_the_answers_and_an_undo_brings_the_query_back(shared):
    ask(shared, 1)
    [ticket] = label(shared, 1, "anna")
    say(shared, ticket, "skip", person="ben", uuid="skip")
    assert shared.next("cleo", "tab", 1)[0] == []
    assert shared.undo("ben", "tab", "undo") is not None
    assert shared.next("ben", "tab", 0, [ticket])[1] == [], "it is ben's again"
    shared.release("ben", "tab")
    assert shared.next("cleo", "tab", 1)[0] == [ticket]


def test_old_imported_and_withdrawn_queries_are_shown_to_nobody_else(shared):
    ask(shared, 2)
    label(shared, 2, "anna")
    shared.store.withdraw(QueryId(0, 0), "damaged")
    assert shared.next("ben", "tab", 5)[0] == [Ticket(QueryId(0, 1))]
    shared.release("ben", "tab")
    for round_index in (1, 2, 3):
        shared.store.ask(round_index, [], {}, 0)
    assert shared.next("ben", "tab", 5)[0] == []


def test_one_person_each_is_what_it_was(assignments):
    ask(assignments, 2)
    label(assignments, 2, "anna")
    assert assignments.next("ben", "tab", 5)[0] == []
