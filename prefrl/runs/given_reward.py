"""The reward that an experiment names, to train on or as its teacher, taken as it is.

It is of `prefrl fit` or of another run. A run keeps a copy, so that it is whole without the folder
that it is from.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from prefrl.config.experiment import Experiment, named_by_aspect
from prefrl.config.learning import is_reward
from prefrl.config.text import TextConfig
from prefrl.contracts import Components, Network
from prefrl.errors import UserError
from prefrl.learning.given_reward import GivenReward
from prefrl.runs.judges import model_teacher
from prefrl.runs.load import checkpoint, load_reward
from prefrl.storage.checkpoint import to_bytes
from prefrl.storage.fitted import FittedFolder
from prefrl.storage.folder import RunFolder
from prefrl.storage.grades import append_grades, read_grades
from prefrl.teachers.grading import GradingReward
from prefrl.teachers.judge import Judge
from prefrl.teachers.reward import RewardTeacher
from prefrl.types import EnvironmentCard


def named_reward(experiment: Experiment) -> Path | None:
    """Return the folder of the reward that is given, None if there is none.

    Raises:
        UserError: it holds no learned reward.
    """
    given = experiment.given_reward
    return None if given is None else _reward_folder("--reward", given)


def named_teacher(experiment: Experiment) -> Path | None:
    """Return the folder of the reward that answers, about one aspect at least; None if none does.

    Raises:
        UserError: it holds no learned reward, or several are named.
    """
    named = [*dict.fromkeys(filter(is_reward, experiment.teachers.values()))]
    if len(named) > 1:
        raise UserError(
            f"--teacher names the folders {named[0]} and {named[1]}; expected one, whose copy the "
            "run keeps: let an oracle, people, a judge or a function answer about the other aspects"
        )
    return _reward_folder("--teacher", named[0]) if named else None


def taught_by_folder(experiment: Experiment, folder: Path | None) -> Experiment:
    """Return the experiment with the folder of the reward that answers written out."""
    if folder is None:
        return experiment
    full = {a: str(folder) if is_reward(n) else n for a, n in experiment.teachers.items()}
    return dataclasses.replace(experiment, teacher=named_by_aspect(full))


def _reward_folder(option: str, name: str) -> Path:
    """Return the folder that holds the reward which is named; raise `UserError` if none does."""
    path = Path(name).expanduser().absolute()
    if FittedFolder(path).is_one:
        return path
    if not (path / "config.json").is_file():
        raise UserError(
            f"{option} is {name!r}, which holds no reward; expected a folder that `prefrl fit` "
            "made, or a run with a learned one"
        )
    run = RunFolder.open(path)
    experiment = run.experiment()
    if run.kind() == "comparison" or experiment.reward == "true" or experiment.is_graded:
        what = "a run on a judge's grades" if experiment.is_graded else "a run on the true reward"
        what = "a comparison" if run.kind() == "comparison" else what
        raise UserError(
            f"{option} is {name!r}, {what}, which has learned none; expected a run with a learned "
            "one, or a folder that `prefrl fit` made"
        )
    return path if experiment.given_reward is None else run.given_reward


def with_reward(
    components: Components, experiment: Experiment, source: Path | None, network: Network | None
) -> Components:
    """Return components whose reward is that of a folder; as they are, if there is none.

    Args:
        components: of the experiment.
        experiment: whose device counts.
        source: the folder: `named_reward`, or the copy that a run keeps.
        network: your own reward network, if the run that it is from had one.

    Raises:
        UserError: it is of another environment, or damaged.
    """
    if source is None:
        return components
    _check_spaces(source, components.card, experiment.env)
    model = load_reward(source, network, _device(experiment))
    components = _keeping(components, source, lambda run: run.given_reward)
    note = f"the reward is that of {source.name}, as it is: no answers are asked for"
    return dataclasses.replace(
        components, reward=GivenReward(model, components.clip_steps is None),
        notes=(*components.notes, note),
    )  # fmt: skip


def with_grades(components: Components, experiment: Experiment) -> Components:
    """Return components whose reward are a judge's grades; as they are, if none grades.

    A run keeps the grades, and asks for none again.

    Raises:
        UserError: the environment is of numbers, or there is no such judge.
    """
    if not experiment.is_graded:
        return components
    if not components.card.is_text:
        raise UserError(
            f"the judge {experiment.reward} grades texts, but {experiment.env} is an environment "
            "of numbers; use --reward learned or true"
        )
    judge = model_teacher(experiment.reward, experiment.judge, experiment.seed)
    assert isinstance(judge, Judge), "a reviser has been refused"
    question = experiment.question or components.card.question
    grades, keep = GradingReward(judge, experiment.seed, question), components.save

    def save(run: RunFolder) -> None:
        grades.known |= read_grades(run.grades)
        grades.keep = lambda new: append_grades(run.grades, new)
        keep(run)

    note = f"the reward is what {judge.name} grades replies by: no answers are asked for"
    return dataclasses.replace(
        components, reward=GivenReward(grades, whole_episodes=True), save=save,
        notes=(*components.notes, note),
    )  # fmt: skip


def with_teacher(components: Components, experiment: Experiment, source: Path | None) -> Components:
    """Return components that keep the reward which answers; as they are, if none does.

    Raises:
        UserError: it is of another environment.
    """
    if source is None:
        return components
    _check_spaces(source, components.card, experiment.env)
    return _keeping(components, source, lambda run: run.teacher)


def reward_teacher(
    experiment: Experiment, source: Path, network: Network | None, name: str
) -> RewardTeacher:
    """Return the teacher that a folder's reward is: `named_teacher`, or the copy of a run."""
    return RewardTeacher(load_reward(source, network, _device(experiment)), name)


def _device(experiment: Experiment) -> str:
    return experiment.domain.device if isinstance(experiment.domain, TextConfig) else ""


def _keeping(
    components: Components, source: Path, where: Callable[[RunFolder], Path]
) -> Components:
    """Return components that copy a reward into their run, once, as they save."""
    keep = components.save

    def save(run: RunFolder) -> None:
        if not where(run).exists():
            _copy(source, where(run))
        keep(run)

    return dataclasses.replace(components, save=save)


def _check_spaces(source: Path, card: EnvironmentCard, env: str) -> None:
    if FittedFolder(source).is_one:
        if not card.is_text:
            raise UserError(
                f"{source} holds a reward for texts, but {env} is an environment of numbers; "
                "give the run of a robot there"
            )
        return
    run = RunFolder.open(source)
    for name, space in run.card().spaces.items():
        if card.spaces.get(name, space) != space:
            raise UserError(
                f"{source} has learned a reward in {run.experiment().env}, whose {name} are "
                f"others than those of {env}; give the reward of an environment of the same spaces"
            )


def _copy(source: Path, into: Path) -> None:
    """Copy what `load_reward` reads: of a run without its policy, answers and optimisers."""
    if FittedFolder(source).is_one:
        shutil.copytree(source, into)
        return
    run = RunFolder.open(source)
    state = checkpoint(run)
    assert state is not None, "its reward has been loaded"
    copy = RunFolder.begin(into, run.versions())
    copy.save_card(run.card())
    if run.reference.exists():
        shutil.copytree(run.reference, copy.reference)
    experiment = run.experiment()
    kept = {"reward": state["reward"]}
    if getattr(experiment.domain, "reward_is_policy", False):
        kept["agent"] = state["agent"]
    copy.save_checkpoint(0, to_bytes(kept))
    copy.save_experiment(experiment)
