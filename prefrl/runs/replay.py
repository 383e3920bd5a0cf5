"""Runs a run again from its configuration, seed and ledger, to the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from prefrl.config.experiment import Experiment
from prefrl.contracts import Components, Network
from prefrl.errors import UserError
from prefrl.learning.loop import Round
from prefrl.runs.domains import domain_of
from prefrl.runs.load import checkpoint
from prefrl.runs.session import Session, assemble, load_state, rounds, save_components
from prefrl.runs.versions import versions
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder


def replay(path: Path | str, into: Path | str, network: Network | None = None) -> Iterator[Round]:
    """Run a run's rounds again from its configuration, seed and ledger alone; yield each.

    Nobody is asked: the copied store holds what every round asked and which answers it saw, a
    person's too. The same `metrics.jsonl` comes of it, as far as the run has got.

    Args:
        path: the run to replay; it may have been extended.
        into: the run folder to make.
        network: your own reward network, if the run had one.
    """
    source = RunFolder.open(path)
    recorded = len(source.metrics())
    if not recorded:
        raise UserError(f"{source.path} has not finished a round yet; there is nothing to replay")
    into = Path(into).absolute()
    domain = domain_of(source)
    state: dict[str, Any] | None = None
    for until, experiment in [*source.earlier(), (recorded, source.experiment())]:
        components = domain.build(experiment, network, source)
        session = _replaying(source, into, experiment, components, state)
        with closing(session):
            for now in rounds(session) if session.state.round < until else ():
                yield now
                if session.state.round == until:
                    break
        state = checkpoint(session.folder)


def _replaying(
    source: RunFolder, into: Path, experiment: Experiment, components: Components,
    state: dict[str, Any] | None,
) -> Session:  # fmt: skip
    """Return a session of the copy of a run: a new one, or one that goes on from a state."""
    if state:
        folder = RunFolder(into)
        session = assemble(folder, experiment, components, None, FeedbackStore(folder.feedback))
        load_state(session, state)
        folder.extend(session.state.round, experiment)
        return session
    folder = RunFolder.begin(into, versions())
    with folder.removed_if_it_fails():
        with closing(FeedbackStore(source.feedback, read_only=True)) as feedback:
            feedback.copy(folder.feedback)
        feedback = FeedbackStore(folder.feedback)
        session = assemble(folder, experiment, components, None, feedback)
        save_components(session, components)
        folder.save_experiment(experiment)  # last: a kill before it leaves no run
    return session
