"""PromptEnv: a list of prompts as an environment of one turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from prefrl.envs.spaces import FreeText  # pyright: ignore[reportMissingImports]

Score = Callable[[str, str], float]
"""Returns what a reply to a prompt is truly worth: `score(prompt, reply)`."""


class PromptEnv(gymnasium.Env[str, str]):
    """Reply to a prompt, drawn from a list. One turn.

    gymnasium.register("Mine-v0", lambda: PromptEnv(["Once upon a time", "Long ago"]))

    Observation: the prompt. Action: any text. Reward: its score, 0 if nobody can give one; then
    people or a function answer, and there is no true return to evaluate by.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(
        self, prompts: Sequence[str], score: Score | None = None, held_out: Sequence[str] = ()
    ) -> None:
        """Build it.

        Args:
            prompts: at least one.
            score: the hidden reward, if there is one.
            held_out: prompts of `options={"split": "test"}`; those of training by default.

        Raises:
            ValueError: there are no prompts, or one of them is no text.
        """
        self.prompts = {"train": prompts, "test": held_out or prompts}
        lists = not isinstance(prompts, str) and not isinstance(held_out, str)
        if not lists or not prompts or not all(isinstance(p, str) for p in [*prompts, *held_out]):
            raise ValueError("expected a list of prompts, at least one, each a text")
        self.score = score
        self.observation_space = self.action_space = FreeText()
        self.prompt = prompts[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw a prompt."""
        super().reset(seed=seed)
        prompts = self.prompts[(options or {}).get("split", "train")]
        self.prompt = prompts[int(self.np_random.integers(len(prompts)))]
        return self.prompt, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score the reply; the episode is over."""
        reward = 0.0 if self.score is None else float(self.score(self.prompt, action))
        return "", reward, True, False, {}
