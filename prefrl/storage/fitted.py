"""The folder of a reward model that `prefrl fit` made: the only module that knows its file names.

    fitted.json         how it was built, and where its weights are
    metrics.jsonl       a line a pass over the answers
    report.json         how good the pass is that was kept
    config.json, model.safetensors, tokenizer…   the model as transformers' sequence classifier

Where it is several models, or transformers has no such class for them, there are instead:

    weights.pt          its weights
    reference/          the language model that it began as
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.config.as_json import from_json, to_json
from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.storage.folder import as_bytes, read_fields
from prefrl.storage.formats import Fields, stamped


@dataclass(frozen=True)
class Fitted:
    """How a reward model was built."""

    text: TextConfig
    seed: int
    calibration: dict[str, Any] | None = None
    """Of a sequence classifier, whose weights cannot hold it: `mean` and `std`, `[member]`."""


class FittedFolder:
    """The files of a reward model that was fitted without a run."""

    def __init__(self, path: Path | str):
        self.path = Path(path).absolute()
        self.reference = self.path / "reference"

    @property
    def is_one(self) -> bool:
        """Whether there is a reward model."""
        return (self.path / "fitted.json").is_file()

    def save(
        self, fitted: Fitted, weights: bytes | None, metrics: Sequence[dict[str, float]],
        report: Fields | None = None,
    ) -> None:  # fmt: skip
        """Write all but what transformers writes.

        Args:
            fitted: how the reward model was built.
            weights: its state; None of a sequence classifier.
            metrics: a line a pass over the answers.
            report: on the pass that was kept.
        """
        how = {"seed": fitted.seed, "text": to_json(fitted.text)}
        if fitted.calibration:
            how["calibration"] = fitted.calibration
        files = {
            "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in metrics).encode(),
            "fitted.json": as_bytes(stamped("fitted.json", how)),
        }
        if weights is not None:
            files["weights.pt"] = weights
        if report:
            files["report.json"] = as_bytes(stamped("report.json", report))
        for name, data in files.items():  # the folder appears whole: see `files.new_folder`
            (self.path / name).write_bytes(data)

    def load(self) -> tuple[Fitted, bytes | None]:
        """Read how it was built, and its weights, which are None of a sequence classifier.

        Raises:
            UserError: there is none, it is damaged, or another version wrote it.
        """
        if not self.is_one:
            raise UserError(
                f"{self.path} holds no reward model (no fitted.json); they are made by `prefrl fit`"
            )
        with read_fields(self.path, "fitted.json", "fit it again") as how:
            text, calibration = from_json(TextConfig, how["text"]), how.get("calibration")
            fitted = Fitted(text, int(how["seed"]), calibration)
            return fitted, None if calibration else (self.path / "weights.pt").read_bytes()
