"""Drawing, with numpy only: shapes are signed distance functions, so edges are anti-aliased; colours are six hex digits.

An image is (height, width, 3) float32 in [0, 1], which `to_bytes` turns into a frame.
"""

from __future__ import annotations

from functools import cache

import numpy as np

WIDTH, HEIGHT, MARGIN = 640, 192, 34.0  # of most tasks' frames (even, as H.264 needs), and their side margin
BAR = 172.0  # y of their clock

PAGE, CARD, WALL, FLOOR, GRID = "f1f4f9", "ffffff", "1f2a44", "e9eef7", "d3dbea"
TRAIL, AGENT, CUE = "c3ceff", "4355f0", "f5a524"
GOOD, GOOD_FLOOR, BAD, BAD_FLOOR = "17a673", "c9f0df", "e0526b", "f8dce1"


def page(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A new image: an empty card on the page."""
    return _page(height, width).copy()


@cache
def _page(height: int, width: int) -> np.ndarray:
    image = np.broadcast_to(rgb(PAGE), (height, width, 3)).astype(np.float32)
    fill(image, box(8, 10, width - 8, height - 6, 16), WALL, 0.05)
    fill(image, box(8, 8, width - 8, height - 8, 16), CARD)
    return image


def to_bytes(image: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] -> uint8."""
    return (image * 255 + 0.5).astype(np.uint8)


# Signed distances (pixels, negative inside) as functions of pixel centres, with the pixels they can touch.

Shape = tuple[np.ndarray, slice, slice]


def _grid(x0: float, y0: float, x1: float, y1: float) -> tuple[np.ndarray, np.ndarray, slice, slice]:
    ys, xs = slice(max(int(y0) - 2, 0), int(y1) + 3), slice(max(int(x0) - 2, 0), int(x1) + 3)
    return np.arange(xs.start, xs.stop)[None] + 0.5, np.arange(ys.start, ys.stop)[:, None] + 0.5, ys, xs


def box(x0: float, y0: float, x1: float, y1: float, corner: float) -> Shape:
    x, y, ys, xs = _grid(x0, y0, x1, y1)
    corner = min(corner, (x1 - x0) / 2, (y1 - y0) / 2)
    dx = np.abs(x - (x0 + x1) / 2) - (x1 - x0) / 2 + corner
    dy = np.abs(y - (y0 + y1) / 2) - (y1 - y0) / 2 + corner
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner, ys, xs


def disc(cx: float, cy: float, radius: float) -> Shape:
    x, y, ys, xs = _grid(cx - radius, cy - radius, cx + radius, cy + radius)
    return np.hypot(x - cx, y - cy) - radius, ys, xs


def ring(cx: float, cy: float, radius: float, width: float) -> Shape:
    d, ys, xs = disc(cx, cy, radius + width / 2)
    return np.abs(d + width / 2) - width / 2, ys, xs


def segment(x0: float, y0: float, x1: float, y1: float, radius: float) -> Shape:
    low_x, high_x, low_y, high_y = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    x, y, ys, xs = _grid(low_x - radius, low_y - radius, high_x + radius, high_y + radius)
    dx, dy = x1 - x0, y1 - y0
    s = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(x - x0 - s * dx, y - y0 - s * dy) - radius, ys, xs


def triangle(cx: float, tip: float, size: float, direction: int) -> Shape:
    """Isosceles, `size` high and wide, the tip at (cx, tip) pointing up (direction -1) or down (+1)."""
    x, y, ys, xs = _grid(cx - size, tip - size, cx + size, tip + size)
    depth = (tip - y) * direction  # 0 at the tip, growing towards the base
    slope = np.hypot(1, 0.6)
    return np.maximum((np.abs(x - cx) - 0.6 * depth) / slope, depth - size) - 0.8, ys, xs


def fill(image: np.ndarray, shape: Shape, colour: str, alpha: float = 1.0) -> None:
    """Paint a shape into the image; what lies outside is cut off below and to the right."""
    distance, ys, xs = shape
    area = image[ys, xs]  # ends where the image does
    cover = (np.clip(0.5 - distance, 0, 1) * alpha)[: area.shape[0], : area.shape[1], None].astype(np.float32)
    area += cover * (rgb(colour) - area)


@cache
def rgb(code: str) -> np.ndarray:
    """(3,) float32 in [0, 1]."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32)
