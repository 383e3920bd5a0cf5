"""Checks what a page sends, field by field.

Whatever is wrong is `Refused` with a sentence.
"""

from __future__ import annotations

from typing import Any

from prefrl.errors import check_plain
from prefrl.storage.jsonl import read_json

LONGEST_TEXT = 200_000  # characters that somebody may write


class Refused(Exception):
    """A request that cannot be served: a status code and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def parse(data: bytes) -> dict[str, Any]:
    """Read a JSON object, which holds neither NaN nor infinity nor half a character."""
    try:
        value = read_json(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "expected a JSON object of finite numbers and whole characters")
    return value


def word(body: dict[str, Any], name: str, longest: int = 64) -> str:
    """Return a text of at most so many characters; a short one, a name, is free of control ones."""
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise Refused(400, f"{name} is {value!r:.80}; expected a text of 1 to {longest} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(400, f"{name} holds half a character") from None
    if longest < LONGEST_TEXT:
        check_plain(name, value)
    return value


def words(body: dict[str, Any], name: str, most: int) -> list[str]:
    """Return a list of at most so many texts, [] if it is missing."""
    values = body.get(name, [])
    if not isinstance(values, list) or len(values) > most:
        raise Refused(400, f"{name} is {values!r:.80}; expected at most {most} texts")
    return [word({name: value}, name) for value in values]


def person(body: dict[str, Any]) -> str:
    """Return who sends this."""
    return word(body, "person", 40)


def kind(body: dict[str, Any]) -> Any:
    """Return the kind of an answer; the store checks which ones there are."""
    value = word(body, "kind")
    if value == "retraction":
        raise Refused(400, "an answer is taken back with /api/undo")
    return value


def with_comment(value: Any) -> Any:
    """Return an answer's value, with a comment as it can be kept anywhere: without a NUL."""
    if isinstance(value, dict) and isinstance(value.get("comment"), str):
        return value | {"comment": value["comment"].replace("\0", "␀")}
    return value


def number(body: dict[str, Any], name: str, low: float, high: float) -> float:
    """Return a number between two others."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Refused(400, f"{name} is {value!r:.80}; expected a number from {low:g} to {high:g}")
    return float(value)


def whole(text: str, most: int) -> int:
    """Return a whole number written in an address."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
        raise Refused(400, f"expected a whole number up to {most}, not {text[:40]!r}")
    return int(text)
