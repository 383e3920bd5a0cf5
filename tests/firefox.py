"""Firefox as it is installed, driven by Marionette, which is part of it: nothing else is needed.

Playwright drives a Firefox of its own build, and the installed one lacks what it asks of it.
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

FIREFOX = os.environ.get("PREFRL_FIREFOX") or next(
    filter(None, map(shutil.which, ["firefox-esr", "firefox"])), None
)
PREFERENCES = {
    "marionette.port": 0,  # the first free one, which is written into the profile
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "app.update.auto": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}
PATIENCE = 90  # seconds; it starts in three where nothing else runs
KEYS = {
    "ArrowLeft": "\ue012", "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Enter": "\ue007",
    "Escape": "\ue00c",
}  # fmt: skip


class Firefox:
    """A window without a screen. Has of Playwright's page what the helpers of `page` use."""

    def __init__(self, profile: Path, size=(900, 640), **preferences):
        wanted = PREFERENCES | preferences
        lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in wanted.items()]
        (profile / "user.js").write_text("".join(lines))
        self.process = subprocess.Popen(
            [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), "--marionette"],
            env=os.environ | {"MOZ_HEADLESS_WIDTH": str(size[0]), "HOME": str(profile)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.numbers, self.keyboard = itertools.count(1), self
        try:
            self.socket = socket.create_connection(("127.0.0.1", self._port(profile)), PATIENCE)
            self._read()  # it says who it is
            self.do("NewSession", capabilities={})
            self.do("SetWindowRect", width=size[0], height=size[1])
        except BaseException:
            self.close()
            raise

    def _port(self, profile):
        file, deadline = profile / "MarionetteActivePort", time.monotonic() + PATIENCE
        while not (file.exists() and file.read_text()):
            assert time.monotonic() < deadline and self.process.poll() is None, "no Firefox"
            time.sleep(0.05)
        return int(file.read_text())

    def _read(self):
        length = b""
        while not length.endswith(b":"):
            length += self.socket.recv(1)
        missing, parts = int(length[:-1]), []
        while missing:
            parts.append(self.socket.recv(missing))
            missing -= len(parts[-1])
        return json.loads(b"".join(parts))

    def do(self, command, **parameters):
        """Send a command of WebDriver; return what it gives."""
        number = next(self.numbers)
        message = json.dumps([0, number, f"WebDriver:{command}", parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, answered, error, result = self._read()
        assert answered == number and error is None, error
        return result

    def goto(self, address):
        self.do("Navigate", url=address)

    def evaluate(self, expression):
        return self.do("ExecuteScript", script=f"return ({expression});", args=[])["value"]

    def press(self, key):
        """Press a key, or several with Control+ or Shift+ before."""
        *held, last = key.split("+")
        codes = [{"Control": "\ue009", "Shift": "\ue008"}[name] for name in held]
        codes.append(KEYS.get(last, last))
        strokes = [{"type": "keyDown", "value": code} for code in codes]
        strokes += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        self.do("PerformActions", actions=[{"type": "key", "id": "keys", "actions": strokes}])

    def locator(self, selector):
        """Find an element, to be clicked or read."""
        return Element(self, json.dumps(selector))

    def screenshot(self, path):
        value = self.do("TakeScreenshot", full=False)["value"]
        Path(path).write_bytes(base64.b64decode(value))

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if hasattr(self, "socket"):
            self.socket.close()


class Element:
    """What a selector finds first."""

    def __init__(self, page, selector):
        self.page, self.node = page, f"document.querySelector({selector})"

    def inner_text(self):
        return self.page.evaluate(f"{self.node}?.innerText")

    def click(self):
        self.page.evaluate(f"{self.node}.click()")


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    """One Firefox for all tests of a module."""
    if FIREFOX is None:
        assert "PREFRL_REQUIRE_BROWSER" not in os.environ, "no Firefox here"
        pytest.skip("no Firefox here: install one (Debian: apt-get install firefox-esr)")
    browser = Firefox(tmp_path_factory.mktemp("firefox"))
    with contextlib.closing(browser):
        yield browser
