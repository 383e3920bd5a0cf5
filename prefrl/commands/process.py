"""Signals that interrupt a command, and what its output can show."""

import _thread
import atexit
import codecs
import io
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 5.0  # seconds in which one Ctrl-C does its work: a second one would cut it short
AGAIN = 0.05  # seconds until it is tried again, while a module is imported
PLAIN = {"…": "...", "−": "-", "→": "->", "±": "+-"}


class Interrupts:
    """Turns signals into one KeyboardInterrupt, however often they come.

    Never inside an import, which would be left half done, or would swallow the exception; and not
    once more while the first one is still about its work, which ends what was begun.
    """

    def __init__(self) -> None:
        self.asked = math.inf
        self.deaf_until = -math.inf
        self.ending = False

    def listen_to(self, *names: str) -> None:
        """Let signals of these names interrupt, those that are not ignored (`nohup`)."""
        for name in names:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now < self.deaf_until:
            return
        if self.ending:
            os._exit(2)
        self.asked = min(self.asked, now)
        if _is_importing(frame) and now - self.asked < PATIENCE:
            threading.Timer(AGAIN, _thread.interrupt_main, [number]).start()
            return
        self.asked, self.deaf_until = math.inf, now + PATIENCE
        raise KeyboardInterrupt


INTERRUPTS = Interrupts()


@contextmanager
def owned() -> Iterator[None]:
    """Let Ctrl-C interrupt a command, once, and let any terminal show what it prints."""
    INTERRUPTS.listen_to("SIGINT")
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # else Python ends by it, last
    codecs.register_error("prefrl", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="prefrl")
    try:
        yield
    finally:
        INTERRUPTS.ending = True


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that an output cannot show, and where to go on.

    Bytes of a file name that are not UTF-8 are shown escaped.
    """
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    shown = [
        f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else PLAIN.get(c, "?")
        for c in characters
    ]
    return "".join(shown), error.end
