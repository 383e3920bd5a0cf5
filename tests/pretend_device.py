"""A device `pretend:0`, which computes on the CPU and refuses what CUDA refuses.

    with pretend() as seen:
        …                  # torch.zeros(3, device="pretend"), model.to("pretend"), --text.device
    seen.waits             # how often a GPU would have had to be waited for

A tensor of it holds one of the CPU. As on CUDA it cannot be computed with what is on the CPU, but
for numbers (of no dimension) and indices, draws no numbers with a generator of the CPU, becomes no
array of numpy, and asked for a fixed order refuses what adds up in none. A GPU is waited for when
Python reads a number, when something is copied from it, and when a size depends on values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed.tensor  # before anything is replaced below
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

DEVICE = "pretend"
COPIES = {"aten::copy_", "aten::_to_copy", "aten::set_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Of what CUDA refuses under `torch.use_deterministic_algorithms`, for real numbers, as torch's
# documentation of that has it.
IN_NO_ORDER = {
    "aten::cumsum", "aten::cumsum_", "aten::put_", "aten::histc", "aten::bincount",
    "aten::kthvalue", "aten::median", "aten::_ctc_loss", "aten::nll_loss2d_forward",
}  # fmt: skip
SIZED_BY_VALUES = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}


class Seen:
    """What has happened on the device."""

    def __init__(self):
        self.waits, self.operations = 0, 0


class Pretend(torch.Tensor):
    """A tensor of the device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype,
            device=torch.device(DEVICE, 0),
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self, **_):
        return f"pretend({self.held})"

    def numpy(self, *_, **__):
        raise TypeError("can't convert pretend:0 device type tensor to numpy; use Tensor.cpu()")

    __array__ = numpy

    def tolist(self):
        return self.cpu().tolist()

    def __getitem__(self, index):
        return super().__getitem__(_with_tensors(index))

    def __setitem__(self, index, value):
        super().__setitem__(_with_tensors(index), value)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            made = Pretend(copy.deepcopy(self.held.detach()))
            if isinstance(self, torch.nn.Parameter):
                made = torch.nn.Parameter(made, self.requires_grad)
            memo[id(self)] = made
        return memo[id(self)]

    def storage(self):
        return self.held.storage()

    def untyped_storage(self):
        return self.held.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, function, types, given=(), named=None):
        return _run(function, given, named or {}, Seen())


class Mode(TorchDispatchMode):
    """Also sees what makes tensors out of none, and counts."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, function, types, given=(), named=None):
        return _run(function, given, named or {}, self.seen)


@contextmanager
def pretend() -> Iterator[Seen]:
    """Let there be the device meanwhile."""
    made, swaps = torch.tensor, torch.__future__.get_swap_module_params_on_conversion()

    def tensor(data, *, device=None, **named):  # torch's own never asks whether it may
        return made(data, **named) if device is None else made(data, **named).to(device)

    torch.tensor = tensor
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied weights stay tied
    seen = Seen()
    try:
        # A device has a thread for backward passes, which would use as many cores as there are.
        with Mode(seen), torch.autograd.set_multithreading_enabled(False):
            yield seen
    finally:
        torch.tensor = made
        torch.__future__.set_swap_module_params_on_conversion(swaps)


def _run(function: Any, given: Any, named: dict[str, Any], seen: Seen) -> Any:
    name = function._schema.name
    flat, _ = tree_flatten((given, named))
    tensors = [one for one in flat if isinstance(one, torch.Tensor)]
    are_ours = any(isinstance(one, Pretend) for one in tensors)
    device = named.get("device")
    asks_us = device is not None and torch.device(device).type == DEVICE
    if not are_ours and not asks_us:
        return function(*given, **named)
    _check(name, given, flat, tensors)
    if name == "aten::copy_":
        gives_ours = isinstance(given[0], Pretend)
    else:
        gives_ours = asks_us or (are_ours and device is None)
    seen.operations += 1
    seen.waits += name == "aten::_local_scalar_dense" or name in SIZED_BY_VALUES
    seen.waits += any(one.dtype == torch.bool for one in _indices(name, given))
    seen.waits += name in COPIES and are_ours and not gives_ours
    held, held_named = tree_map(_held, given), tree_map(_held, named)
    if device is not None:
        held_named["device"] = torch.device("cpu")
    if held_named.get("pin_memory"):
        held_named["pin_memory"] = False
    result = function(*held, **held_named)
    if not gives_ours:
        return result
    if all(returned.alias_info is None for returned in function._schema.returns):
        result = tree_map(lambda one: _own(one, tensors), result)
    wrapped = tree_map(_wrapped, result)
    return return_and_correct_aliasing(function, given, named, wrapped) if are_ours else wrapped


def _check(name: str, given: Any, flat: list[Any], tensors: list[torch.Tensor]) -> None:
    indices = {id(one) for one in _indices(name, given)}
    for one in tensors:
        is_elsewhere = not isinstance(one, Pretend) and one.dim() > 0 and id(one) not in indices
        if is_elsewhere and name not in COPIES:
            raise RuntimeError(
                f"expected all tensors to be on the same device, but {name} found pretend:0 and cpu"
            )
    in_order = torch.are_deterministic_algorithms_enabled()
    if in_order and name in IN_NO_ORDER and any(one.is_floating_point() for one in tensors):
        raise RuntimeError(f"{name} does not have a deterministic implementation on pretend")
    if any(isinstance(one, torch.Generator) for one in flat):
        raise RuntimeError(f"expected a generator of pretend, but {name} found one of cpu")


def _indices(name: str, given: Any) -> list[torch.Tensor]:
    if name not in INDEXED:
        return []
    return [one for one in tree_flatten(given[1])[0] if one is not None]


def _held(one: Any) -> Any:
    return one.held if isinstance(one, Pretend) else one


def _wrapped(one: Any) -> Any:
    is_bare = isinstance(one, torch.Tensor) and not isinstance(one, Pretend)
    return Pretend(one) if is_bare else one


def _own(one: Any, tensors: list[torch.Tensor]) -> Any:
    """Return a result with memory of its own: autograd writes to what it believes to be one's own.

    Some operations give a view without saying so; autograd looks at the memory then, and what the
    tensors here hold it does not see.
    """
    if not isinstance(one, torch.Tensor) or isinstance(one, Pretend):
        return one
    places = {_held(given).untyped_storage().data_ptr() for given in tensors}
    return one.clone() if one.untyped_storage().data_ptr() in places else one


def _with_tensors(index: Any) -> Any:
    """Return an index whose lists are tensors; torch makes these without asking whether it may."""
    if isinstance(index, tuple):
        return tuple(map(_with_tensors, index))
    return torch.tensor(index, device=DEVICE) if isinstance(index, list) else index


class _Device(ModuleType):
    """What torch asks of the module of a device."""

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def _is_in_bad_fork(self):
        return False

    def manual_seed_all(self, seed):
        pass

    def get_rng_state(self, device=None):
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state, device=None):
        pass

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(DEVICE, _Device("torch.pretend"))
