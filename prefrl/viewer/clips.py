"""What a page needs to show a clip: poses, pictures, texts or numbers."""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import mujoco
import numpy as np

from prefrl.clips import pictures
from prefrl.clips.camera import track
from prefrl.clips.scene import (
    VISIBLE_GROUPS,
    dress,
    floor_height,
    geom_colours,
    is_floor,
    moving_geoms,
    poses,
)  # fmt: skip
from prefrl.errors import UserError
from prefrl.types import STOOD_UP, Picture, Segment, is_text, steps_to_end, system_of, until_end
from prefrl.viewer import markdown
from prefrl.viewer.moments import set_back, still_from

SHAPES = {
    mujoco.mjtGeom.mjGEOM_PLANE.value: "plane",
    mujoco.mjtGeom.mjGEOM_SPHERE.value: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE.value: "capsule",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID.value: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_CYLINDER.value: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX.value: "box",
}
CACHED_CLIPS = 64
PLOTTED = 12  # numbers of an observation that are plotted where nothing else can be shown


class Clips:
    """Turns segments of one environment into what a page draws."""

    def __init__(
        self, model: mujoco.MjModel | None, dt: float, picture: Callable[[str], Picture | None]
    ):
        """Keep what clips are shown with.

        Args:
            model: the MuJoCo model that `qpos` belongs to, if any.
            dt: seconds of a step.
            picture: gives what a segment looked like, by its id, where that is kept.
        """
        self.model: Any = None if model is None else dress(model)
        self.dt, self._picture = dt, picture
        self._drawn = lru_cache(CACHED_CLIPS)(self._draw)
        self._checked = lru_cache(CACHED_CLIPS)(self._check)

    def describe(self, segment: Segment, url: str) -> dict[str, Any]:
        """Return a clip as JSON values; what is large is to be had at `url` (`data`).

        Raises:
            UserError: the clip is damaged.
        """
        if is_text(segment.observations):
            return _text(segment)
        points = _as_points(segment)
        if self._has_poses(segment):
            _, distance, points = self._drawn(segment)
            shown = {"form": "poses", "scene": "api/scene/0", "url": url, "distance": distance}
        elif picture := self._checked(segment):
            shown = {
                "form": "frames", "url": url, "columns": picture.columns, "width": picture.width,
                "height": picture.height, "every": picture.every,
            }  # fmt: skip
        else:
            shown = self._trace(segment)
        ended = steps_to_end(segment) < len(segment)
        told = STOOD_UP in segment.extras or shown["form"] != "poses"  # other numbers may jump
        return shown | {
            "frames": len(until_end(segment)),
            "dt": self.dt,
            "ended": ended,
            "stood_up": np.flatnonzero(segment.extras.get(STOOD_UP, [])).tolist(),
            "set_back": [] if told else set_back(points),
            "still": None if ended else still_from(points, self.dt),
        }

    def data(self, segment: Segment) -> tuple[bytes, str]:
        """Return what is large of a clip, and its media type.

        Of poses that is the point to look at and the pose of each geom, float32
        `[frame, 3 + 7 geom]`; of pictures the sheet.

        Raises:
            UserError: the clip is damaged, or has neither.
        """
        if self._has_poses(segment):
            return self._drawn(segment)[0], "application/octet-stream"
        picture = self._checked(segment)
        if picture is None:
            raise UserError("this clip has neither poses nor pictures")
        return picture.data, pictures.MEDIA_TYPE

    def _check(self, segment: Segment) -> Picture | None:
        """Return a clip's sheet of pictures, if there is one, after decoding it."""
        picture = self._picture(segment.id)
        if picture:
            pictures.check(picture, len(segment))
        return picture

    def _draw(self, segment: Segment) -> tuple[bytes, float, np.ndarray]:
        """Return a clip's `data`, how far from it the camera stands, and where its parts are."""
        try:
            clip = poses(self.model, until_end(segment).extras["qpos"])
        except ValueError as error:
            raise UserError(f"this clip is damaged: {error}") from None
        tracking = track(self.model, clip)
        geoms = self._geoms()
        rows = np.empty((len(clip.positions), 3 + 7 * len(geoms)), np.float32)
        rows[:, :3] = tracking.path
        quaternion = np.empty(4)
        for index, geom in enumerate(geoms):
            left = 3 + 7 * index
            offset = self._offset(geom)
            rows[:, left : left + 3] = clip.positions[:, geom] + clip.rotations[:, geom] @ offset
            for frame, rotation in enumerate(clip.rotations[:, geom]):
                mujoco.mju_mat2Quat(quaternion, rotation.ravel())
                rows[frame, left + 3 : left + 7] = quaternion
        parts = clip.positions[:, moving_geoms(self.model)]
        return rows.astype("<f4").tobytes(), tracking.distance, parts

    def scene(self) -> dict[str, Any]:
        """Return shapes, sizes and colours, and where the camera stands at first."""
        model = self.model
        if model is None:
            raise UserError("this environment has no MuJoCo model to draw")
        colours, floors = geom_colours(model), is_floor(model)
        geoms = [
            {
                "type": SHAPES.get(int(model.geom_type[geom]), "box"),
                "size": self._size(geom),
                "rgba": colours[geom].tolist(),
                "floor": bool(floors[geom]),
            }
            for geom in self._geoms()
        ]
        tracking = track(model, poses(model, model.qpos0[None]))
        forward = -tracking.rotation[:, 2]
        view = {
            "azimuth": math.degrees(math.atan2(forward[1], forward[0])),
            "elevation": math.degrees(math.asin(min(max(forward[2], -1.0), 1.0))),
            "fovy": tracking.fovy,
        }
        return {"geoms": geoms, "view": view, "floor": floor_height(model)}

    def rows_of(self, names: Sequence[str]) -> list[int]:
        """Return which of the shown parts have these names; one that is unknown is left out."""
        shown = [self.model.geom(geom).name for geom in self._geoms()]
        return [shown.index(name) for name in names if name in shown]

    def _has_poses(self, segment: Segment) -> bool:
        return self.model is not None and "qpos" in segment.extras

    def _geoms(self) -> list[int]:
        seen = (self.model.geom_group < VISIBLE_GROUPS) & (geom_colours(self.model)[:, 3] > 0)
        return np.flatnonzero(seen).tolist()

    def _plain(self, geom: int) -> bool:
        return int(self.model.geom_type[geom]) in SHAPES

    def _size(self, geom: int) -> list[float]:
        """Return MuJoCo's size; of a mesh or a height field, half the sides of its box."""
        plain = self._plain(geom)
        return (self.model.geom_size[geom] if plain else self.model.geom_aabb[geom, 3:]).tolist()

    def _offset(self, geom: int) -> np.ndarray:
        return np.zeros(3) if self._plain(geom) else self.model.geom_aabb[geom, :3]

    def _trace(self, segment: Segment) -> dict[str, Any]:
        segment = until_end(segment)
        values = np.asarray(segment.observations, np.float64).reshape(len(segment), -1)
        moving = np.flatnonzero(np.nanstd(values, axis=0) > 0)[:PLOTTED]
        shown = values[:, moving if len(moving) else slice(PLOTTED)].T
        series = [[float(x) if math.isfinite(x) else None for x in row] for row in shown]
        names = [f"observation {index}" for index in moving]
        return {"form": "trace", "names": names, "values": series}


def _as_points(segment: Segment) -> np.ndarray:
    """Return what a clip without poses shows, as one point of many axes `[frame, 1, axis]`."""
    observations = np.asarray(until_end(segment).observations, np.float64)
    return np.nan_to_num(observations).reshape(len(observations), 1, -1)


def _text(segment: Segment) -> dict[str, Any]:
    """Return a conversation: `messages` of a `role`, with the Markdown of each (see `markdown`).

    A reply that its token limit ended is `cut`.
    """
    messages = [_message("system", system)] if (system := system_of(segment)) else []
    finished = segment.extras.get("finished", np.ones(len(segment), bool))
    for said, reply, ended in zip(segment.observations, segment.actions, finished, strict=True):
        messages += [_message("user", str(said))] if len(messages) < 2 or str(said) else []
        messages.append(_message("assistant", str(reply), cut=not ended))
    return {"form": "text", "messages": messages}


def _message(role: str, text: str, cut: bool = False) -> dict[str, Any]:
    return {"role": role, "text": text, "blocks": markdown.tree(text), "cut": cut}
