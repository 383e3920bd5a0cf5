"""What there is to train."""

from dataclasses import dataclass


@dataclass(frozen=True)
class List:
    """List presets and environments, a line each."""


def list_all(_: List) -> None:
    """Print what there is to train, and on what."""
    import gymnasium

    import prefrl.envs  # pyright: ignore[reportMissingImports]
    from prefrl.config.presets import PRESETS

    print("presets (prefrl train PRESET)")
    for name, entry in PRESETS.items():
        print(f"  {name:20} {entry.about}")
    print("environments (prefrl train --env ID)")
    for name in gymnasium.registry:
        if name.startswith("prefrl/"):
            print(f"  {name:28} {prefrl.envs.SUMMARIES[name]}")
    print("  any other Gymnasium id of flat observations or text, yours too: your_package:Your-v0")
