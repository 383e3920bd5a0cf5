"""Feedback in Postgres: what a database does that a file does not, and how people meet it."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from database_server import add_stranger, own_server
from fakes import make_query, picture_of
from stores import only_postgres
from toy_environments import prefer_larger, tiny

from prefrl.errors import Away, Note, StoreError, UserError
from prefrl.runs.replay import replay
from prefrl.runs.session import rounds, start
from prefrl.storage import database as databases
from prefrl.storage import postgres, postgres_schema, shared, trainer
from prefrl.storage import rounds as asking
from prefrl.storage.address import Address, is_address, read_address
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.labelling import Assignments
from prefrl.storage.processes import Process
from prefrl.types import Answer, QueryId

SECRET = "not-for-files"


def prefer(index, teacher="anna", **fields):
    return Answer(QueryId(0, index), "preference", {"left": 1.0}, teacher, **fields)


@pytest.fixture
def address(database):
    return Address(database, "run")


@pytest.fixture
def store(address):
    with closing(FeedbackStore(address)) as store:
        store.ask(0, [make_query(0, index) for index in range(20)], {}, 0)
        yield store


@pytest.fixture
def password(monkeypatch):
    """The environment, as it is after the test as before."""
    monkeypatch.setenv("PGPASSWORD", "none")


# --- traps --------------------------------------------------------------------------------------


def test_ids_are_in_the_order_of_commits(store, address):
    """A fit that saw up to answer 2 must have seen answer 1: `ask` keeps only the number."""
    seen, second = [], []

    def later():
        with closing(FeedbackStore(address)) as other:
            second.append(other.answer(prefer(1, "ben")))
            seen.append([answer.teacher for answer in other.answers(second[0])])

    with store.database.transaction():
        thread = threading.Thread(target=later)
        first = store.database.run("SELECT count(*) FROM answer")[0][0]
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and not second, "one writer at a time"
        store.database.run(
            'INSERT INTO answer (round, "index", kind, value, decisive, teacher, shown_at, '
            "answered_at, uuid, repeat) VALUES (0, 0, 'tie', '{}', ?, 'anna', 0, 0, 'a', ?)",
            False, False,
        )  # fmt: skip
    thread.join()
    assert first == 0 and second == [2] and seen == [["anna", "ben"]]


def test_runs_of_one_database_know_nothing_of_each_other(store, address):
    store.answer(prefer(0, uuid="the same"))
    with closing(FeedbackStore(address._replace(run="another"))) as other:
        assert other.ledger(0) is None and other.answers() == [] and other.segments() == []
        other.ask(0, [make_query(0, 0)], {}, 0)
        with other.database.transaction():  # nobody waits for another run's writer
            assert store.answer(prefer(1)) == 2
        assert other.answer(prefer(0, uuid="the same")) == 1
        assert other.counts().answered == 1 and store.counts().answered == 2


def test_leases_go_by_the_clock_of_the_database(store, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7 * 24 * 3600)
    assert abs(store.database.now() - now) < 60
    [ticket], _ = Assignments(store).next("anna", "one", 1)
    monkeypatch.setattr(time, "time", lambda: now - 7 * 24 * 3600)
    assert ticket not in Assignments(store).next("ben", "two", 5)[0]


def test_many_clips_are_read_in_few_statements(store, address, monkeypatch):
    store.answer(*(prefer(index) for index in range(20)))
    asked, run = [], postgres.Postgres.run
    monkeypatch.setattr(
        postgres.Postgres, "run", lambda *a, **n: asked.append(a[1]) or run(*a, **n)
    )
    with closing(FeedbackStore(address)) as other:
        assert len(other.comparisons()) == 20 and len(asked) == 5
        assert len(other.comparisons()) == 20 and len(asked) == 8, "clips are read once"


def test_nobody_waits_while_a_trainer_writes_its_clips(store, address, monkeypatch):
    writing, go_on = threading.Event(), threading.Event()
    write = asking.write_segments

    def slowly(*given):
        write(*given)
        writing.set()
        assert go_on.wait(30)

    monkeypatch.setattr(asking, "write_segments", slowly)
    queries = [make_query(1, index) for index in range(3)]

    def ask():
        with closing(FeedbackStore(address)) as trainer:
            trainer.ask(1, queries, {}, 0)

    thread = threading.Thread(target=ask)
    thread.start()
    assert writing.wait(30)
    assert store.answer(prefer(0)) == 1
    assert store.ledger(1) is None and store.counts().asked == 20
    go_on.set()
    thread.join()
    assert store.ledger(1).asked == 3 and store.counts().asked == 23


def test_statements_are_planned_for_the_tables_as_they_are(store):
    """A plan is kept after five times: one for a table with nothing in it reads it all for ever."""
    show = "SELECT setting FROM pg_settings WHERE name = 'plan_cache_mode'"
    for _ in range(2):
        assert store.database.run(show) == [("force_custom_plan",)]
        store.ask(5, [make_query(5, index) for index in range(2)], {}, 0)


def test_a_transaction_that_failed_is_over(store):
    safe = pytest.raises(StoreError, match="Every answer acknowledged so far is safe")
    with safe, store.database.transaction() as run:
        run("INSERT INTO round VALUES (7, 0)")
        run("SELECT 1 FROM there_is_none")
    assert store.ledger(7) is None
    assert store.answer(prefer(0)) == 1


@only_postgres
def test_names_that_are_words_of_sql_hold_what_they_should(where):
    query = make_query(0, 0)
    [clip, _] = query.segments
    with closing(FeedbackStore(where)) as store:
        store.ask(0, [query], {}, 0, {clip.id: picture_of(clip.id)})
        assert store.picture(clip.id) == picture_of(clip.id)
        assert store.segment(clip.id).observations.tolist() == clip.observations.tolist()


# --- addresses and passwords --------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        f"postgresql://anna:{SECRET}@host:5433/db?sslmode=require#a%20run",
        f"postgres://anna@host:5433/db?sslmode=require&password={SECRET}#a%20run",
    ],
)
def test_a_password_goes_into_the_environment_and_nowhere_else(given, password):
    address = read_address(given)
    assert address == ("postgresql://anna@host:5433/db?sslmode=require", "a run")
    assert os.environ["PGPASSWORD"] == SECRET and SECRET not in str(address)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (f"postgresql://u:{SECRET}@[1/db", "cannot be read; expected postgresql://USER@HOST"),
        (f"mysql://u:{SECRET}@host/db", "of another kind; expected postgresql://USER@HOST"),
        (f"postgresql://h/db?sslpassword={SECRET}", "holds an sslpassword"),
        ("postgresql://h/db#a%00b", "control characters"),
    ],
)
def test_an_address_that_is_none_is_not_repeated(given, sentence, password):
    with pytest.raises(UserError, match=sentence) as refused:
        read_address(given)
    assert SECRET not in str(refused.value)
    assert not is_address("runs/postgresql") and not is_address("postgresql")


def test_a_wrong_password_is_a_sentence_that_does_not_hold_it(server, database, password):
    add_stranger(server)
    url = server.url(database.partition("?")[0].rpartition("/")[2], user=f"stranger:{SECRET}")
    with pytest.raises(UserError, match=r"password authentication failed.*PGPASSFILE") as refused:
        FeedbackStore(read_address(f"{url}#run"))
    assert SECRET not in str(refused.value)


def test_a_password_is_taken_from_the_file_that_is_named(server, database, tmp_path, monkeypatch):
    add_stranger(server)
    name = database.partition("?")[0].rpartition("/")[2]
    (tmp_path / "passwords").write_text(f"*:*:{name}:stranger:right\n")
    (tmp_path / "passwords").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "passwords"))
    with pytest.raises(UserError, match="right to create schemas"):
        FeedbackStore(Address(server.url(name, "stranger"), "run"))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://prefrl@/db?host=/nowhere", "cannot open .*No such file or directory"),
        ("postgresql://prefrl@127.0.0.1:1/db", "[Cc]onnection refused.*check the address"),
    ],
)
def test_no_such_address_is_a_sentence(url, sentence):
    with pytest.raises(UserError, match=sentence):
        FeedbackStore(Address(url, "run"))


def test_no_such_database_and_no_such_run_are_sentences(server, address, store):
    with pytest.raises(UserError, match='database "none" does not exist'):
        FeedbackStore(Address(server.url("none"), "run"))
    with pytest.raises(UserError, match="holds no run 'other'; its newest are run"):
        FeedbackStore(address._replace(run="other"), read_only=True)
    with pytest.raises(UserError, match="holds no runs of prefrl"):
        FeedbackStore(Address(server.url("postgres"), "run"), read_only=True)


def test_prefrl_knows_nothing_of_psycopg_before_it_is_asked_to(tmp_path):
    code = "import sys, prefrl.cli, prefrl.storage.shared; print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from prefrl.cli import main; main(['label', 'postgresql://h/db#run'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "is in Postgres, which needs psycopg; install it with `pip install" in done.stderr


# --- versions -----------------------------------------------------------------------------------


def test_tables_of_another_version_are_refused(store, address):
    store.database.run("UPDATE prefrl.version SET version = 99")
    with pytest.raises(UserError, match="its format is 99, this one reads"):
        FeedbackStore(address)


def test_tables_of_an_older_version_are_brought_up_to_date_once(store, address, monkeypatch):
    store.answer(prefer(0))
    next_version = postgres_schema.VERSION + 1
    steps = ("ALTER TABLE prefrl.query ADD COLUMN mood text NOT NULL DEFAULT 'good'",)
    monkeypatch.setattr(postgres, "VERSION", next_version)
    monkeypatch.setattr(postgres, "MIGRATIONS", {postgres_schema.VERSION: steps})
    for _ in range(2):
        with closing(FeedbackStore(address)) as store:
            assert store.counts().answered == 1
            assert store.database.run("SELECT version FROM prefrl.version") == [(next_version,)]
            assert store.database.run("SELECT DISTINCT mood FROM prefrl.query") == [("good",)]


# --- outages ------------------------------------------------------------------------------------


@pytest.fixture
def lonely(tmp_path_factory):
    """A server that may be stopped: no other test's."""

    with own_server() as server:
        yield server


def test_a_trainer_waits_for_a_database_that_is_away_and_others_are_told(lonely, monkeypatch):
    monkeypatch.setattr(databases, "WAIT_SECONDS", 0.05)
    address = Address(lonely.new_database("db"), "run")
    with closing(FeedbackStore(address)) as store, closing(FeedbackStore(address)) as page:
        store.claim()
        store.ask(0, [make_query(0, index) for index in range(3)], {}, 0)
        page.answer(prefer(0, uuid="one"))
        lonely.kill()
        with pytest.raises(Away, match=r"does not answer for now .*; every answer acknowledged"):
            page.answer(prefer(1, uuid="two"))
        with pytest.raises(UserError, match="cannot open"):
            FeedbackStore(address)
        starts = threading.Timer(1.0, lonely.start)
        starts.start()
        with pytest.warns(Note, match="does not answer .*; training waits for it"):
            assert store.answer(prefer(2, "oracle")) == 2
        assert page.answer(prefer(1, uuid="two")) == 3, "the page sends it again"
        starts.join()  # what starts it still waits to see that it runs
        with store.training():
            lonely.stop()
        lonely.start()
        store.check_claim()
        assert [a.query.index for a in store.answers()] == [0, 2, 1]


def test_a_second_trainer_on_another_machine_is_refused(store, address):
    elsewhere = Process("a-node", "another boot", 77, "1")
    store.claim()
    store.database.run("UPDATE trainer SET host = ?, scope = ?, process = ?", *elsewhere[:3])
    with closing(FeedbackStore(address)) as other:
        with pytest.raises(UserError, match=r"is being trained by process 77 on a-node "):
            other.claim()
        other.database.run("UPDATE trainer SET seen = seen - 61")
        other.claim()
        with pytest.raises(UserError, match="was taken over by process"):
            store.check_claim()


def test_a_trainer_is_heard_of_while_a_round_takes_long(store, monkeypatch):
    monkeypatch.setattr(trainer, "BEAT_SECONDS", 0.02)
    store.claim()
    store.database.run("UPDATE trainer SET seen = 0")
    deadline = time.time() + 20
    while not store.database.run("SELECT seen FROM trainer WHERE seen > 0"):
        assert time.time() < deadline
        time.sleep(0.02)
    assert shared.is_trained(store)
    store.release()
    assert not shared.is_trained(store)


# --- copies -------------------------------------------------------------------------------------


def everything(store):
    tables = ["round", "segment", '"array"', "picture", "query", "answer", "tally", "repeat"]
    return [
        [[*map(_plain, row)] for row in store.database.run(f"SELECT * FROM {table} ORDER BY 1, 2")]
        for table in tables
    ]


def _plain(value):
    return int(value) if isinstance(value, bool) else value


def test_feedback_is_copied_between_both_to_the_byte(store, address, tmp_path):
    store.answer(*(prefer(index, uuid=f"u{index}") for index in range(12)))
    store.answer(prefer(0, "ben"), Answer(QueryId(0, 1), "retraction", {}, "anna"))
    store.answer(Answer(QueryId(0, 2), "skip", {}, "anna"), Answer(QueryId(0, 3), "tie", {}, "b"))
    store.withdraw(QueryId(0, 5), "damaged")
    store.demonstrate("prompt", None, "anna", "d")
    store.record([make_query(0, 0)], [prefer(0, "others", repeat=True)], "mark")
    store.copy(tmp_path / "feedback.sqlite")
    with closing(FeedbackStore(tmp_path / "feedback.sqlite")) as file:
        assert everything(file) == everything(store)
        file.copy(address._replace(run="back"))
        with closing(FeedbackStore(address._replace(run="back"))) as back:
            assert everything(back) == everything(store)
            for one, other in zip(store.comparisons(), back.comparisons(), strict=True):
                assert one.left.observations.tobytes() == other.left.observations.tobytes()
            assert back.answer(prefer(9)) == store.last_answer() + 1
        with pytest.raises(UserError, match="holds feedback already"):
            file.copy(address._replace(run="back"))


# --- whole runs ---------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path, database):
    """A run whose feedback is in a database, and the database."""
    session = start(tiny(), tmp_path / "run", prefer_larger, store=database)
    with closing(session):
        for _ in rounds(session):
            pass
    return session.folder, database


def test_a_run_in_postgres_has_the_bytes_of_one_in_a_file(trained, tmp_path):
    folder, database = trained
    session = start(tiny(), tmp_path / "file", prefer_larger)
    with closing(session):
        for _ in rounds(session):
            pass
    assert (folder.path / "metrics.jsonl").read_bytes() == (
        tmp_path / "file/metrics.jsonl"
    ).read_bytes()
    assert not (folder.path / "feedback.sqlite").exists()
    assert folder.feedback == Address(database, "run")
    assert [*replay(folder.path, tmp_path / "replay")]
    assert (tmp_path / "replay/feedback.sqlite").exists()
    with pytest.raises(UserError, match=r"#run is a run already; choose another name, with --run"):
        start(tiny(), tmp_path / "elsewhere" / "run", prefer_larger, store=database)
    assert not (tmp_path / "elsewhere" / "run").exists()


def test_what_a_killed_start_left_in_the_database_is_begun_anew(store, database, tmp_path):
    session = start(tiny(), tmp_path / "run", prefer_larger, store=database)
    assert session.feedback.counts().asked == 0 and session.feedback.segments() == []
    session.close()


def test_elsewhere_a_run_is_what_the_database_keeps_of_it(trained, monkeypatch):
    folder, database = trained
    monkeypatch.setattr(shared, "REFRESH_SECONDS", 0.02)
    with shared.opened(f"{database}#run") as mirror:
        assert mirror.path != folder.path and mirror.path.name == "run"
        assert mirror.experiment() == folder.experiment() and mirror.card() == folder.card()
        assert mirror.viewer()["key"] == folder.viewer()["key"]
        assert mirror.metrics() == folder.metrics()
        assert mirror.status() == folder.status() and mirror.status()["state"] == "finished"
        folder.save_status({"state": "training", "round": 9})
        with closing(FeedbackStore(folder.feedback)) as store:
            shared.share(folder, store, "status.json")
        deadline = time.time() + 20
        while mirror.status().get("round") != 9:
            assert time.time() < deadline
            time.sleep(0.02)
    assert not mirror.path.exists()
    for name in ("none", "not%20begun"):
        with pytest.raises(UserError, match=r"holds no run|is not a run yet"):
            FeedbackStore(Address(database, "not begun")).close()
            with shared.opened(f"{database}#{name}"):
                pass


def test_commands_take_the_address_of_a_run(trained, capsys):
    from prefrl.cli import main

    folder, database = trained
    main(["export", f"{database}#run"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    main(["export", str(folder.path)])
    assert told == [json.loads(line) for line in capsys.readouterr().out.splitlines()] != []


def test_a_link_that_one_machine_makes_another_withdraws(trained, capsys):
    from prefrl.cli import main

    folder, database = trained
    main(["label", f"{database}#run", "--link", "ana", "--public-address", "https://a.example/b"])
    address, token = capsys.readouterr().out.split()[3].split("#token=")
    assert address == "https://a.example/b/" and not folder.links.exists()
    main(["label", str(folder.path), "--withdraw", "ana"])
    with closing(FeedbackStore(folder.feedback)) as store:
        [row] = store.database.run("SELECT data FROM file WHERE name = 'links.json'")
        assert b"withdrawn" in bytes(row[0]) and token.encode() not in bytes(row[0])


def test_no_file_of_a_run_holds_a_password(database, tmp_path, password):
    url = database.replace("prefrl@", f"prefrl:{SECRET}@")
    start(tiny(), tmp_path / "run", prefer_larger, store=url).close()
    files = [path for path in Path(tmp_path).rglob("*") if path.is_file()]
    assert files and not any(SECRET.encode() in path.read_bytes() for path in files)
