"""A run's feedback in a Postgres database, which trainers and viewers of many machines share.

Acknowledged means committed. Every transaction first takes a lock of its run, so that a run has one
writer at a time, as a file of SQLite has: ids of answers are in the order of their commits, and a
ledger that says up to which answer a round saw means the same for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.types.string import TextBinaryLoader, TextLoader

from prefrl.errors import Away, StoreError, UserError
from prefrl.storage.address import Address
from prefrl.storage.formats import another_version
from prefrl.storage.postgres_schema import MIGRATIONS, VERSION, creation
from prefrl.storage.trainer import SEEN, Fence

LOCK = (
    1886545254  # "prefrl" in locks of the database: of a run with its number, of the tables with 0
)
CLOCK = "SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
# A machine that is gone is noticed within half a minute, by either side.
ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
CONNECT: dict[str, Any] = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,
    "application_name": "prefrl",
} | ALIVE

# A plan that is kept would stay one for tables that were empty when it was made.
PLAN_EACH_TIME = "SET plan_cache_mode = force_custom_plan"

Connection = Any  # psycopg's, whose type takes no SQL that is put together


class Postgres:
    """One run in a database."""

    shares = True

    def __init__(self, address: Address, read_only: bool = False):
        """Connect to the database; make its tables, and the run, where they are missing.

        Args:
            address: of the run.
            read_only: it is there, and nothing is written.

        Raises:
            UserError: the database cannot be reached or used, or another version made its tables.
        """
        self.address, self.read_only = address, read_only
        self.called = self.trained = str(address)
        self.fence = Fence(self)
        self._time: float | None = None
        self._number = 0
        try:
            self._connection: Connection = self._opened()
        except Away as error:
            raise UserError(
                f"cannot open {self.called}: {error.why}; check the address and that the database "
                "runs, and give its password in a file that PGPASSFILE names, or as PGPASSWORD"
            ) from None

    def close(self) -> None:
        """Let go of the database, and let others train."""
        with suppress(StoreError):  # then they find out for themselves
            self.fence.release()
        if self._connection:
            self._connection.close()

    def run(self, sql: str, *values: Any, **named: Any) -> list[Any]:
        """Run one statement, as SQLite has it, and return its rows."""
        with self.errors() as connection:
            cursor = connection.execute(_dialect(sql), named or values, binary=True)
            return cursor.fetchall() if cursor.description else []

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row of values, without waiting in between."""
        if not rows:
            return
        with self.errors() as connection, connection.cursor() as cursor:
            cursor.execute("SET plan_cache_mode = auto")  # these have one plan at any size
            cursor.executemany(_dialect(sql), rows)
            cursor.execute(PLAN_EACH_TIME)

    @contextmanager
    def transaction(
        self, first: Callable[[], None] = lambda: None
    ) -> Iterator[Callable[..., list[Any]]]:
        """Give `run`; what it does happens as a whole or not at all, and nobody else writes.

        Args:
            first: is done in it, too, while others still write: what is long, and takes nobody's
                turn.

        Raises:
            UserError: somebody else has become the run's trainer.
        """
        with self.errors() as connection:
            try:
                with connection.transaction():
                    first()
                    locked = f"(SELECT pg_advisory_xact_lock({LOCK}, {self._number})) locked"
                    [(self._time,)] = connection.execute(
                        f"{CLOCK} FROM {locked}", binary=True
                    ).fetchall()
                    self.fence.check()
                    yield self.run
            finally:
                self._time = None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all that is read in between be of one moment."""
        with self.errors() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield

    @property
    def in_transaction(self) -> bool:
        """Whether what is done now happens as a whole or not at all."""
        return self._time is not None

    def now(self) -> float:
        """Return the database's time, in seconds since the epoch; of a transaction, its begin."""
        return self._time or self.run(CLOCK)[0][0]

    def beat(self, epoch: int) -> None:
        """Say through a connection of its own that the trainer of an epoch is there."""
        with closing(self._opened()) as own, self._in_words():
            [(now,)] = own.execute(CLOCK, binary=True).fetchall()
            own.execute(_dialect(SEEN), (now, epoch))

    def check_there(self) -> None:
        """Do nothing: what is deleted from a database takes the trainer's row with it."""

    @contextmanager
    def errors(self) -> Iterator[Connection]:
        """Give the connection; turn what the database says into a sentence.

        Raises:
            Away: the database does not answer for now; the next call connects anew.
        """
        if self._connection is None or self._connection.closed:
            if self.in_transaction:  # in which it was lost, and which is undone
                raise Away(self.called, "the connection was lost")
            self._connection = self._opened()
        try:
            with self._in_words():
                yield self._connection
        except Away:
            self._connection.close()
            raise

    def _opened(self) -> Connection:
        """Return a connection that serves the run.

        Raises:
            Away: there is none to be had.
        """
        with self._in_words():
            connection = psycopg.connect(self.address.url, autocommit=True, **CONNECT)
        try:
            with self._in_words():
                self._serve(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _serve(self, connection: Connection) -> None:
        connection.adapters.register_loader("json", TextLoader)
        connection.adapters.register_loader("json", TextBinaryLoader)
        for name, value in ALIVE.items():
            connection.execute(f"SET tcp_{name} = {value}")
        connection.execute(PLAN_EACH_TIME)
        _bring_up_to_date(connection, self.address.url, self.read_only)
        name = self.address.run
        rows = connection.execute("SELECT id FROM prefrl.run WHERE name = %s", (name,)).fetchall()
        if not rows and self.read_only:
            raise UserError(f"{self.address.url} holds no run {name!r}; {_runs(connection)}")
        if not rows:
            rows = _make_run(connection, name)
        self._number = rows[0][0]
        connection.execute("SET search_path = prefrl_run, prefrl")
        connection.execute(f"SET prefrl.run = {self._number}")
        if self.read_only:
            connection.execute("SET default_transaction_read_only = on")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Away(self.called, _reason(error)) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise UserError(
                f"cannot use {self.called}: {_reason(error)}; ask whoever runs the database for "
                "the right to create schemas in it, or to use those of prefrl"
            ) from error
        except psycopg.Error as error:
            if isinstance(error, psycopg.DataError) and "NUL" in str(error):
                raise UserError(
                    f"{self.called} cannot keep a text that holds a NUL; expected texts without "
                    "any, or leave --store out: a file keeps them"
                ) from error
            raise StoreError(
                f"cannot use {self.called}: {_reason(error)}. Every answer acknowledged so far is "
                "safe"
            ) from error


def _bring_up_to_date(connection: Connection, url: str, read_only: bool) -> None:
    """Make the tables, or bring those of an older version up to date, once."""
    [(known,)] = connection.execute("SELECT to_regclass('prefrl.version')::text").fetchall()
    if known and _version(connection) == VERSION:
        return
    if known is None and read_only:
        raise UserError(f"{url} holds no runs of prefrl; they are made by `prefrl train --store`")
    with connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({LOCK}, 0)")
        [(known,)] = connection.execute("SELECT to_regclass('prefrl.version')::text").fetchall()
        version = _version(connection) if known else None
        if version not in (None, *MIGRATIONS, VERSION):
            raise another_version(url, f"its format is {version}, this one reads {VERSION}")
        if version is None:
            connection.execute(creation())
            return
        for step in range(version, VERSION):
            for statement in MIGRATIONS[step]:
                connection.execute(statement)
        connection.execute("UPDATE prefrl.version SET version = %s", (VERSION,))


def _version(connection: Connection) -> int:
    [(version,)] = connection.execute("SELECT version FROM prefrl.version").fetchall()
    return version


def _make_run(connection: Connection, name: str) -> list[Any]:
    """Make a run, unless somebody else has just made it; return its number."""
    with connection.transaction():
        made = connection.execute(
            "INSERT INTO prefrl.run (name) VALUES (%s) ON CONFLICT DO NOTHING RETURNING id", (name,)
        ).fetchall()
        for number in made:
            connection.execute("INSERT INTO prefrl.tally (run) VALUES (%s)", number)
        return connection.execute("SELECT id FROM prefrl.run WHERE name = %s", (name,)).fetchall()


def _runs(connection: Connection) -> str:
    rows = connection.execute("SELECT name FROM prefrl.run ORDER BY id DESC LIMIT 5").fetchall()
    return f"its newest are {', '.join(row[0] for row in rows)}" if rows else "it holds none"


@lru_cache(None)
def _dialect(sql: str) -> str:
    """Return a statement of SQLite with its values named as psycopg has them."""
    return re.sub(r":(\w+)", r"%(\1)s", sql.replace("?", "%s"))


def _reason(error: psycopg.Error) -> str:
    """Return what is wrong in one line, without a full stop."""
    said = (error.diag.message_primary or str(error)).strip().splitlines() or [type(error).__name__]
    return said[0].removeprefix("connection is bad: ").strip().rstrip(".")
