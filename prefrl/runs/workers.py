"""Where the cells of a sweep are run: each in a process of its own on this machine.

A process (`runs.cell`) that fails takes no other with it. `runs.on_ray` runs them elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol

from prefrl.config.sweep import Cell
from prefrl.storage.sweeps import SweepFolder

PATIENCE_SECONDS = 10.0
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Workers(Protocol):
    """Who runs the cells of a sweep."""

    def begin(self, cell: Cell) -> None:
        """Begin a cell, or go on with it."""

    def ended(self) -> list[tuple[Cell, str]]:
        """Return the cells that have ended since this was asked, and why they failed, "" if not."""
        ...

    def close(self) -> None:
        """End what is at work; it goes on from where it is next time."""


class Processes:
    """Processes of this machine, which end with this one."""

    def __init__(self, folder: SweepFolder):
        self._folder = folder
        self._working: list[Work] = []

    def begin(self, cell: Cell) -> None:
        """Start the process of a cell."""
        self._working.append(started(self._folder, cell))

    def ended(self) -> list[tuple[Cell, str]]:
        """Return the cells whose processes have ended."""
        ended = [work for work in self._working if work.process.poll() is not None]
        self._working = [work for work in self._working if work not in ended]
        return [(work.cell, error_of(self._folder, work)) for work in ended]

    def close(self) -> None:
        """End the processes."""
        end(self._working)


@dataclass
class Work:
    """A cell that a process is at work on."""

    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]


def started(folder: SweepFolder, cell: Cell, pace: bool = False) -> Work:
    """Start the process of a cell; its input is a pipe, whose end ends it wherever this one is."""
    threads = dict.fromkeys(THREADS, str(cell.experiment.threads))
    log = folder.log(cell).open("wb")
    process = subprocess.Popen(
        _command(folder, cell, *(["PACE"] if pace else [])), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if pace else log, stderr=log, env=os.environ | threads,
        start_new_session=True,  # Ctrl-C is for the sweep
    )  # fmt: skip
    return Work(cell, process, log)


def _command(folder: SweepFolder, cell: Cell, *words: str) -> list[str]:
    return [sys.executable, "-m", "prefrl.runs.cell", str(folder.path), cell.name, *words]


def end(working: Sequence[Work]) -> None:
    """End processes, if they have not ended, and close what they write to."""
    for work in working:
        for pipe in (work.process.stdin, work.process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()
    for work in working:
        try:
            work.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            work.process.kill()
            work.process.wait()
        work.log.close()


def error_of(folder: SweepFolder, work: Work) -> str:
    """Return why a process that has ended failed, "" if it did not."""
    end([work])
    status = work.process.returncode
    if not status:
        return ""
    if status < 0:
        return f"its process was killed (signal {-status}), as one is that needs too much memory"
    lines = folder.log(work.cell).read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return (said or [f"its process ended with {status}"])[-1].removeprefix("prefrl: ")
