"""One run from beginning to end, wherever it stands: what a sweep gives each process to do.

    python -m prefrl.runs.cell SWEEP NAME       finishes a cell of a sweep
    python -m prefrl.runs.cell SWEEP NAME PACE  prints at how many steps a second it trains

Such a process ends with the one that started it, whose end closes its standard input.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from prefrl.config.experiment import Experiment
from prefrl.config.text import TextConfig
from prefrl.contracts import EvaluationRequest
from prefrl.errors import UserError
from prefrl.runs.versions import code
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.sweeps import SweepFolder

if TYPE_CHECKING:
    from prefrl.storage.formats import Fields

PACE_SECONDS = 3.0
FAILED = 2


def finish(experiment: Experiment, folder: RunFolder, request: EvaluationRequest) -> Fields:
    """Begin a run, take it up, or find it finished; evaluate it; return what it came to.

    Whoever calls it again, after a kill too, gets the same run. What it came to is kept in the
    folder: `report`, see `evaluate_run`; `baseline`, what random actions achieve, where the reward
    is the true one; `seconds` of the rounds.

    Args:
        experiment: what to run.
        folder: of the run, whether it is there or not.
        request: how it is evaluated.

    Raises:
        UserError: something is wrong that can be mended, or the folder holds another run.
        FloatingPointError: its numbers are finite no more.
    """
    if not is_finished(folder, request):
        _check_same(experiment, folder)
        try:
            _train(experiment, folder)
            folder.save_evaluation(_evaluated(experiment, folder, request))
        except UserError as error:
            folder.save_outcome("user error", str(error))
            raise
        except FloatingPointError as error:
            folder.save_outcome("not finite", str(error))
            raise
    if folder.outcome().get("ended") != "finished":
        folder.save_outcome("finished")
    return folder.evaluation()


def _evaluated(experiment: Experiment, folder: RunFolder, request: EvaluationRequest) -> Fields:
    from prefrl.runs.domains import domain_of
    from prefrl.runs.evaluate import evaluate_run

    baseline = None
    if experiment.reward == "true":
        baseline = domain_of(folder).baseline(experiment, request.episodes)
    parts = [line for line in folder.timings()]
    return {
        "episodes": request.episodes,
        "sample": request.sample,
        "report": evaluate_run(folder, request),
        "baseline": baseline and dataclasses.asdict(baseline),
        "seconds": sum(s for part in parts for name, s in part.items() if name != "round"),
    }


def is_finished(folder: RunFolder, request: EvaluationRequest) -> bool:
    """Return whether a run has been trained to its end, and evaluated in this way."""
    evaluation = folder.evaluation()
    found = evaluation.get("episodes"), evaluation.get("sample")
    return found == (request.episodes, request.sample)


def _train(experiment: Experiment, folder: RunFolder) -> None:
    """Train what is left of a run; whoever trains it still is waited for."""
    from prefrl.runs.session import resume, rounds, start

    _clear(folder)
    if (folder.path / "config.json").exists():
        session = resume(folder.path, wait=True)
    else:
        session = start(experiment, folder.path)
    with closing(session):
        for _ in rounds(session):
            pass


def _clear(folder: RunFolder) -> None:
    """Delete what a kill left of a start; one that is still alive is waited for."""
    if not folder.path.exists() or (folder.path / "config.json").exists():
        return
    with closing(FeedbackStore(folder.feedback)) as feedback:
        feedback.claim(wait=True)
        with feedback.training():
            if not (folder.path / "config.json").exists():
                shutil.rmtree(folder.path, ignore_errors=True)


def _check_same(experiment: Experiment, folder: RunFolder) -> None:
    """Raise `UserError` if the folder holds the run of another experiment."""
    if (folder.path / "config.json").exists() and not _same(folder.experiment(), experiment):
        raise UserError(
            f"{folder.path} holds another experiment by now, as a run that was extended does; "
            "move it elsewhere, and the sweep begins this cell anew"
        )


def _same(kept: Experiment, asked: Experiment) -> bool:
    """Return whether a run is the one asked for; it may have found out that its model can chat."""
    if isinstance(kept.domain, TextConfig) and isinstance(asked.domain, TextConfig):
        domain = dataclasses.replace(kept.domain, chat=asked.domain.chat)
        kept = dataclasses.replace(kept, domain=domain)
    return kept == asked


def steps_per_second(experiment: Experiment) -> float:
    """Return how fast an agent trains, measured for a few seconds; fits are not counted."""
    from prefrl.runs.domains import chosen_domain
    from prefrl.runs.given_reward import named_reward, with_reward

    if isinstance(experiment.domain, TextConfig):  # how well it speaks does not matter
        text = dataclasses.replace(experiment.domain, demonstrations=0)
        experiment = dataclasses.replace(experiment, domain=text)
    domain = chosen_domain(experiment)
    least = domain.smallest_round(experiment)
    components = domain.build(experiment, None, None)
    components = with_reward(components, experiment, named_reward(experiment), None)
    agent, reward = components.agent, components.reward
    try:
        reward.calibrate(reward.sample(agent.explore(least), []))
        agent.train(reward, least)  # the first one is slow
        steps, began = 0, time.perf_counter()
        while time.perf_counter() < began + PACE_SECONDS:
            steps += sum(map(len, agent.train(reward, least)[0]))
        return steps / (time.perf_counter() - began)
    finally:
        components.close()


def _end_with_parent() -> None:
    """Wait for the end of standard input, which is that of whoever started this; then end."""
    while os.read(0, 1024):
        pass
    os._exit(FAILED)


def main(words: list[str]) -> int:
    """Do what the words say; return 0, or 2 after a sentence."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = SweepFolder.open(words[0])
    try:
        sweep = folder.sweep()
        [cell] = [cell for cell in sweep.cells if cell.name == words[1]]
        if not cell.name.endswith(code()):
            raise UserError("the code of prefrl has changed meanwhile; start the sweep again")
        if len(words) > 2:
            print(steps_per_second(cell.experiment))
        else:
            finish(cell.experiment, folder.run(cell), request_of(sweep))
        return 0
    except (UserError, FloatingPointError) as error:
        print(f"prefrl: {error}", file=sys.stderr)
        return FAILED


def request_of(sweep: Any) -> EvaluationRequest:
    """Return how the runs of a sweep are evaluated."""
    return EvaluationRequest(sweep.episodes, sweep.sample)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
