"""What a run has to show: its evaluation, its video, its learning curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefrl.clips.draw import draw
from prefrl.clips.film import even_fps, film_strip, frame_steps, write_picture, write_video
from prefrl.config import Experiment
from prefrl.control.build import fresh_environments
from prefrl.control.environments import SeparateEnvironments
from prefrl.control.interface import Environments
from prefrl.control.policy import Policy, evaluate, play
from prefrl.errors import UserError
from prefrl.experiment import load_policy
from prefrl.feedback import FeedbackStore
from prefrl.run import RunFolder, writing

VIDEO_SIZE = (480, 360)
FRAMES_PER_SECOND = 25.0
STRIP_SECONDS = 4.0
EPISODE_SEED = 10_007  # apart from the episodes of an evaluation


def evaluate_run(folder: RunFolder, episodes: int, sample: bool = False) -> dict[str, Any]:
    """Play fresh episodes with a run's policy and report everything a comparison needs.

    Args:
        folder: the run.
        episodes: how many, each from its own start.
        sample: sample actions as training does, instead of taking the most probable.
    """
    if episodes <= 0:
        raise UserError(f"--episodes is {episodes}; expected a whole number above 0")
    experiment = folder.experiment()
    store = FeedbackStore(folder.feedback)
    counts = store.counts()
    store.close()
    environments = fresh_environments(experiment, episodes, experiment.seed)
    return {
        "env": experiment.env,
        "steps": folder.metrics()[-1]["steps"] if folder.metrics() else 0,
        "seed": experiment.seed,
        "reward": experiment.reward,
        "labels": {
            "asked": counts.asked, "answered": counts.answered, "decisive": counts.decisive,
        },
    } | evaluate(environments, load_policy(folder.path), deterministic=not sample)  # fmt: skip


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
