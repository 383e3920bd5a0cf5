"""Every way to learn from one set of answers, side by side. Prints one JSON object.

The runs are those of scripts/sweeps/family.toml: each learner aims at 1, 2 and 4 nats from one
reference, with every seed, from the very same answers about the reference, and from as many of
which some are about what it has made of it by then. So what comes of the learner and what comes of
newer answers are apart. What each reaches is told as a fraction of the optimum's gain, as
scripts/benchmark_frontier.py has it. What has finished is not run again.

    python scripts/benchmark_family.py
    python scripts/benchmark_family.py --seeds 1 --answers reference --methods PPO DPO --targets 2
"""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmark_frontier as frontier
import numpy as np
import tyro

from prefrl.config.presets import preset
from prefrl.config.sweep import Cell
from prefrl.learning.statistics import estimate
from prefrl.runs.grid import make_sweep
from prefrl.runs.load import load_policy
from prefrl.runs.sweep import finish_all
from prefrl.runs.versions import versions
from prefrl.storage.folder import RunFolder
from prefrl.text.evaluation import measure
from prefrl.text.models.device import autocast_for, find_device, use_threads
from prefrl.text.models.load import load_language_model
from prefrl.text.policy import TextPolicy

FILE = Path(__file__).parent / "sweeps" / "family.toml"
TARGET = "kl-target"


@dataclass(frozen=True)
class Arguments(frontier.Arguments):
    """What to compare."""

    seeds: int = 3
    """Seeds 0 to this, exclusive."""
    answers: tuple[str, ...] = ()
    """What answers are about: reference, on the way; by default both."""
    methods: tuple[str, ...] = ()
    """Of those of the sweep; by default all."""
    folder: Path = Path("runs/family")
    """Where the reference and the sweep go."""


def main() -> None:
    """Run everything that is not there yet, measure it and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    reference = frontier.fine_tuned(arguments)
    sweep = make_sweep(grid(arguments, reference))
    folder = finish_all(arguments.folder / "sweep", sweep, arguments.jobs)
    runs = [(cell, folder.run(cell)) for cell in folder.sweep().cells]
    print(json.dumps(measured(arguments, reference, runs), indent=1))


def grid(arguments: Arguments, reference: Path) -> dict[str, Any]:
    """Return the sweep as its file has it, or what is asked for of it."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    table |= {"preset": arguments.preset, "seed": list(range(arguments.seeds))}
    table |= {"text.model": str(reference.absolute()), "text.demonstrations": 0}
    for axis, names in (("answers", arguments.answers), ("method", arguments.methods)):
        variants = table["variants"][axis]
        table["variants"][axis] = {name: variants[name] for name in names or variants}
    for options in table["variants"]["method"].values():
        for learner in options["text"].values():
            if isinstance(learner, dict) and "kl_target" in learner:
                learner["kl_target"] = list(arguments.targets)
    return table | tomllib.loads("\n".join(arguments.more))


def measured(
    arguments: Arguments, reference_folder: Path, runs: Sequence[tuple[Cell, RunFolder]]
) -> dict[str, Any]:  # fmt: skip
    """Return what reference, optimum and every run come to."""
    experiment = runs[0][1].experiment()
    model = load_language_model(str(reference_folder), device=find_device(experiment.text.device))
    use_threads(model.model, arguments.jobs)
    autocast = autocast_for(experiment.text, model.model.device)
    reference = TextPolicy(model, experiment.text, autocast)
    tasks = frontier.different_tasks(experiment, arguments.tasks)
    optimum = frontier.Optimum(returns(arguments, reference, tasks))
    reports = [report(arguments, *run, reference, optimum, tasks) for run in runs]
    return {
        "env": experiment.env,
        "labels": experiment.labels,
        "reference": optimum.reference,
        "optimum": {f"{t:g}": optimum.at(t)[0].true_return for t in arguments.targets},
        "table": rows(reports),
        "runs": reports,
        "versions": versions(),
    }


def returns(arguments: Arguments, reference: TextPolicy, tasks: Sequence[int]) -> list[np.ndarray]:
    """Return the true returns of the reference's replies, `[reply]` of each task, kept in a file.

    They take longer than many a run, and are the same for all.
    """
    path = arguments.folder / f"returns-{arguments.tasks}-{arguments.samples}.npy"
    if not path.exists():
        played = frontier.sampled(
            preset(arguments.preset).experiment, reference, tasks, arguments.samples
        )
        np.save(path, np.array([frontier.returns_of(task) for task in played]))
    return [*np.load(path)]


def report(
    arguments: Arguments, cell: Cell, folder: RunFolder, reference: TextPolicy,
    optimum: frontier.Optimum, tasks: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """Return how far a run's policy went, what it earns and what that took."""
    policy, lines = load_policy(folder.path), folder.metrics()
    by_task = frontier.sampled(folder.experiment(), policy, tasks, arguments.episodes)
    episodes = [episode for task in by_task for episode in task]
    kl = estimate([nats.sum() for nats in measure(policy, episodes, reference).kl])
    true_return = estimate(frontier.returns_of(episodes))
    targets = [value for name, value in cell.axes.items() if name.endswith(TARGET)]
    return {
        "answers": cell.axes["answers"], "method": cell.axes["method"],
        "target": targets[0] if targets else None, "seed": cell.experiment.seed,
        "kl": kl, "true_return": true_return,
        "fraction": optimum.fraction(frontier.Point(kl["mean"], true_return["mean"])),
        "finished": float(np.mean([episode.finished[-1] for episode in episodes])),
        "answered": lines[-1]["answered"], "samples": lines[-1]["steps"],
        "seconds": sum(sum(line.values()) for line in folder.timings()),
    }  # fmt: skip


def rows(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each source of answers, method and target: means over the seeds."""
    keys = dict.fromkeys((r["answers"], r["method"], r["target"]) for r in reports)
    lines = []
    for key in keys:
        same = [r for r in reports if (r["answers"], r["method"], r["target"]) == key]
        known = [r["fraction"] for r in same if r["fraction"] is not None]
        lines.append(
            {
                "answers": key[0], "method": key[1], "target": key[2], "seeds": len(same),
                "kl": float(np.mean([r["kl"]["mean"] for r in same])),
                "true_return": float(np.mean([r["true_return"]["mean"] for r in same])),
                "fraction": float(np.mean(known)) if len(known) == len(same) else None,
                "finished": float(np.mean([r["finished"] for r in same])),
            }
        )  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
