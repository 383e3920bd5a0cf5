"""From a Gymnasium id to what it names, or a sentence why it names nothing."""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from prefrl.environments.modules import import_module
from prefrl.errors import UserError, raised_by


def resolve(name: str | EnvSpec, kwargs: Mapping[str, Any] | None = None) -> EnvSpec:
    """Import what an id needs and return the specification that Gymnasium has of it.

    Args:
        name: the id; "package:Id-v0" imports the package first. A specification stays as it is.
        kwargs: further arguments of the environment's constructor.

    Raises:
        UserError: the id or its package is unknown; the message lists near names.
    """
    spec = name if isinstance(name, EnvSpec) else _registered(name)
    if kwargs:
        spec = copy.deepcopy(spec)
        spec.kwargs.update(kwargs)
    return spec


def _registered(name: str) -> EnvSpec:
    package, _, bare = name.rpartition(":")
    if bare.startswith("prefrl/"):
        package = "prefrl.envs"
    if package:
        import_module(package, f"environment {name!r}")
    try:
        return gymnasium.spec(bare)
    except gymnasium.error.Error:
        known = [*gymnasium.registry]
        near = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`prefrl list` shows those at hand."
        module = Path(name).stem if name.endswith(".py") else "your_package"
        raise UserError(
            f"there is no environment {name!r}; {hint} An environment of your own is named with "
            f"the module that registers it and the id that it registers: {module}:Your-v0"
        ) from None


@contextmanager
def installed(name: str) -> Iterator[None]:
    """Turn what is said of a missing package, or of one that is broken, into a sentence."""
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        # Gymnasium 1.4's advice is an extra's old name, which it has no more.
        advice = re.sub(r"\[\w+\]", lambda extra: extra[0].replace("_", "-"), str(error))
        raise UserError(f"{name} needs a package that is not installed: {advice}") from None
    except ImportError as error:
        raise UserError(f"{raised_by(f'making {name}', error)}; correct that import") from error


def speaks(spec: EnvSpec) -> bool:
    """Return whether an environment observes and acts in text."""
    if spec.vector_entry_point is not None:
        return False
    with chdir(Path.cwd()):  # back to it, wherever the environment's own code goes
        environment = make(spec)
        try:
            return holds_text(environment, spec.id)
        finally:
            environment.close()


def holds_text(environment: gymnasium.Env, name: str = "the environment") -> bool:
    """Return whether an environment's spaces hold text.

    Raises:
        UserError: it has no spaces.
    """
    try:
        spaces = (environment.observation_space, environment.action_space)
        return all(isinstance(space.sample(), str) for space in spaces)
    except AttributeError:
        raise UserError(
            f"{name} has no observation_space or no action_space that can be sampled; expected "
            "spaces of Gymnasium, or prefrl.text.FreeText() for text"
        ) from None


def make(spec: EnvSpec, **options: Any) -> gymnasium.Env:
    """Make an environment.

    Args:
        spec: as `resolve` returned it.
        options: for `gymnasium.make`: a time limit, a render mode, what the constructor takes.

    Raises:
        UserError: a package that it needs is missing, or its own code fails; the message says how.
    """
    try:
        with making(spec), warnings.catch_warnings():
            # What its metadata lacks is of no use here, or is said in a sentence.
            warnings.filterwarnings("ignore", ".*creator metadata doesn't include")
            return gymnasium.make(spec, disable_env_checker=True, **options)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's environment raises
        what = raised_by(f"making {spec.id}", error)
        raise UserError(f"{what}; correct the environment") from error


@contextmanager
def making(spec: EnvSpec) -> Iterator[None]:
    """Turn what is said of a parameter that a constructor does not take into a sentence."""
    try:
        with installed(spec.id):
            yield
    except TypeError as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        given = spec.kwargs.keys() - gymnasium.spec(spec.id).kwargs.keys()
        if refused is None or refused[1] not in given:
            raise
        raise UserError(
            f"the constructor of {spec.id} takes no {refused[1]!r}, which --env-kwargs gives it; "
            "give it a parameter that it has, or leave this one out"
        ) from error
