"""Runs a run again from its configuration, seed and ledger, to the same bytes."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from prefrl.config.control import ControlConfig
from prefrl.config.experiment import Experiment
from prefrl.config.learners import relearned
from prefrl.config.text import TextConfig
from prefrl.contracts import Components, Network
from prefrl.environments.contract import NOT_DETERMINISTIC
from prefrl.environments.ids import resolve
from prefrl.errors import UserError
from prefrl.learning.loop import Round
from prefrl.runs.critic import with_critic
from prefrl.runs.domains import domain_of
from prefrl.runs.given_reward import with_grades, with_reward
from prefrl.runs.load import checkpoint, load_reward
from prefrl.runs.session import (
    Session,
    assemble,
    load_state,
    rounds,
    save_components,
    start,
)
from prefrl.runs.versions import CPU, SYSTEM, differences, versions
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

    Raises:
        UserError: no round has finished, or the run's reward network is another one.
    """
    source = RunFolder.open(path)
    recorded = len(source.metrics())
    if not recorded:
        raise UserError(f"{source.path} has not finished a round yet; there is nothing to replay")
    if source.experiment().reward == "learned" and source.checkpoint() is not None:
        load_reward(path, network)  # refuses another network, which would look like chance
    into = Path(into).absolute()
    domain = domain_of(source)
    state: dict[str, Any] | None = None
    for until, experiment in [*source.earlier(), (recorded, source.experiment())]:
        components = domain.build(experiment, network, source)
        given = source.given_reward if experiment.given_reward else None
        components = with_reward(components, experiment, given, network)
        components = with_grades(components, experiment)
        critic = source.critic if experiment.oracle.regret else None
        components = with_critic(components, critic, experiment.env)
        session = _replaying(source, into, experiment, components, state)
        with closing(session):
            for now in rounds(session) if session.state.round < until else ():
                yield now
                if session.state.round == until:
                    break
        state = checkpoint(session.folder)


def relearn(path: Path | str, learner: str, into: Path | str | None = None) -> Session:
    """Begin a run of another learner that learns from all of a run's answers, and asks nobody.

    What was chosen for the run's own learner is left out; a language model begins as it did there.

    Args:
        path: the run whose answers they are.
        learner: as --learner names it.
        into: the run folder to make; RUN-LEARNER by default.

    Raises:
        UserError: the run has no answers, or its environment no such learner.
    """
    source = RunFolder.open(path)
    experiment = source.experiment()
    if not experiment.learns_reward:
        raise UserError(
            f"{source.path} was trained with --reward {experiment.reward}, so it has no answers "
            "that another learner could learn from; name a run with a learned one"
        )
    experiment = relearned(experiment, learner)
    if isinstance(experiment.domain, TextConfig) and source.reference.exists():
        begun = dataclasses.replace(
            experiment.domain, model=str(source.reference), demonstrations=0
        )
        experiment = dataclasses.replace(experiment, domain=begun)
    if into is None:
        words = re.sub(r"[^a-z0-9]+", "-", learner.lower()).strip("-")
        into = source.path.with_name(f"{source.path.name}-{words}")
    return start(experiment, into, answers_from=source.path, domain=domain_of(source))


def likely_cause(source: RunFolder, copy: RunFolder) -> tuple[str, list[str]]:
    """Return why a replay came out otherwise, as far as it can be told, and notes on it.

    Args:
        source: the run.
        copy: its replay.
    """
    here = copy.versions()
    begun = [source.versions(), *(start["versions"] for start in source.starts())]
    changed = [*dict.fromkeys(note for was in begun for note in differences(was, here))]
    if changed:
        of_cpu, of_system = ([n.startswith(f"{name} ") for n in changed] for name in (CPU, SYSTEM))
        another_cpu = any(of_cpu) and sum(of_cpu) + sum(of_system) == len(changed)
        made = "on another CPU" if another_cpu else "with other versions"
        return f"it was made {made}, as the notes say", changed
    experiment = source.experiment()
    limit = experiment.domain.horizon if isinstance(experiment.domain, ControlConfig) else None
    notes = domain_of(source).check_environment(
        resolve(experiment.env, experiment.env_kwargs), limit
    )
    if chance := [note for note in notes if NOT_DETERMINISTIC in note]:
        return f"{experiment.env} is the likely cause, as the note says", chance
    return (
        f"the versions are the same and {experiment.env} repeated an episode in a trial, so the "
        "cause may be a chance in it that begins late, or files, a clock or the like that it reads",
        [],
    )


def _replaying(
    source: RunFolder, into: Path, experiment: Experiment, components: Components,
    state: dict[str, Any] | None,
) -> Session:  # fmt: skip
    """Return a session of the copy of a run: a new one, or one that goes on from a state."""
    if state:
        folder = RunFolder(into)
        session = assemble(folder, experiment, components, {}, FeedbackStore(folder.feedback))
        load_state(session, state)
        save_components(session, components)
        folder.extend(session.state.round, experiment)
        return session
    folder = RunFolder.begin(into, versions())
    with folder.removed_if_it_fails():
        with closing(FeedbackStore(source.feedback, read_only=True)) as feedback:
            feedback.copy(folder.feedback)
        if source.grades.exists():  # the judge is not asked again
            shutil.copy(source.grades, folder.grades)
        feedback = FeedbackStore(folder.feedback)
        session = assemble(folder, experiment, components, {}, feedback)
        save_components(session, components)
        folder.save_experiment(experiment)  # last: a kill before it leaves no run
    return session
