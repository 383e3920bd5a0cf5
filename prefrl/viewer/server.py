"""The HTTP server: the page, the clips and the answers.

One process serves one run. It shares nothing with the trainer but the run folder, so either may
die and come back. Requests are served one after another on one thread: each takes milliseconds,
and SQLite would make them queue anyway.
"""

from __future__ import annotations

import contextlib
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

from prefrl.errors import StoreError, UserError
from prefrl.storage.folder import RunFolder
from prefrl.viewer import fields
from prefrl.viewer.addresses import HERE, host_name, is_wide, listen, url
from prefrl.viewer.connections import PatientProtocol
from prefrl.viewer.fields import Refused
from prefrl.viewer.guard import Guard, error_response
from prefrl.viewer.view import View

PAGE = Path(__file__).parent / "page"
BACKLOG = 32  # connections taken in one go


def app(view: View, key: str, hosts: Sequence[str] = (), wide: bool = False) -> Starlette:
    """Build the web application.

    Args:
        view: what to serve.
        key: whoever has it may ask about the run.
        hosts: names, beside those of this machine itself, that the Host header may hold.
        wide: whether the Host header may hold any address, too.
    """
    reads = {
        "/api/run": view.run, "/api/scene/0": view.scene, "/api/status": view.status,
        "/api/clip/{ticket}/{index}": view.clip, "/api/history": view.history,
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
    guard = Middleware(Guard, key=key, hosts=hosts, wide=wide)
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
    host: str = "",
    announce: Callable[[str, str], None] = lambda address, host: print(address),
) -> None:
    """Serve a run's page until interrupted.

    Args:
        folder: the run.
        person: name to suggest to whoever opens the page.
        port: where to listen; the one used before, or the first free one from 8765, by default.
        hosts: further names that a request may be addressed to; those given last, by default.
        host: address to listen on; the one given last, or this machine's loopback, by default.
        announce: is told the address and the host listened on once the page can be opened.

    Raises:
        UserError: the port is in use, a host makes no sense, or the run cannot be read.
    """
    kept = folder.viewer()
    hosts = [host_name(name) for name in hosts] or kept.get("hosts", [])
    host = host or kept.get("host", HERE)
    view = View(folder, person)
    listener = listen(host, port, kept["port"])
    opened: int = listener.getsockname()[1]
    folder.save_viewer(kept | {"port": opened, "hosts": hosts, "host": host})
    config = uvicorn.Config(
        app(view, kept["key"], hosts, is_wide(host)), http=PatientProtocol, backlog=BACKLOG,
        loop="asyncio", log_level="error", access_log=False, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=2, ws="none", lifespan="off",
    )  # fmt: skip
    announce(f"{url(host, opened)}?token={kept['key']}", host)
    uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn a user's mistake into 400, and a store that cannot be written into 503."""
    try:
        yield
    except UserError as error:
        status = 503 if isinstance(error, StoreError) else 400
        raise Refused(status, str(error)) from error


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error_response(error.status, str(error))


def _response(value: Any) -> Response:
    return value if isinstance(value, Response) else JSONResponse(value)
