"""Weights of which each of several processes holds a part (FSDP2, torch's `fully_shard`).

A layer's weights are gathered for its pass and let go after it, as are an embedding's and a head's;
gradients are summed over the processes, as each computes its share of one loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prefrl.learning import parallel
from prefrl.text.models.batches import by_length

Result = TypeVar("Result")
LARGEST = 1 / 20  # of all weights, what is gathered at a time, unless it is one matrix


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


def shard(whole: nn.Module) -> None:
    """Let each process hold its part of the weights of a module, in place.

    From then on it is used within calls of its `forward` alone, or `gathered`. A part of it has
    weights while that part is called.

    Args:
        whole: the module; its `forward` runs what it is given.
    """
    if parallel.count() == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    device = next(whole.parameters()).device.type
    mesh = init_device_mesh(device, (parallel.count(),))
    for unit in units(whole):
        unit.register_forward_hook(_without_views)  # before the hook of fully_shard
        fully_shard(unit, mesh=mesh)
        if isinstance(unit, nn.Embedding):  # its gradient depends on no weights
            cast(FSDPModule, unit).set_unshard_in_backward(False)
    fully_shard(whole, mesh=mesh, reshard_after_forward=True)
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no product in its sums
    whole(lambda: None)  # or a layer that is run by itself first would take itself for the whole


def units(whole: nn.Module) -> list[nn.Module]:
    """Return the parts of a module whose weights are gathered one after the other.

    They are layers, embeddings and heads; or matrices, where a layer would be much of all weights.
    What is left is gathered for a whole pass: vectors, and what two parts share, as an embedding
    that is the head, too.
    """
    owners = _owners(whole)
    most = LARGEST * sum(weights.numel() for weights in whole.parameters())

    def within(module: nn.Module) -> Iterator[nn.Module]:
        for part in module.children():
            weights = [*part.parameters()]
            own = _owners(part)
            is_small = sum(one.numel() for one in weights) <= most
            has_matrices = any(one.dim() > 1 for one in part.parameters(recurse=False))
            is_one = has_matrices or (is_small and not isinstance(part, nn.ModuleList))
            if not is_one or any(own[one] < owners[one] for one in own):
                yield from within(part)
            elif any(one.dim() > 1 for one in weights):
                yield part

    return [*dict.fromkeys(within(whole))]


def _without_views(module: nn.Module, given: Any, result: Any) -> Any:
    """Return what a part gives, none of it a view: written to, that loses FSDP's hooks."""
    return tree_map_only(Tensor, lambda one: one if one._base is None else one.clone(), result)


def _owners(module: nn.Module) -> Counter[nn.Parameter]:
    """Return by how many parts of a module each of its weights is held."""
    return Counter(one for part in module.modules() for one in part.parameters(recurse=False))


@contextmanager
def gathered(*parts: nn.Module, within: nn.Module | None = None) -> Iterator[None]:
    """Hold all weights of parts of a module, for many short passes.

    Args:
        parts: which; what they share with others is not gathered here.
        within: the module, where no pass of it is under way; what no unit holds is gathered, too.
    """
    if parallel.count() == 1:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    inside = [module for part in parts for module in part.modules()]
    held = [one for one in dict.fromkeys([within, *inside]) if isinstance(one, FSDPModule)]
    for unit in held:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in held:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()
