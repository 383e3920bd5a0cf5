"""What do two rewards make of a trade-off whose optimum is known? Prints one JSON object.

One reference is fine-tuned on the demonstrations of TinyReviewsTwo; from it PPO trains on the two
learned rewards, favour and safety, added up with each weight, and by Llama 2's threshold. What each
run reaches is measured beside the optimum: the reference's own replies, weighted by
exp((w · favour + (1 − w) · safety) / β), both in deviations, as rewards are calibrated; where none
may be unsafe, those that are left out.

`hypervolume` is what the points of all weights dominate of what lies above the reference, as a
share of what the optimum's points of the same weights do at the divergence that was reached in the
mean. `threshold` has the share of unsafe replies, and favour as a share of what the safe optimum
has at its divergence. The runs are a sweep: what has finished is not run again.

    python scripts/benchmark_aspects.py --seeds 3
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from prefrl.config.experiment import Experiment
from prefrl.config.presets import preset
from prefrl.learning.statistics import estimate
from prefrl.runs.grid import make_sweep
from prefrl.runs.load import load_policy
from prefrl.runs.sweep import finish_all
from prefrl.runs.versions import versions
from prefrl.storage.folder import RunFolder
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode
from prefrl.text.evaluation import fresh_environments, measure
from prefrl.text.models.device import autocast_for, find_device, use_threads
from prefrl.text.models.load import load_language_model
from prefrl.text.policy import TextPolicy

PRESET = "tiny-reviews-two"
ASPECTS = "favour", "safety"
THRESHOLD = "threshold"
KL_HORIZON = 1000  # episodes; these runs are short
TASK_SEED, TASKS = 7_000_003, 4  # apart from the seeds of training; one for each subject
SIDE_BY_SIDE = 512  # episodes
SHARPEST = 1e3
HALVINGS = 50


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Weights of favour; safety has the rest."""
    target: float = 2.0
    """Nats of divergence that the runs of weights aim at."""
    threshold_target: float = 4.0
    """Nats that those of the threshold aim at."""
    seeds: int = 1
    """Seeds 0 to this, exclusive."""
    demonstrations: int | None = None
    """Demonstrations that the reference is fine-tuned on; the preset's by default."""
    more: tuple[str, ...] = ()
    """Further options of every run, as in the file of a sweep: --more "labels = 500"."""
    samples: int = 20_000
    """Replies of the reference to each task."""
    episodes: int = 1024
    """Replies of each trained policy to each."""
    folder: Path = Path("runs/aspects")
    """Where the reference and the sweep go."""
    jobs: int = 2
    """Runs side by side."""


class Point(NamedTuple):
    """What a distribution over replies comes to."""

    kl: float
    """Nats of a reply from the reference."""
    favour: float
    safety: float


class Optimum:
    """What the reference's replies, weighted, come to."""

    def __init__(self, favour: np.ndarray, safety: np.ndarray):
        """Take the true returns of the reference's replies, `[reply]` each."""
        self.favour, self.safety = favour, safety
        self.reference = Point(0.0, float(favour.mean()), float(safety.mean()))

    def weighted(self, weight: float, kl: float) -> Point:
        """Return the optimum of a weight of favour at a divergence; less where there is no more."""
        favour, safety = (r / max(float(r.std()), 1e-8) for r in (self.favour, self.safety))
        return self._at(weight * favour + (1 - weight) * safety, kl, np.ones(len(favour), bool))

    def safe(self, kl: float) -> Point | None:
        """Return the most favour of safe replies alone; None where they alone are farther away."""
        safe = self.safety == 0
        if not safe.any() or -np.log(safe.mean()) > kl:
            return None
        return self._at(self.favour, kl, safe)

    def _at(self, values: np.ndarray, kl: float, allowed: np.ndarray) -> Point:
        low, high = 0.0, SHARPEST
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self._sharp(values, middle, allowed).kl < kl else (low, middle)
            )
        return self._sharp(values, low, allowed)

    def _sharp(self, values: np.ndarray, sharpness: float, allowed: np.ndarray) -> Point:
        exponents = np.where(allowed, sharpness * values, -np.inf)
        weights = np.exp(exponents - exponents.max())
        weights /= weights.sum()
        held = weights[weights > 0]
        kl = float((held * np.log(held * len(weights))).sum())
        return Point(kl, float((weights * self.favour).sum()), float((weights * self.safety).sum()))


def hypervolume(points: Sequence[Point], above: Point) -> float:
    """Return the area that points dominate of what lies above another in both aspects."""
    area, reached = 0.0, above.safety
    for point in sorted(points, key=lambda p: -p.favour):
        if point.favour > above.favour and point.safety > reached:
            area += (point.favour - above.favour) * (point.safety - reached)
            reached = point.safety
    return area


def main() -> None:
    """Run everything that is not there yet, measure it and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    reference = fine_tuned(arguments)
    sweep = make_sweep(grid(arguments, reference))
    folder = finish_all(arguments.folder / "sweep", sweep, arguments.jobs)
    runs = [(folder.run(cell), cell.axes) for cell in folder.sweep().cells]
    print(json.dumps(measured(arguments, reference, runs), indent=1))


def fine_tuned(arguments: Arguments) -> Path:
    """Return the folder of the reference, made if it is not there yet."""
    experiment, folder = preset(PRESET).experiment, arguments.folder / "reference"
    if not folder.exists():
        text = experiment.text
        words = [
            "sft", "--model", text.model, "--env", experiment.env, "--output", folder,
            "--demonstrations", arguments.demonstrations or text.demonstrations,
            "--epochs", text.sft_epochs,
            "--learning-rate", text.sft_learning_rate, "--batch-size", text.sft_batch_size,
        ]  # fmt: skip
        command = [sys.executable, "-m", "prefrl.cli", *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def grid(arguments: Arguments, reference: Path) -> dict[str, Any]:
    """Return the sweep as its file would have it."""
    rules: dict[str, Any] = {
        f"{weight:g}": {"rule.weights": [weight, 1 - weight]} | aiming(arguments.target)
        for weight in arguments.weights
    }
    rules[THRESHOLD] = {"rule.kind": "threshold"} | aiming(arguments.threshold_target)
    return tomllib.loads("\n".join(arguments.more)) | {
        "preset": PRESET, "seed": list(range(arguments.seeds)),
        "text.model": str(reference.absolute()), "text.demonstrations": 0,
        "text.ppo.kl-horizon": KL_HORIZON, "text.ppo.missing-end-penalty": 0,
        "variants": {"rule": rules},
        "sweep": {"episodes": 1},  # they are measured here
    }  # fmt: skip


def aiming(target: float) -> dict[str, float]:
    """Return the options of a target divergence, with the coefficient that suits it at first."""
    return {"text.ppo.kl-target": target, "text.ppo.kl-coef": 1 / sqrt(2 * target)}


def measured(
    arguments: Arguments, reference: Path, runs: Sequence[tuple[RunFolder, dict[str, Any]]]
) -> dict[str, Any]:
    """Return what reference, optimum and every run come to."""
    experiment = runs[0][0].experiment()
    model = load_language_model(str(reference), device=find_device(experiment.text.device))
    use_threads(model.model, arguments.jobs)
    policy = TextPolicy(model, experiment.text, autocast_for(experiment.text, model.model.device))
    tasks = different_tasks(experiment)
    optimum = Optimum(*returns_of(sampled(experiment, policy, tasks, arguments.samples)))
    reports = [run_report(arguments, *run, policy, optimum, tasks) for run in runs]
    by_seed = [
        [report for report in reports if report["seed"] == seed] for seed in range(arguments.seeds)
    ]
    return {
        "env": experiment.env,
        "labels": experiment.labels,
        "reference": optimum.reference._asdict()
        | {"unsafe": float((optimum.safety < 0).mean()), "samples": len(optimum.safety)},
        "optimum": [
            {"weight": weight} | optimum.weighted(weight, arguments.target)._asdict()
            for weight in arguments.weights
        ],
        "hypervolume": [front(seed, optimum, arguments.target) for seed in by_seed],
        THRESHOLD: [r for r in reports if r["rule"] == THRESHOLD],
        "runs": reports,
        "versions": versions(),
    }


def front(reports: Sequence[dict[str, Any]], optimum: Optimum, target: float) -> dict[str, float]:
    """Return the hypervolume of a seed's runs of weights, and its shares of the optimum's.

    The optimum has the same weights, at the divergence that is aimed at (`share`), or each at the
    one that its run came to (`share_at_own_kl`).
    """
    runs = {float(r["rule"]): r for r in reports if r["rule"] != THRESHOLD}
    points = [
        Point(r["kl"]["mean"], r["favour"]["mean"], r["safety"]["mean"]) for r in runs.values()
    ]
    own = hypervolume(points, optimum.reference)
    wanted, reached = (
        hypervolume(
            [optimum.weighted(*at) for at in zip(runs, kls, strict=True)], optimum.reference
        )
        for kls in ([target] * len(runs), [point.kl for point in points])
    )
    return {
        "kl": float(np.mean([point.kl for point in points])),
        "learned": own, "optimum": wanted, "share": own / wanted if wanted else 0.0,
        "share_at_own_kl": own / reached if reached else 0.0,
    }  # fmt: skip


def different_tasks(experiment: Experiment) -> list[int]:
    """Return a seed for each subject."""
    [environment] = fresh_environments(experiment, 1)
    seeds: dict[str, int] = {}
    number = 0
    while len(seeds) < TASKS:
        seed = task_seed(TASK_SEED, number)
        seeds.setdefault(environment.reset(seed=seed, options={"split": "test"})[0], seed)
        number += 1
    return list(seeds.values())


def sampled(
    experiment: Experiment, policy: TextPolicy, tasks: Sequence[int], count: int
) -> list[Episode]:
    """Return so many episodes of each task."""
    environments: list[Any] = []
    while len(environments) < SIDE_BY_SIDE:
        environments += fresh_environments(experiment, SIDE_BY_SIDE)
    every = [play(environments, policy, [task] * count, split="test") for task in tasks]
    return [episode for episodes in every for episode in episodes]


def returns_of(episodes: Sequence[Episode]) -> list[np.ndarray]:
    """Return the true returns of each aspect, `[episode]`."""
    return [np.array([sum(e.aspect_rewards[aspect]) for e in episodes]) for aspect in ASPECTS]


def run_report(
    arguments: Arguments, folder: RunFolder, axes: dict[str, Any], reference: TextPolicy,
    optimum: Optimum, tasks: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """Return how far a run's policy went and what it comes to."""
    policy = load_policy(folder.path)
    episodes = sampled(folder.experiment(), policy, tasks, arguments.episodes)
    kl = estimate([nats.sum() for nats in measure(policy, episodes, reference).kl])
    favour, safety = returns_of(episodes)
    report = {
        "rule": axes["rule"], "seed": axes["seed"], "kl": kl, "favour": estimate(favour),
        "safety": estimate(safety), "unsafe": estimate((safety < 0).astype(float)),
        "answered": folder.metrics()[-1].get("answered", 0),
    }  # fmt: skip
    if axes["rule"] == THRESHOLD:
        best = optimum.safe(kl["mean"])
        share = best and report["favour"]["mean"] / best.favour
        report |= {"safe_optimum": best and best.favour, "favour_share": share}
    return report


if __name__ == "__main__":
    main()
