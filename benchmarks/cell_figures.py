"""The figures of docs/cells: where the gates of every cell start, from the cells themselves.

    python benchmarks/cell_figures.py [--write docs/cells/figures] [--only ur,chrono]

`keep` is the share of a unit's memory that is left after a row of zero input, at initialisation. Curves show the units of
one core in order of their keep, so a curve is the quantile function of its distribution. Chrono rows and Gaussian time
gates are told a horizon of 500 steps.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch

from memory_cells import make_core, unroll
from memory_cells.cells import Cell
from memory_cells.inits import Constant
from memory_cells.scan import LinearCell
from memory_cells.squash import KAF

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "cells" / "figures"
HORIZON, HIDDEN, INPUT, SEED = 500.0, 512, 8, 1
#: readable on white and on black
GREY, COLOURS = "#7d8590", ("#3b82f6", "#ef7d1a", "#12a37a", "#d946a6", "#8b6cf0", "#c08a00", "#e5484d", "#0ea5b7")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def core_of(name: str) -> Cell:
    torch.manual_seed(SEED)
    return make_core(name, INPUT, HIDDEN, horizon=HORIZON).eval()


def keep(core: Cell) -> torch.Tensor:
    """(H,): keep of every unit at zero input, in the state an episode starts from.

    In a linear recurrence the modulus of its decay; else where output and memory are one state behind a gate what the
    gate says; else the derivative of a unit's new memory by its old one. A cell without a gate or a second state is asked
    for that with 0.1 in every unit, for a ReLU has no derivative at 0.
    """
    x, first, start = torch.zeros(1, 1, core.input_size), torch.zeros(1, 1, dtype=torch.bool), core.initial_state(1)
    if isinstance(core, LinearCell):
        with torch.no_grad():
            return core.recurrence(core.project(x))[0].abs().flatten()
    if core.recurrent_output == core.memory:
        if hasattr(core, "gate"):
            with torch.no_grad():
                return unroll(core, x, first, start, record=["keep"])[2]["keep"][0, 0]
        start = tuple(s + 0.1 for s in start)
    at = core.state_names.index(core.memory)

    def memory(value):
        return unroll(core, x, first, (*start[:at], value, *start[at + 1 :]), path="loop")[1][at][0]

    return torch.autograd.functional.jacobian(memory, start[at])[:, 0].diagonal()


def quantiles(name: str) -> np.ndarray:
    """(121,) of keep over the units of one core."""
    return keep(core_of(name)).detach().double().quantile(torch.linspace(0, 1, 121, dtype=torch.double)).numpy()


# -- drawing


def bare(width: float = 7.2, height: float = 3.8, panels: int = 1):
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "gatemaze", "font.family": "sans-serif",
                         "font.size": 9.5})  # fmt: skip
    figure, axes = plt.subplots(1, panels, figsize=(width, height), squeeze=False, layout="constrained")
    figure.patch.set_alpha(0)
    for axis in axes[0]:
        axis.patch.set_alpha(0)
        axis.tick_params(colors=GREY, which="both", length=3)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(GREY)
        axis.grid(True, color=GREY, alpha=0.22, linewidth=0.6)
    return figure, list(axes[0])


def label(axis, x: str, y: str, title: str = "") -> None:
    axis.set_xlabel(x, color=GREY)
    axis.set_ylabel(y, color=GREY)
    axis.set_title(title, color=GREY, fontsize=9.5, loc="left")


def curves(axis, lines: dict[str, np.ndarray]) -> None:
    """keep over the share of units, on the scale of its logit, with the forgetting time on the right."""
    low, high = (float(np.log(p / (1 - p))) for p in (TICKS[0], TICKS[-1]))
    for k, (name, values) in enumerate(lines.items()):
        many = k // 8 if len(lines) > 8 else k % 3
        p = np.clip(values, 1e-9, 1 - 1e-9)
        y = np.clip(np.log(p / (1 - p)), low - 0.4, high + 0.4)
        axis.plot(np.linspace(0, 1, len(y)), y, color=COLOURS[k % 8], linewidth=1.8, label=name, linestyle=DASHES[many])
    places = [float(np.log(p / (1 - p))) for p in TICKS]
    axis.set_ylim(low - 0.5, high + 0.5)
    axis.set_xlim(0, 1)
    axis.set_yticks(places, [f"{p:g}" for p in TICKS])
    right = axis.secondary_yaxis("right")
    right.set_yticks(places[3:], [f"{1 / (1 - p):.0f}" for p in TICKS[3:]])
    right.tick_params(colors=GREY, length=3)
    right.spines["right"].set_visible(False)
    right.set_ylabel("steps until forgotten, 1 / (1 - keep)", color=GREY)
    label(axis, "share of the units", "keep")
    legend(axis)


def legend(axis, outside: bool = True) -> None:
    where = {"loc": "center left", "bbox_to_anchor": (1.22, 0.5)} if outside else {"loc": "best", "fontsize": 8}
    axis.legend(frameon=False, labelcolor=GREY, handlelength=2.6, **where)


def of(*names: str) -> Callable:
    def draw():
        figure, (axis,) = bare()
        curves(axis, {name: quantiles(name) for name in names})
        return figure

    return draw


def kaf():
    """The gate's function, and keep of the rows."""
    figure, (left, right) = bare(10, panels=2)
    s = torch.linspace(-9, 9, 200)
    squash = KAF(1, Constant(1.0).reach(1))
    with torch.no_grad():
        left.plot(s, torch.sigmoid(s), color=GREY, linewidth=4, alpha=0.4, label="logistic")
        left.plot(s, squash(s.unsqueeze(-1))[:, 0], color=COLOURS[0], linewidth=1.8, label="KAF at the start")
        torch.manual_seed(4)
        squash.alpha.add_(0.6 * torch.randn_like(squash.alpha))
        left.plot(s, squash(s.unsqueeze(-1))[:, 0], color=COLOURS[1], linewidth=1.5, linestyle=DASHES[1],
                  label="after random changes of alpha")  # fmt: skip
    left.plot(squash.points, [0] * len(squash.points), "|", color=GREY, label="dictionary")
    legend(left, outside=False)
    left.set_ylim(-0.03, 1.5)
    left.set_yticks([0, 0.25, 0.5, 0.75, 1])
    label(left, "pre-activation s", "gate")
    curves(right, {name: quantiles(name) for name in
                   ("kaf-lstm", "kaf-chrono-lstm", "kaf-u-lstm", "kaf-ur-lstm", "kaf-gru", "kaf-ur-gru")})  # fmt: skip
    return figure


def time_gates():
    """Openness of the units over an episode: those of the g-LSTM by their mu, those of the Phased LSTM by their period."""
    figure, axes = bare(10, panels=2)
    t = torch.arange(1.0, HORIZON + 1).unsqueeze(-1)
    for axis, name, by, title in ((axes[0], "g-lstm", "mu", "g-lstm: one opening, units by mu"),
                                  (axes[1], "phased-lstm", "period", "phased-lstm: units by period")):  # fmt: skip
        core = core_of(name)
        with torch.no_grad():
            k = core.open(t)[:, getattr(core.openness, by).argsort()].numpy()
        shown = k[::4].T[::8] if name == "g-lstm" else k.reshape(250, 2, HIDDEN).max(1).T[::4]
        rgba = np.zeros((*shown.shape, 4))
        rgba[..., :3], rgba[..., 3] = matplotlib.colors.to_rgb(COLOURS[0]), shown
        axis.imshow(rgba, origin="lower", aspect="auto", extent=(0, HORIZON, 0, 1), interpolation="nearest")
        axis.grid(False)
        label(axis, "row of the episode", "share of the units", title)
    return figure


def hdetach():
    """The gradient of the last output by the memory of the rows before, and keep of the rows."""
    figure, (left, right) = bare(10, panels=2)
    rows, batch = 60, 32
    for k, p in enumerate((0.0, 0.25, 0.5, 1.0)):
        torch.manual_seed(SEED)
        core = make_core("hdetach-lstm", INPUT, 64, p_detach=p)
        with torch.no_grad():
            core.inner.weight_h.mul_(2.5)  # a matrix as training may leave it, so that the path through h is loud
        x, state = torch.randn(rows, batch, INPUT), core.initial_state(batch)
        noise = core.draw(rows, batch)
        memories = []
        for t in range(rows):
            state = core.step((*(z[t] for z in core.project(x)), *(n[t] for n in noise)), state)
            memories.append(state[1])
        grads = torch.autograd.grad(state[0].sum(), memories)
        left.semilogy(range(rows - 1, -1, -1), [float(g.norm()) for g in grads], color=COLOURS[k], linewidth=1.8,
                      linestyle=DASHES[k % 3], label=f"p_detach {p:g}")  # fmt: skip
    legend(left, outside=False)
    left.minorticks_off()
    label(left, "rows before the last", "norm of the gradient by c")
    curves(right, {n: quantiles(n) for n in ("hdetach-lstm", "hdetach-chrono-lstm", "hdetach-ur-lstm", "hdetach-nru")})
    return figure


def plain(*names: str, span: tuple[float, float]) -> Callable:
    """For cells without a gate: a unit's derivative by itself may be negative or above 1, so the scale is linear."""

    def draw():
        figure, (axis,) = bare()
        for k, name in enumerate(names):
            values = quantiles(name)
            axis.plot(np.linspace(0, 1, len(values)), values, color=COLOURS[k], linewidth=1.8, label=name,
                      linestyle=DASHES[k % 3])  # fmt: skip
        axis.set_xlim(0, 1)
        axis.set_ylim(*span)
        label(axis, "share of the units", "derivative of a unit of the memory by itself")
        legend(axis)
        return figure

    return draw


FIGURES = {
    "lstm-and-gru": of("lstm", "lstm-torch", "tied-lstm", "gru", "tied-gru"),
    "ur-lstm": of("u-lstm", "r-lstm", "cr-lstm", "ur-lstm", "o-lstm", "or-lstm", "om-lstm", "um-lstm", "cm-lstm"),
    "ur-gru": of("u-gru", "r-gru", "cr-gru", "ur-gru", "o-gru", "or-gru", "om-gru", "um-gru"),
    "chrono": of("chrono-lstm", "c-lstm", "heavy-chrono-lstm", "chrono-gru", "heavy-chrono-gru",
                 "chrono-gated-rnn", "chrono-leaky-rnn", "gated-rnn", "leaky-rnn"),
    "nru": plain("nru", "nru-relu", span=(0.9, 1.1)),
    "time-gates": time_gates,
    "kaf": kaf,
    "hdetach": hdetach,
    "baselines-gated": of("janet", "chrono-janet", "zoneout-lstm", "g2-lstm", "noisy-lstm", "on-lstm", "goru", "rhn"),
    "baselines-plain": plain("elman", "irnn", "orth-rnn", "indrnn", "sru", span=(-1.05, 1.05)),
    "linear": of("mingru", "minlstm", "lru", "ffm"),
}  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, default=FOLDER)
    parser.add_argument("--only", default=",".join(FIGURES))
    parser.add_argument("--png", action="store_true", help="PNGs on white and on black beside the SVGs, for a look")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.only.split(",")) - FIGURES.keys()):
        parser.error(f"unknown figure {unknown[0]!r}; known: {', '.join(FIGURES)}")
    options.write.mkdir(parents=True, exist_ok=True)
    matplotlib.use("svg")
    for name in options.only.split(","):
        figure, path = FIGURES[name](), options.write / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        path.write_text(re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.2f}", path.read_text()))
        if options.png:
            figure.patch.set_alpha(1)
            for ground in ("white", "#0d1117"):
                figure.savefig(path.with_suffix(f".{ground.strip('#')}.png"), facecolor=ground, dpi=110)
        plt.close(figure)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
