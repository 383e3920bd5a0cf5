"""The folder of a sweep: what is to be run, and a run folder for each cell.

    sweep.json      the cells: names, axes and experiments; how each run is evaluated
    sweep.sqlite    who works on the sweep: one process at a time
    logs/           NAME.txt: what the process that ran a cell last had to say
    NAME/           the run folder of a cell

What was run before with other settings stays in folders that `sweep.json` no longer names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrl.config.as_json import from_json, to_json
from prefrl.config.experiment import Experiment
from prefrl.config.sweep import Cell, Sweep
from prefrl.errors import StoreError, UserError
from prefrl.storage.files import writing
from prefrl.storage.folder import RunFolder, read_fields, write_fields
from prefrl.storage.formats import Fields
from prefrl.storage.sqlite import SQLite
from prefrl.storage.trainer import Trained, holder, in_words

SWEEP = "sweep.json"


class SweepFolder:
    """One sweep's files."""

    def __init__(self, path: Path | str):
        self.path = Path(path).absolute()
        self._owner: SQLite | None = None

    @classmethod
    def open(cls, path: Path | str) -> SweepFolder:
        """Open an existing folder.

        Raises:
            UserError: there is no sweep in it.
        """
        folder = cls(path)
        if not folder.exists():
            raise UserError(
                f"{folder.path} holds no sweep (no {SWEEP}); sweeps are made by `prefrl sweep FILE`"
            )
        return folder

    def exists(self) -> bool:
        """Return whether a sweep is kept in the folder."""
        return (self.path / SWEEP).is_file()

    def claim(self) -> None:
        """Make the folder, if it is not there, and be the one that works on it, until `close`.

        Raises:
            UserError: another process works on it, or it holds something else.
        """
        with writing(self.path, "and start it again"):
            self.path.mkdir(parents=True, exist_ok=True)
            others = [path for path in self.path.iterdir() if not path.name.startswith("sweep.")]
        if others and not self.exists():
            raise UserError(
                f"{self.path} exists already and holds no sweep; give another folder with --folder"
            )
        owner = SQLite(self.path / "sweep.sqlite")
        try:
            owner.fence.claim()
        except Trained:
            known = holder(owner)
            owner.close()
            if known is None:  # it ended just now
                return self.claim()
            raise UserError(
                f"{self.path} is being worked on by {in_words(known)}; wait until it has "
                f"finished, end it (process {known.process.number}), or give another folder with "
                "--folder"
            ) from None
        except StoreError:
            owner.close()
            raise
        self._owner = owner

    def check_claim(self) -> None:
        """Raise `UserError` if another process works on the sweep by now."""
        if self._owner:
            with self._owner.transaction():
                pass

    def close(self) -> None:
        """Let others work on the sweep."""
        if self._owner:
            self._owner.close()
            self._owner = None

    def save(self, sweep: Sweep) -> None:
        """Write what is to be run."""
        cells = [
            {"name": cell.name, "axes": cell.axes, "experiment": to_json(cell.experiment)}
            for cell in sweep.cells
        ]
        fields = {name: value for name, value in vars(sweep).items() if name != "cells"}
        with writing(self.path / SWEEP, "and start it again"):
            write_fields(self.path, SWEEP, fields | {"cells": cells})

    def sweep(self) -> Sweep:
        """Read what is to be run.

        Raises:
            UserError: it is damaged, or another version wrote it.
        """
        with read_fields(self.path, SWEEP, "start the sweep again from its file") as fields:
            settings = {name: value for name, value in fields.items() if name != "cells"}
            settings["tasks"] = tuple(settings["tasks"])
            return Sweep(tuple(map(_cell, fields["cells"])), **settings)

    def run(self, cell: Cell) -> RunFolder:
        """Return the run folder of a cell, whether it is there or not."""
        return RunFolder(self.path / cell.name)

    def log(self, cell: Cell) -> Path:
        """Return the file for what the process that runs a cell says."""
        logs = self.path / "logs"
        logs.mkdir(exist_ok=True)
        return logs / f"{cell.name}.txt"


def _cell(fields: Fields) -> Cell:
    axes: dict[str, Any] = fields["axes"]
    return Cell(fields["name"], axes, from_json(Experiment, fields["experiment"]))
