"""Somebody's environment of numbers: what breaks the contract is one sentence, before there is a
run; what may stay is a note; every wrapper that a sentence names is tried."""

import re
from types import SimpleNamespace
from typing import ClassVar

import gymnasium
import numpy
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from strategies import many

from prefrl.control.environments.fixed_horizon import FixedHorizon
from prefrl.control.environments.interface import describe
from prefrl.control.environments.make import mujoco_model
from prefrl.control.environments.probe import try_episodes
from prefrl.control.environments.spaces import (
    check_spaces,
    from_policy,
    policy_space,
    to_policy,
)
from prefrl.environments import contract
from prefrl.errors import UserError

FLAT = spaces.Box(-1, 1, (2,))


class Plant(gymnasium.Env):
    """Keeps the contract; a test changes one thing in it."""

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = FLAT

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def observe(self):
        return self.np_random.random(3)

    def step(self, action):
        self.steps += 1
        return self.observe(), float(np.sum(action)), self.steps == 30, False, {}


def plant(**changes):
    return FixedHorizon(type("Plant", (Plant,), changes)(), 50)


def with_step(**changes):
    """Return a `step` that gives something else as one of the five."""

    def step(self, action):
        names = ("observation", "reward", "terminated", "truncated", "info")
        given = dict(zip(names, Plant.step(self, action), strict=True)) | changes
        return tuple(given.values())

    return {"step": step}


def fails(self, action):
    raise ConnectionResetError("the simulator is gone")


OLD_STEP = {"step": lambda self, action: (self.observe(), 0.0, False, {})}
OLD_RESET = {"reset": lambda self: self.observe()}
BARE = {"reset": lambda self, seed=None, options=None: np.zeros(3)}


def test_what_keeps_the_contract_has_no_notes():
    assert try_episodes(plant()) == []
    assert try_episodes(FixedHorizon(gymnasium.make("Pendulum-v1"), 40)) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (OLD_RESET, r"reset\(seed=0\) raised TypeError: .*'seed'; expected the signature reset\(s"),
        (BARE, r"reset\(seed=0\) gave array\(.*\); expected \(observation, info\), info a dict$"),
        (OLD_STEP, r"step\(\[.*\]\) gave four values, .*; expected the five \(observation, rew"),
        ({"step": fails}, r"step\(.*\) raised ConnectionResetError: the simulator is gone \(test_"),
        ({"step": lambda self, action: None}, r"step\(.*\) gave None; expected the five"),
        (
            {"observe": lambda self: np.zeros(4)},
            r"reset\(seed=0\) gave an observation of 4 numbers, shape \(4,\), but its observation_"
            r"space holds 3, shape \(3,\); make the two agree$",
        ),
        ({"observe": lambda self: np.zeros((3, 1))}, r"of 3 numbers, shape \(3, 1\), but its"),
        ({"observe": lambda self: None}, "the observation None, but its observation_space holds 3"),
        (
            {"observe": lambda self: [[1], [1, 2], 3]},
            r"the observation \[\[1\], \[1, 2\], 3\], but",
        ),
        ({"observe": lambda self: ["1", "2", "3"]}, r"the observation \['1', '2', '3'\], but"),
        ({"observe": lambda self: np.array([0, np.nan, 0])}, "nan as number 1 of the observation"),
        ({"observe": lambda self: np.array([0, 0, np.inf])}, "inf as number 2 of the observation"),
        (
            {"observe": lambda self: np.array([0, np.finfo(np.float64).max, 0])},
            r"1\.8e\+308 as number 1 of the observation, which float32 cannot compute with; expect",
        ),
        ({"observe": lambda self: np.array([0, -(2**62), 0])}, r"-4\.61e\+18 as number 1 of the"),
        (with_step(reward=None), "gave the reward None; expected a finite float"),
        (with_step(reward=np.nan), "gave the reward nan; expected a finite float"),
        (with_step(reward=1e300), r"gave the reward 1e\+300; expected one from -1e\+15 to 1e\+15"),
        (with_step(terminated=1), "gave terminated = 1; expected a bool"),
        (with_step(truncated=np.zeros(1, bool)), "gave truncated = array.*; expected a bool"),
        (with_step(info=None), "gave the info None; expected a dict"),
    ],
    ids=lambda value: value if isinstance(value, str) else "breach",  # functions have no names
)
def test_a_breach_of_the_contract_is_a_sentence(changes, says):
    with pytest.raises(UserError, match=rf"^Plant: .*{says}"):
        try_episodes(plant(**changes))


def test_a_breach_is_found_in_the_step_in_which_it_comes():
    late = {"observe": lambda self: np.zeros(3 if self.steps < 12 else 2)}
    environment = plant(**late)
    environment.reset(seed=0)
    for _ in range(11):
        environment.step(np.zeros(2))
    with pytest.raises(UserError, match=r"step\(\[0.0, 0.0\]\) gave an observation of 2 numbers"):
        environment.step(np.zeros(2))


@pytest.mark.parametrize("first", [0, 25])
def test_chance_that_no_seed_reaches_is_a_note_however_late_it_comes(first):
    dice = np.random.default_rng()
    unseeded = {"observe": lambda self: np.full(3, dice.random() if self.steps >= first else 0.0)}
    [note] = try_episodes(plant(**unseeded))
    assert note.startswith("Plant is not deterministic")
    assert f"something else is observed in step {first};" in note


def test_what_an_environment_writes_to_its_action_changes_no_record():
    def greedy(self, action):
        action *= 100
        return Plant.step(self, action)

    environment = plant(step=greedy)
    assert try_episodes(environment) == []


def test_numpys_numbers_flags_and_lists_will_do():
    changes = with_step(reward=np.float32(1), terminated=np.False_) | {
        "observe": lambda self: [1, True, 0.5]
    }
    environment = plant(**changes)
    assert try_episodes(environment) == []
    assert environment.reset(seed=0)[0].tolist() == [1.0, 1.0, 0.5, 0.0]


def test_a_time_limit_of_its_own_is_no_end_but_one_before_the_horizon_is():
    def over(limit, horizon):
        inner = type("Endless", (Plant,), with_step(terminated=False))()
        environment = FixedHorizon(gymnasium.wrappers.TimeLimit(inner, limit), horizon)
        environment.reset(seed=0)
        return [environment.step(np.zeros(2))[0][-1] for _ in range(horizon)]

    assert over(5, 5) == [0, 0, 0, 0, 0]
    assert over(3, 5) == [0, 0, 1, 1, 1]


# --- spaces -----------------------------------------------------------------------------------

OBSERVATIONS = {
    "one of 16": spaces.Discrete(16),
    "tuple": spaces.Tuple((spaces.Discrete(3), FLAT)),
    "dictionary": spaces.Dict({"a": FLAT, "b": spaces.Discrete(2)}),
    "small picture": spaces.Box(0, 255, (7, 8, 3), np.uint8),
    "flags": spaces.MultiBinary(4),
    "choices": spaces.MultiDiscrete([3, 2]),
    "scalar": spaces.Box(-1, 1, ()),
    "column": spaces.Box(-1, 1, (2, 1)),
    "word": spaces.Text(5),
}
ACTIONS = {
    "choices": spaces.MultiDiscrete([3, 2]),
    "flags": spaces.MultiBinary(3),
    "from one": spaces.Discrete(3, start=1),
    "from minus two": spaces.Discrete(2, start=-2),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "scalar": spaces.Box(-1, 1, ()),
    "dictionary": spaces.Dict({"x": FLAT, "y": spaces.Tuple((FLAT,))}),
    "without bounds": spaces.Box(-np.inf, np.inf, (2,)),
    "without an upper bound": spaces.Box(0, np.inf, (1,)),
    "with all kinds of bounds": spaces.Box(
        np.array([-np.inf, -np.inf, 3, 0], np.float32), np.array([np.inf, 5, np.inf, 1], np.float32)
    ),
    "with bounds in name only": spaces.Box(-3e38, 3e38, (2,), np.float32),
    "whole numbers": spaces.Box(np.array([0, -5]), np.array([9, 5]), dtype=np.int64),
    "bytes": spaces.Box(0, 255, (3,), np.uint8),
}
ADVICE = re.compile(r"gymnasium\.wrappers\.\w+\(env.*\)(?=, and register|, with bounds of yours)")


class Kind(gymnasium.Env):
    """Has given spaces, and refuses actions that are not of its own."""

    metadata: ClassVar = {"render_modes": []}

    def __init__(self, observation_space=FLAT, action_space=spaces.Box(-1, 1, (2,))):  # noqa: B008
        self.observation_space, self.action_space, self.met = observation_space, action_space, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert action in self.action_space, action
        self.met.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


def refusal(environment):
    with pytest.raises(UserError) as refused:
        check_spaces(environment)
    return str(refused.value)


def wrapped_as_advised(environment):
    """Return the environment in the wrapper that the refusal names, word for word."""
    [advice] = ADVICE.findall(refusal(environment))
    names = {"gymnasium": gymnasium, "numpy": numpy, "env": environment}
    return eval(advice, names)


@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_the_wrapper_named_for_observations_works(space):
    environment = wrapped_as_advised(Kind(observation_space=space))
    assert check_spaces(environment)[0].shape == (spaces.flatdim(space),)
    assert try_episodes(FixedHorizon(environment, 30)) == []


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_the_wrapper_named_for_actions_works(space):
    kind = Kind(action_space=space)
    environment = wrapped_as_advised(kind)
    check_spaces(environment)
    assert try_episodes(FixedHorizon(environment, 60)) == []
    met = {str(action) for action in kind.met}
    possible = {"choices": 6, "flags": 8, "from one": 3, "from minus two": 2}
    for name, count in possible.items():
        assert space is not ACTIONS[name] or len(met) == count
    assert len(met) > 1


def test_actions_that_need_a_function_of_ones_own_are_told_what_it_does():
    mixed = spaces.Tuple((spaces.Discrete(2), FLAT))
    for space in (mixed, spaces.MultiDiscrete([20] * 7), spaces.MultiBinary((2, 2))):
        sentence = refusal(Kind(action_space=space))
        assert "gymnasium.wrappers.TransformAction(env, function, space), where the" in sentence
    kind = Kind(action_space=mixed)
    by_hand = gymnasium.wrappers.TransformAction(
        kind, lambda action: (int(action[0] > 0), action[1:]), spaces.Box(-1, 1, (3,))
    )
    check_spaces(by_hand)
    assert try_episodes(FixedHorizon(by_hand, 30)) == []


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Discrete(1), r"acts in Discrete\(1\), which leaves nothing to choose.*two actions"),
        (spaces.Box(-1, 1, (0,)), "which leaves nothing to choose"),
        (spaces.Box(2, 2, (3,)), "which leaves nothing to choose"),
        (spaces.MultiDiscrete([1, 1]), "which leaves nothing to choose"),
        (None, "has no action_space; set it to a Box or a Discrete"),
    ],
)
def test_nothing_to_choose_is_nothing_to_learn(space, says):
    assert re.search(says, refusal(Kind(action_space=space)))


def test_at_least_one_number_is_observed():
    says = "observes nothing.*at least one number"
    assert re.search(says, refusal(Kind(observation_space=spaces.Box(-1, 1, (0,)))))
    assert "has no observation_space" in refusal(Kind(observation_space="a box"))
    graph = spaces.Graph(FLAT, None)
    assert "write a gymnasium.ObservationWrapper" in refusal(Kind(observation_space=graph))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (4,), np.uint8),
        spaces.Box(0, 1, (3,), bool),
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(-5, 5, (2,), np.int64),
    ],
    ids=str,
)
def test_rows_of_any_numbers_are_observed_as_they_are(space):
    environment = FixedHorizon(Kind(observation_space=space), 30)
    assert try_episodes(environment) == []
    observation, _ = environment.reset(seed=3)
    assert observation.dtype == np.float64
    space.seed(3)
    assert observation.tolist() == [*space.sample().astype(float), 0.0]


# --- actions of any range ----------------------------------------------------------------------

bounds = st.floats(-1e6, 1e6, width=32)


@many
@given(
    limits=st.lists(st.tuples(bounds, bounds).map(sorted), min_size=1, max_size=4),
    chosen=st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4),
    kind=st.sampled_from([np.float32, np.float64]),
)
def test_a_policy_acts_from_minus_one_to_one_whatever_the_bounds(limits, chosen, kind):
    low, high = np.array(limits, kind).T
    space = spaces.Box(low, high, dtype=kind)
    assert policy_space(space) == spaces.Box(-1, 1, space.shape, np.float32)
    acted = np.array(chosen[: len(low)], np.float32)
    action = from_policy(space, acted)
    assert action in space and action.dtype == kind
    ends = [from_policy(space, np.full(len(low), end, np.float32)) for end in (-1, 1)]
    np.testing.assert_allclose(ends, [low, high], atol=1e-6 * np.abs(high - low).max())
    wide = high - low > 1e-3 * (np.abs(low) + np.abs(high)) + 1e-30  # else rounding is all
    back = to_policy(space, action)
    np.testing.assert_allclose(back[wide], acted[wide], atol=1e-3)
    assert back.dtype == np.float32 and np.isfinite(back).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_actions_from_minus_one_to_one_keep_every_bit(kind):
    space, generator = spaces.Box(-1, 1, (3,), kind), np.random.default_rng(0)
    acted = generator.uniform(-1, 1, (100, 3)).astype(np.float32)
    np.testing.assert_array_equal(from_policy(space, acted), acted)
    assert from_policy(space, acted).dtype == kind
    np.testing.assert_array_equal(to_policy(space, acted), acted)


def test_discrete_actions_are_as_they_are():
    space = spaces.Discrete(4)
    actions = np.array([0, 3, 1])
    assert policy_space(space) is space
    assert from_policy(space, actions) is actions
    assert to_policy(space, actions) is actions


# --- what an environment says of itself --------------------------------------------------------


def described(metadata, dt=None):
    return describe("Plant", FLAT, FLAT, metadata, 100, dt, None)


@pytest.mark.parametrize(
    "odd", [None, "30", 0, -5, np.nan, np.inf, True, [30], np.ones(3)], ids=str
)
def test_metadata_that_are_no_positive_number_are_not_guessed_from(odd):
    plain = described({})
    assert plain.dt == 1 / 30
    assert described({"render_fps": odd}).dt == 1 / 30
    assert described({"clip_seconds": odd}) == plain
    assert described({"question": "" if isinstance(odd, str) else odd}) == plain


def test_a_clip_lasts_a_step_at_least():
    assert described({}, dt=60.0).clip_steps == 1
    assert described({"clip_seconds": 0.01}).clip_steps == 1


def test_an_attribute_of_another_meaning_is_no_time_step(monkeypatch):
    from prefrl.control.environments.make import step_seconds

    environment = Plant()
    assert step_seconds(environment) is None
    for value, seconds in [(0.02, 0.02), (np.zeros(7), None), (-1.0, None), ("fast", None)]:
        environment.dt = value
        assert step_seconds(environment) == seconds
    del environment.dt
    environment.tau = 0.5  # a torque
    assert step_seconds(environment) is None
    assert step_seconds(gymnasium.make("Hopper-v5")) == pytest.approx(0.008)


def test_only_mujocos_own_model_and_data_are_poses():
    environment = Plant()
    assert mujoco_model(environment) is None
    environment.data, environment.model = SimpleNamespace(qpos=np.zeros(3)), object()
    assert mujoco_model(environment) is None
    hopper = gymnasium.make("Hopper-v5")
    assert mujoco_model(hopper) is hopper.unwrapped.model
    hopper.unwrapped.data = None
    assert mujoco_model(hopper) is None


def test_long_values_are_shortened_in_a_sentence():
    assert len(contract.short("x" * 1000)) < 80
    assert "1002 characters" in contract.short("x" * 1000)
    assert contract.words_of_step(np.array([0.123456789, -1e9])) == "step([0.1235, -1000000000.0])"
