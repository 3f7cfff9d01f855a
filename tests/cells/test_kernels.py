"""The machinery of the fused path: what it refuses, what it falls back to, that it is exact."""

import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F

from memory_cells import make_core, unroll
from memory_cells.cells import Cell
from memory_cells.kernels import compiler, cpp, sequence
from memory_cells.kernels.graph import NotTraceable

T, B, I, H = 7, 6, 3, 4
X = torch.linspace(-1, 1, T * B * I).view(T, B, I)
FIRST = torch.zeros(T, B, dtype=torch.bool)
FIRST[3, 2] = True


class Custom(Cell):
    """A cell whose step is given as a function of (z, h, weight, vector)."""

    def __init__(self, function, width=H):
        super().__init__(I, H)
        generator = torch.Generator().manual_seed(0)
        self.weight_x = torch.nn.Parameter(torch.randn(width, I, generator=generator))
        self.weight_h = torch.nn.Parameter(torch.randn(H, H, generator=generator) / 2)
        self.vector = torch.nn.Parameter(torch.rand(H, generator=generator))
        self.start = torch.nn.Parameter(torch.randn(H, generator=generator))
        self.function = function

    def project(self, x):
        return (F.linear(x, self.weight_x),)

    def initial_state(self, batch):
        return (self.start.expand(batch, H),)

    def step(self, z, state):
        return (self.function(z[0], state[0], self.weight_h, self.vector),)


OPERATIONS = {
    "exp log": lambda z, h, w, v: torch.log(torch.exp(z) + torch.exp(-h) + v),
    "division": lambda z, h, w, v: z / (1 + torch.exp(F.linear(h, w))) - 1 / (2 + v),
    "relu abs": lambda z, h, w, v: torch.relu(z + F.linear(h, w)) - torch.abs(h) * v,
    "sqrt": lambda z, h, w, v: torch.sqrt(h * h + z * z + v),
    "z also apart from its sum": lambda z, h, w, v: torch.tanh(z + F.linear(h, w)) * z,
    "product also apart from its sum": lambda z, h, w, v: (lambda u: torch.tanh(z + u) * u)(F.linear(h, w)),
    "bias in the product": lambda z, h, w, v: torch.tanh(z + F.linear(h, w, v)),
    "bias in a lone product": lambda z, h, w, v: torch.tanh(F.linear(h, w, v)) + z,
    "two products in a row": lambda z, h, w, v: torch.tanh(F.linear(torch.tanh(F.linear(h, w) + z), w) + h),
    "a constant that is not finite": lambda z, h, w, v: torch.softmax(torch.where(z > 1.5, -float("inf"), z + h), -1),
    "masks": lambda z, h, w, v: z * ((z > 0) * (h > 0)) + h * torch.where(h > v, z > 0, z > h),
    "derived vector": lambda z, h, w, v: torch.sigmoid(v) * h + z,
    "derived weight": lambda z, h, w, v: torch.tanh(F.linear(h, torch.tanh(w)) + z),
    "negative and reflected": lambda z, h, w, v: 1 - (-z) * (2 - h) / 3 + (v - h) * (1 / (3 + h * h)),
    "never reads the state": lambda z, h, w, v: torch.tanh(z) * v,
    "reads it outside the product": lambda z, h, w, v: h * v + torch.tanh(z),
    # the input of the first product comes after that of the second in the step
    "products of an early and of a late input": lambda z, h, w, v: (
        torch.tanh(F.linear(torch.tanh(h * v), w)) + F.linear(h, w.t()) + z
    ),
    "three products of one state": lambda z, h, w, v: (
        torch.tanh(F.linear(torch.tanh(F.linear(h, w)) * h, w)) + F.linear(h, w.t()) * z + F.linear(h, w * v)
    ),
    "softmax": lambda z, h, w, v: torch.softmax(3 * z + F.linear(h, w), -1) * v + h / 2,
    "cumax": lambda z, h, w, v: torch.cumsum(torch.softmax(z + F.linear(h, w), -1), -1) * h,
    "running sum of halves": lambda z, h, w, v: torch.cumsum(h, -1) / 4 + z,
    "repeat": lambda z, h, w, v: torch.repeat_interleave(torch.tanh(h + z).split(2, -1)[0], 2, -1) * v,
    "tile": lambda z, h, w, v: torch.tile(torch.tanh(h + z).split(2, -1)[1], (2,)) * v,
    "repeat of both halves": lambda z, h, w, v: sum(p.repeat(1, 2) for p in torch.tanh(h * v + z).split(2, -1)),
    "sum over units": lambda z, h, w, v: h * torch.tanh(z).sum(-1, keepdim=True) / 3 + v,
    "sum used twice": lambda z, h, w, v: (lambda u: torch.tanh(u) * h - u * z)((h * v).sum(-1, keepdim=True)),
    "one unit against many": lambda z, h, w, v: sum(a * torch.tanh(z - v) for a in h.split(1, -1)) / 4,
    "row of a row": lambda z, h, w, v: torch.softmax(torch.cumsum(z * h, -1), -1) * h.sum(-1, keepdim=True) + v,
    "layer norm": lambda z, h, w, v: torch.tanh(F.layer_norm(z + F.linear(h, w), (H,), v, v)),
    "where": lambda z, h, w, v: torch.where(h > z, h * v, z * h),
    "where with numbers": lambda z, h, w, v: torch.where(torch.sin(v).sum() > h, 0.5, h) * torch.where(z < 0.1, z, 2.0),
    "floor": lambda z, h, w, v: (lambda u: (u - torch.floor(u)) * v)(3 * z + h),
    "detach": lambda z, h, w, v: torch.tanh(F.linear(h.detach(), w) + z) + h.detach() * h * v,
    "detach by a mask": lambda z, h, w, v: torch.tanh(F.linear(torch.where(z > 0, h.detach(), h), w) + z) + h / 2,
    "scalar parameter": lambda z, h, w, v: h * v.sum() + torch.tanh(z * v[0]),
    "columns of a matrix": lambda z, h, w, v: sum(c * torch.exp(-h * h) for c in w.unbind(-1)) + z,
    "half of the state": lambda z, h, w, v: torch.tile(h.split(2, -1)[0], (2,)) * v + z,
}


@pytest.mark.parametrize("path", ["fused", "eager"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_any_listed_operation_gives_the_loops_outputs_and_gradients(name, path):
    core = Custom(OPERATIONS[name]).double()
    x = X.double().requires_grad_()
    state = (torch.full((B, H), 0.3, dtype=torch.float64, requires_grad=True),)
    found = {}
    for p in ("loop", path):
        y, new = unroll(core, x, FIRST, state, path=p)
        loss = (y * torch.arange(y.numel()).view_as(y).cos()).sum() + new[0].square().sum()
        found[p] = [y, *torch.autograd.grad(loss, [x, *state, *core.parameters()], allow_unused=True)]
    for a, b in zip(found["loop"], found[path], strict=True):
        torch.testing.assert_close(torch.zeros(()) if a is None else a, torch.zeros_like(a) if b is None else b) if (
            a is not None) else None  # fmt: skip
        assert a is not None or b is None or (b == 0).all()


def test_unknown_operations_keep_to_the_loop():
    core = Custom(lambda z, h, w, v: torch.sort(z, -1).values + h)
    state = core.initial_state(B)
    with pytest.raises(NotTraceable, match="sort"):
        unroll(core, X, FIRST, state, path="fused")
    torch.testing.assert_close(unroll(core, X, FIRST, state), unroll(core, X, FIRST, state, path="loop"))


def test_the_start_state_learns_through_resets():
    core = Custom(OPERATIONS["reads it outside the product"])
    y, _ = unroll(core, X, FIRST, (torch.zeros(B, H),), path="fused")
    y[3:, 2].sum().backward()
    assert (core.start.grad != 0).all()


def test_without_a_compiler_it_says_so_once_and_is_right(monkeypatch):
    def missing(source, optimise):
        raise compiler.CompilerMissing("no C++ compiler")

    monkeypatch.setattr(cpp, "compiled", missing)
    monkeypatch.setattr(sequence, "_kernels", {})
    monkeypatch.setattr(sequence, "_told", set())
    core = make_core("ur-lstm", I, H)
    want = unroll(core, X, FIRST, core.initial_state(B), path="loop")[0]
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler"):
        y = unroll(core, X, FIRST, core.initial_state(B), path="fused")[0]
    torch.testing.assert_close(y, want)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unroll(core, X, FIRST, core.initial_state(B), path="fused")


def test_the_compiled_kernel_is_really_used(monkeypatch):
    calls = []
    monkeypatch.setattr(
        cpp.Kernel, "_call", lambda self, *a, _real=cpp.Kernel._call: (calls.append(1), _real(self, *a))[1]
    )
    core = make_core("lstm", I, H)
    unroll(core, X, FIRST, core.initial_state(B))[0].sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_every_time(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        core = make_core("ur-lstm", 16, 32)
        x, first = torch.randn(20, 24, 16), torch.rand(20, 24) < 0.1

        def once():
            core.zero_grad()
            y, _ = unroll(core, x, first, core.initial_state(24), path="fused")
            y.sum().backward()
            return [y.detach().clone(), *(p.grad.clone() for p in core.parameters())]

        assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))
    finally:
        torch.set_num_threads(before)


def test_buffers_and_modes_are_read_anew():
    """A value that the learner sets, a change of dtype, and eval mode reach a step that was compiled before."""
    core = Custom(lambda z, h, w, v: torch.tanh(z + h * core.scale) * (1.0 if core.training else 2.0))
    core.register_buffer("scale", torch.ones(()))
    before = len(sequence._kernels)
    for change in (lambda: None, lambda: core.scale.fill_(0.3), core.double, core.eval, core.float, core.train):
        change()
        x, start = X.to(core.vector.dtype), core.initial_state(B)
        want = unroll(core, x, FIRST, start, path="loop")[0]
        torch.testing.assert_close(unroll(core, x, FIRST, start, path="fused")[0], want)
    assert len(sequence._kernels) <= before + 4  # two modes, two dtypes: the value is no part of the code


def test_a_replaced_parameter_is_seen():
    core = Custom(OPERATIONS["reads it outside the product"])
    for _ in range(2):
        y = unroll(core, X, FIRST, core.initial_state(B), path="fused")[0]
        torch.testing.assert_close(y, unroll(core, X, FIRST, core.initial_state(B), path="loop")[0])
        core.vector = torch.nn.Parameter(core.vector.detach() + 1)


def test_what_is_kept_does_not_keep_the_cell_alive():
    core = make_core("kaf-lstm", I, H)
    unroll(core, X, FIRST, core.initial_state(B), path="fused")
    held = weakref.ref(core)
    del core
    gc.collect()
    assert held() is None
    for program in sequence._built.values():
        tensors = [*program.graph.params, *(m.weight for m in program.graph.linears)]
        assert all(t.device.type == "meta" for t in tensors)


def test_bad_numbers_come_through():
    """A NaN must be seen by the learner, not clipped away by a fast exponential."""
    for value, check in ((float("nan"), torch.isnan), (float("inf"), torch.isfinite)):
        core, x = make_core("lstm", I, H), X.clone()
        x[2, 1, 0] = value
        y = unroll(core, x, torch.zeros_like(FIRST), core.initial_state(B), path="fused")[0]
        want = unroll(core, x, torch.zeros_like(FIRST), core.initial_state(B), path="loop")[0]
        assert torch.equal(check(y), check(want))


def test_the_fast_exponential_is_accurate_everywhere():
    """sigmoid and tanh of the kernel against float64, over the whole range of float32 inputs that matter."""
    for function in (torch.sigmoid, torch.tanh):
        core = Custom(lambda z, h, w, v, f=function: f(z))
        core.weight_x.data.fill_(0).fill_diagonal_(1.0)
        points = torch.cat(
            [torch.linspace(-100, 100, 40001), torch.logspace(-8, 2, 4000), -torch.logspace(-8, 2, 4000)]
        )
        points = torch.cat([points, torch.tensor([0.0, 1e-38, -1e-38, 88.0, -88.0, 1e4, -1e4])])
        x = points.view(1, -1, 1).expand(1, -1, I).contiguous()
        first, start = torch.zeros(1, len(points), dtype=torch.bool), core.initial_state(len(points))
        y, _ = unroll(core, x, first, start, path="fused")
        error = (y[0, :, 0].double() - function(points.double())).abs()
        assert error.max() < 3e-7, function


def test_the_fast_exponential_runs_over_and_under():
    core = Custom(lambda z, h, w, v: torch.exp(z))
    core.weight_x.data.fill_(0).fill_diagonal_(1.0)
    points = torch.linspace(-87.3, 88.3, 4001)
    beyond = torch.tensor([88.73, 95.0, float("inf"), -88.0, -104.0, -float("inf"), float("nan")])
    x = torch.zeros(1, len(points) + len(beyond), I)
    x[0, :, 0] = torch.cat([points, beyond])  # alone, for the product makes NaN of infinity beside it
    first, start = torch.zeros(1, x.shape[1], dtype=torch.bool), core.initial_state(x.shape[1])
    y = unroll(core, x, first, start, path="fused")[0][0, :, 0]
    within = y[: len(points)].double() / points.double().exp() - 1
    assert within.abs().max() < 1e-6
    wanted = torch.tensor([float("inf")] * 3 + [0.0] * 3 + [float("nan")])
    torch.testing.assert_close(y[len(points) :], wanted, equal_nan=True, rtol=0, atol=0)


def test_what_is_kept_in_the_place_of_a_linear_output():
    """Costly nodes that alone look at a part of it: the LSTM's three gates and candidate; of JANET not the forget gate,
    whose input is shifted for the write gate."""

    def kept(name):
        core = make_core(name, 4, 6, horizon=9)
        program, *_ = sequence.program_of(core, core.project(torch.zeros(1, 1, 4)), core.initial_state(1))
        return [(e.op, e.args[0].args[1]) for e in program.graph.nodes if e.id in program.kept]

    assert kept("lstm") == [("sigmoid", 0), ("sigmoid", 6), ("tanh", 12), ("sigmoid", 18)]
    assert kept("janet") == [("tanh", 6)] and kept("gru") == []
