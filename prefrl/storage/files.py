"""Writes files whole or not at all; one sentence if one cannot be read."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from prefrl.errors import UserError

REPLACE_TRIES, REPLACE_SECONDS = 20, 0.05


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Give an empty folder that gets its name once it is whole; what fails leaves none.

    Raises:
        UserError: there is one of that name, or it cannot be made.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already; give another name, or delete it")
    partial = path.with_name(path.name + ".partial")
    try:
        partial.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            f"{partial} exists already: it is being written, or what wrote it was killed; in that "
            "case delete it"
        ) from None
    except OSError as error:
        raise UserError(f"cannot make {partial}: {error.strerror}") from None
    try:
        yield partial
        partial.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; make room") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def in_utf8(name: str) -> str:
    """Return the name of a file as text that can be kept; bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


@contextmanager
def reading(path: Path) -> Iterator[TextIO]:
    """Open a file of text in UTF-8, which may begin with a byte order mark.

    Raises:
        UserError: it cannot be read, or is not such a file; also while it is read inside.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield lines
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {path}: it is not text in UTF-8 ({error}); save it as UTF-8"
        ) from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole and durably, or not at all."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _replace(partial, path)
        if os.name == "posix":  # or a power cut could undo the renaming
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)


def _replace(partial: Path, path: Path) -> None:
    """Put a file in another's place; Windows refuses while somebody reads that one."""
    for _ in range(REPLACE_TRIES - 1):
        try:
            partial.replace(path)
            return
        except PermissionError:
            time.sleep(REPLACE_SECONDS)
    partial.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk and its like into a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Everything up to the last finished "
            "round is safe; make room and continue with `prefrl resume`"
        ) from error
