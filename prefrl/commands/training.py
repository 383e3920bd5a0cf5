"""`prefrl train`, `resume`, `replay`."""

import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Fixed, Suppress, arg

from prefrl.commands.console import (
    Run,
    UnknownOption,
    complain,
    live_line,
    parse,
    say,
    shown,
)
from prefrl.commands.options import (
    as_experiment,
    as_options,
    in_full,
    meaning,
    named_environment,
    named_learner,
    named_teacher,
)
from prefrl.commands.process import INTERRUPTS
from prefrl.config.control import ControlConfig, check_one_learner
from prefrl.config.experiment import Experiment, with_named_teacher
from prefrl.config.fields import CountOrZero, Port
from prefrl.config.learners import with_learner
from prefrl.config.learning import TEACHERS
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.runs.session import Session
    from prefrl.storage.folder import RunFolder

DEFAULT = Experiment(domain=ControlConfig())
UNLIKE = 1


@dataclass(frozen=True)
class Train:
    """PRESET | --env ID: learn a reward from preferences and train a policy on it."""

    experiment: Annotated[Experiment, arg(name="")] = DEFAULT
    run: Path | None = None
    """Run folder to make; runs/NAME-DATE-TIME by default."""
    answers_from: Annotated[Path | None, arg(name="from")] = None
    """A run, or a file of pairs or answers, that is learned from, too; then --labels may be 0."""
    store: str = ""
    """Postgres database for queries and answers, postgresql://HOST/DATABASE#NAME, so that people
    answer on other machines; a file in the run folder by default."""
    port: Port | None = None
    """Port of the page on which people answer; the first free one from 8765 by default."""
    host: str = ""
    """Address that page listens on: 127.0.0.1 (this machine alone) by default, 0.0.0.0 for
    every network that it is in, as inside a container."""
    processes: CountOrZero = 0
    """Processes that hold the weights between them where text is learned, one a GPU; torchrun's, or
    one, by default."""
    preset: Suppress[Fixed[str]] = ""
    """Its first word, which is no option."""


def parse_train(words: list[str]) -> Train:
    """Return the options of `prefrl train`, whose defaults a preset or an environment gives."""
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    default = _default(name, *named_environment(words))
    words = in_full(words, default)
    learner = named_learner(words, default)
    if isinstance(default.domain, ControlConfig):
        check_one_learner(learner)
    default = with_learner(default, learner)
    if (teacher := named_teacher(words)) in TEACHERS:
        default = with_named_teacher(replace(default, teacher=teacher))
    program = f"prefrl train {name or '[PRESET]'}"
    try:
        chosen = parse(Train, words, program, Train(as_options(default), preset=name))
    except UnknownOption as error:
        raise UserError(meaning(error.name, default) or str(error)) from None
    if not chosen.experiment.env:
        raise UserError(
            "nothing to train on; name a preset (`prefrl list` shows them) or give --env ID"
        )
    experiment = as_experiment(chosen.experiment)
    if experiment.teacher in TEACHERS:  # its faults were the defaults of --oracle.*
        experiment = replace(experiment, teacher="oracle")
    return replace(chosen, experiment=experiment)


def train(chosen: Train) -> None:
    """Begin a run."""
    _check_page(chosen.port, chosen.host)

    from prefrl.runs.crew import crew, follows

    if follows():
        return
    from prefrl.runs.session import start

    with crew(chosen.processes):
        with live_line():  # a model is fine-tuned first, where that is asked for
            session = start(
                chosen.experiment, chosen.run, answers_from=chosen.answers_from, name=chosen.preset,
                store=chosen.store,
            )  # fmt: skip
        _run(session, chosen.port, chosen.host)


@dataclass(frozen=True)
class Resume:
    """RUN: continue a run that was stopped, or extend one that has finished."""

    run: Run
    """The run folder."""
    labels: int = 0
    """Labels to add to the budget."""
    steps: int = 0
    """Steps to add."""
    wait: bool = False
    """Wait for whoever trains the run to end, instead of refusing."""
    processes: CountOrZero = 0
    """Processes that hold the weights between them where text is learned; another number than
    before will do."""
    port: Port | None = None
    """Port of the page on which people answer; the one it had before by default."""
    host: str = ""
    """Address that page listens on; the one it had before by default."""


def resume(chosen: Resume) -> None:
    """Go on with a run."""
    _check_page(chosen.port, chosen.host)

    from prefrl.runs.crew import crew, follows

    if follows():
        return
    from prefrl.runs.session import resume as resume_run

    with crew(chosen.processes):
        session = resume_run(chosen.run, chosen.labels, chosen.steps, wait=chosen.wait)
        if session.state.round > session.config.rounds:
            raise UserError(
                f"{chosen.run} has finished its {session.config.steps} steps; add some with "
                "--steps +N"
            )
        _run(session, chosen.port, chosen.host)


@dataclass(frozen=True)
class Replay:
    """RUN: run it again from its configuration, seed and answers, and compare every number."""

    recorded: Run
    """The run folder."""
    run: Path | None = None
    """Run folder to make; RUN-replay by default, or RUN-LEARNER."""
    learner: str = ""
    """Let another learner begin anew from the same answers instead, such as direct: what would it
    have made of them? Nobody is asked, and nothing is compared."""


def replay(chosen: Replay) -> None:
    """Run a run again beside what it recorded, or another learner on its answers."""
    if chosen.learner:
        from prefrl.runs.replay import relearn

        with live_line():
            session = relearn(chosen.recorded, chosen.learner, chosen.run)
        _run(session)
        return
    from prefrl.commands.progress import Display
    from prefrl.runs.replay import likely_cause
    from prefrl.runs.replay import replay as rounds_again
    from prefrl.runs.versions import differences
    from prefrl.storage.folder import RunFolder

    source = RunFolder.open(chosen.recorded)
    path = chosen.recorded.resolve()
    into = chosen.run or path.with_name(f"{path.name}-replay")
    experiment, lines = source.experiment(), source.metrics()
    say(f"run folder: {shown(into)}")
    wrong = ""
    with Display(experiment.round_count, experiment.steps, experiment.labels, 0) as display:
        for now in rounds_again(source.path, into):
            display.show(now)
            line = lines[now.index] if now.state == "done" else {}
            again = {name: value for name, value in now.metrics.items() if name in line}
            if differing := differences(line, again):  # an older version did not report all
                more = f" (and {len(differing) - 1} more numbers)" if len(differing) > 1 else ""
                wrong = f"round {now.index} differs: {differing[0]}{more}"
                break
    if not wrong:
        say(f"identical: {len(lines)} rounds")
        return
    cause, notes = likely_cause(source, RunFolder.open(into))
    for note in notes:
        say(f"note: {note}")
    complain(f"{wrong}; {cause}")
    sys.exit(UNLIKE)


def _check_page(port: int | None, host: str) -> None:
    """Refuse a port or a host of the page's before anything is begun that nobody could answer."""
    if port is None and not host:
        return
    from prefrl.viewer.addresses import HERE, listen

    listen(host or HERE, port, None).close()


def _run(session: "Session", port: int | None = None, host: str = "") -> None:
    """Run the rounds to come, showing each; Ctrl-C leaves the run ready to be resumed."""
    from prefrl.commands.progress import Display
    from prefrl.runs.page import page
    from prefrl.runs.session import rounds

    config, path = session.config, session.folder.path
    say(f"run folder: {shown(path)}")
    for note in session.notes:
        say(f"note: {note}")
    INTERRUPTS.listen_to("SIGTERM", "SIGHUP")  # as Ctrl-C does: the viewer is to end, too
    people = config if session.asks_people else None
    display = Display(config.rounds, config.steps, config.labels, session.state.round, people)
    saved = session.state.round - 1
    try:
        with closing(session), page(session, port, host, say), display:
            for done in rounds(session):
                saved = done.index if done.state == "done" else saved
                display.show(done)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {_how_to_go_on(saved, path)}") from None
    except (UserError, FloatingPointError) as error:
        if "prefrl resume" in str(error):
            raise
        raise UserError(f"{str(error).rstrip('.')}. {_how_to_go_on(saved, path)}") from error
    lines = session.folder.metrics()
    too_long = sum(line.get("prompts_too_long", 0) for line in lines)
    if too_long:
        say(
            "note: tasks left out, as their prompts are longer than the model's context: "
            f"{too_long:.0f}; others were played for them"
        )
    if cut_short := sum(line.get("out_of_context", 0) for line in lines):
        say(
            "note: episodes that ended early, as the model's context was full: "
            f"{cut_short:.0f}; what the environment would have paid later is lost, so shorten what "
            "it says, lower --text.max-new-tokens or take a model with a longer context"
        )
    for line in lines[-1:]:
        if line.get("answered") and not line["decisive"]:
            say(
                "note: no answer preferred one clip to another, so nothing was learned. If the "
                "true reward is always the same, let a function or people answer (--teacher)"
            )
    if session.asks_people:
        say(
            f"every answer is kept in {shown(path)} (`prefrl export {shown(path)}` prints them); "
            "the tab of the page can be closed"
        )
    say(f"done; look at it with {_ways_to_look(session.folder)}")


def _how_to_go_on(saved: int, path: Path) -> str:
    """Say what is kept of a run that stopped after round `saved`, -1 if there is none."""
    state = f"round {saved} is saved" if saved >= 0 else "no round was finished yet"
    return f"{state} and no answer is lost. Continue with `prefrl resume {shown(path)}`"


def _ways_to_look(folder: "RunFolder") -> str:
    path = shown(folder.path)
    if folder.card().is_text:
        return f"`prefrl evaluate {path} --show 3`"
    if folder.model.exists():  # what its poses are drawn with
        return f"`prefrl video {path}`, `prefrl evaluate {path}`"
    film = f"`prefrl video {path}` if the environment draws itself"
    return f"`prefrl plot {path}`, `prefrl evaluate {path}`, {film}"


def _default(preset_name: str, env: str, env_kwargs: dict[str, Any]) -> Experiment:
    """Return what options change: the preset, else what suits the environment."""
    from prefrl.runs.domains import default_experiment

    return default_experiment(preset_name, env, env_kwargs) if preset_name or env else DEFAULT
