"""Plays episodes of a language environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from prefrl.environments import contract
from prefrl.environments.aspects import aspects_of, paid_by_aspect
from prefrl.environments.info import numbers
from prefrl.learning import parallel
from prefrl.pace import Pace
from prefrl.text.episode import Episode
from prefrl.text.models.sampling import Reply
from prefrl.text.policy import TextPolicy

TOO_LONG_IN_A_ROW = 50  # prompts; after so many there will hardly be one that fits


def play(
    environments: Sequence[gymnasium.Env], policy: TextPolicy, seeds: Sequence[int],
    split: str = "train", deterministic: bool = False,
) -> list[Episode]:  # fmt: skip
    """Play one episode for each seed, all at once, as many as there are environments at a time.

    Args:
        environments: copies of one environment.
        policy: replies.
        seeds: of the tasks; the same seed is the same task.
        split: which tasks, where the environment holds some out.
        deterministic: take the likeliest tokens.

    A task whose prompt is longer than the policy's context is left out; another one is played for
    it, which follows from its seed.

    Raises:
        UserError: too many prompts in a row are too long, or the environment breaks its contract.

    Of several processes the first one has the environments, and the others reply with it.
    """
    return parallel.led(
        lambda: _play_all(environments, policy, seeds, split, deterministic), lambda: policy.help()
    )


def _play_all(
    environments: Sequence[gymnasium.Env], policy: TextPolicy, seeds: Sequence[int],
    split: str, deterministic: bool,
) -> list[Episode]:  # fmt: skip
    episodes: list[Episode] = []
    pace = Pace("replying", len(seeds))
    for begin in range(0, len(seeds), len(environments)):
        some = seeds[begin : begin + len(environments)]
        played = _play(environments[: len(some)], policy, some, split, deterministic)
        pace.step(len(some), sum(sum(episode.sampled) for episode in played))
        episodes += played
    return episodes


def _play(
    environments: Sequence[gymnasium.Env], policy: TextPolicy, seeds: Sequence[int],
    split: str, deterministic: bool,
) -> list[Episode]:  # fmt: skip
    episodes = [
        _begin(environment, policy, seed, split)
        for environment, seed in zip(environments, seeds, strict=True)
    ]
    going = list(range(len(seeds)))
    while going:
        replies = policy.reply([episodes[row].read for row in going], deterministic)
        going = [
            row
            for row, reply in zip(going, replies, strict=True)
            if not _turn(episodes[row], environments[row], policy, reply)
        ]
    return episodes


def _begin(environment: gymnasium.Env, policy: TextPolicy, seed: int, split: str) -> Episode:
    """Begin a task, or the first of those that may stand for it whose prompt is short enough."""
    ids: list[int] = []
    for left_out in range(TOO_LONG_IN_A_ROW):
        task = task_seed(seed, left_out) if left_out else seed
        observation, _ = contract.reset(environment, task, {"split": split})
        contract.check_text(environment, observation, "reset gave the observation")
        ids = policy.template.first(observation)
        asked = policy.first(observation) if policy.instruction else []
        if max(len(ids), len(asked)) < policy.context:
            episode = Episode(task, policy.template.mark, left_out, policy.template.system)
            episode.asked = asked
            episode.append_observation(observation, ids)
            return episode
    raise contract.broken(
        environment,
        f"the prompts of {TOO_LONG_IN_A_ROW} tasks in a row are too long, the last with {len(ids)} "
        f"tokens; the model looks back on {policy.context}, reply included, so shorten them or "
        "take another model",
    )


def _turn(episode: Episode, environment: gymnasium.Env, policy: TextPolicy, reply: Reply) -> bool:
    """Give a reply to the environment; return whether the episode is over."""
    action = policy.text(reply.ids)
    observation, reward, terminated, truncated, info = contract.step(environment, action)
    contract.check_text(environment, observation, "step gave the observation")
    episode.append_reply(action, reply.ids, reply.finished)
    episode.env_rewards.append(reward)
    aspects = aspects_of(environment.unwrapped.metadata, contract.name_of(environment))
    for aspect, paid in paid_by_aspect(info, aspects).items():
        episode.aspect_rewards.setdefault(aspect, []).append(paid)
    if terminated or truncated:
        episode.report = _report(episode, info)
        return True
    following = policy.template.next(observation, reply.ids[-1] == policy.template.end_id)
    if len(episode.read) + len(following) >= policy.context:  # no room to go on
        episode.report = _report(episode, info)
        episode.out_of_context = True
        return True
    episode.append_observation(observation, following)
    return False


def _report(episode: Episode, info: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an episode's last info, and the true return for each aspect."""
    returns = {f"{a}.true_return": sum(paid) for a, paid in episode.aspect_rewards.items()}
    return numbers(info) | returns


def task_seed(seed: int, task: int) -> int:
    """Return the seed that the n-th task of a run is reset with; they follow each other."""
    return int(np.random.default_rng(seed).integers(2**30)) + task
