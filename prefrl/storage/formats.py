"""The formats that the JSON files of a folder are written in, and how older ones are read.

Whoever changes what a file holds raises its number in `FORMATS` and adds a step to `MIGRATIONS`:
it is given the fields as the format before had them, and returns them as this one has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from prefrl.errors import UserError

Fields = dict[str, Any]

FORMATS = {
    "config.json": 2,
    "earlier.json": 1,
    "environment.json": 1,
    "evaluation.json": 1,
    "fitted.json": 2,
    "guide.json": 1,
    "links.json": 1,
    "outcome.json": 1,
    "report.json": 1,
    "status.json": 1,
    "store.json": 1,
    "sweep.json": 1,
    "unfinished.json": 1,
    "welcomed.json": 1,
}

Kind = Literal["run", "comparison"]  # what a folder holds, which its config.json says


def _with_its_kind(fields: Fields) -> Fields:
    """Let config.json say what the folder holds; the teacher of a comparison once did."""
    if fields.get("teacher") == "comparison":
        return fields | {"kind": "comparison", "teacher": "human"}
    return fields | {"kind": "run"}


MIGRATIONS: dict[tuple[str, int], Callable[[Fields], Fields]] = {
    ("config.json", 1): _with_its_kind,
    ("fitted.json", 1): lambda fields: fields,  # it has no calibration: weights.pt holds it
}
"""By file and the format that it comes from; each leads to the next one."""


class AnotherVersion(Exception):
    """A file is whole, but another version of prefrl wrote it."""


def stamped(name: str, fields: Fields) -> Fields:
    """Return what to write into a file: its format, and the fields."""
    return {"format": FORMATS[name]} | fields


def migrated(name: str, fields: Fields) -> Fields:
    """Return the fields of a file as its present format has them.

    Raises:
        AnotherVersion: no step leads from its format to the present one.
    """
    version, fields = fields.get("format"), {k: v for k, v in fields.items() if k != "format"}
    reached = version
    while isinstance(reached, int) and (name, reached) in MIGRATIONS:
        fields, reached = MIGRATIONS[name, reached](fields), reached + 1
    if reached != FORMATS[name]:
        raise AnotherVersion(
            f"the format of its {name} is {version}, this one reads {FORMATS[name]}"
        )
    return fields


def another_version(path: Path | str, because: str) -> UserError:
    """Return what to say of a file, folder or database that is whole, but another version's."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        made_by = json.loads((folder / "versions.json").read_text(encoding="utf-8"))["prefrl"]
    except (OSError, KeyError, TypeError, ValueError):
        made_by = ""
    return UserError(
        f"{path} was written by another version of prefrl ({because}); use the version that made "
        "it" + (f", {made_by}" if made_by else "")
    )
