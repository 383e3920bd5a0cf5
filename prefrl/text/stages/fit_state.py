"""Where a fit is: what is kept of it while it goes on, and how several processes share it."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from prefrl.errors import UserError
from prefrl.learning import parallel
from prefrl.storage.checkpoint import from_bytes
from prefrl.text.reward import TextReward
from prefrl.text.stages.fitting import Fitting, passes, start
from prefrl.text.stages.tuning import load_model
from prefrl.types import Segment, Trajectory, system_of


def whole(fitting: Fitting) -> Fitting:
    """Return it with all weights in this process; all processes ask for it."""
    if parallel.count() == 1:
        return fitting
    weights = parallel.whole_state(fitting.reward_model.state_dict())
    text, seed = fitting.text, fitting.seed
    begun = load_model(fitting.model, seed, "cpu", text.dtype)
    model = TextReward(
        begun.language_model, text.reward_model, seed, text.chat, begun.autocast, options=""
    )
    model.load_state_dict(weights)
    return dataclasses.replace(fitting, reward_model=model, language_model=begun.language_model)


def follow_fit(settings: dict[str, Any]) -> None:
    """Fit beside the first process, which keeps a state after each pass.

    Args:
        settings: what `start` is given, by name.
    """
    fitting = start(**settings)
    begin(fitting)
    for _ in passes(fitting):
        state_dict(fitting)
    whole(fitting)


def begin(fitting: Fitting, kept: bytes | None = None) -> None:
    """Go on where the first process says, if it was kept; see `state_dict`.

    Raises:
        UserError: the processes have read different answers.
    """
    mine = digest(fitting)

    def agree() -> list[None]:
        if mine != answers:
            raise UserError("its processes have read different answers; give all the same file")
        return [None]

    answers = parallel.from_first(lambda: mine)
    parallel.shares(agree, parallel.count())
    if data := parallel.from_first(lambda: kept):
        load_state_dict(fitting, from_bytes(data))


def state_dict(fitting: Fitting) -> dict[str, Any]:
    """Return all that the passes to come depend on but the answers, after one of `passes`.

    All processes ask for it.
    """
    return parallel.whole_state({
        "reward_model": fitting.reward_model.state_dict(),
        "fit": fitting.state.state_dict(),
        "best": fitting.best.state_dict(),
        "lines": fitting.lines,
        "is_over": fitting.is_over,
    })  # fmt: skip


def load_state_dict(fitting: Fitting, state: dict[str, Any]) -> None:
    """Continue from what `state_dict` returned, to the bit."""
    fitting.reward_model.load_state_dict(state["reward_model"])
    fitting.state.load_state_dict(state["fit"])
    fitting.best.load_state_dict(state["best"])
    fitting.lines[:] = state["lines"]
    fitting.is_over = state["is_over"]


def digest(fitting: Fitting) -> str:
    """Return a hash of the answers, and of what is calibrated on."""
    found = hashlib.blake2b(digest_size=16)
    for comparison in (*fitting.training, None, *fitting.held_out):
        if comparison is not None:
            told = [_texts(side) for side in (comparison.left, comparison.right)]
            numbers = comparison.query, comparison.preference, comparison.margin, comparison.weight
            found.update(repr((numbers, told)).encode(errors="surrogatepass"))
        found.update(b"\n")
    for sample in fitting.samples:
        found.update(repr(_texts(sample)).encode(errors="surrogatepass"))
    return found.hexdigest()


def _texts(clip: Segment | Trajectory) -> tuple[Any, ...]:
    return system_of(clip), clip.observations.tolist(), clip.actions.tolist()
