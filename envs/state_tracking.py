"""State tracking: symbols come one by one, and at the end the state of a small automaton that reads them is asked for.

What is tested is the update, not the retention: the answer depends on every symbol.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.env import Env, Spec, at_least
from envs.render_quiz import tracking_frames


class Automaton(NamedTuple):
    """States are numbered; an episode starts in state 0 and reads one symbol on each row but the last."""

    symbols: tuple[str, ...]
    move: Callable[[int, int], int]  # (state, symbol) -> state
    output: tuple[int, ...]  # of each state: the class to name
    least: int = 2  # rows of the shortest episode, the row that asks included


def _even_pairs(state: int, symbol: int) -> int:
    """State 0: nothing read; 1 + 2 * first + last."""
    return 1 + 3 * symbol if state == 0 else 1 + 2 * ((state - 1) // 2) + symbol


def _s5(state: int, symbol: int) -> int:
    """Symbol 0 turns the ring of five, symbol 1 the ring of the first four: two generators of the symmetric group S5."""
    return (state + 1) % 5 if symbol == 0 else (state + 1) % 4 if state < 4 else 4


def _xor(state: int, symbol: int) -> int:
    """State 0: no cue yet; 1, 2: one cue, 0 or 1; 3, 4: two cues, their xor. Symbol 0 is a blank, 1 and 2 are the cues."""
    if symbol == 0 or state > 2:
        return state
    return symbol if state == 0 else 3 + ((state - 1) ^ (symbol - 1))


TASKS = {
    "parity": Automaton(("0", "1"), lambda q, s: q ^ s, (0, 1)),
    "even_pairs": Automaton(("0", "1"), _even_pairs, (0, 1, 0, 0, 1)),
    "mod5": Automaton(("0", "+", "-"), lambda q, s: (q + (0, 1, 4)[s]) % 5, (0, 1, 2, 3, 4)),
    "s5": Automaton(("0", "1"), _s5, (0, 1, 2, 3, 4)),
    "temporal_xor": Automaton((" ", "0", "1"), _xor, (0, 0, 1, 0, 1), least=3),
}


class TrackingState(NamedTuple):
    """Fields of shape (B,)."""

    t: Tensor  # int64: steps taken in this episode
    length: Tensor  # int64: rows that can be acted on; the last of them asks
    symbol: Tensor  # int64: on show; the number of symbols where the row asks, and after it
    automaton: Tensor  # int64: its state after the symbols shown so far
    right: Tensor  # bool: the answer was right


class StateTracking(Env):
    """Regular languages as an environment: `CTP314/TFPORL:pomdp-discrete/envs/regular.py` (Lu et al., ICML 2024).

    Episode: rows 0..T-2 show T - 1 symbols, row T - 1 the mark "end". T is uniform in l..max_length (l = 2, for temporal_xor
    3), or `length` if that is given. Actions are the classes and a last one, "wait". Those before the mark do
    nothing; there the right class earns 1, a wrong one 0, "wait" -1, and the episode terminates.
    Observation (symbols + 1,): the symbol or the mark, one-hot.
      parity         symbols 0 1, uniform; class: their sum mod 2
      even_pairs     symbols 0 1; class 1 if the first and the last are equal
      mod5           symbols 0 + -; class: their sum mod 5 (TFPORL: Cycle_Navigation)
      s5             symbols 0 1, generators of S5; class: where they take point 0 of five. The group is not solvable, so
                     no constant-depth network computes this at all lengths
      temporal_xor   two cues 0 or 1 on two distinct rows, all pairs of rows equally likely, blanks else; class: their xor.
                     Not in TFPORL
    Success: the right class.

    Spec sheet (T the longest episode's rows that can be acted on)
      m = T - 1              the answer needs every symbol, from row 0 on
      c = 1, R_oracle = R* = 1, R0_credit does not apply
      R0_memory              the likeliest class over the lengths drawn: all rows that ask look the same. Exact, from the
                             automaton's distribution; near 1/classes, above it where short episodes tell (even_pairs of two
                             rows is always class 1; s5 of two rows is always class 1)
      R0_memory_last         1 but in even_pairs: the agent runs the automaton in its own actions, as there are enough of
                             them (temporal_xor: the xor so far will do). even_pairs needs four states and has three
                             actions: None, the optimum is not known
      R_random = 0           one in classes + 1 is right, and one is "wait"
      max_rows = T + 1; chance = R0_memory
    Cue-visible twin: the class of the symbols so far, one-hot; m = 0.

    Args:
        task: one of `TASKS`.
        max_length: the largest T that is drawn, at least l; the smallest is l.
        length: every episode's T, at least l (`max_length` then has no effect); None: drawn.
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
        task: str = "parity",
        max_length: int = 25,
        length: int | None = None,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        self.task, self.rules = task, TASKS[task]
        self.max_length = at_least("max_length", max_length, self.rules.least)
        self.length = None if length is None else at_least("length", length, self.rules.least)
        self.shortest, self.longest = (length, length) if length is not None else (self.rules.least, self.max_length)
        self.classes = max(self.rules.output) + 1
        self.num_actions = self.classes + 1
        self.action_names = (*map(str, range(self.classes)), "wait")
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        symbols, states = len(self.rules.symbols), len(self.rules.output)
        table = [self.rules.move(q, s) for q in range(states) for s in range(symbols)]
        # Reading the mark, whose number is `symbols`, changes nothing.
        rows = [[*table[q * symbols : (q + 1) * symbols], q] for q in range(states)]
        self._move = torch.tensor(rows, device=self.device).flatten()
        self._output = torch.tensor(self.rules.output, device=self.device)
        self._seen = torch.tensor([0, 1, 1, 2, 2], device=self.device)  # temporal_xor: cues by state
        self._codes = torch.eye(symbols + 1, device=self.device)
        self._answers = torch.eye(self.classes, device=self.device)

    def _read(self, t: Tensor, length: Tensor, automaton: Tensor) -> tuple[Tensor, Tensor]:
        """The symbol that row t shows, and the automaton's state after it."""
        symbols = len(self.rules.symbols)
        draw = torch.randint(2**62, (2, self.num_envs), generator=self.generator, device=self.device)
        if self.task == "temporal_xor":
            cue = draw[0] % (length - 1 - t).clamp(min=1) < 2 - self._seen[automaton]  # this row, of those that are left
            symbol = torch.where(cue, 1 + draw[1] % 2, 0)
        else:
            symbol = draw[0] % symbols
        symbol = torch.where(t >= length - 1, symbols, symbol)
        return symbol, self._move[automaton * (symbols + 1) + symbol]

    def spawn(self) -> TrackingState:
        longer = torch.randint(2**62, (self.num_envs,), generator=self.generator, device=self.device)
        length = self.shortest + longer % (self.longest - self.shortest + 1)
        return TrackingState(self._zero, length, *self._read(self._zero, length, self._zero), self._never)

    def act(self, state: TrackingState, action: Tensor) -> tuple[TrackingState, Tensor, Tensor, Tensor]:
        t = state.t + 1
        over = t >= state.length
        right = over & (action == self._output[state.automaton])
        reward = right.float() - (over & (action == self.classes)).float()
        read = self._read(t, state.length, state.automaton)
        return TrackingState(t, state.length, *read, right), reward, over, self._never

    def observe(self, state: TrackingState) -> Tensor:
        return self._codes[state.symbol]

    def success(self, state: TrackingState) -> Tensor:
        return state.right.clone()

    def oracle(self, state: TrackingState) -> Tensor:
        return self._output[state.automaton]

    def cue(self, state: TrackingState) -> Tensor:
        """(B, classes) float32: the class of the symbols so far, one-hot."""
        return self._answers[self._output[state.automaton]]

    def describe(self) -> Spec:
        best = self._best_constant()
        last = None if self.task == "even_pairs" else 1.0
        spec = Spec(self.longest - 1, 1, 1.0, 1.0, best, last, None, 0.0, self.longest + 1, best)
        if not self.cue_visible:
            return spec
        return dataclasses.replace(spec, memory_length=0, r0_memory=None, r0_memory_last=None, chance=1.0)

    def _best_constant(self) -> float:
        """Probability of the likeliest class over the lengths."""
        if self.task == "temporal_xor":
            return 0.5
        lengths, total = range(self.shortest, self.longest + 1), np.zeros(self.classes)
        symbols, output = len(self.rules.symbols), np.array(self.rules.output)
        p = np.eye(len(output))[0]
        for length in range(2, self.longest + 1):
            read = np.zeros_like(p)
            for q, s in np.ndindex(len(p), symbols):
                read[self.rules.move(q, s)] += p[q] / symbols
            p = read
            if length >= self.shortest:
                np.add.at(total, output, p)
        return float(total.max() / len(lengths))

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        fields = [field.cpu()[slice(None) if index is None else list(index)].tolist() for field in self.state]
        states: list[Any] = [TrackingState(*values) for values in zip(*fields, strict=True)]
        faces = [(s.symbol, self.rules.output[s.automaton], s.t, s.length, s.right) for s in states]
        return tracking_frames(faces, self.rules.symbols, self.classes)
