"""Tries out whether an environment is a language environment.

from prefrl.text.check import check_environment

print(check_environment("your_package:Guess-v0"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from prefrl.environments import contract
from prefrl.environments.contract import short
from prefrl.environments.ids import make, resolve
from prefrl.errors import UserError

ORDINARY = "It is 5,\nI think."
REPLIES = (ORDINARY, "b", "2", "a longer reply. Of two sentences!", "7", "no", "c", "4")
LONG = "word " * 2000  # 10,000 characters
SEEDS = 8
DEMONSTRATIONS = 3

Heard = tuple[Any, ...]
"""What an environment gave: an observation, then reward, terminated and truncated of a step."""


def check_environment(
    environment: gymnasium.Env | EnvSpec | str, turns: int = 100, demonstrations: bool = True,
    replies: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Try out an environment and return notes: what may be meant so, but often is not.

    Of one that can be made, two copies are played in turns, too.

    Args:
        environment: an environment, what `ids.resolve` returned, or an id.
        turns: within how many an episode must end, whatever is replied.
        demonstrations: try those out, too, where there are any.
        replies: what to reply, again and again, where moves have a form of their own; by default
            some short texts.

    Raises:
        UserError: it breaks the contract; the message says how, and what to do.
    """
    if not isinstance(environment, gymnasium.Env):
        spec = resolve(environment)
        built, other = make(spec), make(spec)
        try:
            notes = check_environment(built, turns, demonstrations, replies)
            _Trial(built, turns, replies).check_copies(_Trial(other, turns, replies))
            return notes
        finally:
            built.close()
            other.close()
    trial = _Trial(environment, turns, replies)
    trial.check_spaces()
    trial.check_seeds()
    trial.check_odd_replies()
    trial.check_splits()
    if demonstrations:
        trial.check_demonstrations()
    return trial.notes()


class _Trial:
    """One environment under trial."""

    def __init__(self, environment: gymnasium.Env, turns: int, replies: Sequence[str] = ()):
        self.environment, self.turns = environment, turns
        self.replies: Sequence[str] = replies or REPLIES

    def check_spaces(self) -> None:
        for which in ("observation", "action"):
            space = self._space(which)
            sample = self._call(f"{which}_space.sample()", space.sample)
            if not isinstance(sample, str):
                raise self._wrong(
                    f"its {which} space {space} holds samples of type {type(sample).__name__}, "
                    "not str; use prefrl.text.FreeText()"
                )
        actions = self._space("action")
        if ORDINARY not in actions:
            raise self._wrong(
                f"its action space {actions} refuses {ORDINARY!r}, but a language model writes any "
                "characters; use prefrl.text.FreeText()"
            )
        self.replies = [reply for reply in self.replies if reply in actions]
        if not self.replies:
            raise self._wrong(f"its action space {actions} refuses every reply that is given")

    def check_seeds(self) -> None:
        """Play a task twice, with another one in between, then without a seed."""
        first = self.play(0)
        self.play(1)
        again = self.play(0)
        if first[0] != again[0]:
            raise self._wrong(
                f"reset(seed=0) began with {short(first[0][0])} and later with "
                f"{short(again[0][0])}; the same seed must give the same task, so draw it from "
                "self.np_random after super().reset(seed=seed)"
            )
        if first != again:
            turn = next(n for n in range(len(first)) if first[n : n + 1] != again[n : n + 1])
            raise self._wrong(
                f"after reset(seed=0) the same replies were answered otherwise the second time, in "
                f"turn {turn}: {_at(first, turn)}, then {_at(again, turn)}; let all chance come "
                "from self.np_random and set every attribute anew in reset"
            )
        self.play(None)

    def check_copies(self, other: _Trial) -> None:
        """Play a task alone, then turn by turn with another copy's, as many are in training."""
        alone, beside, heard = self.play(0), other.playing(1), []
        for one in self.playing(0):
            heard.append(one)
            next(beside, None)
        if heard != alone:
            turn = next(n for n in range(len(alone)) if alone[n : n + 1] != heard[n : n + 1])
            raise self._wrong(
                f"after reset(seed=0) it gave {_at(alone, turn)} in turn {turn}, but "
                f"{_at(heard, turn)} while another copy was played; copies share something, so "
                "keep what an episode needs in self, and draw all chance from self.np_random"
            )

    def check_odd_replies(self) -> None:
        """Reply with nothing, then with very much, as a model does sooner or later."""
        for reply in ("", LONG):
            self.play(0, [reply])

    def check_splits(self) -> None:
        self.play(0, options={"split": "test"})

    def check_demonstrations(self) -> None:
        demonstrations = getattr(self.environment.unwrapped, "demonstrations", None)
        if demonstrations is None:
            return
        call = f"demonstrations({DEMONSTRATIONS}, seed=0)"
        some, again = (self._call(call, demonstrations, DEMONSTRATIONS, seed=0) for _ in range(2))
        if not isinstance(some, list) or len(some) != DEMONSTRATIONS:
            raise self._wrong(f"{call} gave {short(some)}; expected a list of {DEMONSTRATIONS}")
        for turns in some:
            self._check_demonstration(turns)
        if some != again:
            raise self._wrong(f"{call} gave others the second time; draw them from the seed")

    def _check_demonstration(self, turns: Any) -> None:
        whole = isinstance(turns, list) and turns
        if not whole or not all(isinstance(turn, tuple) and len(turn) == 2 for turn in turns):
            raise self._wrong(
                f"a demonstration is {short(turns)}; expected a list of turns, each the pair "
                "(observation, reply), at least one"
            )
        for turn in turns:
            for which, text in zip(("observation", "action"), turn, strict=True):
                self._check_text(which, text, "a demonstration holds")

    def notes(self) -> list[str]:
        if all(self.play(0) == self.play(seed) for seed in range(1, SEEDS)):
            name = contract.name_of(self.environment)
            return [
                f"{name}: the seeds 0 to {SEEDS - 1} all gave the same task. If there are more, "
                "reset(seed) must choose one by the seed"
            ]
        return []

    def play(
        self, seed: int | None, replies: Sequence[str] = (), options: dict | None = None
    ) -> list[Heard]:
        """Play an episode with the same replies again and again; return what was heard."""
        return [*self.playing(seed, replies, options)]

    def playing(
        self, seed: int | None, replies: Sequence[str] = (), options: dict | None = None
    ) -> Iterator[Heard]:
        """Play an episode and yield what is heard, turn by turn."""
        replies = replies or self.replies
        yield (self._reset(seed, options),)
        for turn in range(self.turns):
            heard = self._step(replies[turn % len(replies)], turn + 1)
            yield heard
            if heard[2] or heard[3]:
                return
        raise self._wrong(
            f"an episode was not over after {self.turns} turns of replies such as "
            f"{short(replies[0])}; terminate it, register it with max_episode_steps, or tell "
            "check_environment(…, turns=…) how many it may take"
        )

    def _reset(self, seed: int | None, options: dict | None) -> str:
        observation, _ = contract.reset(self.environment, seed, options)
        source = f"{contract.words_of_reset(seed, options)} gave"
        self._check_text("observation", observation, source)
        return observation

    def _step(self, reply: str, turn: int) -> Heard:
        when = f"in turn {turn}"
        outcome = contract.step(self.environment, reply, when)
        source = f"{contract.words_of_step(reply, when)} gave"
        self._check_text("observation", outcome.observation, source)
        return outcome[:4]

    def _check_text(self, which: str, text: Any, who: str) -> None:
        contract.check_text(self.environment, text, f"{who} the {which}")
        if text not in self._space(which):
            raise self._wrong(
                f"{who} the {which} {short(text)}, which its {which} space {self._space(which)} "
                "does not contain; use prefrl.text.FreeText()"
            )

    def _space(self, which: str) -> gymnasium.Space:
        return contract.space_of(self.environment, which, "prefrl.text.FreeText()")

    def _call(self, call: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return contract.call(self.environment, call, method, *args, **options)

    def _wrong(self, problem: str) -> UserError:
        return contract.broken(self.environment, problem)


def _at(heard: Sequence[Heard], turn: int) -> str:
    return str(heard[turn]) if turn < len(heard) else "nothing, the episode was over"
