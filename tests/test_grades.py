"""A judge's grades are the reward itself: d-RLAIF."""

import json
import math
import signal
from contextlib import closing

import numpy as np
import pytest
import toy_texts  # noqa: F401
from complaints import complaint
from processes import command, run
from test_experiment import assert_replayed, assert_same_run
from test_text_hindsight import HINDSIGHT
from test_text_select import FLAGS, PPO, SELECT
from toy_server import Toy, serving
from toy_texts import save_small_model

from prefrl.cli import main
from prefrl.config.learning import JudgeConfig
from prefrl.errors import Unreachable, UserError
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.grades import append_grades, read_grades
from prefrl.teachers import grading
from prefrl.teachers.grading import GradingReward
from prefrl.teachers.judge import Judge
from prefrl.types import Trajectory, text_array


class Grader:
    """Speaks digits by a rule: `grade(prompt)`, None for nothing that could be read."""

    name, at_once = "grader", 4

    def __init__(self, grade):
        self.grade, self.asked = grade, []

    def choose(self, prompts, options, whole=False):
        self.asked.append(list(prompts))
        grades = [self.grade(prompt) for prompt in prompts]
        return np.array([
            [math.nan if grade is None else float(option == str(grade)) for option in some]
            for grade, some in zip(grades, options, strict=True)
        ])  # fmt: skip


def graded(grade, **config):
    return GradingReward(Judge(Grader(grade), JudgeConfig(**config), 0, "judge:grader"), 0)


def talk(*turns):
    said, replies = zip(*turns, strict=True)
    return Trajectory(text_array(said), text_array(replies), np.zeros(len(turns)))


def reply_in(prompt):
    return prompt.partition("Reply:\n")[2].partition("\n\nJudge the reply")[0]


# --- what is graded ---------------------------------------------------------------------------


def test_a_conversation_is_paid_its_grade_with_the_last_turn_and_asked_about_once():
    reward = graded(lambda prompt: 1 + len(reply_in(prompt)) % 9)
    talks = [talk(("a", "xy")), talk(("a", "xyz"), ("b", "no")), talk(("a", "xy"))]
    paid = reward.rewards(talks)
    asked = reward.judge.speaker.asked
    assert [len(some) for some in asked] == [2]
    assert paid[0].tolist() == paid[2].tolist() == [3.0]
    assert paid[1].tolist() == [0.0, 1.0 + len(reply_in(asked[0][1])) % 9]
    assert "xyz" in asked[0][1] and "no" in asked[0][1], "all that was said"
    reward.rewards(talks)
    assert len(asked) == 1


def test_a_grade_is_the_expected_one_and_what_cannot_be_read_is_the_lowest():
    reward = graded(lambda prompt: None if "x" in reply_in(prompt) else 7)
    assert [paid.tolist() for paid in reward.rewards([talk(("a", "x")), talk(("a", "y"))])] == [
        [1.0], [7.0]
    ]  # fmt: skip
    reward.judge.speaker.choose = lambda prompts, options: np.full((len(prompts), 9), 1 / 9)
    assert reward.rewards([talk(("a", "z"))])[0].tolist() == [5.0]


def test_all_replies_to_a_task_are_graded_by_one_principle():
    reward = graded(lambda prompt: 5, principles=tuple(f"rule {n} holds" for n in range(5)))
    reward.rewards([talk((f"task {n % 8}", f"reply {n}")) for n in range(64)])
    of_task = {}
    for context, _, principle in reward.known:
        of_task.setdefault(context, set()).add(principle)
    assert {len(principles) for principles in of_task.values()} == {1} and len(of_task) == 8
    assert len(set.union(*of_task.values())) > 1


def test_a_judge_that_gives_no_grades_is_refused_unless_forced():
    talks = [talk(("a", f"reply {n}")) for n in range(12)]
    with pytest.raises(UserError, match="judge:grader cannot grade: of 12 grades 12 could not be"):
        graded(lambda prompt: None).rewards(talks)
    paid = graded(lambda prompt: None, force=True).rewards(talks)
    assert {float(one[0]) for one in paid} == {1.0}


def test_it_waits_for_a_judge_that_does_not_answer(monkeypatch, recwarn):
    monkeypatch.setattr(grading, "WAIT_SECONDS", 0.0)
    reward, tries = graded(lambda prompt: 4), []

    def grade(prompt):
        tries.append(prompt)
        if len(tries) < 4:
            raise Unreachable("nobody is there")
        return 4

    reward.judge.speaker.grade = grade
    assert reward.rewards([talk(("a", "b"))])[0].tolist() == [4.0]
    assert [str(one.message) for one in recwarn if "nobody" in str(one.message)] == [
        "nobody is there; the run waits for it, nothing is lost"
    ]


def test_grades_are_kept_and_a_line_cut_short_is_taken_off(tmp_path):
    path = tmp_path / "grades.jsonl"
    assert read_grades(path) == {}
    append_grades(path, {("a\n", "ü", "p"): 3.5, ("b", "", "p"): math.nan})
    with path.open("a", encoding="utf-8") as file:
        file.write('["half a l')
    known = read_grades(path)
    assert known["a\n", "ü", "p"] == 3.5 and math.isnan(known["b", "", "p"])
    append_grades(path, {("c", "d", "p"): 9.0})
    assert len(read_grades(path)) == 3
    path.write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"grades.jsonl is damaged: .* the judge is asked anew"):
        read_grades(path)


# --- runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def plainer(prompt):
    """Grade a reply by its ASCII, as one digit."""
    reply = reply_in(prompt)
    share = sum(map(str.isascii, reply)) / max(1, len(reply))
    return {str(1 + round(8 * share)): 1.0}


def words(model, judge, *more, learner="ppo"):
    own = {"ppo": PPO, "rloo": PPO, "select": SELECT, "hindsight": HINDSIGHT}[learner]
    begin = ["train", "--env", "toy_texts:texts/Letters-v0", "--learner", learner]
    return [*begin, *FLAGS.split(), *own.split(), "--reward", judge,
            "--text.model", str(model), "--threads", "1", *map(str, more)]  # fmt: skip


@pytest.fixture
def server():
    toy = Toy(plainer)
    with serving(toy) as address:
        yield toy, f"judge:{address}"


@pytest.mark.parametrize("learner", ["ppo", "rloo", "select", "hindsight"])
def test_every_learner_of_rewards_trains_on_grades(learner, model, server, tmp_path):
    toy, judge = server
    path = tmp_path / "run"
    main(words(model, judge, "--run", path, learner=learner))
    lines = RunFolder(path).metrics()
    assert len(lines) == 5 and lines[-1]["answered"] == lines[-1]["asked"] == 0
    grades = read_grades(RunFolder(path).grades)
    assert len(grades) == len(toy.asked) == len({*toy.prompts()}), "nothing is asked twice"
    assert all(principle == "Which reply is plainer?" for _, _, principle in grades)
    with closing(FeedbackStore(path / "feedback.sqlite", read_only=True)) as store:
        assert store.counts().asked == 0


def test_a_killed_run_asks_nothing_twice_and_a_replay_asks_nobody(model, server, tmp_path, capsys):
    toy, judge = server
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main(words(model, judge, "--run", whole))
    count = len(toy.asked)
    for turn in (8 + 6, 8 + 16 + 21):
        done = run(**command(words(model, judge, "--run", killed) if not killed.exists()
                             else ["resume", str(killed)],
                             ("-m", "prefrl.cli"), TOY_KILL_AT_TURN=str(turn)))  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(killed)])
    assert len(toy.asked) == 2 * count
    assert_same_run(killed, whole)
    assert_replayed(whole, tmp_path / "again")
    assert len(toy.asked) == 2 * count
    main(["evaluate", str(whole), "--episodes", "4", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["reward"] == judge
    for told in (
        ["inspect", whole],
        ["train", "--env", "toy_texts:texts/Letters-v0", "--reward", whole],
    ):
        assert "judge" in complaint([str(word) for word in told], capsys)


@pytest.mark.parametrize(
    ("judge", "more", "sentence"),
    [
        ("judge:", (), "names no model; expected judge:FOLDER"),
        ("revise:x", (), "but who revises gives no grades; use judge:x"),
        ("judge:x:y", ("--judge.orders", "first"), "--judge.orders is about a judge that answers"),
        ("judge:x:y", ("--judge.ask", "likelihood"), "--judge.ask is about a judge that answers"),
        ("judge:http://127.0.0.1:1/v1", (), "names no model of the server"),
        ("nowhere", (), "made, or a run; or a judge: judge:FOLDER"),
    ],
)
def test_what_cannot_grade_is_a_sentence(judge, more, sentence, model, tmp_path, capsys):
    given = words(model, judge, *more, "--run", tmp_path / "run")
    assert sentence in complaint([str(word) for word in given], capsys)
    assert not (tmp_path / "run").exists()


def test_robots_are_no_texts_and_a_policy_that_is_its_own_reward_takes_none(
    model, tmp_path, capsys
):
    judge = ["--reward", "judge:http://127.0.0.1:1/v1#m", "--run", str(tmp_path / "run")]
    said = complaint(["train", "--env", "Pendulum-v1", *judge], capsys)
    assert "grades texts, but Pendulum-v1 is an environment of numbers" in said
    given = ["train", "--env", "toy_texts:texts/Letters-v0", "--text.model", str(model)]
    assert "takes no reward" in complaint([*given, "--learner", "direct", *judge], capsys)
