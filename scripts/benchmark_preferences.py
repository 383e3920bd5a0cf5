"""How close does a learned reward come to the true one?

A sweep: for each seed the agent trained on the true reward, and the same agent, steps and seed
trained from so many labels. What has finished is not run again, what was interrupted goes on.
Prints one JSON object: for each budget the ratio (return − random) / (true − random), mean and
interquartile mean over seeds with their intervals (`learning.statistics.ratios`), every seed's
evaluation, and the same ratio for a number that the environment reports, if one is named.

    python scripts/benchmark_preferences.py --preset hopper-backflip --labels 900 400 200
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from prefrl.reports.table import tabulate
from prefrl.runs.grid import make_sweep
from prefrl.runs.sweep import finish_all
from prefrl.runs.versions import versions


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    preset: str | None = None
    """Preset to run; or give --env."""
    env: str | None = None
    """Environment to run with default settings."""
    seeds: int = 5
    """Seeds 0 to this, exclusive."""
    labels: tuple[int, ...] = (700,)
    """Budgets of labels."""
    more: tuple[str, ...] = ()
    """Further options of every run, as in the file of a sweep: --more "rounds = 10"."""
    number: str = ""
    """A number in the environment's info to make a ratio of, too."""
    folder: Path = Path("runs/benchmark")
    """Folder of the sweep."""
    jobs: int | None = None
    """Runs side by side; as many as there are cores by default."""
    episodes: int = 20
    """Episodes of an evaluation."""


def main() -> None:
    """Run everything that is not there yet and print the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    folder = finish_all(arguments.folder, make_sweep(grid(arguments)), arguments.jobs)
    found: dict[str, Any] = {}
    for name in filter(None, ["return", arguments.number]):
        for row in tabulate(folder, "" if name == "return" else name).rows:
            if row.axes["reward"] == "learned":
                found.setdefault(str(row.axes["labels"]), {})[f"{name}_ratio"] = row.ratio
    cells = folder.sweep().cells
    evaluations = [(cell, folder.run(cell).evaluation()) for cell in cells]
    for labels, ratios in found.items():
        ratios["seeds"] = [e for cell, e in evaluations if str(cell.axes.get("labels")) == labels]
    true = [e for cell, e in evaluations if cell.axes["reward"] == "true"]
    env = cells[0].experiment.env
    print(json.dumps({"env": env, "versions": versions(), "labels": found, "true": true}, indent=1))


def grid(arguments: Arguments) -> dict[str, Any]:
    """Return the sweep as its file would have it."""
    task = {"preset": arguments.preset} if arguments.preset else {"env": arguments.env or ""}
    rewards = {"learned": {"labels": list(arguments.labels)}, "true": {"reward": "true"}}
    return tomllib.loads("\n".join(arguments.more)) | task | {
        "seed": list(range(arguments.seeds)),
        "variants": {"reward": rewards},
        "sweep": {"episodes": arguments.episodes},
    }  # fmt: skip


if __name__ == "__main__":
    main()
