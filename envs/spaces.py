"""Gymnasium spaces as the stream has them: one array of observations, one number for an action. All in numpy, for B
environments at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from envs.group import Leaf

MAX_ACTIONS, MAX_ONE_HOT, MAX_VECTOR = 1024, 4096, 65536
MINIGRID_VALUES = (11, 6, 4)  # codes of MiniGrid's object types, colours and states (the agent's: 4 directions)
MINIGRID_SIDE = 25  # cells of its widest grid; pictures are wider


@dataclass(frozen=True)
class Layout:
    """kind, shape, dtype, values: as `envs.env.Stream` has them with the prefix obs_. encode: arrays of the leaves, each
    (B, ...) -> a new array (B, *shape); raises ValueError for what the layout has no place for. used: the leaves' numbers."""

    kind: str
    shape: tuple[int, ...]
    dtype: type
    values: tuple[int, ...] | None
    encode: Callable[[Sequence[np.ndarray]], np.ndarray]
    used: tuple[int, ...]


def observation_layout(leaves: Sequence[Leaf], kind: str = "auto", direction: bool = True) -> Layout:
    """How observations with these leaves are shown to an agent.

    Args:
        kind: "vector": all leaves, flat, side by side: numbers as they are (uint8 divided by 255), discrete ones one-hot.
            "pixels": the picture. "symbols": a grid of MiniGrid's codes. "auto": symbols where there are MiniGrid's
            "image" and "direction", pixels where a uint8 array of 8 x 8 or more is all there is, else vector.
        direction: of "symbols": the agent's direction, if there is one, as a fourth code of every cell.

    Raises:
        ValueError: another kind, nothing there that can be shown so, or `direction` false without symbols.
    """
    if kind not in ("auto", "vector", "pixels", "symbols"):
        raise ValueError(f"observation must be auto, vector, pixels or symbols, got {kind!r}")
    names = {leaf.path[-1] if leaf.path else "": k for k, leaf in enumerate(leaves)}
    grid, compass = names.get("image"), names.get("direction")
    if grid is not None and not (_is_picture(leaves[grid]) and max(leaves[grid].space.shape) <= MINIGRID_SIDE):
        grid = None
    if compass is not None and not isinstance(leaves[compass].space, spaces.Discrete):
        compass = None
    pictures = [k for k, leaf in enumerate(leaves) if _is_picture(leaf)]
    if kind == "auto":
        large = bool(pictures) and min(sorted(leaves[pictures[0]].space.shape)[-2:]) >= 8
        kind = "symbols" if grid is not None and compass is not None else "vector"
        kind = "pixels" if kind == "vector" and len(leaves) == 1 and large else kind
    if kind == "symbols":
        if grid is None:
            raise ValueError("observation=symbols needs MiniGrid's observations, with a grid of codes named image")
        return _symbols(leaves, grid, compass if direction else None)
    if not direction:
        raise ValueError(f"direction=false is for MiniGrid's symbols, these observations are shown as {kind}")
    if kind == "pixels":
        if not pictures:
            raise ValueError("observation=pixels needs a picture: uint8 numbers of two or three dimensions")
        return _pixels(leaves, names.get("image", pictures[0]) if names.get("image") in pictures else pictures[0])
    return _vector(leaves)


def _is_picture(leaf: Leaf) -> bool:
    return isinstance(leaf.space, spaces.Box) and leaf.space.dtype == np.uint8 and len(leaf.space.shape) in (2, 3)


def _symbols(leaves: Sequence[Leaf], grid: int, compass: int | None) -> Layout:
    shape, values = leaves[grid].space.shape, MINIGRID_VALUES
    if len(shape) != 3 or shape[-1] != len(values):
        raise ValueError(f"observation=symbols needs a grid (h, w, {len(values)}), got {shape}")

    def encode(arrays: Sequence[np.ndarray]) -> np.ndarray:
        codes = arrays[grid]
        if not (codes.reshape(-1, len(values)).max(0) < values).all():
            raise ValueError(f"codes that MiniGrid does not have ({values} per channel); use observation=pixels or vector")
        if compass is None:
            return codes.copy()
        facing = arrays[compass].astype(np.uint8).reshape(-1, 1, 1, 1)
        return np.concatenate((codes, np.broadcast_to(facing, (*codes.shape[:-1], 1))), -1)

    if compass is None:
        return Layout("symbols", shape, np.uint8, values, encode, (grid,))
    values4 = (*values, int(leaves[compass].space.n))
    return Layout("symbols", (*shape[:-1], len(values4)), np.uint8, values4, encode, (grid, compass))


def _pixels(leaves: Sequence[Leaf], picture: int) -> Layout:
    """(h, w, c), whichever way round the environment has it."""
    shape = leaves[picture].space.shape
    if len(shape) == 2:
        add = lambda arrays: arrays[picture][..., None].copy()  # noqa: E731
        return Layout("pixels", (*shape, 1), np.uint8, None, add, (picture,))
    if shape[0] < shape[-1]:  # channels, such as stacked frames, come first
        move = lambda arrays: np.ascontiguousarray(np.moveaxis(arrays[picture], 1, -1))  # noqa: E731
        return Layout("pixels", (*shape[1:], shape[0]), np.uint8, None, move, (picture,))
    return Layout("pixels", shape, np.uint8, None, lambda arrays: arrays[picture].copy(), (picture,))


def _vector(leaves: Sequence[Leaf]) -> Layout:
    parts = [_numbers(leaf) for leaf in leaves]
    size = sum(width for width, _ in parts)
    if not 0 < size <= MAX_VECTOR:
        raise ValueError(f"observations of {size} numbers, expected 1 to {MAX_VECTOR}")

    def encode(arrays: Sequence[np.ndarray]) -> np.ndarray:
        out = np.empty((len(arrays[0]), size), np.float32)
        at = 0
        for (width, convert), array in zip(parts, arrays, strict=True):
            out[:, at : at + width] = convert(array.reshape(len(array), -1))
            at += width
        return out

    return Layout("vector", (size,), np.float32, None, encode, tuple(range(len(leaves))))


def _numbers(leaf: Leaf) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """How many numbers a leaf becomes, and how: (B, entries) -> (B, numbers)."""
    space = leaf.space
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        counts = np.atleast_1d(getattr(space, "n", None) or space.nvec).ravel()
        start = np.atleast_1d(space.start).ravel()
        if counts.sum() > MAX_ONE_HOT:
            raise ValueError(f"a discrete observation of {counts.sum()} values, more than {MAX_ONE_HOT}")
        base = np.cumsum(counts) - counts - start
        return int(counts.sum()), lambda array: _hot(array + base, int(counts.sum()))
    size = int(np.prod(space.shape))
    return size, (lambda array: array / np.float32(255)) if space.dtype == np.uint8 else lambda array: array


def _hot(places: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((len(places), size), np.float32)
    np.put_along_axis(out, places, 1, 1)
    return out


@dataclass(frozen=True)
class Actions:
    """decode: (B,) numbers 0..count-1 -> what the environments take, (B,) or (B, k) integers."""

    count: int
    names: tuple[str, ...]
    decode: Callable[[np.ndarray], np.ndarray]


def action_layout(space: spaces.Space, names: Sequence[str] = ()) -> Actions:
    """Discrete actions as they are; MultiDiscrete and MultiBinary ones as all their combinations.

    Raises ValueError for continuous or other actions, or more than MAX_ACTIONS.
    """
    if isinstance(space, spaces.Discrete):
        count, start = int(space.n), int(space.start)
        decode = lambda flat: flat + start  # noqa: E731
    elif isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)) and len(space.shape) == 1:
        binary = isinstance(space, spaces.MultiBinary)
        sizes = (2,) * space.shape[0] if binary else tuple(space.nvec.tolist())
        offset, count = 0 if binary else space.start, int(np.prod(sizes, dtype=object))
        decode = lambda flat: np.stack(np.unravel_index(flat, sizes), -1) + offset  # noqa: E731
    elif isinstance(space, spaces.Box):
        raise ValueError(f"continuous actions ({space}) are not supported; they must be Discrete or MultiDiscrete")
    else:
        raise ValueError(f"actions of the space {space} are not supported; they must be Discrete or MultiDiscrete")
    if count > MAX_ACTIONS:
        raise ValueError(f"{count} actions, more than {MAX_ACTIONS}")
    if len(names) != count:
        taken = decode(np.arange(count))
        names = [",".join(map(str, np.atleast_1d(action))) for action in taken]
    return Actions(count, tuple(names), decode)
