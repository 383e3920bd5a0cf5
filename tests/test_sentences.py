"""Errors have one grammar: lower case, one sentence, no full stop at the end."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ERRORS = {"UserError", "FloatingPointError", "ValueError", "broken", "_wrong", "Note", "note"}
PROPER_NAMES = ("Gymnasium", "Stable-Baselines3", "Python", "MuJoCo", "SQLite", "JSON", "UTF-8")


def ends(node):
    """Return the literal texts that a message may begin and end with; None for a value in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value], [node.value]
    if isinstance(node, ast.JoinedStr):
        first, last = node.values[0], node.values[-1]
        return [getattr(first, "value", None)], [getattr(last, "value", None)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return ends(node.left)[0], ends(node.right)[1]
    if isinstance(node, ast.IfExp):
        parts = ends(node.body), ends(node.orelse)
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    return [None], [None]


def messages(tree):
    """Yield each call that makes an error or a note, and its message."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ERRORS:
                yield from ((node, argument) for argument in node.args[:2])


SOURCES = sorted(path for room in ("prefrl", "envs") for path in (ROOT / room).rglob("*.py"))


def test_every_message_begins_in_lower_case_and_ends_without_a_full_stop():
    wrong, count = [], 0
    for path in SOURCES:
        for call, message in messages(ast.parse(path.read_text(encoding="utf-8"))):
            firsts, lasts = ends(message)
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            count += any(isinstance(text, str) for text in firsts + lasts)
            for text in firsts:
                if (
                    isinstance(text, str)
                    and text[:1].isupper()
                    and not text.startswith(PROPER_NAMES)
                ):
                    wrong.append(f"{where} begins with a capital letter: {text!r}")
            words = [n.value for n in ast.walk(message) if isinstance(n, ast.Constant)]
            for text in words:
                if isinstance(text, str) and re.search(r"[.!?] [A-Z]", text):
                    wrong.append(f"{where} is more than one sentence: {text!r}")
            for text in lasts:
                if isinstance(text, str) and text.rstrip().endswith((".", "!")):
                    wrong.append(f"{where} ends with a full stop: {text!r}")
    assert count > 200, "the messages are still found"
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("UserError('a; b')", (["a; b"], ["a; b"])),
        ("UserError(f'{x} is. ' + ('a.' if y else 'b'))", ([None], ["a.", "b"])),
    ],
)
def test_the_ends_of_a_message_are_found(source, expected):
    [(_, message)] = messages(ast.parse(source))
    firsts, lasts = ends(message)
    assert [t if isinstance(t, str) else None for t in firsts] == expected[0]
    assert lasts == expected[1]
