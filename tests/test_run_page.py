"""The page of a run: where it is, told to whoever started the run; it ends with the run."""

import dataclasses
import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from toy_environments import tiny

import prefrl
import prefrl.runs.page
from prefrl.runs.page import page
from prefrl.runs.session import start
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Answer

ADDRESS = re.compile(r"answer at http://127\.0\.0\.1:\d+/\?token=\S+")


def by_people(**changes):
    return dataclasses.replace(tiny(**changes), teacher="human")


def answer_all(path, until):
    """Answer whatever is pending, as people do through the page, until a run has ended."""
    while not (path / "config.json").exists():
        time.sleep(0.05)
    with closing(FeedbackStore(path / "feedback.sqlite")) as store:
        while not until.is_set():
            for query in store.pending():
                left = query.segments[0].observations.sum() > query.segments[1].observations.sum()
                store.answer(Answer(query.id, "preference", {"left": float(left)}, "anna"))
            time.sleep(0.05)


@pytest.fixture
def anna(tmp_path):
    """Somebody who answers in the run `tmp_path / "run"`."""
    ended = threading.Event()
    answering = threading.Thread(target=answer_all, args=(tmp_path / "run", ended))
    answering.start()
    yield
    ended.set()
    answering.join()


def test_train_from_python_says_where_people_answer_and_so_does_resume(tmp_path, anna, capsys):
    path = tmp_path / "run"
    folder = prefrl.train(by_people(labels=16), path)
    printed = capsys.readouterr().out.splitlines()
    assert [bool(ADDRESS.fullmatch(line)) for line in printed] == [True], printed
    assert folder.status()["state"] == "finished"
    rounds = len(folder.metrics())
    prefrl.resume(path, more_steps=1024)
    printed = capsys.readouterr().out.splitlines()
    assert [bool(ADDRESS.fullmatch(line)) for line in printed] == [True], printed
    assert len(RunFolder.open(path).metrics()) > rounds


def test_a_run_that_asks_nobody_has_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "Popen", None)
    prefrl.train(tiny(), tmp_path / "run")
    assert not capsys.readouterr().out


@pytest.fixture
def session(tmp_path):
    with closing(start(by_people(), tmp_path / "run")) as begun:
        yield begun


@pytest.fixture
def viewer(tmp_path, monkeypatch):
    """Let a shell script stand for the viewer."""
    monkeypatch.setattr(prefrl.runs.page, "FAREWELL_SECONDS", 0.0)

    def stands(script):
        program = tmp_path / "viewer"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return stands


def wait_for(lines, count):
    deadline = time.monotonic() + 10
    while len(lines) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.02)
    return lines


def test_a_viewer_that_does_not_end_is_killed(session, viewer, monkeypatch):
    monkeypatch.setattr(prefrl.runs.page, "PATIENCE_SECONDS", 0.3)
    viewer("trap '' TERM\necho $$\nwhile true; do sleep 0.1; done")
    lines = []
    with page(session, say=lines.append):
        wait_for(lines, 1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not Path(f"/proc/{int(lines[0])}").exists()


def test_a_viewer_that_ends_by_itself_is_said_to_have_with_its_last_words(session, viewer):
    viewer("echo answer at X\necho prefrl: cannot go on >&2\nexit 2")
    lines = []
    with page(session, say=lines.append):
        wait_for(lines, 3)
    again = f"open it again with `prefrl label {session.folder.path}`"
    assert lines == ["answer at X", "prefrl: cannot go on", f"the page has closed; {again}"]


def test_a_viewer_that_is_told_to_end_is_not_said_to_have_closed(session, viewer):
    viewer("echo answer at X\nexec sleep 60")
    lines = []
    with page(session, say=lines.append):
        wait_for(lines, 1)
    time.sleep(0.2)
    assert lines == ["answer at X"]
