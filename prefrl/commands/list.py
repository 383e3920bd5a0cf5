"""What there is to train."""

from dataclasses import dataclass

from prefrl.commands.console import parse


def list_all(words: list[str]) -> None:
    """List presets and environments, a line each."""

    @dataclass(frozen=True)
    class List:
        pass

    parse(List, words, "prefrl list")

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
