"""Sprite sheets: every picture is where it is looked for, and what is damaged is found out."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from prefrl.clips.pictures import COLUMNS, LONGEST_SIDE, check, sheet, shrink
from prefrl.errors import UserError
from prefrl.types import Picture


def drawings(count, width=40, height=30):
    """Return flat drawings, each with its number in grey."""
    frames = np.full((count, height, width, 3), 255, np.uint8)
    frames[:, 5:-5, 5:-5] = (3 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    return frames


def photographs(count):
    """Return smooth pictures full of noise, which nothing but loss makes small."""
    generator = np.random.default_rng(0)
    waves = 127 + 90 * np.sin(np.arange(40) / 7 + np.arange(count)[:, None])
    noise = generator.normal(0, 12, (count, 30, 40, 3))
    return np.clip(waves[:, None, :, None] + noise, 0, 255).astype(np.uint8)


def cells(picture, count):
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image.format == "WEBP"
        whole = np.asarray(image.convert("RGB"))
    for index in range(count):
        top = index // picture.columns * picture.height
        left = index % picture.columns * picture.width
        yield whole[top : top + picture.height, left : left + picture.width]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 38, 81])
def test_drawings_come_back_to_the_pixel(count):
    frames = drawings(count)
    picture = sheet([shrink(frame) for frame in frames], 3)
    assert (picture.width, picture.height, picture.every) == (40, 30, 3)
    assert picture.columns == min(count, max(COLUMNS, int(count**0.5)))
    np.testing.assert_array_equal(list(cells(picture, count)), frames)
    check(picture, 3 * count)
    check(picture, 3 * count - 2)


def test_photographs_are_small_and_alike():
    frames = photographs(16)
    picture = sheet([shrink(frame) for frame in frames], 1)
    difference = np.stack(list(cells(picture, 16))) - frames.astype(float)
    assert np.abs(difference).mean() < 12 < np.abs(frames[0] - frames[8].astype(float)).mean()
    assert len(picture.data) < frames.nbytes / 8


@pytest.mark.parametrize(
    ("size", "small"), [((600, 400), (240, 160)), ((90, 480), (45, 240)), ((64, 48), (64, 48))]
)
def test_the_longer_side_is_kept_short(size, small):
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    frame[:, size[0] // 2 :] = 200
    image = shrink(frame)
    assert image.size == small and max(image.size) <= LONGEST_SIDE
    assert [image.getpixel((x, 5))[0] for x in (2, small[0] - 3)] == [0, 200]


def test_what_is_no_picture_is_refused():
    for nothing in (None, "word", np.zeros((2, 3, 4, 5))):
        with pytest.raises((TypeError, ValueError)):
            shrink(nothing)


def test_a_damaged_sheet_is_found_out():
    picture = sheet([shrink(frame) for frame in drawings(20)], 2)
    file = io.BytesIO()
    Image.new("RGB", (320, 90)).save(file, "PNG")
    half = picture.data[: len(picture.data) // 2]
    zeros = picture.data[:40] + bytes(len(picture.data) - 40)
    for data in (b"", b"no picture at all", half, zeros, file.getvalue()):
        with pytest.raises(UserError, match="this clip's pictures are damaged"):
            check(dataclasses.replace(picture, data=data), 40)
    for steps in (16 * 2, 24 * 2 + 1):  # 20 pictures stand in 3 rows, as 17 to 24 do
        with pytest.raises(UserError, match=r"the sheet has \(320, 90\) pixels, not \(320, "):
            check(picture, steps)


def test_a_picture_is_known_by_what_it_shows_not_printed_with_it():
    picture = Picture(1, 2, 3, 4, b"bytes")
    assert picture == Picture(1, 2, 3, 4, b"bytes") != Picture(1, 2, 3, 4, b"others")
    assert "bytes" not in repr(picture)
