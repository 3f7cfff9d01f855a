"""Gates: pre-activations -> (keep, write), the two factors of `memory' = keep * memory + write * candidate`.

A coupled gate defines both numbers at once, so a gate returns the pair. `inputs` names its pre-activations, `widths` says
how wide each is (H unless a gate needs less), and `biases` how the keep-bias of an `Init` enters each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from memory_cells.inits import Constant, Init, Uniform
from memory_cells.squash import Cumax, Sigmoid

Squash = Callable[[], nn.Module]


class Gate(nn.Module):
    """Base of all gates."""

    #: names of the pre-activations the cell must supply
    inputs: tuple[str, ...]

    def widths(self, hidden_size: int) -> list[int]:
        """The width of each of them."""
        return [hidden_size] * len(self.inputs)

    @abstractmethod
    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        """One bias per entry of `inputs`, as wide as it."""

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

    def __init__(self, squash: Squash = Sigmoid, offset: float = 0.0):
        super().__init__()
        self.offset, self.squash = float(offset), squash()

    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        return [init(hidden_size)]

    def forward(self, forget: Tensor) -> tuple[Tensor, Tensor]:
        keep = self.squash(forget)
        return keep, 1 - (self.squash(forget - self.offset) if self.offset else keep)


def _spread(primary: nn.Module, init: Init, width: int) -> Tensor:
    """The keep-bias, which an ordered gate does without: cumax spreads its units by itself."""
    if isinstance(primary, Cumax) and init != Constant(0.0):
        raise ValueError(f"an ordered gate starts from a zero bias; {type(init).__name__} does not fit it")
    return init(width)


class Ordered(Gate):
    """`keep = cumax(a)`, `write = 1 - keep` (Gu et al. 2020, gate O; cumax: Shen et al. 2019, arXiv 1810.09536).

    With a zero bias unit j of H starts at about j/H, so the units are spread over (0, 1] at the start; the last one keeps
    everything, for good.
    """

    inputs = ("forget",)

    def __init__(self, squash: Squash = Sigmoid):
        super().__init__()
        if squash is not Sigmoid:
            raise ValueError("an ordered gate has its own squash, cumax")
        self.squash = Cumax()

    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        return [_spread(self.squash, init, hidden_size)]

    def forward(self, forget: Tensor) -> tuple[Tensor, Tensor]:
        keep = self.squash(forget)
        return keep, 1 - keep


class Refine(Gate):
    """The refine gate (Gu et al. 2020, arXiv 1910.09890): `g = r (1 - (1 - f)^2) + (1 - r) f^2`, `keep = g`, `write = 1 - g`.

    `refine_bias="neg"` starts r at minus the keep-bias, as the public re-implementations of the paper's pseudo-code do with
    uniform biases; `"zero"` starts r near one half and so keep near f, as the first author's later S4 code does. None takes
    "neg" for uniform biases and "zero" for others: no source has an offset there, and with one a chrono gate would forget in
    half the time that its bias says. `primary` is what makes f, the squash unless it is given: with `Cumax` this is the
    paper's OR, whose keep-bias is zero.
    """

    inputs = ("forget", "refine")

    def __init__(self, squash: Squash = Sigmoid, refine_bias: str | None = None, primary: Squash | None = None):
        super().__init__()
        if refine_bias not in (None, "neg", "zero"):
            raise ValueError(f"refine_bias must be 'neg' or 'zero', got {refine_bias!r}")
        self.refine_bias, self.squash_forget, self.squash_refine = refine_bias, (primary or squash)(), squash()

    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        keep = _spread(self.squash_forget, init, hidden_size)
        offset = (self.refine_bias or ("neg" if isinstance(init, Uniform) else "zero")) == "neg"
        return [keep, -keep if offset else torch.zeros(hidden_size)]

    def forward(self, forget: Tensor, refine: Tensor) -> tuple[Tensor, Tensor]:
        f, r = self.squash_forget(forget), self.squash_refine(refine)
        keep = 2 * r * f + (1 - 2 * r) * f * f
        return keep, 1 - keep


class Master(Gate):
    """Master gates (Shen et al. 2019, arXiv 1810.09536) as Gu et al. 2020 tie them; C = `chunk` units share a master value::

        w = mf * mi;  f = s(a_f);  keep = f * w + (mf - w);  write = (1 - f) * w + (mi - w)
        primary Cumax (OM):    mf = cumax(a_mf),  mi = 1 - cumax(a_mi)
        primary Sigmoid (UM):  mf = s(a_mf),      mi = s(a_mi)

    The keep-bias enters mf with plus and mi with minus, H / C wide; f starts at zero bias. Ordered masters have none. That
    the sigmoid form is this one is our reading; the paper's text was not at hand.
    """

    inputs = ("master_forget", "master_input", "forget")

    def __init__(self, squash: Squash = Sigmoid, chunk: int = 1, primary: Squash | None = None):
        super().__init__()
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self.chunk, self.squash = chunk, squash()
        self.squash_keep, self.squash_write = (primary or squash)(), (primary or squash)()
        self.ordered = isinstance(self.squash_keep, Cumax)

    def widths(self, hidden_size: int) -> list[int]:
        if hidden_size % self.chunk:
            raise ValueError(f"chunk {self.chunk} does not divide the hidden size {hidden_size}")
        return [hidden_size // self.chunk, hidden_size // self.chunk, hidden_size]

    def biases(self, init: Init, hidden_size: int) -> list[Tensor]:
        keep = _spread(self.squash_keep, init, self.widths(hidden_size)[0])
        return [keep, -keep, torch.zeros(hidden_size)]

    def forward(self, master_forget: Tensor, master_input: Tensor, forget: Tensor) -> tuple[Tensor, Tensor]:
        mf, mi = self.squash_keep(master_forget), self.squash_write(master_input)
        mi = 1 - mi if self.ordered else mi
        if self.chunk > 1:
            mf, mi = (torch.repeat_interleave(m, self.chunk, -1) for m in (mf, mi))
        w, f = mf * mi, self.squash(forget)
        return f * w + (mf - w), (1 - f) * w + (mi - w)


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
