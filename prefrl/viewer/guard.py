"""Who may use the viewer: the holder of its key, from its own page, on this machine."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 * 1024
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


class Guard:
    """Lets nobody in but the key's holder, and no other page act in their name."""

    def __init__(self, app: ASGIApp, key: str, port: int, hosts: Sequence[str]):
        self.app, self.key, self.hosts = app, key, [host.lower() for host in hosts]
        self.cookie, self.run = f"prefrl-{port}", run_id(key)

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

        request = Request(scope, receive)
        answer = self._entrance(request) or await self._refusal(request)
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

    def _entrance(self, request: Request) -> Response | None:
        """Turn a key in the address into a cookie, and take it out of the address."""
        token = request.query_params.get("token")
        if token is None or request.url.path != "/" or request.method != "GET":
            return None
        if not self._host_is_ours(request) or not _same(token, self.key):
            return None
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            self.cookie, self.key, max_age=30 * 86400, httponly=True, samesite="lax", path="/"
        )
        return response

    async def _refusal(self, request: Request) -> Response | None:
        if not self._host_is_ours(request):
            return error_response(
                421, "this address is not one of the viewer's; allow it with --allow-host NAME"
            )
        if not _same(request.cookies.get(self.cookie, ""), self.key):
            return PlainTextResponse(
                "This page needs the address that prefrl printed, with its token; "
                "`prefrl label RUN` prints it again.", 403,
            )  # fmt: skip
        headers = request.headers
        if headers.get("x-prefrl", self.run) != self.run:
            return error_response(403, "this page is another run's; open the address of this one")
        if request.method in ("GET", "HEAD"):
            return None
        origin = headers.get("origin", "")
        if origin.partition("://")[2] != headers.get("host") or "x-prefrl" not in headers:
            return error_response(403, "only the viewer's own page may do this")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return error_response(415, "expected JSON (Content-Type: application/json)")
        return None

    def _host_is_ours(self, request: Request) -> bool:
        host = request.headers.get("host", "").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return name in self.hosts


async def _read(request: Request) -> bytes | None:
    """Return the body, or None if it is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            return None
    return body


def error_response(status: int, sentence: str) -> Response:
    """Return a sentence as the page expects it."""
    return JSONResponse({"error": sentence}, status)


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode(), expected.encode())
