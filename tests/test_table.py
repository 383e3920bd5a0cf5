"""Tables of sweeps: the statistics on known data, and what is printed and drawn."""

import csv
import itertools
import json

import numpy as np
import pytest
from complaints import complaint
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import few

from prefrl.cli import main
from prefrl.config.sweep import Sweep
from prefrl.learning.statistics import Scored, interquartile_mean, over_runs, ratios
from prefrl.reports.table import tabulate
from prefrl.runs.grid import make_sweep
from prefrl.storage.sweeps import SweepFolder

# --- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),  # less 1, 2 and 7, 8
        ([1000, 0, 10, 20, 30], 20),  # a quarter of 5 is 1.25: one at each end
        ([1, 2, 9], 4),  # a quarter of 3 is less than one
        ([5], 5),
        ([0, 0, 0, 1, 1, 1], 0.5),
    ],
)
def test_an_interquartile_mean_leaves_out_a_quarter_at_each_end_rounded_down(values, expected):
    assert interquartile_mean(np.array(values, float)) == pytest.approx(expected)
    rows = np.array([values, values], float)
    assert interquartile_mean(rows) == pytest.approx([expected] * 2)


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_an_interval_is_that_of_all_resamples(statistic):
    """Of four runs there are 256, which can all be looked at."""
    runs = [0.0, 1.0, 10.0, 100.0]
    every = np.array([*itertools.product(runs, repeat=4)])
    of_every = {"mean": every.mean(1), "iqm": np.sort(every)[:, 1:3].mean(1)}[statistic]
    expected = np.percentile(of_every, [2.5, 97.5])
    found = over_runs(runs)[statistic]
    assert found["interval"] == pytest.approx(expected)
    assert found["mean"] == pytest.approx({"mean": 27.75, "iqm": 5.5}[statistic])
    assert over_runs(runs) == over_runs(runs)


def test_a_ratio_is_the_share_of_the_way_from_random_to_true():
    found = ratios([Scored([3.0, 5.0], [11.0, 11.0], [1.0, 1.0])])
    assert found == over_runs([0.2, 0.4])
    assert found is not None and found["mean"]["mean"] == pytest.approx(0.3)
    found = ratios([Scored([3.0, 5.0], [10.0, 12.0], [0.0, 2.0])])
    assert found is not None and found["mean"]["mean"] == pytest.approx(0.3)


def test_the_runs_on_the_true_reward_are_few_as_well_and_make_a_ratio_less_sure():
    found = ratios([Scored([7.0, 7.0], [2.0, 12.0], [0.0, 0.0])])
    assert found is not None and found["mean"]["mean"] == 1.0
    assert found["mean"]["interval"] == pytest.approx([7 / 12, 7 / 2])


def test_tasks_are_never_mixed_in_a_draw():
    """As a bootstrap over all eight runs would, whose interval is about 0.1 to 0.9."""
    found = ratios([Scored([0.0] * 4, [9.0], [0.0]), Scored([5.0] * 4, [5.0], [-1.0])])
    assert found == {
        "mean": {"mean": 0.5, "interval": [0.5, 0.5]}, "iqm": {"mean": 0.5, "interval": [0.5, 0.5]},
    }  # fmt: skip


@pytest.mark.parametrize("true", [[1.0, 1.0], [0.5, 1.4]])
def test_there_is_no_ratio_where_the_true_reward_taught_nothing(true):
    task = Scored([3.0], [4.0], [1.0])
    assert ratios([Scored([3.0], true, [1.0, 1.0])]) is None
    assert ratios([task, Scored([3.0], true, [1.0, 1.0])]) is None and ratios([task])


@few
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=6), st.floats(-9, 9), st.floats(0.1, 9))
def test_a_ratio_does_not_care_for_the_unit_of_the_return(shares, zero, unit):
    found = ratios([Scored([zero + unit * share for share in shares], [zero + unit], [zero])])
    plain = over_runs(shares)
    for name in ("mean", "iqm"):
        assert found is not None
        assert found[name]["mean"] == pytest.approx(plain[name]["mean"], abs=1e-6)
        assert found[name]["interval"] == pytest.approx(plain[name]["interval"], abs=1e-6)


# --- tables ---------------------------------------------------------------------------------------

GRID = {
    "steps": 1000,
    "seed": [0, 1],
    "env": ["Pendulum-v1", "CartPole-v1"],
    "variants": {
        "question": {
            "pairs": {"labels": [10, 20]},
            "orders": {"labels": 5, "query.kind": "ranking", "query.clips": 4},
            "true": {"reward": "true"},
        }
    },
}
RETURNS = {"pairs": 40.0, "orders": 80.0, "true": 100.0}
ZERO = {"Pendulum-v1": -100.0, "CartPole-v1": 20.0}


def evaluated(path, table=GRID, skip=()):
    """Make the folder of a sweep whose runs have finished, but for the cells of some indices."""
    folder = SweepFolder(path)
    folder.path.mkdir(parents=True)
    sweep = make_sweep(table)
    folder.save(sweep)
    for number, cell in enumerate(sweep.cells):
        if number in skip:
            continue
        axes, experiment = cell.axes, cell.experiment
        true = experiment.reward == "true"
        zero = ZERO[experiment.env]
        gained = RETURNS[axes["question"]] + 2 * experiment.seed - 1
        policy = {"true_return": {"mean": zero + gained}, "info": {"flips": gained / 10}}
        answered = 0 if true else experiment.labels
        labels = {"answered": answered, "clips": answered * experiment.query.size}
        random = {"true_return": {"mean": zero}, "info": {"flips": 0.0}}
        run = folder.run(cell)
        run.path.mkdir()
        run._write_json("versions.json", {"prefrl": "1"})
        run.save_evaluation(
            {
                "episodes": sweep.episodes,
                "sample": sweep.sample,
                "report": {"policy": policy, "reference": None, "labels": labels, "steps": 1024},
                "baseline": random if true else None,
                "seconds": 10.0 + experiment.seed,
            }
        )
    return folder


def said(words, capsys):
    capsys.readouterr()
    main([str(word) for word in words])
    return capsys.readouterr().out


def test_a_row_is_of_runs_that_differ_in_their_seed_alone(tmp_path):
    table = tabulate(evaluated(tmp_path / "sweep"))
    rows = {(r.axes.get("env"), r.axes["question"], r.axes.get("labels")): r for r in table.rows}
    row = rows["CartPole-v1", "orders", None]
    assert (row.tasks, row.runs, row.answers, row.clips) == (1, 2, 5, 20)
    assert (row.steps, row.seconds) == (1024, 10.5)
    assert row.value == over_runs([99.0, 101.0])
    assert row.ratio == ratios([Scored([99.0, 101.0], [119.0, 121.0], [20.0, 20.0])])
    assert row.ratio is not None and row.ratio["mean"]["mean"] == pytest.approx(0.8)
    true = rows["Pendulum-v1", "true", None]
    assert (true.answers, true.clips, true.ratio) == (0, 0, None)
    assert rows["Pendulum-v1", "pairs", 20].clips == 40
    assert [(r.axes["question"], r.axes.get("labels")) for r in table.rows[:4]] == [
        ("pairs", 10), ("pairs", 20), ("orders", None), ("true", None),
    ]  # fmt: skip


def test_a_method_has_a_row_for_all_tasks_together(tmp_path):
    table = tabulate(evaluated(tmp_path / "sweep"))
    together = [row for row in table.rows if row.tasks > 1]
    assert [row.axes for row in together] == [
        {"question": "pairs", "labels": 10}, {"question": "pairs", "labels": 20},
        {"question": "orders"},
    ]  # fmt: skip
    assert [(row.tasks, row.runs, row.value) for row in together] == [(2, 4, None)] * 3
    tasks = [
        Scored([zero + 39, zero + 41], [zero + 99, zero + 101], [zero] * 2)
        for zero in ZERO.values()
    ]
    assert together[0].ratio == ratios(tasks)


def test_a_table_in_words_tells_budgets_and_intervals(tmp_path, capsys):
    folder = evaluated(tmp_path / "sweep")
    lines = said(["table", folder.path], capsys).splitlines()
    assert " ".join(lines[0].split()) == (
        "env question labels runs answers clips steps seconds true return IQM ratio IQM ratio"
    )
    assert " ".join(lines[3].split()) == (
        "Pendulum-v1 orders – 2 5 20 1,024 10 -20 (-21 to -19) -20 (-21 to -19) "
        "0.80 (0.78 to 0.82) 0.80 (0.78 to 0.82)"
    )
    assert " ".join(lines[-2].split()).startswith("all 2 orders – 4 5 20 1,024 10 – – 0.80 (")
    assert lines[-1] == (
        "means and interquartile means (IQM) over runs, with 95 % bootstrap intervals; ratio: "
        "(it - random actions) / (true reward - random actions)"
    )
    flips = said(["table", folder.path, "--number", "flips"], capsys).splitlines()
    assert "flips" in flips[0] and "  8 (7.9 to 8.1)" in flips[3]
    words = ["table", folder.path, "--number", "flop"]
    assert "--number is 'flop'; what the environment reports is: flips" in complaint(words, capsys)


def test_a_table_as_csv_has_every_number(tmp_path, capsys):
    folder = evaluated(tmp_path / "sweep")
    rows = [*csv.DictReader(said(["table", folder.path, "--csv"], capsys).splitlines())]
    assert len(rows) == 8 + 3
    table = tabulate(folder)
    for row, found in zip(table.rows, rows, strict=True):
        assert (int(found["tasks"]), int(found["runs"])) == (row.tasks, row.runs)
        assert found["labels"] == str(row.axes.get("labels", ""))
        for prefix, estimates in (("true_return", row.value), ("ratio", row.ratio)):
            for name in ("mean", "iqm"):
                cells = [found[f"{prefix}_{name}{end}"] for end in ("", "_low", "_high")]
                if estimates is None:
                    assert cells == [""] * 3
                else:
                    expected = [estimates[name]["mean"], *estimates[name]["interval"]]
                    assert [*map(float, cells)] == expected


def test_a_table_is_drawn(tmp_path, capsys):
    folder = evaluated(tmp_path / "sweep")
    for name in ("of-ratios.png", "of-returns.png"):
        said(["table", folder.path, "--figure", tmp_path / name], capsys)
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10
        if name == "of-ratios.png":
            pairs = {"question": {"pairs": {"labels": [10, 20]}}}
            folder = evaluated(tmp_path / "no-true", GRID | {"variants": pairs})
    words = ["table", folder.path, "--figure", tmp_path / "missing" / "a.png"]
    assert "cannot write" in complaint(words, capsys)


def test_runs_that_have_not_finished_are_named_and_the_rest_is_told(tmp_path, capsys):
    folder = evaluated(tmp_path / "sweep", skip=(0, 1, 2, 3, 4))
    out = said(["table", folder.path], capsys)
    assert (
        "note: runs that have not finished: 5 of 16 (env=Pendulum-v1, question=pairs, labels=10, "
        "seed=0; env=Pendulum-v1, question=pairs, labels=20, seed=0; env=CartPole-v1, "
        "question=pairs, labels=10, seed=0 and 2 more)"
    ) in out
    for cell in folder.sweep().cells[:2]:
        folder.run(cell).save_outcome("user error", "no luck")
    assert (
        "note: runs that failed: 2 (env=Pendulum-v1, question=pairs, labels=10, seed=0: no luck; "
        "env=Pendulum-v1, question=pairs, labels=20, seed=0: no luck)"
    ) in said(["table", folder.path], capsys)
    none = evaluated(tmp_path / "none", skip=range(99))
    said_of_none = complaint(["table", none.path], capsys)
    assert f"no run of {none.path} has finished yet; go on with `prefrl sweep" in said_of_none


def test_runs_of_different_versions_are_told_of(tmp_path, capsys):
    folder = evaluated(tmp_path / "sweep")
    cell = folder.sweep().cells[2]
    folder.run(cell)._write_json("versions.json", {"prefrl": "2"})
    out = said(["table", folder.path], capsys)
    assert "note: the runs were not all made by the same versions: prefrl was 1, is 2" in out


def test_ratios_are_to_runs_of_the_same_task_and_steps_and_most_alike(tmp_path):
    grid = {
        "env": "CartPole-v1", "labels": 10,
        "variants": {
            "question": {
                "pairs": {"ppo.gamma": [0.9, 0.99], "steps": 1000},
                "true": {"reward": "true", "ppo.gamma": [0.9, 0.99], "steps": 1000},
                "orders": {"query.kind": "ranking", "query.clips": 4, "steps": 2000},
            }
        },
    }  # fmt: skip
    folder = evaluated(tmp_path / "sweep", grid)
    for cell in folder.sweep().cells:
        if cell.axes["question"] == "true":
            came_to = folder.run(cell).evaluation()
            way = {0.9: 100.0, 0.99: 200.0}[cell.axes["ppo.gamma"]]
            came_to["report"]["policy"]["true_return"]["mean"] = 20.0 + way
            folder.run(cell).save_evaluation(came_to)
    rows = tabulate(folder).rows
    found = {(row.axes["question"], row.axes.get("ppo.gamma")): row.ratio for row in rows}
    assert found["orders", None] is None
    assert found["pairs", 0.9] == over_runs([0.39])
    assert found["pairs", 0.99] == over_runs([0.195])


def test_a_language_model_begins_as_its_reference_which_is_the_zero(tmp_path):
    grid = {
        "preset": "random-walks",
        "variants": {"question": {"pairs": {"labels": 10}, "true": {"reward": "true"}}},
    }
    ZERO["prefrl/RandomWalks-v0"] = 0.5
    folder = evaluated(tmp_path / "sweep", grid)
    for cell in folder.sweep().cells:
        came_to = folder.run(cell).evaluation()
        came_to["report"]["reference"] = {"true_return": {"mean": 59.5}}
        folder.run(cell).save_evaluation(came_to | {"baseline": None})
    [pairs, _] = tabulate(folder).rows
    assert pairs.ratio is not None
    assert pairs.ratio["mean"]["mean"] == pytest.approx((39.5 - 59.5) / (99.5 - 59.5))


def test_a_sweep_of_another_version_is_said_to_be_one(tmp_path, capsys):
    folder = evaluated(tmp_path / "sweep")
    fields = json.loads((folder.path / "sweep.json").read_text())
    (folder.path / "sweep.json").write_text(json.dumps(fields | {"format": 99}))
    assert "was written by another version of prefrl" in complaint(["table", folder.path], capsys)
    (folder.path / "sweep.json").write_text("{")
    said_of_it = complaint(["table", folder.path], capsys)
    assert "sweep.json is damaged" in said_of_it and "again from its file" in said_of_it


def test_a_table_is_found_by_the_file_of_its_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").touch()
    assert "holds no sweep" in complaint(["table", "grid.toml"], capsys)
    folder = evaluated(tmp_path / "runs/grid")
    assert said(["table", "grid.toml"], capsys) == said(["table", folder.path], capsys)


def test_cells_are_kept_as_they_are(tmp_path):
    folder = evaluated(tmp_path / "sweep")
    assert folder.sweep() == make_sweep(GRID) and isinstance(folder.sweep(), Sweep)
