"""What the page shows of the learned reward, in a real Chromium."""

import contextlib
import json
import re
import shutil
import time

import numpy as np
import pytest
from page import (
    CONTRAST,
    GUARD_SECONDS,
    Viewer,
    chromium,
    data,
    folder,
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

from prefrl.config.control import ControlConfig, PPOConfig
from prefrl.config.experiment import Experiment
from prefrl.config.learning import OracleConfig, QueryConfig
from prefrl.reports.inspect import inspect_run
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Answer, QueryId

# --- what the learned reward says -------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of an oracle that errs, so that the reward disagrees with some answers."""
    experiment = Experiment(
        env="Hopper-v5", labels=36, steps=4096, rounds=2,
        domain=ControlConfig(num_envs=8, ppo=PPOConfig(n_steps=256), clip_seconds=0.4),
        query=QueryConfig(explore_steps=4096), oracle=OracleConfig(mistake=0.3),
    )  # fmt: skip
    folder = train(experiment, tmp_path_factory.mktemp("trained") / "run")
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        for answer in store.answers()[:12]:  # their queries wait for an answer again
            store.answer(Answer(answer.query, "retraction", {}, answer.teacher))
    return folder


@pytest.fixture(scope="module")
def report(trained):
    return inspect_run(trained)


@pytest.fixture(scope="module")
def inspected(trained, tmp_path_factory):
    """A page for those who only look; what it gives out to them is of a copy."""
    copy = shutil.copytree(trained.path, tmp_path_factory.mktemp("inspected") / "run")
    viewer = Viewer(RunFolder(copy))
    yield viewer
    viewer.kill()


def open_inspect(page):
    page.keyboard.press("i")
    wait_for(page, state="inspect")
    wait_for(page, report="ready", timeout=60)  # the reward model is a process that begins


INKED = """(c) => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let inked = 0; for (let i = 3; i < d.length; i += 4) if (d[i] > 200) inked += 1;
    return inked; }"""


def test_inspect_shows_how_the_reward_compares(inspected, report, open_page):
    page = open_page(inspected.address)
    wait_for(page, state="labelling")
    for words in ("predict", "reward", "agree"):
        assert words not in page.locator("#labelling").inner_text(), "nothing while one answers"
    assert not any("/api/inspect" in request.url for request in page.asked)
    page.get_by_role("button", name="Inspect").click()
    wait_for(page, state="inspect")
    assert not page.locator("#labelling").is_visible()
    wait_for(page, report="ready", timeout=60)
    view = page.locator("#inspect")
    share = report["teachers"]["oracle"]["agreement"]
    teachers = view.locator(".teachers").inner_text()
    assert "oracle" in teachers and f"{100 * share:.0f} %" in teachers
    assert "no pair has been shown to you twice" in teachers
    correlation = f"{report['true']['correlation']:.2f}".replace("-", "−")
    assert correlation in view.locator(".truth").inner_text()
    assert view.locator(".truth canvas").evaluate(INKED) > 300
    assert view.locator(".worst li").count() == min(24, report["answers"])
    assert view.locator(".prediction").count() == len(report["traces"])
    for colour in page.evaluate(CONTRAST):
        assert colour[1] >= 4.5, colour
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert view.evaluate("(view) => view.scrollWidth <= view.clientWidth")
    page.keyboard.press("i")
    wait_for(page, state="labelling")


def test_an_answer_that_the_reward_disbelieves_can_be_changed(
    trained, report, tmp_path, viewer_of, open_page
):
    folder = RunFolder(shutil.copytree(trained.path, tmp_path / "run"))
    page = open_page(viewer_of(folder).address, person="oracle")
    wait_for(page, state="labelling")
    waiting = data(page, "ticket")
    open_inspect(page)
    # One that a network judges without having learned from it, so that the change counts.
    index, worst = next((i, entry) for i, entry in enumerate(report["worst"]) if entry["members"])
    card = page.locator("#inspect .worst li").nth(index)
    said = "left" if worst["value"]["left"] else "right"
    assert f"oracle said {said} better" in card.inner_text()
    assert "the reward model gives left" in card.inner_text()
    card.locator("canvas").nth(1).wait_for()
    card.locator("button").click()
    ticket = f"{worst['round']}-{worst['index']}"
    wait_for(page, state="review", ticket=ticket)
    assert "reward" not in page.locator("#labelling").inner_text(), "it may not bias what is said"
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight" if worst["value"]["left"] else "ArrowLeft")
    wait_for(page, state="inspect", unsaved=0)
    assert card.locator("button").evaluate("(button) => button === document.activeElement")
    [changed] = [a for a in stored(folder) if a.query == (worst["round"], worst["index"])]
    assert changed.value == {"left": 1 - worst["value"]["left"]}
    before = report["teachers"]["oracle"]
    words = f"sides with {before['agreement'] * before['decisive'] + 1:.0f} of {before['decisive']}"
    sides = "document.querySelector('#inspect .sides').innerText"
    wait_until(page, f"{sides}.includes('{words}')", timeout=60)  # the report follows
    page.keyboard.press("Escape")
    wait_for(page, state="labelling", ticket=waiting)


def test_clips_move_above_their_rewards_while_one_looks(inspected, report, open_page):
    page = open_page(inspected.address, reduced_motion="no-preference")
    wait_for(page, state="labelling")
    open_inspect(page)
    traces = page.locator(".prediction")
    first, second = (traces.nth(index).locator("figure") for index in (0, 1))
    first.first.scroll_into_view_if_needed()
    moving = (
        "() => [...document.querySelectorAll('.prediction figure')].map((f) => f.dataset.frame)"
    )
    wait_until(page, f"({moving})().slice(0, 4).every(Boolean)")
    trace = report["traces"][0]
    best = [int(np.argmax(rewards)) for rewards in trace["rewards"]]
    assert page.evaluate(moving)[:2] == [str(step) for step in best], "at rest where it earns most"
    for clip in (0, 1):
        assert first.nth(clip).locator(".trace").evaluate(INKED) > 100
    second.first.hover()
    before = page.evaluate(moving)
    wait_until(page, f"({moving})()[3] !== {json.dumps(before[3])}")
    after = page.evaluate(moving)
    changed = [
        clip for clip, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) > 1
    ]
    assert changed == [2, 3], "one pair moves, and no other"
    last = len(trace["rewards"][0]) - 1
    for nudge in range(50):  # the page may still be moving under the mouse
        box = first.first.locator(".trace").bounding_box()
        page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 20 + nudge % 2)
        if page.evaluate(moving)[0] == str(last):
            break
        time.sleep(0.1)
    assert page.evaluate(moving)[0] == str(last), "pointing at the line goes there"


def test_history_lists_what_the_reward_disagrees_with(inspected, report, open_page):
    page = open_page(inspected.address)
    wait_for(page, state="labelling")
    page.keyboard.press("h")
    wait_for(page, state="history")
    wanted = report["disagreeing"]
    assert 0 < len(wanted) < len(stored(inspected.folder))
    page.locator("#history select").nth(1).select_option("differs")
    wait_until(page, f"document.querySelectorAll('#history li').length === {len(wanted)}", 60)
    assert "the reward model gives left" in page.locator("#history li").first.inner_text()
    page.locator("#history li button").first.click()
    wait_for(page, state="review", ticket=f"{wanted[0]['round']}-{wanted[0]['index']}")
    page.keyboard.press("Escape")
    wait_for(page, state="history")


def test_imported_answers_can_be_opened_from_the_report(trained, tmp_path, viewer_of, open_page):
    folder = RunFolder(shutil.copytree(trained.path, tmp_path / "run"))
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        query = store.query(QueryId(0, 0))
        sides = {"yes": 1.0, "no": 0.0}  # the reward sides with one of them
        said = [Answer(QueryId(0, 0), "preference", {"left": at}, who) for who, at in sides.items()]
        store.record([query], said, "imported")
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    page.keyboard.press("h")
    page.locator("#history select").nth(1).select_option("differs")
    card = page.locator("#history li").filter(has_text=re.compile("^(left|right) better.*(yes|no)"))
    card.locator("canvas").nth(1).wait_for(timeout=60_000)
    card.locator("button").click()
    wait_for(page, state="review", ticket="-1-0")


def test_inspect_says_in_words_why_there_is_no_report(folder, page):
    page.keyboard.press("i")
    wait_for(page, state="inspect", report="none")
    wait_until(page, "document.querySelector('#inspect-words').innerText.includes('round')", 60)
    assert page.locator("#inspect section >> visible=true").count() == 0
    page.keyboard.press("?")
    assert "inspect" in page.locator("#help").inner_text()


def test_a_finger_that_sweeps_over_the_answers_says_a_side(folder, viewer, open_page):
    page = open_page(viewer.address, has_touch=True)
    wait_for(page, state="labelling")
    touch = page.context.new_cdp_session(page)
    box = page.get_by_role("button", name="About equal").bounding_box()
    for way in (-120, 120):
        time.sleep(GUARD_SECONDS)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        steps = [("touchStart", x), *(("touchMove", x + way * part / 4) for part in range(1, 5))]
        for kind, at in steps:
            touch.send(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": at, "y": y}]}
            )
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    saved(page, 2)
    assert [a.value for a in stored(folder)] == [{"left": 1}, {"left": 0}]
