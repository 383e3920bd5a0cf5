"""Answers and their clips as JSON rows: read with care, and written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from prefrl.errors import StoreError, UserError
from prefrl.types import Segment, is_text

TEXT = "text"
KINDS = {
    str: "a text", list: "a list", dict: "an object", int: "a whole number", float: "a number",
    bool: "true or false",
}  # fmt: skip


class Row(NamedTuple):
    """One JSON object of a file."""

    fields: dict[str, Any]
    number: int
    """Of its line, or of the object in an array; from 1."""
    where: str
    """In words: "pairs.jsonl, line 3"."""


def read_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Yield the objects of JSON lines, of which some may be empty, or of one JSON array.

    Args:
        lines: of a file; an array may stretch over them.
        name: of the file.

    Raises:
        UserError: one is no JSON object of texts and finite numbers.
    """
    numbered = enumerate(lines, start=1)
    written = ((number, line) for number, line in numbered if line.strip())
    for row, (number, line) in enumerate(written):
        if row == 0 and line.lstrip().startswith("["):
            yield from _rows_of_array(line + "".join(rest for _, rest in numbered), name)
            return
        where = f"{name}, line {number}"
        with said_where(where):
            fields = _object(_value(line))
        yield Row(fields, number, where)


def _rows_of_array(text: str, name: str) -> Iterator[Row]:
    with said_where(name):
        values = _value(text)
    for number, value in enumerate(values, start=1):
        where = f"{name}, row {number}"
        with said_where(where):
            fields = _object(value)
        yield Row(fields, number, where)


def _value(text: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error}): {short(text.strip())}") from None


def read_json(text: str | bytes) -> Any:
    """Return what a JSON text says; its numbers are finite and its texts whole.

    Raises:
        ValueError: it is no such JSON.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        # Half a surrogate pair is no text, and 1e999 no number.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is none of its numbers; expected finite ones")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it is {short(value)}; expected an object")
    return value


@contextmanager
def said_where(where: str) -> Iterator[None]:
    """Say in which row it was."""
    try:
        yield
    except StoreError:
        raise
    except (ValueError, UserError) as error:
        raise UserError(f"{where}: {error}") from None


def field(row: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """Return what a row says under a name, or the default, if there is one.

    Raises:
        ValueError: it is of another kind, or not there.
    """
    value = row.get(name, default)
    if kind is float and isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return float(value)
    if not isinstance(value, kind) or kind is float:
        problem = f"{name!r} is {short(value)}" if name in row else f"there is no {name!r}"
        raise ValueError(f"{problem}; expected {KINDS[kind]}")
    return value


def short(value: Any) -> str:
    """Return how a value is shown in a sentence."""
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:60]}…"


def segment_as_json(segment: Segment) -> dict[str, Any]:
    """Return a clip as plain JSON values, from which `read_segment` makes the same again."""
    return {
        "id": segment.id,
        "task": segment.task,
        "source": segment.source,
        "observations": _array_as_json(segment.observations),
        "actions": _array_as_json(segment.actions),
        "extras": {name: _array_as_json(extra) for name, extra in segment.extras.items()},
        "dtypes": {
            "observations": _dtype(segment.observations),
            "actions": _dtype(segment.actions),
            "extras": {name: _dtype(extra) for name, extra in segment.extras.items()},
        },
    }


def read_segment(row: Any, default: str, renamed: str = "") -> Segment:
    """Return the clip that a row describes.

    Args:
        row: what `segment_as_json` gave; only observations and actions must be there.
        default: its id, if the row names none.
        renamed: its id, whatever the row says.

    Raises:
        ValueError: it describes none.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a clip is {short(row)}; expected an object")
    dtypes, extras = field(row, "dtypes", dict, {}), field(row, "extras", dict, {})
    inner = field(dtypes, "extras", dict, {})
    segment = Segment(
        renamed or field(row, "id", str, default),
        _array(row, "observations", dtypes),
        _array(row, "actions", dtypes),
        {name: _array(extras, name, inner) for name in extras},
        field(row, "task", str, ""),
        field(row, "source", str, ""),
    )
    lengths = {name: len(array) for name, array in _arrays(segment).items()}
    if len(set(lengths.values())) > 1 or not len(segment):
        raise ValueError(f"the clip {segment.id!r} has {lengths} steps; expected as many of all")
    return segment


def contents(segment: Segment) -> bytes:
    """Return all that makes a clip, but for its id."""
    arrays = [(name, _dtype(a), a.shape) for name, a in _arrays(segment).items()]
    head = repr([segment.task, segment.source, arrays]).encode()
    return head + b"".join(map(_bytes, _arrays(segment).values()))


def _bytes(array: np.ndarray) -> bytes:
    return json.dumps(array.tolist()).encode() if is_text(array) else array.tobytes()


def _arrays(segment: Segment) -> dict[str, np.ndarray]:
    arrays = {"observations": segment.observations, "actions": segment.actions}
    return arrays | {f"extras/{name}": array for name, array in sorted(segment.extras.items())}


def _dtype(array: np.ndarray) -> str:
    return TEXT if is_text(array) else array.dtype.str


def _array_as_json(array: np.ndarray) -> Any:
    """Return nested lists; JSON knows neither NaN nor infinity, so they become null."""
    if is_text(array):
        return array.tolist()
    if array.dtype.kind not in "biuf":
        raise UserError(f"an array of type {array.dtype} cannot be written as JSON")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        finite, array = np.isfinite(array), array.astype(object)
        array[~finite] = None
    return array.tolist()


def _array(row: dict[str, Any], name: str, dtypes: dict[str, Any]) -> np.ndarray:
    """Return the array of nested lists; of the type given, else of what they hold."""
    nested, dtype = field(row, name, list), dtypes.get(name)
    array = np.array(nested, dtype=object)
    kinds = set(map(type, array.flat))
    if kinds == {str} and dtype in (None, TEXT):
        return array
    if not kinds or not kinds <= {bool, int, float, type(None)}:
        raise ValueError(
            f"{name!r} is {short(nested)}; expected lists of numbers or of texts, all alike and "
            "equally long"
        )
    if dtype is None:
        dtype = _dtype_of(kinds)
    try:
        return _as_numbers(array, kinds, np.dtype(dtype))
    except (TypeError, ValueError, ArithmeticError, SyntaxError):  # numpy parses names of types
        raise ValueError(
            f"{name!r} is {short(nested)}; expected numbers of type {dtype!r}"
        ) from None


def _dtype_of(kinds: set[type]) -> str:
    """Return the type of an array of such values."""
    if kinds == {bool}:
        return "|b1"
    return "<f8" if kinds & {float, type(None)} else "<i8"


def _as_numbers(array: np.ndarray, kinds: set[type], dtype: np.dtype) -> np.ndarray:
    """Return objects as numbers, None as NaN; raise `ValueError` where the type cannot hold one."""
    holds = {"b": {bool}, "i": {int}, "u": {int}, "f": kinds}
    if not kinds <= holds.get(dtype.kind, set()):
        raise ValueError
    values = [np.nan if value is None else value for value in array.flat]
    with np.errstate(over="raise"):
        return np.array(values, dtype=object).reshape(array.shape).astype(dtype)
