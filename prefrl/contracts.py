"""The contracts: what the loop, a run and a report may rely on.

Each is a role that has two real actors. Data only crosses these borders as frozen dataclasses.
Nothing here is imported at run time but types: a contract costs nothing to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from prefrl.types import (
    Achieved,
    Answer,
    Comparison,
    Counts,
    EnvironmentCard,
    Evaluation,
    Ledger,
    Picture,
    Query,
    QueryId,
    Recorded,
    Segment,
    Trajectory,
    Truth,
)

if TYPE_CHECKING:
    import gymnasium
    import torch
    from gymnasium.envs.registration import EnvSpec
    from torch import Tensor
    from torch.nn import Module, Parameter

    from prefrl.config.experiment import Experiment
    from prefrl.storage.folder import RunFolder

Network = Callable[[int], "Module"]
"""Builds one member's reward network for a number of features."""

Distance = Callable[[Segment, Segment], float]
"""How different two segments look."""

ShowClips = Callable[[Sequence[Segment]], Mapping[str, Picture]]
"""Returns the pictures of segments of the newest round by id; {} where their extras do."""


class Agent(Protocol):
    """A policy and its optimiser."""

    def explore(self, steps: int) -> list[Trajectory]:
        """Run the untrained policy for about `steps` steps; what `train` does not count."""
        ...

    def train(self, reward: Reward, steps: int) -> tuple[list[Trajectory], dict[str, float]]:
        """Train for about `steps` steps on predicted rewards; return what was done and metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything: policy, optimisers, normalisers, generators, environments."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Continue from what `state_dict` returned, to the bit."""
        ...


class Reward(Protocol):
    """What an agent is trained on: the true reward, or a `RewardModel`."""

    def rewards(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Return calibrated rewards, `[step]` for each trajectory: the members' mean."""
        ...

    def sample(
        self, trajectories: Sequence[Trajectory], before: list[Trajectory]
    ) -> list[Trajectory]:
        """Return what to calibrate on: of a round's trajectories and of what was kept before."""
        ...

    def calibrate(self, trajectories: Sequence[Trajectory]) -> None:
        """Give each member mean 0 and deviation 1 on this data, until the next fit.

        Comparisons leave the offset of a reward open and its scale to the noise of the answers.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rewards depend on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Continue from what `state_dict` returned."""
        ...


class RewardModel(Reward, Protocol):
    """An ensemble that predicts rewards, and so the returns of segments; `fit` trains it."""

    members: int

    def encode(self, segments: Sequence[Segment]) -> Any:
        """Turn segments into tensors, once for many calls of `returns`."""
        ...

    def normalise_inputs(self, encoded: Any) -> None:
        """Take the scale of the inputs from the data of the coming fit, if it matters."""
        ...

    def returns(self, encoded: Any, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Predict the returns `[member, row]` of some encoded segments, with gradient.

        Args:
            encoded: what `encode` gave.
            rows: indices of the segments, int64.
            generator: if there is one, the model may look at a random part of each segment.
        """
        ...

    def parameters(self) -> Iterable[Parameter]:
        """Return what is fitted."""
        ...


@runtime_checkable
class LearnsByItself(Protocol):
    """What a `RewardModel` has besides that learns otherwise than by a loss of its returns."""

    def learn(self, comparisons: Sequence[Comparison]) -> dict[str, float]:
        """Learn from all answers so far but those that are held out; return what to tell of it."""
        ...


class Teacher(Protocol):
    """Whoever answers in this process: a batch of queries in, answers out."""

    name: str
    sees_true_rewards: bool
    """Whether `answer` gets the truth; only the oracle does."""

    def answer(self, queries: Sequence[Query], truth: Truth | None) -> Iterable[Answer]:
        """Answer queries, in order; each answer is kept as it comes.

        Args:
            queries: what is pending.
            truth: the true rewards of their clips, for a teacher that sees them.
        """
        ...


class Speaker(Protocol):
    """A language model that a judge or a reviser asks: it chooses among texts, and writes."""

    name: str
    at_once: int
    """How many prompts are best given together."""

    def choose(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]], whole: bool = False
    ) -> np.ndarray:
        """Return how probable each option is as the reply, `[prompt, option]`, rows summing to 1.

        A row is NaN where the model says none of them.

        Args:
            prompts: what is said to the model.
            options: of each prompt, all as many, by their first tokens alone.
            whole: compare them by the mean log-probability of all of their tokens instead.

        Raises:
            Unreachable: the model does not answer for now.
            UserError: it cannot be asked that.
        """
        ...

    def write(self, prompts: Sequence[str], tokens: int) -> list[str]:
        """Return a reply to each prompt, the likeliest, of so many tokens at most.

        Raises:
            Unreachable: the model does not answer for now.
        """
        ...


class Pacing(Protocol):
    """When a round may begin, and how many queries it asks: by budget, or as people answer."""

    distance: Distance | None
    """Measures which clips look alike; those are left out if people answer."""

    def wait(self, store: Store, index: int) -> Iterator[Counts]:
        """Yield about once a second until round `index` may begin."""
        ...

    def queries_due(self, store: Store, index: int) -> int:
        """Return how many queries round `index` asks."""
        ...

    def explores_again(self, index: int) -> bool:
        """Return whether a round without any usable answer may explore once more."""
        ...

    def pictures(self, segments: Sequence[Segment], /) -> Mapping[str, Picture]:
        """Return the pictures that a person needs to see the segments."""
        ...


class Store(Protocol):
    """Queries, answers and clips: the mailbox of trainer and teachers, and the ledger of a run."""

    def ledger(self, round_index: int) -> Ledger | None:
        """Return what is on record of a round, None if it was never asked."""
        ...

    def counts(self) -> Counts:
        """Count all queries and answers as they stand."""
        ...

    def counts_at(self, before_round: int, through: int) -> Counts:
        """Count queries of rounds before `before_round`, and answers as they stood by `through`."""
        ...

    def last_answer(self) -> int:
        """Return the id of the newest answer, 0 if there is none."""
        ...

    def comparisons(
        self, through: int | None = None, margin_scale: float = 0.0
    ) -> list[Comparison]:
        """Return what the answers with id up to `through` teach a reward model."""
        ...

    def pending(self) -> list[Query]:
        """Return the queries that still wait for an answer, oldest first."""
        ...

    def truth(self, queries: Sequence[Query], aspect: str = "") -> Truth:
        """Return the true rewards of the clips of queries about an aspect, for the oracle."""
        ...

    def answer(self, *answers: Answer) -> int:
        """Append answers in one transaction and return the last one's id; then they are safe."""
        ...

    def expire(self, before_round: int) -> None:
        """Withdraw what earlier rounds asked, except what somebody is looking at."""
        ...

    def ask(
        self, round_index: int, queries: Sequence[Query], true_rewards: dict[str, np.ndarray],
        answers_through: int, pictures: Mapping[str, Picture] = ...,
        mean_return: float | None = ...,
    ) -> None:  # fmt: skip
        """Write a round's queries, clips, true rewards and ledger entry, all or nothing.

        Names of true rewards are as `types.of_aspect` gives them. `mean_return` is the mean true
        return of a clip of all that the round's policy did.
        """
        ...

    def record(self, queries: Sequence[Query], answers: Sequence[Answer], mark: str) -> Recorded:
        """Write queries that were answered elsewhere, as a round below 0; known answers are not."""
        ...

    def answers(self, through: int | None = None, repeats: bool = False) -> list[Answer]:
        """Return the answers that stand, by id, or that stood once `through` was the newest."""
        ...

    def answered_queries(self, through: int) -> set[QueryId]:
        """Return the queries to which an answer with id up to `through` once taught something."""
        ...

    def query(self, query: QueryId, /) -> Query:
        """Return one query."""
        ...

    def withdraw(self, query: QueryId, /, why: str) -> None:
        """Ask this nobody any more; answers that it has stay."""
        ...

    def segments(self, task: str | None = None) -> list[str]:
        """Return the ids of all segments, or of one task's, in order."""
        ...

    def segments_after(self, prompt: str) -> list[str]:
        """Return the ids of the segments of text that begin with a prompt, in order."""
        ...

    def picture(self, segment_id: str) -> Picture | None:
        """Return what a segment looked like, None where it is redrawn from its extras."""
        ...

    def true_rewards(self, segment_id: str, aspect: str = "") -> np.ndarray:
        """Return the true rewards `[step]` of a segment: for evaluation and plots."""
        ...

    def demonstrate(self, prompt: str, response: str | None, teacher: str, uuid: str) -> None:
        """Keep a demonstration of a language task, or propose a prompt (no response)."""
        ...

    def demonstrations(self) -> list[tuple[str, str | None]]:
        """Return the prompts and responses that people wrote, in order."""
        ...

    def claim(self, wait: bool = False) -> None:
        """Become the run's trainer; raise `UserError` while another one is alive, or wait."""
        ...

    def check_claim(self) -> None:
        """Raise `UserError` if somebody else has become the run's trainer."""
        ...

    def training(self) -> AbstractContextManager[Any]:
        """Let nobody take the run over within this, for files; raise `UserError` if one has."""
        ...

    def release(self) -> None:
        """Let others train the run."""
        ...

    def close(self) -> None:
        """Let go of the store, and let others train."""
        ...


@dataclass(frozen=True)
class Components:
    """What a domain builds of an experiment: a learner, in its environments."""

    agent: Agent
    reward: Reward
    reward_model: RewardModel | None
    """The reward, where it is learned."""
    card: EnvironmentCard
    clip_steps: int | None
    """Steps of a clip; None shows whole episodes."""
    pictures: ShowClips
    distance: Distance | None
    """How different two clips look; None where nobody is asked."""
    save: Callable[[RunFolder], None]
    """Keeps what is needed beside configuration and checkpoints, before the first round."""
    notes: tuple[str, ...] = ()
    """What to say before the first round."""
    domain: Any = None
    """The domain's settings, where some of them followed from what was built: a run keeps these."""
    close: Callable[[], None] = lambda: None
    """Lets go of the environments."""


@dataclass(frozen=True)
class Recording:
    """Whole episodes of a policy, to cut clips from."""

    trajectories: list[Trajectory]
    pictures: ShowClips
    close: Callable[[], None] = lambda: None
    """Lets go of the environments that `pictures` needs."""


@dataclass(frozen=True)
class EvaluationRequest:
    """How a policy is to be evaluated."""

    episodes: int
    sample: bool = False
    """Sample actions as training does, instead of taking the most probable."""
    teacher: str | None = None
    """Who judges replies; the run's own function, or the oracle, by default."""
    show: int = 0
    """How many tasks to show replies of."""
    judge: Teacher | None = None
    """The teacher itself, where it is a learned reward."""


class Domain(Protocol):
    """A kind of environment and all that is special about it: robots, or text.

    `domain` names the object, "package:OBJECT"; a run's folder keeps the name.
    """

    domain: str
    default: Experiment
    """Where an experiment may begin, whatever its environment is about; with its own settings."""

    def check_environment(
        self, environment: gymnasium.Env | EnvSpec, limit: int | None, replies: Sequence[str] = ()
    ) -> list[str]:
        """Try an environment out; return notes, raise `UserError` where it breaks its contract.

        Args:
            environment: to be tried out.
            limit: steps within which an episode ends.
            replies: what to reply, where it speaks text; by default some short texts.
        """
        ...

    def smallest_round(self, experiment: Experiment) -> int:
        """Return the steps of one update."""
        ...

    def build(
        self, experiment: Experiment, network: Network | None, folder: RunFolder | None
    ) -> Components:
        """Check an experiment and build its components.

        Args:
            experiment: what to run.
            network: somebody's own reward network.
            folder: a run that is taken up, with what it keeps.

        Raises:
            UserError: the numbers or the environment do not go together.
        """
        ...

    def load_policy(
        self, experiment: Experiment, agent_state: dict[str, Any], folder: RunFolder
    ) -> Any:
        """Return the policy of an agent's state: `policy.predict(observation)`."""
        ...

    def load_reward(
        self, experiment: Experiment, network: Network | None, folder: RunFolder
    ) -> RewardModel:
        """Return an experiment's unfitted reward model, which then loads a state."""
        ...

    def evaluate(
        self, folder: RunFolder, experiment: Experiment, policy: Any, request: EvaluationRequest
    ) -> Evaluation:
        """Play fresh episodes with a run's policy."""
        ...

    def baseline(self, experiment: Experiment, episodes: int) -> Achieved | None:
        """Play fresh episodes with random actions, the zero of every ratio.

        None where `evaluate` tells of a reference, which is what nothing learned achieves.
        """
        ...

    def record(
        self, experiment: Experiment, policy: Any, episodes: int, source: str, sampling: int
    ) -> Recording:
        """Play fresh episodes and keep every step; `sampling` seeds what is sampled."""
        ...

    def clip_steps(self, experiment: Experiment) -> int | None:
        """Return the steps of a clip; None takes whole episodes."""
        ...
