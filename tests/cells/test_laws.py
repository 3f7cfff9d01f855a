"""Laws that every row of VARIANTS obeys, without naming any of them."""

import itertools

import pytest
import torch

from memory_cells import VARIANTS, make_core, unroll

T, B, I, H = 11, 5, 4, 6
PATHS = ("fused", "eager")


def forms(name):
    """The row as it is, and with each non-default option that changes its equations."""
    options = VARIANTS[name].options
    yield {}
    if "reset_form" in options:
        yield {"reset_form": "before"}
    if "refine_bias" in options:
        yield {"refine_bias": "zero"}


ROWS = [pytest.param(name, form, id=" ".join([name, *form.values()])) for name in VARIANTS for form in forms(name)]


def make(name, form, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    core = make_core(name, I, H, horizon=30, **form).to(dtype)
    with torch.no_grad():  # no special values: every bias and matrix at random
        for p in core.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(T, B, I, dtype=dtype, requires_grad=True)
    first = torch.rand(T, B) < 0.2
    state = tuple(torch.randn(B, H, dtype=dtype, requires_grad=True) for _ in core.state_names)
    return core, x, first, state


def everything(core, x, first, state, path, weights):
    """Outputs, final state and all gradients of a random linear functional of them."""
    y, new = unroll(core, x, first, state, path=path)
    loss = sum((w * out).sum() for w, out in zip(weights, (y, *new), strict=True))
    grads = torch.autograd.grad(loss, [x, *state, *core.parameters()], allow_unused=True)
    leaves = [x, *state, *core.parameters()]
    return [y, *new, *(torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=True))]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name, form", ROWS)
def test_fast_paths_equal_the_plain_loop(name, form, dtype, tolerance):
    core, x, first, state = make(name, form, dtype)
    weights = [torch.randn(T, B, H, dtype=dtype), *(torch.randn(B, H, dtype=dtype) for _ in state)]
    truth = everything(core, x, first, state, "loop", weights)
    for path in PATHS:
        for a, b in zip(truth, everything(core, x, first, state, path, weights), strict=True):
            assert (a - b).abs().max() <= tolerance * max(a.abs().max(), 1e-3), path


@pytest.mark.parametrize("path", ("loop", *PATHS))
@pytest.mark.parametrize("name, form", ROWS)
def test_gradients_are_derivatives(name, form, path):
    core, x, first, state = make(name, form)
    x, first = x[:4, :2].detach().requires_grad_(), first[:4, :2]
    state = tuple(s[:2].detach().requires_grad_() for s in state)
    leaves = [x, *state, *core.parameters()]

    def f(*_):
        y, new = unroll(core, x, first, state, path=path)
        return (y, *new)

    assert torch.autograd.gradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("name, form", ROWS)
def test_packed_episodes_equal_the_episodes_alone(name, form):
    core, x, first, state = make(name, form)
    y, _ = unroll(core, x, first, state, path="fused")
    for b in range(B):
        starts = [t for t in range(T) if first[t, b]]
        edges = sorted({0, *starts, T})
        for lo, hi in itertools.pairwise(edges):
            begin = core.initial_state(1) if first[lo, b] else tuple(s[b : b + 1] for s in state)
            alone, _ = unroll(core, x[lo:hi, b : b + 1], torch.zeros(hi - lo, 1, dtype=torch.bool), begin, path="loop")
            torch.testing.assert_close(alone[:, 0], y[lo:hi, b], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", ("auto", *PATHS))
@pytest.mark.parametrize("name, form", ROWS)
def test_splitting_anywhere_with_the_state_changes_nothing(name, form, path):
    core, x, first, state = make(name, form)
    whole, end = unroll(core, x, first, state, path="loop")
    for cut in range(1, T):
        y1, middle = unroll(core, x[:cut], first[:cut], state, path=path)
        y2, last = unroll(core, x[cut:], first[cut:], middle, path=path)
        torch.testing.assert_close(torch.cat([y1, y2]), whole, rtol=0, atol=1e-12)
        torch.testing.assert_close(last, end, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", ("loop", *PATHS))
@pytest.mark.parametrize("name, form", ROWS)
def test_gradient_across_a_reset_is_exactly_zero(name, form, path):
    core, x, _, state = make(name, form)
    first = torch.zeros(T, B, dtype=torch.bool)
    first[6, 1] = first[0, 2] = True
    y, _ = unroll(core, x, first, state, path=path)
    gx, *gs = torch.autograd.grad(y[6:, 1].sum() + y[:, 2].sum(), [x, *state], allow_unused=True)
    assert (gx[:6, 1] == 0).all() and (gx[6:, 1] != 0).any()
    assert all(g is None or ((g[1] == 0).all() and (g[2] == 0).all()) for g in gs)


@pytest.mark.parametrize("name, form", ROWS)
def test_batch_order_does_not_matter(name, form):
    core, x, first, state = make(name, form)
    order = torch.randperm(B)
    y, _ = unroll(core, x, first, state)
    shuffled, _ = unroll(core, x[:, order], first[:, order], tuple(s[order] for s in state))
    torch.testing.assert_close(shuffled, y[:, order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name, form", ROWS)
def test_every_parameter_gets_a_finite_gradient(name, form):
    core, x, first, state = make(name, form, torch.float32)
    y, _ = unroll(core, x, first, state)
    y.square().sum().backward()
    for key, p in core.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any(), key


@pytest.mark.parametrize("name, form", ROWS)
def test_traces_are_what_the_step_used(name, form):
    core, x, first, state = make(name, form)
    names = [*core.state_names, *(("keep", "write") if hasattr(core, "gate") else ())]
    y, _, traces = unroll(core, x, first, state, record=names)
    plain, _ = unroll(core, x, first, state, path="loop")
    assert torch.equal(y, plain) and torch.equal(traces[core.recurrent_output], y)
    assert all(trace.shape == (T, B, H) for trace in traces.values())
    if "keep" in traces:
        assert ((traces["keep"] > 0) & (traces["keep"] < 1)).all()
    assert not hasattr(core, "gate") or not core.gate._forward_hooks
    with pytest.raises(ValueError, match="no trace 'nonsense'"):
        unroll(core, x, first, state, record=["nonsense"])


def test_no_two_rows_are_the_same():
    """Rows differ in equations or in the distribution they start from (sorted gate biases of a large cell)."""
    seen = {}
    for name, row in VARIANTS.items():
        key = (row.cell, row.gate, row.init, str(row.fixed))
        assert key not in seen, (name, seen.get(key))
        seen[key] = name


@pytest.mark.parametrize("name", VARIANTS)
def test_options_are_taken_or_refused(name):
    options = VARIANTS[name].options
    for option, value in (("bias", 2.0), ("refine_bias", "zero"), ("reset_form", "before")):
        if option in options:
            make_core(name, I, H, horizon=30, **{option: value})
        else:
            with pytest.raises(ValueError, match=f"{name}.*takes no {option}"):
                make_core(name, I, H, horizon=30, **{option: value})
    if "horizon" in options:
        with pytest.raises(ValueError, match="needs a horizon"):
            make_core(name, I, H)


def test_unknown_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'ur-lstm'"):
        make_core("ur-lstn", I, H)
