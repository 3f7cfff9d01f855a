"""Gates: pre-activations -> (keep, write), the two factors of `memory' = keep * memory + write * candidate`.

A coupled gate defines both numbers at once, so a gate returns the pair. Each pre-activation is (B, H); `inputs` names
them and `biases` says how the keep-bias of an `Init` enters each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from memory_cells.inits import Init
from memory_cells.squash import Sigmoid

Squash = Callable[[], nn.Module]


class Gate(nn.Module):
    """Base of all gates."""

    #: names of the pre-activations the cell must supply, each H wide
    inputs: tuple[str, ...]

    @abstractmethod
    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        """One (H,) bias per entry of `inputs`."""

    @abstractmethod
    def forward(self, *pre: Tensor) -> tuple[Tensor, Tensor]:
        """(keep, write), each (B, H)."""


class Free(Gate):
    """Separate forget and input gates (Hochreiter & Schmidhuber 1997; Gers et al. 2000)."""

    inputs = ("forget", "input")

    def __init__(self, squash: Squash = Sigmoid):
        super().__init__()
        self.squash_forget, self.squash_input = squash(), squash()

    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        keep = init(hidden_size)
        return [keep, -keep if init.mirrors else torch.zeros(hidden_size)]

    def forward(self, forget: Tensor, write: Tensor) -> tuple[Tensor, Tensor]:
        return self.squash_forget(forget), self.squash_input(write)


class Coupled(Gate):
    """`keep = s(a)`, `write = 1 - s(a - offset)`: one gate for both.

    offset 0 is the tied gate of Gu et al. 2020 and of Tallec & Ollivier's gated RNN; offset 1 is JANET as released
    (van der Westhuizen & Lasenby 2018, arXiv 1804.04849, beta = 1), which writes a little even where it keeps.
    """

    inputs = ("forget",)

    def __init__(self, offset: float = 0.0, squash: Squash = Sigmoid):
        super().__init__()
        self.offset, self.squash = float(offset), squash()

    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        return [init(hidden_size)]

    def forward(self, forget: Tensor) -> tuple[Tensor, Tensor]:
        keep = self.squash(forget)
        return keep, 1 - (self.squash(forget - self.offset) if self.offset else keep)


class Refine(Gate):
    """The refine gate (Gu et al. 2020, arXiv 1910.09890): `g = r (1 - (1 - f)^2) + (1 - r) f^2`, `keep = g`, `write = 1 - g`.

    `refine_bias="neg"` starts r at minus the keep-bias, as the public re-implementations of the paper's pseudo-code do;
    `"zero"` starts r near one half, as the first author's later S4 code does.
    """

    inputs = ("forget", "refine")

    def __init__(self, refine_bias: str = "neg", squash: Squash = Sigmoid):
        super().__init__()
        if refine_bias not in ("neg", "zero"):
            raise ValueError(f"refine_bias must be 'neg' or 'zero', got {refine_bias!r}")
        self.refine_bias, self.squash_forget, self.squash_refine = refine_bias, squash(), squash()

    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        keep = init(hidden_size)
        return [keep, -keep if self.refine_bias == "neg" else torch.zeros(hidden_size)]

    def forward(self, forget: Tensor, refine: Tensor) -> tuple[Tensor, Tensor]:
        f, r = self.squash_forget(forget), self.squash_refine(refine)
        keep = 2 * r * f + (1 - 2 * r) * f * f
        return keep, 1 - keep


class Static(Gate):
    """A learned constant per unit, no pre-activation: the leaky RNN (Tallec & Ollivier 2018, eq. 5, alpha = 1 - keep)."""

    inputs = ()

    def __init__(self, init: Init, hidden_size: int):
        super().__init__()
        self.theta = nn.Parameter(init(hidden_size))

    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        return []

    def forward(self) -> tuple[Tensor, Tensor]:
        keep = torch.sigmoid(self.theta)
        return keep, 1 - keep
