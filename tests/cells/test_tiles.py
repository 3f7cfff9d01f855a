"""Matrix products in register tiles, and the sequence function that makes the map of its input with them."""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from test_fused_edges import assert_as_the_loop
from torch import nn

from memory_cells import make_core, unroll
from memory_cells.cells import GRU, LSTM, MappedInput
from memory_cells.gates import Coupled
from memory_cells.kernels import compiler, cpp, sequence, tiles
from memory_cells.kernels.graph import NotTraceable
from memory_cells.multi import Dilated
from memory_cells.wrappers import Zoneout

MULTIPLY, GRADIENT = tiles.functions(compiler.compiled) or (None, None)
pytestmark = pytest.mark.skipif(not MULTIPLY, reason="this processor has no AVX-512")
COLUMNS = [1, 15, 16, 17, 32, 33, 47, 48, 49, 64, 65, 96, 100, 112, 128, 512]


def multiplied(x: torch.Tensor, matrix: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_long] * 3, *[ctypes.c_void_p] * 3, ctypes.c_bool)(
        ctypes.cast(MULTIPLY, ctypes.c_void_p).value)  # fmt: skip
    (rows, inner), columns, panels = x.shape, matrix.shape[1], tiles.panels(matrix)
    y = torch.full((rows + 1, columns), 7.0) if onto is None else torch.cat([onto, torch.full((1, columns), 7.0)])
    call(rows, inner, columns, panels.data_ptr(), x.data_ptr(), y.data_ptr(), onto is not None)
    assert (y[rows] == 7).all()  # nothing is written behind the last row
    return y[:rows]


@pytest.mark.parametrize("columns", COLUMNS)
def test_multiply(columns):
    for rows in (1, 2, 7, 8, 9, 17):
        for inner in (1, 3, 128):
            x, y = torch.randn(rows, inner), torch.randn(rows, columns)
            for matrix in (torch.randn(inner, columns), torch.randn(columns, inner).t()):
                torch.testing.assert_close(multiplied(x, matrix), x @ matrix, atol=1e-4, rtol=0)
                torch.testing.assert_close(multiplied(x, matrix, y), y + x @ matrix, atol=1e-4, rtol=0)


def test_a_rows_bits_do_not_depend_on_its_neighbours():
    x, matrix = torch.randn(21, 64), torch.randn(64, 100)
    together = multiplied(x, matrix)
    assert all(torch.equal(multiplied(x[b : b + 1], matrix), together[b : b + 1]) for b in range(21))


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 16, 20, 33, 48, 60])
def test_gradients(columns):
    torch.manual_seed(columns)
    for rows in (1, 7, 64, 511, 513, 1100):
        for widths in ([1], [15, 33], [64, 17, 128], [40_000] if rows < 100 else [2]):
            g, inputs = torch.randn(rows, columns), [torch.randn(rows, n) for n in widths]
            found, by_bias = tiles.gradients(GRADIENT, g, inputs)
            for x, by_weight in zip(inputs, found, strict=True):
                torch.testing.assert_close(by_weight.double(), g.double().t() @ x.double(), atol=2e-4, rtol=1e-5)
            torch.testing.assert_close(by_bias.double(), g.double().sum(0), atol=2e-4, rtol=1e-5)


def test_gradients_write_nothing_beside_their_own(monkeypatch):
    """What `gradients` allocates is carved out of a larger tensor here, whose other entries must stay."""
    around, places = torch.full((20_000,), 7.0), []

    def carved(self, *shape):
        count = torch.Size(shape).numel()
        start = 100 + sum(n + 100 for _, n in places)
        places.append((start, count))
        return around[start : start + count].view(shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", carved)
    tiles.gradients(GRADIENT, torch.randn(70, 21), [torch.randn(70, 49), torch.randn(70, 3)])
    assert len(places) == 3
    free = torch.ones(len(around), dtype=torch.bool)
    for start, count in places:
        free[start : start + count] = False
    assert (around[free] == 7).all()


def test_gradients_have_the_same_bits_for_any_number_of_threads():
    g, x, before, found = torch.randn(3000, 100), torch.randn(3000, 70), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            (by_weight,), by_bias = tiles.gradients(GRADIENT, g, [x])
            found.append((by_weight, by_bias))
    finally:
        torch.set_num_threads(before)
    for by_weight, by_bias in found[1:]:
        assert torch.equal(by_weight, found[0][0]) and torch.equal(by_bias, found[0][1])


def test_gradients_are_as_exact_as_torchs():
    """Sums over 8,192 rows: one after the other they would be ten times less exact."""
    g, x = torch.randn(8192, 64), torch.rand(8192, 64)
    (by_weight,), by_bias = tiles.gradients(GRADIENT, g, [x])
    for found, torchs, exact in ((by_weight, g.t() @ x, g.double().t() @ x.double()), (by_bias, g.sum(0), g.double().sum(0))):
        assert (found - exact).abs().max() < 5 * (torchs - exact).abs().max()


# --- the map of the input, step by step ------------------------------------------------------------------------------

T, B, I, H = 6, 9, 5, 7
X, FIRST = torch.randn(T, B, I), torch.rand(T, B) < 0.2


@pytest.mark.parametrize("name", ["lstm", "ur-lstm", "kaf-lstm", "janet", "leaky-rnn", "hdetach-lstm", "zoneout-lstm", "gru"])
def test_a_kernel_makes_it_itself(name, monkeypatch):
    core = make_core(name, I, H)
    inner = getattr(core, "inner", core)
    assert_as_the_loop(core.eval(), X, FIRST)
    asked = []
    owner = GRU if isinstance(inner, GRU) else MappedInput
    monkeypatch.setattr(owner, "project", lambda self, x: asked.append(1) or (F.linear(x, self.weight_x, self.bias),))
    unroll(core, X, FIRST, core.initial_state(B))[0].sum().backward()
    assert not asked and inner.weight_x.grad.abs().sum() > 0
    unroll(core, X, FIRST, core.initial_state(B), path="eager")
    assert asked


def test_a_projection_of_ones_own_is_asked():
    def doubled(base):
        return type("Doubled", (base,), {"project": lambda self, x: (2 * base.project(self, x)[0],)})

    assert_as_the_loop(doubled(LSTM)(I, H), X, FIRST)
    assert_as_the_loop(doubled(GRU)(I, H, Coupled()), X, FIRST)
    assert_as_the_loop(doubled(Zoneout)(LSTM(I, H)).eval(), X, FIRST)
    assert_as_the_loop(doubled(Dilated)(LSTM(I, H), 2), X, FIRST)
    assert_as_the_loop(Dilated(doubled(LSTM)(I, H), 2), X, FIRST)
    assert_as_the_loop(Dilated(LSTM(I, H), 2), X, FIRST)
    assert_as_the_loop(GRU(I, H, Coupled(), reset_form="before"), X, FIRST)
    alone = LSTM(I, H)
    alone.project = lambda x: (2 * LSTM.project(alone, x)[0],)
    assert_as_the_loop(alone, X, FIRST)


@pytest.mark.parametrize("rows", [lambda z: z[:, :1], lambda z: z[:1]])
@pytest.mark.parametrize("path", ["loop", "fused", "auto"])
def test_a_projection_of_other_rows_is_refused(path, rows):
    class Narrow(LSTM):
        def project(self, x):
            return (rows(super().project(x)[0]),)

    core = Narrow(I, H)
    with pytest.raises(ValueError, match=r"projection of shape .*, which must begin with \(6, 9\)"):
        unroll(core, X, FIRST, core.initial_state(B), path=path)


class Biased(LSTM):
    """With a bias of the recurrent map beside that of the input's: both have one gradient."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.bias_h = nn.Parameter(torch.randn(4 * hidden_size))

    def step(self, z, state):
        h, c = state
        return self.finish((z[0] + F.linear(h, self.weight_h, self.bias_h)).split(self.rows, -1), c)


class Blind(LSTM):
    """Its output does not depend on its input."""

    def step(self, z, state):
        h, c = state
        return torch.tanh(F.linear(h, self.weight_h[: self.hidden_size])) + 0 * c, c * 0.5


def test_two_biases_with_one_gradient_keep_their_own():
    core = Biased(I, H)
    assert_as_the_loop(core, X, FIRST)
    y, _ = unroll(core, X, FIRST, core.initial_state(B))
    one, other = torch.autograd.grad(y.sum(), [core.bias, core.bias_h])
    one.zero_()
    assert other.abs().sum() > 0


def test_an_input_without_a_gradient():
    assert_as_the_loop(Blind(I, H), X, FIRST)


def test_maps_that_torch_reads_otherwise_are_left_to_it():
    for bias in (nn.Parameter(torch.randn(1)), None):
        core = LSTM(I, H)
        core.bias = bias
        assert_as_the_loop(core, X, FIRST)
    core = LSTM(I, H)
    core.weight_x, core.bias = nn.Parameter(torch.randn(I, 4 * H).t()), nn.Parameter(torch.randn(8 * H)[::2])
    assert_as_the_loop(core, X, FIRST)
    assert_as_the_loop(core, X[:1], FIRST[:1])
    with torch.autocast("cpu", torch.bfloat16):
        assert_as_the_loop(core, X, FIRST, path="auto")
    assert_as_the_loop(LSTM(0, H), X[..., :0], FIRST)
    assert_as_the_loop(make_core("memoryless", 0, H), X[..., :0], FIRST)


def test_a_weight_that_changed_in_between_is_noticed():
    core = LSTM(I, H)
    y, _ = unroll(core, X.clone().requires_grad_(), FIRST, core.initial_state(B))
    with torch.no_grad():
        core.weight_x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_no_environments_have_no_gradient():
    for name in ("lstm", "gru", "memoryless"):
        core = make_core(name, I, H)
        torch.full((4 * H, I), torch.nan), torch.full((4 * H, H), torch.nan)  # freed: what would be found there
        unroll(core, X[:, :0], FIRST[:, :0], core.initial_state(0), path="fused")[0].sum().backward()
        assert all((p.grad == 0).all() for p in core.parameters())


def test_where_it_does_not_pay_it_is_made_beforehand(monkeypatch):
    core, asked = LSTM(I, H), []
    real = LSTM.project
    monkeypatch.setattr(MappedInput, "project", lambda self, x: asked.append(x.shape[1]) or real(self, x))
    for batch in (1, 7, 8, 64):
        unroll(core, torch.randn(3, batch, I), torch.zeros(3, batch, dtype=torch.bool), core.initial_state(batch))
    assert asked == [1, 7]
    monkeypatch.undo()
    wide = LSTM(300, H)
    monkeypatch.setattr(sequence, "TILED", 5000)  # as if the weights were larger still: their gradients are torch's
    assert_as_the_loop(wide, torch.randn(4, 16, 300), torch.rand(4, 16) < 0.2)


def test_a_projection_that_is_used_apart_is_made_beforehand():
    class Apart(LSTM):
        def step(self, z, state):
            h, c = super().step(z, state)
            return h + z[0].split(H, -1)[0], c

    assert_as_the_loop(Apart(I, H), X, FIRST)


def test_rows_that_need_no_gradient_and_a_frozen_map():
    core = make_core("lstm", I, H)
    core.weight_x.requires_grad_(False)
    found = []
    for path in ("loop", "fused"):
        core.zero_grad()
        y, _ = unroll(core, X.transpose(0, 1).contiguous().transpose(0, 1), FIRST, core.initial_state(B), path=path)
        y.square().sum().backward()
        found.append([y, core.bias.grad, core.weight_h.grad])
        assert core.weight_x.grad is None
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("x", [torch.randn(T, B, I + 1), torch.randn(T, B, 2, I), torch.randn(T, B, I).double(), X],
                         ids=["wider", "one axis more", "another type", "a core of another type"])  # fmt: skip
def test_rows_that_torch_refuses_are_refused(x):
    core = make_core("lstm", I, H)
    core = core.double() if x is X else core
    with pytest.raises((RuntimeError, NotTraceable)):
        unroll(core, x, FIRST, core.initial_state(B), path="fused")


def test_without_a_kernel_it_goes_on_in_torch(monkeypatch):
    def fail(*_):
        raise compiler.CompilerMissing("no more room")

    monkeypatch.setattr(cpp, "Kernel", fail)
    monkeypatch.setattr(sequence, "_kernels", {})
    monkeypatch.setattr(sequence, "_told", set())
    with pytest.warns(RuntimeWarning, match="no more room"):
        assert_as_the_loop(make_core("lstm", I, H), X, FIRST)


def test_tiles_and_torchs_product_agree(monkeypatch):
    core = make_core("ur-lstm", 16, 32)
    x, first = torch.randn(20, 24, 16), torch.rand(20, 24) < 0.1

    def once():
        core.zero_grad()
        y, _ = unroll(core, x, first, core.initial_state(24), path="fused")
        y.square().sum().backward()
        return [y.detach().clone(), *(p.grad.clone() for p in core.parameters())]

    tiled = once()
    monkeypatch.setattr(tiles, "functions", lambda compiled: None)
    monkeypatch.setattr(sequence, "_kernels", {})
    plain = once()
    for a, b in zip(tiled, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not all(torch.equal(a, b) for a, b in zip(tiled, plain, strict=True))  # two ways, not one
