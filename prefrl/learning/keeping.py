"""Which of several replies to a task are kept, to be learned from: pure functions of their scores.

Scores are compared within a task alone: across tasks the easy ones would be kept. Where all replies
to a task score the same none of them is kept, as nothing says which. A score of -inf is of what is
never kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prefrl.types import Comparison, QueryId, Segment


def best_of_task(scores: np.ndarray) -> np.ndarray:
    """Keep the best reply to each task (rejection sampling), the first of several.

    Args:
        scores: of replies, `[task, reply]`.

    Returns:
        `[task, reply]`, bool.
    """
    kept = np.zeros(scores.shape, bool)
    kept[np.arange(len(scores)), scores.argmax(1)] = True
    return kept & _may_be_kept(scores)


def top_share(scores: np.ndarray, share: float) -> np.ndarray:
    """Keep the best replies to each task: a share of them, rounded up; see `best_of_task`."""
    count = max(1, math.ceil(share * scores.shape[1] - 1e-9))
    kept = np.zeros(scores.shape, bool)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.put_along_axis(kept, order, True, axis=1)
    return kept & _may_be_kept(scores)


def above(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Keep replies whose rank in their task is a threshold or more: see `ranks`, `best_of_task`.

    With rising thresholds these are the Improve steps of ReST (Gulcehre et al. 2023, arXiv
    2308.08998, equation 2), whose rewards lie from 0 to 1, too.
    """
    return (ranks(scores) >= threshold) & _may_be_kept(scores)


def random_of_task(scores: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Keep one reply to each task, whatever its score: the control of all others.

    Where nothing says which is better it keeps none, as they do.
    """
    drawn = np.where(np.isfinite(scores), random.random(scores.shape), -np.inf)
    kept = np.zeros(scores.shape, bool)
    kept[np.arange(len(scores)), drawn.argmax(1)] = True
    return kept & _may_be_kept(scores)


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return the share of a task's other replies that score less, `[task, reply]` from 0 to 1."""
    less = (scores[:, :, None] > scores[:, None, :]).sum(2)
    return less / max(1, scores.shape[1] - 1)


def bands(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the band that each reply falls into among those to its task, of about equal sizes.

    Replies that score the same are in the same band.

    Args:
        scores: of replies, `[task, reply]`.
        count: how many bands.

    Returns:
        `[task, reply]`, int: from 0, the worst; -1 of what is never kept, see above.
    """
    less = (scores[:, :, None] > scores[:, None, :]).sum(2)
    same = (scores[:, :, None] == scores[:, None, :]).sum(2)
    middle = (less + same / 2) / scores.shape[1]
    band = np.minimum((middle * count).astype(int), count - 1)
    return np.where(_may_be_kept(scores), band, -1)


def shares_won(comparisons: Sequence[Comparison]) -> dict[QueryId, list[tuple[Segment, float]]]:
    """Return of each query its clips, each with the share of the others that it was preferred to.

    They are those that it was compared with; a tie counts half, a preference that is not sure as
    much as it says.
    """
    won: dict[QueryId, dict[str, tuple[Segment, list[float]]]] = {}
    for comparison in comparisons:
        left = comparison.preference
        for clip, share in ((comparison.left, left), (comparison.right, 1 - left)):
            won.setdefault(comparison.query, {}).setdefault(clip.id, (clip, []))[1].append(share)
    return {
        query: [(clip, sum(shares) / len(shares)) for clip, shares in clips.values()]
        for query, clips in won.items()
    }


def band_of_share(share: float, count: int) -> int:
    """Return which of `count` bands, from 0, a clip is in that was preferred to a share of others.

    However many bands, the clip that won against all is in the last and the one that lost against
    all in the first.
    """
    return math.floor(min(max(share, 0.0), 1.0) * (count - 1) + 0.5)


def _may_be_kept(scores: np.ndarray) -> np.ndarray:
    """Return which replies may be kept, `[task, reply]`."""
    differ = (scores != scores[:, :1]).any(1, keepdims=True)
    return differ & np.isfinite(scores)
