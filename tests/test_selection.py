"""Which clips are cut, paired and asked about."""

import dataclasses
import math
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from fakes import FixedReward, make_segment, make_trajectory
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import few, many, seeds

from prefrl.config.learning import FitConfig, LoopConfig, QueryConfig
from prefrl.errors import UserError
from prefrl.learning.loop import select
from prefrl.learning.repeats import share_alike
from prefrl.learning.reward import predict_returns
from prefrl.learning.selection import (
    ACQUISITIONS,
    choose,
    cut,
    disagreement,
    drop_alike,
    entropy,
    propose,
    uniform,
)
from prefrl.types import Comparison, QueryId, alike, steps_to_end, text_array


def trajectories_of(lengths):
    """Return trajectories whose numbers tell the trajectory and the step."""
    return [
        make_trajectory(length, start=7, episode=episode, first=1000 * episode)
        for episode, length in enumerate(lengths)
    ]


def origin(segment):
    """Return (trajectory, first step) of a segment."""
    return divmod(int(segment.observations[0, 0]), 1000)


@many
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 6), seeds)
def test_a_segment_is_a_stretch_of_one_trajectory(lengths, length, seed):
    if max(lengths) < length:
        return
    trajectories = trajectories_of(lengths)
    segments, rewards = cut(trajectories, length, 8, np.random.default_rng(seed))
    starts = sum(max(0, total - length + 1) for total in lengths)
    assert len(segments) == min(8, starts), "as many as there are, and no two alike"
    assert len({segment.id for segment in segments}) == len(segments)
    assert rewards.keys() == {segment.id for segment in segments}
    for segment in segments:
        episode, start = origin(segment)
        steps = 1000 * episode + np.arange(start, start + length)
        assert start + length <= lengths[episode], "it leaves the trajectory"
        assert segment.observations[:, 0].tolist() == steps.tolist()
        assert segment.actions[:, 0].tolist() == (-steps).tolist()
        assert segment.extras["qpos"][:, 0].tolist() == (100 * steps).tolist()
        assert rewards[segment.id].tolist() == (10 * steps).tolist()
        assert segment.source == "policy 0"
        assert f"episode {episode}, steps {7 + start}-{7 + start + length - 1}" in segment.id


@pytest.mark.parametrize("count", [1, 4])
def test_every_start_is_equally_likely_the_last_one_too(count):
    lengths, length, draws = [5, 3, 9, 2], 3, 3000
    starts = [(0, 0), (0, 1), (0, 2), (1, 0), *((2, start) for start in range(7))]
    generator, seen = np.random.default_rng(0), Counter()
    trajectories = trajectories_of(lengths)
    for _ in range(draws):
        seen.update(origin(s) for s in cut(trajectories, length, count, generator)[0])
    assert seen.keys() == set(starts)
    expected = draws * count / len(starts)
    chi_square = sum((seen[start] - expected) ** 2 / expected for start in starts)
    assert chi_square < 35.6  # 10 degrees of freedom: one run in 10,000 is above


def lives_of(lives, steps, starts=None):
    """Return trajectories of so many steps, of which the episodes end after those in `lives`."""
    made = []
    for index, life in enumerate(lives):
        start = starts[index] if starts else 0
        one = make_trajectory(steps, start=start, episode=index, first=1000 * index)
        made.append(dataclasses.replace(one, extras={"ended": np.arange(steps) >= life}))
    return made


def moves(segment):
    return steps_to_end(segment) / len(segment)


def test_clips_that_hardly_move_are_not_cut_where_there_are_others():
    trajectories = lives_of([30, 12, 3], 40)
    origins = Counter()
    for seed in range(300):
        for segment in cut(trajectories, 10, 8, np.random.default_rng(seed))[0]:
            assert moves(segment) >= 0.5 or origin(segment)[0] == 2
            origins[origin(segment)] += 1
    possible = {(0, s) for s in range(26)} | {(1, s) for s in range(8)} | {(2, 0), (2, 1)}
    assert origins.keys() == possible, "all that move for half their steps or show half a life"


def test_of_short_lives_half_is_cut_and_what_moves_less_only_if_it_must():
    trajectories = lives_of([4, 3, 4, 0, 2], 14, starts=[0, 0, 5, 5, 5])
    generator = np.random.default_rng(0)

    def cut_in(count):
        return {origin(segment) for segment in cut(trajectories, 10, count, generator)[0]}

    lives = {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}
    assert cut_in(5) == lives
    assert cut_in(6) == lives | {(2, 0)}, "one that began before, but moves as long"
    assert cut_in(7) <= lives | {(2, 0), (2, 1)}
    assert len(cut_in(99)) == 25, "all, if all are asked for"


@many
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 6), seeds)
def test_where_no_episode_ends_early_the_marks_change_nothing(lengths, length, seed):
    if max(lengths) < length:
        return
    plain = trajectories_of(lengths)
    marked = [
        dataclasses.replace(t, extras=t.extras | {"ended": np.zeros(len(t), bool)}) for t in plain
    ]
    cuts = [cut(t, length, 8, np.random.default_rng(seed))[0] for t in (plain, marked)]
    assert [s.id for s in cuts[0]] == [s.id for s in cuts[1]]


def test_a_segment_is_a_copy():
    [trajectory] = trajectories_of([6])
    [segment], rewards = cut([trajectory], 6, 1, np.random.default_rng(0))
    arrays = [segment.observations, segment.actions, segment.extras["qpos"], rewards[segment.id]]
    before = [array.copy() for array in arrays]
    for array in (trajectory.observations, trajectory.actions, trajectory.env_rewards):
        array[:] = -999
    trajectory.extras["qpos"][:] = -999
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)
        assert array.base is None, "it keeps the whole trajectory in memory"


def test_whole_trajectories():
    trajectories = trajectories_of([3, 1, 8])
    segments, rewards = cut(trajectories, None, 2, np.random.default_rng(0))
    assert len(segments) == 2 and len({origin(segment) for segment in segments}) == 2
    everything, rewards = cut(trajectories, None, 99, np.random.default_rng(0))
    assert sorted(map(len, everything)) == [1, 3, 8]
    assert sorted(map(len, rewards.values())) == [1, 3, 8]


@pytest.mark.parametrize("lengths", [[], [4, 2]])
def test_a_clip_longer_than_every_trajectory_is_refused(lengths):
    with pytest.raises(UserError, match=f"lasts 5 steps.* has {max(lengths, default=0)};.*clip"):
        cut(trajectories_of(lengths), 5, 1, np.random.default_rng(0))


def pool(sizes):
    return [
        make_segment(f"{task} {index}", task=task)
        for task, size in sizes.items()
        for index in range(size)
    ]


tasks = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6), min_size=1)


@many
@given(tasks, st.integers(0, 40), seeds)
def test_pairs_are_of_one_task_and_never_twice_the_same(sizes, count, seed):
    segments = pool(sizes)
    pairs = propose(segments, count, np.random.default_rng(seed))
    possible = sum(size * (size - 1) // 2 for size in sizes.values())
    assert len(pairs) == min(count, possible)
    assert all(left.task == right.task and left.id != right.id for left, right in pairs)
    assert len({frozenset((left.id, right.id)) for left, right in pairs}) == len(pairs)
    again = propose(segments, count, np.random.default_rng(seed))
    assert [(a.id, b.id) for a, b in pairs] == [(a.id, b.id) for a, b in again]


@given(st.integers(3, 9), st.lists(st.integers(0, 12), min_size=1, max_size=3), st.integers(0, 9))
@few
def test_groups_are_of_one_task_of_the_size_asked_for_and_never_twice_the_same(size, sizes, count):
    segments = [
        make_segment(f"{task}/{n}", task=str(task)) for task, many in enumerate(sizes)
        for n in range(many)
    ]  # fmt: skip
    groups = propose(segments, count, np.random.default_rng(0), size)
    possible = sum(math.comb(many, size) for many in sizes)
    assert len(groups) == min(count, possible)
    assert len({frozenset(s.id for s in group) for group in groups}) == len(groups)
    for group in groups:
        assert len({s.id for s in group}) == size and len({s.task for s in group}) == 1


def test_every_pair_is_equally_likely_whatever_its_task():
    segments, generator, seen = pool({"a": 4, "b": 2, "c": 1}), np.random.default_rng(0), Counter()
    for _ in range(2000):
        seen.update(frozenset(s.id for s in pair) for pair in propose(segments, 1, generator))
    expected = 2000 / 7
    assert len(seen) == 7
    assert sum((n - expected) ** 2 / expected for n in seen.values()) < 27.9  # 6 degrees, 1e-4


def test_either_side_may_be_left():
    segments, generator = pool({"a": 5}), np.random.default_rng(0)
    left = Counter(propose(segments, 1, generator)[0][0].id for _ in range(1000))
    assert len(left) == 5 and max(left.values()) < 260


def test_one_query_can_be_asked_however_few_clips_there_are():
    """Two clips of four possible ones must never be the same one twice."""
    config = LoopConfig(0, 4, 100, 4, 3, "?", QueryConfig(acquisition="uniform"), FitConfig())
    for seed in range(30):
        config = LoopConfig(**(vars(config) | {"seed": seed}))
        queries, rewards = select(trajectories_of([6]), FixedReward(), config, 0, 1)
        assert len(queries) == 1 and len(rewards) == 2


returns = hnp.arrays(np.float64, (3, 4, 2), elements=st.floats(-20, 20))


@pytest.mark.parametrize("name", ACQUISITIONS)
@few
@given(returns)
def test_an_acquisition_is_a_symmetric_function(name, values):
    returns = torch.tensor(values)
    before = returns.clone()
    scores = ACQUISITIONS[name](returns)
    assert scores.shape == (4,)
    assert torch.equal(returns, before) and torch.equal(ACQUISITIONS[name](returns), scores)
    torch.testing.assert_close(ACQUISITIONS[name](returns.flip(2)), scores)
    torch.testing.assert_close(ACQUISITIONS[name](returns.flip(0)), scores)
    torch.testing.assert_close(ACQUISITIONS[name](returns + 5), scores)
    torch.testing.assert_close(ACQUISITIONS[name](returns[:, [2, 0]]), scores[[2, 0]])


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_an_acquisition_of_more_than_two_is_the_mean_over_pairs(name):
    returns = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    pairs = [ACQUISITIONS[name](returns[..., list(pair)]) for pair in combinations(range(4), 2)]
    torch.testing.assert_close(ACQUISITIONS[name](returns), torch.stack(pairs).mean(0))


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_an_acquisition_bears_any_returns(name):
    returns = torch.tensor([[[1e6, -1e6]], [[-1e6, 1e6]], [[0.0, 0.0]]])
    assert torch.isfinite(ACQUISITIONS[name](returns)).all()


def test_disagreement_is_the_variance_of_the_members_probabilities():
    returns = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]])
    p = [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1)), 0.5]
    assert float(disagreement(returns)) == pytest.approx(np.var(p), rel=1e-5)


@few
@given(hnp.arrays(np.float64, (4, 2), elements=st.floats(-20, 20)))
def test_members_that_agree_do_not_disagree(values):
    agreed = torch.tensor(values).expand(3, 4, 2)
    torch.testing.assert_close(disagreement(agreed), torch.zeros(4, dtype=torch.float64))


def test_entropy_is_highest_where_nothing_is_known():
    returns = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [1e4, 0.0], [30.0, -30.0]]] * 2)
    returns[1, 3] *= -1  # each member is sure, and their mean is not
    p = 1 / (1 + np.exp(-3))
    expected = [np.log(2), -p * np.log(p) - (1 - p) * np.log(1 - p), 0, np.log(2)]
    assert entropy(returns).tolist() == pytest.approx(expected, abs=1e-5)


def pairs_worth(*differences):
    return [
        (make_segment(f"{i} left", value=difference), make_segment(f"{i} right"))
        for i, difference in enumerate(differences)
    ]


def test_choose_prefers_what_members_disagree_about():
    candidates = pairs_worth(0.1, 0, 2, -1, 0.5)
    chosen = choose(candidates, 3, disagreement, FixedReward((1.0, -1.0)))
    assert chosen == [candidates[2], candidates[3], candidates[4]]
    # Members that agree: whatever comes first.
    assert choose(candidates, 3, disagreement, FixedReward((1.0, 1.0))) == candidates[:3]
    chosen = choose(candidates, 2, entropy, FixedReward((1.0, 1.0)))
    assert chosen == [candidates[1], candidates[0]]


@few
@given(st.integers(0, 8), seeds)
def test_choose_returns_some_of_the_candidates(count, seed):
    differences = np.random.default_rng(seed).normal(size=8)
    candidates = pairs_worth(*differences)
    for name, acquisition in ACQUISITIONS.items():
        chosen = choose(candidates, count, acquisition, FixedReward((1.0, -2.0, 0.3)))
        assert len(chosen) == count, name
        assert len({id(pair) for pair in chosen}) == count
        assert all(pair in candidates for pair in chosen)


def test_segments_shared_by_candidates_are_told_apart():
    worth = [make_segment(str(value), value=value) for value in (0.0, 1.0, 4.0)]
    candidates = [(worth[0], worth[1]), (worth[1], worth[2]), (worth[0], worth[2])]
    chosen = choose(candidates, 3, disagreement, FixedReward((1.0, -1.0)))
    assert chosen == [candidates[2], candidates[1], candidates[0]]


def test_choosing_at_random_asks_no_reward_model():
    candidates = pairs_worth(1, 2, 3)
    assert choose(candidates, 2, uniform, None) == candidates[:2]
    assert choose(candidates, 2, uniform, object()) == candidates[:2]
    assert choose(candidates, 2, disagreement, None) == candidates[:2]


def apart(left, right):
    return abs(left.observations[0, 0] - right.observations[0, 0])


@many
@given(st.lists(st.integers(-4, 4), max_size=12), st.integers(0, 14))
def test_pairs_that_look_alike_are_dropped_and_the_rest_stay_in_order(differences, count):
    candidates = pairs_worth(*differences)
    kept = drop_alike(candidates, count, apart)
    kept_rows = [candidates.index(pair) for pair in kept]
    assert len(kept) == min(count, len(candidates)) and kept_rows == sorted(set(kept_rows))
    dropped = [row for row in range(len(candidates)) if row not in kept_rows]
    for row in kept_rows:
        for other in dropped:
            near, far = (abs(differences[p]) for p in (other, row))
            assert far > near or (far == near and row < other), "of equals the first stay"


@few
@given(st.integers(1, 6), seeds)
def test_who_is_asked_by_looks_gets_the_queries_due_and_never_a_dull_one_for_a_telling(count, seed):
    query = QueryConfig(acquisition="uniform", pool=4)
    config = LoopConfig(seed, 4, 100, 4, 3, "?", query, FitConfig())
    trajectories = trajectories_of([30, 30])
    queries, rewards = select(trajectories, FixedReward(), config, 0, count, apart)
    assert len(queries) == count and len(rewards) == len(
        {s.id for q in queries for s in q.segments}
    )
    generator = np.random.default_rng([seed, 0])
    offered = propose(cut(trajectories, 3, 8 * count, generator)[0], 4 * count, generator)
    middle = np.median([apart(*pair) for pair in offered])
    assert all(apart(*query.segments) >= middle for query in queries)


def test_whole_trajectories_are_cut_task_by_task():
    """Else there would be nothing to compare: a few of many tasks' completions seldom meet."""
    trajectories = [make_trajectory(1, task=f"seed {n // 4}", episode=n) for n in range(400)]
    segments, _ = cut(trajectories, None, 20, np.random.default_rng(0))
    by_task = Counter(segment.task for segment in segments)
    assert sorted(by_task.values()) == [4] * 5
    others, _ = cut(trajectories, None, 20, np.random.default_rng(1))
    assert {s.task for s in others} != by_task.keys(), "which tasks is drawn"
    assert len(propose(segments, 30, np.random.default_rng(0))) == 30


# --- texts that are the same ------------------------------------------------------------------


def replies(*tasks):
    """Return one-turn texts: of each task a string, whose letters are the replies."""
    made = []
    for task, letters in enumerate(tasks):
        for letter in letters:
            plain = make_trajectory(1, task=f"seed {task}", episode=len(made), first=len(made))
            texts = {"observations": text_array([f"{task}: "]), "actions": text_array([letter])}
            made.append(dataclasses.replace(plain, **texts))
    return made


def of_texts(**changes):
    return LoopConfig(0, 4, 100, 4, None, "?", QueryConfig(**changes), FitConfig())


@few
@given(st.lists(st.text("abc", max_size=5), min_size=1, max_size=6), st.integers(1, 9), seeds)
def test_texts_that_are_the_same_never_meet_and_other_pairs_suffice(tasks, count, seed):
    config = dataclasses.replace(of_texts(), seed=seed)
    possible = sum(math.comb(len(set(letters)), 2) for letters in tasks)
    if any(len(set(letters)) < len(letters) for letters in tasks):
        queries, rewards = select(replies(*tasks), None, config, seed % 2, count)
        assert len(queries) == min(count, possible), "fewer only where there are no more"
        assert rewards.keys() == {s.id for query in queries for s in query.segments}
        assert not any(alike(*query.segments) for query in queries)


def test_orders_are_of_fewer_texts_where_some_are_the_same_text():
    tasks = ("abca", "aaab", "bbbb", "abcd")
    queries, _ = select(replies(*tasks), None, of_texts(kind="ranking", clips=4), 1, 4)
    shown = sorted("".join(sorted(str(s.actions[0]) for s in q.segments)) for q in queries)
    assert shown == ["ab", "abc", "abcd"]


def test_where_all_texts_are_the_same_nothing_is_asked():
    queries, rewards = select(replies("aaaa", "bb"), None, of_texts(), 0, 3)
    assert queries == [] and rewards == {}


def test_where_no_texts_are_the_same_too_few_are_refused_as_ever():
    with pytest.raises(UserError, match="3 queries were due in round 0, but its 2 steps give only"):
        select(replies("ab"), None, of_texts(), 0, 3)


def test_the_share_of_pairs_of_texts_that_are_the_same():
    assert share_alike(replies("aaaa", "abc")) == 6 / 9
    assert share_alike(replies("aab", "b")) == 1 / 3, "texts of other tasks are no pair"
    assert share_alike(replies("a", "b")) is None
    assert share_alike([make_trajectory(3), make_trajectory(3)]) is None, "numbers"


# --- many clips a query -----------------------------------------------------------------------


def asked(clips, kind="ranking", **changes):
    query = QueryConfig(kind=kind, clips=clips, **changes)
    return LoopConfig(3, 4, 100, 40, 3, "?", query, FitConfig())


def test_spread_asks_for_a_range_of_clips():
    returns = torch.tensor([[[0.0, 1.0, 5.0], [2.0, 2.0, 2.5], [-4.0, 0.0, 4.0]]])
    scores = ACQUISITIONS["spread"](returns.repeat(2, 1, 1))
    assert scores.tolist() == pytest.approx([7.0, 1 / 12, 16.0])
    disagreeing = torch.stack([returns[0], -returns[0]])
    assert ACQUISITIONS["spread"](disagreeing).tolist() == [0, 0, 0], "on which members agree"


def test_anchors_are_liked_clips_of_earlier_rounds():
    clips = [make_segment(f"clip {n}", value=n) for n in range(200)]
    model = FixedReward()
    comparisons = [
        Comparison(*pair, 1.0, query=QueryId(0, n)) for n, pair in enumerate(pairwise(clips))
    ]
    liked = predict_returns(model, clips).mean(0)
    best = {clips[row].id for row in torch.argsort(liked, descending=True)[:20].tolist()}
    queries, rewards = select(
        trajectories_of([60, 60]), model, asked(5, anchors=2), 1, 6, None, comparisons
    )
    for query in queries:
        fresh, old = query.segments[:3], query.segments[3:]
        assert {s.id for s in old} <= best and len({s.id for s in old}) == 2
        assert all(s.id in rewards for s in fresh) and not any(s.id in rewards for s in old)
    assert len({s.id for q in queries for s in q.segments[3:]}) > 2, "not the same in every query"
    imported = [dataclasses.replace(c, query=QueryId(-1, 0)) for c in comparisons]
    for none in ([], imported):
        [query], rewards = select(
            trajectories_of([60]), model, asked(5, anchors=2), 1, 1, None, none
        )
        assert len(query.segments) == 5 and all(s.id in rewards for s in query.segments)
