"""Frames of the tasks that show symbols: a row of tiles, below it the answers given so far, below that the clock.

A tile that is on show now has a blue frame, one that is asked for an amber one; what was shown earlier, and the agent must
remember, is pale. Green answers were right, red ones wrong. The clock counts the steps of the episode.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from envs.draw import (
    AGENT,
    BAD,
    BAR,
    CARD,
    CUE,
    FLOOR,
    GOOD,
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
    segment,
    to_bytes,
)

MIDDLE, TALL, WIDE, GAP = 78.0, 68.0, 48.0, 13.0  # y of the tiles' middles, their size, the room between them
ANSWERS = 146.0  # y of the row of answers
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")  # of the digits 0..9


class Tile(NamedTuple):
    """face: "suit", "colour", "number", "sign", "text" (one of 0 1 + - and blank), "end", "back" (face down), or "more"
    (dots for what is left out); value: which of them; role: "shown", "asked" or "past"; of: how many colours there are."""

    face: str
    value: int = 0
    role: str = "past"
    of: int = 4


Scene = tuple[Sequence[Tile], float, int, int]


def quiz_frames(scenes: Sequence[Scene], questions: int) -> np.ndarray:
    """One frame for each (tiles, share of the time gone, right answers, wrong answers): (B, HEIGHT, WIDTH, 3) uint8."""
    frames = np.empty((len(scenes), HEIGHT, WIDTH, 3), np.uint8)
    for frame, (tiles, share, right, wrong) in zip(frames, scenes, strict=True):
        image = page()
        _row(image, tiles)
        length = WIDTH - 2 * MARGIN
        bar(image, ANSWERS, MARGIN, WIDTH - MARGIN, FLOOR)
        if right + wrong:
            end = MARGIN + length * (right + wrong) / questions
            bar(image, ANSWERS, MARGIN, end, BAD)
            if right:
                bar(image, ANSWERS, MARGIN, MARGIN + length * right / questions, GOOD)
        clock(image, share)
        frame[:] = to_bytes(image)
    return frames


def tracking_frames(
    states: Sequence[tuple[int, int, int, int, bool]], symbols: Sequence[str], classes: int
) -> np.ndarray:
    """State tracking: the symbol on show, and the classes as a ring with the present one filled (amber where it is asked for).

    states: (symbol, class, t, length, answered rightly) of each environment; (B, HEIGHT, WIDTH, 3) uint8.
    """
    frames = np.empty((len(states), HEIGHT, WIDTH, 3), np.uint8)
    for frame, (symbol, now, t, length, right) in zip(frames, states, strict=True):
        image = page()
        asks = symbol == len(symbols)
        face = Tile("end", 0, "asked") if asks else Tile("text", ord(symbols[symbol]), "shown")
        _tile(image, face, 200.0, 88.0, WIDE * 1.3, TALL * 1.3)
        for i in range(classes):
            angle = 2 * math.pi * i / classes - math.pi / 2
            x, y = 420 + 46 * math.cos(angle), 88 + 46 * math.sin(angle)
            over = t >= length
            colour = (GOOD if right else BAD) if over else CUE if asks else AGENT
            if i == now:
                fill(image, disc(x, y, 22), colour, 0.2)
            fill(image, disc(x, y, 17), colour if i == now else FLOOR)
            number(image, i, x, y, 15, CARD if i == now else "9aa7bf")
        clock(image, t / length)
        frame[:] = to_bytes(image)
    return frames


# Parts, also of the other renderers' frames.


def bar(image: np.ndarray, y: float, x0: float, x1: float, colour: str, half: float = 3.0) -> None:
    fill(image, box(x0, y - half, max(x1, x0 + 2 * half), y + half, half), colour)


def clock(image: np.ndarray, share: float) -> None:
    """The share of the episode's time that is gone."""
    bar(image, BAR, MARGIN, WIDTH - MARGIN, FLOOR)
    if share > 0:
        bar(image, BAR, MARGIN, MARGIN + (WIDTH - 2 * MARGIN) * min(share, 1.0), "7583f4")


def number(image: np.ndarray, value: int, cx: float, cy: float, tall: float, colour: str) -> None:
    """Seven-segment digits, `tall` high, centred at (cx, cy)."""
    digits = str(value)
    wide, step = tall * 0.5, tall * 0.82
    for i, digit in enumerate(digits):
        x, h, w = cx + (i - (len(digits) - 1) / 2) * step, tall / 2, wide / 2
        x -= w * (digit == "1")  # a one has only right strokes
        ends = {"a": (-w, -h, w, -h), "b": (w, -h, w, 0), "c": (w, 0, w, h), "d": (-w, h, w, h),
                "e": (-w, 0, -w, h), "f": (-w, -h, -w, 0), "g": (-w, 0, w, 0)}  # fmt: skip
        for name in SEGMENTS[int(digit)]:
            x0, y0, x1, y1 = ends[name]
            fill(image, segment(x + x0, cy + y0, x + x1, cy + y1, max(tall * 0.075, 1.0)), colour)


def _row(image: np.ndarray, tiles: Sequence[Tile]) -> None:
    dots = sum(tile.face == "more" for tile in tiles)
    room = WIDTH - 2 * MARGIN - GAP * (len(tiles) - 1) - 18 * dots
    wide = min(WIDE, room / max(len(tiles) - dots, 1))
    x = (WIDTH - wide * (len(tiles) - dots) - 18 * dots - GAP * (len(tiles) - 1)) / 2
    for tile in tiles:
        size = 18 if tile.face == "more" else wide
        _tile(image, tile, x + size / 2, MIDDLE, wide, TALL * min(wide / WIDE * 1.15, 1.0))
        x += size + GAP


def _tile(image: np.ndarray, tile: Tile, x: float, y: float, wide: float, tall: float) -> None:
    w, h, past = wide / 2, tall / 2, tile.role == "past"
    if tile.face == "more":
        for dx in (-7, 0, 7):
            fill(image, disc(x + dx, y, 2.2), "b9c4d8")
        return
    if not past:
        frame = CUE if tile.role == "asked" else AGENT
        fill(image, box(x - w - 6, y - h - 6, x + w + 6, y + h + 6, 12), frame, 0.15)
        fill(image, box(x - w - 3, y - h - 3, x + w + 3, y + h + 3, 9), frame)
    fill(image, box(x - w, y - h, x + w, y + h, 7), GRID if past else CARD)
    fill(image, box(x - w + 1.2, y - h + 1.2, x + w - 1.2, y + h - 1.2, 6), "f7f9fd" if past else CARD)
    size, alpha = min(w, h), 0.45 if past else 1.0
    if tile.face == "suit":
        _suit(image, tile.value, x, y, size * 0.62, alpha)
    elif tile.face == "colour":
        fill(image, disc(x, y, size * 0.6), _hue(tile.value, tile.of), alpha)
    elif tile.face == "number":
        number(image, tile.value, x, y, size * 0.95, "7784a0" if past else WALL)
    elif tile.face in ("sign", "text"):
        _character(image, "-+"[tile.value] if tile.face == "sign" else chr(tile.value), x, y, size * 0.5, alpha)
    elif tile.face == "end":
        for dx in (-1, 0, 1):
            fill(image, disc(x + dx * size * 0.55, y, size * 0.16), CUE)
    elif tile.face == "back":
        fill(image, box(x - w + 5, y - h + 5, x + w - 5, y + h - 5, 4), TRAIL, 0.45)


def _character(image: np.ndarray, sign: str, x: float, y: float, r: float, alpha: float) -> None:
    thick = max(r * 0.2, 1.5)
    colour = {"+": AGENT, "-": "e07a1f"}.get(sign, WALL)
    if sign in "01":
        number(image, int(sign), x, y, r * 2.2, WALL)
    strokes = [segment(x - r, y, x + r, y, thick), segment(x, y - r, x, y + r, thick)]
    _joined(image, strokes[: "-+".find(sign) + 1], colour, alpha)


def _suit(image: np.ndarray, suit: int, x: float, y: float, r: float, alpha: float) -> None:
    """0 spade, 1 diamond, 2 club, 3 heart, in a circle of radius r."""
    shapes = {
        0: [disc(x - r * 0.42, y + r * 0.18, r * 0.42), disc(x + r * 0.42, y + r * 0.18, r * 0.42),
            _kite(x, y - r, y + r * 0.1, r * 0.78), _kite(x, y + r * 0.05, y + r * 0.97, r * 0.28)],
        1: [_kite(x, y - r, y, r * 0.72), _kite(x, y + r, y, r * 0.72)],
        2: [disc(x, y - r * 0.48, r * 0.44), disc(x - r * 0.48, y + r * 0.2, r * 0.44),
            disc(x + r * 0.48, y + r * 0.2, r * 0.44), _kite(x, y - r * 0.3, y + r * 0.97, r * 0.3)],
        3: [disc(x - r * 0.43, y - r * 0.3, r * 0.46), disc(x + r * 0.43, y - r * 0.3, r * 0.46),
            _kite(x, y + r * 0.95, y - r * 0.12, r * 0.82)],
    }  # fmt: skip
    _joined(image, shapes[suit], BAD if suit in (1, 3) else WALL, alpha)


def _joined(image: np.ndarray, shapes: Sequence, colour: str, alpha: float) -> None:
    """Draw shapes that overlap as one, so that transparency does not show the overlap."""
    if not shapes:
        return
    ys = slice(min(s[1].start for s in shapes), max(s[1].stop for s in shapes))
    xs = slice(min(s[2].start for s in shapes), max(s[2].stop for s in shapes))
    whole = np.full((ys.stop - ys.start, xs.stop - xs.start), np.inf)
    for distance, rows, columns in shapes:
        part = whole[rows.start - ys.start : rows.stop - ys.start, columns.start - xs.start : columns.stop - xs.start]
        np.minimum(part, distance, out=part)
    fill(image, (whole, ys, xs), colour, alpha)


def _kite(cx: float, tip: float, base: float, half: float):
    """A triangle with its tip at (cx, tip) and its base, 2 `half` wide, at y = base above or below."""
    height, direction = abs(base - tip), 1 if tip > base else -1
    _, ys, xs = box(cx - half, min(tip, base), cx + half, max(tip, base), 0)
    x, y = np.arange(xs.start, xs.stop)[None] + 0.5, np.arange(ys.start, ys.stop)[:, None] + 0.5
    depth, slope = (tip - y) * direction, half / height
    return np.maximum((np.abs(x - cx) - slope * depth) / math.hypot(1, slope), depth - height), ys, xs


@cache
def _hue(value: int, of: int) -> str:
    """`of` colours that are far apart; the first is the agent's blue."""
    r, g, b = colorsys.hls_to_rgb((0.645 + value / of) % 1.0, 0.55, 0.72)
    return "".join(f"{round(255 * c):02x}" for c in (r, g, b))

