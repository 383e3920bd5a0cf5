"""`prefrl list`: presets and environments."""

from dataclasses import dataclass

from prefrl.commands.console import say


@dataclass(frozen=True)
class List:
    """List presets and environments, a line each."""


def list_all(_: List) -> None:
    """Print what there is to train, and on what."""
    import gymnasium

    import prefrl.envs  # pyright: ignore[reportMissingImports]
    from prefrl.config.presets import PRESETS

    say("presets (prefrl train PRESET)")
    for name, entry in PRESETS.items():
        say(f"  {name:24} {entry.about}")
    say("environments (prefrl train --env ID)")
    for name in gymnasium.registry:
        if name.startswith("prefrl/"):
            say(f"  {name:32} {prefrl.envs.SUMMARIES[name]}")
    say("  any other Gymnasium id of flat observations or text, yours too: your_package:Your-v0")
