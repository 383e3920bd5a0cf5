"""What a labeller is told, practises and is warned of, in a real Chromium."""

import contextlib
import dataclasses
import functools
import time

import numpy as np
import pytest
from labelling import make_run, pose_segment, queries_of, robot, text_segment
from page import (
    GUARD_SECONDS,
    chromium,
    data,
    press,
    stored,
    viewer_of,
    wait_for,
    wait_until,
)
from page import open_page as open_still_page

from prefrl.guide import Example, Guide, GuidePicture, Right
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Query, QueryId, Segment

SENTENCES = ("Backward is to the left.", "A fall is <b>worst</b> of all.")
STANDING = (0.0, 1.25, 0.0, 0.0, 0.0, 0.0)
LEANING = (-0.5, 0.9, -1.2, -0.2, -0.4, 0.0)
GUIDE = Guide(
    SENTENCES,
    (
        GuidePicture("This is the foot.", (STANDING,), ("foot_geom",)),
        GuidePicture("Bad: it falls.", (STANDING, LEANING)),
    ),
    ("lies there", "lands it"),
)


@pytest.fixture
def open_page(open_still_page):
    return functools.partial(open_still_page, reduced_motion="no-preference")


def guided(path, kind="preference", segments=2, rights=(), guide=GUIDE):
    """Make a run with a guide, and with questions for practice if their answers are given."""
    folder = make_run(path, *queries_of(0, 6, kind, segments))
    folder.save_guide(dataclasses.replace(guide, practice=tuple(rights)))
    if rights:
        asked = queries_of(0, len(rights), kind, segments, make=practice_segment)
        with contextlib.closing(FeedbackStore(folder.practice)) as store:
            store.ask(0, asked, {}, 0)
    return folder


def practice_segment(name, number):
    return pose_segment(f"practice {name}", number + 3)


def answer_to(page, *keys):
    time.sleep(GUARD_SECONDS)
    for key in keys:
        page.keyboard.press(key)
    wait_until(page, "'verdict' in document.body.dataset")
    return page.locator("#note").inner_text()


def scrub_to(page, frame):
    page.locator("#scrub").evaluate(
        "(scrub, to) => { scrub.value = to; scrub.dispatchEvent(new Event('input')); }", frame
    )
    wait_for(page, frame=frame)


# --- what is told -----------------------------------------------------------------------------


def test_the_first_card_and_the_help_say_what_is_good_in_sentences_and_moving_pictures(
    tmp_path, viewer_of, open_page
):
    page = open_page(viewer_of(guided(tmp_path / "run")).address, welcome=True)
    for place in ("#welcome", "#help"):
        if place == "#help":
            page.keyboard.press("Enter")
            wait_for(page, state="labelling")
            page.keyboard.press("?")
        card = page.locator(place)
        card.wait_for()
        told = card.locator(".guide li").all_inner_texts()
        assert told == list(SENTENCES), "as text, whatever it holds"
        assert card.locator("figcaption").all_inner_texts() == [
            "This is the foot.", "Bad: it falls."
        ]  # fmt: skip
        canvas = f"{place} .guide-pictures canvas"
        wait_until(page, f"document.querySelectorAll('{canvas}')[1].dataset.frame > 3")
        foot = card.locator("canvas").first.evaluate(
            """(canvas) => { const d = canvas.getContext('2d').getImageData(0, 0, canvas.width,
            canvas.height).data; let marked = 0; for (let i = 0; i < d.length; i += 4) {
            if (d[i] > 90 && d[i + 1] < 60 && d[i + 2] > 40) marked += 1; } return marked; }"""
        )
        assert foot > 20, "the part is coloured"


def test_who_wants_no_motion_sees_pictures_that_stand_still(tmp_path, viewer_of, open_still_page):
    page = open_still_page(viewer_of(guided(tmp_path / "run")).address, welcome=True)
    frames = "[...document.querySelectorAll('#welcome canvas')].map((c) => c.dataset.frame)"
    wait_until(page, f"{frames}.filter(Boolean).length === 2")
    before = page.evaluate(frames)
    time.sleep(0.3)
    assert page.evaluate(frames) == before


def test_sentences_of_ones_own_take_the_place_of_those_of_the_environment(
    tmp_path, viewer_of, open_page
):
    path = tmp_path / "own.txt"
    path.write_text("Only this.\nAnd that.\n", encoding="utf-8")
    folder = guided(tmp_path / "run")
    viewer_of(folder, "--instructions", str(path)).kill()
    page = open_page(viewer_of(folder).address, welcome=True)
    page.locator("#welcome").wait_for()
    assert page.locator("#welcome .guide li").all_inner_texts() == ["Only this.", "And that."]


def test_the_first_card_comes_once_a_run_and_person_in_whichever_browser(
    tmp_path, viewer_of, open_page
):
    folder = guided(tmp_path / "run")
    viewer = viewer_of(folder)
    page = open_page(viewer.address, welcome=True)
    page.locator("#welcome").wait_for()
    page.keyboard.press("Enter")
    deadline = time.monotonic() + 5
    while folder.welcomed() != ["anna"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = open_page(viewer.address, welcome=True)
    wait_for(again, state="labelling")
    assert not again.locator("#welcome").is_visible()
    other = open_page(viewer.address, welcome=True, person="ben")
    other.locator("#welcome").wait_for()


@pytest.mark.parametrize("kind, segments", [("preference", 2), ("ranking", 6)])
def test_on_a_phone_the_first_card_fits_and_its_button_is_always_there(
    tmp_path, viewer_of, open_page, kind, segments
):
    page = open_page(viewer_of(guided(tmp_path / "run", kind, segments)).address, welcome=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#welcome").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    card = page.locator("#welcome")
    assert card.evaluate("(card) => card.scrollWidth <= card.clientWidth")
    box = page.get_by_role("button", name="Start labelling").bounding_box()
    assert box["y"] > 0 and box["y"] + box["height"] <= 844
    page.get_by_role("button", name="Start labelling").click()
    wait_for(page, state="labelling")


# --- practice ---------------------------------------------------------------------------------


def test_practice_says_whether_an_answer_is_right_and_why_and_stores_nothing(
    tmp_path, viewer_of, open_page
):
    rights = [Right(((1,), (0,)), "It came farther."), Right(((0,), (1,)), "It stood."),
              Right(((0,), (1,)), "It flew.")]  # fmt: skip
    folder = guided(tmp_path / "run", rights=rights)
    page = open_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    before = data(page, "ticket")
    page.keyboard.press("?")
    page.get_by_role("button", name="Three for practice").click()
    wait_for(page, state="practice", ticket="practice-0")
    assert "It is the other way round. It came farther." in answer_to(page, "ArrowLeft")
    places = page.locator(".clip").evaluate_all("(c) => c.slice(0, 2).map((c) => c.dataset.place)")
    assert places == ["place 2", "place 1"]
    page.keyboard.press("ArrowRight")  # it was answered already
    assert data(page, "ticket") == "practice-0"
    page.keyboard.press("Enter")
    wait_for(page, ticket="practice-1")
    assert data(page, "verdict") is None and "Practice 2 of 3" in page.locator("#note").inner_text()
    assert "That is right. It stood." in answer_to(page, "ArrowLeft")
    page.get_by_role("button", name="Next").click()
    wait_for(page, ticket="practice-2")
    assert "Here one can tell. It flew." in answer_to(page, "s")
    page.get_by_role("button", name="Start labelling").click()
    wait_for(page, state="labelling", ticket=before)
    assert stored(folder) == [] and data(page, "unsaved") == "0"
    press(page, "ArrowLeft")
    wait_for(page, unsaved=0, saved=1)
    assert len(stored(folder)) == 1


@pytest.mark.parametrize(
    "kind, keys, says",
    [
        ("ranking", ["3", "1", "2", "Enter"], "That is the right order. Because."),
        ("ranking", ["1", "3", "2", "Enter"], "Of 3 pairs, 2 are in the right order. Because."),
        ("ranking", ["ArrowDown"], "Here they differ. Because."),
        ("choice", ["3"], "That is right. Because."),
        ("choice", ["2"], "Another one is the best. Because."),
        ("ratings", ["5", "1", "7", "Enter"], "That is the right order. Because."),
        ("ratings", ["1", "5", "1", "Enter"], "Of 3 pairs, 0 are in the right order. Because."),
    ],
)
def test_practice_of_each_kind_is_judged_by_its_order(
    tmp_path, viewer_of, open_still_page, kind, keys, says
):
    folder = guided(tmp_path / "run", kind, 3, [Right(((2,), (0,), (1,)), "Because.")])
    page = open_still_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    page.keyboard.press("?")
    page.get_by_role("button", name="Three for practice").click()
    wait_for(page, state="practice")
    assert says in answer_to(page, *keys)
    page.get_by_role("button", name="Leave practice").click()
    wait_for(page, state="labelling")
    assert not page.locator("#note.verdict").count() and stored(folder) == []


def test_texts_are_practised_by_examples(tmp_path, viewer_of, open_still_page):
    queries = [
        Query(QueryId(0, i), (text_segment(f"{i}a", "One."), text_segment(f"{i}b", "Two.")))
        for i in range(3)
    ]
    folder = make_run(tmp_path / "run", *queries)
    examples = (Example("A song:", ("lovely", "awful"), "It praises."),
                Example("A film:", ("good", "bad"), "It likes it."))  # fmt: skip
    folder.save_guide(Guide(("More praise is better.",), examples=examples))
    page = open_still_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    page.keyboard.press("?")
    page.get_by_role("button", name="Three for practice").click()
    wait_for(page, state="practice")
    assert page.locator(".page-of-text").all_inner_texts()[:2] == ["lovely", "awful"]
    assert "That is right. It praises." in answer_to(page, "ArrowLeft")
    page.keyboard.press("Enter")
    wait_for(page, ticket="practice-1")
    assert "That is right. It likes it." in answer_to(page, "ArrowRight"), "turned round"


# --- moments that mislead ---------------------------------------------------------------------


def marked_clip(name, number, **marks):
    segment = pose_segment(name, number, 60)
    return dataclasses.replace(segment, extras=segment.extras | marks)


def test_who_is_stood_up_is_marked_on_the_timeline_and_said_in_words(
    tmp_path, viewer_of, open_page
):
    steps = np.arange(60)
    left = marked_clip("a", 0, stood_up=steps == 20)
    right = marked_clip("b", 1, ended=steps >= 40, stood_up=steps < 0)
    page = open_page(
        viewer_of(make_run(tmp_path / "run", Query(QueryId(0, 0), (left, right)))).address
    )
    wait_for(page, state="labelling")
    names = ["Left", "Right"]
    if page.evaluate("pairs.at(-1).clips[0].ended"):
        names.reverse()
    marks = page.locator(".moment")
    assert [marks.nth(i).get_attribute("title") for i in range(2)] == sorted(
        [f"{names[0]}: stood up again here", f"{names[1]}: the episode ends here"],
        key=lambda words: words.split(":")[0],
    )
    page.get_by_title("stood up again here").click()
    wait_for(page, frame=20)
    assert page.locator(".held >> visible=true").all_inner_texts() == ["stood up again here"]
    slider, mark = page.locator("#scrub").bounding_box(), None
    mark = page.get_by_title("stood up again here").bounding_box()
    share = (mark["x"] + mark["width"] / 2 - slider["x"] - 8) / (slider["width"] - 16)
    last = int(page.locator("#scrub").get_attribute("max"))
    assert share == pytest.approx(20 / last, abs=0.02)


def test_a_jump_that_no_body_makes_is_marked_where_nobody_says_so(
    tmp_path, viewer_of, open_still_page
):
    _, qpos = robot()
    poses = qpos[:60].copy()
    poses[30:, 0] += 2.0
    carried = Segment("a", poses, np.zeros((60, 1), np.float32), {"qpos": poses})
    query = Query(QueryId(0, 0), (carried, pose_segment("b", 1)))
    page = open_still_page(viewer_of(make_run(tmp_path / "run", query)).address)
    wait_for(page, state="labelling")
    assert page.locator(".moment").count() == 1
    scrub_to(page, 31)
    assert page.locator(".held >> visible=true").all_inner_texts() == ["put back here"]


def test_where_nothing_moves_any_more_is_said_and_cut(tmp_path, viewer_of, open_still_page):
    clips = []
    for number, name in enumerate("ab"):
        poses = robot()[1][7 * number : 7 * number + 60].copy()
        poses[20:] = poses[20]
        clips.append(Segment(name, poses, np.zeros((60, 1), np.float32), {"qpos": poses}))
    page = open_still_page(
        viewer_of(make_run(tmp_path / "run", Query(QueryId(0, 0), tuple(clips)))).address
    )
    wait_for(page, state="labelling")
    assert page.locator("#scrub").get_attribute("max") == str(20 + round(0.5 / 0.02) - 1)
    scrub_to(page, 19)
    assert page.locator(".held >> visible=true").count() == 0
    for frame in (20, 44):
        scrub_to(page, frame)
        said = page.locator(".held >> visible=true").all_inner_texts()
        assert said == ["does not move any more"] * 2


SEAM = """(seconds) => new Promise((done) => {
    const seen = [], began = performance.now();
    const look = (now) => {
        const { frame, left, right } = document.body.dataset;
        seen.push([now, Number(frame), Number(left), Number(right)]);
        if (now - began < 1000 * seconds) requestAnimationFrame(look); else done(seen);
    };
    requestAnimationFrame(look);
})"""


def test_at_the_seam_the_last_frame_stays_for_a_moment_in_both(tmp_path, viewer_of, open_page):
    page = open_page(viewer_of(make_run(tmp_path / "run", *queries_of(0, 2))).address)
    wait_for(page, state="labelling")
    page.keyboard.press("]")  # the pause does not get shorter with the speed
    frames = np.array(page.evaluate(SEAM, 4.0))
    assert (frames[:, 1] == frames[:, 2]).all() and (frames[:, 1] == frames[:, 3]).all()
    ends = np.flatnonzero(np.diff(frames[:, 1]) < 0)
    assert len(ends) >= 2 and (frames[ends + 1, 1] <= 8).all(), "and then it begins anew"
    for end in ends[1:]:
        held = frames[: end + 1][frames[: end + 1, 1] != 59]
        assert 380 < frames[end + 1, 0] - held[-1, 0] < 700, "milliseconds on the last frame"


def test_both_ends_of_a_scale_have_words(tmp_path, viewer_of, open_still_page):
    folder = guided(tmp_path / "run", "ratings", 2)
    page = open_still_page(viewer_of(folder).address)
    wait_for(page, state="labelling")
    assert page.locator(".ends span").all_inner_texts() == ["1 = lies there", "7 = lands it"]
    plain = make_run(tmp_path / "plain", *queries_of(0, 3, "ratings"))
    page = open_still_page(viewer_of(plain).address)
    wait_for(page, state="labelling")
    assert page.locator(".ends span").all_inner_texts() == ["1 = worst", "7 = best"]
