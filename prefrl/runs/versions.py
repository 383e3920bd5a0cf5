"""What the bits of a run depend on besides its configuration."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch


def differences(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say how two lines of metrics, or the versions of two runs, differ."""
    return [
        f"{name} was {was.get(name)}, is {now.get(name)}"
        for name in was | now
        if json.dumps(was.get(name)) != json.dumps(now.get(name))  # NaN is NaN, 1 is not 1.0
    ]


def versions() -> dict[str, Any]:
    """Return what the bits of a run depend on besides its configuration."""
    names = ["prefrl", "gymnasium", "mujoco", "numpy", "stable-baselines3", "torch", "transformers"]
    return {name: version for name in names if (version := _version(name))} | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
