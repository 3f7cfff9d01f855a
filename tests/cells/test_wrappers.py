"""h-detach, Zoneout and the time gates: what each promises beside the laws."""

import pytest
import torch

from memory_cells import make_core, unroll
from memory_cells.cells import GRU, LSTM
from memory_cells.gates import Coupled
from memory_cells.multi import Stacked
from memory_cells.nru import PRESETS
from memory_cells.variants import count_parameters
from memory_cells.wrappers import Gaussian, HDetach, Oscillating, TimeGate, Zoneout, clocks, step_open_units

T, B, I, H = 40, 6, 3, 8
NO_RESET = torch.zeros(T, B, dtype=torch.bool)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# -- h-detach


@pytest.mark.parametrize("coin", ["batch", "sample"])
def test_the_coin_falls_as_often_as_stated(coin):
    core = HDetach(LSTM(I, H), 0.3, coin)
    (mask,) = core.draw(4000, 5, seeded())
    assert mask.shape == (4000, 5, 1) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(mask.mean() - 0.3) < 0.03
    shared = (mask == mask[:, :1]).all(1).float().mean()
    assert shared == 1 if coin == "batch" else shared < 0.3
    core.p_detach.zero_()  # the learner's switch
    assert (core.draw(1000, 5)[0] == 0).all()
    core.eval()
    assert core.draw(10, 5) == ()


@pytest.mark.parametrize("path", ["loop", "eager", "fused"])
@pytest.mark.parametrize("name", ["hdetach-lstm", "hdetach-ur-lstm", "hdetach-nru"])
def test_values_are_bit_equal_with_and_without(name, path):
    core = make_core(name, I, H, p_detach=0.5)
    x, state = torch.randn(T, B, I), tuple(torch.randn_like(s) for s in core.initial_state(B))
    with_coin, _ = unroll(core, x, NO_RESET, state, path=path, noise=core.draw(T, B))
    without, _ = unroll(core, x, NO_RESET, state, path=path, noise=())
    assert torch.equal(with_coin, without)


def lstm_with_reads_cut(core, x, state, mask):
    """A plain LSTM, written out, whose read of h is detached where the mask says so."""
    (h, c), ys = state, []
    for t in range(len(x)):
        read = h.detach() if mask[t] else h
        a = x[t] @ core.weight_x.T + read @ core.weight_h.T + core.bias
        f, i, u, o = a.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * u.tanh()
        h = o.sigmoid() * c.tanh()
        ys.append(h)
    return torch.stack(ys)


@pytest.mark.parametrize("path", ["loop", "eager", "fused"])
def test_gradient_is_that_of_the_cut_graph_without_rescaling(path):
    core = make_core("hdetach-lstm", I, H, p_detach=0.5).double()
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(B, H, dtype=torch.float64) for _ in range(2))
    noise, leaves = core.draw(T, B), [x, *core.parameters()]
    y, _ = unroll(core, x, NO_RESET, state, path=path, noise=noise)
    want = lstm_with_reads_cut(core.inner, x, state, noise[0][:, 0, 0].tolist())
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(y.square().sum(), leaves), torch.autograd.grad(want.square().sum(), leaves),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", ["loop", "eager", "fused"])
def test_a_blocked_read_is_exactly_zero_and_the_memory_still_flows(path):
    core = HDetach(LSTM(I, H), 1.0)
    x, state = torch.randn(T, B, I), tuple(torch.randn(B, H).requires_grad_() for _ in range(2))
    y, _ = unroll(core, x, NO_RESET, state, path=path, noise=core.draw(T, B))
    gh, gc = torch.autograd.grad(y[-1].sum(), state, allow_unused=True)
    assert gh is None or (gh == 0).all()
    assert (gc != 0).any()


@pytest.mark.parametrize("path", ["loop", "fused"])
def test_the_copy_path_keeps_its_gradient(path):
    """Zoneout copies h; that copy is no read. With every unit's output kept, y is h itself."""
    core = Zoneout(HDetach(LSTM(I, H), 1.0), 0.0, 0.5)
    coin, _ = core.draw(T, B)
    h, c = (torch.randn(B, H).requires_grad_() for _ in range(2))
    y, _ = unroll(core, torch.randn(T, B, I), NO_RESET, (h, c), path=path, noise=(coin, torch.ones(T, B, H)))
    (g,) = torch.autograd.grad(y[-1].sum(), h)
    assert torch.equal(y[-1], h) and torch.equal(g, torch.ones_like(h))


def test_cells_with_one_state_and_wrong_orders_are_refused():
    with pytest.raises(ValueError, match="apart from the memory"):
        HDetach(GRU(I, H, Coupled()))
    with pytest.raises(ValueError, match="HDetach goes inside Zoneout"):
        HDetach(Zoneout(LSTM(I, H)))
    with pytest.raises(ValueError, match="Zoneout goes inside TimeGate"):
        Zoneout(TimeGate(LSTM(I, H), Gaussian(H, 10)))
    with pytest.raises(ValueError, match="goes inside HDetach"):
        HDetach(HDetach(LSTM(I, H)))
    with pytest.raises(ValueError, match="no memory apart"):
        Zoneout(GRU(I, H, Coupled()), zoneout_c=0.5)
    with pytest.raises(ValueError, match="states of 8 units"):
        TimeGate(make_core("nru", I, H), Gaussian(H, 10))
    for bad in (lambda: HDetach(LSTM(I, H), 1.5), lambda: HDetach(LSTM(I, H), coin="gold"), lambda: Gaussian(H, 0),
                lambda: Zoneout(LSTM(I, H), 1.0), lambda: Oscillating(H, 0.0),
                lambda: TimeGate(LSTM(I, H), Gaussian(H, 10), threshold=1.0)):  # fmt: skip
        with pytest.raises(ValueError):
            bad()


@pytest.mark.parametrize("path", ["loop", "fused", "eager"])
def test_all_three_together(path):
    core = TimeGate(Zoneout(HDetach(LSTM(I, H), 0.5), 0.3, 0.2), Gaussian(H, 10)).double()
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    noise, first = core.draw(T, B), torch.rand(T, B) < 0.1
    found = []
    for p in ("loop", path):
        y, _ = unroll(core, x, first, core.initial_state(B), path=p, noise=noise)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *core.parameters()])])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
    assert core.state_names == ("h", "c", "clock") and core.memory == "c" and len(noise) == 3


# -- Zoneout


def test_zoneout_keeps_as_many_units_as_stated():
    core = make_core("zoneout-lstm", I, H, zoneout_c=0.3, zoneout_h=0.1)
    h_mask, c_mask = core.draw(3000, 4, seeded())
    assert abs(h_mask.mean() - 0.1) < 0.01 and abs(c_mask.mean() - 0.3) < 0.01
    assert 0.2 < (c_mask[:, 0, 0] == c_mask[:, 0, 1]).float().mean() < 0.8  # per unit
    x, state = torch.randn(2, 4, I), tuple(torch.randn(4, H) for _ in range(2))
    _, new = unroll(core, x[:1], NO_RESET[:1, :4], state, noise=(h_mask[:1], c_mask[:1]))
    for mask, old, now in zip((h_mask, c_mask), state, new, strict=True):
        assert torch.equal(now == old, mask[0] > 0)


def test_zoneout_takes_the_expectation_in_evaluation():
    core = Zoneout(LSTM(I, H), 0.3, 0.1).eval()
    z, (h, c) = (torch.randn(B, 4 * H),), (torch.randn(B, H), torch.randn(B, H))
    new_h, new_c = core.inner.step(z, (h, c))
    found_h, found_c = core.step(z, (h, c))
    torch.testing.assert_close(found_h, 0.1 * h + 0.9 * new_h)
    torch.testing.assert_close(found_c, 0.3 * c + 0.7 * new_c)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wrap", [
    lambda cell: Zoneout(cell, 0.3, 0.1),
    lambda cell: Zoneout(cell, 0.0, 0.1),
    lambda cell: TimeGate(cell, Gaussian(H, 3.0)),
    lambda cell: TimeGate(Zoneout(HDetach(cell, 0.5), 0.3, 0.1), Oscillating(H, 0.5), 0.2),
])  # fmt: skip
def test_recorded_gates_are_those_of_the_whole_step(wrap, training):
    cell = LSTM(I, H)
    core = wrap(cell).train(training)
    assert Stacked([LSTM(I, I), core]).holds == core.holds != ()
    x, (h, c, *clock) = torch.randn(1, B, I), (torch.randn_like(s) for s in core.initial_state(B))
    state, noise = (h, c.requires_grad_(), *(s + 4 for s in clock)), core.draw(1, B)
    _, _, traces = unroll(core, x, NO_RESET[:1], state, record=("c", "keep", "write"), noise=noise)
    new, keep, write = (traces[name][0] for name in ("c", "keep", "write"))
    candidate = (cell.project(x)[0][0] + h @ cell.weight_h.T).chunk(4, -1)[2].tanh()
    torch.testing.assert_close(new, keep * c + write * candidate)
    torch.testing.assert_close(torch.autograd.grad(new.sum(), c)[0], keep)


def test_zoneout_of_nothing_is_the_cell_inside():
    core = Zoneout(LSTM(I, H), 0.0, 0.0)
    x = torch.randn(T, B, I)
    assert core.draw(T, B) == ()
    inner, _ = unroll(core.inner, x, NO_RESET, core.initial_state(B))
    assert torch.equal(unroll(core, x, NO_RESET, core.initial_state(B))[0], inner)


# -- time gates


@pytest.mark.parametrize("path", ["loop", "fused"])
@pytest.mark.parametrize("name", ["g-lstm", "phased-lstm"])
def test_clocks_count_rows_of_the_episode(name, path):
    core, first = make_core(name, I, H, horizon=20), torch.rand(T, B) < 0.1
    *rest, clock = core.initial_state(B)
    assert (clock == 0).all()
    start = clock + torch.arange(B).view(B, 1)
    _, (*_, last) = unroll(core, torch.zeros(T, B, I), first, (*rest, start), path=path)
    count, want = start[:, 0].clone(), []
    for t in range(T):
        count = torch.where(first[t], 0, count) + 1
        want.append(count)
    assert torch.equal(last[:, 0], want[-1]) and torch.equal(clocks(first, start), torch.stack(want))


def test_the_gaussian_gate_peaks_at_mu_and_e_folds_at_sigma():
    gate = Gaussian(3, 100.0)
    with torch.no_grad():
        gate.mu.copy_(torch.tensor([0.1, 0.5, 0.9]))
        gate.sigma.fill_(0.2 - 1e-3)
    k = gate(torch.tensor([[10.0], [30.0], [50.0], [90.0]]), True)
    torch.testing.assert_close(k[[0, 2, 3], [0, 1, 2]], torch.ones(3))
    torch.testing.assert_close(k[1, :2], torch.exp(torch.tensor([-1.0, -1.0])))
    gate.factor.fill_(1e-3)  # curriculum: shut almost everywhere ...
    assert (gate(torch.tensor([[30.0]]), True) < 1e-6).all()
    gate.factor.fill_(1e3)  # ... and open everywhere
    assert (gate(torch.arange(100.0).view(-1, 1), True) > 0.99).all()


def test_an_open_gaussian_gate_is_the_cell_inside():
    core = make_core("g-lstm", I, H, horizon=T)
    core.openness.factor.fill_(1e6)
    x, start = torch.randn(T, B, I), core.initial_state(B)
    torch.testing.assert_close(unroll(core, x, NO_RESET, start)[0], unroll(core.inner, x, NO_RESET, start[:2])[0])


def test_the_oscillating_gate_opens_for_its_share_of_the_period():
    gate = Oscillating(1, 0.1)
    with torch.no_grad():
        gate.period.fill_(50.0)
        gate.shift.fill_(7.0)
    t = torch.arange(0, 5000, 0.5).view(-1, 1)
    k = gate(t, False)
    assert abs((k > 0).float().mean() - 0.1) < 0.01 and k.max() > 0.99
    assert (
        k[14] == 0 and abs(gate(torch.tensor([[9.5]]), False) - 1) < 1e-5
    )  # starts to open at the shift, r/2 later it is open
    leaking = gate(t, True)
    torch.testing.assert_close(leaking[k == 0], (1e-3 * ((t - 7) % 50) / 50)[k == 0], rtol=1e-3, atol=1e-6)
    periods = Oscillating(20_000).period.log()
    assert periods.min() >= 1 and periods.max() <= 6 and abs(periods.mean() - 3.5) < 0.05


def test_the_budget_is_the_mean_openness():
    core, first = make_core("g-lstm", I, H, horizon=20), torch.rand(T, B) < 0.1
    start = core.initial_state(B)
    budget = core.budget(first, start)
    assert budget.shape == (T, B) and (budget > 0).all() and (budget < 1).all()
    k = core.open(torch.tensor([[1.0]])).mean()
    torch.testing.assert_close(budget[0], k.expand(B))
    grads = torch.autograd.grad(budget.mean(), list(core.openness.parameters()))
    assert all((g != 0).any() for g in grads)
    # reference 4.2: a unit in the middle of a long episode is open for sigma sqrt(pi) / T of it
    long = Gaussian(1, 1000.0)
    with torch.no_grad():
        long.mu.fill_(0.5)
        long.sigma.fill_(0.05)
    share = long(torch.arange(1.0, 1001.0).view(-1, 1), True).mean()
    assert abs(share - 0.051 * torch.pi**0.5) < 1e-3


@pytest.mark.parametrize("path", ["loop", "fused"])
def test_below_the_threshold_a_unit_stays_and_is_not_counted(path):
    core = make_core("g-lstm", I, H, horizon=20, threshold=0.5).eval()
    with torch.no_grad():
        core.openness.sigma.fill_(0.05)
        x, start = torch.randn(T, B, I), core.initial_state(B)
        k = torch.stack([core.openness(torch.tensor([[float(t)]]), False)[0] for t in range(1, T + 1)])
        y = unroll(core, x, NO_RESET, start, path=path)[0]
        shut = (k < 0.5).unsqueeze(1).expand(T, B, H)
        previous = torch.cat([start[0].unsqueeze(0), y[:-1]])
        assert torch.equal(y[shut], previous[shut]) and (y[~shut] != previous[~shut]).all()
    executed, dense = core.multiply_adds(NO_RESET, start)
    assert dense == T * B * 4 * H * (I + H)
    assert executed == (~shut).sum() * 4 * (I + H) < dense / 5
    core.train()
    assert core.multiply_adds(NO_RESET, start)[0] > executed  # the threshold is for evaluation


@pytest.mark.parametrize("inputs", [1, I])
@pytest.mark.parametrize("name", ["g-lstm", "phased-lstm"])
def test_open_units_alone_give_the_same_step_and_execute_what_is_counted(name, inputs):
    core = make_core(name, inputs, H, horizon=10, threshold=0.2).double().eval()
    x, first = torch.randn(T, B, inputs, dtype=torch.float64), torch.zeros(1, B, dtype=torch.bool)
    state, total = core.initial_state(B), 0
    with torch.no_grad():
        for t in range(T):
            counted, dense = core.multiply_adds(first, state)
            mine, executed = step_open_units(core, x[t], state)
            state = core.step(tuple(z[0] for z in core.project(x[t : t + 1])), state)
            torch.testing.assert_close(mine, state, rtol=1e-12, atol=1e-12)
            assert executed == counted <= dense
            total += executed
    assert 0 < total < T * dense / 2
    with pytest.raises(ValueError, match="no units by themselves"):
        step_open_units(TimeGate(make_core("o-lstm", inputs, H), Gaussian(H, 10)), x[0], state)


def test_only_matrix_products_are_counted():
    core = TimeGate(make_core("kaf-lstm", I, H), Gaussian(H, 10))  # its alphas are matrices too, and multiply nothing
    assert core.multiply_adds(torch.zeros(1, 1, dtype=torch.bool), core.initial_state(1))[1] == 4 * H * (I + H)


def test_a_time_gate_refuses_states_that_cannot_be_mixed():
    with pytest.raises(ValueError, match="SLSTM do not"):
        TimeGate(make_core("slstm", I, H), Gaussian(H, 10))


# -- the NRU


def test_nru_refuses_what_does_not_square():
    with pytest.raises(ValueError, match="must be a square"):
        make_core("nru", I, H, memory_size=10, heads=2)
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        make_core("nru", I, H, head_reduce="max")


def test_nru_has_the_references_parameter_count():
    """Reference section 12, with the input included: (M + H + I) H + H + 2 ((M + H) 2S + 2S) + 2 ((M + H) k + k)."""
    hidden, memory, heads, inputs = 80, 64, 4, 10
    core, side = make_core("nru", inputs, hidden), 16
    want = (memory + hidden + inputs) * hidden + hidden
    want += 2 * ((memory + hidden) * 2 * side + 2 * side) + 2 * ((memory + hidden) * heads + heads)
    assert sum(p.numel() for p in core.parameters()) == want
    assert 22_000 < want < 25_000  # the models of some 23.5k parameters in its experiments


@pytest.mark.parametrize("task, inputs", list(zip(PRESETS, (10, 1), strict=True)))
def test_presets_are_matched(task, inputs):
    sizes = {n: count_parameters(make_core(n, inputs, horizon=100, **kw)) for n, kw in PRESETS[task].items()}
    named = float(task.split()[-2].strip("k")) * 1000
    assert all(abs(size / named - 1) < 0.12 for size in sizes.values()), sizes


@pytest.mark.parametrize("path", ["loop", "fused"])
def test_nru_survives_a_dead_head(path):
    """With ReLU a head's direction may be all zero; its norm must not divide by zero, forward or backward."""
    core = make_core("nru-relu", I, H)
    with torch.no_grad():
        core.heads_bias.fill_(-100.0)
    y, _ = unroll(core, torch.randn(T, B, I), NO_RESET, core.initial_state(B), path=path)
    y.square().sum().backward()
    assert y.isfinite().all() and all(p.grad.isfinite().all() for p in core.parameters())
