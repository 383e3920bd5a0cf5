"""Several processes that train one run together (torch.distributed).

One process, the usual case, is the first of one, and nothing here costs it anything. The first
process has the run: its folder, its store, its environments and whoever answers. All of them make
the same calls in the same order, each computes its share of what is large, and what the first
process alone may do the others hear of.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from prefrl.errors import UserError

Result = TypeVar("Result")
PATIENCE = timedelta(days=1)  # people and judges may take their time; who dies is noticed at once
_is_by_itself: ContextVar[bool] = ContextVar("is_by_itself", default=False)


def count() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if _are_together() else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return distributed.get_rank() if _are_together() else 0


def _are_together() -> bool:
    return distributed.is_initialized() and not _is_by_itself.get()


@contextmanager
def by_itself() -> Iterator[None]:
    """Let each process compute all of something, as if there were no others: the same in each."""
    before = _is_by_itself.set(True)
    try:
        yield
    finally:
        _is_by_itself.reset(before)


def is_first() -> bool:
    """Return whether this process has the run."""
    return rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Meet the other processes, whose number and address the environment variables of torchrun say.

    Raises:
        UserError: another process has ended.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if not _is_of_another(error):
            raise
        raise UserError(
            f"another of the {count()} processes of this run has ended, so this one cannot go on; "
            "see what it said, and go on with `prefrl resume`"
        ) from None
    finally:
        distributed.destroy_process_group()


def _is_of_another(error: RuntimeError) -> bool:
    """Return whether an error says that a process cannot be reached."""
    said = str(error)
    return isinstance(error, distributed.DistError) or "gloo" in said or "Connection" in said


def from_first(run: Callable[[], Result]) -> Result:
    """Return what the first process alone runs; raise in all of them what it raises."""
    if count() == 1:
        return run()
    outcome: list[Any] = [_outcome(run) if is_first() else None]
    distributed.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    return _unpacked(outcome[0])


def heard() -> Any:
    """Return what the first process has `from_first`."""
    return from_first(lambda: None)


def led(run: Callable[[], Result], meanwhile: Callable[[], None]) -> Result:
    """Return what the first process runs, who is helped by the others until it is done.

    Args:
        run: of the first process; it asks for help by `from_first`.
        meanwhile: of the others; it hears with `from_first` what to do, and that None is to follow.
    """
    if count() == 1:
        return run()
    if not is_first():
        meanwhile()
        return from_first(run)
    done = _outcome(run)
    from_first(lambda: None)
    return from_first(lambda: _unpacked(done))


def shares(run: Callable[[], Sequence[Result]], total: int) -> list[Result]:
    """Return what all processes computed, in order; raise in all of them what one raises.

    Args:
        run: returns the items of this process: of `total` those of `own`.
        total: how many items there are.
    """
    if count() == 1:
        return [*run()]
    outcomes: list[Any] = [None] * count()
    distributed.all_gather_object(outcomes, _outcome(run))
    merged: list[Any] = [None] * total
    for number, outcome in enumerate(outcomes):
        merged[number :: count()] = _unpacked(outcome)
    return merged


def exchanged(mine: Mapping[int, Tensor], total: int) -> list[Tensor]:
    """Return tensors of which each process has computed some; its own keep their gradient.

    Args:
        mine: by their index.
        total: how many all processes have.
    """
    outcomes: list[Any] = [None] * count()
    device = torch.device("cpu")
    distributed.all_gather_object(
        outcomes, {index: tensor.detach().to(device) for index, tensor in mine.items()}
    )
    found = {index: tensor for outcome in outcomes for index, tensor in outcome.items()}
    like = next(iter(mine.values()), torch.zeros(())).device
    return [mine[index] if index in mine else found[index].to(like) for index in range(total)]


def own(total: int) -> range:
    """Return which of so many items are this process's."""
    return range(rank(), total, count())


def _outcome(run: Callable[[], Any]) -> tuple[bool, Any]:
    """Return whether something could be run, and what it returned or raised."""
    try:
        return True, run()
    except Exception as error:
        try:
            pickle.dumps(error)
        except Exception:  # whatever an environment raises
            return False, RuntimeError(f"{type(error).__name__}: {error}")
        return False, error


def _unpacked(outcome: tuple[bool, Any]) -> Any:
    went_well, result = outcome
    if not went_well:
        raise result
    return result


def added(values: Tensor) -> Tensor:
    """Return the sum of the tensors of all processes."""
    if count() > 1:
        distributed.all_reduce(values)
    return values


def added_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """Return the sums of the numbers of all processes, by their names."""
    if count() == 1:
        return numbers
    sums = added(torch.tensor([*numbers.values()], dtype=torch.float64))
    return dict(zip(numbers, sums.tolist(), strict=True))


def all_of(holds: Tensor) -> bool:
    """Return whether something holds in all processes."""
    if count() == 1:
        return bool(holds)
    return not added((~holds).float())


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which each process may hold a part; all of them ask for it."""
    if count() == 1:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def equal(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors of the same parts are equal in all processes."""
    if count() == 1:
        return torch.equal(left, right)
    from torch.distributed.tensor import DTensor

    parts = [t.to_local() if isinstance(t, DTensor) else t for t in (left, right)]
    differ = torch.tensor(float(not torch.equal(*parts)), device=parts[0].device)
    return not added(differ)


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, as that of another one."""
    if count() == 1:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    where = tensor.to(like.device)
    return distribute_tensor(where, like.device_mesh, like.placements, src_data_rank=None)


def load_whole(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Load a state dict of whole tensors into a module of which this process may hold a part."""
    if count() > 1:
        own = module.state_dict()
        state = {name: split_like(value, own[name]) for name, value in state.items()}
    module.load_state_dict(state)


def split_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict of an optimiser, its whole tensors split as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            name: split_like(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in of_one.items()
        }
        for index, of_one in state["state"].items()
    }
    return state | {"state": moments}


def whole_state(state: Any) -> Any:
    """Return a state dict with the whole tensors; all processes ask for it."""
    if count() == 1:
        return state
    if isinstance(state, dict):
        return {name: whole_state(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [whole_state(value) for value in state]
    return whole(state) if isinstance(state, Tensor) else state
