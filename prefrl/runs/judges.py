"""Whoever judges two policies: a teacher by its name, or a learned reward by its folder."""

from __future__ import annotations

from pathlib import Path

from prefrl.config.learning import TEACHERS
from prefrl.contracts import Teacher
from prefrl.errors import UserError
from prefrl.runs.load import load_reward
from prefrl.storage.fitted import FittedFolder
from prefrl.storage.folder import RunFolder
from prefrl.teachers.pairs import judge_named
from prefrl.teachers.reward import RewardTeacher


def is_reward(name: str) -> bool:
    """Return whether a teacher's name is that of a folder."""
    return name not in (*TEACHERS, "human") and Path(name).expanduser().is_dir()


def judge(name: str, seed: int, is_text: bool) -> Teacher:
    """Return a judge in this process.

    Args:
        name: one of `TEACHERS`, MODULE:OBJECT, or a folder of `prefrl fit` or of a run, whose
            reward judges.
        seed: of an oracle's faults.
        is_text: whether texts are to be judged.

    Raises:
        UserError: there is no such judge, or it judges other clips.
    """
    if not is_reward(name):
        return judge_named(name, seed)
    path = Path(name).expanduser()
    if (FittedFolder(path).is_one or RunFolder.open(path).card().is_text) != is_text:
        reads, shown = ("numbers", "texts") if is_text else ("texts", "numbers")
        raise UserError(
            f"--teacher is {name!r}, whose reward is of {reads}, but what is to be judged is "
            f"{shown}; give a reward that was learned from {shown}"
        )
    return RewardTeacher(load_reward(path), name)
