"""SAC: what its buffer holds and is paid, how it explores, and that it goes on to the bit."""

import dataclasses
import json
import random
import signal
import tempfile
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from complaints import complaint
from gymnasium.spaces import Box
from processes import command, run
from test_agent import PUSH, Says, assert_same, through_bytes
from test_experiment import assert_same_run
from toy_environments import TINY, tiny

from prefrl import load_policy
from prefrl.cli import main
from prefrl.config.control import ControlConfig, PPOConfig, SACConfig
from prefrl.config.experiment import Experiment, check_experiment
from prefrl.config.learners import with_learner
from prefrl.config.presets import preset
from prefrl.control.agents import sac
from prefrl.control.agents.novelty import Novelty, distances
from prefrl.control.agents.replay import ReplayBuffer
from prefrl.control.agents.sac import RESET_UPDATES, SACAgent
from prefrl.control.environments.adapters import make_environments
from prefrl.control.environments.spaces import policy_space
from prefrl.control.policy import Policy, normalise
from prefrl.control.reward import RewardEnsemble
from prefrl.errors import UserError
from prefrl.learning.true_reward import TrueReward
from prefrl.runs.grid import read_sweep
from prefrl.runs.load import load_reward
from prefrl.runs.replay import replay
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes
from prefrl.storage.folder import RunFolder

COUNT, HORIZON, STEPS = 4, 20, 4
ROLLOUT = COUNT * STEPS
SMALL = SACConfig(
    n_steps=STEPS, batch_size=16, hidden=(8,), seed_steps=2 * ROLLOUT, updates_per_step=0.25,
    learning_rate=3e-4,
)  # fmt: skip
CHEETAH = "prefrl/HalfCheetah-v0"
both_ways = pytest.mark.parametrize("name", ["toy/Ends-v0", CHEETAH])
OPTIONS = (
    "--learner sac --labels 16 --steps 512 --rounds 4 --num-envs 4 --threads 1 --sac.hidden 8 "
    "--sac.batch-size 16 --sac.seed-steps 64 --sac.updates-per-step 0.25 --reward-model.hidden 8 "
    "--query.explore-steps 256"
)


def make_agent(name="toy/Pay-v0", seed=0, threads=1, config=SMALL, restart_after=None):
    environments = make_environments(
        name, COUNT, seed=3, horizon=HORIZON, threads=threads, truncate_after_end=True
    )
    return SACAgent(environments, config, seed, restart_after)


def sac_run(**changes):
    """Return a tiny experiment for SAC."""
    small = replace(SMALL, seed_steps=64)
    return tiny(**{"learner": "sac", "sac": small, "ppo": PPOConfig()} | changes)


# --- what is kept, and what it is paid ----------------------------------------------------------


@both_ways
def test_the_buffer_holds_what_happened(name):
    agent = make_agent(name)
    trajectories = agent.explore(5 * ROLLOUT)
    trajectories += agent.train(PUSH, 5 * ROLLOUT)[0]
    buffer = agent.buffer
    assert len(buffer) == 10 * ROLLOUT
    following = 0
    for t in trajectories:
        row, times = t.episode % COUNT, np.arange(len(t))
        same = (buffer.observations[:, row] == t.observations[0]).all(1)
        [begin] = np.flatnonzero(same & (buffer.elapsed[:, row] == t.start))
        np.testing.assert_array_equal(buffer.observations[begin + times, row], t.observations)
        np.testing.assert_array_equal(buffer.actions[begin + times, row], t.actions)
        after = buffer.next_observations[begin + times[:-1], row]
        np.testing.assert_array_equal(after, t.observations[1:])
        following += len(t) - 1
    assert following > 0.7 * len(buffer)


@both_ways
def test_what_comes_after_the_last_step_is_the_episodes_own_last_observation(name):
    agent = make_agent(name)
    agent.explore(12 * ROLLOUT)
    again = make_environments(name, COUNT, 3, HORIZON, threads=1, truncate_after_end=True)
    again.reset()
    ends = 0
    for time in range(agent.buffer.added):
        step = again.step(agent.buffer.actions[time])
        for row in range(COUNT):
            expected = step.last_observations.get(row, step.observations[row])
            kept = agent.buffer.next_observations[time, row]
            np.testing.assert_array_equal(kept, np.float32(expected))
        ends += len(step.last_observations)
    assert ends >= 2 * COUNT


def test_the_rewards_of_the_buffer_are_the_models_own_after_every_fit():
    agent = make_agent(CHEETAH)
    description = agent.environments.environments.description
    agent.explore(4 * ROLLOUT)
    for seed in range(3):  # as if it had been fitted
        model = RewardEnsemble(17, description.action_space, TINY.reward_model, seed)
        agent.train(model, 2 * ROLLOUT)
        rows = agent.buffer.kept()
        steps = [array[rows].reshape(-1, array.shape[-1]) for array in (
            agent.buffer.observations, agent.buffer.actions,
        )]  # fmt: skip
        with torch.no_grad():
            expected = model(model.features(*steps)).mean(0).numpy()
        np.testing.assert_allclose(agent.buffer.rewards[rows].ravel(), expected, atol=1e-6)
    assert np.ptp(expected) > 0.01


@both_ways
def test_a_reward_model_is_shown_whole_pieces_of_episodes_in_order(name):
    agent = make_agent(name)
    agent.explore(11 * ROLLOUT)
    count = Says(lambda t: t.start + np.arange(len(t)))
    agent.train(count, ROLLOUT)
    np.testing.assert_array_equal(agent.buffer.rewards, agent.buffer.elapsed)


def test_the_oldest_steps_give_way():
    agent = make_agent(config=replace(SMALL, buffer_size=10 * COUNT))
    agent.explore(4 * ROLLOUT)  # 16 times, of which 10 are kept: the ring has closed
    buffer = agent.buffer
    assert len(buffer) == 10 * COUNT and buffer.kept().tolist() == [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
    assert buffer.kept(14).tolist() == [4, 5]
    np.testing.assert_array_equal(buffer.elapsed[buffer.kept(), 0], np.arange(6, 16))
    steps = agent.environments.recorder.steps
    np.testing.assert_array_equal(
        buffer.observations[buffer.kept()], np.array([step.observations for step in steps[6:]])
    )
    again = ReplayBuffer(10 * COUNT, COUNT, (3,), agent.action_space)
    again.load_state_dict(buffer.state_dict())
    for name, array in vars(buffer).items():
        np.testing.assert_array_equal(getattr(again, name), array, name)


def test_an_empty_buffer_is_saved_and_loaded():
    agent = make_agent()
    again = make_agent(seed=9)
    again.load_state_dict(through_bytes(agent))
    assert_same(through_bytes(agent), through_bytes(again))
    assert len(again.buffer) == 0


def test_a_checkpoint_holds_each_observation_once():
    agent = make_agent(CHEETAH)
    agent.explore(20 * ROLLOUT)
    kept = agent.buffer.state_dict()
    ends = len(kept["last_observations"])
    assert ends == COUNT * (20 * STEPS // HORIZON)
    size = sum(array.nbytes for name, array in kept.items() if name != "added")
    assert size == len(agent.buffer) * (4 * 17 + 4 * 6 + 12) + ends * 4 * 17


def test_actions_reach_the_critics_as_the_policy_made_them():
    agent = make_agent("Pendulum-v1")  # from -2 to 2
    agent.explore(8 * ROLLOUT)
    torch.manual_seed(0)
    batch = agent._batch(64)
    torch.manual_seed(0)
    steps = torch.randint(len(agent.buffer), (64,)).numpy()
    observations, actions, after, _ = agent.buffer.draw(steps)
    np.testing.assert_allclose(batch.actions, actions / 2, atol=1e-6)
    assert np.abs(actions).max() > 1.5
    normaliser = agent.environments.normaliser
    for seen, raw in ((batch.observations, observations), (batch.next_observations, after)):
        np.testing.assert_array_equal(seen, normalise(raw, normaliser.mean, normaliser.var))
    assert not batch.dones.any(), "a time limit is no end"
    assert policy_space(agent.action_space) == agent.sac.action_space


def test_the_environments_reward_reaches_nothing_but_the_record():
    states = []
    for name in ("toy/Pay-v0", "toy/PayThousandfold-v0", "toy/PayOther-v0"):
        agent = make_agent(name)
        agent.explore(6 * ROLLOUT)
        agent.train(PUSH, 6 * ROLLOUT)
        state = through_bytes(agent)
        state["recorder"].pop("returns")
        paid = state["buffer"].pop("env_rewards")
        assert np.ptp(paid) > 0
        states.append(state)
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])


def test_the_true_reward_is_calibrated_over_all_that_is_kept():
    agent, reward = make_agent(), TrueReward()
    reward.calibrate(agent.explore(6 * ROLLOUT))
    agent.train(reward, ROLLOUT)
    kept = agent.buffer.kept()
    expected = (agent.buffer.env_rewards[kept] - reward.mean) / reward.std
    np.testing.assert_allclose(agent.buffer.rewards[kept], expected, atol=1e-6)


# --- how it explores ----------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_distances_to_neighbours_are_those_that_brute_force_finds(neighbours):
    states = torch.randn(40, 7)
    drawn = torch.randint(40, (15,))
    found = distances(states[drawn], states, drawn[:, None] == torch.arange(40), neighbours)
    for state, distance in zip(drawn.tolist(), found.tolist(), strict=True):
        apart = [float((states[state] - other).norm()) for other in states]
        del apart[state]
        assert distance == pytest.approx(sorted(apart)[neighbours - 1], rel=1e-5)


def test_a_state_that_was_seen_before_is_worth_nothing_and_a_lonely_one_does_no_harm():
    states = torch.zeros(4, 2)
    same = torch.eye(4, dtype=torch.bool)
    assert distances(states, states, same, 2).tolist() == [0, 0, 0, 0]
    assert distances(states[:1], states[:1], same[:1, :1], 5).tolist() == [0]


def test_novelty_is_told_in_deviations_of_all_that_was_measured():
    novelty, found = Novelty(2), []
    for _ in range(50):
        states = 100 * torch.rand(60, 3)
        same = torch.eye(60, dtype=torch.bool)
        found.append(distances(states, states, same, 2))
        rewards = novelty.rewards(states, states, same)
    np.testing.assert_allclose(rewards, found[-1] / torch.cat(found).std(), rtol=1e-3)


def test_while_it_explores_it_is_paid_for_states_unlike_all_that_were_seen(monkeypatch):
    agent = make_agent()
    agent.explore(10 * ROLLOUT)
    torch.manual_seed(0)
    batch = agent._batch(32)
    torch.manual_seed(0)
    steps = torch.randint(len(agent.buffer), (32,)).numpy()
    everything = agent.buffer.draw(np.arange(len(agent.buffer)))[0]
    seen = agent.environments.normalise(everything).astype(np.float64)
    apart = np.sort(np.linalg.norm(seen[steps, None] - seen, axis=2), axis=1)[:, SMALL.neighbours]
    unit = np.sqrt(agent.novelty.measured.var + 1e-8)
    np.testing.assert_allclose(batch.rewards[:, 0], apart / unit, rtol=1e-4)
    monkeypatch.setattr("prefrl.control.agents.sac.REFERENCES", 20)  # by chance among many
    assert (agent._batch(32).rewards > batch.rewards.mean() / 10).all()


class Road(gymnasium.Env):
    """A point that walks to and fro."""

    observation_space = Box(-9, 9, (1,))
    action_space = Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = np.zeros(1, np.float32)
        return self.position, {}

    def step(self, action):
        self.position = self.position + action / 10
        return self.position, 0.0, False, False, {}


def test_exploring_goes_farther_than_chance():
    gymnasium.register("toy/Road-v0", Road, max_episode_steps=50)
    try:
        environments = [make_environments("toy/Road-v0", COUNT, 0) for _ in range(2)]
    finally:
        del gymnasium.registry["toy/Road-v0"]
    found = []
    for seed_steps, one in zip((200, 10**6), environments, strict=True):
        config = replace(
            SMALL, seed_steps=seed_steps, hidden=(32,), batch_size=64, learning_rate=3e-3
        )
        trajectories = SACAgent(one, config, 0).explore(4000)
        found.append(np.mean([abs(t.observations[-1, 0]) for t in trajectories[-3 * COUNT :]]))
    assert found[0] > 3 * found[1]


def test_with_the_first_reward_the_critics_begin_again_and_the_policy_does_not(monkeypatch):
    agent = make_agent(config=replace(SMALL, learning_rate=1e-12))
    agent.explore(8 * ROLLOUT)
    before = [w.clone() for w in agent.sac.policy.parameters()]
    drawn = []
    batch = agent._batch
    agent.sac.replay_buffer.sample = lambda count, env: drawn.append(batch(count)) or drawn[-1]
    agent._take_up(PUSH)
    after = list(agent.sac.policy.parameters())
    same = [torch.allclose(*pair, atol=1e-6) for pair in zip(before, after, strict=True)]
    actor = len(list(agent.sac.actor.parameters()))
    assert all(same[:actor]) and not any(
        same[i] for i in range(actor, len(same)) if before[i].ndim == 2
    )
    assert len(drawn) == RESET_UPDATES and not agent.exploring
    made = torch.cat([one.actions[:, 0] - one.rewards[:, 0] for one in drawn])
    assert made.abs().max() < 1e-6, "paid by the reward, not for novelty"
    agent._take_up(PUSH)
    assert len(drawn) == RESET_UPDATES, "once"


# --- how it learns ------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.1, 0.25, 2])
def test_updates_are_as_many_as_steps_ask_for(ratio):
    agent = make_agent(config=replace(SMALL, updates_per_step=ratio))
    agent.explore(2 * ROLLOUT)
    assert agent.updates == 0, "nothing is learned from the seed"
    agent.explore(3 * ROLLOUT)
    assert agent.updates == agent.sac._n_updates == int(ratio * 3 * ROLLOUT)
    _, metrics = agent.train(PUSH, 5 * ROLLOUT)
    assert agent.updates == int(ratio * 8 * ROLLOUT)
    assert metrics["updates"] == agent.updates + RESET_UPDATES


def test_it_learns_what_it_is_paid_for():
    config = replace(SMALL, hidden=(16,), batch_size=32, updates_per_step=0.5, learning_rate=3e-3)
    for sign in (1, -1):
        agent = make_agent(config=config)
        agent.explore(8 * ROLLOUT)
        paid = Says(lambda t, sign=sign: sign * t.actions[:, 0])
        for _ in range(2):
            _, metrics = agent.train(paid, 40 * ROLLOUT)
        assert metrics["predicted_reward"] > 0.6
        assert sign * metrics["true_return"] > 0.6 * HORIZON


@pytest.mark.parametrize(("slope", "offset"), [(3.0, 0.0), (0.5, 2.0), (-2.0, 0.5)])
def test_the_critics_move_with_a_refitted_reward(slope, offset):
    agent = make_agent()
    agent.explore(8 * ROLLOUT)
    agent.train(PUSH, 4 * ROLLOUT)
    batch = agent._batch(50)
    critics = agent.sac.critic, agent.sac.critic_target
    with torch.no_grad():
        before = [q for one in critics for q in one(batch.observations, batch.actions)]
        mean = float(agent.buffer.rewards[agent.buffer.kept()].mean())
        agent._take_up(Says(lambda t: slope * t.actions[:, 0] + offset))
        after = [q for one in critics for q in one(batch.observations, batch.actions)]
    scale = max(slope, 0)
    shift = slope * mean + offset - scale * mean
    for old, new in zip(before, after, strict=True):
        expected = scale * old + shift / (1 - SMALL.gamma)
        torch.testing.assert_close(new, expected, rtol=1e-3, atol=1e-3)
    assert len(before) == 4 and before[0].std() > 1e-4


def test_a_policy_that_begins_anew_is_untrained_and_learns_from_all_that_was_done(monkeypatch):
    agent = make_agent(restart_after=int(10.6 * ROLLOUT))
    agent.explore(8 * ROLLOUT)
    made, build = [], sac.make_sac

    def fresh(*arguments):
        made.append((agent.steps, len(agent.buffer), build(*arguments)))
        return made[-1][-1]

    monkeypatch.setattr(sac, "make_sac", fresh)
    found = [agent.train(PUSH, 2 * ROLLOUT)[1] for _ in range(3)]
    [(steps, kept, learner)] = made
    assert steps == kept == 10 * ROLLOUT and learner is agent.sac
    assert [metrics["policy_steps"] for metrics in found] == [n * ROLLOUT for n in (10, 2, 4)]
    updates = [agent.updates - lap * 2 * ROLLOUT // 4 for lap in (2, 1, 0)]
    assert [m["updates"] for m in found] == [
        n + resets * RESET_UPDATES for n, resets in zip(updates, (1, 2, 2), strict=True)
    ]


def test_the_same_reward_leaves_everything_as_it_is():
    agent = make_agent()
    agent.explore(8 * ROLLOUT)
    agent.train(PUSH, 4 * ROLLOUT)
    before = through_bytes(agent)
    assert agent._take_up(PUSH) == []
    assert_same(before, through_bytes(agent))


def test_what_is_told_of_updates_is_their_mean_whatever_bouts_they_came_in(monkeypatch):
    told, sizes = iter(range(1000)), []

    def update(sac, count):
        sizes.append(count)
        return {"q_loss": float(next(told))}

    monkeypatch.setattr("prefrl.control.agents.sac.update", update)
    agent = make_agent(config=replace(SMALL, updates_per_step=0.2))
    agent.explore(2 * ROLLOUT)
    _, metrics = agent.train(PUSH, 3 * ROLLOUT)
    assert sizes == [RESET_UPDATES, 3, 3, 3]
    assert metrics["q_loss"] == pytest.approx((3 * 1 + 3 * 2 + 3 * 3) / (RESET_UPDATES + 9))


def test_the_temperature_is_fixed_if_that_is_asked_for():
    found = {}
    for follows in (True, False):
        agent = make_agent(config=replace(SMALL, auto_ent_coef=follows, ent_coef=0.3))
        agent.explore(4 * ROLLOUT)
        _, metrics = agent.train(PUSH, 8 * ROLLOUT)
        found[follows] = metrics["temperature"]
        again = make_agent(seed=5, config=replace(SMALL, auto_ent_coef=follows, ent_coef=0.3))
        again.load_state_dict(through_bytes(agent))
        assert_same(through_bytes(agent), through_bytes(again))
    assert found[False] == pytest.approx(0.3) and 0.25 < found[True] < 0.3


def test_metrics_are_of_the_episodes_that_finished_and_of_the_policy_now():
    agent = make_agent()
    agent.explore(5 * ROLLOUT)
    trajectories, metrics = agent.train(PUSH, 10 * ROLLOUT)
    assert metrics["episodes"] == 2 * COUNT
    finished = [t for t in trajectories if t.start + len(t) == HORIZON]
    whole = [t.env_rewards.sum() for t in finished if t.start == 0]
    assert len(whole) == 2 * COUNT and metrics["true_return"] == pytest.approx(np.mean(whole))
    assert metrics["push"] == pytest.approx(np.mean([t.env_rewards[-1] for t in finished]))
    made = np.concatenate([t.actions[:, 0] for t in trajectories])
    assert metrics["predicted_reward"] == pytest.approx(made.mean(), abs=1e-5)
    assert -3 < metrics["entropy"] < np.log(2) + 0.1, "of a number from -1 to 1"


# --- to the bit ---------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    ("size", "restart_after"), [(10**6, None), (9 * COUNT, None), (10**6, 7 * ROLLOUT)]
)
def test_a_saved_agent_continues_to_the_bit(name, size, restart_after):
    config = replace(SMALL, buffer_size=size)
    options = {"config": config, "restart_after": restart_after}
    straight, killed = make_agent(name, **options), make_agent(name, **options)
    rewards = [PUSH, Says(lambda t: 3 * t.actions[:, 0] + t.observations[:, 1] + 1), PUSH]
    for agent in (straight, killed):
        agent.explore(4 * ROLLOUT)
    for lap, reward in enumerate(rewards):
        resumed = make_agent(name, seed=99 + lap, threads=2, **options)
        resumed.explore(3 * ROLLOUT)  # has a past of its own
        resumed.load_state_dict(through_bytes(killed))
        assert_same(through_bytes(straight), through_bytes(resumed))
        done, again = (agent.train(reward, 3 * ROLLOUT) for agent in (straight, resumed))
        assert done[1] == again[1]
        for one, two in zip(done[0], again[0], strict=True):
            assert (one.episode, one.start, one.source) == (two.episode, two.start, two.source)
            np.testing.assert_array_equal(one.observations, two.observations)
        assert_same(through_bytes(straight), through_bytes(resumed))
        killed = resumed
    assert straight.began == (restart_after or 0)


def test_the_callers_generators_and_the_agents_leave_each_other_alone():
    def meddle(trajectory):
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        return trajectory.actions[:, 0]

    states = []
    for seed, reward in ((1, PUSH), (2, Says(meddle))):
        torch.manual_seed(seed)
        agent = make_agent()
        agent.explore(4 * ROLLOUT)
        agent.train(reward, 4 * ROLLOUT)
        states.append(through_bytes(agent))
    assert_same(*states)
    torch.manual_seed(5)
    expected = torch.rand(1).item()
    torch.manual_seed(5)
    agent.train(PUSH, ROLLOUT)
    make_agent()
    assert torch.rand(1).item() == expected


def test_seeds_differ():
    actions = [make_agent(seed=seed).explore(ROLLOUT)[0].actions for seed in (0, 1)]
    assert (actions[0] != actions[1]).all()


def test_a_policy_acts_as_the_agent_that_it_came_from():
    agent = make_agent("Pendulum-v1")
    agent.explore(4 * ROLLOUT)
    agent.train(PUSH, 4 * ROLLOUT)
    environments = agent.environments.environments
    policy = Policy(environments.description, SMALL, through_bytes(agent))
    raw = np.random.default_rng(0).uniform(-1, 1, (50, 4))
    seen = torch.as_tensor(agent.environments.normalise(raw))
    with torch.no_grad():
        mode = agent.sac.actor(seen, deterministic=True).numpy()
    np.testing.assert_allclose(policy.predict(raw), 2 * mode, rtol=1e-5, atol=1e-6)
    sampled = policy.predict(raw, deterministic=False)
    assert (sampled != 2 * mode).all() and np.abs(sampled).max() <= 2


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_agent().explore(4 * ROLLOUT)
    assert not list(tmp_path.iterdir())


# --- whole runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "never-killed"
    main(["train", "--env", "toy_environments:toy/Ends-v0", *OPTIONS.split(), "--run", str(path)])
    return path


def test_a_run_reports_how_it_learns(never_killed):
    lines = RunFolder(never_killed).metrics()
    names = {"q_loss", "policy_loss", "temperature", "entropy", "updates", "predicted_reward"}
    assert all(names <= line.keys() for line in lines[1:]) and len(lines) == 5
    assert [line["updates"] for line in lines[1:]] == [180 + 32 * lap for lap in range(4)]
    assert lines[-1]["steps"] == 512


@pytest.mark.parametrize("step", [200, 300, 400])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(step, never_killed, tmp_path):
    path = tmp_path / "run"
    words = ["train", "--env", "toy_environments:toy/Ends-v0", *OPTIONS.split(), "--run", str(path)]
    done = run(**command(words, TOY_KILL_AT_STEP=str(step)))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(path)])
    assert_same_run(path, never_killed)


def test_a_run_is_replayed_extended_evaluated_and_loaded(never_killed, tmp_path, capsys):
    for _ in replay(never_killed, tmp_path / "again"):
        pass
    written = [(p / "metrics.jsonl").read_bytes() for p in (never_killed, tmp_path / "again")]
    assert written[0] == written[1]
    main(["resume", str(tmp_path / "again"), "--steps", "+160", "--labels", "+4"])
    assert RunFolder(tmp_path / "again").metrics()[-1]["steps"] == 672
    capsys.readouterr()
    main(["evaluate", str(never_killed), "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    main(["plot", str(never_killed), "-o", str(tmp_path / "curve.png")])
    policy = load_policy(never_killed)
    assert policy.predict(np.zeros((3, 2))).shape == (3, 1)
    assert load_reward(never_killed).members == 3


def test_a_policy_learns_what_the_oracle_prefers(tmp_path):
    config = SACConfig(
        batch_size=32, hidden=(16,), seed_steps=64, learning_rate=3e-3, updates_per_step=0.5
    )
    path = train(sac_run(labels=60, steps=2000, sac=config), tmp_path / "run").path
    policy = load_policy(path)
    seen = np.stack([np.arange(HORIZON) / 10, np.linspace(-1, 1, HORIZON)], 1)
    assert policy.predict(seen).mean() > 0.25, "it is paid for its push"
    assert RunFolder(path).metrics()[-1]["true_return"] > 0.25 * HORIZON


def test_the_true_reward_trains_the_same_agent(tmp_path):
    folder = train(sac_run(reward="true"), tmp_path / "run")
    state = from_bytes(folder.checkpoint())
    buffer, reward = state["agent"]["buffer"], state["reward"]
    newest = buffer["rewards"][-4:]
    expected = (buffer["env_rewards"][-4:] - reward["mean"]) / reward["std"]
    np.testing.assert_allclose(newest, expected, rtol=1e-5, atol=1e-5)


# --- what is asked for --------------------------------------------------------------------------


def test_environments_are_fewer_where_steps_cost_unless_it_is_said():
    assert ControlConfig().environment_count == 64
    assert ControlConfig(learner="sac").environment_count == 16
    assert ControlConfig(learner="sac", num_envs=5).environment_count == 5


def test_what_a_preset_chooses_for_ppo_is_for_ppo_alone():
    cheetah = preset("half-cheetah").experiment
    chosen = with_learner(cheetah, "sac").control
    assert chosen.ppo == PPOConfig() != cheetah.control.ppo and chosen.agent == SACConfig()
    check_experiment(with_learner(cheetah, "sac"))
    assert with_learner(cheetah, "ppo") == with_learner(cheetah, "") == cheetah


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            ControlConfig(sac=SACConfig(gamma=0.9)),
            "--sac.gamma is 0.9, but the learner is ppo; use --learner sac, or --ppo.gamma instead",
        ),
        (
            ControlConfig(sac=SACConfig(tau=0.1)),
            "--sac.tau is 0.1, but the learner is ppo; use --learner sac, or leave it out",
        ),
        (
            ControlConfig(learner="sac", ppo=PPOConfig(hidden=(8,))),
            r"--ppo.hidden is \(8,\), but .* sac; use --learner ppo, or --sac.hidden instead",
        ),
        (ControlConfig(learner="sac", ppo=PPOConfig(anneal=True)), "--ppo.anneal .* leave it out"),
        (ControlConfig(learner="dqn"), "--learner is 'dqn'; expected one of ppo, sac, d"),
        (ControlConfig(learner="sac", sac=SACConfig(tau=0)), "--sac.tau is 0; expected a number a"),
    ],
)
def test_options_of_the_other_learner_are_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        check_experiment(Experiment(env="Pendulum-v1", domain=config))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--env CartPole-v1 --learner sac", "CartPole-v1 has discrete actions, which --learner sac "
         "cannot choose between; use --learner ppo"),
        ("half-cheetah --learner sac --ppo.gamma .9", "--ppo.gamma is 0.9, but the learner is sac"),
        ("half-cheetah --sac.hidden 8", "--sac.hidden is (8,), but the learner is ppo"),
        ("half-cheetah --learner dqn", "learner"),
        ("random-walks --learner sac", "--text.learner is 'sac'; expected one of ppo, direct"),
        ("half-cheetah --learner sac --steps 40 --rounds 1", "less than one rollout of 16 "
         "environments x 4 steps; use"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_a_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sentence in complaint(["train", *words.split()], capsys)
    assert not list(tmp_path.iterdir())


def test_a_sweep_compares_learners(tmp_path, capsys):
    (tmp_path / "grid.toml").write_text(
        'preset = "half-cheetah"\nlearner = ["ppo", "sac"]\nreward = "true"\n', encoding="utf-8"
    )
    cells = read_sweep(tmp_path / "grid.toml").cells
    agents = [cell.experiment.control.agent for cell in cells]
    assert agents == [preset("half-cheetah").experiment.control.ppo, SACConfig()]
    assert [cell.axes["learner"] for cell in cells] == ["ppo", "sac"]


def test_every_option_of_sac_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["train", "half-cheetah", "--learner", "sac", "--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(SACConfig):
        assert f"--sac.{field.name.replace('_', '-')}" in text
