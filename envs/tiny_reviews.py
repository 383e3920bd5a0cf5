"""TinyReviews: write a short review in favour; its optimum is known.

It is small enough that the best possible can be computed.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np

from .text import FreeText

SUBJECTS = ("film", "plot", "cast", "song")
FAVOUR = {"fab": 2, "ace": 2, "fun": 1, "wry": 1, "odd": -1, "dry": -1, "dim": -2, "bad": -2}
"""How much in favour each word speaks."""
MOST_WORDS = 6


class TinyReviews(gymnasium.Env[str, str]):
    """Say in a few words what a film, its plot, its cast or its song is like. One turn.

    Observation: what the review is of, "plot:". Action: the review, as " odd wry fab.".

    Reward: how much its first six words speak in favour, added up: 2 for fab and ace, 1 for fun and
    wry, −1 for odd and dry, −2 for dim and bad, nothing for any other. The best return is 12. What
    is best at a given divergence from a writer is found by weighting the writer's own reviews by
    exp(reward / β) (Ziegler et al. 2019, section 3).

    `info`: `words`, how many there are.

    There are no held-out tasks: `options={"split": "test"}` changes nothing.

    Version History:
        v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium declares it)
        "render_modes": [],
        "question": "Which review is more in favour?",
    }

    def __init__(self, render_mode: str | None = None) -> None:
        """Build it."""
        self.render_mode = render_mode
        self.observation_space = self.action_space = FreeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw what the review is of."""
        super().reset(seed=seed)
        return _opening(self.np_random), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Add up; the episode is over."""
        words = re.findall("[a-z]+", action)
        reward = sum(FAVOUR.get(word, 0) for word in words[:MOST_WORDS])
        return "", float(reward), True, False, {"words": len(words)}

    def demonstrations(self, count: int = 1000, seed: int = 0) -> list[list[tuple[str, str]]]:
        """Return reviews that praise and blame at random, each a list of its one turn.

        They have one to six words, with equal chance.
        """
        generator = np.random.default_rng(seed)
        return [[(_opening(generator), _review(generator))] for _ in range(count)]


def _opening(generator: np.random.Generator) -> str:
    return f"{generator.choice(SUBJECTS)}:"


def _review(generator: np.random.Generator) -> str:
    words = generator.choice(list(FAVOUR), generator.integers(1, MOST_WORDS + 1))
    return f" {' '.join(words)}."
