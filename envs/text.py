"""The kit of a language environment: `FreeText`, `PromptEnv`."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space

SAMPLE_CHARACTERS = [*string.printable, *"éßЖ你🙂"]
LONGEST_SAMPLE = 40

Row = str | Mapping[str, Any]
"""A prompt, or a mapping that has one under "prompt", and perhaps a good reply as "completion"."""

Score = Callable[[Any, str], float]
"""Returns what a reply to a prompt is truly worth: `score(row, reply)`, with the row as given."""


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
            raise ValueError(
                "a mask or probabilities are given; leave them out, since FreeText samples any text"
            )
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


class PromptEnv(gymnasium.Env[str, str]):
    """Reply to a prompt of a list. One turn.

    gymnasium.register("Mine-v0", lambda: PromptEnv(["Once upon a time", "Long ago"]))

    Observation: the prompt. Action: any text. Reward: its score, 0 if nobody can give one; then
    people or a function answer, and there is no true return to evaluate by.

    Seeds that follow each other, as a run's do, take each prompt once, in an order of chance,
    before any comes again.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(
        self, prompts: Sequence[Row], score: Score | None = None, held_out: Sequence[Row] = (),
        render_mode: str | None = None,
    ) -> None:  # fmt: skip
        """Build it.

        Args:
            prompts: at least one: texts, or rows of a data set, mappings with a "prompt". Rows that
                have a "completion", too, are demonstrations.
            score: the hidden reward, if there is one: `score(row, reply)`.
            held_out: prompts of `options={"split": "test"}`; those of training by default.
            render_mode: what `gymnasium.make` passes on; nothing is drawn.

        Raises:
            ValueError: there are no prompts, or one of them is no text.
        """
        for name, rows in (("prompts", prompts), ("held_out", held_out)):
            if isinstance(rows, str) or not all(isinstance(_text(row), str) for row in rows):
                raise ValueError(
                    f"{name} is {rows!r}; expected a list of prompts, each a text or a mapping "
                    'that has a text under "prompt"'
                )
        if not len(prompts):
            raise ValueError("there are no prompts; expected a list of at least one")
        self.prompts = {"train": prompts, "test": held_out if len(held_out) else prompts}
        self.score, self.render_mode = score, render_mode
        self.observation_space = self.action_space = FreeText()
        self.row = prompts[0]
        self.shown = [
            (_text(row), row["completion"])
            for row in prompts
            if isinstance(row, Mapping) and isinstance(row.get("completion"), str)
        ]
        if self.shown:
            self.__dict__.setdefault("demonstrations", self._demonstrations)

    @property
    def prompt(self) -> str:
        """What is to be replied to."""
        return _text(self.row)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Take a prompt.

        Raises:
            ValueError: the split is neither "train" nor "test".
        """
        super().reset(seed=seed)
        split = (options or {}).get("split", "train")
        if split not in self.prompts:
            raise ValueError(f'the split is {split!r}; expected "train" or "test"')
        rows = self.prompts[split]
        if seed is None:
            self.row = rows[int(self.np_random.integers(len(rows)))]
        else:
            lap, place = divmod(seed, len(rows))
            self.row = rows[int(np.random.default_rng(lap).permutation(len(rows))[place])]
        return self.prompt, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score the reply; the episode is over."""
        reward = 0.0 if self.score is None else float(self.score(self.row, action))
        return "", reward, True, False, {}

    def _demonstrations(self, count: int = 1000, seed: int = 0) -> list[list[tuple[str, str]]]:
        """Return rows' own replies, each a list of its one turn; once each before any again."""
        generator, drawn = np.random.default_rng(seed), []
        while len(drawn) < count:
            drawn += generator.permutation(len(self.shown)).tolist()
        return [[self.shown[place]] for place in drawn[:count]]


def _text(row: Row) -> Any:
    """Return the prompt of a row, None if it has none."""
    return row.get("prompt") if isinstance(row, Mapping) else row
