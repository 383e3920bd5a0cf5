"""From a file, TOML or Python, to the cells of a sweep.

In TOML each key is an option of `prefrl train`. A list makes an axis of it, and variants are sets
of options with a name, one axis a table; a list inside one is an axis of that variant alone:

    preset = "hopper-backflip"
    seed = [0, 1, 2]

    [variants.question.pairs]
    labels = [50, 200]

    [variants.question.rankings]
    query.kind = "ranking"
    query.clips = 6
    labels = 50

    [variants.question.none]
    reward = "true"

    [sweep]
    episodes = 20

A Python file has a function `experiments()`, which returns the experiments, and may have a dict
`sweep`. The axes are then the options in which the experiments differ.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import itertools
import json
import math
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefrl.config.experiment import (
    Experiment,
    check_experiment,
    with_named_teacher,
)
from prefrl.config.fields import changed, check_fields, is_row, options
from prefrl.config.learners import with_learner
from prefrl.config.learning import FitConfig, OracleConfig, QueryConfig
from prefrl.config.sweep import SEED, Cell, Sweep, axes_in_words, cell_name, experiment_key
from prefrl.errors import UserError, raised_by
from prefrl.runs.domains import default_experiment
from prefrl.storage.files import reading

PRESET, ENV, ENV_KWARGS = "preset", "env", "env-kwargs"
TASK = {PRESET, ENV, ENV_KWARGS, "horizon"}
SETTINGS, VARIANTS = "sweep", "variants"

Values = dict[str, Any]
"""Values of options by name; in a grid a list of them is an axis."""


def read_sweep(path: Path) -> Sweep:
    """Read a sweep from a file of TOML or Python.

    Raises:
        UserError: it cannot be read, or something in it is wrong; the message says what.
    """
    try:
        if path.suffix == ".py":
            return _from_python(path)
        with reading(path) as lines:
            return make_sweep(tomllib.loads(lines.read()))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from error


def make_sweep(table: Mapping[str, Any]) -> Sweep:
    """Return the cells of a grid.

    Args:
        table: as TOML has it: values, lists of values and tables of options; `variants`, `sweep`.

    Raises:
        UserError: there is no such option, or values do not go together.
    """
    table = dict(table)
    settings = _table(table.pop(SETTINGS, {}), SETTINGS)
    variants = {
        axis: {
            name: _flat(_table(values, f"{VARIANTS}.{axis}.{name}"))
            for name, values in _table(named, f"{VARIANTS}.{axis}").items()
        }
        for axis, named in _table(table.pop(VARIANTS, {}), VARIANTS).items()
    }
    common = _flat(table)
    cells: list[tuple[Values, Experiment]] = []
    for chosen in _product({axis: list(named) for axis, named in variants.items()}):
        cells += _expanded(common | _chosen(variants, chosen), chosen)
    tasks = [a for a, named in variants.items() if any(TASK & {*v} for v in named.values())]
    return _sweep(_merged(cells), [*TASK, *tasks], settings)


def _from_python(path: Path) -> Sweep:
    """Return the sweep of a module's `experiments()`."""
    here = str(path.parent.absolute())
    if here not in sys.path:  # for its neighbours
        sys.path.insert(0, here)
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        experiments = [*module.experiments()]
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody's module raises
        what = raised_by("asking it for experiments()", error)
        raise UserError(f"{what}; expected a module with a function experiments()") from error
    if wrong := [one for one in experiments if not isinstance(one, Experiment)]:
        raise UserError(f"experiments() returned {wrong[0]!r:.80}; expected Experiments")
    complete = [_checked(_with_domain(experiment)) for experiment in experiments]
    settings = _table(getattr(module, SETTINGS, {}), SETTINGS)
    return _sweep(_merged(zip(_differences(complete), complete, strict=True)), TASK, settings)


def _with_domain(experiment: Experiment) -> Experiment:
    if experiment.domain is not None or not experiment.env:
        return experiment
    default = default_experiment("", experiment.env, experiment.env_kwargs)
    return replace(experiment, domain=default.domain)


def _differences(experiments: list[Experiment]) -> list[Values]:
    """Return the options of each experiment in which they differ, and its seed."""
    every = [{option.name: _json(option.value) for option in options(e)} for e in experiments]
    names = {name: None for values in every for name in values}
    differing = [
        name
        for name in names
        if len({json.dumps(values.get(name), sort_keys=True) for values in every}) > 1
    ]
    order = [*(name for name in differing if name != SEED), SEED]
    return [{name: values[name] for name in order if name in values} for values in every]


def _json(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _sweep(
    cells: list[tuple[Values, Experiment]], tasks: Iterable[str], settings: Mapping[str, Any]
) -> Sweep:
    """Return a sweep whose cells have names; those of the first seed come first."""
    names = {field.name for field in dataclasses.fields(Sweep)} - {"cells", "tasks"}
    for name in settings:
        if name not in names:
            raise _unknown(name, names, f"[{SETTINGS}]")
    if not cells:
        raise UserError("there is nothing to run; expected at least one experiment")
    known = {axis for axes, _ in cells for axis in axes}
    in_order = sorted(cells, key=lambda cell: cell[1].seed)  # so that a table says something early
    sweep = Sweep(
        tuple(Cell(cell_name(axes, e), axes, e) for axes, e in in_order),
        tuple(sorted({*tasks} & known)), **settings,
    )  # fmt: skip
    check_fields(replace(sweep, cells=()))
    return sweep


def _table(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{name} is {value!r:.80}; expected a table, [{name}]")
    return value


def _flat(table: Mapping[str, Any], prefix: str = "") -> Values:
    """Return the options of nested tables by their names on the command line."""
    flat: Values = {}
    for key, value in table.items():
        name = prefix + key.replace("_", "-")
        inner = isinstance(value, Mapping) and name != ENV_KWARGS
        for found, one in (_flat(value, f"{name}.") if inner else {name: value}).items():
            if found in flat:
                raise UserError(f"{found} is given twice; leave one out")
            flat[found] = one
    return flat


def _chosen(variants: Mapping[str, Mapping[str, Values]], chosen: Values) -> Values:
    """Return the options of one variant on each axis."""
    whose: dict[str, str] = {}
    together: Values = {}
    for axis, name in chosen.items():
        for option, value in variants[axis][name].items():
            if option in whose:
                raise UserError(
                    f"{option} is given by the variants {whose[option]} and {axis}; expected it in "
                    "one of them"
                )
            whose[option], together[option] = axis, value
    return together


def _expanded(values: Values, chosen: Values) -> Iterator[tuple[Values, Experiment]]:
    """Yield each cell of a grid whose variants are chosen: its axes and its experiment."""
    of_task = {name: values[name] for name in (PRESET, ENV, ENV_KWARGS) if name in values}
    rest = {name: value for name, value in values.items() if name not in of_task}
    for task in _product({name: _axis(name, value, False) for name, value in of_task.items()}):
        default = _default(task)
        known = {option.name: option.hint for option in options(default)}
        for name in rest:
            if name not in known:
                raise _unknown(name, [*known, PRESET, SETTINGS, VARIANTS], default.env)
        choices = {n: _axis(n, value, is_row(known[n])) for n, value in rest.items()}
        for one in _product(choices):
            rows = {n: tuple(v) if isinstance(v, list) else v for n, v in one.items()}
            given = {name: value for name, value in task.items() if name != PRESET}
            begin = with_learner(default, one.get("learner", one.get("text.learner", "")))
            experiment = _checked(changed(begin, {"threads": 1} | given | rows))
            axes = {n: v for n, v in task.items() if _is_axis(of_task[n], False)} | chosen
            axes |= {
                n: v for n, v in one.items() if _is_axis(rest[n], is_row(known[n])) and n != SEED
            }
            yield {n: _json(v) for n, v in axes.items()} | {SEED: experiment.seed}, experiment


def _is_axis(value: Any, row: bool) -> bool:
    """Return whether a value is a list of values; of an option of rows that is a list of lists."""
    return isinstance(value, list) and (not row or any(isinstance(one, list) for one in value))


def _axis(name: str, value: Any, row: bool) -> list[Any]:
    if value == [] and not row:
        raise UserError(f"{name} is an empty list; expected values to try")
    return value if _is_axis(value, row) else [value]


def _product(choices: Mapping[str, list[Any]]) -> Iterator[Values]:
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _default(task: Values) -> Experiment:
    """Return what the options of a cell change."""
    for option, value in task.items():
        if not isinstance(value, dict if option == ENV_KWARGS else str):
            expected = "a table, as in {g = 1.62}" if option == ENV_KWARGS else "a text"
            raise UserError(f"{option} is {value!r:.80}; expected {expected}")
    name, env, env_kwargs = task.get(PRESET, ""), task.get(ENV, ""), task.get(ENV_KWARGS, {})
    if not name and not env:
        raise UserError(
            'nothing to train on; name a preset (preset = "…", `prefrl list` shows them) or an '
            'environment (env = "…")'
        )
    return default_experiment(name, env, env_kwargs)


def _checked(experiment: Experiment) -> Experiment:
    """Return an experiment without what it does not use.

    Raises:
        UserError: its numbers make no sense, or people would have to answer.
    """
    check_experiment(experiment)
    experiment = with_named_teacher(experiment)
    if not experiment.env:
        raise UserError("an experiment has no env; name one")
    if not experiment.learns_reward:  # it reads no answer, so that this is one run, not several
        question = experiment.question if experiment.is_graded else ""
        return replace(
            experiment, teacher="oracle", question=question, instructions="",
            labels=Experiment.labels,
            query=QueryConfig(explore_steps=experiment.query.explore_steps),
            fit=FitConfig(), oracle=OracleConfig(),
        )  # fmt: skip
    if experiment.asks_people:
        raise UserError(
            "the teacher is human, but nobody sits beside a sweep; expected oracle or MODULE:OBJECT"
        )
    return experiment


def _merged(cells: Iterable[tuple[Values, Experiment]]) -> list[tuple[Values, Experiment]]:
    """Return cells without those that are the same run on a reward that is given.

    Raises:
        UserError: others are the same, too.
    """
    found: dict[str, tuple[Values, Experiment]] = {}
    for axes, experiment in cells:
        key = experiment_key(experiment)
        if key not in found:
            found[key] = axes, experiment
            continue
        before = found[key][0]
        if experiment.learns_reward:
            both = f"{axes_in_words(before)} and {axes_in_words(axes)}"
            raise UserError(f"two runs would be the same: {both}; leave one out")
        shared = {name: value for name, value in before.items() if axes.get(name) == value}
        found[key] = shared, experiment
    return [*found.values()]


def _unknown(name: str, known: Iterable[str], of: str) -> UserError:
    near = difflib.get_close_matches(name, [*known], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`prefrl train --help` shows them"
    return UserError(f"there is no option {name!r} of {of}; {hint}")
