"""What several processes do together: the first one has the run, the others follow.

    python -m prefrl.runs.crew    follows, as the environment variables of torchrun say

All of them go through the same rounds, or the same steps of fine-tuning. What the store holds,
when a round may begin and whoever answers are the first one's alone: the others hear of it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from prefrl.config.experiment import Experiment
from prefrl.config.learning import LoopConfig
from prefrl.config.text import TextConfig
from prefrl.contracts import Components, Domain, Network, Pacing, Store
from prefrl.errors import UserError
from prefrl.learning import parallel
from prefrl.learning.loop import LoopState, preference_loop
from prefrl.runs.domains import chosen_domain
from prefrl.runs.given_reward import with_reward
from prefrl.runs.load import checkpoint
from prefrl.runs.versions import code
from prefrl.storage.folder import RunFolder

WORLD, RANK = "WORLD_SIZE", "RANK"
LED = "PREFRL_LED"  # whose standard input ends with the first process
ENDED = 2
PATIENCE_SECONDS = 10.0


class Told:
    """Somebody whom the first process alone knows: all processes hear what he returns or raises."""

    def __init__(self, known: Any = None, distance: Any = None):
        """Take what the first process knows, None in the others.

        Args:
            known: a store, or a pacing.
            distance: in the others, what the pacing's may be.
        """
        self._known = known
        measured = parallel.from_first(lambda: getattr(known, "distance", None) is not None)
        self.distance = (getattr(known, "distance", None) or distance) if measured else None

    def wait(self, store: Told, index: int) -> Iterator[Any]:
        """Yield what a pacing does."""
        waiting = self._known.wait(store._known, index) if self._known else iter(())
        while (counts := parallel.from_first(lambda: next(waiting, None))) is not None:
            yield counts

    def __getattr__(self, name: str) -> Any:
        """Return a method that the first process calls."""

        def call(*given: Any, **named: Any) -> Any:
            known = [one._known if isinstance(one, Told) else one for one in given]
            return parallel.from_first(lambda: getattr(self._known, name)(*known, **named))

        return call


def follows() -> bool:
    """Follow the first process, if torchrun has started this one to; return whether it did.

    Raises:
        SystemExit: what they did together has ended; the first process says why.
    """
    # Torchrun sets both; other programs set a rank for purposes of their own.
    if os.environ.get(RANK, "0") == "0" or os.environ.get(WORLD, "1") == "1":
        return False
    if code := main():
        sys.exit(code)
    return True


@contextmanager
def crew(processes: int) -> Iterator[None]:
    """Be the first of several processes, and start the others, unless torchrun has.

    Args:
        processes: how many; 0 for one, or as many as torchrun has started.

    Raises:
        UserError: torchrun has started another number.
    """
    world = int(os.environ.get(WORLD, "1"))
    if world > 1 and processes not in (0, world):
        raise UserError(
            f"--processes is {processes}, but torchrun has started {world}; leave --processes out"
        )
    if max(world, processes) < 2:
        yield
        return
    with ExitStack() as ending:
        if world < 2:
            ending.enter_context(_followers(processes))
        with parallel.together():
            yield


@contextmanager
def _followers(processes: int) -> Iterator[None]:
    """Start all processes but the first, which is this; whatever ends this ends them, too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), WORLD: str(processes)}
    own = place | {RANK: "0", "LOCAL_RANK": "0"}
    before = {name: os.environ.get(name) for name in own}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, processes):
            started.append(subprocess.Popen(
                [sys.executable, "-m", "prefrl.runs.crew"], stdin=subprocess.PIPE,
                env=os.environ | place | {RANK: str(rank), "LOCAL_RANK": str(rank), LED: "1"},
                start_new_session=True,  # Ctrl-C is for the first one
            ))  # fmt: skip
        os.environ.update(own)
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _end(started)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        if process.stdin:
            with suppress(OSError):
                process.stdin.close()
    for process in started:
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def lead(follow: Callable[[], None]) -> None:
    """Let the other processes do something beside what the first one goes on to do.

    Args:
        follow: it is pickled; both make the same calls of `learning.parallel` in the same order.

    Raises:
        UserError: they have different versions of prefrl.
    """
    if parallel.count() > 1:
        _agree(parallel.from_first(code))
        parallel.from_first(lambda: follow)


def _agree(version: str) -> None:
    """Raise `UserError` in all processes unless all have the first one's version of prefrl."""

    def agree() -> list[None]:
        if version != code():
            raise UserError("its processes have different versions of prefrl; install the same")
        return [None]

    parallel.shares(agree, parallel.count())


def build(
    domain: Domain, experiment: Experiment, network: Network | None, folder: Any,
    given_reward: Path | None,
) -> Components:  # fmt: skip
    """Build the components of a run, in all of its processes.

    Args:
        domain: of the experiment.
        experiment: what to run.
        network: your own reward network.
        folder: of a run that is taken up.
        given_reward: the folder of the reward that it is trained on, if one is given.
    """
    if parallel.count() > 1:
        _check_several(experiment)
        path = folder.path.resolve() if folder else None
        lead(partial(_follow_rounds, experiment, path, given_reward and given_reward.resolve()))
    components = domain.build(experiment, network, folder)
    try:
        return with_reward(components, experiment, given_reward, network)
    except BaseException:
        components.close()
        raise


def tell(
    pacing: Pacing, store: Store, config: LoopConfig, folder: RunFolder
) -> tuple[Pacing, Store]:
    """Return pacing and store as all processes of a run hear of them, once these begin its rounds.

    Args:
        pacing: of the first one.
        store: of the first one.
        config: what the rounds are like.
        folder: whose newest checkpoint they begin with.
    """
    if parallel.count() == 1:
        return pacing, store
    parallel.from_first(lambda: (config, checkpoint(folder)))
    return cast(Pacing, Told(pacing)), cast(Store, Told(store))


def _check_several(experiment: Experiment) -> None:
    """Raise `UserError` unless several processes can train an experiment together."""
    if not isinstance(experiment.domain, TextConfig):
        raise UserError(
            "several processes hold the weights of language models between them, and robots have "
            "small ones; leave --processes out, or run several seeds side by side with `prefrl "
            "sweep`"
        )
    text = experiment.domain
    if text.lora or text.reward_model.lora:
        raise UserError(
            "adapters share the weights of a model, which several processes cannot split; leave "
            "out --text.lora and --text.reward-model.lora, or --processes"
        )
    if text.ppo.adam_8bit:
        raise UserError(
            "moments of 8 bits are not split among processes; leave out --text.ppo.adam-8bit, or "
            "--processes"
        )
    if experiment.is_graded or experiment.fit.restart != "never":
        option = "reward judge:…" if experiment.is_graded else "fit.restart"
        raise UserError(
            f"--{option} is for one process, which has the judge and the weights that a fit begins "
            "with; leave it out, or --processes"
        )
    if experiment.fit.l2:
        raise UserError(
            f"--fit.l2 is {experiment.fit.l2:g}, but weights that several processes hold between "
            "them are not penalised; give --fit.l2 0, or leave out --processes"
        )


def _follow_rounds(experiment: Experiment, path: Path | None, given_reward: Path | None) -> None:
    """Go through the rounds of the first process's run beside it; see `build`.

    Args:
        experiment: what to run.
        path: of a run that is taken up.
        given_reward: the folder of the reward that it is trained on, if one is given.
    """
    folder = RunFolder.open(path) if path else None
    components = chosen_domain(experiment).build(experiment, None, folder)
    components = with_reward(components, experiment, given_reward, None)
    try:
        config, state = parallel.heard()
        loop = LoopState(components.reward_model, config)
        if state:
            components.agent.load_state_dict(state["agent"])
            components.reward.load_state_dict(state["reward"])
            loop.load_state_dict(state["loop"])
        pacing = cast(Pacing, Told(distance=components.distance))
        for done in preference_loop(
            components.agent, components.reward, pacing, cast(Store, Told()), config, loop
        ):
            if done.state == "done":
                whole_state(components.agent, components.reward, loop)
    finally:
        components.close()


def whole_state(agent: Any, reward: Any, loop: Any) -> dict[str, Any]:
    """Return what a checkpoint holds; all processes of a run ask for it."""
    return parallel.whole_state({
        "agent": agent.state_dict(), "reward": reward.state_dict(), "loop": loop.state_dict(),
    })  # fmt: skip


def _end_with_first() -> None:
    """Wait for the end of standard input, which is that of whoever started this; then end."""
    while os.read(0, 1024):
        pass
    os._exit(ENDED)


def main() -> int:
    """Follow; return 0, or 2 where the run has ended: the first process says why."""
    if LED in os.environ:
        threading.Thread(target=_end_with_first, daemon=True).start()
    try:
        with parallel.together():
            _agree(parallel.heard())
            parallel.heard()()
    except (UserError, FloatingPointError):
        return ENDED
    return 0


if __name__ == "__main__":
    sys.exit(main())
