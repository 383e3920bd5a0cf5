"""Robots as a domain: environments of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefrl.config.control import ControlConfig
from prefrl.config.experiment import Experiment
from prefrl.contracts import Components, EvaluationRequest, Network, Recording, RewardModel
from prefrl.control.budget import smallest_round
from prefrl.errors import UserError
from prefrl.types import Achieved, Evaluation

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from prefrl.control.policy import Policy
    from prefrl.storage.folder import RunFolder

# torch, Stable-Baselines3 and MuJoCo are imported by what needs them alone.


class ControlDomain:
    """Builds, loads and plays policies for environments of numbers; see `contracts.Domain`."""

    domain = "prefrl.control:DOMAIN"
    default = Experiment(domain=ControlConfig())

    def check_environment(
        self, environment: gymnasium.Env | EnvSpec, limit: int | None, replies: Sequence[str] = ()
    ) -> list[str]:
        """Try an environment of numbers out; see `control.check`."""
        from prefrl.control.check import check_environment

        if replies:
            raise UserError(
                f"the reply {replies[0]!r} is given, but this environment speaks no text; leave "
                "--replies out"
            )

        return check_environment(environment, limit)

    def smallest_round(self, experiment: Experiment) -> int:
        """Return the steps in which a clip is sure to lie."""
        return smallest_round(experiment, self.clip_steps(experiment))

    def build(
        self, experiment: Experiment, network: Network | None, folder: RunFolder | None
    ) -> Components:
        """Build environments, agent and reward."""
        from prefrl.control.build import build

        return build(experiment, network, folder)

    def load_policy(
        self, experiment: Experiment, agent_state: dict[str, Any], folder: RunFolder
    ) -> Policy:
        """Return the policy of an agent's state."""
        from prefrl.control.build import load_policy

        return load_policy(experiment, agent_state, folder)

    def load_reward(
        self, experiment: Experiment, network: Network | None, folder: RunFolder
    ) -> RewardModel:
        """Return the unfitted ensemble."""
        from prefrl.control.build import load_reward

        return load_reward(experiment, network, folder)

    def evaluate(
        self, folder: RunFolder, experiment: Experiment, policy: Policy, request: EvaluationRequest
    ) -> Evaluation:
        """Play fresh episodes, each from its own start."""
        from prefrl.control.evaluation import evaluate

        return evaluate(experiment, policy, request)

    def baseline(self, experiment: Experiment, episodes: int) -> Achieved:
        """Play fresh episodes with random actions."""
        from prefrl.control.evaluation import baseline

        return baseline(experiment, episodes)

    def record(
        self, experiment: Experiment, policy: Policy, episodes: int, source: str, sampling: int
    ) -> Recording:
        """Play fresh episodes with the most probable actions."""
        from prefrl.control.evaluation import record

        return record(experiment, policy, episodes, source)

    def clip_steps(self, experiment: Experiment) -> int:
        """Return the steps of a clip."""
        from prefrl.control.build import describe_environment

        return describe_environment(experiment).clip_steps


DOMAIN = ControlDomain()
