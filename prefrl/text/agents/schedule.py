"""Several learners of text in turn: the agent of a schedule such as "select*4, ppo"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefrl.contracts import Reward
from prefrl.text.agents.sampling import SamplingAgent
from prefrl.text.policy import TextPolicy
from prefrl.types import Trajectory


class ScheduledAgent:
    """Hands one policy from learner to learner, each of which keeps an optimiser of its own."""

    def __init__(self, agents: Mapping[str, SamplingAgent], schedule: Sequence[str]):
        """Take the agents.

        Args:
            agents: of the same networks, by name.
            schedule: who trains in each round; the last one goes on.
        """
        self.agents, self.schedule = agents, schedule
        self.rounds = 0
        """In which somebody has trained."""
        self.newest = agents[schedule[0]]

    @property
    def policy(self) -> TextPolicy:
        """The policy, which is that of all."""
        return self.newest.policy

    def entropy(self) -> float:
        """Return how much the policy varies its replies; see `SamplingAgent.entropy`."""
        return self.newest.entropy()

    def explore(self, steps: int) -> list[Trajectory]:
        """Run the policy as it is for about `steps` turns."""
        return self.newest.explore(steps)

    def train(self, reward: Reward, steps: int) -> tuple[list[Trajectory], dict[str, float]]:
        """Let the learner whose turn it is train for about `steps` turns."""
        agent = self.agents[self._turn(self.rounds)]
        if agent is not self.newest:
            agent.follow(self.newest)
        self.newest, self.rounds = agent, self.rounds + 1
        return agent.train(reward, steps)

    def _turn(self, index: int) -> str:
        return self.schedule[min(index, len(self.schedule) - 1)]

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next round depends on; see `SamplingAgent.state_dict`."""
        return self.newest.shared_state() | {
            "learners": {name: agent.own_state() for name, agent in self.agents.items()},
            "rounds": self.rounds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        for name, agent in self.agents.items():
            agent.load_own_state(state["learners"][name])
        self.rounds = state["rounds"]
        self.newest = self.agents[self._turn(max(0, self.rounds - 1))]
        self.newest.load_shared_state(state)
