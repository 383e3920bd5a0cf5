"""The command line: `prefrl COMMAND …`. The commands themselves are in `prefrl.commands`."""

import difflib
import sys
from collections.abc import Callable, Sequence

from prefrl import __version__
from prefrl.commands import answers, text, training
from prefrl.commands import list as listing
from prefrl.commands import reports as looking
from prefrl.commands.console import complain, without_deprecations_of_dependencies
from prefrl.errors import UserError

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": training.train,
    "resume": training.resume,
    "label": training.label,
    "inspect": looking.inspect,
    "sft": text.sft,
    "fit": text.fit,
    "evaluate": looking.evaluate,
    "compare": looking.compare,
    "video": looking.video,
    "plot": looking.plot,
    "export": answers.export,
    "import": answers.import_file,
    "replay": training.replay,
    "list": listing.list_all,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit 0, or 2 after a sentence about the user's mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with without_deprecations_of_dependencies():
            if not words or words[0] in ("-h", "--help"):
                print(_usage())
            elif words[0] == "--version":
                print(f"prefrl {__version__}")
            else:
                _command(words[0])(words[1:])
    except UserError as error:
        sys.exit(complain(str(error)))
    except KeyboardInterrupt:
        sys.exit(complain("interrupted"))
    except BrokenPipeError:
        sys.stderr.close()


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


if __name__ == "__main__":
    main()
