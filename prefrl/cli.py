"""The command line: `prefrl COMMAND …`. Imports what a command needs only when it runs."""

import difflib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prefrl.config import Experiment
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.experiment import Session

USAGE_ERROR = 2


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

    chosen = _parse(Train, words, f"prefrl train {name or '[PRESET]'}")
    experiment = chosen.experiment
    if not experiment.env:
        raise UserError(
            "nothing to train on; name a preset (`prefrl list` shows them) or give --env ID"
        )
    stem = name or experiment.env.split("/")[-1].split(":")[-1]
    path = chosen.run or Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"

    from prefrl.experiment import start

    _run(start(experiment, path))


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

    from prefrl.feedback import FeedbackStore
    from prefrl.run import RunFolder

    for line in FeedbackStore(RunFolder.open(chosen.run).feedback).export():
        print(json.dumps(line))


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
    "evaluate": evaluate,
    "video": video,
    "plot": plot,
    "export": export,
    "list": list_all,
}


def _run(session: "Session") -> None:
    """Run the rounds to come, showing each; Ctrl-C leaves the run ready to be resumed."""
    from prefrl.control.environments import is_deterministic
    from prefrl.display import Display
    from prefrl.experiment import rounds

    config, path = session.config, session.folder.path
    print(f"run folder: {path}", flush=True)
    if not is_deterministic(session.agent.environments.environments):
        print(
            f"note: {session.experiment.env} is not deterministic: a resumed run goes on, but not "
            "exactly as it would have",
            flush=True,
        )
    display = Display(config.rounds, config.steps, config.labels, session.state.round)
    saved = session.state.round - 1
    try:
        with display:
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
