"""What a naive implementation misses: one test for each bug that was found in others' work.

The numbers are those of section 4 of the project's notes on peers. Two cannot occur here:
19 (a replay buffer to relabel: there is none, the agent is on-policy) and 28 (Atari's score and
life loss: pixels are refused). Half of 26, expiry of what nobody has answered, is in test_loop.
"""

import ast
import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from test_agent import ROLLOUT, SMALL, Says, assert_same, make_agent, through_bytes
from toy_environments import HORIZON, TINY, prefer_larger, tiny

import prefrl
from prefrl.config.control import ControlConfig, PPOConfig, RewardConfig
from prefrl.config.learning import FitConfig, LoopConfig, OracleConfig, QueryConfig
from prefrl.config.presets import PRESETS
from prefrl.control.build import fresh_environments
from prefrl.control.environments.adapters import make_environments
from prefrl.control.policy import RandomPolicy, evaluate
from prefrl.control.reward import RewardEnsemble, StackedMLP
from prefrl.learning.bags import bag_weights
from prefrl.learning.pacing import labels_due
from prefrl.learning.preference import decisive, preference_loss, preference_probability
from prefrl.learning.reward import FitState, fit, predict_returns
from prefrl.learning.selection import choose, cut, disagreement, propose, select, uniform
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers.oracle import Oracle, Scale
from prefrl.types import Comparison, Query, QueryId, Segment, Trajectory

NO_END = FitConfig(stop_accuracy=2.0, enough_out_of_bag=10**9, first_epochs=3, epochs=3)


def ensemble(observation_size=2, actions=1, **options):
    space = Box(-1, 1, (actions,), np.float32)
    return RewardEnsemble(observation_size, space, RewardConfig(hidden=(8,), **options), seed=0)


def random_segment(name, generator, observation_size=2, actions=1):
    drawn = generator.normal(size=(12, observation_size + actions)).astype(np.float32)
    return Segment(name, drawn[:, :observation_size], drawn[:, observation_size:])


def random_comparisons(count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        Comparison(
            random_segment(f"{index} left", generator),
            random_segment(f"{index} right", generator),
            float(generator.integers(2)),
            query=QueryId(0, index),
        )
        for index in range(count)
    ]


def random_trajectory(seed, shift=0.0):
    drawn = np.random.default_rng(seed).normal(shift, 1 + shift, (300, 3)).astype(np.float32)
    return Trajectory(drawn[:, :2], drawn[:, 2:], np.zeros(300))


def counted(length, episode):
    steps = np.arange(length, dtype=np.float32)
    return Trajectory(
        steps[:, None], steps[:, None], steps, {"qpos": steps[:, None]}, episode=episode
    )


# Environment and horizon


def test_01_termination_does_not_leak_the_task():
    """1: an episode that ends early tells the learner that staying alive is good."""
    agent = make_agent("toy/Ends-v0")
    lengths, alive = {}, {}
    for t in agent.explore(5 * ROLLOUT):
        lengths[t.episode] = max(lengths.get(t.episode, 0), t.start + len(t))
        alive[t.episode] = alive.get(t.episode, 0) + (t.observations[:, 2] == 0).sum()
    finished = [episode for episode, length in lengths.items() if length == HORIZON]
    assert len(finished) == 4 * (80 // HORIZON) and max(lengths.values()) == HORIZON
    assert len({alive[episode] for episode in finished}) > 1
    assert max(alive[episode] for episode in finished) < HORIZON


@pytest.mark.parametrize("name", ["HalfCheetah", "Hopper"])
def test_02_reward_is_what_a_viewer_can_see(name):
    """2: nobody sees torque, so the oracle must not be paid for it."""
    environment = gymnasium.make(f"prefrl.envs:prefrl/{name}-v0")
    environment.reset(seed=0)
    for _ in range(20):
        _, reward, _, _, info = environment.step(np.ones(environment.action_space.shape))
        assert info["reward_ctrl"] < 0
        assert reward == info["reward_forward"] + info.get("reward_survive", 0)


def test_03_evaluation_plays_the_true_task_anew():
    """3: fresh environments, true return, the same fixed horizon."""
    experiment = tiny(env="toy/Ends-v0")
    fresh = fresh_environments(experiment, 8, seed=0)
    training = make_environments("toy/Ends-v0", 8, experiment.seed)
    assert not set(fresh.reset()[:, 1]) & set(training.reset()[:, 1])
    report = evaluate(fresh, RandomPolicy(fresh.description, seed=0))
    # It pays 1 a step while it lasts, 5 to 14 steps, and nothing from there to the horizon.
    assert 5 <= report.true_return["mean"] <= 14 and report.true_return["std"] > 0


def test_04_truncation_is_not_termination():
    """4: the time limit is no end, so the value of the last observation still counts."""
    config = PPOConfig(
        n_steps=20, batch_size=40, n_epochs=10, hidden=(16,), gamma=0.8, learning_rate=1e-2
    )
    agent = make_agent(config=config, total=10**6)
    agent.train(Says(lambda trajectory: np.ones(len(trajectory))), 30 * 80)
    steps = np.arange(HORIZON) / 10
    raw = np.stack([steps, np.zeros(HORIZON), np.zeros(HORIZON)], axis=1)
    with torch.no_grad():
        values = agent.ppo.values(torch.as_tensor(agent.environments.normalise(raw))).numpy()
    forever = agent.reward_scale / (1 - config.gamma)
    np.testing.assert_allclose(values, forever, rtol=0.15)


def test_05_no_step_is_made_up_between_episodes():
    """5: vector environments in NEXT_STEP mode add a step with the last action and reward 0."""
    agent = make_agent("CartPole-v1")
    pole = gymnasium.make("CartPole-v1").unwrapped
    pole.reset(seed=0)
    pairs = 0
    for t in agent.explore(6 * ROLLOUT):
        assert t.start > 0 or np.abs(t.observations[0, :4]).max() <= 0.05
        for here, following in pairwise(range(len(t))):
            if t.observations[here, 4]:  # it fell, and that is all that is told from now on
                assert t.observations[following].tolist() == [0, 0, 0, 0, 1]
                assert t.env_rewards[here] == 0
                continue
            pole.state, pole.steps_beyond_terminated = t.observations[here, :4], None
            expected = pole.step(int(t.actions[here]))[0]
            np.testing.assert_allclose(t.observations[following, :4], expected, atol=1e-5)
            pairs += 1
    assert pairs > 200


# Segments


def test_06_no_clip_joins_two_episodes():
    """6: a random start in a flat buffer gives clips that jump from one episode to the next."""
    agent = make_agent()
    agent.explore(ROLLOUT)
    trajectories, _ = agent.train(Says(lambda t: t.actions[:, 0]), 6 * ROLLOUT)
    assert len(trajectories) > 8
    segments, _ = cut(trajectories, 8, 10**6, np.random.default_rng(0))
    assert len({segment.id for segment in segments}) == len(segments) > 50
    for segment in segments:
        np.testing.assert_allclose(np.diff(segment.observations[:, 0]), 0.1, atol=1e-6)
        assert len(set(segment.observations[:, 1])) == 1
        first = round(10 * float(segment.observations[0, 0]))
        assert segment.id.endswith(f"steps {first}-{first + 7}")


def test_07_every_start_can_be_drawn_the_last_too():
    """7: off by one, the last start is never used; and short episodes must not be dropped."""
    trajectories = [counted(3, 0), counted(5, 1), counted(2, 2)]
    seen = {}
    for seed in range(400):
        (segment,), _ = cut(trajectories, 3, 1, np.random.default_rng(seed))
        seen[segment.id] = seen.get(segment.id, 0) + 1
    assert {name.split(", ", 1)[1] for name in seen} == {
        "episode 0, steps 0-2", "episode 1, steps 0-2", "episode 1, steps 1-3",
        "episode 1, steps 2-4",
    }  # fmt: skip
    assert min(seen.values()) > 60  # 100 each


def test_08_clips_are_copies_that_can_be_redrawn_and_hold_no_reward():
    """8: views keep whole rollouts alive and change under the store."""
    trajectory = counted(9, 0)
    (segment,), rewards = cut([trajectory], 9, 1, np.random.default_rng(0))
    arrays = [segment.observations, segment.actions, segment.extras["qpos"], rewards[segment.id]]
    sources = [trajectory.observations, trajectory.actions, trajectory.extras["qpos"]]
    for array, source in zip(arrays, [*sources, trajectory.env_rewards], strict=True):
        np.testing.assert_array_equal(array, source)
        assert not np.shares_memory(array, source)
    assert not [field.name for field in fields(Segment) if "reward" in field.name]


# Reward model


def test_09_validation_is_out_of_bag():
    """9: a split made after bootstrapping holds copies of training pairs."""
    comparisons = random_comparisons(40)
    bags = bag_weights(0, [c.query for c in comparisons], 3)
    index = int(torch.nonzero((bags[0] == 0) & (bags[1] > 0))[0])
    flipped = [*comparisons]
    flipped[index] = replace(flipped[index], preference=1 - flipped[index].preference)
    models, scores = [], []
    for taught in (comparisons, flipped):
        model = ensemble()
        scores.append(fit(model, taught, NO_END, FitState(model, NO_END, seed=0)))
        models.append(model)
    weights = [model.network.weights[0] for model in models]
    assert torch.equal(weights[0][0], weights[1][0])  # never saw it
    assert not torch.equal(weights[0][1], weights[1][1])
    assert scores[0]["out_of_bag_loss"] != scores[1]["out_of_bag_loss"]
    everyone = bag_weights(0, [QueryId(0, i) for i in range(4000)], 3)
    assert (everyone == 0).float().mean() == pytest.approx(np.exp(-1), abs=0.015)


def test_10_an_answer_that_is_plainly_wrong_costs_a_bounded_loss():
    """10: 10 % uniform error inside the logarithm; ties are no evidence for accuracy."""
    error = FitConfig().uniform_error
    far, zero = torch.tensor([1000.0]), torch.zeros(1)
    wrong = preference_loss(zero, far, torch.ones(1), uniform_error=error)
    assert wrong.item() == pytest.approx(-np.log(0.05), rel=1e-5)
    right = preference_loss(far, zero, torch.ones(1), uniform_error=error)
    assert right.item() == pytest.approx(-np.log(0.95), rel=1e-4)
    assert decisive(torch.tensor([0.0, 0.5, 1.0, 0.3])).tolist() == [True, False, True, True]


def test_11_each_member_is_normalised_on_recent_data_alone(tmp_path, monkeypatch):
    """11: statistics over the whole run keep those of old models."""
    old, recent = [random_trajectory(1, shift=3.0)], [random_trajectory(2)]
    model, fresh = ensemble(), ensemble()
    for each in (model, fresh):
        each.encode([random_segment("first", np.random.default_rng(0))])
    model.calibrate(old)
    model.calibrate(recent)
    fresh.calibrate(recent)
    np.testing.assert_array_equal(model.rewards(recent)[0], fresh.rewards(recent)[0])
    with torch.no_grad():
        raw = model(model.features(recent[0].observations, recent[0].actions))
    calibrated = (raw - model.reward_mean) / model.reward_std
    torch.testing.assert_close(calibrated.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(calibrated.std(1), torch.ones(3), atol=1e-4, rtol=0)

    # And again after every fit, on what the policy did last.
    seen = []
    calibrate = RewardEnsemble.calibrate

    def spy(self, trajectories):
        seen.append(np.concatenate([t.observations for t in trajectories]))
        calibrate(self, trajectories)

    monkeypatch.setattr(RewardEnsemble, "calibrate", spy)
    train(tiny(), tmp_path / "run")
    assert [len(data) for data in seen] == [256, 128, 128, 128]
    assert len({data.tobytes() for data in seen}) == 4


def test_12_clips_are_stored_raw_and_normalised_together(tmp_path):
    """12: clips stored under a moving normaliser live in another scale later."""
    session = start(tiny(), tmp_path / "run")
    for done in rounds(session):
        if done.index and done.state == "done":
            through = session.feedback.ledger(done.index).answers_through
            fitted = session.feedback.comparisons(through)
            clips = {s.id: s for c in fitted for s in (c.left, c.right)}.values()
            everything = np.concatenate([clip.observations for clip in clips])
            mean = session.state.reward_model.feature_mean[: everything.shape[1]].numpy()
            np.testing.assert_allclose(mean, everything.mean(0), rtol=1e-4, atol=1e-5)
    assert session.agent.environments.normaliser.mean[0] > 0.5
    for comparison in session.feedback.comparisons():
        time = 10 * comparison.left.observations[:, 0]
        np.testing.assert_allclose(time, np.arange(len(time)) + np.round(time[0]), atol=1e-5)


def test_13_the_reward_of_a_step_is_bounded():
    """13: an unbounded output lets values diverge."""
    network = StackedMLP(3, (8,), 3, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 1e4
        rewards = network(1e6 * torch.randn(100, 3))
    assert rewards.abs().max() <= 1 and rewards.std() > 0.1
    model = ensemble()
    segment = random_segment("one", np.random.default_rng(0))
    model.encode([segment])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.1
    wild, wilder = (
        Trajectory(scale * np.sign(segment.observations), segment.actions, np.zeros(12))
        for scale in (1e2, 1e3)
    )
    np.testing.assert_array_equal(*model.rewards([wild, wilder]))  # inputs are clipped, too


def test_14_the_reward_sees_all_of_observation_and_action():
    """14: what shows the progress, velocities above all, must be among the inputs."""
    cheetah = make_environments("prefrl/HalfCheetah-v0", 1, 0, threads=1)
    space = cheetah.description.observation_space
    assert space.shape == (8 + 9,)  # positions but x, all velocities
    model = ensemble(17, 6)
    generator = np.random.default_rng(0)
    model.encode([random_segment("one", generator, 17, 6)])
    observations, actions = generator.normal(size=(1, 17)), generator.normal(size=(1, 6))
    features = model.features(observations, actions)
    with torch.no_grad():
        before = model(features)
        for index in range(23):
            moved = features.clone()
            moved[0, index] += 1
            assert (model(moved) != before).all(), index


def test_15_refits_start_warm_are_capped_and_members_differ():
    """15: warm start, few epochs, early stop, an initialisation for each member."""
    comparisons = random_comparisons(30)
    model = ensemble()
    assert not torch.equal(model.network.weights[0][0], model.network.weights[0][1])
    config = replace(NO_END, first_epochs=7, epochs=2)
    state = FitState(model, config, seed=0)
    assert fit(model, comparisons, config, state)["epochs"] == 7
    before = [parameter.clone() for parameter in model.parameters()]
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0
    assert fit(model, comparisons, config, state)["epochs"] == 2
    assert all(map(torch.equal, before, model.parameters()))
    easy = replace(config, stop_accuracy=0.0)
    assert fit(model, comparisons, easy, state)["epochs"] == 1


def test_16_a_minibatch_is_one_pass_for_all_members_and_clips(monkeypatch):
    """16: a forward pass for each fragment and member takes minutes."""
    passes = []
    forward = StackedMLP.forward
    monkeypatch.setattr(
        StackedMLP, "forward", lambda self, x: [passes.append(x.shape), forward(self, x)][1]
    )
    model, config = ensemble(), replace(NO_END, first_epochs=2, batch_size=32)
    fit(model, random_comparisons(100), config, FitState(model, config, seed=0))
    assert len(passes) == 2 * 4


# Policy loop


def test_17_one_rollout_has_one_reward_and_the_critic_follows_it():
    """17: a refit within a rollout mixes two rewards; after one, the critic must catch up."""
    agent, lengths, version = make_agent(), [], [1.0]

    class Versioned(Says):
        def rewards(self, trajectories):
            lengths.append(sum(map(len, trajectories)))
            return [np.full(len(t), version[0], np.float32) for t in trajectories]

    model = Versioned(None)
    for version[0] in (1.0, 5.0):
        agent.train(model, 2 * ROLLOUT)
    # Two rollouts, the old sample under the new reward, two more: whole rollouts each.
    assert lengths == 5 * [ROLLOUT]
    paid = agent.ppo.rollout_buffer.rewards / agent.reward_scale
    inside = ~np.roll(agent.ppo.rollout_buffer.episode_starts, -1, 0).astype(bool)[:-1]
    np.testing.assert_allclose(paid[:-1][inside], 5.0, rtol=1e-5)


def test_18_learning_rate_falls_once_and_steps_do_not_overrun(tmp_path):
    """18: SB3's `learn` in chunks lets schedules saw-tooth; imitation trains a chunk too many."""
    experiment = tiny(ppo=replace(TINY.ppo, anneal=True))
    session = start(experiment, tmp_path / "run")
    rates, update = [], session.agent.ppo.train

    def spy():
        update()
        for optimizer in (session.agent.ppo.policy_optimizer, session.agent.ppo.critic_optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    session.agent.ppo.train = spy
    done = list(rounds(session))
    policy, critic = rates[::2], rates[1::2]
    assert policy == critic and len(policy) == 512 // ROLLOUT
    # 256 steps of exploration went before; from there on a straight line to zero.
    full = experiment.control.ppo.learning_rate
    np.testing.assert_allclose(policy, full * (7 - np.arange(8)) / 12, atol=full * 1e-6)
    assert done[-1].metrics["steps"] == 512


def test_20_presets_keep_an_entropy_bonus():
    """20: the reward moves, so the policy must keep exploring; SB3's default is 0."""
    presets = [preset.experiment for preset in PRESETS.values()]
    robots = [one.control for one in presets if isinstance(one.domain, ControlConfig)]
    assert len(robots) >= 4 and all(one.ppo.ent_coef > 0 for one in robots)
    one, other = (
        make_agent(config=replace(SMALL, ent_coef=weight, learning_rate=1e-2))
        for weight in (0.0, 1.0)
    )
    spread = []
    for agent in (one, other):
        agent.train(Says(lambda t: np.zeros(len(t))), 10 * ROLLOUT)
        spread.append(float(agent.ppo.policy.log_std.detach()))
    assert spread[1] > spread[0] + 0.05


# Queries and budget


def test_21_the_first_queries_are_uniform_and_later_ones_differ_in_preference():
    """21: an unfitted ensemble disagrees about nothing; disagree on probability, not reward."""

    class Unfitted:
        def encode(self, segments):
            raise AssertionError("asked")

        returns = encode

    config = LoopConfig(0, 4, 512, 16, 3, "?", QueryConfig(), FitConfig())
    trajectories = [counted(40, episode) for episode in range(3)]
    assert len(select(trajectories, Unfitted(), config, 0, 10)[0]) == 10
    with pytest.raises(AssertionError, match="asked"):
        select(trajectories, Unfitted(), config, 1, 10)
    assert QueryConfig().pool >= 10 and QueryConfig().acquisition == "disagreement"
    # Members [2], candidates [2], clips [2]: the first differs in return, the second in preference.
    returns = torch.tensor([[[900.0, 0.0], [1.0, 0.0]], [[100.0, 0.0], [0.0, 1.0]]])
    scores = disagreement(returns)
    assert scores[1] > scores[0]


def test_22_queries_are_about_the_newest_policy(tmp_path):
    """22: clips from the whole past teach little about what the policy does now."""
    path = train(tiny(), tmp_path / "run").path
    store = FeedbackStore(path / "feedback.sqlite")
    for query in (store.query(QueryId(r, i)) for r in range(4) for i in range(4)):
        assert {segment.source for segment in query.segments} == {f"round {query.id.round}"}


def test_23_skips_and_ties_are_counted_apart(tmp_path):
    """23: skips cost a person's time and no label; a tie is a label that decides nothing."""
    given = []

    def unsure(left, right):
        given.append([None, 0.5, 1.0, 0.0][len(given) % 4])
        return given[-1]

    train(tiny(labels=12), tmp_path / "run", teacher=unsure)
    store = FeedbackStore(tmp_path / "run" / "feedback.sqlite")
    counts = store.counts()
    assert counts.asked == len(given)
    assert counts.answered == len(given) - given.count(None)
    assert counts.decisive == given.count(1.0) + given.count(0.0) < counts.answered < counts.asked
    line = RunFolder(tmp_path / "run").metrics()[-1]
    assert (line["asked"], line["answered"], line["decisive"]) == counts[:3]


def judged(config, rewards, count=1, average=1.0):
    """Return P(left) of `count` queries, None for ties."""
    oracle = Oracle(config, seed=0)
    scale = Scale(average)
    answers = [oracle.judge(QueryId(1, index), rewards, scale) for index in range(count)]
    return [answer.value.get("left") for answer in answers]


def test_24_synthetic_teachers_err_as_they_should():
    """24: ε once, myopia over the clip, β by sampling and normalised, ties where equal."""
    better = [np.array([0.0, 1.0]), np.array([0.0, 0.5])]
    assert judged(OracleConfig(), better, 50) == 50 * [1.0]
    assert judged(OracleConfig(mistake=1.0), better, 50) == 50 * [0.0]
    wrong = 1 - np.mean(judged(OracleConfig(mistake=0.1), better, 4000))
    assert wrong == pytest.approx(0.1, abs=0.02)
    sampled = judged(OracleConfig(rationality=1.0), better, 4000)
    assert np.mean(sampled) == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.03)
    both = judged(OracleConfig(rationality=1.0, mistake=0.2), better, 4000)
    assert np.mean(both) == pytest.approx(
        0.8 * np.mean(sampled) + 0.2 * (1 - np.mean(sampled)), abs=0.03
    )
    scaled = [1000 * rewards for rewards in better]
    assert judged(OracleConfig(rationality=1.0), scaled, 4000, average=1000.0) == sampled
    assert judged(OracleConfig(), [better[0], better[0][::-1]]) == [None]
    assert judged(OracleConfig(myopia=0.5), [better[0], better[0][::-1]]) == [1.0]


def test_25_labels_are_asked_all_along(tmp_path):
    """25: labels about the first policy alone teach little; ask on, ever more slowly."""
    query = QueryConfig(decay_steps=1e5)
    config = LoopConfig(0, 20, 10**6, 1000, 10, "?", query, FitConfig())
    due = np.array([labels_due(config, index) for index in range(21)])
    assert due[0] == 250 and due[19] == due[20] == 1000
    asked = np.diff(due[:20])
    assert (asked > 0).all() and (np.diff(asked) <= 1).all() and asked[0] > 5 * asked[-1]
    store = FeedbackStore(train(tiny(), tmp_path / "run").path / "feedback.sqlite")
    assert [store.ledger(index)[1] for index in range(5)] == [4, 4, 4, 4, 0]


def test_26_queries_keep_their_number_and_clips_through_an_interruption(tmp_path):
    """26: a restart must neither lose an answer nor ask about other clips."""
    seen = []

    def impatient(left, right):
        seen.append((left.id, right.id))
        if len(seen) == 6:
            raise KeyboardInterrupt
        return prefer_larger(left, right)

    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "run", teacher=impatient)
    store = FeedbackStore(tmp_path / "run" / "feedback.sqlite")
    before, pending = store.answers(), [query.id for query in store.pending()]
    assert pending == [QueryId(1, 1), QueryId(1, 2), QueryId(1, 3)]
    for _ in rounds(resume(tmp_path / "run", teacher=impatient)):
        pass
    assert store.answers()[:5] == before
    assert seen[6] == seen[5]
    assert len(set(seen)) == len(seen) - 1 == 16


def test_27_the_better_clip_is_on_either_side():
    """27: a fixed side, or a score that shows, biases a person."""
    model, generator = ensemble(), np.random.default_rng(0)
    segments = [random_segment(f"{index}", generator) for index in range(300)]
    candidates = propose(segments, 1000, generator)
    for acquisition in (uniform, disagreement):
        pairs = choose(candidates, 200, acquisition, model)
        left, right = (predict_returns(model, side).mean(0) for side in zip(*pairs, strict=True))
        assert 0.35 < (left > right).float().mean() < 0.65
    shown = {field.name for kind in (Query, Segment) for field in fields(kind)}
    assert not {name for name in shown if "reward" in name or "return" in name}
    assert preference_probability(torch.zeros(1), torch.zeros(1)).item() == 0.5


# The true reward reaches neither the reward model nor the policy


def test_true_rewards_change_nothing_but_what_is_reported(tmp_path):
    """The environments differ in their reward alone; a fixed function of clips is the teacher."""
    parts = []
    for name in ("toy/Pay-v0", "toy/PayThousandfold-v0", "toy/PayOther-v0"):
        path = train(tiny(env=name), tmp_path / name.split("/")[1], teacher=prefer_larger).path
        lines = RunFolder(path).metrics()
        returns = [line.pop("true_return", None) for line in lines]
        state = from_bytes(RunFolder(path).checkpoint())
        state["agent"]["recorder"].pop("returns")
        for holder in (state["agent"], state["loop"]):
            holder["sample"] = [arrays[:2] for arrays in holder["sample"]]
        store = FeedbackStore(path / "feedback.sqlite")
        clips = [(c.left.id, c.right.id, c.preference) for c in store.comparisons()]
        parts.append((lines, state, clips, returns))
    for lines, state, clips, returns in parts[1:]:
        assert lines == parts[0][0] and clips == parts[0][2]
        assert_same(state, parts[0][1])
        assert returns[1:] != parts[0][3][1:]


SQL_OF_REWARDS = re.compile(
    r"(FROM|INTO|TABLE|JOIN|EXISTS) (true_reward|true_return|aspect_reward)\b"
)
TRUE_REWARDS = {"env_rewards", "aspect_rewards", "true_rewards", "truth"}
READERS = {
    "types.py": {"Trajectory.__post_init__", "subsample"},  # its length; a copy
    "control/environments/recorder.py": {"Recorder.add", "Recorder.trajectories"},
    "control/agents/ppo.py": {"PPOAgent.state_dict"},
    "control/agents/select.py": {"SelectAgent.state_dict", "windows"},  # kept, and shown likewise
    "control/agents/replay.py": {
        "",
        "ReplayBuffer.__init__",
        "ReplayBuffer.add",
        "ReplayBuffer._trajectory",
    },  # kept, and shown to whoever rewards
    "control/policy.py": {"play"},
    "control/practice.py": {
        "_candidate"
    },  # of clips that no fit sees, for what is right in practice
    "learning/true_reward.py": {"TrueReward.rewards", "TrueReward.calibrate"},
    "learning/selection.py": {"cut", "stretch", "mean_return"},
    "learning/loop.py": {"LoopState.state_dict"},
    "learning/pacing.py": {"_let_answer"},  # handed to a teacher that sees them
    "text/agents/sampling.py": {"SamplingAgent.progress", "report"},  # kept, and told
    "text/episode.py": {"Episode.trajectory"},
    "text/evaluation.py": {"_returns", "_told"},
    "text/environments.py": {"_turn", "_report"},
    "reports/inspect.py": {"_against_truth"},
}


def readers(node, names=(), within=""):
    """Yield where, under a syntax tree's node, an attribute named like true rewards is read."""
    for child in ast.iter_child_nodes(node):
        inner = within
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = f"{within}.{child.name}" if within else child.name
        if isinstance(child, ast.Attribute) and child.attr in names:
            yield within
        if isinstance(child, ast.Constant) and child.value in names:  # getattr(x, "env_rewards")
            yield within
        yield from readers(child, names, inner)


def test_only_who_may_reads_the_true_rewards():
    root = Path(prefrl.__file__).parent
    found = {}
    for path in root.rglob("*.py"):
        where = set(readers(ast.parse(path.read_text(encoding="utf-8")), TRUE_REWARDS))
        if where:
            found[path.relative_to(root).as_posix()] = where
    allowed = {name: functions for name, functions in READERS.items()}
    trespassers = {name: where - allowed.get(name, set()) for name, where in found.items()}
    assert not {name: where for name, where in trespassers.items() if where}
    assert found.keys() == READERS.keys()


def test_only_the_store_knows_the_table_of_true_rewards():
    root = Path(prefrl.__file__).parent
    knowing = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if SQL_OF_REWARDS.search(path.read_text(encoding="utf-8"))
    ]
    assert sorted(knowing) == ["storage/schema.py", "storage/segments.py"]


def test_the_agents_checkpoint_needs_no_environment_reward():
    """What is saved of true rewards serves the true-reward reference and the record alone."""
    agent = make_agent()
    agent.train(Says(lambda t: t.actions[:, 0]), 2 * ROLLOUT)
    state = through_bytes(agent)
    for arrays in state["sample"]:
        arrays[2][:] = np.nan
    blind = make_agent(seed=9)
    blind.load_state_dict(state)
    results = [a.train(Says(lambda t: 2 * t.actions[:, 0]), ROLLOUT)[1] for a in (agent, blind)]
    assert results[0] == results[1]
    assert_same(*(through_bytes(a)["policy"] for a in (agent, blind)))
