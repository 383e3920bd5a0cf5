"""The command line: `prefrl COMMAND …`. Imports what a command needs only when it runs."""

import difflib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prefrl.config import Experiment
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.experiment import Session

UNLIKE = 1
USAGE_ERROR = 2
FAREWELL_SECONDS = 2.0  # for pages to learn that the run has finished


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit 0, or 2 after a sentence about the user's mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return
    try:
        _command(words[0])(words[1:])
    except UserError as error:
        sys.exit(_complain(str(error)))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted"))
    except BrokenPipeError:
        sys.stderr.close()


def train(words: list[str]) -> None:
    """PRESET | --env ID: learn a reward from preferences and train a policy on it."""
    import tyro

    from prefrl.presets import preset

    name = words.pop(0) if words and not words[0].startswith("-") else None
    default = preset(name).experiment if name else Experiment()

    @dataclass(frozen=True)
    class Train:
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = default
        run: Path | None = None
        """Run folder to make; runs/NAME-DATE-TIME by default."""
        answers_from: Annotated[Path | None, tyro.conf.arg(name="from")] = None
        """A run whose answers are learned from, too; then --labels may be 0."""

    chosen = _parse(Train, words, f"prefrl train {name or '[PRESET]'}")
    experiment = chosen.experiment
    if not experiment.env:
        raise UserError(
            "nothing to train on; name a preset (`prefrl list` shows them) or give --env ID"
        )
    stem = name or experiment.env.split("/")[-1].split(":")[-1]
    path = chosen.run or Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"

    from prefrl.experiment import start

    _run(start(experiment, path, answers_from=chosen.answers_from))


def resume(words: list[str]) -> None:
    """RUN: continue a run that was stopped, or extend one that has finished."""
    import tyro

    @dataclass(frozen=True)
    class Resume:
        run: tyro.conf.Positional[Path]
        """The run folder."""
        labels: int = 0
        """Labels to add to the budget."""
        steps: int = 0
        """Steps to add."""

    chosen = _parse(Resume, words, "prefrl resume")

    from prefrl.experiment import resume as resume_run

    session = resume_run(chosen.run, chosen.labels, chosen.steps)
    if session.state.round > session.config.rounds:
        raise UserError(
            f"{chosen.run} has finished its {session.config.steps} steps; add some with --steps +N"
        )
    _run(session)


def label(words: list[str]) -> None:
    """RUN: open the page on which people answer, while the run trains or not."""
    import tyro

    @dataclass(frozen=True)
    class Label:
        run: tyro.conf.Positional[Path]
        """The run folder."""
        name: str = ""
        """Who answers; the page asks otherwise."""
        port: int | None = None
        """Port to listen on, at this machine alone; the first free one from 8765 by default."""
        allow_host: tuple[str, ...] = ()
        """Further host names under which a proxy of yours may ask for the page."""

    chosen = _parse(Label, words, "prefrl label")

    from prefrl.run import RunFolder
    from prefrl.viewer.server import serve

    def announce(address: str) -> None:
        print(f"answer at {address}", flush=True)
        if "SSH_CONNECTION" in os.environ:
            port = address.split(":")[2].partition("/")[0]
            print(f"from elsewhere: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE", flush=True)

    serve(RunFolder.open(chosen.run), chosen.name, chosen.port, chosen.allow_host, announce)


def inspect(words: list[str]) -> None:
    """RUN: say whether the learned reward is any good: against teachers, truth and each answer."""
    import tyro

    @dataclass(frozen=True)
    class Inspect:
        run: tyro.conf.Positional[Path]
        """The run folder."""
        worst: int = 10
        """How many of the answers that it fits worst to list."""
        json: bool = False
        """Print one JSON object."""

    chosen = _parse(Inspect, words, "prefrl inspect")

    from prefrl.inspection import in_words, inspect_run
    from prefrl.run import RunFolder

    report = inspect_run(RunFolder.open(chosen.run), chosen.worst)
    print(json.dumps(report) if chosen.json else "\n".join(in_words(report)))


def evaluate(words: list[str]) -> None:
    """RUN: play fresh episodes with the policy and report the true return."""
    import tyro

    @dataclass(frozen=True)
    class Evaluate:
        run: tyro.conf.Positional[Path]
        """The run folder."""
        episodes: int = 20
        """Episodes to play."""
        json: bool = False
        """Print one JSON object."""
        sample: bool = False
        """Sample actions as training does, instead of taking the most probable one."""

    chosen = _parse(Evaluate, words, "prefrl evaluate")

    from prefrl.results import evaluate_run
    from prefrl.run import RunFolder

    report = evaluate_run(RunFolder.open(chosen.run), chosen.episodes, chosen.sample)
    if chosen.json:
        print(json.dumps(report))
        return
    true_return, labels = report["true_return"], report["labels"]
    print(f"{report['env']}, {report['reward']} reward, {report['steps']} steps")
    print(f"labels: {labels['answered']} answered of {labels['asked']} asked")
    print(
        f"true return: {true_return['mean']:.1f} ± {true_return['std']:.1f} over "
        f"{report['episodes']} episodes"
    )
    for name, value in report["info"].items():
        print(f"{name}: {value:.3f}")


def video(words: list[str]) -> None:
    """RUN: draw an episode of the policy as mp4, GIF or film strip."""
    import tyro

    @dataclass(frozen=True)
    class Video:
        run: tyro.conf.Positional[Path]
        """The run folder."""
        output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
        """File to write: .mp4, .gif, or .png for a strip; in the run folder by default."""
        strip: bool = False
        """Draw a film strip."""
        episode: int = 0
        """Which start; the same number always starts alike."""

    chosen = _parse(Video, words, "prefrl video")

    from prefrl.results import film_run
    from prefrl.run import RunFolder

    output = chosen.output or chosen.run / ("strip.png" if chosen.strip else "video.mp4")
    film_run(RunFolder.open(chosen.run), output, chosen.strip, chosen.episode)
    print(output)


def plot(words: list[str]) -> None:
    """RUN…: draw learning curves; runs that differ in seed alone share a line."""
    import tyro

    @dataclass(frozen=True)
    class Plot:
        runs: tyro.conf.Positional[tuple[Path, ...]]
        """Run folders."""
        output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
        """File to write (.png, .pdf, .svg); learning-curve.png beside the run by default."""

    chosen = _parse(Plot, words, "prefrl plot")
    if not chosen.runs:
        raise UserError("nothing to plot; name at least one run folder")

    from prefrl.results import plot_runs
    from prefrl.run import RunFolder

    beside = chosen.runs[0] if len(chosen.runs) == 1 else Path()
    output = chosen.output or beside / "learning-curve.png"
    print(plot_runs([RunFolder.open(path) for path in chosen.runs], output))


def export(words: list[str]) -> None:
    """RUN: print the feedback as JSON lines, one an answer."""
    import tyro

    @dataclass(frozen=True)
    class Export:
        run: tyro.conf.Positional[Path]
        """The run folder."""

    chosen = _parse(Export, words, "prefrl export")

    from prefrl.exchange import export_answers
    from prefrl.feedback import FeedbackStore
    from prefrl.run import RunFolder

    for line in export_answers(FeedbackStore(RunFolder.open(chosen.run).feedback)):
        print(json.dumps(line))


def import_file(words: list[str]) -> None:
    """RUN FILE: add answers, pairs of texts or demonstrations, one a line, to a run's feedback."""
    import tyro

    @dataclass(frozen=True)
    class Import:
        run: tyro.conf.Positional[Path]
        """The run folder."""
        file: tyro.conf.Positional[Path]
        """JSON lines: of `prefrl export`, or {"prompt", "chosen", "rejected"}."""
        demonstrations: bool = False
        """The lines are {"prompt", "response"} or {"segment"}: each beats a clip of the run."""

    chosen = _parse(Import, words, "prefrl import")

    from prefrl import exchange
    from prefrl.feedback import FeedbackStore
    from prefrl.run import RunFolder

    folder = RunFolder.open(chosen.run)
    store = FeedbackStore(folder.feedback)
    done = exchange.import_file(store, chosen.file, chosen.demonstrations, folder.spaces())
    print(
        f"imported {done.answers} answers to {done.queries} queries; the next round that begins "
        "learns from them"
    )


def replay(words: list[str]) -> None:
    """RUN: run it again from its configuration, seed and answers, and compare every number."""
    import tyro

    @dataclass(frozen=True)
    class Replay:
        recorded: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
        """The run folder."""
        run: Path | None = None
        """Run folder to make; RUN-replay by default."""

    chosen = _parse(Replay, words, "prefrl replay")

    from prefrl.display import Display
    from prefrl.experiment import differences
    from prefrl.experiment import replay as rounds_again
    from prefrl.run import RunFolder

    source = RunFolder.open(chosen.recorded)
    path = chosen.recorded.resolve()
    into = chosen.run or path.with_name(f"{path.name}-replay")
    experiment, lines = source.experiment(), source.metrics()
    print(f"run folder: {into}", flush=True)
    wrong = ""
    with Display(experiment.rounds, experiment.steps, experiment.labels, 0) as display:
        for now in rounds_again(source.path, into):
            display.show(now)
            found = differences(lines[now.index], now.metrics) if now.state == "done" else []
            if found:
                wrong = f"round {now.index} differs: {found[0]}"
                break
    for change in differences(source.versions(), RunFolder.open(into).versions()):
        print(f"note: {change}")
    if wrong:
        _complain(wrong)
        sys.exit(UNLIKE)
    print(f"identical: {len(lines)} rounds")


def list_all(words: list[str]) -> None:
    """List presets and environments, a line each."""

    @dataclass(frozen=True)
    class List:
        pass

    _parse(List, words, "prefrl list")

    import gymnasium

    import prefrl.envs  # pyright: ignore[reportMissingImports]
    from prefrl.presets import PRESETS

    print("presets (prefrl train PRESET)")
    for name, entry in PRESETS.items():
        print(f"  {name:20} {entry.about}")
    print("environments (prefrl train --env ID)")
    for name in gymnasium.registry:
        if name.startswith("prefrl/"):
            print(f"  {name:28} {prefrl.envs.SUMMARIES[name]}")
    print("  any other Gymnasium id with flat observations, yours too: your_package:Your-v0")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "resume": resume,
    "label": label,
    "inspect": inspect,
    "evaluate": evaluate,
    "video": video,
    "plot": plot,
    "export": export,
    "import": import_file,
    "replay": replay,
    "list": list_all,
}


def _run(session: "Session") -> None:
    """Run the rounds to come, showing each; Ctrl-C leaves the run ready to be resumed."""
    from prefrl.display import Display
    from prefrl.experiment import rounds

    config, path = session.config, session.folder.path
    print(f"run folder: {path}", flush=True)
    for note in session.notes:
        print(f"note: {note}", flush=True)
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C does: the viewer is to end, too
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    people = config if session.teacher is None and config.labels else None
    display = Display(config.rounds, config.steps, config.labels, session.state.round, people)
    saved = session.state.round - 1
    try:
        with _viewer(session), display:
            for done in rounds(session):
                saved = done.index if done.state == "done" else saved
                display.show(done)
    except KeyboardInterrupt:
        state = f"round {saved} is saved" if saved >= 0 else "no round was finished yet"
        raise UserError(
            f"stopped; {state} and no answer is lost. Continue with `prefrl resume {path}`"
        ) from None
    except FloatingPointError as error:
        raise UserError(f"{error} The run is kept up to its last round in {path}") from None
    print(f"done; look at it with `prefrl video {path}`, `prefrl evaluate {path}`", flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _viewer(session: "Session") -> Iterator[None]:
    """Show the page, where people answer, from a process of its own while the run goes on."""
    if session.teacher is not None or not session.config.labels:
        yield
        return
    command = [sys.executable, "-m", "prefrl.cli", "label", str(session.folder.path)]
    # In a session of its own, so that Ctrl-C stops the trainer first.
    viewer = subprocess.Popen(command, start_new_session=True)
    try:
        yield
        time.sleep(FAREWELL_SECONDS)
    finally:
        viewer.terminate()
        viewer.wait()


def _command(name: str) -> Callable[[list[str]], None]:
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "`prefrl --help` lists the commands."
    raise UserError(f"there is no command {name!r}; {hint}")


def _usage() -> str:
    lines = ["usage: prefrl COMMAND …   (prefrl COMMAND --help shows its options)", ""]
    lines += [f"  {name:9} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(lines)


def _parse(kind, words: list[str], program: str):
    import tyro

    return tyro.cli(kind, args=words, prog=program)


def _complain(sentence: str) -> int:
    print(f"prefrl: {sentence}", file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    main()
