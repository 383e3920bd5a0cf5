"""A run is a run once all that it is to learn from is in its folder: what a kill leaves is none."""

import errno
import os
from contextlib import closing

import numpy as np
import pytest
from fakes import Killed
from gymnasium.spaces import Box
from torch import nn
from toy_environments import Pay, prefer_larger, tiny

from prefrl.cli import main
from prefrl.errors import UserError
from prefrl.runs import session as experiment
from prefrl.runs.load import load_policy, load_reward
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage import rounds as stored
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import SpaceSpec


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "old"
    train(tiny(), path, teacher=prefer_larger)
    return path


def killed(*arguments):
    raise Killed


def assert_no_run(path, capsys):
    with pytest.raises(UserError, match="not a run folder"):
        resume(path)
    with pytest.raises(SystemExit) as ended:
        main(["import", str(path), str(path / "file.jsonl")])
    assert ended.value.code == 2 and "not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("owner", "moment"),
    [
        (experiment, "copy_answers"),
        (FeedbackStore, "record"),
        (stored, "write_answer"),
        (RunFolder, "save_card"),
        (RunFolder, "save_experiment"),
    ],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_a_start_that_is_killed_leaves_no_run(old, owner, moment, tmp_path, monkeypatch, capsys):
    path = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(owner, moment, killed)
        start(tiny(labels=0), path, answers_from=old)
    assert_no_run(path, capsys)
    with pytest.raises(UserError, match=r"exists already; .*--run, or delete it"):
        start(tiny(labels=0), path, answers_from=old)
    session = start(tiny(labels=0), tmp_path / "again", answers_from=old)
    with closing(session.feedback) as feedback:
        assert len(feedback.comparisons()) == 16


def test_a_start_that_is_killed_once_it_was_written_goes_on(old, tmp_path, monkeypatch):
    save = RunFolder.save_experiment
    path = tmp_path / "run"

    def saved(folder, experiment):
        save(folder, experiment)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RunFolder, "save_experiment", saved)
        start(tiny(labels=0), path, answers_from=old)
    *_, last = rounds(resume(path))
    assert last.metrics["train_accuracy"] > 0.5


def test_a_replay_that_is_killed_leaves_no_run(old, tmp_path, monkeypatch, capsys):
    path = tmp_path / "replay"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(FeedbackStore, "copy", killed)
        next(replay(old, path))
    assert_no_run(path, capsys)


@pytest.mark.parametrize(
    ("env", "spaces"),
    [
        (
            "toy_environments:toy/Pay-v0",
            {"observations": SpaceSpec((3,)), "actions": SpaceSpec((1,))},
        ),
        ("CartPole-v1", {"observations": SpaceSpec((5,)), "actions": SpaceSpec(n=2)}),
    ],
)
def test_a_run_says_what_its_clips_are_of(env, spaces, tmp_path):
    session = start(tiny(env=env, clip_seconds=0.1), tmp_path / "run")
    session.feedback.close()
    assert RunFolder.open(tmp_path / "run").card().spaces == spaces


# --- what fails changes nothing ---------------------------------------------------------------


def files_of(run):
    """Return all files of a run but its store's, in which it says who trained last."""
    files = (path for path in run.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if "feedback.sqlite" not in path.name}


@pytest.mark.parametrize("space", ["observation_space", "action_space"])
def test_a_run_of_an_environment_that_has_changed_says_so_and_stays(tmp_path, space, monkeypatch):
    run = train(tiny(), tmp_path / "run").path
    before = files_of(run)
    make = Pay.__init__

    def changed(env, *arguments, **options):
        make(env, *arguments, **options)
        setattr(env, space, Box(-1, 1, (4,), np.float32))

    monkeypatch.setattr(Pay, "__init__", changed)
    monkeypatch.setattr(Pay, "observe", lambda env: np.zeros(env.observation_space.shape))
    now, was = ("[5]", "[3]") if space == "observation_space" else ("[4]", "[1]")
    sentence = rf"its {space[:6]}.* of shape {now}, and were of shape {was}; change it back"
    for use in (
        lambda: resume(run, more_steps=512), lambda: load_policy(run), lambda: load_reward(run),
        lambda: next(replay(run, tmp_path / "replay")),
    ):  # fmt: skip
        with pytest.raises(UserError, match=sentence.replace("[", r"\[").replace("]", r"\]")):
            use()
    assert files_of(run) == before and not (tmp_path / "replay").exists()


def test_a_resume_with_another_network_changes_nothing(tmp_path):
    run = train(tiny(), tmp_path / "run", network=lambda size: nn.Linear(size, 1)).path
    before = files_of(run)
    with pytest.raises(UserError, match="does not fit"):
        resume(run, more_labels=8, more_steps=512)
    assert files_of(run) == before
    assert resume(run, more_steps=512, network=lambda size: nn.Linear(size, 1))


@pytest.mark.parametrize("reason", ["components", "answers"])
def test_a_start_that_fails_leaves_no_half_of_a_folder(old, tmp_path, reason, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises((UserError, OSError)) as failed:
        if reason == "components":
            patched.setattr(experiment, "save_components", fail)
        else:
            patched.setattr(experiment, "copy_answers", fail)
        start(tiny(labels=0), tmp_path / "run", answers_from=old)
    assert "No space" in str(failed.value) and not (tmp_path / "run").exists()
    start(tiny(labels=0), tmp_path / "run", answers_from=old).feedback.close()


def test_a_run_stays_in_its_folder_wherever_the_environment_goes(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    reset = Pay.reset

    def leaves(env, **options):
        os.chdir(tmp_path / "elsewhere")
        return reset(env, **options)

    monkeypatch.setattr(Pay, "reset", leaves)
    assert train(tiny(), "run").path == tmp_path / "run"
    assert not list((tmp_path / "elsewhere").iterdir()) and len(RunFolder("../run").metrics()) == 5
