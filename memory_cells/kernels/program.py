"""From a traced step to two straight-line programs, forward and backward, of elementwise loops and matrix products.

The backward program recomputes the elementwise part from what the forward pass keeps (the states and the outputs of the
linear maps) and leaves every weight gradient to one product after the loop over time, so inside the loop it needs only
the products that carry the gradient to the step before.

Buffers beyond those of `graph`:
  ("o", i)   i-th entry of the state after the step
  ("g", i)   gradient arriving at it               ("n", i)   gradient leaving at the state before the step
  ("dL", k)  gradient of the k-th linear output    ("dX", k)  of its input     ("dz", i), ("dp", j)  of z and per-unit tensors
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_cells.kernels.graph import Buffer, Expr, Graph


@dataclass
class Store:
    buffer: Buffer
    offset: int
    expr: Expr


@dataclass
class Loop:
    """Elementwise stores of one width, evaluated together."""

    width: int
    stores: list[Store]


@dataclass
class Product:
    """Forward: output of linear k from its input. Backward: gradient of its input, into `target` (added if `adds`)."""

    k: int
    target: Buffer
    adds: bool = False


@dataclass
class Program:
    graph: Graph
    forward: list[Loop | Product]
    backward: list[Loop | Product]
    #: where the input of linear k lies: ("s", i) if it is a state as it stands, else ("X", k)
    inputs: list[Buffer]
    #: gradient buffers with parts that nothing writes
    partial: set[Buffer]


def build(graph: Graph) -> Program:
    # a gradient's nodes are appended to the same graph; what the forward pass reaches is fixed before
    inputs = [_input_buffer(graph, k) for k in range(len(graph.linears))]
    forward = _forward(graph, inputs)
    backward, partial = _backward(graph)
    return Program(graph, forward, backward, inputs, partial)


def _whole_state(graph: Graph, e: Expr) -> int | None:
    """The state that `e` is a plain copy of, if any."""
    if e.op == "load" and e.args[0][0] == "s" and e.width == graph.state_widths[e.args[0][1]]:
        return e.args[0][1]
    return None


def _input_buffer(graph: Graph, k: int) -> Buffer:
    state = _whole_state(graph, graph.linears[k].input)
    return ("X", k) if state is None else ("s", state)


def _level(e: Expr, of_load: dict[Buffer, int], memo: dict[int, int]) -> int:
    if e.id not in memo:
        memo[e.id] = (
            of_load.get(e.args[0], 0)
            if e.op == "load"
            else max((_level(a, of_load, memo) for a in e.args if isinstance(a, Expr)), default=0)
        )
    return memo[e.id]


def _loops(stores: list[Store]) -> list[Loop]:
    widths = sorted({s.expr.width for s in stores})
    return [Loop(w, [s for s in stores if s.expr.width == w]) for w in widths]


def _forward(graph: Graph, inputs: list[Buffer]) -> list[Loop | Product]:
    program: list[Loop | Product] = []
    for k, linear in enumerate(graph.linears):  # in the order of the step, so every input is known by then
        if inputs[k][0] == "X":
            program += _loops([Store(inputs[k], 0, linear.input)])
        program.append(Product(k, ("L", k)))
    return program + _loops([Store(("o", i), 0, e) for i, e in enumerate(graph.outputs)])


def _vjp(graph: Graph, e: Expr, g: Expr) -> list[tuple[Expr, Expr]]:
    """(argument, gradient) pairs of one elementwise node."""
    mul, sub, one = (lambda a, b: graph.binary("mul", a, b)), (lambda a, b: graph.binary("sub", a, b)), graph.const(1)
    a, b = (*e.args, None)[:2]
    match e.op:
        case "add":
            return [(a, g), (b, g)]
        case "sub":
            return [(a, g), (b, graph.unary("neg", g))]
        case "mul":
            return [(a, mul(g, b)), (b, mul(g, a))]
        case "div":
            return [(a, graph.binary("div", g, b)), (b, graph.unary("neg", graph.binary("div", mul(g, e), b)))]
        case "neg":
            return [(a, graph.unary("neg", g))]
        case "exp":
            return [(a, mul(g, e))]
        case "log":
            return [(a, graph.binary("div", g, a))]
        case "sigmoid":
            return [(a, mul(g, mul(e, sub(one, e))))]
        case "tanh":
            return [(a, mul(g, sub(one, mul(e, e))))]
        case "relu":
            return [(a, mul(g, graph.unary("step", a)))]
        case "abs":
            return [(a, mul(g, graph.unary("sign", a)))]
        case "sqrt":
            return [(a, graph.binary("div", mul(graph.const(0.5), g), e))]
        case "step" | "sign":
            return []
    raise AssertionError(f"no derivative for {e.op}")


def _backward(graph: Graph) -> tuple[list[Loop | Product], set[Buffer]]:
    reached, adjoint = graph.reached(), {}

    def add(e: Expr, g: Expr):
        if e.width and not (g.op == "const" and g.args[0] == 0):
            adjoint[e.id] = graph.binary("add", adjoint[e.id], g) if e.id in adjoint else g

    for i, e in enumerate(graph.outputs):
        add(e, graph.load(("g", i), 0, e.width))

    pieces: dict[Buffer, list[Store]] = {}  # gradient buffer -> its stores
    carried: dict[int, list[int]] = {}  # state -> linears whose input gradient is added to its own
    pending = list(range(len(graph.linears)))
    loads = [e for e in reached if e.op == "load"]

    def settle(buffer: Buffer, target: Buffer):
        found = [Store(target, e.args[1], adjoint[e.id]) for e in loads if e.args[0] == buffer and e.id in adjoint]
        pieces.setdefault(target, []).extend(found)

    def linear(k: int):
        settle(("A", k) if graph.linears[k].addend is not None else ("L", k), ("dL", k))
        state = _whole_state(graph, graph.linears[k].input)
        if state is None:
            add(graph.linears[k].input, graph.load(("dX", k), 0, graph.linears[k].weight.shape[1]))
        else:
            carried.setdefault(state, []).append(k)

    for e in reversed(reached):
        while pending and graph.linears[pending[-1]].input.id >= e.id:  # all its users lie behind us
            linear(pending.pop())
        if e.op not in ("load", "const") and e.id in adjoint:
            for argument, g in _vjp(graph, e, adjoint[e.id]):
                add(argument, g)

    fused = {m.addend for m in graph.linears}
    for i in range(len(graph.z_widths)):
        if i not in fused:
            settle(("z", i), ("dz", i))
    for j in range(len(graph.params)):
        settle(("p", j), ("dp", j))
    for i, width in enumerate(graph.state_widths):
        settle(("s", i), ("n", i))
        if sum(s.expr.width for s in pieces[("n", i)]) < width:
            if pieces[("n", i)]:  # part of a state is never read; its gradient must still be written
                raise AssertionError("a state read only in part")
            pieces[("n", i)] = [Store(("n", i), 0, graph.make("const", 0.0, width=width))]
    return _schedule(graph, pieces, carried), _partial(graph, pieces)


def _schedule(graph: Graph, pieces, carried) -> list[Loop | Product]:
    of_load: dict[Buffer, int] = {}
    memo: dict[int, int] = {}
    product_level: dict[int, int] = {}
    for k in reversed(range(len(graph.linears))):
        product_level[k] = max((_level(s.expr, of_load, memo) for s in pieces[("dL", k)]), default=0)
        of_load[("dX", k)] = product_level[k] + 1
    target = {k: ("dX", k) for k in product_level}
    for i, ks in carried.items():
        own = max((_level(s.expr, of_load, memo) for s in pieces[("n", i)]), default=0)
        for k in ks:
            if own > product_level[k]:  # the state's own part comes too late to be added onto
                width = graph.state_widths[i]
                extra = graph.load(("dX", k), 0, width)
                pieces[("n", i)] = [Store(("n", i), 0, graph.binary("add", pieces[("n", i)][0].expr, extra))]
            else:
                target[k] = ("n", i)
    stores = [s for group in pieces.values() for s in group]
    last = max([_level(s.expr, of_load, memo) for s in stores] + list(product_level.values()), default=0)
    program: list[Loop | Product] = []
    for level in range(last + 1):
        program += _loops([s for s in stores if _level(s.expr, of_load, memo) == level])
        here = [k for k in product_level if product_level[k] == level]
        program += [Product(k, target[k], adds=target[k][0] == "n") for k in here]
    return program


def _partial(graph: Graph, pieces) -> set[Buffer]:
    width = {("dL", k): m.weight.shape[0] for k, m in enumerate(graph.linears)}
    width |= {("dz", i): w for i, w in enumerate(graph.z_widths)}
    width |= {("dp", j): p.shape[0] for j, p in enumerate(graph.params)}
    return {b for b, w in width.items() if b in pieces and sum(s.expr.width for s in pieces[b]) < w}
