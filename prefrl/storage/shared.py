"""What a database keeps of a run folder, so that people may answer on any machine.

The trainer puts it there beside the feedback; elsewhere it becomes a run folder again, without
checkpoints, for as long as it is needed.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from prefrl.errors import StoreError, UserError
from prefrl.storage.address import Address, is_address, read_address
from prefrl.storage.copying import COPIED
from prefrl.storage.database import Database, waiting
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.files import whole
from prefrl.storage.folder import RunFolder
from prefrl.storage.trainer import holder, may_push_out

REFRESH_SECONDS = 1.0
CHANGING = ("status.json", "metrics.jsonl")
FILES = (
    *("config.json", "environment.json", "model.mjb", "guide.json", "practice.sqlite"),
    *("viewer.json", *CHANGING),
)


def share(folder: RunFolder, store: FeedbackStore, *names: str) -> None:
    """Put files of a run folder beside its feedback, if that is in a database.

    Args:
        folder: of the run.
        store: its feedback.
        names: of files; all that others need by default.
    """
    if not store.shares:
        return
    files = {}
    for name in names or FILES:
        path = folder.path / name
        if name == "viewer.json":  # the port is that of this machine
            files[name] = json.dumps({"key": folder.viewer()["key"], "port": None}).encode()
        elif path.exists():
            files[name] = path.read_bytes()
    _keep(store, files)


@waiting
def _keep(store: FeedbackStore, files: Mapping[str, bytes]) -> None:
    with store.database.transaction() as run:
        for name, data in files.items():
            run("DELETE FROM file WHERE name = ?", name)
            run("INSERT INTO file VALUES (?, ?, ?)", name, data, store.database.now())


def is_trained(store: FeedbackStore) -> bool:
    """Return whether a trainer is at work, on whichever machine."""
    known = holder(store.database)
    return known is not None and not may_push_out(known, store.database.now())


def begin_run(store: FeedbackStore, name: str) -> None:
    """Empty a new run's feedback of what a start that was killed has left, if it is in a database.

    Raises:
        UserError: it is that of another run.
    """
    if not store.shares:
        return
    database: Database = store.database
    with database.transaction() as run:
        if run("SELECT 1 FROM file WHERE name = 'config.json'"):
            raise UserError(
                f"{store.called} is a run already; choose another name, with --run {name}-2 or "
                f"after the address (--store ADDRESS#{name}-2)"
            )
        for table in reversed(["file", "lease", *COPIED]):
            run(f"DELETE FROM {table}")
        run("UPDATE tally SET asked = 0, answered = 0, decisive = 0, pending = 0, clips = 0")
        run("UPDATE tally SET seconds = 0")


@contextmanager
def opened(run: Path | str) -> Iterator[RunFolder]:
    """Give a run folder: the one of a path, or what a database keeps of it.

    Raises:
        UserError: there is no run.
    """
    if not is_address(str(run)):
        yield RunFolder.open(run)
        return
    with _mirrored(read_address(str(run))) as folder:
        yield folder


@contextmanager
def _mirrored(address: Address) -> Iterator[RunFolder]:
    with (
        closing(FeedbackStore(address, read_only=True)) as store,
        tempfile.TemporaryDirectory(prefix="prefrl-") as scratch,
    ):
        folder = RunFolder(Path(scratch) / address.run.replace("/", "-"))
        folder.path.mkdir()
        (folder.path / "checkpoints").mkdir()
        _fetch(store, folder, FILES)
        if not (folder.path / "config.json").exists():
            raise UserError(f"{address} is not a run yet: its trainer has not begun, or was killed")
        folder.save_store(address)
        ended = threading.Event()
        thread = threading.Thread(target=_follow, args=(store, folder, ended), daemon=True)
        thread.start()
        try:
            yield RunFolder.open(folder.path)
        finally:
            ended.set()
            thread.join()


def _follow(store: FeedbackStore, folder: RunFolder, ended: threading.Event) -> None:
    while not ended.wait(REFRESH_SECONDS):
        with suppress(StoreError, OSError):  # whoever answers is told by the answer itself
            _fetch(store, folder, ("config.json", *CHANGING))


def _fetch(store: FeedbackStore, folder: RunFolder, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder.path / name
        for (data,) in store.database.run("SELECT data FROM file WHERE name = ?", name):
            if not path.exists() or path.read_bytes() != data:
                with whole(path, mode=0o600, durable=False) as partial:
                    partial.write_bytes(data)
