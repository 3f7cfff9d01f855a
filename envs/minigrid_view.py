"""MiniGrid's world in tensors: packed cells, moves, and the egocentric view with its occlusion, batched and exact.

A cell is one int32, `code(object, colour, state)`: the three numbers of MiniGrid's encoding in its three low bytes, and
bit 24 where one cannot see through it (walls, doors that are not open). A world is a grid (B, H, W) of such cells, the
agent's cell y * W + x, its direction (0 east, 1 south, 2 west, 3 north) and what it carries, as a cell too (`EMPTY` for
nothing). Numbers and rules are those of minigrid 3.2.0 (`Farama-Foundation/Minigrid:minigrid/core/constants.py`,
`core/grid.py`, `minigrid_env.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

OBJECTS = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
OBS_VALUES = (len(OBJECTS), len(COLOURS), 3)  # codes of the three channels of a view: object, colour, state of a door

_UNSEEN, _EMPTY, _WALL, _FLOOR, DOOR, KEY, BALL, BOX, _GOAL, _LAVA, _AGENT = range(len(OBJECTS))
RED, GREEN, BLUE, PURPLE, YELLOW, GREY = range(len(COLOURS))
OPEN, CLOSED, LOCKED = range(3)
EAST, SOUTH, WEST, NORTH = range(4)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # direction -> (dx, dy), y growing downwards
TABLE_LIMIT = 9  # widest view whose occlusion is tabulated: 4^9 entries of 4 bytes, twice

OPAQUE = 1 << 24


def code(object: int, colour: int = 0, state: int = 0) -> int:
    """The packed cell of `object` (index into `OBJECTS`), `colour` (into `COLOURS`) and a door's state."""
    opaque = object == _WALL or (object == DOOR and state != OPEN)
    return object | colour << 8 | state << 16 | OPAQUE * opaque


EMPTY, WALL, GOAL, LAVA = code(_EMPTY), code(_WALL, GREY), code(_GOAL, GREEN), code(_LAVA)


def pack(codes: Tensor) -> Tensor:
    """(..., 3) uint8 as MiniGrid encodes cells -> (...) int32 packed cells."""
    object, colour, state = codes.to(torch.int32).unbind(-1)
    opaque = (object == _WALL) | (object == DOOR) & (state != OPEN)
    return object | colour << 8 | state << 16 | opaque.to(torch.int32) * OPAQUE


def unpack(cells: Tensor) -> Tensor:
    """(...) int32 packed cells -> (..., 3) uint8, a new tensor."""
    parts = cells.contiguous().view(torch.uint8).view(*cells.shape, 4).split(1, -1)
    return torch.cat(parts[:3], -1)  # twice as fast as `[..., :3].contiguous()` on a CPU


def ahead(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """(4 H W,) int64: [4 * cell + direction] -> the cell in front, or the same one at the edge of the grid."""
    cell = torch.arange(height * width).unsqueeze(1)
    dx, dy = torch.tensor(STEPS).T
    x, y = cell % width + dx, cell // width + dy
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, y * width + x, cell).reshape(-1).to(device)


class World(NamedTuple):
    """What MiniGrid environments have in common."""

    grid: Tensor  # (B, H, W) int32: packed cells, the agent not among them
    cell: Tensor  # (B,) int64: y * W + x of the agent
    direction: Tensor  # (B,) int64: 0 east, 1 south, 2 west, 3 north
    hand: Tensor  # (B,) int32: the carried object as a packed cell, `EMPTY` for none
    t: Tensor  # (B,) int64: steps taken in this episode


def inject(envs: Sequence[Any], device: torch.device | str = "cpu") -> World:
    """The states of minigrid environments of one size (after `reset`, anywhere in an episode) as tensors.

    What a box holds, the mission and whatever else a subclass of `MiniGridEnv` keeps are not part of it.
    """
    envs = [env.unwrapped for env in envs]
    width = envs[0].width
    grid = np.stack([env.grid.encode().transpose(1, 0, 2) for env in envs])
    hand = np.array([env.carrying.encode() if env.carrying else (_EMPTY, 0, 0) for env in envs], np.uint8)
    agent = [(int(env.agent_pos[1]) * width + int(env.agent_pos[0]), int(env.agent_dir), env.step_count) for env in envs]
    cell, direction, t = torch.tensor(agent, device=device).unbind(1)
    return World(pack(torch.from_numpy(grid)).to(device), cell, direction, pack(torch.from_numpy(hand)).to(device), t)


def light_row(lit: Tensor, clear: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """One row of `Grid.process_vis` on bit masks over its `size` cells (bit i is column i): the definition.

    Light spreads sideways through clear cells (and on to the first opaque one); every clear cell that is lit also lights
    the three cells before it in the next row.

    Args:
        lit: cells lit from the row behind, integers of any shape.
        clear: cells that one sees through, the same shape.

    Returns:
        The cells of this row that are visible, and the cells lit in the next row.
    """
    everything = (1 << size) - 1
    for _ in range(size - 1):
        through = lit & clear
        lit = (lit | through << 1 | through >> 1) & everything
    through = lit & clear
    return lit, (through | through << 1 | through >> 1) & everything


class View:
    """MiniGrid's egocentric view: `view(grid, cell, direction, hand)` is the image of `MiniGridEnv.gen_obs`.

    The agent stands in the middle of the nearest row, looking ahead; what is not visible is (0, 0, 0), what is outside
    the grid is wall, and the agent's own cell shows what it carries. Occlusion sweeps the rows from near to far; up to
    `TABLE_LIMIT` a row is one gather from a table of 2^V x 2^V entries that holds `light_row`, beyond it `light_row`
    itself runs. Fixed shapes, no host sync.

    Args:
        height, width: H and W of the grids.
        size: V, cells on each side of the view: odd, 3 ... 23 (rows are bit masks beside the opaque bit).
        see_through_walls: nothing is hidden.
        device: where the tables live.

    Raises:
        ValueError: another size.
    """

    def __init__(
        self,
        height: int,
        width: int,
        size: int = 7,
        see_through_walls: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 3 <= size <= 23 or size % 2 == 0:
            raise ValueError(f"agent_view_size must be odd and in 3..23, got {size}")
        self.size, self.see_through_walls = size, see_through_walls
        self._area = height * width
        self._own = size // 2 * size + size - 1  # the agent's cell in the flattened view
        cells = _view_cells(height, width, size).to(device)
        self._cells, self._outside = cells.clamp(max=self._area - 1), cells == self._area
        self._column = torch.arange(size, dtype=torch.int32, device=device)
        self._shift = (24 - self._column).repeat_interleave(size)  # moves the opaque bit to that of the column
        if size <= TABLE_LIMIT:
            masks = torch.arange(1 << size, dtype=torch.int32, device=device)
            self._columns = masks.unsqueeze(1) >> self._column & 1  # (2^V, V): a row's mask taken apart
            index = torch.arange(4**size, dtype=torch.int32)
            lit, following = light_row(index >> size, index & (1 << size) - 1, size)
            self._lit, self._following = lit.to(device), (following << size).to(device)

    def __call__(
        self, grid: Tensor, cell: Tensor, direction: Tensor, hand: Tensor, which: Tensor | None = None
    ) -> Tensor:
        """The images.

        Args:
            grid: (B, H, W) int32, one for each agent; or (L, H, W), and `which` says in which of them each one stands.
            cell, direction: (B,) int64.
            hand: (B,) int32.
            which: (B,) int64.

        Returns:
            (B, V, V, 3) uint8, indexed [left to right, far to near] as MiniGrid's, the agent at [V // 2, V - 1].
        """
        codes = self._codes(grid, cell, direction, which)
        if not self.see_through_walls:
            codes.view(-1, self.size, self.size).mul_(self._visible(codes))
        codes[:, self._own] = hand
        return unpack(codes).view(-1, self.size, self.size, 3)

    def visible(self, grid: Tensor, cell: Tensor, direction: Tensor) -> Tensor:
        """(B, H, W) bool: the cells of the grid that the agent sees."""
        pose = torch.add(direction, cell, alpha=4)
        seen = (~self._outside.index_select(0, pose)).to(torch.int32)
        if not self.see_through_walls:
            seen *= self._visible(self._codes(grid, cell, direction, None)).flatten(1)
        flat = torch.zeros(len(cell), self._area, dtype=torch.int32, device=cell.device)
        return flat.scatter_add_(1, self._cells.index_select(0, pose).long(), seen).view(grid.shape) > 0

    def _codes(self, grid: Tensor, cell: Tensor, direction: Tensor, which: Tensor | None) -> Tensor:
        """(B, V * V) int32: the packed cells of the view, nothing hidden."""
        pose = torch.add(direction, cell, alpha=4)
        which = torch.arange(len(cell), device=cell.device) if which is None else which
        cells = self._cells.index_select(0, pose).add_(which.to(torch.int32).unsqueeze(1), alpha=self._area)
        codes = grid.reshape(-1).index_select(0, cells.view(-1)).view_as(cells)
        return codes.masked_fill_(self._outside.index_select(0, pose), WALL)

    def _visible(self, codes: Tensor) -> Tensor:
        """(B, V, V) int32, 1 where the cell is seen."""
        V = self.size
        opaque = ((codes & OPAQUE) >> self._shift).view(-1, V, V).sum(1, dtype=torch.int32)
        clear = ((1 << V) - 1 - opaque).T.contiguous()  # (V, B): bit masks of the rows, far to near
        start = 1 << V // 2
        if V <= TABLE_LIMIT:
            index = clear[V - 1] + (start << V)
            rows = [index]
            for row in reversed(clear[:-1].unbind()):
                index = self._following.index_select(0, index) + row
                rows.append(index)
            lit = self._lit.index_select(0, torch.cat(rows[::-1]))
            apart = self._columns.index_select(0, lit).view(V, -1, V)
        else:
            ahead, rows = torch.full_like(clear[0], start), []
            for row in reversed(clear.unbind()):
                seen, ahead = light_row(ahead, row, V)
                rows.append(seen)
            apart = torch.stack(rows[::-1]).unsqueeze(2) >> self._column & 1
        return apart.permute(1, 2, 0)


def _view_cells(height: int, width: int, size: int) -> Tensor:
    """(4 H W, V * V) int32: [4 * cell + direction] -> the cell at each place of the view, H * W where it is outside.

    With f the unit vector ahead and r the one to the right, place (i, j) is the agent's + f (V-1-j) + r (i - V//2).
    """
    cell = torch.arange(height * width).view(-1, 1, 1, 1)
    fx, fy = torch.tensor(STEPS).view(4, 1, 1, 2).unbind(-1)
    depth, side = size - 1 - torch.arange(size), (torch.arange(size) - size // 2).unsqueeze(1)
    x = cell % width + fx * depth - fy * side
    y = cell // width + fy * depth + fx * side
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, y * width + x, height * width).view(-1, size * size).to(torch.int32)
