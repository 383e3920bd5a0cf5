"""Judges: language models that answer, over HTTP, from a folder, or anything that speaks."""

import hashlib
import json
import math
import re
import signal
import subprocess
from contextlib import closing
from dataclasses import replace

import numpy as np
import processes
import pytest
import torch
import toy_texts  # noqa: F401
from fakes import Killed, make_query
from prefrl.envs.tiny_reviews import FAVOUR, favour
from processes import Process, command
from toy_environments import tiny
from toy_server import Toy, longer, replies_in, serving
from toy_texts import TINY_TEXT_FLAGS, save_small_model, tiny_text

from prefrl import cli
from prefrl.answers import check_answer, to_comparisons
from prefrl.config.learning import JudgeConfig
from prefrl.errors import Note, Unreachable, UserError
from prefrl.runs import judges
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers import endpoint
from prefrl.teachers.asking import shown
from prefrl.teachers.endpoint import Endpoint
from prefrl.teachers.gate import Verdict, standing
from prefrl.teachers.judge import LETTERS, Judge
from prefrl.text.speaker import local_speaker
from prefrl.types import Conversation, Query, QueryId, conversation_clip


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    monkeypatch.setattr("prefrl.learning.pacing.WAIT_SECONDS", 0.0)


def pair(left, right, number=0, prompt="Say something.", question="Which is longer?"):
    clips = [
        conversation_clip(Conversation(((prompt, reply),)), f"{number} {side}", prompt)
        for side, reply in (("left", left), ("right", right))
    ]
    return Query(QueryId(number // 100, number % 100), tuple(clips), question=question)


class Rule:
    """Speaks by a rule: `chances(prompt)` of the letters."""

    name, at_once = "rule", 4

    def __init__(self, chances):
        self.chances, self.prompts = chances, []

    def choose(self, prompts, options, whole=False):
        self.prompts += prompts
        rows = [self.chances(prompt) for prompt in prompts]
        asked = zip(rows, options, strict=True)
        return np.array([[row.get(option, math.nan) for option in some] for row, some in asked])

    def write(self, prompts, tokens):
        return [f"thought {len(prompt)}" for prompt in prompts]


def answers(chances, queries, seed=0, **config):
    config = JudgeConfig(**{"force": True} | config)
    return [*Judge(Rule(chances), config, seed, "judge:rule").answer(queries)]


# --- what is asked and answered -----------------------------------------------------------------


def test_both_orders_are_asked_and_their_mean_is_a_soft_label():
    def leans(prompt):  # three to one for the longer, and more so if that stands first
        first, second = map(len, replies_in(prompt))
        return {"A": 0.9, "B": 0.1} if first > second else {"A": 0.4, "B": 0.6}

    [answer] = answers(leans, [pair("long reply", "short")])
    assert answer.kind == "preference"
    assert answer.value["orders"] == [0.9, 0.6]
    assert answer.value["left"] == 0.75
    [comparison] = to_comparisons(pair("long reply", "short"), answer).comparisons
    assert comparison.preference == 0.75
    [alone] = answers(leans, [pair("long reply", "short")], orders="first")
    assert alone.value["orders"] == [0.9] and alone.value["left"] == 0.9


def test_the_model_is_told_the_principle_the_beginning_and_the_replies():
    rule = Rule(longer)
    query = pair("one", "twice", prompt="A prompt?", question="Which is better?")
    [*Judge(rule, JudgeConfig(), 0).answer([query])]
    first, second = rule.prompts
    for prompt in (first, second):
        assert "A prompt?" in prompt and "Which is better?" in prompt
    assert replies_in(first) == ("one", "twice") and replies_in(second) == ("twice", "one")


@pytest.mark.parametrize(
    ("disagree", "kind", "left"), [("average", "preference", 0.65), ("tie", "tie", None),
                                   ("skip", "skip", None)],
)  # fmt: skip
def test_what_comes_of_orders_that_disagree_is_as_asked(disagree, kind, left):
    def first(prompt):
        return {"A": 0.9, "B": 0.1} if replies_in(prompt)[0] == "x" else {"A": 0.6, "B": 0.4}

    [answer] = answers(first, [pair("x", "y")], disagree=disagree)
    assert (answer.kind, answer.value.get("left")) == (kind, left)
    assert answer.value["orders"] == [0.9, 0.4]


def test_chances_are_clamped_and_tempered():
    [answer] = answers(longer, [pair("longer", "short")], clamp=(0.4, 0.6))
    assert answer.value["left"] == 0.6 and answer.value["orders"] == [0.8, 0.8]
    [answer] = answers(longer, [pair("longer", "short")], temperature=2.0)
    assert answer.value["left"] == pytest.approx(1 / (1 + math.exp(-math.log(4) / 2)), abs=1e-4)


def test_an_even_verdict_is_a_tie():
    [answer] = answers(lambda prompt: {"A": 0.7, "B": 0.3}, [pair("a", "b")])
    assert answer.kind == "tie"


def test_each_query_has_one_principle_which_follows_from_seed_and_query():
    # RewardBench #272: what was drawn without a seed moved a subset by .02 to .04 between runs.
    principles = tuple(f"Which is better by rule {number}?" for number in range(16))
    queries = [pair("a", "bb", number) for number in range(200)]
    said = [a.value["principle"] for a in answers(longer, queries, principles=principles)]
    again = [a.value["principle"] for a in answers(longer, queries[::-1], principles=principles)]
    assert said == again[::-1], "the order of asking means nothing"
    assert set(said) == {*principles}
    other = [a.value["principle"] for a in answers(longer, queries, 1, principles=principles)]
    assert said != other


def test_reasons_are_written_first_if_asked_for():
    rule = Rule(longer)
    [answer] = Judge(rule, JudgeConfig(rationale=True), 0).answer([pair("long", "x")])
    assert len(answer.value["rationale"]) == 2
    for prompt, reason in zip(rule.prompts, answer.value["rationale"], strict=True):
        assert reason in prompt


def test_what_cannot_be_read_is_skipped_and_counted():
    # Peers counted such verdicts as "A", or dropped them without a word.
    queries = [pair("a", "bb", number) for number in range(3)]
    said = answers(lambda prompt: {}, queries)
    assert [answer.kind for answer in said] == ["skip"] * 3
    assert all(answer.value["unread"] for answer in said)
    judge = Judge(Rule(lambda prompt: {}), JudgeConfig(), 0)
    assert standing(judge.verdicts(queries)).unread == 3


def test_grades_are_expected_ones():
    def grade(prompt):
        best = {"good": {"8": 0.5, "9": 0.5}, "bad": {"1": 0.5, "9": 0.5}}
        chances = best["good" if "Reply:\ngood\n" in prompt else "bad"]
        return dict.fromkeys("123456789", 0.0) | chances

    [answer] = answers(grade, [pair("good", "bad")], ask="score")
    assert answer.value["left"] == pytest.approx(1 / (1 + math.exp(-3.5)), abs=1e-4)


def test_turns_that_all_replies_share_are_the_beginning():
    def talk(name, *replies):
        turns = zip(("Hello", "And now?", "Then?"), replies, strict=True)
        return conversation_clip(Conversation(tuple(turns), "Be kind."), name, "Hello")

    query = Query(QueryId(0, 0), (talk("a", "Hi", "one", "x"), talk("b", "Hi", "two", "x")))
    context, replies = shown(query)
    assert context == "Be kind.\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: And now?"
    assert replies == ["one\n> Then?\nx", "two\n> Then?\nx"]


def test_clips_of_numbers_are_refused():
    with pytest.raises(UserError, match="these clips are numbers"):
        answers(longer, [make_query()])


def of_three(kind, *replies):
    clips = [pair(reply, "", number).segments[0] for number, reply in enumerate(replies)]
    return Query(QueryId(0, 0), tuple(clips), kind, "Which is longer?")


@pytest.mark.parametrize(
    ("kind", "order"), [("ranking", [[2], [0], [1]]), ("choice", [[2], [0, 1]])]
)
def test_several_replies_are_ordered_by_comparing_each_two(kind, order):
    query = of_three(kind, "four", "one", "longest")
    [answer] = answers(longer, [query])
    check_answer(query, answer)
    assert (answer.kind, answer.value["order"]) == ("ranking", order)
    assert answer.value["pairs"] == [[0, 1, 0.8, 0.8], [0, 2, 0.2, 0.2], [1, 2, 0.2, 0.2]]
    again = Judge(Rule(longer), JudgeConfig(force=True), 0, "judge:rule", before=[answer])
    assert [verdict.orders for verdict in again.heard] == [(0.8, 0.8), (0.2, 0.2), (0.2, 0.2)]


def test_replies_in_a_circle_are_equal_and_one_pair_unread_leaves_all_open():
    beats = {("a", "b"), ("b", "c"), ("c", "a")}

    def circle(prompt):
        return {"A": 0.9, "B": 0.1} if replies_in(prompt) in beats else {"A": 0.1, "B": 0.9}

    [answer] = answers(circle, [of_three("ranking", "a", "b", "c")])
    assert answer.kind == "tie"
    [answer] = answers(
        lambda prompt: {} if "Reply A:\na" in prompt else longer(prompt),
        [of_three("ranking", "a", "bb", "ccc")],
    )
    assert answer.kind == "skip" and answer.value["unread"]


# --- the gate -----------------------------------------------------------------------------------


def test_a_judge_that_always_says_first_is_refused_and_its_answers_are_kept():
    judge = Judge(Rule(lambda prompt: {"A": 0.9, "B": 0.1}), JudgeConfig(), 0, "judge:rule")
    kept = []
    with pytest.raises(UserError, match=r"may not teach: .* both orders in 0\.00"):
        for answer in judge.answer([pair("a", "bb", number) for number in range(50)]):
            kept.append(answer)
    assert len(kept) == 10
    with pytest.raises(UserError, match="may not teach"):  # a run that goes on knows it
        [*Judge(Rule(longer), JudgeConfig(), 0, "judge:rule", kept).answer([])]
    assert not [*Judge(Rule(longer), JudgeConfig(force=True), 0, "judge:rule", kept).answer([])]
    assert not [*Judge(Rule(longer), JudgeConfig(), 0, "judge:other", kept).answer([])]


def test_a_judge_that_says_what_cannot_be_read_is_refused():
    with pytest.raises(UserError, match="cannot be read for 10 of 10 pairs"):
        queries = [pair("a", "bb", number) for number in range(50)]
        [*Judge(Rule(lambda prompt: {}), JudgeConfig(), 0).answer(queries)]


@pytest.mark.parametrize(
    ("orders", "lefts", "why"),
    [
        ([(0.9, 0.8)] * 40, [1.0] * 40, None),
        ([(0.9, 0.8)] * 21 + [(0.9, 0.2)] * 19, [1.0] * 40, "both orders"),
        ([(0.9, 0.8)] * 40, [1.0] * 26 + [0.0] * 14, "may be chance"),
        ([(0.9, 0.8)] * 40, [1.0] * 27 + [0.0] * 13, None),
        ([(0.9,)] * 9, [0.0] * 9, None),
    ],
)
def test_a_judge_is_refused_by_its_consistency_and_its_accuracy(orders, lefts, why):
    refusal = standing([Verdict(each) for each in orders], lefts).refusal
    assert refusal is None if why is None else why in refusal


# --- over HTTP ----------------------------------------------------------------------------------


def ask(toy, prompt="Reply A:\nlonger\n\nReply B:\nshort\n\n", count=1, **options):
    with serving(toy) as address:
        return Endpoint(address, **options).choose([prompt] * count, [LETTERS] * count)


def test_chances_are_read_off_the_log_probabilities_of_one_token():
    toy = Toy(lambda prompt: {"A": 0.3, " A": 0.1, "(A": 0.1, "B": 0.2, "Both": 0.3})
    assert ask(toy).tolist() == [[pytest.approx(5 / 7), pytest.approx(2 / 7)]]
    [body] = toy.asked
    assert body["max_tokens"] == 1 and body["temperature"] == 0 and body["model"] == "toy"
    assert body["logprobs"] is True and body["top_logprobs"] == 20


def test_a_server_without_log_probabilities_is_asked_for_samples_which_are_counted():
    toy = Toy(lambda prompt: {"A": 0.5, "B. It is": 0.3, "Well": 0.2})
    toy.tells = False
    [[first, second]] = ask(toy, samples=400)
    assert first + second == pytest.approx(1)
    assert first == pytest.approx(5 / 8, abs=0.1)
    assert toy.asked[0]["temperature"] == 0 and len(toy.asked) == 401
    assert all(body["temperature"] == 1 for body in toy.asked[1:])


def test_a_server_that_does_not_know_log_probabilities_is_asked_for_samples():
    toy = Toy()
    toy.tells, toy.faults = False, [400]
    assert ask(toy, samples=20)[0, 0] > 0.5


def test_words_that_are_no_option_are_not_read():
    assert np.isnan(ask(Toy(lambda prompt: {"banana": 1.0}))).all()
    toy = Toy(lambda prompt: {"banana": 1.0})
    toy.tells = False
    assert np.isnan(ask(toy)).all()


@pytest.mark.parametrize(
    ("faults", "sentence", "kind"),
    [
        (["hangs up"] * 3, "does not answer .*3 tries", Unreachable),
        ([503, 429, 500], "does not answer .*status 500", Unreachable),
        ([0.4] * 3, "no answer within 0.1 seconds", Unreachable),
        ([404], "refuses .*status 404.*ends with /v1", UserError),
        ([401], "refuses .*status 401.*PREFRL_JUDGE_KEY", UserError),
        (["nonsense"], "answers what is no chat completion", UserError),
    ],
)
def test_what_a_server_does_wrong_is_a_sentence(faults, sentence, kind):
    toy = Toy()
    toy.faults = faults
    with pytest.raises(kind, match=sentence):
        ask(toy, timeout=0.1)
    toy.faults = faults[:2] if kind is Unreachable else []
    assert ask(toy, timeout=0.1)[0, 0] == pytest.approx(0.8), "the third try is as good"


def test_a_server_that_is_not_there_is_a_sentence():
    with serving(Toy()) as address:
        pass
    with pytest.raises(Unreachable, match=r"does not answer \(.*refused.*, 3 tries\); start"):
        Endpoint(address).write(["a"], 4)


def test_what_was_heard_is_not_asked_again_when_another_question_fails():
    toy = Toy()
    prompts = [f"{n} Reply A:\nlonger\n\nReply B:\nshort\n\n" for n in range(4)]
    with serving(toy) as address:
        speaker = Endpoint(address)
        toy.faults = ["hangs up"] * 3  # the requests come at the same time
        speaker.at_once = 1
        with pytest.raises(Unreachable):
            speaker.choose([*prompts[:2]], [LETTERS] * 2)
        toy.faults = [None, *["hangs up"] * 3]
        with pytest.raises(Unreachable):
            speaker.choose(prompts, [LETTERS] * 4)
        assert len(toy.asked) == 1
        speaker.choose(prompts, [LETTERS] * 4)
    assert sorted(toy.prompts()) == prompts


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch):
    monkeypatch.setenv("PREFRL_JUDGE_KEY", "s3cret")
    toy = Toy()
    ask(toy)
    assert toy.headers[0]["Authorization"] == "Bearer s3cret"
    toy.faults = [401]
    with pytest.raises(UserError) as error:
        ask(toy)
    assert "s3cret" not in str(error.value) and "no such thing" in str(error.value)
    monkeypatch.setenv("PREFRL_JUDGE_KEY", "s3cret\nx")
    with pytest.raises(UserError, match="holds no key") as error:
        ask(toy)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://127.0.0.1:8080/v1", "names no model"),
        ("ftp://127.0.0.1/v1#m", "expected an address"),
        ("http://127.0.0.1:port/v1#m", "expected an address"),
        ("http://me:secret@127.0.0.1/v1#m", "environment variable"),
        ("http://127.0.0.1/v1?key=secret#m", "environment variable"),
    ],
)
def test_an_address_that_is_none_or_holds_a_key_is_refused(address, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        Endpoint(address)
    assert "secret" not in str(error.value)


def test_a_server_is_not_asked_how_likely_a_text_is():
    name = "judge:http://127.0.0.1:1/v1#m"
    with pytest.raises(UserError, match=r"--judge\.ask is likelihood"):
        judges.model_teacher(name, JudgeConfig(ask="likelihood"), 0)


# --- from a folder ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def speaker(model):
    return local_speaker(str(model))


def logprobs(speaker, text):
    ids = torch.tensor([list(text.encode())])
    with torch.no_grad():
        return torch.log_softmax(speaker.model(ids).logits.float(), -1)[0]


def test_options_of_one_token_are_compared_by_their_logits_after_the_prompt(speaker):
    prompts = ["Which?", "A much longer question, which is padded with nothing: A or B?"]
    chances = speaker.choose(prompts, [LETTERS] * 2)
    for prompt, row in zip(prompts, chances, strict=True):
        last = logprobs(speaker, f"{prompt}\n")[-1][[ord("A"), ord("B")]]
        assert row == pytest.approx(torch.softmax(last, 0).numpy(), abs=1e-5)


def test_options_of_several_tokens_are_compared_by_likelihood_per_token_which_is_said(speaker):
    with pytest.warns(Note, match="yes, no are not a token each"):
        [row] = speaker.choose(["Is it?"], [("yes", "no")])
    assert row == pytest.approx(by_hand(speaker, "Is it?\n", ("yes", "no")), abs=1e-5)


def by_hand(speaker, prompt, options):
    means = []
    for option in options:
        said = logprobs(speaker, prompt + option)
        positions = range(len(prompt.encode()), len((prompt + option).encode()))
        means.append(
            np.mean([float(said[p - 1, (prompt + option).encode()[p]]) for p in positions])
        )
    weights = np.exp(means)
    return weights / weights.sum()


def test_the_likelihood_of_a_text_is_that_of_a_token_whoever_stands_beside_it(speaker):
    prompts = ["One", "Two is longer", "Three"]
    options = [("a reply", "a reply and more"), ("x", "a reply"), ("é", "zz")]
    together = speaker.choose(prompts, options, whole=True)
    for prompt, some, row in zip(prompts, options, together, strict=True):
        assert row == pytest.approx(by_hand(speaker, prompt, some), abs=1e-5)
    speaker._shares_prompts = False
    assert speaker.choose(prompts, options, whole=True) == pytest.approx(together, abs=1e-5)
    speaker._shares_prompts = True


def test_what_is_longer_than_the_context_is_not_read_which_is_said(model):
    speaker = local_speaker(str(model))
    with pytest.warns(Note, match=r"looks back on \(256 tokens\)"):
        rows = speaker.choose(["x" * 300, "y"], [LETTERS] * 2)
    assert np.isnan(rows[0]).all() and rows[1].sum() == pytest.approx(1)


def test_a_model_writes(speaker):
    written = speaker.write(["Say", "Something else"], 5)
    assert len(written) == 2 and all(isinstance(text, str) for text in written)
    assert speaker.write(["Say"], 5) == written[:1]


# --- in a run -----------------------------------------------------------------------------------


def experiment(model, teacher, **judge):
    return tiny_text(model, teacher=teacher, judge=JudgeConfig(**judge), steps=32, rounds=2)


def test_a_run_is_taught_by_a_server_and_asks_nothing_twice(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFRL_JUDGE_KEY", "s3cret")
    toy, path = Toy(), tmp_path / "run"
    principles = tmp_path / "principles.txt"
    principles.write_text("Which is longer?\n\nWhich has more letters?\n")
    with serving(toy) as address:
        chosen = experiment(model, f"judge:{address}", principles=(str(principles),), force=True)
        with closing(start(chosen, path)) as session:
            # Killed between two answers, and again.
            for moment in (3, 5):
                monkeypatch.setattr(session.feedback, "answer", killed_at(session.feedback, moment))
                with pytest.raises(Killed):
                    [*rounds(session)]
        principles.unlink()
        for _ in rounds(session := resume(path)):
            pass
        session.close()
        asked = len(toy.asked)
        replayed = [*replay(path, tmp_path / "again")]
        assert len(toy.asked) == asked, "a replay asks nobody"
    assert replayed[-1].metrics
    assert RunFolder(tmp_path / "again").metrics() == RunFolder(path).metrics()
    with closing(FeedbackStore(path / "feedback.sqlite", read_only=True)) as store:
        kept = store.answers()
    assert len(kept) == 16
    assert {a.value["principle"] for a in kept} == {"Which is longer?", "Which has more letters?"}
    # Killed twice between two answers: of what it was told then, at most a batch was lost.
    assert 2 * len(kept) <= asked <= 2 * len(kept) + 2 * Endpoint.at_once
    assert all(b"s3cret" not in file.read_bytes() for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("moment", [2, 9, 21])  # of 32 questions, eight at once
def test_a_judge_is_asked_nothing_twice_but_what_was_in_flight_at_a_kill(moment, model, tmp_path):
    running, toy = [], Toy()

    def chances(prompt):
        if running and len(toy.asked) >= moment:
            running.pop().kill()
        return longer(prompt)

    toy.chances, path = chances, tmp_path / "run"
    with serving(toy) as address:
        words = ["train", "--env", "toy_texts:texts/Letters-v0", "--text.model", model]
        words += [*TINY_TEXT_FLAGS.split(), "--judge.force", "--teacher", f"judge:{address}"]
        with Process(**command([*words, "--run", path]), stdout=subprocess.DEVNULL) as process:
            running.append(process)
            assert process.wait() == -signal.SIGKILL
        before = len(toy.asked)
        assert processes.run(**command(["resume", path])).returncode == 0
    with closing(FeedbackStore(path / "feedback.sqlite", read_only=True)) as store:
        answered = len(store.answers())
    assert answered == 16 and before < 2 * answered
    assert 2 * answered <= len(toy.asked) <= 2 * answered + Endpoint.at_once


def test_principles_of_an_aspect_are_for_what_is_asked_about_it():
    told = ("Which is better?", "[safe] Which is safer?", "[kind]Which is kinder?")
    queries = [replace(pair("a", "b", number), aspect="safe") for number in range(40)]
    said = answers(lambda prompt: {"A": 0.8, "B": 0.2}, queries, principles=told)
    assert {answer.value["principle"] for answer in said} == {"Which is better?", "Which is safer?"}
    [answer] = answers(lambda prompt: {"A": 0.8, "B": 0.2}, [pair("a", "b")], principles=told[1:])
    assert answer.value["principle"] == "Which is longer?", "the question; no principle is for it"


def killed_at(store, moment):
    answer, seen = store.answer, []

    def answer_or_die(*some):
        seen.append(some)
        if len(seen) == moment:
            raise Killed
        return answer(*some)

    return answer_or_die


def test_a_run_waits_while_its_server_is_away_and_then_goes_on(model, tmp_path):
    toy = Toy()
    toy.faults = [None, None, *["hangs up"] * 200]
    with serving(toy) as address:
        chosen = experiment(model, f"judge:{address}", force=True)
        session, waited = start(chosen, tmp_path / "run"), 0
        with closing(session), pytest.warns(Note, match="queries wait for it, nothing is lost"):
            for done in rounds(session):
                if done.state == "waiting":
                    waited += 1
                    assert done.counts.pending
                    toy.faults = toy.faults[:1] if waited < 3 else []
    assert waited and len(session.folder.metrics()) == 3
    prompts = [(body["messages"][-1]["content"]) for body in toy.asked]
    assert len(prompts) == 32, "what was heard before it went away is kept"


def test_a_run_refuses_a_judge_that_always_says_first_unless_forced(model, tmp_path):
    toy = Toy(lambda prompt: {"A": 0.95, "B": 0.05})
    with serving(toy) as address:
        chosen = experiment(model, f"judge:{address}")
        chosen = replace(chosen, labels=40, query=replace(chosen.query, explore_steps=32))
        session = start(chosen, tmp_path / "run")
        with closing(session), pytest.raises(UserError, match="may not teach"):
            [*rounds(session)]
        session = resume(tmp_path / "run")
        with closing(session), pytest.raises(UserError, match="may not teach"):
            [*rounds(session)]
        forced = replace(chosen, judge=replace(chosen.judge, force=True))
        with closing(start(forced, tmp_path / "forced")) as session:
            next(rounds(session))


def test_known_pairs_let_a_judge_in_or_keep_it_out(model, tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", 40)
    with serving(toy := Toy()) as address:
        known = str(tmp_path / "pairs.jsonl")
        chosen = experiment(model, f"judge:{address}", known=known)
        with closing(start(chosen, tmp_path / "run")) as session:
            assert any("the judge is right in 1.00" in note for note in session.notes)
        toy.chances = lambda prompt: (
            {"A": 0.2, "B": 0.8}
            if longer(prompt)["A"] > 0.5
            else longer(prompt) | {"A": 0.8, "B": 0.2}
        )
        with pytest.raises(UserError, match="may be chance"):
            start(chosen, tmp_path / "other")
        assert not (tmp_path / "other").exists()
        with pytest.raises(UserError, match="may be chance"):  # answers that come along, too
            start(replace(chosen, judge=JudgeConfig()), tmp_path / "other", answers_from=known)


def write_pairs(path, count):
    rows = [
        {"prompt": f"Prompt {n}", "chosen": f"a longer reply {n}", "rejected": f"short {n}"}
        for n in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"teacher": "judge:"}, "names no model"),
        ({"teacher": "judge:nowhere"}, "no folder on this machine"),
        ({"teacher": "judge:math:pi"}, "expected an object with choose and write"),
        ({"judge": JudgeConfig(clamp=(0.6, 0.4))}, "expected the lower number first"),
        ({"judge": JudgeConfig(principles=("nothing.txt",))}, "which is no file here"),
        ({"judge": JudgeConfig(ask="score", rationale=True)}, "leave one out"),
        ({"teacher": "oracle", "judge": JudgeConfig(force=True)}, "the teacher is oracle"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(changes, sentence, model, tmp_path):
    chosen = replace(experiment(model, f"judge:{model}"), **changes)
    with pytest.raises(UserError, match=sentence):
        start(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_robots_are_no_texts(model, tmp_path):
    with pytest.raises(UserError, match="an environment of numbers; use another teacher"):
        start(tiny(teacher=f"judge:{model}"), tmp_path / "run")


def test_a_judge_evaluates_and_compares(model, tmp_path, capsys):
    with serving(Toy()) as address:
        chosen = experiment(model, f"judge:{address}", force=True)
        with closing(start(chosen, tmp_path / "run")) as session:
            [*rounds(session)]
        cli.main(["evaluate", str(tmp_path / "run"), "--episodes", "4", "--json"])
        assert json.loads(capsys.readouterr().out)["teacher"] == f"judge:{address}"
        run = tmp_path / "run"
        words = f"compare {run} {run}/reference --into {tmp_path}/both --pairs 4 --json"
        cli.main([*words.split(), "--teacher", f"judge:{address}"])
        assert json.loads(capsys.readouterr().out)["answered"] == 4


# --- prefrl judge -------------------------------------------------------------------------------


def test_the_command_measures_a_judge(tmp_path, capsys):
    write_pairs(tmp_path / "pairs.jsonl", 60)
    with serving(Toy()) as address:
        words = ["judge", str(tmp_path / "pairs.jsonl"), "--teacher", f"judge:{address}"]
        cli.main([*words, "--pairs", "50", "--json"])
        report = json.loads(capsys.readouterr().out)
        cli.main([*words, "--judge.orders", "first"])
        told = capsys.readouterr().out
    assert report["pairs"] == 50 and report["unread"] == 0 and report["refusal"] is None
    assert report["accuracy"]["mean"] == report["consistency"]["mean"] == 1
    assert report["first"]["mean"] == 0.5
    assert report["length"]["longer_chosen"]["mean"] == 1
    [found] = report["calibration"]["bins"]
    assert found["confidence"] == pytest.approx(0.8) and found["weight"] == 50
    assert report["calibration"]["error"] == pytest.approx(0.2)
    assert 0 < report["seconds"] < 1
    assert "it may teach" in told and "right: 1.00" in told


def test_the_command_says_who_may_not_teach_and_takes_answers_of_a_run(model, tmp_path, capsys):
    with closing(start(tiny_text(model, steps=64, rounds=2), tmp_path / "run")) as session:
        [*rounds(session)]
    with serving(Toy(lambda prompt: {"A": 0.6, "B": 0.4})) as address:
        cli.main(["judge", str(tmp_path / "run"), "--teacher", f"judge:{address}", "--seed", "1"])
    told = capsys.readouterr().out
    assert "chose the reply that stood first: 1.00" in told
    assert "it may not teach, unless forced: it names the same reply in both orders in 0.00" in told


def test_mistakes_with_the_command_are_sentences(model, tmp_path, capsys):
    write_pairs(tmp_path / "pairs.jsonl", 3)
    (tmp_path / "shown.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    for words, sentence in (
        (["pairs.jsonl"], "no judge is named"),
        (["pairs.jsonl", "--teacher", "oracle"], "--teacher is 'oracle'"),
        (["nothing.jsonl", "--teacher", f"judge:{model}"], "cannot read"),
        (["pairs.jsonl", "--teacher", "judge:http://127.0.0.1:9/v1#m"], "does not answer"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["judge", str(tmp_path / words[0]), *words[1:]])
        assert sentence in capsys.readouterr().err


# --- what both orders are worth -----------------------------------------------------------------

WORDS = [*FAVOUR]
WORTH = np.array([*FAVOUR.values()], float)


def drawn(*key):
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def leaning(share, mistakes=0.2):
    """Return a judge that names what stands first in a share of its answers, and else errs."""

    def chances(prompt):
        first, second = replies_in(prompt)
        right = favour("", first) > favour("", second)
        if drawn("mistake", prompt) < mistakes:
            right = not right
        return (
            {"A": 1.0, "B": 0.0} if right or drawn("lean", prompt) < share else {"A": 0.0, "B": 1.0}
        )

    return chances


def counts(text):
    return np.array([re.findall("[a-z]+", text).count(word) for word in WORDS], float)


def fitted(differences, preference):
    """Return the values of words by Bradley-Terry (Newton's method, a little L2)."""
    values = np.zeros(len(WORDS))
    for _ in range(30):
        chances = 1 / (1 + np.exp(-differences @ values))
        slope = differences.T @ (preference - chances) - 0.01 * values
        curvature = (differences * (chances * (1 - chances))[:, None]).T @ differences
        values += np.linalg.solve(curvature + 0.01 * np.eye(len(WORDS)), slope)
    return values


def gained(values, reviews, nats=2.0):
    """Return the true return gained at a divergence by reweighting reviews by exp(value / β)."""

    def best(scores):
        low, high = 1e-3, 1e3
        for _ in range(60):
            beta = math.sqrt(low * high)
            weights = np.exp((scores - scores.max()) / beta)
            weights /= weights.sum()
            kl = math.log(len(weights)) + float((weights * np.log(weights + 1e-300)).sum())
            low, high = (beta, high) if kl > nats else (low, beta)
        return float(weights @ (reviews @ WORTH))

    base = float((reviews @ WORTH).mean())
    return (best(reviews @ values) - base) / (best(reviews @ WORTH) - base)


def test_both_orders_with_soft_labels_win_back_what_a_lean_to_the_first_costs():
    generator = np.random.default_rng(0)

    def review():
        return " ".join(generator.choice(WORDS, generator.integers(1, 7)))

    reviews = np.array([counts(review()) for _ in range(3000)])
    fractions = {"fair": [], "both": [], "first": []}
    for seed in range(12):
        texts = [(review(), review()) for _ in range(150)]
        queries = [
            pair(*two, 1000 * seed + number, prompt=f"{seed} {number}")
            for number, two in enumerate(texts)
            if favour("", two[0]) != favour("", two[1])
        ]
        differences = np.array(
            [counts(str(q.segments[0].actions[0])) - counts(str(q.segments[1].actions[0]))
             for q in queries]
        )  # fmt: skip
        for name, lean, orders in (("fair", 0.0, "first"), ("both", 0.3, "both"),
                                   ("first", 0.3, "first")):  # fmt: skip
            said = answers(leaning(lean), queries, orders=orders)
            lefts = np.array([answer.value.get("left", 0.5) for answer in said])
            fractions[name].append(gained(fitted(differences, lefts), reviews))
    fair, both, first = (np.mean(fractions[name]) for name in ("fair", "both", "first"))
    assert both >= 0.95 * fair
    assert first <= 0.93 * fair
