"""What do few answers teach? Fits rewards to the clips of finished runs, under any option.

The oracle answers questions about the clips of a run's first rounds, anew for each row of the
table; a reward is fitted to the answers from nothing, and judged by the clips of later rounds,
which a better policy made. So a row costs seconds, where a run costs minutes. Prints one JSON
object; each row has means over draws and runs, with standard errors:

    pairs        share of all pairs of clips that are ordered rightly
    steps        correlation of predicted and true reward, step by step
    favourites   true return of the tenth of the clips that the reward likes best: 0 is that of a
                 mean clip, 1 that of the best tenth there is
    seconds      of one fit

A row is a line of options of `prefrl train`; what it leaves out is as in the run's environment by
default. Run it on runs of a robot that asked about many clips:

    prefrl train hopper-backflip --labels 200 --query.kind ranking --query.clips 6 --run runs/a
    echo "--labels 20 --query.kind ranking --query.clips 6 --fit.first-epochs 200" > rows
    python scripts/benchmark_fit.py runs/a --rows rows
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from prefrl.answers import to_comparisons
from prefrl.commands.console import parse
from prefrl.commands.options import RobotOptions, as_experiment
from prefrl.config.control import ControlConfig
from prefrl.config.experiment import Experiment
from prefrl.control.build import build_reward, describe_environment
from prefrl.control.environments.interface import Description
from prefrl.control.reward import RewardEnsemble
from prefrl.learning.reward import FitState, fit, predict_returns
from prefrl.learning.selection import ACQUISITIONS, choose, propose
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers.oracle import Oracle
from prefrl.types import Comparison, Query, QueryId, Segment, Trajectory

SIX = "--query.kind ranking --query.clips 6"
TABLE = (
    *("--labels 50", "--labels 100", "--labels 200"),
    *(f"--labels {labels} {SIX}" for labels in (10, 20, 50)),
    "--labels 20 --query.kind ranking --query.clips 4",
    "--labels 20 --query.kind ranking --query.clips 9",
)


@dataclass(frozen=True)
class Arguments:
    """What to fit."""

    runs: Positional[tuple[Path, ...]]
    """Finished runs of robots, whose clips are asked about."""
    rows: Path | None = None
    """A file with the options of a row in each line; a table of numbers and kinds by default."""
    draws: int = 4
    """How often each row is drawn anew: questions, order, weights."""
    through: float = 0.4
    """Share of the rounds whose clips are asked about; the clips of the others judge."""
    portions: int = 1
    """In how many portions the questions are asked; each is fitted, going on from the fit before,
    and the acquisition chooses the next one by it."""
    afresh: bool = False
    """Fit to all portions once more at the end, from nothing."""


class Clips(NamedTuple):
    """Clips of a run and their true rewards, by id."""

    segments: list[Segment]
    rewards: dict[str, np.ndarray]

    def trajectories(self) -> list[Trajectory]:
        """Return them as what a reward is calibrated on and judges."""
        return [
            Trajectory(s.observations, s.actions, self.rewards[s.id], {}) for s in self.segments
        ]

    def returns(self) -> np.ndarray:
        """Return the true return of each."""
        return np.array([self.rewards[segment.id].sum() for segment in self.segments])


@dataclass(frozen=True)
class Source:
    """One finished run."""

    experiment: Experiment
    description: Description
    asked: Clips
    judging: Clips


def main() -> None:
    """Fill the table."""
    torch.set_num_threads(1)
    arguments = tyro.cli(Arguments, description=__doc__)
    sources = [read(path, arguments.through) for path in arguments.runs]
    table = {}
    rows = arguments.rows.read_text().splitlines() if arguments.rows else TABLE
    for row in filter(None, map(str.strip, rows)):
        measured = [
            measure(source, row, draw, arguments.portions, arguments.afresh)
            for source in sources
            for draw in range(arguments.draws)
        ]
        table[row] = {name: mean_and_error([m[name] for m in measured]) for name in measured[0]}
    asked = [len(source.asked.segments) for source in sources]
    judging = [len(source.judging.segments) for source in sources]
    head = {"runs": [*map(str, arguments.runs)], "draws": arguments.draws}
    print(json.dumps({**head, "clips_asked": asked, "clips_judging": judging, "rows": table}))


def read(path: Path, through: float) -> Source:
    """Read the clips that a run asked about, older ones and newer ones apart."""
    folder = RunFolder.open(path)
    old = folder.experiment()
    experiment = Experiment(old.env, old.env_kwargs, domain=ControlConfig())
    by_round: dict[int, dict[str, Segment]] = defaultdict(dict)
    with closing(FeedbackStore(folder.feedback, read_only=True)) as store:
        for answer in store.answers():
            by_round[answer.query.round] |= {s.id: s for s in store.query(answer.query).segments}
        every = {name for clips in by_round.values() for name in clips}
        rewards = {name: store.true_rewards(name) for name in every}
    rounds = sorted(by_round)
    count = max(1, round(through * len(rounds)))
    halves = [
        Clips(clips, {clip.id: rewards[clip.id] for clip in clips})
        for part in (rounds[:count], rounds[count:])
        for clips in [[s for index in part for s in by_round[index].values()]]
    ]
    return Source(experiment, describe_environment(experiment), *halves)


def measure(
    source: Source, row: str, draw: int, portions: int, afresh: bool
) -> dict[str, float]:  # fmt: skip
    """Ask, fit and judge once."""
    default = RobotOptions(**vars(dataclasses.replace(source.experiment, seed=draw)))
    experiment = as_experiment(parse(RobotOptions, row.split(), "a row", default))
    model = build_reward(experiment, source.description)
    state = FitState(model, experiment.fit, draw)
    comparisons: list[Comparison] = []
    began = time.perf_counter()
    edges = [round(experiment.labels * n / portions) for n in range(portions + 1)]
    for index, (begin, end) in enumerate(pairwise(edges)):
        comparisons += ask(source.asked, experiment, index, end - begin, model)
        began = time.perf_counter()
        fit(model, comparisons, experiment.fit, state)
    if afresh:
        model = build_reward(experiment, source.description)
        began = time.perf_counter()
        fit(model, comparisons, experiment.fit, FitState(model, experiment.fit, draw))
    seconds = time.perf_counter() - began
    return judged(model, source) | {"seconds": seconds}


def ask(
    clips: Clips, experiment: Experiment, index: int, count: int, model: RewardEnsemble
) -> list[Comparison]:
    """Ask the oracle; the first questions are random, others are what the acquisition likes."""
    query = experiment.query
    generator = np.random.default_rng([experiment.seed, index])
    acquisition = ACQUISITIONS["uniform" if index == 0 else query.acquisition]
    candidates = propose(clips.segments, count * query.pool, generator, query.size)
    if len(candidates) < count:
        sys.exit(
            f"{count} queries of {query.size} clips were to be asked, but there are only "
            f"{len(clips.segments)} clips; raise --through, or use runs with more labels"
        )
    groups = choose(candidates, count, acquisition, model)
    oracle = Oracle(experiment.oracle, experiment.seed)
    scale = oracle.scale([*clips.rewards.values()])
    comparisons = []
    for number, group in enumerate(groups):
        question = Query(QueryId(index, number), group, query.kind)
        rewards = [clips.rewards[segment.id] for segment in group]
        answer = oracle.judge(question.id, rewards, scale, query.kind)
        lesson = to_comparisons(question, answer, experiment.fit.margin_scale)
        comparisons += lesson.comparisons
    return comparisons


def judged(model: RewardEnsemble, source: Source) -> dict[str, float]:
    """Compare a fitted reward with the true one on the clips that it has not seen."""
    clips, true = source.judging, source.judging.returns()
    model.calibrate(source.asked.trajectories())
    predicted = predict_returns(model, clips.segments).mean(0).numpy()
    above = np.subtract.outer(true, true) > 0
    right = (np.subtract.outer(predicted, predicted) > 0)[above].mean()
    steps = np.concatenate(model.rewards(clips.trajectories()))
    true_steps = np.concatenate([clips.rewards[segment.id] for segment in clips.segments])
    tenth = max(1, len(true) // 10)
    liked, best = true[np.argsort(-predicted)[:tenth]].mean(), np.sort(true)[-tenth:].mean()
    return {
        "pairs": float(right),
        "steps": float(np.corrcoef(steps, true_steps)[0, 1]),
        "favourites": float((liked - true.mean()) / (best - true.mean())),
    }


def mean_and_error(values: Sequence[float]) -> list[float]:
    """Return the mean and its standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return [round(float(np.mean(values)), 4), round(float(error), 4)]


if __name__ == "__main__":
    main()
