"""The errors that a user can mend, and notes where nothing has failed."""

import re
import sysconfig
import traceback
import warnings
from importlib.util import find_spec
from pathlib import Path


class UserError(Exception):
    """A mistake the user can put right; its message says what was given, expected and to do.

    The command line prints the message without a traceback and exits with code 2.
    """


# Control characters, but for tab and the ends of lines: SQLite's own functions end a text at the
# first NUL, and a terminal obeys the others. No name and no question holds any.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class StoreError(UserError):
    """The feedback store cannot be used for now; what it holds is as it was."""


class Away(StoreError):
    """The database does not answer for now; the same may be asked of it again later."""

    def __init__(self, called: str, why: str):
        self.called, self.why = called, why
        super().__init__(
            f"{called} does not answer for now ({why}); every answer acknowledged so far is safe, "
            "so try again when the database runs"
        )


class Unreachable(UserError):
    """Whoever was asked does not answer for now; it may be asked again later."""


class Note(UserWarning):
    """What a user should know although nothing fails; the command line prints it as a note."""


def note(sentence: str) -> None:
    """Tell the user something, once."""
    warnings.warn(sentence, Note, stacklevel=2)


def check_plain(what: str, text: str) -> None:
    """Raise `UserError` if a text that names or asks something holds a control character.

    Args:
        what: it is: "the question".
        text: it.
    """
    if found := CONTROL.search(text):
        raise UserError(
            f"{what} is {text!r:.80}, which holds the control character {found[0]!r}; expected a "
            "text without any"
        )


def raised_by(who: str, error: BaseException) -> str:
    """Say what somebody's own code raised, and where: "judge raised KeyError: 'a' (own.py:7)"."""
    if isinstance(error, SyntaxError) and error.filename:  # of a file that could not be read
        where, words = f" ({Path(error.filename).name}:{error.lineno})", error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if is_users_own(frame.filename)]
        where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
        words = (str(error).strip().splitlines() or [""])[0]
    kind = type(error).__name__
    return f"{who} raised {f'{kind}: {words}' if words else kind}{where}"


def is_users_own(filename: str) -> bool:
    """Return whether a file is neither installed, nor of the standard library, nor of prefrl."""
    path = Path(filename).resolve()
    if {"site-packages", "dist-packages"}.intersection(path.parts) or not path.is_file():
        return False
    envs = find_spec("prefrl.envs")
    others = [sysconfig.get_path("stdlib"), Path(__file__).parent]
    others += [Path(envs.origin).parent] if envs and envs.origin else []
    return not any(path.is_relative_to(Path(folder).resolve()) for folder in others)
