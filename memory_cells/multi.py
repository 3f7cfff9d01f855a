"""Cells made of cells: layers on top of each other, and a cell that reads its state of d steps ago.

| row               | layers                      | state                                     | path                         |
|-------------------|-----------------------------|-------------------------------------------|------------------------------|
| any, `layers` > 1 | that many of the row's cell | of the top layer, then from the lowest up | layer by layer, each its own |
| stacked-lstm      | two `lstm`                  | h, c of the top, then of the lower layer  | layer by layer, fused        |
| indrnn            | two `IndRNN`                | h of the top, then of the lower layer     | layer by layer, fused        |
| dilated-lstm      | four, 1, 2, 4, 8 steps back | 15 pairs h, c                             | layer by layer, fused        |
| dilated-gru       | four, 1, 2, 4, 8 steps back | 15 times h                                | layer by layer, fused        |

Options: `layers`, and `bias` for the two of LSTMs. A stack also runs fused as one step (`path="fused"`) where `step` and
`project` of its layers can be traced, which compiles anew for every number of layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from memory_cells.cells import Cell, State
from memory_cells.unroll import run

Layer = Callable[[int, int], Cell]


class Stacked(Cell):
    """Layers of any cells: each reads the output of the one below; the top one's output is the stack's.

    The state holds the top layer's entries first, under their own names, then those of the others from the lowest up as
    "layer0.h". What a caller asks of the whole stack is the top layer's: `recurrent_output`, `memory`, `gate` and with it the
    traces "keep" and "write"; the states of the others can be recorded under their names.
    Wrappers belong around the layers, not around the stack, so every layer has its own: its own noise (h-detach's coins and
    Zoneout's masks are independent), its own clock, its own buffers. Scheduled values are set in every layer, and
    `time_gates` finds the time gates of them all.
    A sequence is run layer by layer, each on its own fast path, which needs no more than that a layer's output at t
    depends on the rows up to t.
    """

    def __init__(self, layers: Sequence[Cell]):
        for below, above in itertools.pairwise(layers):
            if above.input_size != below.hidden_size:
                raise ValueError(f"a layer of input_size {above.input_size} on one of hidden_size {below.hidden_size}")
        super().__init__(layers[0].input_size, layers[-1].hidden_size)
        self.layers, top = nn.ModuleList(layers), layers[-1]
        lower = (f"layer{k}.{name}" for k, layer in enumerate(layers[:-1]) for name in layer.state_names)
        self.state_names = (*top.state_names, *lower)
        self.recurrent_output, self.memory = top.recurrent_output, top.memory
        self.cuts_gradient = any(layer.cuts_gradient for layer in layers)
        with torch.no_grad():
            like = next(self.parameters(), torch.zeros(()))
            self._own = len(self.project(like.new_zeros(1, 1, self.input_size)))  # entries before the noise

    @property
    def gate(self):
        return self.layers[-1].gate

    @property
    def holds(self):
        return self.layers[-1].holds

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.layers[0].project(x)

    def draw(self, length: int, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        noise = [layer.draw(length, batch, generator) for layer in self.layers]
        if len({len(entries) for entries in noise}) > 1:
            raise ValueError("layers of a stack must draw equally many noise entries")
        return tuple(entry for entries in noise for entry in entries)

    def initial_state(self, batch: int) -> State:
        return self._joined([layer.initial_state(batch) for layer in self.layers])

    def step(self, z, state):
        (own, *noise), states = self._split_z(z), self._split(state)
        new = [self.layers[0].step(own, states[0])]
        for layer, entries, old in zip(self.layers[1:], noise, states[1:], strict=True):
            new.append(layer.step((*layer.project(new[-1][0]), *entries), old))
        return self._joined(new)

    def scan(self, x: Tensor, noise: tuple[Tensor, ...], first: Tensor, state: State) -> tuple[Tensor, State]:
        each, y, ends = len(noise) // len(self.layers), x, []
        for k, (layer, old) in enumerate(zip(self.layers, self._split(state), strict=True)):
            y, new = run(layer, y, noise[k * each : (k + 1) * each], first, old)
            ends.append(new)
        return y, self._joined(ends)

    def _split_z(self, z) -> list[tuple[Tensor, ...]]:
        """The lowest layer's whole z, then the noise of each of the others; `z` is its projection and all noise."""
        own = self._own + (len(z) - self._own) // len(self.layers)
        each = own - self._own
        return [z[:own], *(z[own + k * each : own + (k + 1) * each] for k in range(len(self.layers) - 1))]

    def _split(self, state: State) -> list[State]:
        """States from the lowest layer up."""
        *lower, top = (len(layer.state_names) for layer in self.layers)
        parts, at = [], top
        for count in lower:
            parts.append(state[at : at + count])
            at += count
        return [*parts, state[:top]]

    def time_gates(self, state: State) -> list[tuple[Cell, State]]:
        return [pair for layer, own in zip(self.layers, self._split(state)) for pair in layer.time_gates(own)]

    @staticmethod
    def _joined(states: Sequence[State]) -> State:
        return (*states[-1], *(entry for state in states[:-1] for entry in state))


class Dilated(Cell):
    """Any cell on the state of `dilation` steps ago (Chang et al. 2017, arXiv 1710.02224 [C]): `s_t = cell(x_t, s_{t-d})`.

    The state is a ring of the last d states of the wrapped cell, newest first; a reset clears all of it. It is held as
    entries, not as one tensor with a clock, so a step moves references in place of a gather and a scatter.
    The authors fold time into the batch instead, which fits no reset in the middle of a sequence.
    """

    def __init__(self, cell: Cell, dilation: int):
        super().__init__(cell.input_size, cell.hidden_size)
        if dilation < 1:
            raise ValueError(f"dilation must be at least 1, got {dilation}")
        self.cell, self.dilation = cell, dilation
        older = (f"{name}-{d}" for d in range(2, dilation + 1) for name in cell.state_names)
        self.state_names = (*cell.state_names, *older)
        # what a step reads is the oldest entry, so that is where a cut of the read belongs
        oldest = f"-{dilation}" if dilation > 1 else ""
        self.recurrent_output, self.memory = cell.recurrent_output + oldest, cell.memory

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.cell.project(x)

    def input_map(self):
        return self.cell.input_map() if self.projects_as(Dilated) else None

    def draw(self, length: int, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        return self.cell.draw(length, batch, generator)

    def initial_state(self, batch: int) -> State:
        return tuple(entry for _ in range(self.dilation) for entry in self.cell.initial_state(batch))

    def step(self, z, state):
        count = len(self.cell.state_names)
        return (*self.cell.step(z, state[-count:]), *state[:-count])


def stack(layer: Layer, input_size: int, hidden_size: int, layers: int = 2) -> Stacked:
    """`layers` equal layers; `layer(input_size, hidden_size)` makes one."""
    if layers < 1:
        raise ValueError(f"a stack needs at least one layer, got {layers}")
    return Stacked([layer(input_size if k == 0 else hidden_size, hidden_size) for k in range(layers)])


def doubling(layers: int) -> list[int]:
    """The dilations 1, 2, 4, ... of so many layers, at most 12: the rings of their states hold 2^layers - 1 states."""
    if not 1 <= layers <= 12:
        raise ValueError(f"dilated layers number 1 to 12, got {layers}")
    return [2**k for k in range(layers)]


def dilated_stack(layer: Layer, input_size: int, hidden_size: int, dilations: Sequence[int] = (1, 2, 4, 8)) -> Stacked:
    """Chang et al.'s network: layer l looks d_l steps back. `dilations` must start at 1: the authors fuse the last d_1
    outputs otherwise, which is not implemented, and without it the output at t would see every d_1-th row only.
    """
    if not dilations or dilations[0] != 1:
        raise ValueError(f"dilations must start at 1, got {tuple(dilations)}")
    sizes = [input_size, *[hidden_size] * (len(dilations) - 1)]
    return Stacked([Dilated(layer(i, hidden_size), d) for i, d in zip(sizes, dilations, strict=True)])
