"""Rows of a file as queries and answers: of an export, or texts that others compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from prefrl.answers import MARGIN_OF_STRENGTH, check_answer
from prefrl.storage import texts
from prefrl.storage.jsonl import Row, contents, field, read_segment, said_where, short
from prefrl.storage.spaces import check_segment, spaces_of
from prefrl.types import Answer, Query, QueryId, Segment, SpaceSpec, text_array

UNKNOWN: Mapping[str, SpaceSpec] = MappingProxyType({})
FORMS = (
    "an answer as `prefrl export` prints it, "
    '{"prompt", "chosen", "rejected"} or {"prompt", "completions"}'
)


class AnswerReader:
    """Turns rows into clips, queries and answers, and remembers those of earlier rows."""

    def __init__(self, name: str, spaces: Mapping[str, SpaceSpec] = UNKNOWN):
        """Begin with nothing.

        Args:
            name: the teacher, where a row names none.
            spaces: what clips must be of; like the first one, where that is unknown.
        """
        self.name, self.spaces = name, spaces
        self.clips: dict[str, Segment] = {}
        self.rows: dict[Any, int] = {}
        self.queries: list[Query] = []
        self.answers: list[Answer] = []
        """Their queries are numbered as in `queries`."""
        self.environments: set[str] = set()
        """Of which rows say that their clips are."""
        self.left_out = 0
        """Pairs whose two texts are the same."""

    def read(self, row: Row) -> None:
        """Take an answer of an export, a pair or a ranking of texts.

        Raises:
            UserError: it is none.
        """
        with said_where(row.where):
            if "segments" in row.fields:
                self._read_answer(row.fields, row.number)
            elif "completions" in row.fields:
                self._read_ranking(row.fields, row.number)
            elif "chosen" in row.fields or "rejected" in row.fields:
                self._read_pair(row.fields, row.number)
            else:
                raise ValueError(f"there are {sorted(row.fields)}; expected {FORMS}")

    def _read_answer(self, row: dict[str, Any], number: int) -> None:
        """Take a row of an export; rows about one query of its run are about one query here."""
        segments = [
            self._known(read_segment(segment, f"line {number}, clip {index}"))
            for index, segment in enumerate(field(row, "segments", list))
        ]
        asked = QueryId(field(row, "round", int, -1), field(row, "index", int, number))
        question, kind = field(row, "question", str, ""), field(row, "query_kind", str, "")
        query = Query(asked, tuple(segments), kind or "preference", question)
        answer = Answer(
            asked,
            field(row, "kind", str),  # pyright: ignore[reportArgumentType]
            field(row, "value", dict),
            field(row, "teacher", str, self.name),
            field(row, "shown_at", float, 0.0),
            field(row, "answered_at", float, 0.0),
            field(row, "repeat", bool, False),
            field(row, "uuid", str, ""),
        )
        self.environments |= {env} if (env := field(row, "env", str, "")) else set()
        if answer.kind == "retraction":
            raise ValueError("it takes an answer back; expected answers that stand")
        self.add((asked, question, tuple(segment.id for segment in segments)), query, answer)

    def _read_pair(self, row: dict[str, Any], number: int) -> None:
        task, chosen, rejected = texts.read_pair(row)
        if chosen == rejected:
            self.left_out += 1
            return
        pair = [
            self._known(_clip(turns, f"line {number}, {name}", task))
            for name, turns in (("chosen", chosen), ("rejected", rejected))
        ]
        value = {"left": 1.0} | _strength(row.get("margin"))
        query = Query(QueryId(-1, number), tuple(pair))
        self.add(number, query, Answer(query.id, "preference", value, self.name))

    def _read_ranking(self, row: dict[str, Any], number: int) -> None:
        task, ranked = texts.read_ranking(row)
        clips = [
            self._known(_clip(turns, f"line {number}, completion {index}", task))
            for index, turns in enumerate(ranked, start=1)
        ]
        query = Query(QueryId(-1, number), tuple(clips), "ranking")
        order = {"order": [[index] for index in range(len(clips))]}
        self.add(number, query, Answer(query.id, "ranking", order, self.name))

    def demonstration(self, row: dict[str, Any], name: str) -> Segment:
        """Return the clip that a row demonstrates, by this id."""
        if "segment" in row:
            return self._known(read_segment(field(row, "segment", dict), name, renamed=name))
        turns = texts.read_demonstration(row)
        if turns is None:
            raise ValueError(
                f'there are {sorted(row)}; expected {{"segment"}} as in `prefrl export`, or '
                f"{texts.DEMONSTRATIONS}"
            )
        return self._known(_clip(turns, name, turns[0][0]))

    def add(self, key: Any, query: Query, answer: Answer) -> None:
        """Keep an answer to a query; what has the same key is the same query."""
        check_answer(query, answer)
        index = self.rows.setdefault(key, len(self.queries))
        if index == len(self.queries):
            self.queries.append(replace(query, id=QueryId(-1, index)))
        self.answers.append(replace(answer, query=QueryId(-1, index)))

    def _known(self, segment: Segment) -> Segment:
        """Check a clip by the spaces and those before it, and return the one of its id."""
        check_segment(segment, self.spaces)
        self.spaces = self.spaces or spaces_of(segment)
        known = self.clips.setdefault(segment.id, segment)
        if contents(known) != contents(segment):
            raise ValueError(f"the clip {segment.id!r} differs from an earlier one of that id")
        return known


def _clip(turns: texts.Turns, name: str, task: str) -> Segment:
    observations, replies = zip(*turns, strict=True)
    return Segment(name, text_array(observations), text_array(replies), task=task)


def _strength(margin: Any) -> dict[str, Any]:
    """Return what a preference says of its strength, given the margin of a row."""
    if margin is None or (isinstance(margin, str) and margin in MARGIN_OF_STRENGTH):
        return {"strength": margin} if margin else {}
    if isinstance(margin, bool | str | list | dict) or not 0 <= margin <= 1:
        raise ValueError(
            f"'margin' is {short(margin)}; expected one of {', '.join(MARGIN_OF_STRENGTH)}, or a "
            "number from 0 to 1"
        )
    return {"margin": margin}
