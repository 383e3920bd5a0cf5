"""Draws clips of a MuJoCo model, with OpenGL or by casting rays.

Sky, checkered floor and shadow are computed here with numpy in either case; only the robot itself
comes from OpenGL or from `mujoco.mj_multiRay`. So a bare machine gets nearly the same picture.
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

import copy
import functools
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.clips import scene
from prefrl.clips.camera import Camera, follow
from prefrl.clips.ground import Ground, directions, rods
from prefrl.clips.scene import Floats

Pictures = NDArray[np.uint8]
Layer = tuple[slice, slice, Floats, NDArray[np.bool_]]  # what `_blend` lays over a background
Painter = Callable[[mujoco.MjData, int], Layer]

LIGHT = np.array([-0.35, 0.75, 0.55])  # where light comes from: camera's right, world's up, back
PIECES = 6  # rays are cast only at boxes around this many pieces of each part
FINE = 2  # the robot is drawn this much larger, then averaged: smooth edges

_KINDS = {"egl": "egl", "osmesa": "osmesa", "cgl": "cgl"} | dict.fromkeys(
    ("glfw", "glx", "wgl"), "glfw"
)
_PROBE = "import sys; from prefrl.clips.draw import _try_gl; _try_gl(sys.argv[1])"


def draw(
    model: mujoco.MjModel,
    qpos: ArrayLike,
    width: int = 320,
    height: int = 240,
    *,
    mocap: ArrayLike | None = None,
    camera: Camera | None = None,
    highlight: Mapping[str, ArrayLike] | None = None,
    using: str | None = None,
) -> Pictures:
    """Draw a clip.

    Args:
        model: the MuJoCo model; it is left as it is.
        qpos: joint positions, [frame, nq].
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.
        mocap: positions and quaternions of the mocap bodies, [frame, nmocap, 7].
        camera: where to look from; `follow` by default.
        highlight: red, green and blue from 0 to 1 for geoms by name.
        using: "rays" or a kind of OpenGL ("egl", "osmesa", "glfw", "cgl"); `backend()` by default.

    Returns:
        Pictures, uint8 [frame, height, width, 3].

    Raises:
        ValueError: if a shape, a size, a geom's name or `using` makes no sense. An OpenGL asked
            for by name that does not work raises its driver's own error.
    """
    if width < 1 or height < 1:
        raise ValueError(
            f"a picture of {width} x {height} pixels cannot be drawn; give at least 1 x 1"
        )
    using = using or backend()
    if using != "rays" and using not in _KINDS.values():
        raise ValueError(f"using is {using!r}; it may be 'rays', 'egl', 'osmesa', 'glfw' or 'cgl'")
    model = scene.dress(model, highlight)
    clip = scene.poses(model, qpos, mocap)
    camera = camera or follow(model, clip, width / height)
    if len(camera.positions) != len(clip.positions):
        raise ValueError(
            f"the camera has {len(camera.positions)} positions for {len(clip.positions)} frames; "
            "give one for each"
        )
    painter = _rays if using == "rays" else functools.partial(_gl, using)

    def film() -> Pictures:
        ground = Ground(model, camera, width, height)
        frames = np.empty((len(camera.positions), height, width, 3), np.uint8)
        with painter(model, camera, width, height) as paint:
            for frame, data in enumerate(scene.each_pose(model, qpos, mocap)):
                picture = ground.picture(data, frame)
                _blend(picture, *paint(data, frame))
                frames[frame] = (picture * 255 + 0.5).astype(np.uint8)
        return frames

    if using == "rays":
        return film()
    with ThreadPoolExecutor(1) as apart:  # a thread of its own: contexts elsewhere stay current
        return apart.submit(film).result()


def backend() -> str:
    """Say what `draw` uses in this process: "rays", or the kind of OpenGL ("egl", ...).

    MUJOCO_GL decides where it is set. Otherwise EGL (macOS: CGL) is taken if it works, which is
    tried once, in a process of its own, so that a missing or broken driver can neither print into
    this one nor end it.

    Raises:
        ValueError: if MUJOCO_GL is not a value that MuJoCo knows.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if asked in ("disable", "disabled", "off", "false", "0"):
        return "rays"
    if asked in ("", "enable", "enabled", "on", "true", "1"):
        kind = {"Linux": "egl", "Darwin": "cgl"}.get(platform.system(), "rays")
    elif asked in _KINDS:
        kind = _KINDS[asked]
    else:
        raise ValueError(
            f"the variable MUJOCO_GL is {asked!r}; expected egl, osmesa, glfw or disable"
        )
    return kind if kind != "rays" and _gl_works(kind) else "rays"


@functools.cache
def _gl_works(kind: str) -> bool:
    """Try a kind of OpenGL in another process, and only then in this one."""
    path = os.pathsep.join(filter(None, sys.path))
    try:
        subprocess.run(
            [sys.executable, "-c", _PROBE, kind],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )
        _try_gl(kind)
    except Exception:  # whatever a driver raises, rays remain
        return False
    return True


def _try_gl(kind: str) -> None:
    """Draw a red ball; raise if that fails or shows something else."""
    ball = "<mujoco><worldbody><geom size='1' rgba='1 0 0 1'/></worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(ball)
    view = Camera(np.array([[0.0, 0.0, 3.0]]), np.eye(3), 45.0)
    red, green, _ = draw(model, np.zeros((1, 0)), 32, 32, camera=view, using=kind)[0, 16, 16]
    if red < 2 * int(green) + 20:
        raise RuntimeError("OpenGL drew nothing")


def _blend(
    picture: Floats, rows: slice, columns: slice, colours: Floats, covered: NDArray[np.bool_]
) -> None:
    """Lay a robot drawn `FINE` times larger over a picture, in place.

    Args:
        picture: the background, [height, width, 3].
        rows: rows of the picture that the robot's drawing covers.
        columns: columns of the picture that it covers.
        colours: the drawing, [rows * FINE, columns * FINE, 3], black where nothing is covered.
        covered: where the robot is, [rows * FINE, columns * FINE].
    """
    layer = np.concatenate([colours, covered[..., None]], axis=-1, dtype=np.float32)
    total = np.zeros((layer.shape[0] // FINE, layer.shape[1] // FINE, 4), np.float32)
    for i, j in np.ndindex(FINE, FINE):  # much faster than a mean over two axes
        total += layer[i::FINE, j::FINE]
    total /= FINE**2
    picture[rows, columns] *= 1 - total[..., 3:]
    picture[rows, columns] += total[..., :3]


def _without_floor(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return a copy of a model with its level planes made invisible."""
    bare = copy.copy(model)
    bare.geom_rgba[scene.is_floor(model), 3] = 0
    bare.geom_matid[scene.is_floor(model)] = -1
    return bare


@contextmanager
def _rays(model: mujoco.MjModel, camera: Camera, width: int, height: int) -> Iterator[Painter]:
    """Give a painter that casts rays, only where a geom can be."""
    solid = _without_floor(model)  # rays pass through what cannot be seen
    shown = (np.arange(6) < scene.VISIBLE_GROUPS).astype(np.uint8)
    geoms = np.flatnonzero(~scene.is_floor(model) & (model.geom_group < scene.VISIBLE_GROUPS))
    rays = directions(camera, width * FINE, height * FINE)
    own = scene.geom_colours(model)[:, :3].astype(np.float32)
    floor = scene.floor_height(model)

    def paint(data: mujoco.MjData, frame: int) -> Layer:
        rows, columns, wanted = _where(model, data, geoms, camera, frame, (height, width))
        aim = rays[rows.start * FINE : rows.stop * FINE, columns.start * FINE : columns.stop * FINE]
        aim = aim[wanted].astype(np.float64)
        geom, distance = np.full(len(aim), -1, np.int32), np.empty(len(aim))
        normal, eye = np.empty(aim.size), camera.positions[frame]
        mujoco.mj_multiRay(
            solid, data, eye, aim.ravel(), shown, True, -1, geom, distance, normal, len(aim), 1e6
        )
        hit = geom >= 0
        if floor is not None and eye[2] > floor:
            hit &= eye[2] + aim[:, 2] * distance > floor
        covered = wanted.copy()
        covered[wanted] = hit
        colours = np.zeros((*wanted.shape, 3), np.float32)
        colours[covered] = _shade(normal.reshape(-1, 3)[hit], own[geom[hit]], camera)
        return rows, columns, colours, covered

    yield paint


def _where(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    geoms: NDArray[np.intp],
    camera: Camera,
    frame: int,
    size: tuple[int, int],
) -> tuple[slice, slice, NDArray[np.bool_]]:
    """Find the pixels where geoms can be, by boxes around short pieces of them.

    Returns:
        The rows and columns of a picture of `size` (height, width) that hold them all, and where
        in these the boxes are, [rows * FINE, columns * FINE].
    """
    middle, axis, half = rods(model, data, geoms)
    thick = np.hypot(half[:, 0], half[:, 1])[:, None]
    steps = np.linspace(-1, 1, PIECES + 1)[:, None] * half[:, None, 2:]
    points = middle[:, None] + steps * axis[:, None] - camera.positions[frame]
    right, up, back = np.moveaxis(points @ camera.rotation, -1, 0)
    scale = size[0] / (2 * camera.slope * np.maximum(-back - thick, 1e-6))
    edges = []  # top, left, bottom, right of each piece, in pixels
    for sign, pick in ((-1, np.minimum), (1, np.maximum)):
        for side, length in zip((-up, right), size, strict=True):
            edge = length / 2 + (side + sign * thick) * scale + sign
            edges.append(pick(edge[:, 1:], edge[:, :-1]).clip(0, length).astype(int).ravel())
    boxes = np.stack(edges, axis=1)
    boxes = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]
    if not len(boxes):
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
    first, last = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    inside = np.zeros((last - first) * FINE, bool)
    for top, left, bottom, end in (boxes - np.tile(first, 2)) * FINE:
        inside[top:bottom, left:end] = True
    return slice(first[0], last[0]), slice(first[1], last[1]), inside


def _lamp(camera: Camera) -> Floats:
    """Return the direction that light comes from, [3], of length one."""
    right, _, back = camera.rotation.T
    lamp = LIGHT[0] * right + LIGHT[1] * np.array([0, 0, 1]) + LIGHT[2] * back
    return lamp / np.linalg.norm(lamp)


def _shade(normals: Floats, colours: Floats, camera: Camera) -> Floats:
    """Light surfaces with normals [spot, 3]: sky and floor from all around, a lamp, a gleam."""
    lamp = _lamp(camera)
    gleam = lamp + camera.rotation[:, 2]
    normals = normals.astype(np.float32)
    lit = 0.52 + 0.14 * normals[:, 2] + 0.52 * np.maximum(normals @ lamp.astype(np.float32), 0)
    shine = np.maximum(normals @ (gleam / np.linalg.norm(gleam)).astype(np.float32), 0) ** 40
    return np.minimum(colours * lit[:, None] + 0.22 * shine[:, None], 1)


@contextmanager
def _gl(
    kind: str, model: mujoco.MjModel, camera: Camera, width: int, height: int
) -> Iterator[Painter]:
    """Give a painter that uses OpenGL, and free its context afterwards.

    Multisampling, shadow maps and reflections are off: in software they take ten times as long as
    all the rest, and the picture is averaged down anyway.
    """
    model = _without_floor(model)
    model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
    model.vis.global_.offwidth, model.vis.global_.offheight = width * FINE, height * FINE
    window = importlib.import_module(f"mujoco.{kind}").GLContext(width * FINE, height * FINE)
    try:
        window.make_current()
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
        try:
            yield _GlPainter(model, camera, width * FINE, height * FINE, context)
        finally:
            context.free()
    finally:
        window.free()


class _GlPainter:
    """Draws all but the floor in the current OpenGL context."""

    def __init__(
        self,
        model: mujoco.MjModel,
        camera: Camera,
        width: int,
        height: int,
        context: mujoco.MjrContext,
    ):
        self.model, self.camera, self.context = model, camera, context
        self.floor = scene.floor_height(model)
        self.view = mujoco.MjvScene(model, maxgeom=10_000)
        self.window = mujoco.MjrRect(0, 0, width, height)
        self.colours = np.empty((height, width, 3), np.uint8)
        self.depth = np.empty((height, width), np.float32)
        rays = directions(camera, width, height)
        self.rise = rays[..., 2] / -(rays @ camera.rotation[:, 2].astype(np.float32))

    def __call__(self, data: mujoco.MjData, frame: int) -> Layer:
        """Draw one frame; see `_blend` for what it returns."""
        free, every = mujoco.MjvCamera(), mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self.model, data, mujoco.MjvOption(), None, free, every, self.view)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG"):
            self.view.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}").value] = 0
        eye, (_, up, back) = self.camera.positions[frame], self.camera.rotation.T
        for lens in self.view.camera:  # one for each eye; both are used
            lens.pos, lens.forward, lens.up = eye, -back, up
            lens.frustum_top = lens.frustum_near * self.camera.slope
            lens.frustum_bottom, lens.frustum_center = -lens.frustum_top, 0
        lamp, self.view.nlight = self.view.lights[0], 1
        lamp.type, lamp.headlight = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL.value, 0
        lamp.dir, lamp.attenuation = -_lamp(self.camera), [1, 0, 0]
        lamp.ambient, lamp.diffuse, lamp.specular = [0.52] * 3, [0.55] * 3, [0.25] * 3
        mujoco.mjr_render(self.window, self.view, self.context)
        mujoco.mjr_readPixels(self.colours, self.depth, self.window, self.context)
        colours, depth = self.colours[::-1], self.depth[::-1]
        covered = depth < 1
        if self.floor is not None and eye[2] > self.floor:
            near, far = self.view.camera[0].frustum_near, self.view.camera[0].frustum_far
            ahead = near * far / (far - depth * (far - near))
            covered &= eye[2] + self.rise * ahead > self.floor
        rows, columns = _extent(covered.max(axis=1)), _extent(covered.max(axis=0))
        part = np.s_[
            rows.start * FINE : rows.stop * FINE, columns.start * FINE : columns.stop * FINE
        ]
        seen = covered[part]
        return rows, columns, colours[part] * (seen / np.float32(255))[..., None], seen


def _extent(line: NDArray[np.bool_]) -> slice:
    """Return the smallest slice, in pixels of the picture, that holds all of [pixel * FINE]."""
    there = np.flatnonzero(line)
    return slice(there[0] // FINE, there[-1] // FINE + 1) if len(there) else slice(0, 0)
