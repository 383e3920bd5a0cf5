"""Tries an environment of somebody's own out, before anything is trained in it.

from prefrl.runs.check import check_environment

print(check_environment("your_package:Your-v0"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from prefrl.environments.ids import resolve
from prefrl.runs.domains import domain_for


def check_environment(
    environment: gymnasium.Env | str, limit: int | None = None,
    kwargs: Mapping[str, Any] | None = None, replies: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Try an environment of numbers or of text out and return notes.

    Notes are about what may be meant so, but often is not; there are none if all is well.

    Args:
        environment: an environment, or the id of one; "package:Id-v0" imports the package first.
        limit: steps (of text: turns) within which an episode ends.
        kwargs: for the constructor, where an id is given.
        replies: what to reply, again and again, where it speaks text; by default some short texts.

    Raises:
        UserError: it breaks the contract; the message says how, and what to do.
    """
    env = resolve(environment, kwargs) if isinstance(environment, str) else environment
    return domain_for(env).check_environment(env, limit, replies)
