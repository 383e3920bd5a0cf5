"""prefrl: teach an agent from preferences.

    from prefrl import Experiment, train, load_policy, load_reward

Importing the package loads nothing heavy; each of these names is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefrl.config.control import ControlConfig
    from prefrl.config.experiment import Experiment
    from prefrl.config.text import TextConfig
    from prefrl.runs.check import check_environment
    from prefrl.runs.load import load_policy, load_reward
    from prefrl.runs.train import resume, train
    from prefrl.types import Segment, Trajectory

__version__ = "0.1.0"

__all__ = [
    "ControlConfig",
    "Experiment",
    "Segment",
    "TextConfig",
    "Trajectory",
    "check_environment",
    "load_policy",
    "load_reward",
    "resume",
    "train",
]

_HOMES = {
    "ControlConfig": "prefrl.config.control",
    "Experiment": "prefrl.config.experiment",
    "Segment": "prefrl.types",
    "TextConfig": "prefrl.config.text",
    "Trajectory": "prefrl.types",
    "check_environment": "prefrl.runs.check",
    "load_policy": "prefrl.runs.load",
    "load_reward": "prefrl.runs.load",
    "resume": "prefrl.runs.train",
    "train": "prefrl.runs.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prefrl' has no attribute {name!r}; it has {__all__}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
