"""A passive T-maze whose reward comes late: memory length and credit length as independent dials, with reward noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.env import Spec, at_least, in_range
from envs.render import waiting_marks
from envs.tmaze import RIGHT, Corridor, random_move


class DelayedState(NamedTuple):
    """Fields of shape (B,)."""

    cell: Tensor  # int64, as `TMazeState`
    t: Tensor  # int64
    goal: Tensor  # int64
    visited: Tensor  # bool
    noise: Tensor  # float32: the part of this row's reward that means nothing


class DelayedChoice(Corridor):
    """The passive T-maze of `TMaze` ("schedule" penalties) with D steps of waiting after the choice. It is our own.

    Episode: always T = L + 1 + D steps, then a true terminal. Steps 1..L walk the corridor, step L + 1 is the choice,
    from then on nothing moves and actions are ignored.
    Observation (3,): corridor [0, 0, 0], junction [1, 0, 0], first row [0, goal_y, 0] (goal_y = +1 up, -1 down), waiting
    [0, 0, 1]. The waiting rows do not show which arm was taken: if they did, a critic could tell a good choice at once and
    its bootstrap would shorten the credit. With L = 0 the agent chooses on the first row.
    Reward at t (after the move; 1..T): -1/L if t <= L and x < t; +sigma or -sigma with even odds, independent on every
    waiting step (t > L + 1); and on the last step 1 in the right arm. So the return has variance D sigma^2.
    Success: in the right arm at the end. D = 0 is `TMaze` with oracle_length 0 but for the look of the last row.

    Spec sheet (L corridor_length, D delay)
      m = L                  cue on row 0, turn chosen on row L
      c = D + 1              the choice's own reward, then D of waiting, the last of which pays for it
      R_oracle = R* = 1      in the mean, as all returns here
      R0_memory = R0_memory_last = 0.5; with L = 0: does not apply
                             Only "right" on every step reaches the junction in time, unpunished whatever the cue was, so
                             nothing that a memoryless agent sees there carries the bit. Noise starts after the choice.
      R0_credit = 0.5        walks, for a step behind schedule costs at once, and chooses anyhow; with D = 0: does not apply
      R_random               exact, from the distribution of the random walk
      max_rows = T + 1, chance = 0.5 (with L = D = 0, and of the twin with D = 0: 1)
    Cue-visible twin: m = 0, R* = 1, c and R0_credit as above.

    Args:
        corridor_length: L >= 0, moves from the start to the junction.
        delay: D >= 0, steps of waiting.
        sigma: >= 0, size of the waiting steps' rewards.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    # as in Corridor, then waiting
    codes = ((0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, 1), (0, 1, 0), (0, -1, 0), (0, 0, 1))
    start = 0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        corridor_length: int = 20,
        delay: int = 20,
        sigma: float = 0.0,
    ) -> None:
        self.corridor_length = self.junction = at_least("corridor_length", corridor_length, 0)
        self.delay = at_least("delay", delay, 0)
        self.sigma = in_range("sigma", sigma, 0, 1e6)
        self.episode_length = self.corridor_length + 1 + self.delay
        self.penalty = -1.0 / max(self.corridor_length, 1)
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        super().prepare()
        self._silence = torch.zeros(self.num_envs, device=self.device)

    def spawn(self) -> DelayedState:
        return DelayedState(*super().spawn(), self._silence)

    def act(self, state: DelayedState, action: Tensor) -> tuple[DelayedState, Tensor, Tensor, Tensor]:
        L = self.corridor_length
        waiting = state.t > L
        new = self._move(state, action)
        sign = torch.randint(0, 2, (self.num_envs,), generator=self.generator, device=self.device) * 2 - 1
        noise = sign * waiting * self.sigma
        new = new._replace(cell=torch.where(waiting, state.cell, new.cell), noise=noise)
        over = new.t >= self.episode_length
        late = (new.cell < new.t) & (new.t <= L)
        return new, late * self.penalty + noise + (over & (new.cell == new.goal)), over, self._never

    def observe(self, state: DelayedState) -> Tensor:
        code = torch.where(state.t == 0, state.goal + 2, state.cell)
        return self._views.index_select(0, torch.where(state.t > self.corridor_length, self.junction + 5, code))

    def oracle(self, state: DelayedState) -> Tensor:
        return torch.where(state.cell >= self.junction, self._towards_goal(state), RIGHT)

    def describe(self) -> Spec:
        L, D, twin = self.corridor_length, self.delay, self.cue_visible
        r0 = None if twin or L == 0 else 0.5
        return Spec(
            memory_length=0 if twin else L,
            credit_length=D + 1,
            r_oracle=1.0,
            r_star=1.0,
            r0_memory=r0,
            r0_memory_last=r0,
            r0_credit=0.5 if D else None,
            r_random=self._random_return(),
            max_rows=self.episode_length + 1,
            chance=1.0 if r0 is None and not D else 0.5,
        )

    def _random_return(self) -> float:
        p = np.zeros(self.junction + 3)
        p[0] = 1.0
        total = 0.0
        for t in range(1, self.corridor_length + 1):
            p = random_move(p)
            total += self.penalty * p[:t].sum()  # cells x < t
        return float(total + random_move(p)[-2:].sum() / 2)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        t, noise = (field.cpu().numpy()[slice(None) if index is None else list(index)]
                    for field in (self.state.t, self.state.noise))  # fmt: skip
        frames = self._frames(index, self.episode_length)
        return waiting_marks(frames, t, noise / (self.sigma or 1.0), self.corridor_length + 1, self.episode_length)
