"""Which answers a member of the ensemble learns from, and which judge it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prefrl.types import QueryId


def bag_weights(
    seed: int, queries: Sequence[QueryId], members: int, held_out: float = 0.0
) -> Tensor:
    """Return how often each member learns from each comparison, `[member, comparison]`.

    Several members have bags of their own, Poisson(1): e⁻¹ of the comparisons are out of each bag,
    which is Christiano's validation share. A bag makes one member alone no different from anybody;
    it would only lose a third of the answers. So it learns from all of them once, but for the share
    `held_out` of the queries.

    Both are hashes of (seed, query, member), so membership is for life: a warm start never trains
    on what was out of bag before, and resuming needs to save nothing. All comparisons of one query
    share their fate.
    """
    weights = torch.empty(members, len(queries))
    for column, query in enumerate(queries):
        if members == 1:
            weights[0, column] = _uniform(f"held out {seed} {query[0]} {query[1]}") >= held_out
            continue
        for member in range(members):
            key = f"bag {seed} {query[0]} {query[1]} {member}"
            weights[member, column] = _poisson_quantile(_uniform(key))
    return weights


def hashed_order(seed: int, names: Sequence[str]) -> list[int]:
    """Return the rows of names in an order that follows from the seed and each name alone."""
    return sorted(range(len(names)), key=lambda row: _uniform(f"order {seed} {names[row]}"))


def _uniform(key: str) -> float:
    """Return a number from 0 to less than 1 that is a hash of a text."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _poisson_quantile(uniform: float) -> int:
    count, probability = 0, float(np.exp(-1))
    total = probability
    while uniform > total and count < 20:
        count += 1
        probability /= count
        total += probability
    return count
