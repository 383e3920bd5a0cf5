"""The words of preference learning as data: what crosses from one module to another.

Numpy only. Every class is frozen; arrays are not to be written to.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from prefrl.errors import UserError

Strength = Literal["negligibly", "slightly", "better", "significantly"]

# Llama 2 (arXiv 2307.09288, section 3.2.2) gives clearer preferences a larger margin.
MARGIN_OF_STRENGTH: dict[str, float] = {
    "negligibly": 0.0,
    "slightly": 1 / 3,
    "better": 2 / 3,
    "significantly": 1.0,
}

AnswerKind = Literal["preference", "tie", "ranking", "ratings", "rewrite", "skip", "retraction"]


class QueryId(NamedTuple):
    """Which query: the round that asked it and its place among that round's."""

    round: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


FIRST_QUERY = QueryId(0, 0)


@dataclass(frozen=True)
class SpaceSpec:
    """What is observed or done at a step: numbers of a shape, one of `n` choices, or a text."""

    shape: tuple[int, ...] = ()
    n: int | None = None
    """Given, a whole number from 0 to n - 1."""
    text: bool = False


@dataclass(frozen=True)
class EnvironmentCard:
    """What others must know of an environment: whoever answers, and an import."""

    domain: str
    """The object that builds for it, "package:OBJECT"."""
    dt: float
    """Seconds of a step."""
    question: str
    observations: SpaceSpec | None = None
    """None where it is not known."""
    actions: SpaceSpec | None = None

    @property
    def spaces(self) -> dict[str, SpaceSpec]:
        """What is observed and done, as far as it is known."""
        spaces = {"observations": self.observations, "actions": self.actions}
        return {name: space for name, space in spaces.items() if space is not None}

    @property
    def is_text(self) -> bool:
        """Whether the environment observes and acts in text."""
        return self.actions is not None and self.actions.text


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


@dataclass(frozen=True)
class Truth:
    """What the oracle alone may see of the clips of some queries."""

    rewards: dict[str, np.ndarray]
    """The true rewards `[step]` of each clip, by id."""
    average_return: dict[int, float]
    """Mean absolute true return of all clips that a round asked about, by round."""


@dataclass(frozen=True)
class Achieved:
    """What one policy did in its episodes. Numbers of text alone are None for robots."""

    true_return: dict[str, Any]
    """`mean`, `std`, and the `interval` of the mean where it was worked out."""
    info: dict[str, float]
    """The means of what the environment reports at an episode's end."""
    tokens: dict[str, Any] | None = None
    """Of a reply."""
    entropy: float | None = None
    """Of a token, in nats."""
    finished: float | None = None
    """Share of replies that came to an end."""


@dataclass(frozen=True)
class Evaluation:
    """What a policy achieves, of a language model beside its reference."""

    episodes: int
    policy: Achieved
    reference: Achieved | None = None
    gain: dict[str, Any] | None = None
    """In true return over the reference; like the following, with an `interval` over tasks."""
    kl: dict[str, Any] | None = None
    """Nats of divergence from the reference in an episode."""
    win_rate: dict[str, Any] | None = None
    """Against the reference; a tie is half a win."""
    length_controlled: dict[str, Any] | None = None
    """The win rate if replies were equally long."""
    ties: int = 0
    skips: int = 0
    teacher: str | None = None
    """Who said which reply wins."""
    held_out: bool | None = None
    """Whether the tasks were kept from training; None where there are no tasks."""
    notes: list[str] = field(default_factory=list)
    completions: list[dict[str, Any]] = field(default_factory=list)
    """Replies to show: `prompt`, and of `reference` and `policy` `text` and `true_return`."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Consecutive steps of one episode."""

    observations: np.ndarray
    """[step, …], numbers or `str`."""
    actions: np.ndarray
    """[step, …], as the environment received them."""
    env_rewards: np.ndarray
    """[step], the environment's own reward: for the oracle, evaluation and plots alone."""
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    """[step, …] each: what is needed to redraw the steps (`qpos`)."""
    task: str = ""
    """What may be compared with what; empty when any clip may meet any other."""
    source: str = ""
    """The policy and round that made it."""
    episode: int = 0
    """Number of the episode within its source."""
    start: int = 0
    """Step of the episode at which this trajectory begins."""

    def __post_init__(self) -> None:
        lengths = {len(self.observations), len(self.actions), len(self.env_rewards)}
        lengths |= {len(extra) for extra in self.extras.values()}
        if len(lengths) != 1:
            raise ValueError(f"a trajectory's arrays differ in length: {sorted(lengths)} steps")

    def __len__(self) -> int:
        return len(self.observations)


def thinned(trajectories: Sequence[Trajectory], steps: int = 8192) -> list[Trajectory]:
    """Keep about so many steps, evenly spaced, without extras."""
    stride = max(1, sum(map(len, trajectories)) // steps)
    return [
        Trajectory(t.observations[::stride], t.actions[::stride], t.env_rewards[::stride])
        for t in trajectories
    ]


@dataclass(frozen=True, eq=False)
class Segment:
    """A slice of a trajectory that can be shown. It holds no reward."""

    id: str
    observations: np.ndarray
    """[step, …]"""
    actions: np.ndarray
    """[step, …]"""
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    """[step, …] each."""
    task: str = ""
    source: str = ""

    def __len__(self) -> int:
        return len(self.observations)


def transcript(observations: Sequence[str], actions: Sequence[str]) -> str:
    """Return the replies of an episode as one text, what was said between them in quotes.

    Args:
        observations: `[turn]`, what was said; the first is the prompt, and left out.
        actions: `[turn]`, the reply to each.
    """
    lines = [str(actions[0])]
    for said, reply in zip(observations[1:], actions[1:], strict=False):
        lines += [f"> {said}", str(reply)]
    return "\n".join(lines)


@dataclass(frozen=True)
class Picture:
    """What a segment looked like where its extras cannot redraw it: pictures on one sheet."""

    width: int
    """Pixels of each picture."""
    height: int
    columns: int
    """Pictures in a row of the sheet; they go on in the next row."""
    every: int
    """Steps that each picture stands for; there is one of the first of them."""
    data: bytes = field(repr=False)
    """The sheet, as WebP."""


@dataclass(frozen=True, eq=False)
class Query:
    """Segments to judge, two to nine of them, and the question."""

    id: QueryId
    segments: tuple[Segment, ...]
    kind: str = "preference"
    question: str = ""

    def __post_init__(self) -> None:
        if not 2 <= len(self.segments) <= 9:
            raise ValueError(f"a query holds 2 to 9 segments, not {len(self.segments)}")
        if len({segment.task for segment in self.segments}) > 1:
            raise ValueError("the segments of a query must come from the same task")


@dataclass(frozen=True)
class Answer:
    """What a teacher said of a query.

    `value` depends on `kind`:
        preference: {"left": P(left is better)} and, if given, {"strength": one of the four words};
        tie, skip: {} ("about equal" and "can't tell");
        retraction: {}, of the teacher's own earlier answer;
        ranking: {"order": [[index, …], …]}, best first, equals together;
        ratings: {"ratings": [number, …], "low": number, "high": number};
        rewrite: {"segment": index, "text": a better last action}.
    """

    query: QueryId
    kind: AnswerKind
    value: dict[str, Any] = field(default_factory=dict)
    teacher: str = ""
    shown_at: float = 0.0
    """Seconds since the epoch."""
    answered_at: float = 0.0
    """Seconds since the epoch."""
    repeat: bool = False
    """Whether the teacher had answered it before; this only shows whether they agree with
    themselves, and teaches nothing."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two segments and how probably the left one is better: all that a reward is fitted to."""

    left: Segment
    right: Segment
    preference: float
    """P(left is better), 0 to 1."""
    margin: float = 0.0
    """By how much the better one should at least lead, in logits."""
    weight: float = 1.0
    query: QueryId = FIRST_QUERY

    def swapped(self) -> Comparison:
        """Return the same comparison seen from the other side."""
        return Comparison(
            self.right, self.left, 1 - self.preference, self.margin, self.weight, self.query
        )


class Lesson(NamedTuple):
    """What one answer teaches."""

    comparisons: list[Comparison]
    segments: list[Segment]
    """Segments that did not exist before the answer (rewrites)."""
    demonstrations: list[Segment]


def to_comparisons(query: Query, answer: Answer, margin_scale: float = 0.0) -> Lesson:
    """Turn one answer into comparisons, new segments and demonstrations.

    A ranking of K segments gives its K(K − 1)/2 pairs, which weigh K − 1 in total as a sorting by
    pairwise comparisons would; ratings give pairs whose margin grows with the difference.

    Args:
        query: what was asked.
        answer: what was answered; `check_answer` must hold.
        margin_scale: logits that the strongest preference should lead by.
    """
    check_answer(query, answer)
    if answer.repeat or answer.kind in ("skip", "retraction"):
        return Lesson([], [], [])
    if answer.kind == "rewrite":
        return _lesson_of_rewrite(query, answer)
    weight = 2 / len(query.segments)
    comparisons = []
    for i, j in combinations(range(len(query.segments)), 2):
        preference, margin = _pair_preference(answer, i, j)
        comparisons.append(
            Comparison(
                query.segments[i],
                query.segments[j],
                preference,
                margin * margin_scale,
                weight,
                query.id,
            )
        )
    return Lesson(comparisons, [], [])


def _pair_preference(answer: Answer, i: int, j: int) -> tuple[float, float]:
    """Return P(i better than j) and the margin in [0, 1]."""
    value = answer.value
    if answer.kind == "preference":
        return float(value["left"]), MARGIN_OF_STRENGTH[value.get("strength") or "negligibly"]
    if answer.kind == "ranking":
        place = {index: rank for rank, group in enumerate(value["order"]) for index in group}
        return 0.5 + 0.5 * float(np.sign(place[j] - place[i])), 0.0
    if answer.kind == "ratings":
        difference = value["ratings"][i] - value["ratings"][j]
        scale = value["high"] - value["low"]
        return 0.5 + 0.5 * float(np.sign(difference)), abs(difference) / scale
    return 0.5, 0.0  # a tie


def _lesson_of_rewrite(query: Query, answer: Answer) -> Lesson:
    original = query.segments[answer.value["segment"]]
    actions = original.actions.astype(object)
    actions[-1] = answer.value["text"]
    rewritten = Segment(
        f"{original.id}/rewritten-{query.id.round}-{query.id.index} by {answer.teacher}",
        original.observations,
        np.array(actions.tolist()),
        task=original.task,
        source=answer.teacher,
    )
    comparison = Comparison(rewritten, original, 1.0, query=query.id)
    return Lesson([comparison], [rewritten], [rewritten])


def is_decisive(answer: Answer) -> bool:
    """Return whether an answer prefers a segment to another."""
    value = answer.value
    if answer.kind == "preference":
        return value["left"] != 0.5
    if answer.kind == "ranking":
        return len(value["order"]) > 1
    if answer.kind == "ratings":
        return len(set(value["ratings"])) > 1
    return answer.kind == "rewrite"


def check_answer(query: Query, answer: Answer) -> None:
    """Raise `UserError` unless the answer fits the query."""
    problem = _problem_with(answer, query.segments)
    if problem:
        raise UserError(
            f"the answer of teacher {answer.teacher!r} to query {tuple(query.id)} {problem}"
        )


def _problem_with(answer: Answer, segments: Sequence[Segment]) -> str | None:
    value, kind, count = answer.value, answer.kind, len(segments)
    if not isinstance(value, dict):
        return f"holds {value!r}; expected an object with the fields of its kind"
    if kind in ("tie", "skip", "retraction"):
        return None
    if kind == "preference":
        left = value.get("left")
        if count != 2:
            return f"is a preference between two, but the query has {count} segments"
        if left is None or not _is_number(left) or not 0 <= left <= 1:
            return f"says P(left is better) = {left!r}; expected a number from 0 to 1"
        if value.get("strength") not in (None, *MARGIN_OF_STRENGTH):
            return f"has strength {value['strength']!r}; expected one of {[*MARGIN_OF_STRENGTH]}"
        return None
    if kind == "ranking":
        order = value.get("order") or ()
        flat = [index for group in order for index in group] if _is_nested(order) else None
        if flat is None or sorted(flat, key=repr) != list(range(count)):
            return f"ranks {order!r}; expected groups that hold each of 0 to {count - 1} once"
        return None
    if kind == "ratings":
        ratings, low, high = value.get("ratings"), value.get("low", 0), value.get("high", 0)
        if not _is_number(low) or not _is_number(high) or not 0 < high - low < math.inf:
            return f"rates on a scale from {low!r} to {high!r}; expected low < high"
        if not isinstance(ratings, Sequence) or len(ratings) != count:
            return f"rates {ratings!r}; expected {count} numbers"
        if not all(_is_number(rating) and low <= rating <= high for rating in ratings):
            return f"rates {ratings!r}; expected numbers from {low} to {high}"
        return None
    if kind == "rewrite":
        index, text = value.get("segment"), value.get("text")
        if not isinstance(text, str) or not isinstance(index, int) or not 0 <= index < count:
            return "is a rewrite without a text or without the segment it rewrites"
        if segments[index].actions.dtype.kind != "U":
            return "is a rewrite of actions that are not text; expected another kind of answer"
        return None
    return f"is of kind {kind!r}; expected one of {', '.join(get_args(AnswerKind))}"


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # numpy cannot judge huge integers


def _is_nested(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(group, Sequence) for group in value)
