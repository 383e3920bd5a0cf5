"""The random numbers that tokens are drawn with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Chance:
    """Random numbers of replies, each of which has its own by its number.

    So what is sampled does not depend on which replies are sampled beside it, in which process, or
    where: they come from a counter (Philox, Salmon et al. 2011) on the CPU.
    """

    def __init__(self, seed: int):
        """Begin with the first reply of a seed."""
        self.seed, self.replies = seed, 0

    def take(self, replies: int, tokens: int) -> Tensor:
        """Return numbers for the next replies, `[reply, token]`, from 0 to less than 1."""
        numbers = np.empty((replies, tokens))
        for row in range(replies):
            place = np.random.Philox(key=self.seed, counter=[0, self.replies + row, 0, 0])
            numbers[row] = np.random.Generator(place).random(tokens)
        self.replies += replies
        return torch.from_numpy(numbers)
