"""Sprite sheets: the pictures of a clip, side by side in one image file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from prefrl.errors import UserError
from prefrl.types import Picture

LONGEST_SIDE = 240  # pixels of a single picture
COLUMNS = 8  # more only where a sheet would become a tower that no browser decodes
FORMAT, MEDIA_TYPE = "WEBP", "image/webp"
# The smaller is kept: of flat drawings that is the one without loss.
ENCODINGS: tuple[dict[str, Any], ...] = ({"lossless": True}, {"quality": 80})
EFFORT = 2  # of 6: half the time of 4, and hardly larger


def shrink(frame: np.ndarray) -> Image.Image:
    """Return what an environment drew, `[height, width, 3]`, as small as it is kept."""
    image = Image.fromarray(np.asarray(frame, np.uint8)).convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)  # the quickest
    return image


def sheet(images: Sequence[Image.Image], every: int, exact: bool = False) -> Picture:
    """Put pictures of one size, each of which stands for `every` steps, on one sheet.

    Where they are to be exact, no pixel changes, however large that makes the sheet.
    """
    columns = min(len(images), max(COLUMNS, math.isqrt(len(images))))
    width, height = images[0].size
    whole = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height))
    for index, image in enumerate(images):
        whole.paste(image, (index % columns * width, index // columns * height))
    encodings = ENCODINGS[:1] if exact else ENCODINGS
    data = min((_encoded(whole, encoding) for encoding in encodings), key=len)
    return Picture(width, height, columns, every, data)


def check(picture: Picture, steps: int) -> None:
    """Raise `UserError` unless a sheet can be decoded and holds the pictures of so many steps."""
    try:
        with Image.open(io.BytesIO(picture.data), formats=[FORMAT]) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"this clip's pictures are damaged: {error}") from None
    rows = math.ceil(math.ceil(steps / picture.every) / picture.columns)
    expected = (picture.columns * picture.width, rows * picture.height)
    if image.size != expected:
        raise UserError(
            f"this clip's pictures are damaged: the sheet has {image.size} pixels, not {expected}"
        )


def _encoded(image: Image.Image, encoding: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, FORMAT, method=EFFORT, **encoding)
    return file.getvalue()
