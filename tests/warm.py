"""Run a script whose own commands need not import anew what takes them seconds.

    python tests/warm.py MODULES SCRIPT [WORD …]

The modules, joined by commas, are imported first. Python commands that the script starts with
`subprocess.run` are then forks of this process instead of new interpreters: processes of their own
all the same, with their own arguments, output and exit code. Starting a score of interpreters is
most of what the scripts do on the budget of a test.
"""

import atexit
import importlib
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from typing import Any


def main() -> None:
    """Import, then become the script."""
    modules, *words = sys.argv[1:]
    for name in modules.split(","):
        importlib.import_module(name)
    subprocess.run = run  # type: ignore[assignment]
    become(words)


plainly = subprocess.run


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


def exit_code(words: list[str]) -> int:
    """Become a command and return what it ends with."""
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


def become(words: list[str]) -> None:
    """Run what comes after `python` on a command line: -m MODULE, or a file."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
