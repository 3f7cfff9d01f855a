"""Recurrent matrices that keep a form while they are trained: orthogonal, or zero outside a mask.

Both are parametrizations in torch's sense: the cell reads `self.weight_h`, a matrix, and the optimiser sees what it is
made of. `unroll` evaluates each once per call, so a step costs what it costs with a free matrix.
A cell can be laid out on the meta device, to be counted: masks are made on the CPU, and nothing is checked to be orthogonal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


class Placed(nn.Module):
    """The entries of a matrix where `mask` (on the CPU) is True, from a (1, count) parameter; zeros elsewhere, exactly."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.shape = mask.shape
        self.register_buffer("index", mask.flatten().nonzero()[:, 0], persistent=False)

    def forward(self, entries: Tensor) -> Tensor:
        flat = entries.new_zeros(self.shape.numel())
        return flat.index_copy(0, self.index, entries[0]).view(self.shape)


def register_masked(cell: nn.Module, name: str, dense: Tensor, mask: Tensor) -> None:
    """Makes `cell.name` a matrix that starts as `dense` and is zero outside `mask` (on the CPU, as is the index made of it
    until the cell is moved); only the live entries are parameters.

    They are held as one row, not as a vector, because weight decay tells matrices from biases by the number of axes.
    """
    placed = Placed(mask)
    setattr(cell, name, nn.Parameter(dense.flatten()[placed.index].unsqueeze(0)))
    parametrize.register_parametrization(cell, name, placed, unsafe=True)


def register_orthogonal(cell: nn.Module, name: str, start: Tensor) -> None:
    """Makes `cell.name` orthogonal for good: `start @ exp(A)`, A skew-symmetric and zero at first.

    torch.nn.utils.parametrizations.orthogonal; the exponential map is that of Lezcano-Casado & Martinez-Rubio 2019
    (expRNN, arXiv 1901.08428).
    """
    setattr(cell, name, nn.Parameter(start))
    if start.is_meta:  # as many parameters as the parametrization has; it would look at the entries
        return
    parametrizations.orthogonal(cell, name, orthogonal_map="matrix_exp")


def rotations(hidden_size: int) -> Tensor:
    """(H, H): 2 x 2 rotations on the diagonal, angles U(-pi, pi); a last single unit stays (Henaff et al. 2016)."""
    matrix, pairs = torch.eye(hidden_size), hidden_size // 2
    angle, k = torch.empty(pairs).uniform_(-math.pi, math.pi), 2 * torch.arange(pairs)
    matrix[k, k] = matrix[k + 1, k + 1] = torch.cos(angle)
    matrix[k + 1, k] = torch.sin(angle)
    matrix[k, k + 1] = -torch.sin(angle)
    return matrix


def constrain(module: nn.Module) -> None:
    """Puts every part of `module` that has a `constrain` method back into its set: call it after each optimiser step."""
    for part in module.modules():
        if hasattr(part, "constrain"):
            part.constrain()


def must_divide(name: str, hidden_size: int, unit: int, why: str) -> None:
    """Raises ValueError, naming the nearest sizes, where `unit` does not divide `hidden_size`."""
    if hidden_size < unit or hidden_size % unit:
        low = hidden_size - hidden_size % unit
        near = " or ".join(str(n) for n in (low, low + unit) if n)
        raise ValueError(f"{name}: hidden_size must be a multiple of {why} = {unit}, got {hidden_size}; take {near}")


def largest_divisor(hidden_size: int, at_most: int) -> int:
    """The largest divisor of `hidden_size` not above `at_most` (at least 1)."""
    return next(n for n in range(max(min(at_most, hidden_size), 1), 0, -1) if hidden_size % n == 0)
