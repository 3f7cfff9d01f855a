"""State -> uint8 frames, batched, numpy only. Shapes are signed distance functions, so edges are anti-aliased.

A T-maze frame: the corridor to scale from left to right (cells are compressed where it is long), green the right arm
and red the wrong one, the cue glowing at x = 0 while it shows, the cells walked so far tinted, the agent as a disc
(green or red once it stands in an arm), and below, the steps taken as a share of the longest episode.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

WIDTH, HEIGHT = 640, 192  # even, as H.264 needs
ROW, ARM, MARGIN = 88.0, 40.0, 34.0  # y of the corridor's axis, side of an arm and height of the corridor, side margin
BAR = 172.0  # y of the clock

PAGE, CARD, WALL, FLOOR, GRID = "f1f4f9", "ffffff", "1f2a44", "e9eef7", "d3dbea"
TRAIL, AGENT, CUE = "c3ceff", "4355f0", "f5a524"
GOOD, GOOD_FLOOR, BAD, BAD_FLOOR = "17a673", "c9f0df", "e0526b", "f8dce1"


def tmaze_frames(
    cell: np.ndarray, t: np.ndarray, goal: np.ndarray, visited: np.ndarray, start: int, junction: int, horizon: int
) -> np.ndarray:
    """Draw T-maze states.

    Args:
        cell, t, goal, visited: (B,) as in `envs.tmaze.TMazeState`.
        start, junction: cells; horizon: steps of the longest episode.

    Returns:
        (B, HEIGHT, WIDTH, 3) uint8.
    """
    frames = np.empty((len(cell), HEIGHT, WIDTH, 3), np.uint8)
    for frame, c, now, g, seen in zip(frames, cell.tolist(), t.tolist(), goal.tolist(), visited.tolist(), strict=True):
        frame[:] = _frame(c, now, g == junction + 1, seen, start, junction, horizon)
    return frames


def _frame(cell: int, t: int, goal_up: bool, visited: bool, start: int, junction: int, horizon: int) -> np.ndarray:
    first, size = _layout(junction)
    image = _maze(start, junction, goal_up).copy()
    x = min(cell, junction)
    y = ROW - ARM * ((cell == junction + 1) - (cell == junction + 2))
    walked = (0 if visited else min(start, x)), max(start, x)
    _fill(image, _segment(first + size * walked[0], ROW, first + size * walked[1] + 1e-3, ROW, 5), TRAIL)
    _fill(image, _segment(first + size * x, ROW, first + size * x, y + 1e-3, 5), TRAIL)

    shown = cell == 0 and not visited
    ax = first + size * x
    if shown:
        tip = ROW - 46 if goal_up else ROW + 46
        for radius, alpha in ((34, 0.10), (27, 0.16), (20, 0.28)):
            _fill(image, _disc(ax, ROW, radius), CUE, alpha)
        _fill(image, _triangle(ax, tip, 13, -1 if goal_up else 1), CUE)

    in_arm = cell > junction
    colour = AGENT if not in_arm else (GOOD if (cell == junction + 1) == goal_up else BAD)
    _fill(image, _disc(ax, y + 1.5, 14.5), WALL, 0.18)
    _fill(image, _disc(ax, y, 13), CARD)
    _fill(image, _disc(ax, y, 10.5), colour)
    if shown:  # what the agent sees
        _fill(image, _triangle(ax, y + (-5.5 if goal_up else 5.5), 6, -1 if goal_up else 1), CARD)

    share = min(t / horizon, 1.0)
    if share > 0:
        _fill(image, _box(MARGIN, BAR - 3, MARGIN + max((WIDTH - 2 * MARGIN) * share, 6), BAR + 3, 3), AGENT, 0.75)
    return (image * 255 + 0.5).astype(np.uint8)


def _layout(junction: int) -> tuple[float, float]:
    """x of the middle of cell 0 and the width of a cell; the outermost middles lie half an arm inside the walls."""
    size = min((WIDTH - 2 * MARGIN - ARM) / junction, ARM)
    return (WIDTH - size * junction) / 2, size


@lru_cache(maxsize=32)
def _maze(start: int, junction: int, goal_up: bool) -> np.ndarray:
    """The parts that stay: card, walls, floor, arms, grid, empty clock. (HEIGHT, WIDTH, 3) float32 in [0, 1]."""
    first, size = _layout(junction)
    jx, h = first + size * junction, ARM / 2
    left, right = first - h, jx + h
    image = np.broadcast_to(_rgb(PAGE), (HEIGHT, WIDTH, 3)).astype(np.float32)
    _fill(image, _box(8, 10, WIDTH - 8, HEIGHT - 6, 16), WALL, 0.05)
    _fill(image, _box(8, 8, WIDTH - 8, HEIGHT - 8, 16), CARD)
    for grow, colour in ((4.0, WALL), (0.0, FLOOR)):
        corner = 6 + grow
        _fill(image, _box(left - grow, ROW - h - grow, right + grow, ROW + h + grow, corner), colour)
        _fill(image, _box(jx - h - grow, ROW - 3 * h - grow, right + grow, ROW + 3 * h + grow, corner), colour)
    if size >= 8:
        for x in np.arange(first + size / 2, jx - h + 1, size).tolist():
            _fill(image, _box(x - 0.6, ROW - h + 5, x + 0.6, ROW + h - 5, 0.6), GRID)
    for up in (True, False):
        good, y = up == goal_up, ROW - ARM if up else ROW + ARM
        _fill(image, _box(jx - h + 3, y - h + 3, right - 3, y + h - 3, 5), GOOD_FLOOR if good else BAD_FLOOR)
        if good:
            _fill(image, _ring(jx, y, 8, 2.6), GOOD)
            _fill(image, _disc(jx, y, 3), GOOD)
        else:
            _fill(image, _segment(jx - 6, y - 6, jx + 6, y + 6, 1.5), BAD)
            _fill(image, _segment(jx - 6, y + 6, jx + 6, y - 6, 1.5), BAD)
    if start > 0:  # where an active episode begins
        _fill(image, _disc(first + size * start, ROW, 3), GRID)
    _fill(image, _ring(first, ROW, 7, 2), GRID)  # where the cue shows
    _fill(image, _box(MARGIN, BAR - 3, WIDTH - MARGIN, BAR + 3, 3), FLOOR)
    return image


# Signed distances (pixels, negative inside) as functions of pixel centres, with the pixels they can touch.

_Shape = tuple[np.ndarray, slice, slice]


def _grid(x0: float, y0: float, x1: float, y1: float) -> tuple[np.ndarray, np.ndarray, slice, slice]:
    ys, xs = slice(max(int(y0) - 2, 0), int(y1) + 3), slice(max(int(x0) - 2, 0), int(x1) + 3)
    return np.arange(xs.start, xs.stop)[None] + 0.5, np.arange(ys.start, ys.stop)[:, None] + 0.5, ys, xs


def _box(x0: float, y0: float, x1: float, y1: float, corner: float) -> _Shape:
    x, y, ys, xs = _grid(x0, y0, x1, y1)
    corner = min(corner, (x1 - x0) / 2, (y1 - y0) / 2)
    dx = np.abs(x - (x0 + x1) / 2) - (x1 - x0) / 2 + corner
    dy = np.abs(y - (y0 + y1) / 2) - (y1 - y0) / 2 + corner
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner, ys, xs


def _disc(cx: float, cy: float, radius: float) -> _Shape:
    x, y, ys, xs = _grid(cx - radius, cy - radius, cx + radius, cy + radius)
    return np.hypot(x - cx, y - cy) - radius, ys, xs


def _ring(cx: float, cy: float, radius: float, width: float) -> _Shape:
    d, ys, xs = _disc(cx, cy, radius + width / 2)
    return np.abs(d + width / 2) - width / 2, ys, xs


def _segment(x0: float, y0: float, x1: float, y1: float, radius: float) -> _Shape:
    low_x, high_x, low_y, high_y = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    x, y, ys, xs = _grid(low_x - radius, low_y - radius, high_x + radius, high_y + radius)
    dx, dy = x1 - x0, y1 - y0
    s = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(x - x0 - s * dx, y - y0 - s * dy) - radius, ys, xs


def _triangle(cx: float, tip: float, size: float, direction: int) -> _Shape:
    """Isosceles, `size` high and wide, the tip at (cx, tip) pointing up (direction -1) or down (+1)."""
    x, y, ys, xs = _grid(cx - size, tip - size, cx + size, tip + size)
    depth = (tip - y) * direction  # 0 at the tip, growing towards the base
    slope = np.hypot(1, 0.6)
    return np.maximum((np.abs(x - cx) - 0.6 * depth) / slope, depth - size) - 0.8, ys, xs


def _fill(image: np.ndarray, shape: _Shape, colour: str, alpha: float = 1.0) -> None:
    distance, ys, xs = shape
    area = image[ys, xs]  # ends where the image does
    cover = (np.clip(0.5 - distance, 0, 1) * alpha)[: area.shape[0], : area.shape[1], None].astype(np.float32)
    area += cover * (_rgb(colour) - area)


@cache
def _rgb(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32)
