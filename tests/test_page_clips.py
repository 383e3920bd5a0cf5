"""How the page plays and draws clips, in a real Chromium."""

import base64
import dataclasses
import functools
import io
import re
import time

import numpy as np
import pytest
from labelling import (
    filmed_queries,
    make_run,
    pose_segment,
    queries_of,
)
from page import (
    ROBOTS,
    chromium,
    data,
    folder,
    page,
    press,
    saved,
    viewer,
    viewer_of,
    wait_for,
    wait_until,
)
from page import open_page as open_still_page
from PIL import Image

from prefrl.types import Query, QueryId
from prefrl.viewer.server import PAGE


@pytest.fixture
def open_page(open_still_page):
    return functools.partial(open_still_page, reduced_motion="no-preference")


# --- playing ----------------------------------------------------------------------------------


def uneven(count):
    return [
        Query(QueryId(0, i), (pose_segment(f"{i}l", i, 60), pose_segment(f"{i}r", i + 1, 25)))
        for i in range(count)
    ]


FRAMES = """(seconds) => new Promise((done) => {
    const seen = [], began = performance.now();
    const look = (now) => {
        const { frame, left, right } = document.body.dataset;
        seen.push([now, Number(frame), Number(left), Number(right)]);
        if (now - began < 1000 * seconds) requestAnimationFrame(look); else done(seen);
    };
    requestAnimationFrame(look);
})"""


def test_both_clips_show_the_same_frame_always_and_the_shorter_one_holds(
    tmp_path, viewer_of, open_page
):
    viewer = viewer_of(make_run(tmp_path / "run", *uneven(3)))
    page = open_page(viewer.address)
    wait_for(page, state="labelling")
    for key, seconds in [("", 3.0), ("]", 1.0), ("]", 1.0), *[("[", 0.4)] * 4]:
        if key:
            page.keyboard.press(key)
        frames = page.evaluate(FRAMES, seconds)
        assert len({frame[1] for frame in frames}) > 1, "it moves"
        lengths = [60, 25] if page.evaluate("pairs.at(-1).clips[0].frames") == 60 else [25, 60]
        for _, frame, left, right in frames:
            assert (left, right) == tuple(min(frame, length - 1) for length in lengths)
    for frame, held in [(40, 1), (10, 0)]:
        page.locator("#scrub").evaluate(
            "(scrub, to) => { scrub.value = to; scrub.dispatchEvent(new Event('input')); }", frame
        )
        wait_for(page, frame=frame)
        assert page.locator(".held >> visible=true").count() == held, "it says that it has ended"


def test_the_end_of_an_episode_stays_and_it_says_when_a_robot_was_stood_up(
    tmp_path, viewer_of, open_page
):
    def clip(name, number, ended, stood_up):
        segment, steps = pose_segment(name, number, 60), np.arange(60)
        marks = {"ended": steps >= ended, "stood_up": steps == stood_up}
        return dataclasses.replace(segment, extras=segment.extras | marks)

    query = Query(QueryId(0, 0), (clip("short", 0, 30, 10), clip("shorter", 1, 20, 99)))
    page = open_page(viewer_of(make_run(tmp_path / "run", query)).address)
    wait_for(page, state="labelling")
    lengths = page.evaluate("pairs.at(-1).clips.map((clip) => clip.frames)")
    assert sorted(lengths) == [21, 31]
    scrub = page.locator("#scrub")
    assert int(scrub.get_attribute("max")) + 1 == 31 + round(0.5 / 0.02), "half a second more"
    ended, again = "ended, holds its last frame", "stood up again here"
    for frame, words in [(5, ["", ""]), (12, [again, ""]), (25, [again, ended]),
                         (33, [ended, ended])]:  # fmt: skip
        scrub.evaluate(
            "(scrub, to) => { scrub.value = to; scrub.dispatchEvent(new Event('input')); }", frame
        )
        wait_for(page, frame=frame)
        said = page.locator(".held").evaluate_all("(marks) => marks.map((m) => m.textContent)")
        assert said == (words if lengths[0] == 31 else words[::-1]), frame


@pytest.mark.parametrize("keys, speed", [([], 1.0), (["]", "]"], 2.0), (["["] * 2, 0.5)])
def test_clips_loop_in_real_time(page, keys, speed):
    for key in keys:
        page.keyboard.press(key)
    frames = np.array(page.evaluate(FRAMES, 4.0))
    turned = np.cumsum(np.diff(frames[:, 1]) < 0)
    assert turned[-1] >= (1 if speed >= 1 else 0), "it loops"
    shown = frames[-1, 1] - frames[0, 1] + 60 * turned[-1]
    at_seams = 0.4 * turned[-1]  # seconds for which the last frame stays, each time
    real = shown * 0.02 / ((frames[-1, 0] - frames[0, 0]) / 1000 - at_seams)
    assert real == pytest.approx(speed, rel=0.05)


def test_scrubbing_and_stepping_land_on_the_very_frame(page):
    page.keyboard.press("Space")
    time.sleep(0.1)
    still = data(page, "frame")
    time.sleep(0.2)
    assert data(page, "frame") == still
    page.locator("#scrub").evaluate("(s) => { s.value = 17; s.dispatchEvent(new Event('input')); }")
    for key, frame in [(None, 17), (".", 18), (".", 19), (",", 18), (",", 17), (",", 16)]:
        if key:
            page.keyboard.press(key)
        wait_for(page, frame=frame, left=frame, right=frame)


def test_who_wants_no_motion_starts_paused(viewer, open_page):
    page = open_page(viewer.address, reduced_motion="reduce")
    wait_for(page, state="labelling")
    time.sleep(0.5)
    assert data(page, "frame") == "0"
    page.keyboard.press("Space")
    wait_until(page, "Number(document.body.dataset.frame) > 0")


ONE_SCALE = """async () => {
    const { loadQuery } = await import(new URL("clips.js", document.baseURI));
    const clip = (values) => ({ form: "trace", frames: 2, dt: 0.1, values: [values, [7, 7]] });
    const entry = await loadQuery({ clips: [clip([0, 1]), clip([5, null])] });
    return entry.clips.map((clip) => clip.ranges);
}"""


def test_what_is_plotted_is_on_one_scale_in_all_clips_of_a_query(folder, viewer_of, open_page):
    page = open_page(viewer_of(folder).address)
    left, right = page.evaluate(ONE_SCALE)
    assert left == right and left[0] == pytest.approx([-0.2, 5.2])
    assert left[1][0] < 7 < left[1][1]


def test_dragging_turns_both_clips_and_stays_for_the_next_pair(page):
    page.keyboard.press("Space")
    time.sleep(0.3)
    canvases = page.locator("#stage canvas")
    picture = "(c) => c.toDataURL()"
    before = [canvases.nth(i).evaluate(picture) for i in (0, 1)]
    box = canvases.nth(0).bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 130, steps=4)
    page.mouse.up()
    time.sleep(0.2)
    turned = [canvases.nth(i).evaluate(picture) for i in (0, 1)]
    assert turned[0] != before[0] and turned[1] != before[1]
    page.keyboard.press("r")
    time.sleep(0.2)
    assert [canvases.nth(i).evaluate(picture) for i in (0, 1)] == before


def pixels(canvas):
    """Return what a canvas shows, `[height, width, 3]`."""
    url = canvas.evaluate("(canvas) => canvas.toDataURL()")
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_what_draws_itself_moves_in_its_own_pictures(tmp_path, viewer_of, open_page):
    """CartPole: both canvases show the same frame, and each the very picture of its own clip."""
    queries, pictures = filmed_queries(3)
    page = open_page(viewer_of(make_run(tmp_path / "run", *queries, pictures=pictures)).address)
    wait_for(page, state="labelling")
    seen = page.evaluate(FRAMES, 1.2)
    assert len({frame for _, frame, _, _ in seen}) > 10, "it moves"
    assert all(frame == left == right for _, frame, left, right in seen)
    page.keyboard.press("Space")
    ticket = data(page, "ticket")
    clips = queries[int(ticket.split("-")[1])].segments
    sheets = [Image.open(io.BytesIO(pictures[clip.id].data)).convert("RGB") for clip in clips]
    canvases, shown = page.locator("#stage canvas"), []
    for frame, cell in [(0, 0), (1, 0), (2, 1), (21, 10), (38, 19), (39, 19)]:
        page.locator("#scrub").evaluate(
            "(s, frame) => { s.value = frame; s.dispatchEvent(new Event('input')); }", frame
        )
        wait_for(page, frame=frame, left=frame, right=frame)
        time.sleep(0.1)
        for index, sheet in enumerate(sheets):
            canvas = pixels(canvases.nth(index))
            height, width = canvas.shape[:2]
            scale = min(width / 240, height / 160)
            wide, high = round(240 * scale), round(160 * scale)
            left, top = (width - wide) // 2, (height - high) // 2
            corner = (cell % 8 * 240, cell // 8 * 160)
            box = (*corner, corner[0] + 240, corner[1] + 160)
            drawn = canvas[top : top + high, left : left + wide]
            differences = [
                np.abs(np.asarray(sheet.crop(at).resize((wide, high)), float) - drawn).mean()
                for at in (box, (0, 0, 240, 160))
            ]
            assert differences[0] < 1.5
            assert cell < 10 or differences[0] < differences[1] / 2, "another picture fits, too"
            shown.append(canvas.tobytes())
    assert shown[0] == shown[2] and shown[1] == shown[3], "two frames to a picture"
    assert len(set(shown)) == 8, "and each picture is another one"
    press(page, "ArrowLeft")
    saved(page, 1)
    page.keyboard.press("h")
    stills = page.locator("#history canvas.still")
    wait_until(page, "document.querySelectorAll('#history canvas.still').length === 2")
    time.sleep(0.3)
    for index in (0, 1):
        assert stills.nth(index).is_visible() and pixels(stills.nth(index)).std() > 10


@pytest.mark.parametrize("name", ROBOTS)
def test_every_robot_of_gymnasium_is_drawn(tmp_path, viewer_of, open_page, name):
    make = lambda title, number: pose_segment(title, number, robot_name=name)  # noqa: E731
    run = make_run(tmp_path / "run", *queries_of(0, 2, make=make), robot_name=name)
    page = open_page(viewer_of(run).address)
    wait_for(page, state="labelling")
    page.keyboard.press("Space")
    page.keyboard.press("g")
    page.keyboard.press("g")
    # Floor, shadows and sky are pale and bright; a robot is vivid or, like Pusher, dark.
    share_of_robot = """(c) => {
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let drawn = 0;
        for (let i = 0; i < d.length; i += 4) {
            const [r, g, b, alpha] = d.slice(i, i + 4);
            const high = Math.max(r, g, b), vivid = high - Math.min(r, g, b) > 60;
            if (alpha > 200 && (vivid || high < 110)) drawn += 1;
        }
        return drawn / (d.length / 4);
    }"""
    canvas, deadline, share = page.locator("#stage canvas").first, time.monotonic() + 5, 0.0
    while share <= 0.005 and time.monotonic() < deadline:  # until the first frame is drawn
        time.sleep(0.1)
        share = canvas.evaluate(share_of_robot)
    assert 0.005 < share < 0.6, "the robot is in the picture, and not all of it"


def luminance(picture):
    """Return how bright each pixel is, `[height, width]` from 0 to 1, as WCAG defines it."""
    share = picture / 255
    linear = np.where(share <= 0.03928, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    return (np.maximum(one, other) + 0.05) / (np.minimum(one, other) + 0.05)


def around(mask, reach):
    """Return the offsets of a neighbourhood, and a mask moved by each."""
    for dy, dx in np.ndindex(2 * reach + 1, 2 * reach + 1):
        yield (dy - reach, dx - reach), np.roll(mask, (dy - reach, dx - reach), (0, 1))


def contour_contrast(picture, ground):
    """Return the contrast along a robot's contour, of what is drawn there with what lies beside it.

    Args:
        picture: with the robot, `[height, width, 3]`.
        ground: the same without it.
    """
    robot_there = np.abs(picture.astype(int) - ground).max(2) > 6
    near = np.any([moved for _, moved in around(robot_there, 2)], 0)
    touching = np.any([moved for _, moved in around(robot_there, 1)], 0)
    beside = near & ~touching
    drawn, behind = luminance(picture), luminance(ground)
    best = np.ones(behind.shape)
    for offset, moved in around(robot_there, 6):
        there = np.roll(drawn, offset, (0, 1))
        best = np.where(moved, np.maximum(best, contrast(there, behind)), best)
    return best[beside], contrast(drawn, behind)[robot_there]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["Hopper-v5", "Ant-v5", "Pusher-v5", "Reacher-v5"])
def test_a_robot_stands_out_from_the_floor(tmp_path, viewer_of, open_page, name, scheme):
    """3:1, as WCAG wants of pictures that mean something (1.4.11), whatever the robot's colours."""
    make = lambda title, number: pose_segment(title, number, robot_name=name)  # noqa: E731
    run = make_run(tmp_path / "run", *queries_of(0, 1, make=make), robot_name=name)
    viewer = viewer_of(run)
    pictures = []
    for shows in (True, False):
        page = open_page("about:blank", color_scheme=scheme, reduced_motion="reduce", person="anna")
        page.context.add_init_script(
            "addEventListener('DOMContentLoaded', () => document.documentElement.style.setProperty("
            "'--shadow', 'transparent'));"
            "if (location.host) localStorage.setItem('prefrl:ghost', JSON.stringify('none'));"
        )

        def strip(route):
            scene = route.fetch().json()
            for geom in scene["geoms"]:
                geom["rgba"][3] *= geom["floor"]
            route.fulfill(json=scene)

        if not shows:
            page.route("**/api/scene/0", strip)
        page.goto(viewer.address)
        wait_for(page, state="labelling")
        time.sleep(0.3)
        pictures.append(pixels(page.locator("#stage canvas").first))
        page.goto("about:blank")  # gives the pair back
    contour, body = contour_contrast(*pictures)
    assert len(contour) > 200
    assert np.mean(contour >= 3) > 0.98, np.quantile(contour, [0, 0.02, 0.05, 0.5])
    assert scheme == "light" or np.median(body) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_rim_of_a_robot_is_told_from_all_that_may_lie_behind_it(scheme):
    """Sky, floor and tiles, in the shadow and before the ghost of another clip: 3:1, as above."""
    schemes = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", schemes[["light", "dark"].index(scheme)]))

    def over(name, ground):
        red, green, blue, alpha = bytes.fromhex(f"{colours[name][1:]:f<8}")
        return ground + (np.array([red, green, blue]) - ground) * alpha / 255

    def told(ground):
        return contrast(luminance(over("rim", ground)), luminance(ground))

    for name in ("sky-top", "sky-low", "floor", "tile"):
        ground = shadow = over(name, np.zeros(3))
        for _ in range(4):  # a spot, a core and two rims lie upon each other
            shadow = over("shadow", shadow)
        grounds = [ground, shadow, over("ghost", ground), over("other", ground)]
        assert min(map(told, grounds)) >= 3, name


def test_a_humanoid_pair_is_smooth(tmp_path, viewer_of, open_page):
    make = lambda title, number: pose_segment(title, number, robot_name="Humanoid-v5")  # noqa: E731
    run = make_run(tmp_path / "run", *queries_of(0, 2, make=make), robot_name="Humanoid-v5")
    page = open_page(viewer_of(run).address)
    wait_for(page, state="labelling")
    time.sleep(1)
    rates = []
    while len(rates) < 3 and max(rates, default=0) <= 20:
        frames = page.evaluate(FRAMES, 4.0)
        rates.append((len(frames) - 1) / ((frames[-1][0] - frames[0][0]) / 1000))
    # A quiet machine shows 55 or more; here other tests run beside this one, some for a moment.
    assert max(rates) > 20, rates
