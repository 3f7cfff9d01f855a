"""Control: catching falling fruit that is paid for at the very end, and a cart-pole that hides its velocities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.env import Env, Spec, at_least, flag
from envs.render_control import cartpole_frames, catch_frames

SIDE = 7  # of the board


class CatchState(NamedTuple):
    """Fields of shape (B,) int64."""

    t: Tensor
    fruit: Tensor  # column, 0..5
    basket: Tensor  # column, 0..6
    caught: Tensor  # fruits so far


class DelayedCatch(Env):
    """Catch R fruits one after the other; their number is paid at the end. `pomdp-baselines:envs/credit_assign/catch.py`
    (Ni et al. 2022, arXiv 2110.05038; after Raposo et al. 2021, arXiv 2102.12425).

    A 7 x 7 board. A fruit starts in the top row, in a column uniform in 0..5, the basket in the bottom row, in a column
    uniform in 1..4 (both ranges as published). A step moves the basket left, not at all or right, within the board, and the
    fruit down by one. A fruit in the bottom row, after 6 moves, is caught if it is in the basket's column; the step after
    that ignores its action and puts up the next fruit and a new basket. 7R - 1 steps, then the reward: how many were
    caught; 0 before. The episode terminates. Observation (49,): the board row by row, -1 the fruit, 1 the basket (which
    hides a fruit it has caught).
    Success: all R caught.

    Spec sheet (R runs)
      m = 0                  the board says where to go. How many were caught is hidden, which the return needs, not the choice
      c = 7R - 6             the first fruit's last move, the earliest that can be wrong, is paid 7R - 6 steps later; R = 1: 1
      R_oracle = R* = R
      R0_memory              does not apply
      R0_credit              None: one-step rewards teach the last move of the last fruit, and as all fruits look alike a
                             network does the same for the others; what that is worth depends on how it moves before
      R_random = R p         p = 0.1527, the chance that a random walk ends under the fruit; exact, from its distribution
      max_rows = 7R; chance = p^R, of random moves
    Cue-visible twin: how far the fruit is to the right of the basket, / 6; the same figures.

    Args:
        runs: R >= 1, the number of fruits.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: runs out of range.
    """

    num_actions, action_names = 3, ("left", "stay", "right")

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        runs: int = 5,
    ) -> None:
        self.runs = at_least("runs", runs, 1)
        self.steps = SIDE * self.runs - 1
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        self._places = torch.arange(SIDE * SIDE, device=self.device)

    def _drop(self) -> tuple[Tensor, Tensor]:
        """Columns of a new fruit and a new basket."""
        size = (self.num_envs,)
        fruit = torch.randint(SIDE - 1, size, generator=self.generator, device=self.device)
        return fruit, torch.randint(1, SIDE - 2, size, generator=self.generator, device=self.device)

    def spawn(self) -> CatchState:
        return CatchState(self._zero, *self._drop(), self._zero)

    def act(self, state: CatchState, action: Tensor) -> tuple[CatchState, Tensor, Tensor, Tensor]:
        t, (fruit, basket) = state.t + 1, self._drop()
        new = t % SIDE == 0
        fruit = torch.where(new, fruit, state.fruit)
        basket = torch.where(new, basket, (state.basket + action - 1).clamp(0, SIDE - 1))
        caught = state.caught + ((t % SIDE == SIDE - 1) & (fruit == basket))
        over = t >= self.steps
        return CatchState(t, fruit, basket, caught), (caught * over).float(), over, self._never

    def observe(self, state: CatchState) -> Tensor:
        basket = self._places == (SIDE * (SIDE - 1) + state.basket).unsqueeze(1)
        fruit = self._places == (SIDE * (state.t % SIDE) + state.fruit).unsqueeze(1)
        return torch.where(basket, 1.0, torch.where(fruit, -1.0, 0.0))

    def success(self, state: CatchState) -> Tensor:
        return state.caught == self.runs

    def oracle(self, state: CatchState) -> Tensor:
        return (state.fruit - state.basket).clamp(-1, 1) + 1

    def cue(self, state: CatchState) -> Tensor:
        """(B, 1) float32: columns from the basket to the fruit, / 6."""
        return ((state.fruit - state.basket) / (SIDE - 1)).unsqueeze(1)

    def describe(self) -> Spec:
        R, p = self.runs, self._random_catch()
        return Spec(0, SIDE * R - 6, float(R), float(R), None, None, None, R * p, SIDE * R, p**R)

    @staticmethod
    def _random_catch() -> float:
        """P(a random walk of 6 moves ends in the fruit's column)."""
        move = np.zeros((SIDE, SIDE))
        for column, step in np.ndindex(SIDE, 3):
            move[column, min(max(column + step - 1, 0), SIDE - 1)] += 1 / 3
        return float(np.linalg.matrix_power(move, SIDE - 1)[1 : SIDE - 2, : SIDE - 1].mean())

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        fields = (f.cpu().numpy()[slice(None) if index is None else list(index)] for f in self.state)
        return catch_frames(*fields, self.runs)


GRAVITY, POLE_MASS, MASS, HALF_POLE, FORCE, TAU = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02  # MASS: of cart and pole
X_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * np.pi / 360


class CartPoleState(NamedTuple):
    t: Tensor  # (B,) int64
    x: Tensor  # (B, 4) float64: position, velocity, angle (radians), angular velocity


class CartPolePomdp(Env):
    """CartPole-v1 of Gymnasium with the velocities hidden (Barto, Sutton and Anderson 1983; `gymnasium:gymnasium/envs/
    classic_control/cartpole.py`).

    Gymnasium's dynamics, constants and Euler step, in float64 like its own, in the same order of operations; observations are
    cast to float32 at the end, as there. (Sine and cosine may differ from numpy's in the last bit.) The start is uniform in
    [-0.05, 0.05]^4. Actions: 0 pushes left, 1 right. Reward 1 on every step, also on the one that falls. Terminates
    where |x| > 2.4 or |angle| > 12 degrees; truncates after `step_limit` steps (falling on the last one terminates).
    Observation (2,): [position, angle], in Gymnasium's units (meters and radians: an upright pole shows a few hundredths),
    or if `scaled` as shares of the limits. POPGym's PositionOnlyCartPole sees the first form, over 200, 400 or 600 steps.
    Success: the time limit was reached upright.

    Spec sheet (limit step_limit)
      m = 1                  one earlier row and the action since give the velocities: x' = x + tau v
      c                      None: not worked out; what a push does shows many steps later
      R_oracle = R* = limit  the most there is; a linear feedback on the state attains it, with the velocities from differences
                             of rows too (tested over many starts, not proved for all)
      R0_memory              None: the state is continuous, so there is no certificate. The best stochastic policy that a
                             search over cubic features of position and angle found keeps the pole up for 51 steps
      R0_credit              None: likewise
      R_random               by simulation of 16,384 episodes (about 22.2, standard error 0.1), once for each limit
      max_rows = limit + 1; chance = None
    Cue-visible twin: [velocity, angular velocity] beside; m = 0.

    Args:
        step_limit: steps after which an episode is truncated, >= 1; scaled: see above.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: step_limit out of range.
    """

    num_actions, action_names = 2, ("left", "right")

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        step_limit: int = 500,
        scaled: bool = False,
    ) -> None:
        self.step_limit, self.scaled = at_least("step_limit", step_limit, 1), flag("scaled", scaled)
        # Gymnasium's bound of the position; the velocities stay below 10 as the cart has 4.8 to speed up in.
        self.obs_high = 12.0 if cue_visible else 2 * X_LIMIT
        self.obs_low = -self.obs_high
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        self._one = torch.ones(self.num_envs, device=self.device)
        unit = [X_LIMIT, ANGLE_LIMIT] if self.scaled else [1.0, 1.0]
        self._unit = torch.tensor(unit, dtype=torch.float64, device=self.device)
        self._gain = torch.tensor([0.3, 0.5, 5.0, 1.0], dtype=torch.float64, device=self.device)

    def spawn(self) -> CartPoleState:
        drawn = torch.rand(self.num_envs, 4, dtype=torch.float64, generator=self.generator, device=self.device)
        return CartPoleState(self._zero, 0.1 * drawn - 0.05)

    def act(self, state: CartPoleState, action: Tensor) -> tuple[CartPoleState, Tensor, Tensor, Tensor]:
        x, v, angle, spin = state.x.unbind(1)
        force = FORCE * (2.0 * action.double() - 1)
        cos, sin = angle.cos(), angle.sin()
        push = (force + POLE_MASS * HALF_POLE * (spin * spin) * sin) / MASS
        turn = (GRAVITY * sin - cos * push) / (HALF_POLE * (4.0 / 3.0 - POLE_MASS * (cos * cos) / MASS))
        speed_up = push - POLE_MASS * HALF_POLE * turn * cos / MASS
        moved = torch.stack((x + TAU * v, v + TAU * speed_up, angle + TAU * spin, spin + TAU * turn), 1)
        t = state.t + 1
        return CartPoleState(t, moved), self._one.clone(), self._fallen(moved), t >= self.step_limit

    def _fallen(self, x: Tensor) -> Tensor:
        return (x[:, 0].abs() > X_LIMIT) | (x[:, 2].abs() > ANGLE_LIMIT)

    def observe(self, state: CartPoleState) -> Tensor:
        return (state.x[:, ::2] / self._unit).float()

    def success(self, state: CartPoleState) -> Tensor:
        return (state.t >= self.step_limit) & ~self._fallen(state.x)

    def oracle(self, state: CartPoleState) -> Tensor:
        return ((state.x * self._gain).sum(1) > 0).long()

    def cue(self, state: CartPoleState) -> Tensor:
        """(B, 2) float32: velocity and angular velocity."""
        return state.x[:, 1::2].float()

    def describe(self) -> Spec:
        limit = float(self.step_limit)
        spec = Spec(1, None, limit, limit, None, None, None, _random_balance(self.step_limit), self.step_limit + 1, None)
        return dataclasses.replace(spec, memory_length=0) if self.cue_visible else spec

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        t, x = (f.cpu().numpy()[slice(None) if index is None else list(index)] for f in self.state)
        return cartpole_frames(t, x, self.step_limit, X_LIMIT, ANGLE_LIMIT)


@cache
def _random_balance(limit: int) -> float:
    """Mean number of steps that random pushes keep the pole up."""
    env = CartPolePomdp(16_384, seed=1, step_limit=limit)
    alive, total = torch.ones(env.num_envs, dtype=torch.bool), 0
    env.reset()
    while alive.any():
        total += int(alive.sum())
        env.step(torch.randint(2, alive.shape, generator=env.generator))
        alive &= ~env.ended
    return total / env.num_envs
