"""Who may use the viewer: the holder of its key or of a link of their own, from its own page.

The token is a header of every request about the run, never a cookie: a browser shows cookies to all
servers of a host, whatever their port, and sends them with what other pages ask for. The page gets
the token from the address that prefrl prints and keeps it in the storage of its own origin. The
page's own files are for everybody who asks this host for them; they say nothing of the run.
No header of a proxy (X-Forwarded-…) is believed: nothing here depends on what it would say.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefrl.errors import UserError
from prefrl.storage.links import Link
from prefrl.viewer.fields import LONGEST_TEXT, Refused

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_BODY = 2 * 6 * LONGEST_TEXT + 64 * 1024
"""Bytes: two texts in which JSON writes every character as \\uXXXX, and the rest of a request."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def run_id(key: str) -> str:
    """Return what tells a run's pages and clips from those of another on the same port."""
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


class Visitor(NamedTuple):
    """Whoever asks about the run."""

    id: str
    """What their page calls the run: a page that is still open with somebody else's token must not
    act in their name."""
    person: str = ""
    """Whose link it is; "" where the page says who answers."""
    is_admin: bool = True


def visitor_of(request: Request) -> Visitor:
    """Return who sends a request that the guard has let in."""
    return request.scope["visitor"]


class Guard:
    """Lets nobody in but holders of the key or a link, and no other page act in their name."""

    def __init__(
        self, app: ASGIApp, key: str, find: Callable[[str], Link | None],
        hosts: Sequence[str] = (), wide: bool = False, root: str = "",
    ):  # fmt: skip
        """Keep who is let in.

        Args:
            app: what is guarded.
            key: whoever sends it may ask about the run, as an admin.
            find: gives the link of a token.
            hosts: names, beside this machine's own, under which the page may be asked for.
            wide: whether any address (no name) may be asked for, too.
            root: path below which a proxy serves the page, whether it takes it off or not.
        """
        self.app, self.key, self.find = app, key, find
        self.hosts, self.wide, self.root = {*LOOPBACK, *hosts}, wide, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                extra = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
                extra.setdefault(b"cache-control", b"no-store")
                message["headers"] += [item for item in extra.items() if item[0] not in known]
            await send(message)

        scope = self._below(scope)
        request = Request(scope, receive)
        answer = self._refusal(request)
        if answer:
            await answer(scope, receive, send_guarded)
            return
        if request.method != "POST":
            await self.app(scope, receive, send_guarded)
            return
        body = await _read(request)
        if body is None:
            sentence = f"that is too much at once; at most {LARGEST_BODY} bytes are read"
            await error_response(413, sentence)(scope, receive, send_guarded)
            return

        async def receive_body() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_body, send_guarded)

    def _below(self, scope: Scope) -> Scope:
        """Take the proxy's path off a request; "" is left of one for the path itself."""
        path, root = scope["path"], unquote(self.root)
        if root and (path == root or path.startswith(f"{root}/")):
            return {**scope, "path": path[len(root) :]}
        return scope

    def _refusal(self, request: Request) -> Response | None:
        path: str = request.scope["path"]  # which is what is served, whatever the URL says
        asks = path.startswith("/api/")
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            sentence = f"this page is not served under {_shown(host)}; {_remedy(host)}"
            return error_response(421, sentence) if asks else PlainTextResponse(sentence, 421)
        reads = request.method in ("GET", "HEAD")
        if reads and not path:  # what the page asks for is relative to a path that ends so
            query = request.url.query
            return RedirectResponse(f"{self.root}/{f'?{query}' if query else ''}")
        if not asks and reads:
            return None  # a file of the page
        try:
            visitor = self._visitor(request.headers.get("x-prefrl-token", ""))
        except Refused as refused:
            return error_response(refused.status, str(refused))
        request.scope["visitor"] = visitor
        if request.headers.get("x-prefrl", visitor.id) != visitor.id:
            return error_response(
                403, "this page is another run's, or another person's; load it again"
            )
        return None if reads else self._refusal_to_write(request.headers)

    def _visitor(self, token: str) -> Visitor:
        if _same(token, self.key):
            return Visitor(run_id(self.key))
        try:
            link = self.find(token)
        except UserError:
            raise Refused(503, "links cannot be looked up for now; this page tries again") from None
        if link is None:
            raise Refused(
                403,
                "this page needs its token: open the link that you were given, or the address that "
                "`prefrl label RUN` prints",
            )
        if link.state != "open":
            what = {
                "paused": f"the link of {link.person} is paused; this page goes on when it does",
                "withdrawn": f"the link of {link.person} was withdrawn; what was answered with it "
                "stays, and whoever sent it can make another",
            }
            raise Refused(403, what[link.state])
        return Visitor(run_id(f"{self.key} {link.person}"), link.person, link.admin)

    def _refusal_to_write(self, headers: Headers) -> Response | None:
        origin = headers.get("origin", "").partition("://")[2]
        if not origin or "x-prefrl" not in headers:
            return error_response(403, "only the viewer's own page may do this")
        if origin != headers["host"] and not self._is_ours(origin):  # a proxy may rewrite Host
            sentence = f"this page was opened at {_shown(origin)}, which is not one of its names"
            return error_response(403, f"{sentence}; {_remedy(origin)}")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return error_response(415, "expected JSON (Content-Type: application/json)")
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        return name in self.hosts or (self.wide and _is_address(name))


def _name(host: str) -> str:
    """Return a Host header's name or address, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _shown(host: str) -> str:
    return repr(host[:80])


def _remedy(host: str) -> str:
    name = _name(host)[:80]
    named = name if name and name.replace("-", "").replace(".", "").isalnum() else "NAME"
    return f"`prefrl label RUN --allow-host {named}` allows it"


async def _read(request: Request) -> bytes | None:
    """Return the body, or None if it is too large."""
    parts, length = [], 0
    async for chunk in request.stream():
        parts.append(chunk)
        length += len(chunk)
        if length > LARGEST_BODY:
            return None
    return b"".join(parts)


def error_response(status: int, sentence: str) -> Response:
    """Return a sentence as the page expects it."""
    return JSONResponse({"error": sentence}, status)


def _same(received: str, expected: str) -> bool:
    return secrets.compare_digest(received.encode(), expected.encode())
