"""What commands share: options, errors, a live line."""

import dataclasses
import difflib
import io
import itertools
import logging
import math
import os
import re
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from tyro.conf import Positional, arg

from prefrl.config.fields import Option, check_fields, options, wanted
from prefrl.errors import Note, UserError, is_users_own
from prefrl.pace import LOG

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

USAGE_ERROR = 2
NOT_MEASURED = "–"
MINUTE = 60.0  # seconds between lines in a pipe that tell how far something is
# Control characters, but for tab and line end; what overrides the direction of a line, and line
# ends that are none to a terminal; halves of surrogate pairs.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)

Options = TypeVar("Options", bound="DataclassInstance")
Run = Annotated[Positional[Path], arg(metavar="RUN")]
RunOrAddress = Annotated[Positional[str], arg(metavar="RUN|ADDRESS")]
Output = Annotated[Path | None, arg(aliases=["-o"], metavar="FILE")]


class UnknownOption(UserError):
    """A word on the command line that a command does not know."""

    def __init__(self, word: str, before: str, known: Sequence[Option], program: str):
        self.name, before = _name(word), _name(before)
        by_name = {option.name: option for option in known}
        near = difflib.get_close_matches(self.name.removeprefix("no-"), by_name, n=1)
        hint = f"did you mean --{near[0]}?" if near else f"`{program} --help` shows what there is"
        if self.name in near:  # a place, which has no dashes
            hint = f"it is given by itself, as in `{program}`"
        switch = next((name for name in (before, *near) if _is_switch(by_name.get(name))), None)
        if switch is not None and (switch == before or self.name.startswith("no-")):
            hint = f"--{switch} says yes, --{_no(switch)} no"
        missing = f"option --{self.name}" if word.startswith("-") else f"place for {word!r}"
        super().__init__(f"there is no {missing}; {hint}")


def _name(word: str) -> str:
    return word.partition("=")[0].lstrip("-").replace("_", "-")


def _is_switch(option: Option | None) -> bool:
    return option is not None and isinstance(option.value, bool)


def _no(switch: str) -> str:
    group, dot, name = switch.rpartition(".")
    return f"{group}{dot}no-{name}"


def parse(kind: type[Options], words: list[str], program: str, default: Any = None) -> Options:
    """Return the options of a command: an instance of the dataclass `kind`.

    Their paths are absolute, since an environment's own code may change the working folder.

    Args:
        kind: the command's dataclass.
        words: what comes after the command.
        program: how the command is called, for its help.
        default: an instance to start from; the defaults of `kind` by default.

    Raises:
        UnknownOption: there is a word that is no option of this command.
        UserError: a word is missing, or an option's value is not what its field may hold.
    """
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            chosen, unknown = tyro.cli(
                kind, args=words, prog=program, default=default, return_unknown_args=True
            )
    except SystemExit as end:
        if not end.code:  # after --help
            raise
        raise UserError(_sentence_of(box.getvalue(), default or kind, words, program)) from None
    if unknown:
        raise UnknownOption(unknown[0], _before(unknown[0], words), [*options(chosen)], program)
    check_fields(chosen)
    return dataclasses.replace(chosen, **{k: _absolute(v) for k, v in vars(chosen).items()})


def _sentence_of(box: str, command: Any, words: Sequence[str], program: str) -> str:
    """Return what tyro draws in a box, about the words of a command, as a sentence.

    Args:
        box: a title, what is wrong, a rule, and where help is to be had; in ASCII a rule comes
            after the title, too.
        command: the command's dataclass, or an instance of it.
        words: what the command was given.
        program: how it is called.
    """
    lines = (line.strip("│").rstrip() for line in box.splitlines()[1:])
    parts = itertools.groupby(lines, lambda line: bool(set(line) - set("─- ")))
    told = textwrap.dedent("\n".join(next([*part] for is_text, part in parts if is_text)))
    if told.startswith("Missing from"):
        missing = re.findall(r"^    (?! )(.*)$", told, re.MULTILINE)
        return f"{program} needs {' and '.join(missing)}; `{program} --help` explains it"
    known = {option.name: option for option in options(command)}
    named = [name for name in re.findall(r"--([\w.-]*\w)", told) if name in known]
    if not named:
        return f"{' '.join(told.split())}; `{program} --help` shows what there is"
    value = _value_after(f"--{named[0]}", words)
    given = "has no value" if value is None else f"is {value!r:.80}"
    return f"--{named[0]} {given}; expected {wanted(object(), known[named[0]].hint) or 'others'}"


def _value_after(option: str, words: Sequence[str]) -> str | None:
    """Return what an option is given last, None if it is nothing."""
    for index in reversed(range(len(words))):
        name, equals, value = words[index].partition("=")
        if name.replace("_", "-") == option:
            rest = [word for word in words[index + 1 : index + 2] if not word.startswith("--")]
            return value if equals else next(iter(rest), None)
    return None


def _before(word: str, words: Sequence[str]) -> str:
    """Return the option that a word is given to, with a space or "=" between; "" if to none."""
    pairs = [*itertools.pairwise(words), *((each, each.partition("=")[2]) for each in words)]
    return next((option for option, value in pairs if value == word), "")


def _absolute(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return value.absolute() if isinstance(value, Path) else value


def absolute_folder(model: str) -> str:
    """Return a model's name: absolute if it names a folder, for the same reason as in `parse`."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def chat_or_plain(chat: bool, plain: bool) -> bool | None:
    """Return whether a chat template is asked for; None if that is left to the model.

    Raises:
        UserError: both are asked for.
    """
    if chat and plain:
        raise UserError("--chat and --plain say opposite things; leave one out")
    return True if chat else False if plain else None


def shown(path: Path) -> str:
    """Return a path as it may be given from the working folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def printable(text: str) -> str:
    r"""Return a text with everything that a terminal would obey written out, as \x1b.

    Prompts, replies and names of files are other people's: they may hold escapes that clear the
    screen or set its title, turn the line round, or be no UTF-8. Line ends and tabs stay.
    """
    return OBEYED.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python shows a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def measured(number: float | None, style: str) -> str:
    """Return a number in a style, a dash where there is none."""
    return NOT_MEASURED if number is None or math.isnan(number) else format(number, style)


def say(*lines: str) -> None:
    """Print lines for people, now."""
    print(printable("\n".join(lines)), flush=True)


def write(piece: str) -> None:
    """Print a piece of a line, now."""
    print(printable(piece), end="", flush=True)


def remark(*lines: str) -> None:
    """Print lines for people beside what a program may read."""
    print(printable("\n".join(lines)), file=sys.stderr, flush=True)


def complain(sentence: str) -> int:
    """Say what is wrong; return the exit code."""
    print(printable(f"prefrl: {sentence}"), file=sys.stderr)
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
            if issubclass(category, Note):
                remark(f"note: {message}")
            elif not issubclass(category, DEPRECATIONS) or is_users_own(filename):
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_to_user
        yield


@contextmanager
def live_line(beside: bool = False) -> Iterator[Callable[[str, bool], None]]:
    """Give what shows a line, to stay or only until the next; how far things are is shown, too.

    In a pipe those stay that shall, and of the others one a minute.

    Args:
        beside: show them beside what a program may read, on stderr.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False, stderr=beside)
    if not console.is_terminal:
        with showing_pace(Piped(remark if beside else say).show) as show:
            yield show
        return
    with console.status("") as status:

        def shown_live(line: str, stays: bool) -> None:
            (console.print if stays else status.update)(printable(line))

        with showing_pace(shown_live) as show:
            yield show


class Piped:
    """Prints the lines that stay, and of the others one a minute."""

    def __init__(self, tell: Callable[..., None]):
        """Begin the first minute.

        Args:
            tell: prints a line.
        """
        self.tell, self.last = tell, time.monotonic()

    def show(self, line: str, stays: bool) -> None:
        """Print a line if it stays, or if nothing was printed for a minute."""
        if stays or time.monotonic() - self.last >= MINUTE:
            self.tell(line)
            self.last = time.monotonic()


@contextmanager
def showing_pace(
    show: Callable[[str, bool], None],
) -> Iterator[Callable[[str, bool], None]]:
    """Show what `prefrl.pace` logs, as lines until the next."""
    handler = logging.Handler()
    handler.emit = lambda record: show(record.getMessage(), False)
    before = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield show
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before)
