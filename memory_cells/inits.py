"""Where a gate starts: an initialisation maps a hidden size to the keep-bias of every unit.

`keep = sigmoid(bias)` at zero input, so a bias of log(T - 1) gives a unit a forgetting time of about T steps.
A gate decides how the keep-bias enters each of its pre-activations (`Gate.biases`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Init(ABC):
    """Callable `hidden_size -> keep-bias (H,)`, float32, drawn from torch's default generator."""

    #: whether the write gate of an untied pair starts at minus the keep-bias (True) or at zero (False)
    mirrors: bool

    @abstractmethod
    def __call__(self, hidden_size: int) -> Tensor: ...

    @abstractmethod
    def reach(self, hidden_size: int) -> float:
        """The largest absolute bias that it gives: how far a squash with a finite dictionary must see."""


@dataclass(frozen=True)
class Constant(Init):
    """The same bias for every unit; 1.0 is the usual forget bias (Gers et al. 2000; Jozefowicz et al. 2015)."""

    value: float = 1.0
    mirrors = False

    def __call__(self, hidden_size: int) -> Tensor:
        return torch.full((hidden_size,), float(self.value))

    def reach(self, hidden_size: int) -> float:
        return abs(self.value)


@dataclass(frozen=True)
class Chrono(Init):
    """`b ~ log(U[1, T_max - 1])` (Tallec & Ollivier 2018, arXiv 1804.11188, section 2: forget bias b, input bias -b).

    `horizon` is T_max in environment steps and must exceed 2.
    """

    horizon: float
    mirrors = True

    def __post_init__(self):
        if not self.horizon > 2:
            raise ValueError(f"chrono horizon must be greater than 2 steps, got {self.horizon}")

    def __call__(self, hidden_size: int) -> Tensor:
        return torch.empty(hidden_size).uniform_(1.0, self.horizon - 1.0).log()

    def reach(self, hidden_size: int) -> float:
        return math.log(self.horizon - 1)


@dataclass(frozen=True)
class HeavyTail(Init):
    """`b = log T` with `P(T = k) ~ 1 / (k log^2(k + 1))`, for an unknown horizon (Tallec & Ollivier 2018, footnote).

    The tail falls like 1 / log k, so it is cut at `longest` steps, beyond which float32 cannot tell keep from 1; that cut
    is ours. About five units in eight start at keep = 1/2, one in 23 above 0.99, one in 90 above 0.9999.
    """

    longest: int = 2**20
    mirrors = True

    def __call__(self, hidden_size: int) -> Tensor:
        k = torch.arange(1, self.longest + 1, dtype=torch.float64)
        total = (1 / (k * (k + 1).log().square())).cumsum(0)
        drawn = torch.searchsorted(total, total[-1] * torch.rand(hidden_size, dtype=torch.float64))
        return k[drawn.clamp(max=self.longest - 1)].log().float()

    def reach(self, hidden_size: int) -> float:
        return math.log(self.longest)


@dataclass(frozen=True)
class Uniform(Init):
    """`b = logit(u), u ~ U[1/H, 1 - 1/H]` (Gu et al. 2020, arXiv 1910.09890): keep is uniform on (0, 1) at the start."""

    mirrors = True

    def __call__(self, hidden_size: int) -> Tensor:
        self.reach(hidden_size)
        return torch.empty(hidden_size).uniform_(1 / hidden_size, 1 - 1 / hidden_size).logit()

    def reach(self, hidden_size: int) -> float:
        if hidden_size < 2:
            raise ValueError(f"uniform gate initialisation needs at least 2 units (or chunks of units), got {hidden_size}")
        return math.log(hidden_size - 1)


Rows = int | Sequence[int]  # that many blocks of H rows, or the height of every block


def _heights(rows: Rows, hidden_size: int) -> Sequence[int]:
    return [hidden_size] * rows if isinstance(rows, int) else rows


def orthogonal_rows(rows: Rows, hidden_size: int) -> Tensor:
    """(rows*H, H): one orthogonal matrix per gate, never one for the whole stack (whose blocks would not be orthogonal)."""
    blocks = [torch.empty(height, hidden_size) for height in _heights(rows, hidden_size)]
    return torch.cat([torch.nn.init.orthogonal_(block) for block in blocks])


def xavier_rows(rows: Rows, hidden_size: int, input_size: int) -> Tensor:
    """(rows*H, I): Glorot-uniform per gate."""
    blocks = [torch.empty(height, input_size) for height in _heights(rows, hidden_size)]
    return torch.cat([torch.nn.init.xavier_uniform_(block) for block in blocks])


def torch_default_rows(rows: Rows, hidden_size: int, columns: int) -> Tensor:
    """(rows*H, columns): U(-1/sqrt(H), 1/sqrt(H)), what torch.nn.LSTM and torch.nn.GRU draw."""
    bound = 1 / math.sqrt(hidden_size)
    return torch.empty(sum(_heights(rows, hidden_size)), columns).uniform_(-bound, bound)
