"""The page of somebody's own link, in a real Chromium, below a path of a proxy."""

import time

import pytest
from page import (
    GUARD_SECONDS,
    chromium,
    data,
    folder,
    open_page,
    press,
    proxy,
    served,
    stored,
    viewer_of,
    wait_for,
    wait_until,
)
from playwright.sync_api import expect

from prefrl.cli import main

__all__ = ["chromium", "folder", "open_page", "viewer_of"]

ROOT = "/user/ana/proxy/8765"


@pytest.fixture
def link_of(folder, capsys):
    """Make a link of somebody, and give the part of its address that holds the token."""

    def made(person):
        main(["label", str(folder.path), "--link", person])
        return capsys.readouterr().out.splitlines()[0].partition("#")[2]

    return made


@pytest.mark.parametrize("cut", [True, False])
def test_a_labeller_answers_below_a_path_until_the_link_is_withdrawn(
    folder, viewer_of, open_page, link_of, cut
):
    token, viewer = link_of("ana"), viewer_of(folder, "--root-path", ROOT)
    port = folder.viewer()["port"]
    assert viewer.address.startswith(f"http://127.0.0.1:{port}{ROOT}/?token=")
    with served(proxy(port, ROOT, True, cut)) as outside:
        place = f"http://127.0.0.1:{outside}{ROOT}/"
        page = open_page(f"{place}#{token}", person="somebody else")
        bad = []
        page.on("response", lambda reply: bad.append(reply.url) if reply.status >= 400 else None)
        wait_for(page, state="labelling")
        assert page.url == place and not any(token[6:] in asked.url for asked in page.asked)
        assert page.locator("#person").input_value() == "ana"
        assert page.locator("#person").get_attribute("readonly") is not None
        assert page.locator("#open-inspect").is_hidden() and page.locator("#policy").is_hidden()
        press(page, "ArrowLeft", "ArrowDown")
        page.keyboard.press("i")
        wait_for(page, state="labelling", unsaved=0)
        page.keyboard.press("h")
        page.locator("#history canvas.still").nth(3).wait_for()
        words = page.locator("body").inner_text()
        assert "ana" in words and "of 100" not in words and "reward" not in words
        page.keyboard.press("h")
        page.reload()
        wait_for(page, state="labelling")
        assert bad == []
        main(["label", str(folder.path), "--withdraw", "ana"])
        time.sleep(GUARD_SECONDS)
        page.keyboard.press("ArrowRight")
        wait_for(page, unsaved=1)
        wait_until(page, "document.querySelector('#banner').innerText.includes('was withdrawn')")
    assert [(each.teacher, each.kind) for each in stored(folder)] == [
        ("ana", "preference"), ("ana", "tie")
    ]  # fmt: skip


def test_what_one_person_could_not_send_is_sent_by_nobody_else(
    folder, viewer_of, open_page, link_of
):
    ana, ben, viewer = link_of("ana"), link_of("ben"), viewer_of(folder)
    place = viewer.address.partition("?")[0]
    page = open_page(f"{place}#{ana}")
    wait_for(page, state="labelling")
    page.route("**/api/answer", lambda route: route.abort())
    time.sleep(GUARD_SECONDS)
    page.keyboard.press("ArrowLeft")
    wait_for(page, unsaved=1)
    main(["label", str(folder.path), "--pause", "ana"])
    page.unroute("**/api/answer")
    page.goto(f"{place}#{ben}")  # the page loads itself again
    expect(page.locator("#person")).to_have_value("ben", timeout=10_000)
    wait_for(page, state="labelling", unsaved=0)
    press(page, "ArrowDown")
    wait_for(page, saved=1)
    main(["label", str(folder.path), "--unpause", "ana"])
    assert [each.teacher for each in stored(folder)] == ["ben"]
    page.goto(f"{place}#{ana}")
    expect(page.locator("#person")).to_have_value("ana", timeout=10_000)
    wait_for(page, state="labelling", saved=1, unsaved=0)
    assert [each.teacher for each in stored(folder)] == ["ben", "ana"]
    assert data(page, "server") == "there"
