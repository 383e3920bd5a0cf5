"""What is long in the making tells how far it is, and goes on after a kill, to the same bytes."""

import json
import logging
import os
import re
import signal
import time

import pytest
import torch
from complaints import complaint
from processes import Process, command
from test_text_fit import pairs, write
from toy_texts import save_small_model

from prefrl.cli import main
from prefrl.commands import console
from prefrl.config.text import TextRewardConfig
from prefrl.errors import UserError
from prefrl.pace import LOG, Pace
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.unfinished import unfinished_folder
from prefrl.text.stages.fit_state import load_state_dict, state_dict
from prefrl.text.stages.fitting import passes, start


def demonstrations(count):
    return [{"prompt": f"{n} ", "completion": "e" * (n % 7 + 1)} for n in range(count)]


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def killed(words, state, seconds=60):
    """Start a command, and kill it as soon as it has saved a state."""
    with Process(**command(words)) as process:
        until = time.monotonic() + seconds
        while not state.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was done before"


FIT = ["fit", "FILE", "--model", "tiny", "--members", "2", "--epochs", "8", "--patience", "0"]
SFT = ["sft", "--file", "FILE", "--model", "tiny", "--epochs", "8", "--batch-size", "8"]


@pytest.mark.parametrize(("words", "rows"), [(FIT, pairs(60)), (SFT, demonstrations(60))])
def test_what_was_killed_goes_on_to_the_same_bytes(words, rows, tmp_path, capsys):
    file = write(tmp_path / "rows.jsonl", *rows)
    words = [str(file) if word == "FILE" else word for word in words]
    main([*words, "-o", str(tmp_path / "whole")])
    whole = capsys.readouterr().out.splitlines()
    partial = tmp_path / "again.partial"
    killed([*words, "-o", tmp_path / "again"], partial / "state.pt")
    assert not (tmp_path / "again").exists()
    assert f"{partial} holds the beginning of one with another seed 0;" in complaint(
        [*words, "--seed", "1", "-o", tmp_path / "again"], capsys
    )
    main([*words, "-o", str(tmp_path / "again")])
    lines = capsys.readouterr().out.splitlines()
    [told] = [n for n, line in enumerate(lines) if line.startswith("going on after")]
    assert not partial.exists()
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    again = [re.sub(r"[\d,]+ tokens/s|in \d+ s|again", "", line) for line in lines]
    before = [re.sub(r"[\d,]+ tokens/s|in \d+ s|whole", "", line) for line in whole]
    assert again[told + 1 :] == before[len(before) - len(again) + told + 1 :]


@pytest.mark.parametrize("reward", [TextRewardConfig(freeze_layers=1), TextRewardConfig(members=2)])
def test_a_fit_goes_on_after_any_pass_to_the_bit(reward, tmp_path):
    file = write(tmp_path / "pairs.jsonl", *pairs(40))

    def begun():
        return start(file, "tiny", reward, epochs=4, patience=0, batch_size=8)

    whole = begun()
    lines = list(passes(whole))
    for made in (1, 3):
        stopped, again = begun(), begun()
        for _, _ in zip(range(made), passes(stopped), strict=False):
            state = to_bytes(state_dict(stopped))
        load_state_dict(again, from_bytes(state))
        assert [*passes(again)] == lines[made:] and again.lines == lines
        for mine, theirs in zip(
            whole.reward_model.parameters(), again.reward_model.parameters(), strict=True
        ):
            assert torch.equal(mine, theirs)
        assert (again.reward_model.mean == whole.reward_model.mean).all()
        assert again.judgement == whole.judgement


def test_a_fit_that_was_killed_after_its_last_pass_is_only_written(tmp_path):
    file = write(tmp_path / "pairs.jsonl", *pairs(20))
    done, again = start(file, "tiny", epochs=2), start(file, "tiny", epochs=2)
    for _ in passes(done):
        state = state_dict(done)
    load_state_dict(again, from_bytes(to_bytes(state)))
    assert [*passes(again)] == [] and again.judgement == done.judgement


# The folder meanwhile


def test_two_processes_never_make_the_same_folder(tmp_path):
    with (
        unfinished_folder(tmp_path / "made"),
        pytest.raises(UserError, match="another process is making made"),
        unfinished_folder(tmp_path / "made"),
    ):
        pass
    assert (tmp_path / "made").is_dir()
    with pytest.raises(UserError, match="exists already"), unfinished_folder(tmp_path / "made"):
        pass


@pytest.mark.parametrize(
    ("error", "keeps"),
    [
        (KeyboardInterrupt(), True),
        (UserError("the loss is not a finite number"), False),
        (OSError(28, "No space left on device"), True),
    ],
)
def test_only_what_can_go_on_is_left(error, keeps, tmp_path):
    shown = (UserError, KeyboardInterrupt)
    with pytest.raises(shown) as raised, unfinished_folder(tmp_path / "made") as work:
        assert work.begin({"seed": 0}) is None
        work.save(b"state")
        raise error
    assert (tmp_path / "made.partial").exists() == keeps
    assert "the same command goes on with it" in str(raised.value) or not isinstance(
        error, KeyboardInterrupt
    )
    with unfinished_folder(tmp_path / "made") as work:
        assert work.begin({"seed": 0}) == (b"state" if keeps else None)
    assert [*(tmp_path / "made").iterdir()] == []


def test_other_data_is_said_and_nothing_lost(tmp_path):
    with pytest.raises(KeyboardInterrupt), unfinished_folder(tmp_path / "made") as work:
        work.begin({"data": "a"})
        work.save(b"state")
        raise KeyboardInterrupt
    with (
        pytest.raises(UserError, match="of one with another data; go on with that, delete it"),
        unfinished_folder(tmp_path / "made") as work,
    ):
        work.begin({"data": "b"})
    assert (tmp_path / "made.partial/state.pt").read_bytes() == b"state"


def test_what_something_else_left_is_said(tmp_path):
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial/file").touch()
    with (
        pytest.raises(UserError, match="nothing of prefrl's can go on from it; delete it"),
        unfinished_folder(tmp_path / "made"),
    ):
        pass
    assert (tmp_path / "made.partial/file").exists()


# Told


def test_a_pace_tells_steps_tokens_and_what_is_left(monkeypatch, caplog):
    now = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    caplog.set_level(logging.INFO, logger=LOG.name)
    pace = Pace("fine-tuning", 12, done=2)
    pace.step(1, 500, "loss 1.250")
    pace.step(1, 500)
    assert [record.getMessage() for record in caplog.records] == [
        "fine-tuning: step 3/12, loss 1.250, 50 tokens/s, 1:30 left",
        "fine-tuning: step 4/12, 50 tokens/s, 1:20 left",
    ]


def test_in_a_pipe_a_line_a_minute_tells_how_far_it_is(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.live_line() as show:
        pace = Pace("fitting", 100, tokens_each=7)
        for _ in range(3):
            now[0] += 40
            pace.step()
        show("this stays", True)
        now[0] += 40
        pace.step()
    pace.step()
    assert capsys.readouterr().out.splitlines() == [
        "fitting: step 2/100, 0 tokens/s, 65:20 left",
        "this stays",
    ]


@pytest.mark.parametrize("what", ["fit", "sft", "generate", "train", "compare"])
def test_nothing_long_is_silent(what, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "MINUTE", 0.0)
    model, file = save_small_model(tmp_path / "small"), tmp_path / "rows.jsonl"
    write(file, *(pairs(12) if what == "fit" else demonstrations(12)))
    words = {
        "fit": f"fit {file} --model {model} --epochs 1 -o {tmp_path}/out",
        "sft": f"sft --file {file} --model {model} --epochs 1 -o {tmp_path}/out",
        "generate": f"generate {model} --file {file} --max-new-tokens 2",
        "train": f"train random-walks --text.model {model} --labels 8 --steps 256 --rounds 1 "
        "--text.demonstrations 8 --text.sft-epochs 1 --query.explore-steps 64 "
        f"--run {tmp_path}/run",
        "compare": f"compare {model} {model} --env prefrl/RandomWalks-v0 --pairs 2 "
        f"--into {tmp_path}/made",
    }[what]
    main(words.split())
    printed = capsys.readouterr()
    text = printed.err if what in ("generate", "compare") else printed.out
    name = {"fit": "fitting", "generate": "replying", "compare": "replying"}.get(
        what, "fine-tuning"
    )
    assert re.search(rf"^{name}: step \d+/\d+, (loss [\d.]+, )?[\d,]+ tokens/s, 0:\d\d left$", text,
                     re.MULTILINE), text  # fmt: skip
    if what == "generate":
        assert all(json.loads(line)["row"] for line in printed.out.splitlines())
