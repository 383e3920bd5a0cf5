"""Clips in the store: their arrays, pictures and true rewards.

Arrays are kept to the bit. Each function reads or writes through the store's connection.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from sqlite3 import Connection

import numpy as np

from prefrl.errors import UserError, check_plain
from prefrl.types import Picture, Segment, is_text, text_array

# The true rewards of all clips, of the environment itself or of the aspect that is given.
REWARDS = (
    "(SELECT segment, rewards FROM aspect_reward WHERE aspect = ?1 UNION ALL "
    "SELECT segment, rewards FROM true_reward WHERE ?1 = '')"
)


def write_segment(
    connection: Connection, segment: Segment, rewards: Mapping[str, np.ndarray],
    picture: Picture | None,
) -> None:  # fmt: skip
    """Write a clip and what is known of it, unless there is one of its id.

    Args:
        connection: of the store.
        segment: the clip.
        rewards: its true rewards `[step]` by aspect, those of the environment itself under "".
        picture: what it looked like.

    Raises:
        UserError: it holds neither numbers nor text, or its names hold control characters.
    """
    check_plain("the id of a clip", segment.id)
    check_plain("the source of a clip", segment.source)
    if not is_text(segment.observations):  # the task of a text may be its prompt, kept whole
        check_plain("the task of a clip", segment.task)
    fresh = connection.execute(
        "INSERT OR IGNORE INTO segment VALUES (?, ?, ?)",
        (segment.id, segment.task, segment.source),
    ).rowcount
    if not fresh:
        return
    arrays = {"observations": segment.observations, "actions": segment.actions}
    arrays |= {f"extras/{name}": extra for name, extra in segment.extras.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufcmM" and not is_text(array):
            raise UserError(
                f"{name} of the clip {segment.id!r} are of type {array.dtype}, which the store "
                "cannot keep; expected numbers or text"
            )
        row = (segment.id, name, *_encode(array))
        connection.execute("INSERT INTO array VALUES (?, ?, ?, ?, ?)", row)
    for aspect, steps in rewards.items():
        data = np.asarray(steps, np.float64).tobytes()
        if aspect:
            row = (segment.id, aspect, data)
            connection.execute("INSERT INTO aspect_reward VALUES (?, ?, ?)", row)
        else:
            connection.execute("INSERT INTO true_reward VALUES (?, ?)", (segment.id, data))
    if picture is not None:
        row = (segment.id, *dataclasses.astuple(picture))
        connection.execute("INSERT INTO picture VALUES (?, ?, ?, ?, ?, ?)", row)


def read_segment(connection: Connection, name: str) -> Segment:
    """Return the clip of an id."""
    task, source = connection.execute(
        "SELECT task, source FROM segment WHERE id = ?", (name,)
    ).fetchone()
    rows = connection.execute(
        "SELECT name, dtype, shape, data FROM array WHERE segment = ?", (name,)
    ).fetchall()
    arrays = {row[0]: _decode(*row[1:]) for row in rows}
    observations, actions = arrays.pop("observations"), arrays.pop("actions")
    extras = {key.removeprefix("extras/"): array for key, array in arrays.items()}
    return Segment(name, observations, actions, extras, task, source)


def read_picture(connection: Connection, name: str) -> Picture | None:
    """Return what a clip looked like, None where it is redrawn from its extras."""
    row = connection.execute(
        "SELECT width, height, columns, every, data FROM picture WHERE segment = ?", (name,)
    ).fetchone()
    return None if row is None else Picture(*row)


def read_true_rewards(connection: Connection, name: str, aspect: str = "") -> np.ndarray | None:
    """Return the true rewards `[step]` of a clip, or of an aspect; None if they are not known."""
    row = connection.execute(
        f"SELECT rewards FROM {REWARDS} WHERE segment = ?", (aspect, name)
    ).fetchone()
    return None if row is None else np.frombuffer(row[0], np.float64)


def asked_rewards(
    connection: Connection, round_index: int, aspect: str = ""
) -> dict[str, np.ndarray]:
    """Return the true rewards `[step]` of the clips that a round asked about, in order of id.

    Of an aspect, they are of all clips of the round, whatever it asked about them.
    """
    rows = connection.execute(
        f"SELECT t.segment, t.rewards FROM {REWARDS} t WHERE t.segment IN (SELECT value FROM "
        "query, json_each(query.segments) WHERE query.round = ?) ORDER BY t.segment",
        (aspect, round_index),
    ).fetchall()
    return {name: np.frombuffer(rewards, np.float64) for name, rewards in rows}


def write_mean_return(connection: Connection, round_index: int, mean: float) -> None:
    """Keep the mean true return of a clip of all that a round's policy did."""
    connection.execute("INSERT INTO true_return VALUES (?, ?)", (round_index, mean))


def read_mean_returns(connection: Connection) -> dict[int, float]:
    """Return what `write_mean_return` kept, by round."""
    return dict(connection.execute("SELECT round, mean FROM true_return").fetchall())


def _encode(array: np.ndarray) -> tuple[str, str, bytes]:
    shape = json.dumps(array.shape)
    if is_text(array):
        return "json", shape, json.dumps(array.ravel().tolist(), ensure_ascii=False).encode()
    return array.dtype.str, shape, np.ascontiguousarray(array).tobytes()


def _decode(dtype: str, shape: str, data: bytes) -> np.ndarray:
    if dtype == "json":
        return text_array(json.loads(data)).reshape(json.loads(shape))
    return np.frombuffer(data, np.dtype(dtype)).reshape(json.loads(shape))
