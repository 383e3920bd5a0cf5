"""A reward model that is a policy which does as it is asked: what it learns from answers is HIR.

A policy that was taught which replies are good and which are bad says itself how good one is: by
Bayes' rule π(y | best, x) / π(y | worst, x) is how much likelier y is among the best replies to x
than among the worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefrl.text.agents.hindsight import ToldAgent, asked_turns
from prefrl.text.likelihood import Completions, log_probabilities_of_turns
from prefrl.text.models.device import enough_memory
from prefrl.text.reward import ScoresTexts
from prefrl.types import Comparison, Segment, Trajectory


class HindsightReward(ScoresTexts):
    """log π(y | best, x) − log π(y | worst, x) of replies, in nats.

    It is a `RewardModel` that is the policy of an agent, and `LearnsByItself`: as its agent does.
    """

    members = 1

    def __init__(self, agent: ToldAgent):
        """Share the networks of an agent, which keeps their state."""
        self.agent, self.template = agent, agent.policy.template

    def learn(self, comparisons: Sequence[Comparison]) -> dict[str, float]:
        """Let the agent learn from answers; see `ToldAgent.learn`."""
        return self.agent.learn(comparisons)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what is learned: the policy."""
        return iter(self.agent.networks.trained_of_policy())

    def encode(self, segments: Sequence[Segment | Trajectory]) -> Completions:
        """Return each segment's ids as if the best had been asked for, then all as if the worst."""
        instructions, encoded = self.agent.hindsight.instructions, Completions()
        for instruction in (instructions[-1], instructions[0]):
            for segment in segments:
                turns = asked_turns(segment, instruction, self.template)
                encoded.add(turns, self.agent.policy.context)
        return encoded

    def normalise_inputs(self, encoded: Completions) -> None:
        """Do nothing: ids have no scale."""

    @torch.no_grad()
    def returns(
        self, encoded: Completions, rows: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the log-ratio of whole completions `[1, row]`, without gradient."""
        unique, row_of_unique = torch.unique(rows, return_inverse=True)
        ratios = [turns.sum() for turns in self._log_ratios(encoded, unique.tolist())]
        return torch.stack(ratios).cpu()[row_of_unique][None]

    @torch.no_grad()
    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return the log-ratio of each reply, `[turn]` for each trajectory, float32."""
        ratios = self._log_ratios(self.encode(trajectories), [*range(len(trajectories))])
        return [ratio.cpu().numpy().astype(np.float32) for ratio in ratios]

    @enough_memory("text.hindsight.batch-size", "text.max-new-tokens")
    def _log_ratios(self, encoded: Completions, rows: list[int]) -> list[Tensor]:
        """Return the log-ratio of each reply of some completions, `[turn]` each."""
        worst = [row + len(encoded.sequences) // 2 for row in rows]
        networks, config = self.agent.networks, self.agent.config
        turns = log_probabilities_of_turns(networks, encoded, [*rows, *worst], config)
        return [turns[n] - turns[n + len(rows)] for n in range(len(rows))]

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return nothing: a log-ratio has an offset and a scale of its own."""
        return []

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Do nothing: a log-ratio needs no scale."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the agent keeps the weights."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; see `state_dict`."""
