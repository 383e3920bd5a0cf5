"""What rows of a file say as queries and answers: of an export, or texts that others compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from prefrl.answers import check_answer
from prefrl.storage.jsonl import contents, field, read_segment, said_where
from prefrl.storage.spaces import check_segment, spaces_of
from prefrl.storage.texts.examples import Example
from prefrl.types import BETTER, Answer, Query, QueryId, Segment, SpaceSpec, conversation_clip

UNKNOWN: Mapping[str, SpaceSpec] = MappingProxyType({})


class AnswerReader:
    """Turns examples into clips, queries and answers, and remembers those of earlier ones."""

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

    def read(self, example: Example) -> None:
        """Take an answer of an export, or what `texts.reader.compared` returns.

        Raises:
            UserError: it does not fit.
        """
        with said_where(example.where):
            if example.kind == "exported":
                self._read_answer(example.value, example.number)
            else:
                self._read_texts(example)

    def _read_texts(self, example: Example) -> None:
        talks = example.conversations
        if len(talks) == 2 and talks[0] == talks[1]:
            self.left_out += 1
            return
        clips = [
            self._known(conversation_clip(talk, f"line {example.number}, {name}", example.task))
            for name, talk in zip(example.names, talks, strict=True)
        ]
        kind = example.kind if example.kind in ("ranking", "ratings") else "preference"
        query = Query(QueryId(-1, example.number), tuple(clips), kind)
        teacher = example.teacher or self.name
        answer = Answer(query.id, example.kind, example.value, teacher)  # pyright: ignore[reportArgumentType]
        self.add((example.number, *(clip.id for clip in clips)), query, answer)

    def _read_answer(self, row: dict[str, Any], number: int) -> None:
        """Take a row of an export; rows about one query of its run are about one query here."""
        segments = [
            self._known(read_segment(segment, f"line {number}, clip {index}"))
            for index, segment in enumerate(field(row, "segments", list))
        ]
        asked = QueryId(field(row, "round", int, -1), field(row, "index", int, number))
        question, kind = field(row, "question", str, ""), field(row, "query_kind", str, "")
        aspect = field(row, "aspect", str, "")
        aspect = "" if aspect == BETTER else aspect
        query = Query(asked, tuple(segments), kind or "preference", question, aspect)
        answer = Answer(
            asked,
            field(row, "kind", str),  # pyright: ignore[reportArgumentType]
            field(row, "value", dict),
            field(row, "teacher", str, self.name),
            field(row, "shown_at", float, 0.0),
            field(row, "answered_at", float, 0.0),
            field(row, "repeat", bool, False),
            field(row, "uuid", str, ""),
            field(row, "gold", bool, False),
        )
        self.environments |= {env} if (env := field(row, "env", str, "")) else set()
        if answer.kind == "retraction":
            raise ValueError("it takes an answer back; expected answers that stand")
        clips = tuple(segment.id for segment in segments)
        self.add((asked, question, aspect, clips), query, answer)

    def demonstration(self, example: Example, name: str) -> Segment:
        """Return the clip that an example of `texts.reader.demonstrations` shows, by this id."""
        if example.kind == "clip":
            row = field(example.value, "segment", dict)
            return self._known(read_segment(row, name, renamed=name))
        (talk,) = example.conversations
        return self._known(conversation_clip(talk, name, talk.turns[0][0]))

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
        if known is not segment and contents(known) != contents(segment):
            raise ValueError(f"the clip {segment.id!r} differs from an earlier one of that id")
        return known
