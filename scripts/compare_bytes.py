"""Show that two states of prefrl give the same bits: `python scripts/compare_bytes.py REV [REV]`.

Each git revision (or "." for the working tree) is installed by itself and trains the same small
runs from the same seed; then their `metrics.jsonl` are compared, byte for byte. Prints one JSON
object and exits 1 if a byte differs. This is how a restructuring is proved to change nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKING_TREE = "."
CARTPOLE = ["--env", "CartPole-v1", "--num-envs", "8", "--query.explore-steps", "4096"]
RUNS = {
    "hopper-backflip": ["hopper-backflip", "--labels", "60", "--steps", "98304", "--rounds", "3"],
    "half-cheetah": ["half-cheetah", "--labels", "60", "--steps", "98304", "--rounds", "3"],
    "random-walks": ["random-walks", "--labels", "64", "--steps", "1024", "--rounds", "2"],
    "guess-number": ["guess-number", "--labels", "32", "--steps", "256", "--rounds", "1"],
    "cartpole": [*CARTPOLE, "--labels", "40", "--steps", "8192", "--rounds", "4"],
    "pendulum": ["--env", "Pendulum-v1", "--labels", "40", "--steps", "32768", "--rounds", "4"],
}


def main() -> int:
    """Run both states, compare, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", help='git revision, or "." for the working tree')
    parser.add_argument("after", nargs="?", default=WORKING_TREE, help="likewise; . by default")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=[*RUNS], help="which runs")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--more", default="", help='further options, "--steps 4096 --rounds 1"')
    chosen = parser.parse_args()
    more = ["--seed", str(chosen.seed), *shlex.split(chosen.more)]
    with tempfile.TemporaryDirectory() as scratch:
        before, after = (
            train(revision, chosen.runs, more, Path(scratch) / str(number))
            for number, revision in enumerate((chosen.before, chosen.after))
        )
    report = {
        name: {
            "same": before[name] == after[name],
            "rounds": before[name].count(b"\n"),
            "sha256": [hashlib.sha256(line[name]).hexdigest()[:16] for line in (before, after)],
            "differs": difference(before[name], after[name]),
        }
        for name in chosen.runs
    }
    print(json.dumps({"before": chosen.before, "after": chosen.after, "runs": report}, indent=2))
    return 0 if all(run["same"] for run in report.values()) else 1


def train(revision: str, names: list[str], more: list[str], scratch: Path) -> dict[str, bytes]:
    """Train the runs with one state of prefrl; return their metrics."""
    package = install(revision, scratch)
    environment = os.environ | {"PYTHONPATH": str(package)}
    metrics = {}
    for name in names:
        folder = scratch / name
        command = [sys.executable, "-m", "prefrl.cli", "train", *RUNS[name], *more]
        print(f"{revision}: {name}", file=sys.stderr, flush=True)
        subprocess.run(
            [*command, "--run", str(folder)], check=True, cwd=scratch, env=environment,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        metrics[name] = (folder / "metrics.jsonl").read_bytes()
    return metrics


def difference(before: bytes, after: bytes) -> str:
    """Say where two runs part, "" if they do not; a metric may have got another name."""
    for number, (old, new) in enumerate(zip(before.splitlines(), after.splitlines(), strict=False)):
        was, now = json.loads(old), json.loads(new)
        if was == now:
            continue
        values = [json.dumps(value) for value in was.values()]
        renamed = values == [json.dumps(value) for value in now.values()]
        names = sorted(was.keys() ^ now.keys() if renamed else was.keys() | now.keys())
        other = [name for name in names if was.get(name) != now.get(name)]
        return f"round {number}: {'only the names of ' if renamed else ''}{', '.join(other)}"
    return "" if before == after else "the number of rounds"


def install(revision: str, scratch: Path) -> Path:
    """Lay a state of prefrl out as it would be installed; return what goes on PYTHONPATH."""
    tree = ROOT
    if revision != WORKING_TREE:
        tree = scratch / "tree"
        tree.mkdir(parents=True)
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    package = scratch / "package"
    package.mkdir(parents=True)
    (package / "prefrl").symlink_to(scratch / "prefrl")
    (scratch / "prefrl").mkdir()
    for path in (tree / "prefrl").iterdir():
        (scratch / "prefrl" / path.name).symlink_to(path)
    (scratch / "prefrl" / "envs").symlink_to(tree / "envs")
    return package


if __name__ == "__main__":
    sys.exit(main())
