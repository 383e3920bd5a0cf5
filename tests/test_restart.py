"""Fits that begin anew in each round: at the first weights, or at the newest policy."""

import signal
from contextlib import nullcontext

import pytest
import torch
import toy_texts  # noqa: F401
from complaints import complaint
from processes import command, run
from test_experiment import assert_same_run
from test_text_select import FLAGS, SELECT
from toy_texts import save_small_model

from prefrl.cli import main
from prefrl.config.learning import FitConfig
from prefrl.config.text import TextRewardConfig
from prefrl.learning.reward import FitState
from prefrl.storage.folder import RunFolder
from prefrl.text.models.load import tiny_language_model
from prefrl.text.reward import Encoded, TextReward


def a_reward(newest=None, **config):
    model = tiny_language_model(0, layers=3, width=16, heads=2, context=64)
    config = TextRewardConfig(members=2, **config)
    return TextReward(model, config, 0, False, nullcontext, newest=newest)


def moved(module, by=0.1):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by


def test_a_fit_goes_back_to_the_first_weights_and_forgets_how_it_moved():
    reward, config = a_reward(), FitConfig(restart="first")
    state, begun = FitState(reward, config, 0), [p.clone() for p in reward.parameters()]
    sum(p.sum() for p in reward.parameters()).backward()
    state.optimizer.step()
    assert not any(map(torch.equal, reward.parameters(), begun))
    state.begin_anew(reward, config)
    assert all(map(torch.equal, reward.parameters(), begun)) and not state.optimizer.state
    assert FitState(reward, FitConfig(), 0).first == [], "nothing is kept for nothing"


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_fit_begins_at_the_newest_policy_with_heads_of_its_own(frozen):
    policy = tiny_language_model(0, layers=3, width=16, heads=2, context=64).model
    reward = a_reward(policy, freeze_layers=frozen)
    heads = [head.weight.clone() for head in reward.heads]
    layers = policy.base_model.layers[frozen:]
    moved(layers)
    for decoder in reward.decoders:
        assert not same(decoder.layers, layers)
    reward.normalise_inputs(Encoded([], [], []))
    for decoder in reward.decoders:
        assert same(decoder.layers, layers)
    moved(layers)
    assert not same(reward.decoders[0].layers, layers), "it is a copy"
    assert all(map(torch.equal, [head.weight for head in reward.heads], heads))


def same(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def words(model, *more):
    begin = ["train", "--env", "toy_texts:texts/Letters-v0", "--learner", "select"]
    return [*begin, *FLAGS.split(), *SELECT.split(), "--text.model", str(model), "--threads", "1",
            *map(str, more)]  # fmt: skip


def test_a_killed_run_whose_fits_begin_at_its_policy_goes_on_to_the_byte(model, tmp_path):
    given = words(model, "--fit.restart", "policy", "--run")
    main([*given, str(tmp_path / "whole")])
    lines = RunFolder(tmp_path / "whole").metrics()
    assert lines[-1]["epochs"] == 3 > 2, "as many passes as the first fit makes"
    turn = {"TOY_KILL_AT_TURN": str(8 + 3 * 24 + 5)}
    done = run(**command([*given, tmp_path / "killed"], ("-m", "prefrl.cli"), **turn))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(tmp_path / "killed")])
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--fit.restart policy --text.reward-model.freeze-layers 1", "of layers that it trains; u"),
        (
            "--fit.restart policy --text.reward-model.lora 2",
            "fit adapters alone; use --fit.restart",
        ),
        ("--fit.restart always", "expected one of never, first, policy"),
    ],
)
def test_what_cannot_begin_there_is_a_sentence(more, sentence, model, tmp_path, capsys):
    given = words(model, *more.split(), "--run", tmp_path / "run")
    assert sentence in complaint(given, capsys)


def test_robots_and_a_policy_that_is_fitted_itself_begin_elsewhere(model, tmp_path, capsys):
    robot = ["train", "--env", "Pendulum-v1", "--fit.restart", "policy", "--run", tmp_path / "x"]
    assert "use --fit.restart first" in complaint([str(word) for word in robot], capsys)
    direct = ["train", "--env", "toy_texts:texts/Letters-v0", "--text.model", str(model)]
    direct += ["--learner", "direct", "--fit.restart", "first", "--run", str(tmp_path / "y")]
    assert "and --text.direct.restart" in complaint(direct, capsys)
