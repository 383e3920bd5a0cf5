"""How labels, steps and rounds go together: whatever is refused is told a number that works."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import few

from prefrl.config.control import ControlConfig
from prefrl.config.experiment import Experiment, check_experiment
from prefrl.config.presets import PRESETS
from prefrl.control import budget
from prefrl.control.build import build_environments
from prefrl.errors import UserError
from prefrl.text import DOMAIN as TEXT
from prefrl.text import budget as text

ROUNDS = {
    "hopper-backflip": 50, "one-legged-cheetah": 20, "half-cheetah": 20, "hopper": 20,
    "walker2d": 20, "ant": 20, "swimmer": 20, "reacher": 20,
    "inverted-pendulum": 20, "inverted-double-pendulum": 20,
    "walker-walk": 20, "walker-run": 20, "cheetah-run": 20,
    "quadruped-walk": 20, "quadruped-run": 20,
    "random-walks": 12, "guess-number": 8, "tiny-reviews": 10, "movie-sentiment": 20,
    "tiny-reviews-two": 10, "level-cheetah": 20,
    "catch-pixels": 8, "pong-pixels": 305,
}  # fmt: skip
ROBOTS = [name for name, p in PRESETS.items() if isinstance(p.experiment.domain, ControlConfig)]
DESCRIPTIONS = {
    name: build_environments(PRESETS[name].experiment, 1).description for name in ROBOTS
}


def test_rounds_follow_from_steps_unless_they_are_given():
    assert {name: p.experiment.round_count for name, p in PRESETS.items()} == ROUNDS
    assert Experiment().round_count == TEXT.default.round_count == 20
    assert Experiment(steps=125_000, steps_per_round=50_000).round_count == 2
    assert Experiment(steps=1, steps_per_round=50_000).round_count == 1
    assert Experiment(steps=1, rounds=7).round_count == 7
    backflip = PRESETS["hopper-backflip"].experiment
    assert replace(backflip, steps=200_000).round_count == 7


PLACES = {
    "--rounds": "rounds", "--steps": "steps", "--labels": "labels", "--horizon": "domain.horizon",
    "--num-envs": "domain.num_envs", "--clip-seconds": "domain.clip_seconds",
    "--ppo.n-steps": "domain.ppo.n_steps", "--text.ppo.episodes": "domain.ppo.episodes",
    "--text.ppo.completions-per-task": "domain.ppo.completions_per_task",
    "--query.clips": "query.clips", "--query.kind": "query.kind",
}  # fmt: skip


def changed(config, name, value):
    first, _, rest = name.partition(".")
    return replace(
        config, **{first: changed(getattr(config, first), rest, value) if rest else value}
    )


def refusal(name, options):
    """Return what is said of the numbers of a preset's command line, "" if nothing is."""
    experiment = PRESETS[name].experiment
    for option, value in options.items():
        experiment = changed(experiment, PLACES[option], value)
    try:
        check_experiment(experiment)
        if name in DESCRIPTIONS:
            budget.check_budget(experiment, described(experiment, DESCRIPTIONS[name]))
        else:
            text.check_budget(experiment)
    except UserError as error:
        return str(error)
    return ""


def described(experiment, description):
    """Describe an environment as if it were made for an experiment."""
    horizon = experiment.control.horizon or description.horizon
    seconds = experiment.control.clip_seconds
    steps = round(seconds / description.dt) if seconds else description.clip_steps
    return replace(description, horizon=horizon, clip_steps=steps)


def suggestions(sentence):
    """Return each way out that a sentence names, as options."""
    if clip := re.search(r"; choose (--clip-seconds) from (\S+) to (\S+)$", sentence):
        return [{clip[1]: float(clip[2])}, {clip[1]: float(clip[3])}]
    if such := re.search(r"^(--\S+) is .*; expected a multiple .* such as (\d+)$", sentence):
        return [{such[1]: int(such[2])}]
    if more := re.search(r"^(--\S+) is \d+, but .*; use (\d+) or more$", sentence):
        return [{more[1]: int(more[2])}]
    match = re.search(r"; use ((?:--[\w-]+ \d+ ?)+)", sentence)
    assert match, f"nothing that works is named: {sentence}"
    words = match[1].split()
    return [dict(zip(words[::2], map(int, words[1::2]), strict=True))]


def assert_a_way_leads_out(name, options, done=frozenset()):
    """Follow every suggestion: the next refusal, if there is one, is about another option."""
    sentence = refusal(name, options)
    if not sentence:
        return
    for suggested in suggestions(sentence):
        assert not suggested.keys() <= done, f"{suggested} again, after {options}: {sentence}"
        assert_a_way_leads_out(name, options | suggested, done | suggested.keys())


counts = st.integers(1, 5000) | st.integers(1, 10**7)


@few
@pytest.mark.parametrize("name", ROBOTS)
@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "--steps": counts, "--rounds": counts, "--labels": counts,
            "--num-envs": st.integers(1, 300), "--ppo.n-steps": st.integers(2, 600),
            "--clip-seconds": st.floats(1e-3, 60), "--horizon": st.integers(1, 3000),
        },
    )
)  # fmt: skip
def test_a_robots_refusal_names_numbers_that_work(name, options):
    assert_a_way_leads_out(name, options)


@few
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ROBOTS])
@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "--steps": counts, "--rounds": counts, "--labels": counts,
            "--text.ppo.episodes": st.integers(1, 600), "--query.clips": st.integers(3, 9),
            "--text.ppo.completions-per-task": st.integers(1, 32),
        },
    )
)  # fmt: skip
def test_a_language_models_refusal_names_numbers_that_work(name, options):
    kind = {"--query.kind": "ranking"} if "--query.clips" in options else {}
    assert_a_way_leads_out(name, options | kind)


def test_a_backflip_in_a_tenth_of_the_steps_is_not_refused():
    few_steps = {"--labels": 60, "--steps": 200_000}
    assert refusal("hopper-backflip", few_steps) == ""
    assert "use --rounds 8 or fewer" in refusal("hopper-backflip", few_steps | {"--rounds": 66})
    assert refusal("hopper-backflip", few_steps | {"--rounds": 8}) == ""
    assert "use --rounds 8 or fewer" in refusal("hopper-backflip", few_steps | {"--rounds": 9})
