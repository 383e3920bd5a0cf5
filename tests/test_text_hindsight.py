"""A policy that learns what its replies might have been asked for, and is asked for the best."""

import json
import math
import signal
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
from test_agent import assert_same
from test_experiment import assert_replayed, assert_same_run
from test_text_select import FLAGS, PPO, Plainness, episode, make_agent
from toy_texts import save_small_model

from prefrl.cli import main
from prefrl.commands.worries import worries
from prefrl.config.text import HindsightConfig
from prefrl.learning.keeping import bands
from prefrl.runs.load import load_policy, load_reward
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.folder import RunFolder
from prefrl.text.agents.hindsight import relabelled
from prefrl.text.agents.rollout import compute_logprobs
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import turns_of
from prefrl.text.evaluation import measure
from prefrl.text.models.load import tiny_language_model
from prefrl.text.policy import TextPolicy
from prefrl.types import Counts

BAD, GOOD = HindsightConfig().instructions
SMALL = HindsightConfig(
    learning_rate=1e-2,
    episodes=32,
    completions_per_task=8,
    batch_size=8,
    missing_end_penalty=0.0,
    n_epochs=2,
    pool=True,
)
HINDSIGHT = (
    "--text.hindsight.episodes 8 --text.hindsight.completions-per-task 4 "
    "--text.hindsight.batch-size 2 --text.hindsight.learning-rate 1e-2 "
    "--text.hindsight.missing-end-penalty 0 --text.hindsight.n-epochs 2 --text.hindsight.pool"
)


def asking(name="Letters", learner="hindsight", **settings):
    return make_agent(name, {"hindsight": replace(SMALL, **settings)}, learner)


def played(agent, instruction, count=6):
    agent.policy.instruction = instruction
    return play(agent.environments, agent.policy, [task_seed(0, n) for n in range(count)])


# --- what an instruction is seen by -----------------------------------------------------------


@pytest.mark.parametrize("name", ["Letters", "Talk"])
def test_the_policy_alone_reads_what_it_is_asked(name):
    agent = asking(name)
    for plain in played(agent, GOOD):
        assert agent.policy.template.decode(plain.read).startswith(GOOD + plain.observations[0])
        replies = [i for i, own in zip(plain.read, plain.sampled_of_read, strict=True) if own]
        assert replies == [i for i, own in zip(plain.ids, plain.sampled, strict=True) if own]
        assert plain.asked == agent.policy.template.first(GOOD + plain.observations[0])
        turns = turns_of(plain.trajectory("", 0))
        assert [i for before, reply in turns for i in [*before, *reply]] == plain.ids[
            : plain.ends[-1]
        ]
        assert agent.policy.template.decode(turns[0][0]) == plain.observations[0]
        assert not any(GOOD in said for said in plain.observations)


@pytest.mark.parametrize("name", ["Letters", "Talk"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_the_divergence_is_from_a_reference_that_is_asked_nothing(name, frozen):
    """By plain passes of the policy over what it read, of the reference over the rest of it."""
    agent = asking(name, freeze_layers=frozen)
    agent.train(Plainness(), 32)
    episodes = played(agent, GOOD)
    logprobs = compute_logprobs(agent.networks, episodes, agent.config)
    reference = tiny_language_model(0, layers=2, width=16, heads=2, context=256)
    by_measure = measure(agent.policy, episodes, TextPolicy(reference, agent.config))
    for row, one in enumerate(episodes):
        own = plain_distributions(agent.model, one.read, one.sampled_of_read)
        other = plain_distributions(reference.model, one.ids, one.sampled)
        kl = (own.exp() * (own - other)).sum(1)
        there = logprobs.sampled[row]
        assert torch.allclose(logprobs.kl[row][there].double(), kl, atol=1e-4)
        assert by_measure.kl[row] == pytest.approx(kl.numpy(), abs=1e-4)
        sampled = torch.tensor([i for i, which in zip(one.ids, one.sampled, strict=True) if which])
        for found, of in ((logprobs.policy, own), (logprobs.reference, other)):
            exact = of[torch.arange(len(of)), sampled]
            assert torch.allclose(found[row][there].double(), exact, atol=1e-4)


@torch.no_grad()
def plain_distributions(model, ids, sampled):
    logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), 1)
    return logprobs[torch.tensor(np.flatnonzero(sampled)) - 1]


# --- what is learned in hindsight -------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(2, 6),
)
def test_bands_follow_the_scores_of_a_task(scores, count):
    scored = np.array(scores, float)
    found = bands(scored, count)
    for task, band in zip(scored, found, strict=True):
        assert (band == -1).all() == (len({*task}) == 1)
        assert (np.diff(band[np.argsort(task, kind="stable")]) >= 0).all(), "better is not worse"
        assert all(len({*band[task == score]}) == 1 for score in task)
    assert found.max() < count


def test_bands_are_about_equally_large_and_what_never_counts_has_none():
    assert bands(np.arange(8.0)[None], 4).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert bands(np.array([[5.0, 1.0, 1.0, 1.0]]), 2).tolist() == [[1, 0, 0, 0]]
    assert bands(np.array([[-np.inf, 0.0, 1.0]]), 3).tolist() == [[-1, 1, 2]]


def test_each_reply_is_learned_as_what_its_band_is_asked_for():
    agent = asking()
    settings = HindsightConfig(completions_per_task=3, missing_end_penalty=0.0)
    episodes = [episode([n]) for n in (70, 71, 71, 80, 81, 82)]
    choice = relabelled(episodes, [1, 3, 3, 4, 4, 4], settings, agent.policy)
    told = [agent.policy.template.decode(kept.ids) for kept in choice.kept]
    assert told == [f"{BAD}a taskF", f"{GOOD}a taskG"]
    assert [sum(kept.sampled) for kept in choice.kept] == [1, 1]
    assert (choice.tasks, choice.repeats) == (1, 1)
    never = replace(settings, missing_end_penalty=math.inf)
    cut_off = [episode([70], finished=False), *episodes[1:3]]
    assert len(relabelled(cut_off, [9, 1, 3], never, agent.policy).kept) == 1


def test_it_replies_as_it_is_asked_to():
    agent = asking(n_epochs=6)
    told = [agent.train(Plainness(), 96)[1] for _ in range(3)]
    assert told[0]["kl"] == pytest.approx(0, abs=1e-6), "nothing is asked before it was taught"
    assert agent.policy.instruction == GOOD
    assert told[-1]["asked_gap"] > 0.1 and told[-1]["pool"] == 3 * 96 - sum(
        metrics["kept_repeats"] for metrics in told
    )
    means = [
        np.mean([e.env_rewards[0] for e in played(agent, instruction, 96)])
        for instruction in (BAD, GOOD)
    ]
    assert means[1] - means[0] > 0.1
    assert means[1] > told[0]["true_return"] + 0.05


def test_where_nothing_is_better_nothing_is_asked():
    agent = asking()
    metrics = agent.train(Plainness(lambda t: [0.0]), 64)[1]
    assert metrics["kept"] == metrics["asked_gap"] == 0 and not agent.policy.instruction
    said = worries(metrics, metrics, Counts(30, 30, 30, 0, 60))
    assert "raise --text.hindsight.temperature or" in said["kept"]


def test_a_policy_that_does_not_heed_what_it_is_asked_is_told_of():
    well = {"kl": 1.0, "kept": 8.0, "asked_gap": 1.5}
    assert worries(well, well, Counts(30, 30, 30, 0, 60)) == {}
    said = worries(well, well | {"asked_gap": 0.01, "kl": 30.0}, Counts(30, 30, 30, 0, 60))
    assert said.keys() == {"asked", "kl"}
    assert all("--text.hindsight." in sentence for sentence in said.values())


@pytest.mark.parametrize("learner", ["hindsight", "hindsight*2, ppo", "ppo, hindsight*2, select"])
def test_it_goes_on_from_its_state_to_the_bit(learner):
    agents = [asking(learner=learner) for _ in range(2)]
    agents[0].explore(16)
    for _ in range(2):
        agents[0].train(Plainness(), 32)
    agents[1].load_state_dict(from_bytes(to_bytes(agents[0].state_dict())))
    for _ in range(2):
        told = [agent.train(Plainness(), 32)[1] for agent in agents]
        assert told[0] == told[1]
    assert_same(*(from_bytes(to_bytes(agent.state_dict())) for agent in agents))


def test_whoever_comes_next_asks_for_the_best_too():
    agent = asking(learner="hindsight, ppo")
    told = [agent.train(Plainness(), 64)[1] for _ in range(2)]
    assert agent.policy.instruction == GOOD
    assert told[1]["kl"] == pytest.approx(told[0]["tuned_kl"], rel=0.5), "it goes on from there"


# --- runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def words(model, *more, learner="hindsight"):
    own = [*HINDSIGHT.split(), *(PPO.split() if "ppo" in learner else ())]
    begin = ["train", "--env", "toy_texts:texts/Letters-v0", "--learner", learner]
    return [*begin, *FLAGS.split(), *own, "--teacher", "toy_texts:prefer_plainer",
            "--text.model", str(model), "--threads", "1", *more]  # fmt: skip


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "hindsight"
    main(words(model, "--run", str(path)))
    return path


EXPLORED, ROUND = 16, 40  # turns: with what is measured in a round, 16 replies and 3 × 8


@pytest.mark.parametrize(
    "moment",
    [
        {"TOY_KILL_AT_TURN": str(EXPLORED + 30)},
        {"TOY_KILL_AT_TURN": str(EXPLORED + 2 * ROUND + 21)},
        {"TOY_KILL_AT_ANSWER": "15"},
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(moment, model, finished, tmp_path):
    path = tmp_path / "killed"
    done = run(**command(words(model, "--run", path), ("-m", "prefrl.cli"), **moment))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(path)])
    assert_same_run(path, finished)


def test_a_run_is_replayed(finished, tmp_path):
    assert_replayed(finished, tmp_path / "again")


def test_what_it_learned_is_asked_for_wherever_its_policy_goes(finished, tmp_path, capsys):
    policy = load_policy(finished)
    assert policy.instruction == GOOD
    assert policy.first("rain: ") == policy.template.first(GOOD + "rain: ")
    main(["evaluate", str(finished), "--episodes", "4"])
    assert "over what is asked to be worst" in capsys.readouterr().out
    main(["evaluate", str(finished), "--episodes", "4", "--json"])
    assert math.isfinite(json.loads(capsys.readouterr().out)["asked_gap"]["mean"])
    main(["inspect", str(finished)])
    main(["compare", str(finished), f"{finished}/reference", "--teacher", "oracle",
          "--pairs", "4", "--into", str(tmp_path / "beside")])  # fmt: skip
    assert "about equal:" in capsys.readouterr().out


def test_it_is_exported_with_what_it_is_to_be_asked(finished, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    main(["export", str(finished), "--model", str(tmp_path / "policy")])
    card = (tmp_path / "policy/README.md").read_text(encoding="utf-8")
    assert f'tokenizer("{GOOD}what is said first"' in card
    assert f"each prompt begins with {GOOD!r}" in card
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    inputs = tokenizer(f"{GOOD}rain: ", return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False)[0][inputs["input_ids"].shape[1] :].tolist()
    policy = load_policy(finished)
    [reply] = policy.reply([policy.first("rain: ")], deterministic=True)
    assert ids == reply.ids
    capsys.readouterr()
    main(["generate", str(finished), "rain: ", "--greedy"])
    assert capsys.readouterr().out.strip() == policy.predict("rain: ", deterministic=True).strip()


def test_another_run_is_learned_from_in_hindsight(finished, model, tmp_path):
    """Its answers, all over again; and its reward as it is."""
    main(["replay", str(finished), "--learner", "hindsight", "--run", str(tmp_path / "again")])
    line = RunFolder(tmp_path / "again").metrics()[-1]
    assert line["answered"] == 0 and line["train_loss"] > 0 and "asked_gap" in line
    main(words(model, "--reward", str(finished), "--run", str(tmp_path / "given")))
    assert "asked_gap" in RunFolder(tmp_path / "given").metrics()[-1]
    assert math.isfinite(load_reward(tmp_path / "given").score("rain: ", "wet"))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--text.hindsight.instructions good", "are 'good'; expected two or more that differ"),
        ("--text.hindsight.instructions a a", "are 'a', 'a'; expected two or more that differ"),
        ("--text.hindsight.instructions", "are none; expected two or more that differ"),
        ("--text.hindsight.instructions a b c d e", "is 4, but there are 5 instructions"),
        ("--text.hindsight.completions-per-task 1", "is 1, but there are 2 instructions"),
        ("--text.select.keep top", "--text.select.keep is 'top', but the learner is hindsight"),
        ("--learner hindsight,direct", "the others need a reward model"),
    ],
)
def test_what_does_not_go_together_is_refused(more, sentence, model, tmp_path, capsys):
    given = words(model, "--run", str(tmp_path / "run"), *more.split())
    assert sentence in complaint(given, capsys)
    assert not (tmp_path / "run").exists()


def test_robots_are_asked_nothing(tmp_path, capsys):
    said = complaint(
        ["train", "--env", "Pendulum-v1", "--learner", "hindsight", "--run", tmp_path / "x"], capsys
    )
    assert "expected one of ppo, sac, direct, select" in said
    assert gymnasium.spec("Pendulum-v1") is not None
