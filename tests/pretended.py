"""A device that is not there: its tensors say that they are elsewhere than on the CPU, and compute on it, to its very bits.

What would stop a program on a GPU stops it here as well: tensors of host and device in one operation, memory of the device
taken for memory of the host. Where it reads values of the device, which on a GPU waits for it, is written down. The device
calls itself "meta", for autograd in a torch without CUDA knows no other; so what asks for "cuda" by name does not see it.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta", 0)
#: operations whose result or shape depends on values
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique2", "bincount")


class Pretended(Tensor):
    """A tensor of the device; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor):
        self = Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
                                             dtype=held.dtype, device=DEVICE)  # fmt: skip
        self.held = held
        return self

    def __repr__(self, *, tensor_contents=None):
        return f"Pretended({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of `pretended()`")

    __torch_function__ = torch._C._disabled_torch_function_impl


class Generator(torch.Generator):
    """A generator of the CPU that says it is where it was asked for."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.claimed = torch.device(device)
        return self

    @property
    def device(self):
        return self.claimed


def _is_ours(device) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


class _Operations(TorchDispatchMode):
    def __init__(self, reads: list[str]):
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        ours = [x for x in tensors if isinstance(x, Pretended)]
        hosts = [tuple(x.shape) for x in tensors if not isinstance(x, Pretended) and x.dim()]
        if ours and hosts and name != "copy_":
            raise RuntimeError(f"{name}: tensors of the host, of shape {hosts}, beside tensors of the device")
        known = {id(x.held): x for x in ours}
        plain = lambda x: x.held if isinstance(x, Pretended) else torch.device("cpu") if _is_device(x) else x  # noqa: E731
        found = func(*tree_map(plain, args), **tree_map(plain, kwargs))
        stays = isinstance(args[0], Pretended) if name == "copy_" else (
            _is_ours(kwargs["device"]) if kwargs.get("device") is not None else bool(ours))  # fmt: skip
        if ours and (not stays or name in READS):
            self.reads.append(_where(name))

        def wrapped(x):
            if not (isinstance(x, Tensor) and stays):
                return x
            if id(x) in known:  # changed in place
                return known[id(x)]
            return Pretended(x.resolve_conj().resolve_neg())  # the outside does not know of such a mark

        return tree_map(wrapped, found)


def _is_device(x) -> bool:
    return isinstance(x, torch.device) and _is_ours(x)


def _where(name: str) -> str:
    """The operation, and the function of ours that it was called in."""
    frame = sys._getframe(2)
    while frame and (".venv" in (path := frame.f_code.co_filename) or "torch" in path or path == __file__):
        frame = frame.f_back
    return f"{name} in {frame.f_code.co_qualname}" if frame else name


class _Functions(TorchFunctionMode):
    """What torch works out in C++ without telling an operation."""

    def __init__(self, reads: list[str]):
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_ours(kwargs.get("device")):
            return func(*args, **{k: v for k, v in kwargs.items() if k != "device"}).to(kwargs["device"])
        if func is Tensor.tolist and isinstance(args[0], Pretended):
            self.reads.append(_where("tolist"))
            return args[0].held.tolist()
        return func(*args, **kwargs)


@contextmanager
def pretended():
    """Gives the list of what reads the device's values, in the order of reading."""
    reads: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "Generator", Generator))
        # torch knows which devices have a fused Adam by their names
        stack.enter_context(patch("torch.optim.adam._device_dtype_check_for_fused", lambda *_, **__: None))
        stack.enter_context(_Functions(reads))
        stack.enter_context(_Operations(reads))
        yield reads


def host(x: Tensor, device: torch.device) -> Tensor:
    """Its numbers, unread as far as the list is concerned. It must be on `device`."""
    assert x.device == device, f"on {x.device}"
    return x.held if isinstance(x, Pretended) else x.detach()
