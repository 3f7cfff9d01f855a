"""Every cell in layers: the quick laws over all rows, and what a stack's own names mean. All laws, `slow`: test_laws.py."""

import pytest
import torch

from memory_cells import make_core, unroll
from memory_cells.kernels.graph import NotTraceable
from memory_cells.unroll import path_class
from memory_cells.variants import VARIANTS, count_parameters
from memory_cells.wrappers import HDetach, TimeGate, Zoneout
from tests.cells import test_laws as laws
from tests.cells.test_laws import STACKABLE, B, H, I, T, everything, sample

TWO = (("layers", 2),)
rows = pytest.mark.parametrize("name", STACKABLE)


@rows
def test_a_stack_is_its_layers_one_after_the_other(name):
    """By hand: the whole sequence through the lower layer's plain loop, then through the upper one's."""
    core, x, first, state, noise = sample(name, TWO)
    lower, top = core.layers
    assert type(lower).__name__ == type(top).__name__ and (lower.input_size, top.input_size) == (I, H)
    count, half = len(top.state_names), len(noise) // 2
    with torch.no_grad():
        y, low = unroll(lower, x, first, state[count:], path="loop", noise=noise[:half])
        y, high = unroll(top, y, first, state[:count], path="loop", noise=noise[half:])
        whole, new = unroll(core, x, first, state, path="loop", noise=noise)
    assert torch.equal(y, whole) and all(torch.equal(a, b) for a, b in zip(new, (*high, *low), strict=True))


@rows
def test_layer_by_layer_equals_the_plain_loop(name):
    """Outputs, states and all gradients, resets inside and the same noise in both."""
    laws.assert_same(everything(*sample(name, TWO), "auto"), everything(*sample(name, TWO), "loop"), 1e-10)


@rows
def test_a_reset_starts_every_layer_anew(name):
    core, x, _, state, noise = sample(name, TWO)
    first, bad = torch.ones(T, B, dtype=torch.bool), tuple(torch.full_like(s, float("nan")) for s in state)
    with torch.no_grad():
        assert unroll(core, x, first, bad, noise=noise)[0].isfinite().all()


@pytest.mark.parametrize("name", ["lstm", "hdetach-ur-lstm", "g-lstm"])
def test_a_stack_also_runs_fused_as_one_step(name):
    laws.assert_same(everything(*sample(name, TWO), "fused"), everything(*sample(name, TWO), "loop"), 1e-10)


def test_a_stack_of_what_cannot_be_fused_says_so():
    for name in ("rmc", "mingru"):  # minGRU's step is traced, but not what it does to the rows from below
        core, x, first, state, noise = sample(name, TWO)
        with pytest.raises(NotTraceable):
            unroll(core, x, first, state, path="fused", noise=noise)


def test_the_path_class_is_that_of_the_layers():
    for name, want in (("lstm", "fused"), ("mingru", "scan"), ("rmc", "loop"), ("hdetach-nru", "fused")):
        assert path_class(make_core(name, I, H)) == path_class(make_core(name, I, H, layers=3)) == want


def test_two_layers_of_lstm_are_the_stacked_lstm():
    cores = []
    for name, layers in (("lstm", 2), ("stacked-lstm", None)):
        torch.manual_seed(0)
        cores.append(make_core(name, I, H, layers=layers))
    assert all(torch.equal(a, b) for a, b in zip(*(core.parameters() for core in cores), strict=True))
    x, first = torch.randn(T, B, I), torch.rand(T, B) < 0.2
    y, z = (unroll(core, x, first, core.initial_state(B))[0] for core in cores)
    assert torch.equal(y, z)


def test_rows_with_layers_of_their_own_take_another_number():
    for name in set(VARIANTS) - set(STACKABLE):
        assert [len(make_core(name, I, H, layers=n).layers) for n in (1, 3)] == [1, 3], name
    assert [layer.dilation for layer in make_core("dilated-gru", I, H, layers=3).layers] == [1, 2, 4]
    for name, layers, why in (("lstm", 0, "at least one layer"), ("indrnn", 0, "at least one layer"),
                              ("dilated-lstm", 0, "1 to 12, got 0"), ("dilated-gru", 13, "1 to 12, got 13")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            make_core(name, I, H, layers=layers)


def test_names_of_a_stack_are_the_top_layers():
    torch.manual_seed(0)
    core = make_core("ur-lstm", I, H, layers=3)
    assert core.state_names == ("h", "c", "layer0.h", "layer0.c", "layer1.h", "layer1.c")
    assert (core.recurrent_output, core.memory, core.hidden_size) == ("h", "c", H)
    assert count_parameters(core) == 4 * H * (I + H + 1) + 2 * 4 * H * (H + H + 1)
    x, first, start = torch.randn(T, B, I), torch.rand(T, B) < 0.2, core.initial_state(B)
    names = ["keep", "write", "layer1.h", "c"]
    with torch.no_grad():
        y, _, traces = unroll(core, x, first, start, record=names)
        top = core.layers[-1]
        alone, _, own = unroll(top, traces["layer1.h"], first, top.initial_state(B), record=["keep", "write", "c"])
    assert torch.equal(y, alone) and all(torch.equal(traces[n], own[n]) for n in own)
    with pytest.raises(AttributeError):
        _ = make_core("elman", I, H, layers=2).gate


# -- wrappers: every layer has its own


def test_h_detach_cuts_the_reads_of_every_layer_and_nothing_between():
    """With every read blocked, what is left of a gradient goes through the memories and from layer to layer."""
    core = make_core("hdetach-lstm", I, H, layers=2, p_detach=1.0)
    assert core.cuts_gradient and [type(layer) for layer in core.layers] == [HDetach, HDetach]
    assert not make_core("lstm", I, H, layers=2).cuts_gradient
    noise, none = core.draw(T, B), torch.zeros(T, B, dtype=torch.bool)
    x, state = torch.randn(T, B, I, requires_grad=True), tuple(torch.randn(B, H).requires_grad_() for _ in range(4))
    y, _ = unroll(core, x, none, state, noise=noise)
    gx, *gs = torch.autograd.grad(y[-1].sum(), [x, *state], allow_unused=True)
    read, memory, low_read, low_memory = gs
    assert all(g is None or (g == 0).all() for g in (read, low_read))
    assert all((g != 0).any() for g in (memory, low_memory, gx[0]))


def test_every_layer_draws_and_every_layer_is_switched():
    torch.manual_seed(0)
    core = make_core("hdetach-lstm", I, H, layers=2, p_detach=0.5)
    a, b = core.draw(200, B)
    assert 0.3 < (a[:, 0] == b[:, 0]).float().mean() < 0.7  # independent
    for layer in (m for m in core.modules() if isinstance(m, HDetach)):
        layer.p_detach.zero_()  # what the learner's schedule does
    assert all((n == 0).all() for n in core.draw(200, B))
    zoned = make_core("zoneout-lstm", I, H, layers=3)
    assert len(zoned.draw(T, B)) == 6 and all(isinstance(layer, Zoneout) for layer in zoned.layers)


def test_the_time_gates_of_all_layers_with_their_own_state():
    torch.manual_seed(0)
    core = make_core("g-lstm", I, H, horizon=20, layers=2).eval()
    state = tuple(torch.randn_like(entry) for entry in core.initial_state(B))
    (lower, low), (top, high) = core.time_gates(state)
    assert (lower, top) == tuple(core.layers) and isinstance(top, TimeGate)
    assert not torch.equal(lower.openness.mu, top.openness.mu)
    assert all(a is b for a, b in zip((*high, *low), state, strict=True))
    assert make_core("lstm", I, H, layers=2).time_gates(state) == []
