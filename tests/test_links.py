"""Links of people's own: whom they let in, as whom, what they show; and the page below a path."""

import contextlib
import dataclasses
import subprocess
import threading

import httpx2 as httpx
import numpy as np
import pytest
from labelling import make_run, pose_segment, queries_of, robot
from processes import Process, command
from starlette.requests import Request
from test_viewer import HOME, KEY, OURS, Client, answer, folder, post

from prefrl.cli import main
from prefrl.errors import UserError
from prefrl.guide import Guide, GuidePicture, Right
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.labelling import TICKET, Ticket
from prefrl.storage.links import Links
from prefrl.viewer.guard import Visitor, run_id
from prefrl.viewer.inspector import Inspector
from prefrl.viewer.outside import read_outside

__all__ = ["folder"]


def page_of(person):
    """What a page of somebody's link says of itself."""
    return {"X-Prefrl": run_id(f"{KEY} {person}"), "Origin": HOME}


class Linked(Client):
    """A client with a link of somebody's own."""

    def __init__(self, folder, person="ana", admin=False):
        with contextlib.closing(FeedbackStore(folder.feedback)) as store:
            token = Links(folder, store).make(person, admin)
        super().__init__(folder, key=token)
        self.token, self.page = token, page_of(person)
        self.person, self.admin = person, admin
        self.links = Links(folder, self.view.feedback)

    def called(self, ticket):
        """What a query is called on their page."""
        visitor = Visitor("", self.person, self.admin)
        return self.view._name(Request({"type": "http", "visitor": visitor}), Ticket.parse(ticket))

    def next(self, count=1, **body):
        reply = post(self, "/api/next", self.page, count=count, held=[], **body)
        return reply.json()["queries"]

    def answer(self, ticket, uuid="u", **body):
        body = {"kind": "preference", "value": {"left": 1.0}, "uuid": uuid} | body
        times = {"shown_at": 1.0, "answered_at": 2.5}
        return post(self, "/api/answer", self.page, ticket=ticket, **times, **body)


# --- whose ------------------------------------------------------------------------------------


@pytest.mark.parametrize("admin", [False, True])
def test_answers_carry_the_name_of_the_link_whatever_the_page_says(folder, admin):
    client = Linked(folder, "ana", admin)
    told = client.get("/api/run").json()
    assert (told["person"], told["named"]) == ("ana", True)
    assert told["role"] == ("admin" if admin else "labeller")
    [query] = client.next(person="ben")
    assert client.answer(query["ticket"], person="ben").status_code == 200
    assert client.answer("0-1", uuid="v", person=7).status_code == 200
    assert {each.teacher for each in client.view.feedback.answers()} == {"ana"}
    assert client.get("/api/status?person=ben").json()["mine"] == 2
    undone = post(client, "/api/undo", client.page, uuid="w", person="ben").json()
    assert undone["query"]["ticket"] == client.called("0-1")


def test_a_withdrawn_link_is_refused_from_the_next_request_on(folder):
    client = Linked(folder)
    first, second = client.next(2)
    assert client.answer(first["ticket"]).status_code == 200
    main(["label", str(folder.path), "--withdraw", "ana"])
    reply = client.answer(second["ticket"], uuid="v")
    assert reply.status_code == 403 and "the link of ana was withdrawn" in reply.json()["error"]
    assert client.get("/api/run").status_code == 403
    assert client.get(second["clips"][0]["url"]).status_code == 403
    assert [each.teacher for each in client.view.feedback.answers()] == ["ana"]
    another = Linked(folder)
    assert another.token != client.token and another.get("/api/run").status_code == 200
    assert client.get("/api/run").status_code == 403


def test_a_paused_link_waits_and_goes_on(folder):
    client = Linked(folder)
    main(["label", str(folder.path), "--pause", "ana"])
    reply = client.answer("0-0")
    assert reply.status_code == 403 and "is paused" in reply.json()["error"]
    main(["label", str(folder.path), "--unpause", "ana"])
    assert client.answer("0-0").status_code == 200


def test_nothing_in_the_run_folder_opens_the_page_as_somebody_named(folder):
    client = Linked(folder)
    assert len(client.token) > 40
    kept = [path for path in folder.path.rglob("*") if path.is_file()]
    assert folder.links in kept and folder.links.stat().st_mode & 0o077 == 0
    assert not any(client.token.encode() in path.read_bytes() for path in kept)
    [link] = client.links.all()
    for stranger in ("", link.digest, client.token[:-1], client.token + "x", "ana"):
        assert Client(folder, key=stranger).get("/api/run").status_code == 403


def test_a_page_that_is_still_open_acts_in_nobody_elses_name(folder):
    """Links of two people in one browser: the storage of the page holds the last token alone."""
    ana, ben = Linked(folder, "ana"), Linked(folder, "ben")
    ben.page = ana.page
    reply = ben.answer("0-0")
    assert reply.status_code == 403 and "another person's" in reply.json()["error"]
    for page in (ana.page, ben.page):
        assert post(Client(folder), "/api/next", page, count=1, held=[]).status_code == 403
    ben.page = OURS
    assert ben.answer("0-0").status_code == 403
    assert ben.view.feedback.answers() == []


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--link", "ana"], "ana has a link already, and its token is kept nowhere; end it with"),
        (["--link", " "], "expected 1 to 40 characters"),
        (["--link", "x" * 41], "expected 1 to 40 characters"),
        (["--link", "a\x1bb"], "control character"),
        (["--withdraw", "ben"], "'ben' has no link; expected one of ana"),
        (["--pause", "ben"], "'ben' has no link; expected one of ana"),
        (["--admin"], "give it with --link NAME"),
        (["--link", "ben", "--links"], "expected one of them at a time"),
        (["--root-path", "proxy"], "such as /user/ana/proxy/8765, or / for none"),
    ],
)
def test_what_cannot_be_done_with_links_gets_a_sentence(folder, capsys, words, sentence):
    Linked(folder)
    before = folder.links.read_bytes()
    with pytest.raises(SystemExit) as end:
        main(["label", str(folder.path), *words])
    assert end.value.code == 2 and sentence in capsys.readouterr().err
    assert folder.links.read_bytes() == before


def test_whoever_has_no_link_is_told_how_to_get_one(folder, capsys):
    with pytest.raises(SystemExit):
        main(["label", str(folder.path), "--withdraw", "ana"])
    assert (
        "nobody has a link of this run; `prefrl label RUN --link NAME`" in capsys.readouterr().err
    )


def test_links_that_cannot_be_read_open_nothing_and_stop_nobody_else(folder):
    client, admin = Linked(folder), Client(folder)
    for damaged in (b"{", b"[]", b'{"format": 9, "links": []}', b'{"format": 1, "links": [{}]}'):
        folder.links.write_bytes(damaged)
        reply = client.get("/api/run")
        assert reply.status_code == 503 and str(folder.path) not in reply.text
        assert admin.get("/api/run").status_code == 200
    with pytest.raises(UserError, match="make the links anew"):
        client.links.all()


def test_links_made_at_the_same_time_are_all_kept(folder):
    def make(name):
        with contextlib.closing(FeedbackStore(folder.feedback)) as store:
            Links(folder, store).make(name)

    makers = [threading.Thread(target=make, args=(f"person {i}",)) for i in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert len(Links(folder, store).all()) == 8


def test_links_of_either_kind_of_store(where, tmp_path):
    """In a database they are there for viewers on all machines, at once."""
    here = make_run(tmp_path / "here")
    there = here if isinstance(where, type(tmp_path)) else make_run(tmp_path / "there")
    with (
        contextlib.closing(FeedbackStore(where)) as one,
        contextlib.closing(FeedbackStore(where)) as other,
    ):
        ours, theirs = Links(here, one), Links(there, other)
        assert ours.all() == [] and ours.find("token") is None
        token = ours.make("ana", admin=True)
        found = theirs.find(token)
        assert found is not None and (found.person, found.admin, found.state) == (
            "ana", True, "open"
        )  # fmt: skip
        theirs.change("ana", "withdrawn")
        again = ours.find(token)
        assert again is not None and again.state == "withdrawn"


def test_the_list_of_links_tells_how_each_answers(folder, capsys):
    main(["label", str(folder.path), "--links"])
    assert "nobody has a link" in capsys.readouterr().out
    client = Linked(folder)
    for index, kind in enumerate(["preference", "preference", "tie", "skip"]):
        value = {"left": float(index == 0)} if kind == "preference" else {}
        assert client.answer(
            f"0-{index}", uuid=kind + str(index), kind=kind, value=value
        ).is_success
    answer(Client(folder), "0-5", uuid="anna's")
    Linked(folder, "eve", admin=True)
    main(["label", str(folder.path), "--pause", "eve"])
    capsys.readouterr()
    main(["label", str(folder.path), "--links"])
    assert capsys.readouterr().out.splitlines() == [
        "ana (labeller): 4 answers, 1.5 s each, 25 % about equal, 25 % can't tell, 50 % left",
        "eve (admin, paused): no answers",
        "anna (no link): 1 answer, 1.5 s each, 0 % about equal, 0 % can't tell, 100 % left",
    ]


# --- what a labeller is shown ------------------------------------------------------------------

# Every route, and what a labeller gets from it: the names of what is in the response, or None where
# it is refused. Whoever adds a route, or anything to a response, decides here.
OWN = {"mine", "per_minute", "repeats"}
SHOWN = {
    ("GET", "/api/run"): {
        "id", "role", "person", "named", "question", "instructions", "forms", "kind", "clips",
        "longest_text", "guide", "guide.sentences", "guide.pictures", "guide.ends", "welcomed",
    },
    ("GET", "/api/scene/0"): {"geoms", "meshes", "floor", "view"},
    ("GET", "/api/mesh/{digest}"): set(),  # bytes of the robot's meshes; the hopper has none
    ("GET", "/api/status"): OWN | {"trainer", "trainer.state", "trainer.words"},
    ("GET", "/api/clip/{ticket}/{index}"): set(),  # bytes
    ("GET", "/api/query/{ticket}"): {"query"},
    ("GET", "/api/history"): {"answers"},
    ("GET", "/api/practice"): {"queries"},
    ("GET", "/api/practice/{number}/{index}"): set(),  # bytes; of no clip of the run
    ("GET", "/api/guide/{index}"): set(),
    ("POST", "/api/welcomed"): set(),
    ("GET", "/api/policy"): None,
    ("GET", "/api/inspect"): None,
    ("GET", "/api/admin"): None,
    ("GET", "/api/answers.csv"): None,
    ("GET", "/api/answers.jsonl"): None,
    ("POST", "/api/pause"): None,
    ("POST", "/api/front"): None,
    ("POST", "/api/gold"): None,
    ("POST", "/api/next"): {"queries", "lost", "words"},
    ("POST", "/api/answer"): {"answer"},
    ("POST", "/api/undo"): {"query", "was", "words"},
    ("POST", "/api/release"): set(),
    ("POST", "/api/demonstration"): {"teaches"},
    ("POST", "/api/damaged"): set(),
    ("GET", ""): set(),  # the page's own files, which are the same for everybody
}  # fmt: skip
IN_QUERY = {"ticket", "kind", "question", "clips"}
IN_CLIP = {
    "form",
    "scene",
    "url",
    "distance",
    "frames",
    "dt",
    "ended",
    "stood_up",
    "set_back",
    "still",
}
IN_ANSWER = {"answer", "ticket", "person", "kind", "value", "answered_at", "seconds"}
TRUTH = 4321.0625  # the same in any floating-point format
OWN_PAIR, OF_BEN = "1-5", "1-7"
SECRETS = [
    *(b"4321.0625", np.float32(TRUTH).tobytes(), np.float64(TRUTH).tobytes()),
    *(b"7731", b"8842", b"7171", b"654321", b"fitting", b"secret", b"Hopper", b"policy 9"),
    *(b"ben", f'"{OF_BEN}"'.encode(), KEY.encode()),
]


@pytest.fixture
def busy(tmp_path, monkeypatch):
    """A run of which there is everything to know: truth, predictions, status, others' answers."""
    report = {"ready": True, "report": {"traces": [0.654321]}, "working": False}
    monkeypatch.setattr(Inspector, "report", lambda *_: report)
    status = {"state": "fitting", "round": 7731, "rounds": 8842}
    folder = make_run(tmp_path / "secret-run", labels=7171, status=status)
    folder.append_round({"round": 0, "out_of_bag_accuracy": 0.654321}, {})
    pose = tuple(robot()[1][0].tolist())
    folder.save_guide(
        Guide(
            ("Said.",), (GuidePicture("Shown.", (pose,)),), practice=(Right(((0,), (1,)), "So."),)
        )
    )
    for name in ("ana", "ben"):
        folder.welcome(name)
    with contextlib.closing(FeedbackStore(folder.practice)) as store:
        store.ask(0, queries_of(0, 1, make=practised), {}, 0)
    queries = queries_of(1, 10)
    clips = [segment for query in queries for segment in query.segments]
    truth = {clip.id: np.full(len(clip), TRUTH) for clip in clips}
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        store.ask(1, queries, truth, 0)
    return folder


def practised(name, number):
    return dataclasses.replace(pose_segment(f"practice {name}", number + 20), source="practice")


def names_in(value, before=""):
    """Return the names in JSON objects, those within others after a point; not within lists."""
    if not isinstance(value, dict):
        return set()
    found = set()
    for name, each in value.items():
        found |= {f"{before}{name}"} | names_in(each, f"{before}{name}.")
    return found


def test_of_what_is_for_admins_nothing_reaches_a_labeller(busy):
    ben, admin, ana = Linked(busy, "ben"), Client(busy), Linked(busy, "ana")
    assert ben.answer(OF_BEN, uuid="of-ben").is_success
    [held] = ben.next()
    [hers] = ana.next()
    assert ana.answer(OWN_PAIR, uuid="own").is_success
    secrets = [*SECRETS, str(busy.path).encode(), f'"{held["ticket"]}"'.encode()]
    body = {"person": "ben", "tab": "one", "uuid": "new", "kind": "tie", "value": {},
            "shown_at": 1, "answered_at": 2, "held": [OWN_PAIR]}  # fmt: skip
    theirs = [OF_BEN, held["ticket"], f"{OF_BEN}-repeat", f"{OF_BEN}-revision"]
    tickets = [OWN_PAIR, hers["ticket"], "1-0", *theirs, "9-9", "x"]
    tickets += [ana.called(each) for each in tickets if TICKET.fullmatch(each)]
    asked = {
        "/api/history": ["/api/history", "/api/history?person=ben", "/api/history?kind=tie"],
        "/api/status": ["/api/status", "/api/status?person=ben"],
        "/api/query/{ticket}": [f"/api/query/{ticket}" for ticket in tickets],
        "/api/guide/{index}": ["/api/guide/0", "/api/guide/1"],
        "/api/practice/{number}/{index}": ["/api/practice/0/1", "/api/practice/1/0"],
        "/api/clip/{ticket}/{index}": [f"/api/clip/{each}/{i}" for each in tickets for i in (0, 9)],
        "": ["/", "/main.js", "/api", "/api/none", "/viewer.json", "/..%2fviewer.json"],
    }  # fmt: skip
    bodies = {
        "/api/next": [body | {"count": 0}, body | {"count": 9}],
        "/api/answer": [body | {"ticket": each, "uuid": each} for each in tickets],
        "/api/undo": [body, body | {"answer": "of-ben"}, body | {"answer": "new", "uuid": "1"}],
        "/api/damaged": [body | {"ticket": each} for each in tickets],
        "/api/demonstration": [body | {"prompt": "a", "response": "b"}, body],
        "/api/release": [body],
        "/api/welcomed": [body],
        "/api/pause": [body | {"paused": True}, body | {"paused": False, "labeller": "ana"}],
        "/api/front": [body | {"ticket": OF_BEN}],
        "/api/gold": [body | {"answer": 1}, body | {"ticket": OF_BEN}],
    }
    routes = {(method, route.path) for route in admin.transport.app.routes
              for method in getattr(route, "methods", None) or {"GET"}} - {
              ("HEAD", path) for _, path in SHOWN}  # fmt: skip
    assert routes == set(SHOWN), "a new route: say in SHOWN what a labeller gets from it"
    for method, path in sorted(SHOWN):
        replies = (
            [ana.get(each) for each in asked.get(path, [path])]
            if method == "GET"
            else [ana.post(path, json=each, headers=ana.page) for each in bodies[path]]
        )
        replies += [ana.request(method, path or "/x", content=b"{", headers=ana.page)]
        for reply in replies:
            told = reply.content + repr(reply.headers).encode()
            assert [secret for secret in secrets if secret in told] == [], f"{method} {reply.url}"
        shown = SHOWN[method, path]
        if shown is None:
            assert {reply.status_code for reply in replies if reply.status_code != 415} == {403}
            assert method == "POST" or admin.get(path).status_code == 200, "the secret is there"
            continue
        assert any(reply.is_success for reply in replies) or path == "/api/mesh/{digest}"
        for reply in replies:
            if reply.is_success and reply.headers["content-type"] == "application/json":
                outer = {name for name in names_in(reply.json()) if "." not in name}
                assert outer == {name for name in shown if "." not in name}
    known = admin.get("/api/status").content + admin.get("/api/run").content
    known += admin.get("/api/history").content
    for secret in (b"7731", b"8842", b"7171", b"654321", b"fitting", b"secret", b"Hopper", b"ben"):
        assert secret in known, "what is looked for is what an admin sees"


def test_what_a_labeller_is_shown_holds_nothing_more(busy):
    ana, ben = Linked(busy, "ana"), Linked(busy, "ben")
    assert ben.answer(OF_BEN).is_success
    assert ana.answer(OWN_PAIR, uuid="v").is_success
    status = ana.get("/api/status").json()
    assert status["trainer"] == {"state": "open", "words": "Answers are stored as ana's."}
    assert names_in(status) == SHOWN["GET", "/api/status"] | {"repeats.same", "repeats.of"}
    entries = ana.get("/api/history?person=ben").json()["answers"]
    own = ana.called(OWN_PAIR)
    assert [entry["ticket"] for entry in entries] == [own] and set(entries[0]) == IN_ANSWER
    for query in [*ana.next(2), ana.get(f"/api/query/{own}").json()["query"]]:
        assert set(query) == IN_QUERY
        assert all(set(clip) == IN_CLIP for clip in query["clips"])
        assert all(ana.get(clip["url"]).status_code == 200 for clip in query["clips"])
    assert ana.get(f"/api/query/{ana.called(OF_BEN)}").status_code == 404
    for ticket in (OWN_PAIR, ben.called(OWN_PAIR), f"{own[:-1]}x", "q"):
        reply = ana.get(f"/api/query/{ticket}")
        assert reply.status_code == 400 and "is not a ticket" in reply.json()["error"]
    [question] = ana.get("/api/practice").json()["queries"]
    assert set(question) == IN_QUERY | {"right"} and question["ticket"] == "practice-0"
    assert all(ana.get(clip["url"]).status_code == 200 for clip in question["clips"])
    assert ana.get("/api/run").json()["welcomed"] == ["ana"], "of others nothing is said"


def test_an_admin_of_a_link_sees_all_that_the_printed_address_shows(busy):
    ana, printed = Linked(busy, "ana", admin=True), Client(busy)
    assert answer(printed, OF_BEN).is_success
    for path in ("/api/history", "/api/policy", f"/api/query/{OF_BEN}", "/api/practice"):
        assert ana.get(path).json() == printed.get(path).json()
    assert set(ana.get("/api/status").json()) == set(printed.get("/api/status").json())
    assert ana.get("/api/inspect").json()["report"] == {"traces": [0.654321]}


def test_a_labeller_hears_that_there_is_nothing_more_and_nothing_else(tmp_path):
    folder = make_run(tmp_path / "run", *queries_of(0, 1), labels=1)
    ana = Linked(folder)
    [query] = ana.next()
    waiting = post(ana, "/api/next", ana.page, count=1, held=[]).json()["words"]
    assert waiting == "There is nothing to answer just now; new pairs come by themselves."
    ana.answer(query["ticket"])
    over = post(ana, "/api/next", ana.page, count=1, held=[]).json()["words"]
    assert over == "That was the last pair. Thank you!"
    assert ana.get("/api/status").json()["trainer"]["state"] == "finished"


def test_a_labeller_is_not_told_where_a_run_is_that_has_gone(folder):
    ana = Linked(folder)
    folder.path.rename(folder.path.with_name("away"))
    reply = ana.get("/api/run")
    assert reply.status_code == 503 and str(folder.path) not in reply.text


# --- below a path -----------------------------------------------------------------------------

ROOT = "/user/ana/proxy/8765"


class Below(Client):
    """A client of a page that a proxy serves below a path."""

    def __init__(self, folder, key=KEY):
        super().__init__(folder, key=key, hosts=["hub.example.org"], root=ROOT)


@pytest.mark.parametrize("prefix", [ROOT, ""])
def test_a_proxy_may_take_its_path_off_or_leave_it(folder, prefix):
    client, page = Below(folder), {"Host": "hub.example.org", "Origin": "https://hub.example.org"}
    assert "<title>" in client.get(f"{prefix}/").text
    assert client.get(f"{prefix}/main.js").status_code == 200
    assert client.get(f"{prefix}/api/run").json()["id"] == run_id(KEY)
    assert client.get(f"/other{prefix}/api/run").status_code == 404
    good = page | {"X-Prefrl": run_id(KEY)}
    reply = post(client, f"{prefix}/api/next", good, count=1, held=[])
    assert len(reply.json()["queries"]) == 1
    for headers, status in [
        (good | {"Origin": "https://evil.example"}, 403),
        (good | {"Host": "evil.example"}, 421),
        (good | {"Host": "evil.example", "X-Forwarded-Host": "hub.example.org"}, 421),
        (good | {"Origin": "null", "X-Forwarded-Proto": "https"}, 403),
    ]:
        assert post(client, f"{prefix}/api/next", headers, count=1, held=[]).status_code == status
        if status == 421:
            assert client.get(f"{prefix}/", headers=headers).status_code == 421


@pytest.mark.parametrize("path", [f"{ROOT}/api/run", f"{ROOT}/api/none", "/api/run"])
def test_below_a_path_the_token_is_needed_as_above(folder, path):
    client = Below(folder, key="another")
    assert client.get(path).status_code == 403
    assert client.post(path, json={}, headers=OURS).status_code == 403


def test_the_path_itself_leads_to_what_ends_with_a_slash(folder):
    reply = Below(folder).get(f"{ROOT}?token=x", headers={"Host": "hub.example.org"})
    assert (reply.status_code, reply.headers["location"]) == (307, f"{ROOT}/?token=x")
    assert Below(folder).get(ROOT, headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1#", "127.0.0.1?", "127.0.0.1/x", "127.0.0.1:1/x/"])
def test_no_host_hides_from_the_guard_what_is_asked_for(folder, host):
    """With some versions of Starlette the URL of a request ends where its Host says."""
    reply = Client(folder, key="").get("/api/run", headers={"Host": host})
    assert reply.status_code in (403, 421)


@pytest.mark.parametrize(
    "kept, address, root, where",
    [
        (("", ""), "", "", "http://127.0.0.1:9/"),
        (("", ""), "", f"{ROOT}/", f"http://127.0.0.1:9{ROOT}/"),
        (("", ""), "https://Hub.Example.org", "", "https://hub.example.org/"),
        (("", ""), f"https://hub.example.org{ROOT}/", "", f"https://hub.example.org{ROOT}/"),
        (("", ""), "http://[2001:DB8::0:1]:80", ROOT, f"http://[2001:db8::1]:80{ROOT}/"),
        (("https://a.example", "/a"), "", "", "https://a.example/a/"),
        (("https://a.example", "/a"), "", "/b", "https://a.example/b/"),
        (("https://a.example", "/a"), "", "/", "https://a.example/"),
        (("https://a.example", "/a"), "https://b.example", "", "https://b.example/"),
        (("https://a.example", "/a"), "none", "", "http://127.0.0.1:9/"),
    ],
)
def test_where_the_page_is_behind_a_proxy(kept, address, root, where):
    found = read_outside({"outside": list(kept)}, address, root)
    assert found.address("127.0.0.1", 9) == where
    assert read_outside({"outside": [*found]}, "", "") == found, "it is kept"


@pytest.mark.parametrize("address, root", [
    ("labels.example.org", ""), ("ftp://labels.example.org", ""), ("https://", ""),
    ("https://a b", ""), ("https://x.example:99999", ""), ("https://x.example/?token=1", ""),
    ("https://me:secret@x.example", ""), ("https://x.example/../y", ""), ("https://*.example", ""),
    ("", "user/ana"), ("", "/a//b"), ("", "//evil.example"), ("", "/a/../b"), ("", "/a?b"),
    ("", "/a b"), ("", "/ü"), ("https://x.example/a", "/b"),
])  # fmt: skip
def test_where_no_page_can_be_is_refused_with_what_can(address, root):
    with pytest.raises(UserError, match=r"--(public-address|root-path)") as refused:
        read_outside({}, address, root)
    assert "expected" in str(refused.value)


# --- as a process -----------------------------------------------------------------------------


def test_a_link_is_made_used_and_withdrawn_while_the_page_is_open(folder, tmp_path, capsys):
    place = f"https://hub.example.org{ROOT}"
    folder.save_viewer(folder.viewer() | {"outside": ["https://hub.example.org", ROOT]})
    main(["label", str(folder.path), "--link", "ana"])
    address = capsys.readouterr().out.splitlines()[0].removeprefix("ana answers at ")
    at, token = address.split("#token=")
    assert at == f"{place}/"
    log = tmp_path / "log"
    with (
        log.open("wb") as complaints,
        Process(**command(["label", folder.path]), stdout=subprocess.PIPE,
                stderr=complaints.fileno()) as process,
    ):  # fmt: skip
        try:
            printed = process.stdout.readline()
            assert printed.startswith(f"answer at {place}/?token=") and token not in printed
            here = f"http://127.0.0.1:{folder.viewer()['port']}{ROOT}/api"
            headers = {"X-Prefrl-Token": token, "Origin": "https://hub.example.org"}
            told = httpx.get(f"{here}/run", headers=headers).json()
            assert (told["person"], told["role"]) == ("ana", "labeller")
            headers["X-Prefrl"] = told["id"]
            body = {"tab": "one", "ticket": "0-0", "uuid": "u", "kind": "tie", "value": {},
                    "shown_at": 1, "answered_at": 2}  # fmt: skip
            assert httpx.post(f"{here}/answer", json=body, headers=headers).status_code == 200
            main(["label", str(folder.path), "--withdraw", "ana"])
            refused = httpx.post(f"{here}/answer", json=body | {"uuid": "v"}, headers=headers)
            assert refused.status_code == 403 and "was withdrawn" in refused.json()["error"]
        finally:
            process.kill()
        assert token not in process.stdout.read()
    assert token not in log.read_text()
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert [each.teacher for each in store.answers()] == ["ana"]
