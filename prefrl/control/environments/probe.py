"""Tries environments out before a run, on copies of them."""

from __future__ import annotations

import numpy as np

from prefrl.clips.pictures import sheet, shrink
from prefrl.control.environments.adapters import BatchedEnvironments, SeparateEnvironments
from prefrl.control.environments.interface import Environments


def is_deterministic(environments: Environments, steps: int = 20) -> bool:
    """Try whether the same seed and actions give the same observations twice."""
    if isinstance(environments, BatchedEnvironments):
        return True
    assert isinstance(environments, SeparateEnvironments)
    one = SeparateEnvironments(environments.name, 1, 0, environments.description.horizon)
    one.description.action_space.seed(0)
    actions = [one.description.action_space.sample() for _ in range(steps)]
    runs = []
    for _ in range(2):
        one.episodes = [0]
        runs.append([one.reset(), *(one.step(np.array([a])).observations for a in actions)])
    return all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def picture_trouble(environments: Environments) -> str:
    """Try whether people can be shown pictures; say what is in the way, "" if nothing is."""
    if "qpos" in environments.extras():
        return ""
    assert isinstance(environments, SeparateEnvironments)
    one = SeparateEnvironments(environments.name, 1, 0, environments.description.horizon)
    try:
        one.show()
        one.reset()
        sheet([shrink(one.frame())], 1)
    except Exception as error:  # whatever a renderer raises
        return str(error)
    return ""
