"""What the fields of a configuration may hold: one walk checks the bounds that stand on them."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import few

from prefrl.config.experiment import Experiment, check_experiment
from prefrl.config.fields import (
    Called,
    Count,
    above,
    at_least,
    between,
    check_fields,
    checked,
    options,
)
from prefrl.config.learning import OracleConfig
from prefrl.config.presets import PRESETS
from prefrl.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, above(0)] = 0.5
    layers: tuple[Count, ...] = (4, 4)


@dataclass(frozen=True)
class Outer:
    kind: Literal["one", "two"] = "one"
    some_steps: Annotated[int, at_least(0)] | None = None
    share: Annotated[float, between(0, 1)] = 0.0
    discount: Annotated[float, at_least(0, below=1)] = 0.0
    crop: Annotated[float, above(0, at_most=1)] = 1.0
    clip: Annotated[float, above(0, infinite=True)] = math.inf
    offset: float = 0.0
    fast: bool = False
    said: str = ""
    answers_from: Annotated[str, Called("from")] = ""
    inner: Inner = Inner()
    unnamed: Annotated[Inner, Called("")] = Inner()


def refusal(config, prefix=""):
    with pytest.raises(UserError) as error:
        check_fields(config, prefix)
    return str(error.value)


def test_options_are_named_as_the_command_line_spells_them():
    names = [option.name for option in options(Outer())]
    assert names[:2] == ["kind", "some-steps"]
    assert names[-5:] == ["from", "inner.rate", "inner.layers", "rate", "layers"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "three"}, "--kind is 'three'; expected one of one, two"),
        ({"some_steps": -1}, "--some-steps is -1; expected None or a whole number, 0 or more"),
        ({"some_steps": 2.0}, "--some-steps is 2.0; expected None or a whole number, 0 or more"),
        ({"some_steps": True}, "--some-steps is True; expected None or a whole number, 0 or more"),
        ({"share": 1.5}, "--share is 1.5; expected a number from 0 to 1"),
        ({"share": math.nan}, "--share is nan; expected a number from 0 to 1"),
        ({"share": "half"}, "--share is 'half'; expected a number from 0 to 1"),
        ({"discount": 1}, "--discount is 1; expected a number from 0 to less than 1"),
        ({"crop": 0}, "--crop is 0; expected a number above 0, at most 1"),
        ({"clip": 0.0}, "--clip is 0.0; expected a number above 0"),
        ({"offset": math.inf}, "--offset is inf; expected a finite number"),
        ({"fast": 1}, "--fast is 1; expected True or False"),
        ({"said": None}, "--said is None; expected a text"),
        ({"answers_from": 3}, "--from is 3; expected a text"),
        ({"inner": Inner(math.inf)}, "--inner.rate is inf; expected a finite number above 0"),
        ({"inner": Inner(layers=(0,))}, "--inner.layers is (0,); expected each a whole number abo"),
        ({"inner": Inner(layers=[4])}, "--inner.layers is [4]; expected a tuple"),
        ({"unnamed": Inner(0)}, "--rate is 0; expected a finite number above 0"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_out_of_bounds_is_a_sentence_that_names_the_option(changes, sentence):
    check_fields(Outer())
    assert refusal(Outer(**changes)).startswith(sentence)


def test_a_prefix_goes_before_every_name():
    assert refusal(OracleConfig(mistake=2.0), "oracle.").startswith("--oracle.mistake is 2.0; ")


def test_a_number_too_long_for_a_float_is_a_number():
    check_fields(Outer(some_steps=10**400))


def test_a_function_checks_its_arguments_by_their_annotations():
    @checked
    def fit(rows: list, epochs: Count = 3, inner: Annotated[Inner | None, Called("")] = None):
        return rows, epochs, inner

    assert fit([1], inner=Inner(2)) == ([1], 3, Inner(2))
    with pytest.raises(UserError, match=r"^--epochs is 0; expected a whole number above 0$"):
        fit([1], 0)
    with pytest.raises(UserError, match=r"^--rate is -1; expected a finite number above 0$"):
        fit([1], inner=Inner(-1))


CONFIGS = [Experiment(), *(entry.experiment for entry in PRESETS.values())]


@pytest.mark.parametrize("experiment", CONFIGS, ids=lambda experiment: experiment.env)
def test_every_default_and_preset_is_within_its_bounds(experiment):
    check_fields(experiment)


NUMBERS = [option for option in options(Experiment()) if type(option.value) in (int, float)]


@few
@given(st.sampled_from(NUMBERS), st.sampled_from([math.nan, -1e30, "many", (), None]))
def test_no_number_of_an_experiment_may_be_any_value(option, value):
    broken = with_option(Experiment(), option.name, value)
    if value is None and "None" in str(option.hint):
        return
    if value == -1e30 and option.name == "ppo.log-std-init":  # the only one without bounds
        return
    assert refusal(broken).startswith(f"--{option.name} is {value!r}; expected ")


def with_option(config, name, value):
    first, _, rest = name.replace("-", "_").partition(".")
    return replace(
        config, **{first: with_option(getattr(config, first), rest, value) if rest else value}
    )


@pytest.mark.parametrize("field", ["question", "instructions", "teacher", "env"])
def test_a_text_with_a_control_character_is_refused_by_its_option(field):
    fields = {"env": "Pendulum-v1"} | {field: "Which\x1b[2J?"}
    with pytest.raises(UserError, match=f"--{field} is .*; expected a text without control char"):
        check_experiment(Experiment(**fields))
    check_experiment(
        Experiment(env="Pendulum-v1", instructions="Two\nlines,\tof which one is wide.")
    )
