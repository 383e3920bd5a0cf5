"""The process of a command: Ctrl-C at any moment, ignored signals, output in any encoding."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_environments  # noqa: F401
from processes import command
from test_experiment import TAUGHT, TRAIN

from prefrl.commands import process
from prefrl.commands.process import Interrupts

ENDS_BY_SIGNAL = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
"""A shell that runs the tests in the background has Ctrl-C ignored."""


def run(words, cwd, **environment):
    options = command(words, **environment)
    return subprocess.run(**options, **ENDS_BY_SIGNAL, cwd=cwd, capture_output=True, timeout=60)


# --- interrupts -------------------------------------------------------------------------------

PRESSES = """
import os, signal, time
for _ in range({times}):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
import gymnasium, toy_environments
gymnasium.register("My-v0", toy_environments.Pay, max_episode_steps=20)
import my_rest  # the import goes on to its end
open("imported", "w").close()
"""


@pytest.mark.parametrize("times", [1, 20])
def test_control_c_while_a_module_is_imported_is_one_sentence(times, tmp_path):
    (tmp_path / "my_module.py").write_text(PRESSES.format(times=times))
    (tmp_path / "my_rest.py").write_text("import time\ntime.sleep(0.2)\n")
    done = run(["train", "--env", "my_module:My-v0"], tmp_path)
    assert (done.returncode, done.stderr) == (2, "prefrl: interrupted\n")
    assert (tmp_path / "imported").exists()


WHILE_IT_STARTS = """
import sys, os, signal
class Finder:  # presses Ctrl-C as the first of the command's own modules is looked for
    def find_spec(self, name, path, target=None):
        if name == "prefrl.commands":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from prefrl.cli import main
main()
"""


def test_control_c_before_anything_is_imported_is_one_sentence(tmp_path):
    options = command(["list"], ("-c", WHILE_IT_STARTS))
    done = subprocess.run(**options, **ENDS_BY_SIGNAL, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (2, "prefrl: interrupted\n", "")


def test_control_c_twice_and_at_the_very_end_is_one_sentence(tmp_path):
    words = command([*TAUGHT, "--run", tmp_path / "run"], TOY_SLEEP="0.001")
    running = subprocess.Popen(
        **words, **ENDS_BY_SIGNAL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for line in running.stdout:
        if line.startswith("round 1/4"):
            break
    while running.poll() is None:  # held down
        running.send_signal(signal.SIGINT)
        time.sleep(0.005)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 2
    assert re.fullmatch(r"prefrl: stopped; round \d is saved and no answer is lost.*\n", said)


def test_what_is_ignored_at_the_start_stays_ignored_as_nohup_asks(tmp_path):
    words = command([*TAUGHT, "--run", tmp_path / "run"], TOY_SLEEP="0.001")
    running = subprocess.Popen(
        **words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    for line in running.stdout:
        if line.startswith("round 1/4"):
            running.send_signal(signal.SIGHUP)
            break
    out, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (0, "") and "round 4/4" in out


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_the_end_of_a_terminal_or_a_job_is_as_control_c(name, tmp_path):
    words = command([*TAUGHT, "--run", tmp_path / "run"], TOY_SLEEP="0.001")
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup the tests themselves ignore it
    running = subprocess.Popen(**words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(number, before)
    for line in running.stdout:
        if line.startswith("round 1/4"):
            running.send_signal(number)
            break
    _, said = running.communicate(timeout=60)
    assert running.returncode == 2 and said.startswith("prefrl: stopped; round ")


def test_one_interrupt_is_raised_and_again_only_when_the_first_has_had_its_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(process.time, "monotonic", lambda: now[0])
    interrupts = Interrupts()
    frame = sys._getframe()
    with pytest.raises(KeyboardInterrupt):
        interrupts._interrupt(signal.SIGINT, frame)
    now[0] += process.PATIENCE - 0.1
    interrupts._interrupt(signal.SIGINT, frame)  # it is stopping
    now[0] += 0.2
    with pytest.raises(KeyboardInterrupt):
        interrupts._interrupt(signal.SIGINT, frame)


# --- output -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--env", "日本"]])
def test_any_output_can_show_what_is_said(words, encoding, tmp_path):
    options = command(words, PYTHONIOENCODING=encoding) | {"text": False}
    done = subprocess.run(**options, cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == (0 if words[-1] == "--help" else 2)
    assert b"Traceback" not in done.stderr
    shown = (done.stdout + done.stderr).decode(encoding)
    if words == ["--help"]:
        assert f"usage: prefrl COMMAND {'...' if encoding == 'ascii' else '…'}" in shown


def test_a_file_name_that_is_not_utf_8_is_shown_escaped(tmp_path):
    name = os.fsdecode(b"donn\xe9es")
    for encoding, shown in (("utf-8", r"donn\xe9es"), ("ascii", r"donn\xe9es")):
        done = run(["evaluate", name], tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == 2 and done.stderr.startswith("prefrl: ")
        assert shown in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_a_sentence(unbuffered, tmp_path):
    options = command(["list"], PYTHONUNBUFFERED=unbuffered)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(**options, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "prefrl: cannot write the output: no space left on the device\n"


def test_a_pipe_of_an_environment_that_breaks_is_no_quiet_success(tmp_path):
    (tmp_path / "my_pipe.py").write_text(
        "import gymnasium, os\n"
        "from toy_environments import Pay\n"
        "class Piped(Pay):\n"
        "    def step(self, action):\n"
        "        raise BrokenPipeError(32, 'the simulator is gone')\n"
        "gymnasium.register('Piped-v0', Piped, max_episode_steps=20)\n"
    )
    words = [*TRAIN, "--run", "run"]
    words[2] = "my_pipe:Piped-v0"
    done = run(words, tmp_path)
    assert done.returncode != 0 and "the simulator is gone" in done.stderr
