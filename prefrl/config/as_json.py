"""A configuration as JSON values, and back."""

from __future__ import annotations

import dataclasses
import importlib
import math
import types
import typing
from typing import Any, TypeVar, Union

Kind = TypeVar("Kind")
KIND = "kind"  # beside the fields of one of several configurations: which one it is


class UnknownField(ValueError):
    """A configuration has a field, or is of a kind, that this version of prefrl does not know."""


def to_json(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration, and those of the configurations in it.

    Infinity, which JSON has not, becomes "inf".
    """
    return {
        field.name: _written(getattr(config, field.name), hint)
        for field, hint in _fields(type(config))
    }


def from_json(kind: type[Kind], fields: dict[str, Any]) -> Kind:
    """Build a configuration from what `to_json` gave; a field that it lacks has its default.

    Raises:
        UnknownField: there is a field, or a kind of configuration, that is not known.
        TypeError: these are no fields at all.
    """
    if not isinstance(fields, dict):
        raise TypeError(f"{kind.__name__} is {fields!r}; expected an object")
    hints = {field.name: hint for field, hint in _fields(kind)}
    if unknown := sorted(fields.keys() - hints.keys()):
        raise UnknownField(f"{kind.__name__} has no field {', '.join(unknown)}")
    return kind(**{name: _read(value, hints[name]) for name, value in fields.items()})


def _fields(kind: Any) -> list[tuple[dataclasses.Field, list[Any]]]:
    """Return the fields of a configuration, each with the types that its value may have."""
    hints = typing.get_type_hints(kind)
    return [(field, _alternatives(hints[field.name])) for field in dataclasses.fields(kind)]


def _alternatives(hint: Any) -> list[Any]:
    several = typing.get_origin(hint) in (Union, types.UnionType)
    return list(typing.get_args(hint)) if several else [hint]


def _configs(hints: list[Any]) -> list[Any]:
    return [hint for hint in hints if dataclasses.is_dataclass(hint)]


def _written(value: Any, hints: list[Any]) -> Any:
    if dataclasses.is_dataclass(value):
        one_of_several = len(_configs(hints)) > 1
        return ({KIND: _name(type(value))} if one_of_several else {}) | to_json(value)
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _read(value: Any, hints: list[Any]) -> Any:
    if value is None:
        if type(None) in hints:
            return None
        raise TypeError("a value is null where none may be")
    configs = _configs(hints)
    if len(configs) > 1:
        fields = {name: field for name, field in value.items() if name != KIND}
        return from_json(_named(value[KIND], configs), fields)
    if configs:
        return from_json(configs[0], value)
    if float in hints and isinstance(value, str):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _name(kind: Any) -> str:
    """Return what names a configuration: its own word, or of somebody's own MODULE:CLASS."""
    return getattr(kind, KIND, f"{kind.__module__}:{kind.__qualname__}")


def _named(name: str, configs: list[Any]) -> Any:
    for config in configs:
        if _name(config) == name:
            return config
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UnknownField(f"there is no configuration of the kind {name!r}")
    return getattr(importlib.import_module(module), attribute)
