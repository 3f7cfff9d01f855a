"""What a cell's step computes, read off the step itself.

`trace(cell, z_widths)` calls `cell.step` once with symbols in place of tensors and returns a `Graph`: elementwise
expressions over *loads* of buffers, and linear maps of them. `kernels/program.py` derives the backward pass from it, and
the back ends run both over a whole sequence. A cell author writes torch and nothing else; a step that uses an operation
not listed here raises `NotTraceable`, and `unroll` then keeps to the plain loop.

Widths: every expression is (B, width); one of width 1 meets wider ones through an explicit `expand`. What mixes units (a
softmax, a running sum) is a *row map*: like a linear map it takes an expression and gives a buffer to load from.

Buffers, each with a leading batch axis unless said otherwise:
  ("z", i)  i-th entry of project(x)         ("s", i)  i-th entry of the state before the step
  ("p", j)  j-th per-unit tensor (W,), no batch axis
  ("X", k)  input of the k-th linear map     ("L", k)  its output      ("A", k)  its output plus a whole z, summed in place
  ("U", r)  input of the r-th row map        ("R", r)  its output
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

Buffer = tuple[str, int]


class NotTraceable(Exception):
    """The step uses something that the sequence kernels do not know."""


@dataclass(frozen=True, eq=False)
class Expr:
    """A node: `load` (args: buffer, offset), `const` (args: number), `expand` (of a node of width 1), `select` (of a
    condition and two values, a node where the condition is not 0), or an elementwise op of other nodes."""

    id: int
    op: str
    args: tuple
    width: int  # 0 for constants


@dataclass
class Linear:
    input: Expr
    weight: Tensor
    bias: Tensor | None
    addend: int | None = None  # index of the z that its output is summed onto


@dataclass
class RowMap:
    kind: str  # "softmax", "cumsum", "sum" (to one unit), "repeat" (every unit `count` times), "tile" (the row `count` times)
    input: Expr
    width: int  # of its output
    count: int = 1


UNARY = ("neg", "exp", "log", "sigmoid", "tanh", "relu", "abs", "sqrt", "step", "sign", "floor", "detach")
BINARY = ("add", "sub", "mul", "div")
#: nothing flows back through these
FLAT = ("step", "sign", "floor", "detach", "const")


@dataclass
class Graph:
    """Hash-consed expressions in topological order."""

    fuse: bool = True
    nodes: list[Expr] = field(default_factory=list)
    linears: list[Linear] = field(default_factory=list)
    rows: list[RowMap] = field(default_factory=list)
    order: list[Linear | RowMap] = field(default_factory=list)  # both kinds, as the step does them
    params: list[Tensor] = field(default_factory=list)
    outputs: list[Expr] = field(default_factory=list)
    z_widths: tuple[int, ...] = ()
    state_widths: tuple[int, ...] = ()
    _seen: dict = field(default_factory=dict)

    def make(self, op: str, *args, width: int) -> Expr:
        key = (op, *(a.id if isinstance(a, Expr) else a for a in args), width)
        if key not in self._seen:
            self._seen[key] = Expr(len(self.nodes), op, args, width)
            self.nodes.append(self._seen[key])
        return self._seen[key]

    def const(self, value: float) -> Expr:
        return self.make("const", float(value), width=0)

    def load(self, buffer: Buffer, offset: int, width: int) -> Expr:
        return self.make("load", buffer, offset, width=width)

    def unary(self, op: str, a: Expr) -> Expr:
        return self.make(op, a, width=a.width)

    def expand(self, a: Expr, width: int) -> Expr:
        """`a` of one unit, the same for `width` units; constants and what is that wide already stay."""
        if a.width in (0, width):
            return a
        if a.width != 1:
            raise NotTraceable(f"widths {a.width} and {width} do not match")
        return self.make("expand", a, width=width)

    def select(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        width = max(e.width for e in (condition, a, b))
        parts = [self.expand(e, width) for e in (condition, a, b)]
        return parts[1] if parts[1] is parts[2] else self.make("select", *parts, width=width)

    def binary(self, op: str, a: Expr, b: Expr) -> Expr:
        """With the simplifications that keep derived gradients short: 0 + a, 1 * a, 0 * a, constants."""
        a, b = self.expand(a, max(a.width, b.width)), self.expand(b, max(a.width, b.width))
        va, vb = (e.args[0] if e.op == "const" else None for e in (a, b))
        if va is not None and vb is not None:
            return self.const(
                {"add": va + vb, "sub": va - vb, "mul": va * vb, "div": va / vb if vb else float("nan")}[op]
            )
        if (op in ("add", "sub") and vb == 0) or (op in ("mul", "div") and vb == 1):
            return a
        if (op == "add" and va == 0) or (op == "mul" and va == 1):
            return b
        if op == "mul" and (va == 0 or vb == 0):
            return self.const(0)
        if op == "sub" and va == 0:
            return self.unary("neg", b)
        return self.make(op, a, b, width=a.width or b.width)

    def slice(self, e: Expr, offset: int, width: int) -> Expr:
        """A slice along the units, pushed down to the loads."""
        if e.op == "const":
            return e
        if e.op == "load":
            return self.load(e.args[0], e.args[1] + offset, width)
        if e.op == "expand":
            return self.expand(e.args[0], width)
        args = [self.slice(a, offset, width) for a in e.args]
        if e.op == "select":
            return self.select(*args)
        return self.unary(e.op, *args) if len(args) == 1 else self.binary(e.op, *args)

    def param(self, tensor: Tensor) -> Expr:
        if tensor.dim() > 1:
            raise NotTraceable(f"a tensor of shape {tuple(tensor.shape)} meets the state; only per-unit vectors may")
        tensor = tensor if tensor.dim() else tensor.view(1)
        for j, known in enumerate(self.params):
            if known is tensor:
                return self.load(("p", j), 0, tensor.shape[0])
        self.params.append(tensor)
        return self.load(("p", len(self.params) - 1), 0, tensor.shape[0])

    def linear(self, x: Expr, weight: Tensor, bias: Tensor | None) -> Expr:
        if isinstance(bias, Symbol) or weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise NotTraceable("a linear map takes a matrix, and a bias of one entry for each of its rows")
        if x.width != weight.shape[1]:
            raise NotTraceable(f"a linear map of {weight.shape[1]} columns on {x.width} units")
        self.linears.append(Linear(x, weight, bias))
        self.order.append(self.linears[-1])
        return self.load(("L", len(self.linears) - 1), 0, weight.shape[0])

    def row(self, kind: str, x: Expr, count: int = 1) -> Expr:
        if not x.width:
            raise NotTraceable(f"{kind} of a constant")
        self.rows.append(RowMap(kind, x, 1 if kind == "sum" else x.width * count, count))
        self.order.append(self.rows[-1])
        return self.load(("R", len(self.rows) - 1), 0, self.rows[-1].width)

    def moving(self) -> set[int]:
        """Ids of the nodes that carry a gradient: what depends on z, a state or a tensor that requires one."""
        found: set[int] = set()
        for e in self.nodes:
            if e.op == "load":
                kind, k = e.args[0]
                flat = (kind == "p" and not self.params[k].requires_grad) or (
                    kind == "R" and self.rows[k].input.id not in found)  # fmt: skip
            else:
                args = e.args[1:] if e.op == "select" else e.args
                flat = e.op in FLAT or not any(isinstance(a, Expr) and a.id in found for a in args)
            if not flat:
                found.add(e.id)
        return found

    def add_in_place(self, a: Expr, b: Expr) -> Expr | None:
        """`z + linear(...)`, both whole: the product is accumulated onto a copy of z, so both share one gradient."""
        for z, out in ((a, b), (b, a)):
            if not (
                self.fuse and z.op == "load" and out.op == "load" and z.args[0][0] == "z" and out.args[0][0] == "L"
            ):
                continue
            i, k = z.args[0][1], out.args[0][1]
            whole = z.width == self.z_widths[i] and out.width == self.linears[k].weight.shape[0] == z.width
            if whole and self.linears[k].addend is None and all(m.addend != i for m in self.linears):
                self.linears[k].addend = i
                return self.load(("A", k), 0, out.width)
        return None

    def reached(self) -> list[Expr]:
        """Nodes that the outputs need, in topological order; inputs of the maps included."""
        stack, found = [*self.outputs, *(m.input for m in self.order)], set()
        while stack:
            e = stack.pop()
            if e.id not in found:
                found.add(e.id)
                stack += [a for a in e.args if isinstance(a, Expr)]
        return [e for e in self.nodes if e.id in found]


class Symbol:
    """Stands for a (B, width) tensor while a step is traced."""

    def __init__(self, graph: Graph, expr: Expr, boolean: bool = False):
        self.graph, self.expr = graph, expr
        self.boolean = boolean  # in torch it is a mask: two of them add up to one

    def _lift(self, other) -> Expr:
        if isinstance(other, Symbol):
            return other.expr
        return self.graph.param(other) if isinstance(other, Tensor) else self.graph.const(other)

    def _binary(self, op, a, b):
        masks = [isinstance(x, Symbol) and x.boolean for x in (a, b)]
        if all(masks) and op != "mul":
            raise NotTraceable(f"{op} of two masks")
        a, b = self._lift(a), self._lift(b)
        fused = self.graph.add_in_place(a, b) if op == "add" else None
        return Symbol(self.graph, fused or self.graph.binary(op, a, b), all(masks))

    def split(self, sizes, dim=-1):
        if dim != -1:
            raise NotTraceable("only the last axis can be split")
        width = self.expr.width
        sizes = [sizes] * (width // sizes) if isinstance(sizes, int) else list(sizes)
        if sum(sizes) != width:
            raise NotTraceable(f"a split of {width} units into {sizes}")
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        cut = (self.graph.slice(self.expr, o, w) for o, w in zip(starts, sizes, strict=True))
        return tuple(Symbol(self.graph, e, self.boolean) for e in cut)

    def chunk(self, count, dim=-1):
        if count < 1 or self.expr.width % count:
            raise NotTraceable(f"{self.expr.width} units in {count} chunks")
        return self.split(self.expr.width // count, dim)

    def detach(self):
        return Symbol(self.graph, self.graph.unary("detach", self.expr))

    def _row(self, kind, dim, count=1):
        if dim != -1:
            raise NotTraceable(f"{kind} along another axis than the last")
        return Symbol(self.graph, self.graph.row(kind, self.expr, count))

    def softmax(self, dim):
        return self._row("softmax", dim)

    def cumsum(self, dim):
        return self._row("cumsum", dim)

    def sum(self, dim, keepdim=False):
        if not keepdim:
            raise NotTraceable("a sum over the units that drops their axis")
        return self._row("sum", dim)

    def repeat_interleave(self, repeats, dim=None):
        return self._row("repeat", dim, repeats)

    def tile(self, dims):
        if len(dims) != 1:
            raise NotTraceable("only the last axis can be tiled")
        return self._row("tile", -1, dims[0])

    def repeat(self, *sizes):
        if len(sizes) != 2 or sizes[0] != 1:
            raise NotTraceable("only the last axis can be repeated")
        return self._row("tile", -1, sizes[1])

    def square(self):
        return self * self

    def layer_norm(self, shape, weight=None, bias=None, eps=1e-5):
        if tuple(shape) != (self.expr.width,):
            raise NotTraceable("a layer norm over other axes than the last")
        centred = self - self.sum(-1, keepdim=True) / self.expr.width
        y = centred / torch.sqrt(centred.square().sum(-1, keepdim=True) / self.expr.width + eps)
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    def _unknown(self, *other):
        raise NotTraceable("whether two tensors are equal, or one is true, is not known while a step is read")

    __eq__ = __ne__ = __bool__ = _unknown

    def _in_place(self, *other):
        raise NotTraceable("a step that changes a tensor in place")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = _in_place
    __hash__ = object.__hash__

    def _where(self, condition, a, b):
        mask = all(isinstance(x, Symbol) and x.boolean for x in (a, b))
        return Symbol(self.graph, self.graph.select(*(self._lift(x) for x in (condition, a, b))), mask)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", str(func)), kwargs or {}
        me = next((a for a in args if isinstance(a, Symbol)), None)
        given = {key for key, value in kwargs.items() if value is not None and value is not False}
        if me is None or given - _KEYWORDS.get(name, set()):
            raise NotTraceable(f"the sequence kernels do not know the operation {name!r} {sorted(given)} in this form")
        if name in _TWO:
            op, swap = _TWO[name]
            return me._binary(op, *(args[:2][::-1] if swap else args[:2]))
        if name in _ONE:
            return Symbol(me.graph, me.graph.unary(_ONE[name], me.expr))
        if name == "linear":
            x, weight, bias = (*args, kwargs.get("bias"))[:3]
            return Symbol(me.graph, me.graph.linear(x.expr, weight, bias))
        if name in _COMPARED:  # 1 where the first is greater
            first, second = (me._lift(a) for a in (args[:2] if _COMPARED[name] else args[1::-1]))
            return Symbol(me.graph, me.graph.unary("step", me.graph.binary("sub", first, second)), True)
        if name == "where":
            return me._where(*args)
        if name in _METHODS:
            return getattr(args[0], name)(*args[1:], **kwargs)
        raise NotTraceable(f"the sequence kernels do not know the operation {name!r}")


_KEYWORDS = {
    "linear": {"bias"}, "split": {"dim"}, "chunk": {"dim"}, "softmax": {"dim"}, "cumsum": {"dim"}, "sum": {"dim", "keepdim"},
    "repeat_interleave": {"dim"}, "layer_norm": {"weight", "bias", "eps"},
}  # fmt: skip
_METHODS = ("split", "chunk", "detach", "softmax", "cumsum", "sum", "repeat_interleave", "tile", "square", "layer_norm")
_COMPARED = {"gt": True, "__gt__": True, "greater": True, "lt": False, "__lt__": False, "less": False}
_ONE = {op: op for op in UNARY if op not in ("step", "detach")} | {"neg": "neg", "__neg__": "neg", "negative": "neg"}
_TWO = {op: (op, False) for op in BINARY} | {"subtract": ("sub", False), "multiply": ("mul", False)}
_TWO |= {f"__{op}__": (op, False) for op in BINARY} | {f"__r{op}__": (op, True) for op in BINARY}
_TWO |= {
    "__truediv__": ("div", False),
    "__rtruediv__": ("div", True),
    "true_divide": ("div", False),
    "rsub": ("sub", True),
}


def _operator(name):
    def method(self, *others):
        return Symbol.__torch_function__(_Named(name), (), (self, *others))

    return method


@dataclass
class _Named:
    __name__: str


_infix = (f"__{r}{op}__" for r in ("", "r") for op in ("add", "sub", "mul", "truediv"))
for _name in ("__neg__", "__gt__", "__lt__", *_infix):
    setattr(Symbol, _name, _operator(_name))


def trace(cell, z_widths: tuple[int, ...], state_widths: tuple[int, ...]) -> Graph:
    """The graph of `cell.step`. Raises NotTraceable."""
    for fuse in (True, False):
        graph = Graph(fuse=fuse, z_widths=z_widths, state_widths=state_widths)
        z = tuple(Symbol(graph, graph.load(("z", i), 0, w)) for i, w in enumerate(z_widths))
        state = tuple(Symbol(graph, graph.load(("s", i), 0, w)) for i, w in enumerate(state_widths))
        try:
            with torch.enable_grad():  # what is computed from parameters must say that it needs a gradient
                new = cell.step(z, state)
        except NotTraceable:
            raise
        except Exception as error:  # an operation that a Symbol does not have; what is wrong in torch too, the loop will say
            raise NotTraceable(str(error)) from error
        if not all(isinstance(s, Symbol) for s in new):
            raise NotTraceable("an entry of the new state does not depend on the step's inputs")
        graph.outputs = [s.expr for s in new]
        if [e.width for e in graph.outputs] != list(state_widths):
            raise NotTraceable("the state changes its width")
        loads = {e.args[0] for e in graph.reached() if e.op == "load"}
        apart = any(
            m.addend is not None and (("L", k) in loads or ("z", m.addend) in loads)
            for k, m in enumerate(graph.linears)
        )
        if not apart:  # else a summand is also used by itself, and the sum may not overwrite it
            _check_slices(graph)
            return graph
    raise AssertionError("unreachable: nothing is summed in place without `fuse`")


def _check_slices(graph: Graph) -> None:
    """Loads of one buffer must be equal or disjoint, so that a gradient has one place to go."""
    spans: dict[Buffer, set] = {}
    for e in graph.reached():
        if e.op == "load":
            spans.setdefault(e.args[0], set()).add((e.args[1], e.args[1] + e.width))
    for buffer, found in spans.items():
        ordered = sorted(found)
        if any(a[1] > b[0] for a, b in itertools.pairwise(ordered)):
            raise NotTraceable(f"overlapping slices of {buffer[0]}{buffer[1]}")
