"""MiniGrid worlds -> uint8 frames, numpy only: the grid with what the agent sees of it lit, and beside it its own view.

Every kind of tile is drawn once per size, as signed distances in the unit square (so edges are anti-aliased), and a
frame is put together from tiles. Left (or above, where the grid is wide) is the world, the agent an arrow; right (below)
the view as the agent has it, facing up, with what it carries in place of the arrow and unseen cells dark; under both the
steps taken as a share of the limit. Of a world so wide that its cells are tiny the part around the agent is shown once more,
larger, beside the view.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from envs.minigrid_view import BALL, BOX, CLOSED, DOOR, KEY, LOCKED, OBJECTS, OPEN

PAGE, CARD, WALL, FLOOR, LINE, SHADE = "f1f4f9", "ffffff", "2b3654", "eef2f9", "d8e0ee", "9aa7bf"
AGENT, LIGHT, GOOD, GOOD_FLOOR, BAD, BAD_FLOOR = "4355f0", "fff3d6", "17a673", "c9f0df", "e0526b", "f8dce1"
PALETTE = ("e0526b", "17a673", "3b82f6", "8b5cf6", "f2b01e", "7b879c")  # MiniGrid's colours in its order
MARGIN, GAP, BAR = 24, 24, 8
TINY, LENS = 16, 20  # sides of cells in pixels: those smaller are tiny, and how large they are shown then
PLAIN, RIGHT, WRONG = range(3)  # marks of cells


def grid_frames(
    grid: np.ndarray,
    cell: np.ndarray,
    direction: np.ndarray,
    visible: np.ndarray,
    view: np.ndarray,
    elapsed: np.ndarray,
    marks: np.ndarray | None = None,
) -> np.ndarray:
    """Draw B worlds.

    Args:
        grid: (B, H, W) packed cells, as in `envs.minigrid_view`.
        cell, direction: (B,) of the agent.
        visible: (B, H, W) bool, the cells it sees.
        view: (B, V, V, 3) uint8, its image.
        elapsed: (B,) steps taken as a share of the limit.
        marks: (B, H, W): `RIGHT` and `WRONG` for cells that count as success and as failure, `PLAIN` elsewhere.

    Returns:
        (B, h, w, 3) uint8, h and w even.
    """
    H, W = grid.shape[1:]
    V = view.shape[1]
    marks = np.zeros(grid.shape, np.int64) if marks is None else marks
    wide = W > 2 * H
    side = max(4, min(32, (960 if wide else 416) // max(H, W)) // 2 * 2)
    small = max(12, min(32, (96 if wide else 224) // V) // 2 * 2)
    world, seen = (H * side, W * side), (V * small, V * small)
    columns = min((W * side - seen[1] - GAP) // LENS, W) if wide and side < TINY else 0  # of the larger part; 0: none
    lens = (H * LENS * (columns > 0), columns * LENS)
    if wide:
        below, apart = max(seen[0], lens[0]), (columns > 0) * (GAP + lens[1])
        left = MARGIN + (world[1] - seen[1] - apart) // 2
        lens_at = (MARGIN + world[0] + GAP + (below - lens[0]) // 2, left)
        seen_at = (MARGIN + world[0] + GAP + (below - seen[0]) // 2, left + apart)
        height, width = world[0] + GAP + below, max(world[1], seen[1])
    else:
        seen_at = (MARGIN + max(world[0] - seen[0], 0) // 2, MARGIN + world[1] + GAP)
        height, width = max(world[0], seen[0]), world[1] + GAP + seen[1]
    blank = _card(height + 2 * MARGIN + GAP // 2 + BAR, width + 2 * MARGIN)
    frames = np.repeat(blank[None], len(grid), 0)
    for frame, *one in zip(frames, grid, cell.tolist(), direction.tolist(), visible, view, elapsed.tolist(), marks):
        codes, place, facing, lit, image, share, mark = one
        picture = _tiles(codes, lit, mark, side)
        _put_agent(picture, *divmod(place, W), facing, side)
        frame[MARGIN : MARGIN + world[0], MARGIN : MARGIN + world[1]] = picture
        if columns:
            y, x = divmod(place, W)
            start = min(max(x - columns // 2, 0), W - columns)
            part = slice(None), slice(start, start + columns)
            picture = _tiles(codes[part], lit[part], mark[part], LENS)
            _put_agent(picture, y, x - start, facing, LENS)
            frame[lens_at[0] : lens_at[0] + lens[0], lens_at[1] : lens_at[1] + lens[1]] = picture
        ours = image.astype(np.int64) @ (1, 1 << 8, 1 << 16)
        picture = _tiles(ours.T, ours.T != 0, np.zeros_like(ours), small)
        if image[V // 2, V - 1, 0] in (OBJECTS.index("empty"), OBJECTS.index("agent")):  # the twin's shows its direction there
            _put_agent(picture, V - 1, V // 2, 3, small)
        frame[seen_at[0] : seen_at[0] + seen[0], seen_at[1] : seen_at[1] + seen[1]] = picture
        _clock(frame, share)
    return frames


def _tiles(codes: np.ndarray, lit: np.ndarray, marks: np.ndarray, side: int) -> np.ndarray:
    """(h, w) cells, whether lit, marks -> (h * side, w * side, 3) uint8."""
    keys, index = np.unique((codes & 0xFFFFFF) * 8 + marks * 2 + lit, return_inverse=True)
    atlas = np.stack([_tile(key >> 3, key >> 1 & 3, bool(key & 1), side) for key in keys.tolist()])
    tiled = atlas[index.reshape(codes.shape)]
    return tiled.swapaxes(1, 2).reshape(codes.shape[0] * side, codes.shape[1] * side, 3)


@lru_cache(maxsize=4096)
def _tile(code: int, mark: int, lit: bool, side: int) -> np.ndarray:
    """(side, side, 3) uint8: one cell."""
    object, colour, state = code & 255, PALETTE[code >> 8 & 255], code >> 16 & 255
    name = OBJECTS[object]
    if name == "unseen":
        return np.full((side, side, 3), _rgb(SHADE) * 255 + 0.5).astype(np.uint8)
    ink = _Ink(side)
    ink.paint(ink.box(0, 0, 1, 1), LINE)
    ink.paint(ink.box(0.02, 0.02, 0.98, 0.98, 0.1), (FLOOR, GOOD_FLOOR, BAD_FLOOR)[mark])
    if mark == RIGHT:
        ink.paint(np.abs(ink.disc(0.5, 0.5, 0.2)) - 0.045, GOOD)
    elif mark == WRONG:
        ink.paint(ink.line(0.33, 0.33, 0.67, 0.67, 0.05), BAD)
        ink.paint(ink.line(0.33, 0.67, 0.67, 0.33, 0.05), BAD)
    if name == "wall":
        ink.paint(ink.box(-1, -1, 2, 2), WALL)
        ink.paint(ink.box(0.07, 0.07, 0.93, 0.93, 0.12), "ffffff", 0.05)
    elif name == "floor":
        ink.paint(ink.box(0.06, 0.06, 0.94, 0.94, 0.1), colour, 0.35)
    elif name == "goal":
        ink.paint(ink.box(0.02, 0.02, 0.98, 0.98, 0.1), GOOD_FLOOR)
        ink.paint(np.abs(ink.disc(0.5, 0.5, 0.24)) - 0.05, GOOD)
        ink.paint(ink.disc(0.5, 0.5, 0.09), GOOD)
    elif name == "lava":
        ink.paint(ink.box(0.02, 0.02, 0.98, 0.98, 0.1), "f9734a")
        for y in (0.3, 0.52, 0.74):
            ink.paint(np.abs(ink.y - y - 0.05 * np.sin(ink.x * 4 * np.pi)) - 0.025, "ffd9b0")
    elif object == DOOR:
        _door(ink, colour, state)
    elif object == KEY:
        ink.paint(np.abs(ink.disc(0.5, 0.3, 0.13)) - 0.05, colour)
        ink.paint(ink.line(0.5, 0.44, 0.5, 0.84, 0.05), colour)
        for y in (0.66, 0.82):
            ink.paint(ink.line(0.5, y, 0.66, y, 0.045), colour)
    elif object == BALL:
        ink.paint(ink.disc(0.5, 0.5, 0.3), colour)
        ink.paint(ink.disc(0.41, 0.4, 0.08), "ffffff", 0.55)
    elif object == BOX:
        ink.paint(ink.box(0.18, 0.18, 0.82, 0.82, 0.08), colour)
        ink.paint(ink.box(0.27, 0.27, 0.73, 0.73, 0.03), "ffffff", 0.75)
        ink.paint(ink.box(0.18, 0.46, 0.82, 0.54), colour)
    if lit:
        ink.image *= 1 - 0.28 * (1 - _rgb(LIGHT)) if name == "wall" else _rgb(LIGHT)
    else:
        ink.paint(ink.box(-1, -1, 2, 2), SHADE, 0.3 if name != "wall" else 0.0)
    return (ink.image * 255 + 0.5).astype(np.uint8)


def _door(ink: _Ink, colour: str, state: int) -> None:
    if state == OPEN:
        ink.paint(np.abs(ink.box(0.06, 0.06, 0.94, 0.94, 0.08)) - 0.035, colour)
        ink.paint(ink.box(0.06, 0.06, 0.2, 0.94, 0.04), colour)
        return
    ink.paint(ink.box(0.04, 0.04, 0.96, 0.96, 0.1), colour)
    ink.paint(ink.box(0.14, 0.14, 0.86, 0.86, 0.06), "ffffff", 0.3 if state == CLOSED else 0.12)
    if state == LOCKED:
        ink.paint(ink.disc(0.5, 0.43, 0.11), WALL)
        ink.paint(ink.line(0.5, 0.45, 0.5, 0.68, 0.05), WALL)
    else:
        ink.paint(ink.disc(0.74, 0.5, 0.065), WALL)


def _put_agent(picture: np.ndarray, y: int, x: int, direction: int, side: int) -> None:
    area = picture[y * side : (y + 1) * side, x * side : (x + 1) * side]
    colour, cover = _arrow(direction, side)
    area[:] = (area + cover * (colour - area) + 0.5).astype(np.uint8)


@lru_cache(maxsize=256)
def _arrow(direction: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The agent's tile: colours (side, side, 3) in 0 ... 255, and how much they cover (side, side, 1)."""
    inks = []
    for grow in (0.05, 0.0):
        ink = _Ink(side)
        x, y = ink.x - 0.5, ink.y - 0.5
        for _ in range(direction):
            x, y = y, -x
        tip, back = 0.32, 0.26
        edge = ((tip - x) * -0.5 + np.abs(y) * 0.95) / np.hypot(0.5, 0.95)
        notch = (-back + 0.12 - x) / np.hypot(1, 0.5) - np.abs(y) * 0.42
        shape = np.maximum(np.maximum(edge, notch), np.abs(x) - 0.34) - 0.03 - grow
        inks.append(np.clip(0.5 - shape * side, 0, 1)[..., None])
    halo, body = inks
    colour = (_rgb(CARD) + body * (_rgb(AGENT) - _rgb(CARD))) * 255
    return colour, halo


@lru_cache(maxsize=8)
def _card(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8, both made even: page, card and the empty clock."""
    height, width = height + height % 2, width + width % 2
    ink = _Ink(height, width)
    ink.paint(ink.box(8, 10, width - 8, height - 6, 16), WALL, 0.06)
    ink.paint(ink.box(8, 8, width - 8, height - 8, 16), CARD)
    ink.paint(ink.box(MARGIN, height - MARGIN - BAR, width - MARGIN, height - MARGIN, BAR / 2), FLOOR)
    return (ink.image * 255 + 0.5).astype(np.uint8)


def _clock(frame: np.ndarray, share: float) -> None:
    height, width = frame.shape[:2]
    length = round((width - 2 * MARGIN) * min(share, 1.0))
    if length:
        length = max(length, BAR)  # a dot at least
        area = frame[height - MARGIN - BAR : height - MARGIN, MARGIN : MARGIN + length]
        cover = np.clip(0.5 - _Ink(BAR, length).box(0, 0, length, BAR, BAR / 2), 0, 1)[..., None]
        area[:] = area + cover * (_rgb(AGENT) * 255 - area)


class _Ink:
    """A canvas of `height` x `width` pixels, or of one unit square with `side` pixels a side; distances in its units."""

    def __init__(self, height: int, width: int | None = None) -> None:
        unit = width is None
        width = height if width is None else width
        self.image = np.broadcast_to(_rgb(PAGE), (height, width, 3)).astype(np.float64)
        self.scale = height if unit else 1
        self.y, self.x = (np.mgrid[:height, :width] + 0.5) / self.scale

    def paint(self, distance: np.ndarray, colour: str, alpha: float = 1.0) -> None:
        cover = (np.clip(0.5 - distance * self.scale, 0, 1) * alpha)[..., None]
        self.image += cover * (_rgb(colour) - self.image)

    def box(self, x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> np.ndarray:
        dx = np.abs(self.x - (x0 + x1) / 2) - (x1 - x0) / 2 + corner
        dy = np.abs(self.y - (y0 + y1) / 2) - (y1 - y0) / 2 + corner
        return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner

    def disc(self, x: float, y: float, radius: float) -> np.ndarray:
        return np.hypot(self.x - x, self.y - y) - radius

    def line(self, x0: float, y0: float, x1: float, y1: float, radius: float) -> np.ndarray:
        dx, dy = x1 - x0, y1 - y0
        s = np.clip(((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        return np.hypot(self.x - x0 - s * dx, self.y - y0 - s * dy) - radius


@cache
def _rgb(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
