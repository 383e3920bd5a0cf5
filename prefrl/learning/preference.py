"""Bradley-Terry: how returns become preferences.

Pure functions of tensors. Shapes: returns are `[member, comparison]`, or anything that broadcasts
to it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_probability(left: Tensor, right: Tensor) -> Tensor:
    """Return P(left is better) = exp(left) / (exp(left) + exp(right)).

    Christiano et al. 2017 (arXiv 1706.03741), equation 1; `left` and `right` are summed rewards.

    >>> preference_probability(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.5000])
    """
    return torch.sigmoid(left - right)


def preference_loss(
    left: Tensor,
    right: Tensor,
    preference: Tensor,
    *,
    margin: Tensor | float = 0.0,
    uniform_error: float = 0.0,
    label_smoothing: float = 0.0,
    bias: float = 1.0,
    reliability: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy `[member, comparison]` of the answers under the returns.

    Args:
        left: returns of the left segments.
        right: returns of the right segments.
        preference: P(left is better) as answered, 0 to 1.
        margin: logits by which the better one should lead (Llama 2, arXiv 2307.09288, equation 2);
            ties have margin 0.
        uniform_error: chance that a teacher answers at random. It is mixed into the probability
            *before* the logarithm (Christiano et al. 2017, section 2.2.3: 10 %), which bounds the
            loss of an answer that is plainly wrong.
        label_smoothing: how far the answers are moved towards one half.
        bias: share of the worse one's return that counts against the better one's; below 1 the
            better one must be good by itself, too (CPL, arXiv 2310.13639, equation 6).
        reliability: `[comparison]`, the chance r that whoever answered says what is so, in the
            place of `uniform_error`, which is 2 (1 − r): P(answered left) = r P(left) + (1 − r)
            P(right), as in Crowd-BT (`labellers`). At one half an answer teaches nothing, and below
            it counts turned round.
    """
    target = preference * (1 - label_smoothing) + label_smoothing / 2
    log_left = _log_with_error(left - bias * right - margin, uniform_error, reliability)
    log_right = _log_with_error(right - bias * left - margin, uniform_error, reliability)
    return -(target * log_left + (1 - target) * log_right)


def square_loss(
    left: Tensor, right: Tensor, preference: Tensor, *, margin: Tensor | float = 0.0,
    bias: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return how far the better one's lead is from one half, squared, `[member, comparison]`.

    With returns of τ log π/ρ it is τ² times IPO's loss (Azar et al. 2023, arXiv 2310.12036,
    equation 17), whose lead has a size of its own: it does not grow without end where all answers
    agree. A tie asks for no lead either way in the mean.

    Args:
        left: returns of the left segments.
        right: returns of the right segments.
        preference: P(left is better) as answered, 0 to 1.
        margin: by which the better one should lead more.
        bias: as for `preference_loss`.
    """
    of_left = (left - bias * right - margin - 0.5).square()
    of_right = (right - bias * left - margin - 0.5).square()
    return preference * of_left + (1 - preference) * of_right


def robust_loss(
    left: Tensor, right: Tensor, preference: Tensor, *, margin: Tensor | float = 0.0,
    bias: float = 1.0, error: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return an unbiased estimate of the loss of right answers, from answers that may be wrong.

    [(1 − ε) L(as answered) − ε L(the other way)] / (1 − 2ε): Chowdhury et al. 2024, arXiv
    2403.00409.

    Args:
        left: returns of the left segments.
        right: returns of the right segments.
        preference: P(left is better) as answered, 0 to 1.
        margin: logits by which the better one should lead.
        bias: as for `preference_loss`.
        error: ε, the share of answers that are wrong, below one half.
    """
    answered, other = (
        preference_loss(left, right, p, margin=margin, bias=bias)
        for p in (preference, 1 - preference)
    )
    return ((1 - error) * answered - error * other) / (1 - 2 * error)


def choice_loss(
    leads: Tensor, choice: Tensor, *, margin: Tensor | float = 0.0, uniform_error: float = 0.0
) -> Tensor:
    """Return the cross-entropy `[member, choice]` of choosing one segment before some others.

    P(i before all j of a set) = exp(i) / (exp(i) + Σ_j exp(j)), in returns: Plackett-Luce, where a
    ranking is a choice of the best, then of the best of what is left, and so on (Luce 1959;
    Plackett 1975). One j is Bradley-Terry.

    Args:
        leads: `[member, comparison]`, the return of the chosen segment less that of another one.
        choice: `[comparison]`, which choice each belongs to, from 0 on.
        margin: logits by which the chosen one should lead.
        uniform_error: chance that a teacher chooses at random; see `preference_loss`.
    """
    count = int(choice.max()) + 1
    behind = margin - leads
    where = choice.expand_as(behind)
    start = behind.new_zeros(len(behind), count)  # the chosen one's own exp(0)
    largest = start.scatter_reduce(1, where, behind.detach(), "amax")
    others = (behind - largest.gather(1, where)).exp()
    total = (-largest).exp().scatter_add(1, where, others)
    logits = -(total.log() + largest)
    if uniform_error == 0:
        return -logits
    options = 1 + torch.bincount(choice, minlength=count)
    return -torch.log((1 - uniform_error) * logits.exp() + uniform_error / options)


def _log_with_error(
    logit: Tensor, uniform_error: float, reliability: Tensor | None = None
) -> Tensor:
    if reliability is not None:
        return torch.log((2 * reliability - 1) * torch.sigmoid(logit) + 1 - reliability)
    if uniform_error == 0:
        return logsigmoid(logit)
    return torch.log((1 - uniform_error) * torch.sigmoid(logit) + uniform_error / 2)


def correct(left: Tensor, right: Tensor, preference: Tensor) -> Tensor:
    """Return whether the returns agree with each decisive answer, bool `[member, comparison]`.

    Mean it over `decisive(preference)` alone: a tie has no right side. Equal returns are wrong.
    """
    return (left - right) * (preference - 0.5) > 0


def decisive(preference: Tensor) -> Tensor:
    """Return which answers say that one segment is better, bool `[comparison]`."""
    return preference != 0.5
