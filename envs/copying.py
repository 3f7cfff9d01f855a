"""Copying: symbols are shown one by one, then nothing for a while, then all are asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.env import Spec, at_least, flag
from envs.quiz import Quiz, tail
from envs.render_quiz import Tile

SHOWN = 12  # symbols that a frame shows at most


class CopyState(NamedTuple):
    t: Tensor
    right: Tensor
    memory: Tensor  # (B, n) uint8: the symbols shown so far; 0 beyond


class CopyDelay(Quiz):
    """The copy task (Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, arXiv 1511.06464) as an environment.

    Episode: rows 0..n-1 show n independent symbols of an alphabet of q, rows n..n+D-1 nothing, rows n+D..2n+D-1 the mark
    "go": each of them is a question, for symbol 0, 1, ... or if `reversed` for the last, the last but one, ...
    Observation (q+1,): the symbol one-hot, then the mark. With n = 52, q = 4, D = 0, reversed, it is POPGym's Autoencode
    with replacement, but that the last symbol is not on show with the first question.

    Spec sheet (n length, q symbols, D delay; for what holds for every quiz see `Quiz`)
      m                      forward n + D for each symbol; reversed D + 1, D + 3, ..., D + 2n - 1: the largest
      R0_memory              2/q - 1: all questions look the same, and any symbol is right with probability 1/q
      R0_memory_last         1 if n = 1: the agent repeats its own action; else None: it can carry one symbol in it, and the
                             optimum is not known
      R_random = 2/q - 1, max_rows = 2n + D + 1
      chance                 answers are right with probability 1/q independently: a binomial tail

    Args:
        length: n >= 1; symbols: q, 2 .. 256; delay: D >= 0; reversed: ask for the last symbol first.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    obs_low = 0.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        length: int = 8,
        symbols: int = 4,
        delay: int = 16,
        reversed: bool = False,
    ) -> None:
        self.length, self.delay = at_least("length", length, 1), at_least("delay", delay, 0)
        self.symbols = self.num_actions = at_least("symbols", symbols, 2)
        if symbols > 256:
            raise ValueError(f"symbols must be at most 256, got {symbols}")
        self.action_names = tuple(map(str, range(symbols)))
        self.reversed = flag("reversed", reversed)
        self.steps, self.questions = 2 * self.length + self.delay, self.length
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        super().prepare()
        self._places = torch.arange(self.length, device=self.device)
        self._empty = torch.zeros(self.num_envs, self.length, dtype=torch.uint8, device=self.device)

    def _put(self, memory: Tensor, place: Tensor) -> Tensor:
        symbol = self.draw(self.symbols).to(torch.uint8)
        return torch.where(self._places == place.unsqueeze(1), symbol.unsqueeze(1), memory)

    def spawn(self) -> CopyState:
        return CopyState(self._zero, self._zero, self._put(self._empty, self._zero))

    def advance(self, state: CopyState) -> CopyState:
        return state._replace(memory=self._put(state.memory, state.t + 1))

    def _asked(self, t: Any) -> Any:
        """The place in memory that is asked for at t (a tensor or an integer); may lie outside, for t before and after."""
        first = self.steps - self.questions
        return 2 * self.length + self.delay - 1 - t if self.reversed else t - first

    def answer(self, state: CopyState) -> Tensor:
        place = self._asked(state.t).clamp(0, self.length - 1)
        return self._at(state, torch.minimum(place, state.t) if self.reversed else place)

    def observe(self, state: CopyState) -> Tensor:
        symbol = self._at(state, state.t.clamp(max=self.length - 1)).unsqueeze(1)
        shown = (symbol == self._choices) & (state.t < self.length).unsqueeze(1)
        return torch.cat((shown, (state.t >= self.steps - self.questions).unsqueeze(1)), 1).float()

    def _at(self, state: CopyState, place: Tensor) -> Tensor:
        return state.memory.gather(1, place.unsqueeze(1)).squeeze(1).long()

    def figures(self) -> Spec:
        n, q = self.length, self.symbols
        memory = 2 * n - 1 + self.delay if self.reversed else n + self.delay
        return self.sheet(memory, 1 / q, 1.0 if n == 1 else None, tail(n, 1 / q, self.pass_mark))

    def tiles(self, state: Any) -> list[Tile]:
        t, n = state.t, self.length
        asked = self._asked(t) if self.steps - self.questions <= t < self.steps else -1
        middle = t if t < n else max(asked, 0)
        start = max(0, min(middle - SHOWN // 2, n - SHOWN))
        tiles = [Tile("more")] if start > 0 else []
        for i in range(start, min(start + SHOWN, n)):
            role = "shown" if i == t else "asked" if i == asked else "past"
            tiles.append(Tile("colour", state.memory[i], role, self.symbols) if i <= t else Tile("back"))
        return tiles + ([Tile("more")] if start + SHOWN < n else [])
