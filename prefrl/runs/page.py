"""The page of a run, on which people answer while it trains: `prefrl label` as a process beside it.

Trainer and viewer share the run folder alone, so either may die and come back.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from prefrl.runs.session import Session

FAREWELL_SECONDS = 2.0  # for pages to learn that the run has finished
PATIENCE_SECONDS = 5.0  # for the viewer to end by itself


@contextmanager
def page(
    session: Session, port: int | None = None, host: str = "", say: Callable[[str], None] = print
) -> Iterator[None]:
    """Show the page of a run whose teachers are people, and say where it is.

    Args:
        session: the run; if nobody has to be asked, there is no page.
        port: where the page listens; the one it had before, or the first free one from 8765, by
            default.
        host: address that it listens on; the one it had before, or this machine's, by default.
        say: is told, in lines, where the page is and whatever else the viewer says.
    """
    if not session.asks_people:
        yield
        return
    path = session.folder.path
    command = [sys.executable, "-m", "prefrl.cli", "label", str(path)]
    command += [] if port is None else ["--port", str(port)]
    command += ["--host", host] if host else []
    # In a session of its own, so that Ctrl-C stops the trainer first. Its words come by a pipe: a
    # notebook does not see what another process prints.
    viewer = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    ending = Event()
    Thread(target=_pass_on, args=(viewer, path, ending, say), daemon=True).start()
    try:
        yield
        time.sleep(FAREWELL_SECONDS)
    finally:
        ending.set()
        viewer.terminate()
        try:
            viewer.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:  # every answer it acknowledged is safe
            viewer.kill()
            viewer.wait()


def _pass_on(
    viewer: subprocess.Popen[bytes], path: Path, ending: Event, say: Callable[[str], None]
) -> None:
    """Say what the viewer says, and that it has ended, if it was not told to."""
    assert viewer.stdout is not None
    with viewer.stdout as lines:
        for line in lines:
            say(line.decode(errors="replace").rstrip())
    if not ending.is_set():
        say(f"the page has closed; open it again with `prefrl label {path}`")
