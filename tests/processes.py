"""Commands as processes of their own, without the seconds that an interpreter takes to import.

    run(command(["train", …]))  as `subprocess.run`     Process(command(["label", …]))  as `Popen`

A server, one for each worker of pytest, imports prefrl and what it stands on; what is started is a
fork of it, with arguments, environment, folder, output, signals and exit code of its own. Whatever
is about imports, or about how an interpreter begins and ends, starts a new one with `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import prefrl.envs

import prefrl

TESTS = Path(__file__).parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("stable_baselines3", "torch._dynamo", "torch.utils.tensorboard"),
        "transformers.models.llama",
        *(
            found.name
            for package in (prefrl, prefrl.envs)
            for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
            if found.name != "prefrl.cli"  # which becomes `__main__`
        ),
    ]
)


def command(words, code=("-m", "prefrl.cli"), **environment) -> dict[str, Any]:
    """Return what starts the command line in a process of its own, here or with `subprocess`."""
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths} | environment
    return {"args": [sys.executable, *code, *map(str, words)], "env": environment, "text": True}


def run(args, env=None, text=True, cwd=None, timeout=60) -> subprocess.CompletedProcess:
    """Run a Python command to its end; keep its output."""
    with Process(args, env, text, cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(args, process.returncode, out, err)


class Process:
    """A Python command that is going on: those parts of `subprocess.Popen` that tests use."""

    def __init__(self, args, env=None, text=True, cwd=None, *, stdin=subprocess.DEVNULL,
                 stdout=None, stderr=None):  # fmt: skip
        assert args[0] == sys.executable and text
        self.stdin = self.stdout = self.stderr = None
        with contextlib.ExitStack() as ours:  # the child has copies of them
            fds = []
            for name, chosen in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
                if chosen == subprocess.PIPE:
                    ends = os.pipe()
                    mine, chosen = ends[::-1] if name == "stdin" else ends
                    ours.callback(os.close, chosen)
                    mode = "w" if name == "stdin" else "r"
                    setattr(self, name, os.fdopen(mine, mode, encoding="utf-8"))
                elif chosen == subprocess.DEVNULL:
                    chosen = os.open(os.devnull, os.O_RDWR)
                    ours.callback(os.close, chosen)
                elif chosen is None:
                    chosen = ("stdin", "stdout", "stderr").index(name)
                fds.append(chosen)
            environment = dict(os.environ if env is None else env)
            start = (args[1:], environment, str(cwd or Path.cwd()), *map(_Inherited, fds))
            self._process = SERVER.Process(target=_become, args=start)
            self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout=None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked command", timeout)
        return self.returncode

    def communicate(self, text=None, timeout=None) -> tuple[str | None, str | None]:
        """Write what is given, read what is left of both outputs, then wait."""
        if self.stdin:
            self.stdin.write(text or "")
            self.stdin.close()
        ends = time.monotonic() + (timeout or 600)
        heard: dict[str, str] = {}

        def hear(name):
            with getattr(self, name) as stream:
                heard[name] = stream.read()

        listening = [
            threading.Thread(target=hear, args=(name,), daemon=True)
            for name in ("stdout", "stderr")
            if getattr(self, name)
        ]
        for thread in listening:
            thread.start()
        for thread in listening:
            thread.join(max(0, ends - time.monotonic()))
        try:
            self.wait(max(0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return heard.get("stdout"), heard.get("stderr")

    def send_signal(self, number) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is not None:  # a test that fails leaves nothing behind
            self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()
        self.wait()


class _Inherited:
    """A file descriptor that the forked process gets a copy of."""

    def __init__(self, fd: int):
        self.fd = fd

    def __reduce__(self):
        return _detached, (DupFd(self.fd),)


def _detached(copy) -> int:
    return copy.detach()


def _become(words, environment, folder, *streams) -> None:
    """In the fork: take everything over, be that command, and end as an interpreter does."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, 1 if mode == "w" and (number == 2 or os.isatty(number)) else -1,
                  encoding="utf-8", closefd=False)
        for number, mode in enumerate("rww")
    )  # fmt: skip
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = ["", *environment.get("PYTHONPATH", "").split(os.pathsep)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os._exit(exit_code(words))


def exit_code(words) -> int:
    """Be a command, to its end; return what it ends with."""
    try:
        become(words)
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:  # as an interpreter that ends
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()


def become(words) -> None:
    """Run what comes after `python` on a command line: -m MODULE, -c CODE, or a file."""
    first, *rest = map(str, words)
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *rest]
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")
