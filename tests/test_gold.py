"""Gold questions, broken clips and comments: what measures people, and what is set aside."""

import contextlib
import dataclasses
import json
import sqlite3
from collections import Counter

import pytest
from fakes import make_segment
from stores import WITHOUT_GOLD, only_postgres
from test_labelling import assignments, label, say

from prefrl.answers import share_right, to_comparisons
from prefrl.errors import UserError
from prefrl.storage import gold, history
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.gold_files import Asks, import_gold
from prefrl.storage.import_export import export_answers, import_answers
from prefrl.storage.labelling import Ticket
from prefrl.types import Answer, Query, QueryId

__all__ = ["assignments"]

PAIRS = Asks({"": "Which is better?"}, "preference", 2)


def make_query(round_index=0, index=0, question="Which is better?"):
    """A query whose clips show what no others do."""
    first = 100 * round_index + 2 * index
    clips = [make_segment(f"{first + side}", value=first + side) for side in (0, 1)]
    return Query(QueryId(round_index, index), tuple(clips), question=question)


def ask(assignments, count, round_index=0):
    queries = [make_query(round_index, index) for index in range(count)]
    assignments.store.ask(round_index, queries, {}, 0)


def known(store, index, left=1.0, teacher="eve"):
    """Let somebody who is trusted answer a query of round 0, and make it gold."""
    query = store.query(QueryId(0, index))
    number = store.answer(Answer(query.id, "preference", {"left": left}, teacher, 1.0, 2.0))
    return gold.mark_answer(store, number)


def asked(assignments, person, count):
    """Answer what a person is asked, left always; return the queries of the gold ones."""
    label(assignments, count, person, left=1.0)
    return [a.query for a in assignments.store.answers(repeats=True) if a.gold]


# --- gold questions ---------------------------------------------------------------------------


def test_a_gold_question_measures_and_is_no_label(assignments):
    assignments.gold_share = 0.9
    store = assignments.store
    ask(assignments, 24)
    for index, left in enumerate([1.0, 1.0, 0.0, 0.0]):
        known(store, index, left)
    before, learned = store.counts(), len(store.comparisons())
    seen = asked(assignments, "ana", 14)
    assert {*seen} == {(0, 0), (0, 1), (0, 2), (0, 3)} and len(seen) == 4, "each once"
    assert store.counts().answered == before.answered + 10
    assert len(store.comparisons()) == learned + 10
    assert store.counts()[:5] == store.counts_at(9, 999)[:5]
    assert gold.scores(store) == {"ana": [1.0, 1.0, 0.0, 0.0]} or sorted(
        gold.scores(store)["ana"]
    ) == [0.0, 0.0, 1.0, 1.0]
    assert history.people(store)["ana"] == 14, "she sees all of her answers"
    assert {*asked(assignments, "eve", 8)} == {*seen}, "who knows the answer is not asked"


def test_the_share_of_gold_questions_is_what_was_asked_for(assignments):
    assignments.gold_share = 0.25
    store = assignments.store
    ask(assignments, 200)
    for index in range(80):
        known(store, index)
    given = Counter(ticket.query.index < 80 for ticket in label(assignments, 100, "ana"))
    assert 10 <= given[True] <= 42, "so many in 99.99 of 100 cases"


def test_gold_questions_come_only_with_others_and_are_not_lost_with_a_page(assignments):
    assignments.gold_share = 1.0
    store = assignments.store
    ask(assignments, 3)
    known(store, 0)
    [first], _ = assignments.next("ana", "one", 1)
    assert first == Ticket(QueryId(0, 0))
    assert assignments.next("ana", "one", 0, [first])[1] == [], "it is hers to answer"
    assert assignments.next("ana", "two", 1)[0] == [first], "a page that was loaded again"
    assert assignments.next("ben", "three", 1)[0] == [first], "everybody may be asked it"
    say(assignments, first, person="ana", left=0.0)
    assert assignments.next("ana", "one", 0, [first])[1] == [first]
    rest, _ = assignments.next("ana", "one", 9, [])
    assert sorted(ticket.query.index for ticket in rest) == [1, 2]
    assert assignments.next("ana", "one", 9, rest) == ([], []), "nothing is left to ask"


def test_an_answer_to_a_gold_question_is_changed_and_undone_like_any_other(assignments):
    assignments.gold_share = 1.0
    store = assignments.store
    ask(assignments, 2)
    known(store, 0)
    [ticket], _ = assignments.next("ana", "one", 1)
    say(assignments, ticket, person="ana", left=0.0)
    say(assignments, ticket, person="ana", left=1.0)
    assert gold.scores(store) == {"ana": [1.0]}
    undone = assignments.undo("ana", "one", "undo")
    assert undone is not None and undone[0] == ticket
    assert gold.scores(store) == {} and store.counts().answered == 1
    assert store.answers(repeats=True)[0].teacher == "eve"
    say(assignments, ticket, "skip", person="ana")
    assert gold.scores(store) == {}, "it says nothing"


def test_a_gold_question_ends_and_the_query_is_asked_again_if_nobody_has_answered(assignments):
    store = assignments.store
    ask(assignments, 1)
    known(store, 0)
    store.answer(Answer(QueryId(0, 0), "retraction", {}, "eve"))
    assert store.counts()[:4] == (1, 0, 0, 0), "as a gold question it is still no label"
    gold.unmark(store, QueryId(0, 0))
    assert store.counts().pending == 1 and gold.questions(store) == []
    with pytest.raises(UserError, match=r"0-0 is no gold question; expected one of none"):
        gold.unmark(store, QueryId(0, 0))


def test_two_known_answers_to_a_query_are_refused(assignments, tmp_path):
    store = assignments.store
    ask(assignments, 2)
    known(store, 0, 1.0)
    number = store.answer(Answer(QueryId(0, 0), "preference", {"left": 1.0}, "ben"))
    gold.mark_answer(store, number)
    number = store.answer(Answer(QueryId(0, 0), "preference", {"left": 0.0}, "ben"))
    with pytest.raises(UserError, match=r"gold already with another answer.*--ungold 0-0`"):
        gold.mark_answer(store, number)
    assert [each.answer.value for each in gold.questions(store)] == [{"left": 1.0}]
    for kind in ("skip", "broken"):
        number = store.answer(Answer(QueryId(0, 1), kind, {}, "ben"))
        with pytest.raises(UserError, match="compares no clips; expected a preference"):
            gold.mark_answer(store, number)
    lines = [json.dumps(line) for line in export_answers(store, "Env-v0")]
    path = tmp_path / "known.jsonl"
    path.write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(UserError, match=r"knows two answers to one query.*leave one"):
        import_gold(store, path, PAIRS)


def test_a_file_of_known_answers_makes_gold_questions_once(assignments, tmp_path, where):
    """Of queries of the run as they are, of others as a round below."""
    store = assignments.store
    ask(assignments, 4)
    path = tmp_path / "known.jsonl"
    with contextlib.closing(FeedbackStore(tmp_path / "oracle.sqlite")) as oracle:
        oracle.ask(0, [make_query(0, 0)], {}, 0)
        oracle.ask(1, [make_query(1, index, question="Other words?") for index in (0, 1)], {}, 0)
        for place in ((0, 0), (1, 0), (1, 1)):
            oracle.answer(Answer(QueryId(*place), "preference", {"left": 0.0}, "oracle"))
        path.write_text("".join(json.dumps(line) + "\n" for line in export_answers(oracle, "E")))
    assert import_gold(store, path, PAIRS)[:2] == (3, 0)
    assert import_gold(store, path, PAIRS)[:2] == (0, 3)
    found = [(each.query, each.answer.teacher) for each in gold.questions(store)]
    assert found == [((-1, 0), "oracle"), ((-1, 1), "oracle"), ((0, 0), "oracle")]
    assert {store.query(query).question for query, _ in found} == {"Which is better?"}
    assert store.counts()[:4] == (4, 0, 0, 3) and store.comparisons() == []
    assignments.gold_share = 1.0
    shown, _ = assignments.next("ana", "one", 3)
    assert {ticket.query for ticket in shown} == {query for query, _ in found}
    for ticket in shown:
        say(assignments, ticket, person="ana", left=0.0)
    assert gold.scores(store) == {"ana": [1.0] * 3} and history.people(store) == {"ana": 3}
    undone = assignments.undo("ana", "one", "undo")
    assert undone is not None and undone[0] == shown[-1]
    assert store.counts()[:4] == (4, 0, 0, 3)
    with pytest.raises(UserError, match="the run asks for a ranking of 6; expected queries like"):
        import_gold(store, path, Asks({"": "?"}, "ranking", 6))
    assert import_gold(store, path, PAIRS)[:2] == (0, 3)


def test_of_pairs_of_texts_the_better_one_is_not_always_left(assignments, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}.", "chosen": f"{n}!", "rejected": "No."} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = assignments.store
    assert import_gold(store, path, PAIRS)[:2] == (40, 0)
    sides = Counter(each.answer.value["left"] for each in gold.questions(store))
    assert min(sides[0.0], sides[1.0]) >= 8
    for each in gold.questions(store):
        better = store.query(each.query).segments[0 if each.answer.value["left"] else 1]
        assert str(better.actions[0]) != "No."


@pytest.mark.parametrize(
    "right, said, share",
    [
        (("preference", {"left": 1.0}), ("preference", {"left": 1.0}), 1.0),
        (("preference", {"left": 1.0}), ("preference", {"left": 0.0}), 0.0),
        (("preference", {"left": 1.0}), ("tie", {}), 0.0),
        (("tie", {}), ("tie", {}), 1.0),
        (("tie", {}), ("preference", {"left": 1.0}), 0.0),
        (("preference", {"left": 1.0}), ("skip", {}), None),
        (("ranking", {"order": [[0], [1], [2]]}), ("ranking", {"order": [[0], [2], [1]]}), 2 / 3),
        (("ranking", {"order": [[0], [1, 2]]}), ("ranking", {"order": [[0], [2], [1]]}), 1.0),
        (("ranking", {"order": [[0], [1], [2]]}), ("ratings", {"ratings": [1, 1, 1]}), 0.0),
    ],
)
def test_how_far_an_answer_is_right(right, said, share):
    value = {"low": 1, "high": 7} | said[1] if said[0] == "ratings" else said[1]
    segments = 3 if right[0] == "ranking" else 2
    query = QueryId(0, 0)
    found = share_right(Answer(query, *right), Answer(query, said[0], value), segments)
    assert found == (None if share is None else pytest.approx(share))


# --- broken clips and comments ----------------------------------------------------------------


def test_what_is_set_aside_teaches_nothing_and_is_asked_nobody_until_undone(assignments):
    assignments.people = 3
    store = assignments.store
    ask(assignments, 2)
    first = Ticket(QueryId(0, 0))
    through = say(assignments, first, person="ana", left=1.0)
    assert len(store.comparisons()) == 1
    flagged = say(assignments, first, "broken", "ben", segment=1, comment="the leg is gone")
    assert store.counts()[:4] == store.counts_at(9, 999)[:4] == (2, 0, 0, 1)
    assert store.comparisons() == [] and len(store.comparisons(through)) == 1, "as it was then"
    assert store.counts_at(9, through).answered == 1
    shown, _ = assignments.next("eve", "one", 9)
    assert [ticket.query for ticket in shown] == [(0, 1)]
    assert [(a.kind, a.value) for a in store.answers()][-1] == (
        "broken", {"segment": 1, "comment": "the leg is gone"}
    )  # fmt: skip
    assert store.last_answer() == flagged
    assert assignments.undo("ben", "two", "undo") is not None
    assert store.counts()[:3] == store.counts_at(9, 999)[:3] == (2, 1, 1)
    assert len(store.comparisons()) == 1


def test_a_pair_shown_again_or_a_gold_question_may_be_set_aside(assignments):
    assignments.gold_share = 1.0
    store = assignments.store
    ask(assignments, 3)
    known(store, 0)
    [ticket], _ = assignments.next("ana", "one", 1)
    say(assignments, ticket, "broken", "ana")
    assert assignments.next("ben", "two", 1)[0] != [ticket] and gold.scores(store) == {}
    assert store.counts().answered == 0 and store.comparisons() == []
    assignments.undo("ana", "one", "undo")
    assert store.counts().answered == 1
    say(assignments, Ticket(QueryId(0, 1)), person="ana", left=1.0)
    again = Ticket(QueryId(0, 1), repeat=True)
    say(assignments, again, "broken", "ana", segment=0)
    assert store.counts().answered == 1
    undone = assignments.undo("ana", "one", "again")
    assert undone is not None and (undone[0], undone[1].value) == (again, {"segment": 0})
    assert store.counts().answered == 2, "her first answer stands as before"


def test_a_comment_goes_where_the_answer_goes(assignments, tmp_path):
    store = assignments.store
    ask(assignments, 3)
    comment = "both fall \x1b[31m ‮ over 🤸"
    say(assignments, Ticket(QueryId(0, 0)), left=1.0, comment=comment)
    say(assignments, Ticket(QueryId(0, 1)), "tie", comment=comment)
    say(assignments, Ticket(QueryId(0, 2)), "broken", segment=1, comment=comment)
    assert len(store.comparisons()) == 2
    lines = [json.dumps(line) for line in export_answers(store, "Env-v0")]
    with contextlib.closing(FeedbackStore(tmp_path / "other.sqlite")) as other:
        import_answers(other, lines, "file")
        assert [a.value["comment"] for a in other.answers()] == [comment] * 3
        assert len(other.comparisons()) == 2
        assert [a.kind for a in other.answers()] == ["preference", "tie", "broken"]
    undone = assignments.undo("anna", "tab", "undo")
    assert undone is not None and undone[1].value == {"segment": 1, "comment": comment}


@pytest.mark.parametrize(
    "kind, value, sentence",
    [
        ("tie", {"comment": 7}, "has a comment that is 7; expected at most 2000 characters"),
        ("tie", {"comment": "x" * 2001}, "expected at most 2000 characters"),
        ("tie", {"comment": "a NUL \0"}, "and no NUL"),
        ("broken", {"segment": 2}, "calls the clip 2 broken; expected one of 0 to 1"),
        ("broken", {"segment": True}, "expected one of 0 to 1"),
    ],
)
def test_a_comment_or_a_flag_that_makes_no_sense_is_a_sentence(assignments, kind, value, sentence):
    ask(assignments, 1)
    with pytest.raises(UserError, match=sentence):
        say(assignments, Ticket(QueryId(0, 0)), kind, **value)
    assert assignments.store.answers() == []


def test_gold_answers_and_flags_teach_nothing():
    query = make_query()
    said = Answer(query.id, "preference", {"left": 1.0}, gold=True)
    assert to_comparisons(query, said).comparisons == []
    assert to_comparisons(query, Answer(query.id, "broken", {"segment": 1})).comparisons == []


# --- exports, copies, older stores ------------------------------------------------------------


def test_answers_to_gold_questions_and_repeats_are_exported_as_such(assignments, tmp_path):
    assignments.gold_share = 1.0
    store = assignments.store
    ask(assignments, 3)
    known(store, 0)
    [ticket], _ = assignments.next("ana", "one", 1)
    say(assignments, ticket, person="ana", left=0.0)
    say(assignments, Ticket(QueryId(0, 1)), person="ana", left=0.0)
    say(assignments, Ticket(QueryId(0, 1), repeat=True), person="ana", left=0.0)
    rows = [*export_answers(store, "Env-v0")]
    assert [row.get("gold", False) for row in rows] == [False, True, False, False]
    assert [row["repeat"] for row in rows] == [False, False, False, True]
    with contextlib.closing(FeedbackStore(tmp_path / "other.sqlite")) as other:
        import_answers(other, [json.dumps(row) for row in rows], "file")
        assert [a.gold for a in other.answers(repeats=True)] == [False, True, False, False]
        assert len(other.comparisons()) == len(store.comparisons()) == 2
    store.copy(tmp_path / "copy.sqlite")
    with contextlib.closing(FeedbackStore(tmp_path / "copy.sqlite")) as copied:
        assert gold.scores(copied) == gold.scores(store) == {"ana": [0.0]}
        assert copied.counts() == store.counts()


def test_a_store_without_gold_questions_is_brought_up_to_date(tmp_path):
    path = tmp_path / "feedback.sqlite"
    with contextlib.closing(FeedbackStore(path)) as store:
        store.ask(0, [make_query(0, index) for index in range(3)], {}, 0)
        store.answer(Answer(QueryId(0, 0), "tie", {}, "anna"))
    with contextlib.closing(sqlite3.connect(path)) as old:
        for statement in (*WITHOUT_GOLD, "PRAGMA user_version = 6"):
            old.execute(statement)
    for _ in range(2):
        with contextlib.closing(FeedbackStore(path)) as store:
            assert store.counts().answered == len(store.answers()) == 1
    with contextlib.closing(FeedbackStore(path)) as store:
        known(store, 1)
        store.answer(Answer(QueryId(0, 0), "broken", {}, "ben"))
        assert store.counts().answered == 1 and len(gold.questions(store)) == 1


OLDER = """
DROP TABLE prefrl.gold CASCADE;
DROP TABLE prefrl.gold_asked CASCADE;
DROP VIEW prefrl_run.standing;
DROP VIEW prefrl_run.answer;
DROP VIEW prefrl_run.query;
ALTER TABLE prefrl.answer DROP COLUMN gold;
ALTER TABLE prefrl.query DROP COLUMN priority;
DROP INDEX prefrl.broken_answer;
DROP INDEX IF EXISTS prefrl.standing_answer;
DROP INDEX prefrl.withdrawn_query;
CREATE INDEX answer_that_stands ON prefrl.answer (run, teacher, kind, id);
CREATE VIEW prefrl_run.query AS SELECT round, "index", kind, question, segments, withdrawn, open,
    labelled, decided, aspect FROM prefrl.query
    WHERE run = CAST(current_setting('prefrl.run') AS integer);
CREATE VIEW prefrl_run.answer AS SELECT id, round, "index", kind, value, decisive, teacher,
    shown_at, answered_at, uuid, repeat, superseded FROM prefrl.answer
    WHERE run = CAST(current_setting('prefrl.run') AS integer);
CREATE VIEW prefrl_run.standing AS SELECT * FROM prefrl_run.answer
    WHERE superseded IS NULL AND kind <> 'retraction';
UPDATE prefrl.version SET version = 1;
"""


@only_postgres
def test_a_database_without_gold_questions_is_brought_up_to_date(where, database):
    from prefrl.storage.address import Address

    address = Address(database, "run")
    with contextlib.closing(FeedbackStore(address)) as store:
        store.ask(0, [make_query(0, index) for index in range(3)], {}, 0)
        for statement in OLDER.strip().rstrip(";").split(";\n"):
            store.database.run(statement)
    with contextlib.closing(FeedbackStore(address)) as store:
        known(store, 1)
        store.answer(Answer(QueryId(0, 0), "broken", {}, "ben"))
        assert store.counts().answered == 1 and len(gold.questions(store)) == 1
        rows = store.database.run("SELECT indexname FROM pg_indexes WHERE schemaname = 'prefrl'")
    names = {name for (name,) in rows}
    assert {"standing_answer", "withdrawn_query"} <= names and "answer_that_stands" not in names


def test_priority_comes_before_the_newest_round(assignments):
    ask(assignments, 2)
    ask(assignments, 2, round_index=1)
    history.move_to_front(assignments.store, QueryId(0, 0))
    history.move_to_front(assignments.store, QueryId(0, 1))
    tickets, _ = assignments.next("ana", "one", 4)
    assert [ticket.query for ticket in tickets] == [(0, 1), (0, 0), (1, 1), (1, 0)]
    with pytest.raises(UserError, match="waits for no answer"):
        history.move_to_front(assignments.store, QueryId(7, 7))


def test_answers_of_another_kind_stay_equal():
    answer = Answer(QueryId(0, 0), "tie")
    assert dataclasses.replace(answer, gold=True) != answer
