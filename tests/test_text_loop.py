"""Whole runs of a language model: the loop that drives a robot, killed, resumed and replayed."""

import itertools
import json
import math
import re
import signal
import socket
import subprocess
from contextlib import closing
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
import toy_environments
import toy_texts
from complaints import complaint
from processes import command, run
from test_experiment import (
    KILL_BETWEEN_METRICS_AND_CHECKPOINT,
    answers,
    assert_replayed,
    assert_same_run,
)
from toy_texts import TINY_TEXT_FLAGS, save_small_model, tiny_text
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefrl.cli import main
from prefrl.config.learning import FitConfig, LoopConfig, OracleConfig, QueryConfig
from prefrl.config.presets import PRESETS
from prefrl.config.text import TextConfig
from prefrl.control import build as control
from prefrl.errors import UserError
from prefrl.learning.loop import LoopState, preference_loop
from prefrl.learning.pacing import ByBudget
from prefrl.runs.load import load_policy, load_reward
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers.oracle import Oracle
from prefrl.text import DOMAIN as TEXT
from prefrl.text import FreeText
from prefrl.text import build as text
from prefrl.text.budget import check_budget
from prefrl.text.environments import play
from prefrl.text.episode import turns_of
from prefrl.text.evaluation import measure
from prefrl.text.models.load import (
    LanguageModel,
    byte_tokenizer,
    load_language_model,
    save_language_model,
    tiny_language_model,
)
from prefrl.text.models.logits import Least, too_early
from prefrl.text.models.sampling import sample
from prefrl.text.policy import TextPolicy
from prefrl.text.reward import TextReward
from prefrl.types import SYSTEM, alike, system_of

FORGETFUL = """\
{% for message in messages %}{% if message['role'] == 'user' or loop.last %}\
{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def words(model, *more, env="toy_texts:texts/Letters-v0"):
    return ["train", "--env", env, *TINY_TEXT_FLAGS.split(), "--text.model", str(model), *more]


def finish(session):
    return [now for now in rounds(session) if now.state == "done"]


# --- one loop ---------------------------------------------------------------------------------


def parts_of_a_robot(model):
    return control.build(toy_environments.tiny(env="prefrl/HalfCheetah-v0", clip_seconds=0.3))


def parts_of_a_writer(model):
    return text.build(tiny_text(model))


@pytest.mark.parametrize("build", [parts_of_a_robot, parts_of_a_writer])
def test_the_same_call_runs_a_robot_and_a_language_model(build, model, tmp_path):
    """Only the agent, the reward model and the length of a clip differ; these come with a task."""
    parts = build(model)
    config = LoopConfig(
        seed=0, rounds=3, steps=384, labels=12, clip_steps=parts.clip_steps,
        question=parts.card.question, query=QueryConfig(explore_steps=64, first_share=0.5),
        fit=FitConfig(first_epochs=3, epochs=2),
    )  # fmt: skip
    store = FeedbackStore(tmp_path / "feedback.sqlite")
    state = LoopState(parts.reward_model, config)
    pacing = ByBudget(config, Oracle(OracleConfig(), 0))
    told = list(preference_loop(parts.agent, parts.reward, pacing, store, config, state))
    lines = [now.metrics for now in told if now.state == "done"]
    assert [line["answered"] for line in lines] == [0, 6, 9, 12]
    assert lines[-1]["steps"] == pytest.approx(384, abs=64)
    for line in lines[1:]:
        assert math.isfinite(line["train_loss"]) and line["epochs"] > 0
    assert store.counts()[:2] == (12, 12)
    for comparison in store.comparisons():
        left, right = comparison.left, comparison.right
        assert left.task == right.task and left.id != right.id
        truth = [store.true_rewards(s.id).sum() for s in (left, right)]
        assert comparison.preference == 0.5 + 0.5 * np.sign(truth[0] - truth[1])
    store.close()


# --- killed, resumed, replayed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def never_killed(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "never-killed"
    main(words(model, "--teacher", "toy_texts:prefer_plainer", "--run", str(path)))
    return path


@pytest.mark.parametrize(
    ("moment", "code"),
    [
        ({"TOY_KILL_AT_ANSWER": "3"}, None),  # round 0 is on record, but has no checkpoint yet
        ({"TOY_KILL_AT_ANSWER": "10"}, None),
        ({"TOY_KILL_AT_TURN": str(8 + 8 + 16 + 11)}, None),  # in the midst of sampling
        ({}, KILL_BETWEEN_METRICS_AND_CHECKPOINT),
    ],
    ids=["first answers", "answers", "sampling", "between files"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    moment, code, model, never_killed, tmp_path
):
    path = tmp_path / "killed"
    code = ("-m", "prefrl.cli") if code is None else ("-c", code)
    taught = words(model, "--teacher", "toy_texts:prefer_plainer", "--run", path)
    killed = command(taught, code, **moment)
    if moment:
        done = run(**killed)
    else:  # a new interpreter, in which no dependency says anything while it is imported either
        done = subprocess.run(**killed, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stderr == ""
    given = answers(path)
    assert 0 < len(given) < 16
    main(["resume", str(path)])
    assert answers(path)[: len(given)] == given
    assert_same_run(path, never_killed)


def test_a_run_does_not_depend_on_its_models_folder_any_more(model, never_killed, tmp_path):
    """What a run began with is kept in it: a folder may change meanwhile."""
    mine = save_small_model(tmp_path / "mine")
    path = tmp_path / "run"
    session = start(tiny_text(mine), path)
    for now in rounds(session):
        if (now.index, now.state) == (1, "done"):
            break
    straight = train(tiny_text(mine), tmp_path / "straight").metrics()
    for file in mine.iterdir():
        file.unlink()
    finish(resume(path))
    assert RunFolder(path).metrics() == straight
    assert isinstance(load_policy(path).predict("rain: "), str)


def test_a_run_is_replayed_from_its_ledger_and_nobody_is_asked(never_killed, tmp_path):
    assert_replayed(never_killed, tmp_path / "again")
    assert answers(tmp_path / "again") == answers(never_killed)


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": "true", "labels": 0},
        {"env": "texts/Talk-v0"},
        {"ppo": {"advantage": "rloo", "freeze_layers": 1}, "reward_model": {"freeze_layers": 1}},
    ],
    ids=["true reward", "many turns", "frozen layers"],
)
def test_a_run_that_was_extended_is_replayed(changes, model, tmp_path):
    path = tmp_path / "run"
    experiment = tiny_text(model, **changes)
    for now in rounds(start(experiment, path)):
        if (now.index, now.state) == (2, "training"):
            break
    labels = 4 if experiment.labels else 0
    finish(resume(path, more_labels=labels, more_steps=32))
    lines = RunFolder(path).metrics()
    assert lines[-1]["answered"] == experiment.labels + labels
    assert lines[-1]["steps"] >= 64 + 32
    assert_replayed(path, tmp_path / "again")


def test_a_loaded_reward_and_policy_are_those_of_the_run(model, tmp_path):
    session = start(tiny_text(model, reward_model={"freeze_layers": 1}), tmp_path / "run")
    finish(session)
    trajectories = session.agent.sample
    loaded = load_reward(tmp_path / "run")
    for mine, theirs in zip(
        loaded.rewards(trajectories), session.state.reward_model.rewards(trajectories), strict=True
    ):
        assert np.array_equal(mine, theirs)
    policy = load_policy(tmp_path / "run")
    trained = session.agent.policy
    greedy = [p.predict("music: ", deterministic=True) for p in (policy, trained)]
    assert greedy[0] == greedy[1]
    weights = zip(policy.model.parameters(), session.agent.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)


def test_another_runs_answers_are_learned_from(never_killed, model, tmp_path):
    session = start(tiny_text(model, labels=0, seed=5), tmp_path / "run", answers_from=never_killed)
    lines = [now.metrics for now in finish(session)]
    assert [line["answered"] for line in lines] == [0] * 5
    assert all(line["train_accuracy"] > 0.5 for line in lines[1:])
    assert_replayed(tmp_path / "run", tmp_path / "again")
    with pytest.raises(UserError, match="observations text, but"):
        start(toy_environments.tiny(), tmp_path / "robot", answers_from=never_killed)


def test_the_policy_comes_out_as_a_folder_that_plain_transformers_opens(
    never_killed, tmp_path, capsys
):
    folder = tmp_path / "policy"
    main(["export", str(never_killed), "--model", str(folder)])
    assert "transformers opens it, and so does --text.model" in capsys.readouterr().out
    plain = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = load_policy(never_killed)
    inputs = tokenizer("music: ", return_tensors="pt")
    said = plain.generate(**inputs, do_sample=False, temperature=None)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert policy.template.decode(said.tolist()) == policy.predict("music: ", deterministic=True)
    mine = plain.generation_config
    assert (mine.do_sample, mine.top_k, mine.eos_token_id) == (True, 0, policy.template.end_id)
    assert mine.max_new_tokens == policy.config.max_new_tokens
    card = (folder / "README.md").read_text()
    last = RunFolder.open(never_killed).metrics()[-1]
    assert f"| mean true return of an episode | {last['true_return']:.3f} |" in card
    assert "| answers | 16 of " in card and "32 texts read for them" in card
    assert str(never_killed.parent) not in card, "no path of this machine"
    assert "tokenizer.apply_chat_template" not in card
    assert any(path.suffix == ".safetensors" for path in folder.iterdir())
    assert "policy exists already" in complaint(["export", never_killed, "--model", folder], capsys)
    start(toy_environments.tiny(), tmp_path / "robot").close()
    sentence = complaint(["export", tmp_path / "robot", "--model", tmp_path / "no"], capsys)
    assert "which does not speak text; its policy is loaded by prefrl.load_policy" in sentence


def test_a_system_message_is_what_every_task_begins_with(model, tmp_path):
    told = {"system": "Be kind."}
    session = start(tiny_text(model, text=told, rounds=1, steps=16, labels=4), tmp_path / "run")
    assert [now.metrics["answered"] for now in finish(session)] == [0, 4]
    clips = {s.id: s for c in session.feedback.comparisons() for s in (c.left, c.right)}
    tokenizer = session.agent.policy.template.tokenizer
    for clip in clips.values():
        assert system_of(clip) == "Be kind."
        [(ids, _)] = turns_of(clip)
        assert tokenizer.decode(ids) == f"Be kind.\n\n{clip.observations[0]}"
        written = replace(clip, extras={SYSTEM: clip.extras[SYSTEM]})
        assert session.reward.encode([written]).sequences[0][: len(ids)] == ids
    assert_replayed(tmp_path / "run", tmp_path / "again")
    policy = load_policy(tmp_path / "run")
    assert policy.config.system == "Be kind." and policy.predict("music: ", deterministic=True)


def test_answers_of_a_file_are_learned_from(model, tmp_path):
    pairs = [{"prompt": "music: ", "chosen": f"good {n}", "rejected": "bad"} for n in range(3)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, pairs)))
    session = start(tiny_text(model, labels=0, seed=5), tmp_path / "run", answers_from=file)
    assert "took pairs.jsonl for JSON lines: pairs" in session.notes[-1]
    comparisons = session.feedback.comparisons()
    assert [c.left.actions.tolist() for c in comparisons] == [[f"good {n}"] for n in range(3)]
    assert all(c.left.id.startswith("pairs ") for c in comparisons)
    session.close()
    with pytest.raises(UserError, match=r"pairs\.jsonl: .*observations text, but"):
        start(toy_environments.tiny(labels=0), tmp_path / "robot", answers_from=file)
    file.write_text('{"prompt": "p", "chosen": 3}')
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1: 'chosen' is 3; expected a text"):
        start(tiny_text(model, labels=0), tmp_path / "other", answers_from=file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl", "run"]


CHAT = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' + message['content'] }}\
{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}\
{% endif %}"""


def test_a_chat_model_talks_through_its_template_and_its_run_is_replayed(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", CHAT
    language_model = tiny_language_model(0, width=16, heads=2)
    language_model.model.resize_token_embeddings(len(tokenizer))
    folder = tmp_path / "model"
    save_language_model(LanguageModel(language_model.model, tokenizer), folder)
    experiment = tiny_text(folder, env="texts/Talk-v0", seed=2)
    with closing(start(experiment, tmp_path / "run")) as session:
        assert "model is spoken to through its chat template; --text.plain does without" in (
            session.notes
        )
        finish(session)
    assert RunFolder.open(tmp_path / "run").experiment().text.chat, "for good"
    with closing(start(replace(experiment, domain=replace(experiment.text, plain=True)),
                       tmp_path / "plain")) as session:  # fmt: skip
        assert not session.experiment.text.chat and not any("its chat" in n for n in session.notes)
    with closing(FeedbackStore(tmp_path / "run" / "feedback.sqlite")) as store:
        comparison = store.comparisons()[-1]
    segment = comparison.left
    finished = [False, *segment.extras["finished"].tolist()]
    for turn, (given, _) in enumerate(turns_of(segment)):
        rendered = f"<|im_start|>user {segment.observations[turn]}<|im_end|><|im_start|>assistant "
        if turn and not finished[turn]:
            rendered = f"<|im_end|>{rendered}"
        assert given == tokenizer(rendered, split_special_tokens=False)["input_ids"]
    assert_replayed(tmp_path / "run", tmp_path / "again")


# --- the command line -------------------------------------------------------------------------


def test_random_walks_runs_from_the_command_line(tmp_path, capsys):
    path = tmp_path / "run"
    budget = (
        "--labels 12 --steps 96 --rounds 3 --text.demonstrations 64 --text.sft-epochs 1 "
        "--text.ppo.episodes 16 --query.explore-steps 16 --fit.first-epochs 2 --fit.epochs 1 "
        "--text.reward-model.members 1 --query.acquisition uniform"
    )
    main(["train", "random-walks", *budget.split(), "--run", str(path)])
    printed = capsys.readouterr().out
    assert "note: tiny: 0.5 million parameters on cpu, float32" in printed and "done;" in printed
    lines = RunFolder(path).metrics()
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert lines[-1]["answered"] == 12 and lines[-1]["steps"] == 96
    assert all(0 <= line["true_return"] <= 1 and line["entropy"] > 0 for line in lines[1:])
    begun = load_language_model(str(path / "reference")).model.state_dict()
    fresh = tiny_language_model(0).model.state_dict()
    assert any(not torch.equal(begun[name], fresh[name]) for name in begun), "it was fine-tuned"
    main(["replay", str(path)])
    assert "identical: 4 rounds" in capsys.readouterr().out


def test_four_completions_are_ranked_and_learned_from(model, tmp_path):
    ranking = ["--query.kind", "ranking", "--query.clips", "4", "--query.explore-steps", "32"]
    main(words(model, *ranking, "--labels", "6", "--run", str(tmp_path / "run")))
    with closing(FeedbackStore(tmp_path / "run" / "feedback.sqlite")) as store:
        given, comparisons = store.answers(), store.comparisons()
        assert {answer.kind for answer in given} == {"ranking"} and len(given) == 6
        assert len(comparisons) == 6 * 6
        assert sum(c.weight for c in comparisons) == pytest.approx(3 * 6)
        for query, group in itertools.groupby(comparisons, lambda c: c.query):
            assert len({s.id for c in group for s in (c.left, c.right)}) == 4, query
        assert all(turns_of(c.left) for c in comparisons)
    assert RunFolder(tmp_path / "run").metrics()[-1]["train_loss"] > 0


# --- what goes wrong --------------------------------------------------------------------------


def broken_model(folder, damage):
    tokenizer = byte_tokenizer()
    damage(tokenizer)
    tiny_language_model(0, width=16, heads=2).model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_episode_that_runs_out_of_context_is_told(tmp_path, capsys):
    short = save_small_model(tmp_path / "short", context=64)
    path = tmp_path / "run"
    main([*words(short, "--run", str(path), env="toy_texts:texts/Talk-v0")])
    counted = [line.get("out_of_context", 0) for line in RunFolder.open(path).metrics()]
    assert sum(counted) > 0
    told = f"ended early, as the model's context was full: {sum(counted):.0f}; what the environment"
    assert told in capsys.readouterr().out
    main(["evaluate", str(path), "--episodes", "20"])
    assert re.search(r"context was full: \d+ of 20; what the env", capsys.readouterr().out)


def no_eos(tokenizer):
    tokenizer.eos_token = None


def no_pad(tokenizer):
    tokenizer.pad_token = None


def forgetful(tokenizer):
    tokenizer.chat_template = FORGETFUL


@pytest.mark.parametrize(
    ("more", "damage", "sentence"),
    [
        ("--text.model /no/such", None, r"'/no/such' is no folder on this machine"),
        ("--text.model gpt2", None, r"'gpt2' is no folder .*no model is downloaded"),
        ("", no_eos, r"tokenizer has no eos token, so no reply would ever end"),
        ("--text.chat", None, r"tokenizer has no chat template"),
        ("", forgetful, r"changes earlier messages .* or do without chat"),
        ("--text.chat --text.plain", None, r"say opposite things; leave one out"),
        ("--text.tiny.context 99", None, r"--text.tiny.context 99 is for --text.model tiny"),
        ("--text.min-new-tokens 7", None, r"is 7, but --text.max-new-tokens is 6; use 6 or less"),
        ("--text.stop=", None, r"--text.stop holds an empty text"),
        ("--text.chat", forgetful, r"changes earlier messages .* or do without chat"),
        ("--env toy_texts:texts/Wordy-v0", None, r"50 tasks in a row are too long, .* on 256, "),
        ("--text.top-k 50", None, r"--text.top-k 50 --text.top-p 1.0 would cut off .* use 0 and 1"),
        ("--text.top-p 0.9", None, r"--text.top-p 0.9 would cut off the distribution"),
        ("--text.max-new-tokens 0", None, r"--text.max-new-tokens is 0"),
        ("--text.temperature 0", None, r"--text.temperature is 0"),
        ("--text.ppo.episodes 1", None, r"--text.ppo.episodes is 1; expected a multiple of the 4"),
        (
            "--text.ppo.episodes 1 --text.ppo.completions-per-task 1 --reward true",
            None,
            r"--text.ppo.episodes is 1, but .*; use 2 or more",
        ),
        (
            "--query.kind ranking --query.clips 5",
            None,
            r"completions-per-task is 4, .* use 5 or more",
        ),
        ("--text.ppo.completions-per-task 1", None, r"is 1, .* shows 2 .*; use 2 or more"),
        ("--query.anchors 1", None, r"anchors is 1, but earlier completions are of other tasks"),
        ("--steps 20", None, r"20 turns in 4 rounds leave a round less than the 8 episodes"),
        ("--text.ppo.freeze-layers 2", None, r"--text.ppo.freeze-layers is 2; .* has 2 layers"),
        (
            "--text.reward-model.freeze-layers 2",
            None,
            r"-model.freeze-layers is 2; .* 2 layers",
        ),
        (
            "--text.demonstrations 9",
            None,
            r"has no demonstrations; give it a method .* file: `prefrl sft",
        ),
        ("--text.sft-batch-size 0", None, r"--text.sft-batch-size is 0"),
        ("--text.sft-epochs 0", None, r"--text.sft-epochs is 0"),
        ("--text.ppo.kl-target 0", None, r"--text.ppo.kl-target is 0"),
        ("--text.ppo.kl-horizon 0", None, r"--text.ppo.kl-horizon is 0"),
        ("--text.ppo.max-grad-norm -1", None, r"--text.ppo.max-grad-norm is -1"),
        (
            "--text.ppo.clip-range -1",
            None,
            r"--text.ppo.clip-range is -1.0; expected a number, 0 or more",
        ),
        ("--text.ppo.clip-range-vf -1", None, r"--text.ppo.clip-range-vf is -1"),
        ("--text.ppo.kl-coef -1", None, r"--text.ppo.kl-coef is -1"),
        (
            "--text.ppo.vf-coef nan",
            None,
            r"--text.ppo.vf-coef is nan; expected a finite number, 0 or more",
        ),
        ("--text.ppo.ent-coef -1", None, r"--text.ppo.ent-coef is -1"),
        ("--text.ppo.missing-end-penalty -1", None, r"--text.ppo.missing-end-penalty is -1"),
        (
            "--text.reward-model.members 1 --query.acquisition disagreement",
            None,
            r"members is 1; use 2 or more, or --query.acquisition uniform",
        ),
        (
            "--ppo.learning-rate 1",
            None,
            r"--ppo.learning-rate is for robots, but .* use --text.ppo.l",
        ),
        ("--network.members 2", None, r"--network.members is .*; use --text.reward-model.members"),
        ("--ppo.n-steps 9", None, r"--ppo.n-steps is for robots, but .* of text; leave it out"),
        ("--num-envs 9", None, r"--num-envs is for robots, but .* of text; leave it out"),
        (
            "--horizon 9",
            None,
            r"--horizon is for robots, but .*Letters-v0 is an environment of text",
        ),
        ("--clip-seconds 9", None, r"--clip-seconds is for robots, but"),
        ("--text.device cuda:77", None, r"--text.device is cuda:77, which cannot be used here"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_mistake_is_a_sentence_and_exit_code_2(more, damage, sentence, model, tmp_path, capsys):
    if damage:
        model = broken_model(tmp_path / "model", damage)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([*words(model, "--run", str(tmp_path / "run")), *more.split()])
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("prefrl: ") and shown.count("\n") == 1, "one sentence, no traceback"
    assert re.search(sentence, shown), shown
    assert not (tmp_path / "run").exists(), "nothing is written before"


def test_a_model_without_a_pad_token_pads_with_its_end(tmp_path):
    folder = train(tiny_text(broken_model(tmp_path / "model", no_pad)), tmp_path / "run")
    assert folder.metrics()[-1]["answered"] == 16


def test_a_loss_that_is_no_number_stops_the_run_which_can_be_resumed(
    model, never_killed, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "run"
    rewards = TextReward.rewards
    calls = itertools.count()

    def breaks(self, trajectories):
        fine = rewards(self, trajectories)
        return fine if next(calls) < 4 else [np.full_like(steps, math.nan) for steps in fine]

    monkeypatch.setattr(TextReward, "rewards", breaks)
    with pytest.raises(SystemExit) as left:
        main(words(model, "--teacher", "toy_texts:prefer_plainer", "--run", str(path)))
    assert left.value.code == 2
    sentence = capsys.readouterr().err
    assert "not a finite number; lower --text.ppo.learning-rate" in sentence
    assert re.search(
        r"\. round \d is saved and no answer is lost\. Continue with `prefrl res", sentence
    )
    assert sentence.count("\n") == 1
    kept = RunFolder(path).metrics()
    assert 1 < len(kept) < 5
    monkeypatch.undo()
    main(["resume", str(path)])
    assert_same_run(path, never_killed)


def test_a_fit_that_leads_nowhere_stops_the_run_and_says_so(model, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(words(model, "--fit.learning-rate", "1e30", "--run", str(tmp_path / "run")))
    assert left.value.code == 2
    sentence = capsys.readouterr().err
    assert (
        "the fitted reward is not a finite number; lower --fit.learning-rate. round 0" in sentence
    )
    assert len(RunFolder(tmp_path / "run").metrics()) == 1


def test_numbers_of_an_environment_do_not_hide_those_of_the_run(model, tmp_path):
    lines = train(tiny_text(model, env="texts/Odd-v0"), tmp_path / "run").metrics()
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 4]
    for line in lines[1:]:
        assert line["own"] == -7
        names = ("true_return", "kl", "entropy", "policy_loss", "steps")
        assert not {name for name in names if line[name] == -7}


def test_a_gpu_without_memory_ends_the_run_with_what_to_lower(
    model, never_killed, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "run"
    calls = itertools.count()

    def fills(*arguments):
        if next(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")
        return sample(*arguments)

    monkeypatch.setattr("prefrl.text.policy.sample", fills)
    with pytest.raises(SystemExit) as left:
        main(words(model, "--teacher", "toy_texts:prefer_plainer", "--run", str(path)))
    assert left.value.code == 2
    sentence = capsys.readouterr().err
    assert "Tried to allocate 2.00 GiB" in sentence and sentence.count("\n") == 1
    for option in ("--text.ppo.batch-size", "--text.ppo.episodes", "--text.max-new-tokens"):
        assert option in sentence
    monkeypatch.undo()
    main(["resume", str(path)])
    assert_same_run(path, never_killed)


def test_settings_of_a_language_model_are_refused_for_a_robot(tmp_path):
    robot = toy_environments.tiny(env="prefrl/HalfCheetah-v0")
    sentence = (
        r"HalfCheetah-v0 does not speak text, .* TextConfig\(\); expected ControlConfig\(\), or"
    )
    with pytest.raises(UserError, match=sentence):
        start(replace(robot, domain=TextConfig()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_a_robot_are_refused_for_a_language_model(model, tmp_path):
    letters = replace(tiny_text(model), domain=toy_environments.TINY, steps=512)
    sentence = r"Letters-v0 speaks text, .* a robot, ControlConfig\(\); expected TextConfig\(\), or"
    with pytest.raises(UserError, match=sentence):
        start(letters, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_reward_network_is_refused_for_text(model, tmp_path):
    with pytest.raises(UserError, match="a reward network of your own is for environments of num"):
        start(tiny_text(model), tmp_path / "run", network=lambda size: torch.nn.Linear(size, 1))
    assert not (tmp_path / "run").exists()


class Taught(gymnasium.Env):
    """Gives whatever demonstrations the test says."""

    metadata = {"render_modes": []}  # noqa: RUF012
    given = ()

    def __init__(self):
        self.observation_space = self.action_space = FreeText()

    def reset(self, *, seed=None, options=None):
        return "say: ", {}

    def step(self, action):
        return "", 0.0, True, False, {}

    def demonstrations(self, count, seed):
        return list(self.given)


gymnasium.register("texts/Taught-v0", Taught, disable_env_checker=True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([["said", "reply"]], "of its demonstrations, .* are no turns; expected"),
        ([[("said", "")]], "of its demonstrations, .* has an empty reply"),
    ],
)
def test_demonstrations_are_checked_before_a_run(given, sentence, model, tmp_path, monkeypatch):
    monkeypatch.setattr(Taught, "given", given)
    experiment = tiny_text(model, env="texts/Taught-v0", text={"demonstrations": 2})
    with pytest.raises(UserError, match=sentence):
        start(experiment, tmp_path / "run")


def test_a_model_that_gives_no_numbers_is_a_sentence(tmp_path):
    language_model = tiny_language_model(0, width=16, heads=2)
    with torch.no_grad():
        next(language_model.model.parameters()).fill_(math.nan)
    save_language_model(language_model, tmp_path / "model")
    with pytest.raises(
        UserError, match=r"model gives no finite numbers; take another --text.model"
    ):
        start(tiny_text(tmp_path / "model"), tmp_path / "run")


def test_fine_tuning_before_a_run_that_leads_nowhere_is_a_sentence(model, tmp_path, monkeypatch):
    monkeypatch.setattr(Taught, "given", [[("say: ", "yes")]] * 200)
    text = {"demonstrations": 9, "sft_learning_rate": 1e30, "sft_epochs": 1}
    experiment = tiny_text(model, env="texts/Taught-v0", text=text)
    with pytest.raises(UserError, match=r"no finite num.*; lower --text.sft-learning-rate, now 1e"):
        start(experiment, tmp_path / "run")


@pytest.mark.parametrize(
    ("where", "option"),
    [
        ("stages.sft.hidden_states", "--text.sft-batch-size"),
        ("policy.sample", "--text.max-new-tokens"),
    ],
)
def test_a_gpu_without_memory_is_a_sentence_before_a_run(
    where, option, model, tmp_path, monkeypatch
):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")

    monkeypatch.setattr(Taught, "given", [[("say: ", "yes")]])
    monkeypatch.setattr(f"prefrl.text.{where}", full)
    experiment = tiny_text(model, env="texts/Taught-v0", text={"demonstrations": 1})
    with pytest.raises(UserError, match=rf"2.00 GiB\); lower .*{option}") as complaint:
        start(experiment, tmp_path / "run")
    assert "resume" not in str(complaint.value)


def test_language_presets_choose_an_acquisition_that_their_members_can_make():
    presets = [preset.experiment for preset in PRESETS.values()]
    speaking = [one for one in presets if isinstance(one.domain, TextConfig)]
    assert len(speaking) >= 2
    for experiment in [*speaking, replace(TEXT.default, env="texts/Letters-v0")]:
        check_budget(experiment)


def test_a_near_deterministic_reference_is_warned_about_and_seen_in_the_metrics(model, tmp_path):
    cold = tiny_text(model, text={"temperature": 1e-4}, reward="true", labels=0)
    warm = replace(cold, domain=replace(cold.text, temperature=1.0))
    sessions = [start(experiment, tmp_path / f"{n}") for n, experiment in enumerate((cold, warm))]
    entropies = [finish(session)[1].metrics["entropy"] for session in sessions]
    assert entropies[0] < 0.1 < 5 < entropies[1]
    warned = [[note for note in session.notes if "hardly varies" in note] for session in sessions]
    assert len(warned[0]) == 1 and warned[1] == []
    assert re.search(r"0.0\d\d nats a token.*--text.temperature", warned[0][0])


def test_replies_that_are_the_same_text_are_not_asked_about(model, tmp_path):
    """A policy that mostly says the same goes on, and is asked about where it does not."""
    experiment = tiny_text(model, text={"temperature": 0.03})
    with closing(start(experiment, tmp_path / "some")) as session:
        done = finish(session)
        queries = session.feedback.comparisons()
        assert queries and not any(alike(c.left, c.right) for c in queries)
        assert done[-1].metrics["alike"] > 0.5 and done[-1].counts.asked < experiment.labels
    with (
        closing(start(tiny_text(model, text={"temperature": 1e-3}), tmp_path / "all")) as session,
        pytest.raises(UserError, match=r"the same text, so there was nothing to ask.*temperature"),
    ):
        finish(session)


STOPS = ("e", "qu", "\n")


def test_a_reply_ends_with_a_text_that_stops_it_and_holds_what_comes_before(model):
    """The ids keep what was sampled; the next turn follows them as it would without an end."""
    policy = TextPolicy(load_language_model(str(model)), TextConfig(stop=STOPS, max_new_tokens=60))
    environments = [gymnasium.make("texts/Talk-v0") for _ in range(16)]
    episodes = play(environments, policy, range(16))
    ended = 0
    for episode in episodes:
        turns = zip(episode.starts, episode.ends, episode.actions, episode.finished, strict=True)
        for turn, (begin, end, action, finished) in enumerate(turns):
            ids = episode.ids[begin:end]
            said = policy.template.decode(ids)
            assert not any(stop in action for stop in STOPS) and said.startswith(action)
            stopped = said != action
            assert finished == (stopped or ids[-1] == policy.template.end_id)
            assert not stopped or any(said == action + stop for stop in STOPS)
            ended += stopped
            if turn + 1 < len(episode):
                following = episode.ids[end : episode.starts[turn + 1]]
                assert policy.template.decode(following) == f"You said {action!r}."
    assert ended > 8
    assert policy.text([*b"a b", *b"qu"]) == "a b" and policy.settled("a bq") == "a b"


def test_no_reply_ends_too_early_and_its_tokens_are_judged_by_what_they_were_drawn_of(model):
    """Else the divergence would count against the policy that it may not end yet."""
    config = TextConfig(min_new_tokens=3, max_new_tokens=6, temperature=0.5)
    end_likely = load_language_model(str(model))
    end = end_likely.tokenizer.eos_token_id
    with torch.no_grad():
        end_likely.model.get_output_embeddings().weight[end] *= 200
    policy = TextPolicy(end_likely, config)
    environments = [gymnasium.make("texts/Talk-v0") for _ in range(8)]

    def shortest(episodes):
        return min(b - a for e in episodes for a, b in zip(e.starts, e.ends, strict=True))

    episodes = play(environments, policy, range(8))
    free = TextPolicy(end_likely, replace(config, min_new_tokens=0))
    assert shortest(episodes) >= 3 > shortest(play(environments, free, range(8)))
    assert policy.least == Least(end, 3) and free.least is None
    measured = measure(policy, episodes, policy)
    for episode, logprobs, kl in zip(episodes, measured.logprobs, measured.kl, strict=True):
        with torch.no_grad():
            scores = end_likely.model(torch.tensor([episode.ids])).logits[0].float() / 0.5
        expected = []
        for begin, until in zip(episode.starts, episode.ends, strict=True):
            for column in range(begin, until):
                here = scores[column - 1].clone()
                if column - begin < 3:
                    here[end] = -math.inf
                expected.append(float(here.log_softmax(0)[episode.ids[column]]))
        np.testing.assert_allclose(logprobs, expected, atol=1e-4)
        assert (kl == 0).all() and np.isfinite(logprobs).all()
    assert all(np.isfinite(entropies).all() for entropies in measured.entropies)


def test_the_first_tokens_of_each_reply_are_found():
    positions = torch.tensor([[5, 6, 7, 10, 11, 12, 1], [1, 2, 8, 9, 1, 1, 1]])
    found = too_early(positions, 2)
    assert found[0, :6].tolist() == [True, True, False, True, True, False]
    assert found[1, :4].tolist() == [True, True, True, True]


def test_a_run_whose_replies_may_not_end_early_learns(model, tmp_path):
    text = {"min_new_tokens": 3}
    with closing(start(tiny_text(model, text=text), tmp_path / "run")) as session:
        done = finish(session)
    assert all(math.isfinite(value) for now in done for value in now.metrics.values())
    assert done[-1].metrics["tokens"] >= 3


def test_one_reward_network_says_what_it_does_not_learn_from(model, tmp_path):
    for members in (1, 2):
        query = QueryConfig(explore_steps=8, acquisition="uniform")
        experiment = tiny_text(model, reward_model={"members": members}, query=query)
        with closing(start(experiment, tmp_path / f"{members}")) as session:
            told = [note for note in session.notes if "a share of 0.1 of the queries" in note]
            assert len(told) == (members == 1)


def test_no_connection_is_ever_attempted(model, tmp_path, monkeypatch):
    tried = []

    def refuse(*arguments, **options):
        tried.append(arguments)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    train(tiny_text(model), tmp_path / "run")
    load_policy(tmp_path / "run")
    load_reward(tmp_path / "run")
    for name in ("gpt2", "HuggingFaceTB/SmolLM2-135M"):
        with pytest.raises(UserError, match="no model is downloaded"):
            start(tiny_text(name), tmp_path / "other")
    assert tried == []


def test_few_labels_of_a_long_exploration_find_their_pairs(model, tmp_path):
    """Of 32 tasks of four completions each, any two completions are hardly ever of the same."""
    query = QueryConfig(explore_steps=128, decay_steps=64)
    lines = train(tiny_text(model, query=query), tmp_path / "run").metrics()
    assert lines[-1]["answered"] == 16


def test_few_turns_of_long_talks_are_enough_for_every_round(model, tmp_path):
    """An update of talks of up to four turns takes more than the 8 that a round has here."""
    lines = train(tiny_text(model, env="texts/Talk-v0", steps=32), tmp_path / "run").metrics()
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[-1]["answered"] == 16
    assert all(line["entropy"] > 0 for line in lines[1:])


# --- learning ---------------------------------------------------------------------------------


def test_a_language_model_learns_what_the_oracle_prefers(tmp_path):
    """Half of what it writes is ASCII at first; more is preferred, and nobody pays it for that."""
    experiment = tiny_text(
        save_small_model(tmp_path / "model", width=32), labels=150, steps=64 * 18, rounds=4,
        ppo={"episodes": 64, "batch_size": 32, "learning_rate": 2e-2, "n_epochs": 4,
             "missing_end_penalty": 0.0},
        reward_model={"members": 1},
        fit=FitConfig(learning_rate=3e-3, first_epochs=12, epochs=4, l2=0.0),
        query=QueryConfig(
            explore_steps=128, decay_steps=1e3, first_share=0.5, acquisition="uniform"
        ),
    )  # fmt: skip
    folder = train(experiment, tmp_path / "run")
    assert folder.metrics()[-1]["answered"] == 150
    learned, untrained = load_policy(folder.path), load_policy(folder.path)
    begun = load_language_model(str(folder.reference)).model.state_dict()
    untrained.model.load_state_dict(begun)
    before, after = (true_returns(policy) for policy in (untrained, learned))
    spread = math.sqrt((np.var(before) + np.var(after)) / len(before))
    assert np.mean(after) - np.mean(before) > 4 * spread


def true_returns(policy):
    environments = [gymnasium.make("texts/Letters-v0") for _ in range(100)]
    return [sum(episode.env_rewards) for episode in play(environments, policy, range(200))]


# --- environments and teachers of somebody's own, with mistakes in them ------------------------


class Broken(toy_texts.Letters):
    """Does as it is told by `wrong`, from its `after`-th step on."""

    wrong, after, taken = staticmethod(lambda given: given), 0, 0

    def step(self, action):
        Broken.taken += 1
        given = super().step(action)
        return Broken.wrong(given) if Broken.taken > Broken.after else given


gymnasium.register("texts/Broken-v0", Broken, disable_env_checker=True)


def fails(given):
    raise KeyError("nothing here")


@pytest.mark.parametrize("after", [0, 60])  # found before the run is made, or in its midst
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (fails, r"raised KeyError: 'nothing here'"),
        (lambda given: given[:4], r"gave four values, .* expected the five \(observation"),
        (lambda given: (given[0], math.nan, *given[2:]), r"nan.*expected a finite"),
        (
            lambda given: (given[0], "much", *given[2:]),
            r"gave the reward 'much'; expected a finite float",
        ),
        (lambda given: (3, *given[1:]), r"gave the observation 3, of type int; expected str"),
    ],
    ids=["raises", "too few", "nan", "a word", "a number"],
)
def test_an_environment_that_fails_is_a_sentence(wrong, words, after, model, tmp_path, monkeypatch):
    for name, value in (("wrong", staticmethod(wrong)), ("after", after), ("taken", 0)):
        monkeypatch.setattr(Broken, name, value)
    experiment = tiny_text(model, env="texts/Broken-v0")
    with pytest.raises(UserError, match=words) as refused:
        train(experiment, tmp_path / "run")
    assert "texts/Broken-v0" in str(refused.value)
    assert (tmp_path / "run").exists() == (after > 0)


def test_a_teacher_that_raises_is_a_sentence_and_the_run_goes_on(
    model, tmp_path, capsys, monkeypatch
):
    (tmp_path / "own_judges.py").write_text(
        "from toy_texts import prefer_plainer\nasked = 0\n\n\ndef judge(left, right):\n"
        "    global asked\n    asked += 1\n    if asked == 10:\n        raise OSError('busy')\n"
        "    return prefer_plainer(left, right)\n"
    )
    monkeypatch.chdir(tmp_path)
    sentence = complaint(words(model, "--teacher", "own_judges:judge", "--run", "run"), capsys)
    assert "teacher own_judges:judge raised OSError: busy (own_judges.py:9)" in sentence
    assert "prefrl resume" in sentence
    main(["resume", "run"])
    assert len(answers(tmp_path / "run")) == 16


def test_a_run_is_judged_by_the_function_that_taught_it(model, tmp_path, capsys, monkeypatch):
    path = str(tmp_path / "run")
    main(words(model, "--teacher", "toy_texts:prefer_plainer", "--run", path))
    capsys.readouterr()
    main(["evaluate", path, "--episodes", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["teacher"] == "toy_texts:prefer_plainer"
    monkeypatch.delattr(toy_texts, "prefer_plainer")  # it is not at hand any more
    main(["evaluate", path, "--episodes", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["teacher"] == "oracle"


def test_answers_that_prefer_nothing_are_worth_a_note(model, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_ties.py").write_text("def judge(prompt, a, b):\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    main(words(model, "--teacher", "own_ties:judge", "--run", "run"))
    assert "note: no answer preferred one clip to another" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--seed -1", "from 0"), ("--seed 99999999999999", "from 0"),
        ("--fit.learning-rate 0", "above 0"), ("--fit.learning-rate -1", "above 0"),
        ("--fit.label-smoothing 2", "from 0 to 1"), ("--fit.uniform-error nan", "from 0 to 1"),
        ("--fit.l2 -1", "0 or more"), ("--fit.margin-scale -4", "0 or more"),
        ("--fit.l2-low -1", "above 0"), ("--fit.stop-accuracy 0", "above 0"),
        ("--fit.enough-out-of-bag -1", "0 or more"),
        ("--text.ppo.gamma 2", "from 0 to 1"), ("--text.ppo.gae-lambda 3", "from 0 to 1"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_before_a_run(option, expected, model, tmp_path, capsys):
    sentence = complaint(words(model, *option.split(), "--run", tmp_path / "run"), capsys)
    assert f"{option.split()[0]} is " in sentence and expected in sentence
    assert not (tmp_path / "run").exists()
