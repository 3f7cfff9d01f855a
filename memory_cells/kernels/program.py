"""From a traced step to two straight-line programs, forward and backward, of elementwise loops, matrix products and row maps.

The backward program recomputes the elementwise part from what the forward pass keeps (the states and the outputs of the
linear and row maps, or `kept` nodes in their place) and leaves every weight gradient to one product after the loop over
time, so inside the loop it needs only the products that carry the gradient to the step before.

Buffers beyond those of `graph`:
  ("o", i)   i-th entry of the state after the step
  ("g", i)   gradient arriving at it               ("n", i)   gradient leaving at the state before the step
  ("dL", k)  gradient of the k-th linear output    ("dX", k)  of its input     ("dz", i)  of z
  ("dR", r)  gradient of the r-th row output       ("dU", r)  of its input     ("dp", j)  of a per-unit tensor, over time
  ("V", q)   what the backward pass sums over the units, of what was expanded over them     ("W", q)  its sum
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_cells.kernels.graph import Buffer, Expr, Graph, Linear, RowMap

COSTLY = ("sigmoid", "tanh", "exp")


@dataclass
class Store:
    buffer: Buffer
    offset: int
    expr: Expr


@dataclass
class Loop:
    """Elementwise stores of one width, evaluated together; those into "dp" are added."""

    width: int
    stores: list[Store]


@dataclass
class Product:
    """Forward: output of linear k from its input. Backward: gradient of its input, into `target` (added if `adds`)."""

    k: int
    source: Buffer
    target: Buffer
    adds: bool = False


@dataclass
class RowStep:
    """A row map or the transpose of one: `kind` names it in the back ends; `saved` is the output of the forward map."""

    kind: str
    source: Buffer
    target: Buffer
    widths: tuple[int, int]
    count: int = 1
    saved: Buffer | None = None


@dataclass
class Program:
    graph: Graph
    forward: list[Loop | Product | RowStep]
    backward: list[Loop | Product | RowStep]
    #: where the input of linear k lies: ("s", i) if it is a state as it stands, else ("X", k)
    inputs: list[Buffer]
    #: gradient buffers with parts that nothing writes
    partial: set[Buffer]
    #: gradient buffers that nothing writes at all
    silent: set[Buffer]
    #: widths of the buffers ("V", q)
    sums: list[int]
    #: elementwise nodes that alone are made of a part of a linear output: a back end may keep their values in its place
    kept: set[int]

    def gradient_of_z(self, i: int) -> Buffer:
        """Where the gradient by `z[i]` is: with a product that is summed onto it, that product's."""
        return next((("dL", k) for k, m in enumerate(self.graph.linears) if m.addend == i), ("dz", i))


def build(graph: Graph) -> Program:
    # a gradient's nodes are appended to the same graph; what the forward pass reaches is fixed before
    inputs = [_input_buffer(graph, k) for k in range(len(graph.linears))]
    forward = _forward(graph, inputs)
    backward = _Backward(graph)
    silent = {b for b, stores in backward.pieces.items() if not stores}
    kept = _kept(_below(forward), _below(forward + backward.program))
    return Program(graph, forward, backward.program, inputs, backward.partial(), silent,
                   [s.widths[0] for s in backward.sums], kept)  # fmt: skip


def _below(program: list[Loop | Product | RowStep]) -> dict[int, tuple[Expr, set[int]]]:
    """The nodes that a program evaluates: id -> node, ids of the nodes made of it (-1: it is stored as it is)."""
    stores = [s.expr for item in program if isinstance(item, Loop) for s in item.stores]
    found: dict[int, tuple[Expr, set[int]]] = {}
    stack = [(e, -1) for e in stores]
    while stack:
        e, user = stack.pop()
        if e.id not in found:
            found[e.id] = e, set()
            stack += [(a, e.id) for a in e.args if isinstance(a, Expr)]
        found[e.id][1].add(user)
    return found


def _kept(forward: dict[int, tuple[Expr, set[int]]], both: dict[int, tuple[Expr, set[int]]]) -> set[int]:
    """Costly nodes, evaluated by the forward program, of a part of a linear output that nothing else looks at."""
    loads = [(e, users) for e, users in both.values() if e.op == "load" and e.args[0][0] in "LA"]
    kept = set()
    for e, users in loads:
        (_, k), start = e.args
        apart = all(o is e or o.args[0][1] != k or o.args[1] >= start + e.width or start >= o.args[1] + o.width
                    for o, _ in loads)  # fmt: skip
        user = min(users)
        if apart and len(users) == 1 and user in forward and forward[user][0].op in COSTLY and e.width > 1:
            kept.add(user)
    return kept


def _whole_state(graph: Graph, e: Expr) -> int | None:
    """The state that `e` is a plain copy of, if any."""
    if e.op == "load" and e.args[0][0] == "s" and e.width == graph.state_widths[e.args[0][1]]:
        return e.args[0][1]
    return None


def _input_buffer(graph: Graph, k: int) -> Buffer:
    state = _whole_state(graph, graph.linears[k].input)
    return ("X", k) if state is None else ("s", state)


def _loops(stores: list[Store]) -> list[Loop]:
    widths = sorted({s.expr.width for s in stores})
    return [Loop(w, [s for s in stores if s.expr.width == w]) for w in widths]


def _forward(graph: Graph, inputs: list[Buffer]) -> list[Loop | Product | RowStep]:
    program: list[Loop | Product | RowStep] = []
    for m in graph.order:  # of the step, so every input is known by then
        if isinstance(m, RowMap):
            r = next(i for i, row in enumerate(graph.rows) if row is m)
            program += _loops([Store(("U", r), 0, m.input)])
            program.append(RowStep(m.kind, ("U", r), ("R", r), (m.input.width, m.width), m.count))
            continue
        k = next(i for i, linear in enumerate(graph.linears) if linear is m)
        if inputs[k][0] == "X":
            program += _loops([Store(inputs[k], 0, m.input)])
        program.append(Product(k, inputs[k], ("L", k)))
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
        case "select":
            condition, a, b = e.args
            zero = graph.const(0)
            return [(a, graph.select(condition, g, zero)), (b, graph.select(condition, zero, g))]
    raise AssertionError(f"no derivative for {e.op}")


#: row map -> its transpose ("sum" has an elementwise one)
TRANSPOSE = {"cumsum": "cumsum_t", "repeat": "repeat_t", "tile": "tile_t", "softmax": "softmax_t"}


class _Backward:
    """Derives the backward program: adjoints of all nodes, gathered into stores, scheduled by what waits for what."""

    def __init__(self, graph: Graph):
        self.graph, self.adjoint = graph, {}
        self.pieces: dict[Buffer, list[Store]] = {}  # gradient buffer -> its stores
        self.carried: dict[int, list[int]] = {}  # state -> linears whose input gradient is added to its own
        self.row_steps: list[RowStep] = []
        self.sums: list[RowStep] = []
        self.moving, self.reached = graph.moving(), graph.reached()
        self.loads = [e for e in self.reached if e.op == "load"]
        self.derive()
        self.program = self.schedule()

    def add(self, e: Expr, g: Expr) -> None:
        if e.id in self.moving and not (g.op == "const" and g.args[0] == 0):
            self.adjoint[e.id] = self.graph.binary("add", self.adjoint[e.id], g) if e.id in self.adjoint else g

    def settle(self, buffer: Buffer, target: Buffer) -> list[Store]:
        found = [Store(target, e.args[1], self.adjoint[e.id])
                 for e in self.loads if e.args[0] == buffer and e.id in self.adjoint]  # fmt: skip
        self.pieces.setdefault(target, []).extend(found)
        return found

    def derive(self) -> None:
        graph = self.graph
        for i, e in enumerate(graph.outputs):
            self.add(e, graph.load(("g", i), 0, e.width))
        # a map is due when its input is reached, for then all users of its output lie behind
        pending = sorted(graph.order, key=lambda m: m.input.id)
        for e in reversed(self.reached):
            while pending and pending[-1].input.id >= e.id:
                m = pending.pop()
                self.linear(m) if isinstance(m, Linear) else self.row(m)
            if e.op != "load" and e.id in self.adjoint:
                g = self.adjoint[e.id]
                for argument, gradient in [(e.args[0], self.summed(g))] if e.op == "expand" else _vjp(graph, e, g):
                    self.add(argument, gradient)
        fused = {m.addend for m in graph.linears}
        for i in range(len(graph.z_widths)):
            if i not in fused:
                self.settle(("z", i), ("dz", i))
        for j in range(len(graph.params)):
            self.settle(("p", j), ("dp", j))
        for i, width in enumerate(graph.state_widths):
            self.settle(("s", i), ("n", i))
            self.fill(("n", i), width)

    def fill(self, buffer: Buffer, width: int) -> None:
        """Zeros into what nothing writes."""
        start = 0
        for s in [*sorted(self.pieces[buffer], key=lambda s: s.offset), None]:
            end = s.offset if s else width
            if end > start:
                zero = self.graph.make("const", 0.0, width=end - start)
                self.pieces[buffer].append(Store(buffer, start, zero))
            start = s.offset + s.expr.width if s else width

    def linear(self, m: Linear) -> None:
        k = next(i for i, linear in enumerate(self.graph.linears) if linear is m)
        self.settle(("A", k) if m.addend is not None else ("L", k), ("dL", k))
        state = _whole_state(self.graph, m.input)
        if state is None:
            self.add(m.input, self.graph.load(("dX", k), 0, m.weight.shape[1]))
        else:
            self.carried.setdefault(state, []).append(k)

    def row(self, m: RowMap) -> None:
        graph, r = self.graph, next(i for i, row in enumerate(self.graph.rows) if row is m)
        found = self.settle(("R", r), ("dR", r))
        if m.kind == "sum":
            del self.pieces["dR", r]
            if found:
                self.add(m.input, graph.expand(found[0].expr, m.input.width))
        elif found and m.input.id in self.moving:
            widths = m.width, m.input.width
            self.row_steps.append(RowStep(TRANSPOSE[m.kind], ("dR", r), ("dU", r), widths, m.count, ("R", r)))
            self.add(m.input, graph.load(("dU", r), 0, m.input.width))

    def summed(self, g: Expr) -> Expr:
        """The gradient of what was expanded: a sum over the units."""
        q = len(self.sums)
        self.pieces["V", q] = [Store(("V", q), 0, g)]
        self.sums.append(RowStep("sum", ("V", q), ("W", q), (g.width, 1)))
        return self.graph.load(("W", q), 0, 1)

    def schedule(self) -> list[Loop | Product | RowStep]:
        """Levels: a loop of level n needs what the maps of level n - 1 gave."""
        graph, pieces = self.graph, self.pieces
        products = [Product(k, ("dL", k), ("dX", k)) for k in range(len(graph.linears))]
        maps = [*products, *self.row_steps, *self.sums]
        giver = {m.target: m for m in maps}
        memo: dict[int, int] = {}

        def level(e: Expr) -> int:
            if e.id not in memo:
                if e.op == "load":
                    memo[e.id] = 1 + due(giver[e.args[0]]) if e.args[0] in giver else 0
                else:
                    memo[e.id] = max((level(a) for a in e.args if isinstance(a, Expr)), default=0)
            return memo[e.id]

        def due(m: Product | RowStep) -> int:
            return max((level(s.expr) for s in pieces[m.source]), default=0)

        for e in graph.nodes:  # shallow recursion: arguments come first
            level(e)
        for i, ks in self.carried.items():
            for k in sorted(ks, key=lambda k: due(products[k])):
                own = pieces["n", i]
                if max(level(s.expr) for s in own) > due(
                    products[k]
                ):  # the state's own part comes too late to be added onto
                    extra = graph.load(("dX", k), 0, graph.state_widths[i])
                    pieces["n", i] = [Store(("n", i), 0, graph.binary("add", own[0].expr, extra))]
                else:
                    products[k].target, products[k].adds = ("n", i), True
        stores = [s for group in pieces.values() for s in group]
        last = max([level(s.expr) for s in stores] + [due(m) for m in maps], default=0)
        program: list[Loop | Product | RowStep] = []
        for now in range(last + 1):
            program += _loops([s for s in stores if level(s.expr) == now])
            program += [m for m in maps if due(m) == now]
        return program

    def partial(self) -> set[Buffer]:
        graph = self.graph
        width = {("dL", k): m.weight.shape[0] for k, m in enumerate(graph.linears)}
        width |= {("dz", i): w for i, w in enumerate(graph.z_widths)}
        width |= {("dR", r): m.width for r, m in enumerate(graph.rows)}
        return {b for b, w in width.items() if b in self.pieces and sum(s.expr.width for s in self.pieces[b]) < w}
