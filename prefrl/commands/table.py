"""The commands by name, as `prefrl --help` lists them."""

import difflib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from prefrl import __version__
from prefrl.commands import answers, reports, text, training
from prefrl.commands import list as listing
from prefrl.commands.console import complain, without_deprecations_of_dependencies
from prefrl.errors import UserError

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": training.train,
    "resume": training.resume,
    "label": training.label,
    "inspect": reports.inspect,
    "sft": text.sft,
    "fit": text.fit,
    "evaluate": reports.evaluate,
    "compare": reports.compare,
    "video": reports.video,
    "plot": reports.plot,
    "export": answers.export,
    "import": answers.import_file,
    "replay": training.replay,
    "list": listing.list_all,
}


def run(words: list[str]) -> int:
    """Run one command; return 0, or 2 after a sentence about the user's mistake."""
    try:
        with without_deprecations_of_dependencies():
            if not words or words[0] in ("-h", "--help"):
                print(_usage())
            elif words[0] == "--version":
                print(f"prefrl {__version__}")
            else:
                _command(words[0])(words[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        return complain(str(error))
    except OSError as error:
        if sys.stdout is None or not _is_about_output(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        if not isinstance(error, BrokenPipeError):
            return complain(f"cannot write the output: {error.strerror}")
    return 0


def _is_about_output(error: OSError) -> bool:
    """Return whether it was raised by printing, and not by somebody's environment or a file."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return Path(innermost.filename).parent == Path(__file__).parent


def _command(name: str) -> Callable[[list[str]], None]:
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "`prefrl --help` lists the commands."
    raise UserError(f"there is no command {name!r}; {hint}")


def _usage() -> str:
    lines = ["usage: prefrl COMMAND …   (prefrl COMMAND --help shows its options)"]
    lines += ["       prefrl --version", ""]
    lines += [f"  {name:9} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(lines)
