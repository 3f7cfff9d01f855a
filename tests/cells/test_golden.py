"""Every primary row against its NumPy transcription: one step and ten, random weights and biases, a start state that is not
zero; and that a wrong sign anywhere in a transcription, or a cell that was tampered with, is seen."""

import ast
import inspect
import sys
import textwrap

import numpy as np
import pytest
import torch

from memory_cells import VARIANTS, cells, gates, make_core, nru, squash, unroll, wrappers
from memory_cells.squash import KAF
from memory_cells.variants import INITS
from tests.cells import golden
from tests.cells.golden_baselines import GOLDEN

T, B, I, H, HORIZON = 10, 3, 4, 6, 30
STEPS = {"lstm": "lstm", "gru": "gru_after", "gated-rnn": "gated_rnn", "leaky-rnn": "gated_rnn",
         "memoryless": "memoryless", "nru": "nru"}  # fmt: skip
#: forms that a row has beside its own
FORMS = {"gru": [{"reset_form": "before"}], "nru": [{"head_reduce": "sum", "feed_x": True, "memory_size": 9, "heads": 1}],
         "master": [{"chunk": 2}], "ordered-master": [{"chunk": 3}]}  # fmt: skip
CASES = [(name, form) for name, row in VARIANTS.items() if row.cell in STEPS
         for form in [{}, *FORMS.get(row.cell, []), *FORMS.get(row.gate, [])]]  # fmt: skip


def case(name, form):
    torch.manual_seed(len(name))
    core = make_core(name, I, H, horizon=HORIZON, **form).double()
    with torch.no_grad():
        for key, p in core.named_parameters():
            p.add_((0.05 if "alpha" in key or "openness" in key else 0.5) * torch.randn_like(p))
    x = torch.randn(T, B, I, dtype=torch.float64)
    state = tuple(s + 0.5 * torch.randn_like(s) for s in core.initial_state(B))
    if VARIANTS[name].wrappers and core.state_names[-1] == "clock":
        state = (*state[:-1], torch.tensor([[0.0], [3.0], [7.0]], dtype=torch.float64))
    return core, x, state


def array(p):
    return p.detach().numpy()


def parameters(core, name, module=golden):
    """The transcription's P, and its squashes, from the core."""
    row, inner = VARIANTS[name], core
    while hasattr(inner, "inner"):
        inner = inner.inner
    if row.cell == "nru":
        k, S = inner.heads, inner.side
        W_h = np.concatenate([array(inner.weight_x), array(inner.weight_h), array(inner.weight_m)], 1)
        parts = [inner.heads_h, inner.heads_m] + ([inner.heads_x] if inner.heads_x is not None else [])
        heads, bias = np.concatenate([array(p) for p in parts], 1), array(inner.heads_bias)
        P, at = {"W_h": W_h, "b": array(inner.bias)}, 0
        for part, width in (("a", k), ("b", k), ("pw", S), ("qw", S), ("pe", S), ("qe", S)):
            P["W_" + part], P["b_" + part] = heads[at : at + width], bias[at : at + width]
            at += width
        return P, {}
    if row.cell == "memoryless":
        return {key: array(p) for key, p in inner.named_parameters()}, {}
    own = {"lstm": ["candidate", "output"], "gru": ["reset", "candidate"]}.get(row.cell, ["candidate"])
    inputs, P, at = list(inner.gate.inputs), {}, 0
    for part, width in zip([*inputs, *own], inner.rows, strict=True):
        P[part] = tuple(array(p)[at : at + width] for p in (inner.weight_x, inner.weight_h, inner.bias))
        at += width
    P["inputs"] = inputs
    P |= {"theta": array(inner.gate.theta)} if row.cell == "leaky-rnn" else {}
    P |= {"bias_h": array(inner.bias_h)} if hasattr(inner, "bias_h") else {}
    P |= {"peepholes": {k: array(p) for k, p in getattr(inner, "peepholes", {}).items()}}
    s = dict.fromkeys(("forget", "input", "refine", "output", "reset"), golden.sigma)
    if row.squash == "kaf":
        biases = {"constant": 1.0, "chrono": np.log(HORIZON - 1), "uniform": np.log(H - 1)}
        edge = max(4.0, biases[row.init] + 2)
        for key, p in inner.named_parameters():
            if key.endswith("alpha"):
                gate = key.split("_")[-1].split(".")[0]
                s[gate if gate in s else "forget"] = module.kaf(array(p), edge)
    return P, s


def run(module, core, name, form, x, state, noise, steps, swap=False):
    """`steps` steps of the transcription in `module`."""
    row, (P, s) = VARIANTS[name], parameters(core, name, module)
    if swap:
        a, b = (
            [key for key, value in P.items() if isinstance(value, tuple)][:2] if row.cell != "nru" else ("W_a", "W_b")
        )
        P[a], P[b] = P[b], P[a]
    state, clock = tuple(array(v) for v in state), None
    if core.state_names[-1] == "clock":
        *state, clock = state
    for t in range(steps):
        if row.cell == "nru":
            new = module.nru(P, x[t], state, form.get("heads", 4), bool(row.fixed.get("use_relu")),
                             form.get("head_reduce", "mean"), bool(form.get("feed_x")))  # fmt: skip
        else:
            kind = "gru_before" if form.get("reset_form") == "before" else STEPS[row.cell]
            step = getattr(module, "peephole_lstm" if row.fixed.get("peepholes") else kind)
            gate = getattr(module, (row.gate or "static").replace("-", "_"))
            chunked = (lambda a, s, f=gate: f(a, s, form["chunk"])) if "chunk" in form else gate
            new = step(P, x[t], state, chunked, s)
        if "zoneout" in row.wrappers:
            masks = [n[t] for n in noise] if noise else [0.05, 0.5]
            new = module.zoneout(masks, new, state)
        if clock is not None:
            clock, gate = clock + 1, core.openness
            if "gaussian" in row.wrappers:
                k = module.gaussian(clock, HORIZON * array(gate.mu), HORIZON * (np.abs(array(gate.sigma)) + 1e-3))
            else:
                leak = 1e-3 if core.training else 0.0
                k = module.oscillating(clock, array(gate.shift), np.abs(array(gate.period)), 0.05, leak)
            new = module.time_gate(k, new, state)
        state = new
    return (*state, clock) if clock is not None else tuple(state)


def differ(a, b):
    """The largest difference, in units of the largest entry where that is above 1."""
    return max(float(np.abs(u - v).max() / max(1, np.abs(u).max())) for u, v in zip(a, b, strict=True))


def test_every_row_has_a_transcription():
    assert {name for name, _ in CASES} | set(GOLDEN) == set(VARIANTS)


@pytest.mark.parametrize("name, form", CASES, ids=[" ".join([n, *map(str, f.values())]) for n, f in CASES])
def test_cell_equals_its_transcription(name, form):
    core, x, state = case(name, form)
    for training in (True, False):
        core.train(training)
        noise = core.draw(T, B)
        for steps in (1, T):
            cut = tuple(n[:steps] for n in noise)
            first = torch.zeros(steps, B, dtype=torch.bool)
            with torch.no_grad():
                _, ours = unroll(core, x[:steps], first, state, path="loop", noise=cut)
            theirs = run(golden, core, name, form, x.numpy(), state, [n.numpy() for n in noise], steps)
            assert differ([array(s) for s in ours], theirs) < 1e-12, (training, steps)


class Flip(ast.NodeTransformer):
    """Turns the n-th + or - of a function into its opposite."""

    def __init__(self, n):
        self.n = n

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.Add | ast.Sub):
            if self.n == 0:
                node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            self.n -= 1
        return node


class Mutant:
    """The transcription with one function changed."""

    def __init__(self, function, n):
        source = ast.parse(textwrap.dedent(inspect.getsource(getattr(golden, function))))
        changed = dict(vars(golden))
        exec(compile(ast.fix_missing_locations(Flip(n).visit(source)), "mutant", "exec"), changed)
        self.__dict__.update(changed)


def signs(function):
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(golden, function))))
    return sum(isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) for node in ast.walk(tree))


#: transcription -> a case that runs all of it
REPRESENTATIVE = {
    "free": "lstm", "coupled": "tied-lstm", "janet": "janet", "refine": "r-lstm", "ordered": "o-lstm",
    "ordered_refine": "or-lstm", "ordered_master": "om-lstm", "master": "um-lstm", "static": "leaky-rnn", "lstm": "lstm",
    "peephole_lstm": "phased-lstm", "gru_after": "gru", "gru_before": "gru", "gated_rnn": "gated-rnn",
    "memoryless": "memoryless", "gaussian": "g-lstm", "oscillating": "phased-lstm", "time_gate": "g-lstm",
    "zoneout": "zoneout-lstm", "nru": "nru", "kaf": "kaf-lstm",
}  # fmt: skip


@pytest.mark.parametrize("function, n", [(f, n) for f in REPRESENTATIVE for n in range(signs(f))])
def test_a_wrong_sign_is_seen(function, n):
    name = REPRESENTATIVE[function]
    form = {"reset_form": "before"} if function == "gru_before" else {}
    core, x, state = case(name, form)
    noise = [n.numpy() for n in core.draw(T, B)]
    right = run(golden, core, name, form, x.numpy(), state, noise, T)
    with np.errstate(all="ignore"):
        wrong = run(Mutant(function, n), core, name, form, x.numpy(), state, noise, T)
    assert not differ(right, wrong) < 1e-6


@pytest.mark.parametrize(
    "name", [n for n, row in VARIANTS.items() if row.cell in set(STEPS) - {"memoryless", "leaky-rnn"}]
)
def test_two_swapped_gates_are_seen(name):
    core, x, state = case(name, {})
    noise = [n.numpy() for n in core.draw(T, B)]
    right = run(golden, core, name, {}, x.numpy(), state, noise, 1)
    wrong = run(golden, core, name, {}, x.numpy(), state, noise, 1, swap=True)
    assert differ(right, wrong) > 1e-6


#: row -> what somebody might get wrong in the cell: (class, method, what to replace, by what)
TAMPERED = [
    ("lstm", cells.LSTM, "finish", "keep * c + write", "keep * c - write"),
    ("lstm", cells.LSTM, "finish", "candidate, output = pre", "output, candidate = pre"),
    ("lstm", gates.Free, "forward", "self.squash_forget(forget), self.squash_input(write)",
     "self.squash_input(write), self.squash_forget(forget)"),
    ("tied-lstm", gates.Coupled, "forward", "return keep, 1 - (", "return 1 - keep, ("),
    ("janet", gates.Coupled, "forward", "forget - self.offset", "forget + self.offset"),
    ("r-lstm", gates.Refine, "forward", "(1 - 2 * r)", "(1 + 2 * r)"),
    ("or-gru", gates.Refine, "forward", "self.squash_forget(forget), self.squash_refine(refine)",
     "self.squash_forget(refine), self.squash_refine(forget)"),
    ("o-lstm", squash.Cumax, "forward", "cumax(pre)", "cumax(-pre)"),
    ("om-lstm", gates.Master, "forward", "1 - mi if self.ordered", "mi if self.ordered"),
    ("um-gru", gates.Master, "forward", "f * w + (mf - w)", "f * w + (mf + w)"),
    ("leaky-rnn", gates.Static, "forward", "torch.sigmoid(self.theta)", "torch.sigmoid(-self.theta)"),
    ("gated-rnn", cells.GatedRNN, "step", "keep * h + write", "write * h + keep"),
    ("gru", cells.GRU, "step", "keep * h + write", "write * h + keep"),
    ("gru", cells.GRU, "step", "(h_new + self.bias_h)", "(h_new - self.bias_h)"),
    ("memoryless", cells.Memoryless, "project", "self.bias", "-self.bias"),
    ("kaf-lstm", squash.KAF, "forward", "0.5 * mixed + 0.5 * pre", "0.5 * mixed - 0.5 * pre"),
    ("nru", nru.NRU, "step", "self._mix(alpha, *sides[:2]) - self", "self._mix(alpha, *sides[:2]) + self"),
    ("nru", nru.NRU, "step", "alpha, beta, *sides =", "beta, alpha, *sides ="),
    ("g-lstm", wrappers.TimeGate, "step", "self.held(1 - k)", "self.held(1 + k)"),
    ("g-lstm", wrappers.Gaussian, "forward", "t - self.mu", "t + self.mu"),
    ("phased-lstm", wrappers.Oscillating, "forward", "t - self.shift", "t + self.shift"),
    ("phased-lstm", cells.LSTM, "finish", "a + peep[name] * c", "a - peep[name] * c"),
    ("zoneout-lstm", wrappers.Zoneout, "step", "old, new) if noise", "new, old) if noise"),
]  # fmt: skip


@pytest.mark.parametrize("name, cls, method, old, new", TAMPERED, ids=[f"{t[0]} {t[3]}" for t in TAMPERED])
def test_a_tampered_cell_is_seen(name, cls, method, old, new, monkeypatch):
    source = textwrap.dedent(inspect.getsource(getattr(cls, method)))
    assert old in source, "the source has changed: bring this line up to date"
    scope = dict(vars(sys.modules[cls.__module__]))
    exec(source.replace(old, new, 1), scope)
    core, x, state = case(name, {})
    noise, first = core.draw(T, B), torch.zeros(T, B, dtype=torch.bool)
    theirs = run(golden, core, name, {}, x.numpy(), state, [n.numpy() for n in noise], T)
    monkeypatch.setattr(cls, method, scope[method])
    with torch.no_grad():
        ours = unroll(core, x, first, state, path="loop", noise=noise)[1]
    assert not differ([array(s) for s in ours], theirs) < 1e-6


@pytest.mark.parametrize("size, reach", [(10, 0.0), (None, 6.0)])
def test_kaf_starts_as_the_logistic_function(size, reach):
    """Reference 5.2: with ten points on [-4, 4] the ridge solution is the identity within 0.02, with entries up to 41."""
    kaf = KAF(3, reach, kaf_size=size).double()
    inside = torch.linspace(-reach - 2, reach + 2, 201, dtype=torch.float64).unsqueeze(-1).expand(-1, 3)
    assert (kaf(inside) - torch.sigmoid(inside)).abs().max() < 0.01
    if size == 10:
        assert 38 < kaf.alpha.abs().max() < 44
        far = torch.tensor([[5.0] * 3, [7.0] * 3], dtype=torch.float64)
        mixed = 2 * torch.logit(kaf(far)) - far
        torch.testing.assert_close(mixed[:, 0].detach(), torch.tensor([4.4, 2.0]).double(), rtol=0.03, atol=0)


def test_every_init_says_how_far_it_reaches():
    for name, make in INITS.items():
        if name:
            init = make(HORIZON)
            assert init(512).abs().max() <= init.reach(512) + 1e-5
