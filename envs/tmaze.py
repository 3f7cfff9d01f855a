"""T-mazes: a cue seen early tells which way to turn at the far end of a corridor.

    0 . . s . . . . . . J       x = 0 is where the cue shows, s = (o, 0) the start, J = (o + L, 0) the junction,
                       up       the arms (o + L, +1) "up" and (o + L, -1) "down" the goal candidates.

Cells are numbered: corridor 0..J by x, then the arms J+1 (up) and J+2 (down). Actions: 0 right, 1 up, 2 left, 3 down;
a move into a wall leaves the agent where it is. All rules are tables over cells, so a step is a few gathers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.env import Env, Spec, at_least
from envs.render import tmaze_frames

RIGHT, UP, LEFT, DOWN = range(4)


class TMazeState(NamedTuple):
    """Fields of shape (B,)."""

    cell: Tensor  # int64: 0..J along the corridor, J+1 up arm, J+2 down arm
    t: Tensor  # int64: steps taken in this episode
    goal: Tensor  # int64: the cell of the right arm, J+1 or J+2
    visited: Tensor  # bool: x = 0 was visited on an EARLIER row, so the cue shows no more


class Corridor(Env):
    """What all forms share: the map, the cue shown on the first visit of x = 0, the renderer."""

    num_actions = 4
    action_names = ("right", "up", "left", "down")
    # Observation codes: corridor, junction, in the up arm, in the down arm, cue "up" at x = 0, cue "down" at x = 0; more.
    codes: tuple[tuple[float, ...], ...]
    start: int
    junction: int

    def prepare(self) -> None:
        J = self.junction
        x = torch.arange(J)
        at_junction = [J, J + 1, max(J - 1, 0), J + 2]
        corridor = torch.stack((x + 1, x, (x - 1).clamp(min=0), x), 1)
        arms = torch.tensor([at_junction, [J + 1, J + 1, J + 1, J], [J + 2, J, J + 2, J + 2]])
        self._moves = torch.cat((corridor, arms)).reshape(-1).to(self.device)  # [4 * cell + action] -> cell
        codes = torch.tensor(self.codes, dtype=torch.float32)
        self._views = torch.cat((codes[:1].expand(J, -1), codes[1:])).to(self.device)  # J+3 cells, then the two cues
        self._start = torch.full_like(self._zero, self.start)

    def spawn(self) -> TMazeState:
        arms = (self.junction + 1, self.junction + 3)
        goal = torch.randint(*arms, (self.num_envs,), generator=self.generator, device=self.device)
        return TMazeState(self._start, self._zero, goal, self._never)

    def _move(self, state: TMazeState, action: Tensor) -> TMazeState:
        cell = self._moves.index_select(0, torch.add(action, state.cell, alpha=4))
        return state._replace(cell=cell, t=state.t + 1, visited=state.visited | (state.cell == 0))

    def observe(self, state: TMazeState) -> Tensor:
        shown = (state.cell == 0) > state.visited  # at x = 0 for the first time
        return self._views.index_select(0, torch.where(shown, state.goal + 2, state.cell))

    def success(self, state: TMazeState) -> Tensor:
        return state.cell == state.goal

    def cue(self, state: TMazeState) -> Tensor:
        """(B, 1) float32: +1 goal up, -1 goal down."""
        return (2 * (self.junction - state.goal) + 3).to(torch.float32).unsqueeze(1)

    def _towards_goal(self, state: TMazeState) -> Tensor:
        return 2 * (state.goal - self.junction) - 1  # up arm J+1 -> UP, down arm J+2 -> DOWN

    def _frames(self, index: Sequence[int] | None, horizon: int) -> np.ndarray:
        cell, t, goal, visited = (field.cpu().numpy()[slice(None) if index is None else list(index)]
                                  for field in self.state[:4])  # fmt: skip
        return tmaze_frames(cell, t, goal, visited, self.start, self.junction, horizon)


class TMaze(Corridor):
    """Passive and active T-maze of Ni et al. 2023 (arXiv 2307.03864), step for step `twni2016/Memory-RL:envs/tmaze.py`
    with `ambiguous_position=True`; penalty_mode "action" is `UT-Austin-RPL/amago:amago/envs/builtin/tmaze.py`.

    Episode: start at x = o, always T = L + 2o + 1 steps, then a true terminal (AMAGO also sets truncated; here
    terminated alone). An agent that fetches the cue and wastes no step stands at the junction at t = T - 1.
    Observation (2,): corridor [0, 0], junction and arms [1, y], x = 0 [0, goal_y] on the first visit, [0, 0] later.
    Reward at t (after the move; 1..T), on the last step 1 in the right arm, else 0, and before it
      "schedule": -1/L if x < t - o: behind schedule, so one wasted step costs on every later step until caught up
                  (never, but by the 2o spare steps of an agent that skips the cue);
      "action":   -1/L if the action is not right and t > o.
    Success: in the right arm at the end.

    Spec sheet (L corridor_length, o oracle_length; o = 0 is the passive task)
      m = L + o              cue on row o, turn chosen on row L + 2o
      c = 1 passive; T active (going left first pays only at the end); both penalty modes
      R_oracle = R* = 1      walking right at once and waiting at the junction is free, and so is the way to the cue
      R0_memory = R0_memory_last = 0.5
                             The cue leaves no spare step, so the junction is entered by an unpunished "right" whatever
                             the cue was: nothing that a memoryless agent sees there carries the bit.
        but R0_memory of the active task in "action" mode is lower: an agent that cannot count walks straight and then
        either turns too early, for 1/L, or risks to turn never. Given is the best of "turn with probability q": about
        0.5 - 1/L (0.5 if o > L: turning early is free). Randomness in the corridor adds little (searched: < 3e-4).
      R0_credit = 0.5 active (never sees the cue); passive: does not apply
      R_random               exact, from the distribution of the random walk; passive schedule about -(1 - 1/(3L)),
                             action mode -0.75 (L + o) / L + P(success)
      least return           -(L + o)/L (penalised from t = o + 1), which is below -1 in the active task
      max_rows = T + 1, chance = 0.5 (best success rate of the memoryless, whatever the penalties)
    Cue-visible twin: m = 0, R* = 1, c = 1 (active "action" with o > L: not given). In the active "action" twin a memoryless
    agent gets about 1 - 1/L: it cannot count the spare steps, and turning early costs one penalty. Its success rate is 1 all
    the same.

    Args:
        corridor_length: L >= 1, moves from the start to the junction.
        oracle_length: o >= 0, moves from the start left to the cue.
        penalty_mode: "schedule" or "action".
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    codes = ((0, 0), (1, 0), (1, 1), (1, -1), (0, 1), (0, -1))

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        corridor_length: int = 50,
        oracle_length: int = 0,
        penalty_mode: str = "schedule",
    ) -> None:
        self.corridor_length = at_least("corridor_length", corridor_length, 1)
        self.oracle_length = self.start = at_least("oracle_length", oracle_length, 0)
        if penalty_mode not in ("schedule", "action"):
            raise ValueError(f"penalty_mode must be 'schedule' or 'action', got {penalty_mode!r}")
        self.penalty_mode = penalty_mode
        self.penalty = -1.0 / self.corridor_length
        self.junction = self.oracle_length + self.corridor_length
        self.episode_length = self.corridor_length + 2 * self.oracle_length + 1
        super().__init__(num_envs, device, seed, cue_visible)

    def act(self, state: TMazeState, action: Tensor) -> tuple[TMazeState, Tensor, Tensor, Tensor]:
        new = self._move(state, action)
        if self.penalty_mode == "schedule":
            late = new.t - new.cell > self.oracle_length  # an arm's number exceeds J, where nobody is ever late
        else:
            late = (action != RIGHT) & (new.t > self.oracle_length)
        over = new.t >= self.episode_length
        return new, torch.where(over, new.cell == new.goal, late * self.penalty), over, self._never

    def oracle(self, state: TMazeState) -> Tensor:
        """Best in both penalty modes and from any state: walk right, wait at the junction, turn on the last step; from
        the wrong arm go back at once, in the right one stay (by "right", which is free)."""
        last = state.t >= self.episode_length - 1
        turn = (state.cell == self.junction) & last | (state.cell > self.junction) & (state.cell != state.goal)
        return torch.where(turn, self._towards_goal(state), RIGHT)

    def describe(self) -> Spec:
        L, o, active = self.corridor_length, self.oracle_length, self.oracle_length > 0
        twin, credit = self.cue_visible, 1
        if active and not twin:
            credit = self.episode_length
        elif self.penalty_mode == "action" and o > L:
            credit = None  # not known
        return Spec(
            memory_length=0 if twin else L + o,
            credit_length=credit,
            r_oracle=1.0,
            r_star=1.0,
            r0_memory=None if twin else self._straight_return(),
            r0_memory_last=None if twin else 0.5,
            r0_credit=0.5 if active and not twin else None,
            r_random=self._random_return(),
            max_rows=self.episode_length + 1,
            chance=1.0 if twin else 0.5,
        )

    def _straight_return(self) -> float:
        """Best return of walking straight right, then turning with a constant probability q per step."""
        if self.penalty_mode == "schedule":
            return 0.5
        q = np.linspace(0.0, 1.0, 10_001)
        waiting, total = np.ones_like(q), np.zeros_like(q)
        for t in range(self.corridor_length + 1, self.episode_length + 1):
            free = t <= self.oracle_length or t == self.episode_length
            total += waiting * q * (0.5 if free else 0.5 + self.penalty)
            waiting *= 1 - q
        return float(total.max())

    def _random_return(self) -> float:
        p = np.zeros(self.junction + 3)
        p[self.start] = 1.0
        total = 0.0
        for t in range(1, self.episode_length):
            p = random_move(p)
            behind = max(t - self.oracle_length, 0)  # cells x < t - o
            total += self.penalty * (p[:behind].sum() if self.penalty_mode == "schedule" else 0.75 * (behind > 0))
        return float(total + random_move(p)[-2:].sum() / 2)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        return self._frames(index, self.episode_length)


class BakkerTMaze(Corridor):
    """T-maze after Bakker (NIPS 2001): the episode ends with the turn at the junction.

    Observation (3,): first row 011 (goal up) or 110 (goal down), corridor 101 (also back at the start), junction and
    after the turn 010. The cue shows on the first row only.
    Reward: +4 for the right turn, -0.1 for the wrong one (both terminate), -0.1 for standing still, that is any move
    into a wall (up and down in the corridor, left at the start, right at the junction), else 0. `step_limit` steps
    truncate; a turn on the last of them terminates.
    Success: turned into the right arm.
    The rewards and codes are the common reading (POBAX, AGaLiTe share the codes); Bakker's text was not available. His
    noisy variant is `envs.NoisyTMaze`.

    Spec sheet (L corridor_length)
      m = L                  cue on row 0, turn chosen on row L
      c = L                  with any discount below 1: at x = 1 a step left looks like a step right until the +4, L
                             steps later (without discounting the detour costs nothing and c = 1)
      R_oracle = R* = 4
      R0_memory = R0_memory_last = (4 - 0.1) / 2 = 1.95
                             The agent enters the junction by a rewardless "right", so it looks the same for both cues;
                             to come at another time it would first have to stand still, for what a wrong turn costs.
      R0_credit              does not apply
      R_random               exact, from the distribution of the random walk up to the limit
      max_rows = step_limit + 1, chance = 0.5
    Cue-visible twin: m = 0, R* = 4.

    Args:
        corridor_length: L >= 1, moves from the start to the junction.
        step_limit: steps after which an episode is truncated, >= L + 1; None: 10 L.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    codes = ((1, 0, 1), (0, 1, 0), (0, 1, 0), (0, 1, 0), (0, 1, 1), (1, 1, 0))
    obs_low = 0.0
    start = 0
    right_turn, cost = 4.0, -0.1

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        corridor_length: int = 50,
        step_limit: int | None = None,
    ) -> None:
        self.corridor_length = self.junction = at_least("corridor_length", corridor_length, 1)
        if step_limit is None:
            step_limit = 10 * self.corridor_length
        self.step_limit = at_least("step_limit (corridor_length + 1 or more)", step_limit, self.corridor_length + 1)
        super().__init__(num_envs, device, seed, cue_visible)

    def act(self, state: TMazeState, action: Tensor) -> tuple[TMazeState, Tensor, Tensor, Tensor]:
        new = self._move(state, action)
        turned, right = new.cell > self.junction, new.cell == new.goal
        bad = (new.cell == state.cell) | (turned > right)
        return new, torch.where(right, self.right_turn, bad * self.cost), turned, new.t >= self.step_limit

    def oracle(self, state: TMazeState) -> Tensor:
        return torch.where(state.cell >= self.junction, self._towards_goal(state), RIGHT)

    def describe(self) -> Spec:
        twin, chance = self.cue_visible, 0.5
        r0 = None if twin else chance * self.right_turn + (1 - chance) * self.cost
        return Spec(
            memory_length=0 if twin else self.corridor_length,
            credit_length=self.corridor_length,
            r_oracle=self.right_turn,
            r_star=self.right_turn,
            r0_memory=r0,
            r0_memory_last=r0,
            r0_credit=None,
            r_random=self._random_return(),
            max_rows=self.step_limit + 1,
            chance=1.0 if twin else chance,
        )

    def _random_return(self) -> float:
        p = np.zeros(self.junction + 3)
        p[0] = 1.0
        total = 0.0
        for _ in range(self.step_limit):
            still = p[:-3].sum() / 2 + (p[0] + p[-3]) / 4
            turn = p[-3] / 4  # into either arm
            total += self.cost * (still + turn) + self.right_turn * turn
            p = random_move(p)
            p[-2:] = 0.0
        return float(total)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        return self._frames(index, self.step_limit)


def random_move(p: np.ndarray) -> np.ndarray:
    """The distribution over the J + 3 cells (float64) after one uniformly random action."""
    corridor, arms = p[:-2], p[-2:]
    new = np.empty_like(p)
    new[:-2] = corridor / 2  # up and down into the walls; mended for the junction below
    new[1:-2] += corridor[:-1] / 4
    new[:-3] += corridor[1:] / 4
    new[0] += corridor[0] / 4
    new[-3] += corridor[-1] / 4 - corridor[-1] / 2 + arms.sum() / 4
    new[-2:] = arms * 0.75 + corridor[-1] / 4
    return new
