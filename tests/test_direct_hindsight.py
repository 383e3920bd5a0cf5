"""A policy that learns what clips might have been asked for from the answers about them."""

import math
import signal
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations

import gymnasium
import numpy as np
import pytest
import torch
import toy_texts  # noqa: F401
from complaints import complaint
from processes import command, run
from test_experiment import assert_replayed, assert_same_run
from test_text_hindsight import BAD, GOOD, SMALL, plain_distributions
from toy_texts import save_small_model, tiny_text

from prefrl.answers import to_comparisons
from prefrl.cli import main
from prefrl.commands.worries import worries
from prefrl.config.experiment import check_experiment
from prefrl.config.learners import relearned, with_learner
from prefrl.config.learning import FitConfig
from prefrl.config.presets import preset
from prefrl.config.text import TextConfig, TextPPOConfig, TextRewardConfig
from prefrl.learning.bags import bag_weights
from prefrl.learning.composed import begin_fit, fit
from prefrl.learning.keeping import band_of_share, shares_won
from prefrl.runs.load import load_policy, load_reward
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.folder import RunFolder
from prefrl.text.agents.hindsight import ToldAgent, told
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import turns_of
from prefrl.text.hindsight import HindsightReward
from prefrl.text.models.load import tiny_language_model
from prefrl.types import (
    Answer,
    Comparison,
    Conversation,
    Counts,
    Query,
    QueryId,
    Segment,
    conversation_clip,
)

FOUR = ("(worst) ", "(bad) ", "(good) ", "(best) ")
FLAGS = (
    "--learner direct-hindsight --labels 16 --steps 64 --rounds 4 --query.explore-steps 8 "
    "--query.decay-steps 64 --query.acquisition uniform --text.max-new-tokens 6 "
    "--text.hindsight.episodes 8 --text.hindsight.completions-per-task 4 "
    "--text.hindsight.batch-size 2 --text.hindsight.learning-rate 1e-2 "
    "--text.hindsight.missing-end-penalty 0 --text.hindsight.n-epochs 2"
)


def make_pair(name="Letters", **settings):
    """Return an agent and its reward, of a model of ten thousand parameters."""
    hindsight = replace(SMALL, **settings)
    config = TextConfig(max_new_tokens=5, learner="direct-hindsight", hindsight=hindsight)
    environments = [gymnasium.make(f"texts/{name}-v0") for _ in range(32)]
    model = tiny_language_model(0, layers=2, width=16, heads=2, context=256)
    agent = ToldAgent(environments, model, config, 0, nullcontext)
    return agent, HindsightReward(agent)


def written(reply, name):
    return conversation_clip(Conversation((("a task: ", reply),)), name, "a task")


def answered(value, kind="ranking", count=4, asked="ranking", number=0):
    """Return what an answer about clips "a", "b", … teaches."""
    clips = tuple(written(letter, letter) for letter in "abcdefghi"[:count])
    query = Query(QueryId(0, number), clips, asked)
    return to_comparisons(query, Answer(query.id, kind, value)).comparisons


def shares(comparisons):
    [clips] = shares_won(comparisons).values()
    return {clip.id: share for clip, share in clips}


def asked_for(comparisons, **settings):
    """Return the instruction that each clip is learned as the reply to."""
    agent, _ = make_pair(**settings)
    choice = told(comparisons, agent.hindsight, agent.policy)
    texts = [agent.policy.template.decode(kept.ids) for kept in choice.kept]
    return {reply: asked for asked, reply in (text.split("a task: ") for text in texts)}, choice


# --- the band of a clip -----------------------------------------------------------------------


def test_an_order_of_four_has_its_better_half_asked_to_be_good():
    order = answered({"order": [[2], [0], [3], [1]]})
    assert shares(order) == pytest.approx({"a": 2 / 3, "b": 0, "c": 1, "d": 1 / 3})
    assert asked_for(order)[0] == {"a": GOOD, "b": BAD, "c": GOOD, "d": BAD}
    worst, bad, good, best = FOUR
    given = asked_for(order, instructions=FOUR)[0]
    assert given == {"a": good, "b": worst, "c": best, "d": bad}


@pytest.mark.parametrize("instructions", [(BAD, GOOD), FOUR])
def test_a_pair_is_of_the_best_and_the_worst(instructions):
    left, right = answered({"left": 1.0}, "preference", 2), answered({"left": 0}, "preference", 2)
    ends = instructions[-1], instructions[0]
    assert asked_for(left, instructions=instructions)[0] == dict(zip("ab", ends, strict=True))
    assert asked_for(right, instructions=instructions)[0] == dict(zip("ba", ends, strict=True))


def test_a_preference_that_is_not_sure_is_of_the_bands_between():
    unsure = answered({"left": 0.7}, "preference", 2)
    assert asked_for(unsure, instructions=FOUR)[0] == {"a": FOUR[2], "b": FOUR[1]}


def test_a_tie_teaches_nothing_and_in_an_order_those_alike_are_of_one_band():
    for value, kind, count in (
        ({}, "tie", 2), ({"left": 0.5}, "preference", 2), ({"order": [[0, 1, 2, 3]]}, "ranking", 4),
    ):  # fmt: skip
        given, choice = asked_for(answered(value, kind, count))
        assert not given and choice.tasks == 0
    two = answered({"order": [[0, 1], [2, 3]]})
    assert asked_for(two, instructions=FOUR)[0] == {
        "a": FOUR[3], "b": FOUR[3], "c": FOUR[1], "d": FOUR[1],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["skip", "retraction"])
def test_nothing_is_learned_from_a_skip(kind):
    nothing = answered({}, kind, 2)
    agent, reward = make_pair()
    before = from_bytes(to_bytes(agent.state_dict()))["networks"]
    assert not nothing and not shares_won(nothing)
    assert reward.learn(nothing) == {"kept": 0.0, "tasks_left_out": 0.0}
    assert from_bytes(to_bytes(agent.state_dict()))["networks"].keys() == before.keys()
    assert not agent.policy.instruction


def test_the_chosen_one_is_good_and_the_others_are_bad():
    choice = answered({"order": [[1], [0, 2, 3]]}, asked="choice")
    assert asked_for(choice)[0] == {"a": BAD, "b": GOOD, "c": BAD, "d": BAD}


def test_grades_and_a_better_text_are_places_too():
    grades = answered({"ratings": [1, 6, 6, 3], "low": 1, "high": 7}, "ratings")
    assert asked_for(grades)[0] == {"a": BAD, "b": GOOD, "c": GOOD, "d": BAD}
    better = answered({"segment": 0, "text": "z"}, "rewrite", 2)
    assert asked_for(better)[0] == {"z": GOOD, "a": BAD}


@pytest.mark.parametrize("count", range(2, 10))
def test_whatever_the_bands_who_wins_against_all_is_in_the_last(count):
    of_clips = [band_of_share(place / 8, count) for place in range(9)]
    assert of_clips == sorted(of_clips)
    assert {*of_clips} == {*range(count)}


def test_a_reply_that_the_limit_cut_off_is_no_winner():
    def clip(name, ended):
        extras = {"finished": np.array([ended])}
        return replace(written(name, name), extras=extras)

    cut_off = [Comparison(clip("a", False), clip("b", True), 1.0)]
    assert asked_for(cut_off, missing_end_penalty=0.0)[0] == {"a": GOOD, "b": BAD}
    assert asked_for(cut_off, missing_end_penalty=1.0)[0] == {"a": BAD, "b": BAD}
    assert asked_for(cut_off, missing_end_penalty=math.inf)[0] == {"b": BAD}


# --- what is learned --------------------------------------------------------------------------


def played(agent, instruction="", count=6):
    agent.policy.instruction = instruction
    episodes = play(agent.environments, agent.policy, [task_seed(0, n) for n in range(count)])
    return episodes, [episode.trajectory("round 0", n) for n, episode in enumerate(episodes)]


def as_segment(trajectory):
    return Segment(
        f"episode {trajectory.episode}", trajectory.observations, trajectory.actions,
        trajectory.extras, trajectory.task, trajectory.source,
    )  # fmt: skip


def by_plainness(agent, tasks=48, each=2):
    """Return the answers of whoever prefers plainer replies of a policy that is asked nothing."""
    seeds = [task_seed(0, n) for n in range(tasks) for _ in range(each)]
    episodes = play(agent.environments, agent.policy, seeds)
    trajectories = [episode.trajectory("round 0", n) for n, episode in enumerate(episodes)]
    comparisons = []
    for task in range(tasks):
        rows = trajectories[task * each : (task + 1) * each]
        for left, right in combinations(rows, 2):
            better = 0.5 + 0.5 * float(np.sign(left.env_rewards.sum() - right.env_rewards.sum()))
            pair = as_segment(left), as_segment(right)
            comparisons.append(Comparison(*pair, better, query=QueryId(0, task)))
    return comparisons


@pytest.mark.parametrize("name", ["Letters", "Talk"])
def test_ids_are_learned_as_they_were_sampled(name):
    agent, _ = make_pair(name)
    _, trajectories = played(agent)
    clips = [as_segment(trajectory) for trajectory in trajectories]
    comparisons = [Comparison(clips[0], clips[1], 1.0)]
    for kept, clip in zip(
        told(comparisons, agent.hindsight, agent.policy).kept, clips, strict=False
    ):
        instruction = GOOD if clip is clips[0] else BAD
        (before, reply), *rest = turns_of(clip)
        assert agent.policy.template.decode(before) == clip.observations[0]
        asked = agent.policy.template.first(instruction + clip.observations[0])
        assert kept.ids == [*asked, *reply, *(i for turn in rest for ids in turn for i in ids)]
        replies = [i for i, own in zip(kept.ids, kept.sampled, strict=True) if own]
        assert replies == [i for _, ids in turns_of(clip) for i in ids]


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_reward_is_how_much_likelier_a_reply_is_among_the_best(frozen):
    """By plain passes, over what the policy reads if the best or the worst is asked for."""
    agent, reward = make_pair("Talk", freeze_layers=frozen)
    comparisons = by_plainness(agent, 8)
    reward.learn(comparisons)
    episodes, trajectories = played(agent)
    expected = []
    for instruction in (GOOD, BAD):
        logprobs = []
        for one in episodes:
            one.asked = agent.policy.template.first(instruction + one.observations[0])
            every = plain_distributions(agent.model, one.read, one.sampled_of_read)
            sampled = [i for i, own in zip(one.ids, one.sampled, strict=True) if own]
            own = every[torch.arange(len(every)), torch.tensor(sampled)]
            lengths = np.subtract(one.ends, one.starts).tolist()
            logprobs.append(torch.stack([turn.sum() for turn in own.split(lengths)]).numpy())
        expected.append(logprobs)
    found = reward.rewards(trajectories)
    assert max(map(len, found)) > 1, "some talks have several turns"
    for turns, best, worst in zip(found, *expected, strict=True):
        assert turns == pytest.approx(best - worst, abs=1e-4)
    encoded = reward.encode([as_segment(trajectory) for trajectory in trajectories])
    returns = reward.returns(encoded, torch.tensor([3, 0, 3]))
    assert returns[0].tolist() == pytest.approx([found[n].sum() for n in (3, 0, 3)], abs=1e-4)


def test_it_replies_as_it_is_asked_to():
    agent, reward = make_pair(n_epochs=16)
    config = FitConfig(held_out=0.2)
    measured = fit(reward, by_plainness(agent, 96, 4), config, begin_fit(reward, config, 0))
    assert agent.policy.instruction == GOOD
    assert measured["train_accuracy"] > 0.55 and measured["out_of_bag_accuracy"] > 0.5
    assert measured["preferred_return"] > measured["other_return"]
    _, line = agent.train(reward, 32)
    assert line["asked_gap"] > 0.1 and line["kl"] > 0
    means = [
        np.mean([trajectory.env_rewards.sum() for trajectory in played(agent, asked, 192)[1]])
        for asked in (BAD, GOOD)
    ]
    assert means[1] - means[0] > 0.1


def test_what_is_held_out_is_not_learned_but_judges():
    agent, reward = make_pair()
    comparisons = by_plainness(agent, 32)
    learned = []
    reward.learn = lambda given: learned.extend(given) or {}
    config = FitConfig(held_out=0.4)
    measured = fit(reward, comparisons, config, begin_fit(reward, config, 3))
    inside = bag_weights(3, [c.query for c in comparisons], 1, 0.4)[0].bool().tolist()
    assert learned == [c for c, bag in zip(comparisons, inside, strict=True) if bag]
    assert 0 < len(learned) < len(comparisons) and "out_of_bag_accuracy" in measured


def test_it_begins_anew_with_all_answers_or_with_the_newest():
    """What was learned before does not matter, but for the order of minibatches."""
    agent, reward = make_pair()
    early = by_plainness(agent, 8)
    late = [replace(comparison, query=QueryId(1, n)) for n, comparison in enumerate(early[:3])]
    states = []
    for before in (early, late):
        agent, reward = make_pair()
        reward.learn(before)
        agent.shuffling.manual_seed(0)
        told_of = reward.learn([*early, *late])
        states.append(from_bytes(to_bytes(agent.state_dict()))["networks"])
    weights = zip(states[0].values(), states[1].values(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)
    newest = make_pair(pool=False)[1].learn([*early, *late])
    assert newest["kept"] < told_of["kept"]


# --- runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def words(model, *more):
    begin = ["train", "--env", "toy_texts:texts/Letters-v0", *FLAGS.split()]
    return [*begin, "--text.model", str(model), "--threads", "1", *more]


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "told"
    main(words(model, "--teacher", "toy_texts:prefer_plainer", "--run", str(path)))
    return path


EXPLORED, ROUND = 16, 32  # turns: with what is measured in a round, 16 replies and 2 × 8


@pytest.mark.parametrize(
    "moment",
    [
        {"TOY_KILL_AT_TURN": str(EXPLORED + 20)},
        {"TOY_KILL_AT_TURN": str(EXPLORED + 2 * ROUND + 9)},
        {"TOY_KILL_AT_ANSWER": "10"},
    ],
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


def test_what_it_learned_is_loaded_and_put_to_use(finished, model, tmp_path, capsys):
    line = RunFolder(finished).metrics()[-1]
    assert {"asked_gap", "kept", "train_accuracy", "predicted_return"} <= line.keys()
    assert line["kept"] > 0 and line["train_accuracy"] > 0.5
    policy, reward = load_policy(finished), load_reward(finished)
    assert policy.instruction == GOOD
    weights = zip(policy.model.parameters(), reward.agent.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)
    main(["evaluate", str(finished), "--episodes", "4"])
    assert "over what is asked to be worst" in capsys.readouterr().out
    main(["inspect", str(finished)])
    given = tiny_text(model, labels=0, reward=str(finished))
    train(given, tmp_path / "given")
    copied = load_reward(tmp_path / "given")
    assert copied.score("rain: ", "wet") == reward.score("rain: ", "wet") != 0


def test_answers_from_elsewhere_are_learned_from_without_a_label(finished, model, tmp_path):
    """By a run of their own, and by one command that leaves out what another learner had."""
    main(words(model, "--labels", "0", "--from", str(finished), "--run", str(tmp_path / "from")))
    path = train(tiny_text(model), tmp_path / "ppo").path
    main(["replay", str(path), "--learner", "direct-hindsight", "--run", str(tmp_path / "again")])
    for name in ("from", "again"):
        line = RunFolder(tmp_path / name).metrics()[-1]
        assert line["answered"] == 0 and line["kept"] > 0 and "asked_gap" in line


# --- what is refused --------------------------------------------------------------------------


def test_a_learner_begins_with_what_is_meant_for_it():
    begun = preset("random-walks").experiment
    chosen = with_learner(begun, "direct-hindsight")
    check_experiment(chosen)
    text = chosen.text
    assert text.agent is text.hindsight and text.reward_is_policy
    assert text.ppo == TextPPOConfig() and text.reward_model == TextRewardConfig()
    assert text.hindsight == with_learner(begun, "hindsight").text.hindsight
    assert chosen.query.acquisition == "entropy"
    assert with_learner(chosen, "direct-hindsight") == chosen
    check_experiment(relearned(chosen, "ppo"), labels_needed=False)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--reward true", "--text.learner direct-hindsight learns from answers and takes no"),
        ("--text.reward-model.members 2", "--text.learner direct-hindsight has none: the policy"),
        ("--query.acquisition disagreement", "direct-hindsight fits one, the policy; use --query"),
        ("--fit.learning-rate 1e-2", "use --text.hindsight.learning-rate"),
        ("--fit.nll 1", "--fit.nll is 1.0, but --text.learner direct-hindsight fits no reward"),
        ("--fit.restart first", "it learns as --text.hindsight says; leave it out"),
        ("--text.ppo.kl-coef 1", "kl-coef is 1.0, but the learner is direct-hindsight"),
        ("--text.hindsight.instructions good", "are 'good'; expected two or more that differ"),
        ("--learner direct-hindsight,ppo", "let direct-hindsight learn by itself, or leave it"),
    ],
)
def test_what_does_not_go_together_is_refused(more, sentence, model, tmp_path, capsys):
    given = words(model, "--run", str(tmp_path / "run"), *more.split())
    assert sentence in complaint(given, capsys)
    assert not (tmp_path / "run").exists()


def test_what_goes_wrong_names_options_of_its_own():
    counts = Counts(30, 30, 30, 0, 60)
    well = {"kl": 1.0, "kept": 8.0, "asked_gap": 1.5, "train_accuracy": 0.9}
    assert worries(well, well, counts) == {}
    wrong = well | {"kl": 30.0, "asked_gap": 0.01, "train_accuracy": 0.4}
    found = worries(well, wrong, counts)
    assert found.keys() == {"asked", "kl", "fit"}
    assert all("--text.hindsight." in sentence for sentence in found.values())
