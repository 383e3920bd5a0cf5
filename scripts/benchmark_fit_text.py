"""What do pairs of texts teach, some of them wrong? Measures `prefrl fit`; prints one JSON object.

Which of two texts has more e's is asked of 200 pairs, and 15 % of the answers are turned round. The
reward model is judged by 300 fresh pairs whose answers are all right, under each way to fit it:

    bag          one member learns from a bag of the answers, and all passes are made
    all          … from all but the tenth that is held out, and all passes are made
    best of bag  from its bag, and the best pass by what is held out is kept
    fit          from all but that tenth, and the best pass is kept: what `prefrl fit` does
    fit file     … by a file of 40 pairs that is held out instead, so all 200 are learned from

    python scripts/benchmark_fit_text.py
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from prefrl.learning.bags import bag_weights
from prefrl.learning.preference import correct
from prefrl.learning.reward import comparison_returns
from prefrl.learning.statistics import share
from prefrl.text.stages.answers import read_answers
from prefrl.text.stages.fitting import Fitting, passes, start

LETTERS, LENGTH = "abcde", 8
WAYS = "bag", "all", "best of bag", "fit", "fit file"


@dataclass(frozen=True)
class Arguments:
    """What to fit."""

    pairs: int = 200
    """To learn from."""
    wrong: float = 0.15
    """Share of them that are turned round."""
    fresh: int = 300
    """That judge."""
    seeds: int = 3
    """Draws of pairs and weights."""
    epochs: int = 20
    """Most passes."""
    ways: tuple[str, ...] = WAYS
    """Which rows of the table."""


def main() -> None:
    """Fill the table."""
    torch.set_num_threads(1)
    chosen = tyro.cli(Arguments, description=__doc__)
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for way in chosen.ways:
            began = time.perf_counter()
            rows = [measure(way, seed, chosen, Path(scratch)) for seed in range(chosen.seeds)]
            accuracies = [row["accuracy"] for row in rows]
            judged = len(rows) * chosen.fresh
            table[way] = {
                "mean": float(np.mean(accuracies)),
                "accuracies": accuracies,
                "interval": share(float(np.mean(accuracies)) * judged, judged)["interval"],
                "kept_passes": [f"{row['kept']} of {row['passes']}" for row in rows],
                "seconds": (time.perf_counter() - began) / len(rows),
            }
    print(json.dumps(dataclasses.asdict(chosen) | {"rows": table}))


def measure(way: str, seed: int, chosen: Arguments, folder: Path) -> dict[str, float]:
    """Fit once and judge."""
    random = np.random.default_rng(seed)
    training = pairs(random, chosen.pairs)
    for row in random.permutation(chosen.pairs)[: round(chosen.wrong * chosen.pairs)]:
        pair = training[row]
        pair["chosen"], pair["rejected"] = pair["rejected"], pair["chosen"]
    file = written(folder / "training.jsonl", training)
    fresh = read_answers(written(folder / "fresh.jsonl", pairs(random, chosen.fresh, 1000)))
    aside = written(folder / "aside.jsonl", pairs(random, 40, 2000)) if way == "fit file" else 0.1
    fitting = start(file, "tiny", seed=seed, epochs=chosen.epochs, held_out=aside)
    if way in ("bag", "all"):
        fitting.config = dataclasses.replace(fitting.config, patience=0, stop_accuracy=float("inf"))
    if "bag" in way:
        in_one_bag(fitting)
    made = list(passes(fitting))
    assert fitting.judgement
    returns = comparison_returns(fitting.reward_model, fresh.comparisons)
    left, right = (side.mean(0) for side in returns)
    preference = torch.tensor([c.preference for c in fresh.comparisons])
    accuracy = float(correct(left, right, preference).float().mean())
    return {"accuracy": accuracy, "kept": fitting.judgement.kept_pass, "passes": len(made)}


def in_one_bag(fitting: Fitting) -> None:
    """Let what is learned from be what the bag of the first of several members holds."""
    bag = bag_weights(fitting.seed, [c.query for c in fitting.training], 2)[0]
    fitting.training = [
        dataclasses.replace(c, weight=c.weight * float(times))
        for c, times in zip(fitting.training, bag, strict=True)
    ]


def pairs(random: np.random.Generator, count: int, first: int = 0) -> list[dict[str, str]]:
    """Return pairs of texts, of which the one with more e's is chosen; prompts are numbers."""
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        texts = ("".join(random.choice(list(LETTERS), LENGTH)) for _ in range(2))
        rejected, preferred = sorted(texts, key=lambda text: text.count("e"))
        if rejected.count("e") < preferred.count("e"):
            prompt = f"{first + len(rows)} "
            rows.append({"prompt": prompt, "chosen": preferred, "rejected": rejected})
    return rows


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    main()
