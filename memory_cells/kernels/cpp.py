"""Compiles a program to one C++ function that runs the whole sequence on the CPU.

Every thread takes a slice of the batch through all T steps: rows never meet inside the loop, so there is one parallel
region per call and no barrier in it. Matrix products go to `tiles`, or, for one row, in float64 and without AVX-512, to the
sgemm/dgemm that torch itself carries. The object is compiled once per equation and machine (`compiler`).
"""

from __future__ import annotations

import ctypes
import math

import torch

from memory_cells.kernels import tiles
from memory_cells.kernels.compiler import compiled, product_of_torch
from memory_cells.kernels.graph import Buffer, Expr
from memory_cells.kernels.program import Loop, Product, Program, RowStep

#: float32 is what runs; float64 is for checks, where compiling fast matters more than running fast
OPTIMISE = {torch.float32: "-O3", torch.float64: "-O1"}

PRELUDE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
typedef REAL real;
typedef void (*gemm_t)(const char*, const char*, const int*, const int*, const int*, const real*, const real*, const int*,
                       const real*, const int*, const real*, real*, const int*);
typedef void (*multiply_t)(long, long, long, const real*, const real*, real*, bool);
// forced: in a large step (KAF gates) GCC leaves the exponential as a call, and the loop around it is no longer vectorised
#define INLINE static inline __attribute__((always_inline))
#if SINGLE
// exp by range reduction to [-ln2/2, ln2/2] and a Taylor polynomial of degree 7; comparisons let NaN through. At the
// bounds the scale's exponent is that of infinity and of 0: above 88.37 and below -87.68 the result is these.
INLINE float exp_(float x) {
    x = x > 88.8f ? 88.8f : x;
    x = x < -88.0f ? -88.0f : x;
    float k = __builtin_rintf(x * 1.44269504088896341f);
    float r = x - k * 0.693359375f + k * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = ((int32_t)k + 127) << 23;
    float scale;
    __builtin_memcpy(&scale, &bits, 4);
    return p * scale;
}
INLINE float tanh_(float x) {
    float a = x < 0 ? -x : x, q = x * x;
    float e = exp_(-2 * a), far = (1 - e) / (1 + e);
    // odd series where 1 - e would cancel
    float near = a * (1 + q * (-1.0f / 3 + q * (2.0f / 15 + q * (-17.0f / 315 + q * (62.0f / 2835)))));
    float y = a < 0.25f ? near : far;
    return x < 0 ? -y : y;
}
#else
INLINE double exp_(double x) { return std::exp(x); }
INLINE double tanh_(double x) { return std::tanh(x); }
#endif
INLINE real sigmoid_(real x) { return 1 / (1 + exp_(-x)); }
INLINE real relu_(real x) { return x > 0 ? x : (x != x ? x : (real)0); }
INLINE real step_(real x) { return x > 0 ? (real)1 : (real)0; }
INLINE real sign_(real x) { return x > 0 ? (real)1 : (x < 0 ? (real)-1 : (real)0); }
INLINE real abs_(real x) { return x < 0 ? -x : x; }
// what mixes the units of one row; the transposes carry gradients
static inline real row_sum_(const real* x, long n) {
    real total = 0;
    _Pragma("omp simd reduction(+:total)") for (long j = 0; j < n; ++j) total += x[j];
    return total;
}
static inline void row_sum(const real* x, real* y, long n, long m, long count, const real*) { y[0] = row_sum_(x, n); }
static inline void row_softmax(const real* x, real* y, long n, long m, long count, const real*) {
    real top = x[0];
    _Pragma("omp simd reduction(max:top)") for (long j = 0; j < n; ++j) top = x[j] > top ? x[j] : top;
    _Pragma("omp simd") for (long j = 0; j < n; ++j) y[j] = exp_(x[j] - top);
    const real scale = 1 / row_sum_(y, n);
    _Pragma("omp simd") for (long j = 0; j < n; ++j) y[j] *= scale;
}
static inline void row_softmax_t(const real* g, real* x, long n, long m, long count, const real* y) {
    real dot = 0;
    _Pragma("omp simd reduction(+:dot)") for (long j = 0; j < n; ++j) dot += g[j] * y[j];
    _Pragma("omp simd") for (long j = 0; j < n; ++j) x[j] = y[j] * (g[j] - dot);
}
static inline void row_cumsum(const real* x, real* y, long n, long m, long count, const real*) {
    real total = 0;
    for (long j = 0; j < n; ++j) y[j] = total += x[j];
}
static inline void row_cumsum_t(const real* g, real* x, long n, long m, long count, const real*) {
    real total = 0;
    for (long j = n - 1; j >= 0; --j) x[j] = total += g[j];
}
static inline void row_repeat(const real* x, real* y, long n, long m, long count, const real*) {
    for (long j = 0; j < n; ++j)
        for (long c = 0; c < count; ++c) y[j * count + c] = x[j];
}
static inline void row_repeat_t(const real* g, real* x, long n, long m, long count, const real*) {
    for (long j = 0; j < m; ++j) x[j] = row_sum_(g + j * count, count);
}
static inline void row_tile(const real* x, real* y, long n, long m, long count, const real*) {
    for (long c = 0; c < count; ++c) std::memcpy(y + c * n, x, n * sizeof(real));
}
static inline void row_tile_t(const real* g, real* x, long n, long m, long count, const real*) {
    std::memcpy(x, g, m * sizeof(real));
    for (long c = 1; c < count; ++c)
        _Pragma("omp simd") for (long j = 0; j < m; ++j) x[j] += g[c * m + j];
}
static inline void product(gemm_t gemm, multiply_t multiply, bool forward, long rows, int K, int W, const real* w,
                           const real* panels, const real* x, real* y, bool add) {
    const real one = 1, beta = add ? 1 : 0;
    const int n = (int)rows;  // column-major view: forward y' = w x', backward x' = w' y'
    if (multiply) multiply(rows, forward ? K : W, forward ? W : K, panels, x, y, add);
    else if (forward) gemm("T", "N", &W, &n, &K, &one, w, &K, x, &K, &beta, y, &W);
    else gemm("N", "N", &K, &n, &W, &one, w, &K, x, &W, &beta, y, &K);
}
"""

_CALLS = {"sigmoid": "sigmoid_", "tanh": "tanh_", "exp": "exp_", "relu": "relu_", "step": "step_", "sign": "sign_",
          "abs": "abs_", "log": "std::log", "sqrt": "std::sqrt", "floor": "std::floor",
          "detach": "", "expand": ""}  # fmt: skip
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


#: buffers (B, .) without a time axis
_ONE_STEP = ("g", "n", "dp", "dX", "U", "dR", "dU", "V", "W")


class _Source:
    """The text of one direction. Arguments arrive in one array of pointers, in the order of `names`. Values of the nodes
    `known` lie in the buffer that they were made of."""

    def __init__(self, program: Program, known: set[int]):
        self.program, self.graph, self.names, self.lines, self.known = program, program.graph, [], [], set(known)

    def pointer(self, buffer: Buffer) -> str:
        if buffer[0] == "A":  # a sum onto z lies where its product lies
            buffer = ("L", buffer[1])
        if buffer not in self.names:
            self.names.append(buffer)
        return f"{buffer[0]}{buffer[1]}"

    def width(self, buffer: Buffer) -> int:
        kind, k = buffer
        match kind:
            case "z" | "dz":
                return self.graph.z_widths[k]
            case "s" | "o" | "g" | "n" | "di":
                return self.graph.state_widths[k]
            case "L" | "A" | "dL":
                return self.graph.linears[k].weight.shape[0]
            case "X" | "dX":
                return self.graph.linears[k].weight.shape[1]
            case "p" | "dp":
                return self.graph.params[k].shape[0]
            case "R" | "dR":
                return self.graph.rows[k].width
            case "U" | "dU":
                return self.graph.rows[k].input.width
            case "V" | "W":
                return self.program.sums[k] if kind == "V" else 1
        raise AssertionError(buffer)

    def row(self, buffer: Buffer) -> str:
        """Address of row b at step t."""
        if buffer[0] == "o":  # the new state is the next step's, and (t + 1) * B + b its row
            return f"{self.pointer(('s', buffer[1]))} + ((t + 1) * B + b) * {self.width(buffer)}"
        name, width = self.pointer(buffer), self.width(buffer)
        if buffer[0] == "p":
            return name
        return f"{name} + b * {width}" if buffer[0] in _ONE_STEP else f"{name} + (t * B + b) * {width}"

    def loop(self, loop: Loop) -> None:
        needed, stack = {}, [s.expr for s in loop.stores]
        while stack:
            e = stack.pop()
            if e.id not in needed:
                needed[e.id] = e
                stack += [a for a in e.args if isinstance(a, Expr)]
        nodes = [needed[i] for i in sorted(needed)]
        keep = {e.id: e.args[0] for e in nodes if e.id in self.program.kept - self.known}
        written = {e.args for e in keep.values()}
        out = self.lines.append
        out("      for (long b = lo; b < hi; ++b) {")
        for buffer, offset in sorted({(e.args[0], e.args[1]) for e in nodes if e.op == "load"}):
            const = "" if (buffer, offset) in written else "const "
            out(f"        {const}real* __restrict {_name(buffer, offset)} = {self.row(buffer)} + {offset};")
        for s in loop.stores:
            out(f"        real* __restrict {_name(s.buffer, s.offset)} = {self.row(s.buffer)} + {s.offset};")
        alone = {e.id for e in nodes if e.width == 1 < loop.width}  # once a row
        for e in nodes:
            if e.id in alone or e.op == "const":
                out(f"        const real v{e.id} = {self.value(e, '0')};")
        out(f'        _Pragma("omp simd") for (long j = 0; j < {loop.width}; ++j) {{')
        for e in nodes:
            if e.id not in alone and e.op != "const":
                out(f"          const real v{e.id} = {self.value(e)};")
        for i, e in keep.items():
            out(f"          {_name(*e.args)}[j] = v{i};")
        self.known |= keep.keys()
        for s in loop.stores:
            out(f"          {_name(s.buffer, s.offset)}[j] {'+=' if s.buffer[0] == 'dp' else '='} v{s.expr.id};")
        out("        }\n      }")

    def product(self, k: int | str, shape: tuple[int, int | str], forward: bool, x: str, y: str, add: bool) -> str:
        """Rows of y (+)= x w' if `forward`, else x w, with the weight w (W, K) called k."""
        (W, K), (w, panels) = shape, (self.pointer((kind, k)) for kind in "wP")
        return (f"product(gemm, multiply, {str(forward).lower()}, hi - lo, {K}, {W}, {w}, {panels}, {x}, {y},"
                f" {str(add).lower()});")  # fmt: skip

    def row_step(self, item: RowStep) -> None:
        saved = self.row(item.saved) if item.saved and item.kind == "softmax_t" else "nullptr"
        n, m = item.widths
        self.lines.append(
            f"      for (long b = lo; b < hi; ++b) row_{item.kind}({self.row(item.source)}, {self.row(item.target)},"
            f" {n}, {m}, {item.count}, {saved});"
        )

    def value(self, e: Expr, index: str = "j") -> str:
        args = [f"v{a.id}" for a in e.args if isinstance(a, Expr)]
        if e.op == "const":
            return f"(real){_number(e.args[0])}"
        if e.op == "load":
            return f"{_name(*e.args)}[{index}]"
        if e.id in self.known:
            return args[0]
        if e.op == "neg":
            return f"-{args[0]}"
        if e.op == "select":
            return f"{args[0]} != 0 ? {args[1]} : {args[2]}"
        return f"{args[0]} {_INFIX[e.op]} {args[1]}" if e.op in _INFIX else f"{_CALLS[e.op]}({args[0]})"

    def finish(self, head: list[str], tail: list[str]) -> str:
        names = "\n".join(f"  real* const {b[0]}{b[1]} = (real*)a[{i}];" for i, b in enumerate(self.names))
        return "\n".join([head[0], names, *head[1:], *self.lines, *tail])


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"


def _name(buffer: Buffer, offset: int) -> str:
    return f"{buffer[0]}{buffer[1]}_{offset}"


_REGION = """  #pragma omp parallel num_threads(threads) if (threads > 1)
  {
    // there may be fewer threads than were asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC, a region within a region)
    const long team = omp_get_num_threads(), id = omp_get_thread_num(), lo = B * id / team, hi = B * (id + 1) / team;"""


def _forward(program: Program, mapped: bool) -> tuple[str, list[Buffer]]:
    src = _Source(program, set())
    out, graph = src.lines.append, src.graph
    for i, w in enumerate(graph.state_widths):
        s, start = src.pointer(("s", i)), src.pointer(("init", i))
        out(f"      for (long b = lo; b < hi; ++b) if (first[t * B + b])"
            f" std::memcpy({s} + (t * B + b) * {w}, {start} + b * {w}, {w} * sizeof(real));")  # fmt: skip
    onto = {m.addend for m in graph.linears}

    def map_onto(y: str) -> None:
        """Adds the map of the input onto `y`, rows as wide as z0."""
        x = f"{src.pointer(('x', 0))} + (t * B + lo) * inputs"
        out("      " + src.product("x", (graph.z_widths[0], "inputs"), True, x, y, True))

    if mapped and 0 not in onto:
        z, W = src.pointer(("z", 0)), graph.z_widths[0]
        out(f"      for (long b = lo; b < hi; ++b)"
            f" std::memcpy({z} + (t * B + b) * {W}, {src.pointer(('b', 'x'))}, {W} * sizeof(real));")  # fmt: skip
        map_onto(f"{z} + (t * B + lo) * {W}")
    for item in program.forward:
        if not isinstance(item, Product):
            src.loop(item) if isinstance(item, Loop) else src.row_step(item)
            continue
        m, L = graph.linears[item.k], src.pointer(("L", item.k))
        W, K = m.weight.shape
        x = src.pointer(program.inputs[item.k])
        terms = [] if m.bias is None else [f"{src.pointer(('b', item.k))}[j]"]
        inside = mapped and m.addend == 0
        if inside:
            terms.append(f"{src.pointer(('b', 'x'))}[j]")
        elif m.addend is not None:
            terms.append(f"{src.pointer(('z', m.addend))}[(t * B + b) * {W} + j]")
        if terms:
            out(f"      for (long b = lo; b < hi; ++b) _Pragma(\"omp simd\") for (long j = 0; j < {W}; ++j)"
                f" {L}[(t * B + b) * {W} + j] = {' + '.join(terms)};")  # fmt: skip
        y = f"{L} + (t * B + lo) * {W}"
        if inside:
            map_onto(y)
        out("      " + src.product(item.k, (W, K), True, f"{x} + (t * B + lo) * {K}", y, bool(terms)))
    w = graph.state_widths[0]
    out(f"      std::memcpy({src.pointer(('y', 0))} + (t * B + lo) * {w},"
        f" {src.pointer(('s', 0))} + ((t + 1) * B + lo) * {w}, (hi - lo) * {w} * sizeof(real));")  # fmt: skip
    head = ['extern "C" void forward_(long T, long B, int threads, const uint8_t* first, gemm_t gemm, multiply_t multiply, '
            'void** a, long inputs) {',
            _REGION, "    if (lo < hi) for (long t = 0; t < T; ++t) {"]  # fmt: skip
    return src.finish(head, ["    }", "  }", "}"]), src.names


def _backward(program: Program, mapped: bool) -> tuple[str, list[Buffer]]:
    src = _Source(program, program.kept)
    out, graph = src.lines.append, src.graph
    states = range(len(graph.state_widths))
    w0 = graph.state_widths[0]
    gy = src.pointer(("gy", 0))
    out(f"      if ({gy}) for (long b = lo; b < hi; ++b) _Pragma(\"omp simd\") for (long j = 0; j < {w0}; ++j)"
        f" g0[b * {w0} + j] += {gy}[(t * B + b) * {w0} + j];")  # fmt: skip
    for item in program.backward:
        if not isinstance(item, Product):
            src.loop(item) if isinstance(item, Loop) else src.row_step(item)
            continue
        W, K = graph.linears[item.k].weight.shape
        dL, target = src.pointer(("dL", item.k)), item.target
        y = f"n{target[1]}" if target[0] == "n" else src.pointer(target)
        out("      " + src.product(item.k, (W, K), False, f"{dL} + (t * B + lo) * {W}", f"{y} + lo * {K}", item.adds))
    if mapped:
        W, dx = graph.z_widths[0], src.pointer(("dx", 0))
        rows = f"{src.pointer(program.gradient_of_z(0))} + (t * B + lo) * {W}", f"{dx} + (t * B + lo) * inputs"
        out(f"      if ({dx}) " + src.product("x", (W, "inputs"), False, *rows, False))
    for i in states:
        w, start = graph.state_widths[i], src.pointer(("di", i))
        out(f"      for (long b = lo; b < hi; ++b) if (first[t * B + b]) for (long j = 0; j < {w}; ++j)"
            f" {{ {start}[b * {w} + j] += n{i}[b * {w} + j]; n{i}[b * {w} + j] = 0; }}")  # fmt: skip
        out(f"      {{ real* swap = g{i}; g{i} = n{i}; n{i} = swap; }}")
    swaps = []
    for i in states:  # g and n trade places every step, so they are local names
        src.names = [b for b in src.names if b not in (("g", i), ("n", i))]
    base = len(src.names)
    for i in states:
        src.names += [("G", i), ("N", i)]
        swaps.append(f"    real *g{i} = (real*)a[{base + 2 * i}], *n{i} = (real*)a[{base + 2 * i + 1}];")
    copy = [f"    if (lo < hi && g{i} != G{i}) std::memcpy(G{i} + lo * {w}, g{i} + lo * {w}, (hi - lo) * {w} * sizeof(real));"
            for i, w in enumerate(graph.state_widths)]  # fmt: skip
    head = ['extern "C" void backward_(long T, long B, int threads, const uint8_t* first, gemm_t gemm, multiply_t multiply, '
            'void** a, long inputs) {',
            _REGION, *swaps, "    if (lo < hi) for (long t = T - 1; t >= 0; --t) {"]  # fmt: skip
    return src.finish(head, ["    }", *copy, "  }", "}"]), src.names


def threads_for(B: int) -> int:
    """How many threads share B rows: none has fewer than four, if there are as many."""
    return max(1, min(torch.get_num_threads(), B // 4))


class Kernel:
    """The compiled pair. `forward` and `backward` take a dict of buffers, as `eager` does. With `mapped` they make z0 of
    the input themselves: rows ("x", 0), weight ("w", "x"), bias ("b", "x"), the rows' gradient ("dx", 0) or None."""

    def __init__(self, program: Program, dtype: torch.dtype, mapped: bool = False):
        single = dtype == torch.float32
        head = PRELUDE.replace("REAL", "float" if single else "double").replace("SINGLE", "1" if single else "0")
        (text_f, self.names_f), (text_b, self.names_b) = _forward(program, mapped), _backward(program, mapped)
        self.gemm = ctypes.c_void_p(product_of_torch("sgemm_" if single else "dgemm_"))
        multiply, self.gradient = (tiles.functions(compiled) if single else None) or (None, None)
        self.multiply = ctypes.cast(multiply, ctypes.c_void_p) if multiply else None
        library = compiled("\n".join([head, text_f, text_b]), OPTIMISE[dtype])
        self._forward, self._backward = library.forward_, library.backward_

    def _call(self, function, names, first, buffers, forward: bool):
        T, B = first.shape
        multiply = self.multiply if T > 1 else None  # one row does not pay for laying the weights out
        for k in [k for kind, k in names if kind == "P"]:
            w, unused = buffers["w", k], k == "x" and not forward and buffers["dx", 0] is None
            buffers["P", k] = tiles.panels(w.t() if forward else w) if multiply and not unused else None
        pointers = (ctypes.c_void_p * len(names))(
            *(buffers[n].data_ptr() if buffers[n] is not None else None for n in names)
        )
        threads = threads_for(B)
        function(
            ctypes.c_long(T),
            ctypes.c_long(B),
            ctypes.c_int(threads),
            ctypes.c_void_p(first.data_ptr()),
            self.gemm,
            multiply,
            pointers,
            ctypes.c_long(buffers["x", 0].shape[2] if ("x", 0) in buffers else 0),
        )

    def forward(self, first, buffers):
        self._call(self._forward, self.names_f, first, buffers, True)

    def backward(self, first, buffers):
        self._call(self._backward, self.names_b, first, buffers, False)
