"""Whole runs: that they learn, survive a kill unchanged, can be extended and loaded."""

import json
import math
import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import Process, command, run
from test_agent import assert_same
from torch import nn
from toy_environments import HORIZON, TINY, TINY_FLAGS, prefer_larger, tiny

from prefrl.cli import main
from prefrl.config.control import PPOConfig
from prefrl.config.learning import FitConfig, OracleConfig, QueryConfig
from prefrl.control.agents.ppo import PPOAgent
from prefrl.control.build import fresh_environments
from prefrl.control.environments.adapters import make_environments
from prefrl.control.policy import Policy, play
from prefrl.errors import UserError
from prefrl.runs.load import load_policy, load_reward
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.runs.versions import differences
from prefrl.storage.checkpoint import from_bytes
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Answer, Query, QueryId, Segment, Trajectory

TESTS = Path(__file__).parent
TRAIN = ["train", "--env", "toy_environments:toy/Pay-v0", *TINY_FLAGS.split()]
TAUGHT = [*TRAIN, "--teacher", "toy_environments:prefer_larger"]


def answers(path):
    """Return the rows of a run's answers, oldest first: what was said and by whom, then all."""
    with sqlite3.connect(path / "feedback.sqlite") as connection:
        said = 'id, round, "index", kind, value, teacher'
        rows = connection.execute(f"SELECT {said}, * FROM answer ORDER BY id").fetchall()
    connection.close()
    return rows


def assert_same_run(path, other):
    assert (path / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert_same(*(from_bytes(RunFolder(p).checkpoint()) for p in (path, other)))
    # Everything but when it was said.
    assert [row[:6] for row in answers(path)] == [row[:6] for row in answers(other)]
    names = [sorted(file.name for file in (p / "checkpoints").iterdir()) for p in (path, other)]
    assert names[0] == names[1] == ["round-0003.pt", "round-0004.pt"]


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "never-killed"
    main([*TAUGHT, "--run", str(path)])
    return path


KILL_BETWEEN_METRICS_AND_CHECKPOINT = """
import os, signal
from prefrl.cli import main
from prefrl.storage.folder import RunFolder

def keep(folder, index, prepared):
    if index == 2:
        cut = folder.path / "checkpoints/round-0002.pt.partial"
        cut.write_bytes(prepared.read_bytes()[:99])
        (folder.path / "metrics.jsonl").open("a").write('{"round": 3, "half a li')
        os.kill(os.getpid(), signal.SIGKILL)
    rename(folder, index, prepared)

rename, RunFolder.keep_checkpoint = RunFolder.keep_checkpoint, keep
main()
"""


@pytest.mark.parametrize(
    ("moment", "code"),
    [
        ({"TOY_KILL_AT_ANSWER": "3"}, None),  # round 0, no checkpoint yet
        ({"TOY_KILL_AT_ANSWER": "10"}, None),
        ({"TOY_KILL_AT_STEP": str(4 * 20 + 256 + 300)}, None),  # in the midst of a rollout
        ({}, KILL_BETWEEN_METRICS_AND_CHECKPOINT),
    ],
    ids=["first answers", "answers", "rollout", "between files"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(moment, code, never_killed, tmp_path):
    path = tmp_path / "killed"
    code = ("-m", "prefrl.cli") if code is None else ("-c", code)
    done = run(**command([*TAUGHT, "--run", path], code, **moment))
    assert done.returncode == -signal.SIGKILL, done.stderr
    given = answers(path)
    assert 0 < len(given) < 16
    main(["resume", str(path)])
    assert answers(path)[: len(given)] == given
    assert_same_run(path, never_killed)


def test_control_c_says_how_to_go_on_and_going_on_works(never_killed, tmp_path):
    path = tmp_path / "stopped"
    words = command([*TAUGHT, "--run", path], TOY_SLEEP="0.001")
    process = Process(**words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith("round 1/4"):
            process.send_signal(signal.SIGINT)
            break
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    match = re.search(r"round (\d) is saved and no answer is lost.*`prefrl resume (.*)`", said)
    assert match and match[2] == str(path) and 1 <= int(match[1]) < 4
    assert said.startswith("prefrl: stopped;") and said.count("\n") == 1
    kept = len(RunFolder.open(path).metrics())
    assert kept - int(match[1]) in (1, 2)  # the one being saved may have come to its end
    main(["resume", str(path)])
    assert_same_run(path, never_killed)


def test_a_run_without_its_newest_checkpoint_goes_on_from_the_one_before(never_killed, tmp_path):
    path = tmp_path / "damaged"
    train(tiny(), path, teacher=prefer_larger)
    newest = path / "checkpoints" / "round-0004.pt"
    for damage in (b"", b"not a checkpoint", newest.read_bytes()[:-200]):
        newest.write_bytes(damage)
        with pytest.raises(UserError, match=r"newest checkpoint of .* damaged .*; delete it"):
            resume(path, teacher=prefer_larger)
        with pytest.raises(UserError, match=r"newest checkpoint of .* damaged"):
            load_policy(path)
    newest.unlink()
    assert load_policy(path)
    for _ in rounds(resume(path, teacher=prefer_larger)):
        pass
    assert RunFolder(path).metrics() == RunFolder(never_killed).metrics()


def test_the_same_seed_is_the_same_run_and_another_seed_another(tmp_path, never_killed):
    train(tiny(), tmp_path / "same", teacher=prefer_larger)
    assert_same(
        from_bytes(RunFolder(tmp_path / "same").checkpoint()),
        from_bytes(RunFolder(never_killed).checkpoint()),
    )
    lines = [train(tiny(seed=s, labels=8), tmp_path / f"{s}").metrics()[-1] for s in (1, 2)]
    assert lines[0]["true_return"] != lines[1]["true_return"]
    assert lines[0]["train_loss"] != lines[1]["train_loss"]


def test_a_finished_run_is_extended(tmp_path):
    path = tmp_path / "run"
    train(tiny(), path)
    before = RunFolder(path).metrics()
    session = resume(path, more_labels=8, more_steps=256)
    for _ in rounds(session):
        pass
    after = RunFolder(path).metrics()
    assert after[: len(before)] == before
    assert [line["round"] for line in after] == list(range(len(after)))
    assert after[-1]["steps"] == 512 + 256
    assert FeedbackStore(path / "feedback.sqlite").counts()[:2] == (24, 24)
    assert after[-1]["answered"] > before[-1]["answered"]  # a fit has seen the new ones
    assert RunFolder(path).experiment() == tiny(labels=24, steps=768, rounds=6)


def test_a_short_extension_asks_its_labels_and_learns_from_them(tmp_path):
    path = tmp_path / "run"
    train(tiny(clip_seconds=0.2), path)
    before = (path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"--steps is \+127, .* too few .* add 128"):
        resume(path, more_labels=6, more_steps=127)
    with pytest.raises(UserError, match=r"--steps is \+63, .* too few .* add 64"):
        resume(path, more_steps=63)
    for _ in range(2):  # asking for what cannot be changes nothing
        with pytest.raises(UserError, match=r"finished its 512 steps; add some with --steps"):
            resume(path, more_labels=6)
    assert (path / "config.json").read_bytes() == before
    for _ in rounds(resume(path, more_labels=6, more_steps=128)):
        pass
    last = RunFolder(path).metrics()[-1]
    assert (last["answered"], last["steps"]) == (16 + 6, 512 + 128)


def test_an_unfinished_run_can_be_given_more_labels(tmp_path):
    path = tmp_path / "run"
    for done in rounds(start(tiny(), path)):
        if (done.index, done.state) == (1, "done"):
            break
    for _ in rounds(resume(path, more_labels=6)):
        pass
    last = RunFolder(path).metrics()[-1]
    assert (last["answered"], last["steps"]) == (16 + 6, 512)


def test_a_run_taught_by_a_function_is_not_taken_up_by_the_oracle(tmp_path):
    for done in rounds(start(tiny(), tmp_path / "run", teacher=prefer_larger)):
        if (done.index, done.state) == (1, "done"):
            break
    for _ in rounds(resume(tmp_path / "run")):
        pass
    with closing(FeedbackStore(tmp_path / "run" / "feedback.sqlite")) as store:
        assert {answer.teacher for answer in store.answers()} == {"toy_environments:prefer_larger"}


class Likes:
    def larger(self, left, right):
        return prefer_larger(left, right)


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        (lambda left, right: 1, ".*<lambda>"),
        (partial(prefer_larger), r"partial\(prefer_larger\)"),
        (Likes().larger, "Likes.larger"),
        (type("Judge", (), {"__call__": lambda self, left, right: 1})(), "Judge"),
    ],
)
def test_a_teacher_that_has_no_name_is_given_again_to_resume(teacher, name, tmp_path):
    for done in rounds(start(tiny(), tmp_path / "run", teacher=teacher)):
        if (done.index, done.state) == (1, "done"):
            break
    recorded = RunFolder(tmp_path / "run").experiment().teacher
    assert re.fullmatch(f"<python>:{name}", recorded)
    with pytest.raises(UserError, match=r"given in Python .* give it once more, .* prefrl.resume"):
        resume(tmp_path / "run")
    for _ in rounds(resume(tmp_path / "run", teacher=teacher)):
        pass
    with closing(FeedbackStore(tmp_path / "run" / "feedback.sqlite")) as store:
        assert {answer.teacher for answer in store.answers()} == {recorded}


def untrained(experiment):
    environments = make_environments(experiment.env, experiment.control.environment_count, 0)
    agent = PPOAgent(environments, experiment.control.ppo, seed=77, total_steps=1)
    return Policy(environments.description, experiment.control.ppo, agent.state_dict())


def true_returns(policy, seed):
    environments = make_environments("toy/Pay-v0", 20, seed)
    return play(environments, policy, deterministic=False).true_returns


def permutation_test(ours, theirs, draws=2000):
    """Return how often a random relabelling favours `ours` as much as the true one does."""
    both, generator = np.concatenate([ours, theirs]), np.random.default_rng(0)
    led = ours.mean() - theirs.mean()
    shuffled = [generator.permutation(both) for _ in range(draws)]
    return np.mean([s[: len(ours)].mean() - s[len(ours) :].mean() >= led for s in shuffled])


LEARNER = tiny(
    labels=80,
    steps=6000,
    rounds=6,
    num_envs=10,
    ppo=PPOConfig(n_steps=20, batch_size=50, n_epochs=5, hidden=(16,), learning_rate=2e-3),
)


def test_a_policy_learns_what_the_oracle_prefers(tmp_path):
    torch.manual_seed(0)
    path = train(LEARNER, tmp_path / "run").path
    learned = true_returns(load_policy(path), seed=1)
    assert permutation_test(learned, true_returns(untrained(LEARNER), seed=2)) < 0.001
    assert learned.mean() > 0.5 * HORIZON
    assert RunFolder(path).metrics()[-1]["answered"] == 80
    # The learned reward has found out that the true one is the action.
    generator, model = np.random.default_rng(0), load_reward(path)
    seen = np.stack([generator.uniform(0, 2, 200), generator.uniform(-1, 1, 200), np.zeros(200)], 1)
    low, high = (
        model.rewards([Trajectory(seen, np.full((200, 1), push, np.float32), np.zeros(200))])[0]
        for push in (-0.8, 0.8)
    )
    assert (high > low).mean() > 0.9


def test_your_own_teacher_is_obeyed(tmp_path):
    torch.manual_seed(0)
    shown = []

    def prefer_smaller(left, right):
        shown.extend([left, right])
        return left.actions.mean() < right.actions.mean()

    path = train(LEARNER, tmp_path / "run", teacher=prefer_smaller).path
    learned = true_returns(load_policy(path), seed=1)
    assert permutation_test(-learned, -true_returns(untrained(LEARNER), seed=2)) < 0.001
    assert learned.mean() < -0.5 * HORIZON
    assert len(shown) == 2 * 80
    assert {segment.actions.shape for segment in shown} == {(10, 1)}
    assert answers(path)[0][5].endswith("prefer_smaller")


def test_your_own_reward_network_is_used_and_loaded(tmp_path):
    built = []

    def network(features):
        built.append(features)
        return nn.Linear(features, 1)

    path = train(tiny(), tmp_path / "run", network=network).path
    assert built == 3 * [3 + 2]  # observation and flag, action and its square; once a member
    model = load_reward(path, network)
    assert isinstance(model.network[2], nn.Linear)
    for load in (load_reward, resume, lambda path: next(replay(path, tmp_path / "again"))):
        with pytest.raises(UserError, match=r"does not fit .* network=…") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "again").exists()
    assert len([*replay(path, tmp_path / "again", network)]) >= len(RunFolder(path).metrics())


def test_a_loaded_reward_and_policy_are_those_of_the_run(tmp_path):
    session = start(tiny(), tmp_path / "run")
    for _ in rounds(session):
        pass
    observations = np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype(np.float32)
    actions = np.linspace(-1, 1, 30, dtype=np.float32)[:, None]
    trajectory = Trajectory(observations, actions, np.zeros(30))
    model = load_reward(tmp_path / "run")
    np.testing.assert_array_equal(
        model.rewards([trajectory])[0], session.state.reward_model.rewards([trajectory])[0]
    )
    policy = load_policy(tmp_path / "run")
    state = session.agent.state_dict()
    mine = Policy(session.agent.environments.environments.description, TINY.ppo, state)
    np.testing.assert_array_equal(policy.predict(observations), mine.predict(observations))


def test_the_true_reward_asks_nobody(tmp_path):
    path = train(tiny(reward="true", labels=0), tmp_path / "run").path
    counts = FeedbackStore(path / "feedback.sqlite").counts()
    assert counts[:4] == (0, 0, 0, 0)
    lines = RunFolder(path).metrics()
    assert lines[-1]["steps"] == 512 and "train_loss" not in lines[-1]
    with pytest.raises(UserError, match="no learned one"):
        load_reward(path)
    assert load_policy(path).predict(np.zeros(3)).shape == (1,)


def test_a_learned_reward_restarts_the_policy_and_the_true_one_does_not(tmp_path):
    restarting = replace(tiny().domain, restart=0.5)
    for name, more in {"learned": {}, "true": {"reward": "true"}}.items():
        lines = train(tiny(domain=restarting, **more), tmp_path / name).metrics()
        steps = [line["policy_steps"] for line in lines if "policy_steps" in line]
        # 256 of them explored; rounds of 128, anew before the third.
        assert steps == ([384, 512, 128, 256] if name == "learned" else [])
    session = start(tiny(domain=restarting), tmp_path / "told")
    session.close_environments()
    assert session.notes[-1].startswith("from step 256 on an untrained policy begins anew")


def test_the_true_reward_can_be_resumed_and_learns(tmp_path):
    torch.manual_seed(0)
    experiment = replace(LEARNER, reward="true")
    straight = train(experiment, tmp_path / "straight")
    session = start(experiment, tmp_path / "resumed")
    for done in rounds(session):
        if (done.index, done.state) == (2, "done"):
            break
    for _ in rounds(resume(tmp_path / "resumed")):
        pass
    assert straight.metrics() == RunFolder(tmp_path / "resumed").metrics()
    learned = true_returns(load_policy(straight.path), seed=1)
    assert permutation_test(learned, true_returns(untrained(LEARNER), seed=2)) < 0.001


def test_metrics_hold_nothing_that_depends_on_the_clock(never_killed):
    lines = RunFolder(never_killed).metrics()
    names = {name for line in lines for name in line}
    assert not {name for name in names if "second" in name or "time" in name}
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["answered"] for line in lines] == [0, 4, 8, 12, 16]
    timings = [json.loads(t) for t in (never_killed / "timings.jsonl").read_text().splitlines()]
    assert [t["round"] for t in timings] == [0, 1, 2, 3, 4]
    assert timings[2].keys() == {"round", "fit", "train", "choose", "answers"}


def test_numbers_of_an_environment_do_not_hide_those_of_the_run(tmp_path):
    lines = train(tiny(env="toy/Odd-v0"), tmp_path / "run").metrics()
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["steps"] for line in lines] == [0, 128, 256, 384, 512]
    assert all(line["true_return"] != -1 and line["episodes"] > 0 for line in lines[1:])


@pytest.mark.parametrize("steps", [512, 577, 600, 639, 1000])
@pytest.mark.parametrize("rounds_", [1, 3, 7])
def test_steps_overrun_by_half_a_rollout_at_most(steps, rounds_, tmp_path):
    experiment = tiny(reward="true", steps=steps, rounds=rounds_, ppo=replace(TINY.ppo, n_epochs=1))
    lines = train(experiment, tmp_path / "run").metrics()
    assert abs(lines[-1]["steps"] - steps) <= 32
    assert len(lines) == rounds_ + 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": 0}, r"--labels is 0; expected a whole number above 0"),
        ({"labels": -3}, r"--labels is -3"),
        ({"steps": 0}, r"--steps is 0"),
        ({"rounds": 0}, r"--rounds is 0"),
        ({"num_envs": 0}, r"--num-envs is 0"),
        ({"threads": 0}, r"--threads is 0"),
        ({"horizon": 0}, r"--horizon is 0"),
        ({"horizon": -5}, r"--horizon is -5"),
        (
            {"steps": 100},
            r"100 steps in 4 rounds .* rollout of 4 environments x 16 .* --rounds 1 --steps 128 or "
            r"more, or --rounds 1 --num-envs 3 or fewer$",
        ),
        (
            {"steps": 50},
            r"use --rounds 1 --steps 128 or more, or --rounds 1 --num-envs 1$",
        ),
        (
            {"oracle": OracleConfig(mistake=1.5)},
            r"--oracle.mistake is 1.5; expected a nu",
        ),
        ({"oracle": OracleConfig(rationality=0)}, r"--oracle.rationality is 0"),
        ({"query": QueryConfig(first_share=0)}, r"--query.first-share is 0"),
        ({"query": QueryConfig(pool=0)}, r"--query.pool is 0"),
        ({"query": QueryConfig(explore_steps=0)}, r"--query.explore-steps is 0"),
        ({"query": QueryConfig(decay_steps=0)}, r"--query.decay-steps is 0"),
        ({"clip_seconds": 2.0}, r"2 s lasts 40 steps .* has 20; choose .* 1$"),
        ({"env": "prefrl/Hopper-v0", "horizon": 20}, r"a clip of 1.5 s lasts 188 .* has 20"),
        ({"query": QueryConfig(clips=4)}, r"clips is 4, .* preference shows 2; .* ranking"),
        ({"query": QueryConfig(kind="ranking", clips=2)}, r"clips is 2, .* ranking shows 3 to 9"),
        ({"query": QueryConfig(kind="choice", clips=10)}, r"clips is 10, .* choice shows 3 to 9"),
        ({"query": QueryConfig(anchors=2)}, r"anchors is 2, but a query shows 2 .* 1 for instance"),
        (
            {"query": QueryConfig(kind="ranking", clips=3), "teacher": "toy_environments:prefer"},
            r"the teacher toy_environments:prefer compares two clips; it cannot judge 3; use "
            r"--query.kind preference with --query.clips 2, or another teacher: oracle, human",
        ),
        (
            {"oracle": OracleConfig(mistake=0.1), "teacher": "human"},
            r"--oracle.\* are faults of an oracle, but the teacher is human, .* --teacher oracle",
        ),
        (
            {"query": QueryConfig(kind="ratings"), "teacher": "toy_environments:prefer"},
            r"prefer compares .* give grades \(--query.kind ratings\); use .* 2, or",
        ),
        ({"clip_seconds": 0}, r"--clip-seconds is 0"),
        ({"clip_seconds": math.inf}, r"clip-seconds is inf; .* finite number"),
        ({"clip_seconds": math.nan}, r"--clip-seconds is nan"),
        ({"ppo": PPOConfig(n_steps=16, sde_sample_freq=-1)}, r"--ppo.sde-sample-freq is -1"),
        (
            {"env": "CartPole-v1", "ppo": PPOConfig(n_steps=16, sde_sample_freq=4)},
            r"CartPole-v1 has discrete actions, which --ppo.sde-sample-freq cannot explore",
        ),
        ({"clip_seconds": 0.01}, r"a clip of 0.01 s lasts 0 steps"),
        ({"ppo": PPOConfig(n_steps=0)}, r"--ppo.n-steps is 0"),
        ({"ppo": PPOConfig(n_steps=16, batch_size=0)}, r"--ppo.batch-size is 0"),
        ({"ppo": PPOConfig(n_steps=16, n_epochs=0)}, r"--ppo.n-epochs is 0"),
        ({"ppo": PPOConfig(n_steps=16, gamma=1.0)}, r"--ppo.gamma is 1"),
        ({"fit": FitConfig(batch_size=0)}, r"--fit.batch-size is 0"),
        ({"fit": FitConfig(epochs=0)}, r"--fit.epochs is 0"),
        ({"env": "Pendulm-v1"}, r"did you mean Pendulum-v1"),
        ({"teacher": "orcale"}, r"no teacher 'orcale'; did you mean oracle"),
        ({"teacher": "toy_environments:HORIZON"}, r"is 20; expected a function"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(changes, sentence, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(UserError, match=sentence):
        train(tiny(**changes), path)
    assert not path.exists()


def test_queries_of_four_clips_are_ranked_and_learned_from(tmp_path):
    ranking = QueryConfig(kind="ranking", clips=4, explore_steps=256)
    experiment = tiny(query=ranking, labels=6, rounds=2, steps=256)
    folder = train(experiment, tmp_path / "run")
    store = FeedbackStore(folder.feedback)
    answers, comparisons = store.answers(), store.comparisons()
    assert {answer.kind for answer in answers} == {"ranking"}
    assert len(comparisons) == 6 * len(answers) == 6 * experiment.labels
    assert sum(c.weight for c in comparisons) == pytest.approx(3 * len(answers))
    assert folder.metrics()[-1]["train_loss"] > 0
    store.close()


def test_more_labels_than_there_are_clips_is_an_error_in_a_sentence(tmp_path):
    experiment = tiny(labels=20_000, query=QueryConfig(explore_steps=64))
    with pytest.raises(UserError, match=r"5000 queries were due in round 0.*fewer --labels"):
        train(experiment, tmp_path / "run")


def test_a_clip_longer_than_the_recorded_stretches_is_an_error_in_a_sentence(tmp_path):
    experiment = tiny(query=QueryConfig(explore_steps=64), clip_seconds=1.0)
    with pytest.raises(UserError, match=r"clip lasts 20 steps.*stretch of 16"):
        train(experiment, tmp_path / "run")


def test_a_folder_is_never_written_over(never_killed, tmp_path):
    before = sorted(p.name for p in never_killed.iterdir())
    with pytest.raises(UserError, match=r"exists already; .*--run.*prefrl resume"):
        train(tiny(), never_killed)
    assert sorted(p.name for p in never_killed.iterdir()) == before
    with pytest.raises(UserError, match="not a run folder"):
        resume(tmp_path)


def test_an_answer_to_nothing_but_skips_is_an_error_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no answer so far says anything.*4 queries"):
        train(tiny(), tmp_path / "run", teacher=lambda left, right: None)


def test_budgets_that_a_teacher_skips_are_asked_again(tmp_path):
    asked = []

    def moody(left, right):
        asked.append((left.id, right.id))
        return None if len(asked) % 3 == 0 else prefer_larger(left, right)

    path = train(tiny(labels=12), tmp_path / "run", teacher=moody).path
    counts = FeedbackStore(path / "feedback.sqlite").counts()
    assert counts.asked == len(asked) == 15 and counts.answered == 10
    lines = RunFolder(path).metrics()
    assert lines[-1]["asked"] - lines[-1]["answered"] == len(asked) // 3
    assert len(set(asked)) == len(asked)


# --- replaying --------------------------------------------------------------------------------


def assert_replayed(path, into, network=None):
    """Replay a run and compare it, to the byte and the bit."""
    told = list(replay(path, into, network))
    assert "waiting" not in {now.state for now in told}
    assert (path / "metrics.jsonl").read_bytes() == (into / "metrics.jsonl").read_bytes()
    count = len(RunFolder(path).metrics())
    assert [now.index for now in told if now.state == "done"] == list(range(count))
    newest = [from_bytes((p / f"checkpoints/round-{count - 1:04d}.pt").read_bytes())
              for p in (path, into)]  # fmt: skip
    assert_same(*newest)
    assert RunFolder(into).experiment() == RunFolder(path).experiment()
    assert RunFolder(into).earlier() == RunFolder(path).earlier()


def test_a_run_is_replayed_from_its_ledger_and_nobody_is_asked(never_killed, tmp_path):
    assert_replayed(never_killed, tmp_path / "again")
    assert answers(tmp_path / "again") == answers(never_killed)
    assert_replayed(tmp_path / "again", tmp_path / "once more")


def test_a_run_whose_teacher_is_gone_can_be_replayed(tmp_path):
    network = lambda features: nn.Linear(features, 1)  # noqa: E731
    train(tiny(), tmp_path / "run", teacher=lambda left, right: prefer_larger(left, right) or None,
          network=network)  # fmt: skip
    assert_replayed(tmp_path / "run", tmp_path / "again", network)


def test_a_run_that_has_not_finished_is_replayed_as_far_as_it_got(tmp_path):
    for done in rounds(start(tiny(), tmp_path / "run")):
        if (done.index, done.state) == (2, "done"):
            break
    assert_replayed(tmp_path / "run", tmp_path / "again")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="has not finished a round yet; there is nothing to replay"):
        next(replay(tmp_path / "run", tmp_path / "third"))
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize("reward", ["learned", "true"])
def test_a_run_that_was_extended_is_replayed(tmp_path, reward):
    """Steps due and the learning rate follow from the length of the run as it was at the time."""
    path = tmp_path / "run"
    experiment = tiny(reward=reward, ppo=replace(TINY.ppo, anneal=True))
    for done in rounds(start(experiment, path)):
        if (done.index, done.state) == (2, "training"):
            break
    labels = 6 if reward == "learned" else 0
    for _ in rounds(resume(path, more_labels=labels, more_steps=256)):
        pass
    resume(path, more_steps=128)  # which did not get as far as a round
    for _ in rounds(resume(path, more_labels=labels, more_steps=256)):
        pass
    assert [until for until, _ in RunFolder(path).earlier()] == [2, 7, 7]
    assert RunFolder(path).earlier()[0] == (2, experiment)
    assert RunFolder(path).metrics()[-1]["steps"] == 512 + 256 + 128 + 256
    assert_replayed(path, tmp_path / "again")
    # A round that is done anew, for want of its checkpoint, is done as the run is by now.
    again, count = tmp_path / "again", len(RunFolder(path).metrics())
    resume(again, more_steps=256)
    (again / f"checkpoints/round-{count - 1:04d}.pt").unlink()
    for _ in rounds(resume(again)):
        pass
    assert [until for until, _ in RunFolder(again).earlier()] == [2, 7, 7, count - 1]
    assert_replayed(again, tmp_path / "third")


def test_what_differs_is_named():
    was = {"round": 1, "loss": 0.5, "gone": 1, "nan": math.nan}
    assert differences(was, dict(was)) == []
    now = {"round": 1.0, "loss": 0.5, "nan": math.nan, "new": 2}
    assert differences(was, now) == [
        "round was 1, is 1.0", "gone was 1, is None", "new was None, is 2",
    ]  # fmt: skip


# --- answers of another run -------------------------------------------------------------------


def test_a_reward_is_learned_from_another_runs_answers_alone(never_killed, tmp_path):
    session = start(tiny(labels=0, seed=5), tmp_path / "run", answers_from=never_killed)
    lines = [now.metrics for now in rounds(session) if now.state == "done"]
    assert [line["answered"] for line in lines] == [0] * 5 and session.feedback.pending() == []
    assert all(line["train_accuracy"] > 0.5 for line in lines[1:])
    given, copied = ([row[3:6] for row in answers(p)] for p in (never_killed, tmp_path / "run"))
    assert copied == given
    assert_replayed(tmp_path / "run", tmp_path / "again")
    # And a killed one goes on, though it has no labels of its own.
    killed = tmp_path / "killed"
    for now in rounds(start(tiny(labels=0, seed=5), killed, answers_from=never_killed)):
        if (now.index, now.state) == (2, "done"):
            break
    for _ in rounds(resume(killed)):
        pass
    assert RunFolder(killed).metrics() == lines


def test_another_runs_answers_come_on_top_of_a_budget(never_killed, tmp_path):
    session = start(tiny(labels=8), tmp_path / "run", answers_from=never_killed)
    for _ in rounds(session):
        pass
    assert session.feedback.counts()[:4] == (8, 8, 8, 0)
    assert len(session.feedback.comparisons()) == 8 + 16
    last = session.feedback.ledger(4).answers_through
    assert len(session.feedback.comparisons(last)) == 8 + 16


def answered_run(path, **changes):
    """Return the store of a run that was begun, to put answers into."""
    return start(tiny(**changes), path).feedback


def record(store, observations, actions, kind="tie"):
    clips = tuple(Segment(f"x {n}", observations, actions) for n in "ab")
    store.record([Query(QueryId(0, 0), clips)], [Answer(QueryId(-1, 0), kind)], "x ")


def test_answers_for_other_spaces_are_refused_before_anything_is_written(never_killed, tmp_path):
    new = tmp_path / "new"
    pole = {"env": "CartPole-v1", "clip_seconds": 0.1}
    with pytest.raises(UserError, match=r"observations of shape \[3\], but the .* shape \[5\]"):
        start(tiny(**pole), new, answers_from=never_killed)
    cases = [
        ("text", np.array(["hello"]), np.array(["hi"]), {}, r"observations text, but"),
        (
            "width",
            np.zeros((9, 3)),
            np.zeros((9, 2)),
            {},
            r"actions of shape \[2\], but .*\[1\]",
        ),
        ("number", np.zeros((9, 5)), np.full(9, 2), pole, "other actions than the 2 here"),
    ]
    for name, observations, actions, changes, sentence in cases:
        record(answered_run(tmp_path / name, **changes), observations, actions)
        with pytest.raises(UserError, match=sentence):
            start(tiny(**changes), new, answers_from=tmp_path / name)
    record(answered_run(tmp_path / "skips"), np.zeros((9, 3)), np.zeros((9, 1)), "skip")
    with pytest.raises(UserError, match="skips holds no answer that says anything"):
        start(tiny(labels=0), new, answers_from=tmp_path / "skips")
    with pytest.raises(UserError, match="not a run folder"):
        start(tiny(), new, answers_from=tmp_path)
    with pytest.raises(UserError, match="--reward true"):
        start(tiny(reward="true", labels=0), new, answers_from=never_killed)
    with pytest.raises(UserError, match="--labels is -1"):
        start(tiny(labels=-1), new, answers_from=never_killed)
    assert not new.exists()


def test_training_does_not_wait_long_after_an_end_but_evaluation_plays_to_the_horizon(tmp_path):
    experiment = tiny(env="toy/Ends-v0", clip_seconds=0.1)
    session = start(experiment, tmp_path / "run")
    *_, last = rounds(session)
    steps = experiment.steps / experiment.round_count
    assert last.metrics["episodes"] > 1.2 * steps / HORIZON
    fresh = fresh_environments(experiment, 4, seed=0)
    fresh.reset()
    actions = np.zeros((4, 1), np.float32)
    ended = [fresh.step(actions).ended.any() for _ in range(HORIZON)]
    assert ended == [False] * (HORIZON - 1) + [True]


GOES_ELSEWHERE = """
import os, tempfile, gymnasium, toy_environments
class Elsewhere(toy_environments.Pay):
    def __init__(self, **options):
        super().__init__(**options)
        os.chdir(tempfile.mkdtemp(dir=os.environ["SCRATCH"]))
    def reset(self, **options):
        os.chdir(tempfile.mkdtemp(dir=os.environ["SCRATCH"]))
        return super().reset(**options)
gymnasium.register("Elsewhere-v0", Elsewhere, max_episode_steps=20)
def prefer(left, right):
    os.chdir(tempfile.mkdtemp(dir=os.environ["SCRATCH"]))
    return left.actions.mean() > right.actions.mean()
"""


def test_an_environment_may_change_the_working_folder(tmp_path, never_killed, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("SCRATCH", str(scratch))
    (tmp_path / "my_solver.py").write_text(GOES_ELSEWHERE)
    train_it = [*TRAIN, "--teacher", "my_solver:prefer"]
    train_it[2] = "my_solver:Elsewhere-v0"
    for words in (
        train_it,  # runs/NAME-DATE-TIME
        [*train_it, "--run", "runs/a", "--labels", "8", "--from", str(never_killed)],
        ["resume", "runs/a", "--steps", "+128"],
        ["evaluate", "runs/a", "--episodes", "2"],
        ["video", "runs/a", "-o", "film.gif"],
        ["compare", "runs/a", "runs/a", "--pairs", "2", "--teacher", "my_solver:prefer"],
        ["plot", "runs/a", "-o", "curve.png"],
    ):
        monkeypatch.chdir(tmp_path)
        main(words)
    monkeypatch.chdir(tmp_path)
    made = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert made == {"comparisons", "curve.png", "film.gif", "my_solver.py", "runs", "scratch"}
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert not any(path for path in scratch.rglob("*") if path.is_file())
