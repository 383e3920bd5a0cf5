"""How the MuJoCo model of an episode differs from the one that is saved with its run.

Some environments write to their model when an episode begins: a board stands elsewhere, a goal is
a site that is moved, a ball changes its size. A clip keeps these differences as a text.
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

import copy
import json
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

FIELDS = (
    "qpos0", "body_pos", "body_quat", "body_ipos", "jnt_pos", "jnt_axis",
    "geom_pos", "geom_quat", "geom_size", "geom_aabb", "geom_rgba", "geom_matid",
    "site_pos", "site_quat", "site_size", "site_rgba", "site_matid",
    "mat_rgba", "tendon_rgba", "tendon_width",
)  # fmt: skip
"""What a pose is worked out from, and what it is drawn with; each is [part, …]."""


def differences(model: mujoco.MjModel, saved: mujoco.MjModel) -> str:
    """Return the rows of `FIELDS` in which a model differs from the saved one.

    Returns:
        JSON, {field: {row: value}}; "" where nothing differs. A field whose length differs is
        left out: it is of a model with other parts.
    """
    found: dict[str, dict[str, Any]] = {}
    for field in FIELDS:
        new, old = getattr(model, field), getattr(saved, field)
        if new.shape != old.shape or np.array_equal(new, old):
            continue
        rows = np.flatnonzero((new != old).reshape(len(new), -1).any(axis=1))
        found[field] = {str(row): new[row].tolist() for row in rows}
    return json.dumps(found) if found else ""


def changed(saved: mujoco.MjModel, text: str) -> mujoco.MjModel:
    """Return the model of an episode: the saved one, with its `differences`.

    Raises:
        ValueError: the text is not of differences from this model.
    """
    if not text:
        return saved
    model = copy.copy(saved)
    try:
        for field, rows in json.loads(text).items():
            if field not in FIELDS:
                raise ValueError(f"{field!r} is not a field that is drawn")
            array: NDArray[Any] = getattr(model, field)
            for row, value in rows.items():
                new = np.asarray(value, array.dtype)
                if new.shape != array[0].shape or not np.isfinite(new).all():
                    raise ValueError(f"row {row} of {field} is {value!r}")
                array[_index(row, len(array))] = new
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"what it changes of the model cannot be read: {error}") from None
    for field, count in (("geom_matid", saved.nmat), ("site_matid", saved.nmat)):
        if len(getattr(model, field)) and getattr(model, field).max() >= count:
            raise ValueError(f"what it changes of the model names a material beyond {count}")
    return model


def _index(row: str, count: int) -> int:
    index = int(row)
    if not 0 <= index < count:
        raise ValueError(f"row {row} of {count}")
    return index
