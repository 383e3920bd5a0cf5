"""Writes pictures as videos and film strips, and puts words on them.

Nothing here knows MuJoCo: any environment's RGB frames will do, uint8 [frame, height, width, 3].
Files are written beside their place under another name and then moved there, so that whoever
stops the program never leaves half a file behind.
"""

import math
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Pictures = NDArray[np.uint8]

GIF_COLOURS = 256
GIF_FASTEST = 50  # frames per second; browsers slow faster ones down to ten


def frame_steps(steps: int, dt: float, fps: float, speed: float = 1.0) -> NDArray[np.int64]:
    """Choose which simulation steps a video shows so that it plays in real time.

    Args:
        steps: how many steps there are.
        dt: seconds between two of them.
        fps: frames per second of the video.
        speed: 0.5 for slow motion at half speed, 2 for twice as fast.

    Returns:
        The index of the step to show in each frame, [frame]. There is at least one, the first is
        0 and none comes after the last step.

    Raises:
        ValueError: if there is no step, or a duration, rate or speed is not positive.
    """
    if steps < 1 or not all(0 < number < math.inf for number in (dt, fps, speed)):
        raise ValueError(
            f"a video of {steps} steps of {dt} s at {fps} frames per second and speed {speed} "
            "cannot be made; give at least one step, and positive numbers"
        )
    frames = max(1, round(steps * dt * fps / speed))
    passed = np.arange(frames) * (speed / (fps * dt))
    return np.minimum(np.floor(passed + 1e-6).astype(np.int64), steps - 1)


def even_fps(dt: float, at_most: float = 30.0) -> float:
    """Return the highest rate up to `at_most` that shows every n-th step of `dt` seconds.

    At such a rate all frames are the same time apart, so nothing stutters: 25 for dt = 0.008,
    20 for dt = 0.05.
    """
    return 1 / (dt * math.ceil(1 / (dt * at_most) - 1e-6))


def write_video(frames: ArrayLike, path: str | os.PathLike[str], fps: float) -> Path:
    """Write a video: H.264 for .mp4, a looping animation for .gif.

    An .mp4 has even sizes: an odd last row or column is shown twice. A .gif has times in
    hundredths of a second, right on average, and no more than `GIF_FASTEST` frames per second.

    Args:
        frames: uint8 [frame, height, width, 3].
        path: the file to write; its folder is made if need be.
        fps: frames per second.

    Returns:
        The path written.

    Raises:
        ValueError: if the file's suffix, the frames or `fps` make no video.
    """
    path, frames = Path(path), _checked(frames)
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}; expected a positive number of frames per second")
    writers = {".mp4": _write_mp4, ".gif": _write_gif}
    write = writers.get(path.suffix.lower())
    if write is None:
        raise ValueError(f"{path.name!r} does not say which video to write; use .mp4 or .gif")
    with _whole(path) as unfinished:
        write(frames, unfinished, fps)
    return path


def write_picture(picture: ArrayLike, path: str | os.PathLike[str]) -> Path:
    """Write one picture, uint8 [height, width, 3], as .png, and return its path.

    Raises:
        ValueError: if the file's suffix is another one, or the picture has another shape.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path.name!r} does not say which picture to write; use .png")
    (checked,) = _checked(np.asarray(picture)[None])
    with _whole(path) as unfinished:
        Image.fromarray(checked).save(unfinished, format="PNG", optimize=True)
    return path


def film_strip(
    frames: ArrayLike,
    count: int = 8,
    columns: int | None = None,
    *,
    indices: Sequence[int] | None = None,
    fps: float | None = None,
) -> Pictures:
    """Lay frames side by side in one picture, each with its time.

    Args:
        frames: uint8 [frame, height, width, 3].
        count: how many to show, evenly spaced from the first to the last.
        columns: how many in a row; all of them by default.
        indices: show these frames instead of evenly spaced ones.
        fps: frames per second, for stamps in seconds; without it they are frame numbers.

    Returns:
        The strip, uint8 [height, width, 3]; places left over in the last row are white.

    Raises:
        ValueError: if there is nothing to show or an index is out of range.
    """
    frames = _checked(frames)
    count = min(max(count, 0), len(frames))
    even = np.linspace(0, len(frames) - 1, count).round().astype(int)
    wanted = even.tolist() if indices is None else list(indices)
    if not wanted or not all(-len(frames) <= index < len(frames) for index in wanted):
        raise ValueError(
            f"a film strip of the frames {wanted} cannot be cut from {len(frames)} frames; give "
            "indices of frames, at least one"
        )
    chosen = np.arange(len(frames))[wanted]
    stamps = [f"{i / fps:.2f} s" if fps else f"frame {i}" for i in chosen]
    shown = overlay(frames[chosen], stamps, size=max(10, frames.shape[1] // 18), at_bottom=True)
    columns = min(max(columns or len(shown), 1), len(shown))
    gap, rows = 2, -(-len(shown) // columns)
    height, width = shown.shape[1:3]
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    strip = np.full(size, 255, np.uint8)
    for index, frame in enumerate(shown):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        strip[top : top + height, left : left + width] = frame
    return strip


def overlay(
    frames: ArrayLike,
    text: str | Sequence[str],
    size: int | None = None,
    *,
    at_bottom: bool = False,
) -> Pictures:
    """Write a few words at the left of each frame, white on a dark patch.

    Args:
        frames: uint8 [frame, height, width, 3]; they are left as they are.
        text: the words; or one text for each frame, such as a running count.
        size: of the letters, in pixels; a fourteenth of the height by default, at least 12.
        at_bottom: write them at the bottom instead of at the top.

    Returns:
        New frames, uint8 [frame, height, width, 3].

    Raises:
        ValueError: if there are not as many texts as frames.
    """
    frames = _checked(frames).copy()
    texts = [text] * len(frames) if isinstance(text, str) else list(text)
    if len(texts) != len(frames):
        raise ValueError(
            f"{len(texts)} texts are given for {len(frames)} frames; give one for each"
        )
    size = size or max(12, frames.shape[1] // 14)
    labels = {words: _label(words, size) for words in set(texts) if words}
    edge = size // 3
    for frame, words in zip(frames, texts, strict=True):
        if words:
            top = max(frame.shape[0] - edge - len(labels[words]), 0) if at_bottom else edge
            spot = frame[top:, edge:][: labels[words].shape[0], : labels[words].shape[1]]
            label = labels[words][: spot.shape[0], : spot.shape[1]]
            share = label[..., 3:] / 255
            spot[:] = (spot * (1 - share) + label[..., :3] * share).round()
    return frames


def _label(words: str, size: int) -> NDArray[np.float64]:
    """Draw words on a dark, see-through patch with round corners: [height, width, 4], 0 to 255."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), words, font)
    edge = size // 3
    box = (math.ceil(right - left) + 2 * edge, math.ceil(bottom - top) + 2 * edge)
    patch = Image.new("RGBA", box, (0, 0, 0, 0))
    pen = ImageDraw.Draw(patch)
    pen.rounded_rectangle((0, 0, box[0] - 1, box[1] - 1), radius=edge, fill=(24, 30, 40, 190))
    pen.text((edge - left, edge - top), words, fill=(255, 255, 255, 255), font=font)
    return np.asarray(patch, dtype=np.float64)


def _checked(frames: ArrayLike) -> Pictures:
    """Return frames as an array, or say what is wrong with them."""
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(
            f"the frames are {frames.dtype} of shape {frames.shape}; expected uint8 of shape "
            "[frame, height, width, 3], with at least one frame"
        )
    return frames


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to, and move that file to `path` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_mp4(frames: Pictures, path: Path, fps: float) -> None:
    """Write H.264 with colours that every player understands, ready to play while it loads."""
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    frames = np.pad(frames, odd, mode="edge")
    video = imageio.get_writer(
        path,
        format="FFMPEG",  # pyright: ignore[reportArgumentType]
        mode="I",
        fps=fps,
        codec="libx264",
        pixelformat="yuv420p",
        macro_block_size=1,
        quality=None,
        ffmpeg_log_level="error",
        output_params=["-crf", "20", "-preset", "medium", "-movflags", "+faststart"],
    )
    with video:
        for frame in frames:
            video.append_data(frame)


def _write_gif(frames: Pictures, path: Path, fps: float) -> None:
    """Write an endless GIF with one palette for all frames, made from eight of them."""
    thin = math.ceil(fps / GIF_FASTEST - 1e-6)
    frames, fps = frames[::thin], fps / thin
    sample = frames[np.linspace(0, len(frames) - 1, min(8, len(frames))).astype(int)]
    colours, counts = np.unique(sample.reshape(-1, 3), axis=0, return_counts=True)
    # by the root of its area, so that a wide sky leaves colours for a thin robot
    sheet = Image.fromarray(colours.repeat(np.ceil(np.sqrt(counts)).astype(int), axis=0)[None])
    palette = sheet.quantize(GIF_COLOURS, method=Image.Quantize.MEDIANCUT)
    first, *rest = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    )
    ends = (np.arange(len(frames) + 1) * (100 / fps)).round().astype(int) * 10
    durations = np.diff(ends).tolist()  # milliseconds, whole hundredths of a second
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, disposal=1)
