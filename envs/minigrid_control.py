"""MiniGrid tasks that ask for no memory: what a gate costs where it is not needed.

Empty, DoorKey, RedBlueDoors, and in `envs.minigrid_pickup` KeyCorridor and Fetch, of `Farama-Foundation/Minigrid` 3.2.0
(`minigrid/envs/*.py`), step for step from any state of theirs (`load_minigrid`), with their distribution of layouts but
not their seeds: what minigrid draws by rejection is drawn in one go. Actions, observation, reward, truncation:
`GridWorld`. None has a box.

Figures that hold for all of them. m and c do not apply: no bit must be kept, for one can look again, and R0_memory and
R0_credit go with them; chance neither. What R* would ask for is to look for things in the best order, over all layouts:
None, but where nothing need be looked for. R_oracle: shortest ways with the whole world known, exactly, over all layouts
where these are few. max_rows = max_steps + 1.
Cue-visible twin: the agent's direction, which is in minigrid's observation and not in its image. The same figures.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.env import Spec, at_least, flag
from envs.minigrid_plan import NEVER, Field, Planner, entering
from envs.minigrid_view import (
    BLUE,
    CLOSED,
    DOOR,
    EMPTY,
    GOAL,
    KEY,
    LOCKED,
    OPEN,
    RED,
    WALL,
    YELLOW,
    World,
    code,
)
from envs.minigrid_world import FORWARD, PICKUP, TOGGLE, GridWorld, kind

Legs = tuple[Sequence[tuple[Field, int]], Tensor]
LOCKED_YELLOW, YELLOW_KEY = code(DOOR, YELLOW, LOCKED), code(KEY, YELLOW)


def room(height: int, width: int) -> Tensor:
    """(H * W,) int32: an empty room with its walls."""
    cells = torch.full((height, width), WALL, dtype=torch.int32)
    cells[1:-1, 1:-1] = EMPTY
    return cells.flatten()


def put(cells: Tensor, *things: tuple[Tensor, Tensor | int]) -> Tensor:
    """A copy of `cells` (B, H * W) with things put into it: pairs (where (B,) or (B, n), packed cells that broadcast)."""
    cells = cells.clone()
    for where, what in things:
        where = where.view(len(cells), -1)
        if isinstance(what, Tensor):
            cells.scatter_(1, where, what.view(len(cells), -1))
        else:
            cells.scatter_(1, where, what)
    return cells


def on(there: Tensor) -> Tensor:
    """`stop` of a leg that ends on the cells `there` (B, H * W) bool, whatever the direction."""
    zero = torch.zeros_like(there, dtype=torch.float32)
    return zero.masked_fill(~there, NEVER).repeat_interleave(4, 1)


class Control(GridWorld):
    """The oracle, from the legs of a plan, and the figures."""

    def prepare(self) -> None:
        super().prepare()
        self.planner = Planner(self.height, self.width, self.device)

    @abstractmethod
    def plan(self, state: Any) -> Legs:
        """The legs of a plan, each with its last action, and which of them is the present one, (B,) int64."""

    def oracle(self, state: Any) -> Tensor:
        """Next action of the plan: on a shortest way, but in KeyCorridor, where it is a short one."""
        legs, present = self.plan(state)
        pose = state.cell * 4 + state.direction
        actions = [self.planner.action(leg, state.grid, pose, last) for leg, last in legs]
        return torch.stack(actions).gather(0, present.unsqueeze(0)).squeeze(0)

    def mean_return(self, grids: Tensor, weight: Tensor, starts: Tensor) -> float:
        """Return of shortest ways, from first legs on.

        Args:
            grids: (N, H * W) int32, the layouts.
            weight: (N,), how likely each is.
            starts: (N, 4 * H * W) bool, the poses to start from, all of them as likely.
        """
        n = len(grids)
        zero, nothing = torch.zeros(n, dtype=torch.int64), torch.full((n,), EMPTY, dtype=torch.int32)
        world = World(grids.view(n, self.height, self.width), zero, zero, nothing, zero)
        steps = self.plan(World(*(field.to(self.device) for field in world)))[0][0][0].cost.to("cpu", torch.float64)
        value = torch.where(steps <= self.max_steps, 1 - 0.9 * steps / self.max_steps, 0.0)
        return float((torch.where(starts, value, 0.0).sum(1) / starts.sum(1) * weight).sum() / weight.sum())

    def _sheet(self, r_oracle: float | None, r_star: float | None = None, r_random: float | None = None) -> Spec:
        return Spec(
            memory_length=None,
            credit_length=None,
            r_oracle=r_oracle,
            r_star=r_star,
            r0_memory=None,
            r0_memory_last=None,
            r0_credit=None,
            r_random=r_random,
            max_rows=self.max_steps + 1,
            chance=None,
        )


class Empty(Control):
    """MiniGrid-Empty: go to the goal in the far corner of an empty room (`envs/empty.py`). Walls hide nothing.

    Rules: size x size cells with the walls; start in the corner (1, 1) facing east, or (`random_start`) anywhere but on
    the goal, facing anywhere. max_steps = 4 size^2.

    Spec sheet
      R_oracle                  1 - 0.9 (2 (size - 3) + 1) / max_steps from the corner; random start: all starts
      R* = R_oracle             from the corner: the way is always the same. Random start: None
      R_random                  exact, from the chain of poses under the seven actions
    """

    see_through_walls = True
    mission = "get to the green goal square"

    def __init__(
        self,
        num_envs: int,
        size: int = 8,
        random_start: bool = False,
        agent_view_size: int = 7,
        max_steps: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
    ) -> None:
        self.size, self.random_start = at_least("size", size, 4), flag("random_start", random_start)
        steps = 4 * size**2 if max_steps is None else max_steps
        super().__init__(num_envs, size, size, steps, agent_view_size, device, seed, cue_visible)

    def prepare(self) -> None:
        super().prepare()
        layout = room(self.size, self.size)
        layout[(self.size - 2) * self.size + self.size - 2] = GOAL
        self._layout = layout.to(self.device).expand(self.num_envs, -1)
        self._corner = torch.full_like(self._zero, self.size + 1)

    def spawn(self) -> World:
        if not self.random_start:
            return self.world(self._layout, self._corner, self._zero)
        inner = self.size - 2
        place = self.below(inner**2 - 1)  # row by row: the last cell is the goal
        return self.world(self._layout, (1 + place // inner) * self.size + 1 + place % inner, self.below(4))

    def plan(self, state: World) -> Legs:
        cells = state.grid.flatten(1)
        return [(self.planner.field(entering(cells), on(cells == GOAL)), FORWARD)], torch.zeros_like(state.cell)

    def describe(self) -> Spec:
        layout = self._layout[:1].cpu()
        starts = (layout == EMPTY).repeat_interleave(4, 1)
        if not self.random_start:
            starts = torch.arange(starts.shape[1]).unsqueeze(0) == 4 * (self.size + 1)
        best = self.mean_return(layout, torch.ones(1), starts)
        random = self._random(layout[0].numpy(), starts[0].numpy())
        return self._sheet(best, None if self.random_start else best, random)

    def _random(self, layout: np.ndarray, starts: np.ndarray) -> float:
        """Return of uniformly random actions: the distribution over poses, step by step."""
        pose = np.arange(starts.size)
        front = self.planner.ahead.cpu().numpy()
        forward = np.where(layout[front] == WALL, pose, 4 * front + pose % 4)
        there = layout[pose // 4] == GOAL
        p, total = starts / starts.sum(), 0.0
        for t in range(1, self.max_steps + 1):
            turned = p.reshape(-1, 4)
            turned = (np.roll(turned, 1, 1) + np.roll(turned, -1, 1)).ravel()
            p = (4 * p + turned + np.bincount(forward, p, pose.size)) / 7
            total += p[there].sum() * (1 - 0.9 * t / self.max_steps)
            p[there] = 0.0
        return float(total)


class DoorKey(Control):
    """MiniGrid-DoorKey: fetch the key, unlock the door, go to the goal (`envs/doorkey.py`).

    Rules: size x size; a wall from top to bottom at x in 2..size-3, in it a locked yellow door at y in 1..size-3 (so
    never in the lowest row, as published), left of it the yellow key and the agent on any two cells, the agent facing
    anywhere; the goal in the lower right corner. max_steps = 10 size^2.

    Spec sheet
      R_oracle                  all layouts and starts up to size 10, beyond that None: they are too many
      R*, R_random              None: see the top of the file; the states under random actions are too many
    """

    mission = "use the key to open the door and then get to the goal"

    def __init__(
        self,
        num_envs: int,
        size: int = 8,
        agent_view_size: int = 7,
        max_steps: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
    ) -> None:
        self.size = at_least("size", size, 5)
        steps = 10 * size**2 if max_steps is None else max_steps
        super().__init__(num_envs, size, size, steps, agent_view_size, device, seed, cue_visible)

    def prepare(self) -> None:
        super().prepare()
        layout = room(self.size, self.size).view(self.size, self.size).repeat(self.size - 4, 1, 1)
        layout[:, -2, -2] = GOAL
        for split in range(2, self.size - 2):
            layout[split - 2, :, split] = WALL
        self._layouts = layout.flatten(1).to(self.device)  # [split - 2]

    def spawn(self) -> World:
        S = self.size
        split = 2 + self.below(S - 4)
        door = (1 + self.below(S - 3)) * S + split
        count = (split - 1) * (S - 2)
        agent, key = self.below(count), self.below(count - 1)
        key = key + (key >= agent)
        agent, key = ((1 + place // (split - 1)) * S + 1 + place % (split - 1) for place in (agent, key))
        grid = put(self._layouts.index_select(0, split - 2), (door, LOCKED_YELLOW), (key, YELLOW_KEY))
        return self.world(grid, agent, self.below(4))

    def plan(self, state: World) -> Legs:
        cells = state.grid.flatten(1)
        locked_door, key = cells == LOCKED_YELLOW, kind(cells) == KEY
        locked = locked_door.any(1)
        in_the_way = torch.where(locked, 1.0, 2.0).unsqueeze(1)  # a key that was dropped after it was used
        to_goal = self.planner.field(entering(cells, locked=1.0, key=in_the_way), on(cells == GOAL))
        to_door = self.planner.field(entering(cells, key=1.0), self.planner.facing(locked_door, to_goal.cost))
        to_key = self.planner.field(entering(cells), self.planner.facing(key, to_door.cost))
        present = torch.where(locked, (state.hand == YELLOW_KEY).to(torch.int64), 2)
        return [(to_key, PICKUP), (to_door, TOGGLE), (to_goal, FORWARD)], present

    def describe(self) -> Spec:
        if self.size > 10:
            return self._sheet(None)
        grids, weights, starts = [], [], []
        S, layouts = self.size, self._layouts.cpu()
        for split in range(2, S - 2):
            x, y = torch.arange(S * S) % S, torch.arange(S * S) // S
            left = ((x > 0) & (x < split) & (y > 0) & (y < S - 1)).nonzero().squeeze(1)
            door, key = (side.flatten() for side in torch.meshgrid(torch.arange(1, S - 2), left, indexing="ij"))
            filled = layouts[split - 2].expand(len(key), -1)
            grids.append(put(filled, (door * S + split, LOCKED_YELLOW), (key, YELLOW_KEY)))
            starts.append((x > 0) & (x < split) & (grids[-1] == EMPTY))
            weights.append(torch.full((len(key),), 1 / len(left)))
        starts = torch.cat(starts).repeat_interleave(4, 1)
        return self._sheet(self.mean_return(torch.cat(grids), torch.cat(weights), starts))


RED_DOOR, BLUE_DOOR = (tuple(code(DOOR, colour, how) for how in (OPEN, CLOSED)) for colour in (RED, BLUE))


class RedBlueDoors(Control):
    """MiniGrid-RedBlueDoors: open the red door, then the blue one (`envs/redbluedoors.py`).

    Rules: 2 size x size cells, in the middle a room of size x size with the agent on any of its cells, facing anywhere;
    the red door at any height in its left wall, the blue one in its right wall, both closed, not locked. Opening the blue
    door ends the episode, with success if the red door is open. max_steps = 20 size^2.
    As published, closing a blue door that was open with the red one open fails too, which needs an injected state.

    Spec sheet
      R_oracle                  all layouts and starts up to size 10, beyond that None: they are too many
      R*, R_random              None: as DoorKey
    """

    mission = "open the red door then the blue door"

    def __init__(
        self,
        num_envs: int,
        size: int = 8,
        agent_view_size: int = 7,
        max_steps: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
    ) -> None:
        self.size = at_least("size", size, 4)
        steps = 20 * size**2 if max_steps is None else max_steps
        super().__init__(num_envs, size, 2 * size, steps, agent_view_size, device, seed, cue_visible)

    def prepare(self) -> None:
        super().prepare()
        S = self.size
        self._left = S // 2  # the room's left wall
        layout = room(S, 2 * S).view(S, 2 * S)
        layout[:, [self._left, self._left + S - 1]] = WALL
        self._layout = layout.view(1, -1).to(self.device)

    def _doors(self, red: Tensor, blue: Tensor) -> Tensor:
        """(n, H * W): layouts with the doors at these heights, (n,) each."""
        column = self._left + 2 * self.size * red, self._left + self.size - 1 + 2 * self.size * blue
        layout = self._layout.to(red.device).expand(len(red), -1)
        return put(layout, (column[0], RED_DOOR[CLOSED]), (column[1], BLUE_DOOR[CLOSED]))

    def spawn(self) -> World:
        inner = self.size - 2
        place = self.below(inner**2)
        cell = (1 + place // inner) * 2 * self.size + self._left + 1 + place % inner
        return self.world(self._doors(1 + self.below(inner), 1 + self.below(inner)), cell, self.below(4))

    def judge(self, before: World, after: World, action: Tensor) -> tuple[Tensor, Tensor]:
        (red0, blue0), (red, blue) = self._open(before), self._open(after)
        return blue & red0, blue & ~red0 | ~blue & red & blue0

    @staticmethod
    def _open(state: World) -> tuple[Tensor, Tensor]:
        cells = state.grid.flatten(1)
        return (cells == RED_DOOR[OPEN]).any(1), (cells == BLUE_DOOR[OPEN]).any(1)

    def success(self, state: World) -> Tensor:
        red, blue = self._open(state)
        return red & blue

    def plan(self, state: World) -> Legs:
        cells = state.grid.flatten(1)
        red_shut, blue_shut = cells == RED_DOOR[CLOSED], cells == BLUE_DOOR[CLOSED]
        enter = entering(cells, closed=NEVER)
        to_blue = self.planner.field(enter, self.planner.facing(blue_shut))
        to_red = self.planner.field(enter, self.planner.facing(red_shut, to_blue.cost))
        return [(to_red, TOGGLE), (to_blue, TOGGLE)], (~red_shut.any(1)).to(torch.int64)

    def describe(self) -> Spec:
        S = self.size
        if S > 10:
            return self._sheet(None)
        red, blue = (side.flatten() for side in torch.meshgrid(*[torch.arange(1, S - 1)] * 2, indexing="ij"))
        grids = self._doors(red, blue)
        x = torch.arange(2 * S * S) % (2 * S)
        inside = (grids == EMPTY) & (x > self._left) & (x < self._left + S - 1)
        return self._sheet(self.mean_return(grids, torch.ones(len(grids)), inside.repeat_interleave(4, 1)))
