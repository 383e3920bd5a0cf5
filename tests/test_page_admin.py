"""Comments, broken clips and the admins' view, in a real Chromium."""

import contextlib
import json
import time

from page import (
    CONTRAST,
    GUARD_SECONDS,
    chromium,
    data,
    folder,
    open_page,
    page,
    press,
    stored,
    viewer,
    viewer_of,
    wait_for,
    wait_until,
)
from test_admin import BIDI, known_answers

from prefrl.cli import main
from prefrl.storage import gold
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.links import Links
from prefrl.types import Answer, QueryId

__all__ = ["chromium", "folder", "open_page", "page", "viewer", "viewer_of"]


def test_a_comment_is_written_by_key_and_goes_with_the_answer(page, folder):
    time.sleep(GUARD_SECONDS)
    before = data(page, "ticket")
    page.keyboard.press("c")
    page.keyboard.type("both fall s u ←")
    assert data(page, "ticket") == before, "what is typed is no answer"
    page.keyboard.press("Enter")
    press(page, "ArrowLeft")
    assert page.locator("#comment").is_hidden(), "the next pair has none"
    press(page, "ArrowDown")
    wait_for(page, saved=2, unsaved=0)
    assert [a.value for a in stored(folder)] == [
        {"left": 1, "comment": "both fall s u ←"}, {}
    ]  # fmt: skip
    for _ in range(2):
        page.keyboard.press("u")
        time.sleep(GUARD_SECONDS)
    wait_for(page, ticket=before)
    assert page.locator("#comment").input_value() == "both fall s u ←", "undo brings it back"
    assert stored(folder) == []


def test_a_broken_clip_is_set_aside_and_undone(page, folder):
    time.sleep(GUARD_SECONDS)
    before = data(page, "ticket")
    page.keyboard.press("b")
    page.keyboard.type("no leg")
    page.keyboard.press("Escape")
    assert data(page, "ticket") == before and page.locator("#broken").is_hidden()
    page.keyboard.press("b")
    page.keyboard.type("no leg")
    page.get_by_label("The right one").check()
    page.get_by_role("button", name="Set it aside").click()
    wait_until(page, f"document.body.dataset.ticket !== {json.dumps(before)}")
    wait_for(page, unsaved=0, state="labelling")
    [flag] = stored(folder)
    assert (flag.kind, flag.value) == ("broken", {"segment": 1, "comment": "no leg"})
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert store.counts()[:4] == (40, 0, 0, 39)
    page.keyboard.press("h")
    page.get_by_text("clip 2 is broken").wait_for()
    page.keyboard.press("h")
    page.keyboard.press("u")
    wait_for(page, ticket=before)
    assert stored(folder) == []


def test_an_admin_sees_people_marks_gold_and_pauses(folder, viewer_of, open_page):
    known_answers(folder, 1.0, 0.0)
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        links = Links(folder, store)
        for name in (BIDI, "🤸" * 40, "ben"):
            links.make(name)
        for index, name in enumerate([BIDI, "ben", "ben"], start=20):
            value = {"left": 1.0, "comment": f"{name} \x1b <b>bold</b> " + "and on " * 40}
            store.answer(Answer(QueryId(0, index), "preference", value, name, 1.0, 3.0))
        store.answer(Answer(QueryId(0, 30), "broken", {"segment": 0}, "ben", 1.0, 3.0))
    page = open_page(viewer_of(folder).address, reduced_motion="reduce")
    wait_for(page, state="labelling")
    page.keyboard.press("o")
    wait_for(page, state="admin", admin="shown")
    words = page.locator("#admin").inner_text()
    assert "ana ⟦U+202E⟧nab" in words and "⟦U+1B⟧" not in words and "⟦U+001B⟧ <b>bold</b>" in words
    assert "🤸" * 23 + "…" in words and "🤸" * 24 not in words
    assert "clip 1 is broken" in words and "Gold questions: 2, 10%" in words
    assert all(ratio >= 4.5 for text, ratio in page.evaluate(CONTRAST) if text)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    row = page.locator("tr", has_text="ben").first
    row.get_by_role("button", name="Pause").click()
    row.get_by_role("button", name="Go on").wait_for()
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert [link.state for link in Links(folder, store).all()] == ["open", "open", "paused"]
    with page.expect_download() as download:
        page.get_by_role("button", name="answers.csv").click()
    assert download.value.path().read_text().startswith("env,round,index,")
    page.get_by_role("button", name="Look").nth(1).click()
    page.get_by_role("button", name="Make it a gold question").click()
    page.get_by_role("button", name="Make it a gold question").wait_for(state="detached")
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        assert [each.query for each in gold.questions(store)] == [(0, 0), (0, 1), (0, 22)]
    page.keyboard.press("Escape")
    wait_for(page, state="admin")
    asked = page.get_by_role("button", name="Ask it first").first
    asked.click()
    page.get_by_text("before all others").wait_for()


def test_a_link_that_is_withdrawn_in_mid_answer_says_so_and_keeps_what_was_acknowledged(
    folder, viewer_of, open_page, capsys
):
    main(["label", str(folder.path), "--link", "ana"])
    token = capsys.readouterr().out.splitlines()[0].partition("#")[2]
    viewer = viewer_of(folder)
    page = open_page(f"{viewer.address.partition('?')[0]}#{token}")
    wait_for(page, state="labelling")
    assert page.locator("#open-admin").count() == 0
    page.keyboard.press("o")
    press(page, "ArrowLeft")
    wait_for(page, saved=1, unsaved=0)
    page.keyboard.press("c")
    page.keyboard.type("half a comm")
    main(["label", str(folder.path), "--withdraw", "ana"])
    page.keyboard.press("Enter")
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight")
    wait_until(page, "document.querySelector('#banner').innerText.includes('was withdrawn')")
    assert [(a.teacher, a.value) for a in stored(folder)] == [("ana", {"left": 1})]
