"""What `prefrl plan` computes: parameters, bytes, seconds, and who is refused."""

import dataclasses

import pytest
from complaints import complaint

from prefrl.cli import main
from prefrl.config.fields import changed
from prefrl.config.presets import PRESETS
from prefrl.reports.plan import (
    KINDS,
    SHAPES,
    memory,
    sampled_a_second,
    seconds_an_answer,
    times,
    with_frozen,
    with_lora,
)
from prefrl.runs import cell

TEXT = PRESETS["tiny-reviews"].experiment.text
SMALL, LARGE = SHAPES["0.1B"], SHAPES["8B"]


def test_models_have_as_many_parameters_as_their_makers_say():
    told = {"0.1B": 134.5e6, "1B": 1.2358e9, "8B": 8.03e9, "70B": 70.6e9}
    for size, parameters in told.items():
        assert SHAPES[size].parameters == pytest.approx(parameters, rel=0.003)


def test_all_weights_take_some_50_bytes_a_parameter_and_less_where_less_is_trained():
    """Policy and critic 16, reward model 12 with its moments, reference 4; but few have a head."""
    text = dataclasses.replace(TEXT, reward_model=dataclasses.replace(TEXT.reward_model, members=1))
    whole = memory(LARGE, text, 64).states
    assert 47 < whole / LARGE.parameters < 52
    assert 47 < memory(SMALL, text, 64).states / SMALL.parameters < 52
    frozen, adapters = with_frozen(text, 21), with_lora(text, 16)
    assert 4 * LARGE.parameters < memory(LARGE, adapters, 64).states < 0.12 * whole
    assert memory(LARGE, frozen, 64).states < 0.5 * whole
    assert memory(LARGE, text, 64, gpus=8).states == whole / 8
    shared = dataclasses.replace(text, ppo=dataclasses.replace(text.ppo, critic="shared"))
    assert memory(LARGE, shared, 64).states < 0.75 * whole
    again = dataclasses.replace(text, gradient_checkpointing=True)
    assert memory(LARGE, again, 64).activations < 0.5 * memory(LARGE, text, 64).activations
    two = dataclasses.replace(text, micro_batch_size=2)
    assert memory(LARGE, two, 64).activations == pytest.approx(
        memory(LARGE, text, 64).activations * 2 / text.ppo.batch_size
    )


def test_several_gpus_put_two_parts_together_at_a_time_and_the_policy_to_sample():
    short, long = (dataclasses.replace(TEXT, max_new_tokens=n) for n in (10, 2000))
    assert memory(LARGE, short, 64).gathered == memory(LARGE, short, 64).sampled_with == 0
    short, long = (memory(LARGE, text, 64, gpus=8) for text in (short, long))
    assert short.gathered == 8 * max(LARGE.layer, LARGE.embedding)
    assert short.sampled_with == 4 * LARGE.parameters
    assert short.total == short.states + short.sampled_with + short.process
    assert long.total == long.states + long.activations + long.gathered + long.process


def test_seconds_fall_with_gpus_and_with_what_is_trained():
    h200 = KINDS["h200"]
    one, eight = (times(LARGE, TEXT, 64, h200, gpus) for gpus in (1, 8))
    assert eight.passes == pytest.approx(one.passes / 8)
    assert eight.update == pytest.approx(one.update / 8)
    assert times(LARGE, with_lora(TEXT, 16), 64, h200, 1).update < one.update
    assert times(LARGE, with_frozen(TEXT, 21), 64, h200, 1).update < one.update
    assert one.total == one.sampling + one.passes + one.update
    rates = [sampled_a_second(SHAPES[size], 512, h200, 1) for size in ("1B", "8B", "70B")]
    assert rates[0] > 3 * rates[1] > 12 * rates[2]


def test_an_order_takes_a_person_longer_than_a_pair_and_texts_are_read():
    flips = PRESETS["hopper-backflip"].experiment
    pair = changed(flips, {"query.kind": "preference", "query.clips": 2})
    assert seconds_an_answer(pair) == 3.5
    assert 25 < seconds_an_answer(flips) < 45
    reviews = PRESETS["movie-sentiment"].experiment
    assert seconds_an_answer(reviews) > 3.5


def test_a_language_model_is_planned_in_a_table(capsys):
    main(["plan", "movie-sentiment", "--gpus", "8", "--kind", "h100"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("8 × h100, 80 GB each: by arithmetic, not measured")
    assert sum("LoRA 16" in line for line in said) == len(SHAPES)
    assert said[-1].startswith("a person gives about ")


def test_a_robot_is_planned_by_its_measured_pace(monkeypatch, capsys):
    monkeypatch.setattr(cell, "steps_per_second", lambda experiment: 10_000.0)
    main(["plan", "hopper-backflip"])
    steps, threads = (
        getattr(PRESETS["hopper-backflip"].experiment, name) for name in ("steps", "threads")
    )
    said = capsys.readouterr().out
    assert (
        f"10,000 steps/s, measured here on {threads} thread(s) without the fits: {steps:,} " in said
    )
    assert f"take {steps / 10_000 / 60:.0f} minutes; a GPU changes nothing" in said


def test_what_there_is_not_is_a_sentence(capsys):
    assert "there is no preset and no run 'hoper'; `prefrl list` shows the presets" in complaint(
        ["plan", "hoper"], capsys
    )
    assert "--kind is 'tpu'; expected one of a100, h100, h200, l40s" in complaint(
        ["plan", "movie-sentiment", "--kind", "tpu"], capsys
    )
