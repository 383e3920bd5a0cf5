"""A trainer, a viewer and a person, from one command, in a real Chromium."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

from page import (
    address_from,
    chromium,
    folder,
    free_port,
    open_page,
    page,
    press,
    saved,
    stored,
    viewer,
    viewer_of,
    wait_for,
    wait_until,
)

from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder

# --- the whole: a trainer, a viewer, a person -------------------------------------------------


TRAIN = [
    "--env", "Hopper-v5", "--teacher", "human", "--labels", "20", "--steps", "8192",
    "--rounds", "2", "--num-envs", "8", "--ppo.n-steps", "256", "--query.explore-steps", "4096",
    "--clip-seconds", "0.4",
]  # fmt: skip


def kill_viewer_of(folder_path):
    subprocess.run(["pkill", "-f", f"prefrl.cli label {folder_path}"], check=False)


@contextlib.contextmanager
def trainer(*words):
    environment = os.environ | {"MUJOCO_GL": "disable", "DISPLAY": ""}
    command = [sys.executable, "-m", "prefrl.cli", *words]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            kill_viewer_of(words[-1])


def test_a_person_trains_a_robot_without_opengl_from_one_command(tmp_path, open_page):
    run, began = tmp_path / "run", time.monotonic()
    with trainer("train", *TRAIN, "--run", str(run)) as process:
        page = open_page(address_from(process), reduced_motion="no-preference")
        wait_until(page, "Number(document.body.dataset.frame) > 0", timeout=60)
        assert time.monotonic() - began < 60
        while len(stored(RunFolder(run))) < 20:
            wait_for(page, state="labelling", timeout=60)
            press(page, "ArrowLeft")
            wait_for(page, unsaved=0)
        wait_until(
            page,
            "document.querySelector('#trainer-words').textContent.includes('finished')",
            timeout=60,
        )
        assert process.wait(20) == 0
        wait_for(page, server="gone", state="finished")
        shown = page.locator("body").inner_text()
        assert "The run has finished, and the server of this page has closed" in shown
        assert "does not answer" not in shown and "prefrl label RUN" in shown
        assert "calm" in page.locator("#banner").get_attribute("class"), "that is no error"
        printed = process.stdout.read()
        *_, kept, done = printed.splitlines()
        assert kept.startswith("every answer is kept in") and kept.endswith("can be closed")
        assert done.startswith("done; look at it with")
        assert not re.search("error|traceback|cancel", printed, re.IGNORECASE)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[-1])["answered"] >= 15
    with contextlib.closing(FeedbackStore(run / "feedback.sqlite")) as store:
        assert store.counts().answered == 20
    replay = subprocess.run(
        [sys.executable, "-m", "prefrl.cli", "replay", str(run)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert replay.returncode == 0 and "identical: 3 rounds" in replay.stdout
    again = (tmp_path / "run-replay" / "metrics.jsonl").read_bytes()
    assert again == (run / "metrics.jsonl").read_bytes()


def test_trainer_and_viewer_die_and_come_back_without_each_other(tmp_path, open_page, viewer_of):
    run = tmp_path / "run"
    port = str(free_port())
    with trainer("train", *TRAIN, "--port", port, "--run", str(run)) as process:
        address = address_from(process)
        assert f":{port}/" in address
        page = open_page(address)
        wait_for(page, state="labelling", timeout=60)
        press(page, "ArrowLeft")
        saved(page, 1)
        process.kill()  # the trainer alone
        process.wait()
        press(page, "ArrowLeft", "ArrowLeft")
        saved(page, 3)
        wait_until(
            page, "document.querySelector('#trainer-words').textContent.includes('prefrl resume')"
        )
        page.close()
    kill_viewer_of(run)
    assert len(stored(RunFolder(run))) == 3
    with trainer("resume", str(run)) as process:
        address = address_from(process)
        page = open_page(address)
        wait_for(page, state="labelling", timeout=60)
        kill_viewer_of(run)
        time.sleep(0.5)
        assert process.poll() is None, "the trainer waits"
        viewer_of(RunFolder(run), "--port", port)
        wait_for(page, unsaved=0, timeout=15)
        while len(stored(RunFolder(run))) < 20:
            wait_for(page, state="labelling", timeout=60)
            press(page, "ArrowLeft")
            wait_for(page, unsaved=0)
        assert process.wait(60) == 0
