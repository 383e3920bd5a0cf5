"""The agent whose policy is fitted to the answers themselves: it acts, and tells how far it is."""

from __future__ import annotations

from prefrl.contracts import Reward
from prefrl.control.agents.sampling import SamplingAgent
from prefrl.control.implicit import ImplicitReward
from prefrl.types import Trajectory


class DirectAgent(SamplingAgent):
    """Plays the policy that a fit of its `ImplicitReward` trains."""

    def _measure(self, reward: Reward, trajectories: list[Trajectory]) -> dict[str, float]:
        """Return also how far the fit has led the policy, nats an action."""
        assert isinstance(reward, ImplicitReward), "it is built with the agent"
        told = super()._measure(reward, trajectories)
        return told | {"approx_kl": reward.divergence(trajectories)}
