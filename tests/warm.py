"""Run a script whose own commands need not import anew what takes them seconds.

    python tests/warm.py MODULES SCRIPT [WORD …]

The modules, joined by commas, are imported first. Python commands that the script starts with
`subprocess.run` or, as a sweep does, with `Popen`, are then forks of this process instead of new
interpreters: processes of their own all the same, with their own arguments, output and exit code.
Starting a score of interpreters is most of what the scripts do on the budget of a test.
"""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from processes import become, exit_code


def main() -> None:
    """Import, then become the script."""
    modules, *words = sys.argv[1:]
    for name in modules.split(","):
        importlib.import_module(name)
    subprocess.run, subprocess.Popen = run, popen  # type: ignore[assignment, misc]
    become(words)


plainly, begin = subprocess.run, subprocess.Popen


def popen(command: Any, **options: Any) -> Any:
    """Do as `subprocess.Popen` does, for Python commands whose output is a file or dropped."""
    is_python = isinstance(command, list) and command[:2] == [sys.executable, "-m"]
    return (Forked if is_python else begin)(command, **options)


class Forked:
    """A Python command as a fork of this process, as far as `Popen` is used by those under test."""

    def __init__(self, command, *, stdin=None, stdout=None, stderr=None, env=None, **_):
        words = [*map(str, command[1:])]
        self.args, self.returncode, self.stdin, self.stdout = command, None, None, None
        sys.stdout.flush()
        assert subprocess.PIPE not in (stdout, stderr)
        kept, dropped = [(stdout, 1), (stderr, 2)], []
        if stdin == subprocess.PIPE:
            read, write = os.pipe()
            kept.append((read, 0))
            dropped.append(write)
            self.stdin = os.fdopen(write, "wb", buffering=0)
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            for descriptor in dropped:
                os.close(descriptor)
            nothing = os.open(os.devnull, os.O_RDWR)
            for file, number in kept:
                if file is not None:
                    name = file if isinstance(file, int) else file.fileno()
                    os.dup2(nothing if name == subprocess.DEVNULL else name, number)
            os.environ.update(env or {})
            os._exit(exit_code(words))
        if self.stdin:
            os.close(read)

    def poll(self):
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def wait(self, timeout=60):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def run(command: list[Any], *, check: bool = False, **options: Any) -> subprocess.CompletedProcess:
    """Do as `subprocess.run` does, for Python commands whose output is taken as text or dropped."""
    python, *words = map(str, command)
    if python != sys.executable:
        return plainly(command, check=check, **options)
    with tempfile.TemporaryFile("w+") as output:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os._exit(exit_code(words))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        done = subprocess.CompletedProcess(command, code, output.read())
    if check:
        done.check_returncode()
    return done


if __name__ == "__main__":
    main()
