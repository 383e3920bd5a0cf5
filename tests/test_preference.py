"""Bradley-Terry: probability, loss and accuracy of preferences."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import many, probabilities, returns, seeds

from prefrl.learning.preference import (
    choice_loss,
    correct,
    decisive,
    preference_loss,
    preference_probability,
)

moderate = st.floats(-30, 30)
errors = st.sampled_from([0.0, 0.1, 0.5])


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def loss(left, right, preference, **options):
    options = {k: number(v) if k == "margin" else v for k, v in options.items()}
    return float(preference_loss(number(left), number(right), number(preference), **options))


@many
@given(moderate, moderate)
def test_the_probability_is_the_share_of_exponentials(left, right):
    probability = float(preference_probability(number(left), number(right)))
    assert probability == pytest.approx(
        math.exp(left) / (math.exp(left) + math.exp(right)), rel=1e-9
    )
    assert float(preference_probability(number(right), number(left))) == pytest.approx(
        1 - probability, abs=1e-12
    )


@many
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 5))
def test_the_probability_rises_with_the_left_return(left, right, more):
    lower, higher = (preference_probability(number(x), number(right)) for x in (left, left + more))
    assert lower < higher


@many
@given(moderate, moderate, probabilities, errors, st.floats(0, 2), st.sampled_from([0.0, 0.2]))
def test_the_loss_is_the_same_from_the_other_side(left, right, preference, error, margin, smooth):
    options = {"uniform_error": error, "margin": margin, "label_smoothing": smooth}
    assert loss(left, right, preference, **options) == pytest.approx(
        loss(right, left, 1 - preference, **options), rel=1e-9
    )


@many
@given(returns, returns, probabilities, errors)
def test_loss_and_gradient_are_finite_however_large_the_returns(left, right, preference, error):
    left, right = (torch.tensor([value], requires_grad=True) for value in (left, right))
    value = preference_loss(left, right, torch.tensor([preference]), uniform_error=error)
    value.sum().backward()
    assert torch.isfinite(value).all() and value >= 0
    assert torch.isfinite(left.grad).all() and torch.isfinite(right.grad).all()


@pytest.mark.parametrize("left", [-1e6, 1e6])
def test_the_uniform_error_bounds_the_loss_of_a_wrong_answer(left):
    wrong = float(left < 0)
    assert loss(left, -left, wrong, uniform_error=0.1) == pytest.approx(-math.log(0.05))
    assert loss(left, -left, wrong) == pytest.approx(2e6)


@many
@given(moderate, moderate, probabilities)
def test_the_uniform_error_is_mixed_in_before_the_logarithm(left, right, preference):
    p = 1 / (1 + math.exp(right - left))
    expected = -preference * math.log(0.9 * p + 0.05)
    expected -= (1 - preference) * math.log(0.9 * (1 - p) + 0.05)
    assert loss(left, right, preference, uniform_error=0.1) == pytest.approx(expected, rel=1e-6)


@many
@given(moderate, moderate, probabilities)
def test_without_error_or_margin_the_gradient_is_what_was_predicted_less_what_was_said(
    left, right, preference
):
    left, right = number(left).requires_grad_(), number(right).requires_grad_()
    preference_loss(left, right, number(preference)).sum().backward()
    expected = float(preference_probability(left, right).detach()) - preference
    assert float(left.grad) == pytest.approx(expected, abs=1e-9)
    assert float(right.grad) == pytest.approx(-expected, abs=1e-9)


def test_a_margin_asks_for_more_than_a_narrow_win():
    assert loss(1, 0, 1) == pytest.approx(math.log(1 + math.exp(-1)))
    assert loss(1, 0, 1, margin=1) == pytest.approx(math.log(2))
    assert loss(0, 1, 0, margin=1) == pytest.approx(math.log(2))
    assert loss(3, 0, 1, margin=1) == pytest.approx(math.log(1 + math.exp(-2)))


def test_smoothing_moves_answers_towards_one_half():
    assert loss(2, 0, 1, label_smoothing=0.1) == pytest.approx(loss(2, 0, 0.95))
    assert loss(2, 0, 0, label_smoothing=1) == pytest.approx(loss(2, 0, 0.5))


def test_a_loss_for_each_member_and_comparison():
    left, right = torch.zeros(3, 4), torch.ones(3, 4)
    assert preference_loss(left, right, torch.tensor([0, 0.5, 1, 1])).shape == (3, 4)


def test_accuracy_counts_decisive_answers_alone():
    preference = torch.tensor([1.0, 0.0, 0.7, 0.5])
    left = torch.tensor([[2.0, 2.0, -1.0, 5.0], [0.0, -1.0, 1.0, -5.0]])
    assert decisive(preference).tolist() == [True, True, True, False]
    hits = correct(left, torch.zeros_like(left), preference)
    assert hits[:, :3].tolist() == [[True, False, False], [False, True, True]]


@many
@given(st.integers(-1, 1), st.sampled_from([0.0, 0.2, 0.8, 1.0]))
def test_accuracy_is_the_same_from_the_other_side(difference, preference):
    left, right = number(difference), number(0)
    assert correct(left, right, number(preference)) == correct(right, left, number(1 - preference))
    assert difference or not correct(left, right, number(preference))  # nothing was predicted


def leads_of(returns, order):
    """Return leads and choices of an order, the best first, as `choice_loss` takes them."""
    pairs = [(stage, i, j) for stage, i in enumerate(order) for j in order[stage + 1 :]]
    leads = torch.stack([returns[:, i] - returns[:, j] for _, i, j in pairs], dim=1)
    return leads, torch.tensor([stage for stage, _, _ in pairs])


@many
@given(st.permutations(range(5)), seeds)
def test_an_order_is_one_choice_after_another(order, seed):
    generator = torch.Generator().manual_seed(seed)
    returns = 4 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    losses = choice_loss(*leads_of(returns, order))
    for stage, best in enumerate(order[:-1]):
        left = returns[:, order[stage:]]
        expected = -torch.log(returns[:, best].exp() / left.exp().sum(1))
        assert torch.allclose(losses[:, stage], expected)


def test_all_orders_together_are_certain():
    returns = torch.tensor([[0.3, -1.2, 2.0, 0.1]], dtype=torch.float64)
    chances = [
        (-choice_loss(*leads_of(returns, order)).sum()).exp() for order in permutations(range(4))
    ]
    assert float(sum(chances)) == pytest.approx(1)


def test_a_choice_of_two_is_bradley_terry_and_of_more_errs_among_them_all():
    generator = torch.Generator().manual_seed(0)
    left, right = 300 * torch.randn(2, 3, 6, generator=generator)
    options = {"margin": torch.arange(6) / 3, "uniform_error": 0.1}
    two = choice_loss(left - right, torch.arange(6), **options)
    assert torch.allclose(two, preference_loss(left, right, torch.ones(6), **options), atol=1e-5)
    one_of_four = torch.zeros(3, dtype=torch.long)
    hopeless = choice_loss(torch.full((1, 3), -1e4), one_of_four, uniform_error=0.1)
    assert hopeless.item() == pytest.approx(-math.log(0.1 / 4), rel=1e-5)
    assert choice_loss(torch.full((1, 3), 1e4), one_of_four).item() == 0
    assert choice_loss(torch.full((1, 3), -1e4), one_of_four).item() == pytest.approx(1e4, rel=1e-3)
