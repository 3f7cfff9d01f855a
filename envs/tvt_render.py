"""Frames of the TVT tasks: the whole room with the window that the agent sees marked, and beside it that window magnified.

To the right what it is about (the colour to remember, or the key) with the outcome below it: an empty ring, then a green
disc or a red one. At the bottom the three phases to scale, filled up to the present row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from envs.draw import AGENT, BAD, CARD, FLOOR, GOOD, GRID, WALL, box, disc, fill, page, ring, segment
from envs.tvt_rooms import CELLS, COLS, ROWS, VIEW, distances

WIDTH, HEIGHT = 720, 288
TILE, ZOOM = 32, 44  # pixels of a cell in the room and in the window
ROOM_X, ROOM_Y, VIEW_X, VIEW_Y = 24, 20, 400, 22
BADGE_X, BAR = 668, 268

APPLE_GREEN, LEAF, GOLD, DOOR_BLUE, LIGHT = "8fb31d", "4f7a1f", "e0a526", "7cc0e6", "ffffff"
BLOCKS = ("ea4b4b", "2fb457", "3d6bf0")  # red, green, blue

Thing = tuple[int, str, str]  # cell; "block", "key", "door" or "apple"; colour


class Scene(NamedTuple):
    """One state, drawn by `draw`."""

    walls: frozenset[int]
    start: int  # a cell inside the room
    cell: int  # of the agent
    things: tuple[Thing, ...]
    view: np.ndarray  # (5, 5, 3) uint8: the observation
    badge: tuple[str, str]  # ("block" or "key", colour)
    won: bool | None  # None: not decided
    lengths: tuple[int, int, int]
    t: int


def draw(scene: Scene) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8."""
    image = _room(scene.walls, scene.start).copy()
    for cell, kind, colour in scene.things:
        _thing(image, *_middle(cell), kind, colour, TILE)
    x, y = _middle(scene.cell)
    fill(image, disc(x, y + 1.5, 11.5), WALL, 0.18)
    fill(image, disc(x, y, 10.5), CARD)
    fill(image, disc(x, y, 8.5), AGENT if scene.won is None else GOOD if scene.won else BAD)
    half = VIEW * TILE / 2
    x0, x1 = max(x - half, ROOM_X), min(x + half, ROOM_X + COLS * TILE)  # what of it lies on the board
    y0, y1 = max(y - half, ROOM_Y), min(y + half, ROOM_Y + ROWS * TILE)
    for width, colour, alpha in ((5, CARD, 0.8), (2.5, AGENT, 1.0)):
        distance, ys, xs = box(x0, y0, x1, y1, 6)
        fill(image, (np.abs(distance) - width / 2, ys, xs), colour, alpha)

    end_x, end_y = VIEW_X + VIEW * ZOOM, VIEW_Y + VIEW * ZOOM
    fill(image, box(VIEW_X - 5, VIEW_Y - 5, end_x + 5, end_y + 5, 9), AGENT)
    image[VIEW_Y:end_y, VIEW_X:end_x] = scene.view.repeat(ZOOM, 0).repeat(ZOOM, 1) / 255

    _thing(image, BADGE_X, 96, *scene.badge, 60)
    if scene.won is None:
        fill(image, ring(BADGE_X, 166, 12, 3), GRID)
    else:
        fill(image, disc(BADGE_X, 166, 14), GOOD if scene.won else BAD)
        for x0, y0, x1, y1 in _mark(scene.won):
            fill(image, segment(BADGE_X + x0, 166 + y0, BADGE_X + x1, 166 + y1, 1.8), CARD)

    left, scale, done = ROOM_X, (WIDTH - 2 * ROOM_X - 16) / sum(scene.lengths), scene.t
    for length in scene.lengths:
        if length:
            fill(image, box(left, BAR - 4, left + length * scale, BAR + 4, 4), FLOOR)
            if done > 0:
                fill(image, box(left, BAR - 4, left + min(done, length) * scale, BAR + 4, 4), AGENT, 0.75)
            left += length * scale + 8
        done -= length
    return (image * 255 + 0.5).astype(np.uint8)


def _middle(cell: int) -> tuple[float, float]:
    return ROOM_X + TILE * (cell % COLS + 0.5), ROOM_Y + TILE * (cell // COLS + 0.5)


@lru_cache(maxsize=32)
def _room(walls: frozenset[int], start: int) -> np.ndarray:
    """Page, card, walls, and floor where one can get to from `start`. (HEIGHT, WIDTH, 3) float32 in [0, 1]."""
    image = page(HEIGHT, WIDTH)
    half = TILE / 2
    for cell in range(CELLS):
        x, y = _middle(cell)
        if cell in walls:
            fill(image, box(x - half, y - half, x + half, y + half, 0), WALL)
        elif distances(walls)[cell, start] < CELLS:
            fill(image, box(x - half, y - half, x + half, y + half, 0), GRID)
            fill(image, box(x - half + 0.5, y - half + 0.5, x + half - 0.5, y + half - 0.5, 3), FLOOR)
    return image


def _mark(won: bool) -> tuple[tuple[float, float, float, float], ...]:
    return ((-6, 0, -2, 5), (-2, 5, 6, -5)) if won else ((-5, -5, 5, 5), (-5, 5, 5, -5))


def _thing(image: np.ndarray, x: float, y: float, kind: str, colour: str, size: float) -> None:
    s = size / 32
    if kind == "block":
        fill(image, box(x - 12 * s, y - 12 * s, x + 12 * s, y + 12 * s, 5 * s), colour)
        fill(image, box(x - 8 * s, y - 8.5 * s, x + 8 * s, y - 5 * s, 2 * s), LIGHT, 0.35)
    elif kind == "apple":
        fill(image, disc(x, y + 1.5 * s, 8 * s), colour)
        fill(image, disc(x - 3 * s, y - 1 * s, 2.2 * s), LIGHT, 0.45)
        fill(image, segment(x, y - 6 * s, x + 4 * s, y - 10 * s, 2 * s), LEAF)
    elif kind == "key":
        fill(image, ring(x - 6 * s, y, 4.5 * s, 3 * s), colour)
        fill(image, segment(x - 1 * s, y, x + 11 * s, y, 1.5 * s), colour)
        for at in (6, 10):
            fill(image, segment(x + at * s, y, x + at * s, y + 4.5 * s, 1.4 * s), colour)
    else:  # a door
        fill(image, box(x - 13 * s, y - 15 * s, x + 13 * s, y + 15 * s, 3 * s), colour)
        fill(image, disc(x + 7 * s, y, 2.2 * s), LIGHT, 0.9)
