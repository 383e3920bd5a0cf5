"""Runs `prefrl inspect` in a process of its own.

The viewer itself knows no torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NamedTuple

WORST = 24  # answers in the report's list


class _Work(NamedTuple):
    """A report that is being worked out."""

    of: tuple[int, int]
    process: subprocess.Popen
    output: IO[bytes]
    complaint: IO[bytes]


class Inspector:
    """Has a run inspected whenever somebody asks and something has changed."""

    def __init__(self, path: Path):
        self.path = path
        self.work: _Work | None = None
        self.known: tuple[int, int] | None = None
        """Rounds and newest answer that the last report is about."""
        self.last: dict[str, Any] = {"ready": False, "words": "Asking the reward model …"}

    def report(self, rounds: int, answer: int) -> dict[str, Any]:
        """Return the last report; a new one is begun if it is about something older than this.

        Args:
            rounds: how many the run has finished.
            answer: the newest one's number.

        Returns:
            `ready`, and either `at` (after how many rounds) and `report`, or `words` that say why
            there is none; `working`: whether a newer one is being worked out.
        """
        if self.work and self.work.process.poll() is not None:
            done, self.work = self.work, None
            self._finish(done)
        if self.work is None and self.known != (rounds, answer):
            self.work = self._begin((rounds, answer))
        return self.last | {"working": self.work is not None}

    def _begin(self, of: tuple[int, int]) -> _Work:
        words = ["inspect", str(self.path), "--worst", str(WORST), "--json"]
        output = tempfile.TemporaryFile()  # noqa: SIM115 (read when the process has ended)
        complaint = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "prefrl.cli", *words]
        return _Work(
            of, subprocess.Popen(command, stdout=output, stderr=complaint), output, complaint
        )

    def _finish(self, work: _Work) -> None:
        output, complaint = _read(work.output), _read(work.complaint)
        self.known = work.of
        if work.process.returncode == 0:
            # An environment's own package may have printed something before.
            *_, line = ["null", *output.strip().splitlines()]
            report = json.loads(line, parse_constant=lambda _: None)  # no NaN in JSON
            self.last = {"ready": True, "at": work.of[0], "report": report}
        else:
            lines = complaint.strip().splitlines() or ["the report could not be made"]
            self.last = {"ready": False, "words": lines[-1].removeprefix("prefrl: ")}


def _read(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")
