"""State dicts as bytes and back: the same bits, and nothing that could run code."""

import io
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import many, same_array, words

from prefrl.storage.checkpoint import from_bytes, to_bytes

DTYPES = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "|u1", "<u2", "<u8", "|b1", "<c8"]
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
native = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))
plain = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=5)
    | st.integers(-(2**200), 2**200)  # numpy's generators count with 128 bits
)
leaves = plain | native | words | native.map(lambda array: torch.from_numpy(array.copy()))
states = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, two in zip(left, right, strict=True):
            assert_same(one, two)
    elif isinstance(left, torch.Tensor):
        assert_same(left.numpy(), right.numpy())
    elif isinstance(left, np.ndarray):
        assert same_array(left, right)
    elif isinstance(left, float):
        assert np.float64(left).tobytes() == np.float64(right).tobytes()
    else:
        assert left == right


@many
@given(states)
def test_a_state_comes_back_to_the_bit(state):
    assert_same(from_bytes(to_bytes(state)), state)


def test_equal_states_are_equal_bytes():
    def state():
        return {"weights": torch.arange(5.0), "words": np.array(["a", "bc"]), "seed": 2**100}

    assert to_bytes(state()) == to_bytes(state())


def test_what_is_almost_plain_becomes_plain():
    state = {"tuple": (1, np.float32(0.5)), "bool": np.bool_(True), "int": np.int64(3)}
    assert_same(from_bytes(to_bytes(state)), {"tuple": [1, 0.5], "bool": True, "int": 3})


def test_what_comes_back_can_be_written_to():
    array = from_bytes(to_bytes(np.zeros(3)))
    array += 1
    assert array.tolist() == [1, 1, 1]


def test_saving_is_a_snapshot():
    weights, array = torch.zeros(2), np.zeros(2)
    saved = to_bytes({"weights": weights, "array": array})
    weights += 1
    array += 1
    state = from_bytes(saved)
    assert state["weights"].tolist() == state["array"].tolist() == [0, 0]


def test_generators_continue_where_they_were():
    numpy, torch_ = np.random.default_rng(0), torch.Generator().manual_seed(0)
    numpy.normal(size=5), torch.rand(3, generator=torch_)
    saved = to_bytes([numpy.bit_generator.state, torch_.get_state()])
    expected = numpy.normal(size=3).tolist(), torch.rand(3, generator=torch_).tolist()
    states = from_bytes(saved)
    numpy, torch_ = np.random.default_rng(9), torch.Generator()
    numpy.bit_generator.state = states[0]
    torch_.set_state(states[1])
    assert (numpy.normal(size=3).tolist(), torch.rand(3, generator=torch_).tolist()) == expected


def test_optimisers_and_modules_continue_where_they_were():
    def build():
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 1)
        return module, torch.optim.Adam(module.parameters(), 0.1)

    def step(module, optimiser):
        optimiser.zero_grad()
        module(torch.ones(2, 3)).square().sum().backward()
        optimiser.step()

    module, optimiser = build()
    step(module, optimiser)
    saved = to_bytes([module.state_dict(), optimiser.state_dict()])
    step(module, optimiser)
    other, its_optimiser = build()
    for part, state in zip((other, its_optimiser), from_bytes(saved), strict=True):
        part.load_state_dict(state)
    step(other, its_optimiser)
    assert torch.equal(module.weight, other.weight) and torch.equal(module.bias, other.bias)


def test_what_a_gpu_saved_is_read_without_one(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save({"weights": torch.arange(3.0)}, buffer)
    weights = from_bytes(buffer.getvalue())["weights"]
    assert weights.device.type == "cpu" and weights.tolist() == [0, 1, 2]


class Trap:
    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.save(Trap(), tmp_path / "trap.pt")
    for data in ((tmp_path / "trap.pt").read_bytes(), pickle.dumps(Trap(), 2)):
        with pytest.raises(ValueError, match="no checkpoint"):
            from_bytes(data)
    assert not Trap.sprung


def test_damaged_bytes_are_a_value_error():
    data = to_bytes({"weights": torch.arange(100.0), "words": np.array(["a"])})
    ends = random.Random(0).sample(range(len(data)), 20)
    for damaged in (
        b"",
        b"\x00" * 50,
        b"garbage",
        b"a letter " * 99,
        *(data[:end] for end in ends),
    ):
        with pytest.raises(ValueError, match="cut short or no checkpoint"):
            from_bytes(damaged)
