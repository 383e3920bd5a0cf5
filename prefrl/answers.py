"""Each kind of answer: how it is checked, and what it teaches.

What a kind's `value` holds is in `types.Answer`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from prefrl.errors import UserError
from prefrl.types import SYSTEM, Answer, Comparison, Query, Segment, is_text, text_array

# Llama 2 (arXiv 2307.09288, section 3.2.2) gives clearer preferences a larger margin.
MARGIN_OF_STRENGTH: dict[str, float] = {
    "negligibly": 0.0,
    "slightly": 1 / 3,
    "better": 2 / 3,
    "significantly": 1.0,
}

LONGEST_COMMENT = 2000  # characters

Value = Mapping[str, Any]


class Lesson(NamedTuple):
    """What one answer teaches."""

    comparisons: list[Comparison]
    segments: list[Segment]
    """Segments that did not exist before the answer (rewrites)."""
    demonstrations: list[Segment]


class Preference:
    """P(left is better) of two."""

    @staticmethod
    def problem(value: Value, segments: Sequence[Segment]) -> str | None:
        """Say what is wrong, None if nothing is."""
        left = value.get("left")
        if len(segments) != 2:
            return f"is a preference between two, but the query has {len(segments)} segments"
        if left is None or not _is_number(left) or not 0 <= left <= 1:
            return f"says P(left is better) = {left!r}; expected a number from 0 to 1"
        if value.get("strength") not in (None, *MARGIN_OF_STRENGTH):
            return f"has strength {value['strength']!r}; expected one of {[*MARGIN_OF_STRENGTH]}"
        margin = value.get("margin", 0)
        if not _is_number(margin) or not 0 <= margin <= 1:
            return f"has margin {margin!r}; expected a number from 0 to 1"
        return None

    @staticmethod
    def decides(value: Value) -> bool:
        """Return whether one segment is preferred."""
        return value["left"] != 0.5

    @staticmethod
    def pair(value: Value, i: int, j: int) -> tuple[float, float]:
        """Return P(i better than j) and the margin in [0, 1]."""
        strength = MARGIN_OF_STRENGTH[value.get("strength") or "negligibly"]
        return float(value["left"]), float(value.get("margin", strength))


class Ranking:
    """An order of the segments, equals together."""

    @staticmethod
    def problem(value: Value, segments: Sequence[Segment]) -> str | None:
        """Say what is wrong, None if nothing is."""
        order = value.get("order") or ()
        flat = [index for group in order for index in group] if _is_nested(order) else None
        if flat is None or sorted(flat, key=repr) != list(range(len(segments))):
            return (
                f"ranks {order!r}; expected groups that hold each of 0 to {len(segments) - 1} once"
            )
        return None

    @staticmethod
    def decides(value: Value) -> bool:
        """Return whether not all are equal."""
        return len(value["order"]) > 1

    @staticmethod
    def pair(value: Value, i: int, j: int) -> tuple[float, float]:
        """Return P(i better than j) and the margin in [0, 1]."""
        rank = {index: rank for rank, group in enumerate(value["order"]) for index in group}
        return 0.5 + 0.5 * float(np.sign(rank[j] - rank[i])), 0.0


class Ratings:
    """A number for each segment."""

    @staticmethod
    def problem(value: Value, segments: Sequence[Segment]) -> str | None:
        """Say what is wrong, None if nothing is."""
        ratings, low, high = value.get("ratings"), value.get("low", 0), value.get("high", 0)
        if not _is_number(low) or not _is_number(high) or not 0 < high - low < math.inf:
            return f"rates on a scale from {low!r} to {high!r}; expected low < high"
        if not isinstance(ratings, Sequence) or len(ratings) != len(segments):
            return f"rates {ratings!r}; expected {len(segments)} numbers"
        if not all(_is_number(rating) and low <= rating <= high for rating in ratings):
            return f"rates {ratings!r}; expected numbers from {low} to {high}"
        return None

    @staticmethod
    def decides(value: Value) -> bool:
        """Return whether not all are equal."""
        return len(set(value["ratings"])) > 1

    @staticmethod
    def pair(value: Value, i: int, j: int) -> tuple[float, float]:
        """Return P(i better than j) and the margin in [0, 1], which grows with the difference."""
        difference = value["ratings"][i] - value["ratings"][j]
        scale = value["high"] - value["low"]
        return 0.5 + 0.5 * float(np.sign(difference)), abs(difference) / scale


class Tie:
    """All are about equal."""

    @staticmethod
    def problem(value: Value, segments: Sequence[Segment]) -> str | None:
        """Return None: it holds nothing."""
        return None

    @staticmethod
    def decides(value: Value) -> bool:
        """Return False."""
        return False

    @staticmethod
    def pair(value: Value, i: int, j: int) -> tuple[float, float]:
        """Return one half, and no margin."""
        return 0.5, 0.0


class Nothing:
    """A skip or a retraction: teaches nothing."""

    @staticmethod
    def problem(value: Value, segments: Sequence[Segment]) -> str | None:
        """Return None: it holds nothing."""
        return None

    @staticmethod
    def decides(value: Value) -> bool:
        """Return False."""
        return False


class Broken:
    """A clip cannot be judged: teaches nothing, and sets its query aside."""

    @staticmethod
    def problem(value: Value, segments: Sequence[Segment]) -> str | None:
        """Say what is wrong, None if nothing is."""
        index = value.get("segment", 0)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(segments):
            return f"calls the clip {index!r} broken; expected one of 0 to {len(segments) - 1}"
        return None

    @staticmethod
    def decides(value: Value) -> bool:
        """Return False."""
        return False


class Rewrite:
    """Another last action of one segment, better than what it was made of; with an order, too.

    A person who overrules a model's rewrite says by "preferred" how far it is better.
    """

    @staticmethod
    def problem(value: Value, segments: Sequence[Segment]) -> str | None:
        """Say what is wrong, None if nothing is."""
        index, text = value.get("segment"), value.get("text")
        known = isinstance(index, int) and 0 <= index < len(segments)
        if not isinstance(text, str) or not isinstance(index, int) or not known:
            return "is a rewrite without a text or without the segment it rewrites"
        if not is_text(segments[index].actions):
            return "is a rewrite of actions that are not text; expected another kind of answer"
        both = (segments[index], segments[index])
        if problem := Preference.problem(_of_rewrite(value), both):
            return problem
        return Ranking.problem(value, segments) if "order" in value else None

    @staticmethod
    def decides(value: Value) -> bool:
        """Return whether it or what it was made of is preferred."""
        return value.get("preferred", 1) != 0.5

    @staticmethod
    def lesson(query: Query, answer: Answer, margin_scale: float) -> Lesson:
        """Return the new segment beside the one it was made of; a better one is a demonstration."""
        original = query.segments[answer.value["segment"]]
        actions = original.actions.astype(object)
        actions[-1] = answer.value["text"]
        rewritten = Segment(
            f"{original.id}/rewritten-{query.id.round}-{query.id.index} by {answer.teacher}",
            original.observations,
            text_array(actions.tolist()),
            {name: extra for name, extra in original.extras.items() if name == SYSTEM},
            task=original.task,
            source=answer.teacher,
        )
        preferred, margin = Preference.pair(_of_rewrite(answer.value), 0, 1)
        comparison = Comparison(
            rewritten, original, preferred, margin * margin_scale, query=query.id,
            aspect=query.aspect, teacher=answer.teacher,
        )  # fmt: skip
        return Lesson([comparison], [rewritten], [rewritten] if preferred > 0.5 else [])


def _of_rewrite(value: Value) -> Value:
    """Return what a rewrite's value says as a preference, with the new text on the left."""
    strength = {"strength": value["strength"]} if "strength" in value else {}
    return {"left": value.get("preferred", 1)} | strength


KINDS = {
    "preference": Preference,
    "tie": Tie,
    "ranking": Ranking,
    "ratings": Ratings,
    "rewrite": Rewrite,
    "skip": Nothing,
    "broken": Broken,
    "retraction": Nothing,
}


def check_answer(query: Query, answer: Answer) -> None:
    """Raise `UserError` unless the answer fits the query."""
    kind = KINDS.get(answer.kind) if isinstance(answer.kind, str) else None
    if not isinstance(answer.value, dict):
        problem = f"holds {answer.value!r}; expected an object with the fields of its kind"
    elif kind is None:
        problem = f"is of kind {answer.kind!r}; expected one of {', '.join(KINDS)}"
    else:
        problem = kind.problem(answer.value, query.segments) or _of_comment(answer.value)
    if problem:
        raise UserError(
            f"the answer of teacher {answer.teacher!r} to query {tuple(query.id)} {problem}"
        )


def _of_comment(value: Value) -> str | None:
    comment = value.get("comment", "")
    if isinstance(comment, str) and len(comment) <= LONGEST_COMMENT and "\0" not in comment:
        return None
    return (
        f"has a comment that is {comment!r:.80}; expected at most {LONGEST_COMMENT} characters, "
        "and no NUL"
    )


def is_decisive(answer: Answer) -> bool:
    """Return whether an answer prefers a segment to another."""
    return KINDS[answer.kind].decides(answer.value)


def to_comparisons(query: Query, answer: Answer, margin_scale: float = 0.0) -> Lesson:
    """Turn one answer into comparisons, new segments and demonstrations.

    A ranking of K segments gives its K(K − 1)/2 pairs, which weigh K − 1 in total as a sorting by
    pairwise comparisons would; ratings give pairs whose margin grows with the difference. The
    choice of the best is kept as a ranking of two places and says nothing of the others among
    themselves: it gives their K − 1 pairs with the best. A rewrite is better than what it was made
    of, and its order, if it has one, is a ranking.

    Args:
        query: what was asked.
        answer: what was answered; `check_answer` must hold.
        margin_scale: logits that the strongest preference should lead by.
    """
    check_answer(query, answer)
    kind = KINDS[answer.kind]
    if answer.repeat or answer.gold or kind in (Nothing, Broken):
        return Lesson([], [], [])
    if kind is Rewrite:
        lesson = Rewrite.lesson(query, answer, margin_scale)
        if "order" not in answer.value:
            return lesson
        order = replace(answer, kind="ranking", value={"order": answer.value["order"]})
        ranked = to_comparisons(query, order, margin_scale).comparisons
        return lesson._replace(comparisons=[*lesson.comparisons, *ranked])
    weight = 2 / len(query.segments)
    chosen = query.kind == "choice" and kind is Ranking and is_decisive(answer)
    others = set(answer.value["order"][-1]) if chosen else set()
    comparisons = []
    for i, j in combinations(range(len(query.segments)), 2):
        if {i, j} <= others:
            continue
        preference, margin = kind.pair(answer.value, i, j)
        left, right = query.segments[i], query.segments[j]
        comparisons.append(
            Comparison(
                left, right, preference, margin * margin_scale, weight, query.id, query.aspect,
                answer.teacher,
            )
        )  # fmt: skip
    return Lesson(comparisons, [], [])


def share_right(known: Answer, given: Answer, segments: int) -> float | None:
    """Return how far an answer says what is known, from 0 to 1; None where it compares nothing.

    Of a pair it is 0 or 1. Of several clips it is the share of their pairs that are known to
    differ which it has the same way round; where none are, all must be equal.

    Args:
        known: the answer that is known, of the same query.
        given: the answer that is measured.
        segments: how many the query has.
    """
    if not hasattr(KINDS[given.kind], "pair"):
        return None
    pairs = [*combinations(range(segments), 2)]
    right = {pair: _way(known, *pair) for pair in pairs}
    differing = [pair for pair in pairs if right[pair]]
    if not differing:
        return float(all(_way(given, *pair) == 0 for pair in pairs))
    return sum(_way(given, *pair) == right[pair] for pair in differing) / len(differing)


def _way(answer: Answer, i: int, j: int) -> int:
    """Return 1 if an answer prefers segment i to j, -1 if j to i, else 0."""
    return int(np.sign(KINDS[answer.kind].pair(answer.value, i, j)[0] - 0.5))


def not_overruled(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers that none of them overrules: a person's in the place of a model's."""
    overruled = {answer.value.get("overrules") for answer in answers} - {None}
    return [answer for answer in answers if answer.uuid not in overruled]


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # numpy cannot judge huge integers


def _is_nested(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(group, Sequence) for group in value)
