"""When an untrained policy begins anew, on the reward that the answers so far have taught."""

from __future__ import annotations


def is_due(after: int | None, began: int, made: int, coming: int) -> bool:
    """Return whether the policy begins anew before a round: the one nearest to that step, once.

    Args:
        after: steps after which it is to begin anew; None never does.
        began: steps after which the present policy began.
        made: steps so far, those of exploration too.
        coming: steps of the round.
    """
    return after is not None and not began and made + coming / 2 >= after
