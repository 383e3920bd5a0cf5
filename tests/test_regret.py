"""An oracle that compares clips by regret: what it knows, and that it is a function."""

import shutil
from contextlib import closing

import numpy as np
import pytest
import torch
from complaints import complaint
from fakes import make_query, make_segment
from test_experiment import answers, assert_replayed
from toy_environments import TINY_FLAGS, tiny

from prefrl.cli import main
from prefrl.config.learning import OracleConfig
from prefrl.learning.true_reward import TrueReward
from prefrl.runs.critic import load_critic
from prefrl.runs.load import load_policy
from prefrl.runs.session import start
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers.oracle import Critic, Oracle
from prefrl.types import Query, QueryId, Trajectory, Truth


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "expert"
    train(tiny(reward="true"), path)
    return path


def test_advantages_add_up_to_what_comes_after_less_what_was_expected():
    """Σ r + V(s_H) − V(s_0), as γ comes to 1; each step is r + γ V(s′) − V(s)."""
    generator = np.random.default_rng(0)
    rewards, seen = generator.normal(size=6), generator.normal(size=(6, 2))
    values = lambda observations: observations[:, 0] * 3  # noqa: E731
    total = Critic(values, 1.0).advantages(rewards, seen).sum()
    assert total == pytest.approx(rewards[:-1].sum() + 3 * (seen[-1, 0] - seen[0, 0]))
    each = Critic(values, 0.9).advantages(rewards, seen)
    expected = [rewards[n] + 0.9 * 3 * seen[n + 1, 0] - 3 * seen[n, 0] for n in range(5)]
    assert each.tolist() == pytest.approx(expected)


def test_the_smaller_regret_is_preferred_to_the_greater_return():
    """The left clip is paid more, the right one comes to a better state."""
    left, right = make_segment("left"), make_segment("right")
    right.observations[-1] = 1.0
    query = Query(QueryId(0, 3), (left, right))
    truth = Truth({"left": np.ones(3), "right": np.zeros(3)}, {0: ["left", "right"]})
    for critic, preference in ((None, 1.0), (Critic(lambda seen: 10 * seen[:, 0], 1.0), 0.0)):
        [answer] = Oracle(OracleConfig(), 0, critic).answer([query], truth)
        assert answer.value == {"left": preference}


def test_an_answer_is_a_function_of_seed_and_query_alone():
    critic = Critic(lambda seen: seen[:, 0], 0.99)
    queries = [make_query(round_index=0, index=n) for n in range(20)]
    rewards = {s.id: np.arange(len(s)) * n for n, q in enumerate(queries) for s in q.segments}
    truth = Truth(rewards, {0: [*rewards]})
    oracle = Oracle(OracleConfig(rationality=0.5, mistake=0.2), 7, critic)
    all_at_once = [answer.value for answer in oracle.answer(queries, truth)]
    again = Oracle(OracleConfig(rationality=0.5, mistake=0.2), 7, critic)
    one_by_one = [next(iter(again.answer([q], truth))).value for q in reversed(queries)]
    assert all_at_once == one_by_one[::-1] and len({str(value) for value in all_at_once}) == 2


def test_values_are_in_true_reward(expert):
    """The critic's unit is undone: of a reward that always pays r it would say r / (1 − γ)."""
    critic, policy = load_critic(expert), load_policy(expert)
    seen = np.random.default_rng(0).normal(size=(9, 3))
    state = from_bytes(RunFolder(expert).checkpoint())
    reward, scale = TrueReward(), np.sqrt(1 - 0.99**2)
    reward.load_state_dict(state["reward"])
    clip = Trajectory(seen, np.zeros((9, 1)), np.linspace(-3, 3, 9))
    [calibrated] = reward.rewards([clip])
    with torch.no_grad():
        normalised = torch.as_tensor(
            ((seen - policy.mean) / np.sqrt(policy.variance + 1e-8)).clip(-10, 10)
        ).float()
        raw = policy.network.predict_values(normalised).squeeze(1).numpy()
    own = scale * calibrated[:-1] + 0.99 * raw[1:] - raw[:-1]  # in the critic's own unit
    told = critic.advantages(clip.env_rewards, seen)
    mean = state["reward"]["mean"]
    assert told == pytest.approx(own * state["reward"]["std"] / scale, rel=1e-3, abs=1e-4)
    assert critic.gamma == 0.99 and critic.values(seen) == pytest.approx(
        raw * state["reward"]["std"] / scale + mean / 0.01, rel=1e-4
    )


def words(path, expert, more=""):
    env = ["--env", "toy_environments:toy/Pay-v0"]
    given = [*TINY_FLAGS.split(), "--oracle.regret", str(expert), *more.split()]
    return ["train", *env, *given, "--run", str(path)]


def test_a_run_keeps_the_critic_that_answers_in_it(expert, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(expert, gone)
    main(words(tmp_path / "run", gone))
    shutil.rmtree(gone)
    with closing(FeedbackStore(tmp_path / "run" / "feedback.sqlite")) as store:
        critic = load_critic(tmp_path / "run" / "critic")
        for comparison in store.comparisons():
            regrets = [
                critic.advantages(store.true_rewards(clip.id), clip.observations).sum()
                for clip in (comparison.left, comparison.right)
            ]
            assert comparison.preference == float(regrets[0] > regrets[1])
    assert_replayed(tmp_path / "run", tmp_path / "again")
    for path in (tmp_path / "run", tmp_path / "again"):
        main(["resume", str(path), "--steps", "+256", "--labels", "+4"])
    assert answers(tmp_path / "run")[-1][:6] == answers(tmp_path / "again")[-1][:6]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--oracle.skip .1", "--oracle.skip measures by the returns of clips, but --oracle.regret"),
        ("--query.kind ratings", "--query.kind ratings measures by the returns of clips"),
        (
            "--env Pendulum-v1 --rounds 1",
            "whose observations are others than those of Pendulum-v1; name one",
        ),
        ("--teacher human", "--oracle.* are faults of an oracle, but the teacher is human"),
        ("--oracle.regret nowhere", "--oracle.regret is 'nowhere', which is no run; expected the"),
    ],
)
def test_what_does_not_go_together_is_refused(more, sentence, expert, tmp_path, capsys):
    assert sentence in complaint(words(tmp_path / "run", expert, more), capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "had"),
    [({}, "--reward learned and --learner ppo"), ({"learner": "sac"}, "--reward true and")],
)
def test_a_run_without_such_a_critic_is_refused(changes, had, tmp_path, capsys):
    folder = RunFolder.begin(tmp_path / "other", {})
    experiment = tiny(**{"reward": "true"} | changes) if changes else tiny()
    folder.save_experiment(experiment)
    assert had in complaint(words(tmp_path / "run", folder.path), capsys)


def test_a_run_that_has_not_finished_a_round_has_no_critic_yet(tmp_path, capsys):
    start(tiny(reward="true"), tmp_path / "young").close()
    said = complaint(words(tmp_path / "run", tmp_path / "young"), capsys)
    assert "has not finished a round yet" in said
