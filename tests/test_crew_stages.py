"""Fine-tuning and fits that several processes make together, each with a part of the weights."""

import json
import re
import shutil

import pytest
import torch
from complaints import complaint
from processes import command, run
from safetensors.torch import load_file
from test_text_fit import pairs, write
from test_unfinished import demonstrations, killed

from prefrl.cli import main
from prefrl.errors import UserError
from prefrl.learning import parallel
from prefrl.text.stages import fit_state
from prefrl.text.stages.fitting import start

SECONDS = 240
SFT = "sft --file FILE --model tiny --epochs 3 --batch-size 16 --micro-batch-size 3"
FIT = "fit --from FILE --model tiny --epochs 3 --batch-size 16 --freeze-layers 1 --patience 0"


def words(stage, tmp_path, *more):
    """Return a command, with its file."""
    command, rows = {"sft": (SFT, demonstrations(50)), "fit": (FIT, pairs(50))}[stage]
    file = write(tmp_path / "rows.jsonl", *rows)
    return [str(file) if word == "FILE" else word for word in command.split()] + [*more]


def assert_alike(one, other, near):
    """Sums over processes round otherwise."""
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert left.keys() == right.keys()
    for name, weights in left.items():
        torch.testing.assert_close(weights, right[name], rtol=near, atol=near)


@pytest.mark.parametrize("stage", ["sft", "fit"])
def test_two_processes_do_what_one_does_and_one_goes_on_for_two(stage, tmp_path):
    main(words(stage, tmp_path, "-o", str(tmp_path / "one")))
    two = words(stage, tmp_path, "-o", str(tmp_path / "two"), "--processes", "2")
    killed(two, tmp_path / "two.partial" / "state.pt", SECONDS)
    shutil.copytree(tmp_path / "two.partial", tmp_path / "again.partial")
    went = run(**command(two), timeout=SECONDS)
    assert went.returncode == 0, went.stderr
    assert "Warning" not in went.stderr and "going on after" in went.stdout
    main(words(stage, tmp_path, "-o", str(tmp_path / "again")))
    for folder in ("two", "again"):
        assert_alike(tmp_path / "one", tmp_path / folder, 1e-5)
    if stage == "fit":
        of_one, of_two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
        for left, right in zip(of_one, of_two, strict=True):
            assert left == pytest.approx(right, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("stage", ["sft", "fit"])
def test_in_bfloat16_losses_and_metrics_are_those_of_one_process(stage, tmp_path):
    """Adam's first steps are as long for a gradient that is mere rounding, so weights differ."""
    told = []
    for processes in (1, 2):
        path = tmp_path / f"{processes}"
        more = "--dtype", "bfloat16", "--processes", processes, "-o", path
        went = run(**command(words(stage, tmp_path, *more)), timeout=SECONDS)
        assert went.returncode == 0, went.stderr
        told.append(losses(went.stdout) if stage == "sft" else metrics(path))
    assert len(told[0]) == len(told[1]) >= 2
    for left, right in zip(*told, strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-3)
    assert_alike(tmp_path / "1", tmp_path / "2", 3e-3)


def losses(printed):
    """Return the losses of an sft: of each pass, held out before and after."""
    found = re.findall(r"(?:loss |loss: |before, )([\d.]+)", printed)
    return [float(number) for number in found]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_adapters_are_for_one_process(tmp_path, capsys):
    said = complaint(
        words("fit", tmp_path, "--lora", "2", "--processes", "2", "-o", tmp_path / "no"), capsys
    )
    assert "leave out --lora, or --processes" in said and not (tmp_path / "no").exists()


def test_processes_that_read_different_answers_are_told(tmp_path, monkeypatch):
    fitting = start(write(tmp_path / "rows.jsonl", *pairs(30)), "tiny")
    fit_state.begin(fitting)
    monkeypatch.setattr(parallel, "from_first", lambda run: "those of another file")
    with pytest.raises(UserError, match="different answers; give all the same file"):
        fit_state.begin(fitting)
