"""The words of preference learning as data: what modules hand on.

Numpy only. Every class is frozen; arrays are not to be written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

AnswerKind = Literal[
    "preference", "tie", "ranking", "ratings", "rewrite", "skip", "broken", "retraction"
]

RATING_SCALE = (1, 7)
"""The lowest and the highest grade of a clip, where a person or the oracle gives one."""


class QueryId(NamedTuple):
    """Which query: the round that asked it and its index within the round."""

    round: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


FIRST_QUERY = QueryId(0, 0)

ENDED = "ended"
"""An extra, bool [step]: the episode was over already, and nothing more happens."""
STOOD_UP = "stood_up"
"""An extra, bool [step]: the body was put on its feet before this step, so its pose jumps."""

MODEL = "model"
"""An extra, `str` [step]: what the episode changed of its MuJoCo model (`prefrl.clips.looks`). In a
clip the first step says it, and the others are empty."""

SYSTEM = "system"
"""An extra, `str` [step]: at the first step what the model was told beforehand, else empty."""

Turn = tuple[str, str]
"""What was said, and the reply to it."""


@dataclass(frozen=True)
class Conversation:
    """Turns of text that end with a reply; a demonstration, or one of those that are compared."""

    turns: tuple[Turn, ...]
    system: str = ""
    """What the model is told before the first turn."""
    where: str = field(default="", compare=False)
    """Of which row of a file it is, in words."""


@dataclass(frozen=True)
class SpaceSpec:
    """What is observed or done at a step: numbers of a shape, one of `n` choices, or a text."""

    shape: tuple[int, ...] = ()
    n: int | None = None
    """Given, a whole number from 0 to n - 1."""
    text: bool = False


@dataclass(frozen=True)
class EnvironmentCard:
    """What a person who answers, or an import, must know of an environment."""

    domain: str
    """The object that builds for it, "package:OBJECT"."""
    dt: float
    """Seconds of a step."""
    question: str
    observations: SpaceSpec | None = None
    """None where it is not known."""
    actions: SpaceSpec | None = None
    aspects: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What each aspect asks, by its name, in the order in which they are asked; {} where there is
    one question alone."""

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
    clips: int = 0
    """Segments of the labelled queries: what was watched for them."""
    seconds: float = 0.0
    """What all answers took from being shown; a pause is not counted. It is time of people where
    people answered."""


class Ledger(NamedTuple):
    """What is on record of a round."""

    answers_through: int
    """Its fit saw the answers with id up to this."""
    asked: int
    """How many queries it asked."""


class Recorded(NamedTuple):
    """A round that was answered elsewhere."""

    round: int
    """-1, -2, …"""
    queries: int
    answers: int


@dataclass(frozen=True)
class Truth:
    """What the oracle alone may see of the clips of some queries."""

    rewards: dict[str, np.ndarray]
    """The true rewards `[step]` of each of these clips and of those in `asked`, by id."""
    asked: dict[int, list[str]]
    """All clips that the rounds of the queries asked about, by round."""
    mean_return: dict[int, float] = field(default_factory=dict)
    """Mean true return of a clip of all that a round's policy did, by round, if it is known."""


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
    asked_gap: dict[str, Any] | None = None
    """In true return, of replies that were asked to be best over those that were asked to be worst;
    of policies that have learned what they are asked."""
    win_rate: dict[str, Any] | None = None
    """Against the reference; a tie is half a win."""
    length_controlled: dict[str, Any] | None = None
    """The win rate if replies were equally long."""
    ties: int = 0
    skips: int = 0
    teacher: str | None = None
    """Who judged which reply wins."""
    held_out: bool | None = None
    """Whether the tasks were kept from training; None where there are no tasks."""
    notes: list[str] = field(default_factory=list)
    completions: list[dict[str, Any]] = field(default_factory=list)
    """Replies to show: `prompt`, and of `reference` and `policy` `text` and `true_return`."""


BETTER = "better"
"""What the one aspect is called where a word is needed; in queries it is ""."""


def of_aspect(clip: str, aspect: str) -> str:
    """Return under which name true rewards of a clip are handed on: its id, of an aspect with it.

    No id of a clip has a line break.
    """
    return f"{aspect}\n{clip}" if aspect else clip


def text_array(texts: Sequence[str]) -> np.ndarray:
    """Return texts as an array `[text]` of `str`, each whole.

    Arrays of numpy's own strings lose a NUL at the end, so texts that differ in one would be equal.
    """
    return np.array(list(texts), object)


def is_text(array: np.ndarray) -> bool:
    """Return whether an array holds texts: of `text_array`, or numpy's own strings."""
    return array.dtype.kind == "U" or (
        array.dtype.kind == "O" and all(isinstance(text, str) for text in array.flat)
    )


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
    """[step, …] each: what is needed to redraw the steps (`qpos`, `mocap`, `MODEL`), and what is to
    be known of them (`ENDED`, `STOOD_UP`)."""
    task: str = ""
    """What may be compared with what; empty when any clip may meet any other."""
    source: str = ""
    """The policy and round that made it."""
    episode: int = 0
    """Number of the episode within its source."""
    start: int = 0
    """Step of the episode at which this trajectory begins."""
    aspect_rewards: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[step] each, what the environment truly pays for each aspect: for the oracle alone."""

    def __post_init__(self) -> None:
        lengths = {len(self.observations), len(self.actions), len(self.env_rewards)}
        lengths |= {len(extra) for extra in self.extras.values()}
        lengths |= {len(rewards) for rewards in self.aspect_rewards.values()}
        if len(lengths) != 1:
            raise ValueError(f"a trajectory's arrays differ in length: {sorted(lengths)} steps")

    def __len__(self) -> int:
        return len(self.observations)


def subsample(trajectories: Sequence[Trajectory], steps: int = 8192) -> list[Trajectory]:
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


def steps_to_end(clip: Trajectory | Segment) -> int:
    """Return how many steps of a trajectory or segment there are until its episode has ended.

    From there on nothing moves. It is all of them if the episode goes on.
    """
    held = np.flatnonzero(clip.extras[ENDED]) if ENDED in clip.extras else []
    return int(held[0]) if len(held) else len(clip)


def until_end(segment: Segment) -> Segment:
    """Return what is to be seen of a segment: up to the moment in which its episode ended."""
    steps = steps_to_end(segment) + 1
    if steps >= len(segment):
        return segment
    extras = {name: extra[:steps] for name, extra in segment.extras.items()}
    return replace(
        segment,
        observations=segment.observations[:steps],
        actions=segment.actions[:steps],
        extras=extras,
    )


def system_of(clip: Trajectory | Segment) -> str:
    """Return the system message of a clip of text; empty if there is none."""
    return str(clip.extras[SYSTEM][0]) if SYSTEM in clip.extras else ""


def conversation_clip(conversation: Conversation, name: str, task: str) -> Segment:
    """Return a conversation as a clip."""
    observations, replies = zip(*conversation.turns, strict=True)
    system = [conversation.system, *[""] * (len(replies) - 1)]
    extras = {SYSTEM: text_array(system)} if conversation.system else {}
    return Segment(name, text_array(observations), text_array(replies), extras, task)


def alike(left: Segment, right: Segment) -> bool:
    """Return whether two segments show the same: then no answer can say which is better."""
    return np.array_equal(left.observations, right.observations) and np.array_equal(
        left.actions, right.actions
    )


def transcript(observations: Sequence[str], actions: Sequence[str]) -> str:
    """Return the replies of an episode as one text, what was said between them in quotes.

    Args:
        observations: `[turn]`, what was said; the first is the prompt, and left out.
        actions: `[turn]`, the reply to each.
    """
    lines = [str(actions[0])]
    for observation, reply in zip(observations[1:], actions[1:], strict=False):
        lines += [f"> {observation}", str(reply)]
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
    aspect: str = ""
    """What the question is about, where a run asks about several aspects."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.segments) <= 9:
            raise ValueError(f"a query holds 2 to 9 segments, not {len(self.segments)}")
        if len({segment.task for segment in self.segments}) > 1:
            raise ValueError("the segments of a query must come from the same task")


@dataclass(frozen=True)
class Answer:
    """A teacher's answer to a query.

    `value` depends on `kind`:
        preference: {"left": P(left is better)} and, if given, {"strength": one of the four words}
            or {"margin": a strength from 0 to 1};
        tie, skip: {} ("about equal" and "can't tell");
        broken: {} or {"segment": index}: it cannot be judged, so the query is set aside: nobody is
            asked it any more, and no answer to it is learned from;
        retraction: {}, of the teacher's own earlier answer;
        ranking: {"order": [[index, …], …]}, best first, equals together;
        ratings: {"ratings": [number, …], "low": number, "high": number};
        rewrite: {"segment": index, "text": a better last action} and, if given, the "order" of a
            ranking, or how far it is "preferred" to the segment, from 0 to 1, with a "strength".

    A person's answer may name one of a model's that it "overrules", by uuid; a model's that "asks"
    is shown to people for that. Any answer may hold a "comment", in the teacher's own words.
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
    uuid: str = field(default="", compare=False)
    """The sender's own name for it: what is sent twice counts once. The store makes one up where
    there is none."""
    gold: bool = False
    """Whether the answer was known before; this only measures the teacher, and teaches nothing."""


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
    aspect: str = ""
    """What it is about; see `Query`."""
    teacher: str = ""
    """Whose answer says so."""

    def swapped(self) -> Comparison:
        """Return the same comparison seen from the other side."""
        return replace(self, left=self.right, right=self.left, preference=1 - self.preference)
