"""Parts of the figures: the look of cells, panels, labels at the ends of lines.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; every eight cells they begin again, with other
dashes and marks.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
STYLES = ("-", (0, (3, 1.3)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
MARKS = ("o", "s", "^", "D")
CONTROL = "memoryless"
#: cells above which bands would hide one another, and are not drawn
FEW = 9
#: width in inches of the panels that stand side by side: more, and the page shows their words too small
PAGE = 11.0
INK, GREY, LIGHT = "#222222", "#6b6b6b", "#e6e6e6"


class Look:
    """The colour, line and mark of every cell, the same in all figures."""

    def __init__(self, cells: Sequence[str]) -> None:
        self.cells = list(cells)
        self.bands = len(cells) <= FEW
        self._of = {CONTROL: (GREY, (0, (2, 1.5)), "x")}
        for i, cell in enumerate(cell for cell in cells if cell != CONTROL):
            turn = i // len(COLOURS) % len(STYLES)
            self._of[cell] = COLOURS[i % len(COLOURS)], STYLES[turn], MARKS[turn]

    def __call__(self, cell: str) -> dict[str, Any]:
        return dict(zip(("color", "linestyle", "marker"), self._of[cell])) | {"markersize": 3.5}

    def sparse(self, cell: str) -> dict[str, Any]:
        """The same with few marks, at other places than those of other cells; for lines of many points."""
        return self(cell) | {"markevery": (0.2 * (self.cells.index(cell) * 0.618 % 1), 0.2)}

    def colour(self, cell: str) -> str:
        return self(cell)["color"]


@contextmanager
def style() -> Iterator[None]:
    from matplotlib import pyplot as plt

    with plt.rc_context({
        "figure.facecolor": "white", "axes.facecolor": "white", "axes.edgecolor": "#9a9a9a", "axes.grid": True,
        "grid.color": LIGHT, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
        "axes.titlesize": 10, "axes.titleweight": "bold", "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "xtick.color": "#444444", "ytick.color": "#444444", "lines.linewidth": 1.7, "svg.hashsalt": "gatemaze",
    }):  # fmt: skip
        yield


def panels(count: int, width: float, height: float):
    """A figure of so many panels, as many side by side as fit; width and height of one, in inches."""
    from matplotlib import pyplot as plt

    columns = min(count, max(int(PAGE / width), 1))
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def single(width: float, height: float):
    figure, (axis,) = panels(1, width, height)
    return figure, axis


def save(figure, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path.with_suffix(".png"), dpi=150)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def draw_interval(axis, row: Row, name: str, y: float, colour: str, filled: bool) -> None:
    if row[f"{name}_low"] is not None:
        axis.plot([row[f"{name}_low"], row[f"{name}_high"]], [y, y], color=colour, linewidth=2.2, alpha=0.5)
    axis.plot(row[name], y, marker="o", markersize=6, color=colour, markerfacecolor=colour if filled else "white")


def aside(axis, number: int, count: int):
    """The axis's coordinates for the `number`-th of `count` cells, moved sideways so that intervals do not hide each other:
    two points a cell, at most 6 to each side."""
    from matplotlib.transforms import ScaledTranslation

    points = (number - (count - 1) / 2) * min(2.0, 12 / max(count - 1, 1))
    return axis.transData + ScaledTranslation(points / 72, 0, axis.figure.dpi_scale_trans)


def chance_line(axis, rows: Sequence[Row]) -> None:
    """A dotted line at the success rate of the best memoryless policy, where all rows have the same."""
    levels = {row["chance"] for row in rows}
    if len(levels) == 1 and None not in levels:
        axis.axhline(levels.pop(), color=GREY, linewidth=0.8, linestyle=":", zorder=1)


def tall(look: Look) -> float:
    """Height in inches of a panel beside which the names of all cells fit."""
    return max(3.2, 0.8 + 0.14 * len(look.cells))


def label_ends(axis, ends: Sequence[tuple[str, float]], look: Look, note: Mapping[str, str] = {}) -> None:
    """Names at the right ends of the lines, each behind a piece of its line, pushed apart so that none covers another; `note`
    is put after a cell's name."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Affine2D, ScaledTranslation

    low, high = axis.get_ylim()
    rows = axis.get_subplotspec().get_gridspec().nrows
    gap = (high - low) * 0.19 / (axis.figure.get_figheight() / rows)  # a line of text, in the axis's units
    order = sorted(ends, key=lambda end: (end[1], -look.cells.index(end[0])))
    points = Affine2D().scale(1 / 72) + axis.figure.dpi_scale_trans
    for (cell, _), at in zip(order, apart([y for _, y in order], gap, low, high)):
        place = points + ScaledTranslation(1, at, axis.get_yaxis_transform())
        axis.add_artist(Line2D([6, 18, 30], [0, 0, 0], transform=place, clip_on=False, markevery=[1], **look(cell)))
        axis.text(34, 0, cell + note.get(cell, ""), transform=place, fontsize=7.5, va="center", color=INK)


def apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending values -> ascending ones at least `gap` apart, near them (least squares) and within [low, high]; the gap
    shrinks where they do not fit."""
    count = len(values)
    gap = min(gap, (high - low) / max(count - 1, 1))
    blocks: list[tuple[float, int]] = []  # sum of (value - its place in the block * gap), how many
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1:
            (s1, n1), (s2, n2) = blocks[-2:]
            if s2 / n2 - s1 / n1 >= gap * n1:
                break
            blocks[-2:] = [(s1 + s2 - n1 * n2 * gap, n1 + n2)]
    places = [s / n + k * gap for s, n in blocks for k in range(n)]
    return [max(min(at, high - (count - 1 - i) * gap), low + i * gap) for i, at in enumerate(places)]


def absent(rows: Sequence[Row], drawn: Collection[str]) -> str:
    """Lines for the label under an axis that name the cells which are not `drawn`: those with a failed run, and others. `rows`
    are of a table with the column `failed`."""
    failed = {row["cell"]: False for row in rows if row["cell"] not in drawn}
    failed |= {row["cell"]: True for row in rows if row["cell"] in failed and row["failed"]}
    text = ""
    for why, want in (("failed", True), ("not known", False)):
        if cells := [cell for cell in failed if failed[cell] == want]:
            text += "\n" + textwrap.fill(f"{why}: {', '.join(cells)}", 60)
    return text


def held(curve: Sequence[tuple[int, float]], grid: np.ndarray) -> np.ndarray:
    """A run's success rate at the steps of `grid`, from its first evaluation on: linear in between, then its last value."""
    at, value = zip(*curve)
    return np.interp(grid, at, value)


def task_name(env: str, length: int | None) -> str:
    return env if length is None else f"{env} {length}"


def or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
