"""The rooms of the TVT tasks on a board of 7 x 11 cells, tables over cells made from them, and exact random walks.

Cells are numbered row by row, 0..76; actions: 0 north, 1 south, 2 west, 3 east. What is no wall can be walked on, also
outside the rooms; a move into a wall or off the board leaves the agent where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

ROWS, COLS, VIEW = 7, 11, 5
CELLS = ROWS * COLS
OUTSIDE = CELLS  # "cell" of a window's pixels beyond the board
DISTRICT = 22  # cells where apples may be


@dataclass(frozen=True)
class Room:
    """Walls, the cells where the agent may start, and the marked cells, these in reading order."""

    walls: frozenset[int]
    starts: tuple[int, ...]
    marks: tuple[int, ...]


def read(plan: str) -> Room:
    """'#' wall, 'w' marked wall, 'm' marked floor, 's' start, '.' floor or outside."""
    text = "".join(plan.split())
    where = {kind: [i for i, c in enumerate(text) if c in kind] for kind in ("#w", "s", "wm")}
    return Room(frozenset(where["#w"]), tuple(where["s"]), tuple(where["wm"]))


CAGE = read("""  ...........
                 ....www....
                 ....wsw....
                 ....www....
                 ...........
                 ...........
                 ...........""")  # passive match: one of the walls has the colour
TWO_ROOMS = read("""  ..wwwwwww..
                      ..w.....w..
                      ..w.....w..
                      ..ww...ww..
                      ..wsssssw..
                      ..wsssssw..
                      ..wwwwwww..""")  # active match: the same, to be looked for
KEY_ROOMS = read("""  ..#######..
                      ..#mmmmm#..
                      ..#mmmmm#..
                      ..##...##..
                      ..#sssss#..
                      ..#sssss#..
                      ..#######..""")  # key to door: one marked cell has the key
ORCHARD = read("""  ###########
                    #m.m.m.m.m#
                    #.m.m.m.m.#
                    #m.m.m.m.m#
                    #.m.m.m.m.#
                    #m.m.s.m.m#
                    ###########""")
CHOICE = read("""  ###########
                   #.m..m..m.#
                   #.........#
                   #.........#
                   ####...####
                   ...#.s.#...
                   ...#####...""")  # match: the three objects
DOOR_SHUT = read("""  ...........
                      ...##w##...
                      ...#...#...
                      ...#.s.#...
                      ...#...#...
                      ...#####...
                      ...........""")
DOOR_OPEN = Room(DOOR_SHUT.walls - set(DOOR_SHUT.marks), DOOR_SHUT.starts, DOOR_SHUT.marks)


@cache
def moves(walls: frozenset[int]) -> np.ndarray:
    """(77, 4) int64: the cell after each action."""
    table = np.empty((CELLS, 4), np.int64)
    for cell in range(CELLS):
        for action, (dr, dc) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
            r, c = cell // COLS + dr, cell % COLS + dc
            to = r * COLS + c
            table[cell, action] = to if 0 <= r < ROWS and 0 <= c < COLS and to not in walls else cell
    return table


@cache
def windows() -> np.ndarray:
    """(77, 25) int64: the cells of the 5 x 5 window around a cell, row by row; OUTSIDE beyond the board."""
    reach = np.arange(VIEW) - VIEW // 2
    r = np.arange(CELLS)[:, None, None] // COLS + reach[:, None]
    c = np.arange(CELLS)[:, None, None] % COLS + reach
    on = (r >= 0) & (r < ROWS) & (c >= 0) & (c < COLS)
    return np.where(on, r * COLS + c, OUTSIDE).reshape(CELLS, -1)


@cache
def distances(walls: frozenset[int]) -> np.ndarray:
    """(77, 77) int64: moves from a cell (row) to another (column); 10**6 where there is no way."""
    far = np.full((CELLS, CELLS), 10**6)
    np.fill_diagonal(far, 0)
    step = moves(walls)
    while True:
        nearer = np.minimum(far, 1 + far[step].min(1))
        if (nearer == far).all():
            return far
        far = nearer


@cache
def directions(walls: frozenset[int], goals: tuple[int, ...], avoid: bool = False) -> np.ndarray:
    """(77, goals) int64: the action of a shortest way to each goal, `avoid`ing the other goals. At the goal: one that
    leaves the agent there, if any."""
    columns = []
    for goal in goals:
        closed = walls | (set(goals) - {goal}) if avoid else walls
        columns.append(distances(closed)[moves(closed), goal].argmin(1))
    return np.stack(columns, 1)


@cache
def apple_sets(apples: int) -> np.ndarray:
    """Every choice of `apples` of the 22 places, as the bits of an int32; ascending."""
    every = np.arange(1 << DISTRICT, dtype=np.int32)
    return every[np.bitwise_count(every) == apples]


# Uniformly random walks, exactly.


def hits(walls: frozenset[int], starts: tuple[int, ...], goals: frozenset[int], steps: int) -> float:
    """Probability that a random walk from a random start stands on a goal at some time within `steps` moves."""
    step, there = moves(walls), np.isin(np.arange(CELLS), list(goals))
    p = np.zeros(CELLS)
    p[list(starts)] = 1 / len(starts)
    for _ in range(steps):
        p[there] = 0.0
        p = np.bincount(step.ravel(), np.repeat(p / 4, 4), CELLS)
    return float(1 - p[~there].sum())


@cache
def random_apples(steps: int, regrow: int) -> float:
    """Apples that a random walk of `steps` moves finds if every place of the orchard has one, which is back for the
    move after the next `regrow` ones: the sum over places, each exactly."""
    step = moves(ORCHARD.walls)
    places = np.array(ORCHARD.marks)
    p = np.zeros((DISTRICT, regrow + 1, CELLS))  # [place, moves until the apple is back, cell]
    p[:, 0, ORCHARD.starts[0]] = 1.0
    found = 0.0
    spread = np.zeros((CELLS, CELLS))
    np.add.at(spread, (np.repeat(np.arange(CELLS), 4), step.ravel()), 0.25)
    for _ in range(steps):
        p = p @ spread
        eaten = p[np.arange(DISTRICT), 0, places].copy()
        p[np.arange(DISTRICT), 0, places] = 0.0
        found += eaten.sum()
        p[:, 0] += p[:, 1]
        p[:, 1:-1] = p[:, 2:]
        p[:, -1] = 0.0
        p[np.arange(DISTRICT), regrow, places] = eaten
    return float(found)
