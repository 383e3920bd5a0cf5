"""What commands share: options, complaints, a line that lives."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefrl.errors import UserError, is_users_own

USAGE_ERROR = 2
DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def parse(kind, words: list[str], program: str):
    """Return the options of a command, an instance of the dataclass `kind`."""
    import tyro

    return tyro.cli(kind, args=words, prog=program)


def complain(sentence: str) -> int:
    """Say what is wrong; return the exit code."""
    print(f"prefrl: {sentence}", file=sys.stderr)
    return USAGE_ERROR


@contextmanager
def installed(extra: str) -> Iterator[None]:
    """Turn what is said of a missing package into a sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"this needs {error.name}: pip install 'prefrl[{extra}]'") from None


@contextmanager
def without_deprecations_of_dependencies() -> Iterator[None]:
    """Keep from the terminal what dependencies say to programmers: deprecations, transformers' log.

    A deprecation is shown if the code it is about is the user's own: an environment, a teacher.
    `python -W`, PYTHONWARNINGS and TRANSFORMERS_VERBOSITY have their usual effect. What is made an
    error stays one.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if sys.warnoptions:
        yield
        return
    with warnings.catch_warnings():  # so that showwarning is put back
        show = warnings.showwarning

        def show_to_user(message, category, filename, lineno, file=None, line=None):
            if not issubclass(category, DEPRECATIONS) or is_users_own(filename):
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_to_user
        yield


@contextmanager
def live_line() -> Iterator[Callable[[str, bool], None]]:
    """Give what shows a line, to stay or only until the next; in a pipe only those that stay."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield lambda line, stays: print(line, flush=True) if stays else None
        return
    with console.status("") as status:
        yield lambda line, stays: console.print(line) if stays else status.update(line)
