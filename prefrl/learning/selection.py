"""From trajectories to queries: cut clips, propose pairs, keep the best.

An acquisition sees predicted returns and nothing else, so the same ones serve robots and text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, cycle, zip_longest

import numpy as np
import torch
from torch import Tensor

from prefrl.config.learning import LoopConfig
from prefrl.contracts import Distance, RewardModel
from prefrl.errors import UserError
from prefrl.learning.preference import preference_probability
from prefrl.learning.repeats import without_repeats
from prefrl.learning.reward import predict_returns
from prefrl.learning.stillness import without_still
from prefrl.types import (
    MODEL,
    Comparison,
    Query,
    QueryId,
    Segment,
    Trajectory,
    of_aspect,
    steps_to_end,
)

Acquisition = Callable[[Tensor], Tensor]
"""Scores candidates: returns `[member, candidate, K]` in, score `[candidate]` out."""

Group = tuple[Segment, ...]
"""The segments of a query, two to nine."""


def select(
    trajectories: Sequence[Trajectory],
    reward_model: RewardModel | None,
    config: LoopConfig,
    index: int,
    count: int,
    distance: Distance | None = None,
    comparisons: Sequence[Comparison] = (),
) -> tuple[list[Query], dict[str, np.ndarray]]:
    """Cut, propose and choose `count` queries; return them and their clips' true rewards by id.

    The first round is uniform: nothing is fitted yet, so the members' disagreement means nothing.
    If there is a `distance`, the half of the groups that look most alike is left out first.

    Texts that are the same never meet, and people are not asked about clips of which none moves.
    Where too few others are left, queries are fewer than are due, or show fewer texts; a later
    round makes up for it.

    Args:
        trajectories: what the newest policy did.
        reward_model: as it was fitted last; None trains on the true reward.
        config: the knobs.
        index: the round.
        count: how many queries are due.
        distance: how different two clips look.
        comparisons: what was answered so far, about clips from which `--query.anchors` come.

    Raises:
        UserError: the trajectories are too few for so many queries.
    """
    if count == 0:
        return [], {}
    acquisition = ACQUISITIONS["uniform" if index == 0 else config.query.acquisition]
    plain = acquisition is ACQUISITIONS["uniform"] and distance is None
    pool = 1 if plain else config.query.pool
    generator = np.random.default_rng([config.seed, index])
    best = anchors(comparisons, reward_model) if config.query.anchors and reward_model else []
    old = min(config.query.anchors, len(best))
    size = config.query.size - old
    steps, few = sum(map(len, trajectories)), None
    if config.clip_steps is None:
        total = len(trajectories)
        trajectories, small = without_repeats(trajectories, size)
        few = small if len(trajectories) < total else None
    segments, rewards = cut(trajectories, config.clip_steps, size * pool * count, generator)
    candidates = propose(segments, pool * count, generator, size)
    due = len(candidates)
    if config.asks_people:
        more = partial(propose, segments, 4 * pool * count, generator, size)
        candidates = without_still(candidates, due, index, more)
    if old:
        candidates = [
            (*group, *(best[row] for row in generator.choice(len(best), old, replace=False)))
            for group in candidates
        ]
    if due < count and few is None:
        groups = "pairs of clips" if size == 2 else f"groups of {size} clips"
        raise UserError(
            f"{count} queries were due in round {index}, but its {steps} "
            f"steps give only {due} {groups}; ask for fewer --labels, or make rounds "
            "longer (fewer --rounds, more --query.explore-steps)"
        )
    if distance is not None:
        candidates = drop_alike(candidates, max(count, len(candidates) // 2), distance)
    chosen = _choose_in_turn(candidates, count, acquisition, reward_model, config, index)
    for those in (few or [])[: count - len(chosen)]:
        more, rewards_of_more = cut(those, None, size, generator)
        chosen.append(tuple(more))
        rewards |= rewards_of_more
    turns = config.aspects_in_turn(index)
    queries = [
        Query(QueryId(index, number), group, config.query.kind, question, aspect)
        for number, (group, (aspect, question)) in enumerate(zip(chosen, cycle(turns)))
    ]
    shown = {segment.id for group in chosen for segment in group}
    return queries, {name: rewards[name] for name in rewards if name.split("\n")[-1] in shown}


def _choose_in_turn(
    candidates: Sequence[Group], count: int, acquisition: Acquisition,
    reward_model: RewardModel | None, config: LoopConfig, index: int,
) -> list[Group]:  # fmt: skip
    """Keep the best candidates for each aspect by its own reward, in the order of their turns.

    Each aspect has as many candidates of its own, so no group is asked about twice.
    """
    aspects = [aspect for aspect, _ in config.aspects_in_turn(index)]
    parts = getattr(reward_model, "parts", {})
    rows = [
        choose(
            candidates[turn :: len(aspects)], len(range(turn, count, len(aspects))), acquisition,
            parts.get(aspect, reward_model),
        )
        for turn, aspect in enumerate(aspects)
    ]  # fmt: skip
    return [group for turn in zip_longest(*rows) for group in turn if group is not None]


def cut(
    trajectories: Sequence[Trajectory],
    length: int | None,
    count: int,
    generator: np.random.Generator,
) -> tuple[list[Segment], dict[str, np.ndarray]]:
    """Cut `count` segments of `length` steps; each possible start is equally likely.

    Args:
        trajectories: pieces of episodes; a segment never leaves one.
        length: steps of a segment; None takes whole trajectories, see `_whole`.
        count: how many, all different; fewer only if there are not so many.
        generator: draws the starts; see `_starts` for which are possible. Trajectories of tasks are
            those that begin alike: each gives its first segment, and those of one task come
            together, since only they can be compared.

    Returns:
        The segments, copied out of the trajectories, and the true rewards `[step]` of each by id,
        of an aspect by what `types.of_aspect` makes of it.
        The two go separate ways: segments to the teacher and the reward model, rewards to the
        store's own table.

    Raises:
        UserError: no trajectory is as long as a segment.
    """
    if length is None:
        chosen = _whole(trajectories, count, generator)
        pieces = [(trajectory, 0, len(trajectory)) for trajectory in chosen]
    elif any(trajectory.task for trajectory in trajectories):
        check_lengths(trajectories, length)
        alike = [t for t in trajectories if t.start == 0 and len(t) >= length]
        pieces = [(each, 0, length) for each in _whole(alike, count, generator)]
    else:
        check_lengths(trajectories, length)
        edges = np.cumsum(_starts(trajectories, length, count))
        total = int(edges[-1])
        flat = generator.choice(total, size=min(count, total), replace=False)
        index = np.searchsorted(edges, flat, side="right")
        start = flat - np.append(0, edges)[index]
        pieces = [(trajectories[i], s, length) for i, s in zip(index, start.tolist(), strict=True)]
    segments, rewards = [], {}
    for piece in pieces:
        segment, reward = stretch(*piece)
        segments.append(segment)
        rewards[segment.id] = reward
        trajectory, start, steps = piece
        for aspect, paid in trajectory.aspect_rewards.items():
            rewards[of_aspect(segment.id, aspect)] = paid[start : start + steps].copy()
    return segments, rewards


def check_lengths(trajectories: Sequence[Trajectory], length: int) -> None:
    """Raise `UserError` if no trajectory is as long as a segment."""
    longest = max(map(len, trajectories), default=0)
    if longest < length:
        raise UserError(
            f"a clip lasts {length} steps, but the longest stretch of an episode recorded in this "
            f"round has {longest}; make clips shorter (--clip-seconds) or rounds longer "
            "(fewer --rounds, more --query.explore-steps)"
        )


def _whole(
    trajectories: Sequence[Trajectory], count: int, generator: np.random.Generator
) -> list[Trajectory]:
    """Draw tasks, and take all trajectories of one before the next: only they can be compared."""
    shuffled = [trajectories[i] for i in generator.permutation(len(trajectories))]
    first: dict[str, int] = {}
    for rank, trajectory in enumerate(shuffled):
        first.setdefault(trajectory.task, rank)
    return sorted(shuffled, key=lambda trajectory: first[trajectory.task])[:count]


def _starts(trajectories: Sequence[Trajectory], length: int, count: int) -> np.ndarray:
    """Return how many starts of a segment are possible in each trajectory, from its first on.

    After the end of an episode nothing moves. So a segment moves for at least half of its steps, or
    shows at least half of a life that is shorter than that. Only if there are fewer than `count` of
    these may it move for less, and only as much less as it must.
    """
    steps = np.array([len(trajectory) for trajectory in trajectories], np.int64)
    moving = np.array([steps_to_end(trajectory) for trajectory in trajectories], np.int64)
    whole = np.array([trajectory.start == 0 for trajectory in trajectories], bool)
    half = np.where(whole, np.maximum((moving + 1) // 2, 1), length)
    fits = np.maximum(steps - length + 1, 0)
    for least in range((length + 1) // 2, 0, -1):  # steps that must move
        starts = np.clip(moving - np.minimum(half, least) + 1, 0, fits)
        if starts.sum() >= count:
            return starts
    return fits


def stretch(trajectory: Trajectory, start: int, length: int) -> tuple[Segment, np.ndarray]:
    """Return a copy of some steps of a trajectory, and their true rewards apart."""
    span = slice(start, start + length)
    first = trajectory.start + start
    extras = {name: extra[span].copy() for name, extra in trajectory.extras.items()}
    if MODEL in extras:
        extras[MODEL][1:] = ""
    segment = Segment(
        f"{trajectory.source}, episode {trajectory.episode}, steps {first}-{first + length - 1}",
        trajectory.observations[span].copy(),
        trajectory.actions[span].copy(),
        extras,
        trajectory.task,
        trajectory.source,
    )
    return segment, trajectory.env_rewards[span].copy()


def mean_return(trajectories: Sequence[Trajectory], length: int | None) -> float:
    """Return the mean true return of a clip of `length` steps, wherever it may lie.

    In episodes of a fixed length that is B-Pref's R̄ · H / T.

    Args:
        trajectories: pieces of episodes.
        length: steps of a clip; None takes whole trajectories.
    """
    total = float(sum(trajectory.env_rewards.sum() for trajectory in trajectories))
    steps = sum(map(len, trajectories))
    return total / len(trajectories) if length is None else total * length / steps


def propose(
    segments: Sequence[Segment], count: int, generator: np.random.Generator, size: int = 2
) -> list[Group]:
    """Group segments of the same task at random, each group once, at most `count` groups.

    Args:
        segments: what to choose from.
        count: how many groups.
        generator: draws them.
        size: segments of a group.
    """
    by_task: dict[str, list[Segment]] = {}
    for segment in segments:
        by_task.setdefault(segment.task, []).append(segment)
    tasks = [task for task in by_task.values() if len(task) >= size]
    ways = np.array([math.comb(len(task), size) for task in tasks], float)
    if ways.sum() <= count:
        every = [group for task in tasks for group in combinations(task, size)]
        return [every[i] for i in generator.permutation(len(every))]
    groups: dict[tuple[str, ...], Group] = {}
    while len(groups) < count:
        task = tasks[generator.choice(len(tasks), p=ways / ways.sum())]
        group = tuple(task[i] for i in generator.choice(len(task), size=size, replace=False))
        groups.setdefault(tuple(sorted(segment.id for segment in group)), group)
    return list(groups.values())


def drop_alike(candidates: Sequence[Group], count: int, distance: Distance) -> list[Group]:
    """Keep the `count` groups whose segments look least alike, in their present order.

    Clips that look alike tire people, and a guess about them tells little.
    """
    distances = np.array(
        [np.mean([distance(*pair) for pair in combinations(group, 2)]) for group in candidates]
    )
    kept = np.sort(np.argsort(-distances, kind="stable")[:count])
    return [candidates[i] for i in kept]


def anchors(comparisons: Sequence[Comparison], reward_model: RewardModel) -> list[Segment]:
    """Return the tenth of a run's own clips that a reward model likes best, a query's at least."""
    own = [c for c in comparisons if c.query.round >= 0]  # an oracle knows no others
    segments = list({s.id: s for c in own for s in (c.left, c.right)}.values())
    if not segments:
        return []
    liked = predict_returns(reward_model, segments).mean(0)
    order = torch.argsort(liked, descending=True, stable=True)
    return [segments[row] for row in order[: max(9, len(segments) // 10)].tolist()]


def uniform(returns: Tensor) -> Tensor:
    """Score all candidates alike."""
    return torch.zeros(returns.shape[1])


def disagreement(returns: Tensor) -> Tensor:
    """Score by the variance, over members, of the predicted preference.

    Christiano et al. 2017, section 2.2.4, but of the probability instead of the rewards.
    """
    return _over_pairs(returns, lambda p: p.var(0, unbiased=False))


def entropy(returns: Tensor) -> Tensor:
    """Score by the entropy of the members' mean preference, in nats (B-Pref)."""
    return _over_pairs(
        returns, lambda p: torch.special.entr(torch.stack([p.mean(0), 1 - p.mean(0)])).sum(0)
    )


def spread(returns: Tensor) -> Tensor:
    """Score by the variance, over a query's clips, of the members' mean prediction.

    It asks for a whole range of clips, which an order of many is best at; of two it asks what is
    clear already.
    """
    return returns.mean(0).var(1)


ACQUISITIONS: dict[str, Acquisition] = {
    "uniform": uniform,
    "disagreement": disagreement,
    "entropy": entropy,
    "spread": spread,
}


def _over_pairs(returns: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    pairs = list(combinations(range(returns.shape[2]), 2))
    scores = [score(preference_probability(returns[..., i], returns[..., j])) for i, j in pairs]
    return torch.stack(scores).mean(0)


def choose(
    candidates: Sequence[Group],
    count: int,
    acquisition: Acquisition,
    reward_model: RewardModel | None,
) -> list[Group]:
    """Keep the `count` candidates that the acquisition scores highest, best first.

    Candidates are in random order, so equal scores are a random choice. Without a reward model
    (nothing is fitted yet) the first ones are taken.
    """
    if reward_model is None or acquisition is uniform or not candidates:
        return list(candidates[:count])
    segments = {s.id: s for pair in candidates for s in pair}
    row_of = {name: row for row, name in enumerate(segments)}
    returns = predict_returns(reward_model, list(segments.values()))
    rows = torch.tensor([[row_of[s.id] for s in pair] for pair in candidates])
    scores = acquisition(returns[:, rows])
    order = torch.argsort(scores, descending=True, stable=True)
    return [candidates[i] for i in order[:count].tolist()]
