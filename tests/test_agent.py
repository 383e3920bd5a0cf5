"""The control agent: what it records, what it is paid, and that it goes on to the bit."""

import io
import math
import random
import tempfile
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
import toy_environments
from gymnasium.spaces import Box
from PIL import Image

from prefrl.config.control import PPOConfig
from prefrl.control.agents.ppo import UPDATED, PPOAgent
from prefrl.control.environments.adapters import make_environments
from prefrl.control.policy import normalise
from prefrl.learning.selection import cut
from prefrl.storage.checkpoint import from_bytes, to_bytes

COUNT, HORIZON, STEPS = 4, 20, 16
ROLLOUT = COUNT * STEPS
SMALL = PPOConfig(n_steps=STEPS, batch_size=32, n_epochs=2, hidden=(8,), ent_coef=0.01)
CHEETAH = "prefrl/HalfCheetah-v0"
both_ways = pytest.mark.parametrize("name", ["toy/Ends-v0", CHEETAH])


class Says:
    """A reward model that says what a function of a trajectory does."""

    def __init__(self, function):
        self.function = function

    def rewards(self, trajectories):
        self.asked = list(trajectories)
        return [np.asarray(self.function(t), np.float32) for t in trajectories]


PUSH = Says(lambda trajectory: trajectory.actions.reshape(len(trajectory), -1)[:, 0])


def make_agent(
    name="toy/Pay-v0", seed=0, threads=1, config=SMALL, total=10 * ROLLOUT, restart_after=None
):
    environments = make_environments(name, COUNT, seed=3, horizon=HORIZON, threads=threads)
    return PPOAgent(environments, config, seed, total, restart_after)


def through_bytes(agent):
    return from_bytes(to_bytes(agent.state_dict()))


def assert_same(one, other, path="state"):
    """Assert that two state dicts are equal to the bit."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    elif isinstance(one, (np.ndarray, torch.Tensor)):
        assert one.shape == other.shape and one.dtype == other.dtype, path
        assert (np.asarray(one) == np.asarray(other)).all(), path
    else:
        assert one == other, path


def train(agent, rounds=2, reward_model=PUSH, steps=2 * ROLLOUT):
    return [agent.train(reward_model, steps) for _ in range(rounds)]


def test_the_environments_reward_reaches_nothing_but_the_record():
    states, returns = [], []
    for name in ("toy/Pay-v0", "toy/PayThousandfold-v0", "toy/PayOther-v0"):
        agent = make_agent(name)
        agent.explore(ROLLOUT)
        returns.append(train(agent)[-1][1]["true_return"])
        state = through_bytes(agent)
        state["recorder"].pop("returns")
        state["sample"] = [arrays[:2] for arrays in state["sample"]]
        states.append(state | {"paid": agent.ppo.rollout_buffer.rewards})
    assert returns[1] == pytest.approx(1000 * returns[0]) and returns[2] != returns[0]
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])


def test_the_learned_reward_does_reach_the_policy():
    one, other = make_agent(), make_agent()
    train(one)
    train(other, reward_model=Says(lambda trajectory: -trajectory.actions[:, 0]))
    weights = one.ppo.policy.action_net.bias, other.ppo.policy.action_net.bias
    assert weights[0] > weights[1]


def test_of_every_round_there_are_pictures_and_they_change_nothing():
    """Of episodes that ended, go on or began before, after a resumption, too; and none is saved."""
    one, other, resumed = (make_agent("toy/Ends-v0") for _ in range(3))
    for agent in (one, other):
        agent.explore(ROLLOUT)
    for lap in range(3):
        [trajectories] = [trained for trained, _ in train(one, 1)]
        clips, _ = cut(trajectories, 4, 60, np.random.default_rng(lap))
        assert len({clip.extras["replay_key"][0, 1] for clip in clips}) > 1
        pictures = one.environments.environments.pictures(clips)
        assert pictures.keys() == {clip.id for clip in clips}
        for clip in clips:  # the toy's picture tells the step: it is white so far to the right
            with Image.open(io.BytesIO(pictures[clip.id].data)) as sheet:
                cells = np.asarray(sheet.convert("L"))[0].reshape(4, 64)
            made = np.round(10 * clip.observations[:, 0]).astype(int)
            seen = ~clip.extras["ended"]  # afterwards the picture stays
            assert (cells > 127).sum(1)[seen].tolist() == (3 * made)[seen].tolist()
        train(other, 1)
        assert ((0, 0) in other.environments.environments.ended) == (lap == 0)
        assert_same(through_bytes(one), through_bytes(other))
        resumed.load_state_dict(through_bytes(one))
        one, resumed = resumed, one


def test_a_policy_explores_the_whole_of_a_wide_range_and_clips_hold_the_environments_own_actions():
    wide, met = Box(np.array([-1000, 0]), np.array([1000, 1]), dtype=np.float32), []

    class Crane(toy_environments.Pay):
        def __init__(self):
            super().__init__()
            self.action_space = wide

        def step(self, action):
            met.append(action.copy())
            return super().step(action)

    toy_environments.register("Crane", Crane)
    try:
        agent = make_agent("toy/Crane-v0")
        trajectories = agent.explore(2 * ROLLOUT)
    finally:
        del gymnasium.registry["toy/Crane-v0"]
    actions = np.concatenate([trajectory.actions for trajectory in trajectories])
    assert sorted(actions.tolist()) == sorted(np.array(met).tolist())
    assert all(action in wide for action in actions)
    for column, (low, high) in enumerate(zip(wide.low, wide.high, strict=True)):
        tried = (actions[:, column] - low) / (high - low)
        assert tried.min() < 0.1 and tried.max() > 0.9 and 0.2 < tried.std() < 0.5
    buffer = agent.ppo.rollout_buffer.actions
    assert 0.3 < buffer.std() < 1.5, "the policy itself acts about -1 to 1"


def test_robots_with_poses_have_no_pictures():
    agent = make_agent(CHEETAH)
    clips, _ = cut(agent.explore(ROLLOUT), 4, 3, np.random.default_rng(0))
    assert agent.environments.environments.pictures(clips) == {}


@both_ways
def test_trajectories_tile_the_steps_exactly(name):
    agent = make_agent(name)
    laps = [agent.explore(3 * ROLLOUT)] + [trained for trained, _ in train(agent, 3)]
    assert [sum(map(len, lap)) for lap in laps] == [3 * ROLLOUT] + 3 * [2 * ROLLOUT]
    for lap, trajectories in enumerate(laps):
        assert {t.source for t in trajectories} == {f"round {lap}"}
    episodes = {}
    for trajectory in sorted((t for lap in laps for t in lap), key=lambda t: t.start):
        episodes.setdefault(trajectory.episode, []).append(trajectory)
    assert sorted(episodes) == list(range(len(episodes)))
    complete = 0
    for number, pieces in episodes.items():
        ends = [piece.start + len(piece) for piece in pieces]
        assert [piece.start for piece in pieces] == [0, *ends[:-1]], number
        assert ends[-1] <= HORIZON
        complete += ends[-1] == HORIZON
    assert complete == COUNT * (9 * STEPS // HORIZON) and complete < len(episodes)


def test_what_is_recorded_is_what_happened():
    agent = make_agent(config=PPOConfig(**vars(SMALL) | {"log_std_init": 1.0}))
    trajectories = agent.explore(ROLLOUT)
    trajectories += [t for trained, _ in train(agent, 2) for t in trained]
    phases = {}
    for t in trajectories:
        # Raw observations, though the policy's normaliser moved; those from before the action.
        time = (t.start + np.arange(len(t))) / 10
        np.testing.assert_array_equal(t.observations[:, 0], time.astype(np.float32))
        phases.setdefault(t.episode, t.observations[0, 1])
        assert (t.observations[:, 1] == phases[t.episode]).all()
        # Actions as the environment received them, clipped; the toy pays just that.
        np.testing.assert_array_equal(t.env_rewards, t.actions[:, 0].astype(np.float64))
    assert len(set(phases.values())) == len(phases)
    actions = np.concatenate([t.actions for t in trajectories])
    assert (np.abs(actions) == 1).any() and np.abs(actions).max() == 1
    assert np.abs(agent.ppo.rollout_buffer.actions).max() > 1
    assert agent.environments.normaliser.mean[0] > 0.5


def test_a_trajectory_holds_the_pose_of_each_observation():
    for t in make_agent(CHEETAH).explore(3 * ROLLOUT):
        np.testing.assert_array_equal(t.extras["qpos"][:, 1:], t.observations[:, :8])


def test_discrete_actions_are_recorded_as_they_were_made():
    agent = make_agent("CartPole-v1")
    agent.explore(ROLLOUT)
    (trajectories, _), *_ = train(agent, 1)
    assert {int(a) for t in trajectories for a in t.actions} == {0, 1}
    assert trajectories[0].actions.ndim == 1


@both_ways
def test_predicted_rewards_are_written_where_they_belong(name):
    config = PPOConfig(**vars(SMALL) | {"learning_rate": 0.0})
    agent = make_agent(name, config=config)
    agent.explore(ROLLOUT)
    model = Says(lambda t: 1000 * t.observations[:, 0] + 7 * t.actions[:, 0])
    for _ in range(3):  # some rollouts hold an episode's end, some do not
        agent._collect()
        bootstrap = agent.ppo.rollout_buffer.rewards.copy()
        agent._pay(model, "test")
        steps = agent.environments.recorder.steps[-STEPS:]
        raw = np.array([1000 * s.observations[:, 0] + 7 * s.actions[:, 0] for s in steps])
        paid = agent.ppo.rollout_buffer.rewards - bootstrap
        scale = math.sqrt(1 - config.gamma**2)
        np.testing.assert_allclose(paid, scale * raw, rtol=1e-4, atol=1e-3)


@both_ways
def test_truncation_bootstraps_with_the_value_of_the_true_last_observation(name):
    config = PPOConfig(**vars(SMALL) | {"n_steps": 2 * HORIZON + 8})
    agent = make_agent(name, config=config)
    agent.explore(1)
    agent._compute_advantages()
    buffer, policy = agent.ppo.rollout_buffer, agent.ppo.policy
    replay = make_environments(name, COUNT, seed=3, horizon=HORIZON, threads=1)
    replay.reset()
    expected = np.zeros_like(buffer.rewards)
    for place, step in enumerate(agent.environments.recorder.steps):
        for row, last in replay.step(step.actions).last_observations.items():
            seen = normalise(last[None], np.zeros(last.shape), np.ones(last.shape))
            with torch.no_grad():
                expected[place, row] = config.gamma * policy.predict_values(torch.as_tensor(seen))
    assert (expected != 0).sum() == 2 * COUNT
    np.testing.assert_allclose(buffer.rewards, expected, rtol=1e-5)
    # The advantage does not reach over the end into the next episode.
    end = HORIZON - 1
    error = buffer.rewards[end] - buffer.values[end]
    np.testing.assert_allclose(buffer.advantages[end], error, rtol=1e-5)
    assert (buffer.advantages[end - 1] != buffer.rewards[end - 1] - buffer.values[end - 1]).all()


@pytest.mark.parametrize("sde_sample_freq, restart_after", [(0, None), (5, None), (0, 5 * ROLLOUT)])
@both_ways
def test_a_saved_agent_continues_to_the_bit(name, sde_sample_freq, restart_after):
    options = {
        "config": replace(SMALL, sde_sample_freq=sde_sample_freq, anneal=True),
        "restart_after": restart_after,
    }
    straight, killed = make_agent(name, **options), make_agent(name, **options)
    for agent in (straight, killed):
        agent.explore(ROLLOUT)
        train(agent, 1)
    data = to_bytes(killed.state_dict())
    resumed = make_agent(name, seed=0 if restart_after else 99, threads=2, **options)
    train(resumed, 1, steps=ROLLOUT)  # has a past of its own
    resumed.load_state_dict(from_bytes(data))
    assert_same(through_bytes(straight), through_bytes(resumed))
    other = Says(lambda t: 3 * t.actions[:, 0] + t.observations[:, 1] + 1)  # a refit
    for reward_model in (other, other, PUSH):
        done, again = (agent.train(reward_model, 2 * ROLLOUT) for agent in (straight, resumed))
        assert done[1] == again[1]
        for one, two in zip(done[0], again[0], strict=True):
            assert (one.episode, one.start, one.source) == (two.episode, two.start, two.source)
            np.testing.assert_array_equal(one.observations, two.observations)
            np.testing.assert_array_equal(one.env_rewards, two.env_rewards)
    assert_same(through_bytes(straight), through_bytes(resumed))
    assert straight.began == (restart_after or 0)


class Inline:
    """Runs at once, or only once the result is asked for, in the caller's thread."""

    def __init__(self, late):
        self.late = late

    def submit(self, function, *arguments):
        if self.late:
            return SimpleNamespace(result=lambda: function(*arguments))
        future = Future()
        future.set_result(function(*arguments))
        return future


def test_a_policy_that_begins_anew_is_untrained_but_knows_what_observations_are_like():
    """Before the round whose beginning is nearest to the step that was named, and once."""
    config = replace(SMALL, anneal=True)
    agent = make_agent(config=config, restart_after=int(4.6 * ROLLOUT))
    agent.explore(ROLLOUT)
    made, rates = [], []
    build, train_policy = agent.ppo._setup_model, agent.ppo._train_policy
    seen = agent.environments.normaliser

    def built():
        build()
        fresh = agent.ppo.policy.state_dict()
        made.append((agent.ppo.num_timesteps, {n: w.clone() for n, w in fresh.items()}))

    def trained():
        rates.append(agent.ppo.policy_optimizer.param_groups[0]["lr"])
        return train_policy()

    agent.ppo._setup_model, agent.ppo._train_policy = built, trained
    steps = [metrics["policy_steps"] for _, metrics in train(agent, 4)]
    assert steps == [n * ROLLOUT for n in (3, 5, 2, 4)]
    [(began, fresh)] = made
    assert began == 5 * ROLLOUT and agent.environments.normaliser is seen
    assert not fresh["action_net.bias"].any() and fresh["log_std"].eq(0).all()
    left = [1 - n / 10 for n in (2, 3, 4, 5)] + [1 - n / 5 for n in (1, 2, 3, 4)]
    assert rates == pytest.approx([config.learning_rate * share for share in left])
    assert seen.count == pytest.approx(9 * ROLLOUT, rel=0.01)


def test_the_critics_thread_changes_no_bit():
    states = []
    for executor in (None, Inline(late=False), Inline(late=True)):
        agent = make_agent(CHEETAH)
        if executor:
            agent.ppo.critic_thread = executor
        agent.explore(ROLLOUT)
        metrics = train(agent, 3)[-1][1]
        states.append(through_bytes(agent) | {"metrics": metrics})
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])


def test_the_number_of_physics_threads_changes_no_bit():
    states = []
    for threads in (1, 2):
        agent = make_agent(CHEETAH, threads=threads)
        agent.explore(ROLLOUT)
        train(agent, 2)
        states.append(through_bytes(agent))
    assert_same(*states)


def test_the_callers_generators_and_the_agents_leave_each_other_alone(tmp_path, monkeypatch):
    def meddle(trajectory):
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        return trajectory.actions[:, 0]

    states = []
    for seed, reward_model in ((1, PUSH), (2, Says(meddle))):
        torch.manual_seed(seed)
        agent = make_agent()
        agent.explore(ROLLOUT)
        train(agent, 2, reward_model)
        states.append(through_bytes(agent))
    assert_same(*states)

    def draw():
        return [torch.rand(1).item(), np.random.rand(), random.random()]  # noqa: NPY002

    def seed_all():
        torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002

    seed_all()
    expected = draw()
    seed_all()
    train(make_agent(), 1)
    assert draw() == expected


def test_seeds_differ():
    one, other = make_agent(seed=0), make_agent(seed=1)
    weights = [agent.ppo.policy.mlp_extractor.policy_net[0].weight for agent in (one, other)]
    assert (weights[0] != weights[1]).all()
    actions = [np.concatenate([t.actions for t in a.explore(ROLLOUT)]) for a in (one, other)]
    assert (actions[0] != actions[1]).mean() > 0.9


@pytest.mark.parametrize(("slope", "offset"), [(3.0, 0.0), (0.5, 2.0), (1.0, -1.0), (-2.0, 0.5)])
def test_the_critic_moves_with_a_refitted_reward(slope, offset):
    agent = make_agent()
    train(agent, 1)
    observations = torch.randn(50, 3)
    with torch.no_grad():
        before = agent.ppo.values(observations)
        changed = agent._rescale_critic(Says(lambda t: slope * t.actions[:, 0] + offset))
        after = agent.ppo.values(observations)
    assert changed
    # A reward that was turned round says nothing of the old values: the slope is at least 0.
    scale, mean = max(slope, 0), float(agent.sample_rewards.mean())
    shift = slope * mean + offset - scale * mean
    expected = scale * before + agent.reward_scale * shift / (1 - SMALL.gamma)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    assert before.std() > 1e-4


def test_the_same_reward_leaves_the_critic_as_it_is():
    agent = make_agent()
    train(agent, 1)
    before = through_bytes(agent)
    assert not agent._rescale_critic(PUSH)
    assert_same(before, through_bytes(agent))


def test_the_critic_catches_up_once_when_the_reward_has_changed(monkeypatch):
    agent = make_agent()
    passes = []
    fit = agent.ppo.train_critic
    monkeypatch.setattr(agent.ppo, "train_critic", lambda n: [passes.append(n), fit(n)][1])
    warm_up, normal = SMALL.value_warmup_epochs, SMALL.n_epochs
    train(agent, 1)
    assert passes == [warm_up, normal, normal]
    train(agent, 1)
    assert passes[3:] == [normal, normal]
    train(agent, 1, Says(lambda t: 2 * t.actions[:, 0]))
    assert passes[5:] == [warm_up, normal, normal]


def test_after_catching_up_the_buffer_holds_what_the_critic_says(monkeypatch):
    agent = make_agent()
    train(agent, 1)
    seen = []

    def compare():
        buffer = agent.ppo.rollout_buffer
        with torch.no_grad():
            says = agent.ppo.values(torch.as_tensor(buffer.observations))
        seen.append(np.abs(says.numpy() - buffer.values).max())
        np.testing.assert_allclose(buffer.returns, buffer.advantages + buffer.values, atol=1e-6)
        agent.ppo.metrics = dict.fromkeys(UPDATED, 0.0)

    monkeypatch.setattr(agent.ppo, "train", compare)
    train(agent, 1, Says(lambda t: 5 * t.actions[:, 0] + t.observations[:, 1]))
    assert seen[0] < 1e-5


def test_metrics_are_means_over_the_episodes_that_finished():
    agent = make_agent()
    agent.explore(ROLLOUT)  # episodes that began here and finish later count whole
    laps = [agent.environments.recorder.trajectories("x")]
    returns = {}
    for _, _, t in laps[0]:
        returns[t.episode] = returns.get(t.episode, 0) + t.env_rewards.sum()
    trajectories, metrics = agent.train(PUSH, 2 * ROLLOUT)
    finished = []
    for t in trajectories:
        returns[t.episode] = returns.get(t.episode, 0) + t.env_rewards.sum()
        if t.start + len(t) == HORIZON:
            finished.append((returns[t.episode], t.env_rewards[-1]))
    assert metrics["episodes"] == len(finished) == 2 * COUNT
    assert metrics["true_return"] == pytest.approx(np.mean([f[0] for f in finished]))
    assert metrics["push"] == pytest.approx(np.mean([f[1] for f in finished]))
    made = np.concatenate([t.actions[:, 0] for t in trajectories])
    assert metrics["predicted_reward"] == pytest.approx(made.mean(), abs=1e-5)


def test_what_is_told_of_updates_is_the_mean_over_the_minibatches_of_all_of_them(monkeypatch):
    """With a learning rate of 0 the ratios are 1; each minibatch is moved by a step of its own."""
    agent = make_agent(config=replace(SMALL, learning_rate=0.0))
    log_prob, moves, errors = agent.ppo.head.log_prob, [], []

    def moved(outputs, latent, actions):
        said, entropy = log_prob(outputs, latent, actions)
        if len(actions) == ROLLOUT:  # it says what was likely when it acted
            return said, entropy
        moves.append(0.05 * (len(moves) + 1))
        return said + moves[-1], entropy

    update = agent.ppo.train

    def measured():
        buffer = agent.ppo.rollout_buffer
        errors.append(np.square(buffer.returns - buffer.values).mean())
        update()

    monkeypatch.setattr(agent.ppo.head, "log_prob", moved)
    monkeypatch.setattr(agent.ppo, "train", measured)
    _, metrics = agent.train(PUSH, 3 * ROLLOUT)
    assert len(moves) == 3 * 2 * 2 and len(errors) == 3, "updates, epochs, minibatches"
    divergence = np.mean([math.exp(move) - 1 - move for move in moves])
    assert metrics["approx_kl"] == pytest.approx(divergence, rel=1e-3)
    assert metrics["clip_fraction"] == np.mean([math.exp(move) - 1 > 0.2 for move in moves])
    assert metrics["value_loss"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_an_environments_own_numbers_do_not_hide_ours():
    agent = make_agent("toy/Odd-v0")
    (trajectories, metrics), *_ = train(agent, 1, steps=10 * ROLLOUT)
    assert metrics["episodes"] == sum(t.start + len(t) == HORIZON for t in trajectories)
    assert metrics["true_return"] != -1
    # What only some of the episodes report has no mean over all.
    assert "push" in metrics and not {"only_upward", "only_downward"} & metrics.keys()


def test_one_step_left_over_by_the_minibatches_does_no_harm():
    config = PPOConfig(**vars(SMALL) | {"batch_size": ROLLOUT - 1})
    with pytest.warns(UserWarning, match="truncated mini-batch of size 1"):
        agent = make_agent(config=config)
    train(agent, 1)
    assert all(torch.isfinite(weight).all() for weight in agent.ppo.policy.parameters())


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    train(make_agent(), 1)
    assert not list(tmp_path.iterdir())


def test_a_fresh_agent_explores_with_its_untrained_policy():
    agent = make_agent()
    before = through_bytes(agent)
    agent.explore(2 * ROLLOUT)
    after = through_bytes(agent)
    assert_same(before["policy"], after["policy"])
    assert_same(before["policy_optimizer"], after["policy_optimizer"])
    assert after["num_timesteps"] == 2 * ROLLOUT
