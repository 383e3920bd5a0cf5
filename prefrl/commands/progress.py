"""What a person sees while a run goes on."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from prefrl.commands.console import NOT_MEASURED, Piped, measured, say, showing_pace
from prefrl.commands.worries import worries
from prefrl.config.learning import LoopConfig
from prefrl.learning.loop import Round
from prefrl.learning.pacing import answers_needed
from prefrl.types import Counts

LIVE_NUMBERS = {
    "out_of_bag_accuracy": ("out-of-bag accuracy", ".2f"),
    "true_return": ("true return", ".1f"),
    "clean_flips": ("clean flips", ".2f"),
    "newer_wins": ("newer policy preferred", ".0%"),
    "kl": ("KL", ".1f"),
    "finished": ("replies that end", ".0%"),
    "prompts_too_long": ("prompts too long", ".0f"),
    "out_of_context": ("out of context", ".0f"),
}


class Display:
    """Shows each round as it comes."""

    def __init__(
        self, rounds: int, steps: int, labels: int, first_round: int,
        people: LoopConfig | None = None,
    ):  # fmt: skip
        """Keep what a run comes to.

        Args:
            rounds: that it has.
            steps: in all of them.
            labels: in all of them.
            first_round: the first one to be shown.
            people: how the loop runs, where people answer: it waits for what a round needs alone.
        """
        self.rounds, self.steps, self.labels, self.first = rounds, steps, labels, first_round
        self.people = people
        self.console = Console(soft_wrap=True)
        self.pipe = Piped(say)
        self.began: float | None = None
        self.begun_at = 0.0
        self.waiting = False
        self.first_metrics: dict[str, float] = {}
        self.told: set[str] = set()
        """What there has been a note about."""
        # What was measured once keeps its place in the line; these are measured sooner or later.
        self.seen = {"true_return"} | ({"out_of_bag_accuracy"} if labels else set())

    def __enter__(self) -> Display:
        self.progress: Progress | None = None
        if self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
            )
            self.progress = Progress(*columns, console=self.console)
            first = f"round {self.first} of {self.rounds}"
            self.task = self.progress.add_task(first, total=self.rounds + 1, completed=self.first)
            self.described = first
            self.progress.start()
        self.within = ExitStack()  # a round of a language model may take minutes
        self.within.enter_context(
            showing_pace(self._show_within if self.progress else self.pipe.show)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.within.close()
        if self.progress:
            self.progress.stop()

    def _show_within(self, line: str, stays: bool) -> None:
        """Show how far something within a round is, before the line of the last round."""
        assert self.progress is not None
        self.progress.update(self.task, description=f"{line}; {self.described}")

    def show(self, done: Round) -> None:
        """Show a round that is done, or that the loop waits for a teacher."""
        if done.state == "waiting":
            if self.progress or not self.waiting:  # a live line counts down
                missing = self._missing(done)
                answers = f"{missing} answer{'s' * (missing != 1)}"
                self._say(f"round {done.index}: waiting for {answers}", done)
            self.waiting = True
            return
        if done.state != "done":
            return
        self.waiting = False
        if self.began is None:  # the first round is exploration, or what a resumed run redid
            self.began, self.begun_at = time.monotonic(), done.metrics["steps"]
        self._say(self.line(done), done)
        if not self.first_metrics and "kl" in done.metrics:
            self.first_metrics = done.metrics
        found = worries(self.first_metrics, done.metrics, done.counts)
        for name in sorted(found.keys() - self.told):
            (self.console.print if self.progress else say)(f"note: {found[name]}")
        self.told |= found.keys()

    def _missing(self, waiting: Round) -> int:
        """Return how many answers the round still needs before it begins."""
        counts = waiting.counts
        if self.people is None:
            return counts.pending
        needed = answers_needed(self.people, waiting.index) - counts.answered
        return min(needed, counts.pending)  # with none pending it begins, too

    def line(self, done: Round) -> str:
        """Return a round in words."""
        metrics = done.metrics
        steps, seconds = metrics["steps"], time.monotonic() - (self.began or time.monotonic())
        rate = (steps - self.begun_at) / seconds if seconds > 0.1 else math.nan
        left = max(0, round((self.steps - steps) / rate)) if rate > 0 else None
        self.seen |= {name for name in LIVE_NUMBERS if name in metrics}
        parts = [f"round {done.index}/{self.rounds}", f"{steps:,.0f} steps"]
        parts.append(f"{measured(rate, ',.0f')} steps/s")
        if self.labels:
            parts.append(
                f"labels {done.counts.answered}/{self.labels} ({self._spent(done.counts)})"
            )
        for name, (words, style) in LIVE_NUMBERS.items():
            if name not in self.seen:
                continue
            parts.append(f"{words} {measured(metrics.get(name), style)}")  # keeps its place
        parts.append(f"{NOT_MEASURED if left is None else f'{left // 60}:{left % 60:02d}'} left")
        return ", ".join(parts)

    def _spent(self, counts: Counts) -> str:
        """Say what the labels have cost: clips watched, and people's time; and how many decide."""
        some = counts.decisive < counts.answered
        decisive = f", {counts.decisive} decisive" if some else ""
        minutes = f", {counts.seconds / 60:.0f} min" if self.people else ""
        return f"{counts.clips} clips{minutes}{decisive}"

    def _say(self, line: str, done: Round) -> None:
        if self.progress:
            completed = done.index + (done.state == "done")
            self.described = line
            self.progress.update(self.task, description=line, completed=completed)
        else:
            self.pipe.show(line, stays=True)
