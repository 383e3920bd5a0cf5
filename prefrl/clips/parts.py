"""The parts that a model is drawn of, and where they are: geoms, sites and tendons.

Lengths are in metres. What is no plain solid is a mesh (`prefrl.clips.meshes`), or a box around it.
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass

import mujoco
import numpy as np

from prefrl.clips.scene import (
    VISIBLE_GROUPS,
    Floats,
    Poses,
    cord_colours,
    cord_pieces,
    geom_colours,
    is_floor,
    site_colours,
)

SHAPES = {
    mujoco.mjtGeom.mjGEOM_PLANE.value: "plane",
    mujoco.mjtGeom.mjGEOM_SPHERE.value: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE.value: "capsule",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID.value: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_CYLINDER.value: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX.value: "box",
}
MESHES = (mujoco.mjtGeom.mjGEOM_MESH.value, mujoco.mjtGeom.mjGEOM_SDF.value)
POSE = 7  # numbers that say where a part is in a frame


@dataclass(frozen=True)
class Part:
    """What is drawn of a model."""

    type: str
    """One of `SHAPES`, "mesh", or "cord", a straight piece of a tendon."""
    size: list[float]
    """MuJoCo's size of the shape; of a mesh half the sides of its box; of a cord its radius."""
    rgba: list[float]
    floor: bool = False
    mesh: int | None = None
    """Which one of the model's, where it is one."""
    name: str = ""
    """Of a geom that has one."""


def parts(model: mujoco.MjModel) -> list[Part]:
    """Return what is drawn: geoms, then sites, then tendons.

    Geoms and sites that are transparent are there, too: another episode may show them.
    """
    colours, floors = geom_colours(model), is_floor(model)
    found = []
    for geom in _shown(model.geom_group):
        kind = _shape(model, geom)
        size = model.geom_size[geom] if kind in SHAPES.values() else model.geom_aabb[geom, 3:]
        mesh = int(model.geom_dataid[geom]) if kind == "mesh" else None
        rgba = colours[geom].tolist()
        name, floor = model.geom(geom).name, bool(floors[geom])
        found.append(Part(kind or "box", size.tolist(), rgba, floor, mesh, name))
    colours = site_colours(model)
    for site in _shown(model.site_group):
        kind = SHAPES.get(int(model.site_type[site]), "box")
        found.append(Part(kind, model.site_size[site].tolist(), colours[site].tolist()))
    colours = cord_colours(model)
    for tendon in cord_pieces(model):
        width = float(model.tendon_width[tendon])
        found.append(Part("cord", [width] * 3, colours[tendon].tolist()))
    return found


def placed(model: mujoco.MjModel, clip: Poses) -> Floats:
    """Return where the parts are, float32 [frame, part, 7].

    That is the middle and the quaternion of a part; of a cord both of its ends, and a 0.
    """
    geoms, sites = _shown(model.geom_group), _shown(model.site_group)
    offsets = np.array([_offset(model, geom) for geom in geoms]).reshape(-1, 3)
    turned = np.einsum("fgij,gj->fgi", clip.rotations[:, geoms], offsets)
    middles = np.concatenate([clip.positions[:, geoms] + turned, clip.sites[:, sites]], axis=1)
    rotations = [clip.rotations[:, geoms], clip.site_rotations[:, sites]]
    quaternions = _quaternions(np.concatenate(rotations, axis=1))
    solids = np.concatenate([middles, quaternions], axis=2)
    ends = clip.cords.reshape(*clip.cords.shape[:2], 6)
    cords = np.concatenate([ends, np.zeros_like(ends[..., :1])], axis=2)
    return np.concatenate([solids, cords], axis=1).astype(np.float32)


def _shown(groups: np.ndarray) -> list[int]:
    return np.flatnonzero(groups < VISIBLE_GROUPS).tolist()


def _shape(model: mujoco.MjModel, geom: int) -> str:
    """Return the type of a part; "" where there is none but a box around it."""
    kind = int(model.geom_type[geom])
    return "mesh" if kind in MESHES and model.geom_dataid[geom] >= 0 else SHAPES.get(kind, "")


def _offset(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Return where the middle of a part is in its geom's own axes, [3]."""
    return np.zeros(3) if _shape(model, geom) else model.geom_aabb[geom, :3]


def _quaternions(rotations: Floats) -> Floats:
    """Return the quaternions of rotations [frame, part, 3, 3]."""
    quaternions, one = np.empty((*rotations.shape[:2], 4)), np.empty(4)
    for index in np.ndindex(*rotations.shape[:2]):
        mujoco.mju_mat2Quat(one, rotations[index].ravel())
        quaternions[index] = one
    return quaternions
