"""The options of an experiment: which there are in its domain, and what others mean."""

import argparse
import ast
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from prefrl.config.control import ControlConfig
from prefrl.config.experiment import Experiment
from prefrl.config.fields import options
from prefrl.config.text import TextConfig
from prefrl.errors import UserError

RENAMED = {
    "network.": "reward-model.",
    "text.reward.": "text.reward-model.",
    "mistake": "oracle.mistake",
    "query.clip-seconds": "clip-seconds",
}
"""How options began once, and how they begin now."""


def parse_env_kwargs(words: Sequence[str]) -> dict[str, Any]:
    """Return what words such as is_slippery:False, map_name:8x8 give an environment's constructor.

    A value is a Python literal (a number, True, None, a list …); anything else is a text.

    Raises:
        UserError: a word is no NAME:VALUE.
    """
    pairs = [word.partition(":") for word in words]
    for word, (name, colon, _) in zip(words, pairs, strict=True):
        if not (name.isidentifier() and colon):
            raise UserError(
                f"--env-kwargs is given {word!r}; expected NAME:VALUE, as in is_slippery:False"
            )
    return {name: _literal(value) for name, _, value in pairs}


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


EnvKwargs = Annotated[
    dict[str, Any],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME:VALUE",
        instance_from_str=parse_env_kwargs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda given: [f"{name}:{value}" for name, value in given.items()],
    ),
]


@dataclass(frozen=True)
class RobotOptions(Experiment):
    """An experiment with a robot, as the command line asks for it."""

    env_kwargs: EnvKwargs = field(default_factory=dict)
    domain: Annotated[ControlConfig, arg(name=ControlConfig.prefix)] = field(
        default_factory=ControlConfig
    )


@dataclass(frozen=True)
class TextOptions(Experiment):
    """An experiment with a language model, as the command line asks for it."""

    env_kwargs: EnvKwargs = field(default_factory=dict)
    domain: Annotated[TextConfig, arg(name=TextConfig.prefix)] = field(default_factory=TextConfig)


def as_options(default: Experiment) -> RobotOptions | TextOptions:
    """Return an experiment as what the command line asks for, with the options of its domain."""
    kind = TextOptions if isinstance(default.domain, TextConfig) else RobotOptions
    return kind(**vars(default))


def as_experiment(chosen: Experiment) -> Experiment:
    """Return the plain experiment that options were chosen for."""
    fields = dataclasses.fields(Experiment)
    return Experiment(**{field.name: getattr(chosen, field.name) for field in fields})


def named_environment(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return what --env names, "" if nothing, and its --env-kwargs: other options depend on it."""
    parser = _parser("--env")
    parser.add_argument("--env-kwargs", "--env_kwargs", nargs="*", default=[])
    try:
        known = parser.parse_known_args(words)[0]
    except argparse.ArgumentError:  # nothing comes after it, as the parser of all options will say
        return "", {}
    return known.env, parse_env_kwargs(known.env_kwargs)


def named_teacher(words: Sequence[str]) -> str:
    """Return what --teacher names, "" if nothing: it may name the faults of the oracle."""
    return _named("teacher", words)


def in_full(words: Sequence[str], default: Experiment) -> list[str]:
    """Return words in which --learner, which every domain has, is spelled as the domain's own."""
    full = f"--{_learner(default)}"
    return [re.sub(r"^--learner(?=$|=)", full, word) for word in words]


def named_learner(words: Sequence[str], default: Experiment) -> str:
    """Return what --learner names, "" if nothing: each has options of its own."""
    return _named(_learner(default), words)


def _learner(default: Experiment) -> str:
    return _join(default.domain, "learner") if default.domain else "learner"


def _named(option: str, words: Sequence[str]) -> str:
    try:
        return getattr(_parser(f"--{option}").parse_known_args(words)[0], option)
    except argparse.ArgumentError:
        return ""


def _parser(option: str) -> argparse.ArgumentParser:
    """Return a parser that knows one option."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(option, default="")
    return parser


def meaning(name: str, experiment: Experiment) -> str:
    """Say what an option means that an experiment has not; "" if it means nothing anywhere.

    Args:
        name: of the option: "network.members".
        experiment: whose options were expected.
    """
    old = next((begin for begin in RENAMED if name.startswith(begin)), "")
    now = RENAMED[old] + name.removeprefix(old) if old else name
    known = _names(experiment)
    if now in known:
        return f"--{name} is called --{now} now"
    here = "text" if isinstance(experiment.domain, TextConfig) else "numbers"
    but = f", but {experiment.env} is an environment of {here}" if experiment.env else ""
    for other, whose in ((ControlConfig(), "robots"), (TextConfig(), "language models")):
        if now in _names(other, other.prefix):
            twin = _join(experiment.domain, now.removeprefix(other.prefix).removeprefix("."))
            advice = f"use --{twin}" if twin in known else "leave it out"
            return f"--{name} is for {whose}{but}; {advice if but else 'name one with --env ID'}"
    return ""


def _join(config: Any, name: str) -> str:
    return f"{config.prefix}.{name}" if config.prefix else name


def _names(config: Any, prefix: str = "") -> set[str]:
    return {option.name for option in options(config, prefix and f"{prefix}.")}
