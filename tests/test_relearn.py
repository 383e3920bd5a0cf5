"""The same answers, another learner: `prefrl replay RUN --learner`, and one store for all."""

import math

import pytest
import toy_texts  # noqa: F401
from complaints import complaint
from toy_environments import tiny
from toy_texts import save_small_model, tiny_text

from prefrl.cli import main
from prefrl.config.control import ControlConfig
from prefrl.config.experiment import check_experiment
from prefrl.config.learners import relearned, with_learner
from prefrl.config.learning import FitConfig
from prefrl.config.presets import preset
from prefrl.config.text import TEXT_FIT, DirectConfig
from prefrl.runs.train import train
from prefrl.storage.folder import RunFolder

FLAGS = (
    "--labels 50 --steps 512 --rounds 2 --num-envs 16 --threads 1 --ppo.n-steps 16 --ppo.hidden 8 "
    "--reward-model.hidden 8 --query.explore-steps 512 --clip-seconds 0.4"
)


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "robot"
    main(["train", "--env", "prefrl/HalfCheetah-v0", *FLAGS.split(), "--run", str(path)])
    return path


@pytest.mark.parametrize("learner", ControlConfig.learners)
def test_any_learner_of_robots_begins_anew_from_the_answers_of_a_run(learner, robot, tmp_path):
    main(["replay", str(robot), "--learner", learner, "--run", str(tmp_path / "again")])
    folder = RunFolder(tmp_path / "again")
    assert folder.experiment().control.learner == learner
    line = folder.metrics()[-1]
    assert line["round"] == 2 and line["answered"] == 0 and line["train_loss"] > 0
    assert ("train_accuracy" in line) and RunFolder(robot).metrics()[-1]["answered"] == 50


def test_a_language_model_begins_as_it_did_there(tmp_path, capsys):
    model = save_small_model(tmp_path / "model")
    path = train(tiny_text(model), tmp_path / "run").path
    model.rename(tmp_path / "elsewhere")
    main(["replay", str(path), "--learner", "direct"])
    folder = RunFolder(tmp_path / "run-direct")
    assert folder.experiment().text.learner == "direct"
    assert folder.metrics()[-1]["answered"] == 0 and "beta" in folder.metrics()[-1]
    names = [
        sorted(file.name for file in (p.reference).iterdir()) for p in (RunFolder(path), folder)
    ]
    assert names[0] == names[1]


def test_what_was_chosen_for_one_learner_is_left_out_for_another():
    backflip = preset("hopper-backflip").experiment
    direct = with_learner(backflip, "direct")
    for learner in ControlConfig.learners:
        for given in (backflip, direct):
            chosen = relearned(given, learner)
            check_experiment(chosen, labels_needed=False)
            assert chosen.control.learner == learner and chosen.labels == 0
    again = relearned(direct, "ppo")
    assert again.control == ControlConfig() and again.fit == FitConfig()
    assert relearned(backflip, "direct").control.direct.sde_sample_freq == 16
    assert relearned(backflip, "ppo").control == backflip.control
    texts = with_learner(preset("tiny-reviews").experiment, "direct")
    back = relearned(texts, "ppo")
    check_experiment(back, labels_needed=False)
    assert back.text.direct == DirectConfig() and back.fit == TEXT_FIT
    assert math.isfinite(back.fit.stop_accuracy)


def test_a_learner_that_is_not_there_and_a_run_without_answers_are_sentences(
    robot, tmp_path, capsys
):
    said = complaint(["replay", str(robot), "--learner", "dqn"], capsys)
    assert "--learner is 'dqn'; expected one of ppo, sac, direct" in said
    true = train(tiny(reward="true"), tmp_path / "true").path
    said = complaint(["replay", str(true), "--learner", "direct"], capsys)
    assert "was trained with --reward true, so it has no answers that another learner could" in said
