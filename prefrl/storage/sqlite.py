"""The file of a feedback store: opened, read and written, all or nothing.

One process trains a run: a database that has been claimed checks in every transaction that it is
still the trainer's (`storage/trainer.py`).
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from prefrl.errors import StoreError, UserError
from prefrl.storage import trainer
from prefrl.storage.formats import another_version
from prefrl.storage.schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION

BUSY_SECONDS = 10.0
COPY_TRIES, COPY_PAUSE_SECONDS = 5, 0.2
MEMORY = ":memory:"


class Database:
    """One SQLite file; what is committed to it survives a power cut."""

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
        self.epoch: int | None = None
        """As whose trainer this writes; None if it does not train."""
        self._heartbeat: trainer.Heartbeat | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        with self.errors():
            self.connection = (
                self._open_to_read() if read_only else _open_to_write(self.path, self.path)
            )

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
            self.release()
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

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """Give `execute`; what it does happens as a whole or not at all.

        Raises:
            UserError: somebody else has become the run's trainer.
        """
        with self.errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                if self.epoch is not None:
                    trainer.check(self.connection, self.epoch, self.path.parent)
                yield self.connection.execute
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

    def claim(self) -> None:
        """Become the run's trainer, unless this is it already.

        Raises:
            UserError: another process trains the run, or may do so.
        """
        if self.epoch is not None:
            return
        with self.transaction():
            epoch = trainer.take(self.connection, self.path.parent)
        self.epoch = epoch
        if str(self.path) != MEMORY:
            self._heartbeat = trainer.Heartbeat(self.path, epoch)

    def check_claim(self) -> None:
        """Raise `UserError` if somebody else has become the run's trainer."""
        with self.transaction():
            pass

    def release(self) -> None:
        """Let others train the run."""
        epoch, self.epoch = self.epoch, None
        if self._heartbeat:
            self._heartbeat.stop()
            self._heartbeat = None
        if epoch is not None:
            with self.errors():
                trainer.release(self.connection, epoch)


def _open_to_write(path: Path, called: Path) -> sqlite3.Connection:
    """Open a file, or make it; in sentences it is called by another name where it is a copy."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    with _closing_if_it_fails(connection):
        _write_ahead(connection)
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
    log = path.with_name(path.name + "-wal")
    for _ in range(COPY_TRIES):
        before = [_state(path), _state(log)]
        shutil.copyfile(path, folder / path.name)
        with suppress(FileNotFoundError):
            shutil.copyfile(log, folder / log.name)
        if [_state(path), _state(log)] == before:
            return
        for copied in folder.iterdir():
            copied.unlink()
        time.sleep(COPY_PAUSE_SECONDS)
    raise OSError("it is being written all the time")


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
