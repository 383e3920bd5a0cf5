"""What a judge has graded, as lines of a file: each is safe once it is added."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from prefrl.errors import UserError
from prefrl.storage.files import writing

Graded = tuple[str, str, str]
"""What was said, the reply, and the principle that it was graded by."""


def read_grades(path: Path) -> dict[Graded, float]:
    """Return the grades in a file, nan where none could be given; none if there is no file.

    A last line that a kill cut short is taken off.

    Raises:
        UserError: another line cannot be read.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    known: dict[Graded, float] = {}
    for line in lines[:-1]:
        try:
            context, reply, principle, grade = json.loads(line)
            known[context, reply, principle] = float(grade)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged: {error}; restore it from a copy, or delete it, and the judge "
                "is asked anew"
            ) from None
    if lines[-1]:
        with writing(path, "and try again"):
            os.truncate(path, path.stat().st_size - len(lines[-1]))
    return known


def append_grades(path: Path, grades: Mapping[Graded, float]) -> None:
    """Append grades to a file, and wait until they are on the disk."""
    with (
        writing(path, "and go on with `prefrl resume`"),
        path.open("a", encoding="utf-8") as file,
    ):
        file.writelines(json.dumps([*asked, grade]) + "\n" for asked, grade in grades.items())
        file.flush()
        os.fsync(file.fileno())
