"""Language models: agents, rewards and environments that speak `str`.

A language environment is a plain `gymnasium.Env` whose observations and actions are `str`, one turn
a step; `FreeText` is a space for both, `PromptEnv` the environment of a list of prompts.
`prefrl.text.check.check_environment` tries one out.
"""

from prefrl.envs.text import FreeText, PromptEnv  # pyright: ignore[reportMissingImports]
from prefrl.text.domain import DOMAIN

__all__ = ["DOMAIN", "FreeText", "PromptEnv"]
