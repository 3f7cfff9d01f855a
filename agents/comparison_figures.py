"""The figures of a comparison, drawn from its tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agents import statistics as st

Row = dict[str, Any]
#: Okabe and Ito's palette, which colour-blind readers can tell apart, and marks for those who print in grey
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b", "#4d4d4d", "#bcbd22")
MARKS = "osD^vPX<>*"
STYLE = {
    "figure.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8a93a6",
    "axes.grid": True, "grid.color": "#e6eaf1", "axes.axisbelow": True, "font.size": 10, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False, "svg.hashsalt": "gatemaze",
    "svg.fonttype": "path",
}  # fmt: skip


@contextmanager
def sheet(path: Path, rows: int, columns: int, width: float, height: float) -> Iterator[np.ndarray]:
    """A grid of axes, written to `path` as PNG and SVG at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
        yield axes
        figure.savefig(path.with_suffix(".png"), dpi=150)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        plt.close(figure)


def draw(folder: Path, summary: Sequence[Row], overall: Sequence[Row], curves: Sequence[Row]) -> list[str]:
    """Every figure that the tables hold something for, into `folder`; their names, without the suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    looks = {row["cell"]: (COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]) for i, row in enumerate(overall)}
    made = []
    for name, figure in (("ranking", _ranking), ("heatmap", _heatmap), ("lengths", _lengths), ("curves", _curves)):
        if figure(folder / name, summary, overall, curves, looks):
            made.append(name)
    return made


def _ranking(path: Path, summary, overall, curves, looks) -> bool:
    known = [row for row in overall if row["iqm"] is not None]
    if not known:
        return False
    with sheet(path, 1, 1, 7, 0.9 + 0.32 * len(known)) as axes:
        ax = axes[0, 0]
        for at, row in enumerate(reversed(known)):
            colour, mark = looks[row["cell"]]
            ax.plot([row["iqm_low"], row["iqm_high"]], [at, at], color=colour, lw=5, alpha=0.35, solid_capstyle="round")
            ax.plot(row["iqm"], at, mark, color=colour, ms=7)
        ax.set_yticks(range(len(known)), [row["cell"] for row in reversed(known)])
        ax.axvline(0, color="#8a93a6", lw=1, ls=":")
        ax.axvline(1, color="#8a93a6", lw=1, ls=":")
        ax.set_xlabel("interquartile mean of the normalised score over all tasks, 95 % interval over seeds")
        ax.set_title("Ranking")
    return True


def _heatmap(path: Path, summary, overall, curves, looks) -> bool:
    tasks, cells = list(dict.fromkeys(r["task"] for r in summary)), [r["cell"] for r in overall]
    values = np.full((len(cells), len(tasks)), math.nan)
    for row in summary:
        if row["measure"] is not None:
            values[cells.index(row["cell"]), tasks.index(row["task"])] = row["measure"]
    if np.isnan(values).all():
        return False
    with sheet(path, 1, 1, 2.2 + 0.95 * len(tasks), 1.6 + 0.32 * len(cells)) as axes:
        ax = axes[0, 0]
        ax.grid(False)
        ax.imshow(np.clip(values, 0, 1), vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            text, dark = ("failed", False) if math.isnan(value) else (f"{value:.2f}", value > 0.6)
            ax.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else "#1f2a44")
        ax.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
        ax.set_yticks(range(len(cells)), cells)
        ax.set_title("Score of every cell on every task, mean over seeds")
    return True


def _lengths(path: Path, summary, overall, curves, looks) -> bool:
    envs: dict[str, list[Row]] = {}
    for row in summary:
        if row["length"] is not None and row["success"] is not None:
            envs.setdefault(row["env"], []).append(row)
    envs = {env: rows for env, rows in envs.items() if len({row["length"] for row in rows}) > 1}
    if not envs:
        return False
    with sheet(path, 1, len(envs), 1.5 + 4.8 * len(envs), 4) as axes:
        for ax, (env, rows) in zip(axes[0], envs.items(), strict=True):
            for cell, (colour, mark) in looks.items():
                own = sorted((r for r in rows if r["cell"] == cell), key=lambda r: r["length"])
                if not own:
                    continue
                x = [r["length"] for r in own]
                ax.fill_between(x, [r["success_low"] for r in own], [r["success_high"] for r in own], color=colour, alpha=0.12)
                ax.plot(x, [r["success"] for r in own], marker=mark, color=colour, ms=5, label=cell)
            ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="length", ylabel="greedy success", title=env)
            ticks = sorted({r["length"] for r in rows})
            ax.set_xticks(ticks, [str(n) for n in ticks])
            ax.minorticks_off()
        axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return True


def _curves(path: Path, summary, overall, curves, looks) -> bool:
    tasks = list(dict.fromkeys(row["task"] for row in curves))
    if not tasks:
        return False
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    with sheet(path, lines, columns, 1.6 + 4.2 * columns, 3.2 * lines) as axes:
        for ax in axes.flat[len(tasks) :]:
            ax.set_axis_off()
        for ax, task in zip(axes.flat, tasks, strict=False):
            for cell, (colour, _) in looks.items():
                runs: dict[int, list[tuple[int, float]]] = {}
                for row in curves:
                    if (row["task"], row["cell"]) == (task, cell):
                        runs.setdefault(row["seed"], []).append((row["step"], row["success"]))
                if runs:
                    x, mean, low, high = _band(list(runs.values()))
                    ax.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
                    ax.plot(x, mean, color=colour, lw=1.6, label=cell)
            ax.set(ylim=(-0.03, 1.03), title=task, xlabel="environment steps", ylabel="greedy success")
            ax.xaxis.set_major_formatter(lambda v, _: f"{v / 1e6:g}M" if v >= 1e6 else f"{v / 1e3:g}k")
        handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
        axes[0, columns - 1].legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.01, 0.5))
    return True


def _band(runs: Sequence[Sequence[tuple[int, float]]]):
    """Steps, and the mean over runs with its interval; a run that ended keeps its last value (it stopped since it had solved,
    or at its budget)."""
    x = np.array(sorted({step for run in runs for step, _ in run}))
    held = []
    for run in runs:
        steps, values = np.array(run).T
        held.append(values[np.clip(np.searchsorted(steps, x, side="right") - 1, 0, None)])
    matrix = np.array(held)
    whole_runs = st.draw((len(matrix), 1), resamples=500)
    low, high = st.band(st.resample(matrix, whole_runs).mean(1))
    return x, matrix.mean(0), low, high
