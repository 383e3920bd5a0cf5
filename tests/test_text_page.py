"""A person at the page of a language model that trains: what is said there is what is learned."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from page import (
    GUARD_SECONDS,
    address_from,
    chromium,
    open_page,
    press,
    saved,
    stored,
    wait_for,
    wait_until,
)
from toy_texts import TINY_TEXT_FLAGS, save_small_model

from prefrl.learning.bags import bag_weights
from prefrl.learning.reward import FitState, fit, predict_returns
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.text.build import load_reward

BETTER = "This one says what was asked, in plain words."


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Start `prefrl train` of a small model that people teach; return it and its run folder."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model, path = save_small_model(tmp_path / "model"), tmp_path / "run"
    with contextlib.ExitStack() as stack:

        def started(*words):
            command = [
                sys.executable, "-m", "prefrl.cli", "train", "--env", "toy_texts:texts/Letters-v0",
                *TINY_TEXT_FLAGS.split(), "--text.model", str(model), "--teacher", "human",
                *["--rounds", "1", "--steps", "16", "--query.explore-steps", "64"], *words,
                "--run", str(path),
            ]  # fmt: skip
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
            )
            stack.callback(end, process)
            return process, RunFolder(path)

        yield started


def end(process):
    """End a trainer, which ends its viewer."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def finish(page, process):
    words = "document.querySelector('#trainer-words').textContent"
    wait_until(page, f"{words}.includes('finished')", timeout=60)
    assert process.wait(30) == 0


def refitted(folder, comparisons):
    """Fit once more, as the first round of a run did, to some comparisons."""
    experiment = folder.experiment()
    model = load_reward(experiment, None, folder)
    state = FitState(model, experiment.fit, experiment.seed)
    return model, fit(model, comparisons, experiment.fit, state)["train_loss"]


def rewrite(page, text):
    time.sleep(GUARD_SECONDS)
    before = page.evaluate("document.body.dataset.ticket")
    page.keyboard.press("e")
    area = page.locator("#writing textarea")
    area.wait_for()
    area.fill(text)
    page.keyboard.press("Control+Enter")
    wait_until(page, f"document.body.dataset.ticket !== {before!r}")


def test_labels_and_rewrites_of_a_person_are_what_the_next_fit_learns(train, open_page):
    process, folder = train(
        "--labels", "9", "--fit.first-epochs", "20", "--text.reward-model.members", "3"
    )
    page = open_page(address_from(process))
    wait_for(page, state="labelling", timeout=60)
    assert page.locator("#question").inner_text() == "Which reply is plainer?"
    assert ": " in page.locator("#prompt").text_content()
    press(page, "ArrowLeft", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft")
    saved(page, 5)
    assert folder.metrics()[-1]["round"] == 0, "nothing is learned from yet"
    for number in range(3):
        rewrite(page, f"{BETTER} {number}")
    saved(page, 8)
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight")
    saved(page, 9)
    finish(page, process)
    given = stored(folder)
    assert [answer.kind for answer in given] == [
        *["preference"] * 2, "tie", *["preference"] * 2, *["rewrite"] * 3, "preference",
    ]  # fmt: skip
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        comparisons = store.comparisons(store.ledger(1).answers_through)
    assert len(comparisons) == 9
    line = folder.metrics()[1]
    assert (line["answered"], line["decisive"]) == (9, 8)
    model, loss = refitted(folder, comparisons)
    assert loss == line["train_loss"], "the fit saw these, and these alone"
    rewrites = [c for c in comparisons if BETTER in c.left.actions[0]]
    assert len(rewrites) == 3
    better, worse = (
        predict_returns(model, [getattr(c, side) for c in rewrites]).mean(0)
        for side in ("left", "right")
    )
    assert (better > worse).all()
    learned = [c for c in comparisons if bag_weights(0, [c.query], 3).any()]
    assert any(c in rewrites for c in learned) and any(c not in rewrites for c in learned)
    for one in learned:  # of the others no member's bag holds any
        assert refitted(folder, [c for c in comparisons if c is not one])[1] != loss
        turned = replace(one, preference=1 - one.preference)
        changed = refitted(folder, [turned if c is one else c for c in comparisons])[1] != loss
        assert changed == (one.preference != 0.5)


def test_an_order_of_four_completions_is_what_the_next_fit_learns(train, open_page):
    ranking = "--query.kind ranking --query.clips 4 --labels 3 --text.reward-model.members 3"
    process, folder = train(*ranking.split())
    page = open_page(address_from(process))
    wait_for(page, state="labelling", timeout=60)
    assert page.locator("#stage figure >> visible=true").count() == 4
    for keys in ("3142", "1234", "4321"):
        time.sleep(GUARD_SECONDS)
        for key in keys:
            page.keyboard.press(key)
        if keys == "4321":
            page.keyboard.press("Enter")
        else:
            press(page, "Enter")
    saved(page, 3)
    finish(page, process)
    orders = [answer.value["order"] for answer in stored(folder)]
    assert orders == [[[2], [0], [3], [1]], [[0], [1], [2], [3]], [[3], [2], [1], [0]]]
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        comparisons = store.comparisons(store.ledger(1).answers_through)
    assert len(comparisons) == 3 * 6
    _, loss = refitted(folder, comparisons)
    assert loss == folder.metrics()[1]["train_loss"]
    for turned in range(3):  # each is in the bag of some member
        others = [
            replace(c, preference=1 - c.preference) if c.query.index == turned else c
            for c in comparisons
        ]
        assert refitted(folder, others)[1] != loss
