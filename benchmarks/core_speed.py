"""The fused sequence path against torch.nn.LSTM, the eager hoisted loop and the bare matrix products, forward and backward.

    python benchmarks/core_speed.py [--cells lstm,ur-lstm,...] [--repeats 15] [--resets 0.05] [--no-heap]

Rows are interleaved (A B C A B C ...) and compared pair by pair; quoted are the median of the paired ratios and their
10 % and 90 % quantiles. nn.LSTM runs without resets, ours with them. The loop comes in two forms, its rows taken apart once
(ours) and by indexing (`z[t]`, as one writes it first). "Products" are the matrix products of the cell and no more, each made
by torch for all T x B rows at once, as if no row waited for another. Equality with the plain loop in float64, outputs and all
gradients, is checked in the same run, before anything is timed. Exit status 1 if it fails.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # what build.py sets

import numpy as np
import torch

from memory_cells import VARIANTS, make_core, unroll
from memory_cells.unroll import reset

SHAPES = [(64, 128, 128), (128, 64, 256), (64, 16, 128)]  # T, B, H
INPUT = 64


def keep_heap() -> None:
    """Lets glibc keep freed memory, so that no contender pays for page faults (M_MMAP_MAX, M_TRIM_THRESHOLD)."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)
    libc.mallopt(-1, 2**31 - 1)


def equal(core, x, first) -> float:
    """Largest deviation of the fused path from the plain loop in float64, relative to the largest entry, over outputs and
    gradients."""
    found = []
    for path, cell in (("loop", copy.deepcopy(core).double()), ("fused", core)):
        leaf = x.detach().to(next(cell.parameters()).dtype, copy=True).requires_grad_()
        y, _ = unroll(cell, leaf, first, cell.initial_state(x.shape[1]), path=path)
        (y * torch.linspace(0, 1, y.numel()).view_as(y)).sum().backward()
        found.append([y.detach(), leaf.grad, *(p.grad for p in cell.parameters())])
    core.zero_grad()
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True))


def indexed(core, x, first, state) -> torch.Tensor:
    """Outputs of the eager loop that indexes its projected input."""
    z, initial, outputs = core.project(x), core.initial_state(x.shape[1]), []
    for t in range(len(x)):
        state = core.step(tuple(part[t] for part in z), reset(state, initial, first[t]))
        outputs.append(state[0])
    return torch.stack(outputs)


def products(core, rows: int):
    """A function that makes the products of a forward and a backward pass of `rows` rows with every matrix of `core`."""
    weights = [p.detach() for p in core.parameters() if p.dim() == 2]
    inputs = [torch.randn(rows, w.shape[1]) for w in weights]

    def make() -> None:
        for w, x in zip(weights, inputs, strict=True):
            y = x @ w.t()
            y @ w, y.t() @ x

    return make


def once(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=lambda text: text.split(","), default=["lstm", "ur-lstm"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--resets", type=float, default=0.05)
    parser.add_argument("--no-heap", action="store_true", help="leave glibc's allocator as it is")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.cells) - VARIANTS.keys()):
        parser.error(f"unknown cell {unknown[0]!r}")
    if not options.no_heap:
        keep_heap()
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load:.2f}, resets {options.resets:.0%}")
    if load > 1:
        print("warning: the machine is busy; only ratios mean anything, and not much")
    failed = False
    print("| T, B, H | cell | deviation | fused ms | nn.LSTM ms | loop ms | indexed ms | products ms "
          "| fused / nn.LSTM | loop / fused | indexed / fused | products / fused |")  # fmt: skip
    print("|" + "---|" * 12)
    for T, B, H in SHAPES:
        torch.manual_seed(0)
        reference = torch.nn.LSTM(INPUT, H)
        x = torch.randn(T, B, INPUT, requires_grad=True)
        first = torch.rand(T, B) < options.resets
        for name in options.cells:
            core = make_core(name, INPUT, H, horizon=T)
            deviation = equal(core, x, first)
            failed |= deviation > 1e-5
            start = core.initial_state(B)
            contenders = [
                lambda: unroll(core, x, first, start, path="fused")[0].sum().backward(),  # noqa: B023
                lambda: reference(x)[0].sum().backward(),  # noqa: B023
                lambda: unroll(core, x, first, start, path="loop")[0].sum().backward(),  # noqa: B023
                lambda: indexed(core, x, first, start).sum().backward(),  # noqa: B023
                products(core, T * B),
            ]
            for function in contenders * 2:
                function()
            times = np.array([[once(f) for f in contenders] for _ in range(options.repeats)])
            fused, lstm, loop, by_index, bare = times.T
            ms = " | ".join(f"{t:.1f}" for t in np.median(times, 0) * 1e3)
            ratios = [fused / lstm, loop / fused, by_index / fused, bare / fused]
            spread = " | ".join("{:.2f} [{:.2f}, {:.2f}]".format(*np.quantile(r, [0.5, 0.1, 0.9])) for r in ratios)
            print(f"| {T}, {B}, {H} | {name} | {deviation:.1e} | {ms} | {spread} |", flush=True)
    if failed:
        print("error: the fused path deviates from the loop by more than 1e-5 of the largest entry", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
