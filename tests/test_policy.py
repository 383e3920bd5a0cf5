"""A trained policy by itself, and what it achieves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_environments  # noqa: F401

from prefrl.config.control import PPOConfig
from prefrl.control.agents.ppo import PPOAgent
from prefrl.control.environments.adapters import make_environments
from prefrl.control.policy import Policy, RandomPolicy, evaluate, normalise, play

HORIZON = 20
SMALL = PPOConfig(n_steps=16, batch_size=32, n_epochs=2, hidden=(8,))


class Constant:
    """Pushes alike, whatever it sees."""

    def __init__(self, push):
        self.push = push

    def predict(self, observations, deterministic=True):
        self.seen = observations
        return np.full((len(observations), 1), self.push, np.float32)


class Pays:
    def rewards(self, trajectories):
        return [t.observations[:, 0] for t in trajectories]


def environments(name="toy/Pay-v0", count=4):
    return make_environments(name, count, seed=3, horizon=HORIZON, threads=1)


def trained(name="toy/Pay-v0"):
    agent = PPOAgent(environments(name), SMALL, seed=0, total_steps=256)
    agent.train(Pays(), 256)
    return agent, Policy(environments(name, 1).description, SMALL, agent.state_dict())


def test_normalised_observations_are_standardised_and_clipped():
    drawn = np.random.default_rng(0).normal(5, 3, (10_000, 2))
    seen = normalise(drawn, drawn.mean(0), drawn.var(0))
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(0), 1, rtol=1e-5)
    assert normalise(np.array([1e9, -1e9]), np.zeros(2), np.ones(2)).tolist() == [10, -10]
    assert np.isfinite(normalise(np.ones(1), np.zeros(1), np.zeros(1))).all()


def test_policy_acts_as_the_agent_that_it_came_from():
    agent, policy = trained()
    raw = np.random.default_rng(0).uniform(-2, 2, (50, 3))
    seen = torch.as_tensor(agent.environments.normalise(raw))
    with torch.no_grad():
        mode = agent.ppo.policy.get_distribution(seen).mode().clamp(-1, 1).numpy()
    assert np.ptp(mode) > 0
    np.testing.assert_allclose(policy.predict(raw), mode, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(policy.predict(raw[0]), mode[0], rtol=1e-5, atol=1e-7)
    sampled = policy.predict(raw, deterministic=False)
    assert (sampled != mode).all() and np.abs(sampled).max() <= 1


def test_state_dependent_noise_lasts_for_some_steps_and_has_the_spread_that_was_learned():
    config = replace(SMALL, sde_sample_freq=3, log_std_init=-0.5)
    agent = PPOAgent(environments(count=512), replace(config, n_steps=2), 0, 10**5)
    policy = Policy(environments(count=1).description, config, agent.state_dict())
    raw = np.tile(np.array([0.3, -0.2, 0.0]), (512, 1))
    mode = policy.predict(raw)
    noise = np.array([policy.predict(raw, deterministic=False) - mode for _ in range(6)])
    np.testing.assert_array_equal(noise[0], noise[2])
    np.testing.assert_array_equal(noise[3], noise[5])
    assert (noise[0] != noise[3]).all()
    assert np.ptp(noise[0]) > 0, "every environment has noise of its own"
    seen = torch.as_tensor(agent.environments.normalise(raw[:1]))
    with torch.no_grad():
        spread = agent.ppo.policy.get_distribution(seen).distribution.stddev.item()
    inside = np.abs(noise[0] + mode) < 1  # not clipped
    assert np.mean(np.abs(noise[0][inside]) < spread) == pytest.approx(0.68, abs=0.12)


@pytest.mark.parametrize("name", ["CartPole-v1", "prefrl/HalfCheetah-v0"])
def test_policy_chooses_actions_of_its_space(name):
    _, policy = trained(name)
    batch = environments(name)
    actions = policy.predict(batch.reset())
    assert all(action in batch.description.action_space for action in actions)


def test_random_policy_is_uniform_and_follows_its_seed():
    description = environments().description
    drawn = RandomPolicy(description, seed=0).predict(np.zeros((4000, 3)))
    assert drawn.shape == (4000, 1)
    np.testing.assert_allclose(np.quantile(drawn, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.06)
    again = RandomPolicy(environments().description, seed=0).predict(np.zeros((4000, 3)))
    np.testing.assert_array_equal(drawn, again)
    other = RandomPolicy(environments().description, seed=1).predict(np.zeros((4000, 3)))
    assert (drawn != other).mean() > 0.9


def test_play_is_one_whole_episode_of_each_environment():
    policy = Constant(0.25)
    episodes = play(environments(count=3), policy)
    np.testing.assert_allclose(episodes.true_returns, 3 * [0.25 * HORIZON])
    np.testing.assert_allclose(episodes.info["push"], 3 * [0.25])
    assert (policy.seen[:, 0] == np.float64((HORIZON - 1) / 10)).all()
    assert episodes.extras["replay_key"][-1].tolist() == [[row, 0, HORIZON - 1] for row in range(3)]
    cheetah = environments("prefrl/HalfCheetah-v0", 2)
    qpos = play(cheetah, RandomPolicy(cheetah.description, seed=0)).extras["qpos"]
    assert qpos.shape == (HORIZON, 2, 9) and np.ptp(qpos, axis=0).min() > 0


def test_play_again_is_the_same_again():
    _, policy = trained("toy/Ends-v0")
    one, other = (play(environments("toy/Ends-v0"), policy) for _ in range(2))
    np.testing.assert_array_equal(one.true_returns, other.true_returns)
    assert len(set(one.true_returns)) > 1  # each from its own start


def test_numbers_that_only_some_episodes_report_are_left_out():
    report = evaluate(environments("toy/Odd-v0", 8), Constant(0.5))
    assert report.true_return["mean"] == pytest.approx(0.5 * HORIZON)
    assert "push" in report.info
    assert not {"only_upward", "only_downward"} & report.info.keys()


def test_evaluation_reports_mean_and_spread_and_leaves_generators_alone():
    class Alternating(Constant):
        def predict(self, observations, deterministic=True):
            return np.array([[0.5], [-0.5]] * (len(observations) // 2), np.float32)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    report = evaluate(environments(count=4), Alternating(0))
    assert report.true_return == {"mean": pytest.approx(0), "std": pytest.approx(0.5 * HORIZON)}
    assert report.info == {"push": pytest.approx(0)}
    _, policy = trained()
    torch.set_rng_state(before)
    sampled = [evaluate(environments(), policy, deterministic=False) for _ in range(2)]
    assert sampled[0] == sampled[1] != evaluate(environments(), policy)
    assert torch.equal(torch.get_rng_state(), before)
