"""Synthetic sequence tasks: pure functions of a seeded generator, batched, time-major.

Layouts differ between papers and results are comparable only within one, so each docstring says which it is. Shapes: T
rows of a sequence, B sequences, I input channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

SYMBOLS, RECALLED = 8, 10
BLANK, DELIMITER = 8, 9


class Batch(NamedTuple):
    """x (T, B, I) float32; target (T, B) int64 classes, or float32 values; weight (T, B) float32, the part of every row in
    the loss, summing to 1 over a sequence; scored (T, B) bool, the rows that count for the accuracy."""

    x: Tensor
    target: Tensor
    weight: Tensor
    scored: Tensor


class Task(ABC):
    """Base of all tasks. `loss` is "ce" (nats) or "mse"."""

    inputs: int
    outputs: int
    loss: str = "ce"
    #: loss of the best predictor that remembers nothing of the data but knows the row's place in the layout
    memoryless: float
    #: accuracy of that predictor on the scored rows; None for a regression
    chance: float | None

    @abstractmethod
    def batch(self, generator: Generator, size: int) -> Batch:
        """`size` fresh training sequences."""

    def held_out(self, size: int) -> Batch:
        """`size` sequences for evaluation, always the same ones."""
        return self.batch(Generator().manual_seed(2**31 - 1), size)


def one_hot(symbols: Tensor, classes: int) -> Tensor:
    """(T, B) int64 -> (T, B, classes) float32."""
    return torch.nn.functional.one_hot(symbols, classes).float()


def _averaged(like: Tensor) -> Tensor:
    return torch.full(like.shape, 1 / like.shape[0])


@dataclass
class Copy(Task):
    """Copy memory, layout (a) of Arjovsky et al. 2016 and Tallec & Ollivier 2018: 10 symbols of 8, T-1 blanks, a
    delimiter, 10 blanks; answer T+10 blanks, then the symbols. Cross-entropy averaged over all T+20 rows.

    Memoryless loss 10 ln 8 / (T + 20): blanks are free, the ten answers uniform over 8. `scalar` feeds the symbol's index
    as one float in place of a one-hot vector (Arpit et al. 2018; harder). `variable` draws the lag from 1..T for every
    sequence (Tallec & Ollivier) and fills up with blanks to T+20 rows; the memoryless loss is the same, of a predictor that
    counts rows from the delimiter.
    """

    lag: int
    scalar: bool = False
    variable: bool = False

    def __post_init__(self):
        self.inputs, self.outputs = (1 if self.scalar else 10), SYMBOLS + 1
        self.memoryless, self.chance = RECALLED * math.log(SYMBOLS) / (self.lag + 20), 1 / SYMBOLS

    def batch(self, generator, size):
        T = self.lag + 20
        symbols = torch.randint(SYMBOLS, (RECALLED, size), generator=generator)
        lag = torch.full((size,), self.lag)
        if self.variable:
            lag = torch.randint(1, self.lag + 1, (size,), generator=generator)
        x = torch.full((T, size), BLANK)
        x[:RECALLED] = symbols
        x[lag + RECALLED - 1, torch.arange(size)] = DELIMITER
        answer = lag + RECALLED + torch.arange(RECALLED).unsqueeze(1)  # (10, B), the rows of the answer
        target = torch.full((T, size), BLANK).scatter(0, answer, symbols)
        scored = torch.zeros(T, size, dtype=torch.bool).scatter(0, answer, True)
        channels = x.float().unsqueeze(-1) if self.scalar else one_hot(x, 10)
        return Batch(channels, target, _averaged(x), scored)


@dataclass
class Adding(Task):
    """Adding (Hochreiter & Schmidhuber 1997): channels (value in [0, 1], marker), one marker in each half; the answer is the
    sum of the two marked values, squared error on the last row. Memoryless loss: the variance of the sum, 2/12 = 1/6."""

    length: int
    inputs, outputs, loss, memoryless, chance = 2, 1, "mse", 1 / 6, None

    def batch(self, generator, size):
        T, half, columns = self.length, self.length // 2, torch.arange(size)
        value = torch.rand(T, size, generator=generator)
        early = torch.randint(half, (size,), generator=generator)
        late = torch.randint(half, T, (size,), generator=generator)
        marker = torch.zeros(T, size)
        marker[early, columns] = marker[late, columns] = 1.0
        target, weight = torch.zeros(T, size), torch.zeros(T, size)
        target[-1], weight[-1] = value[early, columns] + value[late, columns], 1.0
        return Batch(torch.stack([value, marker], -1), target, weight, weight > 0)


@dataclass
class Denoise(Task):
    """Denoise as Chandar et al. 2019 ran it: T rows, 10 symbols of 8 on distinct positions among blanks, in order; then a
    marker and 10 blanks, T+11 rows in all. Cross-entropy over the last 10 rows only. Memoryless loss ln 8."""

    span: int
    inputs, outputs, memoryless, chance = 10, SYMBOLS, math.log(SYMBOLS), 1 / SYMBOLS

    def __post_init__(self):
        if self.span < RECALLED:
            raise ValueError(f"denoise needs at least {RECALLED} rows for its symbols, got {self.span}")

    def batch(self, generator, size):
        T = self.span + 11
        symbols = torch.randint(SYMBOLS, (RECALLED, size), generator=generator)
        order = torch.rand(self.span, size, generator=generator).argsort(0)  # random, without replacement
        position = order[:RECALLED].sort(0).values
        x = torch.full((T, size), BLANK).scatter(0, position, symbols)
        x[self.span] = DELIMITER
        target, scored = torch.zeros(T, size, dtype=torch.int64), torch.zeros(T, size, dtype=torch.bool)
        target[-RECALLED:], scored[-RECALLED:] = symbols, True
        return Batch(one_hot(x, 10), target, scored / RECALLED, scored)


@dataclass
class Warp(Task):
    """Time warping and padding (Tallec & Ollivier 2018): characters over an alphabet of 10, neighbours different; the answer
    is the character before the present one. Cut at `length` rows.

    kind "variable": every character lasts w ~ U{1..max_warp} rows, "uniform": max_warp rows; the answer lasts as long.
    `padding` puts zeros (the dummy, symbol 0) behind a character in place of its repetitions; the answer is asked for on the
    character's own row. Ours: characters are 1..9, 0 is the dummy, and the first character, which has none before it, is not
    in the loss; so the memoryless loss is ln 8 (any of the nine characters but the present one).
    """

    length: int
    max_warp: int
    kind: str = "variable"
    padding: bool = False
    inputs, outputs, memoryless, chance = 10, 10, math.log(8), 1 / 8

    def __post_init__(self):
        if self.kind not in ("variable", "uniform"):
            raise ValueError(f"kind must be 'variable' or 'uniform', got {self.kind!r}")
        if not 1 <= self.max_warp < self.length:
            raise ValueError(f"max_warp must lie in [1, {self.length}), got {self.max_warp}")

    def batch(self, generator, size):
        T = self.length
        lasts = torch.full((T, size), self.max_warp)
        if self.kind == "variable":
            lasts = torch.randint(1, self.max_warp + 1, (T, size), generator=generator)
        steps = torch.randint(1, 9, (T, size), generator=generator)  # to one of the 8 other characters
        steps[0] = torch.randint(9, (size,), generator=generator)
        character = 1 + steps.cumsum(0) % 9
        ends = lasts.cumsum(0)
        row = torch.arange(T).unsqueeze(1).expand(T, size)
        index = torch.searchsorted(ends.t().contiguous(), row.t().contiguous(), right=True).t()  # which character
        present = character.gather(0, index)
        before = character.gather(0, (index - 1).clamp(min=0))
        counted = index > 0
        if self.padding:
            fresh = torch.ones(T, size, dtype=torch.bool)
            fresh[1:] = index[1:] != index[:-1]
            present, counted = present * fresh, counted & fresh
        weight = counted / counted.sum(0).clamp(min=1)
        return Batch(one_hot(present, 10), before * counted, weight, counted)
