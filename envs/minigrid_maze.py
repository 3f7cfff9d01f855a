"""The mazes of MiniGrid-Memory: grids, and every pose of the agent in every layout numbered as a "place".

    # # # # # # # # #         y = c - 2: wall of the room, object A      c = H // 2
    # # # # # # # A #         e = where the hallway ends (here 5), W = e + 3 or more
    # o . . # # . . #         o = (1, c - 1): the cue, a green key or ball, like one of A and B
    # . > . . . . . #         the agent starts on row c, x = 1 ... e, facing east
    # . . . # # . . #         (e + 1, c - 1) and (e + 1, c + 1): where the episode ends, well or badly
    # # # # # # # B #

A layout is e, the cue (0 key, 1 ball) and which of A = (e + 1, c - 2) and B = (e + 1, c + 2) is the key (0: B, 1: A), numbered
((index of e) * 2 + cue) * 2 + top, with the values that minigrid 3.2.0 draws (`minigrid/envs/memory.py`). Objects cannot be
passed, so the rest of the grid is out of reach and there are few places: the task is tabular.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.minigrid_view import BALL, EMPTY, GREEN, KEY, WALL, ahead, code

GOING, FAILED, SUCCEEDED = range(3)
CUES = (code(KEY, GREEN), code(BALL, GREEN))  # packed cells


class Maze(NamedTuple):
    """All layouts of one size (L of them) and their places (P). The places of GOING come first, SUCCEEDED last."""

    grids: Tensor  # (L, H, W) int32, packed cells
    ends: Tensor  # (L,) int64: e
    layout: Tensor  # (P,) int64
    cell: Tensor  # (P,) int64: y * W + x
    direction: Tensor  # (P,) int64
    index: Tensor  # (L * H * W * 4,) int64: [(layout * H * W + cell) * 4 + direction] -> place, -1 where there is none
    counts: tuple[int, int]  # how many places are GOING; how many are GOING or FAILED
    starts: Tensor  # (L, max e) int64: [layout, x - 1] -> place, -1 for x > e
    cue: Tensor  # (P,) int64: 0 key, 1 ball
    moves: Tensor  # (P, 3) int64: the place after turning left, turning right, going forward; itself where it is over
    distance: Tensor  # (P,) float32: fewest steps to a place of SUCCEEDED, inf from FAILED


@lru_cache(maxsize=16)
def make_maze(height: int, width: int, ends: tuple[int, ...]) -> Maze:
    """The layouts with hallways ending at x in `ends`, each with both cues and both arrangements of the objects."""
    c = height // 2
    layouts = [(end, cue, top) for end in ends for cue in (0, 1) for top in (0, 1)]
    grids = np.stack([_grid(height, width, *layout) for layout in layouts])
    end, cue, top = np.array(layouts).T
    y, x = np.divmod(np.arange(height * width), width)
    near = (np.abs(y - c) <= 1) & (x <= end[:, None] + 1)
    layout, cell = np.nonzero(near & (grids.reshape(len(layouts), -1) == EMPTY))
    side = np.where(x[cell] == end[layout] + 1, y[cell] - c, 0)  # -1 before A, 1 before B
    right = np.where(cue != top, -1, 1)[layout]  # `top` is 1 where A is the key, `cue` is 0 for a key
    outcome = np.where(side == 0, GOING, np.where(side == right, SUCCEEDED, FAILED))
    order = np.argsort(outcome, kind="stable")
    layout, cell, direction = layout[order].repeat(4), cell[order].repeat(4), np.tile(np.arange(4), len(order))
    index = np.full((len(layouts), height * width, 4), -1)
    index[layout, cell, direction] = np.arange(len(layout))
    starts = np.full((len(layouts), max(ends)), -1)
    for number, last in enumerate(end):
        starts[number, :last] = index[number, c * width + 1 : c * width + last + 1, 0]
    counts = np.searchsorted(outcome[order], [FAILED, SUCCEEDED]) * 4
    moves = _moves(grids, layout, cell, direction, index)
    moves[counts[0] :] = np.arange(counts[0], len(moves))[:, None]
    arrays = (grids, end, layout, cell, direction, index.reshape(-1), starts, layout // 2 % 2, moves)
    tensors = [torch.from_numpy(a) for a in arrays]
    return Maze(*tensors[:6], tuple(counts.tolist()), *tensors[6:], torch.from_numpy(_distance(moves, *counts)))


def _moves(grids: np.ndarray, layout: np.ndarray, cell: np.ndarray, direction: np.ndarray, index: np.ndarray) -> np.ndarray:
    front = ahead(*grids.shape[1:]).numpy()[cell * 4 + direction]
    free = grids.reshape(len(grids), -1)[layout, front] == EMPTY
    left, right = index[layout, cell, (direction - 1) % 4], index[layout, cell, (direction + 1) % 4]
    return np.stack((left, right, index[layout, np.where(free, front, cell), direction]), 1)


def _distance(moves: np.ndarray, going: int, unfailed: int) -> np.ndarray:
    distance = np.full(len(moves), np.inf, np.float32)
    distance[unfailed:] = 0
    while True:
        shorter = distance[moves].min(1) + 1
        if not (shorter[:going] < distance[:going]).any():
            return distance
        distance[:going] = np.minimum(distance[:going], shorter[:going])


def _grid(height: int, width: int, end: int, cue: int, top: int) -> np.ndarray:
    c = height // 2
    grid = np.full((height, width), EMPTY, np.int32)
    grid[[0, -1]] = grid[:, [0, -1]] = WALL
    grid[[c - 2, c + 2], 1:5] = grid[[c - 1, c + 1], 4:end] = WALL
    grid[[c - 1, c + 1], 4] = WALL
    grid[:, [end, end + 2]] = WALL
    grid[c, end] = EMPTY
    grid[c - 1, 1] = CUES[cue]
    grid[c - 2, end + 1], grid[c + 2, end + 1] = CUES[1 - top], CUES[top]
    return grid


def stream_to_bytes(stream: np.random.Generator) -> Tensor:
    """All of a stream of `numpy.random.PCG64`, (64,) uint8, to save it with tensors."""
    state = stream.bit_generator.state
    numbers = (state["state"]["state"], state["state"]["inc"], state["has_uint32"], state["uinteger"])
    raw = b"".join(number.to_bytes(16, "little") for number in numbers)
    return torch.from_numpy(np.frombuffer(raw, np.uint8).copy())


def stream_from_bytes(row: Tensor) -> np.random.Generator:
    """A stream that goes on where the one was that `row` was made of. Raises ValueError."""
    raw, stream = row.cpu().numpy().tobytes(), np.random.Generator(np.random.PCG64(0))
    state, inc, has_uint32, uinteger = (int.from_bytes(raw[i : i + 16], "little") for i in range(0, 64, 16))
    try:
        stream.bit_generator.state = {
            "bit_generator": "PCG64", "state": {"state": state, "inc": inc}, "has_uint32": has_uint32, "uinteger": uinteger
        }  # fmt: skip
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"environment state entry 'streams' is no generator's: {error}") from None
    return stream
