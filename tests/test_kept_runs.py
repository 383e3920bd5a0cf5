"""Folders of every kind that were made once, by `keep_runs.py`, open in every later version."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from keep_runs import KEPT

from prefrl import load_policy, load_reward
from prefrl.cli import main
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.text.stages.fitted import load_fitted


@pytest.fixture
def kept(tmp_path):
    """Return a copy of a kept folder, to be written to."""
    return lambda name: Path(shutil.copytree(KEPT / name, tmp_path / name))


def counts(path):
    with closing(FeedbackStore(path / "feedback.sqlite", read_only=True)) as store:
        return store.counts().answered, len(store.comparisons())


@pytest.mark.parametrize("name", ["robot", "text"])
def test_a_kept_run_is_read(name, kept, capsys):
    path = kept(name)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert RunFolder.open(path).metrics() == lines and len(lines) == 3
    assert RunFolder.open(path).card().is_text == (name == "text")
    assert RunFolder.open(path).experiment().labels == counts(path)[0] == 16
    assert load_policy(path) and load_reward(path)
    capsys.readouterr()
    main(["evaluate", str(path), "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    main(["export", str(path)])
    assert len(capsys.readouterr().out.splitlines()) == 16


@pytest.mark.parametrize(("name", "more"), [("robot", "256"), ("text", "32")])
def test_a_kept_run_goes_on(name, more, kept):
    path = kept(name)
    before = RunFolder.open(path).metrics()
    main(["resume", str(path), "--steps", f"+{more}", "--labels", "+4"])
    after = RunFolder.open(path).metrics()
    assert after[: len(before)] == before and len(after) > len(before)
    assert counts(path)[0] == 20


def test_a_kept_comparison_is_reported(kept, capsys):
    capsys.readouterr()
    main(["compare", "--report", str(kept("comparison")), "--json"])
    assert json.loads(capsys.readouterr().out)["answered"] == 3


def test_a_kept_reward_model_is_loaded(kept):
    assert load_fitted(kept("fitted"))


def test_a_kept_sweep_has_its_table(kept, capsys):
    capsys.readouterr()
    main(["table", str(kept("sweep")), "--csv"])
    head, row = capsys.readouterr().out.splitlines()
    assert head.startswith("reward,tasks,runs,answers,clips,steps,seconds,true_return_mean")
    assert row.startswith("true,1,1,0.0,0.0,256.0,")


def test_kept_folders_are_small_and_hold_no_path_of_a_machine():
    files = [path for path in KEPT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2e6
    for path in files:
        assert str(Path.home()).encode() not in path.read_bytes(), path
        assert str(KEPT).encode() not in path.read_bytes(), path
