"""The figures of a diagnosis: gates, gradient by lag, memory probe, credit; one PNG each."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agents.diagnostics import FLOOR
from agents.plotting import COLOURS, GREY, panels, style
from agents.runlog import RunError

BLUE, ORANGE, GREEN = COLOURS[:3]
#: a horizon that is drawn at the edge of the figure if it is longer
ENDLESS = 1e6


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Writes one PNG into `folder` for every part that `report` has; the figures of parts it has not are removed, for they
    are of an older report. Raises RunError where the disk refuses."""
    drawn = []
    for name, fill in (("gates", _gates), ("gradient", _gradient), ("probe", _probe), ("credit", _credit)):
        path = folder / f"{name}.png"
        try:
            if not report[name]:
                path.unlink(missing_ok=True)
                continue
            _save(path, fill, report)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error
        drawn.append(path)
    return drawn


def _save(path: Path, fill: Callable, report: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    with style():
        figure, axes = panels(2, 5, 3.8)
        fill(axes, report)
        for axis in axes:
            if axis.get_xscale() == "linear":  # rows, steps, actions
                axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.savefig(path, dpi=120)
        plt.close(figure)


def _mark(ax, at: float | None, text: str) -> None:
    """A dotted line at x = at, if there is such a thing, for the legend."""
    if at is not None:
        ax.axvline(at, color=GREY, linewidth=1.2, linestyle=":", label=text)


def _legend(ax, **place: Any) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False, **place)


def _gates(axes, report: dict[str, Any]) -> None:
    gates, m = report["gates"], report["memory_length"]
    units = np.clip(gates["horizon_of_unit"], 1, ENDLESS)
    ax = axes[0]
    ax.hist(units, bins=np.geomspace(1, max(units.max() * 1.1, 10, (m or 0) * 1.2), 30), color=BLUE, alpha=0.85)
    ax.set(xscale="log", xlabel="effective horizon 1 / (1 - mean keep), rows", ylabel="units",
           title=f"Horizon of the {len(units)} units")  # fmt: skip
    _mark(ax, m or None, f"memory needed: {m}")
    _legend(ax)
    ax, by = axes[1], gates["by_row"]
    row = np.arange(len(by["keep_mean"]))
    low, middle, high = (np.clip(by[f"horizon_q{q}"], 1, ENDLESS) for q in ("05", "50", "95"))
    ax.fill_between(row, low, high, color=BLUE, alpha=0.15, linewidth=0, label="horizon, 90 % of the units")
    ax.plot(row, middle, color=BLUE, label="horizon, median")
    ax.set(yscale="log", xlabel="row of the episode", ylabel="rows", title="Over an episode")
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    right.plot(row, by["keep_mean"], color=ORANGE, linewidth=1.2, label="mean keep")
    right.plot(row, by["write_mean"], color=GREEN, linewidth=1.2, label="mean write")
    right.set(ylim=(0, 1), ylabel="gate")
    handles = [h for a in (ax, right) for h in a.get_legend_handles_labels()[0]]
    _legend(ax, handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _gradient(axes, report: dict[str, Any]) -> None:
    found = report["gradient"]
    most, largest = max(map(len, found["norm"].values())) - 1, max(map(max, found["norm"].values()))
    for ax, scale in zip(axes, ("linear", "log"), strict=True):
        for colour, (name, norm) in zip(COLOURS, list(found["norm"].items())[: len(COLOURS)]):
            lag, norm = np.arange(len(norm)), np.asarray(norm)
            seen = (norm > FLOOR) & (lag >= (scale == "log"))
            length = found["decay_length"][name]
            label = "does not decay" if math.isinf(length) else f"decays over {length:.3g} rows" if length else "goes nowhere"
            ax.plot(lag[seen], norm[seen], color=colour, label=f"{name}: {label}", marker="." if seen.sum() < 3 else None)
            tail = seen & (lag > 0)
            if length > 0 and tail.sum() > 1:  # through the middle of the curve, as a median fit goes
                level = np.median(np.log(norm[tail]) + lag[tail] / length)
                ax.plot(lag[1:], np.exp(level - lag[1:] / length), color=colour, linewidth=1, linestyle="--", alpha=0.7)
        ax.set(yscale="log", xscale=scale, xlabel="lag k, rows", title=f"Gradient by lag ({scale} axis)")
        ax.set_ylabel(r"norm of d loss$_t$ / d state$_{t-k}$")
        ax.set_xlim(0.9 if scale == "log" else -0.5, 1.05 * most)
        ax.set_ylim(bottom=max(ax.get_ylim()[0], 1e-12 * largest))
        _mark(ax, report["unroll_length"], f"rollout: {report['unroll_length']}")
    _legend(axes[0], loc="upper right")


def _probe(axes, report: dict[str, Any]) -> None:
    m = report["memory_length"]
    for colour, (name, found) in zip(COLOURS, list(report["probe"].items())[: len(COLOURS)]):
        step = found["step"]
        axes[0].fill_between(step, found["low"], found["high"], color=colour, alpha=0.15, linewidth=0)
        axes[0].plot(step, found["accuracy"], color=colour, label=name, marker="." if len(step) < 30 else None)
        axes[0].plot(step, found["chance"], color=colour, linewidth=1, linestyle="--")
        axes[1].plot(step, found["episodes"], color=colour, label=name)
    axes[0].set(ylim=(-0.02, 1.04), xlabel="steps since the cue's first row", ylabel="accuracy, 95 % interval",
                title="A linear probe reads the cue (dashed: chance)")  # fmt: skip
    axes[1].set(xlabel="steps since the cue's first row", ylabel="episodes", title="Episodes it is measured on")
    axes[1].set_ylim(bottom=0)
    _mark(axes[0], m or None, f"memory needed: {m}")
    _legend(axes[0], loc="lower left")


def _credit(axes, report: dict[str, Any]) -> None:
    credit, c = report["credit"], report["credit_length"]
    by_end, by_row = credit["by_end"], credit["by_row"]
    before = np.arange(1, len(by_end["share"]) + 1)
    axes[0].bar(before, by_end["share"], width=1.0 if len(before) > 40 else 0.8, color=BLUE)
    axes[0].set(xlabel="actions before the end (1: the last)", ylabel="share of all |advantage|",
                title=f"Credit ({credit['total']:.2g} an episode)")  # fmt: skip
    axes[0].invert_xaxis()
    if c is not None:
        axes[0].axvspan(0.5, min(c, len(before)) + 0.5, color=ORANGE, alpha=0.12, linewidth=0, zorder=0,
                        label=f"credit length of the task: {c}")  # fmt: skip
        _legend(axes[0], loc="upper left")
    axes[1].plot(np.arange(len(by_row["value"])), by_row["value"], color=BLUE, label="value")
    axes[1].plot(np.arange(len(by_row["advantage"])), by_row["advantage"], color=ORANGE, label="|advantage|")
    axes[1].set(xlabel="row of the episode", title="Value and credit from the cue on")
    _legend(axes[1])
