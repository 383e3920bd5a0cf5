"""Spaces that Gymnasium has not."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium import Space

SAMPLE_CHARACTERS = [*string.printable, *"éßЖ你🙂"]
LONGEST_SAMPLE = 40


class FreeText(Space[str]):
    """Any text of up to `max_length` characters: what an environment says, what a model replies.

    Gymnasium's own `Text` holds only the characters that it is given, by default not even a space.
    Samples are short and of mixed characters: nonsense to try an environment with.
    """

    def __init__(
        self, max_length: int = 100_000, seed: int | np.random.Generator | None = None
    ) -> None:
        """Build the space.

        Raises:
            ValueError: `max_length` is not a whole number of at least 1.
        """
        whole = isinstance(max_length, int | np.integer) and not isinstance(max_length, bool)
        if not whole or max_length < 1:
            raise ValueError(f"max_length is {max_length!r}; expected a whole number of 1 or more")
        self.max_length = int(max_length)
        super().__init__(dtype=str, seed=seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a text of at most 40 characters.

        Raises:
            ValueError: a mask or probabilities are given; there is nothing that they could mask.
        """
        if mask is not None or probability is not None:
            raise ValueError("FreeText samples any text; it takes neither a mask nor probabilities")
        length = self.np_random.integers(min(self.max_length, LONGEST_SAMPLE) + 1)
        return "".join(self.np_random.choice(SAMPLE_CHARACTERS, length).tolist())

    def contains(self, x: Any) -> bool:
        """Return whether x is a text that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Return False: a text has no fixed number of parts."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((FreeText, self.max_length))

    def __repr__(self) -> str:
        return f"FreeText({self.max_length})"
