"""Shortest ways in MiniGrid worlds, batched: the least number of actions from every pose, by dynamic programming.

A pose is 4 * cell + direction. A plan has legs, each with a `Field` of its own; where a leg may end, its cost is that of
the legs after it, so that the whole plan is shortest and not only each leg.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from envs.minigrid_view import CLOSED, DOOR, EMPTY, GOAL, KEY, LOCKED, OPEN, ahead
from envs.minigrid_world import DONE, FORWARD, LEFT, PICKUP, RIGHT, TOGGLE, door_state, kind

NEVER = float("inf")


class Field(NamedTuple):
    """One leg of a plan, (B, 4 * H * W) float32 each."""

    cost: Tensor  # least number of actions from the pose to the end of the plan; inf: there is no way
    stop: Tensor  # the same if the leg ends here; inf where it cannot
    forward: Tensor  # actions that it takes to get to the cell in front


def entering(cells: Tensor, closed: float = 2.0, locked: float = NEVER, key: Tensor | float = NEVER) -> Tensor:
    """Actions that it takes to step into the cells (B, H * W) from beside them: float32, the same shape.

    1 for empty cells, goals and open doors; `closed`, `locked`: doors, `key`: keys, broadcast; inf for all else.
    """
    object, door = kind(cells), door_state(cells)
    cost = torch.full_like(cells, NEVER, dtype=torch.float32)
    cost = cost.masked_fill((cells == EMPTY) | (cells == GOAL) | (object == DOOR), 1.0)
    cost = torch.where((object == DOOR) & (door == CLOSED), closed, cost)
    cost = torch.where((object == DOOR) & (door == LOCKED), locked, cost)
    return torch.where(object == KEY, key, cost)


class Planner:
    """Fields over a grid of H x W cells. Fixed shapes and rounds, no host sync.

    Rounds: 4 (H + W), a bound on the shortest ways of the environments that use it (tested), not on all mazes.
    """

    def __init__(self, height: int, width: int, device: torch.device | str = "cpu") -> None:
        self.ahead = ahead(height, width, device)  # the cell in front
        self.onward = 4 * self.ahead + torch.arange(4, device=device).repeat(height * width)  # the pose there
        self.rounds = 4 * (height + width)

    def field(self, enter: Tensor, stop: Tensor) -> Field:
        """enter (B, H * W): as `entering`. stop (B, 4 * H * W): see `Field`."""
        forward, cost = enter.index_select(1, self.ahead), stop
        for _ in range(self.rounds):
            facing = cost.view(len(cost), -1, 4)
            turned = torch.minimum(facing.roll(1, 2), facing.roll(-1, 2)).flatten(1) + 1
            walked = forward + cost.index_select(1, self.onward)
            cost = torch.minimum(cost, torch.minimum(turned, walked))
        return Field(cost, stop, forward)

    def facing(self, cells: Tensor, after: Tensor | float = 0.0) -> Tensor:
        """`stop` for one action on the cell in front, where `cells` (B, H * W) bool has it: 1 + `after`, else inf."""
        there = cells.index_select(1, self.ahead)
        return torch.full_like(there, NEVER, dtype=torch.float32).where(~there, 1.0 + after)

    def action(self, field: Field, grid: Tensor, pose: Tensor, last: int) -> Tensor:
        """(B,) int64: the next action of the leg, `last` where it ends, DONE where there is no way.

        What is in the way and can be gone through is opened or picked up.
        """

        def at(values: Tensor, pose: Tensor) -> Tensor:
            return values.gather(1, pose.unsqueeze(1)).squeeze(1)

        front = self.ahead.index_select(0, pose)
        there = grid.flatten(1).gather(1, front.unsqueeze(1)).squeeze(1)
        object = kind(there)
        shut = (object == DOOR) & (door_state(there) != OPEN)
        onward = torch.full_like(pose, FORWARD).masked_fill(shut, TOGGLE).masked_fill(object == KEY, PICKUP)
        right, left = (pose & ~3) + (pose + 1 & 3), (pose & ~3) + (pose - 1 & 3)
        costs = torch.stack((
            at(field.stop, pose),
            at(field.forward, pose) + at(field.cost, self.onward.index_select(0, pose)),
            1 + at(field.cost, right),
            1 + at(field.cost, left),
        ))  # fmt: skip
        actions = torch.stack((torch.full_like(pose, last), onward, pose * 0 + RIGHT, pose * 0 + LEFT))
        best = actions.gather(0, costs.argmin(0, keepdim=True)).squeeze(0)
        return best.masked_fill(costs.amin(0) == NEVER, DONE)
