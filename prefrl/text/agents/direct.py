"""The agent whose policy is fitted to the answers themselves: it samples, and adapts β."""

from __future__ import annotations

from prefrl.contracts import Reward
from prefrl.text.agents.sampling import SamplingAgent
from prefrl.text.direct import DirectReward


class DirectAgent(SamplingAgent):
    """Plays the policy that a fit of its `DirectReward` trains."""

    def _begin_round(self, reward: Reward) -> None:
        assert isinstance(reward, DirectReward), "it is built with the agent"
        self.reward = reward

    def _end_round(self, metrics: dict[str, float]) -> dict[str, float]:
        """Adapt β to the divergence of what was sampled; return the one that was fitted with."""
        beta = self.reward.beta
        self.reward.adapt(metrics["kl"])
        return {"beta": beta}
