"""Answering on the page, in a real Chromium: by key, mouse, finger and pen."""

import contextlib
import json
import os
import time

import numpy as np
import pytest
from labelling import (
    make_run,
    queries_of,
    text_segment,
)
from page import (
    GUARD_SECONDS,
    chromium,
    data,
    folder,
    open_page,
    page,
    press,
    saved,
    stored,
    texts,
    viewer,
    viewer_of,
    wait_for,
    wait_until,
)

from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, Query, QueryId, Segment
from prefrl.viewer.fields import LONGEST_TEXT

# --- answering --------------------------------------------------------------------------------


def test_four_answers_by_key_and_button_are_four_different_things(folder, page):
    press(page, "ArrowLeft", "ArrowRight", "ArrowDown", "s", "1", "2", "Shift+ArrowLeft")
    for label in ("Left better", "Right better", "About equal", "Can't tell"):
        time.sleep(GUARD_SECONDS)
        button = page.get_by_role("button", name=label)
        assert button.locator("kbd").is_visible(), "its key is on it"
        button.click()
    saved(page, 11)
    said = [(a.kind, a.value) for a in stored(folder)]
    left, right = ("preference", {"left": 1}), ("preference", {"left": 0})
    strong = ("preference", {"left": 1, "strength": "significantly"})
    assert said == [left, right, ("tie", {}), ("skip", {}), left, right, strong,
                    left, right, ("tie", {}), ("skip", {})]  # fmt: skip
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert len(store.comparisons()) == 9, "what nobody can tell teaches nothing"


def test_strength_can_be_said_in_four_words(folder, page):
    page.get_by_role("button", name="How much?").click()
    for word in ("negligibly", "slightly", "better", "significantly"):
        time.sleep(GUARD_SECONDS)
        page.locator(".strengths").get_by_role("button", name=word).last.click()
    saved(page, 4)
    assert [a.value["strength"] for a in stored(folder)] == [
        "negligibly", "slightly", "better", "significantly",
    ]  # fmt: skip
    assert {a.value["left"] for a in stored(folder)} == {0}


WATCH = """() => {
    window.blank = 0; window.appeared = [];
    document.addEventListener('prefrl:pair', () => appeared.push(performance.now()));
    const look = () => {
        const stage = document.getElementById('stage');
        if (stage.hidden || document.body.dataset.state !== 'labelling') blank += 1;
        requestAnimationFrame(look);
    };
    look();
    document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
}"""


def test_the_next_pair_is_there_at_once_thirty_times_in_a_row(folder, viewer, open_page):
    page = open_page(viewer.address, reduced_motion="no-preference")
    wait_for(page, state="labelling")
    page.evaluate(WATCH)
    waits = []
    for number in range(30):
        press(page, ["ArrowLeft", "ArrowRight"][number % 2])
        waits.append(page.evaluate("appeared.at(-1) - pressed"))
    assert np.median(waits) < 100, "milliseconds; of a quiet machine all of them"
    assert page.evaluate("blank") == 0
    saved(page, 30)


def test_a_held_key_a_double_press_and_a_hasty_one_make_one_label_at_most(folder, page):
    time.sleep(GUARD_SECONDS)
    page.keyboard.down("ArrowLeft")
    for _ in range(10):
        page.keyboard.down("ArrowLeft")  # repeats
    page.keyboard.up("ArrowLeft")
    saved(page, 1)
    time.sleep(GUARD_SECONDS)
    page.evaluate("""() => { for (let i = 0; i < 2; i += 1) document.body.dispatchEvent(
        new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})); }""")
    saved(page, 2)
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("Control+ArrowLeft")
    page.locator("#person").focus()
    page.keyboard.press("1")
    time.sleep(0.3)
    assert len(stored(folder)) == 2


@pytest.mark.parametrize("kind, segments", [("preference", 2), ("ranking", 4), ("ratings", 2)])
def test_a_key_after_a_click_presses_no_button_again(
    tmp_path, viewer_of, open_page, kind, segments
):
    """Space is meant to pause and Enter to store, whatever was clicked on before.

    But where one is to write.
    """
    folder = make_run(tmp_path / "run", *queries_of(0, 30, kind, segments=segments))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    pressed = "[...document.querySelectorAll('[aria-pressed]')].map((b) => b.ariaPressed).join()"
    buttons = page.locator("#labelling button >> visible=true")
    clicked, elsewhere = set(), ("Undo", "Full", "Comment", "Broken clip")
    for index in range(40):  # the strengths come later
        if index >= buttons.count():
            break
        button = buttons.nth(index)
        name = button.inner_text()
        if not button.is_enabled() or name in clicked or name.startswith(elsewhere):
            continue
        time.sleep(GUARD_SECONDS)
        button.click()
        clicked.add(name)
        time.sleep(GUARD_SECONDS)
        before = data(page, "ticket"), page.evaluate(pressed)
        page.keyboard.press("Space")
        page.keyboard.press("Space")
        if not page.locator(".answer.primary:enabled").count():  # or Enter stores, as it says
            page.keyboard.press("Enter")
        time.sleep(0.1)
        assert (data(page, "ticket"), page.evaluate(pressed)) == before, name
        assert page.evaluate("document.activeElement === document.body"), name
    assert {name.split("\n")[0] for name in clicked} >= {"Can't tell", "Ghost", "↺"}
    button = page.get_by_role("button", name="Can't tell")
    box = button.bounding_box()
    before = data(page, "ticket")
    time.sleep(GUARD_SECONDS)
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()  # and let go of it elsewhere: that was no answer
    page.mouse.move(box["x"] + 9, box["y"] - 300)
    page.mouse.up()
    page.keyboard.press("Space")
    time.sleep(0.1)
    assert data(page, "ticket") == before


def test_space_pauses_after_a_click_on_an_answer(viewer, open_page):
    page = open_page(viewer.address, reduced_motion="no-preference")
    wait_until(page, "Number(document.body.dataset.frame) > 0")
    time.sleep(GUARD_SECONDS)
    page.get_by_role("button", name="Left better").click()
    wait_for(page, saved=1)
    page.keyboard.press("Space")
    time.sleep(0.1)
    still = data(page, "frame")
    time.sleep(0.3)
    assert data(page, "frame") == still, "it pauses"


def test_what_was_opened_with_the_mouse_is_not_opened_again_by_a_key(page):
    press(page, "ArrowLeft")
    for name, dialog in [("Keys", "#help"), ("policy", "#policy-large")]:
        page.get_by_role("button", name=name).first.click()
        page.locator(dialog).wait_for()
        page.locator(dialog).get_by_role("button", name="Close").click()
        for key in ("Space", "Enter"):
            page.keyboard.press(key)
            time.sleep(0.1)
            assert not page.locator(dialog).is_visible()
    for name in ("history", "inspect"):
        page.locator(f"#open-{name}").click()
        wait_for(page, state=name)
        page.get_by_role("button", name="Back to labelling").click()
        wait_for(page, state="labelling")
        for key in ("Space", "Enter"):
            page.keyboard.press(key)
            time.sleep(0.1)
            assert data(page, "state") == "labelling"


def test_enter_held_on_a_button_presses_it_once(folder, page):
    time.sleep(GUARD_SECONDS)
    page.get_by_role("button", name="Left better").focus()
    for _ in range(12):
        page.keyboard.down("Enter")  # repeats
        time.sleep(0.05)
    page.keyboard.up("Enter")
    saved(page, 1)
    time.sleep(GUARD_SECONDS)
    assert len(stored(folder)) == 1


def test_undo_brings_the_very_pair_back_twenty_times_and_after_a_reload(folder, page):
    tickets = []
    for _ in range(21):
        tickets.append(data(page, "ticket"))
        press(page, "ArrowLeft")
    saved(page, 21)
    page.reload()
    wait_for(page, state="labelling")
    for number, ticket in enumerate(reversed(tickets)):
        page.keyboard.press(["u", "Backspace", "Control+z"][number % 3])
        wait_until(page, f"document.body.dataset.ticket === {json.dumps(ticket)}")
        time.sleep(0.05)
    assert stored(folder) == []
    press(page, "ArrowDown")
    wait_until(page, "document.body.dataset.unsaved === '0'")
    [answer] = stored(folder)
    assert answer.kind == "tie" and f"{answer.query.round}-{answer.query.index}" == tickets[0]
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert store.last_answer() >= 41, "superseded, not deleted"


def test_neither_reward_nor_policy_reaches_the_page(page):
    bodies = []
    page.on("response", lambda response: bodies.append(response))
    press(page, "ArrowLeft", "ArrowRight")
    texts = [page.content()]
    for response in bodies:
        if "json" in response.headers.get("content-type", ""):
            with contextlib.suppress(Exception):
                texts.append(response.text())
    assert len(texts) > 3
    for text in texts:
        assert "policy 9" not in text and "true_return" not in text and '"reward' not in text


def test_history_replays_and_changes_an_answer(folder, page):
    first = data(page, "ticket")
    press(page, "ArrowLeft", "ArrowRight", "ArrowDown")
    saved(page, 3)
    page.keyboard.press("h")
    wait_for(page, state="history")
    items = page.locator("#history li")
    items.nth(2).wait_for()
    assert items.count() == 3 and "left better" in items.nth(2).inner_text()
    page.locator("#history select").nth(1).select_option("tie")
    wait_until(page, "document.querySelectorAll('#history li').length === 1")
    page.locator("#history select").nth(1).select_option("")
    wait_until(page, "document.querySelectorAll('#history li').length === 3")
    items.nth(2).locator("button").click()
    wait_for(page, state="review", ticket=first)
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight")
    wait_for(page, state="history", unsaved=0)
    changed = {f"{a.query.round}-{a.query.index}": a for a in stored(folder)}
    assert changed[first].value == {"left": 0} and len(changed) == 3
    page.keyboard.press("h")
    wait_for(page, state="labelling")


def test_imported_answers_can_be_opened(folder, viewer, open_page):
    queries = queries_of(9, 1)
    said = Answer(queries[0].id, "preference", {"left": 1.0}, "others")
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        store.record(queries, [said], "imported")
    page = open_page(viewer.address)
    wait_for(page, state="labelling")
    page.keyboard.press("h")
    wait_for(page, state="history")
    page.locator("#history select").first.select_option(label="others (imported)")
    page.locator("#history canvas.still").nth(1).wait_for()
    page.locator("#history li button").click()
    wait_for(page, state="review", ticket="-1-0")
    assert "others had said: left better" in page.locator("#note").inner_text()
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight")
    wait_for(page, state="history", unsaved=0)
    assert {a.teacher: a.value["left"] for a in stored(folder)} == {"others": 1, "anna": 0}


def test_the_header_says_how_far_things_are(folder, page):
    press(page, *["ArrowLeft"] * 3)
    folder.save_status(
        {"state": "training", "round": 4, "rounds": 9, "steps": 10, "total_steps": 90,
         "process": os.getpid()}
    )  # fmt: skip
    folder.append_round({"round": 3, "out_of_bag_accuracy": 0.75}, {})
    wait_until(
        page,
        "document.querySelector('#trainer-words').textContent.includes('round 4 of 9')",
        timeout=2.5,
    )
    figures = page.locator("#figures").inner_text()
    assert "3 of 100" in figures and "a minute" in figures and "75" in figures
    assert "6 clips were compared, in " in figures


def test_it_says_in_words_that_there_is_nothing_to_label(tmp_path, viewer_of, open_page):
    status = {"state": "training", "round": 1, "rounds": 9, "process": os.getpid()}
    folder = make_run(tmp_path / "run", *queries_of(0, 1), status=status)
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    press(page, "ArrowLeft")
    wait_for(page, state="waiting")
    assert "training the policy" in page.locator("#waiting-words").inner_text()
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        store.ask(1, queries_of(1, 3), {}, 0)
    wait_for(page, state="labelling")


def test_a_damaged_clip_is_passed_over(tmp_path, viewer_of, open_page):
    queries = queries_of(0, 3)
    clip = queries[2].segments[0]
    broken = Segment(clip.id, clip.observations, clip.actions, {"qpos": np.full((60, 6), np.nan)})
    queries[2] = Query(queries[2].id, (broken, queries[2].segments[1]))
    folder = make_run(tmp_path / "run", *queries)
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    assert data(page, "ticket") in ("0-1", "0-0")  # the first that is ready
    press(page, "ArrowLeft", "ArrowLeft")
    wait_for(page, state="waiting")
    wait_until(page, "document.querySelector('#figures').innerText.includes('damaged')")
    assert len(stored(folder)) == 2


def test_what_only_the_browser_cannot_decode_is_skipped_for_good(tmp_path, viewer_of, open_page):
    """Or the trainer would wait for ever for an answer to it."""
    folder = make_run(tmp_path / "run", *queries_of(0, 3))
    viewer = viewer_of(folder)
    page = open_page(viewer.address, spoil="**/api/clip/0-2/0**")
    wait_for(page, state="labelling")
    assert data(page, "ticket") in ("0-1", "0-0")  # the first that is ready
    press(page, "ArrowLeft", "ArrowLeft")
    wait_for(page, state="waiting", saved=2)
    wait_until(page, "document.querySelector('#figures').innerText.includes('damaged')")
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        deadline = time.monotonic() + 5
        while store.counts().pending:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert len(stored(folder)) == 2


def test_a_browser_that_decodes_no_clip_does_not_skip_them_all(folder, viewer, open_page):
    page = open_page(viewer.address, spoil="**/api/clip/**")
    words = "document.querySelector('#waiting-words').innerText"
    wait_until(page, f"{words}.includes('another one')")
    time.sleep(3)  # it asks every 1.5 s otherwise
    wait_until(page, f"{words}.includes('another one')")
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert store.counts().pending >= 40 - 8


# --- other kinds of answers -------------------------------------------------------------------


def test_ranking_by_digits(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *queries_of(0, 2, "ranking", segments=4))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    assert page.locator("#stage canvas >> visible=true").count() == 4
    time.sleep(GUARD_SECONDS)
    for key in "3142":
        page.keyboard.press(key)
    press(page, "Enter")
    saved(page, 1)
    [answer] = stored(folder)
    assert answer.kind == "ranking" and answer.value == {"order": [[2], [0], [3], [1]]}
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert len(store.comparisons()) == 6


def test_choosing_the_best(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *queries_of(0, 2, "choice", segments=3))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    press(page, "2")
    saved(page, 1)
    [answer] = stored(folder)
    assert answer.kind == "ranking" and answer.value == {"order": [[1], [0, 2]]}


def test_rating_on_a_scale(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *queries_of(0, 2, "ratings", segments=2))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("6")
    page.keyboard.press("2")
    press(page, "Enter")
    saved(page, 1)
    [answer] = stored(folder)
    assert answer.kind == "ratings"
    assert answer.value == {"ratings": [6, 2], "low": 1, "high": 7}


NASTY = "<img src=x onerror=alert(1)><script>alert(2)</script> \u202edesrever " + "y" * 100_000


def test_texts_are_shown_as_texts_whatever_they_hold(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *texts(NASTY))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    assert page.locator("#prompt").inner_text().endswith("Say something kind.")
    shown = page.locator("#stage figure").first
    assert "<img src=x onerror=alert(1)>" in shown.inner_text()
    assert "\u202e" not in shown.inner_text() and "U+202E" in shown.inner_text()
    assert page.locator("#stage img, #stage script").count() == 0
    widths = [page.locator("#stage figure").nth(i).bounding_box()["width"] for i in (0, 1)]
    assert widths[0] == pytest.approx(widths[1], abs=1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_text_can_be_written_better(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *texts("First.", "Second."))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("e")
    area = page.locator("#writing textarea")
    area.wait_for()
    area.fill("Much better.")
    page.keyboard.press("Control+Enter")
    saved(page, 1)
    [answer] = stored(folder)
    assert answer.kind == "rewrite" and answer.value["text"] == "Much better."
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        [comparison] = store.comparisons()
    assert comparison.left.actions.tolist() == ["Much better."] and comparison.preference == 1


KINDNESS = "もっと親切に言ってください。"  # 14 characters, 42 bytes


def open_rewrite(page):
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("e")
    area = page.locator("#writing textarea")
    area.wait_for()
    return area


def test_a_long_text_in_any_script_is_stored(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *texts("First.", "Second.", "Third."))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    longest = {"日": 27_000, "\N{GRINNING FACE}": LONGEST_TEXT, '"': LONGEST_TEXT}
    for index, (character, count) in enumerate(longest.items()):
        if index < 2:
            open_rewrite(page).fill(character * count)
        else:
            page.get_by_role("button", name="Demonstrate").click()
            page.locator("#writing select").select_option("both")
            for area in page.locator("#writing textarea").all():
                area.fill(character * count)
        page.keyboard.press("Control+Enter")
        page.locator("#writing").wait_for(state="hidden")
        wait_for(page, unsaved=0)
    assert [a.value["text"] for a in stored(folder)] == [c * n for c, n in [*longest.items()][:2]]
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert store.demonstrations() == [('"' * LONGEST_TEXT, '"' * LONGEST_TEXT)]


def test_a_text_that_is_too_long_stays_in_its_box(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *texts("First.", "Second."))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    before = data(page, "ticket")
    area = open_rewrite(page)
    area.fill("x" * (LONGEST_TEXT + 1))
    page.locator("#writing").get_by_role("button", name="Store").click()
    assert "200,001 characters, and at most 200,000" in page.locator("#writing").inner_text()
    assert len(area.input_value()) == LONGEST_TEXT + 1
    area.fill("y" * LONGEST_TEXT)
    page.keyboard.press("Control+Enter")
    saved(page, 1)
    assert data(page, "ticket") != before
    assert [a.value["text"] for a in stored(folder)] == ["y" * LONGEST_TEXT]


def test_a_refused_text_stays_in_its_box_with_the_reason(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *texts("First.", "Second."))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    before = data(page, "ticket")
    refusal = json.dumps({"error": "the disk of this test is full"})
    page.route("**/api/answer", lambda route: route.fulfill(status=413, body=refusal))
    area = open_rewrite(page)
    area.fill(KINDNESS)
    page.keyboard.press("Control+Enter")
    wait_until(page, "document.querySelector('#writing').innerText.includes('of this test')")
    assert area.input_value() == KINDNESS and data(page, "ticket") == before
    page.unroute("**/api/answer")
    page.locator("#writing").get_by_role("button", name="Store").click()
    saved(page, 1)
    assert not page.locator("#writing").is_visible() and data(page, "ticket") != before
    assert [a.value["text"] for a in stored(folder)] == [KINDNESS]


def test_a_text_that_is_refused_long_after_comes_back(tmp_path, viewer_of, open_page):
    """It was kept while the viewer was gone, the page was loaded again, and then it was refused."""
    folder = make_run(tmp_path / "run", *texts("First.", "Second.", "Third."))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    page.route("**/api/answer", lambda route: route.abort())
    open_rewrite(page).fill(KINDNESS)
    page.keyboard.press("Control+Enter")
    page.locator("#writing").wait_for(state="hidden")
    wait_for(page, unsaved=1)
    page.reload()  # The viewer is still gone: nothing may be stored, or refused, before the reload
    refusal = json.dumps({"error": "the disk of this test is full"})
    page.route("**/api/answer", lambda route: route.fulfill(status=400, body=refusal))
    area = page.locator("#writing textarea")
    area.wait_for()
    assert (
        area.input_value() == KINDNESS and "of this test" in page.locator("#writing").inner_text()
    )
    page.unroute("**/api/answer")
    area.fill(KINDNESS * 2)
    page.keyboard.press("Control+Enter")
    page.locator("#writing").wait_for(state="hidden")
    saved(page, 1)
    assert [a.value["text"] for a in stored(folder)] == [KINDNESS * 2]


def test_a_text_that_was_begun_is_there_when_its_box_is_opened_again(
    tmp_path, viewer_of, open_page
):
    page = open_page(viewer_of(make_run(tmp_path / "run", *texts("First."))).address)
    wait_for(page, state="labelling")
    area = open_rewrite(page)
    shown = area.input_value()
    area.fill(KINDNESS)
    page.locator("#writing select").select_option("1")
    assert area.input_value() not in (KINDNESS, shown), "the other text is another draft"
    page.keyboard.press("Escape")
    assert open_rewrite(page).input_value() == KINDNESS
