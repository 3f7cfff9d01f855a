"""Equality with torch.nn: outputs, states and gradients."""

import pytest
import torch
from torch import nn

from memory_cells import make_core, unroll

T, B, I, H = 9, 4, 5, 7
NO_RESET = torch.zeros(T, B, dtype=torch.bool)


def blocks(tensor, order):
    parts = tensor.chunk(len(order))
    return torch.cat([parts[k] for k in order])


def compare(core, reference, order, path, state_count, candidate_bias):
    """`order[k]`: which of torch's row blocks is our k-th."""
    with torch.no_grad():
        for p in reference.parameters():
            p.normal_(0, 0.5)
        core.weight_x.copy_(blocks(reference.weight_ih_l0, order))
        core.weight_h.copy_(blocks(reference.weight_hh_l0, order))
        bias = reference.bias_ih_l0 + reference.bias_hh_l0
        if candidate_bias:
            bias[-H:] = reference.bias_ih_l0[-H:]
            core.bias_h.copy_(reference.bias_hh_l0[-H:])
        core.bias.copy_(blocks(bias, order))
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(B, H, dtype=torch.float64, requires_grad=True) for _ in range(state_count))
    y, new = unroll(core, x, NO_RESET, state, path=path)
    packed = tuple(s.unsqueeze(0) for s in state)
    y_ref, new_ref = reference(x, packed if state_count > 1 else packed[0])
    new_ref = new_ref if state_count > 1 else (new_ref,)
    torch.testing.assert_close(y, y_ref, rtol=1e-10, atol=1e-10)
    for a, b in zip(new, new_ref, strict=True):
        torch.testing.assert_close(a, b[0], rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(y)
    (y * weight).sum().backward(inputs=[x, *state, *core.parameters()])
    ours = [x.grad, *(s.grad for s in state)]
    x.grad, *_ = None, *(setattr(s, "grad", None) for s in state)
    (y_ref * weight).sum().backward()
    for a, b in zip(ours, [x.grad, *(s.grad for s in state)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for mine, theirs in ((core.weight_x, reference.weight_ih_l0), (core.weight_h, reference.weight_hh_l0),
                         (core.bias, reference.bias_ih_l0)):  # fmt: skip
        torch.testing.assert_close(mine.grad, blocks(theirs.grad, order), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", ["loop", "eager", "fused"])
def test_lstm_torch(path):
    torch.manual_seed(0)
    # ours: forget, input, candidate, output; torch's: input, forget, candidate, output
    compare(make_core("lstm-torch", I, H).double(), nn.LSTM(I, H).double(), (1, 0, 2, 3), path, 2, False)


@pytest.mark.parametrize("path", ["loop", "eager", "fused"])
def test_gru(path):
    torch.manual_seed(0)
    # ours: keep, reset, candidate; torch's: reset, update, new
    compare(make_core("gru", I, H).double(), nn.GRU(I, H).double(), (1, 0, 2), path, 1, True)


@pytest.mark.parametrize("name, reference", [("lstm-torch", nn.LSTM), ("gru", nn.GRU)])
def test_they_start_from_torchs_distribution(name, reference):
    """Same bounds and spread: weights U(-1/sqrt H, 1/sqrt H), biases the sum of two such draws."""
    torch.manual_seed(0)
    ours, theirs = make_core(name, 64, 256), reference(64, 256)
    for a, b in ((ours.weight_x, theirs.weight_ih_l0), (ours.weight_h, theirs.weight_hh_l0)):
        assert a.shape == b.shape and a.abs().max() <= 1 / 16
        assert abs(a.std() / b.std() - 1) < 0.02
    summed = theirs.bias_ih_l0 + theirs.bias_hh_l0
    rows = slice(None) if name == "lstm-torch" else slice(0, 512)
    assert abs(ours.bias[rows].std() / summed[rows].std() - 1) < 0.1
