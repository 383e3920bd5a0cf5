"""Loads a run's policy, reward model and newest checkpoint.

from prefrl.runs.load import load_policy, load_reward
load_policy("runs/cheetah").predict(observation)
load_reward("reward").score("a prompt", "a reply")      # of `prefrl fit`, or of a run
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefrl.config.text import TextConfig
from prefrl.contracts import Network
from prefrl.errors import UserError
from prefrl.runs.domains import domain_of, load_fitted
from prefrl.storage.checkpoint import from_bytes
from prefrl.storage.fitted import FittedFolder
from prefrl.storage.folder import RunFolder


def load_policy(path: Path | str) -> Any:
    """Return a run's policy: `policy.predict(observation)`.

    Observations are those of training: for an environment that is not prefrl's own, with a last
    feature that is 1 once the episode has ended (`FixedHorizon`). Of a language model
    `policy.predict(text)` is a reply.
    """
    folder = RunFolder.open(path)
    experiment, state = folder.experiment(), _finished_checkpoint(folder)
    with fitting(folder):
        return domain_of(folder).load_policy(experiment, state["agent"], folder)


def load_reward(path: Path | str, network: Network | None = None, device: str = "") -> Any:
    """Return the reward model of a run, or of a folder of `prefrl fit`.

    `model.rewards([trajectory])` are its rewards; one of a robot may be called on features, and
    that of texts has `model.score(prompt, reply)`.

    Args:
        path: the folder.
        network: your own reward network, if the run had one.
        device: of a language model; that of the run, else the one there is, by default.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if FittedFolder(path).is_one:
        return load_fitted(path, device or "auto")
    folder = RunFolder.open(path)
    experiment = folder.experiment()
    if experiment.reward == "true":
        raise UserError(f"{path} was trained on the true reward; it has no learned one")
    if experiment.is_graded:
        raise UserError(
            f"{path} was trained on the grades of {experiment.reward}; it has no learned reward"
        )
    if experiment.given_reward is not None:
        return load_reward(folder.given_reward, network, device)
    if device and isinstance(experiment.domain, TextConfig):
        text = dataclasses.replace(experiment.domain, device=device)
        experiment = dataclasses.replace(experiment, domain=text)
    state = _finished_checkpoint(folder)
    model = domain_of(folder).load_reward(experiment, network, folder)
    with fitting(folder):
        model.load_state_dict(state["reward"])
    return model


def checkpoint(folder: RunFolder) -> dict[str, Any] | None:
    """Return the newest state of a run's components; None if no round has finished yet.

    Raises:
        UserError: it is damaged.
    """
    data = folder.checkpoint()
    if data is None:
        return None
    try:
        return from_bytes(data)
    except ValueError as error:
        raise UserError(
            f"the newest checkpoint of {folder.path} is damaged ({error}); delete it, and resuming "
            "starts from the one before"
        ) from error


def _finished_checkpoint(folder: RunFolder) -> dict[str, Any]:
    state = checkpoint(folder)
    if state is None:
        raise UserError(f"{folder.path} has not finished a round yet; there is nothing to load")
    return state


@contextmanager
def fitting(folder: RunFolder) -> Iterator[None]:
    """Turn the error of a checkpoint for other networks into a sentence."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(
            f"the newest checkpoint of {folder.path} does not fit its config.json; or the run had "
            "a reward network of its own, which is given again, from Python: resume(path, "
            "network=…), load_reward(path, network), replay(path, into, network) of "
            "prefrl.runs.replay"
        ) from error
