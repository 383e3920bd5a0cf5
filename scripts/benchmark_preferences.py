"""How close does a learned reward come to the true one?

For each seed: a random policy, the agent trained on the true reward, and the same agent, steps and
seed trained from so many labels. Runs go side by side, one physics thread each; a run whose folder
is already complete is not run again, an interrupted one is resumed. Prints one JSON object:
for each budget the ratio (return − random) / (true − random) of the seeds' means with an interval
(bootstrap over seeds, 95 %), every seed's evaluation, and the same ratio for a number that the
environment reports, if one is named.

    python scripts/benchmark_preferences.py --preset hopper-backflip --seeds 5 \
        --labels 900 400 200 --number clean_flips
"""

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from prefrl.control.build import fresh_environments
from prefrl.control.policy import RandomPolicy, evaluate
from prefrl.runs.versions import versions
from prefrl.storage.folder import RunFolder


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
    steps: int | None = None
    """Steps of every run; the preset's by default."""
    more: str = ""
    """Further flags of every run, as one word: --more="--rounds 10"."""
    number: str | None = None
    """A number in the environment's info to make a ratio of, too."""
    folder: Path = Path("runs/benchmark")
    """Where the run folders go."""
    jobs: int = 2
    """Runs side by side."""
    episodes: int = 20
    """Episodes of an evaluation."""


def main() -> None:
    """Run everything that is not there yet and print the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    budgets = [None, *arguments.labels]
    work = [(seed, labels) for labels in budgets for seed in range(arguments.seeds)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda job: run_one(arguments, *job), work))
    reports = dict(zip(work, results, strict=True))
    randoms = [random_report(arguments, seed) for seed in range(arguments.seeds)]
    trues = [reports[seed, None] for seed in range(arguments.seeds)]
    table = {}
    for labels in arguments.labels:
        learned = [reports[seed, labels] for seed in range(arguments.seeds)]
        table[str(labels)] = {
            "return_ratio": ratio(*(list(map(true_return, r)) for r in (learned, trues, randoms)))
        }
        if arguments.number:
            numbers = [
                [r["policy"]["info"][arguments.number] for r in rs]
                for rs in (learned, trues, randoms)
            ]
            table[str(labels)][f"{arguments.number}_ratio"] = ratio(*numbers)
        table[str(labels)]["seeds"] = learned
    print(
        json.dumps(
            {
                "env": trues[0]["env"],
                "versions": versions(),
                "labels": table,
                "true": trues,
                "random": randoms,
            },
            indent=1,
        )
    )


def run_one(arguments: Arguments, seed: int, labels: int | None) -> dict:
    """Train one run, unless it is there, and return its evaluation and seconds."""
    path = run_path(arguments, seed, labels)
    what = [arguments.preset] if arguments.preset else ["--env", arguments.env]
    words = [*what, "--seed", seed, "--run", path, "--threads", 1]
    words += ["--reward", "true"] if labels is None else ["--labels", labels]
    words += ["--steps", arguments.steps] if arguments.steps else []
    words += shlex.split(arguments.more)
    if not path.exists():
        prefrl("train", *words)
    elif len(RunFolder(path).metrics()) <= RunFolder(path).experiment().round_count:
        prefrl("resume", path)
    report = json.loads(prefrl("evaluate", path, "--json", "--episodes", arguments.episodes))
    sampled = json.loads(
        prefrl("evaluate", path, "--json", "--sample", "--episodes", arguments.episodes)
    )
    report["sampling_policy"] = sampled["policy"]
    parts = [line for line in RunFolder(path).timings()]
    report["seconds"] = sum(
        value for part in parts for key, value in part.items() if key != "round"
    )
    print(path.name, report["policy"], file=sys.stderr, flush=True)
    return report


def run_path(arguments: Arguments, seed: int, labels: int | None) -> Path:
    """Return the run folder of one seed and budget; None is the true reward."""
    stem = (arguments.preset or arguments.env or "").replace("/", "-")
    return arguments.folder / f"{stem}-{'true' if labels is None else labels}-{seed}"


def random_report(arguments: Arguments, seed: int) -> dict:
    """Return the evaluation of uniform random actions."""
    experiment = RunFolder(run_path(arguments, seed, None)).experiment()
    environments = fresh_environments(experiment, arguments.episodes, seed)
    achieved = evaluate(environments, RandomPolicy(environments.description, seed))
    return {"policy": dataclasses.asdict(achieved)}


def true_return(report: dict) -> float:
    """Return the mean true return of an evaluation."""
    return report["policy"]["true_return"]["mean"]


def ratio(
    learned: Sequence[float], true: Sequence[float], zero: Sequence[float]
) -> dict[str, object]:
    """Return (learned − zero) / (true − zero) of means, with a bootstrap interval over seeds."""
    values = np.array([learned, true, zero])
    generator = np.random.default_rng(0)
    draws = generator.integers(values.shape[1], size=(10_000, values.shape[1]))

    def of(means: np.ndarray) -> np.ndarray:
        return (means[0] - means[2]) / (means[1] - means[2])

    spread = of(values[:, draws].mean(-1))
    low, high = np.percentile(spread, [2.5, 97.5])
    each = ((values[0] - values[2]) / (values[1] - values[2])).tolist()
    return {"mean": float(of(values.mean(1))), "interval": [float(low), float(high)], "each": each}


def prefrl(*words: object) -> str:
    """Run a prefrl command and return what it printed."""
    command = [sys.executable, "-m", "prefrl.cli", *map(str, words)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main()
