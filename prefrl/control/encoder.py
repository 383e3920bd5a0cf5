"""What pictures are turned into before a hidden layer reads them: three convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

NATURE_SIDE = 36
"""From here on the convolutions are those of Mnih et al. 2015."""
AT_ONCE = 256  # pictures that are read together where no gradient is needed


class Encoder(BaseFeaturesExtractor):
    """Three convolutions, flattened; pixels from 0 to 255 become 0 to 1 here and nowhere else.

    From 36 pixels on they are those of Mnih et al. 2015 (Nature 518, kernels of 8, 4 and 3), which
    SB3 calls NatureCNN; smaller pictures have kernels of 3. SB3 has a linear
    layer after them; here that is the first of the hidden layers.
    """

    def __init__(self, space: Box):
        """Build the convolutions for pictures of a space, uint8 `[channel, row, column]`."""
        channels, height, width = space.shape
        layers = _convolutions(channels, min(height, width))
        with torch.no_grad():
            size = nn.Sequential(*layers)(torch.zeros(1, channels, height, width)).numel()
        super().__init__(space, size)
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, pictures: Tensor) -> Tensor:
        """Return features `[picture, feature]` of pictures `[picture, channel, row, column]`."""
        return self.layers(pictures.float().div(255))


def _convolutions(channels: int, side: int) -> list[nn.Module]:
    if side >= NATURE_SIDE:
        return [
            nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        ]  # fmt: skip
    return [
        nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(),
    ]  # fmt: skip


def encoder_options(seen: Space) -> dict[str, Any]:
    """Return how SB3 is to build a policy that sees pictures; nothing for rows of numbers."""
    if seen.dtype != np.uint8:
        return {}
    return {
        "features_extractor_class": Encoder,
        "share_features_extractor": False,
        "normalize_images": False,  # the encoder does that
    }


def encoded(observations: Tensor, extractor: nn.Module) -> Tensor:
    """Return what hidden layers are given of observations: rows of numbers as they are.

    Of pictures it is what the extractor makes of them, some at a time; call it without gradient.
    """
    if not isinstance(extractor, Encoder):
        return observations
    return torch.cat([extractor(some) for some in observations.split(AT_ONCE)])


@dataclass(frozen=True)
class Pictures:
    """Steps, each a picture beside a row of numbers; some can be taken, as of a tensor."""

    pictures: Tensor
    """uint8 [step, channel, row, column]"""
    numbers: Tensor
    """[step, number]"""

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Tensor | slice) -> Pictures:
        return Pictures(self.pictures[rows], self.numbers[rows])

    def split(self, size: int) -> list[Pictures]:
        """Return all steps, so many at a time."""
        return [self[begin : begin + size] for begin in range(0, len(self), size)]


def joined(steps: list[Pictures]) -> Pictures:
    """Return several lots of steps as one."""
    return Pictures(
        torch.cat([lot.pictures for lot in steps]), torch.cat([lot.numbers for lot in steps])
    )
