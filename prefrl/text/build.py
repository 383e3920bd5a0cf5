"""From an experiment to the parts of a run whose policy is a language model."""

from __future__ import annotations

from typing import Any

import gymnasium

from prefrl.config import Experiment, check_positive
from prefrl.errors import UserError
from prefrl.gym import installed, resolve
from prefrl.parts import Parts
from prefrl.reward import RewardModel
from prefrl.run import RunFolder
from prefrl.text import placing
from prefrl.text.agent import TextAgent
from prefrl.text.models import LanguageModel, load_language_model, save_language_model
from prefrl.text.policy import TextPolicy
from prefrl.text.reward import TextReward
from prefrl.text.sft import tune
from prefrl.truth import TrueReward

TURN_SECONDS = 1.0  # what a page of clips calls a step; a turn has no length in time
LOW_ENTROPY = 0.1  # nats per token; there is next to nothing to prefer among such replies


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
    if ppo.episodes < 2:
        raise UserError(
            "--text.ppo.episodes is 1; advantages and a refitted reward are scaled by how episodes "
            "differ, so an update needs at least 2"
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
    autocast = placing.autocast(text, language_model.model.device)
    reward_model: RewardModel = TrueReward(whole_episodes=True)
    if experiment.reward == "learned":
        reward_model = TextReward(language_model, text.reward, experiment.seed, text.chat, autocast)

    def save(run: RunFolder) -> None:
        if not run.reference.exists():
            save_language_model(language_model, run.reference)

    notes = [placing.in_words(text.model, language_model.model, text)]
    agent = TextAgent(
        environments, language_model, text, experiment.seed, autocast, experiment.steps
    )
    entropy = agent.entropy()
    if entropy < LOW_ENTROPY:
        notes.append(
            f"the model hardly varies its replies ({entropy:.3f} nats a token), so there is little "
            "to compare and to learn; raise --text.temperature, or fine-tune it less"
        )
    return Parts(
        agent,
        reward_model,
        None,
        first.unwrapped.metadata.get("question", "Which reply is better?"),
        {"dt": TURN_SECONDS, "observations": {"text": True}, "actions": {"text": True}},
        save,
        lambda people: notes,
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
    return TextPolicy(language_model, text, placing.autocast(text, language_model.model.device))


def load_reference(experiment: Experiment, folder: RunFolder) -> LanguageModel:
    """Return the language model that a run began with."""
    return load_language_model(
        str(folder.reference), experiment.seed, placing.device_named(experiment.text.device)
    )


def load_reward(experiment: Experiment, network: None, folder: RunFolder) -> TextReward:
    """Return the unfitted reward model of an experiment, to be given a state."""
    text, language_model = experiment.text, load_reference(experiment, folder)
    autocast = placing.autocast(text, language_model.model.device)
    return TextReward(language_model, text.reward, experiment.seed, text.chat, autocast)


def _reference(
    experiment: Experiment, environment: gymnasium.Env, folder: RunFolder | None
) -> LanguageModel:
    """Load the model that a run begins with, fine-tuned on demonstrations if that is asked for."""
    text = experiment.text
    device = placing.device_named(text.device)
    made = folder is not None and folder.reference.exists()
    model = str(folder.reference) if folder is not None and made else text.model
    language_model = load_language_model(model, experiment.seed, device)
    placing.use_threads(language_model.model, experiment.threads)
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
            autocast=placing.autocast(text, language_model.model.device),
        ):  # fmt: skip
            pass
    return language_model
