"""Kills a sweep again and again, and shows that it ends as one that was left alone does.

    python tests/kill_sweep.py SWEEP.toml FOLDER KILLS SEED      kills the sweep itself
    python tests/kill_sweep.py SWEEP.toml FOLDER KILLS SEED ray  kills workers of it, on Ray

Both sweeps are run below FOLDER. The moments of the kills are drawn: shortly after so many rounds
of all runs are done, whatever the speed of the machine. Where the process of the sweep is killed,
its runs must end by themselves; on Ray that is the last of several. Prints one JSON object.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

CLOCK = ("seconds",)  # of the table's columns
LATER_SECONDS, LONG_SECONDS = 0.1, 1800


def main(file: str, folder: str, kills: int, seed: int, on: str = "") -> None:
    """Run both and compare them."""
    alone, killed = Path(folder, "alone"), Path(folder, "killed")
    assert sweep(file, alone).wait(LONG_SECONDS) == 0
    draw = random.Random(seed)
    moments = sorted(draw.sample(range(rounds(alone) - 1), kills))
    options = ["--on", on, "--jobs", "2"] if on else []
    process = sweep(file, killed, *options)
    for number, moment in enumerate(moments, 1):
        while rounds(killed) < moment and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, LATER_SECONDS))
        assert process.poll() is None, "it ended before it could be killed"
        if on:
            os.kill(draw.choice(trainers(killed)), signal.SIGKILL)
        if not on or 1 < number == kills:
            process.kill()
            process.wait()
            process = sweep(file, killed, *options)
    assert process.wait(LONG_SECONDS) == 0
    tables, runs = [table(alone), table(killed)], [metrics(alone), metrics(killed)]
    print(
        json.dumps(
            {
                "killed_after_rounds": moments,
                "of_rounds": rounds(alone),
                "rows": len(tables[0]),
                "same_table": tables[0] == tables[1],
                "runs": len(runs[0]),
                "same_metrics": runs[0] == runs[1],
            }
        )
    )


def sweep(file: str, folder: Path, *options: str) -> subprocess.Popen:
    """Start a sweep, or what is left of it."""
    command = [sys.executable, "-m", "prefrl.cli", "sweep", file, "--folder", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def trainers(folder: Path) -> list[int]:
    """Return the numbers of the processes that train, as soon as there is one."""
    while True:
        stated = [json.loads(path.read_text()) for path in folder.glob("*/status.json")]
        found = [one["process"] for one in stated if one["state"] != "finished"]
        if running := [number for number in found if Path(f"/proc/{number}").exists()]:
            return running
        time.sleep(0.005)


def table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a sweep's table, less what the clock says."""
    command = [sys.executable, "-m", "prefrl.cli", "table", str(folder), "--csv"]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    rows = csv.DictReader(done.stdout.splitlines())
    return [{name: row[name] for name in row if name not in CLOCK} for row in rows]


def rounds(folder: Path) -> int:
    """Return how many rounds of all runs are done."""
    return sum(lines.count(b"\n") for lines in metrics(folder).values())


def metrics(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the metrics of each run, by the name of its folder."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/metrics.jsonl")}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
