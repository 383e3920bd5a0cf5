"""Runs an experiment, or what is left of one, from Python.

from prefrl import Experiment, resume, train
train(Experiment(env="prefrl/HalfCheetah-v0", labels=700), "runs/cheetah")
resume("runs/cheetah", more_steps=500_000)
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from prefrl.config.experiment import Experiment
from prefrl.contracts import Domain, Network
from prefrl.runs import session
from prefrl.runs.page import page
from prefrl.runs.session import Session, start
from prefrl.storage.folder import RunFolder
from prefrl.teachers.function import Preference


def train(
    experiment: Experiment,
    path: Path | str | None = None,
    teacher: Preference | None = None,
    network: Network | None = None,
    domain: Domain | None = None,
) -> RunFolder:
    """Run an experiment from beginning to end.

    If people are the teacher, the address of the page on which they answer is printed. Ctrl-C stops
    the run; `resume` goes on with it.

    Args:
        experiment: what to run.
        path: the run folder to make; runs/NAME-DATE-TIME by default.
        teacher: your own, a function of two segments that returns P(the first is better), or None
            for "can't tell"; instead of `experiment.teacher`.
        network: your own reward network, one call a member; see `RewardEnsemble`.
        domain: your own kind of environment; that of `experiment.env` by default.

    Raises:
        UserError: something is wrong that you can put right; the message says what.
    """
    return _run(start(experiment, path, teacher, network, domain=domain))


def resume(
    path: Path | str,
    more_labels: int = 0,
    more_steps: int = 0,
    teacher: Preference | None = None,
    network: Network | None = None,
) -> RunFolder:
    """Take a run up after its last finished round, and run it to its end.

    Args:
        path: the run folder.
        more_labels: labels to add to the budget.
        more_steps: steps to add.
        teacher: see `train`; given again if it has no name by which it is found.
        network: see `train`; given again if there was one.

    Raises:
        UserError: something is wrong that you can put right; the message says what.
    """
    return _run(session.resume(path, more_labels, more_steps, teacher, network))


def _run(begun: Session) -> RunFolder:
    with closing(begun), page(begun):
        for _ in session.rounds(begun):
            pass
    return begun.folder
