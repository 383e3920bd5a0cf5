"""The page in Firefox: it loads, moves, takes answers by key, and shows texts and orders."""

import json
import time

from firefox import firefox
from labelling import make_run, queries_of, text_segment
from page import GUARD_SECONDS, data, press, saved, stored, viewer_of, wait_for, wait_until

from prefrl.types import Query, QueryId

__all__ = ["firefox", "viewer_of"]


def opened(firefox, viewer, words=""):
    firefox.goto(viewer.address + words)
    wait_until(firefox, "document.querySelector('#welcome').open", 40)
    firefox.press("Enter")
    wait_for(firefox, 40, state="labelling")
    return firefox


def test_a_pair_moves_is_answered_by_key_and_comes_back(firefox, tmp_path, viewer_of):
    folder = make_run(tmp_path / "run", *queries_of(0, 8))
    page = opened(firefox, viewer_of(folder))
    wait_until(page, "Number(document.body.dataset.frame) > 5", 20)
    shown = page.evaluate(
        "[document.body.dataset].map(({ frame, left, right }) => [frame, left, right])[0]"
    )
    assert len(set(shown)) == 1
    page.press(" ")  # it stands still from here on, which is lighter
    drawn = page.evaluate(
        """(() => { const { width, height } = document.querySelector('#stage canvas');
        const context = document.querySelector('#stage canvas').getContext('2d');
        const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
        return new Set(pixels).size; })()"""
    )
    assert drawn > 100, "a robot, its shadow, a floor and a sky"
    first = data(page, "ticket")
    press(page, "ArrowLeft", "Shift+ArrowRight", "ArrowDown", "s")
    for _ in range(4):
        press(page, "u")
    assert data(page, "ticket") == first
    press(page, "ArrowRight")
    saved(page, 5)
    assert [(answer.kind, answer.value) for answer in stored(folder)] == [
        ("preference", {"left": 0})
    ]
    page.press("h")
    wait_until(page, "document.querySelectorAll('#history canvas.still').length > 1", 20)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_order_is_given_by_digits(firefox, tmp_path, viewer_of):
    folder = make_run(tmp_path / "run", *queries_of(0, 4, "ranking", segments=4))
    page = opened(firefox, viewer_of(folder))
    time.sleep(GUARD_SECONDS)
    for key in ("3", "1", "=", "4"):
        page.press(key)
    press(page, "Enter")
    saved(page, 1)
    assert [answer.value for answer in stored(folder)] == [{"order": [[2], [0, 3], [1]]}]


def test_texts_are_read_compared_and_written(firefox, tmp_path, viewer_of):
    clips = text_segment("a", "**One** two\n\n```py\nx = 1\n```"), text_segment("b", "One three")
    folder = make_run(tmp_path / "run", Query(QueryId(0, 0), clips, "preference", "Which?"))
    page = opened(firefox, viewer_of(folder), "&lang=ar")
    assert page.evaluate("document.dir") == "rtl"
    assert page.locator(".answer.left span").inner_text() == "الأيسر أفضل"
    places = page.evaluate(
        "[...document.querySelectorAll('#stage .clip')].map((n) => n.getBoundingClientRect().x)"
    )
    assert places[0] < places[1]
    assert page.locator("#stage strong").inner_text() == "One"
    assert page.locator("#stage pre code").inner_text().strip() == "x = 1"
    page.press("d")
    wait_until(page, "document.querySelectorAll('#stage mark').length > 0")
    page.press("m")
    wait_until(page, "document.querySelector('#stage .raw .body').innerText.includes('**One**')")
    page.press("e")
    wait_until(page, "document.activeElement.tagName === 'TEXTAREA'")
    page.evaluate(f"document.activeElement.value = {json.dumps('Better سلام')}")
    page.press("Control+Enter")
    saved(page, 1)
    assert stored(folder)[0].value == {"segment": 0, "text": "Better سلام"}
    page.evaluate("localStorage.removeItem('prefrl:language')")
