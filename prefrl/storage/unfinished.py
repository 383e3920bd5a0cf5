"""A folder that is long in the making: whoever is killed goes on where it was.

Meanwhile it is called FOLDER.partial, and holds how it was begun and a state to go on from.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prefrl.errors import UserError
from prefrl.storage.files import to_disk, whole, writing
from prefrl.storage.formats import Fields, stamped

BEGUN, STATE = "unfinished.json", "state.pt"


class Unfinished:
    """What is known of a folder that is being made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.kept = (folder / STATE).is_file()
        """Whether there is a state."""
        self.is_anothers = False

    def begin(self, how: Fields) -> bytes | None:
        """Say how the folder is made; return the state to go on from, None if there is none.

        Args:
            how: all that decides what comes of it, as JSON values by name.

        Raises:
            UserError: it was begun in another way.
        """
        how = json.loads(json.dumps(how))
        for file in self.folder.iterdir():  # what a kill left of something else
            if not (self.kept and file.name in (BEGUN, STATE)):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        if self.kept:
            self.is_anothers = True
            before = json.loads((self.folder / BEGUN).read_text(encoding="utf-8"))
            names = {*how, *before} - {"format"}
            for name in sorted(names, key=lambda name: (name == "data", name)):
                if how.get(name) != before.get(name):
                    shown = "" if name == "data" else f" {before.get(name)!r:.60}"
                    raise UserError(
                        f"{self.folder} holds the beginning of one with another {name}{shown}; "
                        "go on with that, delete it, or give another name with -o"
                    )
            self.is_anothers = False
            return (self.folder / STATE).read_bytes()
        with whole(self.folder / BEGUN) as partial:
            partial.write_text(json.dumps(stamped(BEGUN, how)), encoding="utf-8")
        return None

    def save(self, state: bytes) -> None:
        """Keep a state in the place of the one before."""
        with whole(self.folder / STATE) as partial:
            partial.write_bytes(state)
        self.kept = True


@contextmanager
def unfinished_folder(path: Path | str) -> Iterator[Unfinished]:
    """Give a folder that gets its name once it is whole, or one that was begun before.

    What fails leaves none; a kill, Ctrl-C or a full disk leave the state that was saved last.

    Raises:
        UserError: there is one of that name, another process makes it, or it cannot be made.
    """
    path = Path(path).resolve()
    if path.exists():
        raise UserError(f"{path} exists already; give another name, or delete it")
    partial = path.with_name(path.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {partial}: {error.strerror}") from None
    with _alone(partial):
        if any(partial.iterdir()) and not (partial / BEGUN).is_file():
            raise UserError(
                f"{partial} exists already, and nothing of prefrl's can go on from it; delete it, "
                "or give another name"
            )
        work = Unfinished(partial)
        try:
            with writing(path, "and give the same command again"):
                yield work
                for name in (BEGUN, STATE):
                    (partial / name).unlink(missing_ok=True)
                for file in partial.rglob("*"):
                    if file.is_file():
                        to_disk(file)
                partial.rename(path)
        except KeyboardInterrupt:
            if not work.kept:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            raise KeyboardInterrupt(
                f"stopped; {partial} keeps what is done: the same command goes on with it"
            ) from None
        except Exception as error:
            disk = isinstance(error.__cause__, OSError)
            if not (work.is_anothers or (work.kept and disk)):
                shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out; the lock of one that was killed ends with it."""
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is making {folder.name.removesuffix('.partial')}; wait for it, "
                "or give another name with -o"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        with suppress(OSError):
            os.close(opened)
