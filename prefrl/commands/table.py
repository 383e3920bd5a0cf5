"""The commands by name, as `prefrl --help` lists them."""

import difflib
import errno
import os
import select
import sys
from collections.abc import Callable
from typing import Any

from prefrl import __version__
from prefrl.commands import answers, reports, text, training
from prefrl.commands import check as checking
from prefrl.commands import generate as generating
from prefrl.commands import judge as judging
from prefrl.commands import label as labelling
from prefrl.commands import list as listing
from prefrl.commands import plan as planning
from prefrl.commands import sweep as sweeping
from prefrl.commands.console import complain, parse, without_deprecations_of_dependencies
from prefrl.errors import UserError

COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "train": (training.Train, training.train),
    "resume": (training.Resume, training.resume),
    "label": (labelling.Label, labelling.label),
    "inspect": (reports.Inspect, reports.inspect),
    "sft": (text.Sft, text.sft),
    "fit": (text.Fit, text.fit),
    "score": (text.Score, text.score),
    "generate": (generating.Generate, generating.generate),
    "evaluate": (reports.Evaluate, reports.evaluate),
    "judge": (judging.MeasureJudge, judging.measure_judge),
    "compare": (reports.Compare, reports.compare),
    "video": (reports.Video, reports.video),
    "plot": (reports.Plot, reports.plot),
    "plan": (planning.Plan, planning.plan),
    "sweep": (sweeping.RunSweep, sweeping.sweep),
    "table": (sweeping.ShowTable, sweeping.table),
    "export": (answers.Export, answers.export),
    "import": (answers.Import, answers.import_file),
    "replay": (training.Replay, training.replay),
    "check": (checking.Check, checking.check),
    "list": (listing.List, listing.list_all),
}
"""The options of each, whose docstring is its help, and what it does with them."""


def run(words: list[str]) -> int:
    """Run one command; return 0, or 2 after a sentence about the user's mistake."""
    try:
        with without_deprecations_of_dependencies():
            if not words or words[0] in ("-h", "--help"):
                print(_usage())
            elif words[0] == "--version":
                print(f"prefrl {__version__}")
            else:
                options, act = _command(words[0])
                act(_parsed(options, words[1:], words[0]))
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        return complain(str(error))
    except OSError as error:
        if sys.stdout is None or not (_reader_is_gone() or error.errno == errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        if error.errno == errno.ENOSPC:
            return complain("cannot write the output: no space left on the device")
    return 0


def _reader_is_gone() -> bool:
    """Return whether the output is a pipe that nobody reads any more, as after `| head`."""
    if not hasattr(select, "poll"):  # on Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _parsed(options: type, words: list[str], name: str) -> Any:
    if options is training.Train:
        return training.parse_train(words)
    return parse(options, words, f"prefrl {name}")


def _command(name: str) -> tuple[type, Callable[[Any], None]]:
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "`prefrl --help` lists the commands."
    raise UserError(f"there is no command {name!r}; {hint}")


def _usage() -> str:
    lines = ["usage: prefrl COMMAND …   (prefrl COMMAND --help shows its options)"]
    lines += ["       prefrl --version", ""]
    lines += [f"  {name:9} {options.__doc__}" for name, (options, _) in COMMANDS.items()]
    return "\n".join(lines)
