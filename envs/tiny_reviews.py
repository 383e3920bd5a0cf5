"""TinyReviews: write a short review in favour; its optimum is known.

It is small enough that the best possible can be computed.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from . import guides_of_text
from .text import PromptEnv

SUBJECTS = ("film", "plot", "cast", "song")
FAVOUR = {"fab": 2, "ace": 2, "fun": 1, "wry": 1, "odd": -1, "dry": -1, "dim": -2, "bad": -2}
"""How much in favour each word speaks."""
MOST_WORDS = 6


class TinyReviews(PromptEnv):
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
        **PromptEnv.metadata,
        "question": "Which review is more in favour?",
        "guide": guides_of_text.TINY_REVIEWS,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        """Build it."""
        super().__init__([f"{subject}:" for subject in SUBJECTS], favour, render_mode=render_mode)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Add up; the episode is over."""
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"words": len(words_of(action))}

    def demonstrations(self, count: int = 1000, seed: int = 0) -> list[list[tuple[str, str]]]:
        """Return reviews that praise and blame at random, each a list of its one turn.

        They have one to six words, with equal chance.
        """
        generator = np.random.default_rng(seed)
        return [[_demonstration(generator)] for _ in range(count)]


def favour(prompt: str, review: str) -> float:
    """Return how much a review's first six words speak in favour, whatever it is of."""
    return float(sum(FAVOUR.get(word, 0) for word in words_of(review)[:MOST_WORDS]))


def words_of(review: str) -> list[str]:
    """Return the words of small letters in a review."""
    return re.findall("[a-z]+", review)


def _demonstration(generator: np.random.Generator) -> tuple[str, str]:
    subject = generator.choice(SUBJECTS)
    words = generator.choice(list(FAVOUR), generator.integers(1, MOST_WORDS + 1))
    return f"{subject}:", f" {' '.join(words)}."
