"""The fused path at its edges: threads, shapes and types, operations it must not mistake, a machine without a compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_kernels import FIRST, B, Custom, H, I, T, X

from memory_cells import gates, make_core, unroll
from memory_cells.cells import Cell
from memory_cells.kernels import compiler, cpp, sequence
from memory_cells.kernels.graph import NotTraceable
from memory_cells.multi import Stacked
from memory_cells.unroll import path_class
from memory_cells.wrappers import Zoneout

ROOT = Path(__file__).resolve().parents[2]


def outputs_and_gradients(core, x, first, path, state=None):
    x, state = x.clone().requires_grad_(), state or core.initial_state(x.shape[1])
    y, new = unroll(core, x, first, state, path=path)
    loss = (y * torch.arange(y.numel()).view_as(y).cos()).sum() + sum(s.square().sum() for s in new)
    return [y, *new, *torch.autograd.grad(loss, [x, *core.parameters()], materialize_grads=True)]


def assert_as_the_loop(core, x, first, path="fused", state=None):
    wanted, found = (outputs_and_gradients(core, x, first, p, state) for p in ("loop", path))
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [8, 9, 11])
def test_two_threads_share_any_batch(batch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for name in ("ur-lstm", "gru"):
            torch.manual_seed(0)
            assert_as_the_loop(make_core(name, I, H), torch.randn(T, batch, I), torch.rand(T, batch) < 0.2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("setting", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}])
def test_fewer_threads_than_asked_for_do_all_the_work(setting):
    code = "import torch, test_fused_edges as t; t.torch.set_num_threads(2); torch.manual_seed(0); " \
           "t.assert_as_the_loop(t.make_core('lstm', 3, 4), torch.randn(5, 16, 3), torch.rand(5, 16) < 0.2)"  # fmt: skip
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    subprocess.run([sys.executable, "-c", code], env=os.environ | setting | {"PYTHONPATH": path}, check=True)


# --- shapes and types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["fused", "loop", "auto"])
@pytest.mark.parametrize("case, words", [
    (lambda x, first, state: (x, first, tuple(s[:1] for s in state)), r"state of shape \(1, 4\)"),
    (lambda x, first, state: (x[:5], first, state), r"x of shape \(5, 6, 3\)"),
    (lambda x, first, state: (x, first[:, :1], state), r"must begin with \(7, 1\)"),
    (lambda x, first, state: (x, first.long(), state), "first must be bool, got torch.int64"),
    (lambda x, first, state: (x[:0], first[:0], state), "a sequence without rows"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(case, words, path):
    core = make_core("lstm", I, H)
    with pytest.raises(ValueError, match=words):
        unroll(core, *case(X, FIRST, core.initial_state(B)), path=path)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("start", [
    lambda core, batch: torch.full((batch, 1), 0.3, requires_grad=True),
    lambda core, batch: core.start.float().unsqueeze(0),
    lambda core, batch: torch.full((batch, H), 0.3),
], ids=["one unit", "one row", "float32"])  # fmt: skip
def test_a_start_state_is_spread_and_converted_as_torch_does(start, kind):
    core = Custom(lambda z, h, w, v: torch.tanh(z + F.linear(h, w))).to(kind)
    core.initial_state = lambda batch: (start(core, batch),)
    assert_as_the_loop(core, X.to(kind), FIRST, state=(torch.zeros(B, H, dtype=kind),))


def test_cells_without_parameters():
    class Decay(Cell):
        def project(self, x):
            return (x,)

        def initial_state(self, batch):
            return (torch.ones(batch, I),)

        def step(self, z, state):
            return (0.5 * state[0] + z[0],)

    core = Decay(I, I)
    assert path_class(core) == "fused" and path_class(Zoneout(core, zoneout_h=0.5)) == "fused"
    found = [unroll(core, X, FIRST, core.initial_state(B), path=path)[0] for path in ("loop", "fused")]
    torch.testing.assert_close(*found)


def test_a_stack_of_cells_in_double():
    layers = [make_core("lstm", I, H).double(), make_core("gru", H, H).double()]
    assert_as_the_loop(Stacked(layers), X.double(), FIRST)


def test_a_gradient_of_any_layout():
    core = make_core("lstm", I, H)
    weight, found = torch.randn(H, B), []
    for path in ("loop", "fused"):
        _, (h, c) = unroll(core, X, FIRST, core.initial_state(B), path=path)
        found.append(torch.autograd.grad((h.t() * weight).sum() + (c.t() @ c).sum(), core.weight_x)[0])
    torch.testing.assert_close(*found)


def test_a_mask_keeps_to_the_loop():
    """The compiled function reads floats; a mask of bools beside them is not for it."""
    core = Custom(lambda z, h, w, v: torch.where(core.mask, z, h) + torch.tanh(z))
    core.register_buffer("mask", torch.tensor([True, False, True, False]))
    assert path_class(core) == "loop"
    with pytest.raises(NotTraceable, match=r"tensors of torch\.bool beside inputs of torch\.float32"):
        unroll(core, X, FIRST, core.initial_state(B), path="fused")
    unroll(core, X, FIRST, core.initial_state(B))


# --- operations ------------------------------------------------------------------------------------------------------


def changed(a, how):
    """tanh(a) after a change in place, seen through another name."""
    how(b := a)
    return torch.tanh(a) + 0 * b


@pytest.mark.parametrize("step", [
    lambda z, h, w, v: torch.cat([z, h], -1)[:, :H],
    lambda z, h, w, v: torch.stack([z, h]).sum(0),
    lambda z, h, w, v: torch.add(z, h, alpha=0.5),
    lambda z, h, w, v: torch.sub(z, h, alpha=0.5),
    lambda z, h, w, v: torch.div(z, h + 2, rounding_mode="floor") + h,
    lambda z, h, w, v: z * (torch.relu(h) != 0) + h,
    lambda z, h, w, v: z * (h == 0) + h,
    lambda z, h, w, v: F.softmax(z, -1, dtype=torch.float64).float() + h,
    lambda z, h, w, v: z + h.chunk(3, -1)[0].sum(-1, keepdim=True),
    lambda z, h, w, v: z + h.chunk(20, -1)[0],
    lambda z, h, w, v: changed(z + F.linear(h, w), lambda a: a.__iadd__(1.0)),
    lambda z, h, w, v: changed(z + F.linear(h, w), lambda a: a.__imul__(v)),
    lambda z, h, w, v: torch.tanh(F.linear(h, w, v[:1]) + z),
    lambda z, h, w, v: torch.tanh(F.linear(h, w, z)),
    lambda z, h, w, v: torch.tanh(z + F.linear(h, v).unsqueeze(-1)),
    lambda z, h, w, v: z * ((z > 0) + (h > 0)),
    lambda z, h, w, v: z * ((z > 0) * (h > 0) + (h > 0)),
    lambda z, h, w, v: torch.repeat_interleave(h.split(2, -1)[0], torch.tensor([2, 2]), -1) + z,
])  # fmt: skip
def test_what_is_not_known_exactly_keeps_to_the_loop(step):
    core = Custom(step)
    with pytest.raises(NotTraceable):
        unroll(core, X, FIRST, core.initial_state(B), path="fused")
    assert_as_the_loop(core, X, FIRST, "auto")


def test_a_decision_by_a_symbol_is_refused():
    with pytest.raises(NotTraceable, match="not known while a step is read"):
        unroll(core := Custom(lambda z, h, w, v: z if h else h), X, FIRST, core.initial_state(B), path="fused")


# --- what is remembered of a cell ------------------------------------------------------------------------------------


def test_a_parameter_that_is_unfrozen_learns():
    core = make_core("gru", I, H)
    for frozen in (True, False, True, False):
        core.bias_h.requires_grad_(not frozen)
        found = []
        for path in ("loop", "fused"):
            core.zero_grad()
            unroll(core, X, FIRST, core.initial_state(B), path=path)[0].sum().backward()
            found.append(core.bias_h.grad)
        assert found == [None, None] if frozen else torch.allclose(*found) and found[0].any()


def test_the_mode_of_a_cell_of_parameters_alone():
    core = Custom(lambda z, h, w, v: torch.tanh(z + h * v) * (1.0 if core.training else 2.0))
    for mode in (True, False, True):
        core.train(mode)
        torch.testing.assert_close(*(unroll(core, X, FIRST, core.initial_state(B), path=p)[0] for p in ("loop", "fused")))


def test_a_part_that_is_replaced_or_set_is_seen():
    tied, elman, zoneout = make_core("tied-lstm", I, H), make_core("elman", I, H), Zoneout(make_core("lstm", I, H), 0.5, 0.5)
    custom = Custom(lambda z, h, w, v: torch.tanh(z + h * v) * custom.factors["a"][0])
    custom.factors, zoneout.training = {"a": [1.0]}, False
    changes = [
        (tied, lambda: setattr(tied, "gate", gates.Coupled(offset=1.0))),
        (tied, lambda: setattr(tied, "gate", gates.Ordered())),
        (elman, lambda: setattr(elman, "activation", torch.relu)),
        (zoneout, lambda: setattr(zoneout, "rates", [0.05, 0.1])),
        (custom, lambda: custom.factors["a"].insert(0, 2.0)),
    ]
    for core, change in changes:
        before = unroll(core, X, FIRST, core.initial_state(B), path="fused")[0]
        change()
        after, wanted = (unroll(core, X, FIRST, core.initial_state(B), path=p)[0] for p in ("fused", "loop"))
        torch.testing.assert_close(after, wanted)
        assert not torch.allclose(before, after)


def test_asking_for_the_path_draws_nothing():
    core = Zoneout(make_core("lstm", I, H), 0.5, 0.5)
    before = torch.get_rng_state()
    assert path_class(core) == "fused" and torch.equal(torch.get_rng_state(), before)


# --- what the backward pass reads ------------------------------------------------------------------------------------


def test_what_is_changed_in_between_is_noticed_and_what_is_used_up_is_gone():
    core = Zoneout(make_core("lstm", I, H), 0.5, 0.5)
    noise = core.draw(T, B)
    y, _ = unroll(core, X, FIRST, core.initial_state(B), path="fused", noise=noise)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    y, _ = unroll(core, X, FIRST, core.initial_state(B), path="fused", noise=noise)
    noise[0].fill_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- a machine without what it needs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("setting, words", [
    ({"CXX": "no-such-compiler"}, "cannot compile with no-such-compiler"),
    ({"CXX": "false"}, "false failed: no message"),
    ({"XDG_CACHE_HOME": "/proc/nowhere"}, "into /proc/nowhere/gatemaze"),
])  # fmt: skip
def test_it_says_so_once_and_goes_on_in_torch(setting, words, monkeypatch):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cpp.tiles, "functions", cpp.tiles.functions.__wrapped__)
    monkeypatch.setattr(sequence, "_kernels", {})
    monkeypatch.setattr(sequence, "_told", set())
    with pytest.warns(RuntimeWarning, match=words):
        assert_as_the_loop(make_core("lstm", I, H), X, FIRST)


def test_what_a_compiler_refuses_it_is_not_asked_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    for _ in range(2):
        with pytest.raises(compiler.CompilerMissing, match=r"failed: kernel\.cpp") as error:
            compiler.compiled("no C++", "-O1")
        said.append(str(error.value))
        monkeypatch.setattr(compiler.subprocess, "run", None)
    assert said[0] == said[1]


def test_a_compiler_with_options(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "env g++ -Wall")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = compiler.compiled('extern "C" int seven() { return 7; }', "-O1")
    assert library.seven() == 7 and len(list(tmp_path.rglob("*.so"))) == 1
