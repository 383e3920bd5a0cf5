"""The page in other languages, from right to left as well, and who chooses which."""

import ast
import inspect
import json
import re
import time

import page_words
import pytest
from labelling import QUESTION, make_run, queries_of, text_segment
from page import (
    GUARD_SECONDS,
    chromium,
    open_page,
    press,
    proxy,
    saved,
    served,
    stored,
    viewer_of,
    wait_for,
    wait_until,
)
from playwright.sync_api import expect

from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Query, QueryId
from prefrl.viewer import guard, labeller, progress, server, view
from prefrl.viewer.server import PAGE

LANGUAGES = {
    file.stem: json.loads(file.read_text(encoding="utf-8"))
    for file in sorted((PAGE / "languages").glob("*.json"))
}
FORMS = {"de": {"one", "other"}, "ar": {"zero", "one", "two", "few", "many", "other"}}
PLACE = re.compile(r"\{\w+\}")
GERMAN = LANGUAGES["de"]["texts"]

SHOWN = """() => {
    const texts = new Set();
    const add = (text) => text?.trim() && texts.add(text.trim());
    const foreign = "[dir=auto]:not(#trainer-words), kbd, #language, #person, #inspect-words";
    const there = (node) => (node.closest("select") ?? node).checkVisibility();
    for (const root of document.querySelectorAll("dialog[open], #page, #spoken")) {
        const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
            const around = walk.currentNode.parentElement;
            if (there(around) && !around.closest(foreign)) add(walk.currentNode.data);
        }
        for (const node of root.querySelectorAll("[title], [aria-label], [placeholder]")) {
            for (const name of ["title", "aria-label", "placeholder"]) {
                if (there(node)) add(node.getAttribute(name));
            }
        }
    }
    return [...texts];
}"""


# --- the files --------------------------------------------------------------------------------


def test_strings_templates_and_what_is_joined_are_found_in_a_script():
    found = page_words.pieces(
        """const a = /["'`/]+/g; // "no"
        say("One " + "two"); b(`${x ? `in ${y}` : "off"} of`, c / 2, "d");"""
    )
    assert [piece.text for piece in found] == ["One two", "in {1}", "off", "{1} of", "d"]


def test_no_template_of_the_page_is_out_of_reach():
    assert page_words.mistakes() == [], "write phrase`…`, so that it is looked up"


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_language_has_all_texts_of_the_page_and_no_others(code):
    texts, there = LANGUAGES[code]["texts"], page_words.keys()
    assert sorted(there - set(texts)) == [], f"languages/{code}.json lacks these"
    assert sorted(set(texts) - there) == [], f"the page does not say these any more, {code} does"
    for key, translated in [*texts.items(), *LANGUAGES[code]["server"].items()]:
        forms = translated.values() if isinstance(translated, dict) else [translated]
        if isinstance(translated, dict):
            assert set(translated) == FORMS[code], key
        *_, last = forms  # the most general; "one" may leave its number out
        assert sorted(PLACE.findall(last)) == sorted(PLACE.findall(key)), key
        assert all(form.strip() for form in forms), key


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_language_has_what_the_server_says_of_the_run(code):
    known = LANGUAGES[code]["server"]
    wanted = {
        *progress.TRAINER.values(), labeller.NOTHING_YET, labeller.NOTHING_MORE,
        view.NOT_STANDING, server.FOR_ADMINS, server.AWAY,
    }  # fmt: skip
    assert sorted(wanted - set(known)) == []
    said = ""
    for module in (progress, labeller, view, server, guard, view.Inspector):
        source = ast.parse(inspect.getsource(module))
        said += "".join(
            node.value for node in ast.walk(source)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )  # fmt: skip
    for key in known:
        for piece in PLACE.split(key):
            assert piece.strip(" .`") in said, f"nobody says {key!r} any more"


# --- on the page ------------------------------------------------------------------------------


def mixed_run(path):
    """Make a run that asks every kind of question, about robots."""
    kinds = [("preference", 2), ("ranking", 3), ("choice", 3), ("ratings", 2)]
    folder = make_run(path)
    store = FeedbackStore(folder.feedback)
    for round_index, (kind, segments) in enumerate(kinds, 1):
        store.ask(round_index, queries_of(round_index, 6, kind, segments), {}, 0)
    store.close()
    folder.save_status({"state": "training", "round": 2, "rounds": 5})
    return folder


def walk(page):
    """Go through the views of a page; return all that it shows that it did not get from others."""
    shown = set()

    def look():
        shown.update(page.evaluate(SHOWN))

    def key(*names):
        for name in names:
            page.keyboard.press(name)
            time.sleep(0.15)
        look()

    page.locator("#welcome").wait_for()
    look()
    page.locator("#welcome button").last.click()
    wait_for(page, state="practice")
    look()
    key("Escape")
    kinds = set()
    for _ in range(24):
        wait_for(page, state="labelling")
        time.sleep(GUARD_SECONDS)
        kind = page.evaluate("document.querySelector('#judge > div').innerHTML.length")
        if kind not in kinds:
            kinds.add(kind)
            key("?")
            key("Escape", ",", "g", "]")
        before = page.evaluate("document.body.dataset.ticket")
        page.keyboard.press("s")
        wait_until(page, f"document.body.dataset.ticket !== '{before}'")
        look()
        if len(kinds) >= 3 and page.evaluate("document.body.dataset.state") == "waiting":
            break
    key("h")
    page.locator("#history canvas.still").first.wait_for()
    key("i")
    return shown


def test_no_label_is_left_in_english(tmp_path, viewer_of, open_page):
    seen = {}
    for locale in ("en-US", "de-DE"):
        viewer = viewer_of(mixed_run(tmp_path / locale))
        page = open_page(viewer.address, welcome=True, locale=locale)
        seen[locale] = walk(page)
        assert page.evaluate("document.documentElement.lang") == locale[:2]
    same = {re.escape(key) for key, value in GERMAN.items() if value == key}
    same = [re.compile(re.sub(r"\\\{\d\\\}", ".+", key)) for key in same]
    left = {
        text
        for text in seen["en-US"] & seen["de-DE"]
        if re.search(r"[^\W\d_]{2}", text) and not any(key.fullmatch(text) for key in same)
    }
    assert left <= {"Hopper-v5", "anna", QUESTION}
    for text in ("Links besser", "Speichern", "Etwa gleich", "Sie sind die Belohnung.", "Verlauf",
                 "trainiert die Strategie mit Ihren Antworten (Runde 2 von 5), wählt dann neue "
                 "Clips", "Notiert: nicht zu sagen.", "nicht zu sagen"):  # fmt: skip
        assert text in seen["de-DE"], sorted(seen["de-DE"])
    assert not {text for text in seen["de-DE"] if text in GERMAN and GERMAN[text] != text}


def test_no_box_for_texts_is_left_in_english(tmp_path, viewer_of, open_page):
    clips = [text_segment(name, name * 3, "Wie?") for name in ("Eins. ", "Zwei. ")]
    folder = make_run(tmp_path / "run", Query(QueryId(0, 0), tuple(clips), "preference", "Was?"))
    page = open_page(viewer_of(folder).address, locale="de-DE")
    wait_for(page, state="labelling")
    shown = set()
    for key in ("m", "d", "l", "e"):
        page.keyboard.press(key)
        time.sleep(0.1)
        shown.update(page.evaluate(SHOWN))
    page.keyboard.press("Escape")
    page.locator("#writing").wait_for(state="hidden")
    for name in ("Längen", "Wie sehr?", "Vormachen"):
        page.get_by_role("button", name=name).click()
        shown.update(page.evaluate(SHOWN))
    for text in ("Roh: an", "Unterschiede: an", "Gemeinsam rollen", "Statt", "deutlich",
                 "Abbrechen", "3 Wörter, 18 Zeichen", "eine Eingabe allein"):  # fmt: skip
        assert text in shown, sorted(shown)
    assert page.locator("#writing kbd").inner_text() == "Strg ⏎"
    assert not {text for text in shown if GERMAN.get(text, text) != text}


def test_what_models_and_people_write_is_never_translated(tmp_path, viewer_of, open_page):
    """Even where it is, word for word, what the page itself says."""
    replies = ("Store", "**Undo** and `left`\n\n- Keys"), ("About equal", "# History")
    queries = [
        Query(
            QueryId(0, index),
            tuple(text_segment(f"{index}{i}", reply, "Left better") for i, reply in enumerate(two)),
            "preference",
            "Can't tell",
        )
        for index, two in enumerate(replies)
    ]
    folder = make_run(tmp_path / "run", *queries)
    page = open_page(viewer_of(folder).address, locale="de-DE", person="left better")
    said = []
    for _ in replies:
        wait_for(page, state="labelling")
        said += [page.locator(place).inner_text() for place in ("#question", "#prompt .body")]
        said += page.locator("#stage .body").all_inner_texts()
        press(page, "ArrowLeft")
    page.keyboard.press("h")
    page.locator("#history .still").nth(3).wait_for()
    said += page.locator("#history .still").all_inner_texts()
    said += page.locator("#history .said-when").all_inner_texts()
    words = re.sub("[\u2068\u2069]", "", "\n".join(said))
    for text in ("Can't tell", "Left better", "Store", "Undo and left", "Keys", "About equal",
                 "History", "left better, "):  # fmt: skip
        assert text in words
    assert not {value for value in ("Speichern", "Zurücknehmen", "links", "Verlauf", "Tasten",
                                    "Etwa gleich", "Nicht zu sagen") if value in words}  # fmt: skip


def test_a_page_from_right_to_left_keeps_its_sides(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *queries_of(0, 6))
    page = open_page(viewer_of(folder).address, locale="ar-EG")
    wait_for(page, state="labelling")
    assert page.evaluate("document.dir") == "rtl"
    assert page.evaluate("getComputedStyle(document.querySelector('header')).direction") == "rtl"

    def across(place):
        box = page.locator(place).bounding_box()
        return box["x"] + box["width"] / 2

    assert across("#stage [data-index='0']") < across("#stage [data-index='1']")
    assert across(".answer.left") < across(".answer.right")
    assert across("#open-keys") < across("#trainer"), "the header does run from the right"
    assert page.locator("#stage [data-index='0'] figcaption").inner_text() == "اليسار"
    page.keyboard.press(".")
    assert page.locator("#scrub").evaluate("node => getComputedStyle(node).direction") == "ltr"
    press(page, "ArrowLeft")
    time.sleep(GUARD_SECONDS)
    page.locator(".answer.right").click()
    saved(page, 2)
    assert [answer.value["left"] for answer in stored(folder)] == [1, 0]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("h")
    page.locator("#history canvas.still").nth(3).wait_for()
    stills = page.locator("#history .stills").first.locator("canvas")
    assert stills.nth(0).bounding_box()["x"] < stills.nth(1).bounding_box()["x"]


@pytest.mark.parametrize("locale", ["en-US", "ar"])
def test_each_text_keeps_its_own_direction(tmp_path, viewer_of, open_page, locale):
    clips = text_segment("a", "مرحبا (1).", "كيف؟"), text_segment("b", "Hello (1).", "كيف؟")
    folder = make_run(tmp_path / "run", Query(QueryId(0, 0), clips, "preference", "أيهما؟"))
    page = open_page(viewer_of(folder).address, locale=locale, person="سارة")
    wait_for(page, state="labelling")
    directions = "nodes => nodes.map((node) => getComputedStyle(node).direction)"
    assert page.locator("#stage .body p").evaluate_all(directions) == ["rtl", "ltr"]
    assert page.locator("#question, #prompt .body p").evaluate_all(directions) == ["rtl", "rtl"]
    press(page, "ArrowLeft")
    page.keyboard.press("h")
    line = page.locator("#history .said-when").first.inner_text()
    assert ("\u2068سارة\u2069" in line) == (locale == "en-US"), "within a sentence it is set apart"


def test_the_language_is_the_browsers_until_another_is_chosen(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *queries_of(0, 20))
    viewer = viewer_of(folder)
    page = open_page(viewer.address, locale="fr-FR")
    wait_for(page, state="labelling")
    left = page.locator(".answer.left span")
    assert left.inner_text() == "Left better", "nobody has written French"
    page.locator("#language").select_option("de")
    expect(left).to_have_text("Links besser")
    page.goto(viewer.address)
    wait_for(page, state="labelling")
    assert left.inner_text() == "Links besser", "it is remembered"
    page.goto(f"{viewer.address}&lang=ar")
    wait_for(page, state="labelling")
    assert left.inner_text() == "الأيسر أفضل"
    page.goto(viewer.address)
    wait_for(page, state="labelling")
    assert left.inner_text() == "الأيسر أفضل", "so is what an address asks for"
    page.goto(f"{viewer.address}&lang=ar")
    page.locator("#language").select_option("en")
    expect(left).to_have_text("Left better")
    assert page.evaluate("document.dir") == "ltr"


def test_languages_are_there_below_a_path_of_a_proxy(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *queries_of(0, 6))
    root = "/user/ana/proxy/8765"
    viewer = viewer_of(folder, "--root-path", root)
    with served(proxy(folder.viewer()["port"], root, True)) as outside:
        query = viewer.address.partition("?")[2]
        page = open_page(f"http://127.0.0.1:{outside}{root}/?{query}", locale="de-DE")
        wait_for(page, state="labelling")
        assert page.locator(".answer.left span").inner_text() == "Links besser"


def test_a_text_that_a_language_lacks_is_shown_in_english(tmp_path, viewer_of, open_page):
    folder = make_run(tmp_path / "run", *queries_of(0, 6))
    address = viewer_of(folder).address
    page = open_page("about:blank", locale="ar")
    texts = {k: v for k, v in LANGUAGES["ar"]["texts"].items() if k != "Left better"}
    page.route("**/languages/ar.json", lambda route: route.fulfill(
        json=LANGUAGES["ar"] | {"texts": texts}))  # fmt: skip
    page.goto(address)
    wait_for(page, state="labelling")
    labels = page.locator(".answer span")
    assert labels.all_inner_texts()[::3] == ["Left better", "الأيمن أفضل"]
    page.unroute("**/languages/ar.json")
    page.route("**/languages/ar.json", lambda route: route.abort())
    page.goto(address)
    wait_for(page, state="labelling")
    assert labels.all_inner_texts()[::3] == ["Left better", "Right better"]
    assert page.evaluate("[document.dir, document.documentElement.lang].join()") == "ltr,en"
