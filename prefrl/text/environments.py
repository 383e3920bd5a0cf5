"""Playing episodes of a language environment: a plain Gymnasium environment that speaks `str`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from prefrl.errors import UserError
from prefrl.text.sampling import Reply
from prefrl.text.template import Template
from prefrl.text.trace import Episode

Sampler = Callable[[Sequence[Sequence[int]]], list[Reply]]
"""Continues sequences of token ids."""


def play(
    environments: Sequence[gymnasium.Env], template: Template, sample: Sampler,
    seeds: Sequence[int], context: int, split: str = "train",
) -> list[Episode]:  # fmt: skip
    """Play one episode for each seed, all at once, as many as there are environments at a time.

    Args:
        environments: copies of one environment.
        template: turns text into tokens and back.
        sample: the policy.
        seeds: of the tasks; the same seed is the same task.
        context: tokens that the policy can look back on; none is left for a reply beyond.
        split: which tasks, where the environment holds some out.

    Raises:
        UserError: a prompt is longer than the context.
    """
    episodes = []
    for begin in range(0, len(seeds), len(environments)):
        some = seeds[begin : begin + len(environments)]
        episodes += _play(environments[: len(some)], template, sample, some, context, split)
    return episodes


def _play(
    environments: Sequence[gymnasium.Env], template: Template, sample: Sampler,
    seeds: Sequence[int], context: int, split: str,
) -> list[Episode]:  # fmt: skip
    episodes, going = [Episode(seed) for seed in seeds], list(range(len(seeds)))
    for episode, environment in zip(episodes, environments, strict=True):
        observation, _ = environment.reset(seed=episode.seed, options={"split": split})
        episode.hear(observation, template.first(observation))
    while going:
        for row in going:
            _check_length(episodes[row], context)
        replies = sample([episodes[row].ids for row in going])
        going = [
            row
            for row, reply in zip(going, replies, strict=True)
            if not _turn(episodes[row], environments[row], template, reply, context)
        ]
    return episodes


def _turn(
    episode: Episode, environment: gymnasium.Env, template: Template, reply: Reply, context: int
) -> bool:
    """Give a reply to the environment; return whether the episode is over."""
    action = template.decode(reply.ids)
    observation, reward, terminated, truncated, info = environment.step(action)
    episode.say(action, reply.ids, reply.finished)
    episode.env_rewards.append(float(reward))
    if terminated or truncated:
        episode.report = _numbers(info)
        return True
    following = template.next(observation, reply.finished)
    if len(episode.ids) + len(following) >= context:  # no room to go on
        episode.report = _numbers(info)
        return True
    episode.hear(observation, following)
    return False


def _check_length(episode: Episode, context: int) -> None:
    if not episode.ids:
        raise UserError(
            "the environment's first observation is empty, and the tokenizer begins no text of its "
            "own; a language model needs a token to go on from"
        )
    if len(episode.ids) >= context:
        raise UserError(
            f"the prompt of seed {episode.seed} has {len(episode.ids)} tokens, but the model looks "
            f"back on {context}; shorten the prompts of the environment or take another model"
        )


def _numbers(info: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in info.items()
        if np.isscalar(value) and isinstance(value, (int, float, np.number, np.bool_))
    }


def task_seed(seed: int, task: int) -> int:
    """Return the seed that the n-th task of a run is reset with."""
    return int(np.random.default_rng([seed, task]).integers(2**31))
