"""The one exception that means: the user can put this right."""

import sysconfig
import traceback
from pathlib import Path

OURS = str(Path(__file__).parent)
LIBRARY = sysconfig.get_path("stdlib")


class UserError(Exception):
    """A mistake the user can put right; its message says what was given, expected and to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def raised_by(who: str, error: Exception) -> str:
    """Say what somebody's own code raised, and where: "judge raised KeyError: 'a' (own.py:7)"."""
    told = str(error).strip().splitlines() or [""]
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith((OURS, LIBRARY))]
    theirs = [frame for frame in theirs if "site-packages" not in frame.filename]
    where = f" ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})" if theirs else ""
    return f"{who} raised {type(error).__name__}: {told[0]}{where}"
