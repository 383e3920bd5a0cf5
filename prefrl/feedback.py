"""The feedback store: one SQLite file that holds every query, answer and clip of a run.

It is the mailbox between trainer and teachers, and the ledger from which a run can be replayed: in
one transaction with a round's queries it records which answers that round's fit was given.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefrl.errors import UserError
from prefrl.types import Answer, Comparison, Query, QueryId, Segment, check_answer, to_comparisons

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS round (          -- one row a lap, written with its queries
    round           INTEGER PRIMARY KEY,
    answers_through INTEGER NOT NULL        -- the lap's fit saw answers with id up to this
);
CREATE TABLE IF NOT EXISTS segment (
    id     TEXT PRIMARY KEY,
    task   TEXT NOT NULL,                   -- segments of one task may be compared
    source TEXT NOT NULL                    -- policy and round that made it
);
CREATE TABLE IF NOT EXISTS array (          -- what a segment holds, one row an array
    segment TEXT NOT NULL REFERENCES segment,
    name    TEXT NOT NULL,                  -- observations, actions, extras/NAME
    dtype   TEXT NOT NULL,                  -- as numpy spells it, or json for strings
    shape   TEXT NOT NULL,                  -- a JSON list
    data    BLOB NOT NULL,
    PRIMARY KEY (segment, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS query (
    round    INTEGER NOT NULL REFERENCES round,
    "index"  INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    question TEXT NOT NULL,
    segments TEXT NOT NULL,                 -- a JSON list of segment ids, left first
    PRIMARY KEY (round, "index")
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answer (         -- append-only: a teacher's later answer supersedes
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    round       INTEGER NOT NULL,
    "index"     INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    value       TEXT NOT NULL,              -- JSON, by kind
    teacher     TEXT NOT NULL,
    shown_at    REAL NOT NULL,              -- seconds since the epoch
    answered_at REAL NOT NULL,
    FOREIGN KEY (round, "index") REFERENCES query
);
CREATE INDEX IF NOT EXISTS answer_of_query ON answer (round, "index");
CREATE TABLE IF NOT EXISTS true_reward (    -- for the oracle, evaluation and plots alone
    segment TEXT PRIMARY KEY REFERENCES segment,
    rewards BLOB NOT NULL                   -- float64, one a step
) WITHOUT ROWID;
"""
# The last answer of each teacher to each query, of those with an id up to a limit.
STANDING = (
    "SELECT * FROM answer WHERE id IN (SELECT max(id) FROM answer WHERE id <= ? GROUP BY round, "
    '"index", teacher)'
)
BUSY_SECONDS = 10.0


class Counts(NamedTuple):
    """How far the labelling is."""

    asked: int
    """Queries."""
    answered: int
    """Labels: queries with an answer that is not a skip. The budget counts these."""
    decisive: int
    """Labels that prefer one segment."""
    pending: int
    """Queries without an answer."""


class Ledger(NamedTuple):
    """What is on record of a round."""

    answers_through: int
    """Its fit saw the answers with id up to this."""
    asked: int
    """How many queries it asked."""


class FeedbackStore:
    """Queries and answers in one SQLite file; an acknowledged answer survives a power cut."""

    def __init__(self, path: Path | str):
        """Open the file, or make it.

        Raises:
            UserError: it is not a feedback store, of another version, or cannot be written.
        """
        self.path = Path(path)
        with self._errors():
            self.connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.connection.close()
                raise
        self._segment = lru_cache(maxsize=None)(self._read_segment)

    def _prepare(self) -> None:
        self._write_ahead()
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("PRAGMA foreign_keys = ON")
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise UserError(
                f"{self.path} was written by another version of prefrl (its format is {version}, "
                f"this one reads {SCHEMA_VERSION}); use the version that made it"
            )
        self.connection.executescript(SCHEMA)
        self.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _write_ahead(self) -> None:
        """Switch on write-ahead logging; SQLite does not wait for a lock when it does this."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def ask(
        self,
        round_index: int,
        queries: Sequence[Query],
        true_rewards: dict[str, np.ndarray],
        answers_through: int,
    ) -> None:
        """Write a round's queries, clips, true rewards and ledger entry, all or nothing.

        A round that is redone after a kill asks the same again, which changes nothing.

        Raises:
            UserError: the round was asked before with other queries.
        """
        with self._transaction() as execute:
            known = self.ledger(round_index)
            if known:
                before = self._queries("WHERE round = ?", round_index)
                same = [self._key(q) for q in before] == [self._key(q) for q in queries]
                if not same or known.answers_through != answers_through:
                    raise UserError(
                        f"{self.path} already holds other queries for round {round_index}: the run "
                        "does not repeat itself here (another machine, library version or "
                        "environment?); start a new run"
                    )
                return
            execute("INSERT INTO round VALUES (?, ?)", (round_index, answers_through))
            for query in queries:
                for segment in query.segments:
                    self._write_segment(segment, true_rewards.get(segment.id))
                names = json.dumps([segment.id for segment in query.segments])
                execute(
                    "INSERT INTO query VALUES (?, ?, ?, ?, ?)",
                    (*query.id, query.kind, query.question, names),
                )

    def answer(self, *answers: Answer) -> None:
        """Append answers in one transaction; once this returns they are safe.

        Raises:
            UserError: an answer does not fit its query, or there is no such query.
        """
        with self._transaction() as execute:
            for answer in answers:
                check_answer(self.query(answer.query), answer)
                execute(
                    'INSERT INTO answer (round, "index", kind, value, teacher, shown_at, '
                    "answered_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*answer.query, answer.kind, json.dumps(answer.value), answer.teacher,
                     answer.shown_at, answer.answered_at),
                )  # fmt: skip

    def query(self, query: QueryId) -> Query:
        """Return one query.

        Raises:
            UserError: there is none of that id.
        """
        found = self._queries('WHERE round = ? AND "index" = ?', *query)
        if not found:
            raise UserError(f"{self.path} holds no query {tuple(query)}")
        return found[0]

    def pending(self) -> list[Query]:
        """Return the queries without an answer, oldest first."""
        return self._queries(
            'WHERE NOT EXISTS (SELECT 1 FROM answer a WHERE a.round = query.round AND a."index" = '
            'query."index")'
        )

    def answers(self, through: int | None = None) -> list[Answer]:
        """Return the answers that stand, by id: the last of each teacher to each query."""
        with self._errors():
            rows = self.connection.execute(
                'SELECT round, "index", kind, value, teacher, shown_at, answered_at '
                f"FROM ({STANDING}) ORDER BY id",
                (2**62 if through is None else through,),
            ).fetchall()
        return [Answer(QueryId(r[0], r[1]), r[2], json.loads(r[3]), r[4], r[5], r[6]) for r in rows]

    def comparisons(
        self, through: int | None = None, margin_scale: float = 0.0
    ) -> list[Comparison]:
        """Return what the answers with id up to `through` teach a reward model."""
        queries = {query.id: query for query in self._queries("")}
        found = []
        for answer in self.answers(through):
            found += to_comparisons(queries[answer.query], answer, margin_scale).comparisons
        return found

    def last_answer(self) -> int:
        """Return the id of the newest answer, 0 if there is none."""
        return self._number("SELECT coalesce(max(id), 0) FROM answer")

    def ledger(self, round_index: int) -> Ledger | None:
        """Return what is on record of a round, None if it was never asked."""
        with self._errors():
            row = self.connection.execute(
                "SELECT answers_through, (SELECT count(*) FROM query q WHERE q.round = r.round) "
                "FROM round r WHERE r.round = ?",
                (round_index,),
            ).fetchone()
        return None if row is None else Ledger(*map(int, row))

    def counts(self, before_round: int | None = None, through: int | None = None) -> Counts:
        """Count queries of rounds before `before_round`, and answers as they stood by `through`."""
        with self._errors():
            row = self.connection.execute(
                "SELECT count(*), coalesce(sum(label), 0), coalesce(sum(decisive), 0), "
                "coalesce(sum(answered = 0), 0) FROM ("
                "  SELECT max(a.id IS NOT NULL) AS answered, "
                "    max(coalesce(a.kind <> 'skip', 0)) AS label, "
                "    max(coalesce(a.kind NOT IN ('skip', 'tie') AND "
                "    coalesce(json_extract(a.value, '$.left'), 1) <> 0.5, 0)) AS decisive "
                f"  FROM query q LEFT JOIN ({STANDING}) a "
                '  ON a.round = q.round AND a."index" = q."index" '
                '  WHERE q.round < ? GROUP BY q.round, q."index")',
                (
                    2**62 if through is None else through,
                    2**62 if before_round is None else before_round,
                ),
            ).fetchone()
        return Counts(*map(int, row))

    def true_rewards(self, segment_id: str) -> np.ndarray:
        """Return the true rewards `[step]` of a segment. Not for the reward model or the agent."""
        with self._errors():
            row = self.connection.execute(
                "SELECT rewards FROM true_reward WHERE segment = ?", (segment_id,)
            ).fetchone()
        if row is None:
            raise UserError(f"the true rewards of {segment_id!r} are not known to {self.path}")
        return np.frombuffer(row[0], np.float64)

    def average_clip_return(self, round_index: int) -> float:
        """Return the mean absolute true return of the clips that a round asked about."""
        with self._errors():
            rows = self.connection.execute(
                "SELECT t.rewards FROM true_reward t WHERE t.segment IN (SELECT value FROM query, "
                "json_each(query.segments) WHERE query.round = ?)",
                (round_index,),
            ).fetchall()
        return float(np.mean([abs(np.frombuffer(row[0], np.float64).sum()) for row in rows]))

    def export(self) -> Iterator[dict[str, Any]]:
        """Yield every answer with its query, as plain JSON values."""
        queries = {query.id: query for query in self._queries("")}
        for answer in self.answers():
            query = queries[answer.query]
            yield {
                "round": query.id.round,
                "index": query.id.index,
                "question": query.question,
                "segments": [_segment_as_json(segment) for segment in query.segments],
                "kind": answer.kind,
                "value": answer.value,
                "teacher": answer.teacher,
                "shown_at": answer.shown_at,
                "answered_at": answer.answered_at,
            }

    def _queries(self, where: str, *values: int) -> list[Query]:
        with self._errors():
            rows = self.connection.execute(
                f'SELECT round, "index", kind, question, segments FROM query {where} '
                'ORDER BY round, "index"',
                values,
            ).fetchall()
        return [
            Query(QueryId(r[0], r[1]), tuple(map(self._segment, json.loads(r[4]))), r[2], r[3])
            for r in rows
        ]

    def _read_segment(self, name: str) -> Segment:
        with self._errors():
            task, source = self.connection.execute(
                "SELECT task, source FROM segment WHERE id = ?", (name,)
            ).fetchone()
            rows = self.connection.execute(
                "SELECT name, dtype, shape, data FROM array WHERE segment = ?", (name,)
            ).fetchall()
        arrays = {row[0]: _decode(*row[1:]) for row in rows}
        observations, actions = arrays.pop("observations"), arrays.pop("actions")
        extras = {key.removeprefix("extras/"): array for key, array in arrays.items()}
        return Segment(name, observations, actions, extras, task, source)

    def _write_segment(self, segment: Segment, rewards: np.ndarray | None) -> None:
        execute = self.connection.execute
        fresh = execute(
            "INSERT OR IGNORE INTO segment VALUES (?, ?, ?)",
            (segment.id, segment.task, segment.source),
        ).rowcount
        if not fresh:
            return
        arrays = {"observations": segment.observations, "actions": segment.actions}
        arrays |= {f"extras/{name}": extra for name, extra in segment.extras.items()}
        for name, array in arrays.items():
            if array.dtype.kind not in "biufcmMU":
                raise UserError(
                    f"{name} of the clip {segment.id!r} are of type {array.dtype}, which the store "
                    "cannot keep; expected numbers or text"
                )
            execute("INSERT INTO array VALUES (?, ?, ?, ?, ?)", (segment.id, name, *_encode(array)))
        if rewards is not None:
            data = np.asarray(rewards, np.float64).tobytes()
            execute("INSERT INTO true_reward VALUES (?, ?)", (segment.id, data))

    @staticmethod
    def _key(query: Query) -> tuple:
        return (query.id, query.kind, query.question, [segment.id for segment in query.segments])

    def _number(self, sql: str) -> int:
        with self._errors():
            return int(self.connection.execute(sql).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection.execute
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what SQLite says of the disk or the file into a sentence."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"cannot use {self.path}: {error}. Every answer acknowledged so far is safe; free "
                "disk space, or close what holds the file, and continue with `prefrl resume`"
            ) from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} is damaged or not a feedback store ({error}); restore it from a copy"
            ) from error


def _encode(array: np.ndarray) -> tuple[str, str, bytes]:
    shape = json.dumps(array.shape)
    if array.dtype.kind == "U":
        return "json", shape, json.dumps(array.ravel().tolist(), ensure_ascii=False).encode()
    return array.dtype.str, shape, np.ascontiguousarray(array).tobytes()


def _decode(dtype: str, shape: str, data: bytes) -> np.ndarray:
    if dtype == "json":
        return np.array(json.loads(data), str).reshape(json.loads(shape))
    return np.frombuffer(data, np.dtype(dtype)).reshape(json.loads(shape))


def _segment_as_json(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.id,
        "task": segment.task,
        "source": segment.source,
        "observations": _array_as_json(segment.observations),
        "actions": _array_as_json(segment.actions),
        "extras": {name: _array_as_json(extra) for name, extra in segment.extras.items()},
    }


def _array_as_json(array: np.ndarray) -> Any:
    """Return nested lists; JSON knows neither NaN nor infinity, so they become null."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        finite, array = np.isfinite(array), array.astype(object)
        array[~finite] = None
    return array.tolist()
