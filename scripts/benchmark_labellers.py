"""What do answers of several people teach, of whom one is careless and one says the contrary?

Three labellers answer 300 times in all about one set of clips whose true return is known: one is
right 95 times in 100, one answers half of the time at random, one turns half of their answers
round. A reward is fitted to the answers in several ways and judged by fresh pairs of clips. Either
all three answer the same 100 queries, or each answers 100 of their own. Prints one JSON object; of
each design and each way, over seeds, mean and 95 % interval (a bootstrap over seeds):

    accuracy      share of fresh pairs that the reward orders as the true return does
    gain          in accuracy, of "reliability" over each other way with the same seed
    reliability   of each labeller as it was found, beside the `truth`, the share of their answers
                  that were right, with the `error` between the two, and how often an interval of
                  95 % holds the chance with which the labeller was made to be right

The ways are those of `--fit.labellers`, "equal" and "reliability"; "good" is fitted to the good
labeller's answers alone, and "majority" to what most of those say who answered the same query.

    python scripts/benchmark_labellers.py
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import tyro
from gymnasium.spaces import Box

from prefrl.config.control import RewardConfig
from prefrl.config.learning import FitConfig
from prefrl.control.reward import RewardEnsemble
from prefrl.learning.bags import bag_weights
from prefrl.learning.labellers import (
    assumed_reliability,
    count_votes,
    intervals,
    reliability,
)
from prefrl.learning.reward import FitState, comparison_returns, fit, predict_returns
from prefrl.learning.statistics import estimate
from prefrl.types import Comparison, QueryId, Segment

RIGHT = {"good": 0.95, "careless": 0.75, "reversed": 0.5}
"""How often each labeller is right; whoever answers half of the time at random is, in 3 of 4."""
FEATURES, STEPS = 6, 10


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    seeds: int = 5
    """Seeds 0 to this, exclusive: of clips, answers and weights."""
    answers: int = 300
    """Of all labellers together."""
    clips: int = 200
    """What is asked about."""
    fresh: int = 1000
    """Clips that judge."""
    epochs: int = 30
    """Passes of a fit."""


def main() -> None:
    """Fill the table."""
    torch.set_num_threads(1)
    arguments = tyro.cli(Arguments, description=__doc__)
    began = time.perf_counter()
    table = {}
    for design in ("same", "own"):
        measured = [measure(seed, arguments, design == "same") for seed in range(arguments.seeds)]
        table[design] = summary(measured)
    seconds = round(time.perf_counter() - began, 1)
    print(json.dumps({**vars(arguments), "right": RIGHT, "designs": table, "seconds": seconds}))


def measure(seed: int, arguments: Arguments, same: bool) -> dict[str, Any]:
    """Let three labellers answer, fit in every way, and judge by fresh clips."""
    generator = np.random.default_rng([seed, same])
    truth = generator.normal(size=FEATURES)
    clips = make_clips("clip", arguments.clips, generator)
    fresh = make_clips("fresh", arguments.fresh, generator)
    answers, right = ask(clips, truth, arguments.answers, same, generator)
    every: dict[str, tuple[list[Comparison], Literal["equal", "reliability"]]] = {
        "equal": (answers, "equal"),
        "reliability": (answers, "reliability"),
        "good": ([c for c in answers if c.teacher == "good"], "equal"),
    }
    if same:
        every["majority"] = (majority(answers), "equal")
    accuracy, found = {}, {}
    for way, (comparisons, labellers) in every.items():
        config = FitConfig(first_epochs=arguments.epochs, labellers=labellers)
        model = RewardEnsemble(FEATURES, Box(-1, 1, (1,)), RewardConfig(), seed)
        fit(model, comparisons, config, FitState(model, config, seed))
        accuracy[way] = judged(model, fresh, truth)
        if way == "reliability":
            found = found_of(model, comparisons, config, seed)
    for name, entry in found.items():
        entry["truth"] = right[name]
        entry["error"] = abs(entry["found"] - right[name])
    return {"accuracy": accuracy, "labellers": found}


def make_clips(name: str, count: int, generator: np.random.Generator) -> list[Segment]:
    """Return clips in which features wander about a mean of the clip's own."""
    means = generator.normal(size=(count, 1, FEATURES))
    steps = means + generator.normal(size=(count, STEPS, FEATURES))
    return [
        Segment(f"{name} {number}", own, np.zeros((STEPS, 1))) for number, own in enumerate(steps)
    ]


def true_return(clip: Segment, truth: np.ndarray) -> float:
    """Return a clip's true return: linear in its features but for the first, whose size counts."""
    bent = np.concatenate([np.abs(clip.observations[:, :1]), clip.observations[:, 1:]], axis=1)
    return float((bent @ truth).sum())


def ask(
    clips: Sequence[Segment], truth: np.ndarray, count: int, same: bool,
    generator: np.random.Generator,
) -> tuple[list[Comparison], dict[str, float]]:  # fmt: skip
    """Return all answers, and how often each labeller was right.

    Args:
        clips: what is asked about.
        truth: what is right.
        count: of answers.
        same: whether all answer the same queries.
        generator: of queries and errors.
    """
    queries = count // len(RIGHT) if same else count
    pairs = [generator.choice(len(clips), 2, replace=False) for _ in range(queries)]
    answers, hits = [], {name: [] for name in RIGHT}
    for number, (a, b) in enumerate(pairs):
        left, right = clips[a], clips[b]
        better = float(true_return(left, truth) > true_return(right, truth))
        names = [*RIGHT] if same else [[*RIGHT][number % len(RIGHT)]]
        for name in names:
            hit = generator.random() < RIGHT[name]
            hits[name].append(hit)
            said = better if hit else 1 - better
            answers.append(Comparison(left, right, said, query=QueryId(0, number), teacher=name))
    return answers, {name: float(np.mean(of)) for name, of in hits.items()}


def majority(answers: Sequence[Comparison]) -> list[Comparison]:
    """Return one comparison for each query: what most of those who answered it said."""
    by_query: dict[QueryId, list[Comparison]] = {}
    for answer in answers:
        by_query.setdefault(answer.query, []).append(answer)
    means = [(of[0], float(np.mean([c.preference for c in of]))) for of in by_query.values()]
    return [dataclasses.replace(c, preference=0.5 + 0.5 * np.sign(m - 0.5)) for c, m in means]


def judged(model: RewardEnsemble, fresh: Sequence[Segment], truth: np.ndarray) -> float:
    """Return the share of all pairs of fresh clips that a reward orders rightly."""
    true = np.array([true_return(clip, truth) for clip in fresh])
    predicted = predict_returns(model, fresh).mean(0).numpy()
    above = np.subtract.outer(true, true) > 0
    return float((np.subtract.outer(predicted, predicted) > 0)[above].mean())


def found_of(
    model: RewardEnsemble, comparisons: Sequence[Comparison], config: FitConfig, seed: int
) -> dict[str, dict[str, Any]]:
    """Return each labeller's reliability by a fitted reward, as the next pass would find it."""
    votes = count_votes(comparisons)
    left, right = comparison_returns(model, comparisons)
    outside = bag_weights(seed, [c.query for c in comparisons], model.members) == 0
    lead = ((left - right) * outside).sum(0) / outside.sum(0).clamp(min=1)
    leads = np.zeros(len(votes.left))
    leads[votes.item] = lead.numpy()
    assumed = assumed_reliability(config.uniform_error)
    best, ends = reliability(votes, leads, assumed), intervals(votes, leads, assumed)
    return {
        name: {
            "found": float(value), "low": float(low), "high": float(high),
            "held": bool(low <= RIGHT[name] <= high), "trust": best.trust,
        }
        for name, value, (low, high) in zip(votes.labellers, best.labellers, ends, strict=True)
    }  # fmt: skip


def summary(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means and intervals over seeds."""
    accuracy = {
        way: rounded(estimate([m["accuracy"][way] for m in measured]))
        for way in measured[0]["accuracy"]
    }
    gain = {
        way: rounded(
            estimate([m["accuracy"]["reliability"] - m["accuracy"][way] for m in measured])
        )
        for way in accuracy
        if way != "reliability"
    }
    labellers = {
        name: {
            key: rounded(estimate([m["labellers"][name][key] for m in measured]))
            for key in ("found", "truth", "error", "low", "high", "held", "trust")
        }
        for name in RIGHT
    }
    return {"accuracy": accuracy, "gain": gain, "labellers": labellers}


def rounded(estimated: dict[str, Any]) -> dict[str, Any]:
    """Return an estimate in four digits."""
    ends = [round(end, 4) for end in estimated["interval"]]
    return {"mean": round(estimated["mean"], 4), "interval": ends}


if __name__ == "__main__":
    main()
