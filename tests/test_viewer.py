"""The viewer's server: what it serves, whom it serves, and what it says of bad input."""

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import socket
import sqlite3
import string
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelling import (
    QUESTION,
    filmed_queries,
    make_run,
    pose_segment,
    queries_of,
    robot,
    text_segment,
)
from PIL import Image
from processes import Process, command, run
from toy_mujoco import make_shop, shop_clip

from prefrl.clips.scene import poses
from prefrl.commands.progress import Display
from prefrl.config.learning import FitConfig, LoopConfig, QueryConfig
from prefrl.errors import UserError
from prefrl.learning.loop import Round
from prefrl.learning.selection import select
from prefrl.storage.feedback import Counts
from prefrl.types import (
    Answer,
    Conversation,
    Query,
    QueryId,
    Segment,
    Trajectory,
    conversation_clip,
)
from prefrl.viewer import markdown
from prefrl.viewer.addresses import host_name, is_wide, url
from prefrl.viewer.guard import LARGEST_BODY, run_id
from prefrl.viewer.server import PAGE, app, serve
from prefrl.viewer.view import View

KEY, PORT = "the-key", 8765
HOME = f"http://127.0.0.1:{PORT}"
OURS = {"X-Prefrl": run_id(KEY), "Origin": HOME}


class Client:
    """Asks the application itself, without a socket, in this thread."""

    def __init__(self, folder, key=KEY, hosts=(), wide=False, root=""):
        self.view = View(folder, "anna")
        self.transport = httpx.ASGITransport(app(self.view, KEY, hosts, wide, root))
        self.headers = {"X-Prefrl-Token": key} if key else {}

    def request(self, method, path, **options):
        async def ask():
            async with httpx.AsyncClient(
                transport=self.transport, base_url=HOME, headers=self.headers
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", *queries_of(0, 12))


@pytest.fixture
def client(folder):
    return Client(folder)


def post(client, path, headers=OURS, **body):
    return client.post(path, json={"person": "anna", "tab": "one"} | body, headers=headers)


def next_queries(client, count=1, **body):
    return post(client, "/api/next", count=count, held=[], **body).json()["queries"]


def answer(client, ticket, kind="preference", value=None, uuid="u", **body):
    value = {"left": 1.0} if value is None and kind == "preference" else value or {}
    body = {"shown_at": 1.0, "answered_at": 2.5} | body
    return post(client, "/api/answer", ticket=ticket, kind=kind, value=value, uuid=uuid, **body)


# --- what is served ---------------------------------------------------------------------------


def test_the_page_and_all_that_it_needs_are_served(client):
    page = client.get("/")
    assert page.status_code == 200 and "<title>" in page.text
    for name in page.text.split('"'):
        if name.endswith((".js", ".css")):
            assert client.get("/" + name.removeprefix("/")).status_code == 200


def test_the_run_in_words(client, folder):
    run = client.get("/api/run").json()
    assert run["name"] == "run" and run["env"] == "Hopper-v5" and run["question"] == QUESTION
    assert run["budget"] == 100 and run["person"] == "anna"


def test_a_query_holds_neither_reward_nor_policy(client):
    [query] = next_queries(client)
    assert "policy" not in json.dumps(query) and "reward" not in json.dumps(query)
    assert query["kind"] == "preference" and len(query["clips"]) == 2


def test_poses_are_those_of_the_robot(client):
    [query] = next_queries(client)
    clip = query["clips"][0]
    data = np.frombuffer(client.get(clip["url"]).content, "<f4").reshape(clip["frames"], -1)
    scene = client.get(clip["scene"]).json()
    assert data.shape[1] == 3 + 7 * len(scene["geoms"])
    model, _ = robot()
    segment = client.view.feedback.query(QueryId(*map(int, query["ticket"].split("-")))).segments[0]
    truth = poses(model, segment.extras["qpos"])
    shown = data[:, 3:].reshape(len(data), -1, 7)
    np.testing.assert_allclose(shown[..., :3], truth.positions, atol=1e-5)
    w, x, y, z = np.moveaxis(shown[..., 3:], -1, 0)
    axis = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
    np.testing.assert_allclose(axis, truth.rotations[..., 2], atol=1e-5)
    kinds = [geom["type"] for geom in scene["geoms"]]
    assert kinds == ["plane", *["capsule"] * 4] and scene["geoms"][0]["floor"]
    assert scene["floor"] == 0 and clip["dt"] == 0.02 and 1 < clip["distance"] < 10


def test_a_mesh_is_sent_once_and_its_address_names_its_bytes(tmp_path):
    client = Client(make_shop(tmp_path / "run", shop_clip("a"), shop_clip("b")))
    (mesh,) = client.get("/api/scene/0").json()["meshes"]
    for level in ("fine", "coarse"):
        said = mesh[level]
        response = client.get(said["url"])
        assert "immutable" in response.headers["cache-control"]
        assert response.headers["etag"].strip('"') == said["url"].rpartition("/")[2]
        assert len(response.content) == 6 * (said["vertices"] + said["triangles"])
    assert 4 <= len(mesh["outline"]) <= 12, "corners of the hull"
    gone = client.get("/api/mesh/0")
    assert gone.status_code == 404 and "no such mesh" in gone.json()["error"]
    assert Client(client.view.folder, key="").get(said["url"]).status_code == 403


def test_sides_are_random():
    runs = [Trajectory(np.zeros((9, 1)), np.zeros((9, 1)), np.zeros(9), source=n) for n in "ab"]
    config = LoopConfig(0, 1, 1, 1, 9, "", QueryConfig(), FitConfig())
    lefts = [
        select(runs, None, dataclasses.replace(config, seed=seed), 0, 1)[0][0].segments[0].source
        for seed in range(200)
    ]
    assert 80 <= lefts.count("a") <= 120


def test_text_is_sent_as_it_is(tmp_path):
    nasty = "<img src=x onerror=alert(1)>\u202etxt\n" + "x" * 5000
    query = Query(QueryId(0, 0), (text_segment("a", nasty), text_segment("b", "fine")))
    client = Client(make_run(tmp_path / "run", query))
    clips = next_queries(client)[0]["clips"]
    assert clips[0] == {
        "form": "text",
        "messages": [
            {"role": "user", "text": "Say something kind.", "blocks": None, "cut": False},
            {"role": "assistant", "text": nasty, "blocks": None, "cut": False},
        ],
    }


def test_a_conversation_is_sent_with_its_turns_its_markdown_and_how_replies_end(tmp_path):
    turns = [("Hello?", "**Hi.**"), ("", "And"), ("More!", "")]
    clip = conversation_clip(Conversation(tuple(turns), "Be brief."), "a", "t")
    extras = clip.extras | {"finished": np.array([True, False, True])}
    one = dataclasses.replace(clip, extras=extras)
    query = Query(QueryId(0, 0), (one, dataclasses.replace(clip, id="b")))
    clips = next_queries(Client(make_run(tmp_path / "run", query)))[0]["clips"]
    assert [(m["role"], m["text"], m["cut"]) for m in clips[0]["messages"]] == [
        ("system", "Be brief.", False), ("user", "Hello?", False), ("assistant", "**Hi.**", False),
        ("assistant", "And", True), ("user", "More!", False), ("assistant", "", False),
    ]  # fmt: skip
    assert clips[0]["messages"][2]["blocks"] == [["p", ["strong", "Hi."]]]
    assert not any(m["cut"] for m in clips[1]["messages"]), "what nobody sampled has no limit"


HOSTILE = "<b>1</b> [2](javascript:3) ![4](http://5) <http://6.de> &lt; **7**\n\n[8]: http://9\n"


def test_of_markdown_nothing_is_taken_that_loads_or_leads_elsewhere():
    [first, second] = markdown.tree(HOSTILE)
    assert first == [
        "p", "<b>1</b> [2](javascript:3) ![4](http://5) <http://6.de> &lt; ", ["strong", "7"],
    ]  # fmt: skip
    assert second == ["p", "[8]: http://9"]


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("a  b\n c", None),
        ("    indented\n\nTitle\n-----\n", None),
        ("x | y\n--+--\n", None),
        ("", None),
        ("*" * 60_000, None),
        ("5. a\n6. b", [["ol 5", ["li", ["p", "a"]], ["li", ["p", "b"]]]]),
        ("```py\n<i>\n```", [["pre", ["small", "py"], ["code", "<i>\n"]]]),
        (
            "|a|b|\n|-|-|\n|1|~~2~~|",
            [["table", ["thead", ["tr", ["th", "a"], ["th", "b"]]],
              ["tbody", ["tr", ["td", "1"], ["td", ["s", "2"]]]]]],
        ),
    ],
)  # fmt: skip
def test_markdown_becomes_a_tree_and_plain_texts_stay_as_they_are(text, blocks):
    assert markdown.tree(text) == blocks


def test_demonstrations_are_kept_and_those_of_a_known_task_teach(tmp_path):
    query = Query(QueryId(0, 0), (text_segment("a", "rude"), text_segment("b", "fine")))
    client = Client(make_run(tmp_path / "run", query))
    written = {"prompt": "Say something kind.", "response": "You are kind.", "uuid": "one"}
    for _ in range(2):
        assert post(client, "/api/demonstration", **written).status_code == 200
    alone = post(client, "/api/demonstration", prompt="Say hello.", response=None, uuid="two")
    assert alone.json() == {"teaches": False}
    store = client.view.feedback
    assert store.demonstrations() == [
        ("Say something kind.", "You are kind."), ("Say hello.", None),
    ]  # fmt: skip
    [comparison] = store.comparisons()
    assert comparison.left.actions.tolist() == ["You are kind."] and comparison.preference == 1
    assert comparison.right.task == "Say something kind." and store.counts().pending == 1


def test_numbers_are_plotted_where_nothing_can_be_drawn(tmp_path):
    steps = np.stack([np.arange(5.0), np.full(5, 2.0), [0, np.nan, 1, 2, 3]], 1)
    segments = (Segment("a", steps, np.zeros((5, 1))), Segment("b", steps, np.zeros((5, 1))))
    client = Client(make_run(tmp_path / "run", Query(QueryId(0, 0), segments)))
    clip = next_queries(client)[0]["clips"][0]
    assert clip["form"] == "trace" and clip["frames"] == 5
    assert clip["values"] == [[0, 1, 2, 3, 4], [0, None, 1, 2, 3]], "what never moves is left out"


def test_what_draws_itself_is_shown_in_its_own_pictures(tmp_path):
    queries, pictures = filmed_queries(3)
    client = Client(make_run(tmp_path / "run", *queries, pictures=pictures))
    assert client.get("/api/run").json()["forms"] == ["frames"]
    handed_out = next_queries(client, 2)
    for shown in handed_out:
        index = int(shown["ticket"].split("-")[1])
        for clip, segment in zip(shown["clips"], queries[index].segments, strict=True):
            picture = pictures[segment.id]
            assert clip == {
                "form": "frames", "frames": 40, "dt": 0.02, "url": clip["url"],
                "width": 240, "height": 160, "columns": 8, "every": 2, "ended": False,
                "stood_up": [], "set_back": [], "still": clip["still"],
            }  # fmt: skip
            reply = client.get(clip["url"])
            assert reply.status_code == 200 and reply.content == picture.data
            assert reply.headers["content-type"] == "image/webp"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert Image.open(io.BytesIO(reply.content)).size == (8 * 240, 3 * 160)
    assert len({clip["url"] for shown in handed_out for clip in shown["clips"]}) == 4
    first = handed_out[0]
    answer(client, first["ticket"])
    [entry] = client.get("/api/history").json()["answers"]
    assert entry["ticket"] == first["ticket"]
    assert client.get(f"/api/query/{entry['ticket']}").json()["query"] == first
    assert post(client, "/api/undo", uuid="undo").json()["query"] == first
    practice = client.get("/api/practice").json()["queries"]
    assert [query["ticket"] for query in practice] == ["0-0", "0-1", "0-2"]
    assert client.get("/api/policy").json()["clip"] == practice[0]["clips"][0]


def marked(segment, **marks):
    """Return a segment with marks: from which step on, or at which steps, each is there."""
    steps = np.arange(len(segment))
    extras = {"ended": steps >= marks["ended"], "stood_up": np.isin(steps, marks["stood_up"])}
    return dataclasses.replace(segment, extras=segment.extras | extras)


@pytest.mark.parametrize("form", ["poses", "frames", "trace"])
def test_a_clip_is_shown_up_to_the_end_of_its_episode_and_says_who_was_stood_up(tmp_path, form):
    pictures = {} if form == "trace" else None  # neither a robot nor pictures
    if form == "frames":
        [query], pictures = filmed_queries(1)
        clips = query.segments
    else:
        clips = [pose_segment(name, 0, 40) for name in ("one", "other")]
    if form == "trace":
        clips = [dataclasses.replace(clip, extras={}) for clip in clips]
    query = Query(QueryId(0, 0), tuple(marked(c, ended=30, stood_up=[4, 20]) for c in clips))
    client = Client(make_run(tmp_path / "run", query, pictures=pictures))
    [shown] = next_queries(client)
    for clip in shown["clips"]:
        assert (clip["form"], clip["frames"], clip["ended"]) == (form, 31, True)
        assert clip["stood_up"] == [4, 20]
        if form == "trace":
            assert {len(line) for line in clip["values"]} == {31}
        elif form == "poses":
            rows = np.frombuffer(client.get(clip["url"]).content, "<f4").reshape(31, -1)
            assert rows.shape[1] == 3 + 7 * 5
        else:
            assert client.get(clip["url"]).status_code == 200


def test_the_newest_policy_is_shown_and_said_to_be_which(tmp_path):
    folder = make_run(tmp_path / "run", *queries_of(0, 2))
    client = Client(folder)

    def shown(state, number):
        folder.save_status({"state": state, "round": number, "rounds": 9})
        policy = client.get("/api/policy").json()
        return policy["clip"] and policy["clip"]["url"].partition("?")[0], policy["words"]

    assert shown("waiting", 1) == ("api/clip/0-0/0", "The untrained policy")
    folder.append_round({"round": 0}, {})
    client.view.feedback.ask(1, queries_of(1, 1), {}, 0)
    folder.append_round({"round": 1}, {})  # all was skipped, so it explored again
    assert shown("waiting", 2) == ("api/clip/1-0/0", "The untrained policy")
    client.view.feedback.ask(2, queries_of(2, 1), {}, 0)
    folder.append_round({"round": 2, "train_loss": 0.5}, {})
    assert shown("waiting", 3) == ("api/clip/2-0/0", "The policy of round 2")
    imported = queries_of(9, 1)
    said = Answer(imported[0].id, "preference", {"left": 1.0}, "others")
    client.view.feedback.record(imported, [said], "imported")
    later = ", the newest of which clips were asked about; the trainer is at round "
    assert shown("training", 5) == ("api/clip/2-0/0", f"The policy of round 2{later}5")
    assert shown("finished", 9) == ("api/clip/2-0/0", f"The policy of round 2{later}9")
    folder.save_experiment(folder.experiment(), "comparison")
    client = Client(folder)
    assert shown("finished", 9) == (None, ""), "there are two, and neither is newer"


def test_of_clips_without_pictures_numbers_are_plotted(tmp_path):
    queries, pictures = filmed_queries(1)
    known = {name: pictures[name] for name in [queries[0].segments[1].id]}
    client = Client(make_run(tmp_path / "run", *queries, pictures=known))
    clips = next_queries(client)[0]["clips"]
    assert [clip["form"] for clip in clips] == ["trace", "frames"]
    assert [clip["frames"] * clip["dt"] for clip in clips] == [0.8, 0.8]


def test_a_damaged_picture_is_withdrawn_and_counted(tmp_path):
    queries, pictures = filmed_queries(2)
    for clip, data in [(queries[1].segments[0], b"RIFF, but no picture"),
                       (queries[1].segments[1], b"")]:  # fmt: skip
        pictures[clip.id] = dataclasses.replace(pictures[clip.id], data=data)
    client = Client(make_run(tmp_path / "run", *queries, pictures=pictures))
    assert [query["ticket"] for query in next_queries(client, 2)] == ["0-0"]
    assert client.view.feedback.counts().pending == 1
    for index in (0, 1):
        reply = client.get(f"/api/clip/0-1/{index}")
        assert reply.status_code == 410 and "damaged" in reply.json()["error"]
    assert client.get("/api/status").json()["damaged"] == 1
    assert client.get("/api/clip/0-0/0").status_code == 200


def test_a_picture_that_is_damaged_later_is_withdrawn_when_it_is_fetched(tmp_path):
    queries, pictures = filmed_queries(2)
    folder = make_run(tmp_path / "run", *queries, pictures=pictures)
    [shown] = next_queries(Client(folder))
    late = Client(folder)  # which has not looked at it yet
    late.view.feedback.database.connection.execute("UPDATE picture SET data = substr(data, 1, 99)")
    reply = late.get(shown["clips"][0]["url"])
    assert reply.status_code == 410
    assert late.view.feedback.counts().pending == 1
    assert shown["ticket"] not in [query["ticket"] for query in next_queries(late, 2)]


def test_a_damaged_clip_is_withdrawn_and_counted(tmp_path):
    good, bad = queries_of(0, 2)
    clip = bad.segments[0]
    qpos = np.full_like(clip.extras["qpos"], np.nan)
    broken = Segment(clip.id, clip.observations, clip.actions, {"qpos": qpos})
    bad = Query(bad.id, (broken, bad.segments[1]))
    client = Client(make_run(tmp_path / "run", good, bad))
    assert [query["ticket"] for query in next_queries(client, 2)] == ["0-0"]
    assert client.get("/api/clip/0-1/0").status_code == 410
    assert client.get("/api/status").json()["damaged"] == 1
    assert client.view.feedback.counts().pending == 1


def test_answers_are_stored_as_what_they_are(client):
    kinds = [("preference", {"left": 1.0}), ("preference", {"left": 0.0, "strength": "slightly"}),
             ("tie", {}), ("skip", {})]  # fmt: skip
    for index, (kind, value) in enumerate(kinds):
        [query] = next_queries(client)
        reply = answer(client, query["ticket"], kind, value, uuid=str(index))
        assert reply.status_code == 200 and reply.json() == {"answer": index + 1}
    stored = client.view.feedback.answers()
    assert [(a.kind, a.value) for a in stored] == kinds
    assert {(a.teacher, a.shown_at, a.answered_at) for a in stored} == {("anna", 1.0, 2.5)}
    assert client.view.feedback.counts()[:4] == (12, 3, 2, 8)


def test_status_tells_how_far_things_are(tmp_path):
    status = {"state": "waiting", "round": 2, "rounds": 9, "steps": 5, "total_steps": 90,
              "needed": 15, "process": os.getpid()}  # fmt: skip
    folder = make_run(tmp_path / "run", *queries_of(0, 3), labels=10, status=status)
    folder.append_round({"round": 1, "out_of_bag_accuracy": 0.8}, {})
    client = Client(folder)
    now = time.time()
    answer(client, next_queries(client)[0]["ticket"], shown_at=now - 6, answered_at=now)
    found = client.get("/api/status", params={"person": "anna"}).json()
    assert found["labels"] == found["mine"] == 1 and found["budget"] == 10
    assert found["clips"] == 2 and found["seconds"] >= 0
    assert found["pending"] == 2 and found["asked"] == 3 and found["accuracy"] == 0.8
    assert found["per_minute"] == pytest.approx(10, rel=0.1)
    assert found["seconds_left"] == pytest.approx(54, rel=0.1)
    assert found["trainer"]["words"].startswith("waiting for your answers: 14 more")
    assert found["people"] == [{"person": "anna", "labels": 1}]


def test_a_trainer_that_was_killed_is_said_to_have_stopped(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    status = {"state": "training", "round": 2, "rounds": 9, "process": process.pid}
    client = Client(make_run(tmp_path / "run", *queries_of(0, 1), status=status))
    trainer = client.get("/api/status").json()["trainer"]
    assert trainer["state"] == "stopped" and "prefrl resume" in trainer["words"]
    next_queries(client)
    words = post(client, "/api/next", count=1, held=[]).json()["words"]
    assert words.startswith("No new pairs at the moment: the trainer is not running")


def test_the_trainer_chooses_new_clips_before_it_says_more(folder):
    for number, more in [(2, ", then choosing new clips"), (9, "")]:
        folder.save_status({"state": "training", "round": number, "rounds": 9})
        trainer = Client(folder).get("/api/status").json()["trainer"]
        assert trainer["words"] == (
            f"training the policy on your answers (round {number} of 9){more}"
        )


def test_the_terminal_says_how_many_answers_a_round_still_needs(capsys):
    """What is asked beyond that is for later rounds."""
    config = LoopConfig(0, 10, 1000, 200, 9, "", QueryConfig(), FitConfig())
    waiting = [(1, Counts(30, 4, 4, 26), 11), (3, Counts(60, 30, 30, 30), 10)]
    waiting += [(3, Counts(33, 30, 30, 3), 3)]
    for index, counts, missing in waiting:
        with Display(10, 1000, 200, 0, config) as display:
            display.show(Round(index, "waiting", counts))
        assert capsys.readouterr().out == f"round {index}: waiting for {missing} answers\n"
    with Display(10, 1000, 200, 0, config) as display:
        display.show(Round(10, "waiting", Counts(200, 199, 199, 1)))
    assert capsys.readouterr().out == "round 10: waiting for 1 answer\n"
    display.show(Round(9, "done", Counts(200, 199, 199, 1, 398, 1000.0), {"steps": 900}))
    assert ", labels 199/200 (398 clips, 17 min), " in capsys.readouterr().out


def test_undo_and_history(client):
    for index in range(3):
        answer(client, next_queries(client)[0]["ticket"], "tie", uuid=str(index))
    listed = client.get("/api/history").json()["answers"]
    assert [entry["answer"] for entry in listed] == [3, 2, 1]
    assert listed[0]["seconds"] == 1.5
    undone = post(client, "/api/undo", uuid="undo").json()
    assert undone["query"]["ticket"] == listed[0]["ticket"]
    assert undone["was"] == {"kind": "tie", "value": {}}
    changed = answer(client, listed[2]["ticket"], uuid="changed", value={"left": 0.0})
    assert changed.status_code == 200
    assert [e["kind"] for e in client.get("/api/history").json()["answers"]] == [
        "preference", "tie",
    ]  # fmt: skip
    kinds = client.get("/api/history", params={"kind": "tie"}).json()["answers"]
    assert len(kinds) == 1


def test_the_history_reads_no_clip(client, monkeypatch):
    """Drawing a hundred clips at once would stall everybody; the page asks for those in sight."""
    answer(client, next_queries(client)[0]["ticket"])
    monkeypatch.setattr(client.view.feedback, "segment", None)
    monkeypatch.setattr(client.view, "clips", None)
    [entry] = client.get("/api/history").json()["answers"]
    assert entry["kind"] == "preference" and "query" not in entry


def test_an_undo_that_names_its_answer_takes_back_that_one(client):
    first, second = (query["ticket"] for query in next_queries(client, 2))
    for ticket, uuid in [(first, "a"), (second, "b"), (first, "changed")]:
        answer(client, ticket, "tie", uuid=uuid)
    for _ in range(2):
        undone = post(client, "/api/undo", uuid="undo", ticket=second, answer="b").json()
        assert undone["query"]["ticket"] == second and undone["was"]["kind"] == "tie"
    old = post(client, "/api/undo", uuid="undo 2", ticket=first, answer="a").json()
    assert old["query"] is None and "does not stand any more" in old["words"]
    assert [a.query.index for a in client.view.feedback.answers()] == [int(first.split("-")[1])]
    post(client, "/api/undo", uuid="undo 3")
    assert post(client, "/api/undo", uuid="4").json()["words"] == "There is nothing left to undo."
    reply = post(client, "/api/undo", uuid="5", ticket="0-0", answer=7)
    assert reply.status_code == 400 and "answer is 7" in reply.json()["error"]


def test_what_only_the_page_finds_damaged_is_skipped_for_everybody(client):
    ticket, other = (query["ticket"] for query in next_queries(client, 2))
    reply = post(client, "/api/damaged", ticket=ticket, tab="another")
    assert reply.status_code == 400 and "is not in front of 'anna'" in reply.json()["error"]
    for _ in range(2):
        assert post(client, "/api/damaged", ticket=ticket).status_code == 200
    store, client.view.progress.counted = client.view.feedback, (-np.inf, {})
    assert client.get("/api/status").json()["damaged"] == 1 and store.counts().pending == 11
    said = post(client, "/api/next", count=0, held=[ticket, other]).json()
    assert said["lost"] == [ticket]
    later = next_queries(Client(client.view.folder), 9, person="ben")
    assert ticket not in [query["ticket"] for query in later]


def test_imported_answers_can_be_looked_at_and_answered_anew(client):
    queries, answers = queries_of(7, 2), []
    for query in queries:
        answers.append(Answer(query.id, "preference", {"left": 1.0}, "others"))
    client.view.feedback.record(queries, answers, "imported")
    listed = client.get("/api/history").json()["answers"]
    assert [entry["ticket"] for entry in listed] == ["-1-1", "-1-0"]
    found = client.get("/api/query/-1-1").json()["query"]
    assert found["clips"][0]["form"] == "poses"
    assert client.get(found["clips"][0]["url"]).status_code == 200
    assert answer(client, "-1-1", "tie").status_code == 200
    assert client.view.feedback.counts().answered == 0, "the run did not ask it"


def test_an_answer_whose_clips_are_damaged_stays_in_the_history(client):
    [query] = queries_of(7, 1)
    clip = query.segments[0]
    broken = Segment("b", clip.observations, clip.actions, {"qpos": np.full((60, 6), np.nan)})
    query = Query(query.id, (broken, query.segments[1]))
    client.view.feedback.record([query], [Answer(query.id, "tie", {}, "others")], "imported")
    [entry] = client.get("/api/history").json()["answers"]
    assert entry["kind"] == "tie"
    assert client.get("/api/query/-1-0").status_code == 410
    assert client.get("/api/status").json()["damaged"] == 0, "no pair was skipped for it"


def test_one_query_by_its_ticket_answered_or_not(client):
    [query] = next_queries(client)
    for _ in range(2):
        found = client.get(f"/api/query/{query['ticket']}").json()["query"]
        assert found == query
        answer(client, query["ticket"])
    again = client.get(f"/api/query/{query['ticket']}-repeat").json()["query"]
    assert again["ticket"] == f"{query['ticket']}-repeat"


@pytest.mark.parametrize("ticket", ["77-0", "x", "0-0-perhaps", "-1-0"])
def test_a_ticket_that_nobody_gave_out_gets_a_sentence(client, ticket):
    reply = client.get(f"/api/query/{ticket}")
    assert reply.status_code == 400
    assert "not a ticket" in reply.json()["error"] or "holds no query" in reply.json()["error"]


def test_a_damaged_query_is_said_to_be_gone(tmp_path):
    [query] = queries_of(0, 1)
    clip = query.segments[0]
    broken = Segment(clip.id, clip.observations, clip.actions, {"qpos": np.full((60, 6), np.nan)})
    client = Client(make_run(tmp_path / "run", Query(query.id, (broken, query.segments[1]))))
    reply = client.get("/api/query/0-0")
    assert reply.status_code == 410 and "damaged" in reply.json()["error"]


def test_why_there_is_no_report_yet(client):
    first = client.get("/api/inspect").json()
    assert first == {"ready": False, "words": "Asking the reward model …", "working": True}
    deadline = time.monotonic() + 30
    while (said := client.get("/api/inspect").json())["working"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (
        not said["ready"]
        and "has not finished a round" in said["words"]
        and "Traceback" not in said["words"]
    )
    assert client.get("/api/inspect").json() == said, "asked once, until something changes"
    answer(client, next_queries(client)[0]["ticket"])
    assert client.get("/api/inspect").json()["working"]
    while client.get("/api/inspect").json()["working"]:
        time.sleep(0.05)


# --- who is served ----------------------------------------------------------------------------


def test_no_cookie_is_ever_set_nor_looked_at(folder):
    """A browser shows cookies to every server of this host, whatever its port."""
    client = Client(folder, key="")
    cookies = {"Cookie": f"prefrl-{PORT}={KEY}; token={KEY}; X-Prefrl-Token={KEY}"}
    for path in ("/", f"/?token={KEY}", "/api/run", f"/api/run?token={KEY}"):
        reply = client.get(path, headers=cookies)
        assert "set-cookie" not in reply.headers and KEY not in reply.text
        assert reply.status_code == (403 if "api" in path else 200)
    assert post(client, "/api/next", OURS | cookies, count=1, held=[]).status_code == 403


@pytest.mark.parametrize("path", ["/api/run", "/api/next", "/api/clip/0-0/0", "/api/none"])
def test_without_the_key_nothing_of_the_run_is_served(folder, path):
    for key in ("", "another", KEY[:-1], KEY + "x", run_id(KEY)):
        client = Client(folder, key=key)
        reply = client.get(path)
        assert reply.status_code == 403 and "prefrl label RUN" in reply.json()["error"]
        assert client.get(path, params={"token": KEY}).status_code == 403
        assert client.post(path, json={}, headers=OURS).status_code == 403
        assert client.request("DELETE", path.replace("/api", "")).status_code == 403


def test_the_page_itself_holds_nothing_of_the_run(folder):
    client = Client(folder, key="")
    for file in filter(Path.is_file, PAGE.rglob("*")):
        reply = client.get(f"/{file.relative_to(PAGE)}")
        assert reply.status_code == 200 and reply.content == file.read_bytes()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8765", "", "[::2]:1"])
def test_another_host_is_refused(client, host):
    assert client.get("/api/run", headers={"Host": host}).status_code == 421
    for path in (f"/?token={KEY}", "/main.js"):
        reply = client.get(path, headers={"Host": host})
        assert reply.status_code == 421 and "<" not in reply.text


def test_a_refused_host_is_told_which_flag_allows_it(client):
    for path in ("/", "/api/run"):
        reply = client.get(path, headers={"Host": "Labels.Example.org:8443"})
        assert "`prefrl label RUN --allow-host labels.example.org`" in reply.text
    reply = client.get("/", headers={"Host": "`rm -rf`"})
    assert "--allow-host NAME`" in reply.text


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8765", "LOCALHOST"])
def test_this_machine_by_any_port_is_served(client, host):
    assert client.get("/api/run", headers={"Host": host}).status_code == 200


def test_a_host_that_was_allowed(folder):
    client = Client(folder, hosts=["label.example"])
    for host in ("label.example", "Label.Example:80", "label.example.:8765"):
        assert client.get("/api/run", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host, status",
    [("192.168.1.7:80", 200), ("[fe80::1]:8765", 200), ("lab.example", 421), ("1.2.3.4.a", 421)],
)
def test_who_listens_on_a_network_is_asked_for_by_any_address(folder, host, status):
    """A name may be somebody's who points it at this machine; an address is nobody's."""
    assert Client(folder, wide=True).get("/api/run", headers={"Host": host}).status_code == status
    assert Client(folder).get("/api/run", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    "host, origin, status",
    [
        (f"127.0.0.1:{PORT}", "http://localhost:9000", 200),  # a tunnel, another port
        (f"127.0.0.1:{PORT}", "https://labels.example.org", 200),  # nginx: Host is the backend's
        ("labels.example.org", "https://labels.example.org", 200),
        ("labels.example.org:8443", "https://labels.example.org:8443", 200),
        (f"127.0.0.1:{PORT}", "https://evil.example", 403),
        ("labels.example.org", "https://labels.example.org.evil.example", 403),
    ],
)
def test_behind_a_proxy_the_origin_may_be_any_name_that_was_allowed(folder, host, origin, status):
    client = Client(folder, hosts=["labels.example.org"])
    reply = post(client, "/api/next", OURS | {"Host": host, "Origin": origin}, count=1, held=[])
    assert reply.status_code == status
    if status == 403:
        name = origin.partition("://")[2]
        assert f"--allow-host {name}` allows it" in reply.json()["error"]


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"X-Prefrl": run_id(KEY), "Origin": "http://evil.example"}, 403),
        ({"X-Prefrl": run_id(KEY), "Origin": "null"}, 403),
        ({"X-Prefrl": run_id(KEY)}, 403),
        ({"Origin": HOME}, 403),
        ({"X-Prefrl": "another run's", "Origin": HOME}, 403),
        (OURS | {"Content-Type": "text/plain"}, 415),
    ],
)
def test_another_page_cannot_answer(client, headers, status):
    assert post(client, "/api/next", headers, count=3, held=[]).status_code == status
    assert len(next_queries(client, 9)) == 9, "nothing was leased"


def test_headers_keep_the_page_to_itself(client):
    for path in ("/", "/api/run", "/api/clip/0-0/0", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert client.get("/api/run").headers["cache-control"] == "no-store"


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"ticket": "77-0"}, "holds no query"),
        ({"ticket": "x"}, "not a ticket"),
        ({"ticket": None}, "ticket is None"),
        ({"kind": "perhaps"}, "is of kind"),
        ({"kind": "retraction"}, "api/undo"),
        ({"kind": "ranking", "value": {"order": [[0]]}}, "ranks"),
        ({"value": {"left": 2}}, "expected a number from 0 to 1"),
        ({"value": {"left": True}}, "expected a number from 0 to 1"),
        ({"value": {"left": 1, "strength": "huge"}}, "has strength"),
        ({"value": "left"}, "expected an object"),
        ({"person": ""}, "person is ''"),
        ({"person": "x" * 41}, "1 to 40 characters"),
        ({"person": 7}, "person is 7"),
        ({"uuid": None}, "uuid is None"),
        ({"shown_at": "now"}, "shown_at is 'now'"),
        ({"answered_at": -1}, "answered_at is -1"),
        ({"person": "\ud800"}, "whole characters"),
        ({"person": "an\x00na"}, "control character"),
        ({"uuid": "u\x1b[2J"}, "control character"),
    ],
)
def test_a_malformed_answer_gets_a_sentence_and_changes_nothing(client, change, words):
    body = {"person": "anna", "tab": "one", "uuid": "u", "ticket": "0-0", "kind": "preference",
            "value": {"left": 1}, "shown_at": 1, "answered_at": 2} | change  # fmt: skip
    reply = client.post("/api/answer", content=json.dumps(body), headers=OURS | JSON)
    assert reply.status_code == 400 and words in reply.json()["error"]
    assert client.view.feedback.last_answer() == 0


@pytest.mark.parametrize("value", ['{"left": 1, "more": NaN}', '{"left": 1, "more": "\\ud800"}'])
def test_what_the_store_could_not_read_again_is_refused(client, value):
    body = (
        '{"person": "anna", "tab": "one", "uuid": "u", "ticket": "0-0", "kind": "preference", '
        f'"value": {value}, "shown_at": 1, "answered_at": 2}}'
    )
    reply = client.post("/api/answer", content=body, headers=OURS | JSON)
    assert reply.status_code == 400 and "finite numbers" in reply.json()["error"]
    assert client.get("/api/status").status_code == client.get("/api/history").status_code == 200


def test_a_clips_address_names_the_run(client, tmp_path):
    other = Client(make_run(tmp_path / "other", *queries_of(0, 1)))
    urls = [next_queries(c)[0]["clips"][0]["url"].partition("?")[2] for c in (client, other)]
    assert urls[0] != urls[1], "or a browser would show one run's clips for the other's"
    assert client.get(f"/api/clip/0-0/{'9' * 5000}").status_code == 400


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 9000])
def test_what_is_no_json_object_is_refused(client, body):
    reply = client.post("/api/answer", content=body, headers=OURS | JSON)
    assert reply.status_code == 400 and "JSON object" in reply.json()["error"]


def test_a_body_that_is_too_large_is_not_read(client):
    body = b'{"person": "' + b"x" * LARGEST_BODY + b'"}'
    reply = client.post("/api/answer", content=body, headers=OURS | JSON)
    assert reply.status_code == 413 and str(LARGEST_BODY) in reply.json()["error"]


def test_replayed_and_late_answers(client):
    tickets = [query["ticket"] for query in next_queries(client, 2)]
    first = answer(client, tickets[1], uuid="a").json()
    second = answer(client, tickets[0], uuid="b").json()  # out of order
    assert answer(client, tickets[1], uuid="a").json() == first
    assert answer(client, tickets[1], "tie", uuid="a").json() == first
    assert second["answer"] == first["answer"] + 1
    assert answer(client, tickets[1], uuid="c", person="ben").status_code == 200
    assert client.view.feedback.counts().answered == 2
    assert len(client.view.feedback.answers()) == 3


def test_a_full_disk_is_said_and_the_answer_can_be_sent_again(client):
    [query] = next_queries(client)
    pages = client.view.feedback.database.connection.execute("PRAGMA page_count").fetchone()[0]
    client.view.feedback.database.connection.execute(f"PRAGMA max_page_count = {pages}")
    replies = [
        answer(client, query["ticket"], uuid=f"{i}", value={"left": 1, "pad": "x" * 3000})
        for i in range(6)
    ]
    full = [reply for reply in replies if reply.status_code != 200]
    assert full and {reply.status_code for reply in full} == {503}
    assert "full" in full[0].json()["error"] and "is safe" in full[0].json()["error"]
    client.view.feedback.database.connection.execute("PRAGMA max_page_count = 1000000")
    assert answer(client, query["ticket"], uuid="5").status_code == 200


def test_a_run_folder_that_disappears_is_said(client, folder):
    away = folder.path.rename(folder.path.with_name("away"))
    for reply in (answer(client, "0-0"), client.get("/api/status")):
        assert reply.status_code == 503 and "has disappeared" in reply.json()["error"]
    away.rename(folder.path)
    assert answer(client, "0-0").status_code == 200


def test_a_store_that_somebody_else_writes_to_is_waited_for(client, folder):
    other = sqlite3.connect(folder.feedback, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    began = time.monotonic()
    assert answer(client, "0-0").status_code == 200
    assert time.monotonic() - began > 0.2
    other.close()


# Any request at all: a status below 500, and nothing changes without key and origin.

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
tickets = st.sampled_from(
    ["0-0", "0-1", "-1-0", "0-1-repeat", "1-0", "00-0", "-", "0-0-", "9" * 30 + "-1"]
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "person": st.sampled_from(["anna", "ben", ""]) | anything,
        "tab": st.just("one") | anything,
        "uuid": st.text(max_size=5) | anything,
        "ticket": tickets | anything,
        "answer": st.text(max_size=5) | anything,
        "count": st.integers(-2, 12) | anything,
        "held": st.lists(tickets, max_size=5) | anything,
        "kind": st.sampled_from(["preference", "tie", "skip", "ranking", "ratings", "rewrite"])
        | anything,
        "value": st.dictionaries(
            st.sampled_from(["left", "order", "ratings", "low", "high", "segment", "text"]),
            anything | st.floats(0, 1),
        )
        | anything,
        "shown_at": st.floats(0, 1e10) | anything,
        "answered_at": st.floats(0, 1e10) | anything,
    },
)
paths = st.sampled_from(
    ["/api/next", "/api/answer", "/api/undo", "/api/release", "/api/damaged", "/api/run",
     "/api/status", "/api/history", "/api/practice", "/api/policy", "/api/scene/0",
     "/api/clip/0-0/0", "/api/clip/0-0/7", "/api/clip/-/0", "/api/query/0-0", "/api/query/-",
     "/", "/main.js", "/..%2f..%2fetc", "/api"]
) | st.text(string.printable, max_size=12).map(lambda text: "/" + text)  # fmt: skip
query_strings = st.dictionaries(
    st.sampled_from(["limit", "before", "person", "kind", "token"]),
    st.text(max_size=8) | st.integers().map(str), max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("viewer") / "run", *queries_of(0, 4))


@given(paths, st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]), bodies, query_strings)
@settings(max_examples=300, deadline=None)
def test_no_request_makes_the_server_fail(shared, path, method, body, query):
    client = Client(shared)
    content = json.dumps(body).encode()
    try:
        address = httpx.URL(HOME + path)
    except httpx.InvalidURL:
        return
    reply = client.request(method, address, params=query, content=content, headers=OURS | JSON)
    assert reply.status_code < 500
    client.view.feedback.close()


@given(paths, bodies, st.sampled_from(["no key", "no origin", "foreign origin", "no header"]))
@settings(max_examples=150, deadline=None)
def test_nothing_changes_without_key_and_origin(shared, path, body, lack):
    client = Client(shared, key="wrong" if lack == "no key" else KEY)
    headers = OURS | JSON
    if lack == "no origin":
        del headers["Origin"]
    elif lack == "foreign origin":
        headers["Origin"] = "http://127.0.0.1.evil.example"
    elif lack == "no header":
        del headers["X-Prefrl"]
    store = client.view.feedback.database.connection
    before = store.execute("PRAGMA data_version").fetchone(), store.total_changes
    try:
        address = httpx.URL(HOME + path)
    except httpx.InvalidURL:
        return
    reply = client.post(address, content=json.dumps(body).encode(), headers=headers)
    assert reply.status_code in (400, 403)
    assert (store.execute("PRAGMA data_version").fetchone(), store.total_changes) == before
    client.view.feedback.close()


# --- as a process -----------------------------------------------------------------------------


@contextlib.contextmanager
def label(*words):
    """Run `prefrl label` and give its address; it is killed at the end."""
    with Process(**command(["label", *words]), stdout=subprocess.PIPE) as process:
        try:
            yield process.stdout.readline().removeprefix("answer at ").strip()
        finally:
            process.kill()


def test_prefrl_label_serves_this_machine_alone_and_keeps_key_and_port(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        label(folder.path, "--port", port) as address,
        httpx.Client(follow_redirects=True) as browser,
    ):
        assert address.startswith(f"http://127.0.0.1:{port}/?token=")
        assert browser.get(address).status_code == 200
        others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
        for other in others - {"127.0.0.1", "::1"}:
            with pytest.raises(OSError), socket.create_connection((other, port), 1):
                pass
    with label(folder.path) as again:
        assert again == address, "a restarted viewer is found by the pages that are open"
    assert (folder.path / "viewer.json").stat().st_mode & 0o077 == 0


def test_a_page_whose_port_was_taken_says_that_it_is_elsewhere(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        folder.save_viewer(folder.viewer() | {"port": port})
        with label(folder.path) as said:
            assert said == f"port {port}, where the page was before, is taken by another program"


def test_hosts_that_were_allowed_are_kept_until_others_are_given(folder):
    def allowed(address):
        at = address.partition("/?")[0]
        names = ["one.example", "two.example", "three.example"]
        asked = {name: httpx.get(f"{at}/", headers={"Host": name}).status_code for name in names}
        return [name for name, status in asked.items() if status != 421]

    with label(folder.path, "--allow-host", "one.example", "two.example") as address:
        assert allowed(address) == ["one.example", "two.example"]
    with label(folder.path) as address:
        assert allowed(address) == ["one.example", "two.example"], "as `prefrl resume` starts it"
    with label(folder.path, "--allow-host", "three.example") as address:
        assert allowed(address) == ["three.example"]
    assert folder.viewer()["hosts"] == ["three.example"]


@pytest.mark.parametrize(
    "given, name",
    [
        ("labels.example.org", "labels.example.org"), ("LABELS.Example.org.", "labels.example.org"),
        ("lab_box", "lab_box"), ("192.168.1.7", "192.168.1.7"), ("[2001:DB8::0:1]", "2001:db8::1"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)  # fmt: skip
def test_a_host_that_may_be_allowed_is_kept_as_browsers_write_it(given, name):
    assert host_name(given) == name


@pytest.mark.parametrize(
    "given, remedy",
    [
        ("https://labels.example.org/page", "--allow-host labels.example.org"),
        ("labels.example.org:8765", "--allow-host labels.example.org"),
        ("labels.example.org/proxy/8765", "--allow-host labels.example.org"),
        ("http://[2001:db8::1]:80", "--allow-host 2001:db8::1"),
        ("*.example.org", "--allow-host example.org"), ("*", "--allow-host labels.example.org"),
        ("", "--allow-host labels.example.org"), ("a b", "--allow-host labels.example.org"),
        ("-x", "--allow-host labels.example.org"), ("0.0.0.0", "--host 0.0.0.0"),
        ("::", "--host ::"),
    ],
)  # fmt: skip
def test_a_host_that_no_request_could_name_is_refused_with_one_that_works(given, remedy):
    with pytest.raises(UserError) as refused:
        host_name(given)
    assert str(refused.value).startswith(f"--allow-host is {given!r}")
    assert str(refused.value).endswith(remedy)
    if remedy.startswith("--allow-host"):
        host_name(remedy.split()[1])


def test_a_host_that_cannot_be_is_refused_on_the_command_line(folder):
    for words, sentence in {
        ("--allow-host", "https://x.example"): "expected a host's name alone",
        ("--host", "192.0.2.1"): "expected an address of this machine",
        ("--host", "no such host"): "expected an address of this machine",
    }.items():
        done = run(**command(["label", folder.path, *words]))
        assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert "hosts" not in folder.viewer()


@pytest.mark.parametrize("host, wide, address", [
    ("127.0.0.1", False, "http://127.0.0.1:9/"), ("localhost", False, None),
    ("127.0.0.5", False, "http://127.0.0.5:9/"), ("0.0.0.0", True, "http://127.0.0.1:9/"),
    ("::", True, "http://[::1]:9/"), ("::1", False, "http://[::1]:9/"),
    ("192.168.1.7", True, "http://192.168.1.7:9/"),
])  # fmt: skip
def test_where_the_page_is_found(host, wide, address):
    assert is_wide(host) == wide
    assert address is None or url(host, 9) == address


def test_the_page_of_a_container_is_reached_from_outside_with_its_token_alone(folder):
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for words in (["--host", "0.0.0.0"], []):  # it is kept, as the port is
        with label(folder.path, *words) as address:
            assert address.startswith("http://127.0.0.1:")
            port, token = httpx.URL(address).port, address.partition("token=")[2]
            for other in {"127.0.0.1", *others}:
                at = f"http://{other}:{port}"
                assert httpx.get(f"{at}/").status_code == 200
                assert httpx.get(f"{at}/api/run").status_code == 403
                headers = {"X-Prefrl-Token": token}
                assert httpx.get(f"{at}/api/run", headers=headers).json()["name"] == "run"
            named = httpx.get(f"{at}/", headers={"Host": "evil.example"})
            assert named.status_code == 421
    with label(folder.path, "--host", "127.0.0.1") as address:
        for other in others - {"127.0.0.1"}:
            with pytest.raises(OSError), socket.create_connection((other, port), 1):
                pass


# --- connections that nobody uses --------------------------------------------------------------


PATIENT = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files})); "
    "from prefrl.viewer import connections; connections.PATIENCE_SECONDS = {patience}; "
    "from prefrl.cli import main; sys.exit(main())"
)


@contextlib.contextmanager
def patient(folder, log, patience=30.0, files=256):
    """Run `prefrl label` in a process that may open so many files; give it and its port."""
    code = PATIENT.format(patience=patience, files=files)
    start = command(["label", folder.path], ("-c", code))
    with (
        log.open("wb") as complaints,
        Process(**start, stdout=subprocess.PIPE, stderr=complaints.fileno()) as process,
    ):
        try:
            address = process.stdout.readline().removeprefix("answer at ").strip()
            headers = {"X-Prefrl-Token": address.partition("token=")[2]}
            yield process, httpx.URL(address).port, headers
        finally:
            process.kill()


def status_of(port, headers):
    at = f"http://127.0.0.1:{port}/api/status"
    return httpx.get(at, headers=headers, timeout=5).status_code


def cpu_seconds(process):
    text = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(text[11]) + int(text[12])) / os.sysconf("SC_CLK_TCK")


HALF = [
    b"", b"GET /api/run HTTP/1.1\r\nHost: 127.0.0.1",
    b"POST /api/next HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{",
]  # fmt: skip
needs_limits = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="needs Linux's /proc"
)


@needs_limits
@pytest.mark.parametrize("files", [256, 60], ids=["too many connections", "too many files"])
def test_hundreds_of_half_open_connections_stop_nobody_and_fill_no_log(folder, tmp_path, files):
    log = tmp_path / "log"
    with (
        patient(folder, log, 2.0 if files < 100 else 30.0, files) as (process, port, headers),
        contextlib.ExitStack() as stack,
    ):
        assert status_of(port, headers) == 200
        halves = [stack.enter_context(socket.socket()) for _ in range(450)]
        for half in halves:
            half.setblocking(False)
            half.connect_ex(("127.0.0.1", port))
        time.sleep(1.5)
        for number, half in enumerate(halves):
            with contextlib.suppress(
                OSError
            ):  # it was closed to make room, or still waits for some
                half.sendall(HALF[number % 3])
        if files < 100:
            time.sleep(3.0)  # then those that could be opened have been waited for long enough
        for _ in range(5):
            assert status_of(port, headers) == 200
        held = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        assert held < min(files, 160)
        before = cpu_seconds(process)
        time.sleep(2.0)
        assert cpu_seconds(process) - before < 1.0, "it does not spin"
        assert process.poll() is None
    assert log.read_bytes() == b""


@needs_limits
@pytest.mark.parametrize("said", HALF)
def test_who_does_not_finish_a_request_is_cut_off(folder, tmp_path, said):
    with (
        patient(folder, tmp_path / "log", patience=1.0) as (_, port, headers),
        socket.create_connection(("127.0.0.1", port), 5) as half,
    ):
        half.sendall(said)
        began, heard = time.monotonic(), b"?"
        with contextlib.suppress(ConnectionResetError):
            while heard:
                for byte in b"X-Slow: 1":  # nor does it help to say a little now and then
                    half.settimeout(0.3)
                    with contextlib.suppress(TimeoutError):
                        heard = half.recv(1000)
                        break
                    half.sendall(bytes([byte]))
                assert time.monotonic() - began < 10
        assert status_of(port, headers) == 200
    assert (tmp_path / "log").read_bytes() == b""


def test_a_port_in_use_gets_a_sentence(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be opened"):
            serve(folder, port=port)
        done = run(**command(["label", folder.path, "--port", port]))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"port {port}" in done.stderr


def test_a_model_that_cannot_be_read_gets_a_sentence(folder):
    folder.model.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"damaged or of another version of MuJoCo.*resume"):
        View(folder)


def test_what_is_no_run_cannot_be_labelled(tmp_path):
    done = run(**command(["label", tmp_path]))
    assert done.returncode == 2 and "is not a run folder" in done.stderr


def test_two_viewers_of_one_run_never_hand_out_the_same_pair(folder):
    one, two = Client(folder), Client(folder)
    first = {query["ticket"] for query in next_queries(one, 6)}
    second = {query["ticket"] for query in next_queries(two, 6, person="ben")}
    assert len(first) == len(second) == 6 and not first & second


def test_a_mesh_is_described_by_its_box_its_hull_and_its_pose(tmp_path):
    import mujoco

    from prefrl.viewer.clips import Clips

    vertices = "0 0 0  1 0 0  0 2 0  0 0 3"
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><asset><mesh name='m' vertex='{vertices}'/></asset><worldbody><body><freejoint/>"
        "<geom type='mesh' mesh='m'/></body></worldbody></mujoco>"
    )
    clips = Clips(model, 0.1, {}.get)
    [geom] = clips.scene()["geoms"]
    assert geom["type"] == "mesh" and geom["mesh"] == 0
    np.testing.assert_allclose(sorted(2 * np.array(geom["size"])), [1, 2, 3], rtol=0.5)
    qpos = np.tile([0, 0, 1, 1, 0, 0, 0], (2, 1)).astype(np.float32)
    segment = Segment("a", qpos, np.zeros((2, 1)), {"qpos": qpos})
    data, kind = clips.data(segment)
    assert len(data) == 2 * (3 + 7) * 4 and kind == "application/octet-stream"
    [mesh] = clips.scene()["meshes"]

    assert len(mesh["outline"]) == 4 and mesh["fine"]["triangles"] == 4
