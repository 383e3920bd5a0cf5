"""Weights of which each of several processes holds a part (FSDP2, torch's `fully_shard`).

A layer's weights are gathered for its pass and let go after it; gradients are summed over the
processes, as each computes its share of one loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from torch import nn

from prefrl.learning import parallel
from prefrl.text.models.batches import by_length

Result = TypeVar("Result")


class Group(NamedTuple):
    """Rows of a batch that are read together."""

    rows: list[int]
    weight: float
    """1, or 0 for what is read only because other processes have one more group to read."""


def own_groups(lengths: Sequence[int], most: int = 0) -> list[Group]:
    """Return the groups that this process reads of a batch; see `by_length`.

    All processes get as many, since each pass needs all of them; together they read each row once
    with weight 1.

    Args:
        lengths: of the rows, in tokens.
        most: rows of a group; 0 for as many as there are.
    """
    if parallel.count() == 1:
        return [Group(rows, 1.0) for rows in by_length(lengths, most)]
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    of_rank = []
    for rank in range(parallel.count()):
        rows = order[rank :: parallel.count()]
        groups = by_length([lengths[row] for row in rows], most)
        of_rank.append([[rows[index] for index in group] for group in groups])
    mine, passes = of_rank[parallel.rank()], max(map(len, of_rank))
    idle = Group([order[-1]], 0.0)
    return [Group(rows, 1.0) for rows in mine] + [idle] * (passes - len(mine))


class Whole(nn.Module):
    """A module that several processes may hold between them, for passes of what is in it."""

    def __init__(self, module: nn.Module):
        """Take a module."""
        super().__init__()
        self.module = module

    def forward(self, passes: Callable[[], Result]) -> Result:
        """Run passes of the module, and return what they give; all processes run theirs at once."""
        return passes()


def shard(whole: nn.Module, decoders: Sequence[nn.Module]) -> None:
    """Let each process hold its part of the weights of a module, in place.

    From then on it is used within calls of its `forward` alone, or `gathered`.

    Args:
        whole: the module; its `forward` runs what it is given.
        decoders: in it, whose layers are gathered one after the other.
    """
    if parallel.count() == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    device = next(whole.parameters()).device.type
    mesh = init_device_mesh(device, (parallel.count(),))
    stacks = [part for d in decoders for part in d.children() if isinstance(part, nn.ModuleList)]
    for layer in dict.fromkeys(layer for stack in stacks for layer in stack):
        fully_shard(layer, mesh=mesh)
    fully_shard(whole, mesh=mesh, reshard_after_forward=True)
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no product in its sums
    whole(lambda: None)  # or a layer that is run by itself first would take itself for the whole


@contextmanager
def gathered(whole: Any, part: nn.Module) -> Iterator[None]:
    """Hold all weights of a part of a module, and what no layer holds, for many short passes."""
    if parallel.count() == 1:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    units = [module for module in part.modules() if isinstance(module, FSDPModule)]
    units = [*dict.fromkeys([whole, *units])]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()
