"""Runs a program with torch operations, on any device: what the compiled kernel is where there is no compiler."""

from __future__ import annotations

import torch
from torch import Tensor

from memory_cells.kernels.graph import Expr
from memory_cells.kernels.program import Loop, Product, Program, RowStep
from memory_cells.squash import running_sum

_OPS = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "neg": torch.neg, "exp": torch.exp,
    "log": torch.log, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "abs": torch.abs,
    "sqrt": torch.sqrt, "sign": torch.sign, "step": lambda a: (a > 0).to(a.dtype), "floor": torch.floor,
    "detach": lambda a: a, "expand": lambda a: a, "select": lambda c, a, b: torch.where(c != 0, a, b),
}  # fmt: skip

#: row map or transpose -> function of (row, count, output of the forward map)
_ROWS = {
    "softmax": lambda x, count, saved: torch.softmax(x, -1),
    "softmax_t": lambda g, count, y: y * (g - (g * y).sum(-1, keepdim=True)),
    "cumsum": lambda x, count, saved: running_sum(x),
    "cumsum_t": lambda g, count, y: running_sum(g.flip(-1)).flip(-1),
    "sum": lambda x, count, saved: x.sum(-1, keepdim=True),
    "repeat": lambda x, count, saved: torch.repeat_interleave(x, count, -1),
    "repeat_t": lambda g, count, y: g.unflatten(-1, (-1, count)).sum(-1),
    "tile": lambda x, count, saved: torch.tile(x, (count,)),
    "tile_t": lambda g, count, y: g.unflatten(-1, (count, -1)).sum(-2),
}

#: buffers without a time axis: per-unit tensors, weights, biases, what lives for one step
_TIMELESS = ("p", "w", "b", "dp", "dX", "U", "dR", "dU", "V", "W")


def _evaluate(e: Expr, rows: dict, memo: dict) -> Tensor | float:
    if e.id not in memo:
        if e.op == "const":
            memo[e.id] = e.args[0]
        elif e.op == "load":
            memo[e.id] = rows[e.args[0]][..., e.args[1] : e.args[1] + e.width]
        else:
            memo[e.id] = _OPS[e.op](*(_evaluate(a, rows, memo) for a in e.args))
    return memo[e.id]


def _run(item: Loop | RowStep, rows: dict, memo: dict) -> None:
    if isinstance(item, RowStep):
        saved = rows.get(item.saved) if item.saved else None
        rows[item.target].copy_(_ROWS[item.kind](rows[item.source], item.count, saved))
        return
    values = [_evaluate(s.expr, rows, memo) for s in item.stores]
    for s, value in zip(item.stores, values, strict=True):
        target = rows[s.buffer][..., s.offset : s.offset + item.width]
        if s.buffer[0] == "dp":
            target.add_(value)
        else:
            target.copy_(value) if isinstance(value, Tensor) else target.fill_(value)


def forward(program: Program, first: Tensor, b: dict, initial: list[Tensor], y: Tensor) -> None:
    """Fills b[("L", k)], b[("X", k)], b[("R", r)] (T, B, .), the states b[("s", i)] (T+1, B, .) and `y` (T, B, .)."""
    graph, states = program.graph, [b[("s", i)] for i in range(len(program.graph.state_widths))]
    for t in range(first.shape[0]):
        for s, start in zip(states, initial, strict=True):
            s[t].copy_(torch.where(first[t, :, None], start, s[t]))
        rows = {name: (x if name[0] in _TIMELESS else x[t]) for name, x in b.items()}
        rows |= {("o", i): s[t + 1] for i, s in enumerate(states)} | {
            ("A", k): b[("L", k)][t] for k in range(len(graph.linears))
        }
        memo: dict = {}
        for item in program.forward:
            if not isinstance(item, Product):
                _run(item, rows, memo)
                continue
            m, out = graph.linears[item.k], rows[("L", item.k)]
            torch.mm(rows[program.inputs[item.k]], b[("w", item.k)].t(), out=out)
            for extra in (() if m.addend is None else (rows[("z", m.addend)],)) + (
                () if m.bias is None else (b[("b", item.k)],)
            ):
                out.add_(extra)
        y[t].copy_(states[0][t + 1])


def backward(
    program: Program, first: Tensor, b: dict, gy: Tensor | None, g: list[Tensor], g_initial: list[Tensor]
) -> list:
    """Fills b[("dL", k)] and b[("dz", i)], adds onto b[("dp", j)] (B, .).

    Returns the gradients of the start state, each (B, .).
    """
    graph = program.graph
    for t in reversed(range(first.shape[0])):
        if gy is not None:
            g[0] = g[0] + gy[t]
        n = [torch.empty_like(x) for x in g]
        rows = {name: (x if name[0] in _TIMELESS else x[t]) for name, x in b.items()}
        rows |= {("g", i): x for i, x in enumerate(g)} | {("n", i): x for i, x in enumerate(n)}
        rows |= {("A", k): b[("L", k)][t] for k in range(len(graph.linears))}
        memo: dict = {}
        for item in program.backward:
            if not isinstance(item, Product):
                _run(item, rows, memo)
                continue
            gradient = rows[("dL", item.k)] @ b[("w", item.k)]
            rows[item.target].add_(gradient) if item.adds else rows[item.target].copy_(gradient)
        reset = first[t, :, None]
        for i, x in enumerate(n):
            g_initial[i] += torch.where(reset, x, 0)
            g[i] = torch.where(reset, 0, x)
    return g
