"""Runs the cells of a sweep, as many side by side as there is room for.

The state of a sweep are its folders: whoever starts it again goes on where it stands. Who runs the
cells is `runs.workers`, processes of this machine, or `runs.on_ray`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from prefrl.config.experiment import Experiment
from prefrl.config.sweep import Cell, Sweep, axes_in_words, cell_name, experiment_key
from prefrl.config.text import TextConfig
from prefrl.contracts import EvaluationRequest
from prefrl.errors import UserError
from prefrl.runs.cell import is_finished, request_of
from prefrl.runs.versions import code
from prefrl.runs.workers import Processes, Workers, end, error_of, started
from prefrl.storage.folder import RunFolder
from prefrl.storage.sweeps import SweepFolder

POLL_SECONDS, CLAIM_SECONDS = 0.1, 5.0
QUICK_STEPS = 500_000  # of a sweep that needs no forecast
STEPS_OF_A_TURN = 50  # that take a robot as long as a language model one turn
PLACEHOLDER = Experiment()


@dataclass(frozen=True)
class Outcome:
    """How a cell ended."""

    cell: Cell
    error: str = ""
    """Why it failed; "" if it has finished."""


@dataclass(frozen=True)
class Progress:
    """How far a sweep is."""

    finished: int
    failed: int
    working: int
    cells: int
    steps: int
    """Of all cells, so far."""
    total_steps: int


def with_folders(folder: SweepFolder, sweep: Sweep, keep: bool = False) -> Sweep:
    """Return a sweep whose cells have the names of their run folders.

    The name of a folder holds a hash of the experiment and one of prefrl's code, so that what was
    run with other settings, or by another version, is left alone and never taken for this.

    Args:
        folder: of the sweep.
        sweep: what to run.
        keep: take what another version of prefrl has finished.
    """
    version = code()
    kept = _finished(folder, request_of(sweep)) if keep else {}
    cells = []
    for cell in sweep.cells:
        key = experiment_key(cell.experiment)
        name = f"{cell_name(cell.axes, cell.experiment)}-{version}"
        there = sorted(path.name for path in folder.path.glob(f"*-{key}-{version}"))
        cells.append(replace(cell, name=there[0] if there else kept.get(key, name)))
    return replace(sweep, cells=tuple(cells))


def _finished(folder: SweepFolder, request: EvaluationRequest) -> dict[str, str]:
    """Return the names of the folders whose runs have finished, by what was run."""
    found = {}
    for path in sorted(folder.path.glob("*/")):
        run = RunFolder(path)
        with suppress(UserError):  # one that this version cannot read
            if is_finished(run, request):
                found[experiment_key(run.experiment())] = path.name
    return found


def unfinished(folder: SweepFolder, sweep: Sweep) -> list[Cell]:
    """Return the cells that are still to be run, or to be evaluated."""
    request = request_of(sweep)
    return [cell for cell in sweep.cells if not is_finished(folder.run(cell), request)]


def side_by_side(sweep: Sweep) -> int:
    """Return how many runs this machine serves at a time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(cell.experiment.threads for cell in sweep.cells)
    return max(1, (cores or 1) // threads)


def run_cells(
    folder: SweepFolder, sweep: Sweep, jobs: int, workers: Workers | None = None
) -> Iterator[Outcome | Progress]:
    """Run what is unfinished; yield each cell that has ended, and often how far the sweep is.

    Whatever ends this ends what is at work; the runs go on from where they are next time.

    Args:
        folder: of the sweep.
        sweep: what to run.
        jobs: runs side by side.
        workers: who runs them; processes of this machine by default.

    Raises:
        UserError: another process has taken the sweep over, or a worker cannot be used.
    """
    waiting = deque(unfinished(folder, sweep))
    working: dict[str, Cell] = {}
    finished, failed = len(sweep.cells) - len(waiting), 0
    total = sum(cell.experiment.steps for cell in sweep.cells)
    known = total - sum(cell.experiment.steps for cell in waiting)
    checked = time.monotonic()
    with closing(workers or Processes(folder)) as workers:
        while waiting or working:
            while waiting and len(working) < jobs:
                cell = waiting.popleft()
                workers.begin(cell)
                working[cell.name] = cell
            for cell, error in workers.ended():
                del working[cell.name]
                finished, failed = finished + (not error), failed + bool(error)
                known += cell.experiment.steps
                yield Outcome(cell, error)
            steps = known + sum(_steps(folder, cell) for cell in working.values())
            yield Progress(finished, failed, len(working), len(sweep.cells), steps, total)
            time.sleep(POLL_SECONDS)
            if time.monotonic() > checked + CLAIM_SECONDS:
                folder.check_claim()
                checked = time.monotonic()


def finish_all(path: Path | str, sweep: Sweep, jobs: int | None = None) -> SweepFolder:
    """Run what is unfinished of a sweep, from Python; return its folder.

    Args:
        path: of the folder, which is made if it is not there.
        sweep: as `grid.make_sweep` or `grid.read_sweep` made it.
        jobs: runs side by side; as many as this machine serves by default.

    Raises:
        UserError: a run failed; the others have finished.
    """
    folder = SweepFolder(path)
    with closing(folder):
        folder.claim()
        sweep = with_folders(folder, sweep)
        folder.save(sweep)
        ended = [*run_cells(folder, sweep, jobs or side_by_side(sweep))]
    for outcome in ended:
        if isinstance(outcome, Outcome) and outcome.error:
            raise UserError(f"{axes_in_words(outcome.cell.axes)}: {outcome.error}")
    return folder


def forecast(folder: SweepFolder, sweep: Sweep, jobs: int) -> float | None:
    """Return how many seconds a sweep will take, None if it is too short to be worth measuring.

    Runs of one kind are as fast as those of it that have finished; else a few seconds of training,
    as many side by side as there will be, say how fast. Fits and evaluations are not counted.
    """
    cells = unfinished(folder, sweep)
    if not _is_long(cells):
        return None
    paces = _paces(folder, sweep)
    for cell in cells:
        kind = _kind(cell.experiment)
        if kind not in paces:
            paces[kind] = _measured(folder, cell, jobs)
    seconds = [cell.experiment.steps / paces[_kind(cell.experiment)] for cell in cells]
    return max(sum(seconds) / min(jobs, len(cells)), *seconds, 0.0)


def _is_long(cells: Sequence[Cell]) -> bool:
    weights = [
        STEPS_OF_A_TURN if isinstance(cell.experiment.domain, TextConfig) else 1 for cell in cells
    ]
    steps = [cell.experiment.steps * weight for cell, weight in zip(cells, weights, strict=True)]
    return sum(steps) > QUICK_STEPS


def _kind(experiment: Experiment) -> Experiment:
    """Return what experiments that are about as fast as each other have in common."""
    return replace(
        PLACEHOLDER, env=experiment.env, env_kwargs=experiment.env_kwargs,
        threads=experiment.threads, reward=experiment.reward, domain=experiment.domain,
    )  # fmt: skip


def _paces(folder: SweepFolder, sweep: Sweep) -> dict[Experiment, float]:
    """Return the steps a second of the cells that have finished, by their kind."""
    request = request_of(sweep)
    done = [cell for cell in sweep.cells if is_finished(folder.run(cell), request)]
    seconds = {cell.name: folder.run(cell).evaluation()["seconds"] for cell in done}
    return {
        _kind(cell.experiment): cell.experiment.steps / seconds[cell.name]
        for cell in done
        if seconds[cell.name] > 0
    }


def _measured(folder: SweepFolder, cell: Cell, jobs: int) -> float:
    """Return the steps a second of one of `jobs` runs side by side.

    Raises:
        UserError: none can be built.
    """
    work = [started(folder, cell, pace=True) for _ in range(jobs)]
    try:
        told = [one.process.stdout.read() for one in work if one.process.stdout]
    finally:
        end(work)
    if errors := [error for one in work if (error := error_of(folder, one))]:
        raise UserError(f"{axes_in_words(cell.axes)}: {errors[0]}")
    return sum(map(float, told)) / jobs


def _steps(folder: SweepFolder, cell: Cell) -> int:
    return folder.run(cell).status().get("steps", 0)
