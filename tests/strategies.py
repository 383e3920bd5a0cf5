"""Hypothesis strategies for what crosses prefrl's boundaries."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prefrl.types import is_text

few = settings(max_examples=25, deadline=None, derandomize=True)
many = settings(max_examples=150, deadline=None, derandomize=True)

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)
"""What may name something: no control characters."""
probabilities = st.floats(0, 1)
returns = st.floats(-1e6, 1e6, width=32)
seeds = st.integers(0, 2**31)

DTYPES = ["<f8", "<f4", "<f2", "<i8", "<i4", "|i1", "|u1", "<u8", "|b1", ">f8", ">i2", "<c8"]


@st.composite
def orders(draw, count):
    """Rank 0 … count - 1: groups, best first."""
    ranks = draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count))
    groups = {}
    for index, rank in enumerate(ranks):
        groups.setdefault(rank, []).append(index)
    return [groups[rank] for rank in sorted(groups)]


json_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.sampled_from([10**30, -(10**400), 1e308, -1e308, 5e-324])
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["better", "left", "0"])
)
json_values = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
FIELDS = ["left", "strength", "order", "ratings", "low", "high", "segment", "text"]
KINDS = ["preference", "tie", "ranking", "ratings", "rewrite", "skip", "retraction"]
kinds = st.sampled_from(KINDS) | json_values
answer_values = st.dictionaries(st.sampled_from(FIELDS), json_values) | json_values


@st.composite
def near_answers(draw):
    """Return (kind, value) that is right but for one field or none."""
    right = {
        "preference": {"left": 0.7, "strength": "better"},
        "ranking": {"order": [[1], [0]]},
        "ratings": {"ratings": [1, 2.5], "low": 0, "high": 5},
        "rewrite": {"segment": 1, "text": "kinder", "order": [[1], [0]]},
    }
    kind = draw(st.sampled_from(list(right)))
    value = dict(right[kind])
    if draw(st.booleans()):
        value[draw(st.sampled_from(list(value)))] = draw(json_values)
    return kind, value


numbers = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
    )
)
words = hnp.arrays(
    object,
    hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4),
    elements=st.text(max_size=6),
)
arrays = numbers | words


def same_array(left, right):
    """Say whether two arrays hold the same bits, or the same texts."""
    if is_text(left) and is_text(right):
        return left.shape == right.shape and left.tolist() == right.tolist()
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and np.ascontiguousarray(left).tobytes() == np.ascontiguousarray(right).tobytes()
    )
