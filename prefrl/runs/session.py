"""A run that is going on: from an experiment, or a folder, to its live parts and its rounds.

session = start(Experiment(env="prefrl/HalfCheetah-v0", labels=700))
for done in rounds(session): …
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.config.experiment import (
    Experiment,
    check_aspects,
    check_experiment,
    with_named_teacher,
)
from prefrl.config.learning import LoopConfig, is_model, is_reward
from prefrl.config.text import TextConfig
from prefrl.contracts import Agent, Components, Domain, Network, Pacing, Reward, Teacher
from prefrl.errors import UserError, check_plain
from prefrl.learning.loop import LoopState, Round, preference_loop
from prefrl.learning.pacing import ByBudget, ByPeople, answers_needed
from prefrl.runs import judges
from prefrl.runs.crew import build, tell, whole_state
from prefrl.runs.critic import load_critic, named_critic, with_critic
from prefrl.runs.domains import chosen_domain, domain_of
from prefrl.runs.given_reward import (
    named_reward,
    named_teacher,
    reward_teacher,
    taught_by_folder,
    with_grades,
    with_teacher,
)
from prefrl.runs.load import checkpoint, fitting
from prefrl.runs.versions import versions
from prefrl.storage.address import read_address
from prefrl.storage.checkpoint import to_bytes
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.files import in_utf8
from prefrl.storage.folder import RunFolder, named_by_time
from prefrl.storage.import_export import about_another, copy_answers, import_file
from prefrl.storage.instructions import read_instructions
from prefrl.storage.shared import CHANGING, begin_run, share
from prefrl.storage.spaces import check_segment
from prefrl.storage.texts.files import is_data
from prefrl.teachers.constitution import Reviser
from prefrl.teachers.function import FunctionTeacher, Preference, load_teacher, record_name
from prefrl.teachers.judge import Judge
from prefrl.teachers.oracle import Oracle
from prefrl.types import BETTER, Answer


@dataclass
class Session:
    """The live parts of a run."""

    folder: RunFolder
    experiment: Experiment
    agent: Agent
    reward: Reward
    pacing: Pacing
    feedback: FeedbackStore
    config: LoopConfig
    state: LoopState
    notes: tuple[str, ...]
    """What to say before the first round."""
    close_environments: Callable[[], None]

    @property
    def asks_people(self) -> bool:
        """Whether people answer, in another process."""
        return self.config.labels > 0 and isinstance(self.pacing, ByPeople)

    def close(self) -> None:
        """Let go of the store and of the environments."""
        self.feedback.close()
        self.close_environments()


def start(
    experiment: Experiment,
    path: Path | str | None = None,
    teacher: Preference | None = None,
    network: Network | None = None,
    answers_from: Path | str | None = None,
    domain: Domain | None = None,
    name: str = "",
    store: str = "",
) -> Session:
    """Check an experiment, build its parts and make its run folder.

    Args:
        experiment: what to run.
        path: the run folder to make; runs/NAME-DATE-TIME by default.
        teacher: see `train`.
        network: see `train`.
        answers_from: a run, or a file, whose answers are learned from, too; its clips must be of
            the same observations and actions. Then no labels are needed.
        domain: your own kind of environment; that of `experiment.env` by default.
        name: the run's, where no path is given; the environment's by default.
        store: address of a database for queries and answers, and the run's name there, that of the
            folder by default: "postgresql://HOST/DATABASE#NAME"; a file in the folder by default.

    Raises:
        UserError: something is wrong that you can put right; the message says what.
    """
    # Whole before any code of the environment runs, which may change the working folder.
    name = name or experiment.env.split("/")[-1].split(":")[-1]
    database = read_address(store) if store else None
    where = Path(path).absolute() if path else named_by_time("runs", name)
    source = None if answers_from is None else Path(answers_from)
    old = None if source is None or is_data(source) else RunFolder.open(source)
    if teacher is not None:  # on record, so that resuming never takes another one unasked
        experiment = dataclasses.replace(experiment, teacher=record_name(teacher))
    experiment = judges.named_fully(with_named_teacher(experiment))
    told = read_instructions(experiment.instructions)
    experiment = dataclasses.replace(experiment, instructions=told)
    check_experiment(experiment, labels_needed=answers_from is None)
    if answers_from is not None and not experiment.learns_reward:
        told = f"--reward {experiment.reward}"
        raise UserError(f"a reward that is given needs no answers; leave out --from or {told}")
    given, taught_by = named_reward(experiment), named_teacher(experiment)
    experiment = taught_by_folder(experiment, taught_by)
    critic = named_critic(experiment)
    teachers = _teachers(experiment, teacher, network, taught_by or critic)
    domain = domain or chosen_domain(experiment)
    experiment = dataclasses.replace(experiment, domain=experiment.domain or domain.default.domain)
    with ExitStack() as reading, ExitStack() as undone:
        answers, notes = None, []
        if source is not None:
            answers, notes = _answers_of(old or source, experiment)
            reading.enter_context(closing(answers))
        components = build(domain, experiment, network, None, given)
        undone.callback(components.close)
        check_aspects(experiment, components.card.aspects)
        components = with_grades(components, experiment)
        components = with_teacher(components, experiment, taught_by)
        components = with_critic(components, critic, experiment.env)
        experiment = dataclasses.replace(experiment, domain=components.domain or experiment.domain)
        check_plain("the environment's question", components.card.question)
        for judge in teachers.values():
            if isinstance(judge, Judge | Reviser):
                notes += judges.admitted(judge, experiment, components.card.is_text, source)
        if answers and source:
            _check_answers(answers, components, old.path if old else source)
        components = dataclasses.replace(components, notes=(*components.notes, *notes))
        folder = RunFolder.begin(where, versions(), or_numbered=path is None)
        undone.enter_context(folder.removed_if_it_fails())
        if database:
            folder.save_store(database._replace(run=database.run or folder.path.name))
        feedback = undone.enter_context(closing(FeedbackStore(folder.feedback)))
        feedback.claim()
        begin_run(feedback, folder.path.name)
        session = assemble(folder, experiment, components, teachers, feedback)
        save_components(session, components)
        folder.append_start(0, versions())
        if answers and source:
            name = old.path.name if old else in_utf8(source.stem)
            copy_answers(answers, feedback, name)
        with feedback.training():
            folder.save_experiment(experiment)  # last: a kill before it leaves no run
        share(folder, feedback)
        undone.pop_all()
    return session


def resume(
    path: Path | str,
    more_labels: int = 0,
    more_steps: int = 0,
    teacher: Preference | None = None,
    network: Network | None = None,
    wait: bool = False,
) -> Session:
    """Take up a killed run after its last finished round, or extend a finished one.

    Args:
        path: the run folder.
        more_labels: added to the budget.
        more_steps: to train, beyond those it had.
        teacher: see `train`.
        network: see `train`.
        wait: for whoever trains it to end, instead of refusing.

    Raises:
        UserError: something is wrong that you can put right; the message says what.
    """
    folder = RunFolder.open(path)
    experiment = folder.experiment()
    if folder.kind() == "comparison":
        raise UserError(
            f"{folder.path} is a comparison of two runs, which trains nothing; see what was "
            f"answered in it with `prefrl compare --report {folder.path}`"
        )
    if more_labels < 0 or more_steps < 0:
        raise UserError("--labels and --steps of `prefrl resume` add to a run; expected +N")
    with ExitStack() as undone:
        feedback = undone.enter_context(closing(FeedbackStore(folder.feedback)))
        feedback.claim(wait)  # before anything is read that another trainer may be changing
        kept = folder.teacher if any(map(is_reward, experiment.teachers.values())) else None
        kept = folder.critic if experiment.oracle.regret else kept
        teachers = _teachers(experiment, teacher, network, kept, feedback.answers())
        domain, state = domain_of(folder), checkpoint(folder)
        if more_labels or more_steps:
            next_round = state["loop"]["round"] if state else 0
            smallest = domain.smallest_round(experiment)
            experiment = _extended(
                folder, experiment, next_round, more_labels, more_steps, smallest
            )
        given = folder.given_reward if experiment.given_reward else None
        components = build(domain, experiment, network, folder, given)
        undone.callback(components.close)
        components = with_grades(components, experiment)
        session = assemble(folder, experiment, components, teachers, feedback)
        load_state(session, state)
        feedback.check_claim()
        save_components(session, components)  # nothing is written before all is known to fit
        with feedback.training():
            if more_labels or more_steps:
                folder.extend(session.state.round, experiment)
            folder.truncate_rounds(session.state.round)
            folder.append_start(session.state.round, versions())
        share(folder, feedback)
        undone.pop_all()
    return session


def rounds(session: Session) -> Iterator[Round]:
    """Run the rounds still to come; each is saved before it is yielded."""
    session.feedback.claim()
    writer = _tensorboard(session.folder)
    try:
        pacing, store = tell(session.pacing, session.feedback, session.config, session.folder)
        for done in preference_loop(
            session.agent, session.reward, pacing, store, session.config, session.state
        ):
            _save(session, done)
            for name, value in done.metrics.items() if writer and done.state == "done" else ():
                writer.add_scalar(name, value, done.metrics["steps"])
            yield done
    finally:
        session.feedback.release()
        if writer:
            writer.close()


def _save(session: Session, done: Round) -> None:
    """Write what a round came to, and the status: all of it while the run is this trainer's."""
    folder, prepared = session.folder, None
    if done.state == "done":  # this takes a while, in which others may write to the store
        state = whole_state(session.agent, session.reward, session.state)
        prepared = folder.prepare_checkpoint(to_bytes(state))
    with session.feedback.training():
        if prepared:
            folder.append_round(done.metrics, {"round": done.index} | done.timings)
            folder.keep_checkpoint(done.index, prepared)
        folder.save_status(_status(session, done))
    share(folder, session.feedback, *(CHANGING if prepared else ["status.json"]))


def _teachers(
    experiment: Experiment, teacher: Preference | None, network: Network | None,
    taught_by: Path | None, before: Sequence[Answer] = (),
) -> dict[str, Teacher]:  # fmt: skip
    """Return whoever answers in this process about each aspect, under "" about all.

    Args:
        experiment: which names the teachers.
        teacher: your own function.
        network: your own reward network.
        taught_by: the folder of the reward that answers, or of the critic that the oracle has.
        before: what was answered before.
    """
    if teacher is not None:
        return {"": FunctionTeacher(teacher, experiment.teacher)}
    if taught_by is not None and experiment.oracle.regret:
        return {"": Oracle(experiment.oracle, experiment.seed, load_critic(taught_by))}
    return {
        aspect: reward_teacher(experiment, taught_by, network, name)
        if taught_by is not None and is_reward(name)
        else _teacher(experiment, name, before)
        for aspect, name in experiment.teachers.items()
        if name != "human"
    }


def _teacher(experiment: Experiment, name: str, before: Sequence[Answer]) -> Teacher:
    if name == "oracle":
        return Oracle(experiment.oracle, experiment.seed)
    if is_model(name):
        return judges.model_teacher(name, experiment.judge, experiment.seed, before, waits=True)
    return load_teacher(name)


def _answers_of(
    source: RunFolder | Path, experiment: Experiment
) -> tuple[FeedbackStore, list[str]]:
    """Open the answers of a run, or read those of a file; also return what to say of them."""
    if isinstance(source, RunFolder):
        notes = about_another([source.experiment().env], experiment.env)
        return FeedbackStore(source.feedback, read_only=True), notes
    chat = isinstance(experiment.domain, TextConfig) and experiment.domain.chat
    store = FeedbackStore(":memory:")
    try:
        done = import_file(store, source, chat=chat or None)
    except UserError:
        store.close()
        raise
    return store, [*done.notes, *about_another(done.environments, experiment.env)]


def _check_answers(answers: FeedbackStore, components: Components, path: Path) -> None:
    """Raise `UserError` unless a reward for this environment can be learned from them."""
    comparisons, aspects = answers.comparisons(), components.card.aspects or {"": ""}
    if not comparisons:
        raise UserError(f"{path} holds no answer that says anything about a clip")
    if not any(comparison.aspect in aspects for comparison in comparisons):
        about = dict.fromkeys(comparison.aspect or BETTER for comparison in comparisons)
        asked = ", ".join(aspect or BETTER for aspect in aspects)
        raise UserError(
            f"{path} holds answers about {', '.join(about)} alone, but what is asked about here is "
            f"{asked}; choose the same with --aspects"
        )
    spaces = components.card.spaces
    for segment in {s.id: s for c in comparisons for s in (c.left, c.right)}.values():
        try:
            check_segment(segment, spaces)
        except UserError as error:
            raise UserError(
                f"{path}: {error}; answers serve an environment of the same spaces alone"
            ) from None


def assemble(
    folder: RunFolder, experiment: Experiment, components: Components,
    teachers: Mapping[str, Teacher], feedback: FeedbackStore,
) -> Session:  # fmt: skip
    """Put the live parts of a run together.

    Args:
        folder: of the run.
        experiment: what is run.
        components: what the domain built.
        teachers: who answers in this process, by aspect, or under "" about all; people answer the
            rest.
        feedback: the run's store.
    """
    config = LoopConfig(
        seed=experiment.seed,
        rounds=experiment.round_count,
        steps=experiment.steps,
        labels=experiment.labels if experiment.learns_reward else 0,
        clip_steps=components.clip_steps,
        question=experiment.question or components.card.question,
        query=experiment.query,
        fit=experiment.fit,
        aspects=components.card.aspects,
        asks_people=experiment.asks_people,
    )
    for_all = teachers.get("")
    if for_all is None and (not teachers or len(teachers) < len(config.aspects)):
        pacing: Pacing = ByPeople(config, components.pictures, components.distance, teachers)
    else:
        skips_count = experiment.oracle.bpref and "oracle" in experiment.teachers.values()
        pacing = ByBudget(config, for_all or teachers, skips_count)
    return Session(
        folder, experiment, components.agent, components.reward, pacing, feedback, config,
        LoopState(components.reward_model, config), components.notes, components.close,
    )  # fmt: skip


def save_components(session: Session, components: Components) -> None:
    """Write what whoever answers must know, and what is needed beside the checkpoints."""
    folder, question = session.folder, session.config.question
    folder.save_card(dataclasses.replace(components.card, question=question))
    with folder.writing(folder.path):
        components.save(folder)


def _extended(
    folder: RunFolder, experiment: Experiment, next_round: int, labels: int, steps: int,
    smallest_round: int,
) -> Experiment:  # fmt: skip
    """Return the experiment with more of both; rounds stay about as long as they were.

    New labels are asked in one round and learned from in the next, so they need two.
    """
    if not steps and next_round >= experiment.round_count:
        raise UserError(
            f"{folder.path} has finished its {experiment.steps} steps; add some with --steps +N, "
            "so that the new labels can be learned from"
        )
    least = 2 if labels else 1
    if 0 < steps < least * smallest_round:
        enough = least * smallest_round
        raise UserError(f"--steps is +{steps}, which is too few to learn from; add {enough}")
    more_rounds = max(round(steps * experiment.round_count / experiment.steps), least)
    more_rounds = min(more_rounds, steps // smallest_round)
    return dataclasses.replace(
        experiment,
        labels=experiment.labels + labels,
        steps=experiment.steps + steps,
        rounds=experiment.round_count + (more_rounds if steps else 0),
    )


def _status(session: Session, now: Round) -> dict[str, Any]:
    """Return what whoever answers may know of the trainer."""
    finished = now.state == "done" and now.index >= session.config.rounds
    return {
        "state": "finished" if finished else now.state,
        "round": now.index,
        "rounds": session.config.rounds,
        "steps": session.state.steps,
        "total_steps": session.config.steps,
        "needed": answers_needed(session.config, now.index),
        "process": os.getpid(),
    }


def load_state(session: Session, state: dict[str, Any] | None) -> None:
    """Continue from a checkpoint, if there is one."""
    if state:
        with fitting(session.folder):
            session.agent.load_state_dict(state["agent"])
            session.reward.load_state_dict(state["reward"])
            session.state.load_state_dict(state["loop"])


def _tensorboard(folder: RunFolder) -> Any:
    """Return a TensorBoard writer where TensorBoard is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        str(folder.tensorboard).encode()
    except UnicodeEncodeError:  # TensorBoard takes no name that is not UTF-8
        return None
    return SummaryWriter(str(folder.tensorboard))
