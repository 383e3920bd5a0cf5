"""Formats of files: older ones are brought up to date, others are said to be another version's."""

import json

import pytest

from prefrl.config.experiment import Experiment
from prefrl.errors import UserError
from prefrl.storage import formats
from prefrl.storage.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", Experiment(env="toy", labels=7), {"prefrl": "0.0.9"})


def rewrite(run, name, change):
    path = run.path / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_every_file_says_its_format(run):
    run.extend(3, Experiment(env="toy", labels=9))
    run.save_status({"state": "done"})
    for name in ("config.json", "earlier.json", "status.json"):
        assert json.loads((run.path / name).read_text())["format"] == formats.FORMATS[name]


def test_older_formats_take_every_step_to_the_present_one(run, monkeypatch):
    """Two formats that there never were: labels were called answers, and counted in dozens."""
    monkeypatch.setitem(formats.FORMATS, "config.json", 4)
    with pytest.raises(UserError, match=r"another version of prefrl .the format of its conf"):
        RunFolder.open(run.path)
    monkeypatch.setitem(
        formats.MIGRATIONS,
        ("config.json", 2),
        lambda fields: fields | {"labels": 12 * fields["dozens"]},
    )
    monkeypatch.setitem(
        formats.MIGRATIONS,
        ("config.json", 3),
        lambda fields: {name: value for name, value in fields.items() if name != "dozens"},
    )

    def in_dozens(fields):
        return {name: value for name, value in fields.items() if name != "labels"} | {"dozens": 2}

    rewrite(run, "config.json", in_dozens)
    assert RunFolder.open(run.path).experiment() == Experiment(env="toy", labels=24)
    run.save_experiment(Experiment(env="toy"))
    assert json.loads((run.path / "config.json").read_text())["format"] == 4


@pytest.mark.parametrize("version", [0, 3, "1", None, [1], 1.5])
def test_a_format_without_a_step_is_another_versions(run, version):
    rewrite(run, "config.json", lambda fields: fields | {"format": version})
    sentence = "run was written by another version of prefrl .*; .* that made it, 0.0.9$"
    with pytest.raises(UserError, match=sentence):
        RunFolder.open(run.path)


def test_an_unknown_field_is_another_versions(run):
    rewrite(run, "config.json", lambda fields: fields | {"colour": "red"})
    sentence = "another version of prefrl .Experiment has no field colour.; use the version"
    with pytest.raises(UserError, match=sentence):
        RunFolder.open(run.path)


def test_a_status_of_another_format_says_nothing(run):
    run.save_status({"state": "training"})
    assert run.status() == {"state": "training"}
    rewrite(run, "status.json", lambda fields: fields | {"format": 99})
    assert run.status() == {}


@pytest.mark.parametrize(
    ("teacher", "kind", "now"),
    [("oracle", "run", "oracle"), ("comparison", "comparison", "human")],
)
def test_the_teacher_of_a_comparison_once_said_that_it_is_one(run, teacher, kind, now):
    """Format 1 of config.json had no `kind`."""

    def first(fields):
        return {k: v for k, v in fields.items() if k != "kind"} | {"format": 1, "teacher": teacher}

    rewrite(run, "config.json", first)
    folder = RunFolder.open(run.path)
    assert (folder.kind(), folder.experiment().teacher) == (kind, now)
