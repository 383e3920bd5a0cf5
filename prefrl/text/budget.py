"""Whether the numbers of a language model's run go together.

What is refused is told a number that works.
"""

from __future__ import annotations

from prefrl.config.experiment import Experiment
from prefrl.config.text import (
    WITHOUT_REWARD,
    HindsightConfig,
    SelectConfig,
    TextConfig,
    TextRewardConfig,
    TinyConfig,
)
from prefrl.errors import UserError


def smallest_round(experiment: Experiment) -> int:
    """Return the turns of one update, if each episode has one; the most, of several learners."""
    text = experiment.text
    return max(text.alone(learner).agent.episodes for learner in text.schedule)


def check_budget(experiment: Experiment) -> None:
    """Raise `UserError` unless the numbers make sense together."""
    _check_model(experiment.text)
    _check_learner(experiment)
    _check_schedule(experiment)
    _check_restart(experiment)
    _check_sampling(experiment.text)
    for learner in dict.fromkeys(experiment.text.schedule):
        text = experiment.text.alone(learner)
        if learner == "select":
            _check_select(text.select)
        if learner == "hindsight":
            _check_completions_of_bands(text.hindsight)
        if "hindsight" in text.chosen:
            _check_instructions(text.hindsight)
        _check_completions(experiment, text)
        _check_episodes(text)
    _check_acquisition(experiment)
    rounds, smallest = experiment.round_count, smallest_round(experiment)
    if experiment.steps < rounds * smallest:
        most = experiment.steps // smallest
        raise UserError(
            f"{experiment.steps} turns in {rounds} rounds leave a round less than the {smallest} "
            "episodes of one update; use "
            + (f"--rounds {most} or fewer" if most else f"--rounds 1 --steps {smallest} or more")
        )


def _check_acquisition(experiment: Experiment) -> None:
    """Raise `UserError` if one network is asked what several disagree on."""
    if not experiment.learns_reward or experiment.query.acquisition != "disagreement":
        return
    if experiment.text.reward_is_policy:
        raise UserError(
            "--query.acquisition disagreement asks about what several networks disagree on, but "
            f"--text.learner {experiment.text.learner} fits one, the policy; use "
            "--query.acquisition entropy"
        )
    if experiment.text.reward_model.members == 1:
        raise UserError(
            "--query.acquisition disagreement asks about what the members of the reward model "
            "disagree on, but --text.reward-model.members is 1; use 2 or more, or "
            "--query.acquisition uniform"
        )


def _check_schedule(experiment: Experiment) -> None:
    """Raise `UserError` unless the learners of a schedule can follow each other."""
    text, rounds = experiment.text, experiment.round_count
    schedule = text.schedule
    if len(schedule) > rounds:
        raise UserError(
            f"--text.learner {text.learner!r} is of {len(schedule)} rounds, but the run has "
            f"{rounds}; use --rounds {len(schedule)} or more, or leave some out"
        )
    alone = next((name for name in schedule if name in WITHOUT_REWARD), None)
    if alone and {*schedule} != {alone}:
        raise UserError(
            f"--text.learner is {text.learner!r}, but {alone} fits the policy itself, and the "
            f"others need a reward model beside it; let {alone} learn by itself, or leave it out"
        )
    frozen = {name: getattr(text, name).freeze_layers for name in text.chosen}
    if len({*frozen.values()}) > 1:
        told = ", ".join(f"--text.{name}.freeze-layers {n}" for name, n in frozen.items())
        raise UserError(
            f"{told}, but the learners of --text.learner {text.learner!r} train the same layers of "
            f"one policy; use {max(frozen.values())} for all"
        )


def _check_restart(experiment: Experiment) -> None:
    """Raise `UserError` if a reward model has not the layers of the policy to begin with."""
    text = experiment.text
    if experiment.fit.restart != "policy" or not experiment.learns_reward:
        return
    if text.lora or text.reward_model.lora:
        raise UserError(
            "--fit.restart policy begins with all weights of the policy, but --text.lora and "
            "--text.reward-model.lora fit adapters alone; use --fit.restart first"
        )
    frozen, below = text.agent.freeze_layers, text.reward_model.freeze_layers
    if below > frozen:
        raise UserError(
            f"--fit.restart policy begins at the policy, of which {frozen} layers are frozen, but "
            f"--text.reward-model.freeze-layers is {below}, of layers that it trains; use {frozen}"
        )


def _check_select(select: SelectConfig) -> None:
    """Raise `UserError` unless something can be kept, and nothing is given that is passed over."""
    if select.completions_per_task < 2:
        raise UserError(
            "--text.select.completions-per-task is 1, but of one completion of a task none is "
            "better than another; use 2 or more"
        )
    rising = sorted({*select.thresholds})
    if not rising or tuple(rising) != select.thresholds:
        raise UserError(
            f"--text.select.thresholds is {' '.join(map(str, select.thresholds)) or 'empty'}; "
            "expected numbers that rise, 0.5 0.8 0.9 for instance"
        )
    usual, uses = SelectConfig(), {"share": "top", "thresholds": "above", "decay": "above"}
    for name, way in uses.items():
        if select.keep != way and getattr(select, name) != getattr(usual, name):
            raise UserError(
                f"--text.select.{name} is for --text.select.keep {way}, but that is {select.keep}; "
                "leave one of them out"
            )


def _check_instructions(hindsight: HindsightConfig) -> None:
    """Raise `UserError` unless instructions can tell bands of replies apart."""
    told = hindsight.instructions
    if len(told) < 2 or len({*told}) < len(told) or "" in told:
        raise UserError(
            f"--text.hindsight.instructions are {', '.join(map(repr, told)) or 'none'}; expected "
            "two or more that differ, from the worst to the best, such as '(bad) ' '(good) '"
        )


def _check_completions_of_bands(hindsight: HindsightConfig) -> None:
    """Raise `UserError` unless each band of the replies to a task can have one."""
    told, each = hindsight.instructions, hindsight.completions_per_task
    if each < len(told):
        raise UserError(
            f"--text.hindsight.completions-per-task is {each}, but there are {len(told)} "
            f"instructions, of which each is for some of them; use {len(told)} or more"
        )


def _check_model(text: TextConfig) -> None:
    """Raise `UserError` unless the model can be spoken to as is asked for."""
    if text.chat and text.plain:
        raise UserError("--text.chat and --text.plain say opposite things; leave one out")
    if text.tiny != TinyConfig() and text.model != "tiny":
        raise UserError(
            f"--text.tiny.context {text.tiny.context} is for --text.model tiny, but the model is "
            f"{text.model}, which looks back as far as it was trained to; leave it out"
        )
    if text.min_new_tokens > text.max_new_tokens:
        raise UserError(
            f"--text.min-new-tokens is {text.min_new_tokens}, but --text.max-new-tokens is "
            f"{text.max_new_tokens}; use {text.max_new_tokens} or less"
        )
    if "" in text.stop:
        raise UserError("--text.stop holds an empty text, which would end every reply at once")


def _check_learner(experiment: Experiment) -> None:
    """Raise `UserError` unless there is what the learner learns from, and nothing else is given."""
    if not experiment.text.reward_is_policy:
        return
    learner, options = experiment.text.learner, experiment.text.chosen[0]
    if not experiment.learns_reward:
        raise UserError(
            f"--reward is {experiment.reward!r}, but --text.learner {learner} learns from answers "
            "and takes no reward; leave one of them out"
        )
    if experiment.text.reward_model != TextRewardConfig():
        raise UserError(
            f"--text.reward-model is for a reward model, but --text.learner {learner} has none: "
            f"the policy itself is fitted; leave it out, --text.{options}.freeze-layers is the "
            "policy's"
        )


def _check_sampling(text: TextConfig) -> None:
    if text.top_k or text.top_p != 1:
        raise UserError(
            f"--text.top-k {text.top_k} --text.top-p {text.top_p} would cut off the distribution "
            "that replies are sampled from, and the KL divergence from the reference would come "
            "out wrong, since log-probabilities are of the whole distribution; use 0 and 1, and "
            "lower --text.temperature for likelier replies"
        )


def _check_completions(experiment: Experiment, text: TextConfig) -> None:
    """Raise `UserError` unless there are enough completions of a task to compare.

    Args:
        experiment: the numbers.
        text: of one of its learners.
    """
    if experiment.query.anchors:
        raise UserError(
            f"--query.anchors is {experiment.query.anchors}, but earlier completions are of other "
            "tasks, with which none can be compared; leave it out"
        )
    if experiment.query.same_start:
        raise UserError(
            "--query.same-start is for robots; the completions that a language model's queries "
            "show begin alike anyway, with one task; leave it out"
        )
    clips, each = experiment.query.size, text.agent.completions_per_task
    setting = f"--text.{text.chosen[0]}.completions-per-task is {each}"
    if experiment.learns_reward and each < clips:
        raise UserError(
            f"{setting}, but a query shows {clips} completions of one task; use {clips} or more"
        )
    if text.agent is text.ppo and text.ppo.advantage == "rloo" and each < 2:
        named = "learner" if text.learner == "rloo" else "ppo.advantage"
        raise UserError(
            f"{setting}, but --text.{named} rloo compares the completions of a task with "
            "each other; use 2 or more"
        )


def _check_episodes(text: TextConfig) -> None:
    """Raise `UserError` unless an update has whole tasks, and more than one episode."""
    episodes, each = text.agent.episodes, text.agent.completions_per_task
    setting = f"--text.{text.chosen[0]}.episodes is {episodes}"
    enough = max(2, episodes)
    near = -(-enough // each) * each
    if episodes % each:
        raise UserError(
            f"{setting}; expected a multiple of the {each} completions of each task, such as {near}"
        )
    if episodes < 2 and text.agent is text.ppo:
        raise UserError(
            f"{setting}, but advantages and a refitted reward are scaled "
            f"by how episodes differ; use {near} or more"
        )
