"""What the bits of a run depend on besides its configuration."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ELSEWHERE = {"cli.py", "clips", "commands", "reports", "viewer"}
"""What is in prefrl, but says nothing to a run whose teacher is in its process."""
CODE_LENGTH = 8
CPU, SYSTEM = "cpu_capability", "platform"


def differences(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say how two lines of metrics, or the versions of two runs, differ."""
    return [
        f"{name} was {was.get(name)}, is {now.get(name)}"
        for name in was | now
        if json.dumps(was.get(name)) != json.dumps(now.get(name))  # NaN is NaN, 1 is not 1.0
    ]


def versions() -> dict[str, Any]:
    """Return what the bits of a run depend on besides its configuration."""
    import torch

    names = ["prefrl", "gymnasium", "mujoco", "numpy", "stable-baselines3", "torch", "transformers"]
    return {name: version for name in names if (version := _version(name))} | {
        "python": platform.python_version(),
        SYSTEM: platform.platform(),
        "torch_threads": torch.get_num_threads(),
        CPU: torch.backends.cpu.get_cpu_capability(),
    }


def code() -> str:
    """Return a hash of the source of prefrl, as far as the numbers of a run depend on it."""
    package, envs = Path(__file__).parents[1], find_spec("prefrl.envs")
    folders = [package, *([Path(envs.origin).parent] if envs and envs.origin else [])]
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if folder != package or name.parts[0] not in ELSEWHERE:
                digest.update(f"{name.as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:CODE_LENGTH]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
