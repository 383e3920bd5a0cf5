"""Markdown as a tree of elements, which the page builds one by one: nothing is ever HTML.

What could load something, lead elsewhere or hide what was written stays text: HTML, links,
pictures and entities. So do the constructs by which plain texts turn into Markdown by accident:
indented code and underlined headings.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

LONGEST = 50_000  # characters; nobody reads more with an eye for its form
PLAIN = {"p", "br", "hr"}  # a line of dashes is as often drawn as meant
LEFT_OUT = [
    "html_block", "html_inline", "link", "image", "autolink", "entity", "reference", "code",
    "lheading",
]  # fmt: skip
CACHED = 256

Node = str | list[Any]
"""A text, or an element: [its tag, node, …]; a list's tag may hold its first number ("ol 5")."""

_parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
_parser.enable(["table", "strikethrough"]).disable(LEFT_OUT)


@lru_cache(CACHED)
def tree(text: str) -> list[Node] | None:
    """Return what a text is made of; None if nothing in it is Markdown, or it is very long."""
    if len(text) > LONGEST:
        return None
    nodes = _nest(_parser.parse(text))
    return nodes if any(_is_marked(node) for node in nodes) else None


def _nest(tokens: list[Token]) -> list[Node]:
    """Turn a flat list of openings and closings into a tree."""
    root: list[Node] = []
    under_way: list[list[Any]] = [root]
    for token in tokens:
        if token.nesting < 0:
            under_way.pop()
            continue
        if token.type == "inline":
            under_way[-1] += _nest(token.children or [])
        elif token.type == "fence":
            language = [["small", token.info.strip()]] if token.info.strip() else []
            under_way[-1].append(["pre", *language, ["code", token.content]])
        elif token.type == "code_inline":
            under_way[-1].append(["code", token.content])
        elif token.tag:
            start = token.attrGet("start")
            node: list[Any] = [token.tag if start is None else f"{token.tag} {start}"]
            under_way[-1].append(node)
            if token.nesting > 0:
                under_way.append(node)
        elif token.content:
            under_way[-1].append(token.content)
    return root


def _is_marked(node: Node) -> bool:
    if isinstance(node, str):
        return False
    tag, *children = node
    return tag not in PLAIN or any(_is_marked(child) for child in children)
