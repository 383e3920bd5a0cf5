"""Fitting a reward model, and the ensemble that serves control."""

import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import ClassVar

import numpy as np
import pytest
import torch
from fakes import FixedReward, LinearReward, NumberWorld, WordWorld, make_segment
from gymnasium.spaces import Box, Discrete
from hypothesis import given
from hypothesis import strategies as st
from strategies import few

from prefrl.answers import to_comparisons
from prefrl.config.control import RewardConfig
from prefrl.config.learning import FitConfig
from prefrl.control.reward import RewardEnsemble
from prefrl.errors import UserError
from prefrl.learning.bags import bag_weights, hashed_order
from prefrl.learning.preference import preference_loss
from prefrl.learning.reward import (
    L2_LIMITS,
    L2_STEP,
    METRICS,
    FitState,
    comparison_returns,
    fit,
    fit_passes,
    predict_returns,
)
from prefrl.learning.true_reward import TrueReward
from prefrl.learning.validation import TEMPERATURES, calibrate_probabilities
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.types import Answer, Comparison, Query, QueryId, Segment, Trajectory

NEVER_STOP = {"stop_accuracy": 2.0}
BOX = Box(-1, 1, (1,))
# Spelt out, so that the defaults can be tuned without a word from here.
SMALL = RewardConfig(members=3, hidden=(16,), steps_per_clip=16, crop=0.7, scale=30.0)
FIT = FitConfig(
    learning_rate=1e-3, epochs=10, first_epochs=100, batch_size=128, uniform_error=0.1,
    label_smoothing=0.0, margin_scale=1.0, stop_accuracy=0.97, l2=1e-4, l2_low=1.1, l2_high=1.5,
    enough_out_of_bag=20, held_out=0.37, patience=0,
)  # fmt: skip


def play(world, count, seed=0):
    """Return trajectories of a policy that has learned nothing."""
    generator = np.random.default_rng(seed)
    skill = np.zeros(world.size)
    return [world.play(skill, generator, f"seed {seed}", episode) for episode in range(count)]


def segment_of(trajectory):
    name = f"{trajectory.source}, {trajectory.episode}"
    return Segment(name, trajectory.observations, trajectory.actions, task=trajectory.task)


def compare(trajectories, margin=0.0):
    """Compare each trajectory with the next by true return; a tie is a tie."""
    comparisons = []
    for index, (left, right) in enumerate(zip(trajectories[::2], trajectories[1::2], strict=True)):
        difference = left.env_rewards.sum() - right.env_rewards.sum()
        preference = 0.5 + 0.5 * float(np.sign(difference))
        sides = segment_of(left), segment_of(right)
        comparisons.append(Comparison(*sides, preference, margin, query=QueryId(0, index)))
    return comparisons


def ensemble(members=3, config=SMALL, seed=0, network=None, size=2, space=BOX):
    return RewardEnsemble(size, space, replace(config, members=members), seed, network)


def linear(members=3):
    return LinearReward(NumberWorld(), members)


def fitted(model, comparisons, seed=0, **config):
    config = replace(FIT, **config)
    state = FitState(model, config, seed)
    return fit(model, comparisons, config, state), state


# --- bags -------------------------------------------------------------------------------------


def test_bags_are_poisson_with_mean_one():
    queries = [QueryId(round_index, index) for round_index in range(20) for index in range(500)]
    weights = bag_weights(0, queries, 4)
    assert weights.shape == (4, 10_000)
    share = [float((weights == count).float().mean()) for count in range(5)]
    for count in range(5):
        exact = math.exp(-1) / math.factorial(count)
        assert share[count] == pytest.approx(exact, abs=4 * math.sqrt(exact / 40_000))
    assert float(weights.mean()) == pytest.approx(1, abs=4 / math.sqrt(40_000))
    together = np.corrcoef(weights.numpy())[np.triu_indices(4, 1)]
    assert np.abs(together).max() < 4 / math.sqrt(10_000), "members share their bags"


@few
@given(st.integers(0, 9), st.integers(2, 4), st.permutations(range(12)))
def test_a_bag_depends_on_seed_query_and_member_alone(seed, members, order):
    queries = [QueryId(index // 4, index % 4) for index in range(12)]
    weights = bag_weights(seed, queries, 4)
    shuffled = [queries[row] for row in order]
    assert torch.equal(bag_weights(seed, shuffled, 4), weights[:, list(order)])
    assert torch.equal(bag_weights(seed, queries, members), weights[:members])
    assert torch.equal(bag_weights(seed, queries * 2, 4), weights.repeat(1, 2)), "one fate a query"
    assert not torch.equal(bag_weights(seed + 1, queries * 9, 4), weights.repeat(1, 9))


def test_bags_are_the_same_in_every_version():
    # Changing the hash would move comparisons between training and validation in resumed runs.
    queries = [QueryId(0, 0), QueryId(0, 1), QueryId(1, 0), QueryId(12, 3)]
    assert bag_weights(7, queries, 2).tolist() == GOLDEN_BAGS


GOLDEN_BAGS = [[0, 1, 1, 0], [1, 1, 1, 1]]


def test_one_member_learns_from_all_answers_but_a_stated_share_of_the_queries():
    queries = [QueryId(round_index, index) for round_index in range(20) for index in range(500)]
    assert bag_weights(0, queries, 1).unique().tolist() == [1]
    weights = bag_weights(0, queries, 1, 0.1)
    assert weights.unique().tolist() == [0, 1]
    assert float((weights == 0).float().mean()) == pytest.approx(0.1, abs=4 * 0.3 / 100)
    assert torch.equal(bag_weights(0, queries[::-1], 1, 0.1), weights.flip(1)), "for life"
    assert not torch.equal(bag_weights(1, queries, 1, 0.1), weights)
    assert torch.equal(bag_weights(0, queries, 2, 0.1), bag_weights(0, queries, 2)), "have bags"
    hidden = bag_weights(7, [QueryId(0, index) for index in range(30)], 1, 0.1)[0] == 0
    assert hidden.nonzero().flatten().tolist() == GOLDEN_HELD_OUT, "the same in every version"


GOLDEN_HELD_OUT = [3, 9, 11, 17, 23, 27]


def test_a_hashed_order_depends_on_the_seed_and_each_name_alone():
    names = [f"prompt {number} \ud800" for number in range(50)]
    order = [names[row] for row in hashed_order(0, names)]
    assert sorted(order) == sorted(names) and order != names
    assert [names[::-1][row] for row in hashed_order(0, names[::-1])] == order
    fewer = [name for name in order if name != names[3]]
    assert [fewer[row] for row in hashed_order(0, fewer)] == fewer
    assert [names[row] for row in hashed_order(1, names)] != order


# --- fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [linear, ensemble])
def test_what_is_out_of_a_members_bag_does_not_reach_its_weights(build):
    comparisons = compare(play(NumberWorld(), 80))
    out = bag_weights(3, [c.query for c in comparisons], 3)[0] == 0
    assert 5 < out.sum() < 30
    changed = [
        Comparison(c.left, c.right, 1 - c.preference, 1.0, 1.0, c.query) if hidden else c
        for c, hidden in zip(comparisons, out, strict=True)
    ]
    before, after = build(), build()
    options = {"first_epochs": 4, "batch_size": 16, **NEVER_STOP}
    fitted(before, comparisons, 3, **options)
    fitted(after, changed, 3, **options)
    others_moved = False
    for left, right in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(left[0], right[0])
        others_moved |= not torch.equal(left[1:], right[1:])
    assert others_moved


def test_a_member_learns_alike_among_few_and_among_many():
    comparisons = compare(play(NumberWorld(), 60), margin=0.2)
    few, many = linear(2), linear(4)
    assert torch.equal(few.weights, many.weights[:2])
    start = few.weights[0].clone()
    options = {"first_epochs": 5, "batch_size": 8, "l2": 1e-3, **NEVER_STOP}
    fitted(few, comparisons, **options)
    fitted(many, comparisons, **options)
    torch.testing.assert_close(few.weights, many.weights[:2])
    assert (few.weights[0] - start).abs().max() > 0.01


def test_one_step_follows_the_mean_loss_over_each_bag():
    """One epoch of one batch: the gradient that Adam saw is the one computed by hand."""
    comparisons = compare(play(NumberWorld(), 40), margin=0.3)
    model = linear(2)
    weights = model.weights.detach().clone().requires_grad_()
    _, state = fitted(model, comparisons, 5, first_epochs=1, batch_size=99, l2=0.01)
    bags = bag_weights(5, [c.query for c in comparisons], 2)
    total = 0.01 * weights.square().sum()
    for member in range(2):
        losses = []
        for c in comparisons:
            sums = [
                model.world.features(s.observations, s.actions).sum(0) for s in (c.left, c.right)
            ]
            logit = weights[member] @ torch.tensor(sums[0] - sums[1], dtype=torch.float32)
            sign = 1 if c.preference == 1 else -1
            losses.append(-torch.log(0.9 * torch.sigmoid(sign * logit - 0.3) + 0.05))
        total = total + (torch.stack(losses) * bags[member]).sum() / bags[member].sum()
    total.backward()
    first_moment = state.optimizer.state[model.weights]["exp_avg"]
    torch.testing.assert_close(first_moment, 0.1 * weights.grad, rtol=1e-4, atol=1e-6)


def bag_of_one(queries, seed=0):
    return bag_weights(seed, queries, 1, FIT.held_out)[0]


def test_weights_of_comparisons_count():
    sides = make_segment("a", value=0.5), make_segment("b", value=0.0)
    query = next(i for i in range(99) if bag_of_one([QueryId(0, i)])[0] == 1)
    light = Comparison(*sides, 1.0, weight=0.25, query=QueryId(0, query))
    heavy = Comparison(*sides, 0.0, weight=0.75, query=QueryId(0, query))
    metrics, _ = fitted(FixedReward(), [light, heavy], first_epochs=1, **NEVER_STOP)
    loss = [-math.log(0.9 / (1 + math.exp(-x)) + 0.05) for x in (0.5, -0.5)]
    assert metrics["train_loss"] == pytest.approx(0.25 * loss[0] + 0.75 * loss[1], rel=1e-5)
    assert metrics["train_accuracy"] == pytest.approx(0.25)


def fixed_comparisons(count=400, seed=0, wrong_out_of_bag=False):
    """Return comparisons whose left side is worth 1 more, and the bag of the only member."""
    queries = [QueryId(2, index) for index in range(count)]
    bag = bag_of_one(queries, seed)
    comparisons = []
    for query, times in zip(queries, bag, strict=True):
        better = make_segment(f"{query} better", value=1.0)
        worse = make_segment(f"{query} worse", value=0.0)
        right = 0.0 if wrong_out_of_bag and times == 0 else 1.0
        comparisons.append(Comparison(better, worse, right, query=query))
    return comparisons, bag


def test_metrics_are_what_they_say():
    comparisons, bag = fixed_comparisons(60)
    # Turn some answers round, and make some ties, in and out of the bag.
    answers = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 60)
    comparisons = [
        Comparison(c.left, c.right, float(answer), query=c.query)
        for c, answer in zip(comparisons, answers, strict=True)
    ]
    metrics, state = fitted(
        FixedReward(), comparisons, first_epochs=3, batch_size=7, enough_out_of_bag=999, l2=0.005
    )
    losses = [math.log(0.9 * p + 0.05) for p in (1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)))]
    losses = -(answers * losses[0] + (1 - answers) * losses[1])
    bag = bag.numpy()
    hits, decided = answers == 1.0, answers != 0.5
    assert metrics == pytest.approx(
        {
            "train_loss": np.average(losses, weights=bag),
            "out_of_bag_loss": losses[bag == 0].mean(),
            "preferred_return": np.average(hits[decided], weights=bag[decided]),
            "other_return": np.average(~hits[decided], weights=bag[decided]),
            "train_accuracy": np.average(hits[decided], weights=bag[decided]),
            "out_of_bag_accuracy": hits[decided & (bag == 0)].mean(),
            "l2": 0.005,
            "epochs": 3,
        },
        rel=1e-4,
    )
    assert state.l2 == 0.005


def test_an_answer_about_clips_that_show_the_same_is_neither_right_nor_wrong():
    comparisons, _ = fixed_comparisons(60)
    twice = [
        Comparison(c.left, replace(c.left, id=f"{c.left.id} again"), c.preference, query=c.query)
        for c in comparisons
    ]
    before, _ = fitted(FixedReward(), comparisons, first_epochs=1, **NEVER_STOP)
    metrics, _ = fitted(FixedReward(), comparisons + twice, first_epochs=1, **NEVER_STOP)
    for name in ("train_accuracy", "out_of_bag_accuracy"):
        assert before[name] == metrics[name] == 1.0


def test_a_mean_over_nothing_is_left_out():
    comparisons, bag = fixed_comparisons(60)
    inside = comparisons[int(bag.argmax())]
    tie = Comparison(inside.left, inside.right, 0.5, query=inside.query)
    metrics, _ = fitted(FixedReward(), [tie], first_epochs=2)
    assert metrics.keys() == {"train_loss", "l2", "epochs"}, "nothing decisive, nothing out of bag"


def test_accuracy_is_the_mean_over_members():
    comparisons, _ = fixed_comparisons(50)
    metrics, _ = fitted(FixedReward((1.0, -1.0, 1.0, -1.0)), comparisons, first_epochs=1)
    assert metrics["train_accuracy"] == pytest.approx(0.5)
    assert metrics["out_of_bag_accuracy"] == pytest.approx(0.5)


def ranked(count, clips=6, seed=0):
    """Return the comparisons of `count` orders of clips, by true return."""
    played = play(NumberWorld(), count * clips, seed)
    lessons = []
    for index in range(count):
        group = played[index * clips : (index + 1) * clips]
        order = sorted(range(clips), key=lambda row: -group[row].env_rewards.sum())
        query = Query(QueryId(0, index), tuple(map(segment_of, group)), "ranking")
        answer = Answer(query.id, "ranking", {"order": [[row] for row in order]})
        lessons += to_comparisons(query, answer).comparisons
    return lessons


def test_each_clip_of_an_order_is_evaluated_once_a_pass():
    comparisons, model = ranked(5), linear()
    seen, returns = [], model.returns

    def counted(encoded, rows, generator):
        seen.extend(rows.tolist())
        return returns(encoded, rows, generator)

    model.returns = counted
    fitted(model, comparisons, first_epochs=1, batch_size=45, **NEVER_STOP)
    assert len(comparisons) == 5 * 15 and sorted(seen) == list(range(30))


def test_orders_are_learned_from_as_choices_of_the_best_of_the_rest():
    """One pass without a step tells the loss: the mean over choices, by the bags."""
    comparisons, model = ranked(9), linear(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    options = {"first_epochs": 1, "batch_size": 999, "l2": 0.0, "rankings": "plackett-luce"}
    metrics, _ = fitted(model, comparisons, learning_rate=1e-12, uniform_error=0.0, **options)
    bag = bag_of_one([QueryId(0, index) for index in range(9)])
    segments = {s.id: s for c in comparisons for s in (c.left, c.right)}
    value = dict(zip(segments, predict_returns(model, [*segments.values()])[0], strict=True))
    losses = []
    for index in range(9):
        mine = [c for c in comparisons if c.query.index == index]
        wins = Counter((c.left if c.preference else c.right).id for c in mine)
        names = {s.id for c in mine for s in (c.left, c.right)}
        order = torch.stack([value[name] for name in sorted(names, key=lambda n: -wins[n])])
        stages = [torch.logsumexp(order[row:], 0) - order[row] for row in range(5)]
        losses.append(float(torch.stack(stages).sum()) / 5)
    inside, outside = bag > 0, bag == 0
    losses = torch.tensor(losses)
    expected = float((losses * bag)[inside].sum() / bag.sum())
    assert metrics["train_loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["out_of_bag_loss"] == pytest.approx(float(losses[outside].mean()), rel=1e-4)


@pytest.mark.parametrize("rankings", ["pairs", "plackett-luce"])
def test_a_few_orders_teach_what_pays(rankings):
    options = {"first_epochs": 60, "learning_rate": 0.01, "rankings": rankings, **NEVER_STOP}
    model = linear()
    fitted(model, ranked(12), **options)
    fresh = play(NumberWorld(), 100, seed=1)
    predicted = predict_returns(model, list(map(segment_of, fresh))).mean(0).numpy()
    true = [trajectory.env_rewards.sum() for trajectory in fresh]
    assert np.corrcoef(predicted, true)[0, 1] > 0.9


MIDDLE = math.sqrt(L2_LIMITS[0] * L2_LIMITS[1])


@pytest.mark.parametrize(
    ("wrong", "enough", "l2", "expected"),
    [
        (True, 20, MIDDLE, MIDDLE * L2_STEP),  # out of bag it errs: too little penalty
        (False, 20, MIDDLE, MIDDLE / L2_STEP),  # as good out of bag as in it: too much
        (True, 200, MIDDLE, MIDDLE),  # too few out of bag to tell
        (False, 200, MIDDLE, MIDDLE),
        (True, 20, L2_LIMITS[1], L2_LIMITS[1]),
        (False, 20, L2_LIMITS[0], L2_LIMITS[0]),
    ],
)
def test_the_penalty_follows_the_ratio_of_losses(wrong, enough, l2, expected):
    comparisons, bag = fixed_comparisons(400, wrong_out_of_bag=wrong)
    assert 120 < (bag == 0).sum() < 180
    metrics, state = fitted(
        FixedReward(), comparisons, first_epochs=1, l2=l2, enough_out_of_bag=enough
    )
    assert metrics["l2"] == l2, "the metrics tell which penalty was used"
    assert state.l2 == pytest.approx(expected)


def test_the_penalty_stays_while_the_ratio_is_in_the_band():
    comparisons, _ = fixed_comparisons(400)
    _, state = fitted(FixedReward(), comparisons, first_epochs=1, l2=MIDDLE, l2_low=0.9)
    assert state.l2 == MIDDLE


def test_a_fit_stops_once_it_is_accurate_and_the_first_may_take_longer():
    comparisons, _ = fixed_comparisons(40)
    config = replace(FIT, epochs=2, first_epochs=6)
    wrong, right = FixedReward((-1.0,)), FixedReward((1.0,))
    state = FitState(wrong, config, 0)
    assert fit(wrong, [], config, state) == {}
    assert fit(wrong, comparisons, config, state)["epochs"] == 6
    assert fit(wrong, comparisons, config, state)["epochs"] == 2
    assert fit(right, comparisons, config, FitState(right, config, 0))["epochs"] == 1


def test_passes_are_made_as_they_are_pulled_and_a_fit_is_so_many_of_them():
    comparisons = compare(play(NumberWorld(), 60))
    config = replace(FIT, first_epochs=3, batch_size=16, l2=0.0)
    model, other = linear(), linear()
    state = FitState(model, config, 1)
    pulled = list(islice(fit_passes(model, comparisons, config, state), 3))
    metrics = fit(other, comparisons, config, FitState(other, config, 1))
    assert metrics.pop("epochs") == 3 and metrics.pop("l2") == 0
    assert pulled[2]["out_of_bag_count"] > 0
    assert {name: pulled[2][name] for name in METRICS} == metrics
    assert pulled[2]["train_loss"] < pulled[1]["train_loss"]
    assert state.fits == 0, "a fit counts itself; its passes do not"
    left, right = comparison_returns(model, comparisons)
    for row, comparison in enumerate(comparisons):
        both = predict_returns(other, [comparison.left, comparison.right])
        assert torch.equal(both, torch.stack([left[:, row], right[:, row]], dim=1))


def noisy(count=60, seed=0):
    """Return comparisons of which a third is turned round: more passes soon make a fit worse."""
    comparisons = compare(play(NumberWorld(), 2 * count, seed))
    return [
        replace(c, preference=1 - c.preference) if row % 3 == 0 else c
        for row, c in enumerate(comparisons)
    ]


@pytest.mark.parametrize("members", [1, 3])
def test_the_best_pass_by_what_is_not_learned_from_is_kept(members):
    """It is where a fit without patience stands after as many passes, to the bit."""
    options = {"batch_size": 8, "learning_rate": 0.02, "l2": 0.0, "enough_out_of_bag": 5}
    model = ensemble(members)
    metrics, state = fitted(model, noisy(), first_epochs=40, patience=3, **options)
    assert 1 <= metrics["best_epoch"] == metrics["epochs"] - 3 < 20
    again = ensemble(members)
    config = replace(FIT, first_epochs=40, patience=99, **options)
    state = FitState(again, config, 0)
    lines, weights = [], []
    for scores in islice(fit_passes(again, noisy(), config, state), int(metrics["epochs"])):
        lines.append(scores)
        weights.append([parameter.detach().clone() for parameter in again.parameters()])
    losses = [line["out_of_bag_loss"] for line in lines]
    best = int(metrics["best_epoch"]) - 1
    assert min(losses) == losses[best] == metrics["out_of_bag_loss"]
    assert metrics["train_loss"] == lines[best]["train_loss"]
    assert all(map(torch.equal, model.parameters(), weights[best]))
    assert not all(map(torch.equal, model.parameters(), weights[-1]))


def test_a_pass_is_chosen_by_the_weights_it_ends_with():
    options = {"batch_size": 8, "l2": 0.0, "enough_out_of_bag": 5, "patience": 9}
    model, comparisons = linear(2), noisy()
    metrics, _ = fitted(model, comparisons, first_epochs=1, **options)
    bags = bag_weights(0, [c.query for c in comparisons], 2)
    left, right = comparison_returns(model, comparisons)
    preference = torch.tensor([c.preference for c in comparisons])
    losses = preference_loss(left, right, preference, uniform_error=0.1)
    expected = [losses[member][bags[member] == 0].mean() for member in range(2)]
    assert metrics["out_of_bag_loss"] == pytest.approx(float(sum(expected)) / 2, rel=1e-5)


def test_without_enough_to_choose_by_all_passes_are_made_and_the_last_is_kept():
    for options in ({"enough_out_of_bag": 10**6}, {"held_out": 0.0, "enough_out_of_bag": 0}):
        model, last = linear(1), linear(1)
        metrics, _ = fitted(model, noisy(), first_epochs=12, patience=1, **options)
        fitted(last, noisy(), first_epochs=12, **options)
        assert metrics["epochs"] == 12 and "best_epoch" not in metrics
        assert torch.equal(model.weights, last.weights)


def test_the_standard_loss_stands_beside_the_one_that_is_minimised():
    comparisons, bag = fixed_comparisons(60)
    model, config = FixedReward(), replace(FIT, label_smoothing=0.2)
    comparisons = [replace(c, margin=0.7) for c in comparisons]
    [scores] = islice(fit_passes(model, comparisons, config, FitState(model, config, 0)), 1)
    standard = math.log(1 + math.exp(-1))
    for side in ("train", "out_of_bag"):
        assert scores[f"{side}_bradley_terry"] == pytest.approx(standard, rel=1e-5)
        assert scores[f"{side}_loss"] > standard + 0.1
    assert (scores["train_decisive"], scores["out_of_bag_decisive"]) == (
        float(bag.sum()), float((bag == 0).sum()),
    )  # fmt: skip


# --- how far probabilities may be taken at their word ------------------------------------------


def test_calibrated_probabilities_are_in_order_and_others_are_mended_by_their_temperature():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40_000, generator=generator)
    said = (torch.rand(40_000, generator=generator) < torch.sigmoid(logits)).float()
    weight = torch.ones(40_000)
    good = calibrate_probabilities(logits, said, weight)
    assert good.error < 0.01 and good.temperature == pytest.approx(1, abs=0.03)
    sure = calibrate_probabilities(3 * logits, said, weight)
    assert sure.temperature == pytest.approx(3, abs=0.09)
    assert sure.error > 0.1 > 0.01 > sure.mended_error
    assert len(sure.bins) == 10 and sum(b.weight for b in sure.bins) == 40_000
    assert all(b.confidence > b.right for b in sure.bins[1:]), "it is too sure"


def test_a_calibration_by_hand():
    """Of three with a confidence of σ(2) two are right; a tie has no right side."""
    logits = torch.tensor([2.0, -2.0, -2.0, 0.1, 9.0])
    found = calibrate_probabilities(
        logits, torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5]), torch.tensor([1.0, 1.0, 1.0, 0.5, 7.0])
    )
    low, high = (1 / (1 + math.exp(-lead)) for lead in (0.1, 2.0))
    assert [(b.weight, b.right) for b in found.bins] == [(0.5, 0), (3, pytest.approx(2 / 3))]
    assert [b.confidence for b in found.bins] == pytest.approx([low, high])
    assert found.error == pytest.approx((0.5 * low + 3 * (high - 2 / 3)) / 3.5)
    leads, weight = np.array([2, 2, -2, -0.1]), np.array([1, 1, 1, 0.5])
    grid = np.exp(np.linspace(-3, 4, 20_000))
    losses = (np.log1p(np.exp(-leads / grid[:, None])) * weight).sum(1)
    assert found.temperature == pytest.approx(grid[losses.argmin()], rel=1e-3)


def test_where_all_or_most_is_right_or_wrong_the_temperature_is_at_its_limit():
    ones = torch.ones(4)
    for sign, limit in ((1, TEMPERATURES[0]), (-1, TEMPERATURES[1])):
        found = calibrate_probabilities(sign * torch.tensor([1.0, 2, 3, 4]), ones, ones)
        assert found.temperature == pytest.approx(limit)


@pytest.mark.parametrize("build", [linear, ensemble])
def test_a_warm_start_from_saved_bytes_gives_the_same_bits(build):
    comparisons = compare(play(NumberWorld(), 120))
    # The penalty rises in every fit, since the losses' ratio is above 0.
    moving = {"l2": MIDDLE, "l2_low": 0, "l2_high": 0, "enough_out_of_bag": 1}
    config = replace(FIT, epochs=3, first_epochs=3, batch_size=16, **moving)

    def run(interrupted):
        model = build()
        state = FitState(model, config, 1)
        for end in (30, 45, 60):
            metrics = fit(model, comparisons[:end], config, state)
            if interrupted:
                saved = to_bytes({"model": model.state_dict(), "fit": state.state_dict()})
                model = build()
                state = FitState(model, config, 1)
                loaded = from_bytes(saved)
                model.load_state_dict(loaded["model"])
                state.load_state_dict(loaded["fit"])
        return metrics, predict_returns(model, [c.left for c in comparisons]), state.l2

    plain, resumed = run(False), run(True)
    assert plain[0] == resumed[0]
    assert torch.equal(plain[1], resumed[1])
    assert plain[2] == resumed[2] > MIDDLE


def test_the_seed_decides_the_order_of_minibatches():
    comparisons = compare(play(NumberWorld(), 40))
    options = {"first_epochs": 2, "batch_size": 4, **NEVER_STOP}
    first, same, other = linear(), linear(), linear()
    for model, seed in ((first, 0), (same, 0), (other, 1)):
        fitted(model, comparisons, seed, **options)
    assert torch.equal(first.weights, same.weights)
    assert not torch.equal(first.weights, other.weights)


def test_fit_recovers_a_linear_reward():
    trajectories = play(NumberWorld(), 800)
    model = ensemble(config=replace(SMALL, hidden=(64, 64), crop=1.0))
    metrics, _ = fitted(model, compare(trajectories[:600]))
    assert metrics["out_of_bag_accuracy"] > 0.9
    held_out = compare(trajectories[600:])
    sides = [[getattr(c, side) for c in held_out] for side in ("left", "right")]
    left, right = (predict_returns(model, side).mean(0) for side in sides)
    assert np.mean([c.preference for c in held_out] == (left > right).numpy()) > 0.9
    model.calibrate(trajectories[600:])
    predicted = np.concatenate(model.rewards(trajectories[600:]))
    true = np.concatenate([t.env_rewards for t in trajectories[600:]])
    assert np.corrcoef(predicted, true)[0, 1] > 0.9


def test_the_same_fit_serves_text():
    world = WordWorld()
    talks = play(world, 800)
    assert talks[0].actions.dtype.kind == "U" and len({len(talk) for talk in talks}) == 4
    comparisons = compare(talks)
    assert any(c.preference == 0.5 for c in comparisons)
    model = LinearReward(world)
    metrics, _ = fitted(model, comparisons, learning_rate=0.03, **NEVER_STOP)
    assert metrics["out_of_bag_accuracy"] > 0.9
    kind, rude, *_ = model.weights.mean(0).tolist()
    assert kind > 0 > rude


# --- the ensemble for control -----------------------------------------------------------------


def steps_of(length, value=None, generator=None):
    generator = generator or np.random.default_rng(length)
    observations = (
        generator.normal(size=(length, 2)) if value is None else np.full((length, 2), value)
    )
    actions = generator.normal(size=(length, 1)) if value is None else np.zeros((length, 1))
    return observations, actions


def segments_of(*lengths):
    return [Segment(f"clip {i}", *steps_of(length)) for i, length in enumerate(lengths)]


def trajectories_of(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [
        Trajectory(*steps_of(length, generator=generator), generator.normal(size=length))
        for length in lengths
    ]


def encoded(model, *lengths):
    """Fix the normalisation, and return segments with their encoding."""
    segments = segments_of(*lengths)
    data = model.encode(segments)
    model.normalise_inputs(data)
    return segments, data


def test_the_return_of_a_clip_is_its_mean_reward_scaled():
    model = ensemble()
    segments = segments_of(20, 20, 20)
    predicted = predict_returns(model, segments)
    assert predicted.shape == (3, 3)
    for index, segment in enumerate(segments):
        rewards = model(model.features(segment.observations, segment.actions))
        torch.testing.assert_close(predicted[:, index], 30 * rewards.mean(1).detach())
        assert rewards.abs().max() <= 1


def test_rows_may_repeat_and_come_in_any_order():
    model = ensemble()
    _, data = encoded(model, 12, 12, 12)
    once = model.returns(data, torch.arange(3))
    again = model.returns(data, torch.tensor([2, 0, 0, 1]))
    torch.testing.assert_close(again, once[:, [2, 0, 0, 1]])


def test_segments_may_differ_in_length():
    model = ensemble()
    _, data = encoded(model, 10, 40, 25)
    # Each is worth what it is worth alone, but for how evenly its steps are looked at.
    together = model.returns(data, torch.arange(3))
    alone = torch.cat([model.returns(data, torch.tensor([row])) for row in range(3)], dim=1)
    torch.testing.assert_close(together[:, 1], alone[:, 1])
    assert (together - alone).abs().max() < 0.05 * model.config.scale
    constant = [Segment(f"{n} steps", *steps_of(n, 0.7)) for n in (3, 17, 50, 130)]
    returns = predict_returns(model, constant)
    torch.testing.assert_close(returns, returns[:, :1].expand(-1, 4))


class Recorder(torch.nn.Module):
    """Notes the features that it is shown."""

    seen: ClassVar[list] = []

    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, 1)

    def forward(self, features):
        Recorder.seen.append(features.clone())
        return torch.tanh(self.layer(features))


def looked_at(length, generator, **config):
    """Return which steps `[segment, view]` of two clips a prediction looks at."""
    model = ensemble(1, replace(SMALL, **config), network=Recorder, size=1)
    segments = []
    for index in range(2):
        time = np.arange(length, dtype=float) + 1000 * index
        segments.append(Segment(str(index), time[:, None], np.zeros((length, 1))))
    data = model.encode(segments)
    model.normalise_inputs(data)
    Recorder.seen.clear()
    model.returns(data, torch.arange(2), generator)
    [features] = Recorder.seen
    time = features[:, 0] * model.feature_std[0] + model.feature_mean[0]
    return time.reshape(2, -1) - torch.tensor([[0.0], [1000.0]])


def test_a_prediction_looks_at_fifty_even_steps_at_most():
    assert torch.allclose(looked_at(30, None)[0], torch.arange(30.0), atol=0.1)
    steps = looked_at(500, None)
    assert steps.shape == (2, 50)
    assert torch.allclose(steps[1].diff(), torch.full((49,), 10.0), atol=0.2)


def test_a_pass_looks_at_a_random_crop_and_never_beyond_the_clip():
    generator = torch.Generator().manual_seed(0)
    spans, first = [], []
    for _ in range(300):
        steps = looked_at(60, generator, steps_per_clip=8, crop=0.7)
        assert steps.shape == (2, 8)
        assert steps.min() > -0.1 and steps.max() < 59.1
        assert (steps.diff() > 0).all()
        spans.append(steps[:, -1] - steps[:, 0])
        first.append(steps[:, 0])
    spans, first = torch.stack(spans), torch.stack(first)
    # Eight steps in the middle of eight equal parts span 7/8 of a crop of 42 to 60 steps.
    assert 0.7 * 60 * 7 / 8 - 1.1 < spans.min() < 0.75 * 60 * 7 / 8
    assert 0.95 * 60 * 7 / 8 < spans.max() < 60 * 7 / 8 + 1.1
    assert not torch.equal(first[:, 0], first[:, 1]), "each clip has a crop of its own"


def test_views_are_random_only_with_a_generator():
    model = ensemble()
    _, data = encoded(model, 60, 60)
    rows = torch.arange(2)
    assert torch.equal(model.returns(data, rows), model.returns(data, rows, None))

    def seen(seed):
        return model.returns(data, rows, torch.Generator().manual_seed(seed))

    assert torch.equal(seen(0), seen(0))
    assert not torch.equal(seen(0), seen(1))
    seen(0).sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_discrete_actions_become_one_hot():
    model = ensemble(space=Discrete(3))
    features = model.features(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([2, 0]))
    assert features.tolist() == [[1, 2, 0, 0, 1], [3, 4, 1, 0, 0]]
    assert model(features).shape == (3, 2)


def test_observations_and_actions_are_flattened():
    model = ensemble(size=6, space=Box(-1, 1, (2, 2)))
    observations, actions = np.arange(6.0).reshape(1, 2, 3), np.array([[[1, 2], [-3, 0.5]]])
    assert model.features(observations, actions).tolist() == [
        [0, 1, 2, 3, 4, 5, 1, 2, -3, 0.5, 1, 4, 9, 0.25]
    ]


def test_a_fit_normalises_by_its_clips_and_a_prediction_by_those_of_the_fit():
    model = ensemble()
    segments = segments_of(40, 40)
    comparisons = [Comparison(*segments, 1.0)]
    far = Segment("far", segments[0].observations * 9 + 100, segments[0].actions)
    fit(model, comparisons, FitConfig(first_epochs=1), FitState(model, FitConfig(), 0))
    features = torch.cat([model.features(s.observations, s.actions) for s in segments])
    torch.testing.assert_close(model.feature_mean, features.mean(0))
    torch.testing.assert_close(model.feature_std, features.std(0))
    before = predict_returns(model, segments)
    predict_returns(model, [far])
    assert torch.equal(predict_returns(model, segments), before)


def test_what_is_far_outside_the_clips_of_the_fit_is_clipped():
    model = ensemble()
    encoded(model, 40, 40)
    far, farther = (
        predict_returns(model, [Segment("far", np.full((9, 2), away), np.zeros((9, 1)))])
        for away in (20.0, 25.0)
    )
    assert torch.equal(far, farther)


def test_a_feature_that_never_moves_does_no_harm():
    model = ensemble()
    constant = [Segment("still", *steps_of(30, 5.0))]
    model.normalise_inputs(model.encode(constant))
    assert torch.isfinite(predict_returns(model, constant)).all()


def test_rewards_of_many_trajectories_are_those_of_each():
    model = ensemble()
    encoded(model, 30, 30)
    trajectories = trajectories_of(1, 700, 40, 3)
    model.calibrate(trajectories)
    together = model.rewards(trajectories)
    assert [len(rewards) for rewards in together] == [1, 700, 40, 3]
    for rewards, trajectory in zip(together, trajectories, strict=True):
        assert rewards.dtype == np.float32 and rewards.shape == (len(trajectory),)
        np.testing.assert_allclose(rewards, model.rewards([trajectory])[0], atol=1e-5)


def members_rewards(model, trajectories):
    features = [model.features(t.observations, t.actions) for t in trajectories]
    with torch.no_grad():
        return (model(torch.cat(features)) - model.reward_mean) / model.reward_std


def test_calibration_gives_each_member_mean_zero_and_deviation_one():
    model = ensemble()
    encoded(model, 30, 30)
    trajectories = trajectories_of(300, 400)
    model.calibrate(trajectories)
    rewards = members_rewards(model, trajectories)
    torch.testing.assert_close(rewards.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(rewards.std(1), torch.ones(3), atol=1e-3, rtol=0)
    np.testing.assert_allclose(
        np.concatenate(model.rewards(trajectories)), rewards.mean(0), atol=1e-5
    )


def test_calibration_replaces_what_was_measured_before():
    first, second = trajectories_of(300), trajectories_of(200, seed=1)
    second[0].observations[:] += 2
    fresh, used = ensemble(), ensemble()
    for model in (fresh, used):
        encoded(model, 30, 30)
    used.calibrate(first)
    for model in (fresh, used):
        model.calibrate(second)
    assert torch.equal(fresh.reward_mean, used.reward_mean)
    assert torch.equal(fresh.reward_std, used.reward_std)


def test_a_state_dict_holds_all_that_predictions_depend_on():
    model, trajectories = ensemble(), trajectories_of(50, 60)
    encoded(model, 30, 30)
    model.calibrate(trajectories)
    other = ensemble(seed=9)
    other.load_state_dict(from_bytes(to_bytes(model.state_dict())))
    for one, two in zip(model.rewards(trajectories), other.rewards(trajectories), strict=True):
        np.testing.assert_array_equal(one, two)
    shifted = [Segment("shifted", *(array + 1 for array in steps_of(20)))]
    assert torch.equal(predict_returns(model, shifted), predict_returns(other, shifted))


def test_a_network_that_gives_no_number_for_each_row_is_refused():
    with pytest.raises(UserError, match=r"the shape \(3, 2\) for 3 rows of 4 features"):
        ensemble(network=lambda inputs: torch.nn.Linear(inputs, 2))


def test_observations_are_taken_as_recorded_or_as_the_environment_gives_them():
    model = RewardEnsemble(2, BOX, SMALL, 0, shows_end=True)
    steps = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    steps[:, 1] = 0  # the episode has not ended
    actions, zeros = np.ones((5, 1), np.float32), np.zeros(5)
    recorded, given, wrong = (
        Trajectory(observations, actions, zeros)
        for observations in (steps, steps[:, :1], np.ones((5, 4), np.float32))
    )
    np.testing.assert_array_equal(model.rewards([recorded])[0], model.rewards([given])[0])
    with pytest.raises(UserError, match="observations of 4 numbers are given; expected 1, as the"):
        model.rewards([wrong])
    with pytest.raises(UserError, match="observations of 1 numbers are given; expected 2, as reco"):
        ensemble().rewards([given])  # of a task whose record shows no end


def test_a_network_of_your_own():
    sizes = []

    def network(inputs):
        sizes.append(inputs)
        return torch.nn.Sequential(
            torch.nn.Linear(inputs, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)
        )

    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    model = ensemble(members=4, network=network)
    assert torch.equal(torch.rand(1), expected), "building it must not move torch's generator"
    assert sizes == [4] * 4
    segments = segments_of(20, 20)
    returns = predict_returns(model, segments)
    assert returns.shape == (4, 2)
    assert len({float(value) for value in returns[:, 0]}) == 4, "members start differently"
    assert torch.equal(predict_returns(ensemble(4, network=network), segments), returns)
    assert not torch.equal(predict_returns(ensemble(4, seed=1, network=network), segments), returns)
    metrics, _ = fitted(
        model, compare(play(NumberWorld(), 200)), first_epochs=30, learning_rate=0.01
    )
    assert metrics["train_accuracy"] > 0.8


def test_members_start_differently_and_from_the_seed_alone():
    segments = segments_of(20)
    returns = predict_returns(ensemble(), segments)
    assert len({float(value) for value in returns[:, 0]}) == 3
    torch.rand(5)
    assert torch.equal(predict_returns(ensemble(), segments), returns)
    assert not torch.equal(predict_returns(ensemble(seed=1), segments), returns)


def test_the_true_reward_is_calibrated_and_saved_like_a_learned_one():
    trajectories = trajectories_of(100, 150)
    model = TrueReward()
    model.calibrate(trajectories_of(40, seed=5))
    model.calibrate(trajectories)
    rewards = np.concatenate(model.rewards(trajectories))
    assert rewards.mean() == pytest.approx(0, abs=1e-5) and rewards.std() == pytest.approx(
        1, abs=1e-5
    )
    assert rewards.dtype == np.float32
    other = TrueReward()
    other.load_state_dict(from_bytes(to_bytes(model.state_dict())))
    np.testing.assert_array_equal(np.concatenate(other.rewards(trajectories)), rewards)


@few
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_how_different_two_segments_look_is_a_distance_in_deviations(length, other, seed):
    generator = np.random.default_rng(seed)
    model, steps = ensemble(), min(length, other)
    one, two = (
        Segment(f"{n}", generator.normal(size=(n, 2)), generator.normal(size=(n, 1)))
        for n in (length, other)
    )
    assert model.distance(one, one) == 0 < model.distance(one, two) == model.distance(two, one)
    model.normalise_inputs(model.encode([one, two, segment_of(play(NumberWorld(), 1)[0])]))
    features = [model.features(s.observations, s.actions)[:steps].numpy() for s in (one, two)]
    expected = np.abs((features[0] - features[1]) / model.feature_std.numpy()).mean()
    assert model.distance(one, two) == pytest.approx(expected, rel=1e-5)
    moved = replace(one, observations=one.observations + 5, actions=one.actions)
    far = replace(one, observations=one.observations + 50)
    assert model.distance(one, moved) < model.distance(one, far)


def test_rewards_see_actions_as_the_policy_makes_them_whatever_the_bounds():
    plain, wide = (RewardEnsemble(1, space, SMALL, 0) for space in (BOX, Box(0, 1000, (1,))))
    observations, actions = np.zeros((3, 1)), np.array([[-1.0], [0.0], [0.5]], np.float32)
    seen = plain.features(observations, actions)
    assert seen.tolist() == [[0, -1, 1], [0, 0, 0], [0, 0.5, 0.25]]
    assert torch.equal(wide.features(observations, 500 * (actions + 1)), seen)
