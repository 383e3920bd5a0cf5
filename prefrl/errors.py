"""The one exception that means: the user can put this right."""

import traceback
from pathlib import Path


class UserError(Exception):
    """A mistake the user can put right; its message says what was given, expected and to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def raised_by(who: str, error: Exception) -> str:
    """Say what somebody's own code raised, and where: "judge raised KeyError: 'a' (own.py:7)"."""
    told = str(error).strip().splitlines() or [""]
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is ours
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{who} raised {type(error).__name__}: {told[0]}{where}"
