"""How far something long is: which step, how many tokens a second, how much time is left.

It is told through Python's own logging, as INFO of the logger "prefrl.pace"; the command line shows
that as a line that changes, or in a pipe once a minute.
"""

from __future__ import annotations

import logging
import time

LOG = logging.getLogger("prefrl.pace")


class Pace:
    """Counts the steps of something, and tells of each."""

    def __init__(self, what: str, steps: int, done: int = 0, tokens_each: float = 0.0):
        """Begin now.

        Args:
            what: it is, in words: "fine-tuning".
            steps: that it has.
            done: how many of them were made before.
            tokens_each: of a step, where it is not said with it.
        """
        self.what, self.steps, self.done, self.tokens = what, steps, done, 0.0
        self.began, self.made_before, self.tokens_each = time.monotonic(), done, tokens_each

    def step(self, count: int = 1, tokens: float = 0, more: str = "") -> None:
        """Tell of some more steps that are done.

        Args:
            count: how many.
            tokens: that were read or written in them.
            more: what else is to be said: "loss 1.234".
        """
        self.done += count
        self.tokens += tokens or count * self.tokens_each
        if LOG.isEnabledFor(logging.INFO):
            LOG.info(self.line(more))

    def line(self, more: str = "") -> str:
        """Return how far it is: "fine-tuning: step 3/90, loss 1.234, 1,480 tokens/s, 0:12 left"."""
        seconds = max(time.monotonic() - self.began, 1e-3)
        left = round(seconds / max(self.done - self.made_before, 1) * (self.steps - self.done))
        parts = [f"{self.what}: step {self.done}/{self.steps}", *([more] if more else [])]
        if self.tokens:
            parts.append(f"{self.tokens / seconds:,.0f} tokens/s")
        return ", ".join([*parts, f"{left // 60}:{left % 60:02d} left"])
