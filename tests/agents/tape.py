"""What a CUDA graph does, on the CPU: the operations of a piece of work as they ran, run again on the very same tensors.

A number that Python worked out, a tensor made elsewhere, a branch taken: whatever a graph freezes is frozen here too.
"""

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class NoHostSync(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: a value read on the host, a shape that depends on one, a tensor from there."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal.default", "lift_fresh")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in self.FORBIDDEN), f"host sync: {func}"
        return func(*args, **(kwargs or {}))


class Tape(NoHostSync):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = super().__torch_dispatch__(func, types, args, kwargs)
        self.calls.append((func, args, kwargs or {}, found))
        return found

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, found in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(found), pytree.tree_leaves(again), strict=True):
                # a view, or what was changed in place, is there already
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.detach().copy_(new)


class TapeRecorder:
    """`agents.graphs.Recorder` on the CPU. Recording does the work, where a CUDA graph only notes it, so the first replay
    does nothing."""

    def warm_up(self, work):
        return work()

    def record(self, work, generators):
        tape, fresh = Tape(), [True]
        with tape:
            result = work()

        def replay():
            if fresh:
                fresh.clear()
            else:
                tape.replay()

        return result, replay
