"""Runs the cells of a sweep as tasks of Ray, on this machine or on the nodes of a cluster.

A task does what a process of a sweep on one machine does: it begins a run, takes it up or finds it
finished (`runs.cell.finish`). So if its worker or node dies Ray simply gives it to another, which
goes on after the last finished round; the fence of the run's store keeps the old one from writing,
should it still live. Nothing of Ray is imported before a sweep asks for it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import platform
import secrets
import shutil
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefrl.config.experiment import Experiment
from prefrl.config.sweep import Cell, Sweep
from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.runs.cell import finish, request_of
from prefrl.runs.versions import code
from prefrl.storage.sweeps import SweepFolder

HERE, SCHEME, MEMBER = "ray", "ray://", "ray://auto"
RETRIES = 20  # of a run whose worker or node dies
CONNECT_SECONDS = 5.0
STORE_BYTES = 80 * 1024**2  # the least that Ray takes: tasks return nothing but a sentence
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of what it will do one day
    "RAY_worker_niceness": "0",  # as processes without Ray are
}


class RayWorkers:
    """The workers of a Ray cluster, or of a Ray that lives as long as the sweep."""

    def __init__(self, folder: SweepFolder, sweep: Sweep, address: str, jobs: int | None = None):
        """Connect to a cluster, or start a small one here.

        Args:
            folder: of the sweep; all nodes see it under the same path.
            sweep: what is to be run.
            address: "ray" for this machine, "ray://HOST:PORT" for a cluster's client server,
                "ray://auto" for the cluster that this machine is a node of.
            jobs: runs side by side; as many as there is room for by default.

        Raises:
            UserError: nothing answers there, or no node has what a run needs.
            ModuleNotFoundError: Ray is not installed.
        """
        self._folder = folder
        self._at_work: dict[Any, Cell] = {}
        os.environ.update(QUIET)
        if address == HERE:
            # A token in memory, known as Ray is imported: else it makes a file in the home folder.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        self._ray: Any = importlib.import_module("ray")
        needs = [needed(cell.experiment, False) for cell in sweep.cells]
        threads = max(need["num_cpus"] for need in needs)
        try:
            if address == HERE:
                _start_here(self._ray, folder, (jobs or 1) * threads)
            else:
                _connect(self._ray, address)
            self._has_gpus = bool(self._ray.cluster_resources().get("GPU"))
            _check_room(self._ray.nodes(), sweep.cells, self._has_gpus)
            self.jobs = jobs or _side_by_side(self._ray, sweep.cells, self._has_gpus)
        except BaseException:
            self.close()
            raise
        # No worker serves two runs: each begins in a process of its own, as it does without Ray.
        self._task = self._ray.remote(max_calls=1, max_retries=RETRIES)(_task())

    def begin(self, cell: Cell) -> None:
        """Give Ray the task of a cell."""
        needs = needed(cell.experiment, self._has_gpus)
        reference = self._task.options(name=cell.name, **needs).remote(
            str(self._folder.path), cell.name, code(), str(Path.cwd())
        )
        self._at_work[reference] = cell

    def ended(self) -> list[tuple[Cell, str]]:
        """Return the cells whose tasks have ended, and why they failed.

        Raises:
            UserError: a node cannot be used.
        """
        if not self._at_work:
            return []
        references = [*self._at_work]
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        ended = []
        for reference in done:
            cell = self._at_work.pop(reference)
            try:
                can_be_used, error = self._ray.get(reference)
            except self._ray.exceptions.RayError as problem:
                can_be_used, error = True, _died(problem)
            if not can_be_used:
                raise UserError(error)
            ended.append((cell, error))
        return ended

    def close(self) -> None:
        """End what is at work, and Ray, if it was started here."""
        for reference in self._at_work:
            with contextlib.suppress(Exception):  # it may have ended
                self._ray.cancel(reference, force=True)
        self._ray.shutdown()
        _remove_files(self._folder)


def needed(experiment: Experiment, has_gpus: bool) -> dict[str, int]:
    """Return what a run needs, as Ray names it: cores, and the GPU of a language model.

    Args:
        experiment: what is run.
        has_gpus: whether the cluster has any, which a device left open then takes.
    """
    domain = experiment.domain
    device = domain.device if isinstance(domain, TextConfig) else "cpu"
    on_gpu = device.startswith("cuda") or (device == "auto" and has_gpus)
    return {"num_cpus": experiment.threads, "num_gpus": int(on_gpu)}


def finish_here(path: str, name: str, version: str, working_folder: str) -> tuple[bool, str]:
    """Finish a cell on the node that this runs on.

    Args:
        path: of the sweep's folder.
        name: of the cell.
        version: of prefrl, as `versions.code` has it where the sweep was begun.
        working_folder: there, in which modules of the user's own may be.

    Returns:
        Whether this node can be used, and why it cannot, or why the run failed; "" if it did not.
    """
    folder, host = SweepFolder(path), platform.node()
    if code() != version:
        return False, (
            f"prefrl on the node {host} is another version than here; install the same on all "
            "nodes, then the sweep goes on where it stands"
        )
    if not folder.exists():
        return False, (
            f"the node {host} does not see {path}; give the sweep a folder that all nodes see "
            "under the same path, with --folder"
        )
    with contextlib.suppress(OSError):
        os.chdir(working_folder)
        sys.path.insert(0, working_folder)
    sweep = folder.sweep()
    [cell] = [cell for cell in sweep.cells if cell.name == name]
    with folder.log(cell).open("w", encoding="utf-8") as log, _said_to(log.fileno()):
        try:
            finish(cell.experiment, folder.run(cell), request_of(sweep))
        except (UserError, FloatingPointError) as error:
            print(f"prefrl: {error}", file=log)
            return True, str(error)
        except Exception as error:  # a fault of the run's: Ray must not try it again
            traceback.print_exc(file=log)
            return True, f"{type(error).__name__}: {error}"
    return True, ""


def _task() -> Callable[..., tuple[bool, str]]:
    """Return the task, which Ray sends as code: a node that has no prefrl can say so."""

    def task(*words: str) -> tuple[bool, str]:
        import platform

        try:
            from prefrl.runs.on_ray import finish_here
        except ImportError:
            return False, (
                f"the node {platform.node()} has no prefrl, or another version; install the same "
                "on all nodes, then the sweep goes on where it stands"
            )
        return finish_here(*words)

    return task


@contextlib.contextmanager
def _said_to(file: int) -> Any:
    """Let all that this process says go to a file."""
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(file, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def _start_here(ray: Any, folder: SweepFolder, least_cores: int) -> None:
    """Start a Ray of this machine alone; its files go when it ends, or at the next start."""
    _remove_files(folder)
    # Its sockets lie in there, and the path of a socket is short.
    files = tempfile.mkdtemp(prefix="prefrl-", dir="/tmp" if os.name == "posix" else None)
    _noted(folder).write_text(files, encoding="utf-8")
    _begin(
        ray, "start here", address="local",
        num_cpus=max(least_cores, os.cpu_count() or 1), _temp_dir=files,
        object_store_memory=STORE_BYTES, include_dashboard=False,
    )  # fmt: skip


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster.

    Raises:
        UserError: nothing answers.
    """
    if address != MEMBER:
        host, _, port = address.removeprefix(SCHEME).rpartition(":")
        if not address.startswith(SCHEME) or not host or not port.isdigit():
            raise UserError(
                f"--on is {address!r}; expected {HERE} for this machine, {SCHEME}HOST:PORT for a "
                f"cluster, or {MEMBER} for the one that this machine is a node of"
            )
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"nothing answers at {address} ({error}); expected the client server of a cluster "
                "of Ray, whose port is 10001 unless `ray start` was told another"
            ) from None
    _begin(ray, f"use the cluster at {address}", address="auto" if address == MEMBER else address)


def _begin(ray: Any, what: str, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except Exception as error:  # of many classes, Ray's own, gRPC's and Python's
            said = " ".join(str(error).split())
            raise UserError(
                f"cannot {what} with Ray: {said:.300}; see that it has the same versions of Ray "
                "and Python, and room to work"
            ) from error


def _noted(folder: SweepFolder) -> Path:
    """Return the file that says where the files of a sweep's own Ray are."""
    return folder.path / "sweep.ray"


def _remove_files(folder: SweepFolder) -> None:
    """Remove what a Ray of this sweep's own has left, or one that was killed."""
    with contextlib.suppress(OSError):
        files = Path(_noted(folder).read_text(encoding="utf-8"))
        if files.name.startswith("prefrl-"):
            shutil.rmtree(files, ignore_errors=True)
        _noted(folder).unlink()


def _check_room(nodes: Sequence[dict[str, Any]], cells: Sequence[Cell], has_gpus: bool) -> None:
    """Raise `UserError` if there is a run that no node has room for: Ray would wait forever."""
    have = [node["Resources"] for node in nodes if node["Alive"]]
    for cell in cells:
        needs = needed(cell.experiment, has_gpus)
        if needs["num_gpus"] and not has_gpus:
            raise UserError(
                "no node of the cluster has a GPU, but --text.device is cuda; choose auto or cpu"
            )
        most = max(int(node.get("CPU", 0)) for node in have)
        if needs["num_cpus"] > most:
            raise UserError(
                f"--threads is {needs['num_cpus']}, but the largest node of the cluster has {most} "
                "cores; choose fewer threads"
            )


def _side_by_side(ray: Any, cells: Sequence[Cell], has_gpus: bool) -> int:
    """Return how many runs there is room for at a time."""
    needs = [needed(cell.experiment, has_gpus) for cell in cells]
    have = ray.cluster_resources()
    room = int(have.get("CPU", 1)) // max(need["num_cpus"] for need in needs)
    if all(need["num_gpus"] for need in needs):
        room = min(room, int(have["GPU"]))
    return max(1, room)


def _died(problem: Exception) -> str:
    """Say why a task came to nothing."""
    first = next(iter(str(problem).splitlines()), type(problem).__name__)
    return f"its workers died more than {RETRIES} times, as they do without enough memory: {first}"
