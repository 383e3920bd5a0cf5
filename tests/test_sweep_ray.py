"""Sweeps as tasks of Ray: who is refused, what a run needs, and what a kill leaves."""

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from complaints import complaint
from processes import command
from toy_environments import tiny

from prefrl.config.presets import PRESETS
from prefrl.config.sweep import Cell, Sweep
from prefrl.errors import UserError
from prefrl.runs import on_ray
from prefrl.runs.versions import code
from prefrl.storage.sweeps import SweepFolder

TESTS = Path(__file__).parent
NOT_INSTALLED = "Ray is not installed (pip install 'prefrl[ray]')"
TINY = """
env = "toy_environments:toy/Pay-v0"
num-envs = 4
steps = 512
rounds = 4
labels = 16
ppo.n-steps = 16
ppo.batch-size = 64
ppo.n-epochs = 2
ppo.hidden = [8]
reward-model.hidden = [8]
query.explore-steps = 256
reward = ["learned", "true"]

[sweep]
episodes = 2
"""


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a sweep of one run that works, and one that does not."""
    folder = SweepFolder(tmp_path / "sweep")
    wrong = tiny(env="toy_environments:toy/Nothing-v0")
    with closing(folder):
        folder.claim()
        folder.save(Sweep((Cell("works", {}, tiny()), Cell("wrong", {}, wrong)), episodes=2))
    return folder


# --- what a task does -----------------------------------------------------------------------------


def test_a_task_finishes_a_run_or_says_why_it_failed_and_is_not_tried_again(folder, tmp_path):
    words = str(folder.path), code(), str(tmp_path)
    here, path = Path.cwd(), [*sys.path]
    try:
        assert on_ray.finish_here(words[0], "works", *words[1:]) == (True, "")
        can_be_used, error = on_ray.finish_here(words[0], "wrong", *words[1:])
        assert Path.cwd() == tmp_path and sys.path[0] == str(tmp_path)
    finally:
        os.chdir(here)
        sys.path[:] = path
    works, wrong = folder.sweep().cells
    assert folder.run(works).outcome()["ended"] == "finished"
    assert can_be_used and error.startswith("there is no environment 'toy_environments:toy/Nothi")
    assert folder.log(wrong).read_text() == f"prefrl: {error}\n"


def test_a_node_of_another_version_or_that_does_not_see_the_folder_is_refused(folder, tmp_path):
    path = str(folder.path)
    can_be_used, said = on_ray.finish_here(path, "works", "another", path)
    assert not can_be_used and "another version than here; install the same on all nodes" in said
    can_be_used, said = on_ray.finish_here(str(tmp_path / "other"), "works", code(), path)
    assert not can_be_used and "give the sweep a folder that all nodes see" in said
    assert not folder.run(folder.sweep().cells[0]).path.exists()


def test_a_node_without_prefrl_can_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "prefrl.runs.on_ray", None)
    can_be_used, said = on_ray._task()("sweep", "works", "version", ".")
    assert not can_be_used and "has no prefrl, or another version; install the same" in said


# --- what a run needs -----------------------------------------------------------------------------


def test_a_run_needs_its_threads_and_a_language_model_the_gpu_that_there_is():
    text = PRESETS["tiny-reviews"].experiment
    on_cpu = dataclasses.replace(text, domain=dataclasses.replace(text.domain, device="cpu"))
    on_gpu = dataclasses.replace(text, domain=dataclasses.replace(text.domain, device="cuda:1"))
    needs = {
        (name, has_gpus): tuple(on_ray.needed(experiment, has_gpus).values())
        for name, experiment in [("robot", tiny(threads=3)), ("auto", text), ("cpu", on_cpu)]
        for has_gpus in (False, True)
    }
    assert needs == {
        ("robot", False): (3, 0), ("robot", True): (3, 0),
        ("auto", False): (text.threads, 0), ("auto", True): (text.threads, 1),
        ("cpu", False): (text.threads, 0), ("cpu", True): (text.threads, 0),
    }  # fmt: skip
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 9}}]
    on_ray._check_room(nodes, [Cell("a", {}, tiny(threads=2))], False)
    with pytest.raises(UserError, match=r"--threads is 3, but the largest node .* has 2 cores"):
        on_ray._check_room(nodes, [Cell("a", {}, tiny(threads=3))], False)
    with pytest.raises(
        UserError, match=r"no node .* has a GPU, but --text\.device is cuda; choose"
    ):
        on_ray._check_room(nodes, [Cell("a", {}, on_gpu)], False)


# --- with Ray -------------------------------------------------------------------------------------


def test_a_user_without_ray_knows_nothing_of_it_and_is_told_how_to_get_it(folder, tmp_path):
    code = (
        "import sys, prefrl, prefrl.runs.sweep, prefrl.runs.on_ray; assert 'ray' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(name='ray')")
    words = command(["sweep", folder.path, "--on", "ray"], PYTHONPATH=str(tmp_path))
    done = subprocess.run(**words, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "prefrl: this needs ray: pip install 'prefrl[ray]'\n"


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("slurm", "--on is 'slurm'; expected ray for this machine, ray://HOST:PORT for a cluster"),
        ("ray://127.0.0.1", "--on is 'ray://127.0.0.1'; expected ray for this machine"),
        ("ray://127.0.0.1:1", "nothing answers at ray://127.0.0.1:1 ("),
        ("ray://no.such.host.invalid:10001", "nothing answers at ray://no.such.host.invalid:10001"),
    ],
)
def test_an_address_where_there_is_no_ray_is_a_sentence(address, sentence, folder, capsys):
    pytest.importorskip("ray", reason=NOT_INSTALLED)
    assert sentence in complaint(["sweep", folder.path, "--on", address], capsys)


def test_a_sweep_on_ray_of_which_a_worker_is_killed_ends_as_one_without(tmp_path):
    pytest.importorskip("ray", reason=NOT_INSTALLED)
    file = tmp_path / "grid.toml"
    file.write_text(TINY)
    words = [TESTS / "kill_sweep.py", file, tmp_path, 1, 0, "ray"]
    home = tmp_path / "home"
    home.mkdir()
    started = command(words, (), HOME=str(home))
    done = subprocess.run(**started, capture_output=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found.pop("killed_after_rounds")) == 1
    assert found == {
        "of_rounds": 10,
        "rows": 2,
        "same_table": True,
        "runs": 2,
        "same_metrics": True,
    }
    assert done.stderr == ""
    assert [path.name for path in home.iterdir() if path.name == ".ray"] == []
    assert not (tmp_path / "killed" / "sweep.ray").exists()
