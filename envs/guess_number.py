"""GuessNumber: find a number from 1 to 9 in several turns.

Each guess is answered by a hint.
"""

from __future__ import annotations

import re
from math import log
from typing import Any

import gymnasium
import numpy as np

from . import guides_of_text
from .text import FreeText

LAST = 9  # numbers are 1 to this
TURNS = 6
TURN_COST = 0.1
HEEDS_HINTS = 0.5  # how often a demonstration's guess is one that may still be right


class GuessNumber(gymnasium.Env[str, str]):
    """Guess a number from 1 to 9 in as few of six turns as possible.

    Observation: "Guess a number from 1 to 9.", then after each guess "correct", "higher" (the
    number is higher than the guess) or "lower", or "guess a number" if there was none in it, each
    with a line end. Action: any text; the first number in it is the guess.

    Reward of a turn: what it found out, less 0.1. What is left to find out is log(1 + n) / log(10)
    with n numbers still possible, and nothing once the number has been guessed, so over an episode
    it adds up: a return is 1 − 0.1 · turns for a number that is found (0.4 or more) and at most
    log(5) / log(10) − 0.6 = 0.1 for one that is not, the more the closer it was. Ranking whole
    episodes by it ranks by turns; a guess that the hints have ruled out costs 0.1 and gains
    nothing. The best mean return is 0.722, of always halving (2.78 turns).

    `info`: `found`, whether the number was; `turns`, how many were taken.

    There are no held-out tasks: `options={"split": "test"}` changes nothing.

    Version History:
        v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium declares it)
        "render_modes": [],
        "question": "Who finds the number in fewer guesses?",
        "guide": guides_of_text.GUESS_NUMBER,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        """Build the game."""
        self.render_mode = render_mode
        self.observation_space = self.action_space = FreeText()
        self.number, self.turn, self.low, self.high = 1, 0, 1, LAST

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw a number."""
        super().reset(seed=seed)
        self.number, self.turn = int(self.np_random.integers(1, LAST + 1)), 0
        self.low, self.high = 1, LAST  # what the hints so far leave possible
        return f"Guess a number from 1 to {LAST}.\n", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer a guess; the episode ends when it is right and after six turns.

        Six turns are a rule of the game, not a time limit: both ends are `terminated`.
        """
        before = self._left_to_find()
        guess = number_in(action)
        if guess is None:
            hint = "guess a number"
        elif guess == self.number:
            hint, self.low, self.high = "correct", self.number, self.number - 1
        elif guess < self.number:
            hint, self.low = "higher", max(self.low, guess + 1)
        else:
            hint, self.high = "lower", min(self.high, guess - 1)
        self.turn += 1
        reward = before - self._left_to_find() - TURN_COST
        found = hint == "correct"
        info = {"found": found, "turns": self.turn}
        return f"{hint}\n", reward, found or self.turn >= TURNS, False, info

    def _left_to_find(self) -> float:
        """Return 1 while all numbers are possible, 0 once the number has been guessed."""
        return log(2 + self.high - self.low) / log(1 + LAST)

    def demonstrations(self, count: int = 1000, seed: int = 0) -> list[list[tuple[str, str]]]:
        """Return games of random guesses of which about half heed the hints, a list of turns each.

        A turn is what the game said and what the player replied, a number.
        """
        generator = np.random.default_rng(seed)
        return [self._game(generator) for _ in range(count)]

    def _game(self, generator: np.random.Generator) -> list[tuple[str, str]]:
        game, turns, over = GuessNumber(), [], False
        observation, _ = game.reset(seed=int(generator.integers(2**31)))
        while not over:
            heeds = generator.random() < HEEDS_HINTS
            low, high = (game.low, game.high) if heeds else (1, LAST)
            reply = str(generator.integers(low, high + 1))
            turns.append((observation, reply))
            observation, _, over, _, _ = game.step(reply)
        return turns


def number_in(text: str) -> int | None:
    """Return the first number in a text, None if there is none."""
    digits = re.search(r"[0-9]+", text)
    # Python refuses to read numbers of many thousands of digits; any of five is too high.
    return int(digits[0].lstrip("0")[:5] or "0") if digits else None
