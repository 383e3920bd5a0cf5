"""A reward model whose network is a robot's policy: what CPL learns from answers.

Preferences follow regret: a clip is the better one as its actions have the greater advantage. In
maximum-entropy reinforcement learning the advantage of the best policy is α log π, so a policy
stands for the return S = Σ γᵗ α log π(a|s) of a clip, and fitting that to comparisons is
contrastive preference learning (Hejna et al. 2023, arXiv 2310.13639, equations 4 to 6; λ is
`--fit.bias`). With `kl` it is α log π/ρ (CPL-KL): ρ is the policy that the
fit began with, a clone of the clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefrl.config.control import CPLConfig
from prefrl.control.agents.actor import Actor
from prefrl.control.environments.spaces import to_policy, with_ended
from prefrl.types import ENDED, Segment, Trajectory


@dataclass
class Encoded:
    """Segments of one length or several, step after step."""

    observations: np.ndarray
    """Raw, [step of all segments, feature]"""
    actions: Tensor
    """In the policy's units, [step of all segments, …]"""
    weights: Tensor
    """What each step counts: γᵗ, or 0 once the episode has ended, [step of all segments]"""
    starts: Tensor
    """[segment], row of a segment's first step."""
    lengths: Tensor
    """[segment], in steps."""
    reference: Tensor
    """Log-probabilities under what the fit began with, where they count: [step of all segments]"""


class ImplicitReward:
    """α log π of actions, or α log π/ρ; a `RewardModel` that is the policy of an agent."""

    members = 1

    def __init__(self, actor: Actor, config: CPLConfig):
        """Share the policy of an agent; a fit trains it."""
        self.actor, self.config = actor, config
        self.reference = Actor(actor.description, config, actor.seed)
        self.reference.normaliser = actor.normaliser
        self.fitted = False
        """Whether there has been a fit."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what is fitted: the policy."""
        return self.actor.parameters()

    def encode(self, segments: Sequence[Segment | Trajectory]) -> Encoded:
        """Put the steps of segments after each other."""
        description = self.actor.description
        width = int(np.prod(description.observation_space.shape))
        observations = np.concatenate([s.observations for s in segments])
        if not description.picture:
            observations = with_ended(observations, width, description.shows_end)
        actions = np.concatenate([s.actions for s in segments])
        made = torch.as_tensor(to_policy(description.action_space, actions))
        lengths = torch.tensor([len(segment) for segment in segments])
        times = torch.cat([torch.arange(length) for length in lengths.tolist()])
        weights = self.config.gamma ** times.float()
        if description.shows_end:
            weights[torch.as_tensor(observations[:, -1] > 0)] = 0.0
        elif description.picture:
            weights[torch.as_tensor(np.concatenate([_ended(s) for s in segments]))] = 0.0
        starts = lengths.cumsum(0) - lengths
        encoded = Encoded(observations, made, weights, starts, lengths, torch.zeros(len(made)))
        self._look_up(encoded)
        return encoded

    def normalise_inputs(self, encoded: Encoded) -> None:
        """Let the coming fit begin where it is to: at a clone of these clips, or where it is."""
        if self.config.restart or not self.fitted:
            self.actor.begin_anew()
            self.actor.observe_like(encoded.observations)
            alive = encoded.weights > 0
            self.actor.clone(encoded.observations[alive.numpy()], encoded.actions[alive])
        self.fitted = True
        self.reference.network.load_state_dict(self.actor.network.state_dict())
        self._look_up(encoded)

    def returns(
        self, encoded: Encoded, rows: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return Σ γᵗ α log π, or of log π/ρ, of whole segments `[1, row]`."""
        lengths = encoded.lengths[rows]
        owner = torch.arange(len(rows)).repeat_interleave(lengths)
        within = torch.arange(len(owner)) - (lengths.cumsum(0) - lengths)[owner]
        steps = encoded.starts[rows][owner] + within
        seen = self.actor.normalise(encoded.observations[steps.numpy()])
        each = self.actor.log_prob(seen, encoded.actions[steps]) - encoded.reference[steps]
        sums = torch.zeros(len(rows)).index_add(0, owner, encoded.weights[steps] * each)
        return self.config.alpha * sums[None]

    @torch.no_grad()
    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return α log π of each step, or α log π/ρ, `[step]` for each trajectory, float32.

        Steps after the end of an episode, in which no action matters, have none.
        """
        encoded = self.encode(trajectories)
        each = self.actor.log_probs(encoded.observations, encoded.actions) - encoded.reference
        rewards = self.config.alpha * each * (encoded.weights > 0)
        return [steps.numpy() for steps in rewards.split(encoded.lengths.tolist())]

    def divergence(self, trajectories: Sequence[Trajectory]) -> float:
        """Return the mean of log π/ρ over the policy's own actions, nats an action."""
        encoded = self.encode(trajectories)
        own, other = (
            actor.log_probs(encoded.observations, encoded.actions)
            for actor in (self.actor, self.reference)
        )
        return float((own - other)[encoded.weights > 0].mean())

    def distance(self, left: Segment, right: Segment) -> float:
        """Return how different two segments look, step by step, in deviations of what is seen."""
        length = min(len(left), len(right))
        one, other = (self.encode([segment]) for segment in (left, right))
        seen = [self.actor.normalise(each.observations[:length]) for each in (one, other)]
        return float((seen[0].float() - seen[1].float()).abs().mean())

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return nothing: a log-probability has an offset and a scale of its own."""
        return []

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Only see that the fit has led somewhere: a log-probability needs no scale.

        Raises:
            FloatingPointError: the fit has led to no finite number.
        """
        if not all(torch.isfinite(weights).all() for weights in self.parameters()):
            raise FloatingPointError(
                "the fitted policy gives no finite numbers; lower --fit.learning-rate, or "
                "--direct.clone-learning-rate"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what the fit began with; the agent keeps the policy."""
        return {"fitted": self.fitted, "reference": self.reference.state_dict()["policy"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.fitted = state_dict["fitted"]
        self.reference.network.load_state_dict(state_dict["reference"])

    def _look_up(self, encoded: Encoded) -> None:
        """Write what the reference says of steps, where that counts."""
        if self.config.kl:
            encoded.reference = self.reference.log_probs(encoded.observations, encoded.actions)


def _ended(clip: Segment | Trajectory) -> np.ndarray:
    """Return in which steps of a clip its episode is over, bool `[step]`."""
    return clip.extras.get(ENDED, np.zeros(len(clip), bool))
