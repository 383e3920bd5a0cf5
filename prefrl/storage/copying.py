"""Copies a whole store, from either kind of database into either.

Answers go over in their order, and each is entered as it was at first: what follows from them,
which ones stand and what is counted, the other database works out for itself.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from prefrl.errors import UserError
from prefrl.storage.address import Address
from prefrl.storage.database import Database, open_database
from prefrl.storage.sqlite import SQLite

# In the order in which rows refer to each other. Leases and trainers stay behind.
COPIED = {
    "round": "round, answers_through",
    "segment": "id, task, source",
    '"array"': "segment, name, dtype, shape, data",
    "picture": "segment, width, height, columns, every, data",
    "true_reward": "segment, rewards",
    "aspect_reward": "segment, aspect, rewards",
    "true_return": "round, mean",
    "query": 'round, "index", kind, question, segments, withdrawn, open, aspect, priority',
    "answer": 'id, round, "index", kind, value, decisive, teacher, shown_at, answered_at, uuid, '
    "repeat, gold",
    "repeat": 'round, "index", teacher',
    "gold": 'round, "index", clips, kind, value, teacher',
    "gold_asked": 'round, "index", teacher',
    "demonstration": "id, teacher, prompt, response, at, uuid",
}
TRUTHS = {"open", "decisive", "repeat", "gold"}  # columns that SQLite keeps as 0 and 1
AT_ONCE = 1000  # rows


def copy(source: Database, where: Path | Address) -> None:
    """Write a store to a new file, or to a run of a database that holds nothing yet.

    Raises:
        UserError: there is something already.
    """
    if isinstance(source, SQLite) and isinstance(where, Path):
        source.copy(where)
        return
    with closing(open_database(where)) as target, source.snapshot(), target.transaction():
        if target.run("SELECT 1 FROM round LIMIT 1"):
            raise UserError(f"{target.called} holds feedback already; choose another name for it")
        for table, columns in COPIED.items():
            _copy_table(source, target, table, columns)


def _copy_table(source: Database, target: Database, table: str, columns: str) -> None:
    names = columns.replace('"', "").split(", ")
    order = "id" if "id" in names else ", ".join(columns.split(", ")[:2])
    values = ", ".join("?" * len(names))
    for begin in range(0, 2**62, AT_ONCE):
        rows = source.run(
            f"SELECT {columns} FROM {table} ORDER BY {order} LIMIT ? OFFSET ?", AT_ONCE, begin
        )
        truths = [name in TRUTHS for name in names]
        rows = [[bool(v) if t else v for v, t in zip(row, truths, strict=True)] for row in rows]
        target.many(f"INSERT INTO {table} ({columns}) VALUES ({values})", rows)
        if len(rows) < AT_ONCE:
            return
