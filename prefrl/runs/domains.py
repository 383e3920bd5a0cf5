"""Which domain an experiment belongs to, and where a run keeps it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from prefrl.config.experiment import Experiment
from prefrl.config.presets import preset
from prefrl.config.text import TextConfig
from prefrl.contracts import Domain
from prefrl.environments import ids
from prefrl.errors import UserError
from prefrl.storage.folder import RunFolder

CONTROL, TEXT = "prefrl.control:DOMAIN", "prefrl.text:DOMAIN"


def domain_for(env: gymnasium.Env | EnvSpec) -> Domain:
    """Return the domain of an environment, or of the specification of one: of numbers, or of text.

    Raises:
        UserError: it cannot be made, or has no spaces.
    """
    text = ids.speaks(env) if isinstance(env, EnvSpec) else ids.holds_text(env)
    return _named(TEXT if text else CONTROL)


def chosen_domain(experiment: Experiment) -> Domain:
    """Return the domain that an experiment's own settings are of, else that of its environment."""
    if experiment.domain is None:
        return domain_for(ids.resolve(experiment.env, experiment.env_kwargs))
    return _named(TEXT if isinstance(experiment.domain, TextConfig) else CONTROL)


def default_experiment(preset_name: str, env: str, env_kwargs: Mapping[str, Any]) -> Experiment:
    """Return what options change: a preset, else what suits an environment.

    Raises:
        UserError: there is no such preset or environment.
    """
    if preset_name:
        return preset(preset_name).experiment
    return dataclasses.replace(domain_for(ids.resolve(env, env_kwargs)).default, env=env)


def domain_of(folder: RunFolder) -> Domain:
    """Return the domain of a run, which its folder names.

    Raises:
        UserError: the domain's module cannot be imported.
    """
    name = folder.card().domain
    try:
        return _named(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{folder.path} is of the domain {name!r}, which cannot be imported ({error}); run "
            "where its module lies"
        ) from None


def load_fitted(path: Path | str, device: str) -> Any:
    """Return the reward model of a folder of `prefrl fit`, which fits to texts alone.

    Raises:
        UserError: it is damaged, or a package that language models need is missing.
    """
    try:
        fitted = importlib.import_module("prefrl.text.stages.fitted")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} holds a reward for texts, for which {error.name} is needed: "
            "pip install 'prefrl[text]'"
        ) from None
    return fitted.load_fitted(path, device)


def _named(name: str) -> Domain:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
