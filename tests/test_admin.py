"""What admins see and do on the page, and that labellers see nothing of gold questions."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelling import make_run, pose_segment, queries_of
from strategies import few
from test_gold import make_query
from test_links import Linked
from test_viewer import KEY, OURS, Client, folder, post

from prefrl.cli import main
from prefrl.storage import gold
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.import_export import export_answers
from prefrl.storage.labelling import Ticket
from prefrl.storage.links import Links
from prefrl.storage.tallies import Tallies
from prefrl.types import Answer, QueryId
from prefrl.viewer import progress
from prefrl.viewer.tickets import seal, secret_of, unseal

__all__ = ["folder"]

BIDI = "ana ‮nab"  # which overrides the direction of what follows


class Admin(Client):
    """A client with the printed address."""

    def tell(self, path, **body):
        return self.post(path, json={"person": "eve", "tab": "one"} | body, headers=OURS)

    def shown(self):
        reply = self.get("/api/admin")
        assert reply.status_code == 200
        return reply.json()

    def people(self):
        return {one["person"]: one for one in self.shown()["people"]}


def run(*words):
    """Run a command; return its exit code."""
    try:
        main([*map(str, words)])
    except SystemExit as end:
        return end.code
    return 0


def known_answers(folder, *lefts):
    """Let eve answer the first queries, and make them gold."""
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        for index, left in enumerate(lefts):
            said = Answer(QueryId(0, index), "preference", {"left": left}, "eve", 1.0, 2.0)
            gold.mark_answer(store, store.answer(said))


@pytest.fixture
def measured(tmp_path):
    """A run with two gold questions of its own."""
    folder = make_run(tmp_path / "run", *queries_of(0, 12))
    known_answers(folder, 1.0, 0.0)
    return folder


# --- what labellers see -----------------------------------------------------------------------


def test_nothing_that_reaches_a_labeller_tells_a_gold_question_from_others(measured, monkeypatch):
    monkeypatch.setattr(progress, "STATUS_SECONDS", 0)
    elsewhere = measured.path.parent / "known.jsonl"
    queries = queries_of(5, 2, make=lambda name, number: pose_segment(name, 45 + number))
    with contextlib.closing(FeedbackStore(measured.path.parent / "other.sqlite")) as store:
        store.ask(5, queries, {}, 0)
        for query in queries:
            store.answer(Answer(query.id, "preference", {"left": 1.0}, "oracle"))
        rows = export_answers(store, "Hopper-v5")
        elsewhere.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("label", measured.path, "--gold", elsewhere) == 0
    ana = Linked(measured, "ana")
    ana.view.assignments.gold_share = 0.9
    told, seen = [], []
    for turn in range(12):
        reply = post(ana, "/api/next", ana.page, count=1, held=[])
        [query] = reply.json()["queries"]
        told += [reply.text, ana.get(f"/api/query/{query['ticket']}").text]
        told += [ana.get(clip["url"]).headers.get("etag", "") for clip in query["clips"]]
        answered = ana.answer(query["ticket"], uuid=f"u{turn}", value={"left": 1.0})
        mine = ana.get("/api/status").json()["mine"]
        assert answered.is_success and mine == turn + 1, "each counts alike"
        told += [answered.text, ana.get("/api/status").text]
        held = post(ana, "/api/next", ana.page, count=0, held=[query["ticket"]]).json()
        assert held["lost"] == [query["ticket"]]
        seen.append(query)
    history = ana.get("/api/history").json()["answers"]
    told += [json.dumps(history)]
    given = {a.query: a.gold for a in ana.view.feedback.answers(repeats=True) if a.teacher == "ana"}
    assert sum(given.values()) == 4 and len(given) == 12, "there were both kinds"
    assert not any("gold" in text for text in told)
    assert len({tuple(sorted(query)) for query in seen}) == 1
    assert len({tuple(sorted(entry)) for entry in history}) == 1 and len(history) == 12
    assert {len(query["ticket"]) for query in seen} == {31}
    assert {query["question"] for query in seen} == {"Which clip is nearer to a backflip?"}
    spoilt = ana.answer(seen[0]["ticket"], uuid="bad", kind="ranking", value={"order": [[0]]})
    assert spoilt.status_code == 400 and "to query ranks" in spoilt.json()["error"]
    undone = post(ana, "/api/undo", ana.page, uuid="undo").json()
    assert undone["query"]["ticket"] == seen[-1]["ticket"] and "gold" not in json.dumps(undone)


@given(st.integers(-9, 2**31 - 1), st.integers(0, 2**31 - 1), st.sampled_from(["", "-repeat"]))
@few
def test_a_sealed_ticket_is_read_by_its_own_secret_alone(round_index, index, which):
    ticket = Ticket.parse(f"{round_index % 10**9}-{index % 10**9}{which}")
    ana, ben = secret_of(KEY, "ana"), secret_of(KEY, "ben")
    name = seal(ticket, ana)
    assert unseal(name, ana) == ticket and name == seal(ticket, ana) != seal(ticket, ben)
    for other, secret in ((name, ben), (name[:-1] + "0", ana), (name + "0", ana)):
        if other != name or secret != ana:
            with pytest.raises(Exception, match="is not a ticket"):
                unseal(other, secret)


def test_what_an_older_page_has_kept_is_still_stored(folder):
    ana = Linked(folder)
    assert ana.answer("0-3").is_success
    assert [a.query for a in ana.view.feedback.answers()] == [(0, 3)]


def test_a_withdrawn_link_in_mid_answer_loses_nothing_that_was_acknowledged(folder):
    ana = Linked(folder)
    first, second = ana.next(2)
    comment = {"left": 1.0, "comment": "🤸 lands"}
    assert ana.answer(first["ticket"], value=comment).is_success
    main(["label", str(folder.path), "--withdraw", "ana"])
    reply = ana.answer(second["ticket"], uuid="v", value=comment)
    assert reply.status_code == 403 and "what was answered with it stays" in reply.json()["error"]
    [kept] = ana.view.feedback.answers()
    assert kept.value == comment and kept.teacher == "ana"


def test_a_comment_is_kept_as_it_is_but_for_a_nul(folder):
    ana = Linked(folder)
    said = "a\x00b\x1b[31m ‮c"
    assert ana.answer("0-1", value={"left": 1.0, "comment": said}).is_success
    assert ana.view.feedback.answers()[0].value["comment"] == said.replace("\x00", "␀")
    reply = ana.answer("0-2", uuid="w", value={"left": 1.0, "comment": "x" * 3000})
    assert reply.status_code == 400 and "at most 2000 characters" in reply.json()["error"]


# --- what admins see and do -------------------------------------------------------------------


def test_an_admin_sees_how_everybody_answers(measured):
    admin, ana, ben = Admin(measured), Linked(measured, BIDI), Linked(measured, "ben")
    ana.view.assignments.gold_share = ben.view.assignments.gold_share = 0.9
    for client in (ana, ben):
        for turn in range(6):
            [query] = client.next()
            kind = "tie" if turn == 5 else "preference"
            value = {"comment": f"said by {client.person}"} if turn == 5 else {"left": 1.0}
            client.answer(query["ticket"], uuid=f"{client.person}{turn}", kind=kind, value=value)
    ben.answer("0-11", uuid="flag", kind="broken", value={"segment": 1, "comment": "no leg"})
    ana.next(2)
    shown, people = admin.shown(), admin.people()
    assert {*people} == {BIDI, "ben", "eve"} and people["eve"]["link"] is None
    one = people[BIDI]
    assert (one["answers"], one["ties"], one["skips"], one["seconds"]) == (6, 1, 0, 1.5)
    assert one["left"]["mean"] == 1.0 and one["left"]["of"] == 5
    assert one["gold"]["of"] == 2 and one["gold"]["mean"] == 0.5
    low, high = one["gold"]["interval"]
    assert 0 < low < 0.5 < high < 1
    assert one["link"]["state"] == "open" and one["link"]["digest"] == ""
    [flag] = shown["broken"]
    assert (flag["person"], flag["ticket"]) == ("ben", "0-11") and flag["value"]["segment"] == 1
    assert {said["value"]["comment"] for said in shown["comments"]} == {
        f"said by {BIDI}", "said by ben"
    }  # fmt: skip
    held = [row for row in shown["waiting"] if row["person"]]
    assert len(held) == 2 and {row["person"] for row in held} == {BIDI}
    assert all(0 <= row["since"] < 60 for row in held)
    assert shown["gold"]["questions"] == 2 and shown["gold"]["newest"][0]["ticket"] == "0-1"
    entries = admin.get("/api/history").json()["answers"]
    assert sum(entry.get("gold", False) for entry in entries) == 4


def test_an_admin_pauses_one_and_all(folder):
    admin, ana, ben = Admin(folder), Linked(folder, "ana"), Linked(folder, "ben")
    eve = Linked(folder, "eve", admin=True)
    assert admin.tell("/api/pause", labeller="ana", paused=True).is_success
    assert ana.get("/api/run").status_code == 403 and ben.get("/api/run").status_code == 200
    assert admin.tell("/api/pause", paused=True).is_success
    assert ben.get("/api/run").status_code == 403 and eve.get("/api/run").status_code == 200
    ben.links.change("ben", "withdrawn")
    assert admin.tell("/api/pause", paused=False).is_success
    assert ana.get("/api/run").status_code == 200
    assert ben.get("/api/run").status_code == 403, "what was withdrawn stays so"
    reply = admin.tell("/api/pause", labeller="nobody", paused=True)
    assert reply.status_code == 400 and "has no link" in reply.json()["error"]
    assert admin.tell("/api/pause", paused=1).status_code == 400


def test_an_admin_moves_a_query_to_the_front_and_marks_gold(folder):
    admin, ana = Admin(folder), Linked(folder)
    assert admin.tell("/api/front", ticket="0-2").is_success
    assert [query["ticket"] for query in ana.next()] == [ana.called("0-2")]
    reply = admin.tell("/api/front", ticket="7-7")
    assert reply.status_code == 400 and "waits for no answer" in reply.json()["error"]
    number = ana.answer("0-2").json()["answer"]
    assert admin.tell("/api/gold", answer=number).is_success
    assert [each["ticket"] for each in admin.shown()["gold"]["newest"]] == ["0-2"]
    other = Linked(folder, "ben").answer("0-2", uuid="w", value={"left": 0.0}).json()["answer"]
    reply = admin.tell("/api/gold", answer=other)
    assert reply.status_code == 400 and "--ungold 0-2" in reply.json()["error"]
    assert admin.tell("/api/gold", ticket="0-2").is_success
    assert admin.shown()["gold"]["questions"] == 0


def test_an_admin_downloads_answers_without_clips(measured):
    admin, ana = Admin(measured), Linked(measured)
    ana.answer("0-5", value={"left": 0.0, "comment": 'a "comma", and\na line'})
    lines = [json.loads(line) for line in admin.get("/api/answers.jsonl").text.splitlines()]
    assert [line["teacher"] for line in lines] == ["eve", "eve", "ana"]
    assert lines[2]["clips"] == ["0/5/0", "0/5/1"] and "segments" not in lines[2]
    table = admin.get("/api/answers.csv")
    assert table.headers["content-type"].startswith("text/csv")
    assert len(table.text.splitlines()) == 4, "a line break in a comment is within JSON"


# --- the tallies ------------------------------------------------------------------------------


@given(st.lists(st.tuples(
    st.sampled_from("ab"), st.integers(0, 3),
    st.sampled_from(["left", "right", "tie", "skip", "broken", "undo", "repeat", "gold"]),
    st.booleans(),
), max_size=30))  # fmt: skip
@few
def test_tallies_that_go_on_are_those_that_begin_anew(new_store, said):
    store = new_store()
    store.ask(0, [make_query(0, index) for index in range(4)], {}, 0)
    going = Tallies(store)
    for number, (person, index, what, look) in enumerate(said):
        flags = {what: True} if what in ("repeat", "gold") else {}
        kind = {"undo": "retraction"}.get(what, what if what in ("tie", "skip", "broken") else
                                          "preference")  # fmt: skip
        value = {"left": float(what != "right")} if kind == "preference" else {}
        store.answer(Answer(QueryId(0, index), kind, value, person, 0.0, number / 7, **flags))
        if look:
            going.update()
    anew = Tallies(store).update()
    assert going.update() == anew
    standing = [a for a in store.answers(repeats=True) if not a.repeat]
    for person in "ab":
        own = [a for a in standing if a.teacher == person]
        assert (anew[person].answers if own else 0) == len(own)
        if own:
            assert anew[person].seconds == sorted(a.answered_at for a in own)
            assert anew[person].ties == sum(a.kind == "tie" for a in own)
    store.close()


# --- the command line -------------------------------------------------------------------------


def test_gold_questions_are_made_and_ended_on_the_command_line(folder, tmp_path, capsys):
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        store.answer(Answer(QueryId(0, 4), "preference", {"left": 1.0}, "eve"))
    capsys.readouterr()
    run("export", folder.path)
    path = tmp_path / "known.jsonl"
    path.write_text(capsys.readouterr().out)
    for expected in ("gold questions made: 1", "queries that were gold already: 1"):
        assert run("label", folder.path, "--gold", path) == 0
        assert expected in capsys.readouterr().out
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"value": {"left": 0.0}, "uuid": "other"}))
    assert run("label", folder.path, "--gold", path) == 2
    said = capsys.readouterr().err
    assert "the query 0-4 is gold already with another answer" in said and "--ungold 0-4" in said
    assert run("label", folder.path, "--ungold", "0-4") == 0
    assert run("label", folder.path, "--gold", path) == 0
    assert run("label", folder.path, "--ungold", "0-9") == 2
    assert "0-9 is no gold question; expected one of 0-4" in capsys.readouterr().err


def test_answers_go_out_as_csv_and_come_back(measured, tmp_path, capsys):
    ana = Linked(measured, "ana")
    ana.view.assignments.gold_share = 1.0
    for turn in range(3):
        [query] = ana.next()
        value = {"left": 1.0, "comment": f'🤸 "{turn}", \n'}
        ana.answer(query["ticket"], uuid=f"u{turn}", value=value)
    ana.answer("0-9", uuid="flag", kind="broken", value={"segment": 0})
    again = Answer(QueryId(0, 5), "tie", {}, "ana", 1.0, 2.0, repeat=True, uuid="again")
    ana.view.feedback.answer(again)
    before = ana.view.feedback.answers(repeats=True)
    assert {a.gold for a in before} == {a.repeat for a in before} == {True, False}
    capsys.readouterr()
    assert run("export", measured.path, "--csv") == 0
    text = capsys.readouterr().out
    assert text.startswith("env,round,index,aspect,clips,kind,value,teacher,shown_at,")
    path = tmp_path / "answers.csv"
    path.write_text(text)
    other = make_run(tmp_path / "fresh", *queries_of(0, 12))
    assert run("import", other.path, path) == 0
    with contextlib.closing(FeedbackStore(other.feedback)) as store:
        assert store.answers(repeats=True) == before
        assert store.counts().answered == ana.view.feedback.counts().answered
        assert len(store.comparisons()) == len(ana.view.feedback.comparisons())
    assert run("import", other.path, path) == 2
    assert "holds no answer that the run has not" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("rater,clip_a,clip_b,winner\nana,1,2,1\n",
         "has the columns rater, clip_a, clip_b, winner; expected round, index, kind, value, "
         "teacher"),
        ("", "has the columns none; expected round, index"),
        ("round,index,kind,value,teacher,mood\n", "has the columns round, index, kind, value, "
         "teacher, mood; expected"),
        ("round,index,kind,value,teacher\n0,77,tie,{},ana\n",
         "line 2: the run has asked no query of round 0 and index 77"),
        ("round,index,kind,value,teacher\n0,x,tie,{},ana\n", "its index is 'x'; expected a whole"),
        ("round,index,kind,value,teacher\n0,0,best,{},ana\n", "its kind is 'best'; expected one"),
        ("round,index,kind,value,teacher\n0,0,tie,left,ana\n", "its value is not JSON"),
        ("round,index,kind,value,teacher\n0,0,tie,ana\n", "it has 4 cells and the heading 5"),
        ("round,index,kind,value,teacher,gold\n0,0,tie,{},ana,maybe\n", "its gold is 'maybe'"),
        ('round,index,kind,value,teacher,clips\n0,0,tie,{},ana,"[""a"", ""b""]"\n',
         "expected answers of this run"),
        ('round,index,kind,value,teacher\n0,0,preference,"{""left"": 7}",ana\n',
         "says P(left is better) = 7"),
    ],
)  # fmt: skip
def test_a_csv_that_does_not_fit_is_a_sentence(folder, tmp_path, capsys, text, sentence):
    path = tmp_path / "answers.csv"
    path.write_text(text)
    assert run("import", folder.path, path) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert store.answers() == []


def test_links_and_people_with_odd_names_are_listed_as_text(folder, capsys):
    names = [BIDI, "🤸" * 40, "dancing_banana.gif"]
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        for name in names:
            Links(folder, store).make(name)
    capsys.readouterr()
    assert run("label", folder.path, "--links") == 0
    printed = capsys.readouterr().out
    assert "‮" not in printed and "ana \\u202enab (labeller): no answers" in printed
    assert {*names} == {one["person"] for one in Admin(folder).shown()["people"]}
