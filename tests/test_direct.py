"""A robot's policy that is fitted to the answers itself: CPL, and the run around it."""

import dataclasses
import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from complaints import complaint
from gymnasium.spaces import Box, Discrete
from processes import command, run
from test_agent import assert_same
from test_experiment import assert_replayed, assert_same_run
from torch import nn
from toy_environments import HORIZON, TINY_FLAGS, tiny

from prefrl.cli import main
from prefrl.config.control import ControlConfig, CPLConfig, PPOConfig, RewardConfig
from prefrl.config.experiment import check_experiment
from prefrl.config.learners import with_learner
from prefrl.config.learning import FitConfig
from prefrl.config.presets import preset
from prefrl.control.agents.actor import Actor, clipped_log_prob
from prefrl.control.agents.direct import DirectAgent
from prefrl.control.environments.adapters import make_environments
from prefrl.control.environments.interface import Description
from prefrl.control.environments.spaces import to_policy
from prefrl.control.implicit import ImplicitReward
from prefrl.control.policy import Policy
from prefrl.errors import UserError
from prefrl.learning.reward import FitState, fit
from prefrl.runs.load import load_policy, load_reward
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.folder import RunFolder
from prefrl.types import Comparison, QueryId, Segment, Trajectory

SMALL = CPLConfig(n_steps=16, hidden=(8,), clone_epochs=2)
FLAGS = (
    "--learner direct --labels 16 --steps 512 --rounds 4 --num-envs 4 --threads 1 "
    "--direct.n-steps 16 --direct.hidden 8 --direct.clone-epochs 2 --query.explore-steps 256 "
    "--fit.first-epochs 3 --fit.epochs 3 --fit.learning-rate 1e-2"
)
CHEETAH = "prefrl/HalfCheetah-v0"


def make_actor(actions=None, shows_end=False, **changes):
    """Return an actor that observes three numbers and has learned something."""
    space = Box(-np.inf, np.inf, (3,), np.float64)
    actions = actions or Box(-2, 2, (2,), np.float32)
    description = Description(space, actions, 20, 0.1, "?", 4, shows_end)
    actor = Actor(description, replace(SMALL, **changes), 0)
    move(actor)
    return actor


def make_reward(**more):
    actor = make_actor(**more)
    return ImplicitReward(actor, actor.config)


def move(actor, size=0.3):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in actor.parameters():
            weights += size * torch.randn(weights.shape, generator=generator)


def make_clip(number=0, steps=5, actions=None, ended=None):
    generator = np.random.default_rng(number)
    observations = generator.normal(size=(steps, 3)).astype(np.float32)
    if ended is not None:
        observations[:, -1] = np.arange(steps) >= ended
    if actions is None:
        actions = generator.normal(size=(steps, 2)).clip(-1, 1).astype(np.float32) * 2
    return Segment(f"clip {number}", observations, actions)


def make_comparisons(count=12):
    return [
        Comparison(make_clip(2 * n), make_clip(2 * n + 1), float(n % 2), query=QueryId(0, n))
        for n in range(count)
    ]


# --- what actions are likely --------------------------------------------------------------------


@pytest.mark.parametrize("mean", [-3.0, -0.9, 0.0, 0.4, 1.5])
@pytest.mark.parametrize("std", [0.05, 0.5, 3.0])
def test_the_chances_of_clipped_actions_add_up_to_one(mean, std):
    """Peers take the density of the normal distribution at the bounds, or move actions inwards."""
    mean, std = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    between = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    chances = clipped_log_prob(mean, std, between).exp()
    at_bounds = clipped_log_prob(mean, std, torch.tensor([-1.0, 1.0])).exp()
    assert float(at_bounds.sum() + chances.sum() * 1e-5) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(
        clipped_log_prob(mean, std, between),
        torch.distributions.Normal(mean, std).log_prob(between),
    )


def test_actions_at_a_bound_count_by_what_lies_beyond():
    sampled = torch.distributions.Normal(0.5, 0.4).sample((200_000,)).clamp(-1, 1)
    share = float((sampled == 1).float().mean())
    chance = clipped_log_prob(torch.tensor(0.5), torch.tensor(0.4), torch.ones(1)).exp()
    assert float(chance) == pytest.approx(share, abs=3e-3)
    mean = torch.tensor([40.0, -40.0], requires_grad=True)
    far = clipped_log_prob(mean, torch.tensor(0.1), torch.tensor([-1.0, 1.0])).sum()
    far.backward()
    assert torch.isfinite(far.detach()) and torch.isfinite(mean.grad).all()
    assert mean.grad[0] < 0 < mean.grad[1], "a mean that is far beyond is still led back"


def test_the_bounds_of_an_environment_are_those_of_the_policy_to_the_bit():
    space = Box(np.float32([-0.4, -2]), np.float32([0.4, 7]), dtype=np.float32)
    assert (to_policy(space, np.stack([space.low, space.high])) == [[-1, -1], [1, 1]]).all()


# --- the return that a policy stands for --------------------------------------------------------


def log_probs(actor, clip, network=None):
    """Return log π of each step of a clip as SB3 has it, but for clipped actions."""
    network = network or actor.network
    made = torch.as_tensor(to_policy(actor.description.action_space, clip.actions))
    distribution = network.get_distribution(actor.normalise(clip.observations)).distribution
    each = clipped_log_prob(distribution.mean, distribution.stddev, made)
    return each.sum(1).detach().numpy()


@pytest.mark.parametrize("kl", [False, True])
@pytest.mark.parametrize("sde", [0, 4])
def test_the_return_is_what_cpl_sums(kl, sde):
    actor = make_actor(kl=kl, alpha=0.3, gamma=0.8, sde_sample_freq=sde)
    reward = ImplicitReward(actor, actor.config)
    clips = [make_clip(n, steps) for n, steps in enumerate((5, 3, 7))]
    own = [log_probs(actor, clip) for clip in clips]
    if kl:
        other = [log_probs(actor, clip, reward.reference.network) for clip in clips]
        own = [one - ref for one, ref in zip(own, other, strict=True)]
    expected = [0.3 * (0.8 ** np.arange(len(each)) * each).sum() for each in own]
    rows = torch.tensor([2, 0, 1])
    returns = reward.returns(reward.encode(clips), rows)
    assert returns.shape == (1, 3)
    assert returns[0].tolist() == pytest.approx([expected[row] for row in rows], rel=1e-4)
    for steps, each in zip(reward.rewards(clips), own, strict=True):
        assert steps == pytest.approx(0.3 * each, rel=1e-4, abs=1e-5)


def test_discrete_actions_have_their_own_chances():
    actor = make_actor(Discrete(3))
    clip = make_clip(actions=np.array([0, 2, 1, 1, 0]))
    logits = actor.network.get_distribution(actor.normalise(clip.observations)).distribution.logits
    expected = logits.log_softmax(1)[torch.arange(5), torch.as_tensor(clip.actions)].sum()
    reward = ImplicitReward(actor, actor.config)
    returns = reward.returns(reward.encode([clip]), torch.tensor([0]))
    assert returns.item() == pytest.approx(0.1 * expected.item(), rel=1e-5)


def test_steps_after_the_end_of_an_episode_do_not_count():
    reward = make_reward(shows_end=True)
    ended, whole = make_clip(ended=3), make_clip(ended=9)
    rewards = reward.rewards([ended, whole])
    assert (rewards[0][3:] == 0).all() and (rewards[0][:3] != 0).all() and (rewards[1] != 0).all()
    encoded = reward.encode([ended])
    returns = reward.returns(encoded, torch.tensor([0]))
    assert returns.item() == pytest.approx(rewards[0].sum(), rel=1e-5)


def test_a_fit_is_cpl():
    """One step of the fit is one step on −log [e^{S₊} / (e^{S₊} + e^{λ S₋})], from a clone."""
    one = Comparison(make_clip(1), make_clip(2), 1.0)
    config = FitConfig(
        learning_rate=1e-2, first_epochs=1, l2=0.0, uniform_error=0.0, held_out=0.0, bias=0.5
    )
    actor = make_actor()
    mine = fitted(actor, one, config)

    its = make_actor()
    reward = ImplicitReward(its, its.config)
    encoded = reward.encode([one.left, one.right])
    reward.normalise_inputs(encoded)
    before = [weights.detach().clone() for weights in its.parameters()]
    optimizer = torch.optim.Adam(its.parameters(), 1e-2)
    better, worse = (0.1 * log.sum() for log in map(partial_log_probs(its), (one.left, one.right)))
    (-nn.functional.logsigmoid(better - 0.5 * worse)).backward()
    optimizer.step()
    for own, theirs, old in zip(mine, its.parameters(), before, strict=True):
        assert theirs.grad is not None
        moves = theirs.grad.abs() > 1e-5  # Adam's first step is as long for the least of gradients
        assert moves.any() and torch.allclose(own[moves], theirs[moves], rtol=0, atol=1e-5)
        assert torch.allclose((old - theirs)[moves], 1e-2 * theirs.grad.sign()[moves], atol=1e-4)


def partial_log_probs(actor):
    def of(clip):
        made = torch.as_tensor(to_policy(actor.description.action_space, clip.actions))
        return actor.log_prob(actor.normalise(clip.observations), made)

    return of


def fitted(actor, one, config):
    reward = ImplicitReward(actor, actor.config)
    state = FitState(reward, config, 0)
    fit(reward, [one], config, state)
    return [*actor.parameters()]


def test_only_the_policy_is_fitted():
    actor = make_actor()
    names = {id(p): name for name, p in actor.network.named_parameters()}
    assert {names[id(p)] for p in ImplicitReward(actor, actor.config).parameters()} == {
        "log_std", "action_net.weight", "action_net.bias",
        "mlp_extractor.policy_net.0.weight", "mlp_extractor.policy_net.0.bias",
    }  # fmt: skip


# --- where a fit begins -------------------------------------------------------------------------


def weights_of(actor):
    return torch.cat([weights.detach().flatten() for weights in actor.parameters()])


def test_a_fit_begins_at_a_clone_of_the_clips_unless_it_is_to_go_on():
    for restart in (True, False):
        actor = make_actor(restart=restart)
        reward = ImplicitReward(actor, actor.config)
        encoded = reward.encode([make_clip(n) for n in range(6)])
        reward.normalise_inputs(encoded)
        clone, statistics = weights_of(actor), actor.normaliser.mean
        move(actor)
        moved = weights_of(actor)
        other = reward.encode([make_clip(n) for n in range(6, 9)])
        reward.normalise_inputs(encoded if restart else other)
        assert torch.equal(weights_of(actor), clone if restart else moved)
        assert np.array_equal(actor.normaliser.mean, statistics)
        reference = ImplicitReward(actor, actor.config)
        reference.load_state_dict(from_bytes(to_bytes(reward.state_dict())))
        assert torch.equal(weights_of(reference.reference), weights_of(actor))


def test_a_clone_does_as_it_was_shown():
    actor = make_actor(clone_epochs=60, clone_learning_rate=1e-2, hidden=(16,))
    generator = np.random.default_rng(0)
    seen = generator.normal(3, 5, size=(2000, 3))
    noise = generator.normal(0, 0.2, size=(2000, 2))
    shown = np.stack([np.tanh(seen[:, 0] - 3), -seen[:, 1] / 5], 1) + noise
    actor.begin_anew()
    actor.observe_like(seen)
    actor.clone(seen, torch.as_tensor(shown.clip(-1, 1), dtype=torch.float32))
    with torch.no_grad():
        distribution = actor.network.get_distribution(actor.normalise(seen)).distribution
    between = np.abs(shown - noise) < 0.7
    error = (distribution.mean.numpy() - (shown - noise))[between]
    assert np.sqrt(np.square(error).mean()) < 0.15
    assert distribution.stddev[0].tolist() == pytest.approx([0.2, 0.2], abs=0.06)
    assert float(distribution.mean.abs().max()) > 1, "what was clipped is led beyond the bound"


def test_a_fit_learns_which_clip_is_better_and_keeps_the_pass_that_held_out_answers_like():
    actor = make_actor(hidden=(16,))
    reward = ImplicitReward(actor, actor.config)
    comparisons = []
    for n in range(200):
        sides = [make_clip(2 * n), make_clip(2 * n + 1)]
        score = [float((clip.actions[:, 0] * clip.observations[:, 1]).sum()) for clip in sides]
        comparisons.append(Comparison(*sides, float(score[0] > score[1]), query=QueryId(0, n)))
    config = FitConfig(
        learning_rate=1e-2, first_epochs=15, l2=0.0, bias=0.5, anneal=True, patience=5, held_out=0.2
    )
    metrics = fit(reward, comparisons, config, FitState(reward, config, 0))
    assert metrics["out_of_bag_accuracy"] > 0.75 and metrics["best_epoch"] >= 2


# --- the agent ----------------------------------------------------------------------------------


def make_agent(name="toy/Pay-v0", seed=0, **changes):
    environments = make_environments(
        name, 4, seed=3, horizon=HORIZON, threads=1, truncate_after_end=True
    )
    actor = Actor(environments.description, replace(SMALL, **changes), seed)
    return DirectAgent(environments, actor, seed), ImplicitReward(actor, actor.config)


@pytest.mark.parametrize("name", ["toy/Ends-v0", CHEETAH, "CartPole-v1", "Pendulum-v1"])
def test_the_agent_plays_its_policy_and_goes_on_to_the_bit(name):
    agent, reward = make_agent(name)
    [*explored] = agent.explore(128)
    assert sum(map(len, explored)) == 128 and {t.source for t in explored} == {"round 0"}
    state = from_bytes(to_bytes(agent.state_dict()))
    played, metrics = agent.train(reward, 192)
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6) and metrics["entropy"] > 0
    again, its = make_agent(name, seed=7)
    again.load_state_dict(state)
    its.load_state_dict(reward.state_dict())
    repeated, same = again.train(its, 192)
    assert same == metrics
    for one, other in zip(played, repeated, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.actions, other.actions)


def test_how_far_a_fit_has_led_is_told():
    agent, reward = make_agent("Pendulum-v1")
    move(agent.actor)
    trajectories, metrics = agent.train(reward, 2048)
    steps = [
        log_probs(agent.actor, t) - log_probs(agent.actor, t, reward.reference.network)
        for t in trajectories
    ]
    assert metrics["approx_kl"] == pytest.approx(float(np.concatenate(steps).mean()), rel=1e-4)
    assert metrics["approx_kl"] > 0.02


def test_a_policy_acts_as_the_agent_that_it_came_from():
    agent, _ = make_agent("Pendulum-v1")
    move(agent.actor)
    environments = agent.environments.environments
    policy = Policy(environments.description, agent.config, agent.state_dict())
    raw = np.random.default_rng(0).uniform(-1, 1, (50, 4))
    seen = agent.actor.normalise(raw)
    mode = agent.actor.network.get_distribution(seen).mode().detach().numpy()
    np.testing.assert_allclose(policy.predict(raw), 2 * mode.clip(-1, 1), rtol=1e-5, atol=1e-6)


def test_nobody_elses_chances_are_drawn():
    torch.manual_seed(5)
    expected = torch.rand(1).item()
    torch.manual_seed(5)
    agent, reward = make_agent()
    agent.explore(64)
    reward.normalise_inputs(reward.encode([Segment("a", np.zeros((2, 3)), np.zeros((2, 1)))]))
    assert torch.rand(1).item() == expected


# --- whole runs ---------------------------------------------------------------------------------


def words(path, env="toy_environments:toy/Ends-v0", more=""):
    return ["train", "--env", env, *FLAGS.split(), *more.split(), "--run", str(path)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "direct"
    main(words(path, more="--direct.kl"))
    return path


@pytest.mark.parametrize("step", [160, 260, 360])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(step, finished, tmp_path):
    path = tmp_path / "killed"
    done = run(**command(words(path, more="--direct.kl"), TOY_KILL_AT_STEP=str(step)))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(path)])
    assert_same_run(path, finished)


def test_a_run_whose_fits_go_on_is_resumed_alike(tmp_path):
    for path in (tmp_path / "one", tmp_path / "two"):
        main(words(path, more="--direct.no-restart"))
    assert_same_run(tmp_path / "one", tmp_path / "two")
    sorted((tmp_path / "two" / "checkpoints").iterdir())[-1].unlink()  # round 4 is made again
    main(["resume", str(tmp_path / "two")])
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_a_run_is_replayed(finished, tmp_path):
    assert_replayed(finished, tmp_path / "again")


def test_a_run_is_put_to_every_use(finished, tmp_path, capsys):
    main(["evaluate", str(finished), "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    main(["inspect", str(finished), "--json"])
    assert json.loads(capsys.readouterr().out)["answers"] == 16
    main(["video", str(finished), "-o", str(tmp_path / "strip.png"), "--strip"])
    reward, policy = load_reward(finished), load_policy(finished)
    state = from_bytes(RunFolder(finished).checkpoint())
    assert_same(state["agent"]["policy"], dict(reward.actor.network.state_dict()))
    assert_same(state["agent"]["policy"], dict(policy.network.state_dict()))
    clip = Trajectory(np.zeros((4, 3), np.float32), np.zeros((4, 1), np.float32), np.zeros(4))
    expected = reward.rewards([clip])[0]

    given = tiny(env="toy_environments:toy/Ends-v0", labels=0, reward=str(finished))
    train(given, tmp_path / "frozen")
    assert np.array_equal(load_reward(tmp_path / "frozen").rewards([clip])[0], expected)


@pytest.mark.parametrize("taught_by", ["ppo", "direct"])
def test_what_another_learner_was_told_is_learned_from_without_a_label(
    taught_by, finished, tmp_path
):
    path = finished
    if taught_by == "ppo":
        path = tmp_path / "ppo"
        env = "toy_environments:toy/Ends-v0"
        main(["train", "--env", env, *TINY_FLAGS.split(), "--run", str(path)])
    main(words(tmp_path / "again", more=f"--labels 0 --from {path}"))
    lines = RunFolder(tmp_path / "again").metrics()
    assert lines[-1]["answered"] == 0 and lines[-1]["train_loss"] > 0


def test_a_policy_learns_what_the_oracle_prefers(tmp_path):
    experiment = with_learner(tiny(labels=120, steps=2048, env="toy/Pay-v0"), "direct")
    direct = replace(experiment.control.direct, n_steps=16, hidden=(8,), clone_epochs=5)
    experiment = replace(
        experiment,
        domain=replace(experiment.control, direct=direct),
        fit=replace(experiment.fit, learning_rate=1e-2),
        query=replace(experiment.query, acquisition="uniform"),
    )
    folder = train(experiment, tmp_path / "run")
    seen = np.stack([np.arange(HORIZON) / 10, np.linspace(-1, 1, HORIZON)], 1)
    assert load_policy(folder.path).predict(seen).mean() > 0.25, "it is paid for its push"
    assert folder.metrics()[-1]["true_return"] > 0.15 * HORIZON


# --- what is refused ----------------------------------------------------------------------------


def test_a_learner_begins_with_what_is_meant_for_it():
    backflip = preset("hopper-backflip").experiment
    chosen = with_learner(backflip, "direct")
    check_experiment(chosen)
    control, ppo = chosen.control, backflip.control.ppo
    assert control.learner == "direct" and control.agent is control.direct
    assert (control.direct.sde_sample_freq, control.direct.log_std_init) == (16, -1)
    assert control.direct.hidden == ppo.hidden and control.restart == 0
    assert control.ppo == PPOConfig() and control.reward_model == RewardConfig()
    assert chosen.fit.anneal and chosen.fit.bias == 0.5 and chosen.fit.l2 == 0
    assert math.isinf(chosen.fit.stop_accuracy) and chosen.fit.patience
    assert chosen.query.acquisition == "entropy"
    assert with_learner(chosen, "direct") == chosen


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--reward true", "--learner direct learns from answers and takes no reward; leave one"),
        ("--ppo.gamma .9", "--ppo.gamma is 0.9, but the learner is direct; use --learner ppo"),
        ("--reward-model.members 2", "--learner direct has none: the policy itself is fitted"),
        ("--restart .5", "--learner direct clones clips anew in each round; leave it out"),
        ("--query.acquisition disagreement", "fits one, the policy; use --query.acquisition e"),
        ("--direct.alpha 0", "--direct.alpha is 0.0; expected a finite number above 0"),
        ("--direct.gamma 1.5", "--direct.gamma is 1.5; expected a number above 0, at most 1"),
    ],
)
def test_what_does_not_go_together_is_refused(more, sentence, tmp_path, capsys):
    assert sentence in complaint(words(tmp_path / "run", "Pendulum-v1", more), capsys)
    assert not list(tmp_path.iterdir())


def test_discrete_actions_have_no_noise_that_lasts(tmp_path, capsys):
    given = words(tmp_path / "run", "CartPole-v1", "--direct.sde-sample-freq 4")
    assert "which --direct.sde-sample-freq cannot explore; leave it at 0" in complaint(
        given, capsys
    )


def test_a_reward_network_of_ones_own_is_refused(tmp_path):
    experiment = with_learner(tiny(), "direct")
    with pytest.raises(UserError, match="--learner direct has no reward model: the policy itself"):
        train(experiment, tmp_path / "run", network=lambda features: nn.Linear(features, 1))


def test_a_fit_that_leads_nowhere_says_what_to_lower():
    reward = make_reward()
    reward.calibrate([])
    with torch.no_grad():
        next(reward.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"lower --fit\.learning-rate"):
        reward.calibrate([])


def test_options_of_the_command_line_are_those_of_the_configuration(capsys):
    with pytest.raises(SystemExit):
        main(["train", "half-cheetah", "--learner", "direct", "--help"])
    told = capsys.readouterr().out
    for field in dataclasses.fields(CPLConfig):
        assert f"--direct.{field.name.replace('_', '-')}" in told
    assert ControlConfig(learner="direct").environment_count == 64
