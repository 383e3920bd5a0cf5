"""The texts of the page, as its sources have them: the keys of page/languages/*.json.

A text of the page is

1. what stands in phrase("…"), or as a template in phrase`…`, its values numbered: {1}, {2};
2. any other string in double quotes that begins with a capital letter or holds a blank, unless
   the browser reads it (`CODE`, such as the name of a class) or `NO_TEXTS` has it; strings that are
   joined by + are one;
3. of index.html what is between tags, and what is read of its attributes (`ATTRIBUTES`).

A template outside of phrase`…` that holds a word is a mistake: it cannot be looked up.
"""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import NamedTuple

from prefrl.viewer.server import PAGE

CODE = re.compile(  # what stands before a string, or a template, that the browser reads
    r"(className[^;\"\n]*|transform =|querySelector(All)?\(|closest(\?\.)?\(|matches\(|"
    r"matchMedia\(|from|import|Error\(|Damaged\(|(FONT|\.font|CORNERS|COLOURS|style\.left) =|"
    r"getPropertyValue\(|getExtension\() ?$"
)
NO_TEXTS = {
    *("ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp", "Enter", "Escape", "Shift", "Control"),
    *("Alt", "AltGraph", "Meta", "CapsLock", "Content-Type", "X-Prefrl-Token", "X-Prefrl", "POST"),
    *("English", "Deutsch"),  # which every language calls as they call themselves
}
NO_TEMPLATES = {"Shift+{1} Shift+{2}", "{1} ⌫ Ctrl+Z", "{1} · prefrl"}  # keys, and a name
ATTRIBUTES = ("title", "aria-label", "placeholder")
REGEX = re.compile(r"/(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'')
JOINED = re.compile(r"\s*\+\s*(?=\")")
WORD = re.compile(r"[^\W\d_]{2,}[.:;,]? | [^\W\d_]{2,}")


class Piece(NamedTuple):
    """A string or a template of a source."""

    text: str
    """A template's values are {1}, {2}, …"""
    before: str
    """What stands before it."""
    is_template: bool
    quote: str


def pieces(source: str) -> list[Piece]:
    """Return a script's strings and templates."""
    found: list[Piece] = []
    _read(source, 0, found)
    return found


def _read(source: str, at: int, found: list[Piece]) -> int:
    """Read code up to its end, or to the } that closes a template's value; return where that is."""
    depth = 0
    while at < len(source):
        character, rest = source[at], source[at : at + 2]
        if rest in ("//", "/*"):
            end = source.find("\n" if rest == "//" else "*/", at)
            at = len(source) if end < 0 else end + 2 * (rest == "/*")
        elif character == "/" and re.search(r"([(,=:?&|!\[{;>]|return)\s*$", source[:at][-20:]):
            match = REGEX.match(source, at)
            at = match.end() if match else at + 1
        elif character in "\"'":
            at = _read_string(source, at, found)
        elif character == "`":
            at = _read_template(source, at, found)
        elif character == "}" and depth == 0:
            return at
        else:
            depth += (character == "{") - (character == "}")
            at += 1
    return at


def _read_string(source: str, at: int, found: list[Piece]) -> int:
    before, quote, text = source[max(0, at - 60) : at], source[at], ""
    while match := STRING.match(source, at):
        text += json.loads(match[0]) if quote == '"' else match[0][1:-1]
        at = match.end()
        if not (more := JOINED.match(source, at)):
            break
        at = more.end()
    found.append(Piece(text, before, False, quote))
    return at


def _read_template(source: str, start: int, found: list[Piece]) -> int:
    text, at, values = "", start + 1, 0
    while source[at] != "`":
        if source.startswith("${", at):
            values += 1
            text += f"{{{values}}}"
            at = _read(source, at + 2, found) + 1
        else:
            step = 1 + (source[at] == "\\")
            text += source[at : at + step]
            at += step
    found.append(Piece(text, source[max(0, start - 60) : start], True, "`"))
    return at + 1


class _Html(HTMLParser):
    """Collects what index.html says."""

    def __init__(self):
        super().__init__()
        self.texts: set[str] = set()
        self.within: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.within.append(tag)
        self.texts |= {value for name, value in attrs if name in ATTRIBUTES}

    def handle_endtag(self, tag):
        self.within.append("")

    def handle_data(self, data):
        text = " ".join(data.split())
        if re.search(r"[^\W\d_]{2}", text) and self.within[-1] != "title":
            self.texts.add(text)


def keys() -> set[str]:
    """Return every text of the page."""
    html = _Html()
    html.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    return html.texts | {piece.text for _, piece in _all() if _is_text(piece)}


def mistakes() -> list[str]:
    """Return the templates of words that cannot be looked up, each with its file."""
    return [
        f"{name}: {piece.text}"
        for name, piece in _all()
        if piece.is_template
        and piece.text not in NO_TEMPLATES
        and not piece.before.endswith("phrase")
        and not CODE.search(piece.before)
        and WORD.search(re.sub(r"\{\d+\}", "", piece.text))
    ]


def _all() -> Iterator[tuple[str, Piece]]:
    for file in sorted(PAGE.glob("*.js")):
        for piece in pieces(file.read_text(encoding="utf-8")):
            yield file.name, piece


def _is_text(piece: Piece) -> bool:
    if re.search(r"\bphrase\($|\bphrase$", piece.before):
        return True
    if piece.is_template or piece.quote != '"' or CODE.search(piece.before):
        return False
    text = piece.text
    shown = re.match(r"[A-Z]\w", text) or re.search(r"[^\W\d_] |[.,;:!?)] | [^\W\d_]", text)
    return bool(shown and re.search(r"[^\W\d_]{2}", text)) and text not in NO_TEXTS
