"""Language models as a domain: environments that observe and act in `str`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefrl.config.experiment import Experiment
from prefrl.config.learning import QueryConfig
from prefrl.config.text import TEXT_FIT, TextConfig
from prefrl.contracts import Components, EvaluationRequest, Network, Recording, RewardModel
from prefrl.errors import UserError
from prefrl.text.budget import smallest_round
from prefrl.types import Evaluation

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from prefrl.storage.folder import RunFolder
    from prefrl.text.policy import TextPolicy

# torch and transformers are imported by what needs them alone.


LONGEST_EPISODE = 100  # turns, where none are given


class TextDomain:
    """Builds, loads and plays language models; see `contracts.Domain`."""

    domain = "prefrl.text:DOMAIN"
    default = Experiment(
        labels=1000,
        steps=20_480,
        steps_per_round=1024,
        domain=TextConfig(),
        fit=replace(
            TEXT_FIT, learning_rate=3e-5, first_epochs=8, epochs=2, batch_size=16, patience=2
        ),
        query=QueryConfig(explore_steps=512, decay_steps=20_000, acquisition="uniform"),
    )

    def check_environment(
        self, environment: gymnasium.Env | EnvSpec, limit: int | None, replies: Sequence[str] = ()
    ) -> list[str]:
        """Try a language environment out; see `text.check`."""
        from prefrl.text.check import check_environment

        return check_environment(environment, limit or LONGEST_EPISODE, replies=replies)

    def smallest_round(self, experiment: Experiment) -> int:
        """Return the turns of one update, if each episode has one."""
        return smallest_round(experiment)

    def build(
        self, experiment: Experiment, network: Network | None, folder: RunFolder | None
    ) -> Components:
        """Build environments, agent and reward; the reference is a folder's, where it has one."""
        with _installed(experiment):
            from prefrl.text.build import build

        return build(experiment, network, folder)

    def load_policy(
        self, experiment: Experiment, agent_state: dict[str, Any], folder: RunFolder
    ) -> TextPolicy:
        """Return the policy of an agent's state."""
        with _installed(experiment):
            from prefrl.text.build import load_policy

        return load_policy(experiment, agent_state, folder)

    def load_reward(
        self, experiment: Experiment, network: Network | None, folder: RunFolder
    ) -> RewardModel:
        """Return the unfitted reward model."""
        with _installed(experiment):
            from prefrl.text.build import load_reward

        return load_reward(experiment, network, folder)

    def evaluate(
        self, folder: RunFolder, experiment: Experiment, policy: TextPolicy,
        request: EvaluationRequest,
    ) -> Evaluation:  # fmt: skip
        """Let policy and reference reply to the same tasks."""
        from prefrl.text.evaluation import evaluate

        return evaluate(folder, experiment, policy, request)

    def baseline(self, experiment: Experiment, episodes: int) -> None:
        """Return None: an evaluation tells of the reference."""
        return None

    def record(
        self, experiment: Experiment, policy: TextPolicy, episodes: int, source: str, sampling: int
    ) -> Recording:
        """Reply to tasks that are held out."""
        from prefrl.text.evaluation import record

        return record(experiment, policy, episodes, source, sampling)

    def clip_steps(self, experiment: Experiment) -> None:
        """Return None: a clip of text is a whole episode."""
        return None


@contextmanager
def _installed(experiment: Experiment) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{experiment.env} speaks text, for which {error.name} is needed: "
            "pip install 'prefrl[text]'"
        ) from None


DOMAIN = TextDomain()
