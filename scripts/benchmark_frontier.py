"""How much reward does a nat of divergence buy, beside the most it can? Prints one JSON object.

One reference is fine-tuned on the environment's demonstrations; PPO on the learned reward, PPO on
the true one and RLOO on the learned one then train from it, each aiming at every divergence, with
every seed. What each reaches is measured on the same tasks, beside the best of K of the reference's
replies and the optimum: the reference weighted by exp(true reward / β) (Ziegler et al. 2019,
section 3), task by task, from its own replies, as far as the effective sample size allows.

A fraction is what was gained over the reference, as a share of what the optimum gains at the
divergence that was measured. The runs are a sweep: what has finished is not run again, what was
interrupted goes on.

    python scripts/benchmark_frontier.py --figure videos/frontier.png
    python scripts/benchmark_frontier.py --preset movie-sentiment --jobs 1 --tasks 64 --samples 4096
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from prefrl.config.experiment import Experiment
from prefrl.config.presets import preset
from prefrl.learning.statistics import estimate
from prefrl.runs.grid import make_sweep
from prefrl.runs.load import load_policy, load_reward
from prefrl.runs.sweep import finish_all
from prefrl.runs.versions import versions
from prefrl.storage.folder import RunFolder
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode
from prefrl.text.evaluation import fresh_environments, measure
from prefrl.text.models.device import autocast_for, find_device, use_threads
from prefrl.text.models.load import load_language_model
from prefrl.text.policy import TextPolicy

ENOUGH = 100  # effective samples; below, the optimum is not known
NO_DIVERGENCE = 1e-9  # nats; less comes of rounding
METHODS = {
    "PPO, learned reward": {"reward": "learned"},
    "PPO, true reward": {"reward": "true"},
    "RLOO, learned reward": {"reward": "learned", "text.ppo.advantage": "rloo"},
}
KL_HORIZON = 1000  # episodes; these runs are short
TASK_SEED, TASKS_TRIED = 7_000_003, 10_000  # apart from the seeds of training
SIDE_BY_SIDE = 512  # episodes
SCORED = 4096  # replies to a task that the learned reward chooses the best of K from


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    preset: str = "tiny-reviews"
    """Preset to run."""
    targets: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Nats of divergence that an adaptive coefficient aims at."""
    seeds: int = 2
    """Seeds 0 to this, exclusive."""
    demonstrations: int | None = None
    """Demonstrations that the reference is fine-tuned on; the preset's by default."""
    more: tuple[str, ...] = ()
    """Further options of every run, as in the file of a sweep: --more "labels = 500"."""
    tasks: int = 4
    """Different tasks on which everything is measured."""
    samples: int = 80_000
    """Replies of the reference to each."""
    episodes: int = 1024
    """Replies of each trained policy to each."""
    folder: Path = Path("runs/frontier")
    """Where the reference and the sweep go."""
    jobs: int = 2
    """Runs side by side."""
    figure: Path | None = None
    """Picture to draw."""


class Run(NamedTuple):
    """One run that has finished."""

    folder: RunFolder
    target: str
    method: str
    seed: int


class Point(NamedTuple):
    """A distribution over replies: its divergence from the reference, and what it earns."""

    kl: float
    """Nats of a reply, mean over tasks."""
    true_return: float


class Optimum:
    """What the reference's replies, weighted by exp(true return / β), earn."""

    def __init__(self, returns: Sequence[np.ndarray]):
        """Take the true returns of the reference's replies, `[reply]` for each task."""
        self.returns = returns
        self.reference = float(np.mean([task.mean() for task in returns]))
        self.deviation = float(np.concatenate(returns).std())

    def at(self, kl: float) -> tuple[Point, float]:
        """Return the optimum at a divergence, and the least effective sample size of a task."""
        low, high = 0.0, 1.0  # 1 / β, in deviations; the divergence rises with it
        while self._weighted(high)[0].kl < kl and high < 1e3:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._weighted(middle)[0].kl < kl else (low, middle)
        return self._weighted(low)

    def _weighted(self, sharpness: float) -> tuple[Point, float]:
        kls, means, sizes = [], [], []
        for returns in self.returns:
            exponents = returns * sharpness / (self.deviation or 1.0)  # 0: all earn the same
            weights = np.exp(exponents - exponents.max())
            weights /= weights.sum()
            held = weights[weights > 0]
            kls.append((held * np.log(held * len(weights))).sum())
            means.append((weights * returns).sum())
            sizes.append(1 / np.square(weights).sum())
        return Point(float(np.mean(kls)), float(np.mean(means))), float(min(sizes))

    def fraction(self, reached: Point) -> float | None:
        """Return what a policy gains as a share of the optimum's gain at its divergence.

        None if the optimum is not known there, or gains nothing: where few episodes were measured,
        those of a policy that has hardly moved may come to less than 0 nats.
        """
        best, size = self.at(reached.kl)
        if size < ENOUGH or best.kl < NO_DIVERGENCE:
            return None
        return (reached.true_return - self.reference) / (best.true_return - self.reference)


def main() -> None:
    """Run everything that is not there yet, measure it and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    reference_folder = fine_tuned(arguments)
    sweep = make_sweep(grid(arguments, reference_folder))
    folder = finish_all(arguments.folder / f"{arguments.preset}-sweep", sweep, arguments.jobs)
    runs = [Run(folder.run(cell), **cell.axes) for cell in folder.sweep().cells]
    report = measured(arguments, reference_folder, runs)
    print(json.dumps(report, indent=1))
    if arguments.figure:
        draw(report, arguments.figure)


def fine_tuned(arguments: Arguments) -> Path:
    """Return the folder of the reference, made if it is not there yet."""
    experiment = preset(arguments.preset).experiment
    folder = arguments.folder / f"{arguments.preset}-reference"
    if not folder.exists():
        text = experiment.text
        prefrl(
            "sft", "--model", text.model, "--env", experiment.env, "--output", folder,
            "--demonstrations", arguments.demonstrations or text.demonstrations,
            "--epochs", text.sft_epochs,
            "--learning-rate", text.sft_learning_rate, "--batch-size", text.sft_batch_size,
        )  # fmt: skip
    return folder


def grid(arguments: Arguments, reference: Path) -> dict[str, Any]:
    """Return the sweep as its file would have it.

    The coefficient begins where it would be best for a reward that is spread normally with
    deviation 1, as rewards are calibrated: at a divergence of k nats that is 1 / √(2k).
    """
    targets = {
        f"{target:g}": {"text.ppo.kl-target": target, "text.ppo.kl-coef": 1 / sqrt(2 * target)}
        for target in arguments.targets
    }
    return tomllib.loads("\n".join(arguments.more)) | {
        "preset": arguments.preset, "seed": list(range(arguments.seeds)),
        "text.model": str(reference.absolute()), "text.demonstrations": 0,
        "text.ppo.kl-horizon": KL_HORIZON, "text.ppo.missing-end-penalty": 0,
        "variants": {"target": targets, "method": METHODS},
        "sweep": {"episodes": 1},  # they are measured here
    }  # fmt: skip


def measured(arguments: Arguments, reference_folder: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what reference, optimum, best of K and every run come to."""
    experiment = runs[0].folder.experiment()
    device = find_device(experiment.text.device)
    model = load_language_model(str(reference_folder), device=device)
    use_threads(model.model, arguments.jobs)
    autocast = autocast_for(experiment.text, model.model.device)
    reference = TextPolicy(model, experiment.text, autocast)
    tasks = different_tasks(experiment, arguments.tasks)
    replies = sampled(experiment, reference, tasks, arguments.samples)
    optimum = Optimum([returns_of(task) for task in replies])
    reports = [run_report(arguments, run, reference, optimum, tasks) for run in runs]
    return {
        "env": experiment.env,
        "labels": experiment.labels,
        "tasks": arguments.tasks,
        "reference": {
            "true_return": optimum.reference,
            "std": optimum.deviation,
            "entropy": float(np.concatenate(measure(reference, replies[0][:256]).entropies).mean()),
            "samples_of_a_task": arguments.samples,
        },
        "optimum": [
            {"kl": point.kl, "true_return": point.true_return, "effective_samples": size}
            for point, size in map(optimum.at, curve_places(arguments.targets))
        ],
        "targets": {f"{t:g}": at_target(reports, t) for t in arguments.targets},
        "runs": reports,
        "best_of_k": best_of_k(arguments, optimum, replies, runs),
        "versions": versions(),
    }


def curve_places(targets: Sequence[float]) -> list[float]:
    """Return the divergences at which the optimum is told: the targets and some between."""
    between = np.linspace(0, 1, 26)[1:] ** 2 * 1.25 * max(targets)  # it rises like a square root
    return sorted({*targets, *between.tolist()})


def different_tasks(experiment: Experiment, count: int) -> list[int]:
    """Return seeds of tasks that begin differently, held-out ones where there are such."""
    [environment] = fresh_environments(experiment, 1)
    first_seed: dict[str, int] = {}
    for n in range(TASKS_TRIED):
        seed = task_seed(TASK_SEED, n)
        first_seed.setdefault(environment.reset(seed=seed, options={"split": "test"})[0], seed)
        if len(first_seed) == count:
            return list(first_seed.values())
    raise SystemExit(f"{experiment.env} has {len(first_seed)} different tasks; give --tasks")


def sampled(
    experiment: Experiment, policy: TextPolicy, tasks: Sequence[int], count: int
) -> list[list[Episode]]:
    """Return so many episodes of each task."""
    environments: list[Any] = []
    while len(environments) < SIDE_BY_SIDE:
        environments += fresh_environments(experiment, SIDE_BY_SIDE)
    return [play(environments, policy, [task] * count, split="test") for task in tasks]


def returns_of(episodes: Sequence[Episode]) -> np.ndarray:
    """Return the true return of each."""
    return np.array([sum(episode.env_rewards) for episode in episodes])


def run_report(
    arguments: Arguments, run: Run, reference: TextPolicy, optimum: Optimum, tasks: Sequence[int]
) -> dict[str, Any]:  # fmt: skip
    """Return how far a run's policy went and what it earns."""
    policy = load_policy(run.folder.path)
    by_task = sampled(run.folder.experiment(), policy, tasks, arguments.episodes)
    episodes = [episode for task in by_task for episode in task]
    nats = measure(policy, episodes, reference).kl
    kl = estimate([each.sum() for each in nats])
    true_return = estimate(returns_of(episodes))
    last = run.folder.metrics()[-1]
    return {
        "method": run.method, "target": float(run.target), "seed": run.seed,
        "kl": kl, "true_return": true_return,
        "fraction": optimum.fraction(Point(kl["mean"], true_return["mean"])),
        "finished": float(np.mean([episode.finished[-1] for episode in episodes])),
        "kl_coef": last["kl_coef"], "answered": last.get("answered", 0),
    }  # fmt: skip


def at_target(runs: Sequence[dict[str, Any]], target: float) -> dict[str, Any]:
    """Return the mean fraction of each method, and how learned and true reward compare."""
    at_targets = {
        method: [r["fraction"] for r in runs if (r["method"], r["target"]) == (method, target)]
        for method in METHODS
    }
    known = {m: float(np.mean(f)) for m, f in at_targets.items() if None not in f}
    learned, true = (known.get(f"PPO, {reward} reward") for reward in ("learned", "true"))
    return {
        "fractions": known,
        "learned_of_true": learned / true if learned is not None and true else None,
    }


def best_of_k(
    arguments: Arguments, optimum: Optimum, replies: Sequence[Sequence[Episode]],
    runs: Sequence[Run],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the best of K replies of the reference, chosen by the true and by the learned reward.

    The learned rewards are those that the PPO runs ended with.
    """
    returns = [returns_of(task) for task in replies]
    trajectories = [
        [episode.trajectory("reference", n) for n, episode in enumerate(task[:SCORED])]
        for task in replies
    ]
    scores = {"true reward": returns}
    for run in runs:
        if run.method == "PPO, learned reward":
            model = load_reward(run.folder.path)
            scores[f"learned reward, target {run.target}, seed {run.seed}"] = [
                np.array([steps.sum() for steps in model.rewards(task)]) for task in trajectories
            ]
    lines = []
    for chosen_by, scored in scores.items():
        for k in ks(arguments.targets):
            points = [
                best_of(score, task[: len(score)], k)
                for score, task in zip(scored, returns, strict=True)
            ]
            point = Point(*np.mean(points, axis=0).tolist())
            lines.append(
                {"chosen_by": chosen_by, "k": k} | point._asdict()
                | {"fraction": optimum.fraction(point)}
            )  # fmt: skip
    return lines


def ks(targets: Sequence[float]) -> list[int]:
    """Return the K that the best is told of: those near the targets, and powers of 2 before."""
    near = [k_for(target) for target in targets]
    return sorted({*near, *(2**n for n in range(1, int(log(max(near), 2)) + 1))})


def k_for(kl: float) -> int:
    """Return the K whose best is about so many nats away: log K − (K − 1) / K."""
    k = 1
    while log(k + 1) - k / (k + 1) <= kl:
        k += 1
    return k if kl - (log(k) - 1 + 1 / k) < log(k + 1) - k / (k + 1) - kl else k + 1


def best_of(scores: np.ndarray, returns: np.ndarray, k: int) -> Point:
    """Return what choosing the best of K by a score comes to, ties broken by lot.

    A score that `below` of all replies lie under and `upto` do not exceed is the best of K with
    probability upto^K − below^K.
    """
    order = np.argsort(scores)
    _, starts, counts = np.unique(scores[order], return_index=True, return_counts=True)
    below, upto = starts / len(scores), (starts + counts) / len(scores)
    chances = upto**k - below**k
    held = chances > 0
    kl = (chances[held] * np.log(chances[held] / (counts / len(scores))[held])).sum()
    means = np.add.reduceat(returns[order], starts) / counts
    return Point(float(kl), float((chances * means).sum()))


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the return against the divergence."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    known = [p for p in report["optimum"] if p["effective_samples"] >= ENOUGH]
    start = [{"kl": 0.0, "true_return": report["reference"]["true_return"]}]
    for points, label, style in (
        ([*start, *known], "optimum (the reference, re-weighted)", "k-"),
        ([*start, *(p for p in report["best_of_k"] if p["chosen_by"] == "true reward")],
         "best of K, true reward", "--"),
    ):  # fmt: skip
        axes.plot([p["kl"] for p in points], [p["true_return"] for p in points], style, label=label)
    for method, marker in zip(METHODS, "os^", strict=True):
        runs = [r for r in report["runs"] if r["method"] == method]
        axes.scatter(
            [r["kl"]["mean"] for r in runs], [r["true_return"]["mean"] for r in runs],
            marker=marker, label=method, zorder=3, alpha=0.8,
        )  # fmt: skip
    axes.set(xlabel="KL divergence from the reference (nats a reply)", ylabel="true return")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def prefrl(*words: object) -> None:
    """Run a prefrl command; what it says is kept off standard output."""
    command = [sys.executable, "-m", "prefrl.cli", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
