"""Reading needs no writing: a run that may only be read is evaluated, exported and replayed.

A colleague's, or one on a mount that is read-only.
"""

import json
import os
import shutil
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from fakes import make_query
from toy_environments import prefer_larger, tiny

from prefrl.cli import main
from prefrl.errors import UserError
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage import sqlite
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, QueryId

NOBODY = 65534


@pytest.fixture
def shared():
    """A folder that others may enter; those of pytest are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="prefrl-shared-"))
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def reading_only(folder):
    """Be somebody who may read a folder and not write to it; nothing in it changes."""
    files = [folder, *sorted(folder.rglob("*"))]
    for path in files:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {
        path: path.read_bytes()
        for path in files  # but for the index in memory that an open store of this process shares
        if path.is_file() and not path.name.endswith("-shm")
    }
    superuser = os.geteuid() == 0
    if superuser:  # whom permissions do not stop
        os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError):
            (folder / "new").touch()
        yield
    finally:
        if superuser:
            os.seteuid(0)
    assert [folder, *sorted(folder.rglob("*"))] == files
    assert {path: path.read_bytes() for path in before} == before


def prefer(index):
    return Answer(QueryId(0, index), "preference", {"left": 1.0}, "anna")


def make_store(folder, left):
    """Make a store with two answers; the second is in the log alone unless it was closed."""
    path, kept = folder / "feedback.sqlite", folder / "kept"
    store = FeedbackStore(path)
    store.ask(0, [make_query(0, index) for index in range(3)], {}, 0)
    store.answer(prefer(0))
    store.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.answer(prefer(1))
    if left == "open":
        return path, store
    kept.mkdir()
    for file in folder.glob("feedback.sqlite*"):
        shutil.copy(file, kept)
    store.close()
    if left != "closed":  # as a kill leaves it
        for file in kept.iterdir():
            if not (left == "log alone" and file.name.endswith("-shm")):
                shutil.copy(file, folder)
    shutil.rmtree(kept)
    return path, None


@pytest.mark.parametrize("left", ["closed", "log and index", "log alone", "open"])
def test_a_store_that_may_only_be_read_says_all_that_is_in_it(shared, left, monkeypatch):
    path, store = make_store(shared, left)
    names = {file.name.removeprefix("feedback.sqlite") for file in shared.iterdir()}
    there = {"closed": {""}, "log alone": {"", "-wal"}}.get(left, {"", "-wal", "-shm"})
    assert names == there
    scratch = shared.parent / f"{shared.name}-scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with reading_only(shared), closing(FeedbackStore(path, read_only=True)) as reading:
        assert [answer.query.index for answer in reading.answers()] == [0, 1]
        assert len(reading.comparisons()) == 2 and reading.counts()[:4] == (3, 2, 2, 1)
        reading.copy(scratch / "copy")
    assert [file.name for file in scratch.iterdir()] == ["copy"], "nothing else is left"
    shutil.rmtree(scratch)
    if store:
        store.close()


def test_what_is_opened_to_read_cannot_be_written(shared):
    path, _ = make_store(shared, "closed")
    with closing(FeedbackStore(path, read_only=True)) as reading:
        with pytest.raises(UserError, match="readonly database"):
            reading.answer(prefer(2))
        with closing(FeedbackStore(path)) as store:
            store.answer(prefer(2))
        assert len(reading.answers()) == 3, "what others write meanwhile is seen"


def test_a_copy_is_of_one_moment(shared, monkeypatch, tmp_path):
    path, _ = make_store(shared, "log alone")
    copied, copy = [], shutil.copyfile

    def disturbed(source, target):
        copy(source, target)
        copied.append(source)
        if len(copied) in (1, 4):  # its owner begins to write
            os.utime(path, ns=(len(copied), len(copied)))

    monkeypatch.setattr(sqlite.shutil, "copyfile", disturbed)
    monkeypatch.setattr(sqlite, "COPY_PAUSE_SECONDS", 0)
    sqlite._copy_at_rest(path, tmp_path)
    assert len(copied) == 6 and len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(sqlite.shutil, "copyfile", lambda *_: os.utime(path))
    with pytest.raises(OSError, match="written all the time"):
        sqlite._copy_at_rest(path, tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read .*No such file"),
        (b"", "is damaged or not a feedback store"),
        (b"This is a letter. " * 999, "is damaged or not a feedback store"),
    ],
)
def test_what_is_no_store_is_a_sentence_and_none_is_made_of_it(tmp_path, content, sentence):
    path = tmp_path / "feedback.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        FeedbackStore(path, read_only=True)
    assert [file.name for file in tmp_path.iterdir()] == ([] if content is None else [path.name])


def said_by(words, capsys):
    assert main([*map(str, words)]) in (0, None)
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_whole_runs_are_used_by_who_may_only_read_them(shared, capsys, monkeypatch):
    run = shared / "run"
    train(tiny(), run, teacher=prefer_larger)
    recorded = (run / "metrics.jsonl").read_bytes()
    mine = Path(tempfile.mkdtemp(prefix="prefrl-mine-"))
    mine.chmod(0o777)
    monkeypatch.setenv("MPLCONFIGDIR", str(mine))
    commands = [
        ["evaluate", run, "--episodes", "2"], ["export", run], ["inspect", run, "--json"],
        ["plot", run, "-o", mine / "curve.png"],
    ]  # fmt: skip
    mine_says = [said_by(words, capsys) for words in commands]  # all is imported from here on
    (mine / "curve.png").unlink()
    with reading_only(run):
        assert [said_by(words, capsys) for words in commands] == mine_says
        assert [*replay(run, mine / "replay")]
        for _ in rounds(start(tiny(labels=0), mine / "taught", answers_from=run)):
            pass
        with pytest.raises(UserError, match=r"cannot use .*readonly"):
            resume(run, teacher=prefer_larger)
    assert (mine / "replay" / "metrics.jsonl").read_bytes() == recorded
    first = json.loads((mine / "taught" / "metrics.jsonl").read_text().splitlines()[1])
    assert first["train_accuracy"] > 0.5
    shutil.rmtree(mine)
