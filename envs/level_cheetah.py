"""LevelCheetah: HalfCheetah runs forward with its torso level; two aspects."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from . import guides
from .half_cheetah import HalfCheetah


class LevelCheetah(HalfCheetah):
    """A planar cheetah, two legs of three joints each, runs forward (towards +x), its torso level.

    Observation `[17]` and Action `[6]`: as of HalfCheetah. Two aspects. `fast`: forward speed, m/s.
    `level`: the cosine of the torso's pitch, 1 level and −1 on its back. Reward: both added up.
    `info["aspects"]` holds each. An episode is always 1,000 steps (50 s).

    Version History:
        v0: first version.
    """

    question = "Which cheetah runs forward faster, its torso level?"
    guide = guides.LEVEL_CHEETAH
    aspects: ClassVar = {
        "fast": "Which cheetah runs forward (to the right) faster?",
        "level": "Which cheetah keeps its torso more level?",
    }

    def evaluate(self, action: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Return speed and levelness added up, each of them, and HalfCheetah's terms."""
        velocity, terms = super().evaluate(action, before)
        level = np.cos(self.qpos[:, 2])
        return velocity + level, terms | {"aspects": {"fast": velocity, "level": level}}
