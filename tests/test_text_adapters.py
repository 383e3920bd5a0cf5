"""Environments of other libraries; `pip install "prefrl[games]"` makes these tests run."""

import random

import pytest

from prefrl.errors import UserError
from prefrl.text.adapters import reasoning_gym, textarena
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
