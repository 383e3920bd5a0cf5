"""From an experiment to the parts of a run whose policy is a language model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import gymnasium
import torch

from prefrl.config import Experiment, TextConfig, check_positive
from prefrl.errors import UserError
from prefrl.gym import installed, resolve
from prefrl.parts import Parts
from prefrl.reward import RewardModel
from prefrl.run import RunFolder
from prefrl.text.agent import TextAgent
from prefrl.text.models import LanguageModel, load_language_model, save_language_model
from prefrl.text.policy import TextPolicy
from prefrl.text.reward import TextReward
from prefrl.text.sft import tune
from prefrl.truth import TrueReward

TURN_SECONDS = 1.0  # what a page of clips calls a step; a turn has no length in time
LARGE = 10_000_000  # parameters from which a second thread pays

Autocast = Callable[[], AbstractContextManager]


def check(experiment: Experiment) -> None:
    """Raise `UserError` unless the numbers make sense together."""
    text, ppo = experiment.text, experiment.text.ppo
    check_positive(
        {
            "max-new-tokens": text.max_new_tokens, "temperature": text.temperature,
            "ppo.learning-rate": ppo.learning_rate, "ppo.episodes": ppo.episodes,
            "ppo.completions-per-task": ppo.completions_per_task, "ppo.batch-size": ppo.batch_size,
            "ppo.n-epochs": ppo.n_epochs, "reward.members": text.reward.members,
        },
        prefix="text.",
    )  # fmt: skip
    if text.top_k or text.top_p != 1:
        raise UserError(
            f"--text.top-k {text.top_k} --text.top-p {text.top_p} would cut the distribution off "
            "that replies are sampled from. Log-probabilities are of the whole one, so the KL "
            "divergence from the reference would come out wrong, even negative; use 0 and 1, and "
            "lower --text.temperature for likelier replies"
        )
    if ppo.episodes % ppo.completions_per_task:
        raise UserError(
            f"--text.ppo.episodes is {ppo.episodes}; expected a multiple of the "
            f"{ppo.completions_per_task} completions of each task"
        )
    if ppo.advantage == "rloo" and ppo.completions_per_task < 2:
        raise UserError(
            "--text.ppo.advantage rloo compares the completions of a task with each other; it "
            "needs --text.ppo.completions-per-task of at least 2"
        )
    if experiment.reward == "learned" and ppo.completions_per_task < experiment.query.clips:
        raise UserError(
            f"a query shows {experiment.query.clips} completions of one task, but "
            f"--text.ppo.completions-per-task is {ppo.completions_per_task}; raise it"
        )
    smallest = smallest_round(experiment)
    if experiment.steps < experiment.rounds * smallest:
        raise UserError(
            f"{experiment.steps} turns in {experiment.rounds} rounds leave a round less than the "
            f"{smallest} episodes of one update; lower --rounds or raise --steps"
        )


def smallest_round(experiment: Experiment) -> int:
    """Return the turns of one update, if each episode has one."""
    return experiment.text.ppo.episodes


def build(experiment: Experiment, network: None = None, folder: RunFolder | None = None) -> Parts:
    """Build environments, agent and reward model.

    Args:
        experiment: what to run.
        network: must be None; a reward model for text is a language model.
        folder: a run whose reference is taken up, instead of making one.

    Raises:
        UserError: model and environment do not go with these numbers.
    """
    text = experiment.text
    name = resolve(experiment.env)
    with installed(name):
        first = gymnasium.make(name, disable_env_checker=True)
        others = (
            gymnasium.make(name, disable_env_checker=True) for _ in range(text.ppo.episodes - 1)
        )
        environments = [first, *others]
    language_model = _reference(experiment, first, folder)
    device = language_model.model.device
    autocast = _autocast(text, device)
    reward_model: RewardModel = TrueReward(whole_episodes=True)
    if experiment.reward == "learned":
        reward_model = TextReward(language_model, text.reward, experiment.seed, text.chat, autocast)

    def save(run: RunFolder) -> None:
        if not run.reference.exists():
            save_language_model(language_model, run.reference)

    size = _size(language_model) / 1e6
    note = f"{text.model}: {size:.1f} million parameters on {device}, {_dtype(text, device)}"
    return Parts(
        TextAgent(environments, language_model, text, experiment.seed, autocast),
        reward_model,
        None,
        first.unwrapped.metadata.get("question", "Which reply is better?"),
        {"dt": TURN_SECONDS, "observations": {"text": True}, "actions": {"text": True}},
        save,
        lambda people: [note],
    )


def load_policy(
    experiment: Experiment, agent_state: dict[str, Any], folder: RunFolder
) -> TextPolicy:
    """Return the policy of an agent's state dict."""
    text = experiment.text
    language_model = load_reference(experiment, folder)
    trained = {
        name.removeprefix("model."): weights
        for name, weights in agent_state["networks"].items()
        if name.startswith("model.")
    }
    language_model.model.load_state_dict(trained, strict=False)
    return TextPolicy(language_model, text, _autocast(text, language_model.model.device))


def load_reference(experiment: Experiment, folder: RunFolder) -> LanguageModel:
    """Return the language model that a run began with."""
    return load_language_model(
        str(folder.reference), experiment.seed, _device(experiment.text.device)
    )


def load_reward(experiment: Experiment, network: None, folder: RunFolder) -> TextReward:
    """Return the unfitted reward model of an experiment, to be given a state."""
    text, language_model = experiment.text, load_reference(experiment, folder)
    autocast = _autocast(text, language_model.model.device)
    return TextReward(language_model, text.reward, experiment.seed, text.chat, autocast)


def _reference(
    experiment: Experiment, environment: gymnasium.Env, folder: RunFolder | None
) -> LanguageModel:
    """Load the model that a run begins with, fine-tuned on demonstrations if that is asked for."""
    text = experiment.text
    device = _device(text.device)
    made = folder is not None and folder.reference.exists()
    model = str(folder.reference) if folder is not None and made else text.model
    language_model = load_language_model(model, experiment.seed, device)
    # Small networks lose to a second thread on a busy machine.
    torch.set_num_threads(experiment.threads if _size(language_model) > LARGE else 1)
    if text.demonstrations and not made:
        demonstrate: Any = getattr(environment.unwrapped, "demonstrations", None)
        if demonstrate is None:
            raise UserError(
                f"{experiment.env} has no demonstrations to fine-tune on; leave out "
                "--text.demonstrations, or fine-tune on a file with `prefrl sft`"
            )
        for _ in tune(
            language_model, demonstrate(text.demonstrations, experiment.seed),
            epochs=text.sft_epochs, learning_rate=text.sft_learning_rate,
            batch_size=text.sft_batch_size, seed=experiment.seed, chat=text.chat,
            autocast=_autocast(text, language_model.model.device),
        ):  # fmt: skip
            pass
    return language_model


def _size(language_model: LanguageModel) -> int:
    return sum(parameter.numel() for parameter in language_model.model.parameters())


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--text.device is {name}, which cannot be used here ({reason}); leave it at auto"
        ) from None
    return name


def _dtype(text: TextConfig, device: torch.device) -> str:
    if text.dtype == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return text.dtype


def _autocast(text: TextConfig, device: torch.device) -> Autocast:
    """Return the context in which passes are made; weights stay float32."""
    if _dtype(text, device) == "float32":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=torch.bfloat16)
