"""Texts on the page: turns, Markdown and raw, what candidates have in common, a better text."""

import contextlib
import dataclasses
import time

import numpy as np
from labelling import make_run
from page import (
    GUARD_SECONDS,
    chromium,
    open_page,
    saved,
    stored,
    viewer_of,
    wait_for,
    wait_until,
)

from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Conversation, Query, QueryId, conversation_clip

MARKDOWN = """\
**Bold** <img src=x onerror=alert(1)> [here](javascript:alert(2)) ![p](http://127.0.0.1/p)

```js
<script>alert(3)</script>
```

| <b>a</b> | b |
|---|---|
| `1` | 2 |

<script>alert(4)</script>
<iframe src="javascript:alert(5)"></iframe>
"""
ARABIC = "**مرحبا** Python\n\n1. واحد"


def talk(name, *turns, system="", finished=None):
    clip = conversation_clip(Conversation(turns, system), name, "t")
    ends = np.array(finished or [True] * len(turns))
    return dataclasses.replace(clip, extras=clip.extras | {"finished": ends})


def opened(tmp_path, viewer_of, open_page, *segments, kind="preference"):
    folder = make_run(tmp_path / "run", Query(QueryId(0, 0), segments, kind, "Which is better?"))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    time.sleep(GUARD_SECONDS)
    return page, folder


def test_each_aspect_is_asked_about_in_turn_under_its_own_question(tmp_path, viewer_of, open_page):
    aspects = {"helpful": "Which reply helps more?", "safe": "Which reply is safer?"}
    queries = [
        Query(
            QueryId(0, index),
            tuple(talk(f"{index}{side}", ("Hello?", f"Hi {index}{side}!")) for side in "ab"),
            question=aspects[aspect],
            aspect=aspect,
        )
        for index, aspect in enumerate([*aspects] * 2)
    ]
    folder = make_run(tmp_path / "run", *queries)
    folder.save_card(dataclasses.replace(folder.card(), aspects=aspects))
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    asked = []
    for count in range(1, 5):
        time.sleep(GUARD_SECONDS)
        asked.append(page.locator("#question").inner_text())
        page.keyboard.press("ArrowLeft")
        saved(page, count)
    assert asked == [aspects["safe"], aspects["helpful"]] * 2
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        taught = [comparison.aspect for comparison in store.comparisons()]
    assert taught == ["safe", "helpful"] * 2


def lines(node):
    return [line for line in node.inner_text().split("\n") if line]


def test_hostile_markdown_is_shown_and_does_nothing(tmp_path, viewer_of, open_page):
    page, _ = opened(
        tmp_path, viewer_of, open_page,
        talk("a", ("*How?*", MARKDOWN)), talk("b", ("*How?*", ARABIC)),
    )  # fmt: skip
    left, right = (page.locator("#stage figure").nth(side) for side in (0, 1))
    shown = left.inner_text()
    for piece in ("<img src=x onerror=alert(1)>", "[here](javascript:alert(2))", "<b>a</b>",
                  "<script>alert(3)</script>", "<script>alert(4)</script>", "<iframe"):  # fmt: skip
        assert piece in shown
    dangerous = "img, script, iframe, a, b, [onerror], [href], [src], [style]"
    assert page.locator(f"#labelling :is({dangerous})").count() == 0
    assert left.locator("strong").inner_text() == "Bold" and "**" not in shown
    assert left.locator("pre code").inner_text() == "<script>alert(3)</script>\n"
    assert left.locator("td").all_inner_texts() == ["1", "2"]
    assert page.locator("#prompt em").inner_text() == "How?"
    directions = [
        node.evaluate("node => getComputedStyle(node).direction")
        for node in (left.locator("p").first, right.locator("p").first, right.locator("ol li"))
    ]
    assert directions == ["ltr", "rtl", "rtl"]
    page.keyboard.press("m")
    assert page.locator("#stage :is(strong, pre, table)").count() == 0
    assert left.locator(".body").inner_text().strip() == MARKDOWN.strip()
    font = left.locator(".body").evaluate("node => getComputedStyle(node).fontFamily")
    assert "monospace" in font
    hosts = {request.url.split("/")[2] for request in page.asked}
    assert len(hosts) == 1, "nothing was loaded from elsewhere"


def test_what_candidates_have_in_common_stands_once_above(tmp_path, viewer_of, open_page):
    before = [("Hello?", "Hi."), ("My pipes knock.", "Bleed them.")]
    page, _ = opened(
        tmp_path, viewer_of, open_page,
        talk("a", *before, ("Still.", "Check it."), ("It is low.", ""), system="Be brief."),
        talk("b", *before, ("Still.", "Call so"), system="Be brief.", finished=[True, True, False]),
    )  # fmt: skip
    assert lines(page.locator("#prompt")) == [
        "Conversation so far", "System", "Be brief.", "User", "Hello?", "Assistant", "Hi.", "User",
        "My pipes knock.", "Assistant", "Bleed them.", "User", "Still.",
    ]  # fmt: skip
    left, right = (page.locator("#stage .page-of-text").nth(side) for side in (0, 1))
    assert lines(left) == [
        "Assistant", "Check it.", "User", "It is low.", "Assistant", "(empty)"
    ]  # fmt: skip
    assert lines(right) == ["Call so", "cut off at the limit"]
    page.keyboard.press("?")
    keys = page.locator("#help .keys").inner_text()
    assert "Markdown" in keys and "left is better" in keys
    assert not any(words in keys for words in ("camera", "frame", "order", "rating"))


def test_a_better_text_within_an_order_keeps_the_order(tmp_path, viewer_of, open_page):
    replies = [talk(word, ("Say.", word)) for word in ("one", "two", "six")]
    page, folder = opened(tmp_path, viewer_of, open_page, *replies, kind="ranking")
    page.keyboard.press("?")
    assert page.locator("#help .keys dt").first.inner_text().split() == ["1", "…", "3"]
    assert "left is better" not in page.locator("#help .keys").inner_text()
    page.keyboard.press("Escape")
    page.locator("#help").wait_for(state="hidden")
    page.keyboard.press("3")
    page.keyboard.press("e")
    page.locator("#writing textarea").wait_for()
    page.locator("#writing select").select_option("1")
    page.keyboard.press("Escape")
    page.locator("#writing").wait_for(state="hidden")
    wait_until(page, "document.activeElement === document.body")
    page.keyboard.press("e")
    page.locator("#writing").wait_for()
    wait_until(page, "document.activeElement.tagName === 'TEXTAREA'")
    page.keyboard.type(" more")
    page.keyboard.press("Control+Enter")
    page.locator("#writing").wait_for(state="hidden")
    wait_until(page, "document.activeElement === document.body")
    assert "instead of 1 is kept" in page.locator("#judge").inner_text()
    assert page.locator("#judge .order .chip").all_inner_texts() == ["3"], "the order is there"
    assert stored(folder) == []
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    saved(page, 1)
    [answer] = stored(folder)
    assert answer.kind == "rewrite"
    assert answer.value == {"segment": 0, "text": "one more", "order": [[2], [0], [1]]}
    with contextlib.closing(FeedbackStore(folder.feedback)) as store:
        taught = [(str(c.left.actions[0]), str(c.right.actions[0])) for c in store.comparisons()]
    assert taught[0] == ("one more", "one") and len(taught) == 4
    page.keyboard.press("u")
    wait_for(page, state="labelling")
    assert page.locator("#judge .order .chip").all_inner_texts() == ["3", "1", "2"]
    assert "instead of 1 is kept" in page.locator("#judge").inner_text()
