"""One run that several processes train together."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from complaints import complaint
from processes import Process, command, run
from safetensors.torch import load_file
from test_text_agent import GPT2, architecture
from test_text_select import words as of_learner
from toy_texts import TINY_TEXT_FLAGS, save_small_model
from transformers import GPT2Config

from prefrl.storage.folder import RunFolder
from prefrl.text.models.load import save_language_model, tiny_language_model
from prefrl.text.models.networks import Networks
from prefrl.text.models.sharding import units

SECONDS = 240
OPEN = {"preferred_return", "other_return"}  # but for an offset, which comparisons leave open


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def train(model, path, *more, **environment):
    words = ["train", "--env", "toy_texts:texts/Letters-v0", *TINY_TEXT_FLAGS.split()]
    words += ["--text.model", str(model), "--run", str(path), "--threads", "1", *more]
    return command(words, **environment)


def numbers(path):
    return RunFolder.open(path).metrics()


def assert_about_equal(one, other):
    """Sums over processes round otherwise; Adam lets that grow from update to update."""
    assert len(one) == len(other) > 2
    for number, (left, right) in enumerate(zip(one, other, strict=True)):
        assert left.keys() == right.keys()
        near = 1e-5 if number < 2 else 1e-3  # most are of the size of 1
        for name in left.keys() - OPEN:
            assert left[name] == pytest.approx(right[name], rel=near, abs=near), (number, name)


@pytest.mark.parametrize(
    ("learner", "more"),
    [
        ("ppo", ""),
        ("ppo", "--text.ppo.freeze-layers 1 --text.reward-model.freeze-layers 1 "
                "--text.micro-batch-size 3 --text.gradient-checkpointing"),
        ("rloo", "--text.ppo.batch-size 3"),
        ("direct", "--text.micro-batch-size 1"),
        ("select, ppo", "--text.select.kl-target 0.1"),
    ],
    ids=["ppo", "frozen layers", "rloo", "direct", "select, then ppo"],
)  # fmt: skip
def test_two_processes_train_as_one_does(learner, more, model, tmp_path):
    for processes in (1, 2):
        words = of_learner(model, learner, "--run", tmp_path / f"{processes}", *more.split())
        went = run(**command([*words, "--processes", processes]), timeout=SECONDS)
        assert went.returncode == 0, went.stderr
        assert "Warning" not in went.stderr
    assert_about_equal(numbers(tmp_path / "1"), numbers(tmp_path / "2"))


def test_a_run_of_two_processes_begins_with_the_model_that_one_fine_tunes(model, tmp_path):
    """Each fine-tunes all of it: shares of the gradients would be of models that drift apart."""
    for processes in (1, 2):
        words = of_learner(model, "ppo", "--run", tmp_path / f"{processes}")
        words[words.index("--env") + 1] = "prefrl/TinyReviews-v0"
        words += ["--text.demonstrations", "64", "--processes", processes]
        went = run(**command(words), timeout=SECONDS)
        assert went.returncode == 0, went.stderr
    one, two = (load_file(tmp_path / f"{n}/reference/model.safetensors") for n in (1, 2))
    assert all(map(torch.equal, one.values(), two.values())) and one.keys() == two.keys()
    began = load_file(Path(model) / "model.safetensors")
    assert not all(torch.equal(weights, began[name]) for name, weights in one.items())
    assert_about_equal(numbers(tmp_path / "1"), numbers(tmp_path / "2"))


def test_another_number_of_processes_goes_on(model, tmp_path):
    path, copy = tmp_path / "run", tmp_path / "copy"
    assert run(**train(model, path, "--processes", "2"), timeout=SECONDS).returncode == 0
    assert run(**train(model, copy), timeout=SECONDS).returncode == 0
    for processes, folder in ((1, path), (2, copy)):
        words = ["resume", folder, "--steps", "+32", "--processes", processes]
        went = run(**command(words), timeout=SECONDS)
        assert went.returncode == 0, went.stderr
    assert_about_equal(numbers(path), numbers(copy))
    assert numbers(path)[-1]["steps"] == 96


def test_a_process_that_is_killed_ends_the_others_with_a_sentence(model, tmp_path):
    path = tmp_path / "run"
    with Process(
        **train(model, path, "--processes", "2", "--steps", "160", "--rounds", "10"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as first:  # fmt: skip
        wait_for(lambda: (path / "metrics.jsonl").exists() and len(lines_of(path)) > 1)
        [follower] = followers(first.pid)
        os.kill(follower, signal.SIGKILL)
        _, said = first.communicate(timeout=SECONDS)
    assert first.returncode == 2
    assert "another of the 2 processes of this run has ended" in said
    assert "Traceback" not in said
    before = lines_of(path)
    went = run(**command(["resume", path, "--processes", "2"]), timeout=SECONDS)
    assert went.returncode == 0, went.stderr
    assert lines_of(path)[: len(before)] == before
    assert numbers(path)[-1]["steps"] == 160


def test_the_first_process_takes_the_others_with_it(model, tmp_path):
    path = tmp_path / "run"
    with Process(
        **train(model, path, "--processes", "2", "--steps", "1600", "--rounds", "100"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as first:  # fmt: skip
        wait_for(lambda: (path / "metrics.jsonl").exists())
        [follower] = followers(first.pid)
        first.kill()
    wait_for(lambda: not Path(f"/proc/{follower}").exists())


def test_what_no_process_can_go_on_with_is_said_once(model, tmp_path):
    words = ["--processes", "2", "--text.ppo.learning-rate", "1e6"]
    told = run(**train(model, tmp_path / "run", *words), timeout=SECONDS)
    assert told.returncode == 2
    assert "lower --text.ppo.learning-rate" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "half-cheetah"], "leave --processes out"),
        (["train", "tiny-reviews", "--text.lora", "2"], "leave out --text.lora"),
        (["train", "tiny-reviews", "--fit.l2", "0.1"], "--fit.l2 0"),
        (["train", "tiny-reviews", "--fit.restart", "first"], "--fit.restart is for one process"),
    ],
)
def test_what_several_processes_cannot_train_is_refused(words, expected, tmp_path, capsys):
    words = [*words, "--processes", "2", "--run", tmp_path / "run"]
    assert expected in complaint(words, capsys)
    assert not (tmp_path / "run").exists()


def test_torchrun_says_how_many_processes_there_are(model, tmp_path):
    words = [*train(model, tmp_path / "run", "--processes", "3")["args"]]
    told = run(**command(words[3:], WORLD_SIZE="2"), timeout=SECONDS)
    assert told.returncode == 2
    assert "torchrun has started 2; leave --processes out" in told.stderr


def test_torchrun_starts_them(model, tmp_path):
    started = train(model, tmp_path / "two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    module, *words = started["args"][1:]
    went = subprocess.run(
        [*torchrun, module, "--", *words], env=started["env"], capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip
    assert went.returncode == 0, went.stderr
    assert run(**train(model, tmp_path / "one"), timeout=SECONDS).returncode == 0
    assert_about_equal(numbers(tmp_path / "one"), numbers(tmp_path / "two"))


WEIGHTS = """\
import json, sys, torch
from contextlib import nullcontext
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from prefrl.learning import parallel
from prefrl.text.models.load import load_language_model
from prefrl.text.models.networks import Networks
from prefrl.text.models.tokens import right_padded

class Looks(TorchDispatchMode):
    most = 0

    def __torch_dispatch__(self, function, types, given=(), named=None):
        gathered = [one for one in networks.parameters() if not isinstance(one, DTensor)]
        self.most = max(self.most, sum(weights.numel() for weights in gathered))
        return function(*given, **(named or {}))

def passes():
    hidden, other = networks.policy(tokens, None), networks.reference_hidden(tokens, None)
    networks.divergences(hidden, other, positions[:rows], 1.0)
    values = networks.values(tokens, None, hidden, positions)
    chosen = [networks.log_probabilities(states, tokens, positions, 1.0, states is other)[0]
              for states in (other, hidden)]
    return values.sum() + chosen[1].sum()

def gradients():
    networks(passes).backward()
    return {name: parallel.whole(weights.grad) for name, weights in networks.trained().items()}

with parallel.together():
    networks = Networks(load_language_model(sys.argv[1], 0, "cpu").model, 0, True, 0, nullcontext)
    whole = sum(weights.numel() for weights in networks.parameters())
    tokens, rows = right_padded([range(9)] * 3, torch.device("cpu")), 1 + parallel.rank()
    positions = torch.arange(1, 9).expand(3, -1)
    alone = gradients()
    networks.zero_grad()
    networks.shard()
    own = sum(weights.to_local().numel() for weights in networks.parameters())
    with Looks() as looks:
        together = gradients()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], 2 * gradient)
    after = sum(weights.to_local().numel() for weights in networks.parameters())
    told = parallel.shares(lambda: [[own / whole, (own + looks.most) / whole, after / whole]], 2)
    if parallel.is_first():
        print(json.dumps(told))
"""


def held(model):
    """Return of each of two processes what it holds of all weights: before, at most, after."""
    went = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python",
         sys.executable, "-c", WEIGHTS, str(model)],
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert went.returncode == 0, went.stderr
    assert "Warning" not in went.stderr
    return json.loads(went.stdout)


def test_each_of_two_processes_holds_half_of_the_weights_and_a_tenth_more_at_work():
    for own, most, after in held("tiny"):
        assert own == after == pytest.approx(0.5, abs=0.01)
        assert 0.55 < most <= 0.6  # a matrix and the tied embedding at least


def test_a_head_of_its_own_and_layers_that_give_views_are_gathered_alike(tmp_path):
    config = GPT2Config(**GPT2 | {"n_embd": 64, "tie_word_embeddings": False})
    save_language_model(architecture(config), tmp_path)
    for own, most, after in held(tmp_path):
        assert own == after == pytest.approx(0.5, abs=0.01)
        assert most < 0.7


def networks_of(**sizes):
    return Networks(tiny_language_model(0, **sizes).model, 0, True, 0, nullcontext)


def test_matrices_or_whole_layers_are_gathered_and_what_two_parts_share_is_not_apart():
    networks = networks_of()
    parts = {n for n, part in networks.named_modules() if part in units(networks)}
    of_layer = "self_attn", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"
    decoders = "model.model", "reference", "critic"
    expected = {f"{d}.layers.{n}.{part}" for d in decoders for n in (0, 1) for part in of_layer}
    expected |= {"reference.embed_tokens", "critic.embed_tokens", "reference_head"}
    assert parts == expected  # the policy's embedding is its head, too
    deep = units(networks_of(layers=12, width=32, heads=2))
    layers = [unit for unit in deep if type(unit).__name__ == "LlamaDecoderLayer"]
    assert len(layers) == 3 * 12 and len(deep) == len(layers) + 3


def lines_of(path):
    return (path / "metrics.jsonl").read_text().splitlines()


def followers(pid):
    """Return the processes that a process has started to follow it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            words = (stat.parent / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if parent == pid and b"prefrl.runs.crew" in words:
            found.append(int(stat.parent.name))
    return found


def wait_for(condition):
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_one_process_is_all_there_is_without_torchrun():
    from prefrl.learning import parallel

    state = {"a": [torch.ones(2)], "b": 1}
    assert (parallel.count(), parallel.rank()) == (1, 0)
    assert parallel.from_first(lambda: 3) == parallel.led(lambda: 3, lambda: None) == 3
    assert parallel.shares(lambda: [1, 2], 2) == [1, 2]
    assert [*parallel.own(3)] == [0, 1, 2]
    assert parallel.whole_state(state) is state
