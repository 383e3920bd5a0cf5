"""`prefrl sweep`, `table`: many runs that belong together, and what they came to."""

import shlex
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from prefrl.commands.console import installed, live_line, say, shown
from prefrl.commands.process import INTERRUPTS
from prefrl.config.fields import Count
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.config.sweep import Sweep
    from prefrl.runs.on_ray import RayWorkers
    from prefrl.runs.sweep import Outcome, Progress
    from prefrl.storage.sweeps import SweepFolder

SOME_FAILED = 1
LONG_HOURS = 24.0

Grid = Annotated[Positional[Path], arg(metavar="FILE|FOLDER")]


@dataclass(frozen=True)
class RunSweep:
    """FILE | FOLDER: run a grid of experiments side by side, or what is left of one."""

    file: Grid
    """TOML, a key an option of `prefrl train`, lists as axes; or Python with experiments(). The
    folder of a sweep goes on with it."""
    folder: Path | None = None
    """Folder of the sweep; runs/FILE, less its ending, by default."""
    jobs: Count | None = None
    """Runs side by side; as many as this machine has cores by default."""
    yes: bool = False
    """Begin, even if it takes more than a day."""
    on: str = ""
    """Where they run, if not here: ray for a Ray of this machine alone, ray://HOST:PORT for a
    cluster (pip install 'prefrl[ray]')."""
    keep: bool = False
    """Keep what another version of prefrl has finished, instead of running it again."""
    list: bool = False
    """List the runs and how they have ended, and run nothing."""
    print: bool = False
    """Print a command for each run that is left, a line each, for Slurm or GNU parallel."""
    only: Count | None = None
    """Run this one alone: its line in --list. Several may do so at once, on any machine."""


def sweep(chosen: RunSweep) -> None:
    """Run what is unfinished of a sweep."""
    from prefrl.runs.grid import read_sweep
    from prefrl.runs.sweep import side_by_side, with_folders
    from prefrl.storage.sweeps import SweepFolder

    if chosen.list + chosen.print + (chosen.only is not None) > 1:
        raise UserError("--list, --print and --only are given together; expected one of them")
    folder = _folder(chosen.file, chosen.folder)
    if chosen.only is not None:
        _run_only(SweepFolder.open(folder.path), chosen.only)
        return
    whole = folder.sweep() if chosen.file.is_dir() else read_sweep(chosen.file)
    whole = with_folders(folder, whole, chosen.keep)
    if chosen.list:
        _list(folder, whole)
        return
    if chosen.print:
        _print(folder, whole)
        return
    INTERRUPTS.listen_to("SIGTERM", "SIGHUP")
    again = f"`prefrl sweep {shown(folder.path)}` goes on with it"
    try:
        with closing(folder):
            folder.claim()
            folder.save(whole)
            if workers := _workers(folder, whole, chosen):
                _announce(folder, whole, workers.jobs, chosen.yes, measure=False)
                failed = _run(folder, whole, workers.jobs, workers)
            else:
                jobs = chosen.jobs or side_by_side(whole)
                _announce(folder, whole, jobs, chosen.yes)
                failed = _run(folder, whole, jobs)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {again}") from None
    if failed:
        logs = shown(folder.path / "logs")
        say(f"failed: {failed} of {len(whole.cells)} runs, whose last words are in {logs}; {again}")
        sys.exit(SOME_FAILED)
    say(f"done; `prefrl table {shown(folder.path)}` shows what came of it")


def _print(folder: "SweepFolder", whole: "Sweep") -> None:
    """Keep what is to be run, and print what runs each cell that is left."""
    from prefrl.runs.sweep import unfinished

    with closing(folder):
        folder.claim()
        folder.save(whole)
    left = unfinished(folder, whole)
    for number, cell in enumerate(whole.cells, 1):
        if cell in left:
            say(f"prefrl sweep {shlex.quote(shown(folder.path))} --only {number}")


def _run_only(folder: "SweepFolder", number: int) -> None:
    """Run one cell of what is kept, and what is left of it."""
    from prefrl.config.sweep import axes_in_words

    whole = folder.sweep()
    if number > len(whole.cells):
        raise UserError(
            f"--only is {number}, but the sweep has {len(whole.cells)} runs; "
            f"`prefrl sweep {shown(folder.path)} --list` shows them"
        )
    cell = whole.cells[number - 1]
    INTERRUPTS.listen_to("SIGTERM", "SIGHUP")
    say(f"run {number} of {len(whole.cells)}: {axes_in_words(cell.axes)}")
    if _run(folder, replace(whole, cells=(cell,)), 1):
        sys.exit(SOME_FAILED)


def _workers(folder: "SweepFolder", whole: "Sweep", chosen: RunSweep) -> "RayWorkers | None":
    """Return who runs the cells that are left, None if it is this machine's processes."""
    from prefrl.runs.sweep import unfinished

    if not chosen.on or not unfinished(folder, whole):
        return None
    with installed("ray"), live_line() as show:
        show("waiting for Ray", False)
        from prefrl.runs.on_ray import RayWorkers

        workers = RayWorkers(folder, whole, chosen.on, chosen.jobs)
    INTERRUPTS.listen_to("SIGTERM")  # Ray has taken it
    return workers


def _run(
    folder: "SweepFolder", whole: "Sweep", jobs: int, workers: "RayWorkers | None" = None
) -> int:
    """Run what is unfinished and show how far it is; return how many runs failed."""
    from prefrl.config.sweep import axes_in_words
    from prefrl.runs.sweep import Outcome, run_cells

    failed, began, begun_at = 0, time.monotonic(), None
    with live_line() as show:
        for now in run_cells(folder, whole, jobs, workers):
            if isinstance(now, Outcome):
                failed += bool(now.error)
                show(f"{axes_in_words(now.cell.axes)}: {_outcome(folder, now)}", True)
                continue
            begun_at = now.steps if begun_at is None else begun_at
            rate = (now.steps - begun_at) / (time.monotonic() - began + 1e-9)
            show(_progress(now, rate), False)
    return failed


def _outcome(folder: "SweepFolder", outcome: "Outcome") -> str:
    if outcome.error:
        return f"failed: {outcome.error}"
    evaluation = folder.run(outcome.cell).evaluation()
    achieved = evaluation["report"]["policy"]["true_return"]["mean"]
    return f"true return {achieved:.4g}, {evaluation['seconds']:.0f} s"


def _progress(now: "Progress", rate: float) -> str:
    parts = [f"{now.finished}/{now.cells} finished", f"{now.working} at work"]
    parts += [f"{now.failed} failed"] if now.failed else []
    if rate > 0:
        parts += [f"{rate:,.0f} steps/s", f"{_clock((now.total_steps - now.steps) / rate)} left"]
    return ", ".join(parts)


def _folder(file: Path, folder: Path | None) -> "SweepFolder":
    """Return the folder of a sweep that is named by its file or by itself."""
    from prefrl.storage.sweeps import SweepFolder

    if file.is_dir():
        if folder is not None:
            raise UserError(f"{shown(file)} is the folder of a sweep already; leave out --folder")
        return SweepFolder.open(file)
    if not file.exists():
        raise UserError(f"there is no {shown(file)}; expected a file of TOML or Python, or a sweep")
    return SweepFolder(folder or Path("runs") / file.stem)


def _list(folder: "SweepFolder", whole: "Sweep") -> None:
    from prefrl.config.sweep import axes_in_words
    from prefrl.runs.sweep import unfinished

    left = {cell.name for cell in unfinished(folder, whole)}
    for number, cell in enumerate(whole.cells, 1):
        ended = folder.run(cell).outcome()
        how = f"failed ({ended['error']}): " if ended.get("error") else ""
        say(f"{number} {how if cell.name in left else 'finished: '}{axes_in_words(cell.axes)}")


def _announce(
    folder: "SweepFolder", whole: "Sweep", jobs: int, yes: bool, measure: bool = True
) -> None:
    """Say what there is to do and, if that is to be measured here, about how long it takes.

    Raises:
        UserError: it takes more than a day, and nobody said that it may.
    """
    from prefrl.runs.sweep import forecast, unfinished

    left = unfinished(folder, whole)
    finished = len(whole.cells) - len(left)
    say(f"sweep folder: {shown(folder.path)}")
    what = f"runs: {len(whole.cells)}" + (f", finished: {finished}" if finished else "")
    say(f"{what}; {min(jobs, max(1, len(left)))} side by side")
    if not measure:
        return
    with live_line() as show:
        show("measuring how long it will take", False)
        seconds = forecast(folder, whole, jobs)
    if seconds is None:
        return
    steps = sum(cell.experiment.steps for cell in left)
    about = f"{steps:,} steps take about {_hours(seconds)}, at {steps / seconds:,.0f} steps/s"
    if seconds > LONG_HOURS * 3600 and not yes:
        raise UserError(f"{about}; begin with --yes if that is meant, or take fewer runs or steps")
    say(f"{about} in all")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _hours(seconds: float) -> str:
    """Return a time as people say it: "3.2 days", "1:05 hours", "12 minutes"."""
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:.1f} days"
    minutes = max(1, round(seconds / 60))
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02d} hours"
    return f"{minutes} minute{'s' * (minutes != 1)}"


@dataclass(frozen=True)
class ShowTable:
    """FILE | FOLDER: show what the runs of a sweep came to, with intervals over seeds."""

    file: Grid
    """The file of a sweep, or its folder."""
    folder: Path | None = None
    """Folder of the sweep; runs/FILE, less its ending, by default."""
    number: str = ""
    """What the environment reports at an episode's end (clean_flips), instead of the true
    return."""
    csv: bool = False
    """Print CSV."""
    figure: Annotated[Path | None, arg(metavar="FILE")] = None
    """Picture to draw (.png, .pdf, .svg)."""


def table(chosen: ShowTable) -> None:
    """Print the table of a sweep."""
    from prefrl.reports.plot import plot_table
    from prefrl.reports.table import as_csv, in_words, tabulate
    from prefrl.storage.sweeps import SweepFolder

    folder = _folder(chosen.file, chosen.folder)
    found = tabulate(SweepFolder.open(folder.path), chosen.number)
    if chosen.figure:
        plot_table(found, chosen.figure)
    say(*(as_csv(found).splitlines() if chosen.csv else in_words(found)))
