"""The critic by which an oracle compares clips: of a run on the true reward (`--oracle.regret`).

A run keeps a copy, so that its oracle answers alike whatever becomes of the run that it is from.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from prefrl.config.control import ControlConfig
from prefrl.config.experiment import Experiment
from prefrl.contracts import Components
from prefrl.errors import UserError
from prefrl.runs.load import checkpoint, load_policy
from prefrl.storage.checkpoint import to_bytes
from prefrl.storage.folder import RunFolder
from prefrl.teachers.oracle import Critic


def named_critic(experiment: Experiment) -> Path | None:
    """Return the folder of the run whose critic is named, None if there is none.

    Raises:
        UserError: it is no such run.
    """
    name = experiment.oracle.regret
    if not name:
        return None
    path = Path(name).expanduser().absolute()
    expected = "expected the folder of a run of a robot with --reward true and --learner ppo"
    if not (path / "config.json").is_file():
        raise UserError(f"--oracle.regret is {name!r}, which is no run; {expected}")
    folder = RunFolder.open(path)
    if folder.kind() == "comparison":
        raise UserError(f"--oracle.regret is {name!r}, which is a comparison of runs; {expected}")
    other = folder.experiment()
    if not isinstance(other.domain, ControlConfig):
        raise UserError(f"--oracle.regret is {name!r}, a run of a language model; {expected}")
    if other.reward != "true" or other.domain.learner != "ppo":
        had = f"--reward {other.reward} and --learner {other.domain.learner}"
        raise UserError(f"--oracle.regret is {name!r}, a run with {had}; {expected}")
    return path


def load_critic(path: Path) -> Critic:
    """Return what the critic of a run says, in true reward.

    Its rewards were calibrated, r′ = c (r − m) / d, so a value V′ of them is (d / c) V′ + m/(1 − γ)
    in true reward, where c² = 1 − γ² (`PPOAgent`).

    Raises:
        UserError: no round has finished yet, or the run is damaged.
    """
    folder = RunFolder.open(path)
    gamma = folder.experiment().control.ppo.gamma
    policy, state = load_policy(path), checkpoint(folder)
    assert state is not None, "its policy has been loaded"
    mean, deviation = state["reward"]["mean"], state["reward"]["std"]
    scale, endless = deviation / math.sqrt(1 - gamma**2), mean / (1 - gamma)

    def values(observations: np.ndarray) -> np.ndarray:
        return scale * policy.values(observations) + endless

    return Critic(values, gamma)


def with_critic(components: Components, source: Path | None, env: str) -> Components:
    """Return components that keep a copy of the run of a critic; as they are, if there is none.

    Raises:
        UserError: it is of another environment.
    """
    if source is None:
        return components
    run, card = RunFolder.open(source), components.card
    if run.card().observations != card.observations:
        raise UserError(
            f"--oracle.regret names a run of {run.experiment().env}, whose observations are others "
            f"than those of {env}; name one of an environment of the same observations"
        )
    keep = components.save

    def save(folder: RunFolder) -> None:
        if not folder.critic.exists():
            _copy(source, folder.critic)
        keep(folder)

    return dataclasses.replace(components, save=save)


def _copy(source: Path, into: Path) -> None:
    """Copy what `load_critic` reads."""
    run = RunFolder.open(source)
    state = checkpoint(run)
    assert state is not None, "its critic has been loaded"
    agent = {name: state["agent"][name] for name in ("policy", "normaliser")}
    copy = RunFolder.begin(into, run.versions())
    copy.save_card(run.card())
    copy.save_checkpoint(0, to_bytes({"agent": agent, "reward": state["reward"]}))
    copy.save_experiment(run.experiment())
