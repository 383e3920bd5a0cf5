"""A run has one trainer: a second is refused, the dead are succeeded, the ousted write nothing."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from fakes import make_query
from toy_environments import prefer_larger, tiny

from prefrl.errors import Note, StoreError, UserError
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage import processes, sqlite, trainer
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.processes import Process, this_process
from prefrl.types import Answer, QueryId

TRAINS = """
import sys, time
from prefrl.storage.feedback import FeedbackStore
store = FeedbackStore(sys.argv[1])
store.claim()
print("trains", flush=True)
for line in sys.stdin:
    break
store.close()
print("closed", flush=True)
"""


@pytest.fixture
def path(tmp_path):
    with closing(FeedbackStore(tmp_path / "feedback.sqlite")) as store:
        store.ask(0, [make_query(0, index) for index in range(3)], {}, 0)
    return tmp_path / "feedback.sqlite"


@pytest.fixture
def other(path):
    """A process that trains the run until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINS, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "trains\n"
    yield process
    process.kill()
    process.communicate()


def prefer(index):
    return Answer(QueryId(0, index), "preference", {"left": 1.0}, "anna")


def pretend(store, **changes):
    """Say that somebody else trains the run."""
    who = Process("elsewhere", "a boot of that machine", 77, "123")._replace(
        **{name: value for name, value in changes.items() if name in Process._fields}
    )
    times = {"since": time.time(), "seen": time.time()} | changes
    with store.database.transaction() as run:
        run("DELETE FROM trainer")
        run(
            "INSERT INTO trainer (epoch, host, scope, process, start, since, seen) "
            "VALUES (7, ?, ?, ?, ?, ?, ?)",
            *who, times["since"], times["seen"],
        )  # fmt: skip


# --- who is refused ---------------------------------------------------------------------------


def test_while_one_process_trains_another_is_refused_by_name(path, other):
    with closing(FeedbackStore(path)) as store:
        with pytest.raises(UserError) as refused:
            store.claim()
        words = str(refused.value)
        assert words.startswith(f"{path.parent} is being trained by process {other.pid} on ")
        assert time.strftime("(since %Y-%m-%d") in words and "end it" in words
        assert store.answer(prefer(0)) == 1, "people answer meanwhile"
        other.communicate("go\n")
        store.claim()
        store.answer(prefer(1))


def test_a_killed_trainer_is_succeeded_at_once(path, other):
    other.send_signal(signal.SIGKILL)
    while processes.is_running(other.pid):  # not yet waited for: a zombie is no trainer
        time.sleep(0.01)
    with closing(FeedbackStore(path)) as store:
        store.claim()
        assert store.database.connection.execute("SELECT epoch FROM trainer").fetchone() == (2,)


def test_a_trainer_that_stands_still_keeps_its_run_for_a_minute(path, other):
    other.send_signal(signal.SIGSTOP)
    with closing(FeedbackStore(path)) as store:
        store.database.run("UPDATE trainer SET seen = seen - 50")
        with pytest.raises(UserError, match=r"is being trained by process .* heard of 5\d s ago"):
            store.claim()
        store.database.run("UPDATE trainer SET seen = seen - 10")
        store.claim()
        other.send_signal(signal.SIGCONT)
        store.check_claim()


def test_who_waits_says_so_once_and_trains_as_soon_as_the_run_is_free(path, other, monkeypatch):
    monkeypatch.setattr(trainer, "WAIT_SECONDS", 0.02)
    threading.Timer(0.3, other.kill).start()
    with closing(FeedbackStore(path)) as store:
        with pytest.warns(Note) as said:
            store.claim(wait=True)
        assert len(said) == 1
        assert str(said[0].message).endswith("s ago; this process waits for it to end")
        assert f"is being trained by process {other.pid} on" in str(said[0].message)
        store.check_claim()


def test_another_process_of_the_same_number_is_not_the_trainer(path, other):
    with closing(FeedbackStore(path)) as store:
        store.database.connection.execute("UPDATE trainer SET start = start - 1")
        store.claim()


def test_a_trainer_elsewhere_is_waited_for_as_long_as_it_may_be_there(path):
    with closing(FeedbackStore(path)) as store:
        pretend(store, seen=time.time() - 20)
        sentence = r"process 77 on elsewhere .* heard of 2\d s ago.*try again in (39|40) s"
        with pytest.raises(UserError, match=sentence):
            store.claim()
        pretend(store, seen=time.time() - 61)
        store.claim()
        assert store.database.connection.execute("SELECT epoch, host FROM trainer").fetchall() == [
            (8, this_process().host)
        ]


def test_where_the_start_of_a_process_is_not_told_silence_decides(path, other, monkeypatch):
    monkeypatch.setattr(processes, "_start", lambda number: None)
    with closing(FeedbackStore(path)) as store:
        with pytest.raises(UserError, match="try again in"):
            store.claim()
        store.database.connection.execute("UPDATE trainer SET seen = seen - 61")
        store.claim()


def test_two_who_begin_at_once_are_one(path):
    command = [sys.executable, "-c", TRAINS, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen(command, **pipes, text=True) for _ in range(2)]
    said = sorted(process.stdout.readline() for process in both)
    assert said == ["", "trains\n"], "the other one has ended"
    complaints = [process.communicate("go\n")[1] for process in both]
    assert sorted("is being trained by" in complaint for complaint in complaints) == [False, True]


# --- who has lost its turn --------------------------------------------------------------------


def test_who_was_taken_over_writes_nothing_more(path):
    with closing(FeedbackStore(path)) as old, closing(FeedbackStore(path)) as new:
        old.claim()
        old.answer(prefer(0))
        pretend(new)
        for write in (
            lambda: old.answer(prefer(1)), lambda: old.ask(1, [make_query(1, 0)], {}, 1),
            lambda: old.expire(1), old.check_claim,
        ):  # fmt: skip
            with pytest.raises(UserError, match="taken over by process 77 on elsewhere"):
                write()
        old.release()
        assert new.database.connection.execute("SELECT epoch, process FROM trainer").fetchall() == [
            (7, 77)
        ]
        assert [answer.query.index for answer in new.answers()] == [0] and new.ledger(1) is None


def test_the_same_process_may_begin_anew_and_what_it_began_before_has_ended(path):
    with closing(FeedbackStore(path)) as old, closing(FeedbackStore(path)) as new:
        old.claim()
        new.claim()
        new.check_claim()
        with pytest.raises(UserError, match="was taken over by process"):
            old.check_claim()


def test_a_trainer_is_heard_of_while_a_round_takes_long(path, monkeypatch):
    monkeypatch.setattr(trainer, "BEAT_SECONDS", 0.02)
    with closing(FeedbackStore(path)) as store:
        store.claim()
        store.database.connection.execute("UPDATE trainer SET seen = 0")
        seen = 0
        until = time.time() + 10
        while not seen and time.time() < until:
            time.sleep(0.02)
            [(seen,)] = store.database.connection.execute("SELECT seen FROM trainer")
        assert time.time() - seen < 10
        store.release()
        assert store.database.connection.execute("SELECT process FROM trainer").fetchone() == (
            None,
        )


def test_a_heartbeat_makes_no_file_where_the_run_was_deleted(path, monkeypatch):
    monkeypatch.setattr(trainer, "BEAT_SECONDS", 0.01)
    with closing(FeedbackStore(path)) as store:
        store.claim()
        path.unlink()
        time.sleep(0.1)
        assert not path.exists()
        with pytest.raises(
            UserError, match=r"feedback\.sqlite was deleted or replaced while .* was"
        ):
            store.check_claim()


# --- whole runs -------------------------------------------------------------------------------


def test_a_run_is_let_go_of_when_it_ends_stops_or_fails_to_resume(tmp_path):
    train(tiny(), tmp_path / "run", teacher=prefer_larger)

    def trains():
        with closing(FeedbackStore(tmp_path / "run" / "feedback.sqlite")) as store:
            return store.database.connection.execute("SELECT process FROM trainer").fetchone()[0]

    assert trains() is None
    session = resume(tmp_path / "run", more_steps=8192, teacher=prefer_larger)
    assert trains() == os.getpid()
    for _ in rounds(session):
        break
    session.feedback.close()
    assert trains() is None
    with pytest.raises(UserError, match="too few"):
        resume(tmp_path / "run", more_steps=1)
    assert trains() is None


def test_a_trainer_that_was_taken_over_adds_neither_metrics_nor_checkpoint(tmp_path):
    session = start(tiny(), tmp_path / "run", prefer_larger)
    with pytest.raises(UserError, match="taken over"):
        for done in rounds(session):
            if done.state == "training":
                with closing(FeedbackStore(session.folder.feedback)) as store:
                    pretend(store)
                files = {p: p.read_bytes() for p in session.folder.path.rglob("*.jsonl")}
                files |= {p: p.read_bytes() for p in session.folder.path.rglob("*.pt")}
    session.feedback.close()
    now = [*session.folder.path.rglob("*.jsonl"), *session.folder.path.rglob("*.pt")]
    assert {p: p.read_bytes() for p in now} == files
    assert len(session.folder.metrics()) == 1


def test_nobody_takes_over_between_the_check_and_the_files_of_a_round(tmp_path, monkeypatch):
    session = start(tiny(), tmp_path / "run", prefer_larger)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    append, refused = RunFolder.append_round, []

    def tried(folder, *line):
        with pytest.raises(StoreError, match="locked"):
            FeedbackStore(folder.feedback)
        refused.append(folder)
        append(folder, *line)

    monkeypatch.setattr(RunFolder, "append_round", tried)
    for _ in rounds(session):
        pass
    assert len(refused) == len(session.folder.metrics()) > 1


TRAINS_A_RUN = """
import sys
from toy_environments import prefer_larger
from prefrl.errors import UserError
from prefrl.runs.session import resume, rounds
try:
    for done in rounds(resume(sys.argv[1], teacher=prefer_larger, wait="wait" in sys.argv)):
        print(done.state, flush=True)
        if done.state == "training" and "asks" in sys.argv:
            sys.stdin.readline()
except UserError as error:
    print("refused:", error, flush=True)
"""


@pytest.fixture
def trains():
    """Return what starts a process that resumes a run, waits if told, asks before it trains."""
    begun = []

    def begin(path, *words):
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINS_A_RUN, str(path), *words], cwd=Path(__file__).parent,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The metrics of a run that was never disturbed."""
    path = tmp_path_factory.mktemp("alone") / "run"
    train(tiny(), path, prefer_larger)
    return (path / "metrics.jsonl").read_bytes()


def until(process, word):
    for line in process.stdout:
        if line.startswith(word):
            return line
    pytest.fail(f"it ended before it said {word!r}: {process.stderr.read()}")


def test_a_second_resume_is_refused_and_goes_on_once_the_first_was_killed(tmp_path, trains, alone):
    path = tmp_path / "run"
    start(tiny(), path, prefer_larger).feedback.close()
    first = trains(path, "asks")
    until(first, "training")
    before = {p: p.read_bytes() for p in path.rglob("*") if p.suffix in (".json", ".jsonl", ".pt")}
    with pytest.raises(UserError, match=f"is being trained by process {first.pid}"):
        resume(path, teacher=prefer_larger)
    assert {p: p.read_bytes() for p in before} == before
    second = trains(path, "wait")
    first.kill()
    first.communicate()
    until(second, "done")
    second.communicate()
    assert (path / "metrics.jsonl").read_bytes() == alone
    numbers = [*map(int, re.findall(rb'"round": (\d+)', alone))]
    assert numbers == list(range(alone.count(b"\n")))
    assert [*replay(path, tmp_path / "replay")]


def test_of_two_trainers_at_once_one_goes_on_and_the_run_is_as_if_it_were_alone(
    tmp_path, trains, alone
):
    path = tmp_path / "run"
    start(tiny(), path, prefer_larger).feedback.close()
    both = [trains(path, "asks") for _ in range(2)]
    said = [process.stdout.readline() for process in both]
    loser = next(index for index, line in enumerate(said) if line.startswith("refused"))
    assert "is being trained by process" in said[loser] and said[1 - loser] == "exploring\n"
    both[1 - loser].communicate("\n" * 99)
    assert (path / "metrics.jsonl").read_bytes() == alone


def test_a_trainer_that_stood_still_wakes_up_to_a_sentence_and_has_written_nothing(
    tmp_path, trains, alone
):
    path = tmp_path / "run"
    start(tiny(), path, prefer_larger).feedback.close()
    old = trains(path, "asks")
    until(old, "training")
    old.send_signal(signal.SIGSTOP)
    with closing(FeedbackStore(path / "feedback.sqlite")) as store:
        store.database.run("UPDATE trainer SET seen = seen - 61")
    new = trains(path)
    until(new, "done")
    old.send_signal(signal.SIGCONT)
    old.stdin.write("\n" * 99)
    old.stdin.flush()
    sentence = until(old, "refused")
    assert "was taken over by " in sentence and "it stops now" in sentence
    new.communicate()
    assert (path / "metrics.jsonl").read_bytes() == alone
    assert [*replay(path, tmp_path / "replay")]
