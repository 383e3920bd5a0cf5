"""Films an episode of a run's policy, as a video or a strip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prefrl.clips.draw import draw
from prefrl.clips.film import even_fps, film_strip, frame_steps, write_picture, write_video
from prefrl.clips.looks import changed
from prefrl.clips.observed import newest_frames
from prefrl.control.build import fresh_environments
from prefrl.control.environments.adapters import SeparateEnvironments
from prefrl.control.environments.interface import Environments
from prefrl.control.policy import Policy, play
from prefrl.errors import UserError
from prefrl.runs.load import load_policy
from prefrl.storage.files import writing
from prefrl.storage.folder import RunFolder
from prefrl.types import MODEL

VIDEO_SIZE = (480, 360)


FRAMES_PER_SECOND = 25.0


STRIP_SECONDS = 4.0


EPISODE_SEED = 10_007  # apart from the episodes of an evaluation


def film_run(folder: RunFolder, output: Path, strip: bool = False, episode: int = 0) -> None:
    """Draw one episode of a run's policy as a video (.mp4, .gif) or as a film strip (.png).

    Args:
        folder: the run.
        output: the file to write.
        strip: draw a film strip of the first four seconds.
        episode: which start; the same number is always the same start.
    """
    wanted = (".png",) if strip else (".mp4", ".gif")
    if output.suffix.lower() not in wanted:
        raise UserError(
            f"cannot write {output}: expected a name that ends in {' or '.join(wanted)}"
        )
    if folder.card().is_text:
        raise UserError(
            f"{folder.path} is of a language model, of which there is nothing to draw; "
            f"`prefrl evaluate {folder.path} --show 3` shows what it replies"
        )
    environments = fresh_environments(folder.experiment(), 1, EPISODE_SEED + episode)
    fps = even_fps(environments.description.dt, FRAMES_PER_SECOND)
    frames = _draw_episode(environments, load_policy(folder.path), fps)
    with writing(output, "and try again"):
        if strip:
            shown = frames[: round(STRIP_SECONDS * fps)]
            write_picture(film_strip(shown, count=16, columns=8, fps=fps), output)
        else:
            write_video(frames, output, fps)


def _draw_episode(environments: Environments, policy: Policy, fps: float) -> np.ndarray:
    """Return an episode in real time, uint8 `[frame, height, width, 3]`."""
    description = environments.description
    steps = frame_steps(description.horizon, description.dt, fps)
    if description.picture:
        return _observed_episode(environments, policy, set(steps.tolist()))
    if isinstance(environments, SeparateEnvironments) and not environments.has_poses:
        return _render_episode(environments, policy, set(steps.tolist()))
    played = {name: extra[:, 0] for name, extra in play(environments, policy).extras.items()}
    model = environments.model()
    if MODEL in played:
        model = changed(model, str(played[MODEL][0]))
    mocap = played["mocap"][steps] if "mocap" in played else None
    return draw(model, played["qpos"][steps], *VIDEO_SIZE, mocap=mocap)


def _observed_episode(environments: Environments, policy: Policy, shown: set[int]) -> np.ndarray:
    """Show what the policy itself sees, each pixel as a square."""
    seen, observations = [], environments.reset()
    for step in range(environments.description.horizon):
        if step in shown:
            seen.append(observations[0])
        observations = environments.step(policy.predict(observations)).observations
    frames = newest_frames(np.stack(seen))
    larger = max(1, VIDEO_SIZE[1] // min(frames.shape[1:3]))
    return frames.repeat(larger, axis=1).repeat(larger, axis=2)


def _render_episode(
    environments: SeparateEnvironments, policy: Policy, shown: set[int]
) -> np.ndarray:
    """Let an environment without a MuJoCo model draw itself."""
    environments.show()
    frames, observations = [], environments.reset()
    for step in range(environments.description.horizon):
        if step in shown:
            frames.append(environments.frame())
        observations = environments.step(policy.predict(observations)).observations
    return np.stack(frames)
