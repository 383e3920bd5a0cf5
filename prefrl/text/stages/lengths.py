"""What becomes of texts that are longer than a model may read: left out, cut, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefrl.errors import UserError

TooLong = Literal["skip", "cut", "refuse"]


@dataclass(frozen=True)
class Limit:
    """The most tokens of a text, with what it replies to, and what becomes of longer ones."""

    tokens: int
    why: str
    """In words, of tokens: "that the model looks back on"."""
    too_long: TooLong = "skip"

    def keeps(self, lengths: Sequence[int], names: Sequence[str], what: str) -> list[bool]:
        """Return which of some texts to keep.

        Args:
            lengths: in tokens.
            names: of the texts, to be named where one is refused.
            what: they are, in words: "demonstration".

        Raises:
            UserError: one is too long and shall be refused, or all are and shall be left out.
        """
        fits = [length <= self.tokens for length in lengths]
        if self.too_long == "cut" or all(fits):
            return [True] * len(fits)
        if self.too_long == "refuse":
            row = fits.index(False)
            raise UserError(
                f"{names[row]}: it has {lengths[row]} tokens, more than the {self.tokens} "
                f"{self.why}; shorten it, or let --too-long skip or cut such texts"
            )
        if not any(fits):
            raise UserError(
                f"every {what} has more than the {self.tokens} tokens {self.why}; shorten them, "
                "read their ends alone with --too-long cut, or take another model"
            )
        return fits

    def note(self, lengths: Sequence[int], what: str) -> list[str]:
        """Say how many of some texts are too long, if any are."""
        longer = sum(length > self.tokens for length in lengths)
        if not longer:
            return []
        done = "cut to their ends" if self.too_long == "cut" else "left out"
        return [
            f"{what} {done}, as they have more than the {self.tokens} tokens {self.why}: "
            f"{longer} of {len(lengths)}"
        ]


def limit(context: int, max_length: int | None, too_long: TooLong) -> Limit:
    """Return the limit of a model, or the lower one that is asked for.

    Args:
        context: tokens that the model looks back on.
        max_length: most tokens of a text, if it shall be fewer.
        too_long: what becomes of longer texts.

    Raises:
        UserError: the model looks back on fewer tokens.
    """
    if max_length is None:
        return Limit(context, "that the model looks back on", too_long)
    if max_length > context:
        raise UserError(
            f"--max-length is {max_length}, but the model looks back on {context} tokens; expected "
            "no more than that"
        )
    return Limit(max_length, "of --max-length", too_long)
