"""A real browser before a viewer process and a store on disk: what tests of the page share."""

import contextlib
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time

import pytest
from labelling import (
    make_run,
    queries_of,
    text_segment,
)
from playwright.sync_api import sync_playwright
from processes import Process, command

from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Query, QueryId

CHROMIUM = os.environ.get("PREFRL_CHROMIUM") or next(
    filter(None, map(shutil.which, [
        "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"
    ])), None,
)  # fmt: skip
if CHROMIUM is None and "PREFRL_REQUIRE_BROWSER" not in os.environ:
    pytest.skip(
        "no Chromium here: install one (Debian: apt-get install "
        "chromium-headless-shell) or name it in "
        "PREFRL_CHROMIUM", allow_module_level=True,
    )  # fmt: skip

ROBOTS = ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5", "Humanoid-v5", "Reacher-v5",
          "Pusher-v5", "Swimmer-v5"]  # fmt: skip
GUARD_SECONDS = 0.3  # a little longer than the time in which the page takes no answer


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-webgl"]
        )
        yield browser
        browser.close()


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Viewer:
    """`prefrl label` as a process."""

    def __init__(self, folder, *words):
        self.folder, self.words = folder, words
        if "--port" not in words:  # it keeps its own, whatever runs beside it
            self.words = (*words, "--port", str(free_port()))
        self.start()

    def start(self):
        start = command(["label", self.folder.path, *self.words])
        self.process = Process(**start, stdout=subprocess.PIPE)
        self.address = self.process.stdout.readline().removeprefix("answer at ").strip()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def viewer_of():
    with contextlib.ExitStack() as stack:

        def start(folder, *words):
            viewer = Viewer(folder, *words)
            stack.callback(viewer.kill)
            return viewer

        yield start


WELCOMED = """const stored = Storage.prototype.getItem;
Storage.prototype.getItem = function (name) {
    return name.endsWith(':welcomed') ? 'true' : stored.call(this, name);
};"""


@pytest.fixture
def open_page(chromium):
    """Open pages that keep what they ask for, and fail on any error of a script.

    Clips stand still at first unless one asks for `reduced_motion="no-preference"`: to draw them
    without a graphics card takes half of a core.
    """
    with contextlib.ExitStack() as stack:
        troubles = []

        def opened(address, welcome=False, person="anna", spoil="", **options):
            context = chromium.new_context(
                viewport={"width": 1280, "height": 800}, **{"reduced_motion": "reduce"} | options
            )
            stack.callback(context.close)
            context.add_init_script(
                "if (location.host) localStorage.getItem('prefrl:person') ?? localStorage.setItem("
                f"'prefrl:person', {json.dumps(json.dumps(person))});"
            )
            if not welcome:  # whatever the run, its first card has been seen
                context.add_init_script(WELCOMED)
            context.add_init_script(
                "window.pairs = []; document.addEventListener('prefrl:pair', (event) => "
                "pairs.push(event.detail));"
            )
            page = context.new_page()
            if spoil:  # what comes from there is not what the server sent
                page.route(spoil, lambda route: route.fulfill(body="spoilt"))
            page.asked = []
            page.on("request", lambda request: page.asked.append(request))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
            page.goto(address)
            return page

        yield opened
        assert not troubles


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", *queries_of(0, 40))


@pytest.fixture
def viewer(folder, viewer_of):
    return viewer_of(folder)


@pytest.fixture
def page(viewer, open_page):
    page = open_page(viewer.address)
    wait_for(page, state="labelling")
    return page


def data(page, name):
    return page.evaluate(f"document.body.dataset.{name} ?? null")


def wait_until(page, condition, timeout=10):
    """Ask the page again and again; its security policy forbids a script to do so from inside."""
    deadline = time.monotonic() + timeout
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, (
            f"{condition} within {timeout} s; the page says: {page.locator('body').inner_text()}"
        )
        time.sleep(0.01)


def wait_for(page, timeout=10, **wanted):
    """Wait until the page's body says all of this."""
    conditions = [f"document.body.dataset.{k} === {json.dumps(str(v))}" for k, v in wanted.items()]
    wait_until(page, " && ".join(conditions), timeout)


def press(page, *keys):
    """Press keys, each once the page takes answers, and wait for the next pair."""
    for key in keys:
        time.sleep(GUARD_SECONDS)
        before = data(page, "ticket")
        page.keyboard.press(key)
        wait_until(page, f"document.body.dataset.ticket !== {json.dumps(before)}")


def stored(folder):
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        return store.answers()


def saved(page, count):
    wait_for(page, saved=count, unsaved=0)


CONTRAST = """() => {
    const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number);
        return text.startsWith('color') ? n.map((v, i) => (i < 3 ? 255 * v : v)) : n; };
    const light = ([r, g, b]) => { const f = [r, g, b].map((v) => { v /= 255;
        return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
    const ground = (node) => { for (let n = node; n; n = n.parentElement) {
        const c = parse(getComputedStyle(n).backgroundColor);
        if (c.length === 3 || c[3] > 0.5) return c; } return [255, 255, 255]; };
    return [...document.querySelectorAll('#page *')].filter((node) => node.offsetParent
        && [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim()))
        .map((node) => { const [a, b] = [light(parse(getComputedStyle(node).color)),
            light(ground(node))].sort((x, y) => y - x);
            return [node.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)]; }); }"""


def texts(*replies):
    return [
        Query(QueryId(0, i), (text_segment(f"{i}a", reply), text_segment(f"{i}b", "Plain.")))
        for i, reply in enumerate(replies)
    ]


def address_from(process):
    for line in process.stdout:
        if line.startswith("answer at "):
            return line.removeprefix("answer at ").strip()
    raise AssertionError("the trainer printed no address")


@contextlib.contextmanager
def served(handler):
    """Serve on a free port of this host; give the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


def proxy(port, prefix, keep_host, cut=True):
    """Make a reverse proxy as nginx is: Host is the backend's unless kept, a path may be cut."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            headers = {
                k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")
            }
            headers["Host"] = self.headers["Host"] if keep_host else f"127.0.0.1:{port}"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as backend:
                path = self.path[len(prefix) :] if cut else self.path
                backend.request(self.command, path, body, headers)
                reply = backend.getresponse()
                data = reply.read()
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    return Proxy
