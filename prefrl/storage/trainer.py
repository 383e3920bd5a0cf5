"""A run has one trainer: whoever begins raises the epoch; older ones write no more.

The store holds who trains, and every transaction of a trainer's store checks that it still does.
A trainer says again and again that it is there, so that it is missed when its machine is gone.
Times are those of the database's clock.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, Protocol

from prefrl.errors import StoreError, UserError, note
from prefrl.storage.processes import Process, is_alive, this_process

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # a trainer that has not been heard of for so long has lost its run
WAIT_SECONDS = 1.0  # between two looks at whether a run is free

SEEN = "UPDATE trainer SET seen = ? WHERE epoch = ? AND process IS NOT NULL RETURNING epoch"


class Trained(UserError):
    """Another process trains the run, or may do so."""


class Holder(NamedTuple):
    """Who trains a run."""

    epoch: int
    process: Process
    since: float
    """Seconds since the epoch, as all times here."""
    seen: float


class Fenced(Protocol):
    """What a database gives its fence."""

    trained: str
    """How sentences name the run."""

    def run(self, sql: str, *values: Any) -> list[Any]:
        """Run one statement and return its rows."""
        ...

    def transaction(self) -> AbstractContextManager[Any]:
        """Keep others from writing, until all is done or undone."""
        ...

    def now(self) -> float:
        """Return the time."""
        ...

    def beat(self, epoch: int) -> None:
        """Run `SEEN` through a connection of its own, from another thread."""
        ...

    def check_there(self) -> None:
        """Raise `UserError` if what is written is not the run's any more."""
        ...


class Fence:
    """Keeps all but one of a run's trainers from writing."""

    def __init__(self, database: Fenced):
        self.database = database
        self.epoch: int | None = None
        """As whose trainer this process writes; None if it does not train."""
        self._heartbeat: _Heartbeat | None = None

    def claim(self, wait: bool = False) -> None:
        """Become the run's trainer, unless this is it already.

        Args:
            wait: until nobody trains it, however long that is.

        Raises:
            Trained: another process trains the run, or may do so.
        """
        said = False
        while self.epoch is None:
            try:
                with self.database.transaction():
                    epoch = self._take()
            except Trained as error:
                if not wait:
                    raise
                if not said:
                    note(f"{str(error).partition(';')[0]}; this process waits for it to end")
                    said = True
                time.sleep(WAIT_SECONDS)
            else:
                self.epoch = epoch
                self._heartbeat = _Heartbeat(self.database, epoch)

    def check(self) -> None:
        """Say that this trainer is there, within a transaction, if it is one.

        Raises:
            UserError: another has taken the run over, or its files are gone.
        """
        if self.epoch is None:
            return
        self.database.check_there()
        if self.database.run(SEEN, self.database.now(), self.epoch):
            return
        known = holder(self.database)
        who = in_words(known) if known else "another process, which has ended since"
        raise UserError(
            f"{self.database.trained} was taken over by {who}, since this process had not been "
            "heard of for a while; it stops now and has changed nothing since"
        )

    def release(self) -> None:
        """Let others train the run."""
        epoch, self.epoch = self.epoch, None
        if self._heartbeat:
            self._heartbeat.stop()
            self._heartbeat = None
        if epoch is not None:
            self.database.run("UPDATE trainer SET process = NULL WHERE epoch = ?", epoch)

    def _take(self) -> int:
        """Become the run's trainer, within a transaction; return the epoch that this begins."""
        run, now, me = self.database.run, self.database.now(), this_process()
        known = holder(self.database)
        if known and known.process != me:  # what this very process began, it may begin anew
            _refuse_to_push_out(known, self.database.trained, now)
        [(epoch,)] = run("SELECT coalesce(max(epoch), 0) + 1 FROM trainer")
        run("DELETE FROM trainer")
        run(
            "INSERT INTO trainer (epoch, host, scope, process, start, since, seen) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            epoch, *me, now, now,
        )  # fmt: skip
        return epoch


class _Heartbeat:
    """A thread that says again and again that a trainer is there, however long a round takes."""

    def __init__(self, database: Fenced, epoch: int):
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(database, epoch), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _beat(self, database: Fenced, epoch: int) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            with suppress(StoreError):  # what matters complains for itself
                database.beat(epoch)


def holder(database: Fenced) -> Holder | None:
    """Return who trains the run, None if nobody does."""
    rows = database.run(
        "SELECT epoch, host, scope, process, start, since, seen FROM trainer "
        "WHERE process IS NOT NULL"
    )
    return Holder(rows[0][0], Process(*rows[0][1:5]), *rows[0][5:]) if rows else None


def may_push_out(known: Holder, now: float) -> bool:
    """Return whether a trainer has ended, or has not been heard of for too long."""
    return is_alive(known.process) is False or now - known.seen >= SILENT_SECONDS


def _refuse_to_push_out(known: Holder, run: str, now: float) -> None:
    """Raise `Trained` unless a trainer may be pushed out."""
    if may_push_out(known, now):
        return
    alive, silent = is_alive(known.process), now - known.seen
    way_on = f"try again in {SILENT_SECONDS - silent:.0f} s if that one was killed"
    if alive:
        way_on = f"wait until it has finished, or end it (process {known.process.number})"
    raise Trained(
        f"{run} is being trained by {in_words(known)}, heard of {max(0, silent):.0f} s ago; a run "
        f"has one trainer, so {way_on}"
    )


def in_words(known: Holder) -> str:
    """Return who trains, and since when."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(known.since))
    return f"process {known.process.number} on {known.process.host} (since {since})"
