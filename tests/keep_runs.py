"""Makes the folders in tests/kept/, small ones of each kind, as this version writes them.

    python tests/keep_runs.py

They stay as they were made: `test_kept_runs.py` opens them with whatever version there is, which is
how a change of a format without its migration is noticed. Only where a format was changed and its
migration has a test of its own may a folder of the new format be made beside the old ones, under
another name.
"""

import contextlib
import dataclasses
import shutil
import sqlite3
import tempfile
from pathlib import Path

import toy_texts
from toy_environments import tiny

from prefrl.cli import main
from prefrl.config.experiment import Experiment
from prefrl.config.sweep import Cell, Sweep
from prefrl.config.text import TextConfig
from prefrl.runs.sweep import finish_all
from prefrl.runs.train import train
from prefrl.storage.folder import RunFolder

KEPT = Path(__file__).parent / "kept"


def keep() -> None:
    """Make every folder that is not there."""
    robot, text, comparison, fitted = (
        str(KEPT / name) for name in ("robot", "text", "comparison", "fitted")
    )
    with tempfile.TemporaryDirectory() as scratch:
        model = toy_texts.save_small_model(Path(scratch) / "model")
        experiment = toy_texts.tiny_text(model, rounds=2, steps=32)
        _keep(robot, tiny(env="toy_environments:toy/Pay-v0", rounds=2, steps=256))
        _keep(text, dataclasses.replace(experiment, env="toy_texts:texts/Letters-v0"))
        if not Path(comparison).exists():  # clips say which folder their policy lies in
            copy = str(shutil.copytree(robot, Path(scratch) / "robot"))
            teacher = ["--teacher", "toy_environments:prefer_larger"]
            main(["compare", copy, copy, "--pairs", "3", "--into", comparison, *teacher])
    if not Path(fitted).exists():
        main(["fit", text, "-o", fitted, "--epochs", "1"])
    _keep_sweep(KEPT / "sweep")
    for ledger in KEPT.glob("*/feedback.sqlite"):
        _forget_the_machine(ledger)


def _keep(path: str, experiment: Experiment) -> None:
    if Path(path).exists():
        return
    folder = train(experiment, path)
    (folder.path / "checkpoints" / "round-0001.pt").unlink()
    shutil.rmtree(folder.path / "tb", ignore_errors=True)
    if isinstance(experiment.domain, TextConfig):  # whose model lay in a folder that goes away
        domain = dataclasses.replace(experiment.domain, model="tiny")
        RunFolder(folder.path).save_experiment(dataclasses.replace(experiment, domain=domain))


def _keep_sweep(path: Path) -> None:
    """Keep what a table is made of; the run folders are those of other runs."""
    if path.exists():
        return
    experiment = tiny(env="toy_environments:toy/Pay-v0", rounds=2, steps=256, reward="true")
    finish_all(path, Sweep((Cell("", {"reward": "true", "seed": 0}, experiment),), (), 2))
    shutil.rmtree(path / "logs")
    for file in path.rglob("*.*"):
        if file.is_file() and file.suffix != ".json":
            file.unlink()
    for folder in [*path.glob("*/checkpoints"), *path.glob("*/tb")]:
        folder.rmdir()


def _forget_the_machine(ledger: Path) -> None:
    """Take out who trained, and put what waits in the write-ahead log into the file."""
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        database.execute("UPDATE trainer SET host = 'somewhere', scope = '', process = NULL")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for rest in ("-wal", "-shm"):
        ledger.with_name(ledger.name + rest).unlink(missing_ok=True)


if __name__ == "__main__":
    keep()
