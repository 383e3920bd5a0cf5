"""Processes of this machine: which is which, and whether one still runs.

A number alone does not say which: numbers are used again, and containers each count their own.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NamedTuple

SYNCHRONIZE = 0x100000  # a right to a process of Windows
STATE, START = 0, 19  # fields of /proc/PID/stat, counted after the name


class Process(NamedTuple):
    """One process, as it can be found again."""

    host: str
    scope: str
    """Where its number means something: a boot of a machine and a container on it."""
    number: int
    start: str
    """When it began, in the platform's own unit; "" where that is not told."""


def this_process() -> Process:
    """Return this process."""
    return Process(platform.node(), _scope(), os.getpid(), _start(os.getpid()) or "")


def is_alive(process: Process) -> bool | None:
    """Return whether a process still runs, None where that cannot be told from here."""
    if process.scope != this_process().scope:
        return None
    if not is_running(process.number):
        return False
    start = _start(process.number)
    if start is None or not process.start:
        return None
    return start == process.start


def is_running(number: int) -> bool:
    """Return whether a process of this number runs here, whichever it is."""
    if os.name == "nt":  # there os.kill would end it
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(SYNCHRONIZE, False, number)  # type: ignore[attr-defined]
        alive = bool(handle) and ctypes.windll.kernel32.WaitForSingleObject(handle, 0) != 0  # type: ignore[attr-defined]
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)  # type: ignore[attr-defined]
        return alive
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return _start(number) != ""  # one that was killed, but not yet waited for


def _scope() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _start(number: int) -> str | None:
    """Return when a process began, "" if it has ended; None where that is not told."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # a name may hold anything, brackets too
    return "" if fields[STATE] in "ZX" else fields[START]
