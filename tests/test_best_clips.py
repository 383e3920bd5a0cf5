"""A robot that clones the best of its own clips: what is kept, learned, and gone on with."""

import signal
from dataclasses import replace

import numpy as np
import pytest
from complaints import complaint
from processes import command, run
from test_agent import PUSH, Says, assert_same
from test_experiment import assert_replayed, assert_same_run
from toy_environments import HORIZON, tiny

from prefrl.cli import main
from prefrl.config.control import BestClipsConfig, ControlConfig, CPLConfig, PPOConfig
from prefrl.config.experiment import check_experiment
from prefrl.config.learners import with_learner
from prefrl.config.presets import preset
from prefrl.control.agents.actor import Actor
from prefrl.control.agents.select import SelectAgent, windows
from prefrl.control.environments.adapters import make_environments
from prefrl.control.environments.branching import branched
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.folder import RunFolder
from prefrl.types import Trajectory

SMALL = BestClipsConfig(n_steps=20, hidden=(8,), clone_epochs=3)
FLAGS = (
    "--learner select --labels 16 --steps 512 --rounds 4 --num-envs 4 --threads 1 "
    "--select.n-steps 16 --select.hidden 8 --select.clone-epochs 2 --query.explore-steps 256 "
    "--reward-model.hidden 8"
)


def make_agent(name="toy/Pay-v0", together=0, seed=0, **changes):
    environments = make_environments(
        name, 4, 3, HORIZON, 1, clip_seconds=0.25, truncate_after_end=True
    )
    if together:
        environments = branched(environments, name, together)
    actor = Actor(environments.description, replace(SMALL, **changes), seed)
    return SelectAgent(environments, actor, actor.config, seed)


def pushes(clips):
    return np.array([clip.actions[:, 0].mean() for clip in clips])


def test_clips_follow_each_other_and_what_is_left_is_none():
    steps = np.arange(11.0)
    cut = windows([Trajectory(steps[:, None], steps[:, None], steps, start=3)], 4)
    assert [clip.observations.ravel().tolist() for clip in cut] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows([Trajectory(steps[:3], steps[:3], steps[:3])], 4) == []


def test_the_best_clips_of_a_round_are_cloned():
    agent = make_agent(share=0.25, pool=False)
    assert agent.actor.description.clip_steps == 5
    trajectories, metrics = agent.train(PUSH, 400)
    clips = pushes(windows(trajectories, 5))
    assert len(clips) == 80 and metrics["kept"] == 20
    assert np.sort(pushes(agent.pool)) == pytest.approx(np.sort(clips)[-20:])
    assert metrics["kept_reward"] == pytest.approx(np.sort(clips)[-20:].mean(), rel=1e-5)
    assert metrics["predicted_reward"] == pytest.approx(clips.mean(), rel=1e-4)


def test_what_was_kept_is_judged_again_by_the_newest_reward():
    agent = make_agent(share=0.25)
    first = windows(agent.train(PUSH, 400)[0], 5)
    second = windows(agent.train(Says(lambda t: -t.actions[:, 0]), 400)[0], 5)
    kept_once = np.sort(pushes(first))[-20:]
    candidates = np.sort(np.concatenate([kept_once, pushes(second)]))
    assert np.sort(pushes(agent.pool)) == pytest.approx(candidates[:20])


def test_the_control_keeps_as_many_at_random():
    agent = make_agent(share=0.25, keep="random", pool=False)
    clips = pushes(windows(agent.train(PUSH, 400)[0], 5))
    kept = pushes(agent.pool)
    assert len(kept) == 20 and np.isin(kept, clips).all()
    assert abs(kept.mean() - clips.mean()) < 2.5 * clips.std() / np.sqrt(20)
    assert kept.mean() < 0.5 * np.sort(clips)[-20:].mean()


def test_of_clips_that_begin_alike_the_best_of_each_start_is_kept():
    agent = make_agent("prefrl/Reacher-v0", together=2, share=0.5, pool=False)
    length = agent.actor.description.clip_steps
    clips = windows(agent.train(PUSH, 4 * HORIZON * 6)[0], length)
    by_start = {}
    for clip in clips:
        if clip.task:
            by_start.setdefault(clip.task, []).append(clip)
    best = [max(pushes(pair)) for pair in by_start.values() if len(pair) == 2]
    assert len(best) > 5 and np.isin(np.float32(best), np.float32(pushes(agent.pool))).all()


@pytest.mark.parametrize("together", [0, 2])
def test_the_agent_goes_on_to_the_bit(together):
    name = "prefrl/Reacher-v0" if together else "toy/Ends-v0"
    agent = make_agent(name, together)
    agent.explore(80)
    agent.train(PUSH, 400)
    again = make_agent(name, together, seed=7)
    again.load_state_dict(from_bytes(to_bytes(agent.state_dict())))
    again.seed = agent.seed
    again.actor.first = agent.actor.first
    again.actor.seed = agent.actor.seed
    told = [one.train(PUSH, 400)[1] for one in (agent, again)]
    assert told[0] == told[1]
    assert_same(*(from_bytes(to_bytes(one.state_dict())) for one in (agent, again)))


# --- whole runs ---------------------------------------------------------------------------------


def words(path, more=""):
    env = ["--env", "toy_environments:toy/Ends-v0"]
    return ["train", *env, *FLAGS.split(), *more.split(), "--run", str(path)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "select"
    main(words(path))
    return path


@pytest.mark.parametrize("step", [160, 260, 360])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(step, finished, tmp_path):
    path = tmp_path / "killed"
    done = run(**command(words(path), TOY_KILL_AT_STEP=str(step)))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(path)])
    assert_same_run(path, finished)


def test_a_run_is_replayed_evaluated_and_inspected(finished, tmp_path, capsys):
    assert_replayed(finished, tmp_path / "again")
    main(["evaluate", str(finished), "--episodes", "2"])
    main(["inspect", str(finished)])


def test_a_policy_learns_what_it_is_paid_for_and_its_control_does_not(tmp_path):
    reached = {}
    for keep in ("best", "random"):
        select = BestClipsConfig(
            n_steps=16, hidden=(8,), keep=keep, clone_batch_size=64, clone_learning_rate=1e-2
        )
        experiment = tiny(
            learner="select", select=select, ppo=PPOConfig(), reward="true", steps=8192
        )
        reached[keep] = train(experiment, tmp_path / keep).metrics()[-1]["true_return"]
    assert reached["best"] > 4 > 2 > reached["random"], "a push of one in all 20 steps pays 20"


def test_a_learner_begins_with_what_is_meant_for_it():
    backflip = preset("hopper-backflip").experiment
    chosen = with_learner(backflip, "select")
    check_experiment(chosen)
    control = chosen.control
    assert control.agent is control.select and control.select.sde_sample_freq == 16
    assert control.restart == 0 and control.ppo == PPOConfig()
    assert control.reward_model == backflip.control.reward_model and chosen.fit == backflip.fit
    assert with_learner(chosen, "select") == chosen
    assert "select" in ControlConfig.learners and CPLConfig().clone_epochs == 20


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--restart .5", "--learner select clones clips anew in each round; leave it out"),
        ("--select.share 0", "--select.share is 0.0; expected a number above 0, at most 1"),
        ("--direct.alpha 2", "--direct.alpha is 2.0, but the learner is select; use --learner dir"),
        ("--select.keep worst", "--select.keep is 'worst'; expected one of best, random"),
        ("--learner=select*4,ppo", "is 'select*4,ppo', but each learner of robots has a policy"),
    ],
)
def test_what_does_not_go_together_is_refused(more, sentence, tmp_path, capsys):
    assert sentence in complaint(words(tmp_path / "run", more), capsys)


def test_what_it_tells_is_in_the_metrics(finished):
    line = RunFolder(finished).metrics()[-1]
    assert {"kept", "kept_reward", "predicted_reward", "entropy", "train_loss"} <= line.keys()
