"""Parameters of an environment's constructor: --env-kwargs, and Experiment(env_kwargs=…)."""

import json

import gymnasium
import pytest

from prefrl.cli import main
from prefrl.commands.options import parse_env_kwargs
from prefrl.config.experiment import Experiment, check_experiment
from prefrl.control.environments.adapters import make_environments
from prefrl.environments.ids import make, resolve
from prefrl.errors import UserError
from prefrl.runs.check import check_environment
from prefrl.storage.folder import RunFolder

TINY = "--labels 8 --steps 256 --rounds 2 --num-envs 2 --threads 1 --ppo.n-steps 16"
SMALL = [*TINY.split(), "--query.explore-steps=64", "--clip-seconds=0.2"]


def failure_of(*words):
    """Return the exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    return caught.value.code


def test_words_become_values():
    words = ["is_slippery:False", "map_name:8x8", "gravity:-9.81", "sizes:[1, 2]", "path:a:b"]
    assert parse_env_kwargs(words) == {
        "is_slippery": False, "map_name": "8x8", "gravity": -9.81, "sizes": [1, 2], "path": "a:b",
    }  # fmt: skip
    for word in ("is_slippery", "2:3", ":False", "a-b:1"):
        with pytest.raises(UserError, match=r"expected NAME:VALUE, as in is_slippery:False"):
            parse_env_kwargs([word])


def test_they_reach_the_constructor_and_leave_the_id_as_it_was():
    dry, slippery = resolve("FrozenLake-v1", {"is_slippery": False}), resolve("FrozenLake-v1")
    assert dry.id == slippery.id and "is_slippery" not in slippery.kwargs
    outcomes = [len(make(spec).unwrapped.P[0][1]) for spec in (dry, slippery)]  # type: ignore[attr-defined]
    assert outcomes == [1, 3]
    assert gymnasium.spec("FrozenLake-v1").kwargs == slippery.kwargs
    environments = make_environments(resolve("Pendulum-v1", {"g": 5.0}), 2, seed=0)
    assert {env.unwrapped.g for env in environments.environments} == {5.0}


def test_a_parameter_that_a_constructor_has_not_is_a_sentence():
    sentence = "the constructor of {} takes no 'colour', which --env-kwargs gives it"
    for name in ("CartPole-v1", "prefrl/HalfCheetah-v0"):
        with pytest.raises(UserError, match=sentence.format(name)):
            make_environments(resolve(name, {"colour": "red"}), 1, seed=0)
    with pytest.raises(UserError, match=sentence.format("prefrl/RandomWalks-v0")):
        make(resolve("prefrl/RandomWalks-v0", {"colour": "red"}))


def test_values_that_json_cannot_hold_are_refused():
    for wrong in ({"f": print}, {"x": float("nan")}, {1: 2}, [("a", 1)]):
        with pytest.raises(UserError, match=r"--env-kwargs is .*; expected a dict of JSON values"):
            check_experiment(Experiment(env="CartPole-v1", env_kwargs=wrong))  # type: ignore[arg-type]


def test_a_run_keeps_them_and_goes_on_with_them(tmp_path):
    run = str(tmp_path / "moon")
    moon = ["--env", "Pendulum-v1", "--env-kwargs", "g:1.62", *SMALL, "--run", run]
    main(["train", *moon])
    given = {"g": 1.62}
    assert RunFolder.open(run).experiment().env_kwargs == given
    assert json.loads((tmp_path / "moon" / "config.json").read_text())["env_kwargs"] == given
    main(["resume", run, "--steps", "256"])
    main(["evaluate", run, "--episodes", "2"])
    main(["replay", run])


def test_what_the_environment_is_may_depend_on_them(capsys):
    assert failure_of("train", "--env", "CartPole-v1", "--env-kwargs", "colour:red", *SMALL) == 2
    assert "takes no 'colour', which --env-kwargs gives it" in capsys.readouterr().err
    assert failure_of("train", "--env", "CartPole-v1", "--env-kwargs", "red", *SMALL) == 2
    assert "--env-kwargs is given 'red'; expected NAME:VALUE" in capsys.readouterr().err


def test_check_takes_them_too(capsys):
    main(["check", "Pendulum-v1", "--env-kwargs", "g:1.62"])
    assert "Pendulum-v1 can be trained in" in capsys.readouterr().out
    with pytest.raises(UserError, match="takes no 'colour'"):
        check_environment("CartPole-v1", kwargs={"colour": "red"})
