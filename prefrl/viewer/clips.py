"""What a page needs to show a clip: poses, pictures, texts or numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from prefrl.clips import pictures
from prefrl.clips.camera import track
from prefrl.clips.looks import changed
from prefrl.clips.meshes import LEVELS, Mesh, meshes_of, outline
from prefrl.clips.observed import are_pictures, newest_frames
from prefrl.clips.parts import Part, parts, placed
from prefrl.clips.scene import dress, floor_height, moving_geoms, poses
from prefrl.errors import UserError
from prefrl.types import (
    MODEL,
    STOOD_UP,
    Picture,
    Segment,
    is_text,
    steps_to_end,
    system_of,
    until_end,
)
from prefrl.viewer import markdown
from prefrl.viewer.moments import set_back, still_from

CACHED_CLIPS = 64
CACHED_MODELS = 8  # of episodes that changed theirs
PLOTTED = 12  # numbers of an observation that are plotted where nothing else can be shown


class Clips:
    """Turns segments of one environment into what a page draws."""

    def __init__(self, model: Any, dt: float, picture: Callable[[str], Picture | None]):
        """Keep what clips are shown with.

        Args:
            model: the MuJoCo model that `qpos` belongs to; None where there is none.
            dt: seconds of a step.
            picture: gives what a segment looked like, by its id, where that is kept.
        """
        self._saved = model
        self.model: Any = None if model is None else dress(model)
        self.dt, self._picture = dt, picture
        self._changed = lru_cache(CACHED_MODELS)(self._change)
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
            _, distance, changes, points = self._drawn(segment)
            shown = {"form": "poses", "scene": "api/scene/0", "url": url, "distance": distance}
            shown |= {"changes": changes} if changes else {}
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

        Of poses that is the point to look at and the pose of each part, float32
        `[frame, 3 + 7 part]` (`prefrl.clips.parts`); of pictures the sheet.

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
        """Return a clip's sheet of pictures, if there is one; what was kept is decoded first."""
        picture = self._picture(segment.id)
        if picture:
            pictures.check(picture, len(segment))
        elif are_pictures(segment.observations):  # what was observed is what there is to see
            frames = newest_frames(segment.observations)
            picture = pictures.sheet([pictures.shrink(frame) for frame in frames], 1, exact=True)
        return picture

    def _draw(self, segment: Segment) -> tuple[bytes, float, dict[int, dict[str, Any]], np.ndarray]:
        """Return a clip's `data`, how far from it the camera stands, and what differs in it.

        That is the size and the colour of parts, by their number, that are others than in `scene`.
        The last is where its bodies are, `[frame, geom, 3]`.
        """
        shown = until_end(segment)
        try:
            said = shown.extras.get(MODEL)
            model = self._changed("" if said is None else str(said[0]))
            clip = poses(model, shown.extras["qpos"], shown.extras.get("mocap"))
        except ValueError as error:
            raise UserError(f"this clip is damaged: {error}") from None
        tracking = track(model, clip)
        rows = np.concatenate(
            [tracking.path, placed(model, clip).reshape(len(clip.positions), -1)], axis=1
        )
        changes = {
            index: {"size": now.size, "rgba": now.rgba}
            for index, (now, usual) in enumerate(zip(parts(model), self._parts, strict=True))
            if model is not self.model and (now.size, now.rgba) != (usual.size, usual.rgba)
        }
        points = clip.positions[:, moving_geoms(model)]
        return rows.astype("<f4").tobytes(), tracking.distance, changes, points

    def _change(self, text: str) -> Any:
        """Return the model of an episode, dressed."""
        return dress(changed(self._saved, text)) if text else self.model

    @cached_property
    def _parts(self) -> list[Part]:
        return [] if self.model is None else parts(self.model)

    @cached_property
    def _wanted(self) -> list[int]:
        """The meshes that are drawn, by their numbers in the model."""
        return sorted({part.mesh for part in self._parts if part.mesh is not None})

    @cached_property
    def _meshes(self) -> dict[str, list[Mesh]]:
        """These meshes at each of `LEVELS`."""
        return {
            level: meshes_of(self.model, self._wanted, total) for level, total in LEVELS.items()
        }

    def mesh(self, digest: str) -> bytes:
        """Return the data of a mesh by its digest.

        Raises:
            KeyError: the scene has no such mesh.
        """
        every = [mesh for meshes in self._meshes.values() for mesh in meshes]
        return {mesh.digest: mesh.data for mesh in every}[digest]

    def scene(self) -> dict[str, Any]:
        """Return shapes, sizes, colours and meshes, and where the camera stands at first."""
        model = self.model
        if model is None:
            raise UserError("this environment has no MuJoCo model to draw")
        geoms = [
            {"type": part.type, "size": part.size, "rgba": part.rgba, "floor": part.floor}
            | ({} if part.mesh is None else {"mesh": self._wanted.index(part.mesh)})
            for part in self._parts
        ]
        meshes = [
            {"outline": outline(model, number).tolist()}
            | {level: _described(self._meshes[level][index]) for level in LEVELS}
            for index, number in enumerate(self._wanted)
        ]
        tracking = track(model, poses(model, model.qpos0[None]))
        forward = -tracking.rotation[:, 2]
        view = {
            "azimuth": math.degrees(math.atan2(forward[1], forward[0])),
            "elevation": math.degrees(math.asin(min(max(forward[2], -1.0), 1.0))),
            "fovy": tracking.fovy,
        }
        return {"geoms": geoms, "meshes": meshes, "view": view, "floor": floor_height(model)}

    def rows_of(self, names: Sequence[str]) -> list[int]:
        """Return which of the shown parts have these names; one that is unknown is left out."""
        shown = [part.name for part in self._parts]
        return [shown.index(name) for name in names if name in shown]

    def _has_poses(self, segment: Segment) -> bool:
        return self.model is not None and "qpos" in segment.extras

    def _trace(self, segment: Segment) -> dict[str, Any]:
        segment = until_end(segment)
        values = np.asarray(segment.observations, np.float64).reshape(len(segment), -1)
        moving = np.flatnonzero(np.nanstd(values, axis=0) > 0)[:PLOTTED]
        shown = values[:, moving if len(moving) else slice(PLOTTED)].T
        series = [[float(x) if math.isfinite(x) else None for x in row] for row in shown]
        names = [f"observation {index}" for index in moving]
        return {"form": "trace", "names": names, "values": series}


def _described(mesh: Mesh) -> dict[str, Any]:
    """Return how a page fetches and reads a mesh."""
    return {
        "url": f"api/mesh/{mesh.digest}", "vertices": mesh.vertices, "triangles": mesh.triangles,
        "low": mesh.low.tolist(), "high": mesh.high.tolist(),
    }  # fmt: skip


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
