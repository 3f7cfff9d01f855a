"""What turns a pre-activation into a number in (0, 1). Gates are built on one; output and reset gates take only one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Sigmoid(nn.Module):
    """The logistic function."""

    def forward(self, pre: Tensor) -> Tensor:
        return torch.sigmoid(pre)


def running_sum(x: Tensor) -> Tensor:
    """cumsum along the last axis; as a product where torch has no reproducible cumsum, on a GPU asked to be reproducible."""
    if isinstance(x, Tensor) and x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return x @ torch.ones(x.shape[-1], x.shape[-1], dtype=x.dtype, device=x.device).triu()
    return torch.cumsum(x, -1)


def cumax(a: Tensor) -> Tensor:
    """`cumsum(softmax(a))` over the last axis (Shen et al. 2019, arXiv 1810.09536): rising, in (0, 1], the last entry 1."""
    return running_sum(torch.softmax(a, -1))


class Cumax(nn.Module):
    """`cumax` along the units."""

    def forward(self, pre: Tensor) -> Tensor:
        return cumax(pre)


class KAF(nn.Module):
    """A flexible gate (Scardapane et al. 2018, arXiv 1807.04065), each unit with its own mixing coefficients::

        s(a) = sigmoid(0.5 * K(a) + 0.5 * a),   K(a) = sum_i alpha_i exp(-gamma (a - d_i)^2)

    d: `size` points equally spaced on [-b, b], fixed and shared; gamma = 0.5 / (2 Delta)^2 with Delta their distance, as in
    the authors' code for kernel activations. alpha (H, size) starts at the ridge regression of the identity on the
    dictionary, so that the gate starts as a logistic function.

    K falls to zero outside the dictionary, so b = max(4, reach + 2), where `reach` is the largest absolute bias of the
    gate; the default size keeps the distance of ten points on [-4, 4]. Both rules, and the halves in the formula where the
    authors' code for gates was not at hand, are ours.
    """

    #: parameters that weight decay must leave alone although they have two axes: alpha = 0 is no gate
    undecayed = ("alpha",)

    def __init__(self, hidden_size: int, reach: float = 0.0, kaf_size: int | None = None, ridge: float = 1e-4):
        super().__init__()
        edge = max(4.0, reach + 2.0)
        size = math.ceil(2 * edge / (8 / 9)) + 1 if kaf_size is None else kaf_size
        if size < 2:
            raise ValueError(f"a KAF dictionary has at least 2 points, got {size}")
        points = torch.linspace(-edge, edge, size, dtype=torch.float64, device="cpu")  # read below, whatever the device
        self.gamma = 0.5 / (2 * (2 * edge / (size - 1))) ** 2
        kernel = torch.exp(-self.gamma * (points[:, None] - points).square())
        # ill-conditioned, hence float64
        alpha = torch.linalg.solve(kernel + ridge * torch.eye(size, dtype=torch.float64, device="cpu"), points)
        self.alpha = nn.Parameter(alpha.to(torch.get_default_dtype()).repeat(hidden_size, 1))
        self.edge, self.points = edge, tuple(points.tolist())

    def forward(self, pre: Tensor) -> Tensor:
        if isinstance(pre, Tensor):
            points = torch.linspace(-self.edge, self.edge, len(self.points), dtype=pre.dtype, device=pre.device)
            mixed = (torch.exp(-self.gamma * (pre.unsqueeze(-1) - points).square()) * self.alpha).sum(-1)
        else:  # a symbol of the sequence kernels, which know per-unit vectors only
            terms = zip(self.alpha.unbind(-1), self.points, strict=True)
            mixed = sum(alpha * torch.exp(-self.gamma * torch.square(pre - point)) for alpha, point in terms)
        return torch.sigmoid(0.5 * mixed + 0.5 * pre)
