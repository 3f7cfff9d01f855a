"""Frames of the delayed catch and of the cart-pole."""

from __future__ import annotations

import math

import numpy as np

from envs.draw import (
    AGENT,
    BAD,
    CARD,
    CUE,
    FLOOR,
    GOOD,
    GRID,
    HEIGHT,
    WALL,
    WIDTH,
    box,
    disc,
    fill,
    page,
    ring,
    segment,
    to_bytes,
)
from envs.render_quiz import clock

CELL, SIDE = 18.5, 7
BOARD_X, BOARD_Y = 92.0, 24.0


def catch_frames(t: np.ndarray, fruit: np.ndarray, basket: np.ndarray, caught: np.ndarray, runs: int) -> np.ndarray:
    """The board, and beside it one dot for each run: filled when over, green for those caught. Which ones those were is
    not in the state: the green ones come first. t, fruit, basket, caught: (B,). (B, HEIGHT, WIDTH, 3) uint8."""
    frames = np.empty((len(t), HEIGHT, WIDTH, 3), np.uint8)
    columns = min(runs, 10)
    for frame, now, column, at, score in zip(
        frames, t.tolist(), fruit.tolist(), basket.tolist(), caught.tolist(), strict=True
    ):
        image = page()
        right, bottom = BOARD_X + SIDE * CELL, BOARD_Y + SIDE * CELL
        fill(image, box(BOARD_X - 4, BOARD_Y - 4, right + 4, bottom + 4, 8), WALL)
        fill(image, box(BOARD_X, BOARD_Y, right, bottom, 5), FLOOR)
        for i in range(1, SIDE):
            fill(image, segment(BOARD_X + i * CELL, BOARD_Y + 2, BOARD_X + i * CELL, bottom - 2, 0.5), GRID)
            fill(image, segment(BOARD_X + 2, BOARD_Y + i * CELL, right - 2, BOARD_Y + i * CELL, 0.5), GRID)
        row = now % SIDE
        landed, y = row == SIDE - 1, bottom - CELL / 2
        colour = (GOOD if column == at else BAD) if landed else AGENT
        x = BOARD_X + (at + 0.5) * CELL
        fill(image, box(x - 8.5, y - 1, x + 8.5, y + 8, 4), colour)
        fill(image, segment(x - 8, y - 6, x - 7, y + 2, 1.8), colour)
        fill(image, segment(x + 8, y - 6, x + 7, y + 2, 1.8), colour)
        fx, fy = BOARD_X + (column + 0.5) * CELL, BOARD_Y + (row + 0.5) * CELL - (4 if landed and column == at else 0)
        fill(image, disc(fx, fy, 6.5), CUE)
        fill(image, segment(fx, fy - 6, fx + 2.5, fy - 9, 1.1), WALL)
        over = (now + 1) // SIDE
        for i in range(runs):
            x, y = 330 + 26 * (i % columns), 44 + 26 * (i // columns)
            if y > 150:
                break
            if i < over:
                fill(image, disc(x, y, 8), GOOD if i < score else BAD)
            else:
                fill(image, ring(x, y, 7, 2), AGENT if i == over else GRID)
        clock(image, now / (SIDE * runs - 1))
        frame[:] = to_bytes(image)
    return frames


TRACK, SCALE = 146.0, 108.0  # y of the rail; pixels for a unit of length: the pole's whole length is 1


def cartpole_frames(t: np.ndarray, x: np.ndarray, limit: int, x_limit: float, angle_limit: float) -> np.ndarray:
    """Cart and pole to scale on their rail, whose ends are the limits; red once they are passed. The dashes beside the pole
    are the limits of its angle. t: (B,); x: (B, 4). (B, HEIGHT, WIDTH, 3) uint8."""
    frames = np.empty((len(t), HEIGHT, WIDTH, 3), np.uint8)
    for frame, now, (position, _, angle, _) in zip(frames, t.tolist(), x.tolist(), strict=True):
        image = page()
        ends = [WIDTH / 2 + s * x_limit * SCALE for s in (-1, 1)]
        fill(image, segment(ends[0], TRACK, ends[1], TRACK, 2.5), GRID)
        for end in ends:
            fill(image, segment(end, TRACK - 9, end, TRACK + 3, 2.5), "b3bed2")
        fallen = abs(position) > x_limit or abs(angle) > angle_limit
        colour = BAD if fallen else GOOD if now >= limit else AGENT
        px, py = WIDTH / 2 + position * SCALE, TRACK - 18
        for side in (-1, 1):
            dx, dy = math.sin(side * angle_limit), -math.cos(angle_limit)
            for part in (0.55, 0.7, 0.85):
                start, end = part * SCALE, (part + 0.07) * SCALE
                fill(image, segment(px + start * dx, py + start * dy, px + end * dx, py + end * dy, 1), "d8dfeb")
        fill(image, box(px - 26, TRACK - 25, px + 26, TRACK - 7, 6), WALL)
        for dx in (-15, 15):
            fill(image, disc(px + dx, TRACK - 6, 6), WALL)
            fill(image, disc(px + dx, TRACK - 6, 2.4), CARD)
        fill(image, segment(px, py, px + SCALE * math.sin(angle), py - SCALE * math.cos(angle), 4.5), colour)
        fill(image, disc(px, py, 4.5), CUE)
        clock(image, now / limit)
        frame[:] = to_bytes(image)
    return frames
