"""The store of a run's queries, answers and clips, in a file of SQLite or a Postgres database.

It is the mailbox between trainer and teachers, and the ledger from which a run can be replayed: in
one transaction with a round's queries it records which answers that round's fit was given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import uuid4

import numpy as np

from prefrl.answers import check_answer, to_comparisons
from prefrl.errors import UserError
from prefrl.storage.address import Address
from prefrl.storage.answering import (
    answered_queries,
    count_at,
    demonstrate,
    read_answers,
    set_aside,
    write_answer,
)
from prefrl.storage.copying import copy
from prefrl.storage.database import Database, open_database, training, waiting
from prefrl.storage.rounds import (
    NO_PICTURES,
    ask_round,
    expire,
    read_ledger,
    read_queries,
    record_round,
    withdraw,
)
from prefrl.storage.segments import (
    SegmentCache,
    known_true_rewards,
    read_picture,
    read_truth,
    segments_after,
)
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
)


class FeedbackStore:
    """Queries and answers of one run; an acknowledged answer survives a power cut."""

    def __init__(
        self,
        where: Path | str | Address,
        cached_segments: int | None = None,
        read_only: bool = False,
    ):
        """Open the store, or make it.

        Args:
            where: its file, or the run's address in a database.
            cached_segments: how many segments to keep in memory; all that were read by default.
            read_only: it is there, and may be somebody else's: nothing is written to it.

        Raises:
            UserError: it is not a feedback store, of another version, or cannot be used.
        """
        self.database: Database = open_database(where, read_only)
        self.called = self.database.called
        self._segments = SegmentCache(self.database, cached_segments)

    @property
    def shares(self) -> bool:
        """Whether other machines read it, so that `share` is of use."""
        return self.database.shares

    def close(self) -> None:
        """Let go of the store; a trainer lets others train."""
        self.database.close()

    def copy(self, where: Path | Address) -> None:
        """Write the whole store to a new file or an empty run elsewhere, as it stands."""
        copy(self.database, where)

    def claim(self, wait: bool = False) -> None:
        """Become the run's trainer: nobody else trains it, until this is released or closed.

        Every transaction from now on checks that nobody has taken the run over. A trainer waits
        while a database is away.

        Args:
            wait: until nobody trains it, however long that is.

        Raises:
            UserError: another process trains the run, or may do so.
        """
        self.database.fence.claim(wait)

    @waiting
    def check_claim(self) -> None:
        """Raise `UserError` if somebody else has become the run's trainer."""
        with self.database.transaction():
            pass

    def training(self) -> AbstractContextManager[None]:
        """Let nobody take the run over within this: for what is quickly written beside the store.

        Raises:
            UserError: somebody else has become the run's trainer.
        """
        return training(self)

    def release(self) -> None:
        """Let others train the run."""
        self.database.fence.release()

    @waiting
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
        ask_round(
            self.database, self._segments, round_index, queries, true_rewards, answers_through,
            pictures, mean_return,
        )  # fmt: skip

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
        return record_round(self.database, queries, answers, mark)

    @waiting
    def expire(self, before_round: int) -> None:
        """Withdraw what earlier rounds asked, but for what somebody is looking at."""
        expire(self.database, before_round)

    def answer(self, *answers: Answer) -> int:
        """Append answers in one transaction and return the last one's id; then they are safe.

        One whose uuid is known changes nothing.

        Raises:
            UserError: an answer does not fit its query, or there is no such query.
        """
        named = [dataclasses.replace(a, uuid=a.uuid or uuid4().hex) for a in answers]
        return self._append(named)

    @waiting
    def _append(self, answers: Sequence[Answer]) -> int:
        number = 0
        with self.database.transaction() as run:
            for answer in answers:
                check_answer(self.query(answer.query), answer)
                uuid = write_answer(self.database, answer)
                [(number,)] = run("SELECT id FROM answer WHERE uuid = ?", uuid)
        return number

    def demonstrate(self, prompt: str, response: str | None, teacher: str, uuid: str) -> None:
        """Keep a demonstration of a language task, or propose a prompt (no response)."""
        demonstrate(self.database, prompt, response, teacher, uuid)

    def demonstrations(self) -> list[tuple[str, str | None]]:
        """Return the prompts and responses that people wrote, in order."""
        return self.database.run("SELECT prompt, response FROM demonstration ORDER BY id")

    def withdraw(self, query: QueryId, why: str) -> None:
        """Ask this nobody any more; answers that it has stay."""
        withdraw(self.database, query, why)

    @waiting
    def query(self, query: QueryId) -> Query:
        """Return one query.

        Raises:
            UserError: there is none of that id.
        """
        queries = self._queries('WHERE round = ? AND "index" = ?', *query)
        if not queries:
            raise UserError(f"{self.called} holds no query {tuple(query)}")
        return queries[0]

    def segments(self, task: str | None = None) -> list[str]:
        """Return the ids of all segments, or of one task's, in order."""
        of = [] if task is None else [task]
        where = "WHERE task = ? " if of else ""
        rows = self.database.run(f"SELECT id FROM segment {where}ORDER BY id", *of)
        return [row[0] for row in rows]

    def segment(self, segment_id: str) -> Segment:
        """Return a segment."""
        return self._segments.many([segment_id])[segment_id]

    def segments_after(self, prompt: str) -> list[str]:
        """Return the ids of the segments of text that begin with a prompt, in order."""
        return segments_after(self.database, prompt)

    def picture(self, segment_id: str) -> Picture | None:
        """Return what a segment looked like, None where it is redrawn from its extras."""
        return read_picture(self.database, segment_id)

    @waiting
    def pending(self) -> list[Query]:
        """Return the queries that still wait for an answer, oldest first."""
        return self._queries("WHERE open")

    @waiting
    def answers(self, through: int | None = None, repeats: bool = False) -> list[Answer]:
        """Return the answers that stand, by id: the last of each teacher to each query.

        A model's that a person overrules is none of them.

        Args:
            through: those that stood when the newest answer had this id; now by default.
            repeats: those to pairs that were shown again, and those to queries whose answer is
                known, too, which teach nothing.
        """
        return read_answers(self.database, through, repeats)

    @waiting
    def answered_queries(self, through: int) -> set[QueryId]:
        """Return the queries to which an answer with id up to `through` once taught something."""
        return answered_queries(self.database, through)

    @waiting
    def comparisons(
        self, through: int | None = None, margin_scale: float = 0.0
    ) -> list[Comparison]:
        """Return what the answers with id up to `through` teach a reward model."""
        queries = {query.id: query for query in self._queries("")}
        comparisons, broken = [], set_aside(self.database, through)
        for answer in self.answers(through):
            if answer.query in broken:
                continue
            comparisons += to_comparisons(queries[answer.query], answer, margin_scale).comparisons
        return comparisons

    @waiting
    def last_answer(self) -> int:
        """Return the id of the newest answer, 0 if there is none."""
        [(number,)] = self.database.run("SELECT coalesce(max(id), 0) FROM answer")
        return number

    @waiting
    def ledger(self, round_index: int) -> Ledger | None:
        """Return what is on record of a round, None if it was never asked."""
        return read_ledger(self.database, round_index)

    @waiting
    def counts(self) -> Counts:
        """Count the queries of the run's own rounds, as they stand; triggers keep count."""
        [row] = self.database.run(
            "SELECT asked, answered, decisive, pending, clips, seconds FROM tally"
        )
        return Counts(*row)

    @waiting
    def counts_at(self, before_round: int, through: int) -> Counts:
        """Count queries of rounds before `before_round`, and answers as they stood by `through`.

        What was imported (rounds below 0) is not counted here either. The time that this takes
        grows with the number of answers.
        """
        return count_at(self.database, before_round, through)

    def true_rewards(self, segment_id: str, aspect: str = "") -> np.ndarray:
        """Return the true rewards `[step]` of a segment, or of an aspect of it.

        Not for the reward model or the agent.
        """
        return known_true_rewards(self.database, segment_id, aspect)

    @waiting
    def truth(self, queries: Sequence[Query], aspect: str = "") -> Truth:
        """Return the true rewards of the clips of queries about an aspect. For the oracle alone."""
        return read_truth(self.database, queries, aspect)

    def _queries(self, where: str, *values: int) -> list[Query]:
        return read_queries(self.database, self._segments, where, *values)
