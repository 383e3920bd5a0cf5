"""Which numbers of an environment's info count, in both worlds."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from prefrl.environments.info import means, numbers


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (2.5, 2.5),
        (True, 1.0),
        (np.False_, 0.0),
        (np.float32(0.5), 0.5),
        (np.int64(-7), -7.0),
        (np.array(4.0), 4.0),
        (Fraction(1, 2), 0.5),
    ],
)
def test_a_single_finite_number_counts(value, number):
    assert numbers({"speed": value}) == {"speed": number}
    assert type(numbers({"speed": value})["speed"]) is float


@pytest.mark.parametrize(
    "value",
    [
        "7", "nan", b"7", None, [1.0], (), {}, np.ones(1), np.array("7"), np.array(None), 1j,
        float("nan"), float("inf"), np.float64("-inf"), 10**400, Fraction(10**400), torch.ones(()),
    ],
    ids=str,
)  # fmt: skip
def test_nothing_else_does(value):
    assert numbers({"it": value, "speed": 1.5}) == {"speed": 1.5}


@pytest.mark.parametrize("name", [0, 1.5, None, ("agent", 1), b"speed", True])
def test_a_number_needs_a_name_that_is_text(name):
    assert numbers({name: 1.0, "speed": 1.5}) == {"speed": 1.5}


def test_the_mean_is_of_what_all_episodes_report_and_always_json():
    reports = [{"a": 1.0, "b": 2.0, "huge": 1e308}, {"huge": 1e308, "a": 2.0}]
    assert means(reports) == {"a": 1.5}
    assert means(reports[:1]) == reports[0]
    assert means([]) == {}
    json.dumps(means(reports), allow_nan=False)
