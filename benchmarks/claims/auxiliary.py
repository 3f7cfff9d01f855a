"""Trinh's losses in their supervised form: reconstruct or predict a segment of the input from the state at an anchor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from memory_cells import Cell, unroll
from memory_cells.cells import State


@dataclass(frozen=True)
class Settings:
    """kind: "reconstruct" or "predict". segment: rows L of a segment, the first of which is given. truncation: rows K before
    the anchor that the gradient reaches. placement, of a reconstructed segment: "before" the anchor, or "anywhere" in its
    past. told: whether the decoder is told every true row before the next (teacher forcing), or zeros after the first.
    cost: weight of the loss, 0 for none. pretrain: first steps, with this loss alone. size: of the decoder."""

    kind: str
    segment: int
    truncation: int
    placement: str = "before"
    told: bool = True
    cost: float = 1.0
    pretrain: int = 0
    size: int = 64

    def __post_init__(self):
        for name, known in (("kind", ("reconstruct", "predict")), ("placement", ("before", "anywhere"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.segment < 2 or self.truncation < 1:
            raise ValueError(f"need segment >= 2 and truncation >= 1, got {self.segment} and {self.truncation}")


class Decoder(nn.Module):
    """One LSTM layer from the core's state (every floating entry of it, so any cell's), told the true rows or only the
    first (Trinh et al. 2018, arXiv 1803.00144). The paper's has two layers of 256; smaller here, as the images are."""

    def __init__(self, core: Cell, inputs: int, settings: Settings):
        super().__init__()
        self.settings = settings
        self.start = nn.Linear(flat(core.initial_state(1)).shape[-1], 2 * settings.size)
        self.decoder = nn.LSTM(inputs, settings.size)
        self.readout = nn.Sequential(
            nn.Linear(settings.size, settings.size), nn.ReLU(), nn.Linear(settings.size, inputs)
        )

    def loss(self, core: Cell, x: Tensor, first: Tensor, generator: Generator) -> Tensor:
        """Mean squared error over the segment's rows but the first; x (T, B, I), first (T, B).

        One anchor for the whole batch, drawn anew at every call (the paper: one per sequence): the state that has seen rows
        0 .. anchor-1, with the gradient going back through the last K of them.
        """
        s, T = self.settings, x.shape[0]

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        if s.kind == "predict":
            anchor = draw(1, T - s.segment + 1)
            begin = anchor - 1  # the row just seen is the one given
        else:
            anchor = draw(s.segment, T)
            begin = anchor - s.segment if s.placement == "before" else draw(0, anchor - s.segment)
        state, cut = core.initial_state(x.shape[1]), max(0, anchor - s.truncation)
        if cut:
            with torch.no_grad():
                _, state = unroll(core, x[:cut], first[:cut], state)
        _, state = unroll(core, x[cut:anchor], first[cut:anchor], state)
        span = x[begin : begin + s.segment]
        h, c = self.start(flat(state)).tanh().chunk(2, -1)
        shown = span[:-1] if s.told else torch.cat([span[:1], torch.zeros_like(span[1:-1])])
        y, _ = self.decoder(shown, (h.unsqueeze(0), c.unsqueeze(0)))
        return (self.readout(y) - span[1:]).square().mean()


def flat(state: State) -> Tensor:
    """All entries of a core's state side by side, (B, .); complex ones as two real numbers."""
    parts = [torch.view_as_real(s) if s.is_complex() else s for s in state if s.is_complex() or s.is_floating_point()]
    return torch.cat([p.flatten(1) for p in parts], -1)
