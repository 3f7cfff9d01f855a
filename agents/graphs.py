"""Work of fixed shape that is recorded once and then replayed, on a CUDA device with one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Work = Callable[[], Any]


class Recorder(Protocol):
    """How work is recorded; `CudaRecorder` is the one there is beside the tests' own, which replays on the CPU."""

    def warm_up(self, work: Work) -> Any:
        """Does the work as it is, in a way that prepares its recording."""

    def record(self, work: Work, generators: Sequence[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        """The tensors that the work's result will lie in, and the function that does the work once more."""


class CudaRecorder:
    """Records CUDA graphs. The work draws from generators on the device only, and reads no value on the host."""

    def __init__(self, device: torch.device):
        self.side = torch.cuda.Stream(device)  # graphs are recorded off the default stream, and so warmed up there

    def warm_up(self, work: Work) -> Any:
        now = torch.cuda.current_stream(self.side.device)
        self.side.wait_stream(now)
        with torch.cuda.stream(self.side):
            result = work()
        now.wait_stream(self.side)
        return result

    def record(self, work: Work, generators: Sequence[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        self.side.wait_stream(torch.cuda.current_stream(self.side.device))
        with torch.cuda.graph(graph, stream=self.side):
            result = work()
        return result, graph.replay


class Recorded:
    """`function(*inputs)`, done as it is `WARM_UP` times, then recorded and replayed.

    Inputs and result are tensors in nested tuples and dicts. The function has fixed shapes, draws from `generators` only,
    and changes in place what it keeps from call to call. A replay overwrites the result of the one before.

    Raises ValueError for inputs of another form than the first ones.
    """

    WARM_UP = 3  # lets libraries make their handles, and optimisers their buffers

    def __init__(self, function: Callable[..., Any], recorder: Recorder, generators: Sequence[torch.Generator] = ()):
        self.function, self.recorder, self.generators = function, recorder, generators
        self.calls, self.inputs, self.result, self.replay = 0, None, None, None

    def __call__(self, *inputs: Any) -> Any:
        self.calls += 1
        if self.calls <= self.WARM_UP:
            return self.recorder.warm_up(lambda: self.function(*inputs))
        if self.replay is None:
            self.inputs = pytree.tree_map_only(Tensor, torch.clone, inputs)
            self.result, self.replay = self.recorder.record(lambda: self.function(*self.inputs), self.generators)
        for fixed, given in zip(_tensors(self.inputs), _tensors(inputs), strict=True):
            if fixed.shape != given.shape:  # copy_ would broadcast
                raise ValueError(f"recorded for an input of shape {tuple(fixed.shape)}, got {tuple(given.shape)}")
            fixed.copy_(given)
        self.replay()
        return self.result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
