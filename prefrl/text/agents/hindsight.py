"""The agent that learns in hindsight what it might have been asked for (HIR).

Each of its replies to a task falls into a band of their scores, and is learned as the reply to an
instruction that asks for this band: what a bad one was asked for, it did well (Zhang et al. 2023,
arXiv 2302.05206, equation 4). Then it is asked for the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import gymnasium
import numpy as np

from prefrl.config.text import HindsightConfig, TextConfig
from prefrl.contracts import Reward
from prefrl.learning.keeping import bands, ranks
from prefrl.text.agents.imitating import Choice, ImitatingAgent, Kept, scored_by_task
from prefrl.text.agents.sampling import SamplingAgent
from prefrl.text.episode import Episode
from prefrl.text.models.load import LanguageModel
from prefrl.text.policy import TextPolicy


class HindsightAgent(ImitatingAgent):
    """Plays a language model, and teaches it to reply as well or as badly as it is asked to."""

    def __init__(
        self, environments: Sequence[gymnasium.Env], language_model: LanguageModel,
        config: TextConfig, seed: int, autocast: Callable[[], AbstractContextManager],
        beside: SamplingAgent | None = None,
    ):  # fmt: skip
        """Build networks and optimiser; see `ImitatingAgent`."""
        self.hindsight = config.hindsight
        given = environments, language_model, config, seed, autocast
        super().__init__(*given, config.hindsight, beside)

    def _begin_round(self, reward: Reward) -> None:
        self.reward = reward

    def _end_round(self, metrics: dict[str, float]) -> dict[str, float]:
        """Say of each reply what it was asked for, learn that, and ask for the best from now on."""
        choice = relabelled(self._episodes, self._scores, self.hindsight, self.policy)
        told = self._imitate(choice)
        if self.pool:
            self.policy.instruction = self.hindsight.instructions[-1]
        return told | {"tuned_kl": self._divergence()} | self._gap()

    def _gap(self) -> dict[str, float]:
        """Return by how much replies that are asked to be best score more than those to be worst.

        They are to the coming tasks; nothing depends on having asked.
        """
        if not self.policy.instruction:
            return {"asked_gap": 0.0}
        best, worst = self.hindsight.instructions[-1], self.hindsight.instructions[0]
        returns = []
        for instruction in (best, worst):
            self.policy.instruction = instruction
            played = [e.trajectory("", n) for n, e in enumerate(self._ahead())]
            returns.append(np.mean([rewards.sum() for rewards in self.reward.rewards(played)]))
        self.policy.instruction = best
        return {"asked_gap": float(returns[0] - returns[1])}


def relabelled(
    episodes: Sequence[Episode], scores: Sequence[float], hindsight: HindsightConfig,
    policy: TextPolicy,
) -> Choice:  # fmt: skip
    """Return the episodes of a round as if each had been asked for what it came to.

    Of replies to a task that are the same text one is kept at most. Where all replies to a task
    score the same, nothing says what they were asked for.

    Args:
        episodes: as many of each task as the settings say, one after the other.
        scores: predicted returns.
        hindsight: the settings.
        policy: whose template turns instructions into ids.
    """
    scored = scored_by_task(episodes, scores, hindsight)
    band, rank = bands(scored, len(hindsight.instructions)), ranks(scored).ravel()
    seen: set[tuple[int, str, tuple[int, ...]]] = set()
    kept: list[Kept] = []
    for row in np.flatnonzero(band >= 0).tolist():
        episode = episodes[row]
        shown = (row // scored.shape[1], episode.system, tuple(episode.ids))
        asked = policy.template.first(
            hindsight.instructions[band.flat[row]] + episode.observations[0], episode.system
        )
        told = replace(episode, asked=asked)
        if shown not in seen and len(told.read) <= policy.context:
            seen.add(shown)
            kept.append(Kept(told.read, told.sampled_of_read, float(rank[row])))
    return Choice(kept, int((band >= 0).any(1).sum()), int((band >= 0).sum()) - len(kept))
