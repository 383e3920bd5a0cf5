"""Stores of either kind: a file of SQLite, or a run in a database of Postgres."""

import itertools

import pytest

from prefrl.storage.address import Address
from prefrl.storage.feedback import FeedbackStore

# What makes a file of SQLite one of before there were gold questions.
WITHOUT_GOLD = (
    *("DROP TRIGGER answered", "DROP VIEW standing", "DROP INDEX gold_answer"),
    *("DROP INDEX broken_answer", "DROP TABLE gold", "DROP TABLE gold_asked"),
    *("DROP INDEX standing_answer", "DROP INDEX withdrawn_query"),
    "CREATE INDEX answer_that_stands ON answer (teacher, kind, id)",
    *("ALTER TABLE answer DROP COLUMN gold", "ALTER TABLE query DROP COLUMN priority"),
)

only_sqlite = pytest.mark.parametrize("where", ["sqlite"], indirect=True)
only_postgres = pytest.mark.parametrize("where", ["postgres"], indirect=True)


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    """Where a store is, which is there once it is opened."""
    if request.param == "sqlite":
        return tmp_path / "feedback.sqlite"
    return request.getfixturevalue("new_run")


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def new_store(request):
    """What opens an empty store each time, for properties that need many."""
    if request.param == "sqlite":
        yield lambda: FeedbackStore(":memory:")
        return
    url, numbers = request.getfixturevalue("shared_database"), itertools.count()
    module = request.module.__name__
    yield lambda: FeedbackStore(Address(url, f"{module} {next(numbers)}"))


def pass_time(monkeypatch, store, seconds):
    """Let the clock of a store's database be ahead."""
    kind = type(store.database)
    monkeypatch.undo()
    now = kind.now
    monkeypatch.setattr(kind, "now", lambda database: now(database) + seconds)
