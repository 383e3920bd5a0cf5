"""The command line: `prefrl COMMAND …`.

The commands themselves are in `prefrl.commands`.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit 0, or 2 after a sentence about the user's mistake.

    Args:
        arguments: the words after `prefrl`; by default those that the process was started with,
            whose signals and output are the command's own, then.
    """
    try:
        # Imported in here: it takes time, and Ctrl-C may come at any moment.
        from prefrl.commands import process, table

        if arguments is None:
            with process.owned():
                code = table.run(sys.argv[1:])
        else:
            code = table.run(list(arguments))
    except KeyboardInterrupt as interrupt:
        print(f"prefrl: {str(interrupt) or 'interrupted'}", file=sys.stderr, flush=True)
        code = 2
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
