"""From a Gymnasium id to what it names, or a sentence why it names nothing."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from prefrl.environments.modules import import_module
from prefrl.errors import UserError, raised_by


def resolve(name: str) -> str:
    """Import what the id needs and return it as Gymnasium knows it.

    Raises:
        UserError: the id or its package is unknown; the message lists near names.
    """
    package, _, bare = name.rpartition(":")
    if bare.startswith("prefrl/"):
        package = "prefrl.envs"
    if package:
        import_module(package, f"environment {name!r}")
    try:
        return gymnasium.spec(bare).id
    except gymnasium.error.Error:
        known = [*gymnasium.registry]
        near = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`prefrl list` shows those at hand."
        raise UserError(
            f"there is no environment {name!r}; {hint} An environment of your own is named "
            "with the package that registers it: your_package:Your-v0"
        ) from None


@contextmanager
def installed(name: str) -> Iterator[None]:
    """Turn what is said of a missing package, or of one that is broken, into a sentence."""
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise UserError(f"{name} needs a package that is not installed: {error}") from None
    except ImportError as error:
        raise UserError(f"{raised_by(f'making {name}', error)}; correct that import") from error


def speaks(name: str) -> bool:
    """Return whether an environment observes and acts in text.

    Args:
        name: as `resolve` returned it.
    """
    if gymnasium.spec(name).vector_entry_point is not None:
        return False
    with chdir(Path.cwd()):  # back to it, wherever the environment's own code goes
        environment = make(name)
        try:
            return holds_text(environment, name)
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


def make(name: str, **options: Any) -> gymnasium.Env:
    """Make an environment.

    Args:
        name: as `resolve` returned it.
        options: for `gymnasium.make`: a time limit, a render mode, what the constructor takes.

    Raises:
        UserError: a package that it needs is missing, or its own code fails; the message says how.
    """
    try:
        with installed(name), warnings.catch_warnings():
            # What its metadata lacks is of no use here, or is said in a sentence.
            warnings.filterwarnings("ignore", ".*creator metadata doesn't include")
            return gymnasium.make(name, disable_env_checker=True, **options)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's environment raises
        raise UserError(f"{raised_by(f'making {name}', error)}; correct the environment") from error
