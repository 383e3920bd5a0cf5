"""The agents that learn in hindsight what they might have been asked for (HIR).

A reply falls into a band, by its score among those to its task or by what was answered about it,
and is learned as the reply to an instruction that asks for this band: what a bad one was asked for,
it did well (Zhang et al. 2023, arXiv 2302.05206, equation 4). Then the best is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import gymnasium
import numpy as np

from prefrl.config.text import HindsightConfig, TextConfig
from prefrl.contracts import Reward
from prefrl.learning.keeping import band_of_share, bands, ranks, shares_won
from prefrl.text.agents.imitating import Choice, ImitatingAgent, Kept, scored_by_task
from prefrl.text.agents.sampling import SamplingAgent
from prefrl.text.episode import Episode
from prefrl.text.likelihood import Completions, Turns, turns_in_ids
from prefrl.text.models.load import LanguageModel
from prefrl.text.models.template import Template
from prefrl.text.policy import TextPolicy
from prefrl.types import Comparison, Segment, Trajectory, system_of


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
        if choice.kept:  # before it learns, so that it ends where the policy is that is asked
            self.policy.instruction = self.hindsight.instructions[-1]
        told = self._imitate(choice)
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


class ToldAgent(HindsightAgent):
    """Learns what clips might have been asked for from the answers about them, without a reward.

    Its `HindsightReward` hands it the answers. They are those of all rounds, so it begins each time
    where it began first: answers that were learned from again and again would be known by heart.
    """

    def __init__(
        self, environments: Sequence[gymnasium.Env], language_model: LanguageModel,
        config: TextConfig, seed: int, autocast: Callable[[], AbstractContextManager],
    ):  # fmt: skip
        """Build networks and optimiser; see `ImitatingAgent`."""
        super().__init__(environments, language_model, config, seed, autocast)
        self.first = self.networks.kept_as_begun()

    def learn(self, comparisons: Sequence[Comparison]) -> dict[str, float]:
        """Learn from answers, and ask for the best from now on; return what was learned from."""
        if not self.hindsight.pool:
            newest = max((comparison.query.round for comparison in comparisons), default=0)
            comparisons = [c for c in comparisons if c.query.round == newest]
        choice = told(comparisons, self.hindsight, self.policy)
        queries = len({comparison.query for comparison in comparisons})
        self.networks.take(self.first)
        self.begin_anew()
        with self._enough_memory():
            losses = self._tune(choice.kept, self.hindsight.learning_rate)
        if choice.kept:
            self.policy.instruction = self.hindsight.instructions[-1]
        return {
            "kept": float(len(choice.kept)),
            "tasks_left_out": float(queries - choice.tasks),
        } | self._loss(losses)

    def _learn(self, episodes: Sequence[Episode], scores: Sequence[np.ndarray]) -> dict[str, float]:
        """Measure the episodes, which nothing is learned from before they were answered about."""
        return SamplingAgent._learn(self, episodes, scores)

    def _end_round(self, metrics: dict[str, float]) -> dict[str, float]:
        return self._gap()


def told(
    comparisons: Sequence[Comparison], hindsight: HindsightConfig, policy: TextPolicy
) -> Choice:
    """Return the clips of answered queries as if each had been asked for what it was found to be.

    Where no clip of a query is better than another, nothing says what they were asked for. A text
    that several answers are about comes as often: so often it was good, or bad.

    Args:
        comparisons: what the answers say.
        hindsight: the settings.
        policy: whose template turns instructions, and what somebody wrote, into ids.
    """
    count, penalty = len(hindsight.instructions), hindsight.missing_end_penalty
    kept: list[Kept] = []
    tasks = 0
    for clips in shares_won(comparisons).values():
        if len({share for _, share in clips}) < 2:
            continue
        tasks += 1
        for clip, share in clips:
            share -= 0.0 if _ended(clip) else penalty
            if share == -math.inf:
                continue
            band = band_of_share(share, count)
            completion = Completions()
            turns = asked_turns(clip, hindsight.instructions[band], policy.template)
            completion.add(turns, policy.context + 1)
            [ids], [sampled] = completion.sequences, completion.sampled
            if len(ids) <= policy.context:
                kept.append(Kept(ids, sampled, share))
    return Choice(kept, tasks, repeats=0)


def asked_turns(clip: Segment | Trajectory, instruction: str, template: Template) -> Turns:
    """Return the ids of a clip as if an instruction had stood before what was said first."""
    (_, reply), *rest = turns_in_ids(clip, template)
    first = template.first(instruction + str(clip.observations[0]), system_of(clip))
    return [(first, reply), *rest]


def _ended(clip: Segment) -> bool:
    """Return whether the last reply came to an end; what somebody wrote has."""
    return "finished" not in clip.extras or bool(clip.extras["finished"][-1])


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
