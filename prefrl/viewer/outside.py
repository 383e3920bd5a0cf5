"""Where a reverse proxy serves the page: under which name, below which path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from prefrl.errors import UserError
from prefrl.viewer.addresses import canonical, url

NONE = "none"
# Of each step of a path what needs no %, and escapes.
PATH = re.compile(r"(/(?!\.\.?(/|$))([\w.~@:+,=-]|%[0-9A-Fa-f]{2})+)*/?", re.ASCII)


class Outside(NamedTuple):
    """Where a page is found from outside; without a proxy, where it listens."""

    origin: str = ""
    """Scheme, name and port: https://labels.example.org."""
    path: str = ""
    """Below which it is, without a slash at the end: /user/ana/proxy/8765."""

    def address(self, host: str, port: int) -> str:
        """Return the address of the page that listens there."""
        return f"{self.origin or url(host, port)[:-1]}{self.path}/"

    def names(self) -> list[str]:
        """Return the names, beside this machine's, by which requests ask for it."""
        return [urlsplit(self.origin).hostname or ""] if self.origin else []


def outside_of(kept: Mapping[str, Any]) -> Outside:
    """Return where the page was when it was served last, as `viewer.json` holds it."""
    return Outside(*kept.get("outside", ()))


def read_outside(kept: Mapping[str, Any], address: str, root: str) -> Outside:
    """Return where the page is from now on.

    Args:
        kept: what was said before.
        address: https://labels.example.org, with or without a path; "none" for no proxy's; "" as
            it was.
        root: path; "/" for none; "" as it was, or as the address says.

    Raises:
        UserError: one of them cannot be, or both say different things.
    """
    if address == NONE:
        origin, within = "", ""
    elif address:
        origin, within = _public(address)
    else:
        origin, within = outside_of(kept)
    path = _path(root) if root else within
    if address and within and path != within:
        raise UserError(
            f"--public-address is {address!r}, and --root-path {root!r}; expected one path: leave "
            "--root-path out"
        )
    return Outside(origin, path)


def _public(text: str) -> tuple[str, str]:
    """Return the origin and the path of an address."""
    expected = (
        f"--public-address is {text!r}; expected where a proxy serves the page, such as "
        f"https://labels.example.org or https://hub.example.org/user/ana/proxy/8765, or {NONE}"
    )
    try:
        parts = urlsplit(text)
        name, port = canonical(parts.hostname or ""), parts.port
    except ValueError:
        raise UserError(expected) from None
    extra = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not name or extra:
        raise UserError(expected)
    if not PATH.fullmatch(parts.path):
        raise UserError(expected)
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}", parts.path.rstrip("/")


def _path(text: str) -> str:
    if not text.startswith("/") or not PATH.fullmatch(text):
        raise UserError(
            f"--root-path is {text!r}; expected the path below which a proxy serves the page, such "
            "as /user/ana/proxy/8765, or / for none"
        )
    return text.rstrip("/")
