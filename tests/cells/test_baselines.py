"""What the baselines have beyond the laws: scans, constraints, layers, noise, sizes, parity with torch.nn."""

import copy
import math

import pytest
import torch
from torch import nn

from memory_cells import baselines, cells, gates, linear, make_core, multi, noisy, slstm, unroll, wrappers
from memory_cells.constrained import Placed, constrain
from memory_cells.kernels.graph import NotTraceable
from memory_cells.scan import linear_recurrence

T, B, I, H = 13, 4, 5, 8
SCANS, STACKS = ("mingru", "minlstm", "lru", "ffm"), ("indrnn", "stacked-lstm", "dilated-lstm", "dilated-gru")
FUSED = ("elman", "irnn", "rnn-orth", "orth-rnn", "goru", "rhn", "clockwork", "sru", "g2-lstm", "noisy-lstm", "on-lstm",
         "slstm", "mingru", "minlstm", *STACKS)  # fmt: skip
LOOPS = ("rmc",)
ROWS = tuple(dict.fromkeys((*SCANS, *STACKS, *FUSED, *LOOPS)))


def make(name, dtype=torch.float64):
    torch.manual_seed(1)
    core = make_core(name, I, H).to(dtype)
    with torch.no_grad():
        for key, p in core.named_parameters():
            p.add_((0.05 if key in ("a", "nu") else 0.3) * torch.randn_like(p))
        _, state = unroll(
            core, torch.randn(7, B, I, dtype=dtype), torch.rand(7, B) < 0.2, core.initial_state(B), path="loop"
        )
    x, first = torch.randn(T, B, I, dtype=dtype, requires_grad=True), torch.rand(T, B) < 0.2
    first[0, 1] = first[5, 2] = True
    return core, x, first, tuple(s.requires_grad_(s.is_floating_point()) for s in state)


@pytest.mark.parametrize("name", ROWS)
def test_the_path_class_is_the_documented_one(name):
    core, x, first, state = make(name)
    noise = core.draw(T, B)
    truth = unroll(core, x, first, state, path="loop", noise=noise)[0]
    for path, rows, error in (("eager", FUSED, NotTraceable), ("scan", (*SCANS, *STACKS), ValueError)):
        if name in rows:
            torch.testing.assert_close(unroll(core, x, first, state, path=path, noise=noise)[0], truth)
        else:
            with pytest.raises(error):
                unroll(core, x, first, state, path=path, noise=noise)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("length", [1, 2, 5, 16, 17])
def test_both_ways_to_solve_a_recurrence(length, dtype):
    torch.manual_seed(length)
    a, b = (torch.randn(length, 3, 2, dtype=dtype, requires_grad=True) for _ in range(2))
    start, first = torch.randn(3, 2, dtype=dtype, requires_grad=True), torch.rand(length, 3) < 0.3
    h, rows = start, []
    for t in range(length):
        h = a[t] * torch.where(first[t, :, None], torch.zeros_like(h), h) + b[t]
        rows.append(h)
    truth, weight = torch.stack(rows), torch.randn(length, 3, 2, dtype=dtype)
    wanted = torch.autograd.grad(
        (truth * weight).real.sum() if dtype.is_complex else (truth * weight).sum(), [a, b, start]
    )
    for doubling in (False, True):
        found = linear_recurrence(a, b, first, start, doubling)
        torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
        loss = (found * weight).real.sum() if dtype.is_complex else (found * weight).sum()
        torch.testing.assert_close(torch.autograd.grad(loss, [a, b, start]), wanted, rtol=1e-11, atol=1e-12)
        assert torch.autograd.gradcheck(
            lambda *v, d=doubling: linear_recurrence(v[0], v[1], first, v[2], d), (a, b, start)
        )


@pytest.mark.parametrize("doubling", [False, True])
def test_bad_numbers_stop_at_a_reset(doubling):
    a, b, first = torch.full((6, 2, 1), 0.5), torch.ones(6, 2, 1), torch.zeros(6, 2, dtype=torch.bool)
    b[1, 0] = float("nan")
    first[4, 0] = first[0, 1] = True
    h = linear_recurrence(a, b, first, torch.full((2, 1), float("inf")), doubling)
    assert torch.isfinite(h[:, 1]).all() and torch.isfinite(h[4:, 0]).all() and not torch.isfinite(h[:4, 0]).any()


def test_a_long_scan_neither_overflows_nor_drifts():
    """Where the authors of FFM need float64 and chunks of 1024 rows: float32, 5000 rows, decays down to 0.5."""
    core = make_core("ffm", I, H)
    x, first = torch.randn(5000, 2, I), torch.zeros(5000, 2, dtype=torch.bool)
    with torch.no_grad():
        y = unroll(core, x, first, core.initial_state(2), path="scan")[0]
        truth = unroll(core.double(), x.double(), first, core.initial_state(2), path="loop")[0]
    assert (y.double() - truth).abs().max() < 1e-3


# --- constraints --------------------------------------------------------------------------------------------------------


def test_constrain_brings_every_layer_back():
    core = make_core("indrnn", I, H)
    with torch.no_grad():
        for layer in core.layers:
            layer.weight_h.copy_(torch.linspace(-3, 3, H))
    constrain(core)
    assert all(layer.weight_h.abs().max() == 1 for layer in core.layers)
    cell = baselines.IndRNN(I, H, magnitude=2.0, length=100)
    cell.weight_h.data.fill_(5.0)
    constrain(cell)
    assert cell.weight_h.max().item() == pytest.approx(2 ** (1 / 100))
    ffm = linear.FFM(I, H)
    ffm.a.data[:2] = torch.tensor([1.0, -9.0])
    constrain(nn.Sequential(ffm))
    assert ffm.a.max() <= -1e-8 and ffm.a.min() >= -ffm.limit - 1e-6


@pytest.mark.parametrize(
    "name, path", [("orth-rnn", "loop"), ("goru", "fused"), ("clockwork", "loop"), ("slstm", "eager")]
)
def test_a_computed_weight_is_computed_once_an_unroll(name, path):
    core, x, first, state = make(name)
    calls = []
    core.parametrizations.weight_h[0].register_forward_hook(lambda *_: calls.append(1))
    unroll(core, x, first, state, path=path)
    unroll(core, x[:1], first[:1], state)  # acting
    assert len(calls) == 2


def test_training_keeps_the_form_of_a_recurrent_matrix():
    for name in ("orth-rnn", "goru", "clockwork", "slstm"):
        core, x, first, state = make(name, torch.float32)
        optimiser = torch.optim.Adam(core.parameters(), 0.05)
        before = core.weight_h.detach().clone()
        for _ in range(3):
            optimiser.zero_grad()
            unroll(core, x, first, state)[0].square().sum().backward()
            optimiser.step()
        after = core.weight_h.detach()
        assert not torch.equal(before, after)
        if name in ("orth-rnn", "goru"):
            torch.testing.assert_close(after @ after.t(), torch.eye(H), rtol=0, atol=1e-5)
        else:
            index = core.parametrizations.weight_h[0].index
            outside = torch.ones(after.numel(), dtype=torch.bool).index_fill(0, index, False)
            assert (after.flatten()[outside] == 0).all()


def test_placed_entries_are_the_parameters():
    mask = torch.tensor([[True, False], [True, True]])
    assert torch.equal(Placed(mask)(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
    core = make_core("slstm", I, 16)  # four heads: a quarter of the recurrent matrices
    assert sum(p.numel() for p in core.parameters()) == 4 * 16 * I + 4 * 16 + 4 * 16 * 16 // 4


@pytest.mark.parametrize("name", ROWS)
def test_copies_and_state_dicts_are_whole(name):
    core, x, first, state = make(name)
    core.eval()
    other = make_core(name, I, H).double().eval()
    other.load_state_dict(core.state_dict())
    y = unroll(core, x, first, state)[0]
    for twin in (other, copy.deepcopy(core)):
        assert torch.equal(unroll(twin, x, first, state)[0], y)


# --- layers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["loop", "scan", "auto"])
def test_stacked_lstm_is_torchs(path):
    torch.manual_seed(0)
    reference = nn.LSTM(I, H, num_layers=2).double()
    layers = [cells.LSTM(i, H, gates.Free(), None, weights="torch") for i in (I, H)]
    core = multi.Stacked(layers).double()
    with torch.no_grad():
        for k, layer in enumerate(layers):
            for mine, theirs in (("weight_x", f"weight_ih_l{k}"), ("weight_h", f"weight_hh_l{k}")):
                i, f, g, o = getattr(reference, theirs).chunk(4)
                getattr(layer, mine).copy_(torch.cat([f, i, g, o]))
            i, f, g, o = (getattr(reference, f"bias_ih_l{k}") + getattr(reference, f"bias_hh_l{k}")).chunk(4)
            layer.bias.copy_(torch.cat([f, i, g, o]))
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    h, c = torch.randn(2, B, H, dtype=torch.float64), torch.randn(2, B, H, dtype=torch.float64)
    y, (h_top, c_top, h_low, c_low) = unroll(
        core, x, torch.zeros(T, B, dtype=torch.bool), (h[1], c[1], h[0], c[0]), path=path
    )
    y_ref, (h_ref, c_ref) = reference(x, (h, c))
    torch.testing.assert_close(y, y_ref, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.stack([h_low, h_top]), h_ref, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.stack([c_low, c_top]), c_ref, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(y)
    (gx,) = torch.autograd.grad((y * weight).sum(), x)
    torch.testing.assert_close(gx, torch.autograd.grad((y_ref * weight).sum(), x)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name, nonlinearity", [("elman", "tanh"), ("irnn", "relu")])
@pytest.mark.parametrize("path", ["loop", "fused"])
def test_simple_recurrences_are_torchs(name, nonlinearity, path):
    core, x, _, state = make(name)
    reference = nn.RNN(I, H, nonlinearity=nonlinearity).double()
    with torch.no_grad():
        for mine, theirs in (("weight_x", "weight_ih_l0"), ("weight_h", "weight_hh_l0"), ("bias", "bias_ih_l0")):
            getattr(reference, theirs).copy_(getattr(core, mine))
        reference.bias_hh_l0.zero_()
    y, (h,) = unroll(core, x, torch.zeros(T, B, dtype=torch.bool), state, path=path)
    y_ref, h_ref = reference(x, state[0].unsqueeze(0))
    torch.testing.assert_close(y, y_ref, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(h, h_ref[0], rtol=1e-10, atol=1e-10)
    mine = torch.autograd.grad(y.square().sum(), [x, core.weight_h])
    theirs = torch.autograd.grad(y_ref.square().sum(), [x, reference.weight_hh_l0])
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_a_dilated_cell_is_that_many_cells_in_turn():
    """Chang et al.'s own way: the rows t = k, k + d, k + 2d, ... are a sequence of their own."""
    torch.manual_seed(0)
    inner = cells.LSTM(I, H, gates.Free()).double()
    core, x, no = (
        multi.Dilated(inner, 3),
        torch.randn(12, B, I, dtype=torch.float64),
        torch.zeros(12, B, dtype=torch.bool),
    )
    y = unroll(core, x, no, core.initial_state(B), path="fused")[0]
    for k in range(3):
        alone = unroll(inner, x[k::3], no[k::3], inner.initial_state(B), path="loop")[0]
        torch.testing.assert_close(y[k::3], alone, rtol=1e-12, atol=1e-12)


def test_h_detach_of_a_dilated_cell_cuts_the_read_and_nothing_else():
    """Inside and outside are one and the same; cells that read their memory back, or nothing, refuse it."""
    torch.manual_seed(0)
    inner = cells.LSTM(I, H, gates.Free()).double()
    x, no, grads = torch.randn(9, B, I, dtype=torch.float64), torch.zeros(9, B, dtype=torch.bool), []
    for core in (multi.Dilated(wrappers.HDetach(inner, 0.5), 2), wrappers.HDetach(multi.Dilated(inner, 2), 0.5)):
        noise = core.draw(9, B, torch.Generator().manual_seed(3))
        y = unroll(core, x, no, core.initial_state(B), path="loop", noise=noise)[0]
        grads.append(torch.autograd.grad(y.square().sum(), [inner.weight_h, inner.weight_x]))
    torch.testing.assert_close(*grads)
    for name in ("sru", "lru", "ffm", "goru", "mingru"):
        with pytest.raises(ValueError, match="h-detach"):
            wrappers.HDetach(make_core(name, I, H))


def test_layers_of_a_stack_draw_their_own_noise():
    torch.manual_seed(0)
    core = multi.stack(noisy.G2LSTM, I, H, 3)
    x, first, state = torch.randn(T, B, I), torch.rand(T, B) < 0.2, core.initial_state(B)
    noise = core.draw(T, B)
    assert len(noise) == 3 and not torch.equal(noise[0], noise[1])
    loop, scan = (unroll(core, x, first, state, path=path, noise=noise)[0] for path in ("loop", "scan"))
    torch.testing.assert_close(loop, scan)
    for k in range(3):
        changed = [n if j != k else torch.zeros_like(n) for j, n in enumerate(noise)]
        assert not torch.equal(unroll(core, x, first, state, path="scan", noise=tuple(changed))[0], scan)
    assert core.eval().draw(T, B) == ()
    unroll(core, x, first, state)


def test_bad_stacks_say_what_is_wrong():
    with pytest.raises(ValueError, match="input_size 5 on one of hidden_size 8"):
        multi.Stacked([cells.Memoryless(I, H), cells.Memoryless(I, H)])
    with pytest.raises(ValueError, match="dilations must start at 1"):
        multi.dilated_stack(cells.Memoryless, I, H, (2, 4))
    with pytest.raises(ValueError, match="at least 1"):
        multi.Dilated(cells.Memoryless(I, H), 0)
    with pytest.raises(ValueError, match="at least one layer"):
        multi.stack(cells.Memoryless, I, H, 0)


# --- starts, noise, sizes -----------------------------------------------------------------------------------------------


def test_where_the_cells_start():
    torch.manual_seed(0)
    irnn = make_core("irnn", 200, 200)
    assert torch.equal(irnn.weight_h, torch.eye(200)) and (irnn.bias == 0).all()
    assert irnn.weight_x.std().item() == pytest.approx(0.001, rel=0.02)
    rhn = make_core("rhn", I, H)
    assert all((b[:H] == 0).all() and (b[H:] == -2).all() for b in rhn.biases)
    goru = make_core("goru", I, H)
    assert (goru.bias[:H] == 2).all() and torch.allclose(goru.bias_modrelu, torch.tensor(0.01))
    forget = make_core("slstm", I, 64).bias[64:128].view(4, 16)
    assert (forget[:, 0] == 5).all() and (forget[:, -1] == -7).all() and (forget.diff() < 0).all()
    modulus = torch.exp(-torch.exp(linear.LRU(I, 4000, 0.9, 0.999).nu))
    square = (modulus**2 - 0.9**2) / (0.999**2 - 0.9**2)  # uniform on the ring
    torch.testing.assert_close(square.sort().values, torch.linspace(0, 1, 4000), rtol=0, atol=0.04)
    lru = linear.LRU(I, 64)
    torch.testing.assert_close(lru.gamma.exp() ** 2, 1 - torch.exp(-2 * lru.nu.exp()), rtol=1e-3, atol=1e-5)
    ffm = linear.FFM(I, H)
    assert ffm.a[-1].exp().item() ** 1024 == pytest.approx(0.01, rel=1e-3) and ffm.b[-1].item() == pytest.approx(
        2 * math.pi / 1024
    )
    clockwork = make_core("clockwork", I, 16)
    assert clockwork.period.tolist() == [p for k in range(8) for p in (2**k, 2**k)]
    rmc = make_core("rmc", I, 32)
    assert torch.equal(rmc.initial_state(2)[0].view(2, 4, 8)[1], torch.eye(4, 8))
    assert rmc.gate_bias.tolist() == [0.0] * 8 + [1.0] * 8 and (rmc.gates_memory.bias == 0).all()
    orth = make_core("rnn-orth", I, H)
    torch.testing.assert_close(orth.weight_h @ orth.weight_h.t(), torch.eye(H))
    uniform = baselines.IndRNN(1, 4000).weight_h.sort().values
    torch.testing.assert_close(uniform, torch.linspace(0, 1, 4000), rtol=0, atol=0.04)
    assert all((layer.cell.bias[:64] == 1).all() for layer in make_core("dilated-lstm", I, 64).layers)
    dilated = make_core("dilated-gru", I, 64).layers[3].cell  # as torch.nn.GRU
    assert dilated.bias.abs().max() <= 2 / 8 and dilated.weight_h.abs().max() <= 1 / 8 and dilated.weight_h.std() > 0.06


def test_the_noise_of_the_gumbel_gates():
    core = noisy.G2LSTM(I, 50)
    (noise,) = core.draw(200, 20, torch.Generator().manual_seed(0))
    on = noise[noise != 0]
    assert len(on) / noise.numel() == pytest.approx(0.2, abs=0.005)
    assert on.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.02) and abs(on.mean()) < 0.02  # logistic
    assert torch.equal(noise, core.draw(200, 20, torch.Generator().manual_seed(0))[0])


def test_noisy_activations_are_the_hard_ones_where_they_do_not_saturate():
    core = noisy.NoisyLSTM(I, H)
    inside, far = torch.linspace(-0.9, 0.9, 3 * H)[None], torch.full((1, 3 * H), 6.0)
    assert torch.allclose(core.sigmoid(inside, 3.0), 0.25 * inside + 0.5)
    assert torch.allclose(core.tanh(inside[:, :H], core.p_output, 3.0), inside[:, :H])
    assert (core.sigmoid(far, 3.0) > core.sigmoid(far, 0.0)).all()  # half-normal noise points outwards


@pytest.mark.parametrize("hidden_size", [8, 9, 11, 12, 20, 64])
@pytest.mark.parametrize("name", ROWS)
def test_any_size_from_eight_or_the_nearest_one_that_fits(name, hidden_size):
    try:
        core = make_core(name, 3, hidden_size)
    except ValueError as error:
        assert name == "rmc" and hidden_size % 8 and "take" in str(error)
        core = make_core(name, 3, int(str(error).split()[-1]))
    state = core.initial_state(2)
    assert len(state) == len(core.state_names) and core.recurrent_output in core.state_names
    assert core.memory in core.state_names and all(len(s) == 2 for s in state)
    y, new = unroll(core, torch.randn(3, 2, 3), torch.zeros(3, 2, dtype=torch.bool), state, path="loop")
    assert y.shape == (3, 2, core.hidden_size) and torch.isfinite(y).all()
    assert [(s.shape, s.dtype) for s in new] == [(s.shape, s.dtype) for s in state]


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="multiple of slots \\* heads = 8, got 20; take 16 or 24"):
        make_core("rmc", I, 20)
    with pytest.raises(ValueError, match="multiple of heads = 3, got 8; take 6 or 9"):
        slstm.SLSTM(I, 8, heads=3)
    with pytest.raises(ValueError, match="one chunk"):
        slstm.ONLSTM(I, 8, chunk=8)
    with pytest.raises(ValueError, match="as many units"):
        make_core("clockwork", I, 7)
