"""The READMEs and the program say the same."""

import importlib
import re
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from toy_texts import TINY_TEXT_FLAGS, save_small_model

from prefrl import cli
from prefrl.commands.table import COMMANDS
from prefrl.config.control import ControlConfig, SACConfig
from prefrl.config.experiment import Experiment
from prefrl.config.learning import QueryConfig
from prefrl.runs.grid import read_sweep
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.text.check import check_environment
from prefrl.types import Trajectory

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT_README = (ROOT / "prefrl" / "text" / "README.md").read_text(encoding="utf-8")


def examples(text):
    """Return the Python of a README."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def links(readme):
    """Return the pictures of a README."""
    return re.findall(r"!\[.*?\]\((.*?)\)", readme.read_text("utf-8"))


def paths(readme):
    """Return the files and folders that a README names from the root."""
    folders = "prefrl|envs|tests|scripts|videos|.ci"
    return re.findall(rf"`((?:{folders})/[\w./-]*)`", readme.read_text("utf-8"))


READMES = [*ROOT.glob("*/README.md"), *ROOT.glob("prefrl/*/README.md"), ROOT / "README.md"]


def test_the_example_of_an_environment_is_checked_and_trained_in(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_env.py").write_text(examples(README)[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    checking, training = re.findall(r"    prefrl ((?:check|train --env) my_env:.*)", README)
    cli.main(checking.split())
    assert "my_env:Push-v0 can be trained in" in capsys.readouterr().out
    tiny = "--labels 8 --steps 1024 --num-envs 4 --query.explore-steps 512 --run run --rounds 1"
    cli.main(training.split("--labels")[0].split() + tiny.split())
    assert (tmp_path / "run/metrics.jsonl").exists()


def test_the_python_example_runs(tmp_path, monkeypatch):
    code = examples(README)[1]
    assert "steps=300_000" in code
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace("labels=200, steps=300_000", "labels=8, steps=8_200, rounds=2"), names)
    pendulum = gymnasium.make("Pendulum-v1")
    seen, done = [pendulum.reset(seed=0)[0]], []
    for _ in range(30):  # with what the environment itself gives
        done.append(names["policy"].predict(seen[-1]))
        seen.append(pendulum.step(done[-1])[0])
    rewards = names["reward"].rewards(
        [Trajectory(np.array(seen[:-1]), np.array(done), np.zeros(30))]
    )
    assert rewards[0].shape == (30,) and np.ptp(rewards[0]) > 0
    assert (tmp_path / "runs/upright/metrics.jsonl").exists()
    assert names["reward"].members == 3


def test_the_language_example_runs(tmp_path, monkeypatch, capsys):
    [command] = re.findall(
        r"    (prefrl train --env guess:.*?)\n    prefrl evaluate", TEXT_README, re.S
    )
    words = command.replace("\\\n", " ").split()[1:]
    small = {"--labels": "8", "--steps": "256", "--rounds": "2", "--text.demonstrations": "20"}
    for option, value in small.items():
        words[words.index(option) + 1] = value
    (tmp_path / "guess.py").write_text(examples(TEXT_README)[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    cli.main([*words, "--query.explore-steps", "128"])
    cli.main(["evaluate", "runs/guess", "--episodes", "4", "--show", "2"])
    assert "Guess a number from 1 to 9." in capsys.readouterr().out
    assert check_environment("guess:Guess-v0") == []


def test_the_example_of_prompts_and_a_judge_runs(tmp_path, monkeypatch):
    [command] = re.findall(r"    (prefrl train --env stories:.*)", README)
    (tmp_path / "stories.py").write_text(examples(README)[2], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = command.replace("FOLDER", str(save_small_model(tmp_path / "model"))).split()[1:]
    cli.main([*words, *TINY_TEXT_FLAGS.split(), "--run", "run"])
    judge = importlib.import_module("stories").judge
    with closing(FeedbackStore(tmp_path / "run" / "feedback.sqlite")) as store:
        comparisons = store.comparisons()
    assert len(comparisons) > 8
    for comparison in comparisons:
        left, right = comparison.left, comparison.right
        prompt, *replies = left.observations[0], left.actions[0], right.actions[0]
        assert prompt == right.observations[0] in ("Once upon a time", "Long ago")
        assert comparison.preference == judge(prompt, *replies)
    assert check_environment("stories:Stories-v0") == []


def test_the_example_of_a_sweep_is_the_grid_that_it_says(tmp_path, monkeypatch, capsys):
    [text] = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "compare.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    [words] = re.findall(r"    prefrl (sweep .*)", README)
    cli.main([*words.split(), "--list"])
    cells = capsys.readouterr().out.splitlines()
    assert len(cells) == 5 * (2 + 2 + 1)
    assert cells[2] == "3 question=rankings, labels=20, seed=0"
    assert read_sweep(tmp_path / "compare.toml").cells[2].experiment.query.kind == "ranking"


def test_every_command_is_in_readme():
    for name in COMMANDS:
        assert f"`prefrl {name}" in README


@pytest.mark.parametrize("learner", ["ppo", "sac", "direct", "select"])
def test_every_metric_is_explained(learner, tmp_path):
    steps, explore_steps = (3_000, 1_500) if learner == "sac" else (8_200, 4_100)
    quick = {"sac": SACConfig(batch_size=8, updates_per_step=0.1)} if learner == "sac" else {}
    experiment = Experiment(
        env="prefrl/HalfCheetah-v0", labels=8, steps=steps, rounds=2,
        domain=ControlConfig(learner=learner, **quick),
        query=QueryConfig(explore_steps=explore_steps, acquisition="uniform"),
    )  # fmt: skip
    folder = train(experiment, tmp_path / "run")
    table = README[README.index("## Every metric") :]
    reported = {"x_position", "x_velocity", "reward_forward", "reward_ctrl"}  # by the environment
    for name in folder.metrics()[-1].keys() - reported:
        assert f"`{name}`" in table, name


@pytest.mark.parametrize(
    ("readme", "link"),
    [(readme, link) for readme in READMES for link in links(readme)],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_picture_is_there(readme, link):
    assert (readme.parent / link).is_file()


@pytest.mark.parametrize(
    ("readme", "path"),
    [(readme, path) for readme in READMES for path in paths(readme)],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_file_that_a_readme_names_is_there(readme, path):
    assert (ROOT / path).exists()
