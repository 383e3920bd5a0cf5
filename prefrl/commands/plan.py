"""`prefrl plan`: what a run will need, before anything is bought or begun."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from prefrl.commands.console import live_line, say
from prefrl.config.fields import Count
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.config.experiment import Experiment
    from prefrl.config.text import TextConfig

GB = 1e9
LORA_RANK = 16
FROZEN_SHARE = 2 / 3


@dataclass(frozen=True)
class Plan:
    """PRESET | RUN: tell what a run will need: GPUs, time, people's time."""

    experiment: Annotated[Positional[str], arg(metavar="PRESET|RUN")]
    """A preset, or the folder of a run, whose settings are taken."""
    gpus: Count = 1
    """How many there are; a language model's weights and episodes are spread over them."""
    kind: str = "h200"
    """Of the GPUs: a100, h100, h200 or l40s."""
    prompt_tokens: Count = 64
    """Tokens before a reply, as the environment's tasks have them."""


def plan(chosen: Plan) -> None:
    """Print what a run will need."""
    from prefrl.config.text import TextConfig
    from prefrl.reports.plan import KINDS

    if chosen.kind not in KINDS:
        raise UserError(f"--kind is {chosen.kind!r}; expected one of {', '.join(sorted(KINDS))}")
    experiment = _experiment(chosen.experiment)
    if isinstance(experiment.domain, TextConfig):
        _plan_text(experiment.domain, chosen)
    else:
        _plan_control(experiment)
    _plan_people(experiment)


def _experiment(name: str) -> "Experiment":
    """Return the experiment of a preset or of a run's folder."""
    from prefrl.config.presets import PRESETS
    from prefrl.storage.folder import RunFolder

    if name in PRESETS:
        return PRESETS[name].experiment
    if not Path(name).exists():
        raise UserError(f"there is no preset and no run {name!r}; `prefrl list` shows the presets")
    return RunFolder.open(name).experiment()


def _plan_text(text: "TextConfig", chosen: Plan) -> None:
    from prefrl.learning.statistics import aligned
    from prefrl.reports import plan as planned

    kind = planned.KINDS[chosen.kind]
    few = f"{chosen.gpus} × {chosen.kind}, {kind.memory / GB:.0f} GB each"
    say(
        f"{few}: by arithmetic, not measured; seconds may be off by two either way",
        f"an iteration: {text.ppo.episodes} episodes of {chosen.prompt_tokens} + "
        f"{text.max_new_tokens} tokens, {text.ppo.n_epochs} passes over them",
    )
    head = ["model", "trained", "GB a GPU", "fits", "tokens/s", "sample", "passes", "update", "all"]
    lines = [head]
    for size, shape in planned.SHAPES.items():
        frozen = round(FROZEN_SHARE * shape.layers)
        for way, settings in {
            "all weights": planned.with_frozen(planned.with_lora(text, 0), 0),
            f"all but {frozen} layers": planned.with_frozen(planned.with_lora(text, 0), frozen),
            f"LoRA {LORA_RANK}": planned.with_frozen(planned.with_lora(text, LORA_RANK), 0),
        }.items():
            need = planned.memory(shape, settings, chosen.prompt_tokens, chosen.gpus).total
            took = planned.times(shape, settings, chosen.prompt_tokens, kind, chosen.gpus)
            parts = [took.sampling, took.passes, took.update, took.total]
            lines.append(
                [size, way, f"{need / GB:.1f}", "yes" if need < kind.memory else "no"]
                + [f"{took.sampled_a_second:,.0f}"]
                + [f"{seconds:.1f} s" for seconds in parts]
            )
    say(*aligned(lines))


def _plan_control(experiment: "Experiment") -> None:
    from prefrl.runs.cell import steps_per_second

    with live_line() as show:
        show("measuring for a few seconds", False)
        pace = steps_per_second(experiment)
    minutes = experiment.steps / pace / 60
    say(
        f"{pace:,.0f} steps/s, measured here on {experiment.threads} thread(s) without the fits: "
        f"{experiment.steps:,} steps take {minutes:.0f} minutes; a GPU changes nothing of that"
    )


def _plan_people(experiment: "Experiment") -> None:
    from prefrl.reports.plan import seconds_an_answer

    if not experiment.learns_reward or not experiment.labels:
        return
    seconds = seconds_an_answer(experiment)
    say(
        f"a person gives about {3600 / seconds:,.0f} answers an hour, each about "
        f"{experiment.query.size} clips; {experiment.labels} take "
        f"{experiment.labels * seconds / 60:.0f} minutes"
    )
