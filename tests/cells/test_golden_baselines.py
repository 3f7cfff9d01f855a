"""Baseline cells against NumPy, one step and ten, and mutants of the cells that this must catch."""

import inspect
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

from memory_cells import baselines, cells, linear, make_core, multi, noisy, relational, scan, slstm, timescales, unroll
from tests.cells.golden_baselines import GOLDEN

B, I, H, T = 3, 5, 16, 10
TRAINED = [*GOLDEN, "g2-lstm eval", "noisy-lstm eval"]


def make(name):
    """The cell with no parameter left at a special value, a reachable state that is nowhere initial, rows and noise."""
    name, *mode = name.split()
    torch.manual_seed(sum(map(ord, name)))
    core = make_core(name, I, H).double()
    with torch.no_grad():
        for key, p in core.named_parameters():
            p.add_((0.05 if key in ("a", "nu") else 0.4) * torch.randn_like(p))
    core.train(not mode)
    state = core.initial_state(B)
    with torch.no_grad():
        for length in (4, 3, 6):  # environments of unequal age, for the clocks
            first = torch.zeros(length, B, dtype=torch.bool)
            first[length // 2, length % B] = True
            _, state = unroll(core, torch.randn(length, B, I, dtype=torch.float64), first, state, path="loop")
    return core, torch.randn(T, B, I, dtype=torch.float64) * 2, state, core.draw(T, B)


def agrees(name, length) -> bool:
    core, x, state, noise = make(name)
    P = {key: value.numpy() for key, value in (*core.state_dict().items(), *core.named_buffers())}
    want, ys = tuple(entry.numpy() for entry in state), []
    for t in range(length):
        want = GOLDEN[name.split()[0]](P, x[t].numpy(), want, tuple(n[t].numpy() for n in noise))
        ys.append(want[0])
    with torch.no_grad():
        first = torch.zeros(length, B, dtype=torch.bool)
        y, new = unroll(core, x[:length], first, state, path="loop", noise=tuple(n[:length] for n in noise))
    pairs = [(y, np.stack(ys)), *zip(new, want, strict=True)]
    return all(a.shape == b.shape and np.allclose(a.numpy(), b, rtol=1e-10, atol=1e-10) for a, b in pairs)


@pytest.mark.parametrize("length", [1, T])
@pytest.mark.parametrize("name", TRAINED)
def test_equal_to_the_transcription(name, length):
    assert agrees(name, length)


@pytest.mark.parametrize("name", GOLDEN)
def test_first_row_of_an_episode(name):
    """From the initial state: the identity rows, the running clocks, the stabiliser's first step."""
    core, x, _, noise = make(name)
    start = core.initial_state(B)
    P = {key: value.numpy() for key, value in (*core.state_dict().items(), *core.named_buffers())}
    want = GOLDEN[name](P, x[0].numpy(), tuple(entry.numpy() for entry in start), tuple(n[0].numpy() for n in noise))
    with torch.no_grad():
        first = torch.ones(1, B, dtype=torch.bool)
        _, new = unroll(
            core, x[:1], first, tuple(torch.full_like(e, 7) for e in start), noise=tuple(n[:1] for n in noise)
        )
    for a, b in zip(new, want, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-10, atol=1e-10)


#: row -> mutants: (class, method, what to replace, by what)
MUTANTS = {
    "elman": [
        (baselines.Elman, "step", "z[0] + F", "z[0] - F"),
        (baselines.Elman, "project", "self.bias", "-self.bias"),
    ],
    "irnn": [
        (baselines.Elman, "step", "self.activation(", "torch.abs("),
        (baselines.Elman, "step", "self.weight_h", "self.weight_h.t()"),
    ],
    "rnn-orth": [
        (baselines.Elman, "step", "self.norm(pre)", "pre"),
        (baselines.Elman, "step", "z[0] + F", "-z[0] + F"),
    ],
    "indrnn": [
        (baselines.IndRNN, "step", "z[0] + ", "z[0] - "),
        (baselines.IndRNN, "step", "torch.relu", "torch.tanh"),
        (multi.Stacked, "step", "new[-1][0]", "old[0]"),
    ],
    "orth-rnn": [
        (baselines.OrthRNN, "step", "self.weight_h)", "self.weight_h.t())"),
        (baselines.OrthRNN, "step", "self.bias", "-self.bias"),
    ],
    "goru": [
        (baselines.GORU, "step", "keep * h + (1 - keep)", "(1 - keep) * h + keep"),
        (baselines.GORU, "step", "reset, keep =", "keep, reset ="),
        (baselines.GORU, "step", ", 0.001", ""),
    ],
    "rhn": [
        (baselines.RHN, "step", "a, t =", "t, a ="),
        (baselines.RHN, "step", "torch.tanh(a) - s", "torch.tanh(a) + s"),
        (baselines.RHN, "step", "if l == 0 else", "if l == 1 else"),
    ],
    "clockwork": [
        (timescales.Clockwork, "step", "since > 0", "since < 1"),
        (timescales.Clockwork, "step", "self.weight_h", "self.weight_h.t()"),
        (timescales.Clockwork, "step", "detach() + 1", "detach() + 2"),
    ],
    "sru": [
        (timescales.StatisticalRU, "step", "(1 - self.decay)", "self.decay"),
        (timescales.StatisticalRU, "step", "torch.relu(z[0] + F", "torch.relu(z[0] - F"),
    ],
    "g2-lstm": [
        (noisy.G2LSTM, "step", "noise_forget, noise_write =", "noise_write, noise_forget ="),
        (noisy.G2LSTM, "step", "forget, write, candidate, output =", "write, forget, candidate, output ="),
        (noisy.G2LSTM, "step", "(write + noise_write) /", "(write + noise_write) *"),
    ],
    "noisy-lstm": [
        (noisy.NoisyLSTM, "step", "keep, write, output =", "write, keep, output ="),
        (noisy.NoisyLSTM, "sigmoid", "+ torch.sign", "- torch.sign"),
        (noisy.NoisyLSTM, "tanh", "- torch.sign", "+ torch.sign"),
    ],
    "noisy-lstm eval": [(noisy.NoisyLSTM, "step", "(0.797, 0.0, 0.0)", "(0.0, 0.0, 0.0)")],
    "on-lstm": [
        (slstm.ONLSTM, "step", "master_write, master_keep, output", "master_keep, master_write, output"),
        (slstm.ONLSTM, "step", "(1 - cumax(master_write))", "cumax(master_write)"),
        (slstm.ONLSTM, "step", "candidate, write, keep =", "candidate, keep, write ="),
    ],
    "slstm": [
        (slstm.SLSTM, "step", "write, forget, candidate", "forget, write, candidate"),
        (slstm.SLSTM, "step", "n = keep * n + write", "n = keep * n - write"),
        (slstm.SLSTM, "step", "torch.relu(kept - write)", "torch.relu(write - kept)"),
    ],
    "rmc": [
        (relational.RMC, "step", "write, keep =", "keep, write ="),
        (relational.RMC, "step", "rows[..., :-1, :]", "rows[..., 1:, :]"),
        (relational.RMC, "attention", "q, k, v =", "k, v, q ="),
    ],
    "stacked-lstm": [
        (cells.LSTM, "finish", "keep * c + write", "write * c + keep"),
        (multi.Stacked, "_joined", "states[-1], *(", "states[0], *("),
    ],
    "dilated-lstm": [
        (multi.Dilated, "step", "state[-count:]", "state[:count]"),
        (cells.LSTM, "finish", "keep * c + write", "write * c + keep"),
    ],
    "dilated-gru": [
        (multi.Dilated, "step", "state[-count:]", "state[:count]"),
        (cells.GRU, "step", "keep * h + write", "write * h + keep"),
    ],
    "mingru": [
        (linear.MinGRU, "project", "torch.sigmoid(-gate)", "torch.sigmoid(gate)"),
        (scan.LinearCell, "step", ") + b", ") - b"),
    ],
    "minlstm": [
        (linear.MinLSTM, "project", "forget, write, candidate =", "write, forget, candidate ="),
        (linear.MinLSTM, "project", "F.logsigmoid(forget) -", "F.logsigmoid(forget) +"),
    ],
    "lru": [
        (linear.LRU, "readout", "-memory.imag", "memory.imag"),
        (linear.LRU, "recurrence", "torch.exp(-self.nu", "torch.exp(self.nu"),
        (linear.LRU, "readout", "value, gate =", "gate, value ="),
    ],
    "ffm": [
        (linear.FFM, "project", "(1 - gate_out)", "gate_out"),
        (linear.FFM, "recurrence", "self.b.expand", "-self.b.expand"),
        (linear.FFM, "project", "value, skip, gate_in", "gate_in, skip, value"),
    ],
}
CASES = [pytest.param(name, *mutant, id=f"{name} {mutant[2]}") for name, rows in MUTANTS.items() for mutant in rows]


def test_every_row_has_two_mutants():
    assert all(len(MUTANTS.get(name, ())) >= 2 for name in GOLDEN)


@pytest.mark.parametrize("name, cls, method, old, new", CASES)
def test_a_mutant_is_caught(name, cls, method, old, new, monkeypatch):
    source = textwrap.dedent(inspect.getsource(getattr(cls, method)))
    assert old in source, "the mutant no longer fits the source"
    scope = dict(vars(sys.modules[cls.__module__]))
    exec(source.replace(old, new, 1), scope)
    monkeypatch.setattr(cls, method, scope[method])
    assert not agrees(name, T)


@pytest.mark.parametrize("name", ["orth-rnn", "goru"])
def test_the_orthogonal_matrix_is_orthogonal_whatever_the_parameters(name):
    core = make(name)[0]
    U = core.weight_h.detach()
    torch.testing.assert_close(U @ U.t(), torch.eye(H, dtype=torch.float64), rtol=0, atol=1e-6)  # base was float32
    assert parametrize.is_parametrized(core, "weight_h")
