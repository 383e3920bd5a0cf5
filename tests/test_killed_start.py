"""A run is a run once all that it is to learn from is in its folder: what a kill leaves is none."""

from contextlib import closing

import pytest
from fakes import Killed
from toy_environments import prefer_larger, tiny

from prefrl.cli import main
from prefrl.config.experiment import QueryConfig
from prefrl.errors import UserError
from prefrl.runs import session as experiment
from prefrl.runs.session import replay, resume, rounds, start, train
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
        (FeedbackStore, "_write_answer"),
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
    query = QueryConfig(explore_steps=256, clip_seconds=0.1)
    session = start(tiny(env=env, query=query), tmp_path / "run")
    session.feedback.close()
    assert RunFolder.open(tmp_path / "run").card().spaces == spaces
