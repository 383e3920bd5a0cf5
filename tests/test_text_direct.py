"""A policy that is fitted to the answers itself: DPO, IPO, CPL's bias, and the run around it."""

import math
import signal
from contextlib import nullcontext
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
import toy_texts  # noqa: F401
from complaints import complaint
from hypothesis import given
from hypothesis import strategies as st
from processes import command, run
from test_experiment import assert_replayed, assert_same_run
from toy_texts import save_small_model, tiny_text
from transformers import AutoModelForCausalLM, GPT2Config

from prefrl.cli import main
from prefrl.commands.worries import worries
from prefrl.config.experiment import check_experiment
from prefrl.config.learners import with_learner
from prefrl.config.learning import FitConfig, QueryConfig
from prefrl.config.presets import preset
from prefrl.config.text import DirectConfig, TextConfig, TextPPOConfig, TextRewardConfig
from prefrl.learning.preference import preference_loss, robust_loss, square_loss
from prefrl.learning.reward import FitState, fit
from prefrl.runs.load import load_policy, load_reward
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.folder import RunFolder
from prefrl.text.agents.direct import DirectAgent
from prefrl.text.build import _own_reward
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import turns_of
from prefrl.text.models.load import byte_tokenizer, prepare, tiny_language_model
from prefrl.text.reward import ScoresTexts
from prefrl.types import Comparison, Counts, QueryId, Segment, Trajectory, text_array

SMALL = DirectConfig(beta=0.5, episodes=8, completions_per_task=4, batch_size=4)
FLAGS = (
    "--learner direct --labels 16 --steps 64 --rounds 4 --fit.learning-rate 1e-2 --fit.l2 0 "
    "--fit.batch-size 4 --query.explore-steps 8 --query.decay-steps 64 --query.acquisition entropy "
    "--text.max-new-tokens 6 --text.direct.episodes 8 --text.direct.completions-per-task 4 "
    "--text.direct.batch-size 4 --text.direct.kl-target 1"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def make_pair(name="Talk", text=None, model=None, **direct):
    """Return an agent and its reward, of a model of ten thousand parameters."""
    given = {"max_new_tokens": 5, "learner": "direct", "direct": replace(SMALL, **direct)}
    config = TextConfig(**given | (text or {}))
    environments = [gymnasium.make(f"texts/{name}-v0") for _ in range(8)]
    language_model = model or tiny_language_model(0, layers=2, width=16, heads=2, context=256)
    agent = DirectAgent(environments, language_model, config, 0, nullcontext)
    return agent, _own_reward(agent)


def move(agent, size=0.02):
    """Let the policy differ from its reference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weights in agent.networks.trained().items():
            if not name.startswith("value."):
                weights += size * torch.randn(weights.shape, generator=generator)


def sampled(agent, count=6):
    episodes = play(agent.environments, agent.policy, [task_seed(0, n) for n in range(count)])
    return [episode.trajectory("round 0", n) for n, episode in enumerate(episodes)]


def log_ratios(model, reference, trajectory):
    """Return log π/ρ of each reply by plain passes of two models, one token at a time."""
    ratios, ids = [], []
    for before, reply in turns_of(trajectory):
        ids += before
        total = 0.0
        for token in reply:
            own, other = (
                torch.log_softmax(m(torch.tensor([ids])).logits[0, -1].double(), 0)[token]
                for m in (model, reference)
            )
            total += float(own - other)
            ids.append(token)
        ratios.append(total)
    return ratios


# --- the reward that a policy stands for ------------------------------------------------------


@pytest.mark.parametrize("text", [{}, {"temperature": 1.0, "micro_batch_size": 2}])
def test_the_reward_is_beta_times_the_log_ratio(text):
    agent, reward = make_pair(text=text)
    reference = tiny_language_model(0, layers=2, width=16, heads=2, context=256).model
    trajectories = sampled(agent)
    assert all(np.abs(turns).max() < 1e-5 for turns in reward.rewards(trajectories))
    move(agent)
    with torch.no_grad():
        expected = [log_ratios(agent.model, reference, t) for t in trajectories]
    assert max(map(len, expected)) > 1, "some talks have several turns"
    for turns, own in zip(reward.rewards(trajectories), expected, strict=True):
        assert turns == pytest.approx(0.5 * np.array(own), abs=1e-4)
    encoded = reward.encode(trajectories)
    rows = torch.tensor([3, 0, 3, 1])
    returns = reward.returns(encoded, rows)
    assert returns.shape == (1, 4)
    assert returns[0].tolist() == pytest.approx(
        [0.5 * sum(expected[row]) for row in rows.tolist()], abs=1e-4
    )


def test_micro_batches_give_the_same_gradient():
    gradients = []
    for size in (0, 1, 3):
        agent, reward = make_pair(text={"micro_batch_size": size})
        trajectories = sampled(agent)
        move(agent)
        encoded = reward.encode(trajectories)
        reward.returns(encoded, torch.arange(6))[0].dot(torch.linspace(-1, 1, 6)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in reward.parameters()]))
    for other in gradients[1:]:
        assert torch.allclose(other, gradients[0], rtol=0, atol=1e-6)


def test_only_the_policy_is_fitted():
    agent, reward = make_pair()
    names = {id(p): name for name, p in agent.networks.named_parameters()}
    fitted = {names[id(p)] for p in reward.parameters()}
    assert fitted and all(name.startswith(("model.", "upper.", "head.")) for name in fitted)


def test_what_is_longer_than_the_context_is_read_at_its_end():
    _, reward = make_pair()
    said, replies = ["x" * 200, "y" * 252], ["long ago", "now"]
    long = Trajectory(text_array(said), text_array(replies), np.zeros(2))
    encoded = reward.encode([long])
    assert len(encoded.sequences[0]) == 256
    assert encoded.tokens[0] == [0, 4], "the first reply is cut off, the last one ends"
    assert reward.rewards([long])[0].tolist() == [0.0, 0.0]


def comparison(agent, reward, better=0, worse=1):
    clips = [
        Segment(f"clip {n}", t.observations, t.actions, t.extras)
        for n, t in enumerate(sampled(agent))
    ]
    return Comparison(clips[better], clips[worse], 1.0)


def test_a_fit_is_dpo():
    """One step of the fit is one step on −log σ(β (h₊ − h₋)), as Rafailov et al. write it."""
    agent, reward = make_pair("Letters")
    one = comparison(agent, reward)
    config = FitConfig(
        learning_rate=1e-2, first_epochs=1, l2=0.0, uniform_error=0.0, held_out=0.0, batch_size=1
    )
    metrics = fit(reward, [one], config, FitState(reward, config, 0))
    assert metrics["train_loss"] == pytest.approx(math.log(2), abs=1e-5)
    mine = torch.cat([p.detach().flatten() for p in reward.parameters()])

    _, its = make_pair("Letters")
    encoded = its.encode([one.left, one.right])
    optimizer = torch.optim.Adam(its.parameters(), 1e-2, fused=True)
    better, worse = its.returns(encoded, torch.arange(2))[0]
    (-torch.nn.functional.logsigmoid(better - worse)).backward()
    optimizer.step()
    theirs = torch.cat([p.detach().flatten() for p in its.parameters()])
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-6)
    assert its.returns(encoded, torch.arange(2))[0].diff() < 0, "the better one leads"


def test_the_likelihood_of_the_better_one_can_be_learned_beside():
    """The step is one on −log σ(β (h₊ − h₋)) − nll β h₊, whose last term is log π(y₊) but for ρ."""
    agent, reward = make_pair("Letters")
    one = comparison(agent, reward)
    config = FitConfig(
        learning_rate=1e-2, first_epochs=1, l2=0.0, uniform_error=0.0, held_out=0.0, batch_size=1,
        nll=0.5,
    )  # fmt: skip
    fit(reward, [one], config, FitState(reward, config, 0))
    mine = torch.cat([p.detach().flatten() for p in reward.parameters()])
    _, its = make_pair("Letters")
    encoded = its.encode([one.left, one.right])
    optimizer = torch.optim.Adam(its.parameters(), 1e-2, fused=True)
    better, worse = its.returns(encoded, torch.arange(2))[0]
    (-torch.nn.functional.logsigmoid(better - worse) - 0.5 * better).backward()
    optimizer.step()
    theirs = torch.cat([p.detach().flatten() for p in its.parameters()])
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-6)
    plain, config = make_pair("Letters")[1], replace(config, nll=0.0)
    fit(plain, [one], config, FitState(plain, config, 0))
    gains = [float(r.rewards([sampled(agent)[0]])[0].sum()) for r in (reward, plain)]
    assert gains[0] > gains[1]


def test_a_fit_begins_at_the_reference_unless_it_is_to_go_on():
    for restart in (True, False):
        agent, reward = make_pair("Letters", restart=restart)
        trajectories = sampled(agent)
        move(agent)
        before = [t.sum() for t in reward.rewards(trajectories)]
        reward.normalise_inputs(None)
        after = [t.sum() for t in reward.rewards(trajectories)]
        assert np.allclose(after, 0, atol=1e-5) if restart else after == before


def test_beta_follows_the_divergence():
    _, reward = make_pair(kl_target=2.0)
    reward.adapt(3.0)
    assert reward.beta == pytest.approx(0.5 * 1.5)
    reward.adapt(200.0)
    assert reward.beta == pytest.approx(0.5 * 1.5 * 4), "at most by a factor of 4"
    reward.adapt(0.0)
    assert reward.beta == pytest.approx(0.5 * 1.5)
    _, slow = make_pair(kl_target=2.0, restart=False)
    slow.adapt(3.0)
    assert slow.beta == pytest.approx(0.5 * math.sqrt(1.5))
    _, fixed = make_pair()
    fixed.adapt(50.0)
    assert fixed.beta == 0.5
    fixed.load_state_dict(from_bytes(to_bytes(reward.state_dict())))
    assert fixed.beta == reward.beta


def test_a_previous_reference_is_the_policy_before_the_fit():
    agent, reward = make_pair("Letters", reference="previous", kl_target=2.0)
    trajectories = sampled(agent)
    move(agent)
    first = [float(turns.sum()) for turns in reward.rewards(trajectories)]
    assert max(map(abs, first)) > 1e-3, "until a fit it is the model that the run began with"
    weights = reward._weights()
    encoded = reward.encode(trajectories)
    reward.normalise_inputs(encoded)
    rows = torch.arange(len(trajectories))
    assert reward.returns(encoded, rows)[0].tolist() == pytest.approx([0.0] * 6, abs=1e-5)
    assert all(torch.equal(w, weights[name]) for name, w in reward._weights().items())
    move(agent)
    after = [float(turns.sum()) for turns in reward.rewards(trajectories)]
    assert after == pytest.approx(reward.returns(encoded, rows)[0].tolist(), abs=1e-5)
    other_agent, other = make_pair("Letters", reference="previous")
    other_agent.load_state_dict(from_bytes(to_bytes(agent.state_dict())))
    other.load_state_dict(from_bytes(to_bytes(reward.state_dict())))
    again = [float(turns.sum()) for turns in other.rewards(trajectories)]
    assert again == pytest.approx(after, abs=1e-6)
    reward.adapt(4.0)
    assert reward.beta == pytest.approx(0.5 * math.sqrt(2))


def test_a_mean_over_tokens_counts_long_replies_no_more_than_short_ones():
    returns = []
    for per_token in (False, True):
        agent, reward = make_pair(per_token=per_token)
        trajectories = sampled(agent)
        move(agent)
        encoded = reward.encode(trajectories)
        returns.append(reward.returns(encoded, torch.arange(6))[0].detach())
        turns = [float(each.sum()) for each in reward.rewards(trajectories)]
        assert turns == pytest.approx(returns[-1].tolist(), abs=1e-5)
    counts = torch.tensor([sum(len(reply) for _, reply in turns_of(t)) for t in trajectories])
    assert len(counts.unique()) > 1
    torch.testing.assert_close(returns[1], returns[0] / counts)


# --- losses -----------------------------------------------------------------------------------

NUMBERS = st.floats(-5, 5)


@given(NUMBERS, NUMBERS, st.floats(0.05, 2))
def test_the_square_loss_is_ipo(better, worse, tau):
    """τ² (h₊ − h₋ − 1/(2τ))², with returns τ h (Azar et al. 2023, equation 17)."""
    left, right = torch.tensor([[tau * better], [tau * worse]], dtype=torch.float64)
    loss = square_loss(left, right, torch.ones(1))
    assert float(loss) == pytest.approx(tau**2 * (better - worse - 1 / (2 * tau)) ** 2, abs=1e-9)
    assert torch.equal(loss, square_loss(right, left, torch.zeros(1)))


@given(NUMBERS, NUMBERS, st.floats(0.1, 1))
def test_the_bias_is_cpls(better, worse, bias):
    """−log [e^{S₊} / (e^{S₊} + e^{λ S₋})] (Hejna et al. 2023, equation 6)."""
    left, right = torch.tensor([[better], [worse]], dtype=torch.float64)
    loss = preference_loss(left, right, torch.ones(1), bias=bias)
    assert float(loss) == pytest.approx(math.log1p(math.exp(bias * worse - better)), abs=1e-9)
    assert torch.equal(loss, preference_loss(right, left, torch.zeros(1), bias=bias))


@given(NUMBERS, NUMBERS, st.floats(0, 0.4))
def test_the_robust_loss_of_answers_with_errors_is_that_of_right_ones(left, right, error):
    sides, right_answer = (torch.tensor([left]), torch.tensor([right])), torch.ones(1)
    mean = (1 - error) * robust_loss(*sides, right_answer, error=error)
    mean += error * robust_loss(*sides, 1 - right_answer, error=error)
    assert float(mean) == pytest.approx(float(preference_loss(*sides, right_answer)), abs=1e-4)


@pytest.mark.parametrize("loss", ["square", "robust", "bradley-terry"])
def test_every_loss_learns(loss):
    agent, reward = make_pair("Letters")
    one = comparison(agent, reward)
    config = FitConfig(
        learning_rate=3e-3, first_epochs=10, l2=0.0, held_out=0.0, loss=loss, bias=0.9, anneal=True
    )
    metrics = fit(reward, [one], config, FitState(reward, config, 0))
    assert metrics["preferred_return"] > metrics["other_return"]
    assert metrics["train_accuracy"] == 1


def test_the_step_size_falls_to_zero_in_each_fit(monkeypatch):
    agent, reward = make_pair("Letters")
    comparisons = [
        replace(comparison(agent, reward, n, n + 1), query=QueryId(0, n)) for n in range(5)
    ]
    config = FitConfig(
        learning_rate=0.01, first_epochs=2, epochs=3, batch_size=2, l2=0.0, held_out=0.0,
        anneal=True,
    )  # fmt: skip
    state, rates = FitState(reward, config, 0), []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step",
        lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1],
    )  # fmt: skip
    fit(reward, comparisons, config, state)
    assert rates == pytest.approx([0.01 * (1 - n / 6) for n in range(6)])
    rates.clear()
    fit(reward, comparisons, config, state)
    assert rates == pytest.approx([0.01 * (1 - n / 9) for n in range(9)])


# --- runs -------------------------------------------------------------------------------------


def words(model, *more):
    begin = ["train", "--env", "toy_texts:texts/Letters-v0", *FLAGS.split()]
    return [*begin, "--text.model", str(model), "--threads", "1", *more]


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "direct"
    main(words(model, "--teacher", "toy_texts:prefer_plainer", "--run", str(path)))
    return path


@pytest.mark.parametrize(
    "moment", [{"TOY_KILL_AT_ANSWER": "10"}, {"TOY_KILL_AT_TURN": str(8 + 16 + 11)}]
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(moment, model, finished, tmp_path):
    path = tmp_path / "killed"
    taught = words(model, "--teacher", "toy_texts:prefer_plainer", "--run", path)
    done = run(**command(taught, ("-m", "prefrl.cli"), **moment))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(path)])
    assert_same_run(path, finished)


def test_a_run_is_replayed(finished, tmp_path):
    assert_replayed(finished, tmp_path / "again")


def test_a_fit_that_leads_nowhere_says_what_to_lower():
    _, reward = make_pair()
    reward.calibrate([])
    with torch.no_grad():
        next(reward.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"lower --fit\.learning-rate"):
        reward.calibrate([])


def test_a_reward_model_is_fitted_to_its_answers(finished, tmp_path, monkeypatch, capsys):
    """With the run's own settings, whose step size falls to zero only with the last pass."""
    rates, step = [], torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step",
        lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1],
    )  # fmt: skip
    main(["fit", str(finished), "-o", str(tmp_path / "reward"), "--patience", "0"])
    passes = 4
    assert len(rates) % passes == 0
    assert rates == pytest.approx([rates[0] * (1 - n / len(rates)) for n in range(len(rates))])


def test_beta_and_returns_are_in_the_metrics(finished):
    lines = RunFolder(finished).metrics()[1:]
    assert all({"beta", "kl", "preferred_return", "other_return"} <= line.keys() for line in lines)
    assert len({line["beta"] for line in lines}) > 1
    assert lines[0]["beta"] == 1.0


def test_reward_and_policy_are_loaded_and_put_to_use(finished, model, tmp_path, capsys):
    reward = load_reward(finished)
    assert isinstance(reward, ScoresTexts)
    policy, beta = load_policy(finished), reward.beta
    state = from_bytes(RunFolder(finished).checkpoint())
    assert beta == state["reward"]["beta"]
    weights = zip(policy.model.parameters(), reward.networks.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)
    main(["evaluate", str(finished), "--episodes", "4"])
    assert "KL from the reference" in capsys.readouterr().out
    main(["inspect", str(finished)])
    file = tmp_path / "texts.jsonl"
    file.write_text('{"prompt": "rain: ", "completion": "wet"}\n', encoding="utf-8")
    main(["score", str(finished), str(file)])
    assert f'"score": {reward.score("rain: ", "wet")}' in capsys.readouterr().out

    given = tiny_text(model, labels=0, reward=str(finished))
    before = train(given, tmp_path / "frozen")
    copied = load_reward(tmp_path / "frozen")
    assert copied.score("rain: ", "wet") == reward.score("rain: ", "wet")
    assert len(before.metrics()) == 5


def test_what_was_answered_elsewhere_is_learned_from_without_a_label(finished, model, tmp_path):
    main(words(model, "--labels", "0", "--from", str(finished), "--run", str(tmp_path / "again")))
    lines = RunFolder(tmp_path / "again").metrics()
    assert lines[-1]["answered"] == 0 and lines[-1]["train_accuracy"] > 0.5


def test_it_learns_what_the_oracle_prefers(model, tmp_path):
    experiment = with_learner(
        tiny_text(
            model, labels=240, steps=1280, rounds=5,
            fit=FitConfig(learning_rate=1e-2, l2=0.0, batch_size=16),
            query=QueryConfig(explore_steps=64, decay_steps=1280),
        ),
        "direct",
    )  # fmt: skip
    domain = replace(experiment.domain, direct=replace(experiment.domain.direct, beta=0.3))
    longer = replace(experiment.fit, first_epochs=20, epochs=20)
    experiment = replace(experiment, domain=domain, fit=longer)
    lines = train(experiment, tmp_path / "run").metrics()
    assert lines[-1]["true_return"] > lines[1]["true_return"] + 0.15, "half is ASCII at first"
    # Both may become unlikelier than they were: only the difference is learned.
    assert lines[-1]["preferred_return"] > lines[-1]["other_return"] + 1


# --- what is refused --------------------------------------------------------------------------


def test_a_learner_begins_with_what_is_meant_for_it():
    chosen = with_learner(preset("tiny-reviews").experiment, "direct")
    check_experiment(chosen)
    text = chosen.text
    assert text.learner == "direct" and text.agent is text.direct
    assert (text.direct.episodes, text.direct.completions_per_task) == (256, 16)
    assert text.ppo == TextPPOConfig() and text.reward_model == TextRewardConfig()
    assert chosen.fit.stop_accuracy == math.inf and chosen.fit.anneal
    assert chosen.query.acquisition == "entropy"
    assert with_learner(chosen, "direct") == chosen


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--reward true", "--text.learner direct learns from answers and takes no reward"),
        ("--text.ppo.kl-coef 1", "kl-coef is 1.0, but the learner is direct; use --text.learner"),
        ("--text.reward-model.members 2", "--text.learner direct has none: the policy itself"),
        ("--query.acquisition disagreement", "fits one, the policy; use --query.acquisition e"),
        ("--text.direct.beta 0", "--text.direct.beta is 0.0; expected a finite number above 0"),
        ("--text.direct.episodes 6", "--text.direct.episodes is 6; expected a multiple of the 4"),
        ("--learner sac", "--text.learner is 'sac'; expected one of ppo, direct"),
        ("--learner=dpo", "--text.learner is 'dpo'; expected one of ppo, direct"),
        ("--fit.loss square --fit.label-smoothing .1", "but that is square; leave one of them out"),
        ("--fit.loss square --fit.rankings plackett-luce", "use --fit.rankings pairs"),
        ("--fit.bias .5 --fit.rankings plackett-luce", "use --fit.rankings pairs"),
        ("--fit.loss robust --fit.uniform-error 1", "cannot correct for; use less"),
        ("--fit.bias 0", "--fit.bias is 0.0; expected a number above 0, at most 1"),
    ],
)
def test_what_does_not_go_together_is_refused(more, sentence, model, tmp_path, capsys):
    given = words(model, "--run", str(tmp_path / "run"), *more.split())
    assert sentence in complaint(given, capsys)


def test_options_of_another_learner_are_refused(model, tmp_path, capsys):
    given = ["train", "random-walks", "--text.direct.beta", "2", "--run", str(tmp_path / "run")]
    assert "--text.direct.beta is 2.0, but the learner is ppo; use --text.learner direct" in (
        complaint(given, capsys)
    )


def test_a_likelihood_is_asked_of_policies_alone(tmp_path, capsys):
    given = ["train", "random-walks", "--fit.nll", "1", "--run", str(tmp_path / "run")]
    sentence = "--fit.nll is 1.0, but --learner ppo fits a reward"
    assert sentence in complaint(given, capsys)


def test_what_goes_wrong_names_options_of_its_own():
    well = {"kl": 1.0, "tokens": 20.0, "finished": 0.9, "alike": 0.1, "beta": 1.0}
    wrong = well | {"kl": 30.0, "finished": 0.2, "alike": 0.8}
    found = worries(well, wrong, Counts(30, 30, 30, 0, 60))
    assert found.keys() == {"alike", "kl", "ends"}
    assert all("--text.direct." in sentence for sentence in found.values())
    assert not any("--text.ppo." in sentence for sentence in found.values())


# --- what others got wrong (each is a fault that somebody reported) ---------------------------


def test_preferred_replies_that_become_unlikelier_too_are_told_of():
    """Likelihoods of both replies fell unseen (TRL #800, OpenRLHF #1054)."""
    counts = Counts(30, 30, 30, 0, 60)
    well = {"kl": 1.0, "beta": 0.5, "preferred_return": -1.0, "other_return": -4.0}
    assert not worries(well, well, counts)
    (sentence,) = worries(well, well | {"preferred_return": -2.0}, counts).values()
    assert "less likely, too, by 4.0 nats" in sentence and "--fit.nll 0.1" in sentence
    assert not worries(well, {"preferred_return": -9.0}, counts), "a reward has no likelihood"


def test_a_fit_that_has_learned_nothing_is_told_of():
    """An example of tinker-cookbook's ends at .516 of its own pairs, and says nothing."""
    counts = Counts(30, 30, 30, 0, 60)
    assert not worries({}, {"train_accuracy": 0.6}, counts)
    (sentence,) = worries({}, {"train_accuracy": 0.516}, counts).values()
    assert "agrees with 52% of the very answers" in sentence
    assert not worries({}, {"train_accuracy": 0.516}, Counts(10, 10, 10, 0, 20)), "too few to say"


def test_a_tie_prefers_neither_reply():
    """Online DPO took the first of two equal scores for the winner (TRL, `>=`)."""
    _, reward = make_pair("Letters")
    agent, _ = make_pair("Letters")
    pair = comparison(agent, reward)
    for tie in (replace(pair, preference=0.5), replace(pair, preference=0.5).swapped()):
        returns = reward.returns(reward.encode([tie.left, tie.right]), torch.arange(2))[0]
        loss = preference_loss(returns[0], returns[1], torch.tensor(tie.preference))
        gradients = torch.autograd.grad(loss, list(reward.parameters()), allow_unused=True)
        size = max(float(g.abs().max()) for g in gradients if g is not None)
        assert size < 1e-6, "at the reference nothing draws to either side"


def test_dropout_moves_neither_the_policy_nor_its_reference():
    """References with dropout on gave another log-probability at each call."""
    config = GPT2Config(
        vocab_size=258, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5,
        attn_pdrop=0.5,
    )  # fmt: skip
    agent, reward = make_pair(
        "Letters", model=prepare(AutoModelForCausalLM.from_config(config), byte_tokenizer())
    )
    trajectories = sampled(agent)
    agent.networks.train()
    with torch.no_grad():
        ratios = reward.returns(reward.encode(trajectories), torch.arange(6))
    assert float(ratios.abs().max()) < 1e-5


def test_the_reference_does_not_move_over_the_rounds():
    """Which checkpoint, which reference? (Online-RLHF #5, #7.) The first, unless it is told."""
    agent, reward = make_pair("Letters", restart=False)
    trajectories = sampled(agent)
    before = reward.encode(trajectories).reference
    config = FitConfig(learning_rate=1e-2, first_epochs=2, epochs=2, l2=0.0, held_out=0.0)
    state = FitState(reward, config, 0)
    for _ in range(3):
        fit(reward, [comparison(agent, reward)], config, state)
    after = reward.encode(trajectories).reference
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert max(np.abs(turns).max() for turns in reward.rewards(trajectories)) > 0.05


def test_each_loss_is_the_one_that_was_asked_for():
    """`loss_type` was read, and passed over (ms-swift PR #10167)."""
    weights = {}
    for name, told in {
        "dpo": {}, "ipo": {"loss": "square"}, "robust": {"loss": "robust", "uniform_error": 0.3},
        "cdpo": {"label_smoothing": 0.3}, "cpl": {"bias": 0.5}, "rpo": {"nll": 1.0},
        "bounded": {"uniform_error": 0.3},
    }.items():  # fmt: skip
        agent, reward = make_pair("Letters")
        config = FitConfig(
            learning_rate=1e-2, first_epochs=3, l2=0.0, held_out=0.0,
            **{"uniform_error": 0.0} | told,
        )  # fmt: skip
        fit(reward, [comparison(agent, reward)], config, FitState(reward, config, 0))
        weights[name] = torch.cat([p.detach().flatten() for p in reward.parameters()])
    names = [*weights]
    for n, one in enumerate(names):
        for other in names[:n]:
            assert not torch.allclose(weights[one], weights[other], rtol=0, atol=1e-6), (one, other)
