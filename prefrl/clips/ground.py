"""What is behind the robot: the sky, a checkered floor, its shadow."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

import mujoco
import numpy as np
from numpy.typing import NDArray

from prefrl.clips import scene
from prefrl.clips.camera import Camera
from prefrl.clips.scene import Floats

SKY_TOP = np.array([0.47, 0.66, 0.87], np.float32)
SKY_LOW = np.array([0.92, 0.95, 0.98], np.float32)
FLOOR_DARK = np.array([0.53, 0.58, 0.64], np.float32)
FLOOR_LIGHT = np.array([0.80, 0.83, 0.86], np.float32)
SQUARE = 0.5  # metres
HAZE = 16.0  # metres: at this distance two thirds of the floor's contrast are gone
SHADOW = 0.62  # how dark a shadow is right under a part that touches the floor


def directions(camera: Camera, width: int, height: int) -> Floats:
    """Return the direction in the world that each pixel looks in, [height, width, 3], float32."""
    across = (np.arange(width) + 0.5 - width / 2) * (2 * camera.slope / height)
    upward = (height / 2 - 0.5 - np.arange(height)) * (2 * camera.slope / height)
    right, up, back = camera.rotation.T
    columns, rows = np.outer(across, right), np.outer(upward, up) - back
    rays = columns.astype(np.float32) + rows.astype(np.float32)[:, None]
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


class Ground:
    """Sky, floor and shadow: everything behind the robot."""

    def __init__(self, model: mujoco.MjModel, camera: Camera, width: int, height: int):
        self.model, self.camera = model, camera
        self.geoms = scene.moving_geoms(model)
        floor = scene.floor_height(model)
        self.floor = np.float32(floor or 0)
        rays = directions(camera, width, height)
        rise = np.maximum(2 * rays[..., 2:], -0.4 * rays[..., 2:]).clip(0, 1)
        self.sky = SKY_LOW + (SKY_TOP - SKY_LOW) * rise**0.8
        below = (rays[..., 2] < -1e-3) & (floor is not None)
        rows = np.flatnonzero(below.any(axis=1))
        self.rows = slice(rows[0], rows[-1] + 1) if len(rows) else slice(0, 0)
        rays, self.below = rays[self.rows], below[self.rows]
        # for a camera one metre up: where pixels meet the floor, how far off, and how much of
        # the floor along x and y each of them covers
        fall = np.maximum(-rays[..., 2:], 1e-3)
        self.reach, self.far = rays[..., :2] / fall, 1 / fall[..., 0]
        self.blur = np.float32(2 * camera.slope / height) * (1 + np.abs(self.reach)) / fall

    def picture(self, data: mujoco.MjData, frame: int) -> Floats:
        """Return the background of one frame, [height, width, 3], from 0 to 1."""
        picture = self.sky.copy()
        position = self.camera.positions[frame]
        up = np.float32(position[2]) - self.floor
        if up <= 0 or not self.below.any():
            return picture
        points = self.reach * up
        start = np.mod(position[:2], 2 * SQUARE).astype(np.float32)
        light = 0.5 + 0.5 * _checker(points + start, self.blur * up)
        clear = np.exp(self.far * (-up / np.float32(HAZE))) * self.below
        shade = clear * self._shadow(data, points + position[:2].astype(np.float32))
        floor = FLOOR_DARK + (FLOOR_LIGHT - FLOOR_DARK) * light[..., None]
        picture[self.rows] *= (1 - clear)[..., None]
        picture[self.rows] += floor * shade[..., None]
        return picture

    def _shadow(self, data: mujoco.MjData, points: Floats) -> Floats:
        """Return how much light, 0 to 1, reaches points [row, column, 2] of the floor.

        The light comes from straight above. Each part is taken as a capsule along its longest
        side; its shadow is softer and fainter the higher it is.
        """
        light = np.ones(points.shape[:2], np.float32)
        middle, axis, half = (a.astype(np.float32) for a in rods(self.model, data, self.geoms))
        radius = half[:, :2].mean(axis=1)
        arm = axis * (half[:, 2:] - radius[:, None]).clip(0)
        ends = np.stack([middle - arm, middle + arm], axis=1)
        heights = np.maximum(ends[..., 2] - radius[:, None] - self.floor, 0)
        soft = np.minimum(radius, 0.04) + 0.16 * heights.max(axis=1, initial=0)
        low = ends[..., :2].min(axis=1) - (radius + soft)[:, None]
        high = ends[..., :2].max(axis=1) + (radius + soft)[:, None]
        near = _between(points[..., 0], points[..., 1], low.min(axis=0), high.max(axis=0))
        x, y = points[near].T.copy()
        through = np.ones(len(x), np.float32)
        for i, (a, b) in enumerate(ends[..., :2]):
            spots = np.flatnonzero(_between(x, y, low[i], high[i]))
            right, ahead = x[spots] - a[0], y[spots] - a[1]
            along = b - a
            share = (right * along[0] + ahead * along[1]) / max(along @ along, 1e-9)
            share = share.clip(0, 1)
            away = np.hypot(right - share * along[0], ahead - share * along[1])
            cover = np.clip((radius[i] + soft[i] - away) / (2 * soft[i]), 0, 1)
            cover *= cover * (3 - 2 * cover)
            height = heights[i, 0] + share * (heights[i, 1] - heights[i, 0])
            through[spots] *= 1 - SHADOW * cover / (1 + 0.6 * height)
        light[near] = np.maximum(through, 1 - 1.1 * SHADOW)
        return light


def _between(x: Floats, y: Floats, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Say which points lie in a rectangle from (low, low) to (high, high)."""
    return (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])


def _checker(points: Floats, blur: Floats) -> Floats:
    """Return a checker of +1 and -1 squares at floor points [..., 2], each averaged over `blur`.

    The mean over a pixel is exact along each axis: far squares melt into grey and do not flicker.
    """
    blur = np.maximum(blur, 1e-4)
    ends = (points[..., None] + blur[..., None] * np.array([-0.5, 0.5], np.float32)) / (2 * SQUARE)
    ends -= np.floor(ends)
    ends -= 0.5
    np.abs(ends, out=ends)  # the integral of a square wave is a triangle wave
    waves = (ends[..., 0] - ends[..., 1]) * (2 * SQUARE) / blur
    return waves[..., 0] * waves[..., 1]


def rods(
    model: mujoco.MjModel, data: mujoco.MjData, geoms: NDArray[np.intp]
) -> tuple[Floats, Floats, Floats]:
    """Return the boxes of geoms as rods.

    Returns:
        Their middles [geom, 3], directions of their longest sides [geom, 3], and half the lengths
        of their sides, shortest first [geom, 3], in metres.
    """
    middle, half = model.geom_aabb[geoms, :3], model.geom_aabb[geoms, 3:]
    turned = data.geom_xmat.reshape(-1, 3, 3)[geoms]
    axis = turned[np.arange(len(geoms)), :, half.argmax(axis=1)]
    middle = data.geom_xpos[geoms] + np.einsum("gij,gj->gi", turned, middle)
    return middle, axis, np.sort(half, axis=1)
