"""What a clip shows: where each part of the robot is, and its colours.

Nothing here draws. `prefrl.clips.draw` turns a dressed model, poses and a camera into pictures.
All lengths are in metres, in MuJoCo's world frame (z up).
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

import colorsys
import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
Colour = tuple[float, float, float]

TORSO_COLOUR: Colour = (0.23, 0.31, 0.44)
LIMB_HUES = (0.01, 0.49, 0.13, 0.77, 0.30, 0.62, 0.92)  # one for each limb, told apart at a glance
VISIBLE_GROUPS = 3  # MuJoCo shows groups 0, 1 and 2 of geoms, sites, tendons unless told otherwise
PULLEY = -2  # what a tendon's path names where a pulley parts it


@dataclass(frozen=True)
class Poses:
    """Where each geom of a model is, frame by frame.

    Attributes:
        positions: centres of the geoms, [frame, geom, 3], in metres.
        rotations: their orientations, [frame, geom, 3, 3]; columns are the geom's own axes.
        centres: centre of mass of each body's subtree, [frame, body, 3], in metres.
        bodies: origin of each body, [frame, body, 3], in metres.
        sites: origins of the sites, [frame, site, 3], in metres.
        site_rotations: their orientations, [frame, site, 3, 3], like those of geoms.
        cords: both ends of each straight piece of a tendon, [frame, piece, 2, 3], in metres; see
            `cord_pieces`. Pieces that a tendon does without in a frame lie at its beginning.
    """

    positions: Floats
    rotations: Floats
    centres: Floats
    bodies: Floats
    sites: Floats
    site_rotations: Floats
    cords: Floats


def each_pose(
    model: mujoco.MjModel, qpos: ArrayLike, mocap: ArrayLike | None = None
) -> Iterator[mujoco.MjData]:
    """Yield one and the same `MjData`, placed at each frame in turn.

    Args:
        model: the MuJoCo model.
        qpos: joint positions, [frame, nq].
        mocap: positions and quaternions of the mocap bodies, [frame, nmocap, 7], if they move.

    Raises:
        ValueError: if a shape does not fit the model, or a number is not finite.
    """
    qpos = np.asarray(qpos, dtype=np.float64)
    if qpos.ndim != 2 or qpos.shape[1] != model.nq or not len(qpos):
        raise ValueError(
            f"qpos has shape {qpos.shape}; expected [frame, {model.nq}] for this model, with at "
            "least one frame"
        )
    if not np.isfinite(qpos).all():
        raise ValueError("qpos holds numbers that are not finite, so it cannot be drawn")
    if mocap is not None:
        mocap = np.asarray(mocap, dtype=np.float64)
        if mocap.shape != (len(qpos), model.nmocap, 7):
            raise ValueError(
                f"mocap has shape {mocap.shape}; expected [{len(qpos)}, {model.nmocap}, 7] for "
                "this model and qpos, a position and a quaternion each"
            )
    data = mujoco.MjData(model)
    for frame, row in enumerate(qpos):
        data.qpos[:] = row
        if mocap is not None:
            data.mocap_pos[:] = mocap[frame, :, :3]
            data.mocap_quat[:] = mocap[frame, :, 3:]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_flex(model, data)
        mujoco.mj_tendon(model, data)
        yield data


def poses(model: mujoco.MjModel, qpos: ArrayLike, mocap: ArrayLike | None = None) -> Poses:
    """Compute the poses of a clip; arguments and errors as for `each_pose`."""
    tendons = cord_pieces(model)
    rows = [
        (
            data.geom_xpos.copy(),
            data.geom_xmat.reshape(-1, 3, 3).copy(),
            data.subtree_com.copy(),
            data.xpos.copy(),
            data.site_xpos.copy(),
            data.site_xmat.reshape(-1, 3, 3).copy(),
            _cords(data, tendons),
        )
        for data in each_pose(model, qpos, mocap)
    ]
    return Poses(*(np.stack(column) for column in zip(*rows, strict=True)))


def cord_pieces(model: mujoco.MjModel) -> NDArray[np.intp]:
    """Return the tendon that each straight piece belongs to, [piece], of those that are drawn.

    A tendon has as many pieces as it can ever need: around a geom that it wraps it has two points.
    """
    spatial = model.wrap_type != mujoco.mjtWrap.mjWRAP_JOINT.value
    points = np.ones(model.nwrap, np.intp)
    for kind in (mujoco.mjtWrap.mjWRAP_SPHERE, mujoco.mjtWrap.mjWRAP_CYLINDER):
        points[model.wrap_type == kind.value] = 2
    pieces = []
    for tendon in np.flatnonzero(model.tendon_group < VISIBLE_GROUPS).tolist():
        path = slice(model.tendon_adr[tendon], model.tendon_adr[tendon] + model.tendon_num[tendon])
        if model.tendon_num[tendon] and spatial[path].all():
            pieces += [tendon] * int(points[path].sum() - 1)
    return np.array(pieces, np.intp)


def _cords(data: mujoco.MjData, pieces: NDArray[np.intp]) -> Floats:
    """Return both ends of the tendons' straight pieces in the present pose, [piece, 2, 3]."""
    points, objects = data.wrap_xpos.reshape(-1, 3), data.wrap_obj.ravel()
    ends = np.zeros((len(pieces), 2, 3))
    for tendon in np.unique(pieces):
        path = np.arange(data.ten_wrapnum[tendon]) + data.ten_wrapadr[tendon]
        if not len(path):
            continue
        own = np.flatnonzero(pieces == tendon)
        ends[own] = points[path[0]]
        starts = path[:-1][(objects[path[:-1]] != PULLEY) & (objects[path[1:]] != PULLEY)]
        for piece, start in zip(own, starts, strict=False):
            ends[piece] = points[start : start + 2]
    return ends


def save_model(model: mujoco.MjModel, path: str | os.PathLike[str]) -> None:
    """Write a compiled model whole, for `load_model` of the same version of MuJoCo."""
    partial = f"{os.fspath(path)}.partial"
    mujoco.mj_saveModel(model, partial)
    Path(partial).replace(path)


def load_model(path: str | os.PathLike[str]) -> mujoco.MjModel:
    """Read what `save_model` wrote.

    Raises:
        ValueError: the file is damaged, or of another version of MuJoCo.
    """
    return mujoco.MjModel.from_binary_path(os.fspath(path))


def is_floor(model: mujoco.MjModel) -> NDArray[np.bool_]:
    """Say which geoms are level planes that do not move: [geom]."""
    planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE.value
    level = np.abs(model.geom_quat[:, 1:3]).max(axis=1, initial=0) < 1e-6
    return planes & level & (model.geom_bodyid == 0)


def floor_height(model: mujoco.MjModel) -> float | None:
    """Return the height of the highest level plane in metres, or None where there is none."""
    heights = model.geom_pos[is_floor(model), 2]
    return float(heights.max()) if len(heights) else None


def moving_geoms(model: mujoco.MjModel) -> NDArray[np.intp]:
    """Return the indices of visible geoms on bodies that can move (all solid ones if none can)."""
    seen = (model.geom_group < VISIBLE_GROUPS) & (geom_colours(model)[:, 3] > 0)
    seen &= model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE.value
    moving = model.body_weldid[model.geom_bodyid] != 0
    return np.flatnonzero(seen & moving if (seen & moving).any() else seen)


def geom_corners(model: mujoco.MjModel, geoms: ArrayLike, positions: Floats, rotations: Floats):
    """Return the corners of the geoms' boxes, [..., geom, 8, 3], in metres.

    Args:
        model: the MuJoCo model.
        geoms: indices of the geoms wanted, [geom].
        positions: of all geoms, [..., geom, 3].
        rotations: of all geoms, [..., geom, 3, 3].
    """
    geoms = np.asarray(geoms)
    signs = np.array(list(product((-1, 1), repeat=3)))
    local = model.geom_aabb[geoms, None, :3] + signs * model.geom_aabb[geoms, None, 3:]
    turned = np.einsum("...gij,gcj->...gci", rotations[..., geoms, :, :], local)
    return positions[..., geoms, None, :] + turned


def geom_colours(model: mujoco.MjModel) -> Floats:
    """Return the colours MuJoCo itself would give to the geoms: [geom, 4], from 0 to 1."""
    return _with_materials(model, model.geom_rgba, model.geom_matid)


def site_colours(model: mujoco.MjModel) -> Floats:
    """Return the colours MuJoCo itself would give to the sites: [site, 4], from 0 to 1."""
    return _with_materials(model, model.site_rgba, model.site_matid)


def cord_colours(model: mujoco.MjModel) -> Floats:
    """Return the colours MuJoCo itself would give to the tendons: [tendon, 4], from 0 to 1."""
    return _with_materials(model, model.tendon_rgba, model.tendon_matid)


def _with_materials(model: mujoco.MjModel, own: Floats, materials: NDArray[np.integer]) -> Floats:
    """Return colours [part, 4]; a part that was given none has that of its material."""
    colours = own.copy()
    by_material = (materials >= 0) & (colours == 0.5 * np.array([1, 1, 1, 2])).all(axis=1)
    colours[by_material] = model.mat_rgba[materials[by_material]]
    return colours


def dress(
    model: mujoco.MjModel, highlight: Mapping[str, ArrayLike] | None = None
) -> mujoco.MjModel:
    """Return a copy of a model, coloured so that its parts can be told apart.

    A model that uses three colours or more keeps them. A plainer one gets a dark torso and a hue
    for each limb, lighter towards its end.

    Args:
        model: the MuJoCo model; it is left as it is.
        highlight: red, green and blue from 0 to 1 for geoms by name; they win over the rest.

    Raises:
        ValueError: if `highlight` names a geom that the model does not have.
    """
    dressed = copy.copy(model)
    geoms = moving_geoms(model)
    colours = geom_colours(model)
    if len(np.unique(colours[geoms, :3], axis=0)) < 3:
        for geom in geoms[model.body_weldid[model.geom_bodyid[geoms]] != 0]:
            colours[geom, :3] = _limb_colour(model, int(model.geom_bodyid[geom]))
    for name, colour in (highlight or {}).items():
        geom = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name)
        if geom < 0:
            known = ", ".join(repr(model.geom(i).name) for i in range(model.ngeom))
            raise ValueError(f"highlight names the geom {name!r}; this model has {known}")
        colours[geom, :3] = colour
    changed = (colours != geom_colours(model)).any(axis=1)
    dressed.geom_matid[changed] = -1
    dressed.geom_rgba[:] = colours
    return dressed


def _limb_colour(model: mujoco.MjModel, body: int) -> Colour:
    """Colour a body by the limb it is on and how far out on it: the root body is the torso."""
    chain = [body]
    while model.body_parentid[chain[-1]] != 0:
        chain.append(int(model.body_parentid[chain[-1]]))
    if len(chain) == 1:
        return TORSO_COLOUR
    siblings = np.flatnonzero(model.body_parentid == chain[-1])
    limb = int(np.searchsorted(siblings, chain[-2]))
    below = [b for b in range(model.nbody) if model.body_rootid[b] == chain[-1]]
    depth = max(_depth(model, b) for b in below)
    outward = (len(chain) - 1) / max(depth, 1)
    hue = LIMB_HUES[limb % len(LIMB_HUES)] + 0.05 * outward
    return colorsys.hls_to_rgb(hue, 0.34 + 0.30 * outward, 0.72)


def _depth(model: mujoco.MjModel, body: int) -> int:
    """Count the steps from a body up to the root of its tree."""
    parent = int(model.body_parentid[body])
    return 0 if parent == 0 else 1 + _depth(model, parent)
