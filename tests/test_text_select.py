"""A policy that learns the best of its own replies, and learners of text in turn."""

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
from processes import command, run
from test_agent import assert_same
from test_experiment import assert_replayed, assert_same_run
from toy_texts import save_small_model, tiny_text

from prefrl.cli import main
from prefrl.commands.worries import worries
from prefrl.config.experiment import check_experiment
from prefrl.config.learners import with_learner
from prefrl.config.presets import preset
from prefrl.config.text import DirectConfig, SelectConfig, TextConfig, TextPPOConfig
from prefrl.errors import UserError
from prefrl.runs.load import load_policy
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.folder import RunFolder
from prefrl.text.agents.imitating import Kept, add_gradient
from prefrl.text.agents.select import SelectAgent, keep
from prefrl.text.build import _agent
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode
from prefrl.text.models.load import tiny_language_model
from prefrl.types import Counts

SMALL = SelectConfig(
    learning_rate=1e-2, episodes=32, completions_per_task=8, batch_size=4, missing_end_penalty=0.0
)
FLAGS = (
    "--labels 16 --steps 64 --rounds 4 --fit.learning-rate 1e-2 --fit.first-epochs 3 "
    "--fit.epochs 2 --fit.l2 0 --fit.batch-size 4 --query.explore-steps 8 --query.decay-steps 64 "
    "--query.acquisition uniform --text.max-new-tokens 6"
)
SELECT = (
    "--text.select.episodes 8 --text.select.completions-per-task 4 --text.select.batch-size 2 "
    "--text.select.learning-rate 1e-2 --text.select.missing-end-penalty 0"
)
PPO = (
    "--text.ppo.episodes 8 --text.ppo.completions-per-task 4 --text.ppo.batch-size 4 "
    "--text.ppo.n-epochs 2 --text.ppo.learning-rate 3e-3"
)

DIRECT = "--text.direct.episodes 8 --text.direct.completions-per-task 4 --text.direct.batch-size 4"


class Plainness:
    """Rewards what the environment does, or whatever it is told to."""

    def __init__(self, reward=lambda t: t.env_rewards):
        self.reward = reward

    def rewards(self, trajectories):
        return [np.asarray(self.reward(t), np.float32) for t in trajectories]


def make_agent(name="Letters", text=None, learner="select", **select):
    """Return an agent of a model of ten thousand parameters."""
    given = {"max_new_tokens": 5, "learner": learner, "select": replace(SMALL, **select)}
    given["ppo"] = TextPPOConfig(episodes=32, batch_size=8, learning_rate=3e-3)
    environments = [gymnasium.make(f"texts/{name}-v0") for _ in range(32)]
    model = tiny_language_model(0, layers=2, width=16, heads=2, context=256)
    config = TextConfig(**given | (text or {}))
    return _agent(environments, model, config, 0, nullcontext, 1000)


def sampled(agent, count=6):
    return play(agent.environments, agent.policy, [task_seed(0, n) for n in range(count)])


def kept_of(episodes):
    return [Kept(e.ids, e.sampled, 1.0) for e in episodes]


def episode(ids, finished=True):
    made = Episode(0)
    made.append_observation("a task", [1, 2])
    made.append_reply("a reply", ids, finished)
    made.env_rewards.append(math.nan)
    return made


# --- what is kept -----------------------------------------------------------------------------


def keep_of(episodes, scores, **select):
    settings = SelectConfig(**{"completions_per_task": len(episodes)} | select)
    return keep(episodes, scores, settings, np.random.default_rng(0))


def test_the_best_reply_of_each_task_is_kept_as_it_was_sampled():
    episodes = [episode([n]) for n in range(6)]
    choice = keep_of(episodes, [0, 2, 1, 9, 9, 9], completions_per_task=3)
    assert choice.kept == [Kept([1, 2, 1], [False, False, True], 1.0)]
    assert choice.tasks == 1, "of the other one nothing says which is better"


def test_a_reply_that_the_limit_cut_off_does_not_win():
    episodes = [episode([3, 4], finished=False), episode([5, 6])]
    assert keep_of(episodes, [0.9, 0.0]).kept[0].ids == [1, 2, 5, 6]
    assert keep_of(episodes, [1.1, 0.0]).kept[0].ids == [1, 2, 3, 4], "one deviation is a price"
    never = keep_of(episodes, [1e9, 0.0], missing_end_penalty=math.inf)
    assert never.kept[0].ids == [1, 2, 5, 6]
    both = [episode([3], finished=False), episode([4], finished=False)]
    assert not keep_of(both, [1.0, 0.0], missing_end_penalty=math.inf).kept


def test_the_same_reply_to_a_task_counts_once():
    episodes = [episode([3]), episode([3]), episode([4]), episode([5])]
    choice = keep_of(episodes, [2, 2, 1, 0], keep="top", share=0.75)
    assert [one.ids[2:] for one in choice.kept] == [[3], [4]] and choice.repeats == 1
    two = keep_of([*episodes, *episodes], [2, 2, 1, 0] * 2, keep="top", completions_per_task=4)
    assert [one.ids[2:] for one in two.kept] == [[3], [3]], "of each of two tasks"


def test_chance_keeps_others_but_of_the_same_tasks():
    episodes = [episode([n]) for n in range(160)]
    scores = [n % 8 if n < 120 else 0.0 for n in range(160)]
    best, chance = (
        keep_of(episodes, scores, keep=way, completions_per_task=8) for way in ("best", "random")
    )
    assert best.tasks == chance.tasks == len(chance.kept) == 15
    assert {one.rank for one in best.kept} == {1.0}
    assert np.mean([one.rank for one in chance.kept]) < 0.8


# --- what is learned --------------------------------------------------------------------------


def test_the_loss_is_that_of_the_ids_as_they_were_sampled():
    """Nats a token by plain passes; text would not even come back as the same ids."""
    agent = make_agent("Talk", text={"temperature": 1.3})
    kept = kept_of(sampled(agent, 3))
    model, nats = agent.model, []
    for ids, learned, _ in kept:
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double() / 1.3, 1)
        nats += [-float(logprobs[n - 1, ids[n]].detach()) for n in np.flatnonzero(learned)]
    loss = add_gradient(agent.networks, kept, agent.config)
    assert loss == pytest.approx(np.mean(nats), abs=1e-4)
    template = agent.policy.template
    assert any(
        template.reply_ids(template.decode(ids))[: len(ids)] != ids
        for one in kept
        for ids in [[i for i, which in zip(one.ids, one.sampled, strict=True) if which]]
    )


def test_micro_batches_give_the_same_gradient():
    gradients = []
    for size in (0, 1, 3):
        agent = make_agent("Talk", text={"micro_batch_size": size})
        add_gradient(agent.networks, kept_of(sampled(agent)), agent.config)
        gradients.append(torch.cat([p.grad.flatten() for p in agent.networks.trained_of_policy()]))
    for other in gradients[1:]:
        assert torch.allclose(other, gradients[0], rtol=0, atol=1e-6)


def plainness_after(rounds=3, **select):
    agent = make_agent(**select)
    told = [agent.train(Plainness(), 96)[1] for _ in range(rounds)]
    last = np.mean([trajectory.env_rewards.sum() for trajectory in agent.explore(96)])
    return told[0]["true_return"], last, told


def test_the_best_of_its_replies_make_it_better_and_chance_does_not():
    first, last, told = plainness_after(5)
    assert last > first + 0.1
    assert [metrics["pool"] for metrics in told] == [12, 24, 36, 48, 60], "winners of all rounds"
    assert told[0]["kept"] == 12 and told[0]["tasks_left_out"] == 0
    assert told[-1]["tuned_kl"] > told[0]["tuned_kl"] > told[0]["kl"] == pytest.approx(0, abs=1e-6)
    first, last, _ = plainness_after(5, keep="random")
    assert abs(last - first) < 0.08


def test_rest_improves_over_rising_thresholds_with_a_falling_step_size(monkeypatch):
    agent, tuned = make_agent(keep="above", decay=0.5), []
    monkeypatch.setattr(agent, "_tune", lambda kept, rate: tuned.append((kept, rate)) or [])
    metrics = agent.train(Plainness(lambda t: [t.episode]), 64)[1]
    assert [rate for _, rate in tuned] == pytest.approx([1e-2, 5e-3, 2.5e-3])
    assert [len(kept) for kept, _ in tuned] == [8 * 4, 8 * 2, 8 * 1], "of eight: ranks of n / 7"
    assert metrics["kept"] == 32
    first, last, _ = plainness_after(2, keep="above")
    assert last > first + 0.1


def test_only_the_newest_winners_are_learned_if_that_is_said():
    _, _, told = plainness_after(2, pool=False)
    assert [metrics["pool"] for metrics in told] == [12, 12]


def test_learning_ends_at_the_divergence_that_is_aimed_at():
    agent = make_agent(kl_target=0.2, n_epochs=60)
    told = [agent.train(Plainness(), 64)[1] for _ in range(2)]
    assert [metrics["tuned_kl"] for metrics in told] == pytest.approx([0.2, 0.2], rel=0.2)
    assert told[1]["kl"] == pytest.approx(0.2, rel=0.4), "of what is sampled with it"


def test_where_nothing_is_better_nothing_is_learned_and_that_is_said():
    agent = make_agent()
    before = [weights.clone() for weights in agent.networks.trained_of_policy()]
    metrics = agent.train(Plainness(lambda t: [0.0]), 64)[1]
    assert metrics["kept"] == metrics["pool"] == 0 and metrics["tasks_left_out"] == 8
    assert all(map(torch.equal, before, agent.networks.trained_of_policy()))
    said = worries(metrics, metrics, Counts(30, 30, 30, 0, 60))
    assert "all replies to each task score the same" in said["kept"]


def test_it_samples_hotter_than_it_learns():
    entropies = []
    for temperature in (1.0, 0.01):
        agent = make_agent(temperature=temperature)
        episodes = agent._play()
        entropies.append(len({tuple(e.ids) for e in episodes}))
        assert agent.policy.config.temperature == 1.0
    assert entropies[0] > 25 > 5 > entropies[1], "cold, it always says the same"


def test_the_optimizer_does_not_begin_anew_in_each_round():
    agent = make_agent()
    counts = []
    for _ in range(2):
        agent.train(Plainness(), 32)
        [*states] = agent.optimizer.state.values()
        counts.append(int(states[0]["step"]))
    assert counts == [2, 2 + 4], "two passes over 4 winners, then over 8, 4 at a time"


@pytest.mark.parametrize("learner", ["select", "select*2, ppo", "rloo, select, ppo"])
def test_it_goes_on_from_its_state_to_the_bit(learner):
    agents = [make_agent(learner=learner) for _ in range(2)]
    agents[0].explore(16)
    for _ in range(2):
        agents[0].train(Plainness(), 32)
    agents[1].load_state_dict(from_bytes(to_bytes(agents[0].state_dict())))
    for _ in range(2):
        told = [agent.train(Plainness(), 32)[1] for agent in agents]
        assert told[0] == told[1]
    assert_same(*(from_bytes(to_bytes(agent.state_dict())) for agent in agents))


# --- learners in turn -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learner", "schedule"),
    [
        ("ppo", ("ppo",)),
        ("select*2, ppo", ("select", "select", "ppo")),
        (" select * 2,rloo,ppo*1", ("select", "select", "rloo", "ppo")),
    ],
)
def test_a_schedule_is_read(learner, schedule):
    assert TextConfig(learner=learner).schedule == schedule


@pytest.mark.parametrize("learner", ["", "dpo", "select*", "select*0, ppo", "ppo,", "2*select"])
def test_a_schedule_that_cannot_be_read_is_a_sentence(learner):
    with pytest.raises(
        UserError,
        match=r"expected one of ppo, direct, select, hindsight, rloo, direct-h.*, or several in",
    ):
        check_experiment(tiny_text("tiny", text={"learner": learner}))


def test_learners_in_turn_train_one_policy_and_keep_what_is_theirs():
    agent = make_agent(learner="select*2, ppo")
    select, ppo = agent.agents["select"], agent.agents["ppo"]
    assert select.networks is ppo.networks and select.policy is ppo.policy is agent.policy
    assert ppo.networks.critic is not None
    told = [agent.train(Plainness(), 32)[1] for _ in range(4)]
    assert ["kept" in metrics for metrics in told] == [True, True, False, False]
    assert ["kl_coef" in metrics for metrics in told] == [False, False, True, True]
    assert told[2]["kl"] == pytest.approx(told[1]["tuned_kl"], rel=0.5), "it goes on from there"
    assert agent.newest.played == 4 * 32 and agent.newest.round == 4
    state = agent.state_dict()
    assert set(state["learners"]) == {"select", "ppo"} and len(select.pool) == 8


def test_rloo_is_ppo_with_its_advantage(tmp_path):
    """The same bytes, by either name."""
    lines = []
    for begin in (tiny_text("x"), tiny_text("x", ppo={"advantage": "rloo"})):
        chosen = with_learner(begin, "rloo") if not lines else begin
        agent = make_agent(text={"ppo": chosen.text.ppo, "learner": chosen.text.learner})
        lines.append(agent.train(Plainness(), 16)[1])
    assert lines[0] == lines[1] and "value_loss" not in lines[0]


# --- runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def words(model, learner, *more):
    given = {"select": SELECT, "ppo": PPO, "rloo": PPO, "direct": DIRECT}
    own = " ".join({text for name, text in given.items() if name in learner})
    begin = ["train", "--env", "toy_texts:texts/Letters-v0", "--learner", learner]
    return [*begin, *FLAGS.split(), *own.split(), "--text.model", str(model), "--threads", "1",
            *more]  # fmt: skip


SCHEDULE = "select*2, ppo"


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "schedule"
    main(words(model, SCHEDULE, "--teacher", "toy_texts:prefer_plainer", "--run", str(path)))
    return path


@pytest.mark.parametrize(
    "moment", [{"TOY_KILL_AT_TURN": str(8 + 16 + 8 + 21)}, {"TOY_KILL_AT_ANSWER": "15"}]
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(moment, model, finished, tmp_path):
    path = tmp_path / "killed"
    taught = words(model, SCHEDULE, "--teacher", "toy_texts:prefer_plainer", "--run", path)
    done = run(**command(taught, ("-m", "prefrl.cli"), **moment))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(path)])
    assert_same_run(path, finished)


def test_a_run_is_replayed(finished, tmp_path):
    assert_replayed(finished, tmp_path / "again")


def test_its_policy_is_loaded_and_evaluated(finished, capsys):
    lines = RunFolder(finished).metrics()
    assert ["kept" in line for line in lines] == [False, True, True, False, False]
    policy = load_policy(finished)
    assert isinstance(policy.predict("rain: "), str)
    main(["evaluate", str(finished), "--episodes", "4"])
    assert "KL from the reference" in capsys.readouterr().out


@pytest.fixture(scope="module")
def reviews(model, tmp_path_factory):
    """A run whose 50 answers are all about the reference."""
    path = tmp_path_factory.mktemp("runs") / "answers"
    main(words_of_reviews(model, "ppo", "--labels", "50", "--run", str(path)))
    return path


def words_of_reviews(model, learner, *more):
    given = words(
        model, learner, "--text.max-new-tokens", "3", "--query.first-share", "1", "--rounds", "1",
        "--query.explore-steps", "128", "--steps", "8", "--teacher", "toy_texts:prefer_plainer",
    )  # fmt: skip
    given[given.index("--env") + 1] = "prefrl/TinyReviews-v0"
    return [*given, *more]


@pytest.mark.parametrize("learner", ["ppo", "rloo", "direct", "select", "select, ppo"])
def test_the_same_50_answers_train_every_learner(learner, model, reviews, tmp_path):
    more = ["--rounds", "2", "--steps", "64"]
    more += ["--query.acquisition", "entropy"] * (learner == "direct")
    again = words_of_reviews(
        model, learner, *more, "--labels", "0", "--from", str(reviews), "--run", str(tmp_path / "x")
    )
    main(again)
    lines = RunFolder(tmp_path / "x").metrics()
    assert len(lines) == 3 and lines[-1]["answered"] == 0
    assert lines[-1]["kl"] + lines[-1].get("tuned_kl", 0.0) > 0, "it has learned something"


# --- what is refused --------------------------------------------------------------------------


def test_a_learner_begins_with_what_is_meant_for_it():
    begun = preset("tiny-reviews").experiment
    chosen = with_learner(begun, "select")
    check_experiment(chosen)
    text = chosen.text
    assert text.agent is text.select and text.ppo == TextPPOConfig()
    assert (text.select.episodes, text.select.learning_rate) == (256, 2e-4)
    assert text.reward_model == begun.text.reward_model and chosen.fit == begun.fit
    both = with_learner(begun, "select*4, ppo").text
    assert both.select == text.select and both.ppo == begun.text.ppo
    assert with_learner(begun, "rloo").text == replace(begun.text, learner="rloo")
    assert with_learner(begun, "dpo") == with_learner(begun, "ppo") == begun
    assert with_learner(begun, "direct").text.direct != DirectConfig()


@pytest.mark.parametrize(
    ("learner", "more", "sentence"),
    [
        ("select", "--text.select.completions-per-task 1", "none is better than another; use 2"),
        ("select", "--text.ppo.kl-coef 1", "kl-coef is 1.0, but the learner is select; use --text"),
        ("select", "--text.direct.beta 2", "--text.direct.beta is 2.0, but the learner is select"),
        ("select", "--text.select.keep above --text.select.thresholds .9 .5", "numbers that rise"),
        ("select", "--text.select.keep above --text.select.thresholds", "thresholds is empty; exp"),
        ("select", "--text.select.share .5", "share is for --text.select.keep top, but that is be"),
        ("select", "--text.select.decay .5", "decay is for --text.select.keep above, but that is"),
        ("select", "--text.select.episodes 6", "--text.select.episodes is 6; expected a multiple"),
        ("select", "--query.acquisition disagreement", "--text.reward-model.members is 1; use 2"),
        (
            "select*9, ppo",
            "",
            "is of 10 rounds, but the run has 4; use --rounds 10 or more, or lea",
        ),
        ("select, direct", "", "direct fits the policy itself, and the others need a reward model"),
        ("select, ppo", "--text.ppo.freeze-layers 1", "train the same layers of one policy; use 1"),
        ("rloo", "--text.ppo.completions-per-task 1 --query.clips 2", "use 2 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(learner, more, sentence, model, tmp_path, capsys):
    given = words(model, learner, "--run", str(tmp_path / "run"), *more.split())
    assert sentence in complaint(given, capsys)


def test_what_goes_wrong_names_options_of_its_own():
    well = {"kl": 1.0, "tokens": 20.0, "finished": 0.9, "alike": 0.1, "kept": 4.0}
    wrong = well | {"kl": 30.0, "finished": 0.2, "alike": 0.8}
    found = worries(well, wrong, Counts(30, 30, 30, 0, 60))
    assert found.keys() == {"alike", "kl", "ends"}
    assert all("--text.select." in sentence for sentence in found.values())
    assert isinstance(make_agent(), SelectAgent)
