"""T-mazes in a row: behind the right arm of one corridor's junction begins the next corridor.

    x = 0 . . . l  ->  x = 0 . . . l  ->  ...  K corridors, x = l the junction

Actions: 0 forward, 1 left, 2 right. In the corridor "forward" moves on by one cell; a turn there is a step wasted, which
costs `step_cost` and moves nothing. At the junction "forward" counts as a wrong turn. There is no way back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.env import Env, Spec, at_least, flag, in_range
from envs.render import series_frames

FORWARD, LEFT, RIGHT = range(3)


class Series(Env):
    """What both tasks share. A state has the fields x, corridor (how many are done) and t, each (B,) int64."""

    num_actions = 3
    action_names = ("forward", "left", "right")
    corridor_length: int
    step_cost: float
    step_limit: int

    @abstractmethod
    def at_junction(self, state: NamedTuple) -> Tensor:
        """(B,) bool."""

    @abstractmethod
    def turn(self, state: NamedTuple) -> Tensor:
        """(B,) int64: the right turn of the present corridor, LEFT or RIGHT."""

    def oracle(self, state: NamedTuple) -> Tensor:
        return torch.where(self.at_junction(state), self.turn(state), FORWARD)

    def cue(self, state: NamedTuple) -> Tensor:
        """(B, 1) float32: the right turn at the next junction, -1 left, +1 right."""
        return (2 * self.turn(state) - 3).to(torch.float32).unsqueeze(1)

    def random_return(self, lengths: np.ndarray, steps: int, wrong: float, ends: bool) -> float:
        """Exact return of uniformly random actions over `steps` steps.

        lengths: (l + 1,) probability of each corridor length; wrong: cost of a wrong turn, and whether it ends all.
        """
        p = np.zeros((self.corridors, len(lengths)))  # by corridor and by cells still ahead
        p[0] = lengths
        total = 0.0
        for _ in range(steps):
            there = p[:, 0].copy()
            total += there.sum() * (1 - 2 * wrong) / 3 - self.step_cost * p[:, 1:].sum() * 2 / 3
            new = p * (2 / 3)
            new[:, 0] = 0.0
            new[:, :-1] += p[:, 1:] / 3
            new[1:] += np.outer(there[:-1] * (1 / 3 if ends else 1.0), lengths)
            p = new
            if p.sum() < 1e-15:
                break
        return float(total)


class RewriteState(NamedTuple):
    """Fields of shape (B,) int64."""

    x: Tensor  # 0..length
    corridor: Tensor  # corridors done, 0..K
    t: Tensor  # steps taken in this episode
    length: Tensor  # of the present corridor
    turn: Tensor  # right at the present junction: LEFT or RIGHT


class RewriteTMaze(Series):
    """The endless T-maze of "Memory Retention Is Not Enough" (AAMAS 2026, arXiv 2601.15086): a new cue in every corridor, so
    that the old one must be forgotten. The rules are those of the public copies of its `EndlessTMaze`; the official
    repository was not to be had.

    Episode: K corridors; ends with a wrong turn or with the K-th right one, and is truncated after `step_limit` steps.
    Observation (2,): [at the junction, hint]; the hint (-1 left, +1 right) shows where x = 0. With `show_position` (3,):
    x / l as well, as published.
    Reward: +1 for a right turn, -wrong_turn_cost for a wrong one, -step_cost for a wasted step.
    Success: K right turns.
    Published code: one number, the penalty, is both costs (0.01; the paper is reported to say 1 and 0.01, our defaults);
    actions 0, 1, 2 are those of its Gymnasium form; it does not show the junction: x / l tells where the length is
    fixed, but with drawn lengths the agent can only find out by trying to turn. Here the junction shows always.

    Spec sheet (l corridor_length, K corridors, w wrong_turn_cost, N = step_limit - K (l + 1) steps that can be wasted)
      m = l                  hint last seen at x = 0, turn chosen at x = l
      c = 1                  with step_cost = 0: not given
      R_oracle = R* = K
      R0_memory = R0_memory_last = (1 - w) (1 - 2^-K), which is 0 for w = 1
                             x = 1 is entered by an unpunished "forward" whatever the hint was, so every corridor is passed
                             with at most even odds: V_k = (1 + V_{k-1}) / 2 - w / 2. True if truncation costs no less than a
                             wrong turn (N step_cost >= w): else it pays to serve one hint and to wait for the
                             end at the other. If that is free (step_cost = 0), the formula holds with w = 0; between the
                             two: not given.
      R0_credit              does not apply
      R_random               exact, from the distribution of the random walk up to the limit
      max_rows = step_limit + 1, chance = 2^-K
    Cue-visible twin: m = 0, R* = K.

    Args:
        corridor_length: l >= 1, moves from the start of a corridor to its junction.
        corridors: K >= 1.
        min_length: None: every corridor has length l. Else the length is drawn anew, uniform on min_length..l.
        step_cost: in [0, 1]. wrong_turn_cost: w in [0, 1] (beyond 1 the best is not to play).
        show_position: whether the agent sees x / l.
        step_limit: steps after which an episode is truncated, >= K (l + 1); None: 6 K (l + 1).
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        corridor_length: int = 20,
        corridors: int = 10,
        min_length: int | None = None,
        step_cost: float = 0.01,
        wrong_turn_cost: float = 1.0,
        show_position: bool = True,
        step_limit: int | None = None,
    ) -> None:
        self.corridor_length = at_least("corridor_length", corridor_length, 1)
        self.corridors = at_least("corridors", corridors, 1)
        self.min_length = None if min_length is None else at_least("min_length", min_length, 1)
        if min_length is not None and min_length > corridor_length:
            raise ValueError(f"min_length must be at most corridor_length = {corridor_length}, got {min_length}")
        self.step_cost = in_range("step_cost", step_cost, 0, 1)
        self.wrong_turn_cost = in_range("wrong_turn_cost", wrong_turn_cost, 0, 1)
        self.show_position = flag("show_position", show_position)
        self.needed = self.corridors * (self.corridor_length + 1)
        self.step_limit = at_least("step_limit", 6 * self.needed if step_limit is None else step_limit, self.needed)
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        self._length = torch.full_like(self._zero, self.corridor_length)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Length and right turn of a corridor, (B,) int64 each."""
        size, where = (self.num_envs,), {"generator": self.generator, "device": self.device}
        turn = torch.randint(LEFT, RIGHT + 1, size, **where)
        if self.min_length is None:
            return self._length, turn
        return torch.randint(self.min_length, self.corridor_length + 1, size, **where), turn

    def spawn(self) -> RewriteState:
        return RewriteState(self._zero, self._zero, self._zero, *self._draw())

    def at_junction(self, state: RewriteState) -> Tensor:
        return state.x == state.length

    def turn(self, state: RewriteState) -> Tensor:
        return state.turn

    def cues_before(self, state: RewriteState) -> Tensor:
        return state.corridor

    def act(self, state: RewriteState, action: Tensor) -> tuple[RewriteState, Tensor, Tensor, Tensor]:
        there = self.at_junction(state)
        right = there & (action == self.turn(state))
        forward = (action == FORWARD) > there
        corridor, t = state.corridor + right, state.t + 1
        done = corridor == self.corridors
        wrong = there > right
        onward = right > done  # into the next corridor
        length, turn = self._draw()
        new = RewriteState(
            (state.x + forward).masked_fill(onward, 0),
            corridor,
            t,
            torch.where(onward, length, state.length),
            torch.where(onward, turn, state.turn),
        )
        reward = right + wrong * -self.wrong_turn_cost + ~(there | forward) * -self.step_cost
        return new, reward, done | wrong, t >= self.step_limit

    def observe(self, state: RewriteState) -> Tensor:
        seen = [self.at_junction(state), (2 * state.turn - 3) * (state.x == 0)]
        if self.show_position:
            seen.append(state.x / self.corridor_length)
        return torch.stack([column.to(torch.float32) for column in seen], -1)

    def success(self, state: RewriteState) -> Tensor:
        return state.corridor == self.corridors

    def describe(self) -> Spec:
        K, twin, wrong = self.corridors, self.cue_visible, self.wrong_turn_cost
        r0 = None
        if self.step_cost == 0:
            r0 = 1 - 0.5**K
        elif (self.step_limit - self.needed) * self.step_cost >= wrong:
            r0 = (1 - wrong) * (1 - 0.5**K)
        shortest = self.corridor_length if self.min_length is None else self.min_length
        lengths = np.zeros(self.corridor_length + 1)
        lengths[shortest:] = 1 / (self.corridor_length + 1 - shortest)
        return Spec(
            memory_length=0 if twin else self.corridor_length,
            credit_length=1 if self.step_cost else None,
            r_oracle=float(K),
            r_star=float(K),
            r0_memory=None if twin else r0,
            r0_memory_last=None if twin else r0,
            r0_credit=None,
            r_random=self.random_return(lengths, self.step_limit, wrong, ends=True),
            max_rows=self.step_limit + 1,
            chance=1.0 if twin else 0.5**K,
        )

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        rows = slice(None) if index is None else list(index)
        x, corridor, t, length, turn = (field.cpu().numpy()[rows] for field in self.state)
        here = np.minimum(corridor, self.corridors - 1)[:, None] == np.arange(self.corridors)
        # on the very last step a wrong turn and an arrival at the junction look alike: not marked
        wrong = self.ended.cpu().numpy()[rows] & (x == length) & (corridor < self.corridors) & (t < self.step_limit)
        results = (np.arange(self.corridors) < corridor[:, None]) - (here & wrong[:, None]).astype(np.int64)
        cue = 2 * turn - 3
        cues = here * cue[:, None]  # the others are past or not drawn yet
        return series_frames(x, length, t, corridor, cue * (x == 0), cues, results, self.corridor_length, self.step_limit)


class MultiCueState(NamedTuple):
    """Fields of shape (B,) int64."""

    x: Tensor  # 0..l
    corridor: Tensor  # junctions passed, 0..K
    t: Tensor  # steps taken in this episode
    cues: Tensor  # bit j: the right turn at junction j, 0 left, 1 right
    results: Tensor  # bit j: junction j was passed by the right turn


class MultiCueTMaze(Series):
    """K cues, then K junctions: how many bits can be held, and for how long. It is our own.

    Episode: on the first K rows the cues of all junctions show, one a row in the order of the junctions, while the agent
    stands at the start of the first corridor; the actions of rows 0..K-2 are ignored and free. Then K corridors of length
    l. No early end: a wrong turn leads on too. Ends with the K-th turn, and is truncated after `step_limit` steps.
    Observation (2,): [at the junction, cue]; the cue (-1 left, +1 right) shows on the first K rows, else it is 0. The agent
    has to count, cues and junctions alike.
    Reward: +1 for a right turn, -1 for a wrong one, -step_cost for a wasted step.
    Success: K right turns.

    Spec sheet (l corridor_length, K cues, N = step_limit - (K - 1) - K (l + 1) steps that can be wasted)
      m = K - 1 + l K        cue j on row j, junction j on row K - 1 + l + j (l + 1): from K - 1 + l for the first to
                             K - 1 + l K for the last, which is given
      c = 1                  with step_cost = 0: not given
      R_oracle = R* = K      once the cues have shown all is known, and before that nothing is to be decided
      R0_memory = R0_memory_last = 0
                             x = 1 is entered by an unpunished "forward" whatever the cues were (bits that an agent passes
                             on from row to row in its last action end there), so every junction is passed by the right turn
                             with at most even odds. True if truncation costs no less than K wrong turns
                             (N step_cost >= K); else it may pay to wait for the end at some cues: not given.
      R0_credit              does not apply
      R_random               exact, from the distribution of the random walk up to the limit
      max_rows = step_limit + 1, chance = 2^-K
    Cue-visible twin (it shows the right turn at the next junction): m = 0, R* = K.

    Args:
        corridor_length: l >= 1, moves from the start of a corridor to its junction.
        cues: K in 1..62.
        step_cost: in [0, 1].
        step_limit: steps after which an episode is truncated, >= K - 1 + K (l + 1); None: K + 6 K (l + 1).
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        corridor_length: int = 10,
        cues: int = 4,
        step_cost: float = 0.1,
        step_limit: int | None = None,
    ) -> None:
        self.corridor_length = at_least("corridor_length", corridor_length, 1)
        self.cues = self.corridors = at_least("cues", cues, 1)
        if cues > 62:
            raise ValueError(f"cues must be at most 62, got {cues}")
        self.step_cost = in_range("step_cost", step_cost, 0, 1)
        walk = self.cues * (self.corridor_length + 1)
        self.needed = self.cues - 1 + walk
        self.step_limit = at_least("step_limit", self.cues + 6 * walk if step_limit is None else step_limit, self.needed)
        super().__init__(num_envs, device, seed, cue_visible)

    def spawn(self) -> MultiCueState:
        cues = torch.randint(0, 2**self.cues, (self.num_envs,), generator=self.generator, device=self.device)
        return MultiCueState(self._zero, self._zero, self._zero, cues, self._zero)

    def at_junction(self, state: MultiCueState) -> Tensor:
        return state.x == self.corridor_length

    def turn(self, state: MultiCueState) -> Tensor:
        return LEFT + (state.cues >> state.corridor & 1)

    def act(self, state: MultiCueState, action: Tensor) -> tuple[MultiCueState, Tensor, Tensor, Tensor]:
        there = self.at_junction(state)
        right = there & (action == self.turn(state))
        walking = (state.t >= self.cues - 1) > there
        forward = walking & (action == FORWARD)
        corridor, t = state.corridor + there, state.t + 1
        done = corridor == self.cues
        x = (state.x + forward).masked_fill(there > done, 0)
        new = MultiCueState(x, corridor, t, state.cues, state.results + (right.to(torch.int64) << state.corridor))
        reward = right * 2.0 + there * -1.0 + (walking > forward) * -self.step_cost
        return new, reward, done, t >= self.step_limit

    def observe(self, state: MultiCueState) -> Tensor:
        bit = state.cues >> state.t & 1  # of no meaning once t >= K
        return torch.stack((self.at_junction(state), (2 * bit - 1) * (state.t < self.cues)), -1).to(torch.float32)

    def success(self, state: MultiCueState) -> Tensor:
        return state.results == 2**self.cues - 1

    def describe(self) -> Spec:
        K, l, twin = self.cues, self.corridor_length, self.cue_visible
        dear = (self.step_limit - self.needed) * self.step_cost >= K
        r0 = 0.0 if dear and not twin else None
        walk = self.step_limit - (K - 1)
        return Spec(
            memory_length=0 if twin else K - 1 + l * K,
            credit_length=1 if self.step_cost else None,
            r_oracle=float(K),
            r_star=float(K),
            r0_memory=r0,
            r0_memory_last=r0,
            r0_credit=None,
            r_random=self.random_return(np.eye(l + 1)[l], walk, wrong=1.0, ends=False),
            max_rows=self.step_limit + 1,
            chance=1.0 if twin else 0.5**K,
        )

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        rows = slice(None) if index is None else list(index)
        x, corridor, t, cues, results = (field.cpu().numpy()[rows] for field in self.state)
        j = np.arange(self.cues)
        signs = 2 * (cues[:, None] >> j & 1) - 1
        passed = np.where(j < corridor[:, None], 2 * (results[:, None] >> j & 1) - 1, 0)
        shown = (signs * (j == t[:, None])).sum(1)
        length = np.full_like(x, self.corridor_length)
        return series_frames(
            x, length, t, corridor, shown, signs * (j <= t[:, None]), passed, self.corridor_length, self.step_limit
        )
