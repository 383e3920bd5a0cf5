"""Whether the numbers of a language model's run go together.

What is refused is told a number that works.
"""

from __future__ import annotations

from prefrl.config.experiment import Experiment
from prefrl.config.text import TextConfig, TextRewardConfig, TinyConfig
from prefrl.errors import UserError


def smallest_round(experiment: Experiment) -> int:
    """Return the turns of one update, if each episode has one."""
    return experiment.text.agent.episodes


def check_budget(experiment: Experiment) -> None:
    """Raise `UserError` unless the numbers make sense together."""
    _check_model(experiment.text)
    _check_learner(experiment)
    _check_sampling(experiment.text)
    _check_completions(experiment)
    _check_episodes(experiment.text)
    learner, query = experiment.text.learner, experiment.query
    if learner == "direct" and query.acquisition == "disagreement":
        raise UserError(
            "--query.acquisition disagreement asks about what several networks disagree on, but "
            "--text.learner direct fits one, the policy; use --query.acquisition entropy"
        )
    alone = learner == "ppo" and experiment.text.reward_model.members == 1
    if experiment.learns_reward and alone and query.acquisition == "disagreement":
        raise UserError(
            "--query.acquisition disagreement asks about what the members of the reward model "
            "disagree on, but --text.reward-model.members is 1; use 2 or more, or "
            "--query.acquisition uniform"
        )
    rounds, smallest = experiment.round_count, smallest_round(experiment)
    if experiment.steps < rounds * smallest:
        most = experiment.steps // smallest
        raise UserError(
            f"{experiment.steps} turns in {rounds} rounds leave a round less than the {smallest} "
            "episodes of one update; use "
            + (f"--rounds {most} or fewer" if most else f"--rounds 1 --steps {smallest} or more")
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
    if experiment.text.learner != "direct":
        return
    if not experiment.learns_reward:
        raise UserError(
            f"--reward is {experiment.reward!r}, but --text.learner direct learns from answers and "
            "takes no reward; leave one of them out"
        )
    if experiment.text.reward_model != TextRewardConfig():
        raise UserError(
            "--text.reward-model is for a reward model, but --text.learner direct has none: the "
            "policy itself is fitted; leave it out, --text.direct.freeze-layers is the policy's"
        )


def _check_sampling(text: TextConfig) -> None:
    if text.top_k or text.top_p != 1:
        raise UserError(
            f"--text.top-k {text.top_k} --text.top-p {text.top_p} would cut off the distribution "
            "that replies are sampled from, and the KL divergence from the reference would come "
            "out wrong, since log-probabilities are of the whole distribution; use 0 and 1, and "
            "lower --text.temperature for likelier replies"
        )


def _check_completions(experiment: Experiment) -> None:
    """Raise `UserError` unless there are enough completions of a task to compare."""
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
    text, clips = experiment.text, experiment.query.size
    each = text.agent.completions_per_task
    setting = f"--text.{text.learner}.completions-per-task is {each}"
    if experiment.learns_reward and each < clips:
        raise UserError(
            f"{setting}, but a query shows {clips} completions of one task; use {clips} or more"
        )
    if text.learner == "ppo" and text.ppo.advantage == "rloo" and each < 2:
        raise UserError(
            f"{setting}, but --text.ppo.advantage rloo compares the completions of a task with "
            "each other; use 2 or more"
        )


def _check_episodes(text: TextConfig) -> None:
    """Raise `UserError` unless an update has whole tasks, and more than one episode."""
    episodes, each = text.agent.episodes, text.agent.completions_per_task
    setting = f"--text.{text.learner}.episodes is {episodes}"
    enough = max(2, episodes)
    near = -(-enough // each) * each
    if episodes % each:
        raise UserError(
            f"{setting}; expected a multiple of the {each} completions of each task, such as {near}"
        )
    if episodes < 2 and text.learner == "ppo":
        raise UserError(
            f"{setting}, but advantages and a refitted reward are scaled "
            f"by how episodes differ; use {near} or more"
        )
