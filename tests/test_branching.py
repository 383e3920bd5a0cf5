"""Clips that begin in the same state: what is branched, recorded, learned from and asked about."""

from contextlib import closing

import numpy as np
import pytest
from complaints import complaint
from test_agent import PUSH, assert_same
from test_experiment import assert_replayed

from prefrl.cli import main
from prefrl.config.control import PPOConfig
from prefrl.config.learning import FitConfig, LoopConfig, QueryConfig
from prefrl.control.agents.ppo import PPOAgent
from prefrl.control.environments.adapters import make_environments
from prefrl.control.environments.branching import branched
from prefrl.errors import UserError
from prefrl.learning.selection import cut, select
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.feedback import FeedbackStore

CHEETAH = "prefrl/HalfCheetah-v0"
ROBOTS = [CHEETAH, "prefrl/HopperBackflip-v1", "prefrl/QuadrupedWalk-v0", "prefrl/Reacher-v0"]
PPO = PPOConfig(n_steps=16, batch_size=32, n_epochs=2, hidden=(8,))


def make(name=CHEETAH, count=6, together=2, horizon=50, clip_seconds=0.4, seed=3):
    batched = make_environments(name, count, seed, horizon, 1, clip_seconds)
    return branched(batched, name, together)


def play(environments, steps, seed=0):
    """Act by chance; return the observations before each step, `[step, env, feature]`."""
    generator = np.random.default_rng(seed)
    shape = environments.count, *environments.description.action_space.shape
    observations, seen, ends = environments.reset(), [], []
    for _ in range(steps):
        seen.append(observations)
        step = environments.step(generator.uniform(-1, 1, shape))
        observations = step.observations
        ends.append(step)
    return np.stack(seen), ends


@pytest.mark.parametrize("name", ROBOTS)
def test_a_branch_goes_on_as_the_simulation_that_it_is_of(name):
    """The same actions after it lead to the same observations and rewards, to the bit."""
    vector = make_environments(name, 4, 3, 60, 1).environments
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (40, 4, *vector.single_action_space.shape))
    vector.reset(seed=[1, 2, 3, 4])
    for each in actions[:20]:
        vector.step(each)
    observed = vector.branch(np.array([0, 0, 2, 0]))
    assert np.array_equal(observed[[1, 3]], observed[[0, 0]])
    assert not np.array_equal(observed[2], observed[0])
    for each in actions[20:]:
        each[1] = each[0]
        observations, rewards, *_ = vector.step(each)
        assert np.array_equal(observations[1], observations[0]) and rewards[1] == rewards[0]
    assert not np.array_equal(observations[3], observations[0]), "it does something else"


def test_the_first_of_a_group_is_never_led_elsewhere():
    """What it does is what it would do alone, over whole episodes."""
    steps = 110
    alone = make_environments(CHEETAH, 6, 3, 50, 1, 0.4)
    generator = np.random.default_rng(0)
    observations, plain = alone.reset(), []
    for _ in range(steps):
        plain.append(observations)
        observations = alone.step(generator.uniform(-1, 1, (6, 6))).observations
    seen, _ = play(make(), steps)
    assert np.array_equal(seen[:, ::2], np.stack(plain)[:, ::2])
    assert not np.array_equal(seen[:, 1::2], np.stack(plain)[:, 1::2])


def test_all_of_a_group_begin_each_clip_alike():
    environments = make(count=7, together=3)
    length = environments.description.clip_steps
    assert (length, environments.description.together) == (8, 3)
    seen, steps = play(environments, 110)
    begins = [n for n in range(110) if n % 50 % length == 0]
    for n in range(110):
        alike = np.array_equal(seen[n, 1], seen[n, 0]) and np.array_equal(seen[n, 2], seen[n, 0])
        assert alike == (n in begins)
    for n, step in enumerate(steps):
        ends = n + 1 in begins
        assert step.ended.all() == step.ended.any() == ends
        assert len(step.last_observations) == (7 if ends else 0)
        assert bool(step.reports) == ((n + 1) % 50 == 0), "an episode is over at its own limit"
        if ends:  # how it went on is seen before others take its place
            assert not np.array_equal(step.last_observations[1], step.observations[1])
    assert np.array_equal(seen[8, 6], seen[8, 6]) and len({*map(bytes, seen[8])}) == 3


def test_an_agent_learns_among_branches_and_reports_whole_episodes():
    agent = PPOAgent(make(count=4), PPO, 0, 10_000)
    agent.explore(64)
    trajectories, metrics = agent.train(PUSH, 4 * 16 * 10)
    assert metrics["episodes"] == 12, "three episodes of 50 steps in each of 4 environments"
    assert max(map(len, trajectories)) == 8 and metrics["explained_variance"] <= 1
    by_task = {}
    for trajectory in trajectories:
        by_task.setdefault(trajectory.task, []).append(trajectory)
    assert all(len(those) == 2 for those in by_task.values())
    for one, other in by_task.values():
        assert np.array_equal(one.observations[0], other.observations[0]) == (one.start == 0)
        assert not np.array_equal(one.actions, other.actions)


def test_true_returns_of_branches_are_those_of_episodes():
    """Of steps that all pay the same, an episode's return is their number."""
    environments = make(count=4)
    inner = environments.environments.environments
    step = inner.step
    inner.step = lambda actions: (lambda o, r, *rest: (o, np.ones(4), *rest))(*step(actions))
    agent = PPOAgent(environments, PPO, 0, 10_000)
    assert agent.train(PUSH, 4 * 16 * 10)[1]["true_return"] == 50


def test_an_agent_among_branches_goes_on_to_the_bit():
    one, other = (PPOAgent(make(count=4), PPO, 0, 10_000) for _ in range(2))
    one.explore(64 + 64)
    other.load_state_dict(from_bytes(to_bytes(one.state_dict())))
    told = [agent.train(PUSH, 256) for agent in (one, other)]
    assert told[0][1] == told[1][1]
    assert [t.task for t in told[0][0]] == [t.task for t in told[1][0]]
    assert_same(*(from_bytes(to_bytes(agent.state_dict())) for agent in (one, other)))


# --- what is asked ------------------------------------------------------------------------------


def explored(steps=960, **more):
    return PPOAgent(make(**more), PPO, 0, 10_000).explore(steps)


def test_clips_are_cut_where_their_group_began():
    trajectories = explored()
    for count in (1, 7, 10_000):
        segments, rewards = cut(trajectories, 8, count, np.random.default_rng(0))
        assert all(len(segment) == 8 for segment in segments) and len(rewards) == len(segments)
        tasks = [segment.task for segment in segments]
        assert len(tasks) == count or count == 10_000
        assert len({*tasks}) == -(-len(tasks) // 2), "both of a start come before the next start"
    first = {}
    for segment in segments:
        assert np.array_equal(
            segment.observations[0], first.setdefault(segment.task, segment.observations[0])
        )


@pytest.mark.parametrize(("kind", "together"), [("preference", 2), ("ranking", 6)])
def test_queries_show_clips_of_one_start(kind, together):
    trajectories = explored(count=together * 2, together=together)
    config = LoopConfig(
        0, 4, 1000, 20, 8, "?", QueryConfig(kind=kind, same_start=True), FitConfig()
    )  # fmt: skip
    queries, _ = select(trajectories, None, config, 0, 10)
    assert len(queries) == 10
    for query in queries:
        firsts = {bytes(segment.observations[0]) for segment in query.segments}
        assert len(firsts) == 1 and len({segment.id for segment in query.segments}) == together
    with pytest.raises(UserError, match=r"\d+ queries were due in round 0, but its 960"):
        select(trajectories, None, config, 0, 500)


# --- whole runs ---------------------------------------------------------------------------------

FLAGS = (
    "--labels 12 --steps 512 --rounds 2 --num-envs 4 --threads 1 --query.explore-steps 512 "
    "--query.same-start --clip-seconds 0.4 --horizon 50"
)
LEARNERS = {
    "ppo": "--ppo.n-steps 32 --ppo.hidden 8 --reward-model.hidden 8",
    "sac": "--learner sac --sac.hidden 8 --sac.seed-steps 64 --sac.batch-size 16 "
    "--sac.updates-per-step .1 --reward-model.hidden 8",
    "direct": "--learner direct --direct.n-steps 32 --direct.hidden 8",
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_run_of_branches_is_replayed(learner, tmp_path):
    path = tmp_path / "run"
    words = [*FLAGS.split(), *LEARNERS[learner].split()]
    main(["train", "--env", CHEETAH, *words, "--run", str(path)])
    with closing(FeedbackStore(path / "feedback.sqlite")) as store:
        comparisons = store.comparisons()
    assert len(comparisons) == 12
    for one in comparisons:
        assert np.array_equal(one.left.observations[0], one.right.observations[0])
        assert not np.array_equal(one.left.actions, one.right.actions)
    assert_replayed(path, tmp_path / "again")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--env Pendulum-v1 --query.same-start", "but Pendulum-v1 cannot be put into the state of "
         "another simulation; leave it out, or take one of prefrl's own robots"),
        (f"--env {CHEETAH} --query.same-start --num-envs 1", "lets 2 clips begin alike, in as many "
         "environments side by side, but --num-envs is 1; use 2 or more"),
        (f"--env {CHEETAH} --query.same-start --query.anchors 1", "which began elsewhere; leave"),
        ("random-walks --query.same-start", "--query.same-start is for robots; the completions"),
    ],
)  # fmt: skip
def test_who_cannot_branch_is_told_what_works(words, sentence, tmp_path, capsys):
    assert sentence in complaint(["train", *words.split(), "--run", str(tmp_path / "run")], capsys)
    assert not list(tmp_path.iterdir())
