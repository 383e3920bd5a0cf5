"""What a store asks of its database, be it a file of SQLite or a run in Postgres."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from prefrl.errors import Away, UserError, note
from prefrl.storage.address import Address
from prefrl.storage.sqlite import SQLite
from prefrl.storage.trainer import Fence

WAIT_SECONDS = 1.0  # between two tries to reach a database that is away

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Database(Protocol):
    """Keeps one run; its statements are of the SQL that SQLite and Postgres share."""

    called: str
    """How sentences name it."""
    trained: str
    """How they name what is trained."""
    shares: bool
    """Whether it keeps what others need of the run folder: a table `file`."""
    fence: Fence

    @property
    def in_transaction(self) -> bool:
        """Whether what is done now happens as a whole or not at all."""
        ...

    def check_there(self) -> None:
        """Raise `UserError` if what is written is not the run's any more."""
        ...

    def beat(self, epoch: int) -> None:
        """Say through a connection of its own that the trainer of an epoch is there."""
        ...

    def run(self, sql: str, *values: Any, **named: Any) -> list[Any]:
        """Run one statement and return its rows."""
        ...

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""
        ...

    def transaction(
        self, first: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Callable[..., list[Any]]]:
        """Give `run`; what it does happens as a whole or not at all, and nobody else writes.

        Args:
            first: is done in it, too; where several may write at a time, others still do.
        """
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """Let all that is read in between be of one moment."""
        ...

    def now(self) -> float:
        """Return the database's time, in seconds since the epoch."""
        ...

    def close(self) -> None:
        """Let go of it, and let others train."""
        ...


class HasDatabase(Protocol):
    """What has a database."""

    database: Any


def open_database(where: Path | str | Address, read_only: bool = False) -> Any:
    """Open a file of SQLite, or a run in Postgres; make it where it is missing.

    Args:
        where: it is.
        read_only: it is there, and nothing is written to it.

    Raises:
        UserError: it cannot be used, or another version made it.
    """
    if not isinstance(where, Address):
        return SQLite(where, read_only)
    try:
        from prefrl.storage.postgres import Postgres
    except ImportError:
        raise UserError(
            f"{where} is in Postgres, which needs psycopg; install it with `pip install "
            "'prefrl[postgres]'`"
        ) from None
    return Postgres(where, read_only)


def waiting(
    method: Callable[Concatenate[Any, Given], Result],
) -> Callable[Concatenate[Any, Given], Result]:
    """Let a method of a trainer's store wait while its database is away, and try again.

    Whoever does not train is told at once. The method must do the same if it is done twice.
    """

    @functools.wraps(method)
    def patient(store: HasDatabase, *values: Given.args, **named: Given.kwargs) -> Result:
        while True:
            try:
                return method(store, *values, **named)
            except Away as error:
                if store.database.fence.epoch is None or store.database.in_transaction:
                    raise
                note(f"{error.called} does not answer ({error.why}); training waits for it")
                time.sleep(WAIT_SECONDS)

    return patient


@contextmanager
def training(store: HasDatabase) -> Iterator[None]:
    """Let nobody take a trainer's run over within this; see `FeedbackStore.training`."""
    with ExitStack() as until:
        _begin(store, until)
        try:
            yield
            until.close()
        except Away:  # whoever takes over has to wait for longer than this took
            pass


@waiting
def _begin(store: HasDatabase, until: ExitStack) -> None:
    until.enter_context(store.database.transaction())
