"""The two sides of a comparison: runs, or language models by their names or folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrl.config.experiment import Experiment
from prefrl.config.text import TextConfig
from prefrl.contracts import Domain
from prefrl.environments import ids
from prefrl.errors import UserError
from prefrl.runs.domains import chosen_domain, domain_of
from prefrl.runs.load import load_policy
from prefrl.storage.folder import RunFolder
from prefrl.teachers.pairs import SIDES, source
from prefrl.types import EnvironmentCard


@dataclass(frozen=True)
class Setting:
    """Where two policies meet."""

    domain: Domain
    experiment: Experiment
    """Of the first run; of language models alone what `prefrl train --env` begins with."""
    card: EnvironmentCard
    model: Path | None
    """A file with the MuJoCo model that clips are drawn with."""
    chat: bool | None
    """Whether a language model is spoken to through its chat template; None where it has one."""


Side = RunFolder | str
"""A run, or the name or folder of a language model."""


def side(name: str | Path) -> Side:
    """Return what a word names.

    Raises:
        UserError: neither a run nor a language model.
    """
    folder = RunFolder(name)
    if folder.holds_run:
        return RunFolder.open(name)
    if (folder.path / "config.json").is_file() or not folder.path.exists():
        from prefrl.text.models.load import known_models

        if folder.path.is_dir() or str(name) in known_models():
            return str(name)
        known = ", ".join(known_models())
        raise UserError(
            f"{name} is no folder here; expected a run, or a language model: {known}, or a folder "
            "that save_pretrained or `prefrl sft` wrote"
        )
    return RunFolder.open(name)  # which says what it lacks


def name_of(which: Side) -> str:
    """Return the last part of a side's name."""
    return (which.path if isinstance(which, RunFolder) else Path(which)).resolve().name


def setting_of(sides: Sequence[Side], env: str = "") -> Setting:
    """Return where two sides meet.

    Args:
        sides: both.
        env: where language models meet that are of no run.

    Raises:
        UserError: they are of different environments, or of none.
    """
    runs = [which for which in sides if isinstance(which, RunFolder)]
    if not runs:
        return _setting_of_models(env, sides)
    experiments = [run.experiment() for run in runs]
    first, last = experiments[0], experiments[-1]
    if env and ids.resolve(env).id != ids.resolve(first.env).id:
        raise UserError(f"{runs[0].path} is of {first.env}; leave out --env {env}")
    if ids.resolve(first.env).id != ids.resolve(last.env).id:
        raise UserError(
            f"{runs[0].path} is of {first.env}, {runs[-1].path} of {last.env}; only runs of "
            "the same environment can be compared"
        )
    if first.env_kwargs != last.env_kwargs:
        raise UserError(
            f"{runs[0].path} has the --env-kwargs {first.env_kwargs}, {runs[-1].path} "
            f"{last.env_kwargs}; only runs of the same environment can be compared"
        )
    models = [which for which in sides if isinstance(which, str)]
    if models and not runs[0].card().is_text:
        raise UserError(
            f"{models[0]} is a language model, but {runs[0].path} is of {first.env}, which does "
            "not speak text; compare it with another run of that environment"
        )
    model, chat = runs[0].model, bool(models) and first.text.chat
    drawn = model if model.exists() else None
    return Setting(domain_of(runs[0]), first, runs[0].card(), drawn, chat)


def _setting_of_models(env: str, sides: Sequence[Side]) -> Setting:
    if not env:
        raise UserError(
            f"{' and '.join(map(name_of, sides))} are language models; name the environment whose "
            "tasks they shall reply to with --env ID"
        )
    from prefrl.text.build import card_of

    experiment = Experiment(env=env, domain=TextConfig())
    return Setting(chosen_domain(experiment), experiment, card_of(ids.resolve(env)), None, None)


def policy_of(which: Side, setting: Setting) -> Any:
    """Return the policy of a side; a model is spoken to and sampled as the run's policy is.

    Where there is no run, through its chat template, if it has one.
    """
    if isinstance(which, RunFolder):
        return load_policy(which.path)
    from prefrl.text.policy import named_policy

    return named_policy(which, setting.experiment.text, setting.chat, setting.experiment.seed)


def maker(index: int, which: Side) -> str:
    """Return what clips of a side name as their source: "A, runs/one, round 9"."""
    if isinstance(which, RunFolder):
        return source(index, which.path, len(which.metrics()))
    return f"{SIDES[index]}, {which}"


def began_as(folder: RunFolder, option: str, base: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return the policy of a run of texts and what it began as, the newest last, and notes.

    Args:
        folder: the run.
        option: that asks for them, for a refusal.
        base: a language model to put first; by default the model that the run fine-tuned into its
            "reference", if it did and it is still here.

    Raises:
        UserError: the run is of numbers.
    """
    if not folder.card().is_text:
        raise UserError(
            f"{option} is for language models, but {folder.path} is of "
            f"{folder.experiment().env}, which does not speak text; leave {option} out"
        )
    policy, notes = load_policy(folder.path), []

    from prefrl.text.evaluation import base_policy, reference_policy
    from prefrl.text.policy import named_policy

    models = {"reference": reference_policy(folder, policy), "policy": policy}
    try:
        config = policy.config
        first = (
            named_policy(base, config, config.chat, folder.experiment().seed)
            if base
            else base_policy(folder, policy)
        )
        models = models if first is None else {"base": first} | models
    except UserError as error:
        if base:
            raise
        notes.append(f"note: without the model before it was fine-tuned. {error}")  # it is whole
    return models, notes
