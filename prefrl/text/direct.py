"""A reward model whose network is the policy: what DPO and its kin learn from answers.

In maximum-entropy reinforcement learning the best policy is ρ exp(r / β), so a policy π stands for
the reward r = β log π/ρ, up to what is alike for all replies to a prompt (Rafailov et al. 2023,
arXiv 2305.18290, equations 4 to 7). Fitted to comparisons like any reward model it is DPO; with
`--fit.label-smoothing` cDPO, with `--fit.loss square` IPO (arXiv 2310.12036), with `--fit.bias`
CPL's conservative bias (arXiv 2310.13639), with `--fit.nll` RPO's term (arXiv 2404.19733).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefrl.config.text import TextConfig
from prefrl.text.likelihood import Completions, log_probabilities_of_turns, turns_in_ids
from prefrl.text.models.device import enough_memory
from prefrl.text.models.networks import Networks
from prefrl.text.models.template import Template
from prefrl.text.reward import ScoresTexts
from prefrl.types import Segment, Trajectory

MOST = math.log(4)  # by which β adapts in a round, in logarithms


@dataclass
class Encoded(Completions):
    """Segments as token ids, and what the reference says of them."""

    reference: list[Tensor] = field(default_factory=list)
    """Of each sequence, the reference's log-probability of each turn's reply, `[turn]`."""


class DirectReward(ScoresTexts):
    """β log π/ρ of replies; a `RewardModel` that is the policy of an agent."""

    members = 1

    def __init__(self, networks: Networks, template: Template, context: int, config: TextConfig):
        """Share the networks of an agent.

        Args:
            networks: of the agent; a fit trains their policy.
            template: turns what people wrote into ids.
            context: tokens that the model looks back on; of longer completions the newest are read.
            config: the settings.
        """
        self.networks, self.template = networks, template
        self.context, self.config = context, config
        self.beta = config.direct.beta
        self.first = networks.kept_as_begun()
        """What the policy began as; where the reference has it, the reference's own."""
        self.previous: dict[str, Tensor] | None = None
        """What it was before the newest fit, if that is what it is compared with."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what is fitted: the policy."""
        return iter(self.networks.trained_of_policy())

    def encode(self, segments: Sequence[Segment | Trajectory]) -> Encoded:
        """Return the ids that were sampled, or of what was written, with their reference."""
        encoded = Encoded()
        for segment in segments:
            encoded.add(turns_in_ids(segment, self.template), self.context)
        encoded.reference = self._of_reference(encoded)
        return encoded

    def normalise_inputs(self, encoded: Encoded) -> None:
        """Let the coming fit begin at the reference, if each is to."""
        if self.config.direct.reference == "previous":
            self.previous = self._weights()
            encoded.reference = self._of_reference(encoded)
        elif self.config.direct.restart:
            self.networks.take(self.first)

    @torch.no_grad()
    def _of_reference(self, encoded: Encoded) -> list[Tensor]:
        """Return the reference's log-probability of each reply, `[turn]` of each completion."""
        rows = [*range(len(encoded.sequences))]
        if self.previous is None:
            return self._of_turns(encoded, rows, reference=True)
        now = self._weights()
        self.networks.take(self.previous)
        try:
            return self._of_turns(encoded, rows)
        finally:
            self.networks.take(now)

    def _weights(self) -> dict[str, Tensor]:
        return {name: w.detach().clone() for name, w in self.networks.trained().items()}

    def returns(
        self, encoded: Encoded, rows: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return β log π/ρ of whole completions `[1, row]`; each is read once."""
        unique, row_of_unique = torch.unique(rows, return_inverse=True)
        ratios = [turns.sum() for turns in self._log_ratios(encoded, unique.tolist())]
        return self.beta * torch.stack(ratios).cpu()[row_of_unique][None]

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return β log π/ρ of each reply, `[turn]` for each trajectory, float32."""
        encoded = self.encode(trajectories)
        with torch.no_grad():
            ratios = self._log_ratios(encoded, [*range(len(trajectories))])
        return [(self.beta * ratio).cpu().numpy().astype(np.float32) for ratio in ratios]

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return nothing: a log-ratio has an offset and a scale of its own."""
        return []

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Only see that the fit has led somewhere: a log-ratio needs no scale.

        Raises:
            FloatingPointError: the fit has led to no finite number.
        """
        if not all(torch.isfinite(weights).all() for weights in self.parameters()):
            raise FloatingPointError(
                "the fitted policy gives no finite numbers; lower --fit.learning-rate"
            )

    def adapt(self, kl: float) -> None:
        """Move β towards the divergence that is aimed at.

        The optimum for half the β is about twice as far from the reference; a fit that goes on from
        the one before has got only part of the way there, so its step is the square root of that.

        Args:
            kl: nats of a completion, of the policy as it is.
        """
        target = self.config.direct.kl_target
        if target is not None:
            step = math.log(max(kl, 1e-3 * target) / target)
            direct = self.config.direct
            anew = direct.restart and direct.reference == "first"
            step = step if anew else step / 2
            self.beta *= math.exp(min(max(step, -MOST), MOST))

    def state_dict(self) -> dict[str, Any]:
        """Return β, and the reference where it is not the first; the agent keeps the weights."""
        state: dict[str, Any] = {"beta": self.beta}
        return state if self.previous is None else state | {"previous": self.previous}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.beta = state_dict["beta"]
        self.previous = state_dict.get("previous")

    def _log_ratios(self, encoded: Encoded, rows: list[int]) -> list[Tensor]:
        """Return log π/ρ of each reply of some completions, `[turn]` each."""
        policy = self._of_turns(encoded, rows)
        ratios = [own - encoded.reference[row] for own, row in zip(policy, rows, strict=True)]
        if not self.config.direct.per_token:
            return ratios
        counts = [max(1, sum(encoded.tokens[row])) for row in rows]
        return [ratio / count for ratio, count in zip(ratios, counts, strict=True)]

    @enough_memory("fit.batch-size", "text.max-new-tokens")
    def _of_turns(self, encoded: Encoded, rows: list[int], reference: bool = False) -> list[Tensor]:
        """Return the log-probability of each reply of some completions, `[turn]` each."""
        return log_probabilities_of_turns(self.networks, encoded, rows, self.config, reference)
