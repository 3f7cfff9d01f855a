"""The non-saturating recurrent unit (Chandar et al. 2019, arXiv 1902.06704), after the authors' code."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory_cells.cells import Cell

#: the authors' models of about equal size: task -> row of VARIANTS -> arguments of make_core. Their JANET has beta = 0
#: and chrono biases, which is our `chrono-gated-rnn`; their LSTM has peepholes, which `lstm` has not; their SRU of 60 units
#: has phi 55 and r 16, ours 60 and 15.
PRESETS = {
    "copy and denoise, 23.5k parameters": {
        "nru": {"hidden_size": 80, "memory_size": 64, "heads": 4},
        "lstm": {"hidden_size": 70}, "gru": {"hidden_size": 82}, "chrono-gated-rnn": {"hidden_size": 101},
        "rnn-orth": {"hidden_size": 143}, "sru": {"hidden_size": 60},
    },
    "permuted pixels, 165k parameters": {
        "nru": {"hidden_size": 212, "memory_size": 256, "heads": 4},
        "lstm": {"hidden_size": 200}, "gru": {"hidden_size": 232}, "chrono-gated-rnn": {"hidden_size": 283},
        "rnn-orth": {"hidden_size": 400}, "sru": {"hidden_size": 150},
    },
}  # fmt: skip
#: smallest norm divided by, as in torch.nn.functional.normalize
TINY = 1e-12


def normalise5(v: Tensor) -> Tensor:
    """`v / max(||v||_5, TINY)` along the last axis, of any length that float32 holds: the fifth powers are of v by its
    1-norm, which is a constant to the gradient, for ||v||_5 = c ||v / c||_5 whatever c is."""
    size = torch.abs(v).detach().sum(-1, keepdim=True)
    size = torch.where(size > TINY, size, TINY)
    unit = v / size
    square = unit * unit
    power = (square * square * torch.abs(unit)).sum(-1, keepdim=True)
    power = torch.where(power > 1e-30, power, 1e-30)  # only that of v = 0 is below it
    norm = size * torch.exp(torch.log(power) * 0.2)
    return v / torch.where(norm > TINY, norm, TINY)


class NRU(Cell):
    """A memory m (B, M) without gates, written and erased by k heads::

        h' = relu(W [x, h, m] + b);   q = [h', m]
        alpha, beta = act(W_a q), act(W_b q)                              each (B, k)
        V = normalise5(act(outer(p(q), r(q)) as k rows of length M))      one for writing, one for erasing
        m' = m + mean_k(alpha V_write - beta V_erase)

    p and r are S = sqrt(M k) wide, so the outer product is one S x S matrix cut into k vectors. `act` is relu with
    `use_relu`, else the identity, which the authors' configs for copy, denoise and pixels use. Where paper and code differ
    we follow the code: the mean over heads (`head_reduce="sum"`: the paper [R]) and heads that do not see x (`feed_x=True`:
    the paper [R]). Weights and biases start as in torch.nn.Linear. No gate bounds m: clip the gradient.

    Raises ValueError where M * k is not a square.
    """

    state_names, memory = ("h", "m"), "m"

    def __init__(self, input_size: int, hidden_size: int, memory_size: int = 64, heads: int = 4, use_relu: bool = False,
                 head_reduce: str = "mean", feed_x: bool = False):  # fmt: skip
        super().__init__(input_size, hidden_size)
        side = math.isqrt(memory_size * heads)
        if side * side != memory_size * heads or side < 1:
            raise ValueError(f"memory_size * heads must be a square, got {memory_size} * {heads}")
        if head_reduce not in ("mean", "sum"):
            raise ValueError(f"head_reduce must be 'mean' or 'sum', got {head_reduce!r}")
        self.memory_size, self.heads, self.side = memory_size, heads, side
        self.use_relu, self.head_reduce, self.feed_x = use_relu, head_reduce, feed_x
        self.rows = [heads, heads, side, side, side, side]  # alpha, beta, then p and r of writing and of erasing

        def uniform(fan_in: int, *shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-1, 1) / math.sqrt(fan_in))

        fan_in, head_in = input_size + hidden_size + memory_size, hidden_size + memory_size + feed_x * input_size
        self.weight_x = uniform(fan_in, hidden_size, input_size)
        self.weight_h = uniform(fan_in, hidden_size, hidden_size)
        self.weight_m = uniform(fan_in, hidden_size, memory_size)
        self.bias = uniform(fan_in, hidden_size)
        self.heads_h = uniform(head_in, sum(self.rows), hidden_size)
        self.heads_m = uniform(head_in, sum(self.rows), memory_size)
        self.heads_bias = uniform(head_in, sum(self.rows))
        self.heads_x = uniform(head_in, sum(self.rows), input_size) if feed_x else None

    def initial_state(self, batch: int):
        return self.bias.new_zeros(batch, self.hidden_size), self.bias.new_zeros(batch, self.memory_size)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = F.linear(x, self.weight_x, self.bias)
        return (hidden, F.linear(x, self.heads_x, self.heads_bias)) if self.feed_x else (hidden,)

    def step(self, z, state):
        h, m = state
        h = torch.relu(z[0] + F.linear(h, self.weight_h) + F.linear(m, self.weight_m))
        heads = z[1] + F.linear(h, self.heads_h) if self.feed_x else F.linear(h, self.heads_h, self.heads_bias)
        alpha, beta, *sides = (heads + F.linear(m, self.heads_m)).split(self.rows, -1)
        change = self._mix(alpha, *sides[:2]) - self._mix(beta, *sides[2:])
        return h, m + (change / self.heads if self.head_reduce == "mean" else change)

    def _mix(self, scale, p, r):
        """The sum over heads of scale * V."""
        outer = torch.repeat_interleave(p, self.side, -1) * torch.tile(r, (self.side,))
        scales, rows = scale.split(1, -1), outer.split(self.memory_size, -1)
        return sum(self._act(a) * normalise5(self._act(v)) for a, v in zip(scales, rows, strict=True))

    def _act(self, v):
        return torch.relu(v) if self.use_relu else v
