"""Laws that every row of VARIANTS obeys, without naming any of them."""

import functools
import itertools

import pytest
import torch

from memory_cells import VARIANTS, make_core, unroll
from memory_cells.kernels import sequence
from memory_cells.kernels.graph import NotTraceable
from memory_cells.variants import OPTIONS, TAKES

T, B, I, H, HORIZON = 7, 4, 3, 8, 30


def forms(name):
    """The row as it is, and with every option of its own away from the default, all at once."""
    yield {}
    own = VARIANTS[name].options & OPTIONS.keys() - {"layers"}
    if changed := {option: OPTIONS[option][1] for option in sorted(own)}:
        yield changed


ROWS = [pytest.param(n, tuple(f.items()), id=" ".join([n, *map(str, f.values())])) for n in VARIANTS for f in forms(n)]
#: every cell in two layers: a kernel each, minutes of compiling in all; test_stacks.py is the quick form
STACKABLE = [n for n, row in VARIANTS.items() if "layers" not in TAKES.get(row.cell, ())]
ROWS += [pytest.param(n, (("layers", 2),), id=f"{n} in two layers", marks=pytest.mark.slow) for n in STACKABLE]
law = pytest.mark.parametrize("name, form", ROWS)
rows = pytest.mark.parametrize("name", VARIANTS)


def draw(core, length, batch):
    return core.draw(length, batch, torch.Generator().manual_seed(5))


@functools.cache
def sample(name, form=(), dtype=torch.float64):
    """core, x, first, state, noise: every parameter moved off its special values, a state that the core has reached."""
    torch.manual_seed(0)
    core = make_core(name, I, H, horizon=HORIZON, **dict(form)).to(dtype)
    spread = 0.5 if "layers" in dict(form) else 0.2  # an upper layer sees small numbers, and must reach saturation too
    with torch.no_grad():
        for p in core.parameters():
            p.add_(spread * torch.randn_like(p))
        x = torch.randn(T, B, I, dtype=dtype)
        first = torch.rand(T, B) < 0.2
        first[3, 1], first[0, 2] = True, True
        state = unroll(core, x, first, core.initial_state(B), path="loop")[1]
        state = tuple(s + 0.1 * torch.rand_like(s) if s.is_floating_point() else s.clone() for s in state)
    return core, x.requires_grad_(), first, tuple(leaf(s) for s in state), draw(core, T, B)


def leaf(s):
    return s.detach().requires_grad_(s.is_floating_point() or s.is_complex())


def differentiable(tensors):
    return [s for s in tensors if s.requires_grad]


@functools.cache
def fast_paths(name, form=()):
    """The paths other than the loop that a core has."""
    core, _, _, state, noise = sample(name, form)
    scan = ("scan",) if hasattr(core, "scan") else ()
    try:
        with torch.no_grad():
            sequence.program_of(core, core.project(torch.zeros(2, B, I).double()) + tuple(n[:2] for n in noise), state)
    except NotTraceable:
        return scan
    return (*scan, "fused", "eager")


def everything(core, x, first, state, noise, path):
    """Outputs, final state and all gradients of a random linear functional of them."""
    y, new = unroll(core, x, first, state, path=path, noise=noise)
    generator, loss = torch.Generator().manual_seed(1), 0.0
    for out in (y, *(s for s in new if s.is_floating_point() or s.is_complex())):
        out = torch.view_as_real(out) if out.is_complex() else out
        loss = loss + (torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype) * out).sum()
    leaves = [x, *differentiable(state), *core.parameters()]
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [y, *new, *(torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=True))]


@functools.cache
def truth(name, form=(), dtype=torch.float64):
    return everything(*sample(name, form, dtype), "loop")


def assert_same(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert not a.numel() or (a - b).abs().max() <= tolerance * max(b.abs().max(), 1e-3)


@law
def test_fast_paths_equal_the_plain_loop(name, form):
    for path in ("auto", *fast_paths(name, form)):
        assert_same(everything(*sample(name, form), path), truth(name, form), 1e-10)


@rows
def test_fast_paths_equal_the_plain_loop_in_single_precision(name):
    for path in fast_paths(name):
        if path != "eager":
            assert_same(everything(*sample(name, (), torch.float32), path), truth(name, (), torch.float32), 1e-5)


@law
def test_paths_that_a_core_lacks_say_so(name, form):
    core, x, first, state, noise = sample(name, form)
    for path in {"fused", "eager", "scan"} - set(fast_paths(name, form)):
        with pytest.raises(ValueError if path == "scan" else NotTraceable):
            unroll(core, x, first, state, path=path, noise=noise)


@law
def test_gradients_are_derivatives(name, form):
    core, x, first, state, noise = sample(name, form)
    if core.cuts_gradient:  # they are, where nothing is cut
        noise = ()
    x, first, noise = leaf(x[:3, :2]), first[1:4, :2], tuple(n[:3, :2] for n in noise)
    state = tuple(leaf(s[:2]) for s in state)

    for path in ("loop", *fast_paths(name, form)):

        def f(*_, path=path):
            y, new = unroll(core, x, first, state, path=path, noise=noise)
            return tuple(out for out in (y, *new) if out.requires_grad)

        assert torch.autograd.gradcheck(f, [x, *differentiable(state), *core.parameters()], fast_mode=True), path


@rows
def test_double_backward_raises(name):
    core, x, first, state, noise = sample(name)
    for path in fast_paths(name):
        if path == "scan" and hasattr(core, "layers"):
            continue  # layer by layer: each is one of the others
        (g,) = torch.autograd.grad(unroll(core, x, first, state, path=path, noise=noise)[0].square().sum(), x,
                                   create_graph=True)  # fmt: skip
        with pytest.raises(RuntimeError, match=r"once_differentiable|differentiate twice"):
            g.sum().backward()


@law
def test_packed_episodes_equal_the_episodes_alone(name, form):
    core, x, first, state, noise = sample(name, form)
    y = truth(name, form)[0]
    with torch.no_grad():
        for b in range(B):
            edges = sorted({0, *(t for t in range(T) if first[t, b]), T})
            for lo, hi in itertools.pairwise(edges):
                begin = core.initial_state(1) if first[lo, b] else tuple(s[b : b + 1] for s in state)
                rest = tuple(n[lo:hi, b : b + 1] for n in noise)
                none = torch.zeros(hi - lo, 1, dtype=torch.bool)
                alone, _ = unroll(core, x[lo:hi, b : b + 1], none, begin, path="loop", noise=rest)
                torch.testing.assert_close(alone[:, 0], y[lo:hi, b], rtol=1e-10, atol=1e-10)


@law
def test_splitting_anywhere_with_the_state_changes_nothing(name, form):
    core, x, first, state, noise = sample(name, form)
    whole, *end = truth(name, form)[: 1 + len(state)]
    with torch.no_grad():
        for path, cut in (("auto", 1), ("loop", 3), ("auto", 4)):
            y1, middle = unroll(core, x[:cut], first[:cut], state, path=path, noise=tuple(n[:cut] for n in noise))
            y2, last = unroll(core, x[cut:], first[cut:], middle, path=path, noise=tuple(n[cut:] for n in noise))
            torch.testing.assert_close(torch.cat([y1, y2]), whole, rtol=0, atol=1e-10)
            torch.testing.assert_close(last, tuple(end), rtol=0, atol=1e-10)


@law
def test_gradient_across_a_reset_is_exactly_zero(name, form):
    core, x, _, state, noise = sample(name, form)
    first = torch.zeros(T, B, dtype=torch.bool)
    first[4, 1] = first[0, 2] = True
    for path in ("loop", *fast_paths(name, form)):
        y, _ = unroll(core, x, first, state, path=path, noise=noise)
        leaves = [x, *differentiable(state)]
        gx, *gs = torch.autograd.grad(y[4:, 1].sum() + y[:, 2].sum(), leaves, allow_unused=True)
        assert (gx[:4, 1] == 0).all() and (gx[4:, 1] != 0).any(), path
        assert all(g is None or ((g[1] == 0).all() and (g[2] == 0).all()) for g in gs), path


@law
def test_batch_order_does_not_matter(name, form):
    core, x, first, state, noise = sample(name, form)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        y, _ = unroll(core, x[:, order], first[:, order], tuple(s[order] for s in state),
                      noise=tuple(n[:, order] for n in noise))  # fmt: skip
    torch.testing.assert_close(y, truth(name, form)[0][:, order], rtol=1e-10, atol=1e-10)


@law
def test_shapes_and_finite_gradients_to_every_parameter(name, form):
    core, x, first, state, noise = sample(name, form, torch.float32)
    core.zero_grad()
    y, new = unroll(core, x, first, state, noise=noise)
    assert y.shape == (T, B, H) and y.dtype == x.dtype and len(new) == len(core.state_names)
    for a, b in zip(core.initial_state(B), new, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and len(a) == B
    assert {core.recurrent_output, core.memory} <= set(core.state_names)
    y.square().sum().backward()
    for key, p in core.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any(), key


@law
def test_traces_are_what_the_step_used(name, form):
    core, x, first, state, noise = sample(name, form)
    names = [*core.state_names, *(("keep", "write") if hasattr(core, "gate") else ())]
    with torch.no_grad():
        y, _, traces = unroll(core, x, first, state, record=names, noise=noise)
    torch.testing.assert_close(y, truth(name, form)[0], rtol=0, atol=1e-12)
    assert torch.equal(traces[core.state_names[0]], y)
    assert all(traces[n].shape == (T, *s.shape) for n, s in zip(core.state_names, state, strict=True))
    for part in ("keep", "write"):
        if part in traces:
            assert traces[part].shape == (T, B, H) and (traces[part] > -1e-6).all() and (traces[part] < 1 + 1e-6).all()
    assert not hasattr(core, "gate") or not core.gate._forward_hooks
    with pytest.raises(ValueError, match="no trace 'nonsense'"):
        unroll(core, x, first, state, record=["nonsense"], noise=noise)


@law
def test_eval_mode_is_deterministic_and_equal_on_every_path(name, form):
    core, x, first, state, _ = sample(name, form)
    core.eval()
    try:
        assert draw(core, T, B) == ()
        with torch.no_grad():
            y = unroll(core, x, first, state, path="loop")[0]
            assert torch.equal(y, unroll(core, x, first, state, path="loop")[0])
            for path in ("auto", *fast_paths(name, form)):
                assert_same([unroll(core, x, first, state, path=path)[0]], [y], 1e-10)
    finally:
        core.train()


@rows
def test_noise_belongs_to_the_rows_and_to_the_generator(name):
    core, _, _, _, noise = sample(name)
    again = draw(core, T, B)
    assert all(torch.equal(a, b) and a.shape[:2] == (T, B) for a, b in zip(noise, again, strict=True))
    assert not any(n.requires_grad for n in noise)


@rows
def test_a_reset_row_starts_from_the_initial_state(name):
    """Whatever the state was: NaN in it must not come through either."""
    core, x, _, state, noise = sample(name)
    first = torch.ones(T, B, dtype=torch.bool)
    bad = tuple(torch.full_like(s.detach(), float("nan")) if s.is_floating_point() else s for s in state)
    with torch.no_grad():
        for path in ("loop", *fast_paths(name)):
            assert unroll(core, x, first, bad, path=path, noise=noise)[0].isfinite().all(), path


def fingerprint(name):
    """(what it computes, what it starts from): its traced equations where there are any, and its parameters, sorted."""
    torch.manual_seed(0)
    core = make_core(name, 2, 64, horizon=HORIZON)
    row = VARIANTS[name]
    equations = (row.cell, row.gate, str(row.fixed), row.squash, row.wrappers)
    try:
        z = core.project(torch.zeros(1, 2, 2)) + core.draw(1, 2)
        equations = (sequence.program_of(core, z, core.initial_state(2))[1], row.wrappers)
    except NotTraceable:
        pass
    return equations, [p.detach().flatten().sort().values for p in core.parameters()]


def test_no_two_rows_are_the_same():
    """Rows differ in equations or, by more than 0.05 somewhere in its quantiles, in the distribution they start from."""
    prints = {name: fingerprint(name) for name in VARIANTS}
    for (a, (same, start)), (b, (as_b, start_b)) in itertools.combinations(prints.items(), 2):
        if same == as_b:
            assert any(p.shape != q.shape or (p - q).abs().max() > 0.05 for p, q in zip(start, start_b, strict=True)), (
                f"{a} and {b} are the same")  # fmt: skip


@rows
def test_options_are_taken_or_refused(name):
    options = VARIANTS[name].options
    for option, (_, value) in OPTIONS.items():
        if option not in options:
            with pytest.raises(ValueError, match=f"{name}.*takes no {option}"):
                make_core(name, I, H, horizon=HORIZON, **{option: value})
    if "horizon" in options:
        with pytest.raises(ValueError, match="needs a horizon"):
            make_core(name, I, H)


def test_unknown_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'ur-lstm'"):
        make_core("ur-lstn", I, H)
    with pytest.raises(ValueError, match="unknown option 'chunks'"):
        make_core("om-lstm", I, H, chunks=2)
