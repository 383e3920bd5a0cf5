"""What a policy achieves beside the model that it began as.

Both reply to the same tasks, which training has not seen where the environment holds some out.
Replies are always sampled, as in training: what is measured is a distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from prefrl.config.experiment import Experiment
from prefrl.config.learning import is_reward
from prefrl.contracts import EvaluationRequest, Recording, Teacher
from prefrl.environments.ids import installed, make, resolve
from prefrl.environments.info import means
from prefrl.errors import UserError
from prefrl.learning.statistics import estimate, length_controlled, win_rate
from prefrl.storage.folder import RunFolder
from prefrl.teachers.pairs import SIDES, judge_named, judged, pair_up
from prefrl.text.build import load_reference, warn_if_deterministic
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode
from prefrl.text.models.chance import Chance
from prefrl.text.models.device import find_device, use_threads
from prefrl.text.models.layers import hidden_states
from prefrl.text.models.load import load_language_model
from prefrl.text.models.logits import divergences, token_log_probabilities
from prefrl.text.models.tokens import Tokens, aligned, right_padded, sampled_positions
from prefrl.text.policy import TextPolicy
from prefrl.types import Achieved, Evaluation, transcript

FRESH = 1_000_003  # evaluation's seeds lie apart from those of training
AT_A_TIME = 64  # episodes
ROWS = 16  # of a pass


def evaluate(
    folder: RunFolder, experiment: Experiment, policy: TextPolicy, request: EvaluationRequest
) -> Evaluation:
    """Let policy and reference reply to the same tasks and compare them.

    The teacher says whose replies are better: "oracle" goes by the true return; by default it is
    the function that the run was taught by, if it was.

    Raises:
        UserError: there is no such teacher, or none that can be asked here.
    """
    episodes = request.episodes
    if request.teacher == "human":
        raise UserError(
            "nobody can be asked while a run is evaluated; let people compare two runs with "
            "`prefrl compare RUN_A RUN_B --teacher human`"
        )
    teacher, judge, notes = _judge(request, experiment)
    reference = reference_policy(folder, policy)
    environments = fresh_environments(experiment, episodes)
    policy_episodes = _play(environments, policy, experiment, episodes, sampling=0)
    reference_episodes = _play(environments, reference, experiment, episodes, sampling=1)
    own = measure(policy, policy_episodes, reference)
    reference_entropy = measure(reference, reference_episodes).entropies
    pairs = pair_up(
        [episode.trajectory(SIDES[0], n) for n, episode in enumerate(policy_episodes)],
        [episode.trajectory(SIDES[1], n) for n, episode in enumerate(reference_episodes)],
        None, experiment.seed,
    )  # fmt: skip
    wins = judged(pairs, judge, folder.card().question, experiment.seed)
    held_out = holds_out(environments[0], experiment.seed)
    shown = zip(policy_episodes[: request.show], reference_episodes[: request.show], strict=True)
    return Evaluation(
        episodes=episodes,
        policy=_achieved(policy_episodes, own.entropies),
        reference=_achieved(reference_episodes, reference_entropy),
        gain=estimate(_returns(policy_episodes) - _returns(reference_episodes)),
        kl=estimate([nats.sum() for nats in own.kl]),
        asked_gap=_asked_gap(environments, policy, experiment, policy_episodes),
        **_won(wins, _tokens(policy_episodes) - _tokens(reference_episodes)),
        teacher=teacher,
        held_out=held_out,
        notes=notes
        + _notes(held_out, float(np.concatenate(reference_entropy).mean()), policy_episodes),
        completions=[
            {"prompt": a.observations[0], "reference": _told(b), "policy": _told(a)}
            for a, b in shown
        ],
    )


def _judge(request: EvaluationRequest, experiment: Experiment) -> tuple[str, Teacher, list[str]]:
    """Return a teacher's name, itself and notes; by default the run's, where it is a function."""
    notes, name = [], request.teacher
    if request.judge is not None:
        return request.judge.name, request.judge, notes
    named = experiment.teacher
    if name is None and ":" in named and not is_reward(named) and "" in experiment.teachers:
        try:
            judge = judge_named(experiment.teacher, experiment.seed)
            return experiment.teacher, judge, notes
        except UserError as error:  # a function of a program that is not at hand here
            notes.append(
                f"the run's own teacher cannot be asked here, so the oracle says who wins: {error}"
            )
    name = name or "oracle"
    return name, judge_named(name, experiment.seed), notes


def reference_policy(folder: RunFolder, policy: TextPolicy) -> TextPolicy:
    """Return the model that a run began with, spoken to and sampled as its policy is."""
    language_model = load_reference(folder.experiment(), folder)
    return TextPolicy(language_model, policy.config, policy.autocast)


def base_policy(folder: RunFolder, policy: TextPolicy) -> TextPolicy | None:
    """Return the model that a run fine-tuned into its reference, None if it began as it is.

    Raises:
        UserError: that model is not here any more.
    """
    experiment, text = folder.experiment(), policy.config
    if not text.demonstrations:
        return None
    device = find_device(text.device)
    language_model = load_language_model(
        text.model, experiment.seed, device, context=text.tiny.context
    )
    return TextPolicy(language_model, text, policy.autocast)


def fresh_environments(experiment: Experiment, episodes: int) -> list[gymnasium.Env]:
    """Build copies of the environment, as many as are played side by side."""
    spec = resolve(experiment.env, experiment.env_kwargs)
    return [make(spec) for _ in range(min(episodes, AT_A_TIME))]


def _play(
    environments: Sequence[gymnasium.Env], policy: TextPolicy, experiment: Experiment,
    episodes: int, sampling: int,
) -> list[Episode]:  # fmt: skip
    """Play tasks that are held out; `sampling` tells apart policies that are asked the same."""
    seeds = [task_seed(FRESH + experiment.seed, task) for task in range(episodes)]
    use_threads(policy.model, experiment.threads)  # as in training
    policy.chance = Chance(task_seed(2 * FRESH + experiment.seed, sampling))
    with installed(experiment.env):
        return play(environments, policy, seeds, split="test")


def holds_out(environment: gymnasium.Env, seed: int, tries: int = 8) -> bool:
    """Return whether an environment's held-out tasks begin otherwise than those of training."""
    seeds = [task_seed(FRESH + seed, task) for task in range(tries)]
    heard = [
        [environment.reset(seed=s, options={"split": split})[0] for s in seeds]
        for split in ("train", "test")
    ]
    return heard[0] != heard[1]


def _asked_gap(
    environments: Sequence[gymnasium.Env], policy: TextPolicy, experiment: Experiment,
    best: Sequence[Episode],
) -> dict[str, Any] | None:  # fmt: skip
    """Return how much more is earned by what was asked to be best than to be worst, if it was."""
    asked = policy.instruction
    if not asked:
        return None
    policy.instruction = policy.config.hindsight.instructions[0]
    worst = _play(environments, policy, experiment, len(best), sampling=2)
    policy.instruction = asked
    return estimate(_returns(best) - _returns(worst))


class Measured(NamedTuple):
    """What a policy gives to sampled tokens, in nats: `[token]` of each episode."""

    logprobs: list[np.ndarray]
    entropies: list[np.ndarray]
    kl: list[np.ndarray]
    """Divergence from a reference, over the whole vocabulary; empty without one."""


@torch.no_grad()
def measure(
    policy: TextPolicy, episodes: Sequence[Episode], reference: TextPolicy | None = None
) -> Measured:
    """Measure a policy in passes over whole episodes, and how far it is from a reference."""
    model, temperature, least = policy.model, policy.config.temperature, policy.least
    measured = Measured([], [], [])
    for begin in range(0, len(episodes), ROWS):
        some = episodes[begin : begin + ROWS]
        asked = any(episode.asked for episode in some)
        tokens = right_padded([episode.read for episode in some], model.device)
        masks = [episode.sampled_of_read for episode in some]
        positions, there = sampled_positions(masks, model.device)
        with policy.autocast():
            own = model.get_output_embeddings(), hidden_states(model.base_model, tokens, None)
            columns = [*token_log_probabilities(*own, tokens, positions, temperature, least)]
            if reference is not None:
                referred = _unasked(reference, some) if asked else (tokens, positions)
                hidden = hidden_states(reference.model.base_model, referred[0], None)
                hidden = aligned(hidden, referred[1], positions) if asked else hidden
                other = reference.model.get_output_embeddings(), hidden
                columns.append(divergences(own, other, positions, temperature, least))
        for rows, column in zip(measured, columns, strict=False):
            rows += [
                row[where].double().cpu().numpy()
                for row, where in zip(column, there, strict=True)
            ]  # fmt: skip
    return measured


def _unasked(policy: TextPolicy, episodes: Sequence[Episode]) -> tuple[Tokens, Tensor]:
    """Return episodes as a policy reads them that is not asked anything, and where replies are."""
    tokens = right_padded([episode.ids for episode in episodes], policy.model.device)
    masks = [episode.sampled for episode in episodes]
    return tokens, sampled_positions(masks, policy.model.device)[0]


def _achieved(episodes: Sequence[Episode], entropies: Sequence[np.ndarray]) -> Achieved:
    returns = _returns(episodes)
    return Achieved(
        true_return=estimate(returns) | {"std": float(returns.std())},
        info=means([episode.report for episode in episodes]),
        tokens=estimate(_tokens(episodes)),
        entropy=float(np.concatenate(entropies).mean()),
        finished=float(np.mean([end for episode in episodes for end in episode.finished])),
    )


def _returns(episodes: Sequence[Episode]) -> np.ndarray:
    return np.array([sum(episode.env_rewards) for episode in episodes])


def _tokens(episodes: Sequence[Episode]) -> np.ndarray:
    """Return the mean tokens of a reply in each episode."""
    return np.array([sum(episode.sampled) / len(episode) for episode in episodes])


def _won(wins: Sequence[float | None], differences: np.ndarray) -> dict[str, Any]:
    """Return the win rates of the policy, given how much longer its replies are."""
    decided = [(win, more) for win, more in zip(wins, differences, strict=True) if win is not None]
    counts = {
        "ties": sum(win == 0.5 for win, _ in decided),
        "skips": len(wins) - len(decided),
    }
    if not decided:
        return {"win_rate": None, "length_controlled": None} | counts
    won, longer = zip(*decided, strict=True)
    return {
        "win_rate": win_rate(won),
        "length_controlled": length_controlled(won, longer),
    } | counts


def _notes(held_out: bool, reference_entropy: float, episodes: Sequence[Episode]) -> list[str]:
    notes = warn_if_deterministic("the reference", reference_entropy)
    if not held_out:
        notes.append("the environment holds no tasks out; these are like those of training")
    too_long = sum(episode.left_out for episode in episodes)
    if too_long:
        notes.append(
            f"tasks left out, as their prompts are longer than the model's context: {too_long}; "
            "others are played for them"
        )
    cut_short = sum(episode.out_of_context for episode in episodes)
    if cut_short:
        notes.append(
            f"episodes of the policy that ended early, as the model's context was full: {cut_short}"
            f" of {len(episodes)}; what the environment would have paid later is missing from the "
            "true return"
        )
    return notes


def _told(episode: Episode) -> dict[str, Any]:
    """Return what was said in an episode."""
    text = transcript(episode.observations, episode.actions)
    return {"text": text, "true_return": float(sum(episode.env_rewards))}


def record(
    experiment: Experiment, policy: TextPolicy, episodes: int, source: str, sampling: int
) -> Recording:
    """Reply to tasks that are held out.

    Args:
        experiment: which environment; its tasks follow from its seed.
        policy: replies.
        episodes: how many.
        source: of the trajectories.
        sampling: tells apart policies that are asked the same.
    """
    environments = fresh_environments(experiment, episodes)
    played = _play(environments, policy, experiment, episodes, sampling)
    trajectories = [episode.trajectory(source, index) for index, episode in enumerate(played)]
    return Recording(trajectories, lambda segments: {})
