"""From an experiment to the components of a language model's run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from prefrl.config.experiment import Experiment, check_aspects, check_one_aspect
from prefrl.config.text import TextConfig
from prefrl.contracts import Components, Network
from prefrl.environments import contract
from prefrl.environments.aspects import aspects_of, chosen_aspects
from prefrl.environments.ids import holds_text, make, resolve
from prefrl.errors import UserError
from prefrl.guide import guide_of
from prefrl.learning import parallel
from prefrl.learning.composed import ComposedReward
from prefrl.learning.true_reward import TrueReward
from prefrl.storage.checkpoint import from_bytes
from prefrl.storage.folder import RunFolder
from prefrl.text import budget
from prefrl.text.agents.direct import DirectAgent
from prefrl.text.agents.hindsight import HindsightAgent, ToldAgent
from prefrl.text.agents.ppo import TextAgent
from prefrl.text.agents.sampling import SamplingAgent
from prefrl.text.agents.schedule import ScheduledAgent
from prefrl.text.agents.select import SelectAgent
from prefrl.text.check import check_environment
from prefrl.text.direct import DirectReward
from prefrl.text.hindsight import HindsightReward
from prefrl.text.models.device import (
    Autocast,
    autocast_for,
    describe_model,
    enough_memory,
    find_device,
    in_fixed_order,
    use_threads,
)
from prefrl.text.models.load import LanguageModel, load_language_model, save_language_model
from prefrl.text.models.lora import add_adapters, copied, merge
from prefrl.text.policy import TextPolicy
from prefrl.text.reward import TextReward
from prefrl.text.stages.sft import from_environment, short_enough, tune
from prefrl.types import EnvironmentCard, SpaceSpec

TEXT = SpaceSpec(text=True)
TURN_SECONDS = 1.0  # what a page of clips calls a step; a turn has no length in time
LONGEST_EPISODE = 1000  # turns; one that goes on for ever ends where the context does
LOW_ENTROPY = 0.1  # nats per token; there is next to nothing to prefer among such replies


def build(
    experiment: Experiment, network: Network | None = None, folder: RunFolder | None = None
) -> Components:
    """Check the numbers; build environments, agent and reward.

    Args:
        experiment: what to run.
        network: must be None; a reward model for text is a language model.
        folder: a run whose reference is taken up, instead of making one.

    Raises:
        UserError: model and environment do not go with these numbers.
    """
    _check_no_network(network)
    text = experiment.text
    spec = resolve(experiment.env, experiment.env_kwargs)
    environments = [make(spec)]
    if not holds_text(environments[0], spec.id):
        raise UserError(
            f"{spec.id} does not speak text, but the settings are those of a language model, "
            "TextConfig(); expected ControlConfig(), or none (domain=None)"
        )
    budget.check_budget(experiment)
    notes = _contract_notes(spec) if folder is None else []
    environments += [make(spec) for _ in range(1, budget.smallest_round(experiment))]
    language_model, text, reference_notes = _reference(experiment, folder)
    experiment = dataclasses.replace(experiment, domain=text)
    notes += reference_notes
    autocast = autocast_for(text, language_model.model.device)
    begun = language_model
    if parallel.count() > 1 and parallel.is_first():  # it will be split among processes
        begun = LanguageModel(copy.deepcopy(language_model.model), language_model.tokenizer)
    elif text.lora:  # adapters will be put into the model; what it began as is saved without them
        language_model.model.requires_grad_(False)
        begun = LanguageModel(copied(language_model.model), language_model.tokenizer)

    guide = guide_of(environments[0].unwrapped.metadata, spec.id)

    def save(run: RunFolder) -> None:
        run.save_guide(guide)
        if not run.reference.exists():
            save_language_model(begun, run.reference)

    notes += [describe_model(text.model, language_model.model, text)]
    reward_model: TextReward | DirectReward | HindsightReward | ComposedReward | None = None
    card = card_of(environments[0])
    known = card.aspects
    aspects = (
        folder.card().aspects if folder else chosen_aspects(experiment.aspects, known, spec.id)
    )
    check_aspects(experiment, aspects)
    members = [] if text.reward_is_policy else ["text.reward-model.members"]
    with _explained(
        text, f"text.{text.chosen[0]}.batch-size", "text.max-new-tokens", *members
    ):  # fmt: skip
        given = environments, language_model, text, experiment.seed, autocast
        agent: SamplingAgent | ScheduledAgent
        if text.reward_is_policy:
            check_one_aspect(aspects)
            agent = _agent_without_reward(*given)
            reward_model = _own_reward(agent)
        else:
            if experiment.learns_reward:
                reward_model = _reward_model(experiment, language_model, aspects)
                for part in _parts(reward_model):
                    part.shard()
            agent = _agent(*given, experiment.steps)
        if reward_model and reward_model.members == 1:
            notes += [
                f"{_what_is_fitted(text)} is one network: it learns from all answers but a share "
                f"of {experiment.fit.held_out:g} of the queries, which judge it (--fit.held-out)"
            ]
        notes += warn_if_deterministic("the model", agent.entropy())

    def close() -> None:
        for environment in environments:
            contract.close(environment)

    return Components(
        agent=agent,
        reward=reward_model or TrueReward(whole_episodes=True),
        reward_model=reward_model,
        card=dataclasses.replace(card, aspects=aspects),
        clip_steps=None,
        pictures=lambda segments: {},  # text is shown as text
        distance=reward_model.distance if reward_model else None,
        save=save,
        notes=tuple(notes),
        domain=text,
        close=close,
    )


def _agent(
    environments: list[gymnasium.Env], language_model: LanguageModel, text: TextConfig, seed: int,
    autocast: Autocast, total_steps: int,
) -> SamplingAgent | ScheduledAgent:  # fmt: skip
    """Return the agent that learns from a reward, or several in turn; see `TextAgent`."""
    agents: dict[str, SamplingAgent] = {}
    # The critic is the first one's, and PPO alone has one.
    for learner in sorted({*text.schedule}, key=lambda name: (name != "ppo", name)):
        config, beside = text.alone(learner), next(iter(agents.values()), None)
        given = environments, language_model, config, seed, autocast
        if learner == "select":
            agents[learner] = SelectAgent(*given, beside)
        elif learner == "hindsight":
            agents[learner] = HindsightAgent(*given, beside)
        else:
            agents[learner] = TextAgent(*given, total_steps, beside)
    return ScheduledAgent(agents, text.schedule) if len(agents) > 1 else agents[text.schedule[0]]


def card_of(env: EnvSpec | gymnasium.Env) -> EnvironmentCard:
    """Return what others must know of a language environment.

    Raises:
        UserError: it does not speak text, or cannot be made.
    """
    environment = make(env) if isinstance(env, EnvSpec) else env
    if isinstance(env, EnvSpec) and not holds_text(environment, env.id):
        raise UserError(
            f"{env.id} does not speak text, as language models do; name an environment of text"
        )
    question = environment.unwrapped.metadata.get("question", "Which reply is better?")
    aspects = aspects_of(environment.unwrapped.metadata, contract.name_of(environment))
    return EnvironmentCard("prefrl.text:DOMAIN", TURN_SECONDS, question, TEXT, TEXT, aspects)


def _contract_notes(spec: EnvSpec) -> list[str]:
    """Return what the contract test says of an environment, as notes.

    What training cannot do with, the first episodes refuse; the test is stricter than that.
    """
    try:
        return check_environment(spec, LONGEST_EPISODE, demonstrations=False)
    except UserError as error:
        return [str(error)]


def warn_if_deterministic(who: str, entropy: float) -> list[str]:
    """Return a warning if a model, with so many nats per token, always says the same."""
    if entropy >= LOW_ENTROPY:
        return []
    return [
        f"{who} is nearly deterministic: it hardly varies its replies ({entropy:.3f} nats a "
        "token), so there is little to compare and to learn, and a divergence from it means "
        "little; raise --text.temperature, or begin with a model fine-tuned for less long"
    ]


def load_policy(
    experiment: Experiment, agent_state: dict[str, Any], folder: RunFolder
) -> TextPolicy:
    """Return the policy of an agent's state dict; adapters are merged into its weights."""
    text = experiment.text
    language_model = load_reference(experiment, folder)
    trained = {
        name.removeprefix("model."): weights
        for name, weights in agent_state["networks"].items()
        if name.startswith("model.")
    }
    if text.lora:
        add_adapters(language_model.model, text.lora, text.agent.freeze_layers, experiment.seed)
    language_model.model.load_state_dict(trained, strict=False)
    merge(language_model.model)
    policy = TextPolicy(language_model, text, autocast_for(text, language_model.model.device))
    policy.instruction = agent_state.get("instruction", "")
    return policy


def load_reference(experiment: Experiment, folder: RunFolder) -> LanguageModel:
    """Return the language model that a run began with."""
    return load_language_model(
        str(folder.reference), experiment.seed, find_device(experiment.text.device)
    )


def load_reward(
    experiment: Experiment, network: Network | None, folder: RunFolder
) -> TextReward | DirectReward | HindsightReward | ComposedReward:
    """Return the unfitted reward model of an experiment, to be given a state.

    One that is the policy has the weights of the newest checkpoint.
    """
    _check_no_network(network)
    language_model = load_reference(experiment, folder)
    if not experiment.text.reward_is_policy:
        return _reward_model(experiment, language_model, folder.card().aspects)
    text, data = experiment.text, folder.checkpoint()
    autocast = autocast_for(text, language_model.model.device)
    agent = _agent_without_reward([], language_model, text, experiment.seed, autocast)
    agent.load_state_dict(from_bytes(data)["agent"] if data else agent.state_dict())
    return _own_reward(agent)


def _agent_without_reward(
    environments: list[gymnasium.Env], language_model: LanguageModel, text: TextConfig, seed: int,
    autocast: Autocast,
) -> DirectAgent | ToldAgent:  # fmt: skip
    """Return the agent that learns from the answers themselves."""
    kind = DirectAgent if text.chosen == ("direct",) else ToldAgent
    return kind(environments, language_model, text, seed, autocast)


def _own_reward(agent: DirectAgent | ToldAgent) -> DirectReward | HindsightReward:
    """Return the reward that the policy of an agent stands for."""
    if isinstance(agent, ToldAgent):
        return HindsightReward(agent)
    policy = agent.policy
    return DirectReward(agent.networks, policy.template, policy.context, agent.config)


def _what_is_fitted(text: TextConfig) -> str:
    return "the policy" if text.reward_is_policy else "the reward model"


def _reward_model(
    experiment: Experiment, language_model: LanguageModel, aspects: Mapping[str, str]
) -> TextReward | ComposedReward:
    """Build the reward model, or of several aspects one for each."""
    text = experiment.text

    def ensemble() -> TextReward:
        return TextReward(
            language_model, text.reward_model, experiment.seed, text.chat,
            autocast_for(text, language_model.model.device),
            micro_batch_size=text.micro_batch_size,
            gradient_checkpointing=text.gradient_checkpointing,
            newest=language_model.model if experiment.fit.restart == "policy" else None,
        )  # fmt: skip

    if len(aspects) < 2:
        return ensemble()
    parts = {aspect: ensemble() for aspect in aspects}
    return ComposedReward(parts, experiment.rule, whole_episodes=True)


def _parts(reward_model: TextReward | ComposedReward) -> list[TextReward]:
    """Return the reward models of a reward model, one an aspect."""
    if isinstance(reward_model, TextReward):
        return [reward_model]
    return [part for part in reward_model.parts.values() if isinstance(part, TextReward)]


def _check_no_network(network: Any) -> None:
    if network is not None:
        raise UserError(
            "a reward network of your own is for environments of numbers; a reward model for text "
            "is a language model, see TextRewardConfig"
        )


def _reference(
    experiment: Experiment, folder: RunFolder | None
) -> tuple[LanguageModel, TextConfig, list[str]]:
    """Return the model that a run begins with, fine-tuned if that is asked for.

    Also return how it is spoken to, which for a new run follows from the model, and notes.
    """
    text = experiment.text
    device = find_device(text.device)
    if text.deterministic:
        in_fixed_order(device)
    is_saved = folder is not None and folder.reference.exists()
    model = str(folder.reference) if folder is not None and is_saved else text.model
    language_model = load_language_model(model, experiment.seed, device, context=text.tiny.context)
    use_threads(language_model.model, experiment.threads)
    notes: list[str] = []
    if (
        folder is None
        and not text.chat
        and not text.plain
        and language_model.tokenizer.chat_template
    ):
        text = dataclasses.replace(text, chat=True)
        notes.append(
            f"{Path(text.model).name} is spoken to through its chat template; --text.plain does "
            "without"
        )
    if text.demonstrations and not is_saved:
        demonstrations = from_environment(
            resolve(experiment.env, experiment.env_kwargs), text.demonstrations, experiment.seed
        )
        demonstrations = [dataclasses.replace(talk, system=text.system) for talk in demonstrations]
        demonstrations, more = short_enough(language_model, demonstrations, text.chat)
        notes += more
        # The model is still whole in each process: gradients of shares would never be added up.
        with parallel.by_itself(), _explained(text, "text.sft-batch-size"):
            for _ in tune(
                language_model, demonstrations, epochs=text.sft_epochs,
                learning_rate=text.sft_learning_rate, batch_size=text.sft_batch_size,
                seed=experiment.seed, chat=text.chat,
                autocast=autocast_for(text, language_model.model.device),
                micro_batch_size=text.micro_batch_size,
                gradient_checkpointing=text.gradient_checkpointing,
            ):  # fmt: skip
                pass
    return language_model, text, notes


@contextmanager
def _explained(text: TextConfig, *memory: str) -> Iterator[None]:
    """Say in a sentence what to lower, before there is a run: of memory, or of a learning rate."""
    try:
        with enough_memory(*memory, resumable=False):
            yield
    except FloatingPointError:
        raise UserError(
            f"the language model {text.model} gives no finite numbers; "
            + (
                f"lower --text.sft-learning-rate, now {text.sft_learning_rate}"
                if text.demonstrations
                else "take another --text.model"
            )
        ) from None
