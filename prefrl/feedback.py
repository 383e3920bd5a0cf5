"""The feedback store: one SQLite file that holds every query, answer and clip of a run.

It is the mailbox between trainer and teachers, and the ledger from which a run can be replayed: in
one transaction with a round's queries it records which answers that round's fit was given.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from prefrl.errors import UserError
from prefrl.schema import SCHEMA, SCHEMA_VERSION, STANDING
from prefrl.types import (
    Answer,
    Comparison,
    Picture,
    Query,
    QueryId,
    Segment,
    check_answer,
    to_comparisons,
)

BUSY_SECONDS = 10.0
NO_PICTURES: Mapping[str, Picture] = MappingProxyType({})


class Counts(NamedTuple):
    """How far the labelling is."""

    asked: int
    """Queries."""
    answered: int
    """Labels: queries with an answer that is not a skip. The budget counts these."""
    decisive: int
    """Labels that prefer one segment."""
    pending: int
    """Queries that wait for an answer."""


class Ledger(NamedTuple):
    """What is on record of a round."""

    answers_through: int
    """Its fit saw the answers with id up to this."""
    asked: int
    """How many queries it asked."""


class FeedbackStore:
    """Queries and answers in one SQLite file; an acknowledged answer survives a power cut."""

    def __init__(self, path: Path | str, cached_segments: int | None = None):
        """Open the file, or make it.

        Args:
            path: the file.
            cached_segments: how many segments to keep in memory; all that were read by default.

        Raises:
            UserError: it is not a feedback store, of another version, or cannot be written.
        """
        self.path = Path(path)
        with self.errors():
            self.connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.connection.close()
                raise
        self.segment = lru_cache(cached_segments)(self._read_segment)

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

    def copy(self, path: Path) -> None:
        """Write the whole store to another file, as it stands."""
        with self.errors(), closing(sqlite3.connect(path)) as other:
            self.connection.backup(other)

    def ask(
        self,
        round_index: int,
        queries: Sequence[Query],
        true_rewards: dict[str, np.ndarray],
        answers_through: int,
        pictures: Mapping[str, Picture] = NO_PICTURES,
    ) -> None:
        """Write a round's queries, clips, true rewards and ledger entry, all or nothing.

        A round that is redone after a kill asks the same again, which changes nothing.

        Args:
            round_index: the round.
            queries: what it asks.
            true_rewards: `[step]` of each of their segments, by id.
            answers_through: the fit of this round saw the answers with id up to this.
            pictures: what some of their segments looked like, by id.

        Raises:
            UserError: the round was asked before with other queries.
        """
        with self.transaction():
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
            self._write_round(round_index, queries, true_rewards, answers_through, pictures)

    def record(self, queries: Sequence[Query], answers: Sequence[Answer], mark: str) -> int:
        """Write queries that are answered already, all or nothing, as a round of their own.

        Args:
            queries: what was asked; the store numbers them anew.
            answers: to them all; the round of `query` is not looked at.
            mark: what the ids of the clips that are new have in common.

        Returns:
            The round: -1, -2, …

        Raises:
            UserError: there are clips with this mark already.
        """
        with self.transaction() as execute:
            if execute("SELECT 1 FROM segment WHERE instr(id, ?)", (mark,)).fetchone():
                raise UserError(f"{self.path} holds these answers already")
            (lowest,) = execute("SELECT min(0, coalesce(min(round), 0)) FROM round").fetchone()
            asked = [
                Query(QueryId(lowest - 1, place), query.segments, query.kind, query.question)
                for place, query in enumerate(queries)
            ]
            self._write_round(lowest - 1, asked, {}, self.last_answer())
            for answer in answers:
                query = asked[answer.query.index].id
                self._write_answer(dataclasses.replace(answer, query=query), None)
        return lowest - 1

    def expire(self, before_round: int) -> None:
        """Withdraw what earlier rounds asked, but for what somebody is looking at."""
        with self.transaction() as execute:
            execute(
                "UPDATE query SET withdrawn = 'expired', open = 0 WHERE open AND round < ? AND NOT "
                "EXISTS (SELECT 1 FROM lease l WHERE l.round = query.round "
                'AND l."index" = query."index" AND l.until > ?)',
                (before_round, time.time()),
            )

    def answer(self, *answers: Answer, uuid: str | None = None) -> int:
        """Append answers in one transaction and return the last one's id; then they are safe.

        Args:
            answers: what was said.
            uuid: the sender's own name for a single answer; sent again it changes nothing.

        Raises:
            UserError: an answer does not fit its query, or there is no such query.
        """
        number = 0
        with self.transaction() as execute:
            for answer in answers:
                check_answer(self.query(answer.query), answer)
                self._write_answer(answer, uuid)
                if uuid is None:
                    (number,) = execute("SELECT last_insert_rowid()").fetchone()
                else:
                    (number,) = execute("SELECT id FROM answer WHERE uuid = ?", (uuid,)).fetchone()
        return number

    def demonstrate(self, prompt: str, response: str | None, teacher: str, uuid: str) -> None:
        """Keep a demonstration of a language task, or propose a prompt (no response)."""
        with self.transaction() as execute:
            execute(
                "INSERT INTO demonstration (teacher, prompt, response, at, uuid) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (teacher, prompt, response, time.time(), uuid),
            )

    def demonstrations(self) -> list[tuple[str, str | None]]:
        """Return the prompts and responses that people wrote, in order."""
        with self.errors():
            return self.connection.execute(
                "SELECT prompt, response FROM demonstration ORDER BY id"
            ).fetchall()

    def withdraw(self, query: QueryId, why: str) -> None:
        """Ask this nobody any more; answers that it has stay."""
        with self.transaction() as execute:
            execute(
                'UPDATE query SET withdrawn = ?, open = 0 WHERE round = ? AND "index" = ?',
                (why, *query),
            )

    def query(self, query: QueryId) -> Query:
        """Return one query.

        Raises:
            UserError: there is none of that id.
        """
        found = self._queries('WHERE round = ? AND "index" = ?', *query)
        if not found:
            raise UserError(f"{self.path} holds no query {tuple(query)}")
        return found[0]

    def segments(self, task: str | None = None) -> list[str]:
        """Return the ids of all segments, or of one task's, in order."""
        with self.errors():
            rows = self.connection.execute(
                "SELECT id FROM segment WHERE task = ? OR ? IS NULL ORDER BY id", (task, task)
            ).fetchall()
        return [row[0] for row in rows]

    def picture(self, segment_id: str) -> Picture | None:
        """Return what a segment looked like, None where it is redrawn from its extras."""
        with self.errors():
            row = self.connection.execute(
                "SELECT width, height, columns, every, data FROM picture WHERE segment = ?",
                (segment_id,),
            ).fetchone()
        return None if row is None else Picture(*row)

    def pending(self) -> list[Query]:
        """Return the queries that still wait for an answer, oldest first."""
        return self._queries("WHERE open")

    def answers(self, through: int | None = None) -> list[Answer]:
        """Return the answers that stand, by id: the last of each teacher to each query."""
        with self.errors():
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
        with self.errors():
            row = self.connection.execute(
                "SELECT answers_through, (SELECT count(*) FROM query q WHERE q.round = r.round) "
                "FROM round r WHERE r.round = ?",
                (round_index,),
            ).fetchone()
        return None if row is None else Ledger(*map(int, row))

    def counts(self, before_round: int | None = None, through: int | None = None) -> Counts:
        """Count queries of rounds before `before_round`, and answers as they stood by `through`.

        What was imported (rounds below 0) is not counted.
        """
        with self.errors():
            row = self.connection.execute(
                "SELECT count(*), coalesce(sum(label), 0), coalesce(sum(decisive), 0), "
                "coalesce(sum(answered = 0 AND withdrawn IS NULL), 0) FROM ("
                "  SELECT max(a.id IS NOT NULL) AS answered, q.withdrawn AS withdrawn, "
                "    max(coalesce(a.kind <> 'skip', 0)) AS label, "
                "    max(coalesce(a.kind NOT IN ('skip', 'tie') AND "
                "    coalesce(json_extract(a.value, '$.left'), 1) <> 0.5, 0)) AS decisive "
                f"  FROM query q LEFT JOIN ({STANDING}) a "
                '  ON a.round = q.round AND a."index" = q."index" '
                '  WHERE q.round BETWEEN 0 AND ? GROUP BY q.round, q."index")',
                (
                    2**62 if through is None else through,
                    2**62 if before_round is None else before_round - 1,
                ),
            ).fetchone()
        return Counts(*map(int, row))

    def true_rewards(self, segment_id: str) -> np.ndarray:
        """Return the true rewards `[step]` of a segment. Not for the reward model or the agent."""
        with self.errors():
            row = self.connection.execute(
                "SELECT rewards FROM true_reward WHERE segment = ?", (segment_id,)
            ).fetchone()
        if row is None:
            raise UserError(f"the true rewards of {segment_id!r} are not known to {self.path}")
        return np.frombuffer(row[0], np.float64)

    def average_clip_return(self, round_index: int) -> float:
        """Return the mean absolute true return of the clips that a round asked about."""
        with self.errors():
            rows = self.connection.execute(
                "SELECT t.rewards FROM true_reward t WHERE t.segment IN (SELECT value FROM query, "
                "json_each(query.segments) WHERE query.round = ?)",
                (round_index,),
            ).fetchall()
        return float(np.mean([abs(np.frombuffer(row[0], np.float64).sum()) for row in rows]))

    def _queries(self, where: str, *values: int) -> list[Query]:
        with self.errors():
            rows = self.connection.execute(
                f'SELECT round, "index", kind, question, segments FROM query {where} '
                'ORDER BY round, "index"',
                values,
            ).fetchall()
        return [
            Query(QueryId(r[0], r[1]), tuple(map(self.segment, json.loads(r[4]))), r[2], r[3])
            for r in rows
        ]

    def _read_segment(self, name: str) -> Segment:
        with self.errors():
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

    def _write_round(
        self, number: int, queries: Sequence[Query], true_rewards: dict[str, np.ndarray],
        answers_through: int, pictures: Mapping[str, Picture] = NO_PICTURES,
    ) -> None:  # fmt: skip
        execute = self.connection.execute
        execute("INSERT INTO round VALUES (?, ?)", (number, answers_through))
        for query in queries:
            for segment in query.segments:
                rewards, picture = true_rewards.get(segment.id), pictures.get(segment.id)
                self._write_segment(segment, rewards, picture)
            names = json.dumps([segment.id for segment in query.segments])
            execute(
                "INSERT INTO query VALUES (?, ?, ?, ?, ?, NULL, 1)",
                (*query.id, query.kind, query.question, names),
            )

    def _write_answer(self, answer: Answer, uuid: str | None) -> None:
        try:
            value = json.dumps(answer.value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the answer of teacher {answer.teacher!r} holds {answer.value!r}, which cannot be "
                f"kept ({error}); expected JSON of finite numbers"
            ) from None
        self.connection.execute(
            'INSERT INTO answer (round, "index", kind, value, teacher, shown_at, '
            "answered_at, uuid) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*answer.query, answer.kind, value, answer.teacher, answer.shown_at,
             answer.answered_at, uuid),
        )  # fmt: skip

    def _write_segment(
        self, segment: Segment, rewards: np.ndarray | None, picture: Picture | None
    ) -> None:
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
        if picture is not None:
            values = dataclasses.astuple(picture)
            execute("INSERT INTO picture VALUES (?, ?, ?, ?, ?, ?)", (segment.id, *values))

    @staticmethod
    def _key(query: Query) -> tuple:
        return (query.id, query.kind, query.question, [segment.id for segment in query.segments])

    def _number(self, sql: str) -> int:
        with self.errors():
            return int(self.connection.execute(sql).fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Give `execute`; what it does happens as a whole or not at all."""
        with self.errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection.execute
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def errors(self) -> Iterator[None]:
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
