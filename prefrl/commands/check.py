"""`prefrl check`: whether an environment of one's own keeps the contract."""

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from prefrl.commands.console import say
from prefrl.commands.options import EnvKwargs


@dataclass(frozen=True)
class Check:
    """ENV: try an environment of your own out, of numbers or of text, before training in it."""

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """Gymnasium id; "your_package:Your-v0" imports the package first."""
    env_kwargs: EnvKwargs = field(default_factory=dict)
    """For its constructor, as in is_slippery:False."""
    horizon: int | None = None
    """Steps, or turns, within which an episode ends; the id's own limit by default."""
    replies: tuple[str, ...] = ()
    """What to reply, again and again, where it speaks text and moves have a form of their own:
    --replies "[1 2]" "[2 3]"; by default some short texts."""


def check(chosen: Check) -> None:
    """Print what is worth a note; what breaks the contract is an error."""
    from prefrl.runs.check import check_environment

    notes = check_environment(chosen.env, chosen.horizon, chosen.env_kwargs, chosen.replies)
    for note in notes:
        say(f"note: {note}")
    say(f"{chosen.env} can be trained in" + ("" if notes else "; nothing is worth a note"))
