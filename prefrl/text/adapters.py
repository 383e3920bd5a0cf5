"""Language environments of other libraries, a line each.

import gymnasium as gym
from prefrl.text.adapters import reasoning_gym, textarena, verifiers

gym.register("Legs-v0", lambda: reasoning_gym("leg_counting"))
gym.register("Guess-v0", lambda: textarena("GuessTheNumber-v0"))
gym.register("Mine-v0", lambda: verifiers("my_taskset"))
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from prefrl.envs.text import FreeText, PromptEnv  # pyright: ignore[reportMissingImports]
from prefrl.errors import UserError

PLAYERS = 2
"""At most, one of whom is the model."""

Opponent = Callable[[str], str]
"""Replies for the other player, given what that one is told."""


def reasoning_gym(
    task: str, size: int = 2000, held_out: int = 200, seed: int = 0, **options: Any
) -> PromptEnv:
    """Return a task of reasoning-gym: a question a turn, its score from 0 to 1 by its own rules.

    Its own answers are demonstrations. Where a reply has `<answer>` tags, what stands between the
    last ones is the answer; the whole reply otherwise.

    Args:
        task: its name, "leg_counting".
        size: how many questions to train on.
        held_out: how many others to evaluate on.
        seed: of all of them.
        options: of the task, as `reasoning_gym.create_dataset` takes them.

    Raises:
        UserError: reasoning-gym is not installed, or knows no such task.
    """
    library = _import("reasoning_gym", "reasoning-gym")
    try:
        made = library.create_dataset(task, size=size + held_out, seed=seed, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(
            f"reasoning-gym cannot make {task!r}: {error}; its README lists the tasks and what "
            "each takes"
        ) from None
    extract = importlib.import_module("reasoning_gym.utils").extract_answer
    rows = [
        {"prompt": row["question"], "row": row, "completion": row.get("answer")} for row in made
    ]

    def score(row: dict[str, Any], reply: str) -> float:
        answer = extract(reply)
        answer = reply.strip() if answer is None else answer
        return float(made.score_answer(answer=answer, entry=row["row"]))

    return PromptEnv(rows[:size], score, rows[size:])


def verifiers(taskset: Any, size: int = 2000, held_out: int = 200) -> PromptEnv:
    """Return the tasks of a taskset of verifiers (0.4 or later): a prompt a turn.

    The reward is what the task's own `@reward` methods say of the reply, weighted as they are. A
    system prompt stands above the prompt.

    Args:
        taskset: a `verifiers.v1.Taskset`, or the id of one that is installed.
        size: how many tasks to train on, at most.
        held_out: how many others to evaluate on; of fewer tasks than both, a tenth of them.

    Raises:
        UserError: verifiers is not installed, there is no such taskset, or its tasks are more than
            a prompt and a reply: they need tools, a sandbox or somebody to talk to.
    """
    _import("verifiers.v1", "verifiers")
    if isinstance(taskset, str):
        loaders = importlib.import_module("verifiers.v1.utils.loaders")
        try:
            taskset = loaders.load_taskset(loaders.taskset_config_type(taskset)(id=taskset))
        except (ImportError, TypeError, ValueError) as error:
            raise UserError(
                f"there is no taskset {taskset!r} of verifiers: {error}; expected the id of one "
                "that is installed, or a Taskset"
            ) from None
    tasks = [*islice(taskset, size + held_out)]
    if len(tasks) < 2:
        raise UserError(f"the taskset has {len(tasks)} tasks; expected two or more")
    rows = [{"prompt": _verifiers_prompt(task), "task": task} for task in tasks]
    aside = held_out if len(rows) == size + held_out else max(1, len(rows) // 10)
    return PromptEnv(rows[: len(rows) - aside], _verifiers_score, rows[len(rows) - aside :])


def _verifiers_prompt(task: Any) -> str:
    kind, said = type(task), task.data.prompt_text
    hooks = [getattr(hook, "__func__", hook) for hook in task.hooks("reward")]
    runtimes = [inspect.signature(hook).parameters.get("runtime") for hook in hooks]
    in_sandbox = any(one is not None and one.default is inspect.Parameter.empty for one in runtimes)
    if not said or task.NEEDS_CONTAINER or in_sandbox or kind.toolsets(task.config):
        raise UserError(
            f"a task of {kind.__name__} is more than a prompt and a reply: it needs tools, a "
            "sandbox or somebody who begins; expected tasks whose rewards read the reply alone"
        )
    return f"{task.data.system_prompt}\n\n{said}" if task.data.system_prompt else said


def _verifiers_score(row: dict[str, Any], reply: str) -> float:
    """Return what a task's rewards say of a conversation of its prompt and one reply."""
    v1, task = importlib.import_module("verifiers.v1"), row["task"]
    graph, state = (importlib.import_module(f"verifiers.v1.{name}") for name in ("graph", "state"))
    messages = importlib.import_module("verifiers.v1.types")
    trace = v1.Trace(
        task=v1.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=v1.AgentInfo(config=v1.AgentConfig()),
        state=state.state_cls(type(task))(),
    )
    said = messages.UserMessage(content=task.data.prompt_text)
    answer = messages.AssistantMessage(content=reply)
    trace.nodes = [
        graph.MessageNode(message=said), graph.MessageNode(parent=0, sampled=True, message=answer)
    ]  # fmt: skip
    with ThreadPoolExecutor(1) as pool:  # whoever calls may have a loop of events of their own
        pool.submit(asyncio.run, task.score(trace)).result()
    return float(trace.reward)


def textarena(game: str, opponent: Opponent | None = None, **options: Any) -> gymnasium.Env:
    """Return a game of TextArena; the model is the first player.

    The reward comes at the end and is what TextArena gives the player. Episodes of another seed are
    other games; none are held out.

    Args:
        game: its id, "GuessTheNumber-v0", without `-raw` or `-train`.
        opponent: plays the other part in games of two.
        options: of the game, as `textarena.make` takes them.

    Raises:
        UserError: TextArena is not installed, knows no such game, or the game is for two and there
            is no opponent, or for more.
    """
    library = _import("textarena", "textarena")
    try:
        made = library.make(f"{game}-raw", **options)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot make TextArena's {game!r}: {error}; expected one of its ids"
        ) from None
    for players in range(1, PLAYERS + 1):
        try:
            made.reset(num_players=players, seed=0)
        except (ValueError, AssertionError):
            continue
        if players == PLAYERS and opponent is None:
            raise UserError(
                f"{game} is a game for two; give it an opponent, a function from what that player "
                "is told to a reply: textarena(..., opponent=f)"
            )
        return _Game(made, players, opponent)
    raise UserError(f"{game} is for more than two players; expected a game for one or two")


class _Game(gymnasium.Env[str, str]):
    """A game of TextArena.

    Observation: what the player has been told since its last turn. Action: any text.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, game: Any, players: int, opponent: Opponent | None):
        self.game, self.players, self.opponent = game, players, opponent
        self.observation_space = self.action_space = FreeText()
        self.render_mode = None
        self.chance: tuple[Any, Any] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a game."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31))
        self.chance = None
        with self._own_chance(number):
            self.game.reset(num_players=self.players, seed=number)
            self._let_opponent_play()
            return self._told()[1], {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make a move, and let the opponent make one."""
        with self._own_chance():
            over, _ = self.game.step(action)
            over = over or self._let_opponent_play()
            if over:
                rewards, _ = self.game.close()
                return "", float((rewards or {}).get(0, 0.0)), True, False, {}
            return self._told()[1], 0.0, False, False, {}

    def _let_opponent_play(self) -> bool:
        """Make the other player's moves until it is our turn; return whether the game is over."""
        while self.game.state.current_player_id != 0:
            _, told = self._told()
            assert self.opponent is not None
            over, _ = self.game.step(self.opponent(told))
            if over:
                return True
        return False

    def _told(self) -> tuple[int, str]:
        """Return whose turn it is, and what that player has been told and has not said itself."""
        player, messages = self.game.get_observation()
        return player, "\n".join(text for sender, text, *_ in messages if sender != player)

    @contextmanager
    def _own_chance(self, seed: int | None = None) -> Iterator[None]:
        """Let the global generators be this game's for a while: TextArena draws from them."""
        outside = _generators()
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 (some games draw from it)
        elif self.chance is not None:
            _set_generators(self.chance)
        try:
            yield
        finally:
            self.chance = _generators()
            _set_generators(outside)


def _generators() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()  # noqa: NPY002


def _set_generators(state: tuple[Any, Any]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002


def _import(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"there is no module {error.name!r}; install it: pip install {package}"
        ) from None
