"""Several people, and things that die, with the page in a real Chromium."""

import contextlib
import time

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
    viewer,
    viewer_of,
    wait_for,
    wait_until,
)

from prefrl.storage.feedback import FeedbackStore

# --- several people ---------------------------------------------------------------------------


def test_two_people_never_get_the_same_pair(folder, viewer, open_page):
    pages = [open_page(viewer.address, person=name) for name in ("anna", "ben")]
    seen = [[], []]
    for one in pages:
        wait_for(one, state="labelling")
    for _ in range(8):
        for one, tickets in zip(pages, seen, strict=True):
            tickets.append(data(one, "ticket"))
            assert tickets[-1] != data(pages[0] if one is pages[1] else pages[1], "ticket")
            press(one, "ArrowLeft")
    for one in pages:
        saved(one, 8)
    assert not set(seen[0]) & set(seen[1])
    assert sorted({a.teacher for a in stored(folder)}) == ["anna", "ben"]


def test_two_tabs_of_one_person_show_different_pairs(folder, page):
    other = page.context.new_page()
    other.goto(page.url)
    wait_for(other, state="labelling")
    assert data(other, "ticket") != data(page, "ticket")
    press(page, "ArrowLeft")
    press(other, "ArrowRight")
    saved(page, 1)
    saved(other, 1)
    assert len(stored(folder)) == 2


# --- things that die --------------------------------------------------------------------------


def test_answers_outlive_a_killed_viewer_and_a_closed_tab(folder, viewer, open_page):
    page = open_page(viewer.address)
    wait_for(page, state="labelling")
    press(page, "ArrowLeft")
    saved(page, 1)
    viewer.kill()
    press(page, "ArrowRight", "ArrowDown")
    wait_until(page, "document.body.dataset.unsaved === '2'")
    wait_until(page, "document.querySelector('#figures').innerText.includes('unsaved')")
    assert page.locator("#banner").is_visible(), "it says that the server is gone"
    assert len(stored(folder)) == 1
    url = page.url
    again = page.context.new_page()
    page.close()
    viewer.start()
    again.goto(url)
    wait_for(again, state="labelling", unsaved=0)
    assert [a.kind for a in stored(folder)] == ["preference", "preference", "tie"]


def test_the_page_goes_on_by_itself_when_the_viewer_is_back(folder, viewer, page):
    viewer.kill()
    press(page, "ArrowLeft")
    wait_until(page, "document.body.dataset.unsaved === '1'")
    viewer.start()
    wait_for(page, unsaved=0, timeout=15)
    assert not page.locator("#banner").is_visible()
    press(page, "ArrowLeft")
    saved(page, 2)
    assert len(stored(folder)) == 2


def test_an_undo_while_the_viewer_is_gone_takes_back_the_answer_it_was_about(folder, viewer, page):
    """Not the newest one, which is an older answer that was changed in the history."""
    first, second = data(page, "ticket"), None
    press(page, "ArrowLeft")
    second = data(page, "ticket")
    press(page, "ArrowLeft")
    saved(page, 2)
    page.keyboard.press("h")
    page.locator("#history li button").nth(1).click()
    wait_for(page, state="review", ticket=first)
    viewer.kill()
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight")
    wait_for(page, unsaved=1, server="gone")
    page.keyboard.press("Escape")
    wait_until(page, "document.body.dataset.state === 'labelling'")
    page.keyboard.press("u")
    wait_for(page, ticket=second)
    viewer.start()
    wait_for(page, unsaved=0, timeout=15)
    deadline = time.monotonic() + 10
    while len(answers := stored(folder)) != 1:
        assert time.monotonic() < deadline, answers
        time.sleep(0.05)
    [changed] = answers
    assert f"{changed.query.round}-{changed.query.index}" == first and changed.value == {"left": 0}
    press(page, "ArrowDown")
    wait_for(page, unsaved=0)
    assert [answer.kind for answer in stored(folder)] == ["preference", "tie"]


def test_undo_is_of_this_pages_last_answer_whatever_was_changed_since(folder, page):
    tickets = []
    for _ in range(2):
        tickets.append(data(page, "ticket"))
        press(page, "ArrowLeft")
    saved(page, 2)
    page.keyboard.press("h")
    page.locator("#history li button").nth(1).click()
    wait_for(page, state="review", ticket=tickets[0])
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowRight")
    wait_for(page, state="history", unsaved=0)
    page.keyboard.press("h")
    wait_for(page, state="labelling")
    page.keyboard.press("u")
    wait_for(page, ticket=tickets[1])
    page.keyboard.press("u")
    wait_until(page, "document.querySelector('#toast').innerText.includes('does not stand')")
    [changed] = stored(folder)
    assert changed.value == {"left": 0}, "and the changed answer stays"


def test_a_person_who_falls_silent_holds_nothing_after_the_lease(folder, viewer, open_page):
    page = open_page(viewer.address)
    wait_for(page, state="labelling")
    held = data(page, "ticket")
    page.goto(f"{page.url}api/run")  # leaves the page, as closing it does
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        deadline = time.monotonic() + 5
        while store.database.connection.execute("SELECT count(*) FROM lease").fetchone()[0]:
            assert time.monotonic() < deadline, "a closed tab gives its pairs back"
            time.sleep(0.05)
    other = open_page(viewer.address, person="ben")
    wait_for(other, state="labelling")
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        leases = "SELECT round || '-' || \"index\" FROM lease WHERE teacher = 'ben'"
        assert (held,) in store.database.connection.execute(leases).fetchall()
