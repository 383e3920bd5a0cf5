"""How reliable each of several labellers is, by each other's answers and by the reward.

Pure functions of arrays. What two clips of a query are to each other is an *item*; each labeller
votes for its left or its right side, or neither.

The model: the left side of an item i is the better one with chance σ(s Δ_i), where Δ_i is by how
much a reward that has not learned from it has it lead, and s, from 0 to 1, how far that is to be
trusted; labeller k says what is so with chance r_k, their *reliability*, and the contrary with
chance 1 − r_k. Dawid and Skene 1979 have this without a reward (s = 0) and more than two classes;
Chen et al. 2013 ("Pairwise ranking aggregation in a crowdsourced setting") have it with s = 1 and a
score for each item in the place of the reward ("Crowd-BT").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefrl.types import Comparison, alike

FIRST_ANSWERS = 2.0  # what is assumed of a labeller counts as so many answers
LEAST, MOST = 0.01, 0.99  # nobody is sure to be right, or to be wrong
ITERATIONS, CLOSE = 300, 1e-5  # of EM at most, and the change of a reliability that ends it
GRID = 65  # reliabilities at which an interval is looked for
DROP = 1.920729  # in log-likelihood at the ends of a 95 % interval: half of χ²'s, one of freedom
SMALL = 1e-8


@dataclass(frozen=True)
class Votes:
    """Who said what of which item."""

    labellers: tuple[str, ...]
    """Their names, in order."""
    left: np.ndarray
    """[item, labeller], how much of a vote that its left side is the better one."""
    right: np.ndarray
    """[item, labeller], the same of its right side."""
    item: np.ndarray
    """[comparison], which item each is about."""
    labeller: np.ndarray
    """[comparison], who answered it."""


@dataclass(frozen=True)
class Reliability:
    """What EM came to."""

    labellers: np.ndarray
    """[labeller], r: the chance that what they say is so, from 0 to 1."""
    left: np.ndarray
    """[item], the chance that its left side is the better one."""
    trust: float
    """s: how far the reward's leads are to be trusted, from 0 to 1."""


def count_votes(comparisons: Sequence[Comparison]) -> Votes:
    """Return who voted for which side of which item.

    A vote has the comparison's weight, so those of a ranking of K clips are K − 1 votes together;
    one that is not sure, P(left is better) = p, is |2p − 1| of a vote; a tie is none, and nothing
    is that is about clips which show the same.
    """
    names = sorted({c.teacher for c in comparisons})
    column = {name: number for number, name in enumerate(names)}
    items: dict[tuple[object, ...], int] = {}
    keys = [(c.query, c.left.id, c.right.id) for c in comparisons]
    item = np.array([items.setdefault(key, len(items)) for key in keys], int)
    labeller = np.array([column[c.teacher] for c in comparisons], int)
    sure = np.array([c.weight * (2 * c.preference - 1) for c in comparisons], float)
    sure[[alike(c.left, c.right) for c in comparisons]] = 0.0
    left, right = np.zeros((2, len(items), len(names)))
    np.add.at(left, (item, labeller), np.maximum(sure, 0))
    np.add.at(right, (item, labeller), np.maximum(-sure, 0))
    return Votes(tuple(names), left, right, item, labeller)


def reliability(votes: Votes, leads: np.ndarray, assumed: float) -> Reliability:
    """Return how reliable each labeller is: the most probable reliabilities, by EM.

    It begins with all alike, where those who agree with most others are right; so of two halves
    who contradict each other the larger one is, unless the reward says otherwise.

    Args:
        votes: what they said.
        leads: `[item]`, by how many logits the left side leads, as a reward predicts that did not
            learn from the item; 0 where nothing is known.
        assumed: the reliability of whoever has not answered yet; it counts as `FIRST_ANSWERS`.
    """
    start = np.full((1, len(votes.labellers)), _within(assumed))
    values, trust = _maximise(votes, leads, assumed, start, np.ones((1, 1)))
    left = _sigmoid(_log_odds(votes, leads, values, trust))[0]
    return Reliability(values[0], left, float(trust[0, 0]))


def intervals(votes: Votes, leads: np.ndarray, assumed: float) -> np.ndarray:
    """Return 95 % intervals of all reliabilities, `[labeller, 2]`, by profile likelihood.

    An interval holds those at which the log-likelihood, with everything else as suits it best, is
    less than 1.92 below the highest. How sure the reward's own predictions are is left out.

    Args:
        votes: what they said.
        leads: as for `reliability`.
        assumed: as for `reliability`.
    """
    best = reliability(votes, leads, assumed)
    found = np.empty((len(votes.labellers), 2))
    for labeller, value in enumerate(best.labellers):
        grid = np.sort([*np.linspace(LEAST, MOST, GRID), value])
        start = np.repeat(best.labellers[None], len(grid), axis=0)
        start[:, labeller] = grid
        trust = np.full((len(grid), 1), best.trust)
        values, trust = _maximise(votes, leads, assumed, start, trust, held=labeller)
        likelihood = _log_likelihood(votes, leads, assumed, values, trust)
        within = np.flatnonzero(likelihood > likelihood.max() - DROP)
        ends = (within[0], within[0] - 1), (within[-1], within[-1] + 1)
        found[labeller] = [_crossing(grid, likelihood, *end) for end in ends]
    return found


def assumed_reliability(uniform_error: float) -> float:
    """Return the reliability of a teacher who answers at random with this chance."""
    return 1 - uniform_error / 2


def _maximise(
    votes: Votes, leads: np.ndarray, assumed: float, values: np.ndarray, trust: np.ndarray,
    held: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the most probable reliabilities `[row, labeller]` and trusts `[row, 1]` by EM.

    Args:
        votes: what they said.
        leads: `[item]`.
        assumed: of whoever has not answered.
        values: `[row, labeller]`, where to begin; each row is a maximisation of its own.
        trust: `[row, 1]`, likewise.
        held: the labeller whose reliability stays as it begins.
    """
    voted = (votes.left + votes.right).sum(0)
    weight = (votes.left + votes.right).max(1, initial=0.0)  # an item's, in the fit of the trust
    kept = None if held is None else values[:, held].copy()
    for _ in range(ITERATIONS):
        before = values
        left = _sigmoid(_log_odds(votes, leads, values, trust))
        right_ones = left @ (votes.left - votes.right) + votes.right.sum(0)
        values = _within((right_ones + FIRST_ANSWERS * assumed) / (voted + FIRST_ANSWERS))
        if kept is not None:
            values[:, held] = kept
        said = _sigmoid(trust * leads)
        slope = ((left - said) * leads) @ weight
        curvature = (said * (1 - said) * leads**2) @ weight
        trust = np.clip(trust + (slope / (curvature + SMALL))[:, None], 0.0, 1.0)
        if np.abs(values - before).max(initial=0.0) < CLOSE:
            break
    return values, trust


def _log_odds(votes: Votes, leads: np.ndarray, values: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """Return the log odds `[row, item]` that the left side is the better one."""
    return trust * leads + np.log(values / (1 - values)) @ (votes.left - votes.right).T


def _log_likelihood(
    votes: Votes, leads: np.ndarray, assumed: float, values: np.ndarray, trust: np.ndarray
) -> np.ndarray:
    """Return the log-likelihood `[row]` of all votes, with what is assumed."""
    right, wrong = np.log(values), np.log(1 - values)
    if_left = right @ votes.left.T + wrong @ votes.right.T - np.logaddexp(0, -trust * leads)
    if_right = wrong @ votes.left.T + right @ votes.right.T - np.logaddexp(0, trust * leads)
    beforehand = assumed * right.sum(1) + (1 - assumed) * wrong.sum(1)
    return np.logaddexp(if_left, if_right).sum(1) + FIRST_ANSWERS * beforehand


def _crossing(grid: np.ndarray, likelihood: np.ndarray, inside: int, outside: int) -> float:
    """Return where between two points of a grid the likelihood leaves the interval."""
    if not 0 <= outside < len(grid):
        return float(0.0 if inside == 0 else 1.0)
    level = likelihood.max() - DROP
    share = (likelihood[inside] - level) / max(likelihood[inside] - likelihood[outside], SMALL)
    return float(grid[inside] + share * (grid[outside] - grid[inside]))


def _within(values: np.ndarray | float) -> np.ndarray:
    return np.clip(values, LEAST, MOST)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))
