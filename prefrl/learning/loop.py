"""The loop: answers → fit → calibrate → train → cut → choose → ask → yield.

One lap is a round. The same function drives a robot and a language model. All it knows of the
agent, the reward, the pacing and the store are the contracts; logging, checkpoints and pictures are
the caller's `for` body.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from prefrl.config.learning import LoopConfig
from prefrl.contracts import Agent, Pacing, Reward, RewardModel, Store
from prefrl.errors import UserError
from prefrl.learning.composed import begin_fit, fit
from prefrl.learning.newer import newer_wins
from prefrl.learning.repeats import share_alike
from prefrl.learning.selection import mean_return, select
from prefrl.types import Comparison, Counts, Trajectory


@dataclass(frozen=True)
class Round:
    """What the loop yields to its caller."""

    index: int
    state: Literal["waiting", "exploring", "fitting", "training", "done"]
    """What happens next, or "done": the round is complete."""
    counts: Counts
    """All queries and answers so far."""
    metrics: dict[str, float] = field(default_factory=dict)
    """A function of config, seed and ledger alone."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds spent in each part of the round."""


class LoopState:
    """All that one round hands to the next, apart from the store, the agent and the reward."""

    def __init__(self, reward_model: RewardModel | None, config: LoopConfig):
        """Begin at round 0.

        Args:
            reward_model: what the answers are fitted with; None trains on the true reward.
            config: the knobs.
        """
        self.round = 0
        self.steps = 0
        """Steps trained, exploration not counted."""
        self.reward_model = reward_model
        self.fit = begin_fit(reward_model, config.fit, config.seed) if reward_model else None
        self.sample: list[Trajectory] = []

    def state_dict(self) -> dict[str, Any]:
        """Return everything as arrays and plain values."""
        sample = [[t.observations, t.actions, t.env_rewards, t.extras] for t in self.sample]
        return {
            "round": self.round,
            "steps": self.steps,
            "fit": self.fit.state_dict() if self.fit else None,
            "sample": sample,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.round, self.steps = state["round"], state["steps"]
        if self.fit:
            self.fit.load_state_dict(state["fit"])
        self.sample = [Trajectory(*arrays) for arrays in state["sample"]]


def preference_loop(
    agent: Agent, reward: Reward, pacing: Pacing, store: Store, config: LoopConfig,
    state: LoopState,
) -> Iterator[Round]:  # fmt: skip
    """Run the rounds that are left after `state`; yield each once it is complete.

    At every yield with state "done", the store and the state dicts of the agent, the reward and
    `state` hold all that the next round needs.

    Args:
        agent: explores, then trains.
        reward: what the agent is trained on; `state.reward_model` where it is learned.
        pacing: lets a round begin, and says how many queries it asks.
        store: if it knows a round already, that round is repeated as it was.
        config: the knobs.
        state: where to begin; it is changed.
    """
    for index in range(state.round, config.rounds + 1):
        clock, metrics = _Clock(), {}
        known = store.ledger(index)  # a round that is redone keeps to it
        for counts in () if known else pacing.wait(store, index):
            yield Round(index, "waiting", counts)
        clock.lap("answers")
        through = known.answers_through if known else store.last_answer()
        comparisons = _comparisons(store, state.reward_model, pacing, through, config, index)
        if comparisons is None:
            yield Round(index, "exploring", store.counts())
            trajectories = agent.explore(config.query.explore_steps)
        else:
            yield Round(index, "fitting", store.counts())
            if state.reward_model and state.fit:
                metrics = fit(state.reward_model, comparisons, config.fit, state.fit)
            reward.calibrate(state.sample)
            clock.lap("fit")
            yield Round(index, "training", store.counts(), metrics)
            due = config.steps * index // config.rounds - state.steps
            trajectories, trained = agent.train(reward, due)
            state.steps += sum(map(len, trajectories))
            metrics = trained | metrics
            if not config.query.anchors:  # those are the best of their rounds
                metrics |= newer_wins(comparisons)
        alike = share_alike(trajectories) if config.clip_steps is None else None
        metrics |= {} if alike is None else {"alike": alike}
        clock.lap("train")
        if not known:
            count = pacing.queries_due(store, index)
            queries, true_rewards = select(
                trajectories, state.reward_model, config, index, count, pacing.distance,
                comparisons or (),
            )  # fmt: skip
            shown = {segment.id: segment for query in queries for segment in query.segments}
            pictures = pacing.pictures(list(shown.values()))
            done = mean_return(trajectories, config.clip_steps)
            store.ask(index, queries, true_rewards, through, pictures, done)
        clock.lap("choose")
        state.round = index + 1
        state.sample = reward.sample(trajectories, state.sample)
        line = _line(state, store, through, metrics)
        yield Round(index, "done", store.counts(), line, clock.seconds)


def _comparisons(
    store: Store, reward_model: RewardModel | None, pacing: Pacing, through: int,
    config: LoopConfig, index: int,
) -> list[Comparison] | None:  # fmt: skip
    """Return what a round learns from; None if it explores, since there is no reward yet.

    The true reward learns from nothing.

    Raises:
        UserError: there is no such answer, and there will be none.
    """
    if index == 0:
        return None
    if reward_model is None:
        return []
    aspects = config.aspects or ("",)
    comparisons = [
        comparison
        for comparison in store.comparisons(through, config.fit.margin_scale)
        if comparison.aspect in aspects
    ]
    if comparisons:
        return comparisons
    if not config.labels:
        raise UserError(
            "no labels are asked for (--labels 0), and no answer from elsewhere says anything "
            "about a clip, so there is no reward to train on; add answers with `prefrl import`, or "
            "start a run with --labels or --from"
        )
    if pacing.explores_again(index):
        return None
    if not store.counts().asked:
        raise UserError(
            "all replies to each task are the same text, so there was nothing to ask about, and "
            "there is no reward to train on; raise --text.temperature, allow longer replies "
            "(--text.max-new-tokens), or begin with another --text.model"
        )
    raise UserError(
        f"no answer so far says anything about a clip ({store.counts().asked} queries were "
        "asked, all skipped), so there is no reward to train on; answer some of them"
    )


def _line(
    state: LoopState, store: Store, through: int, metrics: dict[str, float]
) -> dict[str, float]:
    """Return a round's metrics: where it stands and what its fit saw, then what was measured.

    What an environment reports must not hide the first numbers.
    """
    index = state.round - 1
    counts = store.counts_at(index, through)
    head = {
        "round": index, "steps": state.steps, "asked": counts.asked,
        "answered": counts.answered, "decisive": counts.decisive, "clips": counts.clips,
    }  # fmt: skip
    return head | {name: value for name, value in metrics.items() if name not in head}


class _Clock:
    """Measures the parts of a round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now
