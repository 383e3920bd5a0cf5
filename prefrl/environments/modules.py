"""Finds the user's own modules: environments, teachers and scorers."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from prefrl.errors import UserError, raised_by


def load_object(name: str, role: str) -> Any:
    """Return what "module:object" names.

    Args:
        name: as the user gave it; the object may be one inside another, "m:Class.method".
        role: what it is to be, for the sentences: "teacher".

    Raises:
        UserError: there is no such module or object, or the module's own code fails.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(f"cannot find the {role} {name!r}; expected MODULE:OBJECT")
    loaded: Any = import_module(module, f"{role} {name!r}")
    try:
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
    except AttributeError as error:
        raise UserError(f"cannot find the {role} {name!r}: {error}") from None
    return loaded


def import_module(name: str, whose: str) -> ModuleType:
    """Import a module from the working folder or from among the installed packages.

    The working folder stays on the path, as `python -m` puts it there, since such a module may
    import its neighbours late: in a constructor, in a step.

    Args:
        name: of the module.
        whose: who names it, for the sentences: "teacher 'judges:brief'".

    Raises:
        UserError: there is none, or its own code fails; the message says where.
    """
    if name not in sys.modules and name.split(".")[0] != "prefrl":
        _search_working_folder()
    try:
        if name.startswith(".") or "/" in name:
            raise ModuleNotFoundError(name=name)
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever somebody's module raises
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise UserError(f"{whose}: cannot import {missing!r}; {_hint(name)}") from None
        remedy = "install it, or correct the name" if missing else "correct the module"
        raise UserError(f"{raised_by(f'{whose}: importing {name}', error)}; {remedy}") from error


def _search_working_folder() -> None:
    try:
        here = str(Path.cwd())  # whole: an environment may change the working folder
    except FileNotFoundError:
        raise UserError("the working folder does not exist any more; change to another") from None
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # a notebook may have written the module just now


def _hint(name: str) -> str:
    if "/" in name or name.endswith(".py"):
        as_module = name.removesuffix(".py").removeprefix("./").strip("/").replace("/", ".")
        return f"a module is named without its ending, with dots for folders: {as_module!r}"
    return f"there is no {name.replace('.', os.sep)}.py in {Path.cwd()}, and no such package"
