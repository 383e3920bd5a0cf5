"""The run folder: what is written stays, and what a kill leaves half done is not believed."""

import dataclasses
import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import few

from prefrl.config.as_json import from_json, to_json
from prefrl.config.control import (
    BestClipsConfig,
    ControlConfig,
    CPLConfig,
    PPOConfig,
    RewardConfig,
    SACConfig,
)
from prefrl.config.experiment import Experiment
from prefrl.config.learning import FitConfig, OracleConfig, QueryConfig
from prefrl.config.presets import PRESETS, preset
from prefrl.config.text import TextConfig, TextPPOConfig, TextRewardConfig
from prefrl.errors import UserError
from prefrl.storage import files
from prefrl.storage.files import new_folder, whole, writing
from prefrl.storage.folder import RunFolder, named_by_time
from prefrl.types import EnvironmentCard, SpaceSpec

EXPERIMENT = Experiment(env="prefrl/Hopper-v0", labels=5, seed=3)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", EXPERIMENT, {"prefrl": "0"})


class FullDisk:
    """A file that takes half of what it is given."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk(monkeypatch, name=""):
    """Let every write to a file whose name holds `name` fail as on a full disk."""
    original = Path.open

    def opened(path, mode="r", *arguments, **options):
        file = original(path, mode, *arguments, **options)
        return FullDisk(file) if mode[0] in "wa" and name in path.name else file

    monkeypatch.setattr(Path, "open", opened)


# --- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_their_file(tmp_path, name):
    experiment = preset(name).experiment
    fields = json.loads(json.dumps(to_json(experiment), allow_nan=False))
    assert from_json(Experiment, fields) == experiment
    made = RunFolder.create(tmp_path / name, experiment, {})
    assert RunFolder.open(tmp_path / name).experiment() == made.experiment() == experiment


def configs(kind, **given_fields):
    """Draw a configuration with every field away from its default."""
    values = {}
    for field in dataclasses.fields(kind):
        default = field.default
        if field.name in given_fields:
            values[field.name] = given_fields[field.name]
        elif isinstance(default, bool):
            values[field.name] = st.booleans()
        elif isinstance(default, int):
            values[field.name] = st.integers(0, 10**9)
        elif isinstance(default, float):
            values[field.name] = st.floats(allow_nan=False)
        elif isinstance(default, tuple):
            values[field.name] = st.lists(st.integers(1, 99), max_size=3).map(tuple)
    return st.builds(kind, **values)


robots = configs(
    ControlConfig,
    horizon=st.none() | st.integers(1, 99),
    num_envs=st.none() | st.integers(1, 99),
    learner=st.sampled_from(["ppo", "sac", "direct", "select"]),
    clip_seconds=st.none() | st.floats(0.1, 9),
    ppo=configs(PPOConfig, activation=st.sampled_from(["tanh", "relu"])),
    sac=configs(SACConfig),
    direct=configs(CPLConfig, activation=st.sampled_from(["tanh", "relu"])),
    select=configs(
        BestClipsConfig,
        activation=st.sampled_from(["tanh", "relu"]),
        keep=st.sampled_from(["best", "random"]),
    ),
    reward_model=configs(RewardConfig),
)
models = configs(
    TextConfig,
    model=st.text(max_size=9),
    ppo=configs(TextPPOConfig, kl_target=st.none() | st.floats(0.1, 9)),
    reward_model=configs(TextRewardConfig),
)
experiments = configs(
    Experiment,
    env=st.text(max_size=9),
    rounds=st.none() | st.integers(1, 99),
    reward=st.sampled_from(["learned", "true"]),
    domain=st.none() | robots | models,
    fit=configs(FitConfig),
    query=configs(QueryConfig),
    oracle=configs(OracleConfig),
)


@few
@given(experiments)
def test_any_experiment_survives_json(experiment):
    fields = json.loads(json.dumps(to_json(experiment), allow_nan=False))
    assert from_json(Experiment, fields) == experiment


def test_the_run_of_a_robot_says_nothing_of_language_models():
    kept = to_json(Experiment(domain=ControlConfig()))
    assert kept["oracle"]["rationality"] == "inf" and kept["domain"]["ppo"]["hidden"] == [64, 64]
    assert kept["domain"].keys() == {"kind", *vars(ControlConfig())}
    assert not [name for name in json.dumps(kept).split('"') if "text" in name or "token" in name]
    assert to_json(Experiment(domain=TextConfig()))["domain"]["kind"] == "text"
    assert to_json(Experiment())["domain"] is None


@dataclass(frozen=True)
class Own:
    """The settings of somebody's own domain."""

    arms: int = 2


def test_settings_of_a_domain_of_ones_own_survive_json():
    experiment = Experiment(domain=Own(arms=5))
    kept = to_json(experiment)
    assert kept["domain"] == {"kind": "test_run:Own", "arms": 5}
    assert from_json(Experiment, kept) == experiment


def test_an_unknown_preset_gets_a_hint():
    with pytest.raises(UserError, match="did you mean hopper-backflip"):
        preset("hoper-backflip")
    with pytest.raises(UserError, match=r"there are hopper-backflip.*--env ID"):
        preset("zzz")


# --- making and opening -----------------------------------------------------------------------


def test_a_run_remembers_what_it_is(run):
    again = RunFolder.open(run.path)
    assert again.experiment() == EXPERIMENT and again.versions() == {"prefrl": "0"}
    assert again.metrics() == again.timings() == [] and again.checkpoint() is None
    more = dataclasses.replace(EXPERIMENT, labels=9)
    again.save_experiment(more)
    assert RunFolder.open(run.path).experiment() == more


def test_a_folder_is_never_used_twice(run, tmp_path):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"exists already; .*--run, .*prefrl resume"):
        RunFolder.create(run.path, Experiment(), {})
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists already"):
        RunFolder.create(tmp_path / "mine", Experiment(), {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the run folder"):
        RunFolder.create(tmp_path / "file" / "run", Experiment(), {})


def test_a_folder_is_a_run_once_its_experiment_is_written(tmp_path):
    run = RunFolder.begin(tmp_path / "run", {"prefrl": "0"})
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder.open(run.path)
    with pytest.raises(UserError, match=r"exists already; .*--run, or delete it .*no config\.json"):
        RunFolder.begin(run.path, {})
    run.save_experiment(EXPERIMENT)
    assert RunFolder.open(run.path).experiment() == EXPERIMENT


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (None, None),
        (SpaceSpec((2,)), SpaceSpec(n=4)),
        (SpaceSpec(text=True), SpaceSpec((3,), text=True)),
    ],
)
def test_a_folder_keeps_what_others_must_know_of_its_environment(run, observations, actions):
    card = EnvironmentCard("prefrl.control:DOMAIN", 0.1, "Which?", observations, actions)
    run.save_card(card)
    assert run.card() == card
    assert run.card().is_text == (actions is not None and actions.text)


def test_a_card_of_another_version_is_not_damaged(run):
    run.save_card(EnvironmentCard("prefrl.control:DOMAIN", 0.1, "Which?"))
    path = run.path / "environment.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(
        UserError, match=r"another version of prefrl \(the format of its environment.json is 99"
    ):
        run.card()


def test_a_folder_in_a_folder_is_made(tmp_path):
    RunFolder.create(tmp_path / "a" / "b" / "run", EXPERIMENT, {})
    assert RunFolder.open(tmp_path / "a" / "b" / "run").experiment() == EXPERIMENT


def test_what_is_no_run_is_refused(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path, Path(__file__)):
        with pytest.raises(UserError, match=r"not a run folder .*no config\.json.*prefrl train"):
            RunFolder.open(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"config\.json is damaged"),
        ('{"kind": "run", "format": 2, "env": "prefrl/Ho', r"config\.json is damaged"),
        ("[1, 2]", "expected a JSON object"),
        ("\x00\x00\x00", r"config\.json is damaged"),
        (
            '{"kind": "run", "format": 2, "colour": "red"}',
            r"another version of prefrl \(Experiment has no field colour",
        ),
        (
            '{"kind": "run", "format": 2, "domain": {"kind": "control", "ppo": {"colour": "red"}}}',
            r"another version of prefrl \(PPOConfig has no field colour",
        ),
        (
            '{"kind": "run", "format": 2, "domain": {"kind": "cooking"}}',
            "another version .* the kind 'cooking'",
        ),
        ('{"kind": "run", "format": 2, "domain": {}}', r"config\.json is damaged"),
        (
            '{"kind": "run", "format": 2, "domain": {"kind": "control", "ppo": 3}}',
            r"config\.json is damaged",
        ),
        ('{"kind": "run", "format": 2, "query": null}', r"config\.json is damaged"),
        (
            '{"format": 3, "labels": 5}',
            r"the format of its config.json is 3, this one reads 2.; .* that made it, 0$",
        ),
        ('{"labels": 5}', "another version.*is None, this one reads 2"),
    ],
)
def test_a_config_that_cannot_be_read_is_a_sentence(run, text, words):
    (run.path / "config.json").write_text(text)
    with pytest.raises(UserError, match=words):
        RunFolder.open(run.path)


def test_a_config_of_no_text_is_a_sentence(run):
    (run.path / "config.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        RunFolder.open(run.path)


# --- lines ------------------------------------------------------------------------------------


def append(run, count):
    for index in range(count):
        run.append_round({"round": index, "text": "é\u2028"}, {"round": index, "fit": 0.5})


def test_rounds_come_back_in_order(run):
    append(run, 3)
    assert RunFolder.open(run.path).metrics() == [
        {"round": index, "text": "é\u2028"} for index in range(3)
    ]
    assert run.timings() == [{"round": index, "fit": 0.5} for index in range(3)]


def test_the_same_rounds_are_the_same_bytes(run, tmp_path):
    other = RunFolder.create(tmp_path / "other", EXPERIMENT, {})
    append(run, 3), append(other, 3)
    name = "metrics.jsonl"
    assert (run.path / name).read_bytes() == (other.path / name).read_bytes()


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 9])
def test_lines_after_the_checkpoint_are_dropped(run, kept):
    append(run, 3)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "lo')  # what a kill leaves
    assert len(run.metrics()) == 3
    run.truncate_rounds(kept)
    assert [line["round"] for line in run.metrics()] == list(range(min(kept, 3)))
    assert [line["round"] for line in run.timings()] == list(range(min(kept, 3)))
    if kept <= 3:
        append(run, 1)
        assert [line["round"] for line in run.metrics()] == [*range(kept), 0]


def test_nothing_to_drop(run):
    run.truncate_rounds(4)
    assert run.metrics() == []


@pytest.mark.parametrize("middle", [b'{"round": \n', b"\xff\xff\n"])
def test_a_line_damaged_in_the_middle_is_a_sentence(run, middle):
    append(run, 1)
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(middle)
    append(run, 1)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        run.metrics()


# --- checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 8, 98, 9997])
def test_the_newest_two_checkpoints_are_kept(run, first):
    for index in range(first, first + 5):
        run.save_checkpoint(index, f"after {index}".encode())
        assert run.checkpoint() == f"after {index}".encode()
    files = sorted(path.read_bytes() for path in (run.path / "checkpoints").iterdir())
    assert files == sorted(f"after {index}".encode() for index in (first + 3, first + 4))


def test_a_redone_round_replaces_its_checkpoint(run):
    run.save_checkpoint(0, b"a")
    run.save_checkpoint(1, b"b")
    run.save_checkpoint(1, b"c")
    assert run.checkpoint() == b"c"
    (run.path / "checkpoints" / "round-0001.pt").unlink()
    assert run.checkpoint() == b"a", "the one before is still there"


def test_what_a_kill_left_of_a_checkpoint_is_not_believed(run):
    run.save_checkpoint(6, b"whole")
    folder = run.path / "checkpoints"
    (folder / "round-0007.pt.partial").write_bytes(b"ha")
    assert run.checkpoint() == b"whole"
    run.save_checkpoint(7, b"whole again")
    assert run.checkpoint() == b"whole again"
    assert sorted(path.name for path in folder.iterdir()) == ["round-0006.pt", "round-0007.pt"]


# --- writing ----------------------------------------------------------------------------------


def write(path, data):
    with whole(path) as partial:
        partial.write_bytes(data)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path, b"old")
    synced = []
    monkeypatch.setattr(files.os, "fsync", lambda number: synced.append(path.read_bytes()))
    write(path, b"new")
    assert synced[0] == b"old", "it is on the disk before it takes the old one's place"
    assert path.read_bytes() == b"new"

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write(path, b"newer")
    assert path.read_bytes() == b"new"


def refuse_to_replace(monkeypatch, times):
    """Let that many replacements fail as on Windows, while somebody reads the file."""
    replace, failures = Path.replace, iter(range(times))
    monkeypatch.setattr(files, "REPLACE_SECONDS", 0.001)

    def replaced(partial, path):
        if next(failures, None) is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return replace(partial, path)

    monkeypatch.setattr(Path, "replace", replaced)


@pytest.mark.parametrize("write", ["experiment", "status", "viewer"])
def test_a_file_that_somebody_reads_is_replaced_once_they_have_done(run, monkeypatch, write):
    before = getattr(run, write)()
    after = {"experiment": Experiment(labels=9), "status": {"a": 1}, "viewer": {"port": 1}}[write]
    refuse_to_replace(monkeypatch, 2)
    getattr(run, f"save_{write}")(after)
    assert getattr(run, write)() == after != before


def test_a_file_that_can_never_be_replaced_is_a_sentence(run, monkeypatch):
    refuse_to_replace(monkeypatch, 1000)
    with pytest.raises(UserError, match=r"cannot write .*config\.json: Permission denied"):
        run.save_experiment(Experiment())
    run.save_status({"a": 1})
    monkeypatch.undo()
    assert run.experiment() == EXPERIMENT and run.status() == {}


def test_other_trouble_with_replacing_is_told_at_once(run, monkeypatch):
    tries = []

    def broken(partial, path):
        tries.append(path)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(UserError, match="cannot write"):
        run.save_experiment(Experiment())
    assert len(tries) == 1


def test_a_full_disk_is_a_sentence_and_the_old_file_stays(run, monkeypatch):
    append(run, 1)
    run.save_checkpoint(0, b"whole")
    with monkeypatch.context() as patched:
        fill_disk(patched)
        sentence = r"No space left on device; make room and continue with `prefrl resume .*is safe"
        with pytest.raises(UserError, match=sentence):
            run.save_checkpoint(1, b"too much for this disk")
        with pytest.raises(UserError, match=sentence):
            run.append_round({"round": 1}, {"round": 1})
        with pytest.raises(UserError, match=sentence):
            run.save_experiment(Experiment())
    assert run.checkpoint() == b"whole" and run.experiment() == EXPERIMENT
    assert [line["round"] for line in run.metrics()] == [0], "half a line is not believed"
    run.truncate_rounds(1)
    append(run, 1)
    assert len(run.metrics()) == len(run.timings()) == 2


def test_a_full_disk_leaves_nothing_of_a_run_that_was_not_begun(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        fill_disk(patched, "versions")
        with pytest.raises(
            UserError, match="No space left on device; make room and start it again"
        ):
            RunFolder.create(tmp_path / "run", EXPERIMENT, {"prefrl": "0"})
    assert not (tmp_path / "run").exists()


def test_only_trouble_with_the_disk_becomes_a_sentence(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path, "and try again"):
        _ = 1 / 0
    missing = tmp_path / "no such folder" / "file"
    sentence = r"cannot write .*: No such file or directory; mend that and try again"
    with pytest.raises(UserError, match=sentence), writing(tmp_path, "and try again"):
        missing.write_bytes(b"")


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_whatever_kind_of_error_says_so(tmp_path, full):
    """Safetensors, for one, has its own."""
    with (
        pytest.raises(UserError, match=r"cannot write .*model: .*; make room and try again"),
        new_folder(tmp_path / "model") as folder,
    ):
        (folder / "weights").write_bytes(b"ha")
        raise full
    assert list(tmp_path.iterdir()) == [], "nothing is left of it"


def test_a_run_stays_where_it_was_named_wherever_the_process_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create("run", EXPERIMENT, {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    append(run, 1)
    run.save_checkpoint(0, b"whole")
    assert [*Path.cwd().iterdir()] == [] and len(RunFolder.open(tmp_path / "run").metrics()) == 1


def test_what_a_run_was_before_it_was_extended_is_kept(tmp_path):
    first, second, third = (Experiment(env="toy", labels=n) for n in (1, 2, 3))
    run = RunFolder.create(tmp_path / "run", first, {})
    assert run.earlier() == []
    run.extend(4, second)
    run.extend(9, third)
    assert run.earlier() == [(4, first), (9, second)] and run.experiment() == third
    run.truncate_rounds(9)
    assert run.earlier() == [(4, first), (9, second)]
    run.truncate_rounds(6)  # what was done of it after round 6 is done again
    assert run.earlier() == [(4, first), (6, second)]
    phases = ["3", "[3]", '[{"until": "x"}]', '[{"labels": 1}]']
    for damage in (
        "[]",
        "{",
        *(f'{{"format": 1, "phases": {text}}}' for text in phases),
    ):
        (run.path / "earlier.json").write_text(damage)
        with pytest.raises(UserError, match=r"earlier.json is damaged"):
            run.earlier()
    other = '{"format": 1, "phases": [{"until": 3, "labls": 1}]}'
    for written in (other, '{"format": 2, "phases": []}', '{"phases": []}'):
        (run.path / "earlier.json").write_text(written)
        with pytest.raises(UserError, match="run was written by another version of prefrl"):
            run.earlier()


def test_runs_that_nobody_names_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prefrl.storage.folder.time.strftime", lambda form: "20250131-120000")
    path = named_by_time("runs", "pole")
    assert path == tmp_path / "runs/pole-20250131-120000"
    made = [RunFolder.begin(path, {}, or_numbered=True).path for _ in range(3)]
    assert made == [path, Path(f"{path}-2"), Path(f"{path}-3")]
    with pytest.raises(UserError, match="exists already"):
        RunFolder.begin(path, {})


def test_a_run_stays_where_it_is_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create("run", EXPERIMENT, {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.append_round({"round": 0}, {})
    assert run.path == tmp_path / "run" and run.metrics() == [{"round": 0}]
