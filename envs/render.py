"""Frames of the T-mazes: state -> uint8 frames, batched.

The corridor to scale from left to right (cells are compressed where it is long), green the right arm
and red the wrong one, the cue glowing at x = 0 while it shows, the cells walked so far tinted, the agent as a disc
(green or red once it stands in an arm), and below, the steps taken as a share of the longest episode. Above the
corridor some mazes show more: the observation, the noise in the reward, or all corridors of a series with their cues.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from envs.draw import (
    AGENT,
    BAD,
    BAD_FLOOR,
    BAR,
    CARD,
    CUE,
    FLOOR,
    GOOD,
    GOOD_FLOOR,
    GRID,
    HEIGHT,
    MARGIN,
    TRAIL,
    WALL,
    WIDTH,
    box,
    disc,
    fill,
    page,
    ring,
    segment,
    to_bytes,
    triangle,
)

ROW, ARM = 88.0, 40.0  # y of the corridor's axis; side of an arm and height of the corridor
HEAD, HEAD_WIDTH = 29.0, 264.0  # y of what stands above corridor and cue, and its width


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
    return to_bytes(image)


def _agent(image: np.ndarray, x: float, y: float, colour: str, cue: int) -> None:
    """The agent, and the cue that it sees on this row: 1 up, -1 down, 0 none."""
    if cue:
        for radius, alpha in ((34, 0.10), (27, 0.16), (20, 0.28)):
            fill(image, disc(x, y, radius), CUE, alpha)
        fill(image, triangle(x, y - 46 * cue, 13, -cue), CUE)
    fill(image, disc(x, y + 1.5, 14.5), WALL, 0.18)
    fill(image, disc(x, y, 13), CARD)
    fill(image, disc(x, y, 10.5), colour)
    if cue:
        fill(image, triangle(x, y - 5.5 * cue, 6, -cue), CARD)


def _trail(image: np.ndarray, x0: float, x1: float, x: float, y: float) -> None:
    """The cells walked: x0 to x1 along the corridor, and from there at x to y."""
    fill(image, segment(x0, ROW, x1 + 1e-3, ROW, 5), TRAIL)
    fill(image, segment(x, ROW, x, y + 1e-3, 5), TRAIL)


def _clock(image: np.ndarray, share: float) -> None:
    if share > 0:
        fill(image, box(MARGIN, BAR - 3, _clock_x(min(share, 1.0), 6), BAR + 3, 3), AGENT, 0.75)


def _clock_x(share: float, least: float = 0.0) -> float:
    return MARGIN + max((WIDTH - 2 * MARGIN) * share, least)


def observation_strips(frames: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Adds to each of `frames` (changed in place) what the agent sees: `seen` (B, n) in [0, 1], three numbers of code and
    n - 3 bits, as squares that are the darker the larger, as many as there is room for. Returns `frames`."""
    seen = seen[:, : int(HEAD_WIDTH / 7) - 1]
    pitch = min(21.0, HEAD_WIDTH / (seen.shape[1] + 1))
    half = pitch / 2 - 1.5
    for frame, values in zip(frames, seen.tolist(), strict=True):
        image = frame.astype(np.float32) / 255
        for k, value in enumerate(values):
            x = MARGIN + half + pitch * (k + (k > 2))  # a gap before the bits
            fill(image, box(x - half - 1, HEAD - half - 1, x + half + 1, HEAD + half + 1, 4), GRID)
            fill(image, box(x - half, HEAD - half, x + half, HEAD + half, 3), CARD)
            fill(image, box(x - half, HEAD - half, x + half, HEAD + half, 3), AGENT if k < 3 else CUE, value)
        frame[:] = to_bytes(image)
    return frames


def waiting_marks(frames: np.ndarray, t: np.ndarray, noise: np.ndarray, choice: int, horizon: int) -> np.ndarray:
    """Adds to each of `frames` (changed in place) the steps of waiting that remain, on the clock, where a bar marks step
    `choice`, and the noise in this row's reward, `noise` (B,) in [-1, 1], as a block up or down. Returns `frames`."""
    for frame, now, level in zip(frames, t.tolist(), noise.tolist(), strict=True):
        image = frame.astype(np.float32) / 255
        if max(now, choice) < horizon:
            fill(image, box(_clock_x(max(now, choice) / horizon), BAR - 3, WIDTH - MARGIN, BAR + 3, 3), CUE, 0.45)
        x = _clock_x(choice / horizon)
        fill(image, box(x - 1, BAR - 7, x + 1, BAR + 7, 1), WALL)
        if level:
            low, high = sorted((HEAD, HEAD - 11 * level))
            fill(image, box(MARGIN + 5, low, MARGIN + 19, high, 3), GOOD if level > 0 else BAD, 0.8)
        fill(image, segment(MARGIN, HEAD, MARGIN + 24, HEAD, 1), WALL, 0.5)
        frame[:] = to_bytes(image)
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
        frame[:] = to_bytes(image)
    return frames


def _mark(image: np.ndarray, x: float, radius: float, cue: int, result: int, here: bool) -> None:
    if here:
        fill(image, disc(x, HEAD, radius + 2), AGENT)
        fill(image, disc(x, HEAD, radius), CARD)
    arrow = cue and radius > 3  # else too small to tell up from down
    colour = GOOD if result > 0 else BAD if result < 0 else CUE if cue and not arrow else FLOOR
    fill(image, disc(x, HEAD, radius - 1), colour)
    if arrow:
        size = 0.9 * radius
        fill(image, triangle(x, HEAD - 0.6 * size * cue, size, -cue), CARD if result else CUE)


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
    image = page()
    for grow, colour in ((4.0, WALL), (0.0, FLOOR)):
        corner = 6 + grow
        fill(image, box(left - grow, ROW - h - grow, right + grow, ROW + h + grow, corner), colour)
        fill(image, box(jx - h - grow, ROW - 3 * h - grow, right + grow, ROW + 3 * h + grow, corner), colour)
    if size >= 8:
        for x in np.arange(first + size / 2, jx - h + 1, size).tolist():
            fill(image, box(x - 0.6, ROW - h + 5, x + 0.6, ROW + h - 5, 0.6), GRID)
    for up in (True, False):
        good, y = up == goal_up, ROW - ARM if up else ROW + ARM
        fill(image, box(jx - h + 3, y - h + 3, right - 3, y + h - 3, 5), GOOD_FLOOR if good else BAD_FLOOR)
        if good:
            fill(image, ring(jx, y, 8, 2.6), GOOD)
            fill(image, disc(jx, y, 3), GOOD)
        else:
            fill(image, segment(jx - 6, y - 6, jx + 6, y + 6, 1.5), BAD)
            fill(image, segment(jx - 6, y + 6, jx + 6, y - 6, 1.5), BAD)
    if start > 0:  # where an active episode begins
        fill(image, disc(first + size * start, ROW, 3), GRID)
    fill(image, ring(first, ROW, 7, 2), GRID)  # where the cue shows
    fill(image, box(MARGIN, BAR - 3, WIDTH - MARGIN, BAR + 3, 3), FLOOR)
    return image
