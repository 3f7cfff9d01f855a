"""Frames of bsuite's umbrella chain and discounting chain."""

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
    HEIGHT,
    MARGIN,
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
from envs.render_quiz import bar, clock, number

RAIN = "4a90d9"


def umbrella_frames(
    t: np.ndarray, need: np.ndarray, have: np.ndarray, noise: np.ndarray, length: int, hidden: bool
) -> np.ndarray:
    """Left the forecast (sun or rain), in the middle the agent with or without its umbrella (faint once both are hidden),
    right the random bits; below the way to the end, where the weather counts. (B, HEIGHT, WIDTH, 3) uint8.

    t: (B,); need, have: (B,) bool; noise: (B, d) bool.
    """
    frames = np.empty((len(t), HEIGHT, WIDTH, 3), np.uint8)
    for frame, now, rain, umbrella, bits in zip(frames, t.tolist(), need, have, noise, strict=True):
        image = page()
        faint = 0.25 if hidden and now > 0 else 1.0
        _weather(image, 130, 80, bool(rain), faint)
        over = now >= length
        colour = (GOOD if rain == umbrella else BAD) if over else AGENT
        if umbrella:
            _umbrella(image, 320, 64, colour, faint)
        fill(image, segment(320, 92, 320, 112, 9), colour, max(faint, 0.5))
        fill(image, disc(320, 78, 10), colour, max(faint, 0.5))
        for i, bit in enumerate(bits[:40].tolist()):
            fill(image, disc(455 + 16 * (i % 8), 50 + 16 * (i // 8), 5), "aab6cc" if bit else FLOOR)
        at = MARGIN + (WIDTH - 2 * MARGIN) * now / length
        bar(image, 146, MARGIN, WIDTH - MARGIN, FLOOR, 2)
        for step in range(length + 1) if length <= 40 else (0, length):
            fill(image, disc(MARGIN + (WIDTH - 2 * MARGIN) * step / length, 146, 3), "c9d3e5")
        fill(image, disc(at, 146, 7), colour)
        clock(image, now / length)
        frame[:] = to_bytes(image)
    return frames


def _weather(image: np.ndarray, x: float, y: float, rain: bool, alpha: float) -> None:
    if not rain:
        for k in range(8):
            dx, dy = math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)
            fill(image, segment(x + 29 * dx, y + 29 * dy, x + 38 * dx + 1e-3, y + 38 * dy, 2.6), CUE, alpha)
        fill(image, disc(x, y, 21), CUE, alpha)
        return
    for k in range(4):
        fill(image, segment(x - 26 + 18 * k, y + 22, x - 32 + 18 * k, y + 40, 2.4), RAIN, alpha)
    grey = "8d9ab3" if alpha == 1 else "e2e7f0"  # parts overlap, so no transparency
    for dx, dy, r in ((-22, 2, 15), (0, -9, 20), (22, 2, 15)):
        fill(image, disc(x + dx, y + dy, r), grey)
    fill(image, box(x - 36, y, x + 36, y + 17, 8), grey)


def _umbrella(image: np.ndarray, x: float, y: float, colour: str, alpha: float) -> None:
    distance, ys, xs = disc(x, y + 8, 44)
    rows = np.arange(ys.start, ys.stop)[:, None] + 0.5
    dome = np.maximum(distance, rows - (y + 2))
    for dx in (-29.3, 0, 29.3):  # the hem's arcs
        dome = np.maximum(dome, 14.7 - np.hypot(np.arange(xs.start, xs.stop)[None] + 0.5 - x - dx, rows - (y + 6)))
    fill(image, (dome, ys, xs), colour, 0.9 * alpha)
    fill(image, segment(x, y - 38, x, y - 32, 2), colour, alpha)


def discounting_frames(t: np.ndarray, context: np.ndarray, bonus: np.ndarray, waits: tuple[int, ...]) -> np.ndarray:
    """The five arms as tracks whose length is the (root of the) wait for the coin; the bigger coin is the arm that pays more.

    t, context, bonus: (B,). (B, HEIGHT, WIDTH, 3) uint8.
    """
    frames = np.empty((len(t), HEIGHT, WIDTH, 3), np.uint8)
    left, right = 96.0, WIDTH - MARGIN - 14
    for frame, now, arm, best in zip(frames, t.tolist(), context.tolist(), bonus.tolist(), strict=True):
        image = page()
        for i, wait in enumerate(waits):
            y = 34 + 28 * i
            end = left + (right - left) * math.sqrt(wait / waits[-1])
            number(image, wait, 56, y, 13, WALL if arm in (i, -1) else "b3bed2")
            bar(image, y, left, end, FLOOR)
            if i == arm:
                gone = left + (end - left) * math.sqrt(min(now / wait, 1))
                bar(image, y, left, gone, AGENT)
                fill(image, disc(gone, y, 7), AGENT)
            taken = i == arm and now >= wait
            size, colour = (11.5 if i == best else 8.5), GOOD if taken else CUE
            fill(image, disc(end, y, size), colour, 1.0 if arm in (i, -1) else 0.35)
            fill(image, ring(end, y, size - 4, 1.6), CARD)
        clock(image, now / waits[-1])
        frame[:] = to_bytes(image)
    return frames
