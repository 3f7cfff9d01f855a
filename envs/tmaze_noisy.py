"""A T-maze with noise of every kind: in what is seen of the corridor, in bits that mean nothing, and in the walking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.env import Spec, at_least, in_range
from envs.render import observation_strips
from envs.tmaze import RIGHT, UP, BakkerTMaze


class NoisyState(NamedTuple):
    """Fields of shape (B,), but for the noise."""

    cell: Tensor  # int64, as `TMazeState`
    t: Tensor  # int64
    goal: Tensor  # int64
    visited: Tensor  # bool
    noise: Tensor  # (B, 3 + D) float32: what is added to this row's code


class NoisyTMaze(BakkerTMaze):
    """Bakker's T-maze (NIPS 2001) with observation noise, distractor bits and slips.

    Observation (3 + D,): Bakker's code, then D bits.
        first row 0 1 1 (goal up) or 1 1 0 (goal down), bits 0; the cue shows on this row only
        corridor  a 0 b with a, b uniform on [1 - sigma, 1], fresh on every row: sigma = 0 is the plain 1 0 1 and
                  sigma = 1 the a, b ~ U[0, 1] of Bakker's noisy variant (recalled: his text was not available)
        junction and after the turn 0 1 0
        bits      Bernoulli(1/2), fresh on every row but the first, as `subho406/agalite:src/tasks/tmaze.py` has them
    Moves: as in `BakkerTMaze`, but in the corridor "right" leaves the agent where it is with probability p (slip).
    Reward: +4 for the right turn, -0.1 for the wrong one (both terminate), 0 for "right" in the corridor whether it
    slips or not, -0.1 for all else. So going back costs at once, unlike in `BakkerTMaze` (there c = L) and unlike in
    AGaLiTe's (-0.1 for every step, wrong turn -1). `step_limit` steps truncate; a turn on the last of them terminates.
    Success: turned into the right arm.

    Spec sheet (L corridor_length, p slip, rho = P(Binomial(step_limit - 1, 1 - p) >= L): slips leave time to turn)
      m = L / (1 - p)        in the mean, rounded: cue on row 0, turn chosen once L of the steps did not slip
      c = 1
      R_oracle = R* = 4 rho  whoever has seen the cue knows all that matters
      R0_memory = R0_memory_last = (4 - 0.1) / 2 rho = 1.95 rho
                             The agent enters the corridor's next cell only by a free "right", so what it then sees does
                             not depend on the cue, and the right turn has at most even odds where the slips allow one at
                             all. Else it costs 0.1: a wrong turn, or one wasted step (waiting for the end where
                             the cue is the one that it cannot serve). Noise and bits are independent of all.
      R0_credit              does not apply
      R_random               exact, from the distribution of the random walk up to the limit
      max_rows = step_limit + 1, chance = rho / 2
    Cue-visible twin: m = 0, R* = 4 rho.

    Args:
        corridor_length: L >= 1, moves from the start to the junction.
        distractors: D >= 0.
        sigma: in [0, 1], width of the interval that the corridor's a and b are drawn from.
        slip: p in [0, 0.99].
        step_limit: steps after which an episode is truncated, >= L + 1; None: 10 L.
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
        corridor_length: int = 50,
        distractors: int = 6,
        sigma: float = 0.5,
        slip: float = 0.0,
        step_limit: int | None = None,
    ) -> None:
        self.distractors = at_least("distractors", distractors, 0)
        self.sigma, self.slip = in_range("sigma", sigma, 0, 1), in_range("slip", slip, 0, 0.99)
        self.codes = tuple((*code, *[0] * self.distractors) for code in BakkerTMaze.codes)
        super().__init__(num_envs, device, seed, cue_visible, corridor_length, step_limit)

    def prepare(self) -> None:
        super().prepare()
        self._width = torch.tensor([-self.sigma, 0.0, -self.sigma], device=self.device)
        self._clean = torch.zeros(self.num_envs, 3 + self.distractors, device=self.device)

    def spawn(self) -> NoisyState:
        return NoisyState(*super().spawn(), self._clean)

    def act(self, state: NoisyState, action: Tensor) -> tuple[NoisyState, Tensor, Tensor, Tensor]:
        u = torch.rand(self._clean.shape, generator=self.generator, device=self.device)
        free = (action == RIGHT) & (state.cell < self.junction)
        slipped = free & (u[:, 1] < self.slip)
        new = self._move(state, action.masked_fill(slipped, UP))  # into the wall
        blur = u[:, :3] * self._width * (new.cell < self.junction).unsqueeze(1)
        new = new._replace(noise=torch.cat((blur, (u[:, 3:] < 0.5).to(torch.float32)), 1))
        turned, right = new.cell > self.junction, new.cell == new.goal
        reward = (~free * self.cost).masked_fill(right, self.right_turn)
        return new, reward, turned, new.t >= self.step_limit

    def observe(self, state: NoisyState) -> Tensor:
        return super().observe(state) + state.noise

    def describe(self) -> Spec:
        twin, reach = self.cue_visible, self._reach()
        r0 = None if twin else reach * (self.right_turn + self.cost) / 2
        return Spec(
            memory_length=0 if twin else round(self.corridor_length / (1 - self.slip)),
            credit_length=1,
            r_oracle=self.right_turn * reach,
            r_star=self.right_turn * reach,
            r0_memory=r0,
            r0_memory_last=r0,
            r0_credit=None,
            r_random=self._random_return(),
            max_rows=self.step_limit + 1,
            chance=reach if twin else reach / 2,
        )

    def _reach(self) -> float:
        """rho: the probability that the slips of an agent which only walks leave it time to turn."""
        if self.slip == 0:
            return 1.0
        n, k = self.step_limit - 1, np.arange(self.corridor_length)
        log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
        log_p = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        log_p += k * np.log1p(-self.slip) + (n - k) * np.log(self.slip)
        return float(1.0 - np.exp(log_p).sum())

    def _random_return(self) -> float:
        p = np.zeros(self.junction + 1)
        p[0] = 1.0
        total = 0.0
        ahead = (1 - self.slip) / 4
        for _ in range(self.step_limit):
            corridor, junction = p[:-1], p[-1]
            total += self.cost * (0.75 * corridor.sum() + 0.75 * junction) + self.right_turn * junction / 4
            new = p * (0.75 - ahead)
            new[0] += p[0] / 4  # left into the wall
            new[-1] = junction / 4  # right into the wall
            new[1:] += ahead * corridor
            new[:-1] += p[1:] / 4
            p = new
        return float(total)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        frames = super().render(index)
        seen = self.observe(self.state).cpu().numpy()
        return observation_strips(frames, seen[slice(None) if index is None else list(index)])
