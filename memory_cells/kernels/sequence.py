"""A cell over a whole sequence as one autograd function: resets inside, weight gradients after the loop."""

from __future__ import annotations

import math
import warnings
import weakref

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from memory_cells.kernels import compiler, cpp, eager, tiles
from memory_cells.kernels.graph import Graph, NotTraceable, RowMap, trace
from memory_cells.kernels.program import Program, build

#: entries of weights up to which their gradients are faster in register tiles than in torch's products
TILED = 1_500_000

_kernels: dict[tuple, cpp.Kernel] = {}
_built: dict[tuple, Program] = {}
_programs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_MODULES_OWN = frozenset(vars(nn.Module()))  # what torch keeps in every module, `training` among it


def _tensors(graph: Graph) -> tuple[list[Tensor], ...]:
    """What the step closes over: per-unit tensors, weights, biases."""
    weights = [m.weight for m in graph.linears]
    return graph.params, weights, [m.bias for m in graph.linears if m.bias is not None]


def _as_it_stands(cell: nn.Module) -> tuple[tuple, list]:
    """All that a step may close over besides parameters: the cell's parts, their modes and their attributes, and the objects
    that are known by their id, to be kept alive with it."""
    held: list = []

    def mark(value):
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return tuple(map(mark, value))
        if isinstance(value, dict):
            return tuple((mark(k), mark(v)) for k, v in value.items())
        if value is not cell:
            held.append(value)
        return id(value)

    marks = [(mark(m), m.training, *((k, mark(v)) for k, v in vars(m).items() if k not in _MODULES_OWN))
             for m in cell.modules()]  # fmt: skip
    return tuple(marks), held


def program_of(cell, z: tuple[Tensor, ...], state: tuple[Tensor, ...]):
    """The cell's program, a key that names its equations, and the tensors it closes over. Raises NotTraceable.

    Kept per cell while these tensors are its own parameters and it is made of the same parts. One computed on the way (the
    reset rows of a weight, a column of a matrix, an orthogonal map) or replaceable (a buffer) is another at the next call,
    so such a step is traced anew, which takes a millisecond; the program is then found by its key.
    """
    if any(x.dim() != n or x.dtype != z[0].dtype for n, group in ((3, z), (2, state)) for x in group):
        raise NotTraceable("the sequence kernels know inputs (T, B, .) and states (B, .) of one floating-point type")
    own = ((id(p), p.dtype, p.requires_grad) for p in cell.parameters())
    marks, held = _as_it_stands(cell)
    form = tuple(x.shape[-1] for x in z), tuple(s.shape[-1] for s in state), z[0].dtype, marks, *own
    known = _programs.get(cell)
    if known and known[0] == form:
        return known[1]
    graph = trace(cell, *form[:2])
    if other := {t.dtype for group in _tensors(graph) for t in group} - {z[0].dtype}:
        raise NotTraceable(f"the step uses tensors of {other.pop()} beside inputs of {z[0].dtype}")
    shape = [(m.weight.shape, m.bias is not None, m.addend, m.input.id) for m in graph.linears]
    rows = [(m.kind, m.input.id, m.width, m.count) for m in graph.rows]
    order = ["R" if isinstance(m, RowMap) else "L" for m in graph.order]
    nodes = str([(e.op, [getattr(a, "id", a) for a in e.args], e.width) for e in graph.nodes])
    vectors = tuple((p.shape[0], p.requires_grad) for p in graph.params)
    key = (nodes, str((shape, rows, order)), tuple(e.id for e in graph.outputs), form[:2], vectors)
    tensors = _tensors(graph)
    if key not in _built:
        _built[key] = build(graph)
        graph.params = [p.detach().to("meta") for p in graph.params]  # shapes only: it outlives the cell
        for m in graph.linears:
            m.weight, m.bias = m.weight.detach().to("meta"), None if m.bias is None else m.bias.detach().to("meta")
    found = _built[key], key, tensors
    if all(isinstance(t, torch.nn.Parameter) for group in found[2] for t in group):
        _programs[cell] = (form, found, held)
    return found


def kernel_of(program: Program, key: tuple, dtype: torch.dtype, mapped: bool = False) -> cpp.Kernel:
    """Compiles, or finds what was compiled. Raises CompilerMissing."""
    if (key, dtype, mapped) not in _kernels:
        _kernels[key, dtype, mapped] = cpp.Kernel(program, dtype, mapped)
    return _kernels[key, dtype, mapped]


def _inner_map(cell, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The cell's map of its input, if a kernel has the products for it and they pay. What is not as a kernel has it is left
    to torch."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 3 and not torch.is_autocast_enabled("cpu")
    if not plain or (found := cell.input_map()) is None:
        return None
    weight, bias = found
    if x.shape[1] < max(8, cpp.threads_for(x.shape[1]) * (4 if x.shape[2] <= 64 else 8)):
        return None  # the weight would be read anew for few rows in every step
    fits = bias is not None and bias.shape == weight.shape[:1] and x.shape[2:] == weight.shape[1:]
    if not fits or any((p.dtype, p.device) != (x.dtype, x.device) for p in found):
        return None
    try:
        return found if tiles.functions(compiler.compiled) else None
    except compiler.CompilerMissing:
        return None  # `run` will say so


_told: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def run(cell, x, noise, project, first, state, compiled: bool = True) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`x` (T, B, I), `noise` of (T, B, .), `first` (T, B) bool, `state` (B, .) -> outputs (T, B, H), state after row T.
    `project` gives what `cell.project` makes of x, and the noise; it is not called where a kernel makes the map itself.

    Raises NotTraceable where the step is not of the kind that `graph` knows.
    """
    mapped = _inner_map(cell, x) if compiled else None
    # where the kernel makes z, what stands for it gives its shape and holds nothing
    like = (mapped[0].new_empty(()).expand(*first.shape, len(mapped[0])), *noise) if mapped else project()
    program, key, (params, weights, biases) = program_of(cell, like, state)
    if program.gradient_of_z(0) in program.silent:
        mapped = None
    kernel = None
    if compiled and like[0].device.type == "cpu" and like[0].dtype in (torch.float32, torch.float64):
        try:
            kernel = kernel_of(program, key, like[0].dtype, mapped is not None)
        except compiler.CompilerMissing as reason:
            _say_once(f"{reason}: sequences run step by step in torch, two to five times slower on the CPU")
            mapped = None
    z = (x, *noise) if mapped else project()
    initial = (i.to(s.dtype).expand_as(s) for i, s in zip(cell.initial_state(first.shape[1]), state, strict=True))
    maps = *(mapped or (None, None)), *z
    out = _Sequence.apply(program, kernel, first, *maps, *state, *initial, *params, *weights, *biases)
    return out[0], out[1:]


def _by_map(kernel: cpp.Kernel | None, g: Tensor, inputs: list[Tensor], bias: bool) -> tuple[list[Tensor], Tensor | None]:
    """Gradients by the weights and the bias of maps of `inputs` (rows, N_i) whose sum has the gradient `g` (rows, M)."""
    widest = g.shape[1] * sum(x.shape[1] for x in inputs) if len(g) else math.inf
    if kernel is not None and kernel.gradient and widest <= TILED:
        return tiles.gradients(kernel.gradient, g, inputs)
    return [g.t() @ x for x in inputs], g.sum(0) if bias else None


def _empty(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device)


class _Sequence(torch.autograd.Function):
    @staticmethod
    def _split(graph: Graph, tensors):
        """The flat arguments by role, as contiguous buffers under their names, and the start states of an episode."""
        counts = [
            len(graph.z_widths),
            len(graph.state_widths),
            len(graph.state_widths),
            len(graph.params),
            len(graph.linears),
        ]
        groups, at = [], 0
        for count in counts:
            groups.append([x.contiguous() for x in tensors[at : at + count]])
            at += count
        biases = iter(x.contiguous() for x in tensors[at:])
        return groups, [next(biases) if m.bias is not None else None for m in graph.linears]

    @staticmethod
    def forward(ctx, program: Program, kernel, first: Tensor, weight_x: Tensor | None, bias_x: Tensor | None, *tensors):
        graph, (T, B), first = program.graph, first.shape, first.contiguous()
        (z, state, initial, params, weights), biases = _Sequence._split(graph, tensors)
        like = z[0]
        b: dict = {("z", i): x for i, x in enumerate(z)} | {("p", j): x for j, x in enumerate(params)}
        b |= {("w", k): x for k, x in enumerate(weights)} | {("b", k): x for k, x in enumerate(biases) if x is not None}
        fused = {m.addend for m in graph.linears}
        if weight_x is not None:  # the first entry of z is what it is made of
            b |= {("x", 0): b.pop(("z", 0)), ("w", "x"): weight_x.contiguous(), ("b", "x"): bias_x.contiguous()}
            if 0 not in fused:
                b["z", 0] = _empty(like, T, B, graph.z_widths[0])
        for i, s in enumerate(state):
            b["s", i] = _empty(like, T + 1, *s.shape)
            b["s", i][0].copy_(s)
        for k, w in enumerate(weights):
            b["L", k] = _empty(like, T, B, w.shape[0])
            if program.inputs[k][0] == "X":
                b["X", k] = _empty(like, T, B, w.shape[1])
        for r, m in enumerate(graph.rows):
            b["R", r], b["U", r] = _empty(like, T, B, m.width), _empty(like, B, m.input.width)
        y = _empty(like, T, B, graph.state_widths[0])
        if kernel is None:
            eager.forward(program, first, b, initial, y)
        else:
            kernel.forward(first, b | {("init", i): x for i, x in enumerate(initial)} | {("y", 0): y})
        needed = {name: x for name, x in b.items() if name[0] in "sLXRx" or (name[0] == "z" and name[1] not in fused)}
        ctx.program, ctx.kernel, ctx.names = program, kernel, list(needed)
        ctx.save_for_backward(first, weight_x, *params, *weights, *needed.values())
        ctx.set_materialize_grads(False)
        return y, *(b["s", i][T].clone() for i in range(len(state)))

    @staticmethod
    @once_differentiable
    def backward(ctx, gy, *g_state):
        program, graph = ctx.program, ctx.program.graph
        first, weight_x, *rest = ctx.saved_tensors
        params, rest = rest[: len(graph.params)], rest[len(graph.params) :]
        weights, rest = [w.contiguous() for w in rest[: len(graph.linears)]], rest[len(graph.linears) :]
        (T, B), b = first.shape, dict(zip(ctx.names, rest, strict=True))
        like = b["s", 0]
        b |= {("p", j): x.contiguous() for j, x in enumerate(params)} | {("w", k): x for k, x in enumerate(weights)}

        def gradient(buffer, *shape):
            b[buffer] = _empty(like, *shape)
            if buffer in program.partial:
                b[buffer].zero_()

        g_of_z = [program.gradient_of_z(i) for i in range(len(graph.z_widths))]
        for k, w in enumerate(weights):
            gradient(("dL", k), T, B, w.shape[0])
            gradient(("dX", k), B, w.shape[1])
        if weight_x is not None:
            b["w", "x"] = weight_x.contiguous()
            b["dx", 0] = torch.empty_like(b["x", 0]) if ctx.needs_input_grad[5] else None
        for buffer, width in zip(g_of_z, graph.z_widths, strict=True):
            if buffer not in b and buffer not in program.silent:
                gradient(buffer, T, B, width)
        for j, p in enumerate(params):
            b["dp", j] = like.new_zeros(B, p.shape[0])  # summed over time
        for r, m in enumerate(graph.rows):
            gradient(("dR", r), B, m.width)
            gradient(("dU", r), B, m.input.width)
        for q, width in enumerate(program.sums):
            b["V", q], b["W", q] = _empty(like, B, width), _empty(like, B, 1)
        g = [
            like.new_zeros(B, w) if x is None else x.clone().contiguous()
            for x, w in zip(g_state, graph.state_widths, strict=True)
        ]
        g_initial = [torch.zeros_like(x) for x in g]
        gy = None if gy is None else gy.contiguous()
        if ctx.kernel is None:
            g = eager.backward(program, first, b, gy, g, g_initial)
        else:
            extra = {("G", i): x for i, x in enumerate(g)} | {("N", i): torch.empty_like(x) for i, x in enumerate(g)}
            ctx.kernel.backward(first, b | extra | {("di", i): x for i, x in enumerate(g_initial)} | {("gy", 0): gy})
        g_z = [b.get(buffer) for buffer in g_of_z]
        if weight_x is not None:
            g_z[0] = b["dx", 0]
        needed = ctx.needs_input_grad[5 + len(graph.z_widths) + 2 * len(graph.state_widths) :]
        g_params = [b["dp", j].sum(0) if needed[j] else None for j in range(len(params))]
        g_map, g_weights, g_biases = (None, None), [], []
        own = [b["x", 0].flatten(0, 1)] if any(ctx.needs_input_grad[3:5]) else []
        for k, m in enumerate(graph.linears):
            source, inside = program.inputs[k], own if m.addend == 0 else []  # one gradient for both
            x = (b[source][:T] if source[0] == "s" else b[source]).flatten(0, 1)
            (by_weight, *by_map), by_bias = _by_map(
                ctx.kernel, b["dL", k].flatten(0, 1), [x, *inside], bool(inside) or m.bias is not None)  # fmt: skip
            g_weights.append(by_weight)
            if inside:
                g_map = *by_map, by_bias
            if m.bias is not None:
                g_biases.append(by_bias.clone() if inside else by_bias)
        if own and g_of_z[0] == ("dz", 0):
            (by_weight,), by_bias = _by_map(ctx.kernel, b["dz", 0].flatten(0, 1), own, True)
            g_map = by_weight, by_bias
        return None, None, None, *g_map, *g_z, *g, *g_initial, *g_params, *g_weights, *g_biases
