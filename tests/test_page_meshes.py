"""How the page draws meshes, marks and tendons, with WebGL and without, in a real Chromium."""

import base64
import io
import json
import time

import numpy as np
import pytest
from labelling import make_run, queries_of
from page import CHROMIUM, open_page, viewer_of, wait_for, wait_until
from PIL import Image
from playwright.sync_api import sync_playwright
from toy_mujoco import make_shop, shop_clip

SOFTWARE = [
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-gpu-compositing",
    "--disable-accelerated-2d-canvas", "--disable-gpu-rasterization",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    """Return a browser that has WebGL, drawn by the processor."""
    with sync_playwright() as playwright:
        args = ["--no-sandbox", *SOFTWARE]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


WITHOUT = """const made = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
    return kind.startsWith("webgl") ? null : made.call(this, kind, ...rest);
};"""


def pixels(canvas):
    """Return what a canvas shows, `[height, width, 3]`."""
    url = canvas.evaluate("(canvas) => canvas.toDataURL()")
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def shown(page):
    wait_for(page, timeout=60, state="labelling")
    time.sleep(0.5)
    return [pixels(page.locator("#stage canvas").nth(index)) for index in (0, 1)]


def orange(picture):
    """Return how many pixels show the bracket."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return int(((red > 1.6 * green) & (green > 1.3 * blue) & (red > 90)).sum())


def test_a_mesh_has_its_own_form_with_webgl_and_that_of_its_hull_without(
    tmp_path, viewer_of, open_page
):
    viewer = viewer_of(make_shop(tmp_path / "run", shop_clip("a"), shop_clip("b")))
    areas = []
    for webgl in (True, False):
        page = open_page("about:blank")
        if not webgl:
            page.context.add_init_script(WITHOUT)
        page.goto(viewer.address)
        areas.append(orange(shown(page)[0]))
        asked = [request.url for request in page.asked]
        assert any("layer.js" in url for url in asked)
        assert any("/api/mesh/" in url for url in asked) == webgl
        assert all("//127.0.0.1" in url or url.startswith("data:") for url in asked)
        page.goto("about:blank")  # gives the pair back
    own, of_hull = areas
    # The L has 0.05 m², its hull 0.07; a ball hides some of both.
    assert 0.55 < own / of_hull < 0.9, areas


def test_what_an_episode_changed_is_drawn_in_its_own_shop_clip(tmp_path, viewer_of, open_page):
    larger = json.dumps({"geom_size": {"1": [0.3, 0, 0]}, "geom_rgba": {"1": [0.1, 0.1, 1, 1]}})
    page = open_page(
        viewer_of(make_shop(tmp_path / "run", shop_clip("a"), shop_clip("b", larger))).address
    )
    blue = [int(((p[..., 2] > 150) & (p[..., 0] < 90)).sum()) for p in shown(page)]
    assert max(blue) > 3000 and min(blue) < max(blue) / 4, blue


def test_where_webgl_is_lost_the_canvas_goes_on(tmp_path, viewer_of, open_page):
    page = open_page(viewer_of(make_shop(tmp_path / "run", shop_clip("a"), shop_clip("b"))).address)
    before = orange(shown(page)[0])
    page.evaluate("pairs.at(-1).clips[0].layer.gl.getExtension('WEBGL_lose_context').loseContext()")
    wait_until(page, "pairs.at(-1).clips[0].layer.gl === null")
    page.keyboard.press(".")
    wait_for(page, frame=1)
    time.sleep(0.3)
    assert orange(pixels(page.locator("#stage canvas").first)) > 1.1 * before


def test_a_scene_without_meshes_asks_for_nothing_that_draws_them(tmp_path, viewer_of, open_page):
    page = open_page(viewer_of(make_run(tmp_path / "run", *queries_of(0, 1))).address)
    wait_for(page, timeout=60, state="labelling")
    assert not any("layer.js" in request.url for request in page.asked)
