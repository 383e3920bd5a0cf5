"""The agent that learns the best of its own replies: rejection sampling, and ReST.

Of K replies to a task those that the reward likes are kept, and the policy is fine-tuned on them
(Llama 2, arXiv 2307.09288, section 3.2.3). With rising thresholds it is ReST (arXiv 2308.08998):
one Grow, and an Improve for each threshold, with a lower step size each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import gymnasium
import numpy as np

from prefrl.config.text import SelectConfig, TextConfig
from prefrl.learning.keeping import above, best_of_task, random_of_task, ranks, top_share
from prefrl.text.agents.imitating import Choice, ImitatingAgent, Kept, scored_by_task
from prefrl.text.agents.sampling import SamplingAgent
from prefrl.text.episode import Episode
from prefrl.text.models.load import LanguageModel


class SelectAgent(ImitatingAgent):
    """Plays a language model, and fine-tunes it on the best that it replied."""

    def __init__(
        self, environments: Sequence[gymnasium.Env], language_model: LanguageModel,
        config: TextConfig, seed: int, autocast: Callable[[], AbstractContextManager],
        beside: SamplingAgent | None = None,
    ):  # fmt: skip
        """Build networks and optimiser; see `ImitatingAgent`."""
        self.select = config.select
        given = environments, language_model, config, seed, autocast
        super().__init__(*given, config.select, beside)

    def _end_round(self, metrics: dict[str, float]) -> dict[str, float]:
        """Keep the best, and learn from it; return what was kept, and how far that has led."""
        random = np.random.default_rng([self.seed, self.round])
        choice = keep(self._episodes, self._scores, self.select, random)
        told = self._imitate(choice, _thresholds(self.select), self.select.decay)
        return told | {"tuned_kl": self._divergence()}


def keep(
    episodes: Sequence[Episode], scores: Sequence[float], select: SelectConfig,
    random: np.random.Generator,
) -> Choice:  # fmt: skip
    """Return what is kept of the episodes of a round.

    Of replies to a task that are the same text one is kept at most.

    Args:
        episodes: as many of each task as the settings say, one after the other.
        scores: predicted returns.
        select: the settings.
        random: for what is kept at random.
    """
    scored = scored_by_task(episodes, scores, select)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "best": lambda: best_of_task(scored),
        "top": lambda: top_share(scored, select.share),
        "above": lambda: above(scored, min(select.thresholds)),
        "random": lambda: random_of_task(scored, random),
    }
    chosen, rank = ways[select.keep](), ranks(scored).ravel()
    seen: set[tuple[int, str, tuple[int, ...]]] = set()
    kept: list[Kept] = []
    for row in np.flatnonzero(chosen).tolist():
        episode = episodes[row]
        shown = (row // scored.shape[1], episode.system, tuple(episode.ids))
        if shown not in seen:
            seen.add(shown)
            kept.append(Kept(episode.read, episode.sampled_of_read, float(rank[row])))
    return Choice(kept, int(chosen.any(1).sum()), int(chosen.sum()) - len(kept))


def _thresholds(select: SelectConfig) -> tuple[float, ...]:
    """Return the least rank of what is learned from, for each fine-tuning of a round."""
    return select.thresholds if select.keep == "above" else (0.0,)
