"""Sweeps: from a file to cells, and from cells to runs, whatever is killed or fails."""

import dataclasses
import json
import shlex
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from unittest.mock import ANY

import pytest
from complaints import complaint
from fakes import Killed
from processes import command
from toy_environments import tiny

from prefrl.cli import main
from prefrl.config.presets import PRESETS
from prefrl.config.sweep import Cell, Sweep, axes_in_words
from prefrl.contracts import EvaluationRequest
from prefrl.errors import UserError
from prefrl.runs import cell as cells
from prefrl.runs import session, sweep, versions, workers
from prefrl.runs.grid import make_sweep, read_sweep
from prefrl.runs.session import start
from prefrl.storage.folder import RunFolder
from prefrl.storage.formats import FORMATS
from prefrl.storage.sweeps import SweepFolder

TESTS = Path(__file__).parent
SWEEPS = TESTS.parent / "scripts" / "sweeps"
TWO = EvaluationRequest(2)
WARM = (  # what a sweep's processes import
    "stable_baselines3,torch._dynamo,prefrl.control.build,prefrl.control.evaluation,"
    "prefrl.runs.session,prefrl.reports.table,torch.utils.tensorboard,toy_environments"
)


def toml(tmp_path, text, name="grid.toml"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


# --- from a file to cells -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, cells, labels",
    [
        ("backflip.toml", 80, {5, 10, 20, 50, 200}),
        ("half-cheetah.toml", 40, {20, 50, 700}),
        ("christiano.toml", 8 * 7 * 5, {117, 233, 350, 467, 700, 1400}),
        ("ppe.py", 4 * 3 * 5, {33, 100, 333, 1000}),
        ("bpref.toml", 7 * 5, {500, 700}),
    ],
)
def test_tables_of_the_field_are_grids(name, cells, labels):
    """Orders of six are a third of the pairs that show as many clips."""
    sweep = read_sweep(SWEEPS / name)
    assert len(sweep.cells) == cells
    assert {cell.experiment.labels for cell in sweep.cells} >= labels
    assert {cell.experiment.reward for cell in sweep.cells} == {"learned", "true"}


def test_a_named_teacher_is_the_oracle_with_its_fault(tmp_path):
    grid = 'preset = "half-cheetah"\nteacher = ["oracle", "mistake", "myopic"]\noracle.equal = 0.2'
    cells = read_sweep(toml(tmp_path, grid)).cells
    assert [cell.axes["teacher"] for cell in cells] == ["oracle", "mistake", "myopic"]
    assert {cell.experiment.teacher for cell in cells} == {"oracle"}
    oracles = [cell.experiment.oracle for cell in cells]
    assert [(o.equal, o.mistake, o.myopia) for o in oracles] == [
        (0.2, 0.0, 1.0), (0.2, 0.1, 1.0), (0.2, 0.0, 0.9),
    ]  # fmt: skip


def test_a_list_makes_an_axis_of_an_option(tmp_path):
    found = read_sweep(
        toml(
            tmp_path,
            """
            preset = "hopper-backflip"
            steps = 1_000_000
            seed = [3, 4]
            labels = [50, 200]
            query.kind = ["ranking", "choice"]
            query.clips = 6
            ppo.gamma = 0.99

            [sweep]
            episodes = 7
            sample = true
            """,
        )
    )
    preset = PRESETS["hopper-backflip"].experiment
    assert [cell.axes for cell in found.cells] == [
        {"labels": labels, "query.kind": kind, "seed": seed}
        for seed in (3, 4)
        for labels in (50, 200)
        for kind in ("ranking", "choice")
    ]
    assert found.cells[3].experiment == dataclasses.replace(
        preset, steps=1_000_000, seed=3, labels=200, threads=1,
        query=dataclasses.replace(preset.query, kind="choice", clips=6),
        domain=dataclasses.replace(
            preset.domain, ppo=dataclasses.replace(preset.domain.ppo, gamma=0.99)
        ),
    )  # fmt: skip
    assert (found.episodes, found.sample, found.tasks) == (7, True, ())


def test_variants_are_options_that_go_together_and_their_lists_are_axes_of_their_own(tmp_path):
    found = read_sweep(
        toml(
            tmp_path,
            """
            env = ["Pendulum-v1", "CartPole-v1"]
            steps = 100_000
            threads = 2

            [variants.question.pairs]
            labels = [50, 200]

            [variants.question.rankings]
            labels = 20
            [variants.question.rankings.query]
            kind = "ranking"
            clips = 6

            [variants.question.true]
            reward = "true"
            """,
        )
    )
    of_one = [
        {"question": "pairs", "labels": 50},
        {"question": "pairs", "labels": 200},
        {"question": "rankings"},
        {"question": "true"},
    ]
    assert sorted(map(str, (cell.axes for cell in found.cells))) == sorted(
        str({"env": env} | axes | {"seed": 0})
        for env in ("Pendulum-v1", "CartPole-v1")
        for axes in of_one
    )
    assert found.tasks == ("env",)
    rankings = next(cell for cell in found.cells if cell.axes["question"] == "rankings")
    query = rankings.experiment.query
    assert (query.kind, query.clips, rankings.experiment.threads) == ("ranking", 6, 2)


def test_tasks_may_be_variants_with_settings_of_their_own():
    found = make_sweep(
        {
            "labels": [8, 16],
            "variants": {
                "task": {
                    "flip": {"preset": "hopper-backflip", "clip-seconds": 1.0},
                    "heavy": {"env": "Pendulum-v1", "env_kwargs": {"g": 12.0}},
                    "walks": {"preset": "random-walks", "text.ppo.kl-coef": [0.1, 0.2]},
                }
            },
        }
    )
    assert found.tasks == ("task",) and len(found.cells) == 8
    assert {cell.experiment.env for cell in found.cells} == {
        "prefrl/HopperBackflip-v1", "Pendulum-v1", "prefrl/RandomWalks-v0",
    }  # fmt: skip
    heavy = [cell for cell in found.cells if cell.axes["task"] == "heavy"]
    assert [cell.experiment.env_kwargs for cell in heavy] == [{"g": 12.0}] * 2
    assert {cell.axes.get("text.ppo.kl-coef") for cell in found.cells} == {None, 0.1, 0.2}


def test_the_true_reward_is_run_once_whatever_the_answers():
    found = make_sweep(
        {
            "env": "Pendulum-v1", "reward": ["learned", "true"], "labels": [8, 16], "seed": [0, 1],
            "query": {"kind": ["preference", "ranking"], "clips": 2, "explore-steps": 999},
            "oracle": {"mistake": 0.1}, "variants": {},
        }
        | {"query": {"kind": ["ranking", "choice"], "clips": 3, "explore-steps": 999}}
    )  # fmt: skip
    true = [cell for cell in found.cells if cell.experiment.reward == "true"]
    assert [cell.axes for cell in true] == [{"reward": "true", "seed": seed} for seed in (0, 1)]
    assert len(found.cells) == 2 + 2 * 2 * 2
    assert true[0].experiment.query.explore_steps == 999


def test_rows_of_numbers_are_values_and_rows_of_rows_an_axis():
    one = make_sweep({"env": "Pendulum-v1", "ppo": {"hidden": [32, 16]}})
    assert [cell.experiment.control.ppo.hidden for cell in one.cells] == [(32, 16)]
    two = make_sweep({"env": "Pendulum-v1", "ppo": {"hidden": [[32, 16], [8]]}})
    assert [cell.experiment.control.ppo.hidden for cell in two.cells] == [(32, 16), (8,)]
    assert [cell.axes["ppo.hidden"] for cell in two.cells] == [[32, 16], [8]]
    assert two.cells[0].name.startswith("ppo.hidden=32x16,seed=0-")


def test_names_of_cells_are_names_of_folders_and_differ():
    found = make_sweep(
        {"env": ["Pendulum-v1", "prefrl/HalfCheetah-v0"], "question": ["Wo?\n", "Wo ist es?"]}
        | {"question": ["a/b", "a:b", "x" * 300]}
    )
    names = [cell.name for cell in found.cells]
    assert len({*names}) == 6 and all(len(name) < 120 and "/" not in name for name in names)


def test_a_python_file_returns_experiments_and_their_differences_are_the_axes(tmp_path):
    path = toml(
        tmp_path,
        """
        from neighbour import COEFFICIENT
        from prefrl import ControlConfig, Experiment

        sweep = {"episodes": 3}

        def experiments():
            for labels in (8, 16):
                for seed in (0, 1):
                    yield Experiment(env="Pendulum-v1", labels=labels * COEFFICIENT, seed=seed,
                                     steps=labels * 1000)
        """,
        "grid.py",
    )
    (tmp_path / "neighbour.py").write_text("COEFFICIENT = 2\n")
    found = read_sweep(path)
    assert [cell.axes for cell in found.cells] == [
        {"labels": 2 * labels, "steps": labels * 1000, "seed": seed}
        for seed in (0, 1)
        for labels in (8, 16)
    ]
    assert found.episodes == 3 and found.cells[0].experiment.control.environment_count == 64


MISTAKES = {
    'env = "Pendulum-v1"\nlables = 3': "there is no option 'lables' of Pendulum-v1; did you mean "
    "labels",
    'env = "Pendulum-v1"\nquery.clip = 3': "no option 'query.clip' .*; did you mean query.clips",
    'env = "Pendulum-v1"\n[text.ppo]\nkl-target = 3': r"no option 'text.ppo.kl-target' of Pendu",
    'env = "Pendulum-v1"\n[sweep]\nepisode = 3': r"no option 'episode' of \[sweep\]; .* episodes",
    'env = "Pendulum-v1"\n[sweep]\nepisodes = 0': "--episodes is 0; expected a whole number above",
    'env = "Pendulum-v1"\nlabels = "many"': "--labels is 'many'; expected a whole number, 0 or",
    'env = "Pendulum-v1"\nlabels = []': "labels is an empty list; expected values",
    'env = "Pendulum-v1"\nseed = [0, 0]': "two runs would be the same: seed=0 and seed=0; leave",
    'env = "Pendulum-v1"\nteacher = "human"': "the teacher is human, but nobody sits beside a swe",
    'env = "Pendulum-v1"\nquery.kind = "ranking"\nquery.clips = 2': "--query.clips is 2, but a que"
    "ry of kind rank",
    'env = "Pendulum-v1"\n[variants.a.b]\nseed = 1\n[variants.c.d]\nseed = 2': "seed is given by "
    "the variants a and c; expected it in one",
    'env = "Pendulum-v1"\nquery.clips = 2\n"query.clips" = 3': "query.clips is given twice; leave",
    'env = "Pendulum-v1"\nvariants = 3': r"variants is 3; expected a table, \[variants\]",
    'env = "Pendulum-v1"\nvariants.a = 3': r"variants.a is 3; expected a table, \[variants.a\]",
    "labels = 3": "nothing to train on; name a preset",
    'preset = "hoper"': "there is no preset 'hoper'; did you mean hopper",
    "env = 3": "env is 3; expected a text",
    'env = "Pendulum-v1"\nenv_kwargs = 3': "env-kwargs is 3; expected a table",
    "env = ": "is not TOML: Invalid value",
}


@pytest.mark.parametrize(("text", "sentence"), MISTAKES.items())
def test_a_mistake_in_a_file_is_a_sentence(text, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence) as said:
        read_sweep(toml(tmp_path, text))
    assert "grid.toml" in str(said.value)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("x = 1", r"grid.py: asking it for experiments\(\) raised AttributeError: .*; expected a"),
        ("def experiments():\n    return 3 / 0", r"raised ZeroDivisionError: .*\(grid.py:2\)"),
        ("def experiments():\n    return [3]", r"experiments\(\) returned 3; expected Experim"),
        ("def experiments():\n    return []", "there is nothing to run"),
    ],
)
def test_a_mistake_in_a_python_file_is_a_sentence(code, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        read_sweep(toml(tmp_path, code, "grid.py"))


# --- one cell -------------------------------------------------------------------------------------


def test_a_cell_is_finished_however_often_it_was_killed_and_then_left_alone(tmp_path, monkeypatch):
    alone, killed = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "killed")
    came_to = cells.finish(tiny(), alone, TWO)
    assert came_to == alone.evaluation() and came_to["report"]["episodes"] == 2
    assert came_to["baseline"] is None and came_to["seconds"] > 0

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RunFolder, "save_experiment", lambda *_: (_ for _ in ()).throw(Killed()))
        start(tiny(), killed.path)
    assert not (killed.path / "config.json").exists()  # half a start, which is begun anew
    keep = RunFolder.keep_checkpoint

    def killed_after_round_2(folder, index, prepared):
        keep(folder, index, prepared)
        if index == 2:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RunFolder, "keep_checkpoint", killed_after_round_2)
        cells.finish(tiny(), killed, TWO)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RunFolder, "save_evaluation", lambda *_: (_ for _ in ()).throw(Killed()))
        cells.finish(tiny(), killed, TWO)
    again = cells.finish(tiny(), killed, TWO)
    assert again["report"] == came_to["report"]
    assert (killed.path / "metrics.jsonl").read_bytes() == (
        alone.path / "metrics.jsonl"
    ).read_bytes()

    monkeypatch.setattr(session, "resume", lambda *_, **__: pytest.fail("it has finished"))
    assert cells.finish(tiny(), killed, TWO) == again


def test_a_run_says_how_it_ended_and_who_went_on_with_it(tmp_path, monkeypatch):
    run, wrong = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "wrong")
    with monkeypatch.context() as patched, pytest.raises(FloatingPointError):
        patched.setattr(session, "preference_loop", raising(FloatingPointError("the loss is nan")))
        cells.finish(tiny(), run, TWO)
    assert run.outcome() == {"ended": "not finite", "error": "the loss is nan"}
    cells.finish(tiny(), run, TWO)
    assert run.outcome() == {"ended": "finished", "error": ""}
    assert [(start["round"], start["versions"]) for start in run.starts()] == [
        (0, versions.versions()), (0, versions.versions())
    ]  # fmt: skip

    with pytest.raises(UserError, match="there is no environment"):
        cells.finish(tiny(env="toy_environments:toy/Nothing-v0"), wrong, TWO)
    assert wrong.outcome()["ended"] == "user error" and not wrong.holds_run
    assert wrong.outcome()["error"].startswith("there is no environment 'toy_environments:toy/No")
    cells.finish(tiny(), wrong, TWO)
    assert wrong.outcome() == {"ended": "finished", "error": ""}


def raising(error):
    def raises(*_, **__):
        raise error
        yield

    return raises


def test_a_cell_is_evaluated_again_where_it_is_asked_for_otherwise_and_not_trained(tmp_path):
    folder = RunFolder(tmp_path / "run")
    cells.finish(tiny(reward="true"), folder, TWO)
    trained = (folder.path / "metrics.jsonl").stat().st_mtime_ns
    again = cells.finish(tiny(reward="true"), folder, EvaluationRequest(3, sample=True))
    assert again["report"]["episodes"] == 3
    assert again["baseline"]["true_return"].keys() == {"mean", "std"}
    assert len(folder.metrics()) == 5 and trained


def test_a_cell_that_holds_another_experiment_is_left_alone(tmp_path):
    folder = RunFolder(tmp_path / "run")
    start(tiny(), folder.path).close()
    before = (folder.path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"holds another experiment by now.*; move it elsewhere"):
        cells.finish(tiny(seed=1), folder, TWO)
    assert (folder.path / "config.json").read_bytes() == before


def test_the_pace_of_a_run_is_measured_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "PACE_SECONDS", 0.05)
    assert cells.steps_per_second(tiny()) > 10
    assert cells.steps_per_second(tiny(reward="true")) > 10
    assert not [*tmp_path.iterdir()]


def test_a_process_of_a_cell_says_a_mistake_in_a_sentence_and_ends_with_its_parent(tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    with closing(folder):
        folder.claim()
        wrong = tiny(env="toy_environments:toy/Nothing-v0")
        version = versions.code()
        names = [f"a-{version}", f"b-{version}", "c-ofanother"]
        experiments = [wrong, tiny(), tiny()]
        folder.save(Sweep(tuple(Cell(n, {}, e) for n, e in zip(names, experiments, strict=True))))

    def ends(name, sentence):
        options = command([folder.path, name], ("-m", "prefrl.runs.cell"))
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(**options, **pipes) as process:
            assert process.stdin and process.stderr
            if not sentence:
                process.stdin.close()
            said = process.stderr.read()
            assert process.wait(20) == 2
        return said.startswith(f"prefrl: {sentence}") if sentence else said == ""

    assert ends(names[0], "there is no environment 'toy_environments:toy/Nothing-v0'")
    assert ends(names[2], "the code of prefrl has changed meanwhile; start the sweep again")
    assert ends(names[1], "")  # as one whose sweep was killed
    assert not (folder.path / names[1] / "evaluation.json").exists()


# --- many cells -----------------------------------------------------------------------------------

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
seed = [0, 1]
reward = ["learned", "true"]

[sweep]
episodes = 2
"""
FINISHED = """
import json, sys
from pathlib import Path
run = Path(sys.argv[1]) / sys.argv[2]
run.mkdir(exist_ok=True)
cells = json.loads((run.parent / "sweep.json").read_text())["cells"]
[experiment] = [cell["experiment"] for cell in cells if cell["name"] == run.name]
(run / "config.json").write_text(json.dumps({"format": FORMAT, "kind": "run"} | experiment))
with (run.parent / "ran").open("a") as ran:
    ran.write(sys.argv[2] + "\\n")
report = {"policy": {"true_return": {"mean": 1.0}}}
evaluation = {"format": 1, "episodes": 2, "sample": False, "report": report, "seconds": 2.0}
(run / "evaluation.json").write_text(json.dumps(evaluation))
""".replace("FORMAT", str(FORMATS["config.json"]))
ENDINGS = {
    "a sentence": ("import sys; print('prefrl: no luck', file=sys.stderr); sys.exit(2)", "no luck"),
    "a traceback": ("1 / 0", "ZeroDivisionError: division by zero"),
    "silence": ("raise SystemExit(3)", "its process ended with 3"),
    "a signal": (
        "import os; os.kill(os.getpid(), 9)",
        "its process was killed (signal 9), as one is that needs too much memory",
    ),
}


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Return the file of four cells, in the working folder; no cell is really run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "_command", stand_in())
    return toml(tmp_path, TINY)


def stand_in(failing="", code=FINISHED):
    """Return what stands for the command of a cell; code of its own for those so named."""

    def stand(folder, cell, *words):
        chosen = code if failing and failing in cell.name else FINISHED
        return [sys.executable, "-c", chosen, str(folder.path), cell.name, *words]

    return stand


def ran(folder):
    return sorted((folder / "ran").read_text().split())


def test_a_sweep_runs_every_cell_once_and_skips_what_has_finished(grid, capsys):
    main(["sweep", str(grid)])
    said = capsys.readouterr().out
    assert "runs: 4; 2 side by side" in said or "runs: 4; " in said
    assert said.count("true return 1, 2 s") == 4
    assert said.splitlines()[-1] == "done; `prefrl table runs/grid` shows what came of it"
    folder = grid.parent / "runs/grid"
    assert len(ran(folder)) == len({*ran(folder)}) == 4
    for again in (grid, folder):
        main(["sweep", str(again)])
        assert "runs: 4, finished: 4" in capsys.readouterr().out
    assert len(ran(folder)) == 4
    main(["sweep", str(grid), "--list"])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in listed] == [f"{n} finished" for n in range(1, 5)]


def test_each_run_is_a_command_for_whoever_starts_them_elsewhere(grid, capsys):
    folder = grid.parent / "runs/grid"
    main(["sweep", str(grid), "--print"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"prefrl sweep runs/grid --only {number}" for number in range(1, 5)]
    words = [shlex.split(line) for line in printed]
    assert [name for name, *_ in words] == ["prefrl"] * 4
    main(words[2][1:])
    said = capsys.readouterr().out.splitlines()
    cell = SweepFolder.open(folder).sweep().cells[2]
    assert said == [f"run 3 of 4: {axes_in_words(cell.axes)}", ANY]
    assert said[1].endswith(": true return 1, 2 s") and ran(folder) == [cell.name]
    main(words[2][1:])  # it has finished
    assert ran(folder) == [cell.name]
    main(["sweep", str(grid), "--print"])
    assert capsys.readouterr().out.splitlines()[-3:] == printed[:2] + printed[3:]
    for rest in words[:2] + words[3:]:
        main(rest[1:])
    main(["sweep", str(folder)])
    assert "runs: 4, finished: 4" in capsys.readouterr().out and len(ran(folder)) == 4
    main(["sweep", str(grid), "--print"])
    assert capsys.readouterr().out == ""


def test_a_run_alone_that_fails_ends_the_command_with_1(grid, monkeypatch, capsys):
    main(["sweep", str(grid), "--print"])
    code = "import sys; print('prefrl: no luck', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(workers, "_command", stand_in("=", code))
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(grid), "--only", "2"])
    assert ended.value.code == 1 and "failed: no luck" in capsys.readouterr().out


def test_a_run_that_there_is_not_is_a_sentence(grid, capsys):
    assert "holds no sweep (no sweep.json)" in complaint(["sweep", grid, "--only", 1], capsys)
    main(["sweep", str(grid), "--print"])
    assert "--only is 5, but the sweep has 4 runs; `prefrl sweep runs/grid --list` shows" in (
        complaint(["sweep", grid, "--only", 5], capsys)
    )
    assert "--list, --print and --only are given together; expected one of them" in complaint(
        ["sweep", grid, "--only", 1, "--print"], capsys
    )


def test_failures_are_listed_and_noted_below_the_table(grid, capsys):
    main(["sweep", str(grid)])
    folder = SweepFolder.open(grid.parent / "runs/grid")
    failed = folder.run(folder.sweep().cells[1])
    (failed.path / "evaluation.json").unlink()
    failed.save_outcome("not finite", "the loss is nan")
    main(["sweep", str(grid), "--list"])
    assert "\n2 failed (the loss is nan): " in capsys.readouterr().out


@pytest.mark.parametrize(("code", "said"), ENDINGS.values(), ids=ENDINGS)
def test_a_cell_that_fails_is_reported_and_the_others_go_on(code, said, grid, monkeypatch, capsys):
    monkeypatch.setattr(workers, "_command", stand_in("true,seed=1", code))
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(grid), "--jobs", "1"])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert f"reward=true, seed=1: failed: {said}\n" in out
    assert "failed: 1 of 4 runs, whose last words are in runs/grid/logs; `prefrl sweep" in out
    folder = grid.parent / "runs/grid"
    assert len(ran(folder)) == 3
    monkeypatch.setattr(workers, "_command", stand_in())
    main(["sweep", str(grid)])
    assert len(ran(folder)) == 4


def test_a_file_that_has_changed_leaves_what_was_run_and_runs_the_rest(grid):
    folder = grid.parent / "runs/grid"
    main(["sweep", str(grid)])
    before = ran(folder)
    grid.write_text(grid.read_text().replace("seed = [0, 1]", "seed = [1, 2]"))
    main(["sweep", str(grid)])
    assert len(ran(folder)) == 6
    grid.write_text(grid.read_text().replace("steps = 512", "steps = 1024"))
    main(["sweep", str(grid)])
    after = ran(folder)
    assert len(after) == 10 and all((folder / name).is_dir() for name in before)
    grid.write_text("labels = [16]\nfit.epochs = 8\n" + TINY.replace("labels = 16\n", ""))
    main(["sweep", str(grid)])  # the same runs, of which another file says more
    assert ran(folder) == after


def test_other_code_runs_everything_again_unless_it_is_told_to_keep(grid, monkeypatch):
    folder = grid.parent / "runs/grid"
    main(["sweep", str(grid)])
    monkeypatch.setattr(sweep, "code", lambda: "another")
    main(["sweep", str(grid), "--keep"])
    assert len(ran(folder)) == 4
    main(["sweep", str(grid)])
    assert len(ran(folder)) == 8


def test_what_is_kept_is_the_same_experiment_by_todays_defaults(grid, monkeypatch):
    """Another version's defaults may have been others, which its run folder tells."""
    folder = grid.parent / "runs/grid"
    main(["sweep", str(grid)])
    changed = sorted(folder.glob("*/config.json"))[0]
    fields = json.loads(changed.read_text())
    fields["fit"]["epochs"] += 1
    changed.write_text(json.dumps(fields))
    for other in sorted(folder.glob("*/config.json"))[1:]:  # a field that there was not yet
        fields = json.loads(other.read_text())
        del fields["fit"]["label_smoothing"]
        other.write_text(json.dumps(fields))
    monkeypatch.setattr(sweep, "code", lambda: "another")
    main(["sweep", str(grid), "--keep"])
    assert len(ran(folder)) == 5


def test_the_code_of_prefrl_is_known_by_its_source_alone(tmp_path, monkeypatch):
    package = tmp_path / "prefrl"
    for name in ("runs", "viewer"):
        (package / name).mkdir(parents=True)
    (package / "runs" / "versions.py").write_text("1")
    monkeypatch.setattr(versions, "__file__", str(package / "runs" / "versions.py"))
    known = [versions.code()]
    (package / "viewer" / "page.py").write_text("1")
    (package / "runs" / "README.md").write_text("1")
    known.append(versions.code())
    assert known[0] == known[1] and len(known[0]) == 8
    (package / "runs" / "session.py").write_text("1")
    known.append(versions.code())
    (package / "runs" / "session.py").write_text("2")
    known.append(versions.code())
    assert len({*known}) == 3


def test_two_sweeps_on_one_folder_are_one_too_many(grid, tmp_path, capsys):
    main(["sweep", str(grid)])
    code = (
        "import sys; from prefrl.storage.sweeps import SweepFolder\n"
        "folder = SweepFolder(sys.argv[1]); folder.claim(); print('claimed', flush=True)\n"
        "sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "runs/grid")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as other:
        assert other.stdout and other.stdout.readline() == "claimed\n"
        said = complaint(["sweep", grid], capsys)
        assert f"runs/grid is being worked on by process {other.pid} on" in said
        assert "wait until it has finished, end it" in said and "--folder" in said
        other.kill()
    main(["sweep", str(grid)])  # the dead are succeeded at once


def test_a_folder_of_something_else_is_refused(grid, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    said = complaint(["sweep", grid, "--folder", tmp_path / "other"], capsys)
    assert "other exists already and holds no sweep; give another folder with --folder" in said
    assert "holds no sweep (no sweep.json)" in complaint(["sweep", tmp_path / "other"], capsys)
    assert "there is no missing.toml; expected a file" in complaint(
        ["sweep", "missing.toml"], capsys
    )
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_whatever_ends_a_sweep_ends_its_processes(grid, tmp_path, monkeypatch):
    waits = "import sys; sys.stdin.read()"
    monkeypatch.setattr(workers, "_command", lambda *_: [sys.executable, "-c", waits])
    folder = SweepFolder(tmp_path / "sweep")
    begun = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        workers.subprocess, "Popen", lambda *w, **o: begun.append(popen(*w, **o)) or begun[-1]
    )
    with closing(folder):
        folder.claim()
        whole = sweep.with_folders(folder, read_sweep(grid))
        folder.save(whole)
        assert folder.sweep() == whole
        running = sweep.run_cells(folder, whole, 3)
        assert next(running) == sweep.Progress(0, 0, 3, 4, 0, 4 * 512)
        monkeypatch.setattr(sweep, "CLAIM_SECONDS", 0.0)
        monkeypatch.setattr(folder, "check_claim", raise_taken_over)
        with pytest.raises(UserError, match="taken over"):
            list(running)
    assert [process.returncode for process in begun] == [0, 0, 0]


def raise_taken_over():
    raise UserError("taken over")


# --- how long it takes ----------------------------------------------------------------------------


def test_a_sweep_that_takes_days_says_so_before_it_begins(grid, monkeypatch, capsys):
    grid.write_text(grid.read_text().replace("steps = 512", "steps = 40_000_000"))
    measured = []
    monkeypatch.setattr(sweep, "_measured", lambda folder, cell, jobs: measured.append(jobs) or 200)
    said = complaint(["sweep", grid, "--jobs", 2], capsys)
    assert (
        "160,000,000 steps take about 4.6 days, at 400 steps/s; begin with --yes if that is meant, "
        "or take fewer runs or steps"
    ) in said
    assert measured == [2, 2]  # with the true reward and with a learned one
    assert not (grid.parent / "runs/grid/ran").exists()
    capsys.readouterr()
    main(["sweep", str(grid), "--jobs", "2", "--yes"])
    assert "about 4.6 days" in capsys.readouterr().out
    assert len(ran(grid.parent / "runs/grid")) == 4


def test_what_has_finished_says_how_fast_the_rest_will_be(grid, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "_measured", lambda *_: pytest.fail("it is known"))
    monkeypatch.setattr(sweep, "QUICK_STEPS", 0)
    monkeypatch.setattr(sweep, "_is_long", lambda cells: False)
    main(["sweep", str(grid)])
    monkeypatch.undo()
    monkeypatch.chdir(grid.parent)
    monkeypatch.setattr(workers, "_command", stand_in())
    monkeypatch.setattr(sweep, "QUICK_STEPS", 0)
    grid.write_text(grid.read_text().replace("seed = [0, 1]", "seed = [0, 1, 2, 3]"))
    folder = SweepFolder(grid.parent / "runs/grid")
    whole = sweep.with_folders(folder, read_sweep(grid))
    assert sweep.forecast(folder, whole, 2) == 4 * 2.0 / 2  # 4 runs of 2 s each, two at a time


def test_a_pace_is_the_mean_of_as_many_as_there_will_be(grid, tmp_path, monkeypatch):
    folder = SweepFolder(tmp_path / "sweep")
    with closing(folder):
        folder.claim()
        whole = sweep.with_folders(folder, read_sweep(grid))
        code = "import os; print(100.0 if os.environ['OMP_NUM_THREADS'] == '1' else 0)"
        monkeypatch.setattr(workers, "_command", lambda *words: [sys.executable, "-c", code])
        assert sweep._measured(folder, whole.cells[0], 3) == 100.0
        wrong = "import sys; sys.exit('prefrl: it cannot be built')"
        monkeypatch.setattr(workers, "_command", lambda *words: [sys.executable, "-c", wrong])
        with pytest.raises(UserError, match="it cannot be built"):
            sweep._measured(folder, whole.cells[0], 1)


def test_a_turn_of_a_language_model_counts_as_many_steps():
    robot, text = (make_sweep({"preset": name}).cells for name in ("half-cheetah", "random-walks"))
    assert sweep._is_long(robot) and sweep._is_long(text)
    assert not sweep._is_long(make_sweep({"preset": "half-cheetah", "steps": 400_000}).cells)
    assert not sweep._is_long(make_sweep({"preset": "random-walks", "steps": 5_000}).cells)


# --- killed ---------------------------------------------------------------------------------------


def test_a_sweep_that_is_killed_again_and_again_ends_as_one_left_alone(tmp_path):
    file = toml(tmp_path, TINY)
    words = [TESTS / "warm.py", WARM, TESTS / "kill_sweep.py", file, tmp_path, 2, 0]
    done = subprocess.run(**command(words, ()), capture_output=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found.pop("killed_after_rounds")) == 2
    assert found == {
        "of_rounds": 20,
        "rows": 2,
        "same_table": True,
        "runs": 4,
        "same_metrics": True,
    }
