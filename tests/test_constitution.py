"""Revisers: critique and revision by principles, as answers and as demonstrations."""

import importlib.util
import json
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import toy_texts  # noqa: F401
from fakes import Killed, make_query
from prefrl.envs.tiny_reviews import TinyReviews, favour
from test_judge import killed_at, pair
from toy_server import Toy, serving
from toy_texts import save_small_model, tiny_text

from prefrl import cli
from prefrl.answers import check_answer, to_comparisons
from prefrl.config.learning import JudgeConfig
from prefrl.errors import Note, UserError
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers import endpoint
from prefrl.teachers.constitution import Reviser
from prefrl.text.stages.sft import from_run
from prefrl.types import Conversation, Query, QueryId, conversation_clip


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    monkeypatch.setattr("prefrl.learning.pacing.WAIT_SECONDS", 0.0)


class Writer:
    """Writes by a rule, and remembers what it was asked."""

    name, at_once = "writer", 4

    def __init__(self, critique="It is rude.", revision="A kind reply."):
        self.critique, self.revision, self.prompts = critique, revision, []

    def choose(self, prompts, options, whole=False):
        raise AssertionError("a reviser chooses nothing")

    def write(self, prompts, tokens):
        assert prompts
        self.prompts += prompts
        return [self.revision if "anew" in prompt else self.critique for prompt in prompts]


def revised(asked, queries, seed=0, **config):
    said = [*Reviser(asked, JudgeConfig(**config), seed, "revise:it").answer(queries)]
    for query, answer in zip(queries, said, strict=True):
        check_answer(query, answer)
    return said


def test_a_reply_is_criticised_by_a_principle_then_written_anew():
    writer, query = Writer(), pair("You fool", "You fool", prompt="How are you?")
    [answer] = revised(writer, [query], principles=("Be polite.",))
    assert answer.kind == "rewrite"
    assert answer.value["text"] == "A kind reply."
    assert answer.value["critiques"] == ["It is rude."]
    assert answer.value["principles"] == ["Be polite."]
    critique, revision = writer.prompts
    for part in ("How are you?", "You fool", "Be polite."):
        assert part in critique
    for part in ("How are you?", "You fool", "It is rude."):
        assert part in revision


def test_a_revision_is_better_than_its_reply_and_a_demonstration():
    query = pair("left reply", "right reply", prompt="Go on")
    [answer] = revised(Writer(), [query])
    lesson = to_comparisons(query, answer)
    [comparison] = lesson.comparisons
    assert comparison.preference == 1
    assert comparison.left.actions.tolist() == ["A kind reply."]
    assert comparison.right is query.segments[answer.value["segment"]]
    assert [clip.actions.tolist() for clip in lesson.demonstrations] == [["A kind reply."]]


@pytest.mark.parametrize("critique", ["NOTHING", "Nothing.", '"nothing"', "", "  "])
def test_nothing_is_revised_where_the_critique_finds_nothing(critique):
    # LangChain's chain revised even then (PR #3857).
    writer = Writer(critique)
    [answer] = revised(writer, [pair("a", "b")])
    assert answer.kind == "skip"
    assert len(writer.prompts) == 1, "no revision was asked for"


def test_what_stays_as_it_was_is_skipped():
    [answer] = revised(Writer(revision=" same "), [pair("same", "same")])
    assert answer.kind == "skip"
    [answer] = revised(Writer(revision=""), [pair("same", "same")])
    assert answer.kind == "skip"


def test_each_of_several_revisions_has_a_principle_and_goes_on_from_the_last():
    rules = tuple("abcdefgh")

    def append(prompt, reply, principle):
        return None if reply.count("+") == 3 else f"{reply}+{principle}"

    queries = [pair("x", "x", number) for number in range(60)]
    said = revised(append, queries, principles=rules, revisions=5)
    for answer in said:
        assert answer.value["text"] == "x+" + "+".join(answer.value["principles"][:3])
        assert len(answer.value["principles"]) == 4, "the fourth finds nothing, and is the last"
    drawn = Counter(p for answer in said for p in answer.value["principles"])
    assert {*drawn} == {*rules}
    again = revised(append, queries[::-1], principles=rules, revisions=5)
    assert [a.value for a in again[::-1]] == [a.value for a in said]


def test_which_reply_is_revised_follows_from_the_query():
    queries = [pair("x", "y", number) for number in range(60)]
    said = revised(lambda prompt, reply, principle: f"{reply}!", queries)
    rows = [answer.value["segment"] for answer in said]
    assert {*rows} == {0, 1}
    assert all(a.value["text"] == "xy"[row] + "!" for a, row in zip(said, rows, strict=True))


def test_the_last_reply_of_a_talk_is_revised():
    talk = Conversation((("Hello", "Hi"), ("How are you?", "Bad")))
    query = Query(QueryId(0, 0), tuple(conversation_clip(talk, n, "Hello") for n in "ab"))
    seen = []
    revised(lambda *told: seen.append(told), [query])
    [(context, reply, _)] = seen
    assert context == "Human: Hello\n\nAssistant: Hi\n\nHuman: How are you?"
    assert reply == "Bad"


def test_mistakes_of_a_function_are_sentences():
    def fails(prompt, reply, principle):
        return reply[99]

    with pytest.raises(UserError, match="the reviser revise:it raised IndexError"):
        revised(fails, [pair("a", "b")])
    with pytest.raises(UserError, match=r"returned 7; expected a better reply, or None"):
        revised(lambda *told: 7, [pair("a", "b")])
    with pytest.raises(UserError, match="these clips are numbers"):
        revised(lambda *told: None, [make_query()])


# --- in a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model")


def experiment(model, teacher, **judge):
    return tiny_text(model, teacher=teacher, judge=JudgeConfig(**judge), steps=32, rounds=2)


def test_revisions_of_a_run_are_what_a_model_is_fine_tuned_on(model, tmp_path, monkeypatch):
    toy, path = Toy(), tmp_path / "run"
    toy.written = "A plain reply."
    with serving(toy) as address:
        with closing(start(experiment(model, f"revise:{address}", revisions=2), path)) as session:
            monkeypatch.setattr(session.feedback, "answer", killed_at(session.feedback, 3))
            with pytest.raises(Killed):
                [*rounds(session)]
        with closing(resume(path)) as session:
            [*rounds(session)]
        asked = len(toy.asked)
        [*replay(path, tmp_path / "again")]
        assert len(toy.asked) == asked, "a replay asks nobody"
    assert RunFolder(tmp_path / "again").metrics() == RunFolder(path).metrics()
    with closing(FeedbackStore(path / "feedback.sqlite", read_only=True)) as store:
        shown = from_run(store)
        assert {answer.kind for answer in store.answers()} == {"rewrite"}
    assert len(shown) == 16
    assert {talk.turns[-1][1] for talk in shown} == {"A plain reply."}
    cli.main(f"sft --model {model} --from-run {path} -o {tmp_path}/tuned --epochs 1".split())
    assert (tmp_path / "tuned/config.json").exists()


def test_a_run_waits_for_a_reviser_that_is_away(model, tmp_path):
    toy = Toy()
    toy.faults = ["hangs up"] * 60
    with serving(toy) as address:
        session = start(experiment(model, f"revise:{address}"), tmp_path / "run")
        with closing(session), pytest.warns(Note, match="wait for it, nothing is lost"):
            for done in rounds(session):
                toy.faults = [] if done.state == "waiting" else toy.faults
    assert len(session.folder.metrics()) == 3


plain = "Say it in plain words."


def upper(prompt, reply, principle):
    assert principle == plain
    return f"{reply} plainly"


def test_a_function_revises_and_the_oracle_evaluates(model, tmp_path, capsys):
    chosen = experiment(model, "revise:test_constitution:upper", principles=(plain,))
    with closing(start(chosen, tmp_path / "run")) as session:
        [*rounds(session)]
    cli.main(["evaluate", str(tmp_path / "run"), "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["teacher"] == "oracle"
    with pytest.raises(SystemExit):
        cli.main(f"compare {tmp_path}/run {tmp_path}/run --teacher {chosen.teacher}".split())
    assert "revises and compares nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("teacher", "judge", "sentence"),
    [
        ("revise:", {}, "the reviser names no model; expected revise:FOLDER"),
        ("revise:math:pi", {}, "expected a function of a prompt, a reply and a principle, or an"),
        ("revise:test_constitution:upper", {"ask": "score"}, r"--judge\.ask is about a model that"),
        ("judge:tiny", {"revisions": 2}, r"--judge\.revisions is about a model that revises"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(teacher, judge, sentence, model, tmp_path):
    with pytest.raises(UserError, match=sentence):
        start(experiment(model, teacher, **judge), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- what a constitution of rules is worth ------------------------------------------------------


def load_script():
    path = Path(__file__).parents[1] / "scripts" / "benchmark_constitution.py"
    spec = importlib.util.spec_from_file_location("benchmark_constitution", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_revisions_are_worth_what_exact_counting_says():
    script = load_script()
    reviews = [turns[0] for turns in TinyReviews().demonstrations(6000)]
    queries = [pair(text, text, n, prompt=prompt) for n, (prompt, text) in enumerate(reviews)]
    said = revised(script.revise, queries, principles=tuple(script.RULES), revisions=2)
    worth = [favour("", answer.value["text"]) for answer in said if answer.kind == "rewrite"]
    exact = script.counted()
    assert exact["reviews"] == pytest.approx(0)
    share = exact["share_revised"]
    assert len(worth) / len(said) == pytest.approx(share, abs=4 * (share / 6000) ** 0.5)
    error = np.std(worth) / len(worth) ** 0.5
    assert np.mean(worth) == pytest.approx(exact["revisions"], abs=4 * error)


def test_the_script_of_a_constitution_goes_from_a_model_to_its_revisions(
    tmp_path, monkeypatch, capsys
):
    script = load_script()
    small = "--demonstrations 20 --labels 16 --replies 8 --folder"
    monkeypatch.setattr(script, "MODEL", str(save_small_model(tmp_path / "small")))
    monkeypatch.setattr(script, "TEACHER", "test_constitution:polite")
    monkeypatch.setattr(
        "sys.argv", ["benchmark_constitution.py", *small.split(), str(tmp_path / "all")]
    )
    script.main()
    report = json.loads(capsys.readouterr().out)
    assert report["revisions"]["asked"] == report["revisions"]["revised"] == 16
    assert {*report["tuned"]} == {*report["reference"]} == {"mean", "interval"}
    assert report["revisions"]["return"]["mean"] == 2


def polite(prompt, reply, principle):
    """Whatever is said, it is fab."""
    return f"{prompt} fab"
