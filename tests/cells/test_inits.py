"""The stated distribution of every gate at zero input."""

import pytest
import torch

from benchmarks.cell_figures import keep as keep_of_core
from memory_cells import VARIANTS, make_core
from memory_cells.gates import Coupled, Master, Ordered, Refine, Static
from memory_cells.inits import Chrono, Constant, HeavyTail, Uniform
from memory_cells.squash import KAF, Cumax, Sigmoid
from memory_cells.variants import GATES, INITS, SQUASHES
from memory_cells.wrappers import Gaussian, Oscillating

H, HORIZON = 4096, 500.0
QUANTILES = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99])


def heavy_quantiles():
    k = torch.arange(1, 2**20 + 1, dtype=torch.float64)
    share = (1 / (k * (k + 1).log() ** 2)).cumsum(0)
    drawn = k[torch.searchsorted(share / share[-1], QUANTILES.double())]
    return (drawn / (1 + drawn)).float()


EXPECTED = {  # of f = sigmoid(b), at QUANTILES
    "constant": torch.sigmoid(torch.ones(5)),
    "zero": QUANTILES,  # with cumax
    "chrono": 1 - 1 / (1 + (HORIZON - 2) * QUANTILES + 1),  # sigmoid(log b) = b / (1 + b), b ~ U[1, T - 1]
    "uniform": QUANTILES,  # up to 1/H at the ends
    "heavy": heavy_quantiles(),
}


def mastered(f):
    """mf = f, mi = 1 - f, inner forget gate 1/2."""
    return f - f * (1 - f) / 2


#: gate -> keep at zero input as a function of f; a refine gate has r = 1 - f where biases are uniform, else 1/2
KEEP = {
    "free": lambda f: f, "coupled": lambda f: f, "janet": lambda f: f, None: lambda f: f, "ordered": lambda f: f,
    "refine": lambda f: f, "ordered-refine": lambda f: f,
    "master": mastered, "ordered-master": mastered,
}  # fmt: skip


def keep_of(row, f):
    return 2 * f**3 - 3 * f**2 + 2 * f if (row.gate, row.init) == ("refine", "uniform") else KEEP[row.gate](f)


GATED = [name for name, row in VARIANTS.items() if row.init and row.cell in ("lstm", "gru", "gated-rnn", "leaky-rnn")]


def keep_at_zero(name, hidden=H, **options):
    torch.manual_seed(0)
    core = make_core(name, 1, hidden, horizon=HORIZON, **options)
    while hasattr(core, "inner"):
        core = core.inner
    with torch.no_grad():
        pre = core.bias[: sum(core.gate.widths(hidden))].split(core.gate.widths(hidden)) if core.gate.inputs else ()
        return core.gate(*pre)


@pytest.mark.parametrize("name", GATED)
def test_keep_at_the_start(name):
    row = VARIANTS[name]
    torch.manual_seed(0)
    keep, write = zip(*(keep_of_bias(name) for _ in range(3)), strict=True)
    keep, write = torch.cat(keep), torch.cat(write)
    want = keep_of(row, EXPECTED[row.init])
    torch.testing.assert_close(keep.quantile(QUANTILES), want, rtol=0.04, atol=0.012)
    if row.gate in ("coupled", "refine", "ordered", "ordered-refine", None):
        torch.testing.assert_close(write, 1 - keep)


def keep_of_bias(name):
    """keep and write of H units from the gate and initialisation of a row alone, without its matrices."""
    row = VARIANTS[name]
    init = INITS[row.init](HORIZON)
    with torch.no_grad():
        if row.cell == "leaky-rnn":
            return Static(init, H)()
        squash = SQUASHES[row.squash](H, init) if row.squash else Sigmoid
        gate = GATES[row.gate](squash)
        return gate(*gate.biases(init, H))


@pytest.mark.parametrize("name", GATED)
def test_the_cell_starts_with_these_biases(name):
    """In a whole cell keep has the deciles of the gate alone."""
    row, keep = VARIANTS[name], keep_at_zero(name, 256)[0]
    want = keep_of(row, EXPECTED[row.init])
    torch.testing.assert_close(keep.quantile(QUANTILES[1:4]), want[1:4], rtol=0, atol=0.1)


DECILES = torch.tensor([0.1, 0.5, 0.9])


def steps(*decays):
    """The deciles of equally many units of each decay."""
    return torch.tensor([decays[int(q * len(decays))] for q in DECILES])


#: rows without a gate object or with a start of their own: deciles of what a unit's new memory owes to its old one
OWN = {
    "memoryless": torch.zeros(3), "elman": torch.zeros(3), "irnn": torch.ones(3), "lstm-torch": steps(0.5), "gru": steps(0.5),
    "orth-rnn": -torch.cos(torch.pi * DECILES),  # angles U(-pi, pi)
    "goru": steps(0.5), "rhn": torch.sigmoid(torch.tensor(2.0)).repeat(3) ** 4,
    "g2-lstm": torch.sigmoid(torch.ones(3)), "noisy-lstm": steps(0.75),  # a hard sigmoid, 0.25 b + 0.5
    "stacked-lstm": torch.sigmoid(torch.ones(3)), "on-lstm": mastered(DECILES), "sru": steps(0, 0.5, 0.9, 0.99, 0.999),
    "nru": torch.ones(3), "nru-relu": torch.ones(3), "hdetach-nru": torch.ones(3),
    "mingru": steps(0.5), "minlstm": steps(0.5), "lru": DECILES.sqrt(),  # |lambda|^2 uniform
    "ffm": torch.exp(DECILES * -4.5e-3 + (1 - DECILES) * -0.673),
}  # fmt: skip
#: where one number a unit says too little, and the test that looks at what they start from
ELSEWHERE = {"slstm", "rmc", "rnn-orth", "indrnn", "clockwork", "dilated-lstm", "dilated-gru"}  # test_baselines.py


@pytest.mark.parametrize("name", OWN)
def test_what_other_cells_keep_at_the_start(name):
    torch.manual_seed(0)
    found = keep_of_core(make_core(name, 64, 256, horizon=HORIZON).eval()).quantile(DECILES)
    torch.testing.assert_close(found, OWN[name], rtol=0, atol=0.3 if name == "orth-rnn" else 0.06)


def test_every_row_has_its_start_tested():
    assert {*GATED, *OWN, *ELSEWHERE} == set(VARIANTS) and not set(GATED) & OWN.keys()


def test_time_gates_start_as_stated():
    torch.manual_seed(0)
    gate = Gaussian(H, HORIZON)
    torch.testing.assert_close(gate.mu.quantile(QUANTILES), QUANTILES, rtol=0, atol=0.02)
    assert torch.equal(gate.sigma, torch.full((H,), 1 / 3)) and gate.factor == 1
    assert make_core("g-lstm", 1, 8, horizon=HORIZON).openness.horizon == gate.horizon == HORIZON
    gate = Oscillating(H)
    torch.testing.assert_close(gate.period.log().quantile(QUANTILES), 1 + 5 * QUANTILES, rtol=0, atol=0.1)
    torch.testing.assert_close((gate.shift / gate.period).quantile(QUANTILES), QUANTILES, rtol=0, atol=0.02)


def test_refine_bias_zero_starts_at_the_primary_gate():
    keep, write = keep_at_zero("ur-lstm", 64, refine_bias="zero")
    torch.manual_seed(0)
    torch.testing.assert_close(write, 1 - keep)
    assert abs(keep.quantile(0.9) - 0.9) < 0.1 and abs(keep_at_zero("ur-lstm", 64)[0].quantile(0.9) - 0.82) < 0.1


def test_write_gate_of_free_pairs():
    """Chrono biases the input gate by minus the same draw; a constant forget bias leaves it at one half."""
    keep, write = keep_at_zero("chrono-lstm", 64)
    torch.testing.assert_close(write, 1 - keep)
    torch.testing.assert_close(keep_at_zero("lstm", 64)[1], torch.full((64,), 0.5))


def test_master_gates_start_apart():
    """mf rises where mi falls; chunks share them; f of ordered masters is spread by itself."""
    for name in ("om-lstm", "um-lstm"):
        keep, write = keep_at_zero(name, 64, chunk=4)
        keep, write = keep.view(16, 4), write.view(16, 4)
        assert (keep == keep[:, :1]).all() and (keep + write <= 1 + 1e-6).all()
    assert (keep_at_zero("om-lstm", 64)[0].diff() > 0).all()


def assert_quantiles(sample, closed_form):
    """At QUANTILES, give or take five sampling errors sqrt(q (1 - q) / n) of q."""
    found, error = sample.quantile(QUANTILES), 5 * (QUANTILES * (1 - QUANTILES) / len(sample)).sqrt()
    assert (closed_form(QUANTILES - error) <= found).all() and (found <= closed_form(QUANTILES + error)).all()


def test_chrono_and_uniform_have_the_quantiles_of_their_closed_forms():
    """For T_max = 500, where e^b = 1 + (T - 2) q; and for H = 256 with refine bias 'neg'."""

    def refined(f):
        return 2 * f**3 - 3 * f**2 + 2 * f

    torch.manual_seed(0)
    assert_quantiles(Chrono(500.0)(100_000).sigmoid(), lambda q: 1 - 1 / (2 + 498 * q))  # 0.857 0.981 0.996 0.998 0.998
    drawn = torch.cat([Uniform()(256).sigmoid() for _ in range(400)])
    assert_quantiles(refined(drawn), lambda q: refined((1 + 254 * q) / 256))  # 0.027 0.176 0.5 0.824 0.973


def test_heavy_tail_has_the_stated_probabilities():
    """P(T = k) ~ 1 / (k log^2(k + 1)), by counting; and the shares that its docstring names."""
    torch.manual_seed(0)
    drawn = HeavyTail()(200_000).exp().round()
    k = torch.arange(1, 2**20 + 1, dtype=torch.float64)
    p = 1 / (k * (k + 1).log() ** 2)
    for value in (1, 2, 3, 10):
        assert abs((drawn == value).double().mean() - p[value - 1] / p.sum()) < 0.003
    keep = drawn / (1 + drawn)
    assert abs((drawn == 1).double().mean() - 5 / 8) < 0.01
    assert abs((keep > 0.99).double().mean() - 1 / 23) < 0.003 and abs((keep > 0.9999).double().mean() - 1 / 90) < 0.002


def test_bad_values_say_so():
    with pytest.raises(ValueError, match="greater than 2"):
        Chrono(2.0)
    for ask in (Uniform(), Uniform().reach):
        with pytest.raises(ValueError, match="at least 2 units"):
            ask(1)


def test_gates_that_do_not_fit_an_initialisation_say_so():
    for gate in (Ordered(), Refine(primary=Cumax), Master(primary=Cumax)):
        for init in (Constant(1.0), Chrono(30.0), Uniform()):
            with pytest.raises(ValueError, match="zero bias"):
                gate.biases(init, 8)
        gate.biases(Constant(0.0), 8)
    with pytest.raises(ValueError, match="its own squash"):
        Ordered(lambda: KAF(8))
    with pytest.raises(ValueError, match="does not divide"):
        Master(chunk=3).widths(8)
    with pytest.raises(ValueError, match="at least 1"):
        Master(chunk=0)
    with pytest.raises(ValueError, match="'neg' or 'zero'"):
        Refine(refine_bias="plus")
    assert Coupled(offset=1.0).offset == 1.0


@pytest.mark.parametrize("name", [n for n in GATED if VARIANTS[n].fixed.get("weights") != "torch"])
def test_recurrent_matrices_are_orthogonal_gate_by_gate(name):
    core = make_core(name, 8, 32, horizon=50)
    while hasattr(core, "inner"):
        core = core.inner
    for block in core.weight_h.detach().split(core.rows):
        torch.testing.assert_close(block @ block.t(), torch.eye(len(block)), rtol=0, atol=1e-5)
