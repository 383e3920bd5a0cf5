"""A camera that follows the robot.

All lengths are in metres, in MuJoCo's world frame (z up).
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from prefrl.clips.scene import (
    VISIBLE_GROUPS,
    Floats,
    Poses,
    floor_height,
    geom_corners,
    moving_geoms,
    poses,
    site_colours,
)

FRAME_FILL = 0.9  # the robot and the ground under it stay within this part of the picture
LEVEL_TILT = 10.0  # degrees that a level camera is turned down, so that the floor is seen
SOLID = 0.5  # what can be seen through more than this is no mark that somebody must see
CALM_FRAMES = 6.0  # standard deviation of the smoothing of the camera's path


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that moves without turning.

    Attributes:
        positions: where it stands, [frame, 3], in metres.
        rotation: its axes in the world, [3, 3]; columns point right, up and backwards.
        fovy: vertical field of view, in degrees.
    """

    positions: Floats
    rotation: Floats
    fovy: float

    @property
    def slope(self) -> float:
        """Half the picture's height at distance one."""
        return float(np.tan(np.radians(self.fovy) / 2))


def follow(model: mujoco.MjModel, clip: Poses, aspect: float = 4 / 3) -> Camera:
    """Place a camera that shows the whole robot, and the ground under it, in every frame.

    Direction and distance are those of the model's own tracking camera ("track", else the first
    one; tilted down a little where it is level), and otherwise of MuJoCo's free camera. It
    follows the robot over the ground, smoothly, but never up or down, so that a jump is seen as a
    jump. The robot's rest pose is in the middle of the picture. Where the clip would leave the
    picture, the camera stands further back.

    Args:
        model: the MuJoCo model.
        clip: the poses to be shown.
        aspect: width of the picture over its height.
    """
    tracking = track(model, clip, aspect)
    behind = tracking.distance * tracking.rotation[:, 2]
    return Camera(tracking.path + behind, tracking.rotation, tracking.fovy)


@dataclass(frozen=True)
class Tracking:
    """What a camera looks at, and from where.

    Attributes:
        path: the point in the middle of the picture, [frame, 3], in metres.
        rotation: the camera's axes in the world, [3, 3]; columns point right, up and backwards.
        distance: from the point to the camera, in metres.
        fovy: vertical field of view, in degrees.
    """

    path: Floats
    rotation: Floats
    distance: float
    fovy: float


def track(model: mujoco.MjModel, clip: Poses, aspect: float = 4 / 3) -> Tracking:
    """Choose what `follow` looks at; same arguments."""
    rest = poses(model, model.qpos0[None])
    view = _viewpoint(model)
    path, start = view.path(clip), view.path(rest)
    path[:, 2] = start[0, 2]
    slope = FRAME_FILL * float(np.tan(np.radians(view.fovy) / 2))
    tangents = np.array([slope * aspect, slope])
    shown = _reach(model, clip, path, view.rotation, tangents)
    middle = _reach(model, rest, start, view.rotation, tangents) @ [0.5, -0.5]
    distance = max(view.distance, *(shown.sum(axis=1) / (2 * tangents)))
    aside = np.clip(middle, shown[:, 0] - distance * tangents, distance * tangents - shown[:, 1])
    return Tracking(path + view.rotation[:, :2] @ aside, view.rotation, distance, view.fovy)


def _reach(
    model: mujoco.MjModel, clip: Poses, path: Floats, rotation: Floats, tangents: Floats
) -> Floats:
    """Measure how much room a clip needs around the camera's path.

    A point at (x, y, z) in the camera's axes, with the camera at (a, b, distance), is in the
    picture if |x - a| and |y - b| are at most (distance - z) times the tangent of their half
    angle. So a must be at least max(x + z tangent) - distance tangent, and at most
    distance tangent - max(z tangent - x); likewise b.

    Returns:
        These two maxima across and upwards, [2, 2], in metres.
    """
    corners = geom_corners(model, moving_geoms(model), clip.positions, clip.rotations)
    marks = clip.sites[:, _marks(model, clip)]
    points = np.concatenate([corners.reshape(len(path), -1, 3), marks], axis=1)
    points = (points - path[:, None]).reshape(-1, 3)
    floor = floor_height(model)
    if floor is not None:  # and the ground below
        ground = points.copy()
        ground[:, 2] = np.minimum(ground[:, 2], floor - path[0, 2])
        points = np.concatenate([points, ground])
    *sides, back = (points @ rotation).T
    return np.array(
        [
            [(side + back * tangent).max(), (back * tangent - side).max()]
            for side, tangent in zip(sides, tangents, strict=True)
        ]
    )


def _marks(model: mujoco.MjModel, clip: Poses) -> NDArray[np.intp]:
    """Return the sites that mark a goal near the robot: visible ones that hang on nothing."""
    seen = (model.site_group < VISIBLE_GROUPS) & (site_colours(model)[:, 3] >= SOLID)
    seen &= model.body_weldid[model.site_bodyid] == 0
    away = np.linalg.norm(clip.sites[0] - model.stat.center, axis=1)
    return np.flatnonzero(seen & (away < model.stat.extent))


@dataclass(frozen=True)
class _Viewpoint:
    """A direction to look from, and the body or the point to look at."""

    rotation: Floats
    distance: float
    fovy: float
    body: int | None
    by_mass: bool
    point: Floats

    def path(self, clip: Poses) -> Floats:
        """Return what the camera looks at, [frame, 3], in metres."""
        if self.body is None:
            return np.tile(self.point, (len(clip.positions), 1))
        return _calm((clip.centres if self.by_mass else clip.bodies)[:, self.body])


def _viewpoint(model: mujoco.MjModel) -> _Viewpoint:
    """Choose the viewpoint: the model's tracking camera, else MuJoCo's free camera."""
    track, by_mass = mujoco.mjtCamLight.mjCAMLIGHT_TRACK, mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM
    tracking = np.flatnonzero(np.isin(model.cam_mode, [track.value, by_mass.value])).tolist()
    tracking.sort(key=lambda camera: model.camera(camera).name != "track")
    for camera in tracking[:1]:
        mass = model.cam_mode[camera] == by_mass.value
        rotation = model.cam_mat0[camera].reshape(3, 3).copy()
        offset = model.cam_pos0[camera] @ rotation
        if abs(rotation[2, 2]) < 0.05:
            rotation = rotation @ _turn_up(-LEVEL_TILT)
        body = int(model.cam_bodyid[camera])
        fovy = float(model.cam_fovy[camera])
        return _Viewpoint(rotation, offset[2], fovy, body, mass, model.stat.center)
    body = _free_body(model)
    azimuth = np.radians(model.vis.global_.azimuth)
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0])
    level = np.stack([right, [0, 0, 1], np.cross(right, [0, 0, 1])], axis=1)
    rotation = level @ _turn_up(model.vis.global_.elevation)
    fovy = float(model.vis.global_.fovy)
    return _Viewpoint(rotation, model.stat.extent, fovy, body, True, model.stat.center)


def _free_body(model: mujoco.MjModel) -> int | None:
    """Return the first body that is free to move, unless it is a thing beside a robot that is not.

    A robot that stands on its place has more bodies than the block that it pushes.
    """
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE.value)
    if not len(free):
        return None
    body = int(model.jnt_bodyid[free[0]])
    moving = np.bincount(model.body_rootid[model.body_weldid != 0], minlength=model.nbody)
    loose = np.isin(np.arange(model.nbody), model.jnt_bodyid[free])
    return body if moving[loose].max() >= moving[~loose].max() else None


def _turn_up(degrees: float) -> Floats:
    """Return the rotation [3, 3] that makes a camera look up by so many degrees."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def _calm(path: Floats) -> Floats:
    """Smooth a path [frame, 3] with a Gaussian; a steady run keeps its speed up to both ends."""
    if len(path) < 2:
        return path.copy()
    reach = min(int(3 * CALM_FRAMES), len(path) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / CALM_FRAMES) ** 2)
    padded = np.pad(path, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    columns = [np.convolve(column, weights / weights.sum(), mode="valid") for column in padded.T]
    return np.stack(columns, axis=1)
