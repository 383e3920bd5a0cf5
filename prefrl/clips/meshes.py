"""Meshes made small enough to be sent to a page and drawn there.

A mesh of many triangles is laid on a grid: all corners within a cell become one, their mean, and
triangles that collapse or that are there twice go (Rossignac and Borrel 1993).
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import mujoco
import numpy as np

from prefrl.clips.scene import Floats

LEVELS = {"fine": 12_000, "coarse": 2_500}
"""Triangles of all meshes of a scene together, at most: for a graphics card, and for a page that
draws without one, where triangles take the time, not pixels."""
FEWEST = 12  # triangles of one mesh, however many meshes there are
FINEST = 65_535  # steps of a grid, and corners of a mesh: uint16 holds them
DIRECTIONS = np.array([d for d in product((-1.0, 0.0, 1.0), repeat=3) if any(d)])
TRIES = 12  # grids that are tried for one mesh


@dataclass(frozen=True)
class Mesh:
    """A mesh as it is sent.

    Attributes:
        low: the least corner of its box, [3], in metres.
        high: the greatest one.
        vertices: how many corners it has.
        triangles: how many triangles.
        data: the corners, uint16 [vertex, 3] from `low` (0) to `high` (65535), then the triangles,
            uint16 [triangle, 3]; both little-endian.
    """

    low: Floats
    high: Floats
    vertices: int
    triangles: int
    data: bytes

    @property
    def digest(self) -> str:
        """What names these very bytes."""
        return hashlib.blake2b(self.data, digest_size=16).hexdigest()


def meshes_of(model: mujoco.MjModel, wanted: Sequence[int], total: int) -> list[Mesh]:
    """Return meshes of a model by their numbers, with at most `total` triangles together.

    There are more only where `FEWEST` of each mesh are more.
    """
    most = share(model.mesh_facenum[list(wanted)], total)
    return [_mesh(model, index, most) for index in wanted]


def share(counts: Any, total: int) -> int:
    """Return how many triangles each mesh may keep so that together they have at most `total`.

    Args:
        counts: triangles that the meshes have, [mesh].
        total: that they may have.
    """
    counts = np.sort(np.asarray(counts))
    for index, count in enumerate(counts):
        each = total // (len(counts) - index)
        if count > each:
            return max(int(each), FEWEST)
        total -= int(count)
    return max(int(counts.max(initial=0)), FEWEST)


def simplified(vertices: Floats, faces: Any, most: int) -> tuple[Floats, np.ndarray]:
    """Return a mesh of at most `most` triangles that looks about the same.

    Args:
        vertices: corners, [vertex, 3].
        faces: indices of the corners of each triangle, [triangle, 3].
        most: triangles to keep.

    Returns:
        New corners [vertex, 3] and triangles [triangle, 3]; every corner is used.
    """
    cells = float(np.sqrt(most))  # along the longest side; a surface has about their square
    points, kept = vertices, np.asarray(faces)
    for _ in range(TRIES):
        if len(kept) <= most and len(points) <= FINEST:
            break
        points, kept = _on_grid(vertices, np.asarray(faces), cells)
        cells *= min(0.9, float(np.sqrt(most / max(len(kept), 1))))
    used, kept = np.unique(kept, return_inverse=True)
    return points[used], kept.reshape(-1, 3)


def _on_grid(vertices: Floats, faces: np.ndarray, cells: float) -> tuple[Floats, np.ndarray]:
    """Make one corner of all that lie in one cell of a grid; see `simplified`."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    steps = np.floor((vertices - low) * (cells / max(float((high - low).max()), 1e-12)))
    keys = steps.astype(np.int64) @ [1 << 40, 1 << 20, 1]
    _, cell, counts = np.unique(keys, return_inverse=True, return_counts=True)
    points = np.stack([np.bincount(cell, axis) for axis in vertices.T], axis=1) / counts[:, None]
    moved = cell[faces]
    moved = moved[(moved != np.roll(moved, 1, axis=1)).all(axis=1)]
    _, first = np.unique(np.sort(moved, axis=1) @ _base(len(points)), return_index=True)
    return points, moved[np.sort(first)]


def _base(count: int) -> np.ndarray:
    """Return by what three indices below `count` are multiplied to become one number, [3]."""
    return np.array([count * count, count, 1], np.int64)


def outline(model: mujoco.MjModel, index: int) -> Floats:
    """Return those corners of a mesh that lie furthest out in 26 directions, [point, 3].

    Their hull stands for the mesh where that is not drawn.
    """
    vertices = _vertices(model, index)
    return vertices[np.unique((vertices @ DIRECTIONS.T).argmax(axis=0))]


def _vertices(model: mujoco.MjModel, index: int) -> Floats:
    first = model.mesh_vertadr[index]
    return model.mesh_vert[first : first + model.mesh_vertnum[index]].astype(np.float64)


def _mesh(model: mujoco.MjModel, index: int, most: int) -> Mesh:
    vertices, faces = _vertices(model, index), model.mesh_faceadr[index]
    triangles = model.mesh_face[faces : faces + model.mesh_facenum[index]]
    points, triangles = simplified(vertices, triangles, most)
    if not len(points):  # thinner than any grid
        points, triangles = vertices[:1], np.zeros((0, 3), int)
    low, high = points.min(axis=0), points.max(axis=0)
    steps = np.rint((points - low) / np.maximum(high - low, 1e-12) * FINEST)
    data = steps.astype("<u2").tobytes() + triangles.astype("<u2").tobytes()
    return Mesh(low, high, len(points), len(triangles), data)
