"""State -> uint8 frames, batched, numpy only. Shapes are signed distance functions, so edges are anti-aliased.

A T-maze frame: the corridor to scale from left to right (cells are compressed where it is long), green the right arm
and red the wrong one, the cue glowing at x = 0 while it shows, the cells walked so far tinted, the agent as a disc
(green or red once it stands in an arm), and below, the steps taken as a share of the longest episode. Above the
corridor some mazes show more: the observation, the noise in the reward, or all corridors of a series with their cues.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

WIDTH, HEIGHT = 640, 192  # even, as H.264 needs
ROW, ARM, MARGIN = 88.0, 40.0, 34.0  # y of the corridor's axis, side of an arm and height of the corridor, side margin
BAR = 172.0  # y of the clock
HEAD, HEAD_WIDTH = 29.0, 264.0  # y of what stands above corridor and cue, and its width

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
    _trail(image, first + size * walked[0], first + size * walked[1], first + size * x, y)
    in_arm = cell > junction
    colour = AGENT if not in_arm else (GOOD if (cell == junction + 1) == goal_up else BAD)
    shown = cell == 0 and not visited
    _agent(image, first + size * x, y, colour, (1 if goal_up else -1) * shown)
    _clock(image, t / horizon)
    return _bytes(image)


def _agent(image: np.ndarray, x: float, y: float, colour: str, cue: int) -> None:
    """The agent, and the cue that it sees on this row: 1 up, -1 down, 0 none."""
    if cue:
        for radius, alpha in ((34, 0.10), (27, 0.16), (20, 0.28)):
            _fill(image, _disc(x, y, radius), CUE, alpha)
        _fill(image, _triangle(x, y - 46 * cue, 13, -cue), CUE)
    _fill(image, _disc(x, y + 1.5, 14.5), WALL, 0.18)
    _fill(image, _disc(x, y, 13), CARD)
    _fill(image, _disc(x, y, 10.5), colour)
    if cue:
        _fill(image, _triangle(x, y - 5.5 * cue, 6, -cue), CARD)


def _trail(image: np.ndarray, x0: float, x1: float, x: float, y: float) -> None:
    """The cells walked: x0 to x1 along the corridor, and from there at x to y."""
    _fill(image, _segment(x0, ROW, x1 + 1e-3, ROW, 5), TRAIL)
    _fill(image, _segment(x, ROW, x, y + 1e-3, 5), TRAIL)


def _clock(image: np.ndarray, share: float) -> None:
    if share > 0:
        _fill(image, _box(MARGIN, BAR - 3, _clock_x(min(share, 1.0), 6), BAR + 3, 3), AGENT, 0.75)


def _clock_x(share: float, least: float = 0.0) -> float:
    return MARGIN + max((WIDTH - 2 * MARGIN) * share, least)


def _bytes(image: np.ndarray) -> np.ndarray:
    return (image * 255 + 0.5).astype(np.uint8)


def observation_strips(frames: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Adds to each of `frames` (changed in place) what the agent sees: `seen` (B, n) in [0, 1], three numbers of code and
    n - 3 bits, as squares that are the darker the larger. Returns `frames`."""
    pitch = min(21.0, HEAD_WIDTH / (seen.shape[1] + 1))
    half = pitch / 2 - 1.5
    for frame, values in zip(frames, seen.tolist(), strict=True):
        image = frame.astype(np.float32) / 255
        for k, value in enumerate(values):
            x = MARGIN + half + pitch * (k + (k > 2))  # a gap before the bits
            _fill(image, _box(x - half - 1, HEAD - half - 1, x + half + 1, HEAD + half + 1, 4), GRID)
            _fill(image, _box(x - half, HEAD - half, x + half, HEAD + half, 3), CARD)
            _fill(image, _box(x - half, HEAD - half, x + half, HEAD + half, 3), AGENT if k < 3 else CUE, value)
        frame[:] = _bytes(image)
    return frames


def waiting_marks(frames: np.ndarray, t: np.ndarray, noise: np.ndarray, choice: int, horizon: int) -> np.ndarray:
    """Adds to each of `frames` (changed in place) the steps of waiting that remain, on the clock, where a bar marks step
    `choice`, and the noise in this row's reward, `noise` (B,) in [-1, 1], as a block up or down. Returns `frames`."""
    for frame, now, level in zip(frames, t.tolist(), noise.tolist(), strict=True):
        image = frame.astype(np.float32) / 255
        if max(now, choice) < horizon:
            _fill(image, _box(_clock_x(max(now, choice) / horizon), BAR - 3, WIDTH - MARGIN, BAR + 3, 3), CUE, 0.45)
        x = _clock_x(choice / horizon)
        _fill(image, _box(x - 1, BAR - 7, x + 1, BAR + 7, 1), WALL)
        if level:
            low, high = sorted((HEAD, HEAD - 11 * level))
            _fill(image, _box(MARGIN + 5, low, MARGIN + 19, high, 3), GOOD if level > 0 else BAD, 0.8)
        _fill(image, _segment(MARGIN, HEAD, MARGIN + 24, HEAD, 1), WALL, 0.5)
        frame[:] = _bytes(image)
    return frames


def series_frames(
    x: np.ndarray,
    length: np.ndarray,
    t: np.ndarray,
    corridor: np.ndarray,
    shown: np.ndarray,
    cues: np.ndarray,
    results: np.ndarray,
    longest: int,
    horizon: int,
) -> np.ndarray:
    """Draw states of a series of T-mazes: the present corridor, and above it a mark for each of the K corridors, the cue
    in it as far as it is known, and green or red once its turn is made. Left is up.

    Args:
        x, length, t, corridor: (B,) as in `envs.tmaze_series`.
        shown: (B,) the cue that the agent sees on this row, -1 left, +1 right, 0 none.
        cues, results: (B, K); the cue of each corridor and how its turn was: +1 right, -1 wrong; 0: unknown.
        longest: cells of the longest corridor; horizon: steps of the longest episode.

    Returns:
        (B, HEIGHT, WIDTH, 3) uint8.
    """
    frames = np.empty((len(x), HEIGHT, WIDTH, 3), np.uint8)
    columns = (column.tolist() for column in (x, length, t, corridor, shown, cues, results))
    for frame, at, end, now, done, cue, all_cues, all_results in zip(frames, *columns, strict=True):
        here = min(done, len(all_cues) - 1)
        first, size = _layout(end, longest)
        image = _maze(0, end, all_cues[here] < 0, longest).copy()
        turned = all_results[here]  # only once all is over
        y = ROW + ARM * all_cues[here] * turned
        _trail(image, first, first + size * at, first + size * at, y)
        _agent(image, first + size * at, y, {1: GOOD, 0: AGENT, -1: BAD}[turned], -cue)
        pitch = min(22.0, HEAD_WIDTH / len(all_cues))
        for k, (arrow, result) in enumerate(zip(all_cues, all_results, strict=True)):
            _mark(image, MARGIN + pitch * (k + 0.5), 0.42 * pitch, -arrow, result, k == here)
        _clock(image, now / horizon)
        frame[:] = _bytes(image)
    return frames


def _mark(image: np.ndarray, x: float, radius: float, cue: int, result: int, here: bool) -> None:
    if here:
        _fill(image, _disc(x, HEAD, radius + 2), AGENT)
        _fill(image, _disc(x, HEAD, radius), CARD)
    arrow = cue and radius > 3  # else too small to tell up from down
    colour = GOOD if result > 0 else BAD if result < 0 else CUE if cue and not arrow else FLOOR
    _fill(image, _disc(x, HEAD, radius - 1), colour)
    if arrow:
        size = 0.9 * radius
        _fill(image, _triangle(x, HEAD - 0.6 * size * cue, size, -cue), CARD if result else CUE)


def _layout(junction: int, longest: int | None = None) -> tuple[float, float]:
    """x of the middle of cell 0 and the width of a cell; the outermost middles lie half an arm inside the walls.
    `longest`: the corridor to whose scale this one is drawn."""
    size = min((WIDTH - 2 * MARGIN - ARM) / max(longest or junction, 1), ARM)
    return (WIDTH - size * junction) / 2, size


@lru_cache(maxsize=32)
def _maze(start: int, junction: int, goal_up: bool, longest: int | None = None) -> np.ndarray:
    """The parts that stay: card, walls, floor, arms, grid, empty clock. (HEIGHT, WIDTH, 3) float32 in [0, 1]."""
    first, size = _layout(junction, longest)
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
