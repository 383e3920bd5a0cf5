"""The store: one SQLite file with a run's queries, answers and clips.

It is the mailbox between trainer and teachers, and the ledger from which a run can be replayed: in
one transaction with a round's queries it records which answers that round's fit was given.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import numpy as np

from prefrl.answers import check_answer, is_decisive, not_overruled, to_comparisons
from prefrl.errors import UserError, check_plain
from prefrl.storage.schema import SECONDS, STOOD
from prefrl.storage.segments import (
    asked_rewards,
    read_mean_returns,
    read_picture,
    read_segment,
    read_true_rewards,
    write_mean_return,
    write_segment,
)
from prefrl.storage.sqlite import Database
from prefrl.types import (
    Answer,
    Comparison,
    Counts,
    Ledger,
    Picture,
    Query,
    QueryId,
    Recorded,
    Segment,
    Truth,
    of_aspect,
)

COLUMNS = 'round, "index", kind, value, teacher, shown_at, answered_at, repeat, uuid'  # an answer's
NO_PICTURES: Mapping[str, Picture] = MappingProxyType({})


def answer_of(row: Sequence[Any]) -> Answer:
    """Return the answer of which a row holds `COLUMNS`."""
    round_index, index, kind, value, teacher, shown_at, answered_at, repeat, uuid = row
    query, value = QueryId(round_index, index), json.loads(value)
    return Answer(query, kind, value, teacher, shown_at, answered_at, bool(repeat), uuid or "")


class FeedbackStore:
    """Queries and answers in one SQLite file; an acknowledged answer survives a power cut."""

    def __init__(
        self, path: Path | str, cached_segments: int | None = None, read_only: bool = False
    ):
        """Open the file, or make it.

        Args:
            path: the file.
            cached_segments: how many segments to keep in memory; all that were read by default.
            read_only: it is there, and may be somebody else's: nothing is written to it.

        Raises:
            UserError: it is not a feedback store, of another version, or cannot be used.
        """
        self.database = Database(path, read_only)
        self.path = self.database.path
        self.segment = lru_cache(cached_segments)(self._read_segment)

    def close(self) -> None:
        """Close the file; a trainer lets others train."""
        self.database.close()

    def copy(self, path: Path) -> None:
        """Write the whole store to another file, as it stands."""
        self.database.copy(path)

    def claim(self, wait: bool = False) -> None:
        """Become the run's trainer: nobody else trains it, until this is released or closed.

        Every transaction from now on checks that nobody has taken the run over.

        Args:
            wait: until nobody trains it, however long that is.

        Raises:
            UserError: another process trains the run, or may do so.
        """
        self.database.fence.claim(wait)

    def check_claim(self) -> None:
        """Raise `UserError` if somebody else has become the run's trainer."""
        with self.training():
            pass

    def training(self) -> AbstractContextManager[Any]:
        """Let nobody take the run over within this: for what is quickly written beside the store.

        Raises:
            UserError: somebody else has become the run's trainer.
        """
        return self.database.transaction()

    def release(self) -> None:
        """Let others train the run."""
        self.database.fence.release()

    def ask(
        self,
        round_index: int,
        queries: Sequence[Query],
        true_rewards: dict[str, np.ndarray],
        answers_through: int,
        pictures: Mapping[str, Picture] = NO_PICTURES,
        mean_return: float | None = None,
    ) -> None:
        """Write a round's queries, clips, true rewards and ledger entry, all or nothing.

        A round that is redone after a kill asks the same again, which changes nothing.

        Args:
            round_index: the round.
            queries: what it asks.
            true_rewards: `[step]` of each of their segments, by id.
            answers_through: the fit of this round saw the answers with id up to this.
            pictures: what some of their segments looked like, by id.
            mean_return: mean true return of a clip of all that the round's policy did.

        Raises:
            UserError: the round was asked before with other queries.
        """
        with self.database.transaction():
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
            if mean_return is not None:
                write_mean_return(self.database.connection, round_index, mean_return)

    def record(self, queries: Sequence[Query], answers: Sequence[Answer], mark: str) -> Recorded:
        """Write queries that are answered already, all or nothing, as a round of their own.

        Answers that are here by their uuid are left out, and queries of which none is left.

        Args:
            queries: what was asked; the store numbers them anew.
            answers: to them all; the round of `query` is not looked at.
            mark: what the ids of the clips that are new have in common.

        Raises:
            UserError: there are clips with this mark already, or all of the answers.
        """
        with self.database.transaction() as execute:
            answers = self._unknown(answers)
            known = execute("SELECT 1 FROM segment WHERE instr(id, ?)", (mark,)).fetchone()
            if known or not answers:
                raise UserError(f"{self.path} holds these answers already")
            answered = sorted({answer.query.index for answer in answers})
            (lowest,) = execute("SELECT min(0, coalesce(min(round), 0)) FROM round").fetchone()
            asked = {
                old: dataclasses.replace(queries[old], id=QueryId(lowest - 1, new))
                for new, old in enumerate(answered)
            }
            self._write_round(lowest - 1, list(asked.values()), {}, self.last_answer())
            for answer in answers:
                query = asked[answer.query.index]
                check_answer(query, answer)
                self.write_answer(dataclasses.replace(answer, query=query.id))
            # A repeat closes no query, and its first answer may not have come along.
            execute("UPDATE query SET open = 0 WHERE round = ?", (lowest - 1,))
        return Recorded(lowest - 1, len(asked), len(answers))

    def expire(self, before_round: int) -> None:
        """Withdraw what earlier rounds asked, but for what somebody is looking at."""
        with self.database.transaction() as execute:
            execute(
                "UPDATE query SET withdrawn = 'expired', open = 0 WHERE open AND round < ? AND NOT "
                "EXISTS (SELECT 1 FROM lease l WHERE l.round = query.round "
                'AND l."index" = query."index" AND l.until > ?)',
                (before_round, time.time()),
            )

    def answer(self, *answers: Answer) -> int:
        """Append answers in one transaction and return the last one's id; then they are safe.

        One whose uuid is known changes nothing.

        Raises:
            UserError: an answer does not fit its query, or there is no such query.
        """
        number = 0
        with self.database.transaction() as execute:
            for answer in answers:
                check_answer(self.query(answer.query), answer)
                uuid = self.write_answer(answer)
                (number,) = execute("SELECT id FROM answer WHERE uuid = ?", (uuid,)).fetchone()
        return number

    def demonstrate(self, prompt: str, response: str | None, teacher: str, uuid: str) -> None:
        """Keep a demonstration of a language task, or propose a prompt (no response)."""
        with self.database.transaction() as execute:
            execute(
                "INSERT INTO demonstration (teacher, prompt, response, at, uuid) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (teacher, prompt, response, time.time(), uuid),
            )

    def demonstrations(self) -> list[tuple[str, str | None]]:
        """Return the prompts and responses that people wrote, in order."""
        return self.database.run("SELECT prompt, response FROM demonstration ORDER BY id")

    def withdraw(self, query: QueryId, why: str) -> None:
        """Ask this nobody any more; answers that it has stay."""
        with self.database.transaction() as execute:
            execute(
                'UPDATE query SET withdrawn = ?, open = 0 WHERE round = ? AND "index" = ?',
                (why, *query),
            )

    def query(self, query: QueryId) -> Query:
        """Return one query.

        Raises:
            UserError: there is none of that id.
        """
        queries = self._queries('WHERE round = ? AND "index" = ?', *query)
        if not queries:
            raise UserError(f"{self.path} holds no query {tuple(query)}")
        return queries[0]

    def segments(self, task: str | None = None) -> list[str]:
        """Return the ids of all segments, or of one task's, in order."""
        rows = self.database.run(
            "SELECT id FROM segment WHERE task = ? OR ? IS NULL ORDER BY id", task, task
        )
        return [row[0] for row in rows]

    def segments_after(self, prompt: str) -> list[str]:
        """Return the ids of the segments of text that begin with a prompt, in order."""
        # As bytes: to SQLite's JSON functions a text ends at its first NUL.
        first = json.dumps([prompt], ensure_ascii=False).encode()[:-1]
        rows = self.database.run(
            "SELECT segment FROM array WHERE name = 'observations' AND dtype = 'json' "
            "AND substr(data, 1, ?) IN (?, ?) ORDER BY segment",
            len(first) + 1, first + b"]", first + b",",
        )  # fmt: skip
        return [row[0] for row in rows]

    def picture(self, segment_id: str) -> Picture | None:
        """Return what a segment looked like, None where it is redrawn from its extras."""
        with self.database.errors():
            return read_picture(self.database.connection, segment_id)

    def pending(self) -> list[Query]:
        """Return the queries that still wait for an answer, oldest first."""
        return self._queries("WHERE open")

    def answers(self, through: int | None = None, repeats: bool = False) -> list[Answer]:
        """Return the answers that stand, by id: the last of each teacher to each query.

        A model's that a person overrules is none of them.

        Args:
            through: those that stood when the newest answer had this id; now by default.
            repeats: those to pairs that were shown again, too, which teach nothing.
        """
        rows = self.database.run(
            f"SELECT {COLUMNS} FROM answer a WHERE {STOOD} AND (:repeats OR NOT repeat) "
            "ORDER BY id",
            through=2**62 if through is None else through, repeats=repeats,
        )  # fmt: skip
        return not_overruled([*map(answer_of, rows)])

    def answered_queries(self, through: int) -> set[QueryId]:
        """Return the queries to which an answer with id up to `through` once taught something."""
        rows = self.database.run(
            'SELECT DISTINCT round, "index" FROM answer WHERE id <= ? AND NOT repeat '
            "AND kind NOT IN ('skip', 'retraction')",
            through,
        )
        return {QueryId(*row) for row in rows}

    def comparisons(
        self, through: int | None = None, margin_scale: float = 0.0
    ) -> list[Comparison]:
        """Return what the answers with id up to `through` teach a reward model."""
        queries = {query.id: query for query in self._queries("")}
        comparisons = []
        for answer in self.answers(through):
            comparisons += to_comparisons(queries[answer.query], answer, margin_scale).comparisons
        return comparisons

    def last_answer(self) -> int:
        """Return the id of the newest answer, 0 if there is none."""
        [(number,)] = self.database.run("SELECT coalesce(max(id), 0) FROM answer")
        return number

    def ledger(self, round_index: int) -> Ledger | None:
        """Return what is on record of a round, None if it was never asked."""
        rows = self.database.run(
            "SELECT answers_through, (SELECT count(*) FROM query q WHERE q.round = r.round) "
            "FROM round r WHERE r.round = ?",
            round_index,
        )
        return Ledger(*rows[0]) if rows else None

    def counts(self) -> Counts:
        """Count the queries of the run's own rounds, as they stand; triggers keep count."""
        [row] = self.database.run(
            "SELECT asked, answered, decisive, pending, clips, seconds FROM tally"
        )
        return Counts(*row)

    def counts_at(self, before_round: int, through: int) -> Counts:
        """Count queries of rounds before `before_round`, and answers as they stood by `through`.

        What was imported (rounds below 0) is not counted here either. The time that this takes
        grows with the number of answers.
        """
        [row] = self.database.run(
            "SELECT count(*), coalesce(sum(labelled), 0), coalesce(sum(decided), 0), "
            "coalesce(sum(answered = 0 AND withdrawn IS NULL), 0), "
            "coalesce(sum(labelled * clips), 0), "
            f"(SELECT coalesce(sum({SECONDS}), 0.0) FROM answer WHERE round >= 0 "
            "  AND round < :before AND id <= :through) FROM ("
            "  SELECT max(a.id IS NOT NULL) AS answered, q.withdrawn AS withdrawn, "
            "    coalesce(max(a.kind <> 'skip'), 0) AS labelled, "
            "    json_array_length(q.segments) AS clips, "
            "    coalesce(max(a.decisive), 0) AS decided "
            '  FROM query q LEFT JOIN answer a ON a.round = q.round AND a."index" = q."index" '
            f"  AND {STOOD} AND NOT a.repeat "
            "  WHERE q.round >= 0 AND q.round < :before "
            '  GROUP BY q.round, q."index")',
            before=before_round, through=through,
        )  # fmt: skip
        return Counts(*row)

    def true_rewards(self, segment_id: str, aspect: str = "") -> np.ndarray:
        """Return the true rewards `[step]` of a segment, or of an aspect of it.

        Not for the reward model or the agent.
        """
        with self.database.errors():
            rewards = read_true_rewards(self.database.connection, segment_id, aspect)
        if rewards is None:
            of = f" for {aspect}" if aspect else ""
            hint = aspect and f'; its environment must report info["aspects"][{aspect!r}] each step'
            raise UserError(
                f"the true rewards of {segment_id!r}{of} are not known to {self.path}{hint}"
            )
        return rewards

    def truth(self, queries: Sequence[Query], aspect: str = "") -> Truth:
        """Return the true rewards of the clips of queries about an aspect. For the oracle alone."""
        names = {segment.id for query in queries for segment in query.segments}
        with self.database.errors():
            means = {} if aspect else read_mean_returns(self.database.connection)
            rounds = {
                index: asked_rewards(self.database.connection, index, aspect)
                for index in sorted({query.id.round for query in queries})
            }
        rewards = {name: row for known in rounds.values() for name, row in known.items()}
        rewards |= {name: self.true_rewards(name, aspect) for name in names - rewards.keys()}
        asked = {index: [*known] for index, known in rounds.items()}
        return Truth(rewards, asked, {index: means[index] for index in asked if index in means})

    def _queries(self, where: str, *values: int) -> list[Query]:
        rows = self.database.run(
            f'SELECT round, "index", kind, question, segments, aspect FROM query {where} '
            'ORDER BY round, "index"',
            *values,
        )
        return [
            Query(QueryId(r[0], r[1]), tuple(map(self.segment, json.loads(r[4]))), r[2], r[3], r[5])
            for r in rows
        ]

    def _read_segment(self, name: str) -> Segment:
        with self.database.errors():
            return read_segment(self.database.connection, name)

    def _write_round(
        self, number: int, queries: Sequence[Query], true_rewards: dict[str, np.ndarray],
        answers_through: int, pictures: Mapping[str, Picture] = NO_PICTURES,
    ) -> None:  # fmt: skip
        execute = self.database.connection.execute
        execute("INSERT INTO round VALUES (?, ?)", (number, answers_through))
        aspects = sorted({name.partition("\n")[0] for name in true_rewards if "\n" in name})
        for query in queries:
            check_plain("the question", query.question)
            check_plain("the aspect", query.aspect)
            for segment in query.segments:
                names = {aspect: of_aspect(segment.id, aspect) for aspect in ("", *aspects)}
                rewards = {a: true_rewards[n] for a, n in names.items() if n in true_rewards}
                picture = pictures.get(segment.id)
                write_segment(self.database.connection, segment, rewards, picture)
            shown = json.dumps([segment.id for segment in query.segments])
            execute(
                'INSERT INTO query (round, "index", kind, question, segments, aspect) '
                "VALUES (?, ?, ?, ?, ?, ?)",
                (*query.id, query.kind, query.question, shown, query.aspect),
            )

    def _unknown(self, answers: Sequence[Answer]) -> list[Answer]:
        """Return the answers whose uuid is neither here, whatever became of it, nor seen before."""
        known = {row[0] for row in self.database.run("SELECT uuid FROM answer")}
        unknown = []
        for answer in answers:
            if not answer.uuid or answer.uuid not in known:
                unknown.append(answer)
            known.add(answer.uuid)
        return unknown

    def write_answer(self, answer: Answer) -> str:
        """Write one answer, within a transaction, and return its uuid; see `answer`."""
        check_plain("the name of a teacher", answer.teacher)
        check_plain("the uuid of an answer", answer.uuid)
        try:
            value = json.dumps(answer.value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the answer of teacher {answer.teacher!r} holds {answer.value!r}, which cannot be "
                f"kept ({error}); expected JSON of finite numbers"
            ) from None
        uuid = answer.uuid or uuid4().hex
        self.database.run(
            'INSERT INTO answer (round, "index", kind, value, decisive, teacher, shown_at, '
            "answered_at, repeat, uuid) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            *answer.query, answer.kind, value, is_decisive(answer), answer.teacher,
            answer.shown_at, answer.answered_at, answer.repeat, uuid,
        )  # fmt: skip
        return uuid

    @staticmethod
    def _key(query: Query) -> tuple:
        clips = [segment.id for segment in query.segments]
        return (query.id, query.kind, query.question, query.aspect, clips)
