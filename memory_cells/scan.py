"""The linear recurrence `h_t = a_t * h_{t-1} + b_t`, elementwise and with resets, over a whole sequence.

`linear_recurrence` keeps no step of the forward pass but h, and its backward pass is the same recurrence from the other
end. Two ways to compute either, equal to rounding: row by row in place (the CPU, where memory traffic decides), and in
log2(T) doublings of whole tensors (a GPU, where the number of kernels decides). Neither divides by a product of decays,
so no length overflows.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memory_cells.cells import Cell, State


def linear_recurrence(a: Tensor, b: Tensor, first: Tensor, start: Tensor, doubling: bool | None = None) -> Tensor:
    """h (T, B, N) of `h_t = a_t * h_{t-1} + b_t`, with h_{t-1} = 0 where `first[t]` and h_{-1} = `start` (B, N).

    a, b: (T, B, N), real or complex. doubling: None takes log-depth off the CPU. No double backward.
    """
    doubling = a.device.type != "cpu" if doubling is None else doubling
    return _Recurrence.apply(a, b, first, start, _doublings if doubling else _rows)


class LinearCell(Cell):
    """A cell whose memory is a linear recurrence given the input: gates see only x_t, so time can be cut up at will.

    A subclass gives `recurrence` and `readout`; the step, and the scan that equals it, are made here.
    The state at the start of an episode is zero.
    """

    @abstractmethod
    def recurrence(self, z: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """(a, b) of `memory' = a * memory + b`; rows of them, or all T at once."""

    def remembered(self, state: State) -> Tensor:
        """The memory (B, N), as the recurrence wants it, out of the state."""
        return state[0]

    @abstractmethod
    def readout(self, z: tuple[Tensor, ...], memory: Tensor) -> State:
        """The new state, output first."""

    def step(self, z, state):
        a, b = self.recurrence(z)
        return self.readout(z, a * self.remembered(state) + b)

    def scan(self, x: Tensor, noise: tuple[Tensor, ...], first: Tensor, state: State) -> tuple[Tensor, State]:
        z = self.project(x) + noise
        a, b = self.recurrence(z)
        memory = linear_recurrence(a.expand_as(b), b, first, self.remembered(state))
        rows = self.readout(z, memory)
        return rows[0], tuple(entry[-1] for entry in rows)


def _rows(a: Tensor, b: Tensor, cut: Tensor, start: Tensor) -> Tensor:
    h = torch.empty_like(b)
    somewhere = cut.any(1).tolist()  # a look ahead that costs no synchronisation on the CPU
    for t, last in enumerate([start, *h[:-1]]):
        torch.addcmul(b[t], a[t], last.masked_fill(cut[t, :, None], 0) if somewhere[t] else last, out=h[t])
    return h


def _doublings(a: Tensor, b: Tensor, cut: Tensor, start: Tensor) -> Tensor:
    cut, h, d = cut.unsqueeze(-1), b.clone(), 1
    h[0] = torch.where(cut[0], b[0], b[0] + a[0] * start)
    while d < len(b):
        new = torch.where(cut[d:], h[d:], h[d:] + a[d:] * h[:-d])
        a, h = torch.cat([a[:d], a[d:] * a[:-d]]), torch.cat([h[:d], new])
        cut = torch.cat([cut[:d], cut[d:] | cut[:-d]])
        d *= 2
    return h


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, cut, start, solve):
        h = solve(a, b, cut, start)
        ctx.save_for_backward(a, cut, start, h)
        ctx.solve = solve
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        a, cut, start, h = ctx.saved_tensors
        # g_t = gradient_t + conj(a_{t+1}) g_{t+1}: the recurrence from the end, cut where the next row starts anew
        later = torch.cat([torch.zeros_like(a[:1]), a[1:].conj().flip(0)])
        cuts = torch.cat([torch.zeros_like(cut[:1]), cut[1:].flip(0)])
        g = ctx.solve(later, gradient.flip(0), cuts, torch.zeros_like(start)).flip(0)
        last = torch.cat([start.unsqueeze(0), h[:-1]]).masked_fill(cut.unsqueeze(-1), 0)
        g_start = (a[0].conj() * g[0]).masked_fill(cut[0, :, None], 0)
        return g * last.conj(), g, None, g_start, None
