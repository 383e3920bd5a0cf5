"""A run has one trainer: whoever begins raises the epoch; older ones write no more.

The store holds who trains, and every transaction of a trainer's store checks that it still does.
A trainer says again and again that it is there, so that it is missed when its machine is gone.
Each function works through the store's connection.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple

from prefrl.errors import UserError
from prefrl.storage.processes import Process, is_alive, this_process

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # a trainer elsewhere that has not been heard of for so long is gone


class Holder(NamedTuple):
    """Who trains a run."""

    epoch: int
    process: Process
    since: float
    """Seconds since the epoch, as all times here."""
    seen: float


def holder(connection: Connection) -> Holder | None:
    """Return who trains the run, None if nobody does."""
    row = connection.execute(
        "SELECT epoch, host, scope, process, start, since, seen FROM trainer "
        "WHERE process IS NOT NULL"
    ).fetchone()
    return None if row is None else Holder(row[0], Process(*row[1:5]), *row[5:])


def take(connection: Connection, run: Path) -> int:
    """Become the run's trainer, within a transaction; return the epoch that this begins.

    Raises:
        UserError: another process trains it, or may do so.
    """
    now, me = time.time(), this_process()
    known = holder(connection)
    if known and known.process != me:  # what this very process began, it may begin anew
        _refuse_to_push_out(known, run, now)
    (epoch,) = connection.execute("SELECT coalesce(max(epoch), 0) + 1 FROM trainer").fetchone()
    connection.execute("DELETE FROM trainer")
    connection.execute(
        "INSERT INTO trainer (epoch, host, scope, process, start, since, seen) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (epoch, *me, now, now),
    )
    return epoch


def check(connection: Connection, epoch: int, run: Path) -> None:
    """Say that the trainer of an epoch is there, within a transaction.

    Raises:
        UserError: another has taken the run over.
    """
    if _say_seen(connection, epoch):
        return
    known = holder(connection)
    who = in_words(known) if known else "another process, which has ended since"
    raise UserError(
        f"{run} was taken over by {who}, since this process had not been heard of for a while; it "
        "stops now and has changed nothing since"
    )


def release(connection: Connection, epoch: int) -> None:
    """Let others train the run."""
    connection.execute("UPDATE trainer SET process = NULL WHERE epoch = ?", (epoch,))


class Heartbeat:
    """A thread that says again and again that a trainer is there, however long a round takes."""

    def __init__(self, path: Path, epoch: int):
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(path, epoch), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _beat(self, path: Path, epoch: int) -> None:
        address = f"{path.resolve().as_uri()}?mode=rw"
        while not self._stopped.wait(BEAT_SECONDS):
            with suppress(sqlite3.Error):  # what matters complains for itself
                own = sqlite3.connect(address, uri=True, isolation_level=None)
                with closing(own):
                    _say_seen(own, epoch)


def _say_seen(connection: Connection, epoch: int) -> bool:
    done = connection.execute(
        "UPDATE trainer SET seen = ? WHERE epoch = ? AND process IS NOT NULL", (time.time(), epoch)
    )
    return done.rowcount > 0


def _refuse_to_push_out(known: Holder, run: Path, now: float) -> None:
    alive, silent = is_alive(known.process), now - known.seen
    if alive:
        raise UserError(
            f"{run} is being trained by {in_words(known)}; a run has one trainer, so wait until "
            f"it has finished, or end it (process {known.process.number}) and try again"
        )
    if alive is None and silent < SILENT_SECONDS:
        raise UserError(
            f"{run} is being trained by {in_words(known)}, heard of {max(0, silent):.0f} s ago; a "
            f"run has one trainer, so try again in {SILENT_SECONDS - silent:.0f} s if that one was "
            "killed"
        )


def in_words(known: Holder) -> str:
    """Return who trains, and since when."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(known.since))
    return f"process {known.process.number} on {known.process.host} (since {since})"
