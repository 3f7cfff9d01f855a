"""The figures of a comparison, drawn from its tables (agents/tables.py); each as PNG and SVG.

    lengths    success against length, a line a cell       ranking   cells by IQM, and against the baseline
    curves     success against steps, with bands           steps     steps to solve, censored runs at the budget
    scores     heat map of cell by task                    profiles  share of runs above each score
    lags       gradient of the state by lag                horizons  1 / (1 - keep) of the units
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from operator import itemgetter
from pathlib import Path

import numpy as np

from agents import statistics as st
from agents.plotting import (
    GREY,
    INK,
    Look,
    Row,
    absent,
    aside,
    chance_line,
    draw_interval,
    held,
    label_ends,
    or_nan,
    panels,
    save,
    single,
    style,
    tall,
    task_name,
)
from agents.progress import short
from agents.reach import QUANTILES

#: gradients below 10^FAINTEST are drawn there, horizons above ENDLESS there; a norm of TINY is none
FAINTEST, TINY, ENDLESS = -6, 1e-30, 1e6
#: tasks above which the heat map has a row for each of them
MANY_TASKS = 10
Task = tuple[str, int | None]


def draw_all(folder: Path, tables: dict[str, list[Row]], baseline: str) -> list[Path]:
    """Writes every figure that the tables have something for; returns the PNG files."""
    import matplotlib  # slow to import

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    summary, look = tables["summary"], Look(list(dict.fromkeys(row["cell"] for row in tables["summary"])))
    written = []
    for name, figure in (
        ("lengths", lambda: lengths(summary, look)),
        ("curves", lambda: curves(tables["curves"], summary, look)),
        ("scores", lambda: scores(summary, look)),
        ("ranking", lambda: ranking(tables["ranking"], baseline, look)),
        ("steps", lambda: steps(tables["results"], look)),
        ("profiles", lambda: profiles(tables["profiles"], summary, look)),
        ("lags", lambda: lags(tables["lags"], summary, look)),
        ("horizons", lambda: horizons(tables["horizons"], summary, look)),
    ):
        with style():
            made = figure()
            if made is not None:
                save(made, folder / name)
                written.append(folder / f"{name}.png")
    return written


# --- the figures ------------------------------------------------------------------------------------------------------


def lengths(summary: Sequence[Row], look: Look):
    """A panel for each series of tasks of which several lengths were tried; means over seeds with 95 % intervals."""
    series: dict[str, list[Row]] = {}
    for row in summary:
        if row["series"] is not None:
            series.setdefault(row["series"], []).append(row)
    series = {name: rows for name, rows in series.items() if len({row["length"] for row in rows}) > 1}
    if not series:
        return None
    figure, axes = panels(len(series), 5.2, tall(look))
    for axis, (name, rows) in zip(axes, series.items()):
        tried = sorted({row["length"] for row in rows})
        axis.set_xscale("symlog", linthresh=min(filter(None, tried)))  # a length may be 0
        axis.update_datalim([(length, 0) for length in tried])  # what is drawn aside does not tell
        ends = []
        for number, cell in enumerate(look.cells):
            own = sorted((row for row in rows if row["cell"] == cell), key=lambda row: row["length"])
            beside = aside(axis, number, len(look.cells))
            for row in own:
                if row["success_low"] is not None:
                    axis.plot([row["length"]] * 2, [row["success_low"], row["success_high"]], color=look.colour(cell),
                              alpha=0.45, transform=beside)  # fmt: skip
            y = [or_nan(row["success"]) for row in own]  # a gap where a run failed
            axis.plot([row["length"] for row in own], y, transform=beside, **look(cell))
            ends += [(cell, value) for value in y if not math.isnan(value)][-1:]
        chance_line(axis, rows)
        axis.set_xticks(tried, [str(n) for n in tried])
        axis.minorticks_off()
        axis.set(title=name, xlabel="length", ylim=(-0.03, 1.05))
        broken = {row["cell"]: " (failed runs)" for row in rows if row["failed"]}
        label_ends(axis, ends, look, broken)
    _label_left(axes, "greedy success, mean over seeds")
    return figure


def curves(rows: Sequence[Row], summary: Sequence[Row], look: Look):
    """A panel for each task: the mean over seeds and its pointwise 95 % band. A run that stopped early, for it had solved the
    task, stays at its last value."""
    if not rows:
        return None
    runs: dict[tuple, dict[str, dict[int, list[tuple[int, float]]]]] = {}
    for row in rows:
        cells = runs.setdefault((row["env"], row["length"]), {})
        cells.setdefault(row["cell"], {}).setdefault(row["seed"], []).append((row["step"], row["success"]))
    figure, axes = panels(len(runs), 5.2, tall(look))
    for axis, (task, cells) in zip(axes, runs.items()):
        of_task = _of_task(summary, task)
        at = [step for seeds in cells.values() for curve in seeds.values() for step, _ in curve]
        last, ends = max(at + [row["budget"] for row in of_task]), []  # the last update may go beyond the budget
        for cell in _whole(cells, of_task, look):
            seeds = list(cells[cell].values())
            grid = np.linspace(max(curve[0][0] for curve in seeds), last, 101)
            values = np.array([held(curve, grid) for curve in seeds])
            middle = values.mean(0)
            if look.bands and len(seeds) > 1:
                low, high = st.band(st.resample(values, np.repeat(st.draw((len(seeds), 1)), len(grid), 2)).mean(1))
                axis.fill_between(grid, low, high, color=look.colour(cell), alpha=0.09, linewidth=0)
            axis.plot(grid, middle, **look.sparse(cell))
            ends.append((cell, middle[-1]))
        chance_line(axis, of_task)
        missing = absent(of_task, {cell for cell, _ in ends})
        axis.set(title=task_name(*task), xlabel=f"environment steps{missing}", ylim=(-0.03, 1.05), xlim=(0, last))
        axis.xaxis.set_major_formatter(lambda value, _: short(value))
        label_ends(axis, ends, look)
    _label_left(axes, "greedy success")
    return figure


def scores(summary: Sequence[Row], look: Look):
    """Heat map of the mean normalised score: 0 without the ability under test, 1 at the optimum. A row for each cell, or where
    there are many tasks, for each task, so that the numbers can be read."""
    tasks = list(dict.fromkeys((row["env"], row["length"]) for row in summary))
    known = {(row["cell"], (row["env"], row["length"])): row for row in summary}
    values = np.array([[or_nan(known[cell, task]["score"]) for task in tasks] for cell in look.cells])
    if np.isnan(values).all():
        return None
    turned = len(tasks) > MANY_TASKS
    if turned:
        figure, axis = single(2.6 + 0.36 * len(look.cells), 1.5 + 0.26 * len(tasks))
        axis.set_xticks(range(len(look.cells)), look.cells, rotation=60, ha="left", rotation_mode="anchor")
        axis.set_yticks(range(len(tasks)), [task_name(*task) for task in tasks])
    else:
        figure, axis = single(2.8 + 1.15 * len(tasks), 1.3 + 0.34 * len(look.cells))
        axis.set_xticks(range(len(tasks)), [task_name(*task).replace(" ", "\n", 1) for task in tasks])
        axis.set_yticks(range(len(look.cells)), look.cells)
    shown = np.clip(values.T if turned else values, 0, 1)
    picture = axis.imshow(shown, vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
    for i, cell in enumerate(look.cells):
        for j, task in enumerate(tasks):
            text, value = ("failed" if known[cell, task]["failed"] else "-"), values[i, j]
            if not math.isnan(value):
                text = f"{round(value, 2) + 0.0:.2f}"  # no -0.00
            axis.text(*((i, j) if turned else (j, i)), text, ha="center", va="center", fontsize=8,
                      color="white" if value > 0.6 else INK)  # fmt: skip
    axis.tick_params(length=0, top=turned, labeltop=turned, bottom=False, labelbottom=not turned)
    axis.set_facecolor("#f0f0f0")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.set_title("normalised score, mean over seeds; colours from 0 to 1")
    figure.colorbar(picture, ax=axis, fraction=0.04, pad=0.02).outline.set_visible(False)
    return figure


def ranking(rows: Sequence[Row], baseline: str, look: Look):
    """Left: interquartile mean of the score over runs and tasks. Right: probability of improvement over the baseline; filled
    where the paired difference is significant at 5 % after Holm's correction."""
    ranked = rows[::-1]
    if all(row["iqm"] is None for row in ranked):
        return None
    from matplotlib import pyplot as plt

    against = any(row["improvement"] is not None for row in ranked)
    figure, axes = plt.subplots(1, 1 + against, figsize=(4.4 + 3.6 * against, 1.2 + 0.26 * len(ranked)), squeeze=False,
                                sharey=True, layout="constrained")  # fmt: skip
    for y, row in enumerate(ranked):
        colour = look.colour(row["cell"])
        if row["iqm"] is None:
            why = f"{row['failed']} of {row['runs']} runs failed" if row["failed"] else "some runs are still to be made"
            axes[0, 0].text(0.0, y, why, color=GREY, fontsize=8, va="center")
            continue
        draw_interval(axes[0, 0], row, "iqm", y, colour, True)
        if row["improvement"] is not None:
            draw_interval(axes[0, 1], row, "improvement", y, colour, row["p_holm"] is not None and row["p_holm"] < 0.05)
    axes[0, 0].set_yticks(range(len(ranked)), [row["cell"] for row in ranked])
    axes[0, 0].set_ylim(-0.6, len(ranked) - 0.4)
    axes[0, 0].set(title=f"IQM of the score, {ranked[0]['tasks']} tasks", xlim=(min(-0.03, axes[0, 0].get_xlim()[0]), 1.03))
    if against:
        axes[0, 1].axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes[0, 1].set(title=f"P(better score than {baseline})", xlabel="filled: p < 0.05 after Holm", xlim=(-0.03, 1.03))
    for axis in axes.flat:
        axis.grid(axis="y", visible=False)
    return figure


def steps(results: Sequence[Row], look: Look):
    """Every run's steps to solve; an open triangle at the budget has not solved within it."""
    ended = [row for row in results if row["steps"] is not None]
    tasks = list(dict.fromkeys((row["env"], row["length"]) for row in ended))
    if not tasks:
        return None
    figure, axes = panels(len(tasks), 3.6, _rows_high(look.cells))
    for axis, task in zip(axes, tasks):
        of_task = _of_task(ended, task)
        for y, cell in enumerate(look.cells[::-1]):
            runs = [row for row in of_task if row["cell"] == cell]
            for k, run in enumerate(runs):
                at, colour = y + 0.4 * ((k + 1) / (len(runs) + 1) - 0.5), look.colour(cell)
                if run["solved_at"] is None:
                    axis.plot(run["budget"], at, ">", markersize=5, color=colour, markerfacecolor="white", clip_on=False)
                else:
                    axis.plot(run["solved_at"], at, "o", markersize=4, color=colour)
        axis.set_yticks(range(len(look.cells)), look.cells[::-1], fontsize=8)
        axis.set(title=task_name(*task), xlabel="steps to solve; open: not solved", ylim=(-0.6, len(look.cells) - 0.4))
        axis.set_xlim(0, max(max(run["budget"], run["solved_at"] or 0) for run in of_task) * 1.02)
        axis.xaxis.set_major_formatter(lambda value, _: short(value))
    return figure


def profiles(rows: Sequence[Row], summary: Sequence[Row], look: Look):
    """Performance profiles with pointwise bands."""
    if not rows:
        return None
    figure, axis = single(6.8, tall(look))
    ends = []
    for cell in look.cells:
        own = [row for row in rows if row["cell"] == cell]
        if own:
            x = [row["threshold"] for row in own]
            if look.bands and own[0]["share_low"] is not None:
                axis.fill_between(x, [row["share_low"] for row in own], [row["share_high"] for row in own],
                                  color=look.colour(cell), alpha=0.1, linewidth=0)  # fmt: skip
            axis.plot(x, [row["share"] for row in own], **look.sparse(cell))
            at = 0.95  # nothing lies above 1, where every profile ends at 0
            ends.append((cell, next(row["share"] for row in own if row["threshold"] >= at)))
    missing = absent(summary, {cell for cell, _ in ends})
    axis.set(title="share of runs with a score above", xlabel=f"normalised score{missing}", xlim=(0, 1), ylim=(-0.03, 1.05))
    label_ends(axis, ends, look)
    return figure


def lags(rows: Sequence[Row], summary: Sequence[Row], look: Look):
    """A panel for each task: the gradient that reaches the state k rows back, relative to lag 0, geometric mean over runs; of
    the cells of which all runs are known."""
    if not rows:
        return None
    runs: dict[tuple, dict[str, dict[int, list[tuple[int, float]]]]] = {}
    of_run = itemgetter("env", "length", "cell", "seed")
    exploded = {of_run(row) for row in rows if not math.isfinite(or_nan(row["norm"]))}
    for row in rows:
        cells = runs.setdefault((row["env"], row["length"]), {})
        if of_run(row) not in exploded:
            cells.setdefault(row["cell"], {}).setdefault(row["seed"], []).append((row["lag"], row["norm"]))
    figure, axes = panels(len(runs), 5.2, tall(look))
    for axis, (task, cells) in zip(axes, runs.items()):
        of_task, ends, top = _of_task(summary, task), [], 0.0
        for cell in _whole(cells, of_task, look):
            curves = np.array(list(cells[cell].values()))  # (runs, lags, 2)
            lag, norm = curves[0, :, 0], np.clip(curves[:, :, 1] / np.maximum(curves[:, :1, 1], TINY), TINY, None)
            power = np.maximum(np.log10(norm).mean(0), FAINTEST)
            axis.plot(lag[1:], power[1:], **look.sparse(cell))
            ends.append((cell, power[-1]))
            top = max(top, math.ceil(power.max()))
        missing = absent(of_task, {cell for cell, _ in ends})
        axis.set(title=task_name(*task), xscale="log", xlabel=f"lag, rows{missing}", ylim=(FAINTEST - 0.2, top + 0.2))
        axis.set_xlim(1, max(row["lag"] for row in rows if (row["env"], row["length"]) == task))
        ticks = range(FAINTEST, int(top) + 1)
        axis.set_yticks(ticks, [f"$10^{{{power}}}$" for power in ticks])
        _memory_line(axis, of_task)
        label_ends(axis, ends, look)
    _label_left(axes, r"norm of d loss$_t$ / d state$_{t-k}$, lag 0: 1")
    return figure


def horizons(rows: Sequence[Row], summary: Sequence[Row], look: Look):
    """A panel for each task: effective horizons of the units, a bar a run: 90 % and half of the units, the median, and a tick
    at the longest."""
    tasks = list(dict.fromkeys((row["env"], row["length"]) for row in rows))
    if not tasks:
        return None
    cells = [cell for cell in look.cells if any(row["cell"] == cell for row in rows)][::-1]
    figure, axes = panels(len(tasks), 3.6, _rows_high(cells))
    for axis, task in zip(axes, tasks):
        for y, cell in enumerate(cells):
            runs = [row for row in _of_task(rows, task) if row["cell"] == cell]
            for k, run in enumerate(runs):
                at, colour = y + 0.6 * ((k + 1) / (len(runs) + 1) - 0.5), look.colour(cell)
                low, near, middle, far, high, longest = (np.clip(run[f"q{q:02}"], 1, ENDLESS) for q in QUANTILES)
                axis.plot([low, high], [at, at], color=colour, linewidth=1, alpha=0.5)
                axis.plot([near, far], [at, at], color=colour, linewidth=2.2, alpha=0.6)
                axis.plot(longest, at, "|", markersize=5, color=colour)
                axis.plot(middle, at, "o", markersize=4, color=colour, markeredgecolor="white", markeredgewidth=0.6, zorder=3)
        axis.set_yticks(range(len(cells)), cells, fontsize=8)
        axis.set(title=task_name(*task), xlabel="effective horizon, rows", xscale="log", ylim=(-0.6, len(cells) - 0.4))
        axis.grid(axis="y", visible=False)
        _memory_line(axis, _of_task(summary, task))
        axis.set_xlim(0.9, max(axis.get_xlim()[1], 12))  # so that two powers of ten are labelled, and nothing between
        axis.xaxis.set_minor_formatter("")
    return figure


def _rows_high(cells: Sequence[str]) -> float:
    """Height in inches of a panel with a row for each cell."""
    return 1.0 + 0.22 * len(cells)


def _of_task(rows: Sequence[Row], task: Task) -> list[Row]:
    return [row for row in rows if (row["env"], row["length"]) == task]


def _whole(cells: Mapping[str, Sized], of_task: Sequence[Row], look: Look) -> list[str]:
    """The cells of which all runs are there: no mean is drawn without the runs that failed."""
    runs = {row["cell"]: row["runs"] for row in of_task}
    return [cell for cell in look.cells if len(cells.get(cell, ())) == runs[cell]]


def _label_left(axes, text: str) -> None:
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(text)


def _memory_line(axis, of_task: Sequence[Row]) -> None:
    """A dotted line at the rows that the task has to be remembered for, where that is known and not 0."""
    if needed := of_task[0]["memory_length"]:
        axis.axvline(needed, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
