"""What turns a pre-activation into a number in (0, 1). Gates are built on one; output and reset gates take only one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sigmoid(nn.Module):
    """The logistic function."""

    def forward(self, pre: Tensor) -> Tensor:
        return torch.sigmoid(pre)
