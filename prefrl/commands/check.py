"""`prefrl check`: whether an environment of one's own keeps the contract."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from prefrl.commands.console import say


@dataclass(frozen=True)
class Check:
    """ENV: try an environment of your own out, of numbers or of text, before training in it."""

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """Gymnasium id; "your_package:Your-v0" imports the package first."""
    horizon: int | None = None
    """Steps, or turns, within which an episode ends; the id's own limit by default."""


def check(chosen: Check) -> None:
    """Print what is worth a note; what breaks the contract is an error."""
    from prefrl.runs.check import check_environment

    notes = check_environment(chosen.env, chosen.horizon)
    for note in notes:
        say(f"note: {note}")
    say(f"{chosen.env} can be trained in" + ("" if notes else "; nothing is worth a note"))
