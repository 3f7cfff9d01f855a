"""The chains of bsuite (Osband et al. 2020, arXiv 1908.03568; `google-deepmind/bsuite:bsuite/environments/`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.env import Env, Spec, at_least, flag
from envs.quiz import Quiz
from envs.render_chains import discounting_frames, umbrella_frames
from envs.render_quiz import Tile


class MemoryState(NamedTuple):
    t: Tensor
    right: Tensor
    context: Tensor  # (B, b) int64, 0 or 1
    query: Tensor  # (B,) int64, in 0..b-1


class MemoryChain(Quiz):
    """b bits are shown once; n - 1 steps later one of them is asked for: +1 or -1, and the end. `memory_chain.py`.

    bsuite_quirk = True is bsuite step for step. It builds an observation before it moves the clock, so that row 0 comes
    twice: n + 1 steps, and observation (2+b,) = [1 - t/n, query, bits as -1 or +1] of clock t = 0, 0, 1, ..., n. The bits show
    while t = 0 and the query, a bare number in 0..b-1, while t = n - 1; the action on that row is the answer.
    bsuite_quirk = False is the clean form: every row once, n steps, and the query one-hot (zeros before it is asked), so
    that "not asked" and "bit 0" look different: observation (1+2b,).
    Actions: 0 for -1, 1 for +1. Success: the right answer. bsuite's memory_len has b = 1, memory_size n = 2.

    Spec sheet (n memory_length, b num_bits; for what holds for every quiz see `Quiz`)
      m = n - 1              nil for n = 1, where bits and question share a row
      R0_memory = 0          (n = 1: 1) the bits are gone when the question comes
      R0_memory_last         C(b-1, floor((b-1)/2)) / 2^(b-1): the agent repeats its action and so carries one bit; the best
                             is the majority of the context (the optimal 1-bit random access code). b = 1: 1, not a memory
                             task for an agent that sees its last action
      R_random = 0; max_rows = n + 1 (quirk n + 2); chance = 1/2

    Args:
        memory_length: n >= 1; num_bits: b >= 1; bsuite_quirk: which form.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    num_actions, action_names = 2, ("minus", "plus")

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        memory_length: int = 10,
        num_bits: int = 1,
        bsuite_quirk: bool = False,
    ) -> None:
        self.memory_length, self.num_bits = at_least("memory_length", memory_length, 1), at_least("num_bits", num_bits, 1)
        self.bsuite_quirk = flag("bsuite_quirk", bsuite_quirk)
        self.steps, self.questions = self.memory_length + self.bsuite_quirk, 1
        self.obs_high = max(1.0, self.num_bits - 1.0) if self.bsuite_quirk else 1.0
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        super().prepare()
        self._bits = torch.arange(self.num_bits, device=self.device)

    def spawn(self) -> MemoryState:
        shape = (self.num_envs, self.num_bits)
        context = torch.randint(2, shape, generator=self.generator, device=self.device)
        return MemoryState(self._zero, self._zero, context, self.draw(self.num_bits))

    def advance(self, state: MemoryState) -> MemoryState:
        return state

    def answer(self, state: MemoryState) -> Tensor:
        return state.context.gather(1, state.query.unsqueeze(1)).squeeze(1)

    def observe(self, state: MemoryState) -> Tensor:
        clock = (state.t - int(self.bsuite_quirk)).clamp(min=0).unsqueeze(1)
        query = state.query.unsqueeze(1)
        if not self.bsuite_quirk:
            query = query == self._bits
        asked = query * (clock == self.memory_length - 1)
        return torch.cat((1 - clock / self.memory_length, asked, (2 * state.context - 1) * (clock == 0)), 1)

    def figures(self) -> Spec:
        if self.memory_length == 1:
            return self.sheet(0, 1.0, 1.0, 1.0)
        b = self.num_bits
        carried = math.comb(b - 1, (b - 1) // 2) / 2 ** (b - 1)
        return self.sheet(self.memory_length - 1, 0.5, (1 + carried) / 2, 0.5)

    def tiles(self, state: Any) -> list[Tile]:
        clock = max(state.t - self.bsuite_quirk, 0)
        asked = state.query if clock >= self.memory_length - 1 else -1
        roles = ["asked" if i == asked else "shown" if clock == 0 else "past" for i in range(self.num_bits)]
        tiles = [Tile("sign", bit, role) for bit, role in zip(state.context, roles, strict=True)]
        first = max(0, min(max(asked, 0) - 5, len(tiles) - 10))
        return [*([Tile("more")] * (first > 0)), *tiles[first : first + 10], *([Tile("more")] * (first + 10 < len(tiles)))]


class UmbrellaState(NamedTuple):
    t: Tensor  # (B,) int64
    need: Tensor  # (B,) bool
    have: Tensor  # (B,) bool
    noise: Tensor  # (B, d) bool: distractors on show


class UmbrellaChain(Env):
    """Take an umbrella on the first step or not; n steps later it rains or not. `umbrella_chain.py`, step for step.

    The first action sets `have`; all others do nothing. Steps 1..n-1 pay +1 or -1 at random, step n pays +1 if
    have = need, else -1, and terminates. Observation (3+d,): [need, have, 1 - t/n, d random bits]; on row 0 `have` is
    random.
    hidden = True (not in bsuite): `need` and `have` show on row 0 only.
    Success: have = need. bsuite's umbrella_length has d = 20, umbrella_distract n = 20.

    Spec sheet (n chain_length, d distractors)
      m = 0                  also if hidden: the choice is made on row 0, which shows the need. What hiding takes away is
                             what a critic needs: without memory it cannot tell a good course from a bad one after row 0
                             (the value memory length of Ni et al. 2023, arXiv 2307.03864, is n - 1 instead of 0)
      c = n                  and the return carries n - 1 coin flips of variance 1
      R_oracle = R* = 1, R_random = 0
      R0_memory              does not apply
      R0_credit = 0          (n = 1: does not apply) the first step's reward is a coin
      max_rows = n + 1; chance = 1/2, the success rate without credit (n = 1: of a random choice)
    Cue-visible twin: `need` in every observation; the same figures.

    Args:
        chain_length: n >= 1; distractors: d >= 0; hidden: see above.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    num_actions, action_names = 2, ("leave", "take")
    obs_low = 0.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        chain_length: int = 10,
        distractors: int = 0,
        hidden: bool = False,
    ) -> None:
        self.chain_length = at_least("chain_length", chain_length, 1)
        self.distractors = at_least("distractors", distractors, 0)
        self.hidden = flag("hidden", hidden)
        super().__init__(num_envs, device, seed, cue_visible)

    def _coins(self, n: int) -> Tensor:
        """(B, n) bool."""
        return torch.rand(self.num_envs, n, generator=self.generator, device=self.device) < 0.5

    def spawn(self) -> UmbrellaState:
        coins = self._coins(2 + self.distractors)
        return UmbrellaState(self._zero, coins[:, 0], coins[:, 1], coins[:, 2:])

    def act(self, state: UmbrellaState, action: Tensor) -> tuple[UmbrellaState, Tensor, Tensor, Tensor]:
        coins = self._coins(1 + self.distractors)
        t, have = state.t + 1, torch.where(state.t == 0, action == 1, state.have)
        over = t >= self.chain_length
        good = torch.where(over, have == state.need, coins[:, 0])
        return UmbrellaState(t, state.need, have, coins[:, 1:]), 2.0 * good - 1, over, self._never

    def observe(self, state: UmbrellaState) -> Tensor:
        pair = torch.stack((state.need, state.have), 1)
        if self.hidden:
            pair = pair & (state.t == 0).unsqueeze(1)
        return torch.cat((pair, (1 - state.t / self.chain_length).unsqueeze(1), state.noise), 1)

    def success(self, state: UmbrellaState) -> Tensor:
        return state.have == state.need

    def oracle(self, state: UmbrellaState) -> Tensor:
        return state.need.long()

    def cue(self, state: UmbrellaState) -> Tensor:
        """(B, 1) float32: +1 if the umbrella is needed, else -1."""
        return (2.0 * state.need - 1).unsqueeze(1)

    def describe(self) -> Spec:
        n = self.chain_length
        return Spec(0, n, 1.0, 1.0, None, None, 0.0 if n > 1 else None, 0.0, n + 1, 0.5)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        t, need, have, noise = (f.cpu().numpy()[slice(None) if index is None else list(index)] for f in self.state)
        return umbrella_frames(t, need, have, noise, self.chain_length, self.hidden)


class DiscountingState(NamedTuple):
    """Fields of shape (B,)."""

    t: Tensor  # int64
    context: Tensor  # int64: the arm chosen, -1 before
    bonus: Tensor  # int64: the arm that pays more


class DiscountingChain(Env):
    """Choose one of five arms on the first step; it pays once, after 1, 3, 10, 30 or 100 steps. `discounting_chain.py`.

    One arm pays 1.1, the others 1. All 100 steps are played; the later actions do nothing. Observation (2,): [arm chosen
    or -1, t / 100]. Success: the arm that pays 1.1.
    mapping_seed: the arm that pays more is mapping_seed mod 5, as in bsuite (sweep: 0..19). None: drawn for every episode
    and never shown, so that only the twin can know it (bsuite's None draws it once for the object's life).

    Spec sheet (arm = mapping_seed mod 5)
      m = 0                  everything is on show
      c = 1, 3, 10, 30, 100  for arms 0..4: only a return that reaches that far tells it from the others (undiscounted; with a
                             discount g the best arm is another one unless 1.1 g^(c-1) > 1: c = 30 needs g > 0.9967, c = 100
                             g > 0.99904)
      R_oracle = R* = 1.1; R_random = 1.02
      R0_credit = 1.02       (arm 0: does not apply) one-step rewards favour arm 0, for 1; choosing blindly gets 1.02
      R0_memory              does not apply
      max_rows = 101; chance = 1/5
    mapping_seed = None: R_oracle = 1.1, but R* = R_random = 1.02 and c is None; in the twin R* = 1.1 and c = 100.
    The twin of a fixed mapping shows a constant.

    Args:
        mapping_seed: >= 0, or None.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    waits = (1, 3, 10, 30, 100)
    steps = 100
    num_actions, action_names = 5, tuple(f"after {n}" for n in waits)
    obs_high = 4.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        mapping_seed: int | None = 2,
    ) -> None:
        self.mapping_seed = None if mapping_seed is None else at_least("mapping_seed", mapping_seed, 0)
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        self._waits = torch.tensor(self.waits, device=self.device)
        self._arms = torch.arange(5, device=self.device)

    def spawn(self) -> DiscountingState:
        if self.mapping_seed is None:
            bonus = torch.randint(5, (self.num_envs,), generator=self.generator, device=self.device)
        else:
            bonus = self._zero + self.mapping_seed % 5
        return DiscountingState(self._zero, self._zero - 1, bonus)

    def act(self, state: DiscountingState, action: Tensor) -> tuple[DiscountingState, Tensor, Tensor, Tensor]:
        t, context = state.t + 1, torch.where(state.t == 0, action, state.context)
        pays = t == self._waits[context]
        reward = torch.where(context == state.bonus, 1.1, 1.0) * pays
        return DiscountingState(t, context, state.bonus), reward, t >= self.steps, self._never

    def observe(self, state: DiscountingState) -> Tensor:
        return torch.stack((state.context.float(), state.t / self.steps), 1)

    def success(self, state: DiscountingState) -> Tensor:
        return state.context == state.bonus

    def oracle(self, state: DiscountingState) -> Tensor:
        return state.bonus.clone()

    def cue(self, state: DiscountingState) -> Tensor:
        """(B, 5) float32: the arm that pays more, one-hot."""
        return (state.bonus.unsqueeze(1) == self._arms).float()

    def describe(self) -> Spec:
        spec = Spec(0, None, 1.1, 1.02, None, None, None, 1.02, self.steps + 1, 0.2)
        if self.mapping_seed is None and not self.cue_visible:
            return spec
        wait = 100 if self.mapping_seed is None else self.waits[self.mapping_seed % 5]
        return dataclasses.replace(spec, credit_length=wait, r_star=1.1, r0_credit=1.02 if wait > 1 else None)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        t, context, bonus = (f.cpu().numpy()[slice(None) if index is None else list(index)] for f in self.state)
        return discounting_frames(t, context, bonus, self.waits)
