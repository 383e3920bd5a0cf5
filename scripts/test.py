"""Run the whole test suite: `python3 scripts/test.py`.

Needs Python 3.11 or newer and nothing else: it installs prefrl and its test extra into .venv, then
runs ruff, pyright and pytest there. Further arguments go to pytest.
"""

import os
import subprocess
import sys

from demo import PYTHON, ROOT, install


def main() -> int:
    """Install, check, test; exit with the first failure's code."""
    install("[test]")
    workers = str(min(os.cpu_count() or 1, 8))
    commands = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["pyright", "--pythonpath", str(PYTHON)],
        ["pytest", "-n", workers, *sys.argv[1:]],
    ]
    for command in commands:
        print("$", *command, flush=True)
        done = subprocess.run([str(PYTHON), "-m", *command], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
