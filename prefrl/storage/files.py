"""Writes files whole or not at all; one sentence if they cannot be read or written."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from prefrl.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
REPLACE_TRIES, REPLACE_SECONDS = 20, 0.05


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Give an empty folder that gets its name once it is whole; what fails leaves none.

    Raises:
        UserError: there is one of that name, or it cannot be made.
    """
    path = Path(path).resolve()
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
        with writing(path, "and try again"):
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    to_disk(file)
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def in_utf8(name: str) -> str:
    """Return the name of a file as text that can be kept; bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


@contextmanager
def reading(path: Path) -> Iterator[TextIO]:
    """Open a file of text in UTF-8, which may begin with a byte order mark, or be gzipped (.gz).

    Raises:
        UserError: it cannot be read, or is not such a file; also while it is read inside.
    """
    zipped = path.suffix.lower() == ".gz"
    try:
        with (gzip.open if zipped else open)(path, "rt", encoding="utf-8-sig") as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {path}: it is not text in UTF-8 ({error}); save it as UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"cannot read {path}: it is no whole gzip file ({error}); compress it again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


@contextmanager
def whole(path: Path, mode: int = 0o666, durable: bool = True) -> Iterator[Path]:
    """Give a name beside a file to write to; what is complete takes the file's place.

    Args:
        path: the file.
        mode: its permissions, less what the umask takes.
        durable: it is on the disk when this ends; else a power cut may leave it empty.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        partial.touch(mode)
        yield partial
        if durable:
            to_disk(partial)
        if durable:
            renamed(partial, path)
        else:
            _replace(partial, path)
    except OSError:  # a disk that is full has room for nothing
        partial.unlink(missing_ok=True)
        raise


def renamed(path: Path, to: Path) -> None:
    """Give a file of the same folder another name, for good; what had that one is replaced.

    Raises:
        OSError: it cannot be done.
    """
    _replace(path, to)
    if os.name == "posix":  # or a power cut could undo it
        to_disk(to.parent)


@contextmanager
def writing(path: Path, then: str) -> Iterator[None]:
    """Turn what the disk says into a sentence.

    Args:
        path: what is written.
        then: what to do once there is room, or whatever else was wrong is mended: "and try again".

    Raises:
        UserError: the disk is full, the folder is gone, it may not be written, or the like.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors and others have a kind of their own for a full disk
        full = _is_full(error)
        if not full and not isinstance(error, OSError):
            raise
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        mend = "make room" if full else "mend that"
        raise UserError(f"cannot write {path}: {why}; {mend} {then}") from error


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(os.strerror(code) in str(error) for code in FULL)


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    opened = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _replace(partial: Path, path: Path) -> None:
    """Put a file in another's place; Windows refuses while somebody reads that one."""
    for _ in range(REPLACE_TRIES - 1):
        try:
            partial.replace(path)
            return
        except PermissionError:
            time.sleep(REPLACE_SECONDS)
    partial.replace(path)
