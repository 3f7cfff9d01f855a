"""Where every parameter of every row starts, in one table, and the numbers that a row takes where nobody gives one.

The golden tests move each parameter before they look at a cell, so they see equations and no start. Here every parameter
and buffer, or every gate's block of one, has the distribution that its paper or its authors' code states; what no source
states has ours, marked "ours". A parameter that the table does not claim fails, as does a row without an entry.

A law is a quantile function. A block of n numbers is held against its bounds, mean and standard deviation (six sampling
errors) and against the whole distribution (Kolmogorov-Smirnov distance below 2.5 / sqrt(n)): with free seeds one run in
about a hundred would fail by chance.
"""

import math
from dataclasses import replace
from functools import cache, partial
from operator import attrgetter

import numpy as np
import pytest
import torch
from scipy import stats

from memory_cells import VARIANTS, make_core
from memory_cells.nru import normalise5

I, H, HORIZON = 96, 160, 500.0
GRID = (np.arange(2**14) + 0.5) / 2**14

# --- laws: (block of a parameter, label -> the other blocks of its cell) -> what is wrong with it, "" if nothing -----------


def drawn(quantile):
    with np.errstate(divide="ignore"):
        low, high, values = quantile(0.0), quantile(1.0), quantile(GRID).astype(np.float32).astype(np.float64)
    mean, std = values.mean(), values.std()
    share, kurtosis = np.searchsorted(values, values, "right") / len(values), (((values - mean) / std) ** 4).mean()

    def check(block, _):
        v = np.sort(block.ravel().astype(np.float64))
        n = len(v)
        if v[0] < low - 1e-6 * abs(low) or v[-1] > high + 1e-6 * abs(high):
            return f"lies in [{v[0]:.4g}, {v[-1]:.4g}], not in [{low:.4g}, {high:.4g}]"
        if abs(v.mean() - mean) > 6 * std / math.sqrt(n):
            return f"has mean {v.mean():.4g}, not {mean:.4g}"
        if abs(v.std() / std - 1) > 6 * math.sqrt((kurtosis - 1) / (4 * n)):
            return f"has standard deviation {v.std():.4g}, not {std:.4g}"
        distance = np.abs(np.searchsorted(v, values, "right") / n - share).max()
        return f"is {distance:.3f} from its distribution" if distance > 2.5 / math.sqrt(n) else ""

    return check


@cache
def uniform(low, high):
    return drawn(lambda u: low + (high - low) * u)


def within(bound):
    return uniform(-bound, bound)


@cache
def normal(std):
    return drawn(lambda u: std * stats.norm.ppf(u))


@cache
def truncated_normal(std):
    return drawn(lambda u: std * stats.truncnorm.ppf(u, -2, 2))


def summed(a, b):
    """The sum of one draw within a and one within b."""
    share = min(a, b) / (a + b)
    return drawn(stats.trapezoid(share, 1 - share, -(a + b), 2 * (a + b)).ppf)


def glorot(block, other):
    return within(math.sqrt(6 / sum(block.shape)))(block, other)


def kaiming_normal(block, other):
    return normal(math.sqrt(2 / block.shape[1]))(block, other)


def sonnet(block, other):
    return truncated_normal(block.shape[1] ** -0.5)(block, other)


def linear(block, other):
    """The weight of torch.nn.Linear; its bias has the same bound, that of the weight's columns."""
    return within(block.shape[1] ** -0.5)(block, other)


def orthogonal(block, other):
    """Orthonormal rows, and none of the special ones: the entries of a random one are normal."""
    off = np.abs(block @ block.T - np.eye(len(block))).max()
    return f"is {off:.2g} from orthogonal" if off > 1e-5 else normal(block.shape[1] ** -0.5)(block, other)


def exactly(value):
    def check(block, _):
        off = np.abs(block - np.broadcast_to(value, block.shape)).max()
        return f"is {off:.3g} off its value" if off > 1e-6 * np.abs(value).max() else ""

    return check


def minus(label):
    return lambda block, other: "" if (block == -other(label)).all() else f"is not minus that of {label}"


def judge(law):
    return law if callable(law) else exactly(law)


# --- gates: row of INITS -> keep-bias, row of GATES -> bias of each pre-activation, in the order of the blocks ---------------

TALL = np.arange(1, 2**20 + 1)
TAIL = np.cumsum(1 / (TALL * np.log(TALL + 1) ** 2))
KEEP = {
    "constant": 1.0,
    "zero": 0.0,
    "chrono": drawn(lambda u: np.log(1 + (HORIZON - 2) * u)),  # log U[1, T - 1] [P]
    "heavy": drawn(lambda u: np.log(TALL[np.searchsorted(TAIL[:-1] / TAIL[-1], u)])),  # 1 / (k log^2(k + 1)) [P], cut: ours
    "uniform": drawn(lambda u: np.log((1 + (H - 2) * u) / (H - 1 - (H - 2) * u))),  # logit U[1/H, 1 - 1/H] [C]
}
GATES = {
    "free": lambda keep, init: {"forget": keep, "input": 0.0 if init == "constant" else minus("forget")},  # [P]
    "coupled": lambda keep, init: {"forget": keep},
    "janet": lambda keep, init: {"forget": keep},
    "refine": lambda keep, init: {"forget": keep, "refine": minus("forget") if init == "uniform" else 0.0},  # [S]
    "ordered": lambda keep, init: {"forget": keep},
    "ordered-refine": lambda keep, init: {"forget": keep, "refine": 0.0},
    "ordered-master": lambda keep, init: {"master_forget": keep, "master_input": 0.0, "forget": 0.0},
    "master": lambda keep, init: {"master_forget": keep, "master_input": minus("master_forget"), "forget": 0.0},  # [R]
}
SQUASHED = {"free": ("squash_forget", "squash_input"), "coupled": ("squash",), "refine": ("squash_forget", "squash_refine")}
REACH = {"constant": 1.0, "chrono": math.log(HORIZON - 1), "uniform": math.log(H - 1)}


def kaf(reach, alpha, _):
    """Ridge regression of the identity on points 8/9 apart, ten on [-4, 4], further where biases reach further (5.1, 5.2)."""
    edge = max(4.0, reach + 2)
    size = math.ceil(2 * edge / (8 / 9)) + 1
    points = np.linspace(-edge, edge, size)
    if alpha.shape != (H, size) or (alpha != alpha[0]).any():
        return f"of shape {alpha.shape} is not {H} times the same {size} numbers"
    kernel = np.exp(-0.5 / (2 * (points[1] - points[0])) ** 2 * (points[:, None] - points) ** 2)
    off = np.abs((kernel + 1e-4 * np.eye(size)) @ alpha[0].astype(np.float64) - points).max()
    return f"is {off:.2g} off the regression" if off > 1e-4 else ""


def gated(row, own):
    """A gated row: Glorot and orthogonal block by block, biases zero but for the gate's (8.1). `own`: blocks of the cell."""
    biases = {**GATES[row.gate](KEEP[row.init], row.init), **dict.fromkeys(own, 0.0)}
    laws = {"weight_x": dict.fromkeys(biases, glorot), "weight_h": dict.fromkeys(biases, orthogonal), "bias": biases}
    if row.squash:  # on the gate and on what else is a gate
        parts = [f"gate.{part}" for part in SQUASHED[row.gate]] + [f"squash_{k}" for k in ("output", "reset") if k in own]
        laws |= {f"{part}.alpha": partial(kaf, REACH[row.init]) for part in parts}
    return laws


def lstm(row):
    peepholes = (*GATES[row.gate](0.0, row.init), "output") if row.fixed.get("peepholes") else ()
    return gated(row, ("candidate", "output")) | {f"peepholes.{name}": TORCH for name in peepholes}  # peepholes: ours


def free_lstm(row):
    return lstm(replace(row, gate="free"))


def rotated(matrix, other):
    """2 x 2 rotations of angle U(-pi, pi) on the diagonal (Henaff et al. 2016)."""
    k = np.arange(0, H, 2)
    angle, built = np.arctan2(matrix[k + 1, k], matrix[k, k]), np.zeros((H, H))
    built[k, k] = built[k + 1, k + 1] = np.cos(angle)
    built[k + 1, k], built[k, k + 1] = np.sin(angle), -np.sin(angle)
    return within(math.pi)(angle, other) if np.allclose(matrix, built, atol=1e-6) else "is not made of rotations"


def no_turn(entries, _):
    """exp(A) = 1: what torch's parametrization reads, the part below the diagonal, is zero."""
    return "is not zero below the diagonal" if np.tril(entries, -1).any() else ""


def upper(entries, other):
    """The live entries of an orthogonal matrix: the fastest of the eight groups reads everything, so its rows are whole."""
    return orthogonal(entries[0, : H // 8 * H].reshape(-1, H), other) or normal(H**-0.5)(entries, other)


def gamma_of(nu):
    def check(gamma, other):
        off = np.abs(1 - np.exp(2 * gamma) - np.exp(-2 * np.exp(other(nu)))).max()
        return f"is not log sqrt(1 - |lambda|^2): {off:.2g} off" if off > 1e-5 else ""

    return check


# --- the table: topology, or row where its arguments change the start -> parameter -> law, or block -> law -------------------

TORCH, TORCH_TWICE = within(H**-0.5), summed(H**-0.5, H**-0.5)  # the second where ours is the sum of torch's two biases
NRU, HEADS, PERIOD = within((I + H + 64) ** -0.5), within((H + 64) ** -0.5), 2.0 ** np.arange(8).repeat(H // 8)
LIMIT = math.log(np.finfo(np.float64).max) / 1024 - 0.01
TORCH_GRU = {"weight_x": TORCH, "weight_h": TORCH, "bias_h": TORCH,
             "bias": {"forget": TORCH_TWICE, "reset": TORCH_TWICE, "candidate": TORCH}}  # fmt: skip

ROWS = {
    "lstm-torch": lambda row: {"weight_x": TORCH, "weight_h": TORCH, "bias": TORCH_TWICE},
    "gru": lambda row: TORCH_GRU,
    "elman": lambda row: {"weight_x": TORCH, "weight_h": TORCH, "bias": TORCH_TWICE},
    "irnn": lambda row: {"weight_x": normal(0.001), "weight_h": exactly(np.eye(H)), "bias": 0.0},  # [R]
    "rnn-orth": lambda row: {  # [C]; LayerNorm as torch starts it
        "weight_x": glorot, "weight_h": orthogonal, "bias": 0.0, "norm.weight": 1.0, "norm.bias": 0.0},
}  # fmt: skip
TOPOLOGIES = {
    "memoryless": lambda row: {"weight_x": glorot, "bias": 0.0},  # ours
    "lstm": lstm,
    "gru": lambda row: gated(row, ("reset", "candidate")) | {"bias_h": 0.0},
    "gated-rnn": lambda row: gated(row, ("candidate",)),
    "leaky-rnn": lambda row: {"weight_x": glorot, "weight_h": orthogonal, "bias": 0.0, "gate.theta": KEEP[row.init]},
    "nru": lambda row: {  # torch.nn.Linear throughout [C]
        **dict.fromkeys(("weight_x", "weight_h", "weight_m", "bias"), NRU),
        **dict.fromkeys(("heads_h", "heads_m", "heads_bias"), HEADS)},
    "indrnn": lambda row: {"weight_x": glorot, "bias": 0.0, "weight_h": uniform(0.0, 1.0)},  # u [C], the others ours
    "orth-rnn": lambda row: {  # [C]
        "weight_x": kaiming_normal, "bias": within(0.01), "parametrizations.weight_h.original": no_turn,
        "parametrizations.weight_h.0.base": rotated},
    "goru": lambda row: {  # [C]; theirs is a product of planar rotations, ours any orthogonal matrix
        "weight_x": within(0.01), "weight_gates": within(0.01), "bias_modrelu": 0.01,
        "bias": {"reset": 2.0, "keep": within(math.sqrt(3 / H))},
        "parametrizations.weight_h.original": no_turn, "parametrizations.weight_h.0.base": orthogonal},
    "rhn": lambda row: {  # the transform bias [C], the matrices ours
        "weight_x": {"candidate": glorot, "transform": glorot},
        **{f"weights_h.{l}": {"candidate": orthogonal, "transform": orthogonal} for l in range(4)},
        **{f"biases.{l}": {"candidate": 0.0, "transform": -2.0} for l in range(4)}},
    "clockwork": lambda row: {  # ours; the periods [R]
        "weight_x": glorot, "bias": 0.0, "period": PERIOD, "parametrizations.weight_h.original": upper,
        "parametrizations.weight_h.0.index": np.flatnonzero(PERIOD[None, :] >= PERIOD[:, None])},
    "sru": lambda row: {  # the decays [C], the matrices ours
        **dict.fromkeys(("weight_x", "weight_r", "weight_p", "weight_o"), glorot),
        **dict.fromkeys(("bias", "bias_r", "bias_o"), 0.0), "decay": np.repeat([0, 0.5, 0.9, 0.99, 0.999], H)},
    "g2-lstm": free_lstm,
    "noisy-lstm": lambda row: {
        **free_lstm(row), **dict.fromkeys(("p_sigmoid", "p_candidate", "p_output"), within(1.0))},  # p: ours
    "on-lstm": lambda row: {  # torch.nn.Linear, two biases [C]
        "weight_x": linear, "weight_h": linear, "bias": summed(I**-0.5, H**-0.5)},
    "slstm": lambda row: {  # [C] but for the matrix of the input, which is ours
        "weight_x": dict.fromkeys(("input", "forget", "candidate", "output"), glorot),
        "bias": {"input": 0.0, "forget": np.tile(5 - 12 * np.linspace(0, 1, H // 4) ** 0.3, 4), "candidate": 0.0,
                 "output": 0.0},
        "parametrizations.weight_h.original": 0.0,
        "parametrizations.weight_h.0.index": np.flatnonzero(np.tile(np.kron(np.eye(4), np.ones((H // 4, H // 4))), (4, 1)))},
    "rmc": lambda row: {  # [C]
        **{f"{part}.weight": sonnet for part in ("inputs", "qkv", "mlp.0", "mlp.2", "gates_x", "gates_memory")},
        **{f"{part}.bias": 0.0 for part in ("inputs", "qkv", "mlp.0", "mlp.2", "gates_x", "gates_memory")},
        **{f"norm_{part}.weight": 1.0 for part in ("qkv", "attention", "mlp")},
        **{f"norm_{part}.bias": 0.0 for part in ("qkv", "attention", "mlp")}, "gate_bias": {"input": 0.0, "forget": 1.0}},
    "stacked-lstm": free_lstm,
    "dilated-lstm": free_lstm,
    "dilated-gru": lambda row: TORCH_GRU,
    "mingru": lambda row: {"linear.weight": linear, "linear.bias": within(I**-0.5)},  # ours
    "minlstm": lambda row: {"linear.weight": linear, "linear.bias": within(I**-0.5)},  # ours
    "lru": lambda row: {  # [S]: |lambda|^2 ~ U(0, 1), phase U(0, 2 pi); D and the block's matrices ours
        "nu": drawn(lambda u: np.log(-0.5 * np.log(1 - u))), "theta": drawn(lambda u: np.log(2 * np.pi * u)),
        "gamma": gamma_of("nu"), "B": {"real": normal((2 * H) ** -0.5), "imaginary": normal((2 * H) ** -0.5)},
        "C": normal(H**-0.5), "D": normal(1.0), "encoder.weight": linear, "encoder.bias": within(I**-0.5),
        "norm.weight": 1.0, "norm.bias": 0.0, "mix.weight": linear, "mix.bias": within(H**-0.5)},
    "ffm": lambda row: {  # [C]
        "a": np.linspace(-(LIMIT - 0.01), math.log(0.01) / 1024, 32), "b": 2 * np.pi / np.linspace(1, 1024, 4),
        "pre.weight": linear, "pre.bias": within(I**-0.5), "mix.weight": linear, "mix.bias": within(256**-0.5)},
}  # fmt: skip
#: topology -> where its layers stand
LAYERS = {"indrnn": ("layers.0.", "layers.1."), "stacked-lstm": ("layers.0.", "layers.1."),
          **dict.fromkeys(("dilated-lstm", "dilated-gru"), tuple(f"layers.{k}.cell." for k in range(4)))}  # fmt: skip
WRAPPERS = {
    "hdetach": {"p_detach": 0.25},  # the README's for pixels [C]; it takes 0.5 for copy memory
    "zoneout": {},
    "gaussian": {"openness.mu": uniform(0.0, 1.0), "openness.sigma": 1 / 3, "openness.horizon": HORIZON,
                 "openness.factor": 1.0, "threshold": 0.0},  # in units of the horizon [R]
    "oscillating": {"openness.period": drawn(lambda u: np.exp(1 + 5 * u)), "threshold": 0.0,  # [C]
                    "openness.shift": lambda shift, other: uniform(0.0, 1.0)(shift / other("openness.period"), other)},
}  # fmt: skip
JANET = "JANET's code [C] draws each matrix Glorot over its two blocks together; ours start like every gated row's"
#: row, parameter, block, the reference's law that ours does not follow, why
DIFFERENT = [
    *((name, "weight_x", "forget", within(math.sqrt(6 / (I + 2 * H))), JANET) for name in ("janet", "chrono-janet")),
    *((name, "weight_h", "forget", within(math.sqrt(6 / (H + 2 * H))), JANET) for name in ("janet", "chrono-janet")),
]
#: row -> what is no tensor -> its value where nobody gives one
DEFAULTS = {
    "hdetach-lstm": {"p_start": 0.25, "coin": "batch", "detach_until": 1.0},
    "zoneout-lstm": {"state_names": ("h", "c"), "rates": [0.05, 0.5]},
    "g-lstm": {"openness.curriculum": (1.0, 1.0, 1.0)},
    "phased-lstm": {"openness.open_fraction": 0.05, "openness.leak": 1e-3},
    "nru": {"memory_size": 64, "heads": 4, "head_reduce": "mean", "feed_x": False, "use_relu": False},
    "nru-relu": {"memory_size": 64, "heads": 4, "head_reduce": "mean", "feed_x": False, "use_relu": True},
    "janet": {"gate.offset": 1.0},
    "gated-rnn": {"gate.offset": 0.0},
    "um-lstm": {"gate.chunk": 1},
    "gru": {"reset_form": "after"},
    "indrnn": {"layers.0.bound": 1.0, "layers.1.bound": 1.0},
    "dilated-lstm": {f"layers.{k}.dilation": 2**k for k in range(4)},
    "dilated-gru": {f"layers.{k}.dilation": 2**k for k in range(4)},
    "g2-lstm": {"temperature": 0.9, "probability": 0.2},
    "on-lstm": {"chunk": 10},
    "rmc": {"slots": 4, "heads": 2},
}


def laws_of(name):
    """Prefix of a cell, layer or wrapper -> parameter -> law."""
    row, depth = VARIANTS[name], len(VARIANTS[name].wrappers)
    cell = (ROWS.get(name) or TOPOLOGIES[row.cell])(row)
    parts = {"inner." * depth + layer: cell for layer in LAYERS.get(row.cell, ("",))}
    return parts | {"inner." * (depth - 1 - k): WRAPPERS[wrapper] for k, wrapper in enumerate(row.wrappers)}


def blocks_of(name):
    """(parameter, label, law, numbers, label -> the other blocks) of everything that the table claims, and what a core has."""
    torch.manual_seed(0)
    core = make_core(name, I, H, horizon=HORIZON)
    has = {key: t.detach().numpy() for key, t in (*core.named_parameters(), *core.named_buffers())}
    found = []
    for prefix, laws in laws_of(name).items():
        for key, law in laws.items():
            by_label = law if isinstance(law, dict) else {key: law}
            parts = np.split(np.atleast_1d(has.get(prefix + key, ())), len(by_label))
            others = {k: has.get(prefix + k) for k in laws} | dict(zip(by_label, parts, strict=True))
            found += [(prefix + key, label, law, others[label], others.get) for label, law in by_label.items()]
    return found, set(has)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_starts_as_stated(name):
    found, has = blocks_of(name)
    assert {key for key, *_ in found} == has
    wrong = [f"{key} [{label}] {said}" for key, label, law, block, other in found
             if (said := judge(law)(block, other))]  # fmt: skip
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name, key, label, law", [
    pytest.param(*case, marks=pytest.mark.xfail(reason=why, strict=True)) for *case, why in DIFFERENT
])  # fmt: skip
def test_where_the_reference_starts_elsewhere(name, key, label, law):
    assert not [said for k, l, _, *rest in blocks_of(name)[0] if (k, l) == (key, label) and (said := law(*rest))]


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_a_row_takes_where_nobody_says(name):
    core = make_core(name, I, H, horizon=HORIZON)
    assert {key: attrgetter(key)(core) for key in DEFAULTS[name]} == DEFAULTS[name]


@pytest.mark.parametrize("norm", [1e25, 1e9, 1.0, 1e-3, 1e-5, 1e-9, 1e-11])
def test_directions_of_the_nru_have_norm_one(norm):
    v = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    v = (v * (norm / v.abs().pow(5).sum(-1, keepdim=True).pow(0.2))).requires_grad_()
    found = normalise5(v)
    torch.testing.assert_close(found.abs().pow(5).sum(-1), torch.ones(50), rtol=1e-4, atol=0)
    wide = v.detach().double().requires_grad_()
    pull = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    expected = wide / wide.abs().pow(5).sum(-1, keepdim=True).pow(0.2)
    (want,) = torch.autograd.grad((expected * pull).sum(), wide)
    (have,) = torch.autograd.grad((found * pull).sum(), v)
    torch.testing.assert_close(have.double(), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_a_direction_of_norm_zero_stays_zero():
    v = torch.zeros(2, 64, requires_grad=True)
    normalise5(v).sum().backward()
    assert (normalise5(v) == 0).all() and v.grad.isfinite().all()
