"""Environments of other libraries; `pip install "prefrl[games,verifiers]"` lets these tests run."""

import random

import pytest

from prefrl.errors import UserError
from prefrl.text.adapters import reasoning_gym, textarena, verifiers
from prefrl.text.check import check_environment

TASKS = ["leg_counting", "chain_sum", "basic_arithmetic"]
GAMES = ["GuessTheNumber-v0", "TowerOfHanoi-v0", "Mastermind-v0"]


@pytest.fixture(scope="module")
def arena():
    return pytest.importorskip("textarena", reason="TextArena is not installed")


@pytest.fixture(scope="module")
def reasoning():
    return pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", TASKS)
def test_a_task_of_reasoning_gym_is_a_question_a_turn(reasoning, task):
    environment = reasoning_gym(task, size=20, held_out=5)
    check_environment(environment)
    right = reasoning.create_dataset(task, size=25, seed=0)
    answers = {row["question"]: row["answer"] for row in right}
    asked, _ = environment.reset(seed=3)
    assert environment.step(f"Let me see. <answer>{answers[asked]}</answer>")[1] == 1.0
    environment.reset(seed=3)
    assert environment.step(f" {answers[asked]}\n")[1] == 1.0
    environment.reset(seed=3)
    assert environment.step("no idea")[1] < 0.5
    assert len({environment.reset(seed=seed)[0] for seed in range(20)}) == 20
    [[(question, answer)]] = environment.demonstrations(1)
    assert answers[question] == answer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("game", GAMES)
def test_a_game_of_textarena_keeps_to_the_contract(arena, game):
    environment, other = textarena(game), textarena(game)
    check_environment(environment)
    told, _ = environment.reset(seed=1)
    outside = random.getstate()
    assert other.reset(seed=1)[0] == told and len(told) > 50
    other.reset(seed=2)
    other.step("[3]")
    assert random.getstate() == outside, "nothing else draws otherwise for it"
    for _ in range(100):
        observation, reward, over, *_ = environment.step("[no move]")
        if over:
            break
        assert reward == 0 and observation
    assert over and observation == ""


@pytest.mark.filterwarnings("ignore")
def test_guessing_right_is_paid(arena):
    environment = textarena("GuessTheNumber-v0")
    paid = []
    for number in range(1, 21):
        environment.reset(seed=5)
        paid.append(environment.step(f"[{number}]")[1])
    assert sorted(paid)[-1] == 1.0 and sorted(paid)[-2] < 1


@pytest.mark.filterwarnings("ignore")
def test_a_game_for_two_needs_an_opponent(arena):
    with pytest.raises(UserError, match=r"TicTacToe-v0 is a game for two; give it an opponent"):
        textarena("TicTacToe-v0")
    heard = []
    environment = textarena("TicTacToe-v0", opponent=lambda told: heard.append(told) or "[8]")
    environment.reset(seed=0)
    observation, _, over, *_ = environment.step("[0]")
    assert not over and observation and heard


def test_what_is_not_there_is_said(arena, reasoning):
    with pytest.raises(UserError, match="cannot make TextArena's 'Nim-v77'"):
        textarena("Nim-v77")
    with pytest.raises(UserError, match="reasoning-gym cannot make 'legs'"):
        reasoning_gym("legs")


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "textarena", None)
    with pytest.raises(UserError, match=r"pip install textarena"):
        textarena("GuessTheNumber-v0")


@pytest.fixture
def taskset():
    """A taskset of sums whose rewards are two, one of them worth half."""
    v1 = pytest.importorskip("verifiers.v1", reason="verifiers is not installed")

    class Sum(v1.TaskData):
        answer: str

    class SumTask(v1.Task[Sum, v1.State, v1.TaskConfig]):
        @v1.reward(weight=1.0)
        async def right(self, trace):
            return float(self.data.answer == trace.last_reply)

        @v1.reward(weight=0.5)
        async def brief(self, trace):
            return float(len(trace.last_reply) < 9 and trace.num_turns == 1)

    class Sums(v1.Taskset[SumTask, v1.TasksetConfig]):
        system, kind = "Answer with a number.", SumTask

        def load(self):
            for number in range(30):
                data = {"prompt": f"{number} + 1 = ?", "answer": f"{number + 1}"}
                yield self.kind(Sum(**data, system_prompt=self.system))

    return Sums(v1.TasksetConfig())


@pytest.mark.filterwarnings("ignore")
def test_a_taskset_of_verifiers_is_a_prompt_a_turn(taskset):
    environment = verifiers(taskset)
    check_environment(environment)
    told, _ = environment.reset(seed=3)
    number = int(told.removeprefix("Answer with a number.\n\n").split(" +")[0])
    assert number < 27, "three are held out"
    assert environment.step(f"{number + 1}")[1] == 1.5
    environment.reset(seed=3)
    assert environment.step("I cannot say.")[1] == 0
    test = {environment.reset(seed=n, options={"split": "test"})[0][-8:] for n in range(9)}
    assert test == {"27 + 1 = ?"[-8:], "28 + 1 = ?"[-8:], "29 + 1 = ?"[-8:]}
    assert len(verifiers(taskset, size=5, held_out=2).prompts["train"]) == 5


@pytest.mark.filterwarnings("ignore")
def test_what_verifiers_asks_for_beyond_a_reply_is_refused(taskset):
    with pytest.raises(UserError, match=r"no taskset 'nosuch' of verifiers"):
        verifiers("nosuch")
    taskset.kind.NEEDS_CONTAINER = True
    with pytest.raises(UserError, match=r"a task of SumTask is more than a prompt and a reply"):
        verifiers(taskset)
