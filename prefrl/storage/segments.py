"""Clips in the store: their arrays, pictures and true rewards.

Arrays are kept to the bit. Each function reads or writes through the store's database; what is of
many clips is read in one go, since a database may be far away.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prefrl.errors import UserError, check_plain
from prefrl.storage.database import Database
from prefrl.types import Picture, Query, Segment, Truth, is_text, text_array

AT_ONCE = 500  # clips that one statement names
PACKED, FASTEST = "zlib:", 1  # how pictures are kept: frames of a stack repeat themselves


class SegmentCache:
    """Clips that were read, so that each is one object, and read once."""

    def __init__(self, database: Database, most: int | None = None):
        """Keep so many clips; all by default."""
        self.database, self.most = database, most
        self._known: dict[str, Segment] = {}

    def many(self, names: Iterable[str]) -> dict[str, Segment]:
        """Return the clips of ids.

        Raises:
            KeyError: there is none of an id.
        """
        wanted = dict.fromkeys(names)
        fresh = read_segments(self.database, [name for name in wanted if name not in self._known])
        found = {name: self._known.get(name) or fresh[name] for name in wanted}
        for name, segment in found.items():  # those that were used last come last
            self._known.pop(name, None)
            self._known[name] = segment
        while self.most is not None and len(self._known) > self.most:
            del self._known[next(iter(self._known))]
        return found


def write_segments(
    database: Database, segments: Iterable[Segment],
    rewards: Mapping[str, Mapping[str, np.ndarray]], pictures: Mapping[str, Picture],
) -> None:  # fmt: skip
    """Write clips and what is known of them, but for those whose ids are there.

    Args:
        database: of the store.
        segments: the clips.
        rewards: true rewards `[step]` by id, then by aspect, the environment's own under "".
        pictures: what some of them looked like, by id.

    Raises:
        UserError: one holds neither numbers nor text, or its names hold control characters.
    """
    by_name = {segment.id: segment for segment in reversed([*segments])}  # the first one counts
    for segment in by_name.values():
        _check_names(segment)
    known = _of_many(database, "SELECT id FROM segment WHERE id IN ({})", [*by_name])
    fresh = [by_name[name] for name in sorted(by_name.keys() - {row[0] for row in known})]
    arrays, ours, of_aspects, seen = [], [], [], []
    for segment in fresh:
        arrays += [(segment.id, name, *_encode(array)) for name, array in _arrays(segment).items()]
        for aspect, steps in rewards.get(segment.id, {}).items():
            data = np.asarray(steps, np.float64).tobytes()
            if aspect:
                of_aspects.append((segment.id, aspect, data))
            else:
                ours.append((segment.id, data))
        if segment.id in pictures:
            seen.append((segment.id, *dataclasses.astuple(pictures[segment.id])))
    rows = [(segment.id, segment.task, segment.source) for segment in fresh]
    database.many("INSERT INTO segment VALUES (?, ?, ?)", rows)
    database.many('INSERT INTO "array" VALUES (?, ?, ?, ?, ?)', arrays)
    database.many("INSERT INTO true_reward VALUES (?, ?)", ours)
    database.many("INSERT INTO aspect_reward VALUES (?, ?, ?)", of_aspects)
    database.many("INSERT INTO picture VALUES (?, ?, ?, ?, ?, ?)", seen)


def _check_names(segment: Segment) -> None:
    check_plain("the id of a clip", segment.id)
    check_plain("the source of a clip", segment.source)
    if not is_text(segment.observations):  # the task of a text may be its prompt, kept whole
        check_plain("the task of a clip", segment.task)


def _arrays(segment: Segment) -> dict[str, np.ndarray]:
    """Return all arrays of a clip by name; raise `UserError` for what cannot be kept."""
    arrays = {"observations": segment.observations, "actions": segment.actions}
    arrays |= {f"extras/{name}": extra for name, extra in segment.extras.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufcmM" and not is_text(array):
            raise UserError(
                f"{name} of the clip {segment.id!r} are of type {array.dtype}, which the store "
                "cannot keep; expected numbers or text"
            )
    return arrays


def read_segments(database: Database, names: Sequence[str]) -> dict[str, Segment]:
    """Return the clips of ids."""
    arrays: dict[str, dict[str, np.ndarray]] = {}
    sql = (
        'SELECT segment, name, dtype, shape, data FROM "array" WHERE segment IN ({}) ORDER BY name'
    )
    for row in _of_many(database, sql, names):
        arrays.setdefault(row[0], {})[row[1]] = _decode(*row[2:])
    found = {}
    for name, task, source in _of_many(
        database, "SELECT id, task, source FROM segment WHERE id IN ({})", names
    ):
        own = arrays[name]
        observations, actions = own.pop("observations"), own.pop("actions")
        extras = {key.removeprefix("extras/"): array for key, array in own.items()}
        found[name] = Segment(name, observations, actions, extras, task, source)
    return found


def read_picture(database: Database, name: str) -> Picture | None:
    """Return what a clip looked like, None where it is redrawn from its extras."""
    rows = database.run(
        "SELECT width, height, columns, every, data FROM picture WHERE segment = ?", name
    )
    return Picture(*rows[0]) if rows else None


def read_true_rewards(
    database: Database, names: Sequence[str], aspect: str = ""
) -> dict[str, np.ndarray]:
    """Return the true rewards `[step]` of clips, or of an aspect of them, as far as is known."""
    sql, of = "SELECT segment, rewards FROM true_reward WHERE segment IN ({})", ()
    if aspect:
        sql, of = f"{sql} AND aspect = ?".replace("true_reward", "aspect_reward"), (aspect,)
    rows = _of_many(database, sql, names, *of)
    return {name: np.frombuffer(rewards, np.float64) for name, rewards in rows}


def known_true_rewards(database: Database, name: str, aspect: str = "") -> np.ndarray:
    """Return the true rewards `[step]` of a clip, or of an aspect of it.

    Raises:
        UserError: they are not known.
    """
    rewards = read_true_rewards(database, [name], aspect).get(name)
    if rewards is None:
        of = f" for {aspect}" if aspect else ""
        hint = aspect and f'; its environment must report info["aspects"][{aspect!r}] each step'
        raise UserError(
            f"the true rewards of {name!r}{of} are not known to {database.called}{hint}"
        )
    return rewards


def read_truth(database: Database, queries: Sequence[Query], aspect: str) -> Truth:
    """Return the true rewards of the clips of queries about an aspect. For the oracle alone."""
    names = {segment.id for query in queries for segment in query.segments}
    means = {} if aspect else read_mean_returns(database)
    rounds = {
        index: asked_rewards(database, index, aspect)
        for index in sorted({query.id.round for query in queries})
    }
    rewards = {name: row for known in rounds.values() for name, row in known.items()}
    rewards |= {name: known_true_rewards(database, name, aspect) for name in names - rewards.keys()}
    asked = {index: [*known] for index, known in rounds.items()}
    return Truth(rewards, asked, {index: means[index] for index in asked if index in means})


def segments_after(database: Database, prompt: str) -> list[str]:
    """Return the ids of the clips of text that begin with a prompt, in order."""
    first = json.dumps([prompt], ensure_ascii=False).encode()[:-1]
    rows = database.run(
        "SELECT segment FROM \"array\" WHERE name = 'observations' AND dtype = 'json' "
        "AND substr(data, 1, ?) IN (?, ?) ORDER BY segment",
        len(first) + 1, first + b"]", first + b",",
    )  # fmt: skip
    return [row[0] for row in rows]


def asked_rewards(database: Database, round_index: int, aspect: str = "") -> dict[str, np.ndarray]:
    """Return the true rewards `[step]` of the clips that a round asked about, in order of id.

    Of an aspect, they are of all clips of the round, whatever it asked about them.
    """
    rows = database.run("SELECT segments FROM query WHERE round = ?", round_index)
    names = sorted({name for row in rows for name in json.loads(row[0])})
    known = read_true_rewards(database, names, aspect)
    return {name: known[name] for name in names if name in known}


def write_mean_return(database: Database, round_index: int, mean: float) -> None:
    """Keep the mean true return of a clip of all that a round's policy did."""
    database.run("INSERT INTO true_return VALUES (?, ?)", round_index, mean)


def read_mean_returns(database: Database) -> dict[int, float]:
    """Return what `write_mean_return` kept, by round."""
    return dict(database.run("SELECT round, mean FROM true_return"))


def _of_many(database: Database, sql: str, names: Sequence[str], *values: Any) -> list[Any]:
    """Run a statement that says "IN ({})" for many ids, some at a time; return all rows."""
    rows = []
    for begin in range(0, len(names), AT_ONCE):
        some = names[begin : begin + AT_ONCE]
        rows += database.run(sql.format(", ".join("?" * len(some))), *some, *values)
    return rows


def _encode(array: np.ndarray) -> tuple[str, str, bytes]:
    shape = json.dumps(array.shape)
    if is_text(array):
        return "json", shape, json.dumps(array.ravel().tolist(), ensure_ascii=False).encode()
    data = np.ascontiguousarray(array).tobytes()
    if array.dtype == np.uint8 and array.ndim >= 3:  # pictures are mostly of one colour
        return PACKED + array.dtype.str, shape, zlib.compress(data, FASTEST)
    return array.dtype.str, shape, data


def _decode(dtype: str, shape: str, data: bytes) -> np.ndarray:
    if dtype == "json":
        return text_array(json.loads(data)).reshape(json.loads(shape))
    if dtype.startswith(PACKED):
        dtype, data = dtype.removeprefix(PACKED), zlib.decompress(data)
    return np.frombuffer(data, np.dtype(dtype)).reshape(json.loads(shape))
