"""State dicts as bytes, and back, without pickle's dangers.

`torch.load(weights_only=True)` reads tensors and plain values but no numpy arrays, so arrays travel
as tensors under a mark.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from prefrl.types import is_text, text_array

ARRAY, STRINGS = "numpy array", "numpy strings"


def to_bytes(state: Any) -> bytes:
    """Serialise nested dicts and lists of tensors, arrays and plain values."""
    buffer = io.BytesIO()
    torch.save(_pack(state), buffer)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Any:
    """Read what `to_bytes` wrote.

    Raises:
        ValueError: the bytes are cut short, or something else.
    """
    try:
        packed = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler trips over
        raise ValueError("it is cut short or no checkpoint at all") from error
    return _unpack(packed)


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if is_text(value):
            return {STRINGS: value.ravel().tolist(), "shape": list(value.shape)}
        return {ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, torch.Tensor):
        return value.cpu()  # what a GPU wrote is read where there is none
    if isinstance(value, dict):
        return {key: _pack(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {ARRAY}:
            return value[ARRAY].numpy()
        if value.keys() == {STRINGS, "shape"}:
            return text_array(value[STRINGS]).reshape(value["shape"])
        return {key: _unpack(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_unpack(entry) for entry in value]
    return value
