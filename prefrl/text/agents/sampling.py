"""An agent that replies and is not trained on rewards: what every learner of text does first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from prefrl.config.text import TextConfig
from prefrl.contracts import Reward
from prefrl.environments.info import means
from prefrl.learning import parallel
from prefrl.text.agents.rollout import compute_logprobs
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode
from prefrl.text.models.device import check_same_device, enough_memory
from prefrl.text.models.load import LanguageModel
from prefrl.text.models.networks import Networks
from prefrl.text.policy import TextPolicy
from prefrl.types import Trajectory

TASKS_TRIED = 8


class Past(NamedTuple):
    """A policy as it was: what it replies by that training changes."""

    weights: list[torch.Tensor]
    instruction: str


class SamplingAgent:
    """Plays a language model; prefrl's `Agent` for text where something else trains the policy."""

    def __init__(
        self, environments: Sequence[gymnasium.Env], language_model: LanguageModel,
        config: TextConfig, seed: int, autocast: Callable[[], AbstractContextManager],
        own_critic: bool = False, beside: SamplingAgent | None = None,
    ):  # fmt: skip
        """Build the networks around a model, which is the reference from now on.

        Args:
            environments: copies of one environment, played side by side.
            language_model: the policy; trained in place.
            config: the settings.
            seed: of the tasks, the sampling and whatever else is drawn.
            autocast: the context in which passes are made.
            own_critic: whether there is a critic with layers of its own.
            beside: an agent whose policy and networks it trains, too, instead of its own.
        """
        self.environments, self.config, self.seed = environments, config, seed
        self.options = config.agent
        self.model = language_model.model
        if beside:
            self.policy, self.networks = beside.policy, beside.networks
        else:
            self.policy = TextPolicy(language_model, config, autocast, seed)
            self.networks = Networks(
                self.model, self.options.freeze_layers, own_critic, seed, autocast,
                config.gradient_checkpointing, config.lora,
            )  # fmt: skip
            self.networks.least = self.policy.least
            self.networks.shard()
            self.policy.weights = self.networks.whole_policy
        self.round = self.tasks = self.played = self.steps = 0
        self.left_out = self.out_of_context = 0
        self.sample: list[Trajectory] = []
        self.sample_scores = np.zeros(0)
        self.previous: list[Trajectory] = []
        """Replies of the policy as it was before the last round, to the tasks that come next."""

    def explore(self, steps: int) -> list[Trajectory]:
        """Run the policy as it is for about `steps` turns."""
        with self._enough_memory():
            trajectories: list[Trajectory] = []
            while sum(map(len, trajectories)) < steps:
                trajectories += self._trajectories(self._play())
            self.round += 1
            return trajectories

    def train(self, reward: Reward, steps: int) -> tuple[list[Trajectory], dict[str, float]]:
        """Play about `steps` turns, and learn from each batch of episodes.

        It is one batch at least, even where episodes of many turns have used the steps up before.
        Replies of the policy of a round ago to the same tasks come last, and nothing learns from
        them.
        """
        with self._enough_memory():
            past, first = self._past(), self.tasks
            older = sum(map(len, self.previous))
            self._begin_round(reward)
            trajectories: list[Trajectory] = []
            batches: list[dict[str, float]] = []
            while not batches or older + sum(map(len, trajectories)) < steps:
                episodes = self._play()
                self.sample = self._trajectories(episodes)
                trajectories += self.sample
                batches.append(self._learn(episodes, reward.rewards(self.sample)))
            self.round += 1
        names = dict.fromkeys(name for measured in batches for name in measured)
        metrics = {n: float(np.mean([m[n] for m in batches if n in m])) for n in names}
        metrics |= self._end_round(metrics)
        if self.left_out:
            metrics["prompts_too_long"] = float(self.left_out)
        if self.out_of_context:
            metrics["out_of_context"] = float(self.out_of_context)
        self.left_out = self.out_of_context = 0
        if past:
            tasks = {trajectory.task for trajectory in trajectories}
            trajectories += [old for old in self.previous if old.task in tasks]
            self.previous = self._replies_of(past, self.tasks - first)
        return trajectories, metrics

    def entropy(self) -> float:
        """Return how much the policy varies its replies to the first tasks, nats per token.

        Nothing depends on having asked.
        """
        environments = self.environments[:TASKS_TRIED]
        chance, before = self.policy.chance, self.policy.chance.replies
        seeds = [task_seed(self.seed, task) for task in range(len(environments))]
        episodes = play(environments, self.policy, seeds)
        chance.replies = before
        return compute_logprobs(self.networks, episodes, self.config).entropy()

    def _enough_memory(self) -> AbstractContextManager:
        """Name the options that take the most memory, should a GPU have too little."""
        kind = f"text.{self.config.chosen[0]}"
        return enough_memory(f"{kind}.batch-size", f"{kind}.episodes", "text.max-new-tokens")

    def _begin_round(self, reward: Reward) -> None:
        """Prepare for what rewards are like from now on."""

    def _learn(self, episodes: Sequence[Episode], scores: Sequence[np.ndarray]) -> dict[str, float]:
        """Learn from episodes that were just played; return what was measured.

        Args:
            episodes: in the order of `self.sample`.
            scores: predicted rewards, `[turn]` of each.
        """
        self.sample_scores = np.array([score.sum() for score in scores])
        self.steps += sum(map(len, self.sample))
        logprobs = compute_logprobs(self.networks, episodes, self.config)
        kl = torch.where(logprobs.sampled, logprobs.kl, 0.0).sum(1)
        return report({}, episodes, self.sample_scores, float(kl.mean()), logprobs.entropy())

    def _end_round(self, metrics: dict[str, float]) -> dict[str, float]:
        """Adapt to what a round came to, and return more to tell of it.

        Args:
            metrics: means over the round.
        """
        return {}

    def _play(self) -> list[Episode]:
        """Play the next tasks, each so often that its completions can be compared."""
        each = self.options.completions_per_task
        count = max(1, self.options.episodes // each)
        tasks = range(self.tasks, self.tasks + count)
        self.tasks += count
        seeds = [task_seed(self.seed, task) for task in tasks]
        episodes = self._replies([seed for seed in seeds for _ in range(each)])
        self.left_out += sum(episode.left_out for episode in episodes[::each])
        self.out_of_context += sum(episode.out_of_context for episode in episodes)
        return episodes

    def _replies(self, seeds: Sequence[int]) -> list[Episode]:
        """Play tasks, so that what the policy does is asked about."""
        return play(self.environments, self.policy, seeds)

    def _past(self) -> Past | None:
        """Return the policy as it is before a round, None where nobody asks for it later."""
        if not self.config.previous_share:
            return None
        return Past(self._weights(), self.policy.instruction)

    def _replies_of(self, past: Past, count: int) -> list[Trajectory]:
        """Return what the policy as it was before this round replies to the `count` next tasks."""
        each = max(1, round(self.config.previous_share * self.options.completions_per_task))
        tasks = range(self.tasks, self.tasks + count)
        seeds = [task_seed(self.seed, task) for task in tasks for _ in range(each)]
        with self._enough_memory(), self._as(past):
            return self._trajectories(self._replies(seeds), self.round - 1)

    @contextmanager
    def _as(self, past: Past) -> Iterator[None]:
        """Let the policy be what it was."""
        now = Past(self._weights(), self.policy.instruction)
        self._become(past)
        try:
            yield
        finally:
            self._become(now)

    @torch.no_grad()
    def _become(self, policy: Past) -> None:
        for weights, told in zip(self.networks.trained_of_policy(), policy.weights, strict=True):
            weights.copy_(told)
        self.policy.instruction = policy.instruction

    def _weights(self) -> list[torch.Tensor]:
        return [weights.detach().clone() for weights in self.networks.trained_of_policy()]

    def _trajectories(
        self, episodes: Sequence[Episode], index: int | None = None
    ) -> list[Trajectory]:
        """Return episodes as trajectories of the policy of a round, by default of this one."""
        first, source = self.played, f"round {self.round if index is None else index}"
        self.played += len(episodes)
        return [episode.trajectory(source, first + n) for n, episode in enumerate(episodes)]

    def follow(self, other: SamplingAgent) -> None:
        """Go on where another agent of the same networks is."""
        self.load_progress(other.progress())

    def progress(self) -> dict[str, Any]:
        """Return where it is among tasks and rounds."""
        return {
            "round": self.round,
            "tasks": self.tasks,
            "played": self.played,
            "steps": self.steps,
            "left_out": self.left_out,
            "out_of_context": self.out_of_context,
            "sample": [[t.observations, t.actions, t.env_rewards, t.extras] for t in self.sample],
            "sample_scores": self.sample_scores,
            "previous": [
                [getattr(t, each.name) for each in fields(Trajectory)] for t in self.previous
            ],
        }

    def load_progress(self, state: dict[str, Any]) -> None:
        """Continue from what `progress` returned."""
        self.round, self.tasks = state["round"], state["tasks"]
        self.played, self.steps = state["played"], state["steps"]
        self.left_out = state["left_out"]
        self.out_of_context = state.get("out_of_context", 0)  # it was not counted once
        self.sample = [Trajectory(*arrays) for arrays in state["sample"]]
        self.sample_scores = state["sample_scores"]
        self.previous = [Trajectory(*values) for values in state.get("previous", [])]

    def own_state(self) -> dict[str, Any]:
        """Return what no other agent of the same networks needs."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Continue from what `own_state` returned."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next round depends on but the reference, which never changes."""
        return self.shared_state() | self.own_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, to the bit."""
        self.load_shared_state(state)
        self.load_own_state(state)

    def shared_state(self) -> dict[str, Any]:
        """Return the networks, and what every agent of theirs needs.

        Weights that are still those of the reference are left out: a folder holds these once.
        """
        begun, trained = self.networks.begun(), self.networks.trained()
        moved = {
            name: weights.detach().clone()
            for name, weights in trained.items()
            if name not in begun or not parallel.equal(weights, begun[name])
        }
        return {
            "device": self.model.device.type,
            "trained": [*trained],
            "networks": moved,
            "sampling": self.policy.chance.replies,
            **({"instruction": told} if (told := self.policy.instruction) else {}),
            **self.progress(),
        }

    def load_shared_state(self, state: dict[str, Any]) -> None:
        """Continue from what `shared_state` returned."""
        here = self.model.device.type
        check_same_device(state.get("device", here), here)
        trained, weights = self.networks.trained(), self.networks.begun() | state["networks"]
        names = state.get("trained", [*state["networks"]])  # all of them were saved once
        if not trained.keys() == weights.keys() == set(names):
            raise ValueError("it holds other parameters than the model has")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(parallel.split_like(weights[name], parameter))
        self.policy.instruction = state.get("instruction", "")
        self.load_progress(state)
        # A generator's state was saved once; its run goes on with numbers that it has not used.
        sampling = state["sampling"]
        self.policy.chance.replies = sampling if isinstance(sampling, int) else self.played


def report(
    learned: dict[str, float], episodes: Sequence[Episode], scores: np.ndarray, kl: float,
    entropy: float,
) -> dict[str, float]:  # fmt: skip
    """Return the metrics of sampled episodes, then what the environment reports besides.

    Args:
        learned: what was measured of learning from them, which comes first.
        episodes: that were sampled.
        scores: their predicted returns, `[episode]`.
        kl: mean divergence from the reference, nats of an episode.
        entropy: nats per token.
    """
    measured = learned | {
        "true_return": float(np.mean([sum(episode.env_rewards) for episode in episodes])),
        "predicted_return": float(scores.mean()),
        "kl": kl,
        "entropy": entropy,
        "tokens": float(np.mean([sum(episode.sampled) for episode in episodes])),
        "turns": float(np.mean([len(episode) for episode in episodes])),
        "finished": float(np.mean([episode.finished[-1] for episode in episodes])),
    }
    reported = means([episode.report for episode in episodes])
    return measured | {name: mean for name, mean in reported.items() if name not in measured}
