"""The HTTP server: the page, the clips and the answers.

One process serves one run. It shares nothing with the trainer but the run folder, so either may
die and come back. Requests are served one after another on one thread: each takes milliseconds,
and SQLite would make them queue anyway.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from prefrl.errors import StoreError, UserError
from prefrl.storage.folder import RunFolder
from prefrl.storage.links import Links
from prefrl.viewer import fields
from prefrl.viewer.addresses import HERE, host_name, is_wide, listen
from prefrl.viewer.admin import AdminView
from prefrl.viewer.connections import PatientProtocol
from prefrl.viewer.fields import Refused
from prefrl.viewer.guard import Guard, error_response, visitor_of
from prefrl.viewer.labeller import LabellerView
from prefrl.viewer.outside import Outside, outside_of
from prefrl.viewer.view import View

PAGE = Path(__file__).parent / "page"
BACKLOG = 32  # connections taken in one go
WHICH = re.compile(r"\b(query|pair) (?:\(-?\d+, \d+\)|-?\d+-\d+(?:-\w+)?)")
FOR_ADMINS = "this is for admins of the run; your link is for answering"
AWAY = "nothing can be saved for now; this page keeps the answers and sends them when it can be"

Serve = Callable[..., Any]
Endpoint = Callable[[Request], Awaitable[Response]]


class Opened(NamedTuple):
    """A page that can be opened."""

    address: str
    """Its address, with the token."""
    host: str
    """What it listens on, and where."""
    port: int


def app(
    view: View, key: str, hosts: Sequence[str] = (), wide: bool = False, root: str = ""
) -> Starlette:
    """Build the web application.

    Args:
        view: what to serve.
        key: whoever has it may ask about the run, as an admin.
        hosts: names, beside those of this machine itself, that the Host header may hold.
        wide: whether the Host header may hold any address, too.
        root: path below which a proxy serves the page; "" if it is not below one.
    """
    less, more, guidance = LabellerView(view), AdminView(view), view.guidance
    # What serves admins, and what serves labellers; None if they may not ask for it.
    reads = {
        "/api/run": (view.run, less.run), "/api/scene/0": (view.scene, view.scene),
        "/api/status": (view.status, less.status), "/api/history": (view.history, less.history),
        "/api/mesh/{digest}": (view.mesh, view.mesh),
        "/api/clip/{ticket}/{index}": (view.clip, less.clip),
        "/api/query/{ticket}": (view.query, less.query),
        "/api/practice": (view.practice, view.practice), "/api/policy": (view.policy, None),
        "/api/inspect": (view.inspect, None), "/api/admin": (more.overview, None),
        "/api/answers.jsonl": (more.as_lines, None), "/api/answers.csv": (more.as_table, None),
        "/api/guide/{index}": (guidance.picture, guidance.picture),
        "/api/practice/{number}/{index}": (guidance.clip, guidance.clip),
    }  # fmt: skip
    writes = {
        "/api/next": (view.next, less.next), "/api/answer": (view.answer, view.answer),
        "/api/undo": (view.undo, view.undo), "/api/release": (view.release, view.release),
        "/api/demonstration": (view.demonstration, view.demonstration),
        "/api/damaged": (view.damaged, view.damaged), "/api/pause": (more.pause, None),
        "/api/front": (more.front, None), "/api/gold": (more.gold, None),
        "/api/welcomed": (guidance.welcomed, guidance.welcomed),
    }  # fmt: skip

    def reading(for_admins: Serve, for_labellers: Serve | None) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            with _refusing(view, request):
                view.check_folder()
                return _response(_chosen(request, for_admins, for_labellers)(request))

        return endpoint

    def writing(for_admins: Serve, for_labellers: Serve | None) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            with _refusing(view, request):
                serve = _chosen(request, for_admins, for_labellers)
                body = fields.parse(await request.body())
                if named := visitor_of(request).person:  # whatever the page says
                    body["person"] = named
                view.check_folder()
                return _response(serve(request, body))

        return endpoint

    routes = [Route(path, reading(*serve), methods=["GET"]) for path, serve in reads.items()]
    routes += [Route(path, writing(*serve), methods=["POST"]) for path, serve in writes.items()]
    find = Links(view.folder, view.feedback).find
    guard = Middleware(Guard, key=key, find=find, hosts=hosts, wide=wide, root=root)
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
    announce: Callable[[Opened], None] = lambda opened: print(opened.address),
    outside: Outside | None = None,
) -> None:
    """Serve a run's page until interrupted.

    Args:
        folder: the run.
        person: name to suggest to whoever opens the page.
        port: where to listen; the one used before, or the first free one from 8765, by default.
        hosts: further names that a request may be addressed to; those given last, by default.
        host: address to listen on; the one given last, or this machine's loopback, by default.
        announce: is told of the page once it can be opened.
        outside: where a proxy serves it; where it did last, by default.

    Raises:
        UserError: the port is in use, a host makes no sense, or the run cannot be read.
    """
    kept = folder.viewer()
    hosts = [host_name(name) for name in hosts] or kept.get("hosts", [])
    host = host or kept.get("host", HERE)
    outside = outside or outside_of(kept)
    view = View(folder, person)
    listener = listen(host, port, kept["port"])
    opened: int = listener.getsockname()[1]
    new = {"port": opened, "hosts": hosts, "host": host, "outside": list(outside)}
    folder.save_viewer(kept | new)
    names = [*hosts, *outside.names()]
    config = uvicorn.Config(
        app(view, kept["key"], names, is_wide(host), outside.path), http=PatientProtocol,
        backlog=BACKLOG, loop="asyncio", log_level="error", access_log=False, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=2, ws="none", lifespan="off",
    )  # fmt: skip
    announce(Opened(f"{outside.address(host, opened)}?token={kept['key']}", host, opened))
    uvicorn.Server(config).run(sockets=[listener])


def _chosen(request: Request, for_admins: Serve, for_labellers: Serve | None) -> Serve:
    """Return what serves whoever asks."""
    chosen = for_admins if visitor_of(request).is_admin else for_labellers
    if chosen is None:
        raise Refused(403, FOR_ADMINS)
    return chosen


@contextlib.contextmanager
def _refusing(view: View, request: Request) -> Iterator[None]:
    """Turn a user's mistake into 400, and a store that cannot be written into 503.

    Where the run is kept is for admins alone.
    """
    labeller = not visitor_of(request).is_admin
    try:
        yield
    except Refused as error:
        if labeller and error.status == 503:
            raise Refused(503, AWAY) from error
        raise
    except UserError as error:
        away = isinstance(error, StoreError)
        sentence = str(error)
        for place in (view.feedback.called, str(view.folder.path)) if labeller else ():
            sentence = sentence.replace(place, "the run")
        if labeller:  # by its round she would know a gold question
            sentence = WHICH.sub(r"\1", sentence)
        raise Refused(503 if away else 400, AWAY if labeller and away else sentence) from error


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error_response(error.status, str(error))


def _response(value: Any) -> Response:
    return value if isinstance(value, Response) else JSONResponse(value)
