"""The file of a feedback store: opened, read and written, all or nothing.

One process trains a run: a database whose fence has been claimed checks in every transaction that
it is still the trainer's (`storage/trainer.py`).
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from prefrl.errors import StoreError, UserError, note
from prefrl.storage.formats import another_version
from prefrl.storage.journal import why_not_ahead
from prefrl.storage.schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION
from prefrl.storage.trainer import SEEN, Fence

BUSY_SECONDS = 10.0
COPY_TRIES, COPY_PAUSE_SECONDS = 5, 0.2
MEMORY = ":memory:"


class SQLite:
    """One SQLite file; what is committed to it survives a power cut."""

    shares = False  # the run folder is beside it

    def __init__(self, path: Path | str, read_only: bool = False):
        """Open the file, or make it.

        Args:
            path: the file.
            read_only: it is there, and nothing is written to it or beside it.

        Raises:
            UserError: it is not a feedback store, of another version, or cannot be used.
        """
        memory = str(path) == MEMORY
        self.path = Path(path) if memory else Path(path).absolute()
        self.called, self.trained = str(self.path), str(self.path.parent)
        self.fence = Fence(self)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        with self.errors():
            self.connection = (
                self._open_to_read() if read_only else _open_to_write(self.path, self.path)
            )
        self._file = None if memory or read_only else _file(self.path)

    def _open_to_read(self) -> sqlite3.Connection:
        try:
            if connection := _open_to_read(self.path):
                return connection
        except sqlite3.OperationalError as error:
            if not _needs_a_copy(error):
                raise
        self._scratch = tempfile.TemporaryDirectory(prefix="prefrl-")
        try:
            _copy_at_rest(self.path, Path(self._scratch.name))
            return _open_to_write(Path(self._scratch.name) / self.path.name, self.path)
        except BaseException as error:
            self._scratch.cleanup()
            if isinstance(error, OSError):
                raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error
            raise

    def close(self) -> None:
        """Close the file, and let others train."""
        with suppress(StoreError):  # then they find out for themselves
            self.fence.release()
        self.connection.close()
        if self._scratch:
            self._scratch.cleanup()

    def copy(self, path: Path) -> None:
        """Write the whole store to another file, as it stands."""
        with self.errors(), closing(sqlite3.connect(path)) as other:
            self.connection.backup(other)

    def run(self, sql: str, *values: Any, **named: Any) -> list[Any]:
        """Run one statement and return its rows."""
        with self.errors():
            return self.connection.execute(sql, named or values).fetchall()

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""
        with self.errors():
            self.connection.executemany(sql, rows)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all that is read in between be of one moment."""
        with self.errors():
            self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")

    @contextmanager
    def transaction(
        self, first: Callable[[], None] = lambda: None
    ) -> Iterator[Callable[..., list[Any]]]:
        """Give `run`; what it does happens as a whole or not at all.

        Args:
            first: is done in it, too.

        Raises:
            UserError: somebody else has become the run's trainer.
        """
        with self.errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                self.fence.check()
                first()
                yield self.run
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what SQLite says of the disk or the file into a sentence."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"cannot use {self.path}: {error}. Every answer acknowledged so far is safe; free "
                "disk space, or close what holds the file, and continue with `prefrl resume`"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path} is damaged or not a feedback store ({error}); restore it from a copy"
            ) from error

    @property
    def in_transaction(self) -> bool:
        """Whether what is done now happens as a whole or not at all."""
        return self.connection.in_transaction

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""
        return time.time()

    def beat(self, epoch: int) -> None:
        """Say through a connection of its own that the trainer of an epoch is there."""
        if str(self.path) == MEMORY:
            return
        with self.errors():
            address = f"{self.path.as_uri()}?mode=rw"  # makes no file where the run was deleted
            with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as own:
                own.execute(SEEN, (self.now(), epoch)).fetchall()

    def check_there(self) -> None:
        """Raise `UserError` if the file was deleted or replaced: what is written to it is lost."""
        if self._file is not None and _file(self.path) != self._file:
            raise UserError(
                f"{self.path} was deleted or replaced while {self.trained} was trained; this "
                "process stops now, and what it did since is lost"
            )


def _open_to_write(path: Path, called: Path) -> sqlite3.Connection:
    """Open a file, or make it; in sentences it is called by another name where it is a copy."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    with _closing_if_it_fails(connection):
        _choose_journal(connection, path)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if _check_version(connection, called, (0, *MIGRATIONS, SCHEMA_VERSION)) in MIGRATIONS:
            _migrate(connection)
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables of an older version up to date, all or nothing, and once."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for step in range(version, SCHEMA_VERSION):  # none if another process was quicker
        for statement in MIGRATIONS[step]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _open_to_read(path: Path) -> sqlite3.Connection | None:
    """Open a file as it is; None if it is of an older version, which has to be brought up to date.

    Raises:
        sqlite3.OperationalError: among others, where SQLite would have to write beside it: it keeps
            an index of its log in a file that whoever may only read cannot make.
    """
    address = f"{path.as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    with _closing_if_it_fails(connection):
        if _check_version(connection, path, (*MIGRATIONS, SCHEMA_VERSION)) == SCHEMA_VERSION:
            return connection
    connection.close()
    return None


def _needs_a_copy(error: sqlite3.OperationalError) -> bool:
    """Return whether a file that can be read could not be opened to read."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def _copy_at_rest(path: Path, folder: Path) -> None:
    """Copy a file and its log, as they are together at one moment.

    Raises:
        OSError: they cannot be read, or somebody writes without pause.
    """
    files = [path, *(path.with_name(path.name + log) for log in ("-wal", "-journal"))]
    for _ in range(COPY_TRIES):
        before = [*map(_state, files)]
        shutil.copyfile(path, folder / path.name)
        for log in files[1:]:
            with suppress(FileNotFoundError):
                shutil.copyfile(log, folder / log.name)
        if [*map(_state, files)] == before:
            return
        for copied in folder.iterdir():
            copied.unlink()
        time.sleep(COPY_PAUSE_SECONDS)
    raise OSError("it is being written all the time")


def _file(path: Path) -> tuple[int, int] | None:
    """Return which file a path names by now, None if none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _state(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _check_version(connection: sqlite3.Connection, path: Path, known: tuple[int, ...]) -> int:
    """Return the version of a file; raise `UserError` if a version wrote it that is not known."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0 and 0 not in known:
        raise sqlite3.DatabaseError("it holds no tables of one")
    if version not in known:
        raise another_version(path, f"its format is {version}, this one reads {SCHEMA_VERSION}")
    return version


def _choose_journal(connection: sqlite3.Connection, path: Path) -> None:
    """Write ahead where the file system lets SQLite do so; else say so when the file is made."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode in ("wal", "memory"):
        return
    why = why_not_ahead(path.parent)
    if not why:
        _write_ahead(connection)
    elif not path.stat().st_size:
        note(
            f"{path} is written without a log of SQLite's, since {why}: writers and readers wait "
            "for each other, and people should answer on one machine alone"
        )


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch on write-ahead logging; SQLite does not wait for a lock when it does this."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def _closing_if_it_fails(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
