"""On the page: a judge's split orders are asked of a person, who may overrule a revision, too."""

import contextlib
import time

from labelling import make_run
from opinions import CRITIQUE, KIND, PRINCIPLE, RUDE, judged, revised
from page import (
    GUARD_SECONDS,
    chromium,
    open_page,
    press,
    saved,
    stored,
    viewer_of,
    wait_for,
    wait_until,
)

from prefrl.storage.feedback import FeedbackStore


def begun(path, ask, **options):
    """Make a run folder without queries, and let a model answer some."""
    folder = make_run(path, of_text=True)
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        return folder, ask(store, **options)


def taught(folder):
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        return [(str(c.left.actions[-1]), c.preference) for c in store.comparisons()]


def test_what_a_judges_orders_disagree_about_is_asked_of_a_person(tmp_path, viewer_of, open_page):
    folder, (agreed, split) = begun(tmp_path / "run", judged)
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling", ticket=f"{split.id.round}-{split.id.index}")
    texts = page.locator("#stage .page-of-text").all_inner_texts()
    assert [text.strip() for text in texts[:2]] == ["one", "two"]
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight")
    wait_for(page, state="waiting")
    saved(page, 1)
    assert taught(folder)[1:] == [("one", 0.0)]
    assert [answer.teacher for answer in stored(folder)] == ["judge:rule", "anna"]
    page.keyboard.press("u")
    wait_for(page, state="labelling", ticket=f"{split.id.round}-{split.id.index}")
    assert [answer.teacher for answer in stored(folder)] == ["judge:rule"] * 2
    assert agreed.id != split.id


def test_a_person_overrules_a_revision_that_is_asked_about(tmp_path, viewer_of, open_page):
    folder, _ = begun(tmp_path / "run", revised, count=2)
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling", ticket="0-1-revision")
    left, right = page.locator("#stage .page-of-text").all()[:2]
    assert left.inner_text().strip() == f"{RUDE} 1" and right.inner_text().strip() == KIND
    marks = [side.locator("mark").all_inner_texts() for side in (left, right)]
    assert "Go" in " ".join(marks[0]) and "Please" in " ".join(marks[1])
    assert not any("whoever" in mark for side in marks for mark in side)
    note = page.locator("#note").inner_text()
    assert "revise:kind has made the right text of the left one" in note
    assert f"Principle: {PRINCIPLE}" in note and f"Critique: {CRITIQUE}" in note
    press(page, "ArrowLeft")
    wait_for(page, ticket="0-0-revision")
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight")
    saved(page, 2)
    assert sorted(taught(folder)) == [(KIND, 0.0), (KIND, 1.0)]
    assert [answer.teacher for answer in stored(folder)] == ["anna", "anna"]


def test_a_revision_in_the_history_may_be_overruled(tmp_path, viewer_of, open_page):
    folder, _ = begun(tmp_path / "run", revised, ask_people=False)
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="waiting")
    page.keyboard.press("h")
    page.locator(".answer-card").first.click()
    wait_for(page, state="review", ticket="0-0-revision")
    note = page.locator("#note").inner_text()
    assert "A new answer replaces it" in note and f"Critique: {CRITIQUE}" in note
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowLeft")
    saved(page, 1)
    assert taught(folder) == [(KIND, 0.0)]
    wait_until(page, "document.querySelectorAll('.answer-card').length === 2")
    said = page.locator(".answer-card b").all_inner_texts()
    assert said[0] == "left better" and said[1].startswith("a better text for")
    page.locator(".answer-card").first.click()
    wait_for(page, state="review", ticket="0-0-revision")
