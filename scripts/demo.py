"""Watch a robot learn a backflip from preferences: `python3 scripts/demo.py`.

Needs Python 3.11 or newer and nothing else. Makes a virtual environment in .venv if there is none,
installs prefrl into it, with the versions that were tested (.ci/constraints.txt), trains the preset
hopper-backflip with the synthetic oracle, and leaves a video, a GIF, a film strip and a learning
curve. Exits 1 if the robot does less than one clean flip an episode.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TESTED = ROOT / ".ci" / "constraints.txt"


def main() -> int:
    """Install, train, draw, judge."""
    parser = argparse.ArgumentParser(
        description="Train a backflip from preferences, film it and count the flips."
    )
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it")
    parser.add_argument("--labels", type=int, default=50, help="answers, orders of six clips")
    parser.add_argument("--run", type=Path, help="run folder to make (default: runs/demo-…)")
    chosen, more = parser.parse_known_args()
    install(f"--editable={ROOT}")
    run = chosen.run or ROOT / "runs" / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    began = time.monotonic()
    prefrl("train", "hopper-backflip", "--seed", chosen.seed, "--labels", chosen.labels,
           "--run", run, *more)  # fmt: skip
    prefrl("video", run, "--output", run / "backflip.mp4")
    prefrl("video", run, "--output", run / "backflip.gif")
    prefrl("video", run, "--strip", "--output", run / "backflip.png")
    prefrl("plot", run)
    report = json.loads(prefrl("evaluate", run, "--json", capture=True))
    flips = report["policy"]["info"]["clean_flips"]
    print(f"\n{flips:.2f} clean flips an episode, over {report['episodes']} episodes of 4 s")
    print(f"{report['labels']['answered']} answers, {time.monotonic() - began:.0f} s")
    return 0 if flips >= 1 else 1


def install(*packages: str, venv: Path = VENV, versions: Sequence[Path] = (TESTED,)) -> None:
    """Install packages into a virtual environment, which is made if there is none.

    Args:
        packages: what pip is told, such as f"--editable={ROOT}[test]".
        venv: folder of the virtual environment.
        versions: constraints files, for the packages themselves and for what builds them.
    """
    if sys.version_info < (3, 11):
        sys.exit(f"prefrl needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    if not python(venv).exists():
        print(f"making a virtual environment in {venv}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    print(f"installing into {venv} (the first time takes a few minutes)", flush=True)
    pip = [python(venv), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Through the environment, since --constraint does not reach what builds prefrl; as addresses,
    # since pip splits this at spaces; under two names, since pip 26 takes builds from the second.
    chosen = " ".join(path.as_uri() for path in versions)
    variables = {"PIP_CONSTRAINT": chosen, "PIP_BUILD_CONSTRAINT": chosen} if versions else {}
    done = subprocess.run([*pip, *packages], check=False, env=os.environ | variables)
    if done.returncode:
        sys.exit("installing failed, pip says why; `pip install -e .` takes other versions")


def python(venv: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prefrl(*words: object, capture: bool = False) -> str:
    """Run a prefrl command in .venv; return what it printed if `capture`."""
    command = [str(python(VENV)), "-m", "prefrl.cli", *map(str, words)]
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE if capture else None
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
