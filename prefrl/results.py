"""What a run has to show: its evaluation, its video, its learning curve."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from prefrl import comparing, gym
from prefrl.clips.draw import draw
from prefrl.clips.film import even_fps, film_strip, frame_steps, write_picture, write_video
from prefrl.config import Experiment
from prefrl.control.build import fresh_environments
from prefrl.control.environments import SeparateEnvironments
from prefrl.control.interface import Environments
from prefrl.control.policy import Policy, play
from prefrl.errors import UserError
from prefrl.experiment import versions
from prefrl.feedback import FeedbackStore
from prefrl.loading import load_policy
from prefrl.run import RunFolder, writing

VIDEO_SIZE = (480, 360)
FRAMES_PER_SECOND = 25.0
STRIP_SECONDS = 4.0
EPISODE_SEED = 10_007  # apart from the episodes of an evaluation


def evaluate_run(
    folder: RunFolder,
    episodes: int,
    sample: bool = False,
    teacher: str | None = None,
    show: int = 0,
) -> dict[str, Any]:
    """Play fresh episodes with a run's policy and report everything a comparison needs.

    Args:
        folder: the run.
        episodes: how many, each from its own start, or a task each.
        sample: sample actions as training does, instead of taking the most probable; replies of
            language models are always sampled.
        teacher: who says whether a language model's replies are better than its reference's; by
            default the function that the run was taught by, if it was, else the oracle.
        show: how many tasks to show both replies of.

    Raises:
        UserError: something does not go with the run; the message says what.
    """
    if episodes <= 0:
        raise UserError(f"--episodes is {episodes}; expected a whole number above 0")
    if show < 0:
        raise UserError(f"--show is {show}; expected a number of tasks, or 0")
    experiment = folder.experiment()
    if show or teacher is not None:
        _check_speaks(folder, "--show" if show else "--teacher")
    store = FeedbackStore(folder.feedback)
    counts = store.counts()
    store.close()
    policy = load_policy(folder.path)
    return {
        "env": experiment.env,
        "steps": folder.metrics()[-1]["steps"] if folder.metrics() else 0,
        "seed": experiment.seed,
        "reward": experiment.reward,
        "labels": {
            "asked": counts.asked, "answered": counts.answered, "decisive": counts.decisive,
        },
    } | _evaluation(experiment.env).evaluate(
        folder, policy, episodes, sample=sample, teacher=teacher, show=show
    )  # fmt: skip


def weigh_wording(
    folder: RunFolder, words: Path | None = None, scorer: str | None = None
) -> dict[str, Any]:
    """Report bias and toxicity of a language model beside its reference; see `text.wording`.

    Where the run fine-tuned the reference itself, the model before that is a third.
    """
    _check_speaks(folder, "--wording")
    policy = load_policy(folder.path)

    from prefrl.text.evaluation import base_policy, reference_policy
    from prefrl.text.wording import wording

    reference, base, notes = reference_policy(folder, policy), None, []
    try:
        base = base_policy(folder, policy)
    except UserError as error:  # the run is whole without it
        notes.append(f"note: without the model before it was fine-tuned. {error}")
    found = wording(policy, reference, folder.experiment().seed, words, scorer, base)
    return found | ({"notes": notes} if notes else {})


def in_words(report: dict[str, Any]) -> list[str]:
    """Return what `evaluate_run` found, and `wording` if it is there, for a terminal."""
    labels = report["labels"]
    lines = [
        f"{report['env']}, {report['reward']} reward, {report['steps']} steps",
        f"labels: {labels['answered']} answered of {labels['asked']} asked",
        *_evaluation(report["env"]).in_words(report),
    ]
    if "wording" in report:
        from prefrl.text import wording

        lines += ["", *wording.in_words(report["wording"])]
    return lines


def compare_runs(
    folders: Sequence[RunFolder], path: Path, pairs: int = 50, teacher: str = "oracle",
    question: str = "",
) -> RunFolder:  # fmt: skip
    """Pair clips of two runs' policies and have a teacher answer which are better.

    The clips of a pair begin alike: the same task, or the same start and the same moment. Robots
    take the most probable actions, language models are sampled.

    Args:
        folders: A and B, of the same environment.
        path: the folder to make; `comparing.report` reads it, `prefrl label` opens it.
        pairs: how many.
        teacher: "oracle", MODULE:OBJECT, or "human": then nobody has answered yet.
        question: what to ask; A's own question by default.

    Raises:
        UserError: something does not fit; the message says what. Only a teacher may fail later, and
            then the pairs are kept.
    """
    if pairs <= 0:
        raise UserError(f"--pairs is {pairs}; expected a whole number above 0")
    first, second = (folder.experiment() for folder in folders)
    if gym.resolve(first.env) != gym.resolve(second.env):
        raise UserError(
            f"{folders[0].path} is of {first.env}, {folders[1].path} of {second.env}; only runs of "
            "the same environment can be compared"
        )
    comparing.check_free(path)
    judge = None if teacher == "human" else comparing.judge_named(teacher, first.seed)
    policies = [load_policy(folder.path) for folder in folders]
    side = _evaluation(first.env)
    episodes, pictures = [], []
    for place, (folder, policy) in enumerate(zip(folders, policies, strict=True)):
        source = comparing.source(place, folder.path, len(folder.metrics()))
        played, draw_pictures = side.record(first, policy, pairs, source, place)
        episodes.append(played)
        pictures.append(draw_pictures)
    found = comparing.pair_up(episodes[0], episodes[1], side.clip_steps(first), first.seed)
    shown = {}
    for place, draw_pictures in enumerate(pictures if judge is None else ()):
        shown |= draw_pictures([pair[place] for pair in found.pairs])
    asked = question or folders[0].environment()["question"]
    made = comparing.begin(path, folders[0], found, asked, first.seed, shown, versions())
    if judge is not None:
        with closing(FeedbackStore(made.feedback)) as store:
            judge.answer(store)
    return made


def _evaluation(env: str) -> Any:
    """Return the module that evaluates in an environment: of numbers, or of text."""
    side = "text" if gym.speaks(gym.resolve(env)) else "control"
    return importlib.import_module(f"prefrl.{side}.evaluation")


def _check_speaks(folder: RunFolder, option: str) -> None:
    env = folder.experiment().env
    if not gym.speaks(gym.resolve(env)):
        raise UserError(
            f"{option} is for language models, but {folder.path} is of {env}, which does not speak "
            f"text; leave {option} out"
        )


def film_run(folder: RunFolder, output: Path, strip: bool = False, episode: int = 0) -> None:
    """Draw one episode of a run's policy as a video (.mp4, .gif) or as a film strip (.png).

    Args:
        folder: the run.
        output: the file to write.
        strip: draw a film strip of the first four seconds.
        episode: which start; the same number always starts alike.
    """
    wanted = (".png",) if strip else (".mp4", ".gif")
    if output.suffix.lower() not in wanted:
        raise UserError(
            f"cannot write {output}: expected a name that ends in {' or '.join(wanted)}"
        )
    if gym.speaks(gym.resolve(folder.experiment().env)):
        raise UserError(
            f"{folder.path} is of a language model, of which there is nothing to draw; "
            f"`prefrl evaluate {folder.path} --show 3` shows what it replies"
        )
    environments = fresh_environments(folder.experiment(), 1, EPISODE_SEED + episode)
    fps = even_fps(environments.description.dt, FRAMES_PER_SECOND)
    frames = _draw_episode(environments, load_policy(folder.path), fps)
    with writing(output):
        if strip:
            shown = frames[: round(STRIP_SECONDS * fps)]
            write_picture(film_strip(shown, count=16, columns=8, fps=fps), output)
        else:
            write_video(frames, output, fps)


def _draw_episode(environments: Environments, policy: Policy, fps: float) -> np.ndarray:
    """Return an episode in real time, uint8 `[frame, height, width, 3]`."""
    description = environments.description
    moments = frame_steps(description.horizon, description.dt, fps)
    if isinstance(environments, SeparateEnvironments) and not environments.has_poses:
        return _render_episode(environments, policy, set(moments.tolist()))
    qpos = play(environments, policy).extras["qpos"][:, 0]
    return draw(environments.model(), qpos[moments], *VIDEO_SIZE)


def _render_episode(
    environments: SeparateEnvironments, policy: Policy, moments: set[int]
) -> np.ndarray:
    """Let an environment without a MuJoCo model draw itself."""
    environments.show()
    frames, observations = [], environments.reset()
    for moment in range(environments.description.horizon):
        if moment in moments:
            frames.append(environments.frame())
        observations = environments.step(policy.predict(observations)).observations
    return np.stack(frames)


def plot_runs(folders: Sequence[RunFolder], output: Path) -> Path:
    """Draw the learning curves of runs: true return against steps.

    Runs that differ in their seed alone become one line, the mean, in a band from the lowest to the
    highest.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[Experiment, list[list[dict[str, Any]]]] = {}
    for folder in folders:
        lines = [line for line in folder.metrics() if "true_return" in line]
        if not lines:
            raise UserError(f"{folder.path} has no finished episode to plot yet")
        alike = dataclasses.replace(folder.experiment(), seed=0)
        groups.setdefault(alike, []).append(lines)
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for experiment, runs in groups.items():
        steps = np.array([line["steps"] for line in runs[0]])
        shortest = min(map(len, runs))
        values = np.array([[line["true_return"] for line in run[:shortest]] for run in runs])
        name = _name(experiment)
        label = f"{name} ({len(runs)} seeds)" if len(runs) > 1 else name
        (line,) = axes.plot(steps[:shortest], values.mean(0), label=label)
        if len(runs) > 1:
            axes.fill_between(
                steps[:shortest], values.min(0), values.max(0), color=line.get_color(), alpha=0.2
            )
    axes.set(xlabel="environment steps", ylabel="true return of an episode, while training")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {output}: {error}") from None
    finally:
        pyplot.close(figure)
    return output


def _name(experiment: Experiment) -> str:
    if experiment.reward == "true":
        return f"{experiment.env}, true reward"
    return f"{experiment.env}, {experiment.labels} labels"
