"""Where SQLite cannot write ahead it keeps its older journal, as safely, and says so once."""

import sqlite3
from contextlib import closing

import pytest
from fakes import make_query

from prefrl.errors import Note
from prefrl.storage import journal
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, QueryId


@pytest.fixture
def mounted(monkeypatch, tmp_path):
    """Return what pretends that a folder is mounted."""

    def mount(folder, kind):
        point = str(folder).replace(" ", r"\040")
        line = f"36 35 98:0 / {point} rw,noatime shared:1 - {kind} server:/export rw,vers=4.2\n"
        root = "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        monkeypatch.setattr(journal, "MOUNTS", tmp_path / "mountinfo")
        (tmp_path / "mountinfo").write_text(root + line)

    return mount


def durability(store):
    return [
        store.database.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    ]


def test_a_log_is_written_ahead_where_that_works(tmp_path):
    assert journal.why_not_ahead(tmp_path) == ""
    with closing(FeedbackStore(tmp_path / "feedback.sqlite")) as store:
        assert durability(store) == ["wal", 2]
    assert [path.name for path in tmp_path.iterdir()] == ["feedback.sqlite"]


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "cifs"])
def test_on_a_network_file_system_it_is_not(tmp_path, mounted, kind):
    share = tmp_path / "a share"
    share.mkdir()
    mounted(share, kind)
    with pytest.warns(Note, match=f"it is on {kind}, a network file system"):
        store = FeedbackStore(share / "feedback.sqlite")
    with closing(store), closing(FeedbackStore(share / "feedback.sqlite")) as other:
        assert durability(store) == durability(other) == ["delete", 2]
        store.ask(0, [make_query(0, 0)], {}, 0)
        other.claim()
        other.answer(Answer(QueryId(0, 0), "tie", {}, "anna"))
        assert store.counts().answered == 1
    assert journal.why_not_ahead(tmp_path) == ""
    mounted(tmp_path, "ext4")
    with closing(FeedbackStore(share / "feedback.sqlite", read_only=True)) as copied:
        assert copied.counts().answered == 1


def test_where_no_memory_can_be_shared_it_is_not(tmp_path, monkeypatch):
    connect = sqlite3.connect

    def without_shared_memory(path, **options):
        return connect(f"file:{path}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(journal.sqlite3, "connect", without_shared_memory)
    assert journal.why_not_ahead(tmp_path) == "its file system has no memory to share for one"


def test_where_the_file_system_refuses_to_share_memory_it_is_not(tmp_path, monkeypatch):
    class Refusing(sqlite3.Connection):
        def execute(self, sql, *values):
            if sql.startswith("CREATE"):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(
        journal.sqlite3, "connect", lambda *a, **o: connect(*a, **o, factory=Refusing)
    )
    assert journal.why_not_ahead(tmp_path) == "its file system refuses one (disk I/O error)"


def test_a_machine_that_does_not_tell_what_is_mounted_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MOUNTS", tmp_path / "there is none")
    assert journal.why_not_ahead(tmp_path) == ""
