"""What do answers about clips of other policies teach a robot offline? Prints one JSON object.

A run on the true reward gives three policies: untrained, half-way and final. From each of many
moments, which one of them has come to, all three go on twice, and of pairs of these six clips an
oracle says which has the smaller regret, by the critic of that run. From these answers and clips
alone learn

    bc              behaviour cloning of all clips
    cpl, cpl-kl     --learner direct, from that clone, without and with its log-probabilities
    select          behaviour cloning of the tenth of the clips with the best learned returns
    random tenth    ... of a tenth by chance: what selecting is worth is the difference
    true tenth      ... of the tenth with the best true returns: what a perfect reward would do

and their most probable actions are evaluated, as are those of the three policies; `gain` is the
share of the way from bc to the final policy.

    python scripts/benchmark_offline.py --tasks reacher
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from prefrl.config.control import CPLConfig
from prefrl.config.experiment import Experiment
from prefrl.config.learners import with_learner
from prefrl.config.presets import preset
from prefrl.control.agents.actor import Actor
from prefrl.control.build import build_reward, fresh_environments
from prefrl.control.environments.adapters import make_batched
from prefrl.control.environments.branching import branched
from prefrl.control.environments.interface import Description
from prefrl.control.environments.recorder import Recorder
from prefrl.control.environments.spaces import to_policy
from prefrl.control.implicit import ImplicitReward
from prefrl.control.policy import Policy, evaluate
from prefrl.environments.ids import resolve
from prefrl.learning.reward import FitState, fit, predict_returns
from prefrl.learning.selection import cut, propose
from prefrl.runs.critic import load_critic
from prefrl.runs.session import rounds, start
from prefrl.teachers.oracle import Critic
from prefrl.types import Comparison, QueryId, Segment

TOGETHER, ROWS = 6, 192
TASKS = "inverted-pendulum", "reacher", "half-cheetah"


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    tasks: tuple[str, ...] = TASKS
    """Presets of prefrl's own robots."""
    steps: int = 1_000_000
    """Of the run on the true reward."""
    rounds: int = 10
    """Of that run."""
    clips: int = 800
    """Of each of the three policies, about."""
    answers: int = 2000
    """Pairs that the oracle compares."""
    returns: bool = False
    """Compare clips by return instead of regret."""
    apart: bool = False
    """Compare clips of any two starts and policies instead of clips that begin alike."""
    episodes: int = 32
    """To evaluate a policy by."""
    seeds: tuple[int, ...] = (0,)
    """Each of a run, its clips and all that learns from them."""
    alpha: float = 0.1
    kl_alpha: float = 0.2
    bias: float = 0.5
    kl_bias: float = 0.75
    learning_rate: float = 1e-3
    """Of CPL's fit."""
    passes: int = 60
    """Most of a fit or of a clone of all clips: fewer try the script out."""
    folder: Path | None = None
    """Where runs are kept, and taken up where they are; a temporary one by default."""


def main() -> None:
    """Fill the table."""
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        report = {
            task: [measure(task, seed, arguments, folder) for seed in arguments.seeds]
            for task in arguments.tasks
        }
    print(json.dumps(report, indent=1))


def measure(task: str, seed: int, arguments: Arguments, folder: Path) -> dict[str, Any]:
    """Return what each way to learn comes to in a task."""
    began = time.time()
    experiment = dataclasses.replace(
        preset(task).experiment, reward="true", seed=seed, steps=arguments.steps,
        rounds=arguments.rounds,
    )  # fmt: skip
    path = folder / f"{task}-{arguments.steps}-{seed}"
    states = train(experiment, path)
    offline = Offline(experiment, states, load_critic(path), arguments)
    report: dict[str, Any] = {"seed": seed, "policies": offline.achieved(states)}
    for name in ("bc", "cpl", "cpl-kl", "select", "random tenth", "true tenth"):
        report[name] = offline.learn(name)
        print(task, seed, name, report[name], f"{time.time() - began:.0f} s", file=sys.stderr)
    bc, final = report["bc"]["return"], report["policies"][-1]
    for name in ("cpl", "cpl-kl", "select", "random tenth", "true tenth"):
        report[name]["gain"] = round((report[name]["return"] - bc) / (final - bc), 3)
    return report


def train(experiment: Experiment, path: Path) -> list[dict[str, Any]]:
    """Return the states of the untrained, the half-trained and the final policy."""
    kept = path.with_suffix(".pt")
    if kept.exists():
        return torch.load(kept, weights_only=False)
    session, states = start(experiment, path), []
    with closing(session):
        for done in rounds(session):
            if done.state == "done" and done.index in (
                0,
                experiment.round_count // 2,
                experiment.round_count,
            ):
                state = session.agent.state_dict()
                kept_of = {name: state[name] for name in ("policy", "normaliser")}
                states.append(copy.deepcopy(kept_of))
    torch.save(states, kept)
    return states


class Offline:
    """The clips of three policies, and answers about them."""

    def __init__(
        self, experiment: Experiment, states: Sequence[dict[str, Any]], critic: Critic,
        arguments: Arguments,
    ):  # fmt: skip
        self.experiment, self.arguments = experiment, arguments
        self.generator = np.random.default_rng(experiment.seed)
        torch.manual_seed(experiment.seed)
        self.clips, self.rewards = self._play(states)
        self.comparisons = self._compare(critic)

    def achieved(self, states: Sequence[dict[str, Any]]) -> list[float]:
        """Return what the policies themselves achieve."""
        ppo = self.experiment.control.ppo
        return [self._evaluate(Policy(self.description, ppo, state)) for state in states]

    def learn(self, name: str) -> dict[str, Any]:
        """Return what one way to learn achieves."""
        if name.startswith("cpl") or name == "bc":
            return self._cpl(name)
        told: dict[str, Any] = {}
        scores = np.array([self.rewards[clip.id].sum() for clip in self.clips])
        if name == "random tenth":
            scores = self.generator.permutation(len(scores))
        if name == "select":
            experiment = self._of("ppo")
            model = build_reward(experiment, self.description)
            state = FitState(model, experiment.fit, experiment.seed)
            told = fit(model, self.comparisons, experiment.fit, state)
            true, scores = scores, predict_returns(model, self.clips).mean(0).numpy()
            told["correlation"] = float(np.corrcoef(true, scores)[0, 1])
        best = np.argsort(-scores, kind="stable")[: len(scores) // 10]
        direct = self._of("direct").control.direct
        # Of a tenth of the clips: as many steps of Adam as for all.
        actor = self._actor(dataclasses.replace(direct, clone_epochs=10 * direct.clone_epochs))
        chosen = [self.clips[row] for row in best]
        seen = np.concatenate([clip.observations for clip in chosen])
        actor.observe_like(np.concatenate([clip.observations for clip in self.clips]))
        actor.clone(seen, self._made(chosen))
        return self._result(actor, told)

    def _cpl(self, name: str) -> dict[str, Any]:
        arguments, experiment = self.arguments, self._of("direct")
        kl = name == "cpl-kl"
        alpha, bias = (
            (arguments.kl_alpha, arguments.kl_bias) if kl else (arguments.alpha, arguments.bias)
        )
        direct = dataclasses.replace(experiment.control.direct, kl=kl, alpha=alpha)
        config = dataclasses.replace(
            experiment.fit, bias=bias, learning_rate=arguments.learning_rate
        )
        reward = ImplicitReward(self._actor(direct), direct)
        if name == "bc":
            reward.normalise_inputs(reward.encode(self.clips))
            return self._result(reward.actor, {})
        state = FitState(reward, config, experiment.seed)
        return self._result(reward.actor, fit(reward, self.comparisons, config, state))

    def _play(
        self, states: Sequence[dict[str, Any]]
    ) -> tuple[list[Segment], dict[str, np.ndarray]]:
        """Return clips of the policies' sampled actions, and their true rewards.

        Who leads a group, so that the others go on from where it is, alternates between them.
        """
        control, spec = self.experiment.control, resolve(self.experiment.env)
        batched = make_batched(spec, ROWS, self.experiment.seed + 1, control.horizon, 1)
        rows = np.arange(ROWS)
        acts = (rows % TOGETHER + rows // TOGETHER) % len(states)
        with closing(branched(batched, spec.id, TOGETHER)) as environments:
            self.description: Description = environments.description
            horizon, length = self.description.horizon, self.description.clip_steps
            policies = [Policy(self.description, control.ppo, state) for state in states]
            recorder, observations = Recorder(ROWS, TOGETHER), environments.reset()
            clips = len(states) * self.arguments.clips
            for _ in range(horizon * -(-clips // (ROWS * (horizon // length)))):
                extras = environments.extras()
                each = np.stack([policy.predict(observations, False) for policy in policies])
                actions = each[acts, rows]
                step = environments.step(actions)
                recorder.add(observations, actions, extras, step)
                observations = step.observations
        trajectories = [
            dataclasses.replace(trajectory, source=f"policy {acts[row]}")
            for row, _, trajectory in recorder.trajectories("offline")
        ]
        return cut(trajectories, length, clips, self.generator)

    def _compare(self, critic: Critic) -> list[Comparison]:
        """Let an oracle compare pairs of clips."""
        clips = self.clips
        if self.arguments.apart:
            clips = [dataclasses.replace(clip, task="") for clip in clips]
        scores = {clip.id: float(self.rewards[clip.id].sum()) for clip in clips}
        if not self.arguments.returns:
            scores = {
                clip.id: float(critic.advantages(self.rewards[clip.id], clip.observations).sum())
                for clip in clips
            }
        pairs = propose(clips, self.arguments.answers, self.generator)[: self.arguments.answers]
        return [
            Comparison(
                left, right, float(scores[left.id] > scores[right.id]), query=QueryId(0, number)
            )
            for number, (left, right) in enumerate(pairs)
        ]

    def _of(self, learner: str) -> Experiment:
        """Return the task's own settings for a learner."""
        usual = preset(self._preset()).experiment
        chosen = dataclasses.replace(with_learner(usual, learner), seed=self.experiment.seed)
        most, direct = self.arguments.passes, chosen.control.direct
        direct = dataclasses.replace(direct, clone_epochs=min(direct.clone_epochs, most))
        fitting = dataclasses.replace(chosen.fit, first_epochs=min(chosen.fit.first_epochs, most))
        domain = dataclasses.replace(chosen.control, direct=direct)
        return dataclasses.replace(chosen, domain=domain, fit=fitting)

    def _preset(self) -> str:
        return next(name for name in TASKS if preset(name).experiment.env == self.experiment.env)

    def _actor(self, config: CPLConfig) -> Actor:
        return Actor(self.description, config, self.experiment.seed)

    def _made(self, clips: Sequence[Segment]) -> torch.Tensor:
        actions = np.concatenate([clip.actions for clip in clips])
        return torch.as_tensor(to_policy(self.description.action_space, actions))

    def _result(self, actor: Actor, told: dict[str, float]) -> dict[str, Any]:
        """Return the return of an actor, and what its fit told."""
        kept = ("train_accuracy", "out_of_bag_accuracy", "best_epoch", "epochs", "correlation")
        policy = Policy(self.description, actor.config, actor.state_dict())
        return {"return": self._evaluate(policy)} | {
            name: round(told[name], 3) for name in kept if name in told
        }

    def _evaluate(self, policy: Policy) -> float:
        environments = fresh_environments(self.experiment, self.arguments.episodes, 0)
        with closing(environments):
            return round(evaluate(environments, policy).true_return["mean"], 2)


if __name__ == "__main__":
    main()
