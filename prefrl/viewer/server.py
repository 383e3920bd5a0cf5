"""The viewer's server: a page, the clips, and the answers, for this machine alone.

One process serves one run. It shares nothing with the trainer but the run folder, so either may
die and come back. Requests are served one after another on one thread: each takes milliseconds,
and SQLite would make them queue anyway.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from prefrl.errors import UserError
from prefrl.storage.folder import RunFolder
from prefrl.viewer import fields
from prefrl.viewer.fields import Refused
from prefrl.viewer.guard import Guard, error_response
from prefrl.viewer.view import View

PAGE = Path(__file__).parent / "page"
FIRST_PORT, PORTS = 8765, 100
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def app(view: View, key: str, port: int, hosts: Sequence[str] = ()) -> Starlette:
    """Build the web application.

    Args:
        view: what to serve.
        key: whoever has it in the address or in a cookie may use it.
        port: the cookie is named with it, since cookies do not know ports.
        hosts: names, beside those of this machine itself, that the Host header may hold.
    """
    reads = {
        "/api/run": view.run, "/api/scene/0": view.scene, "/api/status": view.status,
        "/api/clip/{ticket}/{place}": view.clip, "/api/history": view.history,
        "/api/query/{ticket}": view.query,
        "/api/practice": view.practice, "/api/policy": view.policy, "/api/inspect": view.inspect,
    }  # fmt: skip
    writes = {
        "/api/next": view.next, "/api/answer": view.answer, "/api/undo": view.undo,
        "/api/release": view.release, "/api/demonstration": view.demonstration,
        "/api/damaged": view.damaged,
    }  # fmt: skip

    def reading(serve: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            with _refusing():
                view.check_folder()
                return _response(serve(request))

        return endpoint

    def writing(serve: Callable[[Request, dict], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            with _refusing():
                body = fields.parse(await request.body())
                view.check_folder()
                return _response(serve(request, body))

        return endpoint

    routes = [Route(path, reading(serve), methods=["GET"]) for path, serve in reads.items()]
    routes += [Route(path, writing(serve), methods=["POST"]) for path, serve in writes.items()]
    guard = Middleware(Guard, key=key, port=port, hosts=[*LOOPBACK, *hosts])
    return Starlette(
        routes=[*routes, Mount("/", StaticFiles(directory=PAGE, html=True))],
        middleware=[guard],
        exception_handlers={Refused: _refusal},
    )


def serve(
    folder: RunFolder,
    person: str = "",
    port: int | None = None,
    hosts: Sequence[str] = (),
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a run's page on this machine until interrupted.

    Args:
        folder: the run.
        person: name to suggest to whoever opens the page.
        port: where to listen; the one used before, or the first free one from 8765, by default.
        hosts: further names that a request may be addressed to; those given last, by default.
        announce: is told the address once it can be opened.

    Raises:
        UserError: the port is in use, or the run cannot be read.
    """
    kept = folder.viewer()
    view = View(folder, person)
    listener = _listen(port, kept["port"])
    opened: int = listener.getsockname()[1]
    hosts = list(hosts) or kept.get("hosts", [])
    folder.save_viewer(kept | {"port": opened, "hosts": hosts})
    built = app(view, kept["key"], opened, hosts)
    config = uvicorn.Config(
        built, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=2, ws="none", lifespan="off",
    )  # fmt: skip
    announce(f"http://127.0.0.1:{opened}/?token={kept['key']}")
    uvicorn.Server(config).run(sockets=[listener])


def _listen(port: int | None, before: int | None) -> socket.socket:
    """Open a port on the loopback interface alone."""
    candidates = [port] if port is not None else [
        *([before] if before else []), *range(FIRST_PORT, FIRST_PORT + PORTS),
    ]  # fmt: skip
    for candidate in candidates:
        listener = socket.socket()
        if os.name == "posix":  # a port that was just given up may be taken at once
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(128)
        except (OSError, OverflowError):
            listener.close()
            continue
        return listener
    if port is not None:
        raise UserError(
            f"port {port} cannot be opened (in use by another program?); choose another --port, or "
            "leave it out and the first free one is taken"
        )
    raise UserError(f"none of the ports {FIRST_PORT} to {candidates[-1]} is free; give one: --port")


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn a user's mistake into 400, and a store that cannot be written into 503."""
    try:
        yield
    except UserError as error:
        status = 503 if isinstance(error.__cause__, sqlite3.Error) else 400
        raise Refused(status, str(error)) from error


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error_response(error.status, str(error))


def _response(value: Any) -> Response:
    return value if isinstance(value, Response) else JSONResponse(value)
