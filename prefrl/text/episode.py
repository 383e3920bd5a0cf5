"""An episode as token ids, which are only ever appended to.

What the policy sampled is what it is trained on: text is decoded for the environment to read, and
never turned into tokens again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prefrl.types import SYSTEM, Segment, Trajectory, text_array

NO_TOKEN = -1  # fills the rows of an array of ids


@dataclass
class Episode:
    """One episode under way: token ids, which of them the policy sampled, and the texts."""

    seed: int
    """The environment was reset with it."""
    mark: int = 0
    """Of the template that the ids are of."""
    left_out: int = 0
    """Tasks that this one stands for, as their prompts were longer than the context."""
    system: str = ""
    """What the model was told before, which its ids begin with."""
    out_of_context: bool = False
    """Whether it ended as the model's context was full, before the environment ended it: what that
    would have paid later is lost."""
    asked: list[int] = field(default_factory=list)
    """What the policy alone read instead of the first observation's ids, where it was given an
    instruction; reward models and the reference read `ids`."""
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    """Whether the policy sampled an id; the others are of observations."""
    ends: list[int] = field(default_factory=list)
    """Length of `ids` after each reply."""
    starts: list[int] = field(default_factory=list)
    """Length of `ids` before each reply."""
    finished: list[bool] = field(default_factory=list)
    """Whether each reply ended with the end of sequence, not with the limit of tokens."""
    observations: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    env_rewards: list[float] = field(default_factory=list)
    aspect_rewards: dict[str, list[float]] = field(default_factory=dict)
    """What each turn truly pays for each aspect, where the environment says it of all turns."""
    report: dict[str, float] = field(default_factory=dict)
    """Numbers that the environment gave with the last step."""

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def read(self) -> list[int]:
        """The ids as the policy read and sampled them, with what it was asked."""
        return [*self.asked, *self.ids[self._begin :]] if self.asked else self.ids

    @property
    def sampled_of_read(self) -> list[bool]:
        """Whether the policy sampled an id of `read`."""
        if not self.asked:
            return self.sampled
        return [*[False] * len(self.asked), *self.sampled[self._begin :]]

    @property
    def _begin(self) -> int:
        """Length of the first observation's ids."""
        return self.starts[0] if self.starts else len(self.ids)

    def append_observation(self, observation: str, ids: Sequence[int]) -> None:
        """Append an observation of the environment."""
        self.observations.append(observation)
        self.ids += ids
        self.sampled += [False] * len(ids)

    def append_reply(self, action: str, ids: Sequence[int], finished: bool) -> None:
        """Append a reply of the policy."""
        self.starts.append(len(self.ids))
        self.actions.append(action)
        self.ids += ids
        self.sampled += [True] * len(ids)
        self.ends.append(len(self.ids))
        self.finished.append(finished)

    def trajectory(self, source: str, number: int) -> Trajectory:
        """Return the episode as a trajectory, one turn a step.

        Its extras hold the ids, padded with -1: `observation_ids` `[turn, …]`, which come before
        each reply, and `reply_ids` `[turn, …]`; `finished` `[turn]`; and `mark` `[turn]`, that of
        the template, since ids of another template mean something else. Where there is a system
        message, they hold that, too.
        """
        turns = len(self)
        before = [0, *self.ends[:-1]]
        observation = [self.ids[a:b] for a, b in zip(before, self.starts, strict=True)]
        reply = [self.ids[a:b] for a, b in zip(self.starts, self.ends, strict=True)]
        system = {SYSTEM: text_array([self.system, *[""] * (turns - 1)])} if self.system else {}
        return Trajectory(
            text_array(self.observations[:turns]),
            text_array(self.actions),
            np.array(self.env_rewards, float),
            {
                "observation_ids": _rows(observation),
                "reply_ids": _rows(reply),
                "finished": np.array(self.finished, bool),
                "mark": np.full(turns, self.mark, np.int64),
                **system,
            },
            task=f"seed {self.seed}",
            source=source,
            episode=number,
            aspect_rewards={
                aspect: np.array(paid, float)
                for aspect, paid in self.aspect_rewards.items()
                if len(paid) == turns
            },
        )


def turns_of(
    segment: Segment | Trajectory, mark: int | None = None
) -> list[tuple[list[int], list[int]]] | None:
    """Return the ids before each reply and of each reply, None if nobody sampled them.

    Args:
        segment: whose ids.
        mark: of a template; ids of another one are as none.
    """
    extras = segment.extras
    if "reply_ids" not in extras or (mark is not None and np.any(extras.get("mark") != mark)):
        return None
    return [
        (observation[observation != NO_TOKEN].tolist(), reply[reply != NO_TOKEN].tolist())
        for observation, reply in zip(extras["observation_ids"], extras["reply_ids"], strict=True)
    ]


def _rows(lists: Sequence[Sequence[int]]) -> np.ndarray:
    rows = np.full((len(lists), max(map(len, lists))), NO_TOKEN, np.int32)
    for row, ids in zip(rows, lists, strict=True):
        row[: len(ids)] = ids
    return rows
