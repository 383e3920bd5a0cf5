"""What the fields of a configuration may hold, and the one walk that checks them.

A bound stands on the field, beside its type, and the walk names a field as the command line does:

    gamma: Annotated[float, between(0, 1)] = 0.99

    --ppo.gamma is 1.5; expected a number from 0 to 1
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar, Union

from prefrl.errors import CONTROL, UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = ParamSpec("P")
R = TypeVar("R")
Config = TypeVar("Config", bound="DataclassInstance")


@dataclass(frozen=True)
class Bounds:
    """Which numbers a field may hold."""

    low: float = -math.inf
    high: float = math.inf
    without_low: bool = False
    without_high: bool = False
    infinite: bool = False

    def hold(self, number: float) -> bool:
        """Return whether a number is one of them."""
        if isinstance(number, float) and math.isinf(number) and not self.infinite:
            return False
        above = number > self.low if self.without_low else number >= self.low
        return above and (number < self.high if self.without_high else number <= self.high)

    def in_words(self, kind: str) -> str:
        """Return the numbers in words: "a whole number above 0"."""
        if self.high < math.inf:
            if self.without_low:
                return f"a {kind} above {self.low}, at most {self.high}"
            less = "less than " if self.without_high else ""
            return f"a {kind} from {self.low} to {less}{self.high}"
        noun = f"a finite {kind}" if kind == "number" and not self.infinite else f"a {kind}"
        if self.low == -math.inf:
            return noun
        return f"{noun} above {self.low}" if self.without_low else f"{noun}, {self.low} or more"


def above(low: float, at_most: float = math.inf, infinite: bool = False) -> Bounds:
    """Return the bounds of the numbers greater than `low`; infinity only if that is said."""
    return Bounds(low, at_most, without_low=True, infinite=infinite)


def at_least(low: float, below: float = math.inf, infinite: bool = False) -> Bounds:
    """Return the bounds of the numbers from `low` on; infinity only if that is said."""
    return Bounds(low, below, without_high=below < math.inf, infinite=infinite)


def between(low: float, high: float) -> Bounds:
    """Return the bounds of the numbers from `low` to `high`, both among them."""
    return Bounds(low, high)


Count = Annotated[int, above(0)]
CountOrZero = Annotated[int, at_least(0)]
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, between(0, 1)]
Seed = Annotated[int, between(0, 2**32 - 1)]
Port = Annotated[int, between(0, 65535)]


@dataclass(frozen=True)
class Called:
    """What the command line calls a field, where that is not its own name."""

    name: str
    """Of a configuration in another: "" gives its options no prefix."""


@dataclass(frozen=True)
class Option:
    """One field of a configuration, as the command line spells it."""

    name: str
    """Without its dashes: "ppo.gamma"."""
    value: Any
    hint: Any
    """The annotation of the field."""


def options(config: Any, prefix: str = "") -> Iterator[Option]:
    """Yield each field of a configuration, and those of the configurations in it.

    Args:
        config: a dataclass or an instance of one, whose fields may be dataclasses.
        prefix: of its options: "ppo." for those of a `PPOConfig`.
    """
    kind = config if isinstance(config, type) else type(config)
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name, None)  # a class lacks what has no default
        yield from _option(field.name, value, hints[field.name], prefix)


def _option(name: str, value: Any, hint: Any, prefix: str = "") -> Iterator[Option]:
    spelled = _spelled(name, value, hint, prefix)
    if dataclasses.is_dataclass(value):
        yield from options(value, spelled and f"{spelled}.")
    else:
        yield Option(spelled, value, hint)


def _spelled(name: str, value: Any, hint: Any, prefix: str) -> str:
    names = [getattr(extra, "name", None) for extra in _extras(hint)]
    names += [getattr(value, "prefix", None)] if dataclasses.is_dataclass(value) else []
    return prefix + next((word for word in names if word is not None), name.replace("_", "-"))


def changed(config: Config, values: Mapping[str, Any], prefix: str = "") -> Config:
    """Return a configuration in which the options that are named have other values.

    Args:
        config: an instance of a dataclass, whose fields may be dataclasses.
        values: by the names that the command line has for them: {"query.kind": "ranking"}.
        prefix: of its options.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        spelled = _spelled(field.name, value, hints[field.name], prefix)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields[field.name] = changed(value, values, spelled and f"{spelled}.")
        elif spelled in values:
            fields[field.name] = values[spelled]
    return dataclasses.replace(config, **fields)


def is_row(hint: Any) -> bool:
    """Return whether the values of an option are rows of values, as --ppo.hidden 64 64 is."""
    return typing.get_origin(_bare(hint)) is tuple


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise `UserError` unless every field of a configuration holds what it may."""
    for option in options(config, prefix):
        check_value(option.name, option.value, option.hint)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function check its arguments, by its annotations, as the fields of a configuration."""

    @functools.wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        hints = typing.get_type_hints(function, include_extras=True)
        for name, value in inspect.signature(function).bind(*arguments, **named).arguments.items():
            for option in _option(name, value, hints.get(name, Any)):
                check_value(option.name, option.value, option.hint)
        return function(*arguments, **named)

    return run


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raise `UserError` unless an option's value is one that its annotation allows."""
    if expected := wanted(value, hint):
        raise UserError(f"--{name} is {value!r:.80}; expected {expected}")


def wanted(value: Any, hint: Any) -> str:
    """Return what an annotation expects instead of a value, in words; "" where it allows it."""
    bounds = next((extra for extra in _extras(hint) if isinstance(extra, Bounds)), Bounds())
    hint = _bare(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        kinds = [wanted(value, one) for one in typing.get_args(hint)]
        return "" if "" in kinds else " or ".join(sorted(kinds, key=lambda words: words != "None"))
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return "" if value in choices else f"one of {', '.join(map(str, choices))}"
    if typing.get_origin(hint) is tuple:
        return _wanted_row(value, *typing.get_args(hint)[:1])
    if typing.get_origin(hint) is dict:
        return "" if _is_json(value) else "a dict of JSON values by name"
    if hint in (int, float):
        whole = hint is int
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        good = fits and bounds.hold(value)
        return "" if good else bounds.in_words("whole number" if whole else "number")
    if hint is str and isinstance(value, str) and CONTROL.search(value):
        return "a text without control characters"
    plain = {bool: "True or False", str: "a text", Path: "a path", type(None): "None"}
    return plain[hint] if hint in plain and not isinstance(value, hint) else ""


def _is_json(value: Any) -> bool:
    """Return whether a value is a dict that comes back from JSON as it is."""
    try:
        return isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False


def _wanted_row(values: Any, hint: Any) -> str:
    """Return what is expected instead of a row of values, "" if they are all allowed."""
    if not isinstance(values, tuple):
        return "a tuple"
    wanted_values = (wanted(value, hint) for value in values)
    return next((f"each {words}" for words in wanted_values if words), "")


def _extras(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


def _bare(hint: Any) -> Any:
    return hint.__origin__ if _extras(hint) else hint
