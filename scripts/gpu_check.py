"""Does a GPU train language models as a CPU does, and how fast? One command, some minutes.

    python scripts/gpu_check.py            # writes gpu-check/report.json and gpu-check/report.txt

It compares log-probabilities and an update with those of the CPU in float32, looks at left padding
under every kernel of attention, takes a run up and asks whether its bits are the same, measures
sampling, updates and memory, and trains two models for a moment. Nothing is downloaded: models have
SmolLM2-135M's shape and random weights. Without a GPU the CPU is compared with itself, by models of
a few thousand weights: that tries this script, not the machine. A check that finds something wrong,
or cannot be made, ends it with exit code 1, after the others.
"""

from __future__ import annotations

import copy
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from benchmark_text import Arguments as Measured
from benchmark_text import Prompts, iteration_seconds, machine_shares, sampling_rates
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from prefrl import Experiment, train
from prefrl.config.fields import changed
from prefrl.config.presets import PRESETS
from prefrl.config.text import TextConfig, TextPPOConfig
from prefrl.learning.true_reward import TrueReward
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.versions import differences, versions
from prefrl.storage.folder import RunFolder
from prefrl.text.agents.ppo import TextAgent
from prefrl.text.models.layers import hidden_states, split
from prefrl.text.models.load import (
    byte_tokenizer,
    load_language_model,
    prepare,
    save_language_model,
)
from prefrl.text.models.tokens import right_padded

HERE = Path(__file__).parent
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 3, "num_key_value_heads": 1,
}  # fmt: skip
# Differences that rounding explains: of log-probabilities in nats, and of what an update changes
# in the weights, as a share of it.
BARS = {"float32": (1e-3, 0.05), "bfloat16": (0.25, 0.5)}
KERNELS = {
    "math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}  # fmt: skip
MATMULS = ("mm", "gemm", "attention", "bmm", "cutlass", "sm90", "flash", "fmha")


@dataclass(frozen=True)
class Arguments:
    """What to check."""

    folder: Path = Path("gpu-check")
    """Where the report goes."""
    device: str = "auto"
    """cuda or cpu; by default the GPU, if there is one."""
    only: tuple[str, ...] = ()
    """Some of the checks, by name; all by default."""


@dataclass(frozen=True)
class Place:
    """What every check needs to know."""

    device: str
    model: Path
    """A folder with a model of random weights."""
    scratch: Path

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU that is checked, by a model of some size."""
        return self.device != "cpu"


class Wrong(Exception):
    """A check found what should not be; it holds what was measured."""

    def __init__(self, why: str, measured: dict[str, Any]):
        super().__init__(why)
        self.measured = measured


def main() -> int:
    """Make the checks, write the report; return the exit code."""
    chosen = tyro.cli(Arguments, description=__doc__)
    device = chosen.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    names = chosen.only or tuple(CHECKS)
    if unknown := {*names} - {*CHECKS}:
        print(f"gpu_check: no check {min(unknown)}; expected {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="gpu-check-") as scratch:
        place = Place(device, Path(scratch) / "model", Path(scratch))
        save_model(place)
        report = {name: checked(name, place) for name in names}
    chosen.folder.mkdir(parents=True, exist_ok=True)
    (chosen.folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    text = "\n".join(in_words(report)) + "\n"
    (chosen.folder / "report.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0 if all(found["verdict"] == "as expected" for found in report.values()) else 1


def checked(name: str, place: Place) -> dict[str, Any]:
    """Make one check; whatever goes wrong in it is part of the report."""
    print(name, file=sys.stderr, flush=True)
    began, verdict = time.monotonic(), "as expected"
    try:
        measured = CHECKS[name](place)
    except Wrong as wrong:
        measured, verdict = wrong.measured, str(wrong)
    except Exception as error:  # the other checks are still worth making
        lines = str(error).strip().splitlines() or [""]
        measured, verdict = {}, f"could not be made: {type(error).__name__}: {lines[-1]}"
    return {"verdict": verdict, "seconds": round(time.monotonic() - began, 1)} | measured


def save_model(place: Place) -> None:
    """Write a model of random weights, which reads bytes."""
    tokenizer: Any = byte_tokenizer()
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(
        **(SMOLLM2 if place.is_gpu else SMALL), max_position_embeddings=2048,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    ))  # fmt: skip
    save_language_model(prepare(model, tokenizer), place.model)


# --- the checks -------------------------------------------------------------------------------


def environment(place: Place) -> dict[str, Any]:
    """Say what there is."""
    found: dict[str, Any] = {"device": platform.processor() or "cpu"} | versions()
    found["float32_products"] = torch.get_float32_matmul_precision()
    if place.is_gpu:
        about = torch.cuda.get_device_properties(place.device)
        found |= {
            "device": about.name, "memory_gib": round(about.total_memory / 2**30, 1),
            "capability": f"{about.major}.{about.minor}", "cuda": torch.version.cuda,
            "bfloat16": torch.cuda.is_bf16_supported(), "gpus": torch.cuda.device_count(),
        }  # fmt: skip
    return found


def parity(place: Place) -> dict[str, Any]:
    """Compare log-probabilities and an update with the CPU's in float32, on the same episodes."""
    expected = agent_of(place, "cpu", "float32")
    before = copy.deepcopy(expected.networks.trained())
    episodes = expected._play()
    logprobs, changes = updated(expected, episodes, before)
    found, wrong = {}, []
    for precision, (most, most_changed) in BARS.items():
        agent = agent_of(place, place.device, precision)
        again, changed_here = updated(agent, episodes, before)
        apart = float((again - logprobs).abs().max())
        share = float((changed_here - changes).norm() / changes.norm())
        found[precision] = {"log_probabilities": apart, "update": share}
        if not (apart <= most and share <= most_changed):
            wrong.append(f"{precision}: {apart:.2g} nats, {share:.2g} of the update")
    if wrong:
        raise Wrong(f"apart from the CPU's by {'; '.join(wrong)}", found)
    return found


def padding(place: Place) -> dict[str, Any]:
    """Compare rows that are padded on the left with the same rows alone, by kernel."""
    found: dict[str, Any] = {}
    rows = [[7] * 3, [*range(1, 40)], [*range(9, 30)]]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=place.device)
    mask = torch.tensor(
        [[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=place.device
    )
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model: Any = load_language_model(str(place.model), 0, place.device).model
    for kernel, backend in KERNELS.items():
        for precision in BARS:
            name = f"{kernel}, {precision}"
            with torch.no_grad(), autocast(place.device, precision)(), sdpa_kernel(backend):
                try:
                    given = {"attention_mask": mask, "position_ids": positions}
                    together = model(ids, **given).logits.float()
                    alone = [model(ids[n : n + 1, longest - len(row) :]).logits.float()[0]
                             for n, row in enumerate(rows)]  # fmt: skip
                except RuntimeError as error:
                    found[name] = f"not here: {str(error).splitlines()[0]}"
                    continue
            apart = [together[n, longest - len(row) :] - alone[n] for n, row in enumerate(rows)]
            found[name] = max(float(each.abs().max()) for each in apart)
    bad = [
        f"{name}: {apart}"
        for name, apart in found.items()
        if not isinstance(apart, str) and not apart <= BARS[name.rpartition(" ")[2]][0]
    ]
    if bad:
        raise Wrong(f"padded rows give other numbers: {', '.join(bad)}", found)
    return found


def resuming(place: Place) -> dict[str, Any]:
    """Compare a run with itself run again, and with itself taken up after its first round.

    Once as it is, and once adding up in a fixed order, which must be the same to the bit anywhere.
    """
    experiment = review_run("tiny", place, 3, 256 if place.is_gpu else 8, 64)
    found = {"as_it_is": repeated(experiment, place.scratch / "as-it-is")}
    in_order = changed(experiment, {"text.deterministic": True})
    try:
        found["in_a_fixed_order"] = repeated(in_order, place.scratch / "in-order")
    finally:
        torch.use_deterministic_algorithms(False)
    for how, apart in found.items():
        if (not place.is_gpu or how != "as_it_is") and {*apart.values()} != {"to the bit"}:
            raise Wrong(f"a run does not repeat itself ({how})", found)
    return found


def repeated(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Return how a run differs from itself."""
    whole = [train(experiment, folder / f"whole-{n}").metrics() for n in range(2)]
    path = folder / "halves"
    with_session(start(experiment, path), most=2)
    with_session(resume(path), most=None)
    return {
        "run_again": apart_from(whole[0], whole[1]),
        "taken_up": apart_from(whole[0], RunFolder.open(path).metrics()),
    }


def sampling(place: Place) -> dict[str, Any]:
    """Measure tokens a second beside transformers' `generate`."""
    return sampling_rates(measured_by(place))


def updating(place: Place) -> dict[str, Any]:
    """Measure a PPO iteration by phase, and what part of an update its products take."""
    arguments = measured_by(place)
    seconds = iteration_seconds(arguments, 0)
    found: dict[str, Any] = {"seconds_by_phase": seconds}
    if place.is_gpu:
        found["of_the_machine"] = machine_shares(arguments, sampling_rates(arguments), seconds)
    agent = agent_of(place, place.device, "bfloat16" if place.is_gpu else "float32")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if place.is_gpu else [])]
    with profile(activities=kinds) as profiled:
        agent.train(TrueReward(whole_episodes=True), 1)
    spent = {e.key: time_of(e, place) for e in profiled.key_averages()}
    products = sum(t for key, t in spent.items() if any(part in key.lower() for part in MATMULS))
    found["products_of_time"] = products / max(sum(spent.values()), 1e-9)
    if place.is_gpu:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def memory(place: Place) -> dict[str, Any]:
    """Measure peaks with frozen layers, adapters and recomputed layers, each in a process."""
    words = [sys.executable, str(HERE / "benchmark_memory.py"), "--model", str(place.model)]
    if not place.is_gpu:
        words += ["--episodes", "4", "--ways", "all weights"]
    done = subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE)
    return {"rows": json.loads(done.stdout)["rows"]}


def learning_tiny(place: Place) -> dict[str, Any]:
    """Train the small model of `tiny-reviews` for some rounds."""
    experiment = review_run("tiny", place, 8, 256 if place.is_gpu else 128, 2000)
    return learned(experiment, place.scratch / "tiny")


def learning_large(place: Place) -> dict[str, Any]:
    """Train a model of SmolLM2's shape on the same task, from random weights."""
    experiment = review_run(str(place.model), place, 8, 256 if place.is_gpu else 128, 2000)
    if place.is_gpu:  # as a large one needs
        rates = {"text.sft-learning-rate": 3e-4, "text.ppo.learning-rate": 3e-5}
        experiment = changed(experiment, rates)
    return learned(experiment, place.scratch / "large")


CHECKS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "environment": environment, "parity": parity, "padding": padding, "resuming": resuming,
    "sampling": sampling, "updating": updating, "memory": memory,
    "learning-tiny": learning_tiny, "learning-large": learning_large,
}  # fmt: skip


# --- what they need ---------------------------------------------------------------------------


def autocast(device: str, precision: str) -> Callable[[], Any]:
    """Return the context of passes in a precision."""
    if precision == "float32":
        return nullcontext
    return partial(torch.autocast, torch.device(device).type, torch.bfloat16)


def agent_of(place: Place, device: str, precision: str) -> Any:
    """Return an agent with the model's weights, which makes one step of an update."""
    config = TextConfig(
        max_new_tokens=24,
        ppo=TextPPOConfig(
            episodes=16, completions_per_task=4, batch_size=16, n_epochs=1,
            value_warmup_epochs=0, learning_rate=1e-4,
        ),
    )  # fmt: skip
    model = load_language_model(str(place.model), 0, device)
    environments = [Prompts(32) for _ in range(config.ppo.episodes)]
    return TextAgent(environments, model, config, 0, autocast(device, precision))


def updated(
    agent: Any, episodes: Any, before: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Learn from episodes; return their log-probabilities before, and how weights changed."""
    tokens = right_padded([episode.read for episode in episodes], agent.model.device)
    _, upper = split(agent.model, 0)
    with torch.no_grad(), agent.networks.autocast():
        hidden = hidden_states(upper, tokens, None)
        scores = agent.networks.head(hidden).float().log_softmax(2)
    said = scores[:, :-1].gather(2, tokens.ids[:, 1:, None])[..., 0]
    agent.sample = agent._trajectories(episodes)
    agent._learn(episodes, TrueReward(whole_episodes=True).rewards(agent.sample))
    trained = agent.networks.trained()
    moved = [(trained[name].detach().cpu() - begun).flatten() for name, begun in before.items()]
    return said.cpu()[tokens.mask[:, 1:].cpu().bool()], torch.cat(moved).detach()


def measured_by(place: Place) -> Measured:
    """Return what `benchmark_text.py` is to measure."""
    asked = Measured(model=str(place.model), device=place.device)
    if place.is_gpu:
        return replace(asked, episodes=256, prompt=64, tokens=64)
    return replace(asked, episodes=16, tokens=8, repeats=1, iterations=1)


def time_of(event: Any, place: Place) -> float:
    """Return the time that an operation itself took, in microseconds."""
    return event.self_device_time_total if place.is_gpu else event.self_cpu_time_total


def review_run(
    model: str, place: Place, count: int, episodes: int, demonstrations: int
) -> Experiment:
    """Return a run of `tiny-reviews` of so many rounds."""
    return changed(PRESETS["tiny-reviews"].experiment, {
        "text.model": model, "text.device": place.device, "labels": 2 * episodes,
        "steps": count * episodes, "steps-per-round": episodes, "query.explore-steps": 4 * episodes,
        "query.decay-steps": count * episodes, "fit.first-epochs": 8, "fit.epochs": 4,
        "text.ppo.episodes": episodes, "text.ppo.batch-size": max(4, episodes // 4),
        "text.ppo.completions-per-task": 4, "text.demonstrations": demonstrations,
    })  # fmt: skip


def with_session(session: Any, most: int | None) -> None:
    """Run so many rounds of a session, or all."""
    try:
        going: Any = rounds(session)
        for done in going:
            if done.state == "done" and most is not None and done.index + 1 >= most:
                going.close()
                break
    finally:
        session.close()


def learned(experiment: Experiment, path: Path) -> dict[str, Any]:
    """Return the true returns of a run's rounds; raise `Wrong` if they do not rise."""
    lines = train(experiment, path).metrics()
    returns = [line["true_return"] for line in lines if line.get("true_return") is not None]
    first, last = returns[0], sum(returns[-2:]) / 2
    found = {
        "returns": [round(each, 3) for each in returns],
        "kl": round(lines[-1]["kl"], 2), "finished": lines[-1]["finished"],
    }  # fmt: skip
    if not last > first:
        raise Wrong(f"the return does not rise: {first:.2f} to {last:.2f}", found)
    return found


def apart_from(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """Say how the rounds of two runs differ."""
    for number, (left, right) in enumerate(zip(one, other, strict=True)):
        if unlike := differences(left, right):
            return f"from round {number}: {unlike[0]}"
    return "to the bit"


def in_words(report: dict[str, dict[str, Any]]) -> Iterable[str]:
    """Return the report as a page of text."""
    for name, found in report.items():
        yield f"{name}: {found['verdict']} ({found['seconds']} s)"
        for key, value in found.items():
            if key not in ("verdict", "seconds"):
                yield from _lines(key.replace("_", " "), value, "  ")


def _lines(name: str, value: Any, indent: str) -> Iterable[str]:
    if isinstance(value, dict):
        yield f"{indent}{name}:"
        for key, inner in value.items():
            yield from _lines(str(key).replace("_", " "), inner, indent + "  ")
    else:
        yield f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}"


if __name__ == "__main__":
    sys.exit(main())
